"""Prompts for parts of an output: in space, in time or both (paint with words).

The denoiser answers once for each prompt, and the answers are blended by weights on the cells of the latent:
MultiDiffusion (arXiv 2302.08113, section 4.2) with a window as large as the output. It acts in every branch
of guidance that keeps the prompt; the null or negative prompt is the same everywhere.

A network that was trained on whole outputs makes one thing of what it sees, so that parts which differ would
be evened out. For the first steps every prompt can therefore have surroundings of its own: outside its region
it sees what it would have made there by itself. (MultiDiffusion shows a flat colour there for the same
reason.) After that every answer sees the whole latent, and the parts come to fit each other.

Letters: B batch, K prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

APART = 0.0  # of the schedule, in which every prompt has surroundings of its own (docs/editing.md)


@dataclass(frozen=True, kw_only=True)
class RegionalPrompt:
    """The prompts of the regions of one output, and where each of them counts.

    Attributes:
        prompts: what the denoiser takes for each region, for all B samples.
        shares: (K, ...) the share of each prompt in every cell, broadcast to a latent without its batch; that
            of the prompt of the whole comes first where it has any, then those of the regions. They sum to
            one.
        apart: the part of the schedule in which every prompt has surroundings of its own.
    """

    prompts: tuple[Any, ...]
    shares: Tensor
    apart: float = field(default_factory=lambda: APART)

    @property
    def num_prompts(self) -> int:
        """The number of prompts that count anywhere."""
        return len(self.shares)

    def values(self, whole: Any) -> list[Any]:
        """Return all prompts that count anywhere, given that of the whole output."""
        return [whole][: len(self.shares) - len(self.prompts)] + list(self.prompts)

    def mean(self, whole: Tensor) -> Tensor:
        """Return what an output says as a whole: the mean of its prompts by how much of it each has.

        Only of prompts that are tokens of the prompt space.

        Args:
            whole: (B, L, D) the prompt of the whole output.

        Returns:
            (B, L, D), as long as the tokens are on average.
        """
        values = torch.stack(self.values(whole))  # (K, B, L, D)
        if len(values) == 1:
            return values[0]
        parts = self.shares.flatten(1).mean(1).to(values)[:, None, None, None]
        mean = (parts * values).sum(0)
        length = (parts * values.norm(dim=-1, keepdim=True)).sum(0)
        return mean * (length / mean.norm(dim=-1, keepdim=True).clamp(min=1e-6))

    def within(self, part: int, x: Tensor, surroundings: Tensor) -> Tensor:
        """Return the latent (B, ...) as the prompt of one part sees it: x where it counts."""
        share = self.shares[part].to(x)
        return share * x + (1 - share) * surroundings

    def blend(self, answers: Sequence[Tensor]) -> Tensor:
        """Return one answer (B, ...) of the answers to all prompts, in the order of `values`."""
        assert len(answers) == len(self.shares), f"{len(answers)} answers for {len(self.shares)} prompts"
        blended = torch.zeros_like(answers[0])
        for share, answer in zip(self.shares.to(blended), answers, strict=True):
            blended += share * answer
        return blended


def shares_of(coverage: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return how much each prompt counts in every cell.

    What regions cover together, up to the whole of a cell, they share by their weights; what they leave is
    the share of the prompt of the whole output.

    Args:
        coverage: for each region its weights (S, h, w) in [0, 1] (`codi.conditions.areas`).
        weights: how much each region counts where it overlaps with others, above 0.

    Returns:
        (K, S, h, w) that sum to one, the whole's first; without that where it is zero everywhere.
    """
    stacked = torch.stack(list(coverage))
    weighted = stacked * torch.tensor(list(weights)).view(-1, 1, 1, 1)
    covered = stacked.sum(0).clamp(max=1)
    regions = weighted * (covered / weighted.sum(0).clamp(min=1e-12))
    rest = 1 - covered
    if rest.max() < 1e-6:
        return regions / regions.sum(0)
    return torch.cat([rest[None], regions])
