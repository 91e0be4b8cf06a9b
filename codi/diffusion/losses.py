"""Losses, one number per sample so that they can be logged by noise level before they are averaged."""

import torch
import torch.nn.functional as F
from torch import Tensor


def denoising_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample: (B, ...) -> (B,), in float32."""
    return (output.float() - target.float()).square().flatten(1).mean(dim=1)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weight (B,) of each sample's `denoising_loss` that clips its weight on x_0 at `gamma` (arXiv 2303.09556).

    An error in eps is SNR times the error in x_0, one in v is SNR + 1 times.
    """
    clipped = snr.clamp(max=gamma)
    return clipped / (snr if prediction_type == "epsilon" else snr + 1.0)


def info_nce(a: Tensor, b: Tensor, log_scale: Tensor | float, negatives: Tensor | None = None) -> Tensor:
    """Symmetric contrastive loss of pairs (arXiv 1807.03748, as in CLIP), one number per pair.

    a, b       (N, D) L2-normalised; row i of one belongs to row i of the other
    log_scale  log of the inverse temperature
    negatives  (N, K, D) further wrong partners of each row of `a` in the space of `b` (hard negatives)
    returns    (N,)
    """
    scale = torch.as_tensor(log_scale, device=a.device).exp()
    logits = scale * a.float() @ b.float().T  # (N, N)
    labels = torch.arange(len(a), device=a.device)
    forward = logits
    if negatives is not None:
        forward = torch.cat([logits, scale * torch.einsum("nd,nkd->nk", a.float(), negatives.float())], dim=1)
    backward = F.cross_entropy(logits.T, labels, reduction="none")
    return 0.5 * (F.cross_entropy(forward, labels, reduction="none") + backward)
