"""Stages that train the four autoencoders and the vocoder, each on its modality alone.

Letters: see `codi.types`. Losses: reconstruction + a small pull of the posterior to the unit Gaussian (arXiv
2112.10752, section G).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.io import to_unit
from codi.modalities import kind_of
from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.models.autoencoders.mel import MelCorrection
from codi.types import Modality, ModalitySpec
from codi.world import ATTRIBUTES, render_frames, render_sounds
from data.notes import random_notes
from data.world import random_caption
from training.config import Config, expect, strict
from training.dry_run import empty, whole_numbers
from training.stages import Source, Stage
from training.stages.building import check_sections
from training.stages.common import export_part, load_part, write_png, write_spectrograms
from training.stages.files import check_words, tokenizer_of, world_or_files


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """kl_weight           weight of the mean Kullback-Leibler term per latent value; so small that it bounds
                        latents and costs no detail (arXiv 2112.10752, section G)
    latent_noise        Gaussian noise that decoding learns to bear, in standard deviations of the latents:
                        about what sampling leaves
    least_noise         with it each sample has noise of its own, evenly from this up to latent_noise, so that
                        what was learned at little noise is made to stand much of it; null: all have
                        latent_noise
    statistics_samples  samples that go into the latents' mean and deviation at export
    continue_from       start from the autoencoder in the model folder; `part` is not read then
    """

    kl_weight: float = 1e-4
    latent_noise: float = 0.1
    least_noise: float | None = None
    statistics_samples: int = 2048
    continue_from: bool = False

    def __post_init__(self) -> None:
        expect(self.statistics_samples >= 1, "statistics_samples", self.statistics_samples, "1 or more")
        for name in ("kl_weight", "latent_noise"):
            expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        least = self.least_noise
        expect(least is None or 0 <= least <= self.latent_noise, "least_noise", least, "0 to latent_noise")


@dataclass(frozen=True, kw_only=True)
class SoundOptions(AutoencoderOptions):
    """tones  share of sounds with random notes (`random_notes`) over them, at any level from none to their
    own: a decoder that knows nothing but a few dozen spectra draws any other as the nearest of them
    """

    tones: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.tones <= 1, "tones", self.tones, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class VocoderOptions:
    """latent_noise   deviation of Gaussian noise on the log-mels, which the vocoder learns to bear
    continue_from  start from the vocoder in the model folder; `part` is not read then
    """

    latent_noise: float = 0.1
    continue_from: bool = False

    def __post_init__(self) -> None:
        expect(self.latent_noise >= 0, "latent_noise", self.latent_noise, "0 or more")


class AutoencoderStage(Stage):
    """What the autoencoder stages share. `part` holds the constructor arguments of the autoencoder.

    modality, entry  what it is trained on, and under which name a batch has it
    shape            all arguments of the autoencoder, known once it is built
    """

    component: str
    modality: Modality
    entry: str
    shape: Mapping[str, Any]
    options_class: type = AutoencoderOptions

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(self.options_class, config.options, where="options")

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        return (cls.component,)

    def data(self, offset: int = 0) -> Source:
        """Scenes of the world, rendered as they are asked for, or media files; `offset` to the seed gives
        others.
        """
        known = self.geometry()
        return world_or_files(
            self.config,
            self.render,
            [self.modality],
            known,
            lambda batch: {self.entry: batch[self.modality.value]},
            offset,
        )

    def samples(self, offset: int, count: int) -> dict[str, Any]:
        """One batch apart from the training's order."""
        source = self.data(offset)
        try:
            return source.fetch(list(range(count)))
        finally:
            source.close()

    def geometry(self) -> dict[Modality, ModalitySpec]:
        """Size of a sample, as the model takes it."""
        return {}

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        """The batch of some scenes."""
        raise NotImplementedError

    def begin(self, cls: type, **more: Any) -> Any:
        """A new autoencoder of `part` and `more`, or the one in the model folder."""
        if self.options.continue_from:
            module = load_part(
                cls, self.config.model / self.component, "train it first without continue_from"
            ).requires_grad_(True)
        else:
            module = cls(**self.config.part, **more)
        self.shape = module.config
        return module

    def blur(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """The latent with the noise that decoding shall bear."""
        noise, level = (
            torch.randn(latent.shape, generator=generator, device=latent.device),
            self.options.latent_noise,
        )
        if (least := self.options.least_noise) is not None:
            own = torch.rand(len(latent), generator=generator, device=latent.device).view(
                -1, *[1] * (latent.ndim - 1)
            )
            level = least + (level - least) * own
        return latent + level * latent.detach().std() * noise

    @torch.no_grad()
    def measure(self, module: nn.Module) -> None:
        """Sets the statistics of the latents from fresh scenes, or files in another order."""
        source, batches = self.data(offset=1), []
        for start in range(0, self.options.statistics_samples, 64):
            batches.append(self.mean_latent(module, source.fetch(list(range(start, start + 64)))))
        source.close()
        module.scaling.measure(torch.cat(batches))

    def export(self, module: nn.Module, folder: Path) -> None:
        """Measures the statistics, then writes the part."""
        self.measure(module)
        export_part(module, folder / self.component)


class ImageStage(AutoencoderStage):
    """Pictures and single frames of clips."""

    component = "image_autoencoder"
    modality, entry = Modality.IMAGE, "frames"

    def build(self) -> ImageAutoencoder:
        """The autoencoder of `part`."""
        return self.begin(ImageAutoencoder)

    def geometry(self) -> dict[Modality, ModalitySpec]:
        side = self.shape["image_size"]
        return {Modality.IMAGE: ModalitySpec(raw_shape=(3, side, side), latent_shape=())}

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        times = np.array([[rng.uniform(0.0, 2.0)] for rng in rngs])
        frames = render_frames(scenes, times, self.shape["image_size"])[:, 0]
        return {"frames": frames}

    def loss(
        self, module: ImageAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        frames = to_unit(batch["frames"])
        posterior = module.posterior(frames)
        restored = module.reconstruct(self.blur(posterior.sample(generator), generator))
        pixel = functional.l1_loss(restored, frames)
        edge = contrast_loss(restored - frames)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return pixel + edge + self.options.kl_weight * kl, {
            "l1": pixel.detach(),
            "edge": edge.detach(),
            "kl": kl.detach(),
        }

    def dummy_batch(self, module: ImageAutoencoder, count: int) -> dict[str, Tensor]:
        side = module.config.image_size
        return {"frames": empty(count, 3, side, side)}

    def dry_pass(self, module: ImageAutoencoder, batch: dict[str, Tensor]) -> None:
        module.reconstruct(module.posterior(batch["frames"]).mode())

    def mean_latent(self, module: ImageAutoencoder, batch: dict[str, Any]) -> Tensor:
        """Unnormalised latents of a batch."""
        return module.posterior(to_unit(batch["frames"].to(module.device))).mode()

    @torch.no_grad()
    def preview(self, module: ImageAutoencoder, folder: Path) -> None:
        """Originals above reconstructions."""
        frames = to_unit(self.samples(2, 12)["frames"].to(module.device))
        write_png(
            folder / "reconstructions.png",
            torch.cat([frames, module.reconstruct(module.posterior(frames).mode())]),
            12,
        )


def contrast_loss(error: Tensor, offsets: tuple[int, ...] = (1, 2, 4, 8)) -> Tensor:
    """L1 of differences between pixels some offset apart, both ways: what is small on a plain ground is not
    lost in the mean.
    """
    across = [(error[..., k:] - error[..., :-k]).abs().mean() for k in offsets]
    down = [(error[..., k:, :] - error[..., :-k, :]).abs().mean() for k in offsets]
    return torch.stack(across + down).mean() * 2


class SoundStage(AutoencoderStage):
    """What the two stages of sound share."""

    component = "audio_autoencoder"
    modality, entry = Modality.AUDIO, "sound"

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        return {"sound": render_sounds(scenes)}

    def geometry(self) -> dict[Modality, ModalitySpec]:
        return {Modality.AUDIO: kind_of(Modality.AUDIO).geometry_in({"audio_autoencoder": self.shape})}

    def dummy_batch(self, module: AudioAutoencoder, count: int) -> dict[str, Tensor]:
        """Spectrograms (B, T, M)."""
        frames = module.config.num_samples // module.log_mel.hop_length
        return {"mel": empty(count, frames, module.log_mel.bank.shape[1])}

    def dry_pass(self, module: AudioAutoencoder, batch: dict[str, Tensor]) -> None:
        module.reconstruct(module.posterior(batch["mel"]).mode())

    def mean_latent(self, module: AudioAutoencoder, batch: dict[str, Any]) -> Tensor:
        """Unnormalised latents of a batch."""
        return module.posterior(module.log_mel(batch["sound"].to(module.device))).mode()

    def preview(self, module: AudioAutoencoder, folder: Path) -> None:
        """Spectrograms: original, through the VAE, and of the vocoder's sound; and the sounds themselves."""
        from codi.io import save_audio

        sound = self.samples(2, 8)["sound"].to(module.device)
        with torch.no_grad():
            mel = module.log_mel(sound)
            restored = module.reconstruct(module.posterior(mel).mode())
            spoken = module.vocode(mel)
        write_spectrograms(folder / "spectrograms.png", torch.cat([mel, restored, module.log_mel(spoken)]), 8)
        for index, (before, after) in enumerate(zip(sound.cpu(), spoken.cpu())):
            save_audio(folder / f"{index}-original.wav", before, module.sampling_rate)
            save_audio(folder / f"{index}-vocoder.wav", after.clamp(-1, 1), module.sampling_rate)


class MelStage(SoundStage):
    """The VAE on log-mel spectrograms; phases come from Griffin-Lim until the vocoder stage has run."""

    options_class = SoundOptions

    def build(self) -> AudioAutoencoder:
        """The autoencoder of `part`."""
        return self.begin(AudioAutoencoder, vocoder_config=None)

    def loss(
        self, module: AudioAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        mel = module.log_mel(self.with_tones(batch["sound"], module.sampling_rate, generator))
        posterior = module.posterior(mel)
        restored = module.reconstruct(self.blur(posterior.sample(generator), generator))
        error = module.normalise_mel(restored) - module.normalise_mel(mel)
        l1, kl = error.abs().mean(), posterior.kl().mean() / posterior.mean[0].numel()
        slope = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
        return l1 + 0.5 * slope + self.options.kl_weight * kl, {"l1": l1.detach(), "kl": kl.detach()}

    def with_tones(self, sound: Tensor, rate: int, generator: torch.Generator) -> Tensor:
        """Sounds (B, N), a share of them softer and with random notes over them."""
        if not self.options.tones:
            return sound
        chosen, level = torch.rand((2, len(sound)), generator=generator, device=sound.device)
        toned = (chosen < self.options.tones).nonzero()[:, 0]
        return sound.index_copy(
            0,
            toned,
            level[toned, None] * sound[toned] + random_notes(len(toned), sound.shape[1], rate, generator),
        )

    @torch.no_grad()
    def measure(self, module: AudioAutoencoder) -> None:
        """Sets the statistics of the latents, then the correction of what the decoder blurs."""
        super().measure(module)
        self.correct(module)

    def correct(self, module: AudioAutoencoder) -> None:
        """Fits the correction, if the part has one, on fresh sounds whose latents bear the noise
        of training.
        """
        if isinstance(module.correction, MelCorrection):
            module.correction.fit(self.round_trips(module))

    @torch.no_grad()
    def round_trips(self, module: AudioAutoencoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Log-mels (B, T, M) as the VAE gives them back, and as they were."""
        generator, source = (
            torch.Generator(module.device).manual_seed(self.config.seed + 1),
            self.data(offset=1),
        )
        for start in range(0, self.options.statistics_samples, 64):
            mel = module.log_mel(source.fetch(list(range(start, start + 64)))["sound"].to(module.device))
            yield module.reconstruct(self.blur(module.posterior(mel).mode(), generator)), mel
        source.close()


class VocoderStage(SoundStage):
    """HiFi-GAN's generator from log-mel to waveform, by multi-resolution spectral losses (arXiv 1910.11480),
    on short cuts.
    """

    options_class = VocoderOptions
    cut = 40  # mel frames, 0.4 s
    resolutions = (128, 256, 512, 1024, 2048)

    def build(self) -> AudioAutoencoder:
        """The finished autoencoder with a new vocoder of `part`, or with the one that it has; nothing else in
        it trains.
        """
        finished = load_part(
            AudioAutoencoder, self.config.model / self.component, "run autoencoder_audio first"
        )
        self.shape, able = finished.config, finished.config.vocoder_config is not None
        expect(
            able or not self.options.continue_from,
            "continue_from",
            True,
            f"false: {self.config.model} has no vocoder yet",
        )
        module = finished if self.options.continue_from else self.with_new_vocoder(finished)
        module.requires_grad_(False)
        module.vocoder.requires_grad_(True)
        return module

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """None: a vocoder is added to a finished autoencoder."""
        return ()

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        return (cls.component,)

    def with_new_vocoder(self, finished: AudioAutoencoder) -> AudioAutoencoder:
        """A finished autoencoder as it is, but for a vocoder of `part`."""
        check_sections({"vocoder_config": self.config.part}, "part")
        module = AudioAutoencoder.from_config(finished.config, vocoder_config=self.config.part)
        module.vae.load_state_dict(finished.vae.state_dict())
        module.scaling.load_state_dict(finished.scaling.state_dict())
        module.correction.load_state_dict(finished.correction.state_dict())
        return module

    def measure(self, module: AudioAutoencoder) -> None:
        """Nothing: denoisers rely on the statistics that the finished autoencoder came with."""

    def loss(
        self, module: AudioAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        mel, hop = module.log_mel(batch["sound"]), module.log_mel.hop_length
        start = int(
            torch.randint(0, mel.shape[1] - self.cut + 1, (1,), generator=generator, device=generator.device)
        )
        noise = torch.randn(mel.shape, generator=generator, device=mel.device)
        spoken = module.vocode((mel + self.options.latent_noise * noise)[:, start : start + self.cut])
        sound = batch["sound"][:, start * hop : (start + self.cut) * hop]
        losses = torch.stack([self.spectral_loss(spoken, sound, size) for size in self.resolutions]).mean(0)
        return losses.sum(), {"log_magnitude": losses[0].detach(), "magnitude": losses[1].detach()}

    def dummy_batch(self, module: AudioAutoencoder, count: int) -> dict[str, Tensor]:
        """Cuts of spectrograms (B, cut, M)."""
        return {"mel": empty(count, self.cut, module.log_mel.bank.shape[1])}

    def dry_pass(self, module: AudioAutoencoder, batch: dict[str, Tensor]) -> None:
        module.vocode(batch["mel"])

    @staticmethod
    def spectral_loss(spoken: Tensor, sound: Tensor, size: int) -> Tensor:
        """L1 of log magnitudes and relative L1 of magnitudes at one window size, (2,)."""
        window = torch.hann_window(size, device=sound.device)
        spoken, sound = (
            torch.stft(w, size, size // 4, window=window, return_complex=True).abs() for w in (spoken, sound)
        )
        floor = 1e-3 * size**0.5
        log = ((spoken + floor).log() - (sound + floor).log()).abs().mean()
        return torch.stack([log, (spoken - sound).abs().sum() / (sound.sum() + floor)])


class TextStage(AutoencoderStage):
    """Captions of all or part of the facts."""

    component = "text_autoencoder"
    modality, entry = Modality.TEXT, "captions"

    def build(self) -> TextAutoencoder:
        """The autoencoder of `part` over the words of the data; one that is there keeps its words."""
        if not self.options.continue_from:
            return self.begin(TextAutoencoder, tokenizer=tokenizer_of(self.config))
        self.reader = self.begin(TextAutoencoder)
        return self.reader

    def data(self, offset: int = 0) -> Source:
        """See `AutoencoderStage.data`; of captions it is said how many words are unknown."""
        source = super().data(offset)
        if self.config.data and self.options.continue_from and not offset:
            check_words(source.source, [self.reader], self.config.model)
        return source

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        return {
            "captions": [
                random_caption(scene, tuple(ATTRIBUTES), 0.7, rng) for scene, rng in zip(scenes, rngs)
            ]
        }

    def loss(
        self, module: TextAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        mean, log_variance = module.posterior(batch["captions"])
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latent = self.blur(mean + (0.5 * log_variance).exp() * noise, generator)
        token = module.token_loss(latent, batch["captions"]).mean()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return token + self.options.kl_weight * kl, {"token": token.detach(), "kl": kl.detach()}

    def dummy_batch(self, module: TextAutoencoder, count: int) -> dict[str, Tensor]:
        """Sentences of the greatest length."""
        return {"ids": whole_numbers(count, module.config.max_length)}

    def dry_pass(self, module: TextAutoencoder, batch: dict[str, Tensor]) -> None:
        pooled = module.encoder(input_ids=batch["ids"]).pooler_output
        module.logits(module.posterior_head(pooled).chunk(2, dim=-1)[0], batch["ids"])

    def mean_latent(self, module: TextAutoencoder, batch: dict[str, Any]) -> Tensor:
        """Unnormalised latents of a batch."""
        return module.posterior(batch["captions"])[0]

    def preview(self, module: TextAutoencoder, folder: Path) -> None:
        """Sentences and what comes back."""
        captions = self.samples(2, 16)["captions"]
        with torch.no_grad():
            latent = module.posterior(captions)[0]
            module.scaling.measure(latent)
            restored = module.decode(module.scaling.normalise(latent))
        lines = [f"{before}\n    {after}" for before, after in zip(captions, restored)]
        (folder / "sentences.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
