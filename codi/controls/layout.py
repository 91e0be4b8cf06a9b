"""Layout: what is where, as boxes with words, or as a map of labels with the words of each.

Letters: F frames (one of a picture), H W pixels, h w places of the latent, D width of the prompt space.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.controls.base import (
    ControlKind,
    Target,
    as_file,
    check_within,
    numbers,
    over_frames,
    unshuffled,
)
from codi.types import InputError, ModalitySpec

if TYPE_CHECKING:
    from torch import Tensor

    from codi.world import Scene

CODES = 3  # numbers by which words are told apart at every pixel
GOLDEN = 2.399963  # radians: multiples of it have no period
WHOLE = [0.0, math.inf]
NAMED = ("shape", "colour")  # what the words of a box say of an object of the world


@dataclass(frozen=True, kw_only=True)
class Region:
    """One region, and what is to be in it.

    Attributes:
        mask: how much of each pixel belongs to it, (H, W) in 0..1.
        words: what is to be there.
        seconds: when, from and to.
    """

    mask: "Tensor"
    words: str
    seconds: list[float]


class Layout(ControlKind):
    """Boxes or labelled areas with words; later ones lie over earlier ones."""

    name = "layout"
    timed = False
    given_as = (
        "boxes such as [{'box': [0.1, 0.2, 0.6, 0.7], 'words': 'a red ball'}] (left, top, right, bottom, in "
        "parts of the frame), as text '0.1,0.2,0.6,0.7 a red ball', boxes apart by ';', or "
        "{'map': 'labels.png', 'words': {'1': 'a red ball'}}, or a .json file of one of these"
    )

    def channels(self, target: Target) -> int:
        """Return a code of the words for each pixel of a place, whether any, and the words' token."""
        return (CODES + 1) * target.factor**2 + target.dim

    def parse(self, value: Any, folder: Path = Path()) -> Any:
        """Return boxes as a list of {"box", "words", "seconds"}, or a map as {"map", "words"}."""
        value, folder = self._read(value, folder)
        if isinstance(value, Mapping) and "map" in value:
            return self._labels(value, folder)
        if not isinstance(value, (list, tuple)) or not value:
            raise self.wrong(value)
        return [self._box(each) for each in value]

    def _read(self, value: Any, folder: Path) -> tuple[Any, Path]:
        """Return what a text, or a .json file that it names, holds; and where names in it start."""
        import json

        if isinstance(value, Path) or (isinstance(value, str) and value.endswith(".json")):
            path = folder / value
            try:
                return json.loads(path.read_text(encoding="utf-8")), path.parent
            except (OSError, ValueError) as error:
                raise InputError(f"control layout cannot be read from {path}: {error}") from None
        if not isinstance(value, str):
            return value, folder
        boxes = []
        for part in value.split(";"):
            place, _, words = part.strip().partition(" ")
            try:
                boxes.append({"box": [float(side) for side in place.split(",")], "words": words})
            except ValueError:
                raise self.wrong(value) from None
        return boxes, folder

    def _box(self, each: Any) -> dict[str, Any]:
        """Return one box in its plain form."""
        known = isinstance(each, Mapping) and {"box", "words"} <= set(each) <= {"box", "words", "seconds"}
        if not known:
            raise self.wrong(each)
        box = _numbers(each["box"], 4)
        if box is None or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise InputError(
                f"control layout has the box {each['box']!r:.60}: expected left, top, right and bottom in "
                "parts of the frame, from 0 to 1, such as [0.1, 0.2, 0.6, 0.7]"
            )
        found: dict[str, Any] = {"box": box, "words": self._words(each["words"])}
        if each.get("seconds") is not None:
            span = _numbers(each["seconds"], 2)
            if span is None or not 0 <= span[0] < span[1]:
                raise InputError(
                    f"control layout has the seconds {each['seconds']!r:.60}: expected from and to, such as "
                    "[0, 1.5]"
                )
            found["seconds"] = span
        return found

    def _words(self, words: Any) -> str:
        """Return the words of a region."""
        if not isinstance(words, str) or not words.strip():
            raise InputError(f"control layout has the words {words!r:.60}: expected what is to be there")
        return words.strip()

    def _labels(self, value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return a map of labels in its plain form."""
        words = value.get("words")
        if set(value) != {"map", "words"} or not isinstance(words, Mapping) or not words:
            raise self.wrong(dict(value))
        names = {}
        for label, what in words.items():
            if not str(label).isdigit() or int(label) > 255:
                raise InputError(
                    f"control layout has the label {label!r}: expected a level of grey from 0 to 255"
                )
            names[str(int(label))] = self._words(what)
        file = as_file(value["map"], folder)
        return {"map": value["map"] if file is None else file, "words": names}

    def check(self, value: Any, spec: ModalitySpec) -> None:
        """Raise `InputError` for seconds that are not within what is made; a picture has none."""
        for each in value if isinstance(value, list) else []:
            if "seconds" not in each:
                continue
            if spec.rate is None:
                raise InputError("control layout has seconds for a picture: leave them out")
            check_within(self.name, each["seconds"], spec, "clip")

    def render(self, value: Any, target: Target) -> "Tensor":
        """Return the words of each pixel and place."""
        size = target.spec.raw_shape[-2:]
        if isinstance(value, Mapping):
            regions = label_regions(value, size)
        else:
            regions = []
            for each in value:
                mask = box_mask(each["box"], size)
                regions.append(Region(mask=mask, words=each["words"], seconds=each.get("seconds", WHOLE)))
        return painted(regions, target)

    def of_scene(self, scene: "Scene", target: Target) -> "Tensor":
        """Return the box of a scene's object in a picture, or in every frame of a clip, with its words."""
        from codi.world import caption

        words = caption(scene, NAMED)
        boxes = boxes_of(scene, target)
        regions = []
        for number, box in enumerate(boxes):
            seconds = WHOLE if target.num_frames is None else frame_span(number, target)
            mask = box_mask(box, target.spec.raw_shape[-2:])
            regions.append(Region(mask=mask, words=words, seconds=seconds))
        return painted(regions, target)

    def of_media(self, raw: "Tensor", target: Target) -> "Tensor":
        """Refuse: no plain filter says what is where."""
        raise InputError(
            "control layout cannot be computed from media: expected the world (no section data), whose "
            "scenes know their boxes"
        )


def _numbers(value: Any, count: int) -> list[float] | None:
    """Return so many finite numbers, or None for what is none."""
    found = None if isinstance(value, str) else numbers(value)
    return found if found is not None and len(found) == count else None


def frame_span(number: int, target: Target) -> list[float]:
    """Return the seconds in which one frame of a clip is on show."""
    rate = target.spec.timed[0]
    return [number / rate, (number + 1) / rate]


def boxes_of(scene: "Scene", target: Target) -> list[list[float]]:
    """Return the box of a scene's object in the picture, or in every frame of the clip, that shows it."""
    import numpy as np

    from codi.world.motion import pose_of, schedule_of
    from codi.world.picture import IMAGE_DELAY, coverage

    if target.num_frames is None:
        times = schedule_of([scene])[0][:, :1] + IMAGE_DELAY
    else:
        times = np.arange(target.num_frames)[None] / target.spec.timed[0]
    pose = pose_of([scene], times)
    side = 64
    shares = coverage(scene.shape, pose.cx[0], pose.cy[0], pose.radius[0], side)
    boxes = []
    for share in shares:
        rows, columns = np.nonzero(share.max(1) > 0.5)[0], np.nonzero(share.max(0) > 0.5)[0]
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        boxes.append([float(edge) / side for edge in box])
    return boxes


def box_mask(box: list[float], size: tuple[int, ...]) -> "Tensor":
    """Return how much of each pixel (H, W) lies in a box: left, top, right, bottom in parts of the frame."""
    import torch

    covered = []
    for low, high, count in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        edge = torch.arange(count, dtype=torch.float32)
        covered.append(((edge + 1).clamp(max=high * count) - edge.clamp(min=low * count)).clamp_min(0))
    return covered[0][:, None] * covered[1]


def label_regions(value: Mapping[str, Any], size: tuple[int, ...]) -> list[Region]:
    """Return the regions of a map of labels, which is fitted to (H, W) as pictures in prompts are."""
    from codi import io, media

    source = value["map"]["path"] if isinstance(value["map"], Mapping) else value["map"]
    labels = media.load_picture(source)[0]
    regions = []
    for label, words in value["words"].items():
        mask = (labels == int(label)).byte() * 255
        if not mask.any():
            raise InputError(f"control layout names the label {label}, which is not in its map")
        fitted = io.fit_image(mask.expand(3, -1, -1), (size[0], size[1]))[0]
        regions.append(Region(mask=((fitted + 1) / 2).clamp(0, 1), words=words, seconds=WHOLE))
    return regions


def painted(regions: list[Region], target: Target) -> "Tensor":
    """Return the map of regions, each painted over those before it, in the frames in which it is."""
    import torch
    from torch.nn import functional

    if target.embed is None:
        raise InputError("control layout needs a text tower, which this model lacks")
    words = list(dict.fromkeys(region.words for region in regions))
    tokens = dict(zip(words, target.embed(words).float().cpu()))
    frames, (height, width) = target.num_frames or 1, target.spec.raw_shape[-2:]
    pixels = torch.zeros(frames, CODES + 1, height, width)
    places = torch.zeros(frames, target.dim, *target.grid[-2:])
    for region in regions:
        token = tokens[region.words]
        code = torch.cat([code_of(token), torch.ones(1)])[:, None, None]
        share = functional.avg_pool2d(region.mask[None], target.factor)[0]
        for frame in frames_in(region.seconds, target):
            pixels[frame] += region.mask * (code - pixels[frame])
            places[frame] += share * (token[:, None, None] - places[frame])
    return torch.cat([unshuffled(pixels, target), over_frames(places, target)], dim=1)


def frames_in(seconds: list[float], target: Target) -> range:
    """Return the frames that come on show within a span of time; that of a picture always does."""
    if target.num_frames is None:
        return range(1)
    rate = target.spec.timed[0]
    first = math.ceil(seconds[0] * rate - 1e-6)
    last = target.num_frames if math.isinf(seconds[1]) else math.ceil(seconds[1] * rate - 1e-6)
    return range(first, min(last, target.num_frames))


def code_of(token: "Tensor") -> "Tensor":
    """Return a few numbers (CODES,) of a token (D,), a fixed projection that keeps its length on average."""
    import torch

    at = torch.arange(1, len(token) + 1, dtype=torch.float64)[:, None] * torch.arange(1, CODES + 1)
    return token @ (torch.cos(at * GOLDEN) * 2**0.5).float()
