"""What a call is given beside its request: prompts in either of their forms, and clean partners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codi import prompts, records
from codi.models.codi import CoDiModel
from codi.prompts import Prompt
from codi.types import Latents, Modality


@dataclass(frozen=True, kw_only=True)
class Given:
    """The prompts and clean partners of a call.

    Attributes:
        items: prompts by modality.
        negatives: prompts to steer away from.
        prompt_embeds: (1 or B, 1, D) in place of `items`.
        negative_prompt_embeds: the same in place of `negatives`.
        null_prompt_embeds: what stands for the lack of the prompts, beside `prompt_embeds`.
        partner_latents: clean latents (1 or B, ...) in place of encoded inputs.
    """

    items: Mapping[Modality, Sequence[Prompt]] = field(default_factory=dict)
    negatives: Mapping[Modality, Sequence[Prompt]] = field(default_factory=dict)
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    null_prompt_embeds: Tensor | None = None
    partner_latents: Latents | None = None

    def check(self, model: CoDiModel) -> None:
        """Raises `InputError` for tensors that do not fit a model, or each other."""
        embeds = {
            "prompt_embeds": self.prompt_embeds,
            "negative_prompt_embeds": self.negative_prompt_embeds,
            "null_prompt_embeds": self.null_prompt_embeds,
        }
        prompts.check_embeds(embeds, model.context_dim)
        prompts.check_latents(self.partner_latents or {}, model.specs)

    def described(self) -> dict[str, Any]:
        """Returns the prompts as a record describes them."""
        return records.described(self.items, self.negatives, self.prompt_embeds, self.negative_prompt_embeds)
