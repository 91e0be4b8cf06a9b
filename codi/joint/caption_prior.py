"""The caption prior: a prompt read as the mean of all captions that go with it, and several prompts combined.

Text is the bridge of the shared prompt space (CoDi, section 3.2), but prompt towers leave every modality a
dialect of its own: the token of a sound has a cosine of 0.75 to the token of its caption. The prior of unCLIP
(arXiv 2204.06125, section 2.2) translates between them. Here nothing has to be trained for it: given pure
noise, a noisy-latent encoder estimates the mean of all captions that go with a prompt
(`codi.joint.noisy_latent_encoder`), and the length of this mean tells how much the prompt determines. In the
embedded model it is 1 for a caption that names everything, 0.95 for a clip, 0.85 for a picture, which has no
motion, and 0.5 for "a ball".

Letters: B batch, D width of the prompt space, K prompts, N draws of noise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from codi.layers import repeated
from codi.protocols import NoisyLatentEncoder

SWEEPS = 100  # sweeps of coordinate ascent; by then five prompts that agree in part have converged


def estimate_captions(tower: NoisyLatentEncoder, noise: Tensor, t: int, token: Tensor) -> Tensor:
    """Return the mean (B, D) of the captions that go with each prompt token (B, D).

    The answer is averaged over several draws of noise, because in a single one the encoder already sees
    something.

    Args:
        tower: the noisy-latent encoder that is asked.
        noise: (N, *latent_shape) draws of pure noise.
        t: the timestep of the noise.
        token: (B, D) prompt tokens.

    Returns:
        (B, D) in float32, the shorter the less a prompt determines.
    """
    rows = len(token)
    draws = len(noise)
    timesteps = torch.full((rows * draws,), t, device=noise.device)
    estimates = tower(repeated(noise, rows * draws), timesteps, token.repeat_interleave(draws, 0)[:, None])
    return estimates.float().unflatten(0, (rows, draws)).mean(1)


def combine_prompts(means: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the least prompt (B, D) that contains what each of several prompts says.

    It is the shortest u with u . m_k >= v_k |m_k|^2 for the mean m_k of every prompt, where v_k is the
    prompt's weight over the greatest one, as far as u = sum of a_k m_k with 0 <= a_k <= v_k can meet that.

    What one prompt says and the others leave open is kept, where a mean of them all would halve it. What two
    prompts say is said once. Where prompts contradict each other, weights decide. Interpolation does none of
    this: with a picture beside the caption of its clip, it halves the motion.

    This is the dual of a quadratic programme, solved one coordinate at a time. The prompts are sorted first,
    so that the order in which they come changes nothing, to the bit.

    Args:
        means: K tensors (B, D), what `estimate_captions` returned for each prompt.
        weights: K positive numbers.

    Returns:
        (B, D) in the precision of the first mean.
    """
    # The steps of the ascent are many and small, so that the CPU is faster.
    m = torch.stack(list(means)).cpu().double()  # (K, B, D)
    v = torch.tensor(list(weights), dtype=torch.float64)[:, None].expand(m.shape[:2]) / max(weights)
    order = v.argsort(dim=0, stable=True)
    # Sorted by the first component, and by weight where that is the same.
    order = order.gather(0, m[..., 0].gather(0, order).argsort(dim=0, stable=True))
    m = m.gather(0, order[..., None].expand_as(m))
    v = v.gather(0, order)
    return (_multipliers(m.detach(), v)[..., None] * m).sum(0).to(means[0])


def _multipliers(m: Tensor, v: Tensor) -> Tensor:
    """Return the a_k (K, B) of `combine_prompts` for means (K, B, D) and weights (K, B) in (0, 1]."""
    products = torch.einsum("kbd,jbd->kjb", m, m)
    own = products.diagonal(dim1=0, dim2=1).T  # (K, B)
    a = torch.zeros_like(v)
    for _ in range(SWEEPS):
        for k in range(len(m)):
            # What u still lacks along m_k. a_k moves until nothing is lacking, or it meets a bound.
            lacks = v[k] * own[k] - (products[k] * a).sum(0)
            a[k] = torch.minimum((a[k] + lacks / own[k].clamp(min=1e-12)).clamp(min=0), v[k])
    return a


def project(token: Tensor, combined: Tensor) -> Tensor:
    """Turn a prompt's token until as much of it lies along the combined prompt as that is long.

    The token of a sentence is like that: it has about as much of the mean of its captions as that mean is
    long, and the rest, at right angles, says that the sentence names no more. A token that has as much of it
    already, such as that of a picture, stays as it is.

    Args:
        token: (B, D) prompt tokens of length one.
        combined: (B, D) what `combine_prompts` returned.

    Returns:
        (B, D) tokens of length one.
    """
    length = combined.norm(dim=-1, keepdim=True)
    direction = combined / length.clamp(min=1e-6)
    along = (token * direction).sum(-1, keepdim=True)
    rest = token - along * direction
    aside = (1 - length.square()).clamp(min=0).sqrt()
    turned = length.clamp(max=1) * direction + aside * functional.normalize(rest, dim=-1)
    return torch.where(along < length, turned, token)
