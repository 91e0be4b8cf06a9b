"""What prompts say, as the mean of the captions that go with them, and what several of them say together.

Text is the bridge of the shared space (CoDi, section 3.2), but towers leave every modality dialects of its
own: of a sound, the token has a cosine of 0.75 to that of its caption. The prior of unCLIP (arXiv 2204.06125,
section 2.2) translates. Here nothing has to be trained for it: of pure noise, a noisy-latent encoder
estimates the mean of all captions that go with a prompt (`codi.joint.noisy_latent_encoder`), and its length
tells how much the prompt determines. In the embedded model it is 1 for a caption that names everything, 0.95
for a clip, 0.85 for a picture, which has no motion, and 0.5 for "a ball". Letters: B batch, D width of the
shared space, K prompts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from codi.layers import repeated
from codi.protocols import NoisyLatentEncoder

SWEEPS = 100  # of coordinate ascent, after which five prompts that agree in part have settled


def estimate_captions(tower: NoisyLatentEncoder, noise: Tensor, t: int, token: Tensor) -> Tensor:
    """The mean (B, D) of the captions that go with each prompt token (B, D), over `noise` (N, *latent_shape)
    at its timestep t.

    Of one draw alone a tower has an opinion.
    """
    rows, draws = len(token), len(noise)
    levels = torch.full((rows * draws,), t, device=noise.device)
    told = tower(repeated(noise, rows * draws), levels, token.repeat_interleave(draws, 0)[:, None])
    return told.float().unflatten(0, (rows, draws)).mean(1)


def combine_prompts(means: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The least u (B, D) that says what each of the K prompts says: u . m_k >= v_k |m_k|^2 for its mean m_k
    (B, D), v_k its weight over the greatest one, as far as u = sum of a_k m_k with 0 <= a_k <= v_k can.

    What one prompt says and the others leave open is kept, where a mean of them all would halve it; what two
    say is said once; and where they contradict each other, weights decide. Interpolation does neither: a
    picture beside the caption of its clip halves the motion. It is the dual of a quadratic programme, solved
    one coordinate at a time. Prompts are taken in an order of their own, so that the one in which they come
    changes nothing, to the bit.
    """
    m = torch.stack(list(means)).cpu().double()  # (K, B, D); the steps are many and small
    v = torch.tensor(list(weights), dtype=torch.float64)[:, None].expand(m.shape[:2]) / max(weights)
    order = v.argsort(dim=0, stable=True)
    # by a component, and where it is the same by weight
    order = order.gather(0, m[..., 0].gather(0, order).argsort(dim=0, stable=True))
    m, v = m.gather(0, order[..., None].expand_as(m)), v.gather(0, order)
    return (_multipliers(m.detach(), v)[..., None] * m).sum(0).to(means[0])


def _multipliers(m: Tensor, v: Tensor) -> Tensor:
    """The a_k (K, B) of `combine_prompts`, of means (K, B, D) and weights (K, B) in (0, 1]."""
    products = torch.einsum("kbd,jbd->kjb", m, m)
    own = products.diagonal(dim1=0, dim2=1).T  # (K, B)
    a = torch.zeros_like(v)
    for _ in range(SWEEPS):
        for k in range(len(m)):
            lacks = v[k] * own[k] - (products[k] * a).sum(0)
            a[k] = torch.minimum((a[k] + lacks / own[k].clamp(min=1e-12)).clamp(min=0), v[k])
    return a


def project(token: Tensor, combined: Tensor) -> Tensor:
    """A prompt's own token (B, D), of length one, turned towards what is `combined` (B, D) until as much of
    it lies in that direction.

    The token of a sentence is like that: it has about as much of the mean of its captions, and the rest, at
    right angles, says that it names no more. One that has it already, as that of a picture, stays as it is.
    """
    length = combined.norm(dim=-1, keepdim=True)
    direction = combined / length.clamp(min=1e-6)
    along = (token * direction).sum(-1, keepdim=True)
    rest = token - along * direction
    turned = length.clamp(max=1) * direction + (1 - length.square()).clamp(
        min=0
    ).sqrt() * functional.normalize(rest, dim=-1)
    return torch.where(along < length, turned, token)
