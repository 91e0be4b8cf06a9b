"""Stages that train the four autoencoders and the vocoder, each on its modality alone.

The loss of an autoencoder is its reconstruction and a small pull of the posterior to the unit Gaussian (arXiv
2112.10752, section G). Letters: B batch, H W height and width, T audio frames, M mel bands; N in sounds is
the number of samples of the waveform.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi.io import to_unit
from codi.metrics.spectra import magnitudes
from codi.modalities import component_class, kind_of
from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.models.autoencoders.mel import MelCorrection
from codi.types import Modality, ModalitySpec
from codi.world import ATTRIBUTES, render_frames, render_sounds
from data.batch import Batch
from data.notes import random_notes
from data.world import random_caption
from training.config import Config, expect, strict
from training.dry_run import empty, whole_numbers
from training.stages import Source, Stage
from training.stages.building import check_sections
from training.stages.common import export_part, load_part, write_png, write_spectrograms
from training.stages.files import check_words, world_or_files
from training.stages.padding import both, content_mask, content_only, masked_mean, mean_kl
from training.stages.reconstruction import Scorer, round_trip
from training.stages.tokenizers import read_tokenizer_options, tokenizer_of

PIXELS = (None, 1, 2)  # the axes of a picture (3, H, W) that run along those of its raw shape
FRAMES = (0,)  # that of a log-mel (T, M) which runs along its sound

VOCODERS = (
    "vocoder_config",
    "phase_seeded_config",
)  # arguments of the autoencoder, of which one is a vocoder


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """Options of the autoencoder stages.

    Attributes:
        kl_weight: the weight of the mean Kullback-Leibler term per latent value, so small that it bounds
            latents and costs no detail (arXiv 2112.10752, section G).
        latent_noise: the Gaussian noise that decoding learns to bear, in standard deviations of the latents:
            about what sampling leaves.
        least_noise: with it each sample has noise of its own, drawn evenly from this up to `latent_noise`, so
            that what was learned at little noise is made to stand much of it. With null all samples have
            `latent_noise`.
        statistics_samples: the number of samples from which the latents' mean and deviation are measured at
            export.
        continue_from: start from the autoencoder in the model folder; `part` is not read then.
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
    """Options of the stage for sounds: those of all autoencoder stages, and one more.

    Attributes:
        tones: the share of sounds with random notes (`random_notes`) over them, while the sound itself has
            any level from none to its own. A decoder that knows nothing but a few dozen spectra draws any
            other as the nearest of them.
    """

    tones: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.tones <= 1, "tones", self.tones, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class TextOptions(AutoencoderOptions):
    """Options of the stage for sentences: those of all autoencoder stages, and one more.

    Attributes:
        tokenizer: what a new autoencoder reads, such as {"kind": "bpe", "size": 4096}
            (`training.stages.tokenizers.TokenizerOptions`).
    """

    tokenizer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VocoderOptions:
    """Options of the vocoder stage.

    Attributes:
        latent_noise: the deviation of the Gaussian noise on the log-mels, which the vocoder learns to bear.
        continue_from: start from the vocoder in the model folder; `part` is not read then.
    """

    latent_noise: float = 0.1
    continue_from: bool = False

    def __post_init__(self) -> None:
        expect(self.latent_noise >= 0, "latent_noise", self.latent_noise, "0 or more")


class AutoencoderStage(Stage):
    """The base class of the autoencoder stages.

    Args:
        config: the run. Its section `part` holds the constructor arguments of the autoencoder.

    Attributes:
        component: the name of the part that trains.
        modality: what it is trained on.
        entry: the name under which a batch has the media.
        shape: all arguments of the autoencoder, known once it is built.
        options_class: the class of the options.
    """

    component: str
    modality: Modality
    entry: str
    shape: Mapping[str, Any]
    options_class: type = AutoencoderOptions

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(self.options_class, config.options, where="options")
        self.scorer = Scorer(lambda count: self.samples(3, count, once=True)[self.entry])

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the autoencoder's name."""
        return (cls.component,)

    def data(self, offset: int = 0) -> Source:
        """Return a source of scenes, rendered as they are asked for, or of media files.

        Args:
            offset: added to the seed; another offset gives other samples.

        Returns:
            A source whose batches have the media under `entry`.
        """
        known = self.geometry()
        return world_or_files(
            self.config,
            self.render,
            [self.modality],
            known,
            self.of_files,
            offset,
        )

    def of_files(self, batch: Batch) -> dict[str, Any]:
        """Return a batch of files in the form that `render` gives a batch of scenes.

        Where media are padded, "content" says what of them is none (`data.batch`).
        """
        media = {self.entry: batch[self.modality.value]}
        content = batch.content_of(self.modality)
        return media if content is None else media | {"content": content}

    def samples(self, offset: int, count: int, once: bool = False) -> dict[str, Any]:
        """Return one batch of samples.

        Args:
            offset: added to the seed; any but 0 gives another order than that of training.
            count: the number of samples.
            once: whether no sample comes twice, so that there may be fewer.

        Returns:
            The batch.
        """
        with self.data(offset) as source:
            return source.fetch(list(range(min(count, len(source)) if once else count)))

    def geometry(self) -> dict[Modality, ModalitySpec]:
        """Return the size of a sample, as the model takes it."""
        return {}

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return the batch of some scenes, with the random generator of each."""
        raise NotImplementedError

    def begin(self, cls: type, **more: Any) -> Any:
        """Return a new autoencoder, or the one in the model folder.

        Args:
            cls: the autoencoder's class.
            **more: further arguments of a new one, beside those in `part`.

        Returns:
            The autoencoder, all of which trains.
        """
        if self.options.continue_from:
            module = load_part(
                cls, self.config.model / self.component, "train it first without continue_from"
            ).requires_grad_(True)
        else:
            module = cls(**self.config.part, **more)
        self.shape = module.config
        return module

    def blur(self, latent: Tensor, generator: torch.Generator, mask: Tensor | None = None) -> Tensor:
        """Return the latent with the noise that decoding shall learn to bear.

        Args:
            latent: the latent, (B, ...).
            generator: the source of the noise.
            mask: which latent values are content, of the same shape; None for all.

        Returns:
            (B, ...).
        """
        noise = torch.randn(latent.shape, generator=generator, device=latent.device)
        level = self.options.latent_noise
        least = self.options.least_noise
        if least is not None:
            own = torch.rand(len(latent), generator=generator, device=latent.device)
            own = own.view(-1, *[1] * (latent.ndim - 1))
            level = least + (level - least) * own
        # latents are not normalised yet in training, so the noise is scaled by their own deviation
        known = latent.detach() if mask is None else latent.detach()[mask]
        return latent + level * known.std() * noise

    @torch.no_grad()
    def measure(self, module: nn.Module) -> None:
        """Set the statistics of the latents from fresh scenes, or from files in another order."""
        source = self.data(offset=1)
        batches = []
        for start in range(0, self.options.statistics_samples, 64):
            batch = source.fetch(list(range(start, start + 64)))
            latent = self.mean_latent(module, batch)
            batches.append((latent, self.mask_of(batch, latent)))
        source.close()
        if all(mask is None for _, mask in batches):
            module.scaling.measure(torch.cat([latent for latent, _ in batches]))
            return
        counted = []
        for latent, mask in batches:
            whole = torch.ones_like(latent, dtype=torch.bool)  # of a batch without padding
            counted.append(content_only(latent, whole if mask is None else mask))
        module.scaling.measure(torch.cat(counted))

    def mask_of(
        self, batch: dict[str, Any], like: Tensor, axes: Sequence[int | None] | None = None
    ) -> Tensor | None:
        """Return which steps of latents, or of what has other axes, are content.

        Args:
            batch: the samples.
            like: the latents, (B, C, ...).
            axes: of each raw axis the axis of a sample of `like` that runs along it; None for those of
                latents.

        Returns:
            Boolean of the shape of `like`; None where nothing is padded.
        """
        axes = kind_of(self.modality).latent_axes if axes is None else axes
        return content_mask(batch.get("content"), axes, like)

    def export(self, module: nn.Module, folder: Path) -> None:
        """Measure the statistics, then write the part."""
        self.measure(module)
        export_part(module, folder / self.component)


class ImageStage(AutoencoderStage):
    """The stage that trains the autoencoder of pictures, on single frames of scenes or on picture files."""

    component = "image_autoencoder"
    modality = Modality.IMAGE
    entry = "frames"

    def build(self) -> ImageAutoencoder:
        """Return the autoencoder of `part`, or the one in the model folder."""
        return self.begin(ImageAutoencoder)

    def geometry(self) -> dict[Modality, ModalitySpec]:
        """Return the size of a picture."""
        side = self.shape["image_size"]
        return {Modality.IMAGE: ModalitySpec(raw_shape=(3, side, side), latent_shape=())}

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return one frame of each scene, at a random time within two seconds."""
        times = np.array([[rng.uniform(0.0, 2.0)] for rng in rngs])
        frames = render_frames(scenes, times, self.shape["image_size"])[:, 0]
        return {"frames": frames}

    def loss(
        self, module: ImageAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch of frames, and values for the log.

        It is the L1 of pixels, plus that of edges (`contrast_loss`), plus the weighted Kullback-Leibler term.
        """
        frames = to_unit(batch["frames"])
        seen = self.mask_of(batch, frames, PIXELS)
        posterior = module.posterior(frames)
        mask = self.mask_of(batch, posterior.mean)
        restored = module.reconstruct(self.blur(posterior.sample(generator), generator, mask))
        pixel = masked_mean((restored - frames).abs(), seen)
        edge = contrast_loss(restored - frames, mask=seen)
        kl = mean_kl(posterior, mask)
        return pixel + edge + self.options.kl_weight * kl, {
            "l1": pixel.detach(),
            "edge": edge.detach(),
            "kl": kl.detach(),
        }

    def dummy_batch(self, module: ImageAutoencoder, count: int) -> dict[str, Tensor]:
        """Return frames, (B, 3, H, W)."""
        side = module.config.image_size
        return {"frames": empty(count, 3, side, side)}

    def dry_pass(self, module: ImageAutoencoder, batch: dict[str, Tensor]) -> None:
        """Encode and decode the frames."""
        module.reconstruct(module.posterior(batch["frames"]).mode())

    def mean_latent(self, module: ImageAutoencoder, batch: dict[str, Any]) -> Tensor:
        """Return the unnormalised latents of a batch."""
        return module.posterior(to_unit(batch["frames"].to(module.device))).mode()

    def scores(self, module: ImageAutoencoder, batches: Sequence[Any]) -> dict[str, float]:
        """Return the PSNR in dB, and that of a linear autoencoder with as many numbers."""
        return self.scorer.pictures(module, [batch["frames"] for batch in batches])

    @torch.no_grad()
    def preview(self, module: ImageAutoencoder, folder: Path) -> None:
        """Write originals above their reconstructions."""
        frames = to_unit(self.samples(2, 12)["frames"].to(module.device))
        write_png(
            folder / "reconstructions.png",
            torch.cat([frames, module.reconstruct(module.posterior(frames).mode())]),
            12,
        )


def contrast_loss(
    error: Tensor, offsets: tuple[int, ...] = (1, 2, 4, 8), mask: Tensor | None = None
) -> Tensor:
    """Return the L1 norm of differences between the errors of pixels some offset apart, across and down.

    With it, what is small on a plain ground is not lost in the mean over all pixels.

    Args:
        error: the error of each pixel, (..., H, W).
        offsets: the distances of the compared pixels.
        mask: which pixels are content, of the same shape; None for all.

    Returns:
        A scalar.
    """
    across = []
    down = []
    for k in offsets:
        across.append(masked_mean((error[..., k:] - error[..., :-k]).abs(), both(mask, -1, k)))
        down.append(masked_mean((error[..., k:, :] - error[..., :-k, :]).abs(), both(mask, -2, k)))
    return torch.stack(across + down).mean() * 2


class SoundStage(AutoencoderStage):
    """The base class of the two stages for sounds."""

    component = "audio_autoencoder"
    modality = Modality.AUDIO
    entry = "sound"

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return the sounds of scenes."""
        return {"sound": render_sounds(scenes)}

    def geometry(self) -> dict[Modality, ModalitySpec]:
        """Return the length and the sampling rate of a sound."""
        return {Modality.AUDIO: kind_of(Modality.AUDIO).geometry_in({"audio_autoencoder": self.shape})}

    def dummy_batch(self, module: AudioAutoencoder, count: int) -> dict[str, Tensor]:
        """Return spectrograms, (B, T, M)."""
        frames = module.config.num_samples // module.log_mel.hop_length
        return {"mel": empty(count, frames, module.log_mel.bank.shape[1])}

    def dry_pass(self, module: AudioAutoencoder, batch: dict[str, Tensor]) -> None:
        """Encode and decode the spectrograms."""
        module.reconstruct(module.posterior(batch["mel"]).mode())

    def mean_latent(self, module: AudioAutoencoder, batch: dict[str, Any]) -> Tensor:
        """Return the unnormalised latents of a batch."""
        return module.posterior(module.log_mel(batch["sound"].to(module.device))).mode()

    def preview(self, module: AudioAutoencoder, folder: Path) -> None:
        """Write sounds before and after the vocoder, and three rows of spectrograms.

        The rows are the originals, what the VAE gives back, and the sounds of the vocoder.
        """
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
    """The stage that trains the VAE on log-mel spectrograms.

    Phases come from Griffin-Lim until the vocoder stage has run.
    """

    options_class = SoundOptions

    def build(self) -> AudioAutoencoder:
        """Return the autoencoder of `part` without a vocoder, or the one in the model folder."""
        return self.begin(AudioAutoencoder, vocoder_config=None)

    def loss(
        self, module: AudioAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch of sounds, and values for the log.

        It is the L1 of log-mels, plus half that of their slopes, plus the weighted Kullback-Leibler term.
        """
        mel = module.log_mel(self.with_tones(batch["sound"], module.sampling_rate, generator))
        heard = self.mask_of(batch, mel, FRAMES)
        posterior = module.posterior(mel)
        mask = self.mask_of(batch, posterior.mean)
        restored = module.reconstruct(self.blur(posterior.sample(generator), generator, mask))
        error = module.normalise_mel(restored) - module.normalise_mel(mel)
        l1 = masked_mean(error.abs(), heard)
        kl = mean_kl(posterior, mask)
        along_time = masked_mean(error.diff(dim=1).abs(), both(heard, 1))
        slope = along_time + masked_mean(error.diff(dim=2).abs(), both(heard, 2))
        total = l1 + 0.5 * slope + self.options.kl_weight * kl
        return total, {"l1": l1.detach(), "kl": kl.detach()}

    def with_tones(self, sound: Tensor, rate: int, generator: torch.Generator) -> Tensor:
        """Return sounds (B, N), a share of them softer and with random notes over them.

        Args:
            sound: waveforms, (B, N).
            rate: the sampling rate in Hz.
            generator: the source of the draws.

        Returns:
            (B, N).
        """
        if not self.options.tones:
            return sound
        chosen, level = torch.rand((2, len(sound)), generator=generator, device=sound.device)
        toned = (chosen < self.options.tones).nonzero()[:, 0]
        return sound.index_copy(
            0,
            toned,
            level[toned, None] * sound[toned] + random_notes(len(toned), sound.shape[1], rate, generator),
        )

    def scores(self, module: AudioAutoencoder, batches: Sequence[Any]) -> dict[str, float]:
        """Return the L1 of log-mels in nats, and that of a linear autoencoder with as many numbers."""
        return self.scorer.sounds(module, [batch["sound"] for batch in batches])

    @torch.no_grad()
    def measure(self, module: AudioAutoencoder) -> None:
        """Set the statistics of the latents, then the correction of what the decoder blurs."""
        super().measure(module)
        self.correct(module)

    def correct(self, module: AudioAutoencoder) -> None:
        """Fit the correction, if the part has one, on fresh sounds, with the noise of training on latents."""
        if isinstance(module.correction, MelCorrection):
            module.correction.fit(self.round_trips(module))

    @torch.no_grad()
    def round_trips(self, module: AudioAutoencoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield log-mels (B, T, M) as the VAE gives them back, and as they were."""
        generator = torch.Generator(module.device).manual_seed(self.config.seed + 1)
        source = self.data(offset=1)
        for start in range(0, self.options.statistics_samples, 64):
            mel = module.log_mel(source.fetch(list(range(start, start + 64)))["sound"].to(module.device))
            yield module.reconstruct(self.blur(module.posterior(mel).mode(), generator)), mel
        source.close()


class VocoderStage(SoundStage):
    """The stage that trains HiFi-GAN's generator from log-mel to waveform, on short cuts.

    The losses are spectral, at several resolutions (arXiv 1910.11480). The section `part` of its run holds
    the arguments of the vocoder.

    Attributes:
        section: the argument of the autoencoder that `part` becomes.
        cut: the length of a cut, in mel frames: 0.4 s.
        resolutions: the window sizes of the losses, in samples of the waveform.
    """

    options_class = VocoderOptions
    section = "vocoder_config"
    cut = 40  # mel frames, 0.4 s
    resolutions = (128, 256, 512, 1024, 2048)

    def build(self) -> AudioAutoencoder:
        """Return the finished autoencoder with a vocoder that trains; nothing else in it does.

        The vocoder is a new one of `part`, or the one that the autoencoder has.
        """
        finished = load_part(
            AudioAutoencoder, self.config.model / self.component, "run autoencoder_audio first"
        )
        self.shape = finished.config
        able = finished.config[self.section] is not None
        expect(
            able or not self.options.continue_from,
            "continue_from",
            True,
            f"false: {self.config.model} has no vocoder yet",
        )
        module = finished if self.options.continue_from else self.with_new_vocoder(finished)
        # denoisers were trained on the latents of this VAE: it must stay as it is
        module.requires_grad_(False)
        module.vocoder.requires_grad_(True)
        return module

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return no names: a vocoder is added to a finished autoencoder."""
        return ()

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the name of the autoencoder that the vocoder is added to."""
        return (cls.component,)

    def with_new_vocoder(self, finished: AudioAutoencoder) -> AudioAutoencoder:
        """Return a finished autoencoder as it is, but for a new vocoder of `part`."""
        check_sections({self.section: self.config.part}, "part")
        vocoder = dict.fromkeys(VOCODERS) | {self.section: self.config.part}
        module = AudioAutoencoder.from_config(finished.config, **vocoder)
        module.vae.load_state_dict(finished.vae.state_dict())
        module.scaling.load_state_dict(finished.scaling.state_dict())
        module.correction.load_state_dict(finished.correction.state_dict())
        return module

    def measure(self, module: AudioAutoencoder) -> None:
        """Do nothing: denoisers rely on the statistics that the finished autoencoder came with."""

    def loss(
        self, module: AudioAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the sum of the spectral losses of a batch of sounds, and each of them for the log.

        The vocoder makes one cut, at a random place, from the log-mels of each sound with noise on them.
        """
        # spectrograms are made of whole sounds and then cut, since their edges are padded
        mel = module.log_mel(batch["sound"])
        hop = module.log_mel.hop_length
        start = int(
            torch.randint(0, mel.shape[1] - self.cut + 1, (1,), generator=generator, device=generator.device)
        )
        noise = torch.randn(mel.shape, generator=generator, device=mel.device)
        spoken = module.vocode((mel + self.options.latent_noise * noise)[:, start : start + self.cut])
        sound = batch["sound"][:, start * hop : (start + self.cut) * hop]
        by_size = [self.spectral_loss(spoken, sound, size) for size in self.resolutions]
        losses = torch.stack(by_size).mean(0)
        return losses.sum(), {"log_magnitude": losses[0].detach(), "magnitude": losses[1].detach()}

    def scores(self, module: AudioAutoencoder, batches: Sequence[Any]) -> dict[str, float]:
        """Return the L1 between the log-mels of held-out sounds and of what the vocoder makes of them."""
        return self.scorer.vocoded(module, [batch["sound"] for batch in batches])

    def dummy_batch(self, module: AudioAutoencoder, count: int) -> dict[str, Tensor]:
        """Return cuts of spectrograms, (B, cut, M)."""
        return {"mel": empty(count, self.cut, module.log_mel.bank.shape[1])}

    def dry_pass(self, module: AudioAutoencoder, batch: dict[str, Tensor]) -> None:
        """Run the vocoder."""
        module.vocode(batch["mel"])

    @staticmethod
    def spectral_loss(spoken: Tensor, sound: Tensor, size: int) -> Tensor:
        """Return the L1 of log magnitudes and the relative L1 of magnitudes at one window size.

        Args:
            spoken: the waveforms of the vocoder, (B, N).
            sound: the waveforms to make, (B, N).
            size: the window, in samples of the waveform.

        Returns:
            Both losses, (2,).
        """
        spoken, sound, floor = magnitudes(spoken, sound, size)
        log = ((spoken + floor).log() - (sound + floor).log()).abs().mean()
        return torch.stack([log, (spoken - sound).abs().sum() / (sound.sum() + floor)])


class TextStage(AutoencoderStage):
    """The stage that trains the autoencoder of sentences, on captions that name all facts or some of them.

    Its latents are sequences where `part` has a `latent_length`, else vectors.
    """

    component = "text_autoencoder"
    modality = Modality.TEXT
    entry = "captions"
    options_class = TextOptions

    def __init__(self, config: Config):
        super().__init__(config)
        anew = not self.options.continue_from
        self.tokenizer = read_tokenizer_options(self.options.tokenizer, config, anew)

    def build(self) -> TextAutoencoder:
        """Return the autoencoder of `part`, or the one in the model folder.

        A new one gets the words of the data or pieces of them; one that is there keeps its own.
        """
        if not self.options.continue_from:
            cls = component_class(self.component, sequence="latent_length" in self.config.part)
            return self.begin(cls, tokenizer=tokenizer_of(self.config, self.tokenizer))
        self.reader = self.begin(TextAutoencoder)
        return self.reader

    def data(self, offset: int = 0) -> Source:
        """Return a source of captions.

        Files that a finished autoencoder is trained on further are checked: how many of their words it lacks
        is printed.

        Args:
            offset: added to the seed; another offset gives other samples.

        Returns:
            A source whose batches have "captions".
        """
        source = super().data(offset)
        if self.config.data and self.options.continue_from and not offset:
            check_words(source.source, [self.reader], self.config.model)
        return source

    def render(self, scenes: list, rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return a caption of each scene, which names all facts or some of them."""
        facts = tuple(ATTRIBUTES)
        return {"captions": [random_caption(scene, facts, 0.7, rng) for scene, rng in zip(scenes, rngs)]}

    def loss(
        self, module: TextAutoencoder, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch of captions, and values for the log.

        It is the cross-entropy of tokens, plus the weighted Kullback-Leibler term.
        """
        mean, log_variance = module.posterior(batch["captions"])
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latent = self.blur(mean + (0.5 * log_variance).exp() * noise, generator)
        token = module.token_loss(latent, batch["captions"]).mean()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return token + self.options.kl_weight * kl, {"token": token.detach(), "kl": kl.detach()}

    def dummy_batch(self, module: TextAutoencoder, count: int) -> dict[str, Tensor]:
        """Return sentences of the greatest length."""
        return {"ids": whole_numbers(count, module.num_positions)}

    def dry_pass(self, module: TextAutoencoder, batch: dict[str, Tensor]) -> None:
        """Encode and decode the sentences."""
        module.logits(module.posterior_of_ids(batch["ids"])[0], batch["ids"])

    def mean_latent(self, module: TextAutoencoder, batch: dict[str, Any]) -> Tensor:
        """Return the unnormalised latents of a batch."""
        return module.posterior(batch["captions"])[0]

    def scores(self, module: TextAutoencoder, batches: Sequence[Any]) -> dict[str, float]:
        """Return the share of held-out sentences that come back word for word."""
        return self.scorer.sentences(module, [batch["captions"] for batch in batches])

    def preview(self, module: TextAutoencoder, folder: Path) -> None:
        """Write sentences, each with what the autoencoder makes of it."""
        captions = self.samples(2, 16)["captions"]
        restored = round_trip(module, captions)
        lines = [f"{before}\n    {after}" for before, after in zip(captions, restored)]
        (folder / "sentences.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
