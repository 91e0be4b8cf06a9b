"""Bring the media that outputs of a composed model start from, or keep in part, into its sampling loop.

Letters: B batch.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from codi import edited
from codi.compose.foreign import ForeignModel, Prepared
from codi.compose.grid import Grid
from codi.conditions import LoopCondition
from codi.conditions.regions import Geometry
from codi.edited import Edited


def encode(model: ForeignModel, raw: Tensor, sizes: Mapping[str, Any]) -> Tensor:
    """Return the latent of media of the kind that a model makes.

    Args:
        model: the model.
        raw: (B, ...) the media in [-1, 1].
        sizes: the sizes in which it makes them, by our names.

    Returns:
        (B, ...) float32, as its denoiser takes it.
    """
    return model.encode(raw.to(model.device), call=model.call_for(sizes)).float()


def conditions_of(
    model: ForeignModel,
    source: Edited,
    prepared: Prepared,
    sizes: Mapping[str, Any],
    seeds: Sequence[int],
    resample_steps: int,
    source_prompt: Any = None,
) -> list[LoopCondition]:
    """Return what the source of an output does in the sampling loop.

    Args:
        model: the model that makes the output.
        source: its source, of which not everything is kept.
        prepared: what its pipeline prepared.
        sizes: the sizes in which it is made, by our names.
        seeds: the seed of each sample.
        resample_steps: how often a step is made where something is kept.
        source_prompt: what the source shows, as the denoiser takes a prompt; None for nothing.

    Returns:
        The conditions, in the order in which they act.
    """
    return edited.conditions_of(
        model.modality,
        source,
        partial(_encode_fitted, model, prepared, sizes),
        _layout(prepared.grid, source.geometry),
        seeds,
        resample_steps,
        source_prompt,
    )


def _encode_fitted(model: ForeignModel, prepared: Prepared, sizes: Mapping[str, Any], raw: Tensor) -> Tensor:
    """Return the latent of media with as many steps along time as what is made."""
    return prepared.grid.fitted(encode(model, raw, sizes), prepared.start)


def _layout(grid: Grid, geometry: Geometry) -> edited.Layout:
    """Return where the elements of a foreign latent lie."""
    return edited.Layout(
        edges=grid.edges(geometry.spec.rate),
        size=(grid.shape[1], grid.shape[2]) if geometry.spatial else None,
        to_steps=grid.to_steps,
        from_steps=grid.from_steps,
    )
