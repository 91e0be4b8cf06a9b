"""Write tensors into media files.

Nobody sees half of a file (`codi.io.files`). Letters: F frames, H height, W width.
"""

import io
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codi.io.files import NewFile, new_file
from codi.io.tags import KEY, MOST_IN_JPEG, append_to_mp4, append_to_wav, exif_of, in_flac, in_mp3
from codi.libraries import load
from codi.types import InputError, Modality

if TYPE_CHECKING:
    from PIL import Image


# The library that writes files of a modality, where Python and Pillow do not, and what it is needed for.
WRITERS = {Modality.AUDIO: ("soundfile", "writing a sound"), Modality.VIDEO: ("av", "writing a clip")}
CLIPS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".m4v": "ipod",
}  # suffixes of clips, and FFmpeg's names of their formats


def check_writers(modalities: Iterable[Modality]) -> None:
    """Raise `InputError` if a library does not load that is needed to write files of these modalities."""
    for modality in modalities:
        if modality in WRITERS:
            load(*WRITERS[modality])


def save_image(
    path: str | Path, image: "Tensor | Image.Image", comment: str | None = None, record: str | None = None
) -> Path:
    """Write a picture in the format that the suffix of its name says.

    Args:
        path: the file.
        image: uint8 (3, H, W), or an image of Pillow.
        comment: a text for people, which a png carries.
        record: how the picture was made, in ASCII, which a png, jpg or webp carries (`codi.io.tags`).

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written.
    """
    from PIL import Image, PngImagePlugin

    suffix = Path(path).suffix.lower()
    form = Image.registered_extensions().get(suffix)
    if form is None:
        raise InputError(f"cannot write a picture as {path}: expected a name that ends in .png")
    if isinstance(image, Tensor):
        assert image.dtype == torch.uint8 and image.dim() == 3, (image.dtype, image.shape)
        image = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    options: dict[str, Any] = {}
    texts = {"Comment": comment, KEY: record}
    if any(texts.values()) and suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for key, text in texts.items():
            if text:
                options["pnginfo"].add_text(key, text)
    elif record and form in ("JPEG", "WEBP"):
        options["exif"] = exif_of(record)
        if form == "JPEG" and len(options["exif"]) > MOST_IN_JPEG:
            raise InputError(
                f"the record of {path} has {len(record)} letters, more than a jpg has place for: expected "
                "another format, such as png"
            )
    # encoded in memory, because the encoders of some formats write past the file object
    encoded = io.BytesIO()
    image.save(encoded, format=form, **options)
    with new_file(path) as file:
        file.write(encoded.getbuffer())
    return Path(path)


def save_audio(
    path: str | Path, wave: Tensor, rate: int, comment: str | None = None, record: str | None = None
) -> Path:
    """Write a sound as wav (16 bit), flac, ogg or mp3, as the suffix of its name says.

    Args:
        path: the file.
        wave: float (samples,) or (channels, samples) in [-1, 1]; what is beyond is clipped.
        rate: the sampling rate in Hz.
        comment: a text for people that the file carries.
        record: how the sound was made, in ASCII, which a wav, flac or mp3 carries (`codi.io.tags`).

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written.
    """
    soundfile = load(*WRITERS[Modality.AUDIO])
    wave = finite(wave, path)
    suffix = Path(path).suffix.lower()
    # encoded in memory, because libsndfile does not say when the disk refuses something
    encoded = io.BytesIO()
    form = {"samplerate": int(rate), "channels": len(wave), "format": suffix[1:].upper()}
    with soundfile.SoundFile(encoded, "w", **form) as file:
        if comment:
            file.comment = comment
        file.write(wave.T.numpy())
    with new_file(path) as new:
        new.write(_tagged(encoded, suffix, comment, record))
    return Path(path)


def _tagged(encoded: io.BytesIO, suffix: str, comment: str | None, record: str | None) -> Any:
    """Return the bytes of an encoded sound that carry how it was made."""
    if record and suffix == ".wav":
        append_to_wav(encoded, record)
    elif record and suffix == ".flac":
        return in_flac(encoded.getvalue(), record)
    elif record and suffix == ".mp3":
        return in_mp3(encoded.getvalue(), record, comment)
    return encoded.getbuffer()


def save_video(
    path: str | Path,
    frames: Tensor,
    fps: float,
    audio: Tensor | None = None,
    sampling_rate: int | None = None,
    comment: str | None = None,
    record: str | None = None,
) -> Path:
    """Write a clip, with or without sound, as an mp4 (h264, aac) that plays everywhere.

    h264 wants even sides: an odd one repeats its last row or column.

    Args:
        path: the file, whose name ends in .mp4, .mov or .m4v.
        frames: uint8 (F, 3, H, W).
        fps: frames per second, which may be a fraction.
        audio: float (samples,) or (channels, samples) in [-1, 1], of one or two channels; what is beyond is
            clipped. None writes no sound.
        sampling_rate: the sampling rate of the sound in Hz; None without sound.
        comment: a text for people that the file carries.
        record: how the clip was made, in ASCII, which the file carries as well (`codi.io.tags`).

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written, or has another suffix.
    """
    load(*WRITERS[Modality.VIDEO])
    assert frames.dtype == torch.uint8 and frames.dim() == 4 and frames.shape[1] == 3, (
        frames.dtype,
        frames.shape,
    )
    assert (audio is None) == (sampling_rate is None), "sound comes with its rate"
    form = CLIPS.get(Path(path).suffix.lower())
    if form is None:
        raise InputError(f"cannot write a clip as {path}: expected a name that ends in .mp4")
    pixels = even(frames.cpu()).permute(0, 2, 3, 1).contiguous().numpy()  # (F, H, W, 3)
    sound_in = None if audio is None else finite(audio, path)
    with new_file(path) as file:
        with open_new(file, form, {"movflags": "+faststart"}) as container:
            if comment:
                container.metadata["comment"] = comment
            stream = picture_for(container, fps, *pixels.shape[1:3])
            layout = None if sound_in is None else "mono" if len(sound_in) == 1 else "stereo"
            sound = layout and container.add_stream("aac", rate=int(sampling_rate), layout=layout)
            encode_frames(container, stream, pixels)
            container.mux(stream.encode(None))
            if sound:
                encode_sound(container, sound, sound_in, int(sampling_rate))
        if record:
            append_to_mp4(file, record)
    return Path(path)


def open_new(file: NewFile, form: str, options: dict[str, str]) -> Any:
    """Open a new file with PyAV, to write a container into it.

    Args:
        file: the file.
        form: FFmpeg's name of the format.
        options: options of the format. To move its index to the front, FFmpeg opens the file once more.

    Returns:
        The container, to be used in a `with` block.
    """
    import av

    again: Callable[..., Any] = lambda url, flags, options: open(file.path, "rb")
    return av.open(file, "w", format=form, options=options, io_open=again)


def picture_for(container: Any, fps: float, height: int, width: int) -> Any:
    """Add the stream of a clip's picture to an open file, h264 that plays everywhere, and return it."""
    rate = Fraction(fps).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p"
    return stream


def encode_frames(container: Any, stream: Any, pixels: Iterable[Any]) -> None:
    """Encode frames, uint8 arrays (H, W, 3), into the stream of a picture, which more may follow."""
    import av

    for picture in pixels:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


def encode_sound(container: Any, stream: Any, audio: Tensor, rate: int) -> None:
    """Encode all of a sound into a stream, at the rate of that stream.

    Args:
        container: the open file that the stream belongs to.
        stream: the stream of sound.
        audio: float (samples,) or (channels, samples) in [-1, 1]; what is beyond is clipped.
        rate: the sampling rate of the sound in Hz.
    """
    import av

    samples = finite(audio, "a clip").numpy()
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def finite(audio: Tensor, path: Any) -> Tensor:
    """Return a sound as (channels, samples), float32 and clipped to [-1, 1].

    Raises `InputError` for a sound with samples that are no numbers; `path` is the file that it is for.
    """
    audio = torch.atleast_2d(audio.detach().float().cpu())
    if not torch.isfinite(audio).all():
        raise InputError(
            f"the sound for {path} has samples that are NaN or infinite: expected numbers in [-1, 1]; lower "
            "the guidance, or take another precision"
        )
    return audio.clamp(-1, 1)


def even(frames: Tensor) -> Tensor:
    """Return frames (F, 3, H, W) with even sides; the last row or column of an odd side is repeated."""
    height, width = frames.shape[-2:]
    return (
        F.pad(frames, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else frames
    )
