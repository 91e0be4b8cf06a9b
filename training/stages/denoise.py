"""Denoiser stages: one latent diffusion model per modality, which takes one prompt token (CoDi, section 3.3).

Autoencoders and prompt towers are frozen. Letters: B batch, L prompt tokens, D width of the prompt space.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi.diffusion import NoiseProcess
from codi.diffusion.losses import denoising_loss
from codi.modalities import component_class, in_words, kind_of
from codi.models.codi import DENOISERS
from codi.models.denoisers.experts import (
    EXPERTS,
    NOISY,
    Experts,
    first_noisy_timestep,
    join,
    split,
)
from codi.types import InputError, Modality
from data.batch import Batch
from training.config import Config, expect, strict
from training.dry_run import empty, whole_numbers
from training.stages import Source, Stage
from training.stages.common import export_part, load_part, replacing, say
from training.stages.files import captions_of, known_geometry
from training.stages.latents import Encoding, autoencoder_of, joined, latents_of, tokens_of, tower_of
from training.stages.new_model import estimate_weight, load_scheduler, spread_timesteps
from training.stages.padding import latent_mask
from training.stages.pairs import rule_of
from training.stages.partner_estimates import PartnerEstimates, load_noisy_latent_encoders
from training.stages.prompts import Prompts, check_prompts, expect_shares
from training.stages.rows import with_partners
from training.stages.temporal_change import WithTemporalChange

FusePrompt = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions:
    """Options of the denoiser stages.

    Attributes:
        modality: what is generated.
        prompts: the share of each kind of prompt, such as {"text": 0.7, "image": 0.3}. On the world these may
            be the modality itself and those that training may see together with it.
        scenes: the number of scenes in the latent cache.
        pictures: the weight of the picture loss in the video stage, since pictures and clips share a
            denoiser; 0 for none.
        picture_scenes: the number of scenes in the cache of pictures beside clips; 0 stands for `scenes`.
        continue_from: start from the denoiser in the model folder.
        canonical: sentences to generate use the first pattern and the first words, so that only facts are
            left to decide.
        timestep_shift: how far timesteps move towards noise, see `spread_timesteps`.
        prompt_dropout: the share of samples without a prompt.
        prompt_noise: the length of the noise that is added to prompt tokens, which are of length one. It
            prepares for the tokens of other towers.
        prompt_interpolation: the share of samples with two prompts, interpolated: the one drawn by `prompts`,
            and another caption of the sample.
        temporal_change: the weight of predicting from the frame transformer's tokens when the clean latent
            changes; 0 for none.
        partner_estimates: the share of samples whose prompt is fused with what a partner seems to become, by
            partner, such as {"image": 0.5} (`training.stages.partner_estimates`). A row of files without
            that partner gets none.
        picture_partner_estimates: the same for the pictures beside clips, whose partner can only be text.
        expert: "noisy" or "clean": trains one of two denoisers by noise range (eDiff-I, arXiv 2211.01324, see
            `codi.models.denoisers.experts`), on the timesteps of its range alone; it starts from the
            denoiser in the model folder, or from its half of that. None trains one denoiser on all.
        expert_boundary: the log-SNR between the two ranges.
        preview_captions: the prompts of the previews. None stands on scenes for `PREVIEW`, on files for
            captions of held-out rows, or of rows that train where none are held out.
    """

    modality: str
    prompts: dict[str, float]
    scenes: int = 8192
    pictures: float = 0.0
    picture_scenes: int = 0
    continue_from: bool = False
    canonical: bool = False
    timestep_shift: float = 1.0
    prompt_dropout: float = 0.1
    prompt_noise: float = 0.2
    prompt_interpolation: float = 0.0
    temporal_change: float = 0.0
    partner_estimates: dict[str, float] = field(default_factory=dict)
    picture_partner_estimates: dict[str, float] = field(default_factory=dict)
    expert: str | None = None
    expert_boundary: float = 0.0
    preview_captions: list[str] | None = None

    @property
    def prompt_changes(self) -> tuple[float, float, float]:
        """The changes that are made to prompt tokens: noise, dropout, interpolation."""
        return self.prompt_noise, self.prompt_dropout, self.prompt_interpolation

    def __post_init__(self) -> None:
        expect_shares(self.prompts)
        expect(self.timestep_shift > 0, "timestep_shift", self.timestep_shift, "more than 0")
        for name in ("prompt_dropout", "prompt_interpolation"):
            expect(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share in [0, 1]")
        for name in ("pictures", "picture_scenes", "prompt_noise", "temporal_change"):
            expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("partner_estimates", "picture_partner_estimates"):
            estimated = getattr(self, name).values()
            expect(
                min(estimated, default=0) >= 0 and sum(estimated) <= 1,
                name,
                getattr(self, name),
                "shares in [0, 1], together no more than 1",
            )
        expect(self.expert in (None, *EXPERTS), "expert", self.expert, " or ".join(EXPERTS))
        expect(
            self.expert is None or self.continue_from,
            "continue_from",
            self.continue_from,
            "true, since an expert starts from the denoiser in the model folder",
        )
        expect(
            self.pictures or not self.picture_partner_estimates,
            "picture_partner_estimates",
            self.picture_partner_estimates,
            "nothing where pictures is 0",
        )


PREVIEW = [
    "a red ball bounces slowly at night",
    "a yellow star swings quickly in the snow",
    "a blue ring pulses slowly on the grass",
    "a pink box blinks quickly on the sand",
    "a green cross bounces quickly in the snow",
    "a purple triangle swings slowly on the sand",
    "a cyan ball",
    "a star at night",
]


class DenoiseStage(Stage):
    """The stage that trains one denoiser."""

    identity = ("modality",)
    timesteps: tuple[int, int] | None = None  # that are drawn; None for all

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(DenoiseOptions, config.options, where="options")
        self.modality = Modality.parse(self.options.modality)
        self.component = DENOISERS[self.modality]
        found = {}
        for name in ("prompts", "partner_estimates"):
            found[name] = with_partners(config, self.modality, getattr(self.options, name), name)
        self.options = dataclasses.replace(self.options, **found)

    def load(self) -> None:
        """Load the text tower, the noise process, and what partner estimates and sentences need."""
        config = self.config
        tower = tower_of(config.model, Modality.TEXT)
        self.prompts = Prompts(tower, self.options.prompts, *self.options.prompt_changes)
        self.process = NoiseProcess.from_scheduler(load_scheduler(config.model))
        shares, of_pictures = self.options.partner_estimates, self.options.picture_partner_estimates
        self.partner_estimates = self.partners("partner_estimates", self.modality, shares)
        self.picture_partner_estimates = self.partners(
            "picture_partner_estimates", Modality.IMAGE, of_pictures
        )
        partners = [m for estimates in self.all_partner_estimates for m in estimates.shares]
        needs_text = any(map(in_words, (self.modality, *partners)))
        self.sentences = autoencoder_of(config.model, Modality.TEXT) if needs_text else None

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the denoiser's name."""
        return (DENOISERS[Modality.parse(str(config.options.get("modality")))],)

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the denoiser's name, and the scheduler's if the model folder has none yet."""
        return cls.builds(config) + (() if (config.model / "scheduler").is_dir() else ("scheduler",))

    def part_of(self, module: nn.Module, name: str) -> nn.Module:
        """Return the denoiser, the only part that is built."""
        return self.denoiser(module)

    def partners(self, option: str, modality: Modality, shares: dict[str, float]) -> PartnerEstimates | None:
        """Return what fuses the prompts of `modality` with estimates of its partners; None without any.

        Args:
            option: the name of the option that holds the shares, for errors.
            modality: what is generated.
            shares: the share of samples that get an estimate, by partner.

        Returns:
            A `PartnerEstimates`, with the noisy-latent encoders in the model folder.
        """
        if not shares:
            return None
        return PartnerEstimates(
            modality,
            shares,
            load_noisy_latent_encoders(self.config.model),
            self.process,
            estimate_weight(self.config.model),
            rule_of(self.config),
            option,
        )

    @property
    def all_partner_estimates(self) -> list[PartnerEstimates]:
        """The partner estimates of the samples and of the pictures beside them, where there are any."""
        return [
            partner_estimates
            for partner_estimates in (self.partner_estimates, self.picture_partner_estimates)
            if partner_estimates is not None
        ]

    def build(self) -> nn.Module:
        """Return the denoiser of `part`, or the one in the model folder.

        With the option `temporal_change` it comes inside `WithTemporalChange`.
        """
        own = self.sentences if in_words(self.modality) else None
        cls = component_class(self.component, sequence=own is not None and len(own.latent_shape) == 2)
        if self.options.continue_from:
            module = load_part(cls, self.config.model / self.component, f"train {self.component} first")
            if self.options.expert:
                module = self.expert_of(module)
            module.requires_grad_(True)
        else:
            module = cls(**self.config.part)
        autoencoder = own or autoencoder_of(self.config.model, self.modality)
        self.spec = kind_of(self.modality).describe(autoencoder, module)
        # a wrong width would fail only in the first step, and with torch's own words
        fits = {
            "in_channels": (autoencoder.latent_shape[0], "channels of the autoencoder's latents"),
            "length": (autoencoder.latent_shape[-1], "positions of the autoencoder's latents"),
            "context_dim": (self.prompts.text.dim, "width of the towers"),
        }
        for name, (right, what) in fits.items():
            if (value := module.config.get(name, right)) != right:
                raise InputError(
                    f"part: {name} is {value!r}: expected {right}, the {what} in {self.config.model}"
                )
        return self.with_temporal_change(module) if self.options.temporal_change else module

    def expert_of(self, present: nn.Module) -> nn.Module:
        """Return the expert that is trained, and keep the other as it is in the model folder.

        Args:
            present: the denoiser in the model folder, one for all noise levels or two experts.

        Returns:
            The expert that the options name, as a denoiser of its own.
        """
        t = first_noisy_timestep(self.process, self.options.expert_boundary)
        total = self.process.num_train_timesteps
        self.timesteps = (t, total) if self.options.expert == NOISY else (0, t)
        if isinstance(present, Experts) and present.config.boundary_timestep != t:
            raise InputError(
                f"options: expert_boundary is {self.options.expert_boundary:g}: expected "
                f"{present.config.boundary:g}, where the experts in {self.config.model} meet"
            )
        self.experts = dict(zip(EXPERTS, split(present), strict=True))
        return self.experts[str(self.options.expert)]

    def with_temporal_change(self, denoiser: nn.Module) -> WithTemporalChange:
        """Return the denoiser with a layer for the temporal-change loss.

        Args:
            denoiser: a denoiser of sounds or clips.

        Returns:
            Both in one module.

        Raises:
            InputError: if no frame transformer runs along time.
        """
        if self.spec.latent_rate is None or not denoiser.config.frame_transformer:
            lacks = "sound or a clip, and a part with a frame_transformer"
            raise InputError(
                f"options: temporal_change is {self.options.temporal_change:g}: expected 0, or {lacks}"
            )
        # a U-Net of sounds, (C, T, M), halves time between its levels, so a token in its middle stands for
        # several steps; of clips, (C, F, H, W), it halves height and width alone
        halvings = 0 if len(self.spec.latent_shape) == 4 else len(denoiser.config.block_out_channels) - 1
        return WithTemporalChange(denoiser, 2**halvings)

    def to(self, device: torch.device) -> None:
        """Move the text parts and the noisy-latent encoders to `device`."""
        self.prompts.to(device)
        for part in (self.sentences, *self.all_partner_estimates):
            if part is not None:
                part.to(device)
        self.device = device

    @property
    def media(self) -> tuple[Modality, ...]:
        """The modalities whose latents are cached: its own and its partners'.

        Sentences are not among them; they are encoded as they come.
        """
        own = () if in_words(self.modality) else (self.modality,)
        return own + (self.partner_estimates.media if self.partner_estimates else ())

    def encodings(self) -> list[Encoding]:
        """Return what is needed of media files.

        Returns:
            The latents of the modality and its partners with the tokens of its prompts; then, if pictures
            train beside it, the latents of these.
        """
        known = known_geometry(self.config.model, {self.component: self.config.part})
        partners = tuple(m for m in self.media if m is not self.modality)
        main = Encoding(self.config, self.media, self.prompts.media, known, self.readers, partners)
        beside = (self.prompts.text, *([self.sentences] if self.picture_partner_estimates else []))
        return [
            main,
            *([Encoding(self.config, (Modality.IMAGE,), (), known, beside)] if self.options.pictures else []),
        ]

    @property
    def readers(self) -> tuple[nn.Module, ...]:
        """The text parts that read the captions of the samples, those of pictures beside them left aside."""
        partners = self.partner_estimates.shares if self.partner_estimates else ()
        encoded = any(map(in_words, (self.modality, *partners)))
        return (*self.prompts.readers, *([self.sentences] if encoded else []))

    def data(self) -> Source:
        """Return a source of cached latents and prompt tokens, of scenes or of media files."""
        check_prompts(self.modality, self.options.prompts, rule_of(self.config))
        if self.config.data:
            main, *pictures = [encoding.open(self.device, say) for encoding in self.encodings()]
            return WithPictures(main, *pictures) if pictures else main
        model, seed, count = self.config.model, self.config.seed, self.options.scenes
        sources = [tokens_of(model, m, count, seed) for m in self.prompts.media]
        sources += [latents_of(model, m, count, seed) for m in self.media]
        main = joined(sources, seed)
        if not self.options.pictures:
            return main
        return WithPictures(
            main, latents_of(model, Modality.IMAGE, self.options.picture_scenes or count, seed)
        )

    def loss(
        self, module: nn.Module, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the denoising loss, plus the weighted losses of the options, and values for the log.

        The options may add the temporal-change loss, and the denoising loss of pictures beside clips. "bins"
        are the losses of the samples by noise level.
        """
        x_0 = self.latents(batch, generator)
        mask = latent_mask(batch, self.modality, x_0)
        context, kinds = self.prompts.draw(batch, generator)
        losses, t = self.denoising(
            module,
            x_0,
            context,
            generator,
            self.with_estimates(self.partner_estimates, batch, kinds, generator),
            mask,
        )
        extras = {"bins": (t / self.process.num_train_timesteps, losses.detach())}
        if isinstance(module, WithTemporalChange):
            temporal_change_loss = module.temporal_change_loss(x_0, mask)
            losses, extras["temporal_change"] = (
                losses + self.options.temporal_change * temporal_change_loss,
                temporal_change_loss.mean().detach(),
            )
        if not self.options.pictures:
            return losses.mean(), extras
        pictures = batch["pictures"]
        # pictures are cached without tokens of their own, so sentences prompt them
        context, kinds = self.prompts.draw(pictures, generator, text_only=True)
        fuse = self.with_estimates(self.picture_partner_estimates, pictures, kinds, generator)
        mask = latent_mask(pictures, Modality.IMAGE, pictures["image"])
        seen, _ = self.denoising(module, pictures["image"], context, generator, fuse, mask)
        return losses.mean() + self.options.pictures * seen.mean(), extras | {
            "pictures": seen.mean().detach()
        }

    def dummy_batch(self, module: nn.Module, count: int) -> dict[str, Tensor]:
        """Return latents, each with one prompt token; a clip has as many frames as the denoiser says."""
        return {
            "latents": empty(count, *self.spec.latent_shape),
            "prompts": empty(count, 1, self.denoiser(module).config.context_dim),
        }

    def dry_pass(self, module: nn.Module, batch: dict[str, Tensor]) -> None:
        """Run the denoiser once."""
        self.denoiser(module)(batch["latents"], whole_numbers(len(batch["latents"])), batch["prompts"])

    @torch.no_grad()
    def latents(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the clean latents (B, ...) of what is generated.

        Those of sentences are made of whole captions, in new words each time unless `canonical` is on.
        """
        if not in_words(self.modality):
            return batch[self.modality.value]
        if self.options.canonical:
            return self.sentences.encode(batch.captions())
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        return self.sentences.encode(batch.captions(np.random.default_rng(seed)))

    def with_estimates(
        self,
        partner_estimates: PartnerEstimates | None,
        batch: Batch,
        kinds: list[Modality],
        generator: torch.Generator,
    ) -> FusePrompt | None:
        """Return a function that fuses the prompts of a batch with estimates of its partners.

        Args:
            partner_estimates: the fuser; None for no estimates.
            batch: the samples, with the latents or captions of the partners.
            kinds: the kind of each prompt.
            generator: the source of all draws.

        Returns:
            A function of prompts (B, L, D) and timesteps (B,) that returns prompts (B, L, D); None for no
            estimates.
        """
        if partner_estimates is None:
            return None

        def clean(partner: Modality, rows: Tensor) -> Tensor:
            if not in_words(partner):
                return batch[partner.value][rows]
            captions = batch.captions()
            return self.sentences.encode([captions[row] for row in rows.tolist()])

        def available(partner: Modality) -> Tensor | None:
            return batch.named.get(f"{partner}_mask")

        return lambda context, t: partner_estimates(context, t, kinds, clean, generator, available)

    def denoising(
        self,
        module: nn.Module,
        x_0: Tensor,
        context: Tensor,
        generator: torch.Generator,
        fuse: FusePrompt | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the denoising loss of each sample, and the timesteps at which it was computed.

        Args:
            module: the denoiser.
            x_0: the clean latents, (B, ...).
            context: the prompts, (B, L, D).
            generator: the source of timesteps and noise.
            fuse: a function of prompts and timesteps that returns the prompts to use.
            mask: which latent values count (`training.stages.padding`); None for all.

        Returns:
            The losses (B,), and the timesteps (B,).
        """
        total = self.process.num_train_timesteps
        t = spread_timesteps(len(x_0), total, generator, self.options.timestep_shift, self.timesteps)
        eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
        # only now, since a partner is as noisy as its denoiser, or less
        if fuse is not None:
            context = fuse(context, t)
        output = module(self.process.add_noise(x_0, eps, t), t, context)
        return denoising_loss(output, self.process.target(x_0, eps, t), mask), t

    @staticmethod
    def denoiser(module: nn.Module) -> nn.Module:
        """Return the denoiser itself, the only part of `module` that is kept."""
        return module.denoiser if isinstance(module, WithTemporalChange) else module

    def exported(self, module: nn.Module) -> nn.Module:
        """Return the denoiser for the model folder: what was trained, beside the other expert if any."""
        own = self.denoiser(module)
        if not self.options.expert:
            return own
        both = self.experts | {self.options.expert: own}
        return join(*(both[name] for name in EXPERTS), self.options.expert_boundary, self.process)

    def preview_captions(self) -> list[str]:
        """Return the prompts of the previews."""
        return self.options.preview_captions or captions_of(self.config, PREVIEW)

    @torch.no_grad()
    def preview(self, module: nn.Module, folder: Path) -> None:
        """Write samples for fixed captions, as the pipeline makes them."""
        from training.stages.samples import write_samples

        denoisers = {self.modality: self.exported(module)}
        captions = self.preview_captions()
        write_samples(self.config.model, denoisers, captions, folder, probe=not self.config.data)

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write the denoiser, and the scheduler that its noise came from if there is none yet."""
        export_part(self.exported(module), folder / self.component)
        if not (folder / "scheduler").is_dir():
            with replacing(folder / "scheduler") as beside:
                load_scheduler(folder).save_pretrained(beside)


class WithPictures(Source):
    """A source of clips with, beside them, as many pictures of other scenes."""

    def __init__(self, clips: Source, pictures: Source):
        self.clips, self.pictures = clips, pictures

    def __len__(self) -> int:
        return len(self.clips)

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch of clips, with a batch of pictures in it under "pictures"."""
        return self.clips.fetch(indices).with_named(pictures=self.pictures.fetch(indices))

    @property
    def bad(self) -> int:
        """The number of bad samples met so far, clips and pictures."""
        return self.clips.bad + self.pictures.bad

    def close(self) -> None:
        """End the decoding processes of both."""
        self.clips.close()
        self.pictures.close()
