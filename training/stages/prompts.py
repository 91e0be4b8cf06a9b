"""This module makes the prompt tokens of training samples.

The kind of each prompt is drawn by its share. Captions go through the finished text tower; of other media the
batch has the tokens already. Letters: B batch, D width of the prompt space.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codi.modalities import in_words
from codi.models.conditioning import TextTower, null_prompt
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, caption
from data.batch import Batch
from data.world import prompted_facts
from training.config import expect
from training.stages.pairs import Rule, may_meet

# The greatest weight of the second prompt in an interpolation: the first, which may come from another tower,
# always counts.
MOST_OF_SECOND = 0.7


def expect_shares(prompts: dict[str, float]) -> None:
    """Raise `InputError` unless the option `prompts` holds shares of at least one kind, none below 0."""
    shares = prompts.values()
    expect(
        sum(shares) > 0 and min(shares) >= 0,
        "prompts",
        prompts,
        "shares of at least one kind of prompt, none below 0",
    )


def check_prompts(modality: Modality, shares: dict[str, float], rule: Rule) -> None:
    """Raise `InputError` for a kind of prompt that training may not see together with what is generated.

    Args:
        modality: what is generated.
        shares: the option `prompts`.
        rule: the pairs that the run may see (`training.stages.pairs.rule_of`).
    """
    for prompt in map(Modality.parse, shares):
        if prompt is not modality and not may_meet(modality, prompt, rule):
            raise InputError(
                f"options: prompts names {prompt}: expected a modality that training sees together with "
                f"{modality}"
            )


class Prompts:
    """A maker of prompt tokens from what a batch knows of its samples.

    Captions go through the text tower; other media are in the batch as they were encoded.

    Args:
        text: the finished text tower.
        shares: the share of each kind of prompt, by modality; they need not sum to one.
        noise: the length of the Gaussian noise that is added to tokens, which are of length one.
        dropout: the share of samples whose prompt becomes the null prompt.
        interpolation: the share of samples with two prompts, interpolated: the one drawn by `shares`, and
            another caption of the sample.
    """

    def __init__(
        self,
        text: TextTower,
        shares: dict[str, float],
        noise: float,
        dropout: float,
        interpolation: float = 0.0,
    ):
        self.names = list(map(Modality.parse, shares))
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.noise = noise
        self.dropout = dropout
        self.interpolation = interpolation
        self.text = text

    @property
    def media(self) -> tuple[Modality, ...]:
        """The kinds of prompts besides sentences."""
        return tuple(name for name in self.names if not in_words(name))

    @property
    def readers(self) -> tuple[TextTower, ...]:
        """The text tower if some prompts are sentences; else nothing, and media files need no captions."""
        worded = any(share for name, share in zip(self.names, self.shares) if in_words(name))
        return (self.text,) if worded or self.interpolation else ()

    def to(self, device: torch.device) -> None:
        """Move the text tower to `device`."""
        self.text.to(device)

    def tokens(self, batch: Batch, generator: torch.Generator, text_only: bool = False) -> Tensor:
        """Return one prompt token for each sample, as `draw` does.

        Args:
            batch: the samples, with their scenes or captions and the tokens of their media.
            generator: the source of all draws.
            text_only: whether all prompts are sentences.

        Returns:
            (B, 1, D).
        """
        return self.draw(batch, generator, text_only)[0]

    @torch.no_grad()
    def draw(
        self, batch: Batch, generator: torch.Generator, text_only: bool = False
    ) -> tuple[Tensor, list[Modality]]:
        """Draw a prompt for each sample: its kind, another caption beside some, noise, and dropout.

        Args:
            batch: the samples, with their scenes or captions and the tokens of their media.
            generator: the source of all draws.
            text_only: whether all prompts are sentences.

        Returns:
            The tokens (B, 1, D), and the kind that was drawn for each.
        """
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        rng = np.random.default_rng(seed)
        sentences = self.sentences(batch, rng)
        if sentences is None:
            tokens = batch[f"{self.media[0]}_token"]
            kinds = [self.media[0]] * len(tokens)
        else:
            tokens = self.text.embed(sentences)
            kinds = [Modality.TEXT] * len(tokens)
        kind = rng.choice(len(self.names), size=len(tokens), p=self.shares)
        for number, name in enumerate(self.names):
            if not in_words(name) and not text_only:
                chosen = torch.from_numpy(kind == number).to(tokens.device)[:, None]
                mask = batch.named.get(f"{name}_mask")
                if mask is not None:  # a file that lacks this medium keeps its caption
                    chosen = chosen & mask.to(tokens.device)[:, None]
                tokens = torch.where(chosen, batch[f"{name}_token"].to(tokens), tokens)
                kinds = [name if here else before for here, before in zip(chosen[:, 0].tolist(), kinds)]
        if self.interpolation:
            chosen = rng.random(len(tokens)) < self.interpolation
            weight = torch.from_numpy(rng.uniform(0.0, MOST_OF_SECOND, len(tokens)) * chosen)
            weight = weight.to(tokens)[:, None]
            # another caption of a file's row, if it has one; a scene gets a new one
            others = batch.paraphrases() if batch.scenes is None else self.sentences(batch, rng)
            tokens = functional.normalize(tokens.lerp(self.text.embed(others), weight), dim=-1)
        # divided by the root of the width, noise has a length of about one, as tokens have
        noise = torch.randn(tokens.shape, generator=generator, device=tokens.device) / tokens.shape[1] ** 0.5
        tokens = functional.normalize(tokens + self.noise * noise, dim=-1)
        return self.drop(tokens[:, None], generator), kinds

    @staticmethod
    def sentences(batch: Batch, rng: np.random.Generator) -> list[str] | None:
        """Return a caption for each sample, or None where nobody asked for captions.

        Args:
            batch: the samples. The caption of a scene names some of its facts; that of a file is the one in
                the batch.
            rng: the source of the draws for scenes.

        Returns:
            B sentences, or None.
        """
        if batch.scenes is None:
            return batch.named.get("text")
        sentences = []
        for scene in batch.scenes:
            facts = prompted_facts(tuple(ATTRIBUTES), 0.5, rng)
            sentences.append(caption(scene, facts, rng))
        return sentences

    def drop(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """Return the prompts (B, 1, D) with the null prompt in the place of a share of them."""
        dropped = torch.rand(len(context), generator=generator, device=context.device) < self.dropout
        null = null_prompt(len(context), context.shape[-1], device=context.device, dtype=context.dtype)
        return torch.where(dropped[:, None, None], null, context)
