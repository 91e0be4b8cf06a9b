"""The prompt: tokens of the shared prompt space (CoDi, section 3.2).

Letters: B batch, L prompt tokens, D width of the prompt space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi.conditions.base import Condition, Mechanism
from codi.diffusion.guidance import Branch
from codi.protocols import PromptBatch


@dataclass(frozen=True, kw_only=True)
class PromptCondition(Condition):
    """The prompt tokens (B, L, D) of each branch; those of the null prompt in one that drops the prompt."""

    def batch(
        self, branches: Sequence[Branch], values: Sequence[Tensor | PromptBatch]
    ) -> Tensor | PromptBatch:
        """Return the tokens of all branches, one branch after another, (branches * B, L, D).

        Prompts in a form of their own are put together by that.
        """
        first = values[0]
        if isinstance(first, PromptBatch):
            return first.cat(values)
        return torch.cat(list(values))  # type: ignore[arg-type]


PROMPT = PromptCondition(
    name="prompt",
    mechanism=Mechanism.CROSS_ATTENTION,
    null="the model's null prompt, or a negative prompt",
    scale="guidance_scale",
    interval="guidance_interval",
)
