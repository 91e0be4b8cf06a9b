"""Joint stage: environment encoders and joint attention on pairs of modalities; everything else is frozen (CoDi, section 3.4).

The paper trains its pairs one after another. Here they share a run, because one denoiser makes both pictures and clips: trained in turn,
the last pair would overwrite what the first had taught its adapters. Three modalities of one scene are still never seen together.
B batch; a pair is two modalities (a, b) of the same scenes.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi.diffusion import NoiseProcess
from codi.diffusion.losses import denoising_loss
from codi.models.autoencoders import TextAutoencoder
from codi.models.codi import DENOISERS
from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.models.joint import EnvironmentEncoders
from codi.protocols import Environment
from codi.types import InputError, Modality
from data.world import PAIRS
from training.config import Config, strict
from training.stages.common import export_part, load_part, say
from training.stages.contrast import TimedContrast
from training.stages.denoise import Prompts, load_scheduler, spread_timesteps
from training.stages.files import close, known_geometry, whole_captions
from training.stages.latents import Encoding, Joined, autoencoder_of, latents_of, tokens_of, tower_of

CLASSES = {"text_denoiser": TextDenoiser, "vision_denoiser": UNetDenoiser, "audio_denoiser": UNetDenoiser}


@dataclass(frozen=True, kw_only=True)
class JointOptions:
    """pairs          "audio+video" -> its share of the batch size, for example 1.0
    scenes         size of the latent caches
    shared, independent, clean   shares of samples whose two sides have one timestep, two, or one side clean (either, half each)
    prompts        "audio+video" -> of which side the prompt is made, by shares; of both alike for a pair that is not named
    prompt_dropout "audio+video" -> share of samples without a prompt (0.3 if not named): what a prompt leaves open is what partners must
                   agree on. Without a prompt the loss is several times as large, and a few such samples drown what is to be learned of time
    prompt_noise   as in the denoise stages
    timestep_shift "audio+video" -> its `spread_timesteps` shift; 1 for a pair that is not named. The denoisers' own is right: below the
                   noise at which a latent is decided there is nothing to learn from a partner
    contrast       weight of the contrast between environments of pairs in which both run in time, 0 for none
    contrast_share further clips for it, for each clip that is denoised
    hard_negatives clips moved in time are among the wrong partners
    continue_from  start from the environment encoders in the model folder too: for pairs that are trained one after another
    joint_config   laid over the denoisers' `joint_config`; the adapters start anew
    into           folder that gets the result and a copy of all other parts; by default the result goes into the model folder
    """

    pairs: dict[str, float]
    scenes: int = 8192
    shared: float = 0.5
    independent: float = 0.15
    clean: float = 0.35
    prompts: dict[str, dict[str, float]] = field(default_factory=dict)
    prompt_dropout: dict[str, float] = field(default_factory=dict)
    prompt_noise: float = 0.3
    timestep_shift: dict[str, float] = field(default_factory=dict)
    contrast: float = 0.0
    contrast_share: float = 3.0
    hard_negatives: bool = True
    continue_from: bool = False
    joint_config: dict[str, Any] | None = None
    into: Path | None = None
    preview_captions: list[str] | None = None


def parse_pair(name: str) -> tuple[Modality, Modality]:
    """ "audio+video" -> its modalities. Raises `InputError` for a pair that training may not see."""
    pair = tuple(Modality.parse(part) for part in name.split("+"))
    if len(pair) != 2 or set(pair) not in PAIRS:
        raise InputError(f"options: pairs names {name!r}: expected two modalities that training may see together, such as audio+video")
    return pair


class Listeners(nn.Module):
    """Environment encoders, and the denoisers of which only the joint attention trains."""

    def __init__(self, environments: EnvironmentEncoders, denoisers: dict[str, nn.Module], contrast: TimedContrast | None = None):
        super().__init__()
        self.environments, self.denoisers, self.contrast = environments, nn.ModuleDict(denoisers), contrast
        self.denoisers.requires_grad_(False)
        for name, parameter in self.denoisers.named_parameters():
            parameter.requires_grad_(".joint." in name)

    def denoiser(self, modality: Modality) -> nn.Module:
        """The denoiser that makes a modality."""
        return self.denoisers[DENOISERS[modality]]


class JointStage:
    """All pairs of the run in every step."""

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(JointOptions, config.options, where="options")
        self.pairs = {parse_pair(name): share for name, share in self.options.pairs.items()}
        self.shifts, sides, dropout = (self.by_pair(name) for name in ("timestep_shift", "prompts", "prompt_dropout"))
        self.process = NoiseProcess.from_scheduler(load_scheduler(config.model))
        tower, noise = tower_of(config.model, Modality.TEXT), self.options.prompt_noise
        self.prompts = {
            pair: Prompts(tower, sides.get(pair, {m.value: 0.5 for m in pair}), noise, dropout.get(pair, 0.3)) for pair in self.pairs
        }
        texts = any(Modality.TEXT in pair for pair in self.pairs)
        self.sentences: TextAutoencoder | None = autoencoder_of(config.model, Modality.TEXT) if texts else None

    def by_pair(self, name: str) -> dict[tuple[Modality, Modality], Any]:
        """An option that says something of each pair. Raises `InputError` for one that does not train."""
        values = {parse_pair(pair): value for pair, value in getattr(self.options, name).items()}
        if strangers := values.keys() - self.pairs.keys():
            raise InputError(f"options: {name} names {'+'.join(strangers.pop())}: expected one of pairs, {', '.join(self.options.pairs)}")
        return values

    def build(self) -> Listeners:
        """Encoders of `part`, and the finished denoisers of all modalities in the pairs."""
        names = dict.fromkeys(DENOISERS[m] for pair in self.pairs for m in pair)
        denoisers = {n: self.listener(load_part(CLASSES[n], self.config.model / n, f"train {n} first")) for n in names}
        environments = self.encoders([sorted(m.value for m in pair) for pair in self.pairs])
        timed = sorted({m for pair in self.pairs if self.in_time(pair) for m in pair})
        contrast = None
        if self.options.contrast and timed:
            more = {} if self.options.hard_negatives else {"shifts": ()}
            contrast = TimedContrast(timed, environments.config.dim, **more)
        return Listeners(environments, denoisers, contrast)

    def encoders(self, pairs: list[list[str]]) -> EnvironmentEncoders:
        """New ones, or those in the model folder with these pairs beside the ones they know."""
        fresh = EnvironmentEncoders(**self.config.part, pairs=pairs)
        if not self.options.continue_from:
            return fresh
        found = load_part(EnvironmentEncoders, self.config.model / "environments", "train a first pair without continue_from")
        changed = [n for n, value in fresh.config.items() if n != "pairs" and not n.startswith("_") and value != found.config.get(n)]
        if changed:
            raise InputError(f"options: continue_from: the encoders there differ in {', '.join(changed)}: expected the same `part`")
        found.register_to_config(pairs=sorted({tuple(pair) for pair in [*(found.config.pairs or []), *pairs]}))
        return found.requires_grad_(True)

    def listener(self, denoiser: nn.Module) -> nn.Module:
        """The denoiser, with new adapters of `joint_config` if the options hold one."""
        if self.options.joint_config is None:
            return denoiser
        config = {**denoiser.config, "joint_config": {**(denoiser.config.joint_config or {}), **self.options.joint_config}}
        config.pop("_use_default_values", None)  # names that from_config would set back
        fresh = type(denoiser).from_config(config)
        known = {name: tensor for name, tensor in denoiser.state_dict().items() if ".joint." not in name}
        missing, unexpected = fresh.load_state_dict(known, strict=False)
        assert not unexpected and all(".joint." in name for name in missing), (missing, unexpected)
        return fresh.eval()

    def in_time(self, pair: tuple[Modality, Modality]) -> bool:
        """Both run in time."""
        return all(self.config.part["latents"][m.value]["latent_rate"] is not None for m in pair)

    def to(self, device: torch.device) -> None:
        for prompts in self.prompts.values():
            prompts.to(device)
        if self.sentences is not None:
            self.sentences.to(device)
        self.device = device

    def encodings(self) -> list[Encoding]:
        """What is needed of media files: latents and prompt tokens of every pair."""
        media = [tuple(m for m in pair if m is not Modality.TEXT) for pair in self.pairs]
        return [Encoding(self.config, some, some, known_geometry(self.config.model)) for some in media]

    def data(self) -> "PairSource":
        """Cached latents and prompt tokens of every pair, of scenes or of media files."""
        if self.config.data:
            sources = dict(zip(self.pairs, (encoding.open(self.device, say) for encoding in self.encodings())))
        else:
            sources = {pair: self.scenes_of(pair) for pair in self.pairs}
        more = 1 + self.options.contrast_share if self.options.contrast else 1
        return PairSource(sources, {pair: share * (more if self.in_time(pair) else 1) for pair, share in self.pairs.items()})

    def scenes_of(self, pair: tuple[Modality, Modality]) -> Joined:
        """Cached latents and prompt tokens of scenes."""
        model, seed, count = self.config.model, self.config.seed, self.options.scenes
        media = [m for m in pair if m is not Modality.TEXT]
        return Joined([make(model, m, count, seed) for m in media for make in (latents_of, tokens_of)])

    def loss(self, module: Listeners, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        total, extras = torch.zeros((), device=generator.device), {}
        for pair in self.pairs:
            name = "+".join(pair)
            part = batch[name]
            clean = [self.latents(modality, part) for modality in pair]
            if module.contrast is not None and self.in_time(pair):
                contrast = self.contrast(module, pair, clean, generator)
                total, extras[f"{name}/contrast"] = total + self.options.contrast * contrast, contrast.detach()
                count = max(1, round(len(clean[0]) / (1 + self.options.contrast_share)))
                part, clean = first_samples(part, count), [x_0[:count] for x_0 in clean]
            losses, heard = self.pair_loss(module, pair, part, clean, generator)
            extras |= {f"{name}/{modality}": loss.detach() for modality, loss in zip(pair, losses)} | heard
            total = total + sum(losses)
        return total, extras

    def contrast(self, module: Listeners, pair: tuple[Modality, Modality], clean: list[Tensor], generator: torch.Generator) -> Tensor:
        """Contrast of the environments of both sides, at little noise."""
        t = torch.randint(self.process.num_train_timesteps // 4, (len(clean[0]),), generator=generator, device=generator.device)
        noisy = [self.process.add_noise(x_0, torch.randn(x_0.shape, generator=generator, device=x_0.device), t) for x_0 in clean]
        environments = tuple(module.environments.by_modality()[m](x_t, t) for m, x_t in zip(pair, noisy))
        along_time = clean[0].transpose(1, 2).flatten(2)  # (B, steps, features)
        return module.contrast(pair, environments, along_time).mean()

    def pair_loss(
        self,
        module: Listeners,
        pair: tuple[Modality, Modality],
        batch: dict[str, Any],
        clean: list[Tensor],
        generator: torch.Generator,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The mean loss of each side over the samples in which it is not the clean one; for the log, over those in which its partner is."""
        times, is_clean = self.draw_times(len(clean[0]), generator, self.shifts.get(pair, 1.0))
        context = self.prompts[pair].tokens(batch, generator)
        noisy, targets, environments = [], [], []
        for modality, x_0, t, keep in zip(pair, clean, times, is_clean):
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            shape = (-1, *[1] * (x_0.ndim - 1))
            noisy.append(torch.where(keep.view(shape), x_0, self.process.add_noise(x_0, eps, t)))
            targets.append(self.process.target(x_0, eps, t))
            environments.append(module.environments.by_modality()[modality](noisy[-1], torch.where(keep, 0, t)))
        losses, heard = [], {}
        for side, modality in enumerate(pair):
            env = environments[1 - side if module.environments.config.exchanged else side]
            rows = (~is_clean[side]).nonzero().flatten()  # a clean side is heard, there is nothing to denoise
            if not len(rows):
                losses.append(clean[side].new_zeros(()))
                continue
            env = Environment(tokens=env.tokens[rows], times=env.times[rows])
            output = module.denoiser(modality)(noisy[side][rows], times[side][rows], context[rows], env=env)
            each = denoising_loss(output, targets[side][rows])
            losses.append(each.mean())
            if (beside := is_clean[1 - side][rows]).any():
                heard[f"{'+'.join(pair)}/{modality}, partner clean"] = each.detach()[beside].mean()
        return losses, heard

    @torch.no_grad()
    def latents(self, modality: Modality, batch: dict[str, Any]) -> Tensor:
        """Normalised latents of one side; sentences of scenes are the canonical ones."""
        if modality is not Modality.TEXT:
            return batch[modality.value]
        return self.sentences.encode(whole_captions(batch))

    def draw_times(self, count: int, generator: torch.Generator, shift: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Timesteps of both sides (B,), and which of them are clean (B,) instead."""
        device, total = generator.device, self.process.num_train_timesteps
        first, second = (spread_timesteps(count, total, generator, shift) for _ in range(2))
        kind = torch.rand(count, generator=generator, device=device) * (self.options.shared + self.options.independent + self.options.clean)
        second = torch.where(kind < self.options.shared, first, second)
        edge = self.options.shared + self.options.independent
        return (first, second), ((kind >= edge) & (kind < edge + self.options.clean / 2), kind >= edge + self.options.clean / 2)

    @torch.no_grad()
    def preview(self, module: Listeners, folder: Path) -> None:
        """Joint samples of each pair for fixed captions."""
        from training.stages.denoise import PREVIEW
        from training.stages.samples import write_samples

        for pair in self.pairs:
            place = folder / "+".join(pair)
            place.mkdir(exist_ok=True)
            denoisers = {m: module.denoiser(m) for m in pair}
            captions = self.options.preview_captions or PREVIEW
            write_samples(self.config.model, denoisers, captions, place, module.environments, probe=not self.config.data)

    def export(self, module: Listeners, folder: Path) -> None:
        """Writes the encoders, and the denoisers with their joint attention."""
        if self.options.into is not None:
            shutil.copytree(folder, self.options.into, dirs_exist_ok=True)
            folder = self.options.into
        export_part(module.environments, folder / "environments")
        for name, denoiser in module.denoisers.items():
            export_part(denoiser, folder / name)


class PairSource:
    """One batch of every pair, each as large as its share says."""

    infinite = True

    def __init__(self, sources: dict[tuple[Modality, Modality], Any], shares: dict[tuple[Modality, Modality], float]):
        self.sources, self.shares = sources, shares

    def __len__(self) -> int:
        return min(map(len, self.sources.values()))

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """{"audio+video": batch, ...}; a pair with a share over one takes the indices that follow."""
        return {"+".join(pair): source.fetch(_stretched(indices, self.shares[pair])) for pair, source in self.sources.items()}

    @property
    def bad(self) -> int:
        """Bad samples met so far."""
        return sum(getattr(source, "bad", 0) for source in self.sources.values())

    def close(self) -> None:
        """Ends what the sources have running."""
        for source in self.sources.values():
            close(source)


def first_samples(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """The first `count` samples of every list and tensor of a batch."""
    return {name: value[:count] for name, value in batch.items()}


def _stretched(indices: list[int], share: float) -> list[int]:
    """About len(indices) * share indices, disjoint from those of the neighbouring batches."""
    count = max(1, round(len(indices) * share))
    start = round(indices[0] * share)
    return list(range(start, start + count))
