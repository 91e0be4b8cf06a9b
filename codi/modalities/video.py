"""Video: clips of pictures in [-1, 1], (F, 3, H, W), at the model's frames per second."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codi.modalities.base import MARGIN, Cut, Likeness, ModalityKind, shortened
from codi.modalities.image import Image, fitted, with_pixels
from codi.types import InputError, Modality, ModalitySpec

MOST_PIXELS = 1 << 14  # along a side of a clip whose size is asked for
SLOWEST, FASTEST = 0.1, 1000.0  # frames per second that a file can state


class Video(ModalityKind):
    """Clips. A picture's components serve them, frame by frame or with temporal layers."""

    name = "video"
    autoencoder = "image_autoencoder"
    tower = "vision_tower"
    denoiser = "vision_denoiser"
    upscaler = "image_upscaler"
    rate_field = "fps"
    suffix = ".mp4"
    regions = ("box", "mask", "interval", "frame")
    sizes = ("height", "width", "num_frames", "fps", "audio_length_in_s")  # of a clip without sound, too
    prompt_file = "mp4, webm, mov, avi"
    takes_sound = True
    has_onsets = True
    data_suffixes = ("mp4", "webm", "gif", "apng")
    geometry_keys = ("size", "frames", "fps")
    carries = ("audio",)
    dtype = "uint8"
    latent_axes = (1, None, 2, 3)
    # A clip starts when the sound is done (docs/joint.md).
    sampling = {"guidance_scale": 3.0, "sync_guidance_scale": 3.0, "start_offset": 2.0}
    classes = Image.classes
    made_by = {**Image.made_by, "vision_denoiser": "denoise_image and denoise_video"}
    aligned = ()  # it adds to the tower that pictures made
    bridge = "video_bridge"

    def describe(self, autoencoder: Any, denoiser: Any | None) -> ModalitySpec | None:
        """Return the geometry of a clip; None without a denoiser.

        A clip is as many frames as the denoiser says, at its rate, each like a picture.
        """
        if denoiser is None:
            return None
        image = Image().describe(autoencoder, denoiser)
        config = denoiser.config
        channels, height, width = image.latent_shape
        return ModalitySpec(
            raw_shape=(config.num_frames, *image.raw_shape),
            latent_shape=(channels, config.num_frames, height, width),
            rate=config.latent_rate,
            latent_rate=config.latent_rate,
        )

    def serves(self, denoiser: Any) -> bool:
        """Return whether a denoiser has temporal layers."""
        return bool(denoiser.config.temporal_levels)

    def resized(
        self, spec: ModalitySpec, sizes: Mapping[str, Any], autoencoder: Any, denoiser: Any | None
    ) -> ModalitySpec:
        """Return the geometry of a clip of another height, width, number of frames and rate."""
        spec = with_pixels(spec, sizes, autoencoder)
        num_frames, fps = sizes.get("num_frames"), sizes.get("fps")
        if num_frames is None and fps is None:
            return spec
        _check_frames(num_frames, most_frames(denoiser))
        _check_rate(fps)
        count = num_frames or spec.raw_shape[0]
        rate = fps or spec.timed[0]
        channels, _, *space = spec.latent_shape
        return ModalitySpec(
            raw_shape=(count, *spec.raw_shape[1:]),
            latent_shape=(channels, count, *space),
            rate=rate,
            latent_rate=float(rate),
        )

    def sizes_of(self, spec: ModalitySpec) -> dict[str, Any]:
        """Return the height and width in pixels, the number of frames, and the frames per second."""
        height, width = spec.raw_shape[-2:]
        return {
            "height": height,
            "width": width,
            "num_frames": spec.raw_shape[0],
            "fps": float(spec.timed[0]),
        }

    def size_in_words(self, spec: ModalitySpec) -> list[str]:
        """Return the height and width, and the frames and their rate, in words."""
        pixels = f"{spec.raw_shape[-2]} x {spec.raw_shape[-1]}"
        return [pixels, f"{spec.raw_shape[0]} frames at {spec.rate:g} per second"]

    def is_part(self, value: Any) -> bool:
        """Return whether a value is a picture: pictures in a list are one clip."""
        from codi import media

        return media.is_picture(value)

    def prepare(self, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
        """Return a clip as a float tensor (F, 3, S, S) in [-1, 1] at the model's frames per second."""
        from codi import io, media

        assert spec is not None  # only words have no geometry
        rate, duration = spec.timed
        num_frames, (height, width) = spec.raw_shape[0], spec.raw_shape[-2:]
        frames, fps = media.load_clip(value, rate, duration + MARGIN, max(height, width), loop=True)
        io.check_pixels(frames.shape[-1], frames.shape[-2])
        return io.fit_video(frames, fps, num_frames, rate, (height, width))

    def prepare_frame(self, value: Any, spec: ModalitySpec) -> Any:
        """Return a picture as one frame, a float tensor (3, H, W) in [-1, 1]."""
        return Image().prepare(value, spec)

    def own_size(self, value: Any, spec: ModalitySpec) -> tuple[int, int]:
        """Return the height and width of a clip in pixels."""
        from codi import media

        rate, _ = spec.timed
        frames, _ = media.load_clip(value, rate, 1 / rate, MOST_PIXELS)
        height, width = frames.shape[-2:]
        return height, width

    def formatted(self, raw: Any, output_type: str) -> list[Any]:
        """Return clips (B, F, 3, H, W) in [-1, 1] as uint8 tensors, or as arrays (F, H, W, 3) for "np"."""
        from codi import io

        clips = list(io.from_unit(raw).cpu())
        return [clip.permute(0, 2, 3, 1).numpy() for clip in clips] if output_type == "np" else clips

    def preview(self, raw: Any, spec: ModalitySpec) -> tuple[str, bytes]:
        """Return a small clip with few frames, as an animated picture."""
        from codi.io.preview import small_clip

        return small_clip(raw, spec.timed[1])

    def write(self, out: Any, stem: Path, k: int) -> Path:
        """Write sample `k` as a clip, with the sound that was made with it if any, and return the path."""
        from codi import io

        frames, wave = _with_sound(out, k)
        sound = {} if wave is None else {"audio": wave, "sampling_rate": out.sampling_rate}
        notes = {"comment": out.comment(k), "record": out.record_text(k)}
        return io.save_video(self.path(stem), frames, out.fps, **sound, **notes)

    def shown(self, out: Any, k: int) -> str:
        """Return sample `k` as a player of the clip in HTML, with the sound that was made with it."""
        from codi.io import players

        frames, wave = _with_sound(out, k)
        return players.clip(frames, out.fps, wave, out.sampling_rate)

    def whole(self, value: Any, spec: ModalitySpec) -> Any:
        """Return a clip of its own length as uint8 (F, 3, H, W)."""
        from codi import io, media

        rate, (height, width) = spec.timed[0], spec.raw_shape[-2:]
        frames, fps = media.load_clip(value, rate, 60.0 * io.MAX_MINUTES, max(height, width))
        io.check_pixels(frames.shape[-1], frames.shape[-2])
        count = max(1, round(len(frames) / fps * rate))
        return io.from_unit(io.fit_video(frames, fps, count, rate, (height, width)))

    @contextmanager
    def stream(
        self, stem: Path, specs: Mapping[Modality, ModalitySpec], comment: str, record: Callable[[], str]
    ) -> Iterator[Callable[[Mapping[Modality, Any]], None]]:
        """Write a clip piece by piece, with the sound that is made with it if any."""
        from codi import io

        spec = specs[self.modality]
        sound = specs.get(Modality.AUDIO)
        rate = None if sound is None else round(sound.timed[0])
        height, width = spec.raw_shape[-2:]
        path = self.path(stem)
        with io.stream_video(path, spec.timed[0], (height, width), rate, comment, record) as append:
            yield lambda piece: append(piece[self.modality], piece.get(Modality.AUDIO))

    def onsets(self, raw: Any, rate: float) -> Any:
        """Return the seconds (K,) of the onsets of a clip (F, 3, H, W) at `rate` frames per second."""
        from codi.modalities.onsets import video_onsets

        return video_onsets(raw, rate)

    def geometry_of(self, values: Mapping[str, Any]) -> ModalitySpec:
        """Return the geometry that a configuration states by side, frames and frames per second."""
        shape = (values["frames"], *Image().geometry_of(values).raw_shape)
        return ModalitySpec(raw_shape=shape, latent_shape=(), rate=values["fps"])

    def geometry_in(self, configs: Mapping[str, Mapping[str, Any]]) -> ModalitySpec | None:
        """Return the geometry of clips that image autoencoder and vision denoiser state together."""
        image, denoiser = Image().geometry_in(configs), configs.get("vision_denoiser", {})
        if image is None or not denoiser.get("num_frames"):
            return None
        shape = (denoiser["num_frames"], *image.raw_shape)
        return ModalitySpec(raw_shape=shape, latent_shape=(), rate=float(denoiser["latent_rate"]))

    def aligned_geometry(self, known: ModalitySpec | None, tower: Mapping[str, Any]) -> ModalitySpec | None:
        """How long clips are and how many frames a second they have, the data say."""
        return None

    def trained_parts(self, tower: Any) -> list[Any]:
        """Return what clips add to the tower of pictures: temporal attention, and the summary of all frames.

        These layers act on clips alone, so that tokens of pictures stay what they are.
        """
        return [part for part in (tower.temporal, tower.summary) if part is not None]

    def read(self, source: Any, spec: ModalitySpec, cut: Cut, carrier: Modality | None = None) -> Any:
        """Return frames of a clip at an even rate, uint8 (F, 3, H, W).

        An animated picture that repeats goes on. Of any other clip that ends early the last frame stays, and
        it comes as `Padded`.
        """
        from codi.io.frames import read_shown

        count, rate, size = spec.raw_shape[0], spec.timed[0], max(spec.raw_shape[-2:])
        if cut.crop is not None:  # of what is cropped, as much is left as of the whole otherwise
            size = math.ceil(size / cut.crop[0])
        frames, shown = read_shown(source, cut.start, count, rate, cut.end, cut.backend, size)
        return shortened(fitted(frames, spec, cut), 0, shown)

    def likeness(self, path: Path, start: float | None, end: float | None) -> Likeness:
        """Return what a file is compared by: its streams and some of its frames."""
        from codi import io

        return Likeness(**io.clip_likeness(path, start, end))

    def carried_in(self, source: Any) -> tuple[str, ...]:
        """Return the sound if the file holds one, else nothing."""
        from codi.io.sounds import has_sound

        return self.carries if has_sound(source) else ()

    def seconds_in(self, source: Any) -> float | None:
        """Return the seconds that the header states, 0 where it states none."""
        from codi.io.sounds import seconds_of

        return seconds_of(source, clip=True)


def most_frames(denoiser: Any | None) -> int:
    """Return the number of frames of the longest clip that a denoiser makes; 0 without a denoiser."""
    return 0 if denoiser is None else (denoiser.config.temporal or {}).get("max_frames", 30)


def _check_frames(num_frames: Any, most: int) -> None:
    whole = isinstance(num_frames, int) and not isinstance(num_frames, bool)
    if num_frames is not None and (not whole or not 1 <= num_frames <= most):
        raise InputError(f"num_frames is {num_frames!r}: expected a whole number from 1 to {most}")


def _check_rate(fps: Any) -> None:
    number = isinstance(fps, (int, float)) and not isinstance(fps, bool)
    if fps is not None and (not number or not SLOWEST <= fps <= FASTEST):
        raise InputError(f"fps is {fps!r}: expected a number from {SLOWEST:g} to {FASTEST:g}")


def _with_sound(out: Any, k: int) -> tuple[Any, Any]:
    """Return the frames of sample `k`, uint8 (F, 3, H, W), and the sound (samples,) made with it, or None."""
    import numpy as np
    import torch

    clip = out.videos[k]
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) if isinstance(clip, np.ndarray) else clip
    return frames, torch.as_tensor(out.audios[k]) if out.audios else None
