"""Read prompts for parts of outputs: "a red ball" in a box from 0 to 1 s, "at night" after it.

From Python, from the command line and from lines of jobs a region comes in one form, a dict:

    {"text": "a red ball", "box": (0, 0, 0.5, 1), "interval": (0, 1)}

Its prompts stand under the names of modalities, in any form of a prompt (`codi.prompts`). Where and when it
counts is a box in fractions, a mask (a file or an array) or an interval in seconds, or some of these
together, with soft edges (`codi.conditions.areas`). It counts in every output that has what bounds it, a box
in pictures and clips, an interval in clips and sounds; or in those that `outputs` names. What no region
covers has the prompt of the call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi import media, prompts, records
from codi.border import check_number, plain
from codi.conditions.areas import Area, Cells
from codi.modalities import kind_of
from codi.prompts import Prompt
from codi.types import InputError, Modality, ModalitySpec, listed

WHERE = ("box", "mask", "interval")
KEYS = (*WHERE, "feather", "fade", "weight", "outputs")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Prompts for a part of outputs.

    Attributes:
        items: its prompts by modality.
        area: where and when they count.
        weight: how much they count where regions overlap.
        outputs: the outputs in which they count; None for all that have what bounds the area.
        mask: the mask as it was given, for records; None without a mask.
    """

    items: Mapping[Modality, Sequence[Prompt]]
    area: Area
    weight: float = 1.0
    outputs: tuple[Modality, ...] | None = None
    mask: Any = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return _name(self.items)

    def described(self) -> dict[str, Any]:
        """Return the region as a record has it, its prompts as those of a call."""
        row: dict[str, Any] = {"inputs": records.described(self.items, {})["inputs"], "weight": self.weight}
        if self.area.box is not None:
            row["box"] = list(self.area.box)
        if self.area.interval is not None:
            row["interval"] = list(self.area.interval)
        if self.mask is not None:
            row["mask"] = records.described_mask(self.mask)
        if self.area.feather:
            row["feather"] = self.area.feather
        if self.area.fade:
            row["fade"] = self.area.fade
        if self.outputs is not None:
            row["outputs"] = [m.value for m in self.outputs]
        return row


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of a call.

    Attributes:
        all: every region, in the order in which they were given.
        by_output: those that count in each output; an output without any is not there.
    """

    all: tuple[Region, ...] = ()
    by_output: Mapping[Modality, tuple[Region, ...]] = field(default_factory=dict)

    @property
    def modalities(self) -> list[Modality]:
        """The modalities of all prompts of regions."""
        return list(dict.fromkeys(m for region in self.all for m in region.items))

    def described(self) -> dict[str, Any]:
        """Return what a record says of them: nothing where there are none."""
        return {"regions": [region.described() for region in self.all]} if self.all else {}


def read(value: Any) -> tuple[Region, ...]:
    """Read the regions of a call.

    Args:
        value: a list of regions, each a dict as above or a `Region`; None for none.

    Returns:
        The regions.

    Raises:
        InputError: for what is no region: one without a prompt or without a part in which it counts, an
            unknown key, a box outside the picture, an empty interval, and the like.
    """
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise InputError(
            f"regions is a {type(value).__name__}: expected a list of dicts such as {{'text': 'a red ball', "
            "'box': (0, 0, 0.5, 1)}"
        )
    return tuple(region if isinstance(region, Region) else _read(region) for region in value)


def _read(value: Any) -> Region:
    """Read one region."""
    if not isinstance(value, Mapping):
        raise InputError(
            f"a region is a {type(value).__name__}: expected a dict such as {{'text': 'a red ball', 'box': "
            "(0, 0, 0.5, 1)}"
        )
    given = {key: item for key, item in value.items() if item is not None}
    if unknown := [key for key in given if key not in KEYS and key not in Modality]:
        known = ", ".join((*(m.value for m in Modality), *KEYS))
        raise InputError(f"a region has the key {str(unknown[0])[:60]!r}: expected some of {known}")
    items = prompts.collect({Modality(key): _items(given[key]) for key in given if key in Modality})
    if not items:
        raise InputError("a region has no prompt: expected words for it under text, or another prompt")
    name = _name(items)
    if not any(key in given for key in WHERE):
        raise InputError(f"{name} is not bounded: expected a box, a mask or an interval for it")
    numbers = {key: plain(given[key]) for key in ("box", "interval", "feather", "fade") if key in given}
    mask = given.get("mask")
    loaded = None if mask is None else load_mask(name, mask)
    weight = check_number(f"the weight of {name}", plain(given.get("weight", 1.0)))
    if weight == 0:
        raise InputError(f"the weight of {name} is 0: expected a number above 0, or no such region")
    return Region(
        items=items,
        area=Area.read(name, mask=loaded, **numbers),
        weight=weight,
        outputs=_outputs(name, given["outputs"]) if "outputs" in given else None,
        mask=mask,
    )


def _items(value: Any) -> Any:
    """Return prompts as `codi.prompts` takes them, also where they are written as JSON has them."""
    if isinstance(value, Mapping) and set(value) == {"value", "weight"}:
        return Prompt(value["value"], value["weight"])
    return list(map(_items, value)) if isinstance(value, list) else value


def _name(items: Mapping[Modality, Sequence[Prompt]]) -> str:
    """Return what messages call the region of these prompts."""
    modality, first = next((m, prompts[0].value) for m, prompts in items.items())
    if kind_of(modality).in_words or isinstance(first, (str, Path)):
        return f"the region {str(first)!r:.60}"
    return f"the region of this {modality}"


def _outputs(name: str, value: Any) -> tuple[Modality, ...]:
    """Return the outputs in which a region counts."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names:
        raise InputError(f"the outputs of {name} are {value!r:.60}: expected names such as ['video']")
    return tuple(dict.fromkeys(map(Modality.parse, names)))


def load_mask(name: str, value: Any) -> Tensor:
    """Return a mask (H, W) or (F, H, W) in [0, 1] of a file, a picture or an array.

    Args:
        name: what it is the mask of, for messages.
        value: a picture in any form that has a file, of which the brightness counts; or an array of booleans,
            of floats in [0, 1] or of uint8.

    Returns:
        The mask, float32.

    Raises:
        InputError: for what is none of these.
    """
    if media.is_file(value) or media.is_picture(value) and not hasattr(value, "shape"):
        return media.load_picture(value).float().mean(0) / 255
    try:
        mask = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        came = type(value).__name__
        raise InputError(f"the mask of {name} is a {came}: expected a file or an array") from None
    return mask.float() / 255 if mask.dtype == torch.uint8 else mask.float()


def settle(
    regions: Sequence[Region], outputs: Sequence[Modality], specs: Mapping[Modality, ModalitySpec]
) -> Regions:
    """Find the outputs in which regions count, and check them against their geometry.

    Args:
        regions: the regions.
        outputs: what is made.
        specs: the geometry of what is made.

    Returns:
        The regions by output.

    Raises:
        InputError: for a region of an output that is not made, one that bounds no output, and one that does
            not fit.
    """
    wholes = {m: _whole(m, specs[m]) for m in outputs if m in specs}
    found: dict[Modality, list[Region]] = {}
    for region in regions:
        for modality in _reached(region, outputs, wholes):
            region.area.check(f"{region.name} in {modality}", wholes[modality])
            found.setdefault(modality, []).append(region)
    return Regions(all=tuple(regions), by_output={m: tuple(those) for m, those in found.items()})


def _whole(modality: Modality, spec: ModalitySpec) -> Cells:
    """Return one cell as large as a whole medium."""
    edges = None if spec.duration is None else (0.0, spec.duration)
    if not kind_of(modality).spatial:
        return Cells(edges=edges)
    height, width = spec.raw_shape[-2:]
    return Cells(edges=edges, size=(1, 1), aspect=width / height)


def _reached(region: Region, outputs: Sequence[Modality], wholes: Mapping[Modality, Cells]) -> list[Modality]:
    """Return the outputs in which a region counts."""
    bounded = [m for m in outputs if m in wholes and region.area.bounds(wholes[m])]
    for modality in region.outputs or ():
        if modality not in outputs:
            raise InputError(
                f"{region.name} is for {modality}, which is not made: expected some of {listed(outputs)}"
            )
        if modality not in bounded:
            raise InputError(
                f"{region.name} is for {modality}, which has nothing that it bounds: expected a box or mask "
                "for pictures and clips, and an interval for clips and sounds"
            )
    if not bounded:
        raise InputError(
            f"{region.name} bounds nothing that is made ({listed(outputs)}): expected a box or mask for "
            "pictures and clips, and an interval for clips and sounds"
        )
    return bounded if region.outputs is None else list(region.outputs)
