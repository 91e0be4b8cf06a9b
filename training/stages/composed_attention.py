"""Decoupled attention of frozen models that others published, trained on captions alone.

A network answers to a caption; with the attention, it is to answer the same to a part of the caption as text
and to the token of the whole caption beside it (IP-Adapter, arXiv 2308.06721, section 3.2; the network's own
answers in place of media are distillation). Tokens are made as those of media are
(`training.stages.composed_prompts`). No medium takes part: latents are drawn, standard normal as those of
autoencoders about are, and noised by the network's own schedule.

Letters: B batch, D width of the prompt space.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from codi.compose.decoupled_attention import DecoupledAttentions, distillation_loss, find_sites
from codi.compose.folder import add_parts, is_composed
from codi.compose.foreign import ForeignDenoiser, Prepared
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, Scene, caption
from data.batch import Batch
from data.world import prompted_facts
from training.config import expect
from training.stages.common import export_part, say
from training.stages.composed_prompts import CaptionOptions, ComposedPromptsStage
from training.stages.foreign import opened

PART = "decoupled_attention"


@dataclass(frozen=True, kw_only=True)
class ComposedAttentionOptions(CaptionOptions):
    """Options of the stage, beside those of `CaptionOptions`.

    Attributes:
        text_dropout: the share of samples whose text says nothing, so that all of it comes by the attention.
    """

    text_dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.text_dropout <= 1, "text_dropout", self.text_dropout, "a share in [0, 1]")


class ComposedAttentionStage(ComposedPromptsStage):
    """The stage that trains the decoupled attention of all published models that have a place for it."""

    options_kind = ComposedAttentionOptions
    part_name = PART

    def load(self) -> None:
        """Load what reads captions, and the pipelines; find where attention can be put into each of them."""
        super().load()
        self.networks: dict[str, dict[str, int]] = {}
        self.prepared: dict[Modality, Prepared] = {}
        refusals = []
        for modality, model in self.models.items():
            try:
                self.networks[modality.value] = find_sites(model)
                self.prepared[modality] = opened(model)
            except InputError as error:  # text and latent in one attention, or a vector for a prompt
                refusals.append(str(error))
        if not self.networks:
            raise InputError(refusals[0])
        for refusal in refusals:
            say(f"left out: {refusal}")

    def build(self) -> DecoupledAttentions:
        """Return new attention for all networks that have a place for it, put into them."""
        settings = dict(self.config.part.get(PART, {}))
        made = DecoupledAttentions(dim=self.dim, networks=self.networks, **settings)
        self.denoisers: dict[Modality, ForeignDenoiser] = {}
        for modality, attention in made.by_modality().items():
            model = self.models[modality]
            attention.attach(model.network)
            form = model.form(False, self.prepared[modality].call)
            self.denoisers[modality] = ForeignDenoiser(model, form, decoupled=attention)
        return made

    def latent_shape(self, modality: Modality, count: int) -> tuple[int, ...]:
        """Return the shape (B, ...) of latents of a network."""
        return (count, *self.prepared[modality].start.shape[1:])

    def captions(self, scenes: list[Scene], rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return captions of scenes and the targets, and texts that name some of the facts."""
        batch = super().captions(scenes, rngs)
        texts = []
        for scene, rng in zip(scenes, rngs, strict=True):
            texts.append(caption(scene, prompted_facts(tuple(ATTRIBUTES), 0.0, rng), rng))
        return batch | {"texts": texts}

    def of_files(self, batch: Batch) -> dict[str, Any]:
        """Return a batch of files in the form of `captions`; the first half of a caption is a part of it."""
        halves = []
        for sentence in batch["text"]:
            words = sentence.split()
            halves.append(" ".join(words[: len(words) // 2]))
        return super().of_files(batch) | {"texts": halves}

    def noisy(self, modality: Modality, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return drawn latents (B, ...) with noise of any level, and their timesteps (B,)."""
        levels, device = self.models[modality].levels, generator.device
        shape = self.latent_shape(modality, count)
        x_0, eps = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
        t = levels.timestep(torch.rand(count, generator=generator, device=device))
        return levels.add_noise(x_0, eps, t), t

    def loss(
        self, module: Any, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of all networks, and that of each for the log."""
        token = self.tokens(batch["captions"], generator)
        dropped = torch.rand(len(token), generator=generator, device=token.device) < self.options.text_dropout
        texts = ["" if drop else text for drop, text in zip(dropped.tolist(), batch["texts"], strict=True)]
        losses = self._distilled(token, batch["targets"], texts, generator)
        total = torch.stack(list(losses.values())).sum()
        return total, {name: value.detach() for name, value in losses.items()}

    def _distilled(
        self, token: Tensor, targets: list[str], texts: list[str], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the mean loss of each network, by the name of its output."""
        found = {}
        for modality, denoiser in self.denoisers.items():
            whole, text = self.native(modality, targets), self.native(modality, texts)
            x, t = self.noisy(modality, len(token), generator)
            losses = distillation_loss(denoiser, x.to(whole.dtype), t, whole, text, token)
            found[modality.value] = losses.mean()
        return found

    def dry_pass(self, module: Any, batch: dict[str, Tensor]) -> None:
        """Run every network once, attending to tokens."""
        token = batch["token"]
        for modality, denoiser in self.denoisers.items():
            x, t = torch.zeros(self.latent_shape(modality, len(token))), torch.zeros(len(token))
            arguments = denoiser.arguments(x, t, self.native(modality, [""] * len(token)))
            arguments = pytree.tree_map_only(Tensor, lambda leaf: leaf.to("meta"), arguments)
            with module.by_modality()[modality].attending(token):
                self.models[modality].network(**arguments)

    @torch.no_grad()
    def preview(self, module: Any, folder: Path) -> None:
        """Write `distilled.json`: how far answers without a text are from those to the caption.

        It is given with the tokens of the captions, with those of other samples, and without any.
        """
        batch = self.data(offset=2).fetch(list(range(self.options.validation_captions)))
        own = self.tokens(batch["captions"], torch.Generator(self.device).manual_seed(0), read=1.0)
        found = {"own": own, "another's": own.roll(1, 0), "none": torch.zeros_like(own)}
        scores = {}
        for name, token in found.items():
            generator = torch.Generator(self.device).manual_seed(0)
            losses = self._distilled(token, batch["targets"], [""] * len(token), generator)
            scores[name] = {key: round(float(value), 6) for key, value in losses.items()}
        (folder / "distilled.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")

    def export(self, module: Any, folder: Path) -> None:
        """Write decoupled_attention/, and name it in the index of a composed model."""
        made = DecoupledAttentions.from_config(module.config)
        made.load_state_dict(module.state_dict())
        if is_composed(folder):
            add_parts(folder, {PART: made.to(torch.float16)})
        else:
            export_part(made, folder / PART)
