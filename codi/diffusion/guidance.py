"""Two guidance knobs per output, prompt and sync, as one weighted sum of denoiser answers.

    e(c, E) + both (e(c, E) - e(0, null)) + (p - both) (e(c, E) - e(0, E)) + (s - both) (e(c, E) - e(c, null))

c the prompt, with what noised towers tell of the partners (`blend`), 0 the null prompt, E what the partners
say in environments, null dropped partners; p = w_prompt - 1, s = w_sync - 1, and both the smaller of the two:
one branch without prompt and partners leads away from either (as in the nested guidance of arXiv 2211.09800,
section 3.2, where the scales are equal). So sync guidance as strong as prompt guidance adds no branch. Prompt
guidance is classifier-free guidance (arXiv 2207.12598), each within its own interval of the schedule (arXiv
2404.07724). 1.0 is off and that branch is never computed. All branches see the same x_t, and the weights sum
to one, so the formula is the same for eps and for v.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

LEAST_ALONG = 0.3  # of what is told along the prompt: partners that say otherwise do not cover it
# squared sine between a prompt and the mean of its captions below which nothing is open: towers err by as
# much
CLOSED = 0.05
# a caption turns further from its prompt than the mean of captions does: in the embedded model 1.2 to 1.3
# times
REACH = 1.25


class Branch(Enum):
    """Which of its two conditions the denoiser is given."""

    FULL = "full"
    NULL_PROMPT = "null prompt"
    NULL_PARTNERS = "null partners"
    NULL_BOTH = "null prompt, null partners"

    @property
    def prompted(self) -> bool:
        """The prompt is heard."""
        return self in (Branch.FULL, Branch.NULL_PARTNERS)

    @property
    def hearing(self) -> bool:
        """The partners are heard."""
        return self in (Branch.FULL, Branch.NULL_PROMPT)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance of one output.

    prompt, sync  weights; 1.0 is off
    *_interval    fractions [from, to) of the sampling steps, 0 the first and 1 after the last, where the
                  weight acts
    rescale       0..1: how far the result's spread is pulled back to that of the unguided answer (arXiv
                  2305.08891, section 3.4)
    """

    prompt: float = 1.0
    sync: float = 1.0
    prompt_interval: tuple[float, float] = (0.0, 1.0)
    sync_interval: tuple[float, float] = (0.2, 0.8)
    rescale: float = 0.0

    def weights(
        self, progress: float, has_prompt: bool = True, has_partners: bool = True
    ) -> dict[Branch, float]:
        """Weight of every branch that has to be computed at `progress` in [0, 1); they sum to one."""
        prompt = self.prompt - 1.0 if has_prompt and _within(progress, self.prompt_interval) else 0.0
        sync = self.sync - 1.0 if has_partners and _within(progress, self.sync_interval) else 0.0
        both = max(0.0, min(prompt, sync))
        weights = {
            Branch.FULL: 1.0 + prompt + sync - both,
            Branch.NULL_PROMPT: both - prompt,
            Branch.NULL_PARTNERS: both - sync,
            Branch.NULL_BOTH: -both,
        }
        return {branch: weight for branch, weight in weights.items() if weight != 0.0}

    def combine(self, answers: dict[Branch, Tensor], weights: dict[Branch, float]) -> Tensor:
        """The guided answer from the answers (B, ...) of the branches named in `weights`."""
        if len(weights) == 1:
            return next(iter(answers.values()))
        guided = sum(weight * answers[branch] for branch, weight in weights.items())
        if self.rescale > 0.0 and Branch.FULL in answers:
            guided = _rescale(guided, answers[Branch.FULL], self.rescale)
        return guided


@dataclass(frozen=True, kw_only=True)
class Leaning:
    """What partners seem to become: token (B, D) of the prompt space, the shorter the less can be told; and
    what was `expected` (B, D) of the prompt alone, zeros of an input.
    """

    token: Tensor
    expected: Tensor

    @staticmethod
    def sure(token: Tensor) -> "Leaning":
        """Of an input, which knows what it is."""
        return Leaning(token=token, expected=torch.zeros_like(token))

    @staticmethod
    def mean(parts: Sequence["Leaning"]) -> "Leaning":
        """Of several partners, who may contradict each other."""
        return Leaning(
            token=sum(p.token for p in parts) / len(parts),
            expected=sum(p.expected for p in parts) / len(parts),
        )


def leaning(context: Tensor, told: Tensor, expected: Tensor) -> Leaning:
    """What is told (B, D) of a latent that was made of context (B, L, D), less the open part of what was
    `expected`, told of its noise.

    All captions that go with a prompt have a mean, and its open part is no opinion: amplified, it would draw
    everybody to the middle of what the prompt leaves open, and to whatever is commonest there.
    """
    # (B, D), zeros without a prompt
    u = functional.normalize(context.mean(1).to(told.dtype), dim=-1, eps=1e-6)
    return Leaning(token=told - expected + (expected * u).sum(-1, keepdim=True) * u, expected=expected)


def room(context: Tensor, expected: Tensor) -> Tensor:
    """How far (B, L, 1) partners may turn a prompt (B, L, D), as a sine: as far as a caption is from it.

    The mean of the captions that go with "a ball", `expected` (B, D), points elsewhere than "a ball". Where
    the prompt names everything they are one, and what partners seem to say beyond it is error, which
    amplified would talk the prompt over: of pairs that training never showed, towers are not sure.
    """
    cosine = functional.cosine_similarity(context.float(), expected[:, None].float(), dim=-1, eps=1e-6)[
        ..., None
    ]
    return REACH * ((1 - cosine.square() - CLOSED) / (1 - CLOSED)).clamp(min=0).sqrt()


def blend(context: Tensor, told: Leaning, weight: float = 1.0) -> Tensor:
    """A prompt and what partners seem to become: context (B, L, D) -> tokens as long as the prompt's.

    With u the prompt's direction, what is told is a u + d, d at right angles to u: what the prompt leaves
    open. Undecided partners lean, so d is short; it is made `weight` times as long, but no longer than the d
    of a token of length one, which is sure, nor than there is `room`. The result points to a u + d. Where
    there is no prompt (zeros) it is d. Nothing told changes nothing, to the bit.
    """
    token, length = told.token[:, None].to(context.dtype), context.norm(dim=-1, keepdim=True)
    u = context / length.clamp(min=1e-6)
    along = (u * token).sum(-1, keepdim=True)
    open_part = token - along * u
    most = torch.minimum(
        (1 - along.square()).clamp(min=0).sqrt(), room(context, told.expected).to(context.dtype)
    )
    open_part = open_part * (most / open_part.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(max=weight)
    aside = open_part / along.clamp(min=LEAST_ALONG)  # per unit of the prompt
    prompted = (context + length * aside) * (1 + aside.square().sum(-1, keepdim=True)).rsqrt()
    return torch.where(length > 0, prompted, open_part)


def _within(progress: float, interval: tuple[float, float]) -> bool:
    return interval[0] <= progress < interval[1]


def _rescale(guided: Tensor, plain: Tensor, amount: float) -> Tensor:
    """Moves each sample's standard deviation the fraction `amount` of the way back to that of `plain`."""
    axes = tuple(range(1, guided.ndim))
    ratio = plain.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return guided * (1.0 + amount * (ratio - 1.0))
