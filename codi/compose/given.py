"""Read what a call of a composed model is given: prompts in each of their forms, and clean partners.

Letters: B batch, D width of the shared prompt space.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from codi import prompts, records
from codi.modalities import in_words
from codi.prompts import Prompt
from codi.types import InputError, Latents, Modality, listed

Words = tuple[tuple[str, float], ...]  # sentences, and how much each of them counts
Items = Mapping[Modality, Sequence[Prompt]]


@dataclass(frozen=True, kw_only=True)
class ComposedPrompt:
    """The prompts of one sample.

    Attributes:
        words: for each output the sentences that it is made from; those under None are for all others.
        token: (1, 1, D) all prompts together in the shared prompt space; None where there are sentences alone
            and no text model.
        foreign: whether there is any prompt that is no sentence, so that outputs are made from the token.
        tokens: (1, 1, D) the sentences of single outputs in the shared prompt space, as far as a text model
            reads them.
        beside: (1, 1, D) the prompts that are no sentences alone, for networks that attend to them beside
            their text (`codi.compose.decoupled_attention`); None where there are none, or no such network.
    """

    words: Mapping[Modality | None, Words] = field(default_factory=dict)
    token: Tensor | None = None
    foreign: bool = False
    tokens: Mapping[Modality, Tensor] = field(default_factory=dict)
    beside: Tensor | None = None

    def given(self, modality: Modality) -> Words:
        """Return the sentences that are given for an output, which may be none."""
        return self.words.get(modality, self.words.get(None, ()))

    def of(self, modality: Modality) -> Words:
        """Return the sentences that an output is made from, at least one; without any, an empty one."""
        return self.given(modality) or (("", 1.0),)

    def token_of(self, modality: Modality) -> Tensor | None:
        """Return the prompt of an output in the shared prompt space (1, 1, D); None if nothing reads it."""
        return self.tokens.get(modality) if modality in self.words else self.token


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the samples of a call are made from, one entry for each of the B samples.

    Attributes:
        prompts: their prompts.
        negatives: what guidance leads away from; None where nothing of the kind is given.
        seeds: their seeds.
        arguments: further arguments of the call of single pipelines, such as `ip_adapter_image`, by output.
        attended: how much decoupled attention those outputs are given that attend to prompts that are no
            sentences, instead of having them translated.
    """

    prompts: Sequence[ComposedPrompt]
    negatives: Sequence[ComposedPrompt] | None
    seeds: Sequence[int]
    arguments: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    attended: Mapping[Modality, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    def generators(self) -> list[torch.Generator]:
        """Return new generators, one for each sample."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def tokens(self) -> Tensor | None:
        """Return the prompts (B, 1, D) in the shared prompt space; None if any sample has none there."""
        found = [prompt.token for prompt in self.prompts if prompt.token is not None]
        return torch.cat(found) if len(found) == len(self) else None

    def besides(self) -> Tensor | None:
        """Return the prompts (B, 1, D) that are no sentences, or None."""
        given = [prompt.beside for prompt in self.prompts]
        like = next((token for token in given if token is not None), None)
        if like is None:
            return None
        return torch.cat([torch.zeros_like(like) if token is None else token for token in given])

    def negatives_of(self, modality: Modality) -> list[str] | None:
        """Return B negative prompts of an output; None where no sample has any."""
        given = [prompt.given(modality) for prompt in self.negatives or ()]
        if not any(given):
            return None
        return [", ".join(words for words, _ in sentences) for sentences in given]


@dataclass(frozen=True, kw_only=True)
class Given:
    """The prompts and clean partners of a call.

    Attributes:
        items: the prompts by modality.
        texts: the sentences that are for single outputs, by output.
        negatives: the prompts to steer away from, by modality.
        negative_texts: those that are for single outputs, by output.
        prompt_embeds: what `ComposedPipeline.encode_prompt` returned, in place of prompts.
        negative_prompt_embeds: the same in place of negatives.
        partner_latents: clean latents by modality, in place of inputs that stand in the loop.
        ip_adapter_images: what the IP-Adapter of each output's own pipeline is shown, by output.
        ip_adapter_scale: how much networks attend to prompts that are no sentences, as it was given.
    """

    items: Items
    texts: Items
    negatives: Items
    negative_texts: Items
    prompt_embeds: Any = None
    negative_prompt_embeds: Any = None
    partner_latents: Latents | None = None
    ip_adapter_images: Mapping[Modality, Any] = field(default_factory=dict)
    ip_adapter_scale: Any = None

    @classmethod
    def from_arguments(
        cls,
        named: Mapping[str, Any],
        negative_text: Any,
        outputs: Sequence[Modality],
        ip_adapter_image: Any = None,
        **forms: Any,
    ) -> "Given":
        """Read the arguments of a call.

        Args:
            named: prompts by modality.
            negative_text: what to steer away from, in the forms of a text.
            outputs: what is made.
            ip_adapter_image: a picture for the IP-Adapter of a pipeline, by the name of the output.
            **forms: prompts and partners in other forms, by the names of the attributes above.

        Returns:
            What is given.

        Raises:
            InputError: for a prompt that is none, or that comes in two forms at once.
        """
        items, texts = _by_output(named, outputs)
        negatives, negative_texts = _by_output({"text": negative_text}, outputs)
        if (items or texts) and forms.get("prompt_embeds") is not None:
            raise InputError("prompts and prompt_embeds were both given: expected one of them")
        return cls(
            items=items,
            texts=texts,
            negatives=negatives,
            negative_texts=negative_texts,
            ip_adapter_images=_pictures(ip_adapter_image, outputs),
            **forms,
        )

    @property
    def modalities(self) -> list[Modality]:
        """The modalities of the prompts."""
        return [*self.items, *([Modality.TEXT] if self.texts else [])]

    @property
    def refused(self) -> list[Modality]:
        """The modalities of the negative prompts."""
        return [*self.negatives, *([Modality.TEXT] if self.negative_texts else [])]

    @property
    def clean(self) -> list[Modality] | None:
        """The modalities that came as clean latents; None where none did."""
        return None if self.partner_latents is None else list(self.partner_latents)

    def check_texts(self) -> None:
        """Raise `InputError` for sentences for single outputs beside prompts that are no sentences."""
        if self.texts and any(not in_words(m) for m in self.items):
            raise InputError(
                "sentences for single outputs came beside prompts that are no sentences: expected either "
                "one sentence for all, or sentences alone"
            )

    def described(self) -> dict[str, Any]:
        """Return the prompts of a call as a record has them.

        Sentences for single outputs and pictures for IP-Adapters are named and not held, so that nobody makes
        something else of them.
        """
        found = records.described(self.items, self.negatives)
        named = {
            "sentences for single outputs": self.texts or self.negative_texts,
            "a picture for an IP-Adapter": self.ip_adapter_images,
            "prompts that are attended to by ip_adapter_scale": self.ip_adapter_scale is not None,
        }
        for what, given in named.items():
            if given:
                found["inputs"] = [*found["inputs"], {"as": "embeds", "weight": 1.0, "from": what}]
        return found


def _by_output(
    named: Mapping[str, Any], outputs: Sequence[Modality]
) -> tuple[dict[Modality, list[Prompt]], dict[Modality, list[Prompt]]]:
    """Return the prompts of a call by modality, and the sentences that are for single outputs."""
    found = dict(prompts.by_modality(named))
    texts: dict[Modality, list[Prompt]] = {}
    for modality in [m for m in found if in_words(m) and isinstance(found[m], Mapping)]:
        for output, words in sentences_of(found.pop(modality), outputs).items():
            if words is not None:
                texts[output] = prompts.collect({modality: words})[modality]
    return prompts.collect(found), texts


def sentences_of(texts: Mapping[str, Any], outputs: Sequence[Modality]) -> dict[Modality, Any]:
    """Return sentences by output, of an argument that names outputs.

    Args:
        texts: a sentence, or a list of sentences that combine, by the name of an output.
        outputs: what is made.

    Returns:
        By output; one that is not named has none.

    Raises:
        InputError: for words for what is no output.
    """
    found = {}
    for name, words in texts.items():
        modality = Modality.parse(name)
        if modality not in outputs:
            raise InputError(f"text names {name}, which is no output: expected some of {listed(outputs)}")
        found[modality] = words
    return found


def _pictures(given: Any, outputs: Sequence[Modality]) -> dict[Modality, Any]:
    """Return what IP-Adapters are shown, by output, of {output: picture} or a picture for the only output."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(outputs) != 1:
            raise InputError(
                "ip_adapter_image is one picture for several outputs: expected {output: picture}, such as "
                f"{{{outputs[0].value!r}: picture}}"
            )
        given = {outputs[0].value: given}
    found = {}
    for name, picture in given.items():
        modality = Modality.parse(name)
        if modality not in outputs:
            raise InputError(
                f"ip_adapter_image names {name}, which is no output: expected some of {listed(outputs)}"
            )
        if picture is not None:
            found[modality] = picture
    for modality, picture in found.items():  # a name would be looked up by transformers, also on the network
        if isinstance(picture, (str, os.PathLike)):
            raise InputError(
                f"ip_adapter_image of {modality} is a {type(picture).__name__}: expected a picture of PIL, "
                "an array or a tensor"
            )
    return found


def weighted(given: Sequence[Prompt]) -> Words:
    """Return sentences with their weights. Raises `InputError` for what is no sentence."""
    for prompt in given:
        if not isinstance(prompt.value, str):
            raise InputError(f"a text prompt is a {type(prompt.value).__name__}: expected words")
    return tuple((prompt.value, float(prompt.weight)) for prompt in given)


def one_for_each(given: Any, count: int, name: str) -> list[ComposedPrompt]:
    """Return one prompt for each sample.

    Args:
        given: what `ComposedPipeline.encode_prompt` returned, one or one for each sample.
        count: the number of samples.
        name: what the argument is called in a message.

    Returns:
        The prompts.

    Raises:
        InputError: for anything else.
    """
    rows = [given] * count if isinstance(given, ComposedPrompt) else list(given)
    if len(rows) != count or not all(isinstance(row, ComposedPrompt) for row in rows):
        raise InputError(f"{name} holds {len(rows)} prompts: expected what encode_prompt gives, 1 or {count}")
    return rows
