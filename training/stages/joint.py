"""The joint stage: environment encoders and joint attention learn on pairs of modalities (CoDi, section 3.4).

Everything else is frozen. The paper trains its pairs one after another. Here they share a run, because one
denoiser makes both pictures and clips: trained in turn, the last pair would overwrite what the first had
taught its adapters. Three modalities of one scene are still never seen together.

Letters: B batch, D width of the prompt space. A pair is two modalities (a, b) of the same scenes; each is a
side of it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codi.diffusion import NoiseProcess
from codi.diffusion.losses import denoising_loss
from codi.joint.encoders import EnvironmentEncoders
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.modalities import component_class, in_words
from codi.models.autoencoders import TextAutoencoder
from codi.models.codi import DENOISERS
from codi.protocols import Environment
from codi.types import InputError, Modality
from data.batch import Batch
from training.config import Config, expect, strict
from training.dry_run import empty, whole_numbers
from training.stages.common import copy_model, export_part, load_part, say
from training.stages.contrast import TimedContrast
from training.stages.files import captions_of, known_geometry
from training.stages.joint_adapters import (
    JointAdapters,
    adapted,
    add_joint_adapters,
    strip,
    with_others,
)
from training.stages.latents import Encoding, Joined, autoencoder_of, latents_of, tokens_of, tower_of
from training.stages.new_model import estimate_weight, load_scheduler, spread_timesteps
from training.stages.padding import latent_mask
from training.stages.pairs import Pair, PairOptions, PairSource, PairStage, parse_pair, rule_of
from training.stages.partner_estimates import estimated_prompt, load_noisy_latent_encoders
from training.stages.prompts import Prompts
from training.stages.temporal_change import TemporalChangeDecoder


@dataclass(frozen=True, kw_only=True)
class JointOptions(PairOptions):
    """Options of the joint stage, beside those of `PairOptions`.

    Attributes:
        prompts: by pair the shares of its sides in making the prompt; both alike for a pair that is not
            named.
        prompt_noise: the length of the noise that is added to prompt tokens, as in the denoiser stages.
        joint_config: laid over the denoisers' `joint_config`. The adapters of all sides then start anew, at
            zero where a side does not attend.
        adapters: arguments of joint attention (env_dim, joint_levels, ...) for denoisers in the model folder
            that have none yet.
        into: the folder that gets the result and a copy of all other parts; None stands for the model folder.
        preview_captions: the prompts of the previews; None as in the denoiser stages.
    """

    BY_PAIR: ClassVar[tuple[str, ...]] = (*PairOptions.BY_PAIR, "prompts")

    prompts: dict[str, dict[str, float]] = field(default_factory=dict)
    prompt_noise: float = 0.3
    joint_config: dict[str, Any] | None = None
    adapters: dict[str, Any] = field(default_factory=dict)
    into: Path | None = None
    preview_captions: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(self.prompt_noise >= 0, "prompt_noise", self.prompt_noise, "0 or more")

    def learning(self, pair: Pair, names: list[str] | None) -> tuple[Modality, ...]:
        """Return the sides of a pair that learn; a single one cannot with the contrast, which trains both."""
        sides = super().learning(pair, names)
        whole = len(sides) == 2 or self.joint_config is not None
        expected = "0 where one side attends: it trains the environments of both"
        expect(whole or not self.contrast, "contrast", self.contrast, expected)
        return sides


class JointStage(PairStage):
    """The stage that trains all pairs of a run in every step."""

    identity = ("attending",)

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(JointOptions, config.options, where="options").trainable(config)
        rule = rule_of(config)
        self.pairs = {parse_pair(name, rule): share for name, share in self.options.pairs.items()}
        self.shifts = self.options.by_pair("timestep_shift", rule)
        self.attending = self.options.attending_by_pair(rule)
        self.attended: set[Modality] = set()
        for pair, sides_attending in self.attending.items():
            self.attended |= {self.partner(pair, m) for m in sides_attending}
        self.taught = set(self.attended)  # whose environment encoders train
        if self.options.contrast:
            self.taught |= self.timed()

    def load(self) -> None:
        """Load the text tower, the noise process, and noisy-latent encoders where the model has any."""
        config, rule = self.config, rule_of(self.config)
        sides = self.options.by_pair("prompts", rule)
        dropout = self.options.by_pair("prompt_dropout", rule)
        self.process = NoiseProcess.from_scheduler(load_scheduler(config.model))
        tower = tower_of(config.model, Modality.TEXT)
        self.prompts: dict[Pair, Prompts] = {}
        for pair in self.pairs:
            shares = sides.get(pair, {m.value: 0.5 for m in pair})
            noise = self.options.prompt_noise
            self.prompts[pair] = Prompts(tower, shares, noise, dropout.get(pair, 0.3))
        self.estimate_weight = estimate_weight(config.model)
        self.noisy_latent_encoders: NoisyLatentEncoders | None = None
        if (config.model / "noisy_latent_encoders").is_dir():
            self.noisy_latent_encoders = load_noisy_latent_encoders(config.model)
        self.sentences: TextAutoencoder | None = None
        if any(any(map(in_words, pair)) for pair in self.pairs):
            self.sentences = autoencoder_of(config.model, Modality.TEXT)

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the name of the environment encoders."""
        return ("environment_encoders",)

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the environment encoders, and of the denoisers whose adapters change."""
        options = strict(JointOptions, config.options, where="options")
        attending = options.attending_by_pair(rule_of(config))
        learning, reset = adapted(config.model, attending, options.joint_config is not None)
        return cls.builds(config) + tuple(sorted(learning + reset))

    def part_of(self, module: JointAdapters, name: str) -> nn.Module:
        """Return the environment encoders, the only part that is built."""
        return module.environment_encoders

    def partner(self, pair: Pair, modality: Modality) -> Modality:
        """Return the modality that a side of a pair attends to: the other; itself in the released scheme."""
        if not self.config.part.get("exchanged", True):
            return modality
        first, second = pair
        return second if modality is first else first

    def build(self) -> JointAdapters:
        """Return the environment encoders of `part`, and the finished denoisers that attend to partners."""
        learning, reset = adapted(self.config.model, self.attending, self.options.joint_config is not None)
        found = {}
        for name in learning + reset:
            found[name] = load_part(component_class(name), self.config.model / name, f"train {name} first")
        denoisers = {}
        for name, part in found.items():
            denoisers[name] = add_joint_adapters(part, self.options.joint_config, self.options.adapters)
        pairs = []
        for pair in self.pairs:
            pairs.append(sorted(m.value for m in pair))
        environments = self.encoders(pairs)
        for modality, encoder in environments.by_modality().items():
            encoder.requires_grad_(modality in self.taught)
        timed = sorted(self.timed())
        contrast = None
        if self.options.contrast and timed:
            more = {} if self.options.hard_negatives else {"shifts": ()}
            contrast = TimedContrast(timed, environments.config.dim, **more)
        decoders = self.decoders() if self.options.temporal_change else None
        return JointAdapters(environments, denoisers, contrast, decoders, learning)

    def decoders(self) -> TemporalChangeDecoder:
        """Return the decoders of the temporal-change loss.

        There is one for each modality in time that attends to another in time. Raises `InputError` where
        there is none.
        """
        timed: set[Modality] = set()
        for pair in self.pairs:
            if self.in_time(pair):
                timed |= set(self.attending[pair])
        if not timed:
            raise InputError(
                f"options: temporal_change is {self.options.temporal_change:g}: expected 0, or a pair in "
                "time such as audio+video"
            )
        part = self.config.part
        width = self.prompts[next(iter(self.pairs))].text.dim
        rates = {m: part["latents"][m.value]["latent_rate"] for m in sorted(timed)}
        return TemporalChangeDecoder(rates, part["dim"], width)

    def encoders(self, pairs: list[list[str]]) -> EnvironmentEncoders:
        """Return new environment encoders, or with `continue_from` those in the model folder.

        Args:
            pairs: the pairs of the run, which those in the folder get beside the ones they know.

        Returns:
            The encoders, all of which train.

        Raises:
            InputError: if those in the folder were built with other arguments.
        """
        fresh = EnvironmentEncoders(**self.config.part, pairs=pairs)
        if not self.options.continue_from:
            return fresh
        found = load_part(
            EnvironmentEncoders,
            self.config.model / "environment_encoders",
            "train a first pair without continue_from",
        )
        # other sizes could not take up the weights; pairs may be added
        changed = []
        for name, value in strip(fresh.config).items():
            if name != "pairs" and value != found.config.get(name):
                changed.append(name)
        if changed:
            raise InputError(
                f"options: continue_from: the encoders there differ in {', '.join(changed)}: expected the "
                "same `part`"
            )
        all_pairs = set(map(tuple, [*(found.config.pairs or []), *pairs]))
        found.register_to_config(pairs=sorted(all_pairs))
        return found.requires_grad_(True)

    def in_time(self, pair: Pair) -> bool:
        """Return whether both sides of a pair run in time."""
        return all(self.config.part["latents"][m.value]["latent_rate"] is not None for m in pair)

    def timed(self) -> set[Modality]:
        """Return the modalities of all pairs that are in time."""
        found: set[Modality] = set()
        for pair in self.pairs:
            if self.in_time(pair):
                found |= set(pair)
        return found

    def to(self, device: torch.device) -> None:
        """Move the frozen parts that prompts and partner estimates need to `device`."""
        for prompts in self.prompts.values():
            prompts.to(device)
        for part in (self.sentences, self.noisy_latent_encoders):
            if part is not None:
                part.to(device)
        self.device = device

    def encodings(self) -> list[Encoding]:
        """Return what is needed of media files: latents and prompt tokens of every pair."""
        return [self.encoding(pair) for pair in self.pairs]

    def encoding(self, pair: Pair) -> Encoding:
        """Return what is needed of the media files of one pair.

        Captions are read as prompts, and where text is a side.
        """
        media = tuple(m for m in pair if not in_words(m))
        readers = self.prompts[pair].readers
        if any(map(in_words, pair)):
            readers = (*readers, self.sentences)
        return Encoding(self.config, media, media, known_geometry(self.config.model), readers)

    def data(self) -> "PairSource":
        """Return a source of cached latents and prompt tokens of every pair, of scenes or of media files."""
        # further clips for the contrast, which pairs without time have no use for
        more = 1 + self.options.contrast_share if self.options.contrast else 1
        sources: dict[Pair, Any] = {}
        shares = {}
        for pair, share in self.pairs.items():
            if self.config.data:
                sources[pair] = self.encoding(pair).open(self.device, say)
            else:
                sources[pair] = self.scenes_of(pair)
            shares[pair] = share * (more if self.in_time(pair) else 1)
        return PairSource(sources, shares)

    def scenes_of(self, pair: Pair) -> Joined:
        """Return a source of the cached latents and prompt tokens of scenes, for one pair."""
        model = self.config.model
        seed = self.config.seed
        count = self.options.scenes
        sources = []
        for modality in pair:
            if not in_words(modality):
                sources.append(latents_of(model, modality, count, seed))
                sources.append(tokens_of(model, modality, count, seed))
        return Joined(sources)

    def contrast(
        self, module: JointAdapters, pair: Pair, clean: list[Tensor], generator: torch.Generator
    ) -> Tensor:
        """Return the contrast of the environments of both sides, at little noise.

        Args:
            module: the environment encoders and the contrast.
            pair: a pair in time.
            clean: the clean latents of both sides, (B, C, S, ...) with S steps along time.
            generator: the source of all draws.

        Returns:
            A scalar.
        """
        most = self.process.num_train_timesteps // 4
        t = torch.randint(most, (len(clean[0]),), generator=generator, device=generator.device)
        noisy = []
        for x_0 in clean:
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            noisy.append(self.process.add_noise(x_0, eps, t))
        encoders = module.environment_encoders.by_modality()
        environments = tuple(encoders[m](x_t, t) for m, x_t in zip(pair, noisy))
        along_time = clean[0].transpose(1, 2).flatten(2)  # (B, steps, features)
        return module.contrast(pair, environments, along_time).mean()

    def pair_loss(
        self,
        module: JointAdapters,
        pair: Pair,
        batch: Batch,
        clean: list[Tensor],
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses of one pair.

        Args:
            module: the environment encoders and the denoisers.
            pair: the pair.
            batch: its samples.
            clean: the clean latents of both sides, (B, ...).
            generator: the source of all draws.

        Returns:
            The mean losses by name, and values for the log. The losses are of each side that learns, over the
            samples in which it is not the clean one; the log has their mean over those samples in which its
            partner is clean.
        """
        times, is_clean = self.draw_times(pair, len(clean[0]), generator)
        context = self.prompts[pair].tokens(batch, generator)
        encoders = module.environment_encoders.by_modality()
        noises = []
        noisy = []
        targets = []
        environments = []
        for modality, x_0, t, keep in zip(pair, clean, times, is_clean):
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            noises.append(eps)
            shape = (-1, *[1] * (x_0.ndim - 1))
            noisy.append(torch.where(keep.view(shape), x_0, self.process.add_noise(x_0, eps, t)))
            targets.append(self.process.target(x_0, eps, t))
            environment = None
            if modality in self.attended:
                environment = encoders[modality](noisy[-1], torch.where(keep, 0, t))
            environments.append(environment)
        losses = {}
        logged = {}
        for side, modality in enumerate(pair):
            rows = (~is_clean[side]).nonzero().flatten()  # a clean side has nothing to denoise
            if modality not in self.attending[pair] or not len(rows):
                continue
            env = environments[pair.index(self.partner(pair, modality))]
            env = Environment(tokens=env.tokens[rows], times=env.times[rows])
            name = f"{'+'.join(pair)}/{modality}"
            mask = latent_mask(batch, modality, clean[side][rows], rows)
            if module.temporal_change is not None and self.in_time(pair):
                change = module.temporal_change(modality, clean[side][rows], env, context[rows], mask=mask)
                losses[f"{name}, temporal change"] = self.options.temporal_change * change.mean()
            if self.options.only_temporal_change:
                continue
            prompt = self.partner_estimates(pair, modality, context, noises, noisy, times, is_clean)[rows]
            output = module.denoiser(modality)(noisy[side][rows], times[side][rows], prompt, partners=env)
            each = denoising_loss(output, targets[side][rows], mask)
            losses[name] = each.mean()
            if (beside := is_clean[1 - side][rows]).any():
                logged[f"{name}, partner clean"] = each.detach()[beside].mean()
        return losses, logged

    @torch.no_grad()
    def partner_estimates(
        self,
        pair: Pair,
        modality: Modality,
        context: Tensor,
        noises: list[Tensor],
        noisy: list[Tensor],
        times: Any,
        is_clean: Any,
    ) -> Tensor:
        """Return the prompts fused with the partner estimate, as in sampling.

        In a model without noisy-latent encoders the prompts stay as they are.

        Args:
            pair: the pair.
            modality: the side whose denoiser gets the prompts.
            context: the prompts, (B, L, D).
            noises: the noise of both sides, (B, ...).
            noisy: the noisy latents of both sides, (B, ...).
            times: the timesteps of both sides, (B,).
            is_clean: which samples of each side are clean, (B,).

        Returns:
            (B, L, D).
        """
        if self.noisy_latent_encoders is None or self.estimate_weight <= 0:
            return context
        other = 1 - pair.index(modality)
        encoder = self.noisy_latent_encoders.by_modality()[pair[other]]
        clean = is_clean[other]
        eps = noises[other]
        x_t = noisy[other]
        t = torch.where(clean, 0, times[other])
        return estimated_prompt(encoder, self.process, context, eps, x_t, t, self.estimate_weight, clean)

    def dummy_batch(self, module: JointAdapters, count: int) -> dict[str, dict[Modality, Tensor]]:
        """Return latents of both sides of every pair; a pair's share says how many samples it has."""
        encoders = module.environment_encoders.by_modality()
        batch = {}
        for pair, share in self.pairs.items():
            rows = max(1, round(count * share))
            batch["+".join(pair)] = {m: empty(rows, *encoders[m].latent_shape) for m in pair}
        return batch

    def dry_pass(self, module: JointAdapters, batch: dict[str, dict[Modality, Tensor]]) -> None:
        """Run every denoiser that learns, attending to its partner."""
        encoders = module.environment_encoders.by_modality()
        for pair in self.pairs:
            latents = batch["+".join(pair)]
            for modality in self.attending[pair]:
                x = latents[modality]
                partner = self.partner(pair, modality)
                times = whole_numbers(len(x))
                denoiser = module.denoiser(modality)
                environment = encoders[partner](latents[partner], times)
                denoiser(x, times, empty(len(x), 1, denoiser.config.context_dim), partners=environment)

    @torch.no_grad()
    def latents(self, modality: Modality, batch: Batch) -> Tensor:
        """Return the normalised latents (B, ...) of one side; sentences of scenes are the canonical ones."""
        if not in_words(modality):
            return batch[modality.value]
        return self.sentences.encode(batch.captions())

    def draw_times(
        self, pair: Pair, count: int, generator: torch.Generator
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Draw the timesteps of both sides, and the samples in which a side is clean.

        Args:
            pair: the pair.
            count: the number of samples B.
            generator: the source of the draws.

        Returns:
            The timesteps (B,) of each side, and booleans (B,) of each side that say where it is clean
            instead. Where both sides learn either is clean in half of these samples; a side that alone learns
            is never clean.
        """
        total = self.process.num_train_timesteps
        shift = self.shifts.get(pair, 1.0)
        first = spread_timesteps(count, total, generator, shift)
        second = spread_timesteps(count, total, generator, shift)
        return self.options.mixed(pair, self.attending[pair], (first, second), generator)

    @torch.no_grad()
    def preview(self, module: JointAdapters, folder: Path) -> None:
        """Write joint samples of each pair for fixed captions."""
        from training.stages.denoise import PREVIEW
        from training.stages.samples import write_samples

        for pair in self.pairs:
            place = folder / "+".join(pair)
            place.mkdir(exist_ok=True)
            denoisers = {}
            for modality in pair:
                name = DENOISERS[modality]
                if name in module.denoisers:
                    denoisers[modality] = module.denoiser(modality)
                else:  # a side that does not learn still has to be sampled, by the one in the model folder
                    other = load_part(component_class(name), self.config.model / name, "")
                    denoisers[modality] = other.to(self.device)
            captions = self.options.preview_captions or captions_of(self.config, PREVIEW)
            write_samples(
                self.config.model,
                denoisers,
                captions,
                place,
                module.environment_encoders,
                probe=not self.config.data,
            )

    def export(self, module: JointAdapters, folder: Path) -> None:
        """Write the environment encoders, and the denoisers with their joint attention."""
        if self.options.into is not None:
            copy_model(folder, self.options.into, but=module.denoisers)
            folder = self.options.into
        # adapters that started anew know no other encoders: those in the folder are not kept then
        place = folder / "environment_encoders"
        encoders = module.environment_encoders
        if self.options.joint_config is None:
            encoders = with_others(encoders, self.attended, place)
        export_part(encoders, place)
        for name, denoiser in module.denoisers.items():
            export_part(denoiser, folder / name)
