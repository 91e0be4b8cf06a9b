"""Prompt tokens of training samples: a kind drawn by its share, captions through the finished text tower,
other media as encoded.
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

MOST_OF_SECOND = 0.7  # of an interpolated prompt: the first, which may be of another tower, is always heard


def expect_shares(prompts: dict[str, float]) -> None:
    """Raises `InputError` unless the option `prompts` holds shares of at least one kind, none below 0."""
    shares = prompts.values()
    expect(
        sum(shares) > 0 and min(shares) >= 0,
        "prompts",
        prompts,
        "shares of at least one kind of prompt, none below 0",
    )


def check_prompts(modality: Modality, shares: dict[str, float], rule: Rule) -> None:
    """Raises `InputError` for a kind of prompt that training may not see together with what is generated."""
    for prompt in map(Modality.parse, shares):
        if prompt is not modality and not may_meet(modality, prompt, rule):
            raise InputError(
                f"options: prompts names {prompt}: expected a modality that training sees together with "
                f"{modality}"
            )


class Prompts:
    """Turns what a batch knows of its samples into prompt tokens: captions through the text tower, other
    media as they were encoded.
    """

    def __init__(
        self,
        text: TextTower,
        shares: dict[str, float],
        noise: float,
        dropout: float,
        interpolation: float = 0.0,
    ):
        self.names = [Modality.parse(name) for name in shares]
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.noise, self.dropout, self.interpolation = noise, dropout, interpolation
        self.text = text

    @property
    def media(self) -> tuple[Modality, ...]:
        """Kinds of prompts besides sentences."""
        return tuple(name for name in self.names if not in_words(name))

    @property
    def readers(self) -> tuple[TextTower, ...]:
        """The text tower, where some prompts are sentences; without it media files need no captions."""
        worded = any(share for name, share in zip(self.names, self.shares) if in_words(name))
        return (self.text,) if worded or self.interpolation else ()

    def to(self, device: torch.device) -> None:
        self.text.to(device)

    def tokens(self, batch: Batch, generator: torch.Generator, text_only: bool = False) -> Tensor:
        """One token per sample, (B, 1, D): a kind drawn by its share, another caption beside some, noise,
        dropout.
        """
        return self.draw(batch, generator, text_only)[0]

    @torch.no_grad()
    def draw(
        self, batch: Batch, generator: torch.Generator, text_only: bool = False
    ) -> tuple[Tensor, list[Modality]]:
        """`tokens`, and of which kind each of them is."""
        rng = np.random.default_rng(
            int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        )
        said = self.sentences(batch, rng)
        tokens = batch[f"{self.media[0]}_token"] if said is None else self.text.embed(said)
        kinds = [Modality.TEXT if said is not None else self.media[0]] * len(tokens)
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
            weight = torch.from_numpy(rng.uniform(0.0, MOST_OF_SECOND, len(tokens)) * chosen).to(tokens)[
                :, None
            ]
            others = batch.paraphrases() if batch.scenes is None else self.sentences(batch, rng)
            tokens = functional.normalize(tokens.lerp(self.text.embed(others), weight), dim=-1)
        noise = torch.randn(tokens.shape, generator=generator, device=tokens.device) / tokens.shape[1] ** 0.5
        tokens = functional.normalize(tokens + self.noise * noise, dim=-1)
        return self.drop(tokens[:, None], generator), kinds

    @staticmethod
    def sentences(batch: Batch, rng: np.random.Generator) -> list[str] | None:
        """A caption per sample: of a scene some of its facts, of a file what is said of it; None where nobody
        asked what.
        """
        if batch.scenes is None:
            return batch.named.get("text")
        return [caption(s, prompted_facts(tuple(ATTRIBUTES), 0.5, rng), rng) for s in batch.scenes]

    def drop(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """The null prompt in a share of the samples."""
        dropped = torch.rand(len(context), generator=generator, device=context.device) < self.dropout
        null = null_prompt(len(context), context.shape[-1], device=context.device, dtype=context.dtype)
        return torch.where(dropped[:, None, None], null, context)
