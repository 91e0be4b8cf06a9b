"""The joint stage of composed models: published networks stay frozen, and what joins them learns.

Trained are environment encoders of the foreign latents and joint adapters in the foreign networks
(`codi.compose`). Each network keeps its own schedule and its own target; the noise levels of two sides are
drawn on the one scale that all schedules share (`codi.diffusion.levels`). Prompts are sentences, as the
pipelines themselves encode them; without one the prompt is the empty sentence.

Letters: B batch. A pair is two modalities (a, b) of the same samples; each is a side of it.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from codi.compose.environment import ForeignEnvironmentEncoders
from codi.compose.foreign import ForeignDenoiser, ForeignModel, Prepared
from codi.compose.joint_adapters import ForeignJointAdapters, adapted_network
from codi.conditions import PARTNERS, PROMPT
from codi.diffusion.guidance import Guidance
from codi.diffusion.losses import denoising_loss
from codi.joint.sampler import LEVEL_SCALE, JointSampler
from codi.metrics.onsets import onset_f1
from codi.modalities import kind_of
from codi.protocols import Environment
from codi.types import InputError, Modality
from codi.world import ATTRIBUTES, caption
from data.batch import Batch
from data.world import WorldSource, prompted_facts
from training.config import Config, expect, strict
from training.dry_run import empty
from training.stages.contrast import TimedContrast
from training.stages.foreign import NativePrompts, encoder_of
from training.stages.latents import Encoding, as_unit
from training.stages.new_model import spread_angles
from training.stages.padding import grid_mask
from training.stages.pairs import Pair, PairOptions, PairSource, PairStage, parse_pair, rule_of
from training.stages.published import Published, check_sources, continued, export_parts
from training.stages.temporal_change import TemporalChangeDecoder

PARTS = ("environment_encoders", "joint_adapters")
PREVIEW_SEED = 987  # of the scenes of previews, which training does not see
TOLERANCES = (0.05, 0.125)  # seconds


@dataclass(frozen=True, kw_only=True)
class ComposedJointOptions(PairOptions):
    """Options of the joint stage of composed models, beside those of `PairOptions`.

    Attributes:
        sources: the folder of each published pipeline, by what it makes. Without any they are those of the
            model folder, which is then a composed model (`codi compose`).
        calls: by modality the arguments of every call of its pipeline, as it names them, such as
            {"video": {"num_frames": 16, "fps": 8}}, laid over those of a composed model. What is made at
            another size later is learned less well.
        full_captions: the share of prompts of scenes that name everything.
        preview_samples: how many samples a preview makes of each side that learns.
        preview_steps: the steps of a preview.
        preview_guidance: how closely previews follow their partners; 1 is off.
    """

    sources: dict[str, Path] = field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    full_captions: float = 0.5
    preview_samples: int = 24
    preview_steps: int = 25
    preview_guidance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = {name.strip() for pair in self.pairs for name in pair.split("+")}
        check_sources(self.sources, self.calls, sides)
        for name in ("preview_samples", "preview_steps"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


class ComposedJoint(nn.Module):
    """What trains, and what is thrown away afterwards.

    Args:
        environment_encoders: the environment encoders.
        joint_adapters: the joint adapters.
        contrast: the contrast between environments, or None.
        temporal_change: the decoders of the temporal-change loss, or None.
    """

    def __init__(
        self,
        environment_encoders: ForeignEnvironmentEncoders,
        joint_adapters: ForeignJointAdapters,
        contrast: TimedContrast | None,
        temporal_change: TemporalChangeDecoder | None,
    ):
        super().__init__()
        self.environment_encoders = environment_encoders
        self.joint_adapters = joint_adapters
        self.contrast = contrast
        self.temporal_change = temporal_change


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a pair in a batch.

    Attributes:
        modality: what it is.
        x_0: (B, ...) clean latents.
        eps: (B, ...) the noise.
        t: (B,) timesteps as the network's schedule calls them.
        angle: (B,) their noise levels.
        clean: (B,) which samples are clean instead.
    """

    modality: Modality
    x_0: Tensor
    eps: Tensor
    t: Tensor
    angle: Tensor
    clean: Tensor


class ComposedJointStage(PairStage):
    """The stage that trains all pairs of a composed model in every step."""

    identity = ("attending", "sources", "calls")

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(ComposedJointOptions, config.options, where="options")
        unknown = {*config.part} - {*PARTS}
        expect(not unknown, "part", sorted(config.part), f"sections {' and '.join(PARTS)}")
        rule = rule_of(config)
        self.pairs = {parse_pair(name, rule): share for name, share in self.options.pairs.items()}
        self.attending = self.options.attending_by_pair(rule)
        self.dropout = self.options.by_pair("prompt_dropout", rule)
        self.shifts = self.options.by_pair("timestep_shift", rule)

    def with_data(self, data: dict[str, Any]) -> Any:
        """Return this stage over other samples, as its published models are."""
        other: Any = super().with_data(data)
        other.published = replace(self.published, config=other.config)
        return other

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the parts that a run makes."""
        return PARTS

    # Frozen parts -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the published models, and let each of their pipelines prepare one call."""
        options = self.options
        self.published = Published.open(self.config, self.modalities(), options.sources, options.calls)
        self.models: dict[Modality, ForeignModel] = self.published.models
        self.prepared: dict[Modality, Prepared] = self.published.prepared
        if self.config.gradient_checkpointing:
            for model in self.models.values():
                model.network.enable_gradient_checkpointing()
        self.prompts = {m: NativePrompts(model) for m, model in self.models.items()}

    def modalities(self) -> list[Modality]:
        """Return all sides of all pairs, in order."""
        sides = {m for pair in self.pairs for m in pair}
        return [m for m in Modality if m in sides]

    def learners(self) -> list[Modality]:
        """Return the sides whose networks learn to attend to another."""
        sides = {m for attending in self.attending.values() for m in attending}
        return [m for m in self.modalities() if m in sides]

    def to(self, device: torch.device) -> None:
        """Move the published models to `device`."""
        self.published.to(device)
        self.device = device

    # What trains ---------------------------------------------------------------------------------------

    def build(self) -> ComposedJoint:
        """Return new adapters and encoders, or with `continue_from` those in the model folder."""
        pairs = [sorted(m.value for m in pair) for pair in self.pairs]
        encoders, adapters = self.encoders(pairs), self.adapters(pairs)
        if adapters.config["env_dim"] != encoders.config["dim"]:
            raise InputError(
                f"part: joint_adapters have an env_dim of {adapters.config['env_dim']} and "
                f"environment_encoders a dim of {encoders.config['dim']}: expected one number"
            )
        self.denoisers = {}
        for modality, model in self.models.items():
            adapters.attach(modality, model.network)
            prepared = self.prepared[modality]
            form = model.form(False, prepared.call)
            self.denoisers[modality] = ForeignDenoiser(model, form, adapters, prepared.grid)
        timed = self.timed()
        contrast = None
        if self.options.contrast and timed:
            more: dict[str, Any] = {} if self.options.hard_negatives else {"shifts": ()}
            contrast = TimedContrast(sorted(timed), encoders.config["dim"], **more)
        decoders = None
        if self.options.temporal_change:
            learning = [m for m in self.learners() if m in timed]
            fine = bool(learning)
            expect(
                fine,
                "temporal_change",
                self.options.temporal_change,
                "0, or a pair in time such as audio+video",
            )
            decoders = TemporalChangeDecoder(dict.fromkeys(learning, 1.0), encoders.config["dim"], 1)
        return ComposedJoint(encoders, adapters, contrast, decoders)

    def encoders(self, pairs: list[list[str]]) -> ForeignEnvironmentEncoders:
        """Return the environment encoders of all sides."""
        part = self.config.part.get("environment_encoders", {})
        latents = self.published.latents(part.get("latents", {}))
        fresh = ForeignEnvironmentEncoders(**{**part, "latents": latents}, pairs=pairs)
        return self.continued(fresh, "environment_encoders")

    def adapters(self, pairs: list[list[str]]) -> ForeignJointAdapters:
        """Return the joint adapters of those sides that learn to attend."""
        networks = {}
        for modality in self.learners():
            model, prepared = self.models[modality], self.prepared[modality]
            plain = ForeignDenoiser(model, model.form(False, prepared.call))
            networks[modality.value] = adapted_network(plain.blocks(prepared), prepared.grid)
        part = self.config.part.get("joint_adapters", {})
        dim = self.config.part.get("environment_encoders", {}).get("dim")
        own = {} if dim is None else {"env_dim": dim}
        fresh = ForeignJointAdapters(networks, **{**own, **part}, pairs=pairs)
        return self.continued(fresh, "joint_adapters")

    def continued(self, fresh: Any, name: str) -> Any:
        """Return a new part, with the weights of that in the model folder where the run continues from it."""
        folder = self.config.model / name
        return continued(fresh, folder) if self.options.continue_from and folder.is_dir() else fresh

    def part_of(self, module: nn.Module, name: str) -> nn.Module:
        """Return the environment encoders or the joint adapters."""
        return getattr(module, name)

    def in_time(self, pair: Pair) -> bool:
        """Return whether both sides of a pair run in time."""
        return all(self.prepared[m].grid.seconds is not None for m in pair)

    def timed(self) -> set[Modality]:
        """Return the modalities of all pairs that are in time."""
        return {m for pair in self.pairs if self.in_time(pair) for m in pair}

    # Data ----------------------------------------------------------------------------------------------

    def encodings(self) -> list[Encoding]:
        """Return what is needed of media files: latents of both sides of every pair, and captions."""
        return [self.published.encoding(pair) for pair in self.pairs]

    def data(self) -> PairSource:
        """Return a source of cached latents of every pair, of scenes or of media files."""
        # further clips for the contrast, which pairs without time have no use for
        more = 1 + self.options.contrast_share if self.options.contrast else 1
        sources: dict[Pair, Any] = {}
        shares = {}
        for pair, share in self.pairs.items():
            sources[pair] = self.published.data(pair, self.options.scenes, self.device)
            shares[pair] = share * (more if self.in_time(pair) else 1)
        return PairSource(sources, shares)

    # Loss ----------------------------------------------------------------------------------------------

    def latents(self, modality: Modality, batch: Batch) -> Tensor:
        """Return the latents (B, ...) of one side, which the cache holds."""
        return batch[modality.value]

    def contrast(
        self, module: ComposedJoint, pair: Pair, clean: list[Tensor], generator: torch.Generator
    ) -> Tensor:
        """Return the contrast of the environments of both sides, at little noise: a scalar."""
        assert module.contrast is not None
        environments = []
        for modality, x_0 in zip(pair, clean, strict=True):
            angle = 0.25 * torch.rand(len(x_0), generator=generator, device=generator.device)
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            levels = self.models[modality].levels
            x_t = levels.add_noise(x_0, eps, levels.timestep(angle))
            environments.append(self.environment(module, modality, x_t, angle))
        first = self.prepared[pair[0]].grid.to_steps(clean[0])  # (B, C, S, H, W)
        along_time = first.transpose(1, 2).flatten(2)
        return module.contrast(pair, (environments[0], environments[1]), along_time).mean()

    def environment(
        self, module: ComposedJoint, modality: Modality, x_t: Tensor, angle: Tensor
    ) -> Environment:
        """Return the environment of noisy latents (B, ...) at noise levels (B,) in [0, 1]."""
        encoder = module.environment_encoders.by_modality()[modality]
        return encoder.encode(x_t, angle * LEVEL_SCALE, self.prepared[modality].grid)

    def draw_sides(self, pair: Pair, clean: list[Tensor], generator: torch.Generator) -> list[Side]:
        """Draw the noise and the noise levels of both sides."""
        count, shift = len(clean[0]), self.shifts.get(pair, 1.0)
        drawn = (spread_angles(count, generator, shift), spread_angles(count, generator, shift))
        angles, is_clean = self.options.mixed(pair, self.attending[pair], drawn, generator)
        sides = []
        for modality, x_0, angle, keep in zip(pair, clean, angles, is_clean, strict=True):
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            t = self.models[modality].levels.timestep(angle)
            sides.append(Side(modality=modality, x_0=x_0, eps=eps, t=t, angle=angle, clean=keep))
        return sides

    def pair_loss(
        self, module: ComposedJoint, pair: Pair, batch: Batch, clean: list[Tensor], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses of one pair.

        Args:
            module: what trains.
            pair: the pair.
            batch: its samples.
            clean: the clean latents of both sides, (B, ...).
            generator: the source of all draws.

        Returns:
            The mean losses by name, and values for the log. The losses are of each side that learns, over the
            samples in which it is not the clean one; the log has their mean over those samples in which its
            partner is clean.
        """
        sides = self.draw_sides(pair, clean, generator)
        sentences = self.sentences(batch, generator)
        losses: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        for side, other in zip(sides, reversed(sides), strict=True):
            rows = (~side.clean).nonzero().flatten()  # a clean side has nothing to denoise
            if side.modality not in self.attending[pair] or not len(rows):
                continue
            env = self.environment_of(module, other, rows)
            name = f"{'+'.join(pair)}/{side.modality}"
            grid = self.prepared[side.modality].grid
            mask = grid_mask(batch, side.modality, grid, side.x_0[rows], rows)
            if module.temporal_change is not None and self.in_time(pair):
                x_0 = grid.to_steps(side.x_0[rows])
                counted = None if mask is None else grid.to_steps(mask)
                change = module.temporal_change(side.modality, x_0, env, seconds=grid.seconds, mask=counted)
                losses[f"{name}, temporal change"] = self.options.temporal_change * change.mean()
            if self.options.only_temporal_change:
                continue
            dropped = torch.rand(len(sentences), generator=generator, device=generator.device)
            dropped = (dropped < self.dropout.get(pair, 0.3)).cpu()
            texts = ["" if dropped[row] else sentences[row] for row in rows.tolist()]
            each = self.denoising_loss(side, rows, texts, env, mask)
            losses[name] = each.mean()
            if (beside := other.clean[rows]).any():
                logged[f"{name}, partner clean"] = each.detach()[beside].mean()
        return losses, logged

    def environment_of(self, module: ComposedJoint, side: Side, rows: Tensor) -> Environment:
        """Return the environment of some samples of a side, noisy or clean."""
        levels = self.models[side.modality].levels
        x_0, keep = side.x_0[rows], side.clean[rows]
        x_t = levels.add_noise(x_0, side.eps[rows], side.t[rows])
        x_t = torch.where(keep.view(-1, *[1] * (x_0.ndim - 1)), x_0, x_t)
        return self.environment(module, side.modality, x_t, torch.where(keep, 0.0, side.angle[rows]))

    def denoising_loss(
        self, side: Side, rows: Tensor, texts: list[str], env: Environment, mask: Tensor | None = None
    ) -> Tensor:
        """Return the error of a side's network in its own target, for some samples, (len(rows),).

        Where there is a mask, only the latent values count that it holds.
        """
        levels = self.models[side.modality].levels
        x_0, eps, t = side.x_0[rows], side.eps[rows], side.t[rows]
        prompt = self.prompts[side.modality](texts)
        x_t = levels.add_noise(x_0, eps, t).to(prompt.dtype)
        output = self.denoisers[side.modality](x_t, t, prompt, partners=env)
        return denoising_loss(output, levels.target(x_0, eps, t), mask)

    def dummy_batch(self, module: ComposedJoint, count: int) -> dict[str, dict[Modality, Tensor]]:
        """Return latents of both sides of every pair; a pair's share says how many samples it has."""
        batch = {}
        for pair, share in self.pairs.items():
            rows = max(1, round(count * share))
            batch["+".join(pair)] = {m: empty(rows, *self.prepared[m].start.shape[1:]) for m in pair}
        return batch

    def dry_pass(self, module: ComposedJoint, batch: dict[str, dict[Modality, Tensor]]) -> None:
        """Run every network that learns to attend, attending to its partner."""
        for pair in self.pairs:
            latents = batch["+".join(pair)]
            for modality in self.attending[pair]:
                other = next(m for m in pair if m is not modality)
                rows = len(latents[modality])
                env = self.environment(module, other, latents[other], empty(rows))
                denoiser = self.denoisers[modality]
                x = torch.zeros(latents[modality].shape)  # only its shape is looked at
                arguments = denoiser.arguments(x, torch.zeros(rows), self.prompts[modality]([""] * rows))
                arguments = pytree.tree_map_only(Tensor, lambda leaf: leaf.to("meta"), arguments)
                with denoiser.attending(env):
                    self.models[modality].network(**arguments)

    def sentences(self, batch: Batch, generator: torch.Generator) -> list[str]:
        """Return a caption of each sample: of a scene one that names some of its facts."""
        if batch.scenes is None:
            return list(batch["text"])
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        rng = np.random.default_rng(seed)
        sentences = []
        for scene in batch.scenes:
            facts = prompted_facts(tuple(ATTRIBUTES), self.options.full_captions, rng)
            sentences.append(caption(scene, facts, rng))
        return sentences

    # Results -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def preview(self, module: ComposedJoint, folder: Path) -> None:
        """Write how well samples keep time with given clean partners, and with those of others.

        On media files there are no samples that training does not see, and nothing is written.
        """
        if self.config.data:
            return
        scores = {}
        for pair in filter(self.in_time, self.pairs):
            source = WorldSource(pair, seed=PREVIEW_SEED)
            batch = source.fetch(list(range(self.options.preview_samples)))
            latents = encoder_of({m: self.models[m] for m in pair})(batch)
            for modality in self.attending[pair]:
                other = next(m for m in pair if m is not modality)
                if kind_of(modality).has_onsets:
                    scores[f"{modality} from {other}"] = self.timing(module, modality, other, batch, latents)
        (folder / "timing.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")

    def timing(
        self,
        module: ComposedJoint,
        modality: Modality,
        partner: Modality,
        batch: Batch,
        latents: dict[str, Tensor],
    ) -> dict[str, Any]:
        """Return the F1 of onsets in what is made beside clean partners.

        Args:
            module: what trains.
            modality: what is made.
            partner: what is given.
            batch: true media of both.
            latents: their latents.

        Returns:
            By tolerance in milliseconds the F1 against the onsets of the true media, against those of other
            samples, and as a ceiling that of the true media which the model's autoencoder decodes.
        """
        model = self.models[modality]
        given = latents[partner.value].to(self.device)
        made = self.sample(module, modality, partner, given, batch.captions())
        kind, rate = kind_of(modality), model.spec().timed[0]

        def onsets(raw: Tensor) -> list[np.ndarray]:
            return [kind.onsets(one.float(), rate).cpu().numpy() for one in raw]

        found = onsets(model.decode(made))
        true = onsets(as_unit(batch[modality.value]))
        best = onsets(model.decode(latents[modality.value].to(self.device)))
        report = {}
        for tolerance in TOLERANCES:
            report[f"{tolerance * 1000:.0f} ms"] = {
                "f1": round(onset_f1(found, true, tolerance).f1, 3),
                "shuffled": round(onset_f1(found, true[1:] + true[:1], tolerance).f1, 3),
                "ceiling": round(onset_f1(best, true, tolerance).f1, 3),
            }
        return report

    def sample(
        self, module: ComposedJoint, modality: Modality, partner: Modality, given: Tensor, texts: list[str]
    ) -> Tensor:
        """Return latents (B, ...) that are made beside clean partners (B, ...), from B sentences."""
        model = self.models[modality]
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(texts))]
        prepared = model.prepare(texts, None, self.options.preview_steps, generators=generators)
        guided = prepared.null is not None
        grids = {m: self.prepared[m].grid for m in (modality, partner)}
        scales = {PROMPT.name: model.guidance_scale() if guided else 1.0}
        scales[PARTNERS.name] = self.options.preview_guidance
        denoiser = ForeignDenoiser(
            model, model.form(guided, prepared.call), module.joint_adapters, prepared.grid
        )
        sampler = JointSampler(
            denoisers={modality: denoiser},
            schedulers={modality: prepared.scheduler},
            contexts={modality: prepared.prompt},  # type: ignore[dict-item]
            null_contexts={modality: prepared.null} if guided else None,  # type: ignore[dict-item]
            environment_encoders=module.environment_encoders.at(grids),
            attends_to={modality: {partner}},
            guidance={modality: Guidance(scales=scales)},
            generators={modality: generators},
            partners={partner: given},
            levels={m: self.models[m].levels for m in (modality, partner)},
        )
        return sampler.sample({modality: prepared.start})[modality]

    def export(self, module: ComposedJoint, folder: Path) -> None:
        """Write the environment encoders and the joint adapters, and nothing of the published models.

        A composed model lists them in its index.
        """
        export_parts({name: self.part_of(module, name) for name in PARTS}, folder)
