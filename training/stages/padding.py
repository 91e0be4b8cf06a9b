"""Which steps of a latent, a spectrogram or a picture are content, so that padding counts in no loss.

A step counts where any of what it stands for is content. Without padding there is no mask, and every loss is
computed as it always was. Letters: B batch, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from codi.compose.grid import Grid
from codi.modalities import kind_of
from codi.types import Modality
from data.batch import Batch

NEAR = 2.5e-7  # the share by which the end of content may miss that of a step: shares are float32


def content_mask(
    content: Tensor | None, axes: Sequence[int | None], like: Tensor, rows: Tensor | None = None
) -> Tensor | None:
    """Return which steps of a tensor are content.

    Args:
        content: (B, A, 2), of each of A raw axes from where to where it is content, as shares in [0, 1]; None
            where nothing is padded.
        axes: of each raw axis the axis of a sample of `like` that runs along it; None where there is none.
        like: (B, ...), the tensor.
        rows: which samples of `content` are in `like`; None for all.

    Returns:
        (B, ...) boolean of the shape of `like`; None where all of it is content.
    """
    if content is None or not axes:
        return None
    own = content if rows is None else content[rows.to(content.device)]
    mask = torch.ones(len(like), *[1] * (like.ndim - 1), dtype=torch.bool, device=like.device)
    for number, axis in enumerate(axes):
        if axis is None:
            continue
        count = like.shape[axis + 1]
        first, stop = (own[:, number].to(like.device) * count).unbind(1)
        step = torch.arange(count, device=like.device)
        near = NEAR * count
        inside = (step + 1 > first[:, None] + near) & (step < stop[:, None] - near)
        shape = [1] * like.ndim
        shape[0], shape[axis + 1] = len(like), count
        mask = mask & inside.view(shape)
    return None if bool(mask.all()) else mask.expand(like.shape)


def latent_mask(batch: Batch, modality: Modality, x_0: Tensor, rows: Tensor | None = None) -> Tensor | None:
    """Return which steps of the latents of a batch are content.

    Args:
        batch: the samples.
        modality: the modality of the latents.
        x_0: the latents, (B, C, ...), or those of `rows`.
        rows: which samples of the batch `x_0` has; None for all.

    Returns:
        Boolean, of the shape of `x_0`; None where all of it is content.
    """
    return content_mask(batch.content_of(modality), kind_of(modality).latent_axes, x_0, rows)


def grid_mask(batch: Batch, modality: Modality, grid: Grid, x_0: Tensor, rows: Tensor) -> Tensor | None:
    """Return which values of other people's latents are content, whatever their layout.

    Steps along time count as equally long, which those of a causal autoencoder are but for the first.

    Args:
        batch: the samples.
        modality: the modality of the latents.
        grid: where their elements are.
        x_0: the latents of `rows`, (N, ...).
        rows: which samples of the batch they are, (N,).

    Returns:
        Boolean, of the shape of `x_0`; None where all of it is content.
    """
    axes = kind_of(modality).latent_axes
    if grid.seconds is None:  # the one step of a picture comes before its rows
        axes = tuple(None if axis is None else axis + 1 for axis in axes)
    mask = content_mask(batch.content_of(modality), axes, grid.to_steps(x_0), rows)
    return None if mask is None else grid.from_steps(mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the values that are content, of all where there is no mask.

    Args:
        values: the values.
        mask: boolean of the same shape; None for no padding.

    Returns:
        A scalar.
    """
    if mask is None:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1)


def both(mask: Tensor | None, axis: int, offset: int = 1) -> Tensor | None:
    """Return where a step and the one `offset` steps after it along an axis are content; None of no mask."""
    if mask is None:
        return None
    count = mask.shape[axis] - offset
    return mask.narrow(axis, 0, count) & mask.narrow(axis, offset, count)


def mean_kl(posterior: Any, mask: Tensor | None) -> Tensor:
    """Return the mean Kullback-Leibler term of a latent value of a Gaussian posterior of diffusers.

    Args:
        posterior: a `DiagonalGaussianDistribution`.
        mask: which latent values are content; None for no padding.

    Returns:
        A scalar.
    """
    mean = posterior.mean
    if mask is None:
        return posterior.kl().mean() / mean[0].numel()
    each = 0.5 * (mean**2 + posterior.var - 1 - posterior.logvar)
    return masked_mean(each, mask)


def content_only(latents: Tensor, mask: Tensor | None) -> Tensor:
    """Return the steps of latents (B, C, ...) that are content, (N, C); the latents themselves of no mask."""
    if mask is None:
        return latents
    return latents.movedim(1, -1)[mask[:, 0]]
