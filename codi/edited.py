"""Bring what an output is given of itself to a model's geometry: the source, the mask of what is kept of it.

Letters: B batch, F frames, H W height and width, h w those of a latent, S its steps along time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from codi import media, prompts
from codi.conditions import LoopCondition, regions
from codi.conditions.known import Known
from codi.conditions.regions import Geometry
from codi.conditions.source_prompt import SourcePrompt
from codi.conditions.start import Start
from codi.diffusion import stream_seed
from codi.edits import Box, Edit, Edits, KeptPart
from codi.modalities import kind_of
from codi.types import InputError, Modality, ModalitySpec

Encode = Callable[[Any], Tensor]  # of raw media (1, ...)


@dataclass(frozen=True, kw_only=True)
class Edited:
    """What one output is given of itself, in the geometry in which it is made.

    Attributes:
        raw: (1, ...) the source in [-1, 1], or a list of one sentence.
        mask: True where it is kept; None where nothing is.
        geometry: what masks look like.
        strength: the part of the schedule that is taken.
        whole: whether everything is kept.
        source_prompt: what the source shows, in words; None where nobody said it.
    """

    raw: Any
    mask: Tensor | None
    geometry: Geometry
    strength: float
    whole: bool = False
    source_prompt: str | None = None

    def pasted(self, made: Any) -> Any:
        """Return decoded media (B, ...) with what is kept put back."""
        if self.mask is None:
            return made
        if self.geometry.spatial:
            return regions.pasted(made[:, : self.raw.shape[1]], self.raw, self.mask, self.geometry)
        source = self.raw if made.ndim == self.raw.ndim else self.raw[:, None]  # one for all channels
        length = min(made.shape[-1], source.shape[-1])
        return regions.pasted(made[..., :length], source[..., :length], self.mask[:length], self.geometry)

    def repeated(self, count: int) -> Any:
        """Return the source itself, once for each of `count` samples."""
        if isinstance(self.raw, Tensor):
            return self.raw.repeat(count, *[1] * (self.raw.ndim - 1))
        return self.raw * count


def read(edits: Edits, specs: Mapping[Modality, ModalitySpec]) -> tuple[dict[Modality, Edited], list[str]]:
    """Read the media that outputs are given of themselves.

    Args:
        edits: what was asked for, settled.
        specs: the geometry of what is made.

    Returns:
        Sources and masks by output, and notes, one line each.

    Raises:
        InputError: for media that cannot be read, and for masks that do not fit.
    """
    found = {m: _read(m, edit, specs[m]) for m, edit in edits.by_output.items()}
    notes = [f"everything of {m} is kept: it comes back untouched" for m, one in found.items() if one.whole]
    return found, notes


def _read(modality: Modality, edit: Edit, spec: ModalitySpec) -> Edited:
    geometry = Geometry(spec=spec, spatial=kind_of(modality).spatial)
    raw, mask = _source(modality, edit, spec, geometry)
    for region in edit.keep if not edit.is_whole else ():
        mask = _region_mask(modality, edit, region, geometry) | (False if mask is None else mask)
    for frame, picture in edit.keyframes:
        assert isinstance(frame, int), "a request settles the frame of every keyframe"
        raw[0, frame] = kind_of(modality).prepare_frame(picture, spec)
        mask = regions.frame_mask(geometry, frame) | (False if mask is None else mask)
    if mask is not None and not mask.any():
        raise InputError(f"keep of {modality} keeps nothing: expected a larger region, or no keep for it")
    whole = edit.is_whole or (mask is not None and bool(mask.all()))
    assert edit.strength is not None, "a request settles every strength"
    return Edited(
        raw=raw,
        mask=None if whole else mask,
        geometry=geometry,
        strength=edit.strength,
        whole=whole,
        source_prompt=edit.source_prompt,
    )


def _source(
    modality: Modality, edit: Edit, spec: ModalitySpec, geometry: Geometry
) -> tuple[Any, Tensor | None]:
    """Return the source (1, ...), and the mask of a canvas, which is kept where no region says otherwise."""
    if edit.source is None:
        return torch.zeros(1, *spec.raw_shape), None
    if edit.canvas is None:
        prepared = prompts.prepare(modality, edit.source, spec)
        return (prepared[None].clone() if isinstance(prepared, Tensor) else [prepared]), None
    raw = _on_canvas(modality, edit.source, edit.canvas, spec)
    return raw, None if edit.keep else regions.box_mask(geometry, edit.canvas)


def _on_canvas(modality: Modality, value: Any, box: Box, spec: ModalitySpec) -> Tensor:
    """Return a medium (1, ...) that lies within a box, and grey around it."""
    left, top, right, bottom = regions.box_pixels(box, *spec.raw_shape[-2:])
    if right <= left or bottom <= top:
        raise InputError(f"canvas of {modality} is smaller than a pixel: expected a larger box")
    small = replace(spec, raw_shape=(*spec.raw_shape[:-2], bottom - top, right - left))
    raw = torch.zeros(1, *spec.raw_shape)
    raw[..., top:bottom, left:right] = prompts.prepare(modality, value, small)
    return raw


def _region_mask(modality: Modality, edit: Edit, region: KeptPart, geometry: Geometry) -> Tensor:
    """Return the mask of one region."""
    if region.kind == "interval":
        return regions.interval_mask(geometry, *region.value)
    if region.kind == "frame":
        return regions.frame_mask(geometry, region.value)
    if region.kind == "box":
        return regions.box_mask(geometry, region.value)
    return _given_mask(modality, edit, region.value, geometry)


def _given_mask(modality: Modality, edit: Edit, value: Any, geometry: Geometry) -> Tensor:
    """Return a mask that came as a file, a picture or an array."""
    if media.is_file(value) or isinstance(value, Image.Image):
        kept = media.load_picture(value).float().mean(0) > 127
    else:
        kept = regions.mask_values(value)
    own = None if edit.source is None else kind_of(modality).own_size(edit.source, geometry.spec)
    sizes = [tuple(geometry.shape[-2:]), *([] if own is None or edit.canvas else [own])]
    frames = kept.ndim == 2 or (kept.ndim == 3 and geometry.timed and len(kept) == geometry.shape[0])
    if not frames or tuple(kept.shape[-2:]) not in sizes:
        expected = " or ".join(f"{height} x {width}" for height, width in dict.fromkeys(sizes))
        raise InputError(
            f"the mask of {modality} is {' x '.join(map(str, kept.shape))}: expected {expected} pixels "
            "(height x width), the size of what is made or of its source"
        )
    if not kept.any():
        raise InputError(
            f"the mask of {modality} is dark everywhere and keeps nothing: expected one that is bright where "
            "the source is kept"
        )
    return regions.fitted_mask(kept, geometry)


# In the loop -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the elements of a latent lie in time and space.

    Attributes:
        edges: the raw steps between which the S steps of the latent lie; None for what has no time.
        size: (h, w) of the latent; None for what has no places.
        to_steps: brings a latent (B, ...) into the form (B, C, S, h, w), an axis that it lacks being 1.
        from_steps: undoes that.
    """

    edges: Sequence[int] | None
    size: tuple[int, int] | None
    to_steps: Callable[[Tensor], Tensor]
    from_steps: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, geometry: Geometry) -> "Layout":
        """Return the layout of latents of our own autoencoders: (C, h, w), (C, S, h, w) or (C, S, M)."""
        shape = geometry.spec.latent_shape
        edges = regions.even_edges(geometry, shape[1]) if geometry.timed else None
        if not geometry.spatial:
            return cls(edges=edges, size=None, to_steps=_with_last, from_steps=_without_last)
        size = (shape[-2], shape[-1])
        if geometry.timed:
            return cls(edges=edges, size=size, to_steps=_as_it_is, from_steps=_as_it_is)
        return cls(edges=None, size=size, to_steps=_with_step, from_steps=_without_step)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _with_last(x: Tensor) -> Tensor:
    return x[..., None]


def _without_last(x: Tensor) -> Tensor:
    return x[..., 0]


def _with_step(x: Tensor) -> Tensor:
    return x[:, :, None]


def _without_step(x: Tensor) -> Tensor:
    return x[:, :, 0]


def conditions_of(
    modality: Modality,
    edited: Edited,
    encode: Encode,
    layout: Layout,
    seeds: Sequence[int],
    resample_steps: int,
    source_prompt: Any = None,
) -> list[LoopCondition]:
    """Return what the source of an output does in the sampling loop.

    Args:
        modality: the output.
        edited: its source, of which not everything is kept.
        encode: encodes raw media (1, ...) into latents (1, ...).
        layout: where the elements of its latent lie.
        seeds: the seed of each sample.
        resample_steps: how often a step is made where something is kept.
        source_prompt: what the source shows, as the denoiser takes a prompt, for all samples; None for
            nothing.

    Returns:
        The conditions, in the order in which they act.
    """
    found: list[LoopCondition] = []
    if edited.strength < 1 or source_prompt is not None:
        x_0 = _rows(encode(edited.raw).float(), len(seeds))
        if edited.strength < 1:
            found.append(Start(x_0=x_0, strength=edited.strength))
        if source_prompt is not None:
            found.append(SourcePrompt(modality=modality, x_0=x_0, prompt=source_prompt))
    if edited.mask is not None:
        known = regions.latent_grid(edited.mask, layout.edges, layout.size)
        if known.any():  # else what is kept is less than an element, and is put back after decoding alone
            found.append(_known(modality, edited, known, encode, layout, seeds, resample_steps))
    return found


def _known(
    modality: Modality,
    edited: Edited,
    known: Tensor,
    encode: Encode,
    layout: Layout,
    seeds: Sequence[int],
    resample_steps: int,
) -> Known:
    """Return the condition of a part that is known, `known` (S, h, w) of the latent."""
    assert edited.mask is not None
    # encoders look around: what is to be remade must not be told of
    x_0 = encode(regions.without_unknown(edited.raw, edited.mask, edited.geometry)).float()
    seconds: tuple[tuple[float, float], ...] = ()
    standing = None
    if layout.edges is not None:
        rate, _ = edited.geometry.spec.timed
        seconds = regions.known_seconds(known, layout.edges, rate)
        nearest = regions.nearest_known(known).to(x_0.device)
        standing = _rows(layout.from_steps(layout.to_steps(x_0)[:, :, nearest]), len(seeds))
    return Known(
        x_0=_rows(x_0, len(seeds)),
        mask=layout.from_steps(known[None, None].to(x_0.device)),
        resample_steps=resample_steps,
        generators=[torch.Generator().manual_seed(stream_seed(seed, modality, "known")) for seed in seeds],
        seconds=seconds,
        standing=standing,
    )


def _rows(x: Tensor, count: int) -> Tensor:
    """Return a tensor (1, ...) as `count` rows."""
    return x.expand(count, *x.shape[1:])
