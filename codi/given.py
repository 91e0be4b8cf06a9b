"""Read what a call is given beside its request: prompts in either of their forms, and clean partners.

Letters: B batch, D width of a prompt token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codi import prompts, records
from codi.models.codi import CoDiModel
from codi.prompts import Prompt
from codi.types import InputError, Latents, Modality


@dataclass(frozen=True, kw_only=True)
class Given:
    """The prompts and clean partners of a call.

    Attributes:
        items: prompts by modality.
        negatives: prompts to steer away from, by modality.
        prompt_embeds: (1 or B, 1, D) in place of `items`.
        negative_prompt_embeds: (1 or B, 1, D) in place of `negatives`.
        null_prompt_embeds: what stands for the lack of the prompts, beside `prompt_embeds`.
        partner_latents: clean latents (1 or B, ...) in place of encoded inputs.
    """

    items: Mapping[Modality, Sequence[Prompt]] = field(default_factory=dict)
    negatives: Mapping[Modality, Sequence[Prompt]] = field(default_factory=dict)
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    null_prompt_embeds: Tensor | None = None
    partner_latents: Latents | None = None

    @classmethod
    def from_arguments(
        cls, named: Mapping[str, Any], partner_latents: Any, **embeds: Tensor | None
    ) -> "Given":
        """Read the arguments of a call.

        Args:
            named: prompts by modality, and negative ones by "negative_" and modality.
            partner_latents: clean latents by the names of modalities, or None.
            **embeds: prompts in the form of tokens, by the names of the attributes above.

        Returns:
            Prompts as lists of `Prompt`, with weights that are numbers of Python's.

        Raises:
            InputError: for a prompt that is none, and clean latents that are no dict.
        """
        items = prompts.collect(prompts.by_modality(named))
        negatives = prompts.collect(prompts.by_modality(named, "negative_"), "negative_")
        if partner_latents is not None:
            if not isinstance(partner_latents, Mapping):
                came = type(partner_latents).__name__
                raise InputError(
                    f"partner_latents is a {came}: expected a dict, as `encode_partners` gives it"
                )
            partner_latents = {Modality.parse(name): latent for name, latent in partner_latents.items()}
        return cls(items=items, negatives=negatives, partner_latents=partner_latents, **embeds)

    @property
    def prompted(self) -> bool:
        """Whether there is a prompt in one of its forms; both at once raise `InputError`."""
        return prompts.given(self.items, self.prompt_embeds)

    @property
    def refusing(self) -> bool:
        """Whether there is a negative prompt in one of its forms; both at once raise `InputError`."""
        return prompts.given(self.negatives, self.negative_prompt_embeds, "negative_")

    def check(self, model: CoDiModel) -> None:
        """Raise `InputError` for tensors that do not fit a model, or each other."""
        embeds = {
            "prompt_embeds": self.prompt_embeds,
            "negative_prompt_embeds": self.negative_prompt_embeds,
            "null_prompt_embeds": self.null_prompt_embeds,
        }
        prompts.check_embeds(embeds, model.context_dim)
        prompts.check_latents(self.partner_latents or {}, model.specs)

    def described(self) -> dict[str, Any]:
        """Return the prompts as a record describes them."""
        return records.described(self.items, self.negatives, self.prompt_embeds, self.negative_prompt_embeds)
