"""The stage of noisy-latent encoders: from a noisy latent and its prompt to the token of its whole caption.

They follow GLIDE's noised CLIP (arXiv 2112.10741). Text is the bridge here as it is between prompts. The
token that a modality's own tower gives would not do: a picture's says nothing of motion, which a partner
cannot tell from the statement that nothing moves. Everything else is frozen; each modality learns by itself,
from files on the rows that have it and a caption, whatever else they lack.
Letters: B batch, D width of the prompt space.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi.diffusion import NoiseProcess
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.modalities import in_words
from codi.models.conditioning import null_prompt
from codi.types import InputError, Modality
from data.batch import Batch
from training.config import Config, expect, strict
from training.dry_run import empty, whole_numbers
from training.engine import to_device
from training.stages import Source, Stage
from training.stages.common import export_part, load_part, planning, say
from training.stages.files import known_geometry
from training.stages.joint_adapters import strip
from training.stages.latents import Encoding, autoencoder_of, joined, latents_of, tokens_of, tower_of
from training.stages.new_model import load_scheduler, spread_timesteps
from training.stages.pairs import PairSource
from training.stages.prompts import Prompts, expect_shares
from training.stages.rows import has_rows, with_partners

PREVIEWED = 64  # samples in the preview, or as many files as there are


@dataclass(frozen=True, kw_only=True)
class NoisyLatentOptions:
    """Options of the stage.

    Attributes:
        prompts: the share of each kind of prompt, such as {"text": 0.7, "image": 0.3}. A medium's encoder
            meets sentences and its own kind among them, that of sentences meets all: training sees no more
            than two media of one sample, and one is the caption to be predicted. A row of files that lacks
            the drawn kind is prompted by its caption.
        scenes: the number of scenes in the latent caches.
        prompt_dropout: the share of samples without a prompt, as in the denoiser stages.
        prompt_noise: the length of the noise that is added to prompt tokens, as in the denoiser stages.
        continue_from: start from the encoders in the model folder.
        timestep_shift: the shift of `spread_timesteps` by modality, such as {"video": 2.0}; 1 for one that is
            not named.
    """

    prompts: dict[str, float] = field(default_factory=lambda: {"text": 1.0})
    scenes: int = 8192
    prompt_dropout: float = 0.1
    prompt_noise: float = 0.1
    continue_from: bool = False
    timestep_shift: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expect_shares(self.prompts)
        expect(0 <= self.prompt_dropout <= 1, "prompt_dropout", self.prompt_dropout, "a share in [0, 1]")
        expect(self.prompt_noise >= 0, "prompt_noise", self.prompt_noise, "0 or more")
        for name, shift in self.timestep_shift.items():
            Modality.parse(name)
            expect(shift > 0, "timestep_shift", self.timestep_shift, "numbers above 0")


class NoisyLatentStage(Stage):
    """The stage that trains the noisy-latent encoders of all modalities in `part`."""

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(NoisyLatentOptions, config.options, where="options")
        self.modalities = self.trainable(list(map(Modality.parse, config.part["latents"])))
        self.media = tuple(m for m in self.modalities if not in_words(m))

    def trainable(self, modalities: list[Modality]) -> list[Modality]:
        """Return the modalities of which there are samples with captions, and say which have none.

        While a run is planned its files are not read, and every modality counts. Raises `InputError` where
        none is left.
        """
        data = self.config.data
        if not data or planning():
            return modalities
        found = [m for m in modalities if has_rows(data, (m, Modality.TEXT))]
        lacking = [m.value for m in modalities if m not in found]
        if not found:
            raise InputError(f"data: no row has a caption and one of {', '.join(lacking)}: expected some")
        if lacking:
            say(f"no row has a caption and {' or '.join(lacking)}: left out of this run")
        return found

    def with_data(self, data: dict[str, Any]) -> "NoisyLatentStage":
        """Return this stage over other samples, with those of its modalities that they have."""
        other: Any = super().with_data(data)
        other.modalities = [m for m in self.modalities if has_rows(data, (m, Modality.TEXT))]
        other.media = tuple(m for m in other.modalities if not in_words(m))
        if not other.modalities:
            names = ", ".join(self.modalities)
            raise InputError(f"data: none of the held-out rows has a caption and one of {names}")
        return other

    def load(self) -> None:
        """Load the text tower, the noise process, and the text autoencoder where sentences are encoded."""
        config = self.config
        self.process = NoiseProcess.from_scheduler(load_scheduler(config.model))
        texts = any(map(in_words, self.modalities))
        self.sentences = autoencoder_of(config.model, Modality.TEXT) if texts else None
        self.text = tower_of(config.model, Modality.TEXT)
        self.prompts = {m: self._prompts(m) for m in self.modalities}
        prompting: dict[Modality, None] = {}
        for prompts in self.prompts.values():
            prompting |= dict.fromkeys(prompts.media)
        self.prompting = tuple(prompting)

    def _prompts(self, modality: Modality) -> Prompts:
        """Return the maker of the prompts that the encoder of one modality meets."""
        options = self.options
        shares = with_partners(self.config, modality, options.prompts, "prompts")
        if not in_words(modality):
            met = (Modality.TEXT, modality)
            shares = {name: share for name, share in shares.items() if name in met}
        expected = f"a share of text or of {modality}, which its encoder meets"
        expect(sum(shares.values()) > 0, "prompts", options.prompts, expected)
        return Prompts(self.text, shares, options.prompt_noise, options.prompt_dropout)

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the name of the noisy-latent encoders."""
        return ("noisy_latent_encoders",)

    def build(self) -> NoisyLatentEncoders:
        """Return new encoders of `part`, or those in the model folder."""
        if self.options.continue_from:
            return load_part(
                NoisyLatentEncoders,
                self.config.model / "noisy_latent_encoders",
                "train it first without continue_from",
            ).requires_grad_(True)
        return NoisyLatentEncoders(**self.config.part)

    def to(self, device: torch.device) -> None:
        """Move the text tower and the autoencoder of sentences to `device`."""
        self.text.to(device)
        if self.sentences is not None:
            self.sentences.to(device)
        self.device = device

    def encodings(self) -> list[Encoding]:
        """Return what is needed of media files: the latents of each modality, and tokens of its prompts."""
        return [self.encoding(modality) for modality in self.order]

    def encoding(self, modality: Modality) -> Encoding:
        """Return what is needed of the media files from which one modality learns."""
        readers: tuple[Any, ...] = (self.text, self.sentences) if in_words(modality) else (self.text,)
        latents = () if in_words(modality) else (modality,)
        prompting = self.prompts[modality].media
        return Encoding(self.config, latents, prompting, known_geometry(self.config.model), readers)

    @property
    def order(self) -> list[Modality]:
        """The modalities in the order in which they learn: media, then sentences."""
        return [*self.media, *(m for m in self.modalities if in_words(m))]

    def data(self) -> Source:
        """Return a source of cached latents and prompt tokens, of scenes or of media files.

        Files are read one by one for each modality, so that a row need not have them all.
        """
        if self.config.data:
            sources = {(m,): self.encoding(m).open(self.device, say) for m in self.order}
            return PairSource(sources, dict.fromkeys(sources, 1.0))
        model = self.config.model
        seed = self.config.seed
        count = self.options.scenes
        tokens = [tokens_of(model, m, count, seed) for m in self.prompting]
        latents = [latents_of(model, m, count, seed) for m in self.media]
        return joined(latents + tokens, seed)

    def loss(
        self, module: NoisyLatentEncoders, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the squared distance to the caption's token, summed over modalities, and values for the log.

        Its minimum is the mean of all tokens that are possible, which is shorter than one where many are.
        """
        losses = {}
        levels = []
        total = self.process.num_train_timesteps
        for modality, samples, token in self.learned(batch):
            x_0 = self.latents(modality, samples)
            shift = self.options.timestep_shift.get(modality.value, 1.0)
            t = spread_timesteps(len(x_0), total, generator, shift)
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            context = self.prompts[modality].tokens(samples, generator)
            predicted = module.by_modality()[modality](self.process.add_noise(x_0, eps, t), t, context)
            # a distance and not a cosine, since the length of an estimate says how certain it is
            losses[modality] = (predicted - token).square().sum(-1)
            levels.append(t / total)
        means = {m.value: each.mean() for m, each in losses.items()}
        extras: dict[str, Any] = {name: mean.detach() for name, mean in means.items()}
        extras["bins"] = (torch.cat(levels), torch.cat(list(losses.values())).detach())
        return torch.stack(list(means.values())).sum(), extras

    def dummy_batch(self, module: NoisyLatentEncoders, count: int) -> dict[str, Tensor]:
        """Return latents of every modality, under its name."""
        return {m.value: empty(count, *e.trunk.latent_shape) for m, e in module.by_modality().items()}

    def dry_pass(self, module: NoisyLatentEncoders, batch: dict[str, Tensor]) -> None:
        """Run the encoder of every modality once."""
        for modality, encoder in module.by_modality().items():
            latent = batch[modality.value]
            encoder(latent, whole_numbers(len(latent)), empty(len(latent), 1, module.config.context_dim))

    def learned(self, batch: Batch | dict[str, Any]) -> Iterator[tuple[Modality, Batch, Tensor]]:
        """Yield what each modality learns from.

        Args:
            batch: one batch of scenes for all modalities, or one of files for each of them, by name.

        Yields:
            A modality, its samples, and the token (B, D) of each sample's whole caption, which is what its
            encoder learns to predict.
        """
        shared = self.tokens(batch) if isinstance(batch, Batch) else None
        for modality in self.order:
            samples = batch if isinstance(batch, Batch) else batch[modality.value]
            yield modality, samples, self.tokens(samples) if shared is None else shared

    @torch.no_grad()
    def tokens(self, batch: Batch) -> Tensor:
        """Return the token (B, D) of each sample's whole caption."""
        return self.text.embed(batch.captions())

    @torch.no_grad()
    def latents(self, modality: Modality, batch: Batch) -> Tensor:
        """Return the clean latents (B, ...) of one modality."""
        if not in_words(modality):
            return batch[modality.value]
        return self.sentences.encode(batch.captions())

    @torch.no_grad()
    def preview(self, module: NoisyLatentEncoders, folder: Path) -> None:
        """Write `known.png`, which shows how much of the caption's token each encoder knows.

        That is 1 - squared distance to the token / variance of all tokens, by noise level and without a
        prompt.
        """
        total = self.process.num_train_timesteps
        levels = torch.arange(0, total, max(1, total // 20), device=self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        with self.data() as source:
            # files are decoded and encoded for it, each once
            count = min(PREVIEWED, len(source)) if self.config.data else PREVIEWED
            batch = to_device(source.fetch(list(range(count))), self.device)
        curves = {}
        for modality, samples, token in self.learned(batch):
            x_0 = self.latents(modality, samples)
            known = []
            for t in levels:
                eps = torch.randn(x_0.shape, generator=generator, device=self.device)
                at = t.expand(len(x_0))
                nothing = null_prompt(len(x_0), token.shape[-1], device=self.device)
                predicted = module.by_modality()[modality](self.process.add_noise(x_0, eps, at), at, nothing)
                known.append(known_share(predicted, token))
            curves[modality.value] = known
        draw_known(folder / "known.png", levels.tolist(), curves, "t")

    def export(self, module: NoisyLatentEncoders, folder: Path) -> None:
        """Write the noisy-latent encoders, beside those of other modalities that are there already."""
        place = folder / "noisy_latent_encoders"
        export_part(with_others(module, set(self.modalities), place), place)


def with_others(
    trained: NoisyLatentEncoders, modalities: Collection[Modality], folder: Path
) -> NoisyLatentEncoders:
    """Return the encoders that a run trained together with the others in the model folder.

    Args:
        trained: the encoders of the run.
        modalities: those that it trained.
        folder: the encoders in the model folder, which may be missing.

    Returns:
        The encoders of these modalities, and those of all others from `folder`, with the widths and layers
        that they have there. Those of another prompt space are not kept.
    """
    found = load_part(NoisyLatentEncoders, folder, "run noisy_latent first") if folder.is_dir() else None
    if found is not None and found.config.context_dim != trained.config.context_dim:
        found = None
    theirs = {} if found is None else arguments_of(found)
    ours = arguments_of(trained)
    if theirs.keys() <= ours.keys() and ours.keys() <= {m.value for m in modalities}:
        return trained
    latents = {name: latent for name, latent in theirs.items() if Modality(name) not in modalities}
    latents |= {m.value: ours[m.value] for m in trained.by_modality() if m in modalities}
    whole = NoisyLatentEncoders(**{**strip(trained.config), "latents": latents})
    for name, encoder in whole.towers.items():
        origin = trained if Modality(name) in modalities else found
        encoder.load_state_dict(origin.towers[name].state_dict())
    return whole


def arguments_of(encoders: NoisyLatentEncoders) -> dict[str, dict[str, Any]]:
    """Return all arguments of each encoder, those that it shares with the others included, by modality."""
    shared = {name: value for name, value in strip(encoders.config).items() if name != "latents"}
    return {name: {**shared, **latent} for name, latent in encoders.config.latents.items()}


def known_share(predicted: Tensor, token: Tensor) -> float:
    """Return how much of the tokens' variance estimates know.

    Args:
        predicted: (B, D) estimates.
        token: (B, D) the tokens of the captions.

    Returns:
        1 for estimates that are the tokens; 0 for those that are no nearer than the mean of all tokens.
    """
    spread = (token - token.mean(0)).square().sum(-1).mean()
    return float(1 - (predicted - token).square().sum(-1).mean() / spread)


def draw_known(path: Path, levels: Sequence[float], curves: Mapping[str, Sequence[float]], axis: str) -> None:
    """Write a picture of `known_share` by noise level.

    Args:
        path: the file.
        levels: the noise levels.
        curves: the share at each of them, by the name of a modality.
        axis: what the levels are called.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, known in curves.items():
        axes.plot(levels, known, label=name)
    axes.set(xlabel=axis, ylabel="known of the token's variance", ylim=(-0.1, 1.0))
    axes.legend()
    figure.savefig(path)
