"""Partner estimates: what the other outputs seem to become, and how that is fused with a prompt.

At every step a noisy-latent encoder (`codi.joint.noisy_latent_encoder`) reads each partner's latent and
estimates the token of its caption. The estimates of all partners are averaged, centred by what the prompt
alone lets expect, and fused with the prompt. Attention passes *when* something happens, partner estimates
pass *what* it is.

Letters: B batch, L prompt tokens, D width of the prompt space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# The least component of an estimate along the prompt: partners that contradict the prompt cannot outweigh it.
MIN_ALONG = 0.3
# The squared sine between a prompt and the mean of its captions below which the prompt counts as fully
# determined: encoders err by as much.
DETERMINED = 0.05
# A caption turns further from its prompt than the mean of captions does: in the embedded model 1.2 to 1.3
# times.
TRUST_REGION = 1.25


@dataclass(frozen=True, kw_only=True)
class PartnerEstimate:
    """An estimate of what partners seem to become.

    Attributes:
        token: (B, D) a token of the prompt space, the shorter the less certain.
        prior: (B, D) the estimate from pure noise, which is what the prompt alone lets expect; zeros for a
            clean partner, about which nothing has to be expected.
    """

    token: Tensor
    prior: Tensor

    @staticmethod
    def clean(token: Tensor) -> "PartnerEstimate":
        """Return the estimate of a clean partner, an input whose token (B, D) is certain."""
        return PartnerEstimate(token=token, prior=torch.zeros_like(token))

    @staticmethod
    def mean(parts: Sequence["PartnerEstimate"]) -> "PartnerEstimate":
        """Return the mean of the estimates of several partners, which may contradict each other."""
        token = torch.stack([part.token for part in parts]).sum(0) / len(parts)
        prior = torch.stack([part.prior for part in parts]).sum(0) / len(parts)
        return PartnerEstimate(token=token, prior=prior)


def centred_estimate(context: Tensor, token: Tensor, prior: Tensor) -> PartnerEstimate:
    """Centre an estimate by its prior.

    All captions that go with a prompt have a mean, and the part of that mean at right angles to the prompt is
    no opinion: if it were amplified, it would draw every output to the middle of what the prompt leaves open,
    and to whatever is commonest there. So that part is subtracted.

    Args:
        context: (B, L, D) the prompt tokens from which the latent is generated.
        token: (B, D) the estimate from the latent.
        prior: (B, D) the estimate from the latent's initial noise.

    Returns:
        the centred estimate, with its prior.
    """
    # the prompt's direction (B, D), zeros without a prompt
    u = functional.normalize(context.mean(1).to(token.dtype), dim=-1, eps=1e-6)
    return PartnerEstimate(token=token - prior + (prior * u).sum(-1, keepdim=True) * u, prior=prior)


def max_deviation(context: Tensor, prior: Tensor) -> Tensor:
    """Return how far partners may turn a prompt: as far as a caption lies from it.

    The mean of the captions that go with "a ball" points elsewhere than "a ball" does. Where the prompt names
    everything the two are one. What partners seem to say beyond that is error, which would override the
    prompt if it were amplified: encoders are uncertain about pairs that training never showed.

    Args:
        context: (B, L, D) prompt tokens.
        prior: (B, D) the prior estimate, the mean of the captions that go with the prompt.

    Returns:
        (B, L, 1) the greatest angle, as its sine.
    """
    cosine = functional.cosine_similarity(context.float(), prior[:, None].float(), dim=-1, eps=1e-6)
    undetermined = (1 - cosine[..., None].square() - DETERMINED) / (1 - DETERMINED)
    return TRUST_REGION * undetermined.clamp(min=0).sqrt()


def fuse_prompt(context: Tensor, estimate: PartnerEstimate, weight: float = 1.0) -> Tensor:
    """Fuse a prompt with what its partners seem to become.

    Let u be the prompt's direction. The estimate is a u + d, where d, at right angles to u, is what the
    prompt leaves open. Partners that are undecided give a short d. It is made `weight` times as long, but no
    longer than the d of a token of length one, which is certain, and no longer than `max_deviation`. The
    result points to a u + d. Without a prompt (zeros) it is d. An estimate of zeros changes nothing, to the
    bit.

    Args:
        context: (B, L, D) prompt tokens.
        estimate: what the partners seem to become.
        weight: by how much the open part is amplified.

    Returns:
        (B, L, D) tokens as long as the prompt's.
    """
    token = estimate.token[:, None].to(context.dtype)
    length = context.norm(dim=-1, keepdim=True)
    u = context / length.clamp(min=1e-6)
    along = (u * token).sum(-1, keepdim=True)
    open_part = token - along * u
    certain = (1 - along.square()).clamp(min=0).sqrt()
    longest = torch.minimum(certain, max_deviation(context, estimate.prior).to(context.dtype))
    open_part = open_part * (longest / open_part.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(max=weight)
    aside = open_part / along.clamp(min=MIN_ALONG)  # per unit of the prompt
    fused = (context + length * aside) * (1 + aside.square().sum(-1, keepdim=True)).rsqrt()
    return torch.where(length > 0, fused, open_part)
