"""Audio: mono sounds in [-1, 1], (samples,), at the model's sampling rate."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi.modalities.base import MARGIN, Cut, Likeness, ModalityKind, shortened
from codi.types import InputError, Modality, ModalitySpec

RESAMPLING = 64  # samples beyond a cut that the filter of a change of rate may ask for


class Audio(ModalityKind):
    """Sounds, of at most the model's own length."""

    name = "audio"
    rate_field = "sampling_rate"
    suffix = ".wav"
    regions = ("interval",)
    more_suffixes = (".mp4",)  # a clip that was given, with the new sound
    sizes = ("audio_length_in_s",)
    prompt_file = "wav, flac, mp3, ogg, m4a"
    has_onsets = True
    data_suffixes = ("wav", "flac", "mp3", "ogg")
    geometry_keys = ("samples", "rate")
    latent_axes = (1,)
    # A sound starts when the text is done (docs/joint.md). Guidance towards agreement is as strong as prompt
    # guidance, so that it costs no further branch.
    sampling = {"guidance_scale": 3.0, "sync_guidance_scale": 3.0, "start_offset": 1.0}
    classes = {
        "audio_autoencoder": "codi.models.autoencoders:AudioAutoencoder",
        "audio_tower": "codi.models.conditioning:AudioTower",
        "audio_denoiser": "codi.models.denoisers:UNetDenoiser",
    }
    made_by = {
        "audio_autoencoder": "autoencoder_audio and vocoder",
        "audio_tower": "align_audio",
        "audio_denoiser": "denoise_audio",
    }
    aligned = ("audio_tower",)

    def describe(self, autoencoder: Any, denoiser: Any | None) -> ModalitySpec:
        """Return the geometry that the autoencoder states."""
        return ModalitySpec(
            raw_shape=(autoencoder.config.num_samples,),
            latent_shape=autoencoder.latent_shape,
            rate=autoencoder.sampling_rate,
            latent_rate=autoencoder.latent_rate,
        )

    def resized(
        self, spec: ModalitySpec, sizes: Mapping[str, Any], autoencoder: Any, denoiser: Any | None
    ) -> ModalitySpec:
        """Return the geometry of a sound of another length, `audio_length_in_s`.

        Its latent has as many columns as cover the length; the last one may reach beyond it.
        """
        seconds = sizes.get("audio_length_in_s")
        if seconds is None:
            return spec
        rate, duration = spec.timed
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 1 / rate <= seconds <= duration:
            raise InputError(
                f"audio_length_in_s is {seconds!r}: expected at least one sample ({1 / rate:g} s) and "
                f"at most {duration:g} s"
            )
        channels, most, bands = spec.latent_shape
        columns = min(math.ceil(seconds * spec.latent_rate), most)
        return replace(spec, raw_shape=(round(seconds * rate),), latent_shape=(channels, columns, bands))

    def sizes_of(self, spec: ModalitySpec) -> dict[str, Any]:
        """Return the length in seconds, `audio_length_in_s`."""
        return {"audio_length_in_s": spec.duration}

    def size_in_words(self, spec: ModalitySpec) -> list[str]:
        """Return the length in words."""
        return [f"{spec.duration:g} s of sound"]

    def trimmed(self, raw: Any, spec: ModalitySpec) -> Any:
        """Return sounds (B, samples) without what the last latent column adds beyond the length."""
        return raw[:, : spec.raw_shape[0]]

    def prepare(self, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
        """Return a recording as a float tensor (samples,) in [-1, 1] at the model's sampling rate.

        Channels are averaged. Without `padded` a short recording keeps its own length.
        """
        from codi import io, media

        assert spec is not None  # only words have no geometry
        rate, duration = spec.timed
        # A resampling filter at the end of the sound reads beyond it.
        wave, own_rate = media.load_sound(value, rate, duration + MARGIN)
        io.check_audio(wave, own_rate, source=value if isinstance(value, (str, Path)) else "the recording")
        own = round(wave.shape[-1] * rate / own_rate)
        length = spec.raw_shape[0] if padded else min(spec.raw_shape[0], own)
        return io.fit_audio(wave, round(own_rate), round(rate), length)

    def check_heard(self, path: str | Path, spec: ModalitySpec) -> None:
        """Raise `InputError` for a recording that is silent in the part that the model takes."""
        self.check_file(path, spec.timed[1] + MARGIN)

    def formatted(self, raw: Any, output_type: str) -> list[Any]:
        """Return sounds (B, samples) as tensors, or as arrays for "np", clipped to [-1, 1]."""
        waves = list(raw.float().clamp(-1, 1).cpu())
        return [wave.numpy() for wave in waves] if output_type == "np" else waves

    def preview(self, raw: Any, spec: ModalitySpec) -> tuple[str, bytes]:
        """Return a small spectrogram."""
        from codi.io.preview import small_spectrogram

        return small_spectrogram(raw)

    def write(self, out: Any, stem: Path, k: int) -> Path:
        """Write sample `k` as a sound file with its record, and return the path."""
        import torch

        from codi import io

        wave = torch.as_tensor(out.audios[k])
        return io.save_audio(self.path(stem), wave, out.sampling_rate, out.comment(k), out.record_text(k))

    def shown(self, out: Any, k: int) -> str:
        """Return sample `k` as its waveform, its spectrogram and a player in HTML."""
        import torch

        from codi.io import players

        return players.sound(torch.as_tensor(out.audios[k]), round(out.sampling_rate))

    def whole(self, value: Any, spec: ModalitySpec) -> Any:
        """Return a recording of its own length as a float tensor (samples,) in [-1, 1]."""
        from codi import io, media

        rate, _ = spec.timed
        wave, own_rate = media.load_sound(value, rate, 60.0 * io.MAX_MINUTES)
        io.check_audio(wave, own_rate, source=value if isinstance(value, (str, Path)) else "the recording")
        return io.fit_audio(wave, round(own_rate), round(rate), round(wave.shape[-1] * rate / own_rate))

    @contextmanager
    def stream(
        self, stem: Path, specs: Mapping[Modality, ModalitySpec], comment: str, record: Callable[[], str]
    ) -> Iterator[Callable[[Mapping[Modality, Any]], None]]:
        """Write a sound file piece by piece."""
        from codi import io

        rate = round(specs[self.modality].timed[0])
        with io.stream_audio(self.path(stem), rate, comment, record) as append:
            yield lambda piece: append(piece[self.modality])

    def onsets(self, raw: Any, rate: float) -> Any:
        """Return the seconds (K,) of the onsets of a sound (samples,) at `rate` Hz."""
        from codi.modalities.onsets import sound_onsets

        return sound_onsets(raw, rate)

    def geometry_of(self, values: Mapping[str, Any]) -> ModalitySpec:
        """Return the geometry that a configuration states by samples and Hz."""
        return ModalitySpec(raw_shape=(values["samples"],), latent_shape=(), rate=values["rate"])

    def geometry_in(self, configs: Mapping[str, Mapping[str, Any]]) -> ModalitySpec | None:
        """Return the geometry of sounds that the audio autoencoder states."""
        shape = configs.get("audio_autoencoder")
        if not shape:
            return None
        rate = (shape.get("mel_config") or {}).get("sampling_rate", 16000)
        return self.geometry_of({"samples": shape["num_samples"], "rate": float(rate)})

    def read(self, source: Any, spec: ModalitySpec, cut: Cut, carrier: Modality | None = None) -> Any:
        """Return a stretch of a recording, or of the sound of a clip, float32 (samples,).

        One that ends early is followed by silence, and comes as `Padded`.
        """
        from codi import io
        from codi.io.sounds import read_sound

        rate, duration = spec.timed
        seconds = duration + RESAMPLING / min(rate, 8000)
        found = read_sound(source, cut.start, seconds, cut.end, clip=carrier is not None)
        if found is None:
            return None
        wave, own_rate = found
        fitted = io.fit_audio(wave, own_rate, round(rate), spec.raw_shape[0]).contiguous()
        return shortened(fitted, 0, round(len(wave) * rate / own_rate))

    def likeness(self, path: Path, start: float | None, end: float | None) -> Likeness:
        """Return what a file is compared by: its samples."""
        from codi import io

        return Likeness(**io.sound_likeness(path, start, end))

    def seconds_in(self, source: Any) -> float | None:
        """Return the seconds that the header states, 0 where it states none."""
        from codi.io.sounds import seconds_of

        return seconds_of(source, clip=False)
