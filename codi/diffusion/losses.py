"""Losses give one number per sample, so that they can be logged by noise level before they are averaged.

Letters: B batch, N pairs, K wrong partners, S steps along time, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def denoising_loss(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error of each sample, in float32.

    Args:
        output: (B, ...).
        target: (B, ...).
        mask: (B, ...) boolean, which values count, such as those that are no padding; None for all.

    Returns:
        (B,).
    """
    error = (output.float() - target.float()).square().flatten(1)
    if mask is None:
        return error.mean(dim=1)
    counted = mask.expand(output.shape).flatten(1)
    return (error * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Return the weight (B,) of each sample's `denoising_loss` in Min-SNR weighting (arXiv 2303.09556).

    It clips at `gamma` the weight that an error in x_0 has: an error in eps is SNR times the error in x_0,
    and one in v is SNR + 1 times.

    Args:
        snr: (B,) signal-to-noise ratios of the samples.
        gamma: the greatest weight on x_0.
        prediction_type: "epsilon" or "v_prediction".

    Returns:
        (B,).
    """
    clipped = snr.clamp(max=gamma)
    return clipped / (snr if prediction_type == "epsilon" else snr + 1.0)


def info_nce(a: Tensor, b: Tensor, log_scale: Tensor | float, negatives: Tensor | None = None) -> Tensor:
    """Return the symmetric contrastive loss of pairs (arXiv 1807.03748, as in CLIP), one number per pair.

    Args:
        a: (N, D) L2-normalised.
        b: (N, D) L2-normalised; its row i belongs to row i of `a`.
        log_scale: the logarithm of the inverse temperature.
        negatives: (N, K, D) further wrong partners of each row of `a` in the space of `b` (hard negatives).

    Returns:
        (N,).
    """
    scale = torch.as_tensor(log_scale, device=a.device).exp()
    logits = scale * a.float() @ b.float().T  # (N, N)
    labels = torch.arange(len(a), device=a.device)
    forward = logits
    if negatives is not None:
        forward = torch.cat([logits, scale * torch.einsum("nd,nkd->nk", a.float(), negatives.float())], dim=1)
    backward = F.cross_entropy(logits.T, labels, reduction="none")
    return 0.5 * (F.cross_entropy(forward, labels, reduction="none") + backward)


def timed_nce(
    a: Tensor, b: Tensor, log_scale: Tensor | float, shifts: Sequence[int] = (), allowed: Tensor | None = None
) -> Tensor:
    """Return the symmetric contrastive loss of pairs of sequences that run side by side.

    The similarity of two sequences is the mean over time of the similarities of their steps.

    Args:
        a: (N, S, D), each step L2-normalised.
        b: (N, S, D), each step L2-normalised; its row i belongs to row i of `a`.
        log_scale: the logarithm of the inverse temperature.
        shifts: in steps. Row i of `b`, moved against row i of `a` by each of them, is a further wrong partner
            (hard negatives in time).
        allowed: (N, len(shifts)) boolean; False where a moved sequence is right again, such as a rhythm that
            is moved by its period.

    Returns:
        (N,).
    """
    a = a.float()
    b = b.float()
    scale = torch.as_tensor(log_scale, device=a.device).exp()
    likeness = torch.einsum("nsd,msd->nm", a, b) / a.shape[1]
    moved = [_moved_likeness(a, b, shift) for shift in shifts]
    wrong = scale * torch.stack(moved, dim=1) if moved else a.new_zeros(len(a), 0)
    if allowed is not None:
        wrong = wrong.masked_fill(~allowed, -torch.inf)
    labels = torch.arange(len(a), device=a.device)
    ways = [torch.cat([scale * way, wrong], dim=1) for way in (likeness, likeness.T)]
    return 0.5 * sum(F.cross_entropy(way, labels, reduction="none") for way in ways)


def _moved_likeness(a: Tensor, b: Tensor, shift: int) -> Tensor:
    """Return the mean similarity (N,) of step s of `a` and step s + shift of `b`, where both exist."""
    steps = a.shape[1] - abs(shift)
    first = max(0, -shift)
    second = max(0, shift)
    return (a[:, first : first + steps] * b[:, second : second + steps]).sum(-1).mean(-1)
