"""What editing by the embedded model is worth, read by the world's probes beside ceiling and floor.

    python benchmarks/editing.py --scenes 16 --tasks box half gap clip-gap sound-for-clip first-frame start

Every task takes unseen scenes, hides a part of their media, and lets the model make that part anew.

    box             the object's box in a picture, the prompt names another colour
    half            the right half of a picture whose object lies on the border, the prompt names the scene
    gap             0.8 to 1.2 s of a sound
    clip-gap        frames 6 to 9 of a clip
    sound-for-clip  0.8 to 1.2 s of a sound whose clip is kept
    first-frame     a clip from its first frame
    start           a picture started from the scene, the prompt names another colour, over strength
    edit, edit-sound, edit-clip    shape and another colour are named, and the start decides the rest;
                    by strength, and "said": with the source's own shape and colour as `source_prompt`
    continue        a clip and its sound of 2 s go on in step to 8 s, in an even rhythm

Of `continue`, "f1 k" compares heard with seen onsets of segment k of 2 s, at 125 ms, and "look k" says
whether shape and colour are the scene's; "inside" and "across" are the shares of intervals between heard
onsets that the scene has, within windows and across their seams. Segment 0 was given, and so is the ceiling
of what detectors read; the floor is made of windows from the prompt alone, side by side.

The ceiling is the round trip of the truth through the autoencoder, put back in the same way; the floor is
what the prompt alone makes, put back in the same way. "pos" is the share of objects within 0.05 of the width
of their place. "outside" is the greatest difference, in levels of 255, of what is kept. "seam" is the mean
difference of neighbours across the border, in levels.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi import CoDiPipeline, continuing
from codi.metrics.onsets import onset_f1
from codi.modalities import kind_of
from codi.types import Modality
from codi.world import (
    COLOURS,
    READERS,
    RENDERERS,
    VISIBLE,
    Reading,
    Scene,
    caption,
    render_images,
    render_sounds,
    render_videos,
    sample_scenes,
)
from codi.world.motion import events, schedule_of
from codi.world.picture import IMAGE_DELAY, pose_of

GAP = (0.8, 1.2)  # seconds
GAP_FRAMES = range(6, 10)
MARGIN = 0.06  # of the width, around an object
NEAR = 0.05  # of the width, within which a place is right
TOLERANCE = 0.05  # seconds
SEGMENT, LENGTH = 2.0, 8.0  # seconds
COARSE = 0.125  # seconds, a frame
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
NAMED = ("shape", "colour")
Row = dict[str, float]


@dataclass(frozen=True)
class Runner:
    """A pipeline and what every call of it is given."""

    pipe: CoDiPipeline
    steps: int
    resample_steps: int

    def make(self, k: int, scene: Scene, outputs: Sequence[str], **given: Any) -> Any:
        """Make one sample of a scene's caption, seeded by its number."""
        if given.get("keep") or given.get("keyframes"):
            given["resample_steps"] = self.resample_steps
        return self.pipe(
            caption(scene),
            outputs=list(outputs),
            seed=k,
            num_inference_steps=self.steps,
            output_type="pt",
            **given,
        )

    def round_trip(self, modality: str, raw: Tensor) -> Tensor:
        """Return a medium as its autoencoder gives it back."""
        out = self.pipe(outputs=[modality], start={modality: raw}, strength=0.0, seed=0, output_type="pt")
        return out.of(modality)[0]


def other_colour(scene: Scene) -> Scene:
    """Return the scene in another colour."""
    return replace(scene, colour=COLOURS[(COLOURS.index(scene.colour) + 1) % len(COLOURS)])


def box_of(scene: Scene) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) of the object of a scene's picture, in fractions."""
    pose = pose_of([scene], schedule_of([scene])[0][:, :1] + IMAGE_DELAY)
    x, y, r = (float(part[0, 0]) for part in (pose.cx, pose.cy, pose.radius))
    reach = 1.2 * r + MARGIN
    return max(x - reach, 0), max(y - reach, 0), min(x + reach, 1), min(y + reach, 1)


def outside_of(box: tuple[float, float, float, float], size: int) -> Tensor:
    """Return the mask (size, size) of everything but a box."""
    mask = torch.ones(size, size, dtype=torch.bool)
    left, top, right, bottom = (round(side * size) for side in box)
    mask[top:bottom, left:right] = False
    return mask


def put_back(made: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Return what was made, with the source where the mask is True."""
    return torch.where(mask, source, made)


def read_picture(picture: Tensor, truth: Tensor, scene: Scene, kept: Tensor) -> Row:
    """Return what a probe reads of a picture, as shares, and how it differs from the truth."""
    reading = READERS[Modality.IMAGE](picture[None])[0]
    x = float(pose_of([scene], schedule_of([scene])[0][:, :1] + IMAGE_DELAY).cx[0, 0])
    difference = (picture.float() - truth.float()).abs()
    return {
        "shape": float(reading.facts["shape"] == scene.shape),
        "colour": float(reading.facts["colour"] == scene.colour),
        "pos": float(reading.x is not None and abs(reading.x - x) <= NEAR),
        "outside": float((difference * kept).max()),
        "seam": seam(picture, kept),
    }


def seam(picture: Tensor, kept: Tensor) -> float:
    """Return the mean difference between neighbouring pixels of which one is kept and one is not."""
    values = picture.float()
    total, count = 0.0, 0
    for axis in (-1, -2):
        border = kept.narrow(axis, 1, kept.shape[axis] - 1) != kept.narrow(axis, 0, kept.shape[axis] - 1)
        total += float((values.diff(dim=axis).abs().mean(0) * border).sum())
        count += int(border.sum())
    return total / max(count, 1)


def box_task(run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Remake an object in another colour."""
    truth, wanted = render_images([scene])[0], other_colour(scene)
    kept = outside_of(box_of(scene), truth.shape[-1])
    right = render_images([wanted])[0]
    made = run.make(k, wanted, ["image"], start={"image": truth}, keep={"image": kept}).images[0]
    text = put_back(run.make(k, wanted, ["image"]).images[0], truth, kept)
    trip = put_back(run.round_trip("image", right), truth, kept)
    rows = {"made": made, "floor": text, "ceiling": trip, "truth": right}
    return {name: read_picture(picture, right, wanted, kept) for name, picture in rows.items()}


def half_task(run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Remake the right half of a picture whose object lies on the border."""
    scene = replace(scene, x=0.45 + 0.1 * (scene.x - 0.3) / 0.4)
    truth = render_images([scene])[0]
    kept = outside_of((0.5, 0, 1, 1), truth.shape[-1])
    made = run.make(k, scene, ["image"], start={"image": truth}, keep={"image": (0, 0, 0.5, 1)}).images[0]
    text = put_back(run.make(k, scene, ["image"]).images[0], truth, kept)
    trip = put_back(run.round_trip("image", truth), truth, kept)
    rows = {"made": made, "floor": text, "ceiling": trip, "truth": truth}
    return {name: read_picture(picture, truth, scene, kept) for name, picture in rows.items()}


def read_gap(sound: Tensor, truth: Tensor, scene: Scene, rate: float) -> Row:
    """Return the onsets that are heard in the gap, beside the scene's own."""
    heard = READERS[Modality.AUDIO](sound[None])[0].events
    own = np.array([t for t, _ in events(scene)])
    inside = [times[(times >= GAP[0]) & (times < GAP[1])] for times in (heard, own)]
    found = [onset_f1([inside[0]], [inside[1]], tolerance) for tolerance in (TOLERANCE, 0.125)]
    kept = torch.ones(len(sound), dtype=torch.bool)
    kept[round(GAP[0] * rate) : round(GAP[1] * rate)] = False
    return {
        "f1@50": found[0].f1 if len(inside[1]) or len(inside[0]) else 1.0,
        "f1@125": found[1].f1 if len(inside[1]) or len(inside[0]) else 1.0,
        "outside": float(((sound - truth).abs() * kept).max()),
    }


def gap_task(run: Runner, k: int, scene: Scene, beside: str | None = None) -> dict[str, Row]:
    """Remake the middle of a sound; with the clip of the scene beside it, where that is kept."""
    truth, rate = render_sounds([scene])[0], run.pipe.model.specs[Modality.AUDIO].timed[0]
    inside = torch.zeros(len(truth), dtype=torch.bool)
    inside[round(GAP[0] * rate) : round(GAP[1] * rate)] = True
    start: dict[str, Any] = {"audio": truth}
    keep: dict[str, Any] = {"audio": [(0, GAP[0]), (GAP[1], 2.0)]}
    outputs = ["audio"]
    if beside is not None:
        start[beside], keep[beside] = render_videos([scene])[0], True
        outputs = ["audio", beside]
    made = run.make(k, scene, outputs, start=start, keep=keep).audios[0]
    text = put_back(run.make(k, scene, ["audio"]).audios[0][: len(truth)], truth, ~inside)
    trip = put_back(run.round_trip("audio", truth)[: len(truth)], truth, ~inside)
    rows = {"made": made, "floor": text, "silence": truth * ~inside, "ceiling": trip}
    return {name: read_gap(sound, truth, scene, rate) for name, sound in rows.items()}


def read_frames(clip: Tensor, truth: Tensor, frames: Sequence[int], scene: Scene) -> Row:
    """Return how some frames of a clip differ from the truth, and whether the object is in its place."""
    reading = READERS[Modality.IMAGE](clip[list(frames)])
    right = READERS[Modality.IMAGE](truth[list(frames)])
    near = [a.x is not None and b.x is not None and abs(a.x - b.x) <= NEAR for a, b in zip(reading, right)]
    difference = (clip.float() - truth.float()).abs()
    others = [k for k in range(len(clip)) if k not in frames]
    return {
        "mae": float(difference[list(frames)].mean()),
        "pos": float(np.mean(near)),
        "outside": float(difference[others].max()) if others else 0.0,
    }


def clip_gap_task(run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Remake four frames in the middle of a clip."""
    truth = render_videos([scene])[0]
    kept = [frame for frame in range(len(truth)) if frame not in GAP_FRAMES]
    made = run.make(k, scene, ["video"], start={"video": truth}, keep={"video": kept}).videos[0]
    line = truth.clone().float()
    first, last = GAP_FRAMES[0] - 1, GAP_FRAMES[-1] + 1
    for frame in GAP_FRAMES:
        line[frame] = truth[first] + (truth[last].float() - truth[first]) * (frame - first) / (last - first)
    trip = truth.clone()
    trip[list(GAP_FRAMES)] = run.round_trip("video", truth)[list(GAP_FRAMES)]
    rows = {"made": made, "linear": line.round().to(torch.uint8), "ceiling": trip}
    return {name: read_frames(clip, truth, GAP_FRAMES, scene) for name, clip in rows.items()}


def first_frame_task(run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Make a clip from its first frame."""
    truth = render_videos([scene])[0]
    made = run.make(k, scene, ["video"], keyframes={"video": {0: truth[0]}}).videos[0]
    text = run.make(k, scene, ["video"]).videos[0].clone()
    text[0] = truth[0]
    rows = {"made": made, "floor": text, "truth": truth}
    found = {}
    for name, clip in rows.items():
        jump = float((clip[1].float() - clip[0].float()).abs().mean())
        found[name] = {**read_frames(clip, truth, [1, 2, 3], scene), "jump": jump}
        found[name]["outside"] = float((clip[0].float() - truth[0].float()).abs().max())
    return found


def start_task(run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Start from a picture and name another colour, over strength."""
    truth, wanted = render_images([scene])[0], other_colour(scene)
    nothing = torch.zeros(truth.shape[-2:], dtype=torch.bool)
    found = {}
    for strength in STRENGTHS:
        made = run.make(k, wanted, ["image"], start={"image": truth}, strength=strength).images[0]
        row = read_picture(made, truth, wanted, nothing)
        found[f"strength {strength:g}"] = {name: row[name] for name in ("colour", "shape", "pos")}
    return found


def edit_task(modality: Modality, run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Start from a medium and name another colour and the shape, with and without what the medium shows."""
    truth, wanted = RENDERERS[modality]([scene])[0], other_colour(scene)
    seen = READERS[modality](truth[None])[0]
    words, said = (caption(each, NAMED) for each in (wanted, scene))
    found = {}
    for strength in (0.7, 0.9, 1.0):
        for name, more in ((f"{strength:g}", {}), (f"{strength:g} said", {"source_prompt": said})):
            made = run.pipe(
                words,
                outputs=[modality],
                start={modality: truth},
                strength=strength,
                seed=k,
                num_inference_steps=run.steps,
                output_type="pt",
                **more,
            ).of(modality)[0]
            found[name] = read_edit(READERS[modality](made[None])[0], seen, modality, wanted)
    return found


def read_edit(reading: Reading, seen: Reading, modality: Modality, wanted: Scene) -> Row:
    """Return whether an edit was followed, and the share of attributes that nobody named and that stayed."""
    right = {name: float(reading.facts[name] == getattr(wanted, name)) for name in VISIBLE[modality]}
    row = {name: right[name] for name in NAMED}
    row["rest"] = float(np.mean([value for name, value in right.items() if name not in NAMED]))
    if reading.x is not None and seen.x is not None:
        row["pos"] = float(abs(reading.x - seen.x) <= NEAR)
    if kind_of(modality).rate_field is not None:
        row["f1"] = onset_f1([reading.events], [seen.events], COARSE).f1
    return row


def even(scene: Scene) -> Scene:
    """Return the scene with a motion that does not come to rest."""
    return scene if scene.motion != "bounce" else replace(scene, motion="blink")


def side_by_side(run: Runner, k: int, scene: Scene, given: continuing.Media) -> continuing.Media:
    """Return what is given, followed by windows that know nothing of each other."""
    parts = [given]
    for window in range(round(LENGTH / SEGMENT) - 1):
        out = run.make(1000 * k + window, scene, [m.value for m in given])
        parts.append({m: out.of(m)[0] for m in given})
    return {m: torch.cat([part[m] for part in parts]) for m in given}


def read_long(media: continuing.Media, rates: dict[Modality, float], scene: Scene, seams: Any) -> Row:
    """Return how far a clip and its sound agree and stay what they were, segment by segment."""
    row: Row = {}
    all_heard = []
    for k in range(round(LENGTH / SEGMENT)):
        # detectors take their thresholds from what they are given: one segment does not tell on another
        parts = {
            m: raw[round(k * SEGMENT * rates[m]) :][: round(SEGMENT * rates[m])] for m, raw in media.items()
        }
        onsets = {m: np.asarray(kind_of(m).onsets(part, rates[m])) for m, part in parts.items()}
        facts = READERS[Modality.VIDEO](parts[Modality.VIDEO][None])[0].facts
        row[f"f1 {k}"] = float(onset_f1([onsets[Modality.AUDIO]], [onsets[Modality.VIDEO]], COARSE).f1)
        row[f"look {k}"] = float(facts["shape"] == scene.shape and facts["colour"] == scene.colour)
        all_heard.append(onsets[Modality.AUDIO] + k * SEGMENT)
    return row | read_intervals(np.concatenate(all_heard), scene, seams)


def read_intervals(heard: np.ndarray, scene: Scene, seams: Any) -> Row:
    """Return the shares of intervals that the scene has, within windows and across seams; nan for none."""
    own = np.diff([t for t, _ in events(scene)])
    right = np.array([bool(np.any(np.abs(own - gap) <= TOLERANCE)) for gap in np.diff(heard)], dtype=float)
    across = np.array([any(a < s <= b for s in seams) for a, b in zip(heard, heard[1:])], dtype=bool)
    shares = {"inside": right[~across], "across": right[across]}
    return {name: float(part.mean()) if len(part) else float("nan") for name, part in shares.items()}


def continue_task(run: Runner, k: int, scene: Scene) -> dict[str, Row]:
    """Continue a clip and its sound in step, to four times their length."""
    scene = even(scene)
    given = {Modality.AUDIO: render_sounds([scene])[0], Modality.VIDEO: render_videos([scene])[0]}
    longer = continuing.extend(
        run.pipe,
        given,
        seconds=LENGTH,
        seed=1000 * k,
        text=caption(scene),
        num_inference_steps=run.steps,
        resample_steps=run.resample_steps,
    )
    rates = {m: spec.timed[0] for m, spec in longer.specs.items()}
    apart = side_by_side(run, k, scene, given)
    rows = {"made": (longer.gather(), longer.seams), "floor": (apart, np.arange(SEGMENT, LENGTH, SEGMENT))}
    return {name: read_long(media, rates, scene, seams) for name, (media, seams) in rows.items()}


TASKS: dict[str, Callable[[Runner, int, Scene], dict[str, Row]]] = {
    "box": box_task,
    "half": half_task,
    "gap": gap_task,
    "clip-gap": clip_gap_task,
    "sound-for-clip": lambda run, k, scene: gap_task(run, k, scene, beside="video"),
    "first-frame": first_frame_task,
    "start": start_task,
    "edit": partial(edit_task, Modality.IMAGE),
    "edit-sound": partial(edit_task, Modality.AUDIO),
    "edit-clip": partial(edit_task, Modality.VIDEO),
    "continue": continue_task,
}

ONCE = ("start", "edit", "edit-sound", "edit-clip")  # in which nothing is kept, so that no step is repeated


def measure(task: str, run: Runner, scenes: Sequence[Scene]) -> list[str]:
    """Return the lines of a task: what each way of making it scored, as means over the scenes."""
    began = time.perf_counter()
    rows = [TASKS[task](run, k, scene) for k, scene in enumerate(scenes)]
    lines = []
    for name in rows[0]:
        keys = dict.fromkeys(key for row in rows for key in row[name])
        means = {key: float(np.nanmean([row[name].get(key, np.nan) for row in rows])) for key in keys}
        lines.append(
            f"{task:15} {name:13} " + "  ".join(f"{key} {value:.2f}" for key, value in means.items())
        )
    return [*lines, f"{task:15} {time.perf_counter() - began:.0f} s"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tasks that are named, and print their lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=4242, help="of the scenes (default 4242)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--resample-steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--model", help="a folder (default: the model inside the package)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    pipe = CoDiPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    scenes = sample_scenes(args.scenes, args.seed)
    for task in args.tasks:
        for repeats in args.resample_steps if task not in ONCE else args.resample_steps[:1]:
            for line in measure(task, Runner(pipe, args.steps, repeats), scenes):
                print(f"R{repeats} {line}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
