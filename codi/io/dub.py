"""A clip with another sound. Its picture is copied packet by packet, never decoded: every frame stays what it
was.
"""

import io
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from codi.io.gates import open_container, picture_stream, reading, wrong_kind
from codi.io.read import duration_of
from codi.io.tags import KEY, append_to_mp4
from codi.io.write import atomic, encode_sound
from codi.types import InputError, Modality

USUAL = (".mp4", ".mov", ".mkv")  # in order of preference; what players expect of a few codecs differs
PREFERRED = {"vp8": (".webm", ".mkv"), "vp9": (".webm", ".mkv"), "rawvideo": (".mkv",)}
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
FLAGS = {".mp4": {"movflags": "+faststart"}, ".mov": {"movflags": "+faststart"}}
# of the sound, and the rate that it asks for; elsewhere aac at the sound's own
CODECS = {".webm": ("libopus", 48_000)}


def save_dubbed(
    stem: str | Path,
    clip: str | Path,
    wave: Tensor,
    rate: int,
    comment: str | None = None,
    record: str | None = None,
) -> Path | None:
    """Writes the picture of the file `clip` with the sound (samples,) from its first frame on; returns the
    path.

    The path is STEM.mp4, or another suffix where mp4 cannot take the clip's packets as they are, which a
    warning says; None, and a warning, where nothing can. It carries `comment` and `record` (ASCII). A sound
    that outlasts the picture ends with it. Raises `InputError` if the clip itself would be overwritten.
    """
    with reading(clip, Modality.VIDEO), open_container(clip) as source:
        picture = picture_stream(source)
        if picture is None:
            raise InputError(wrong_kind(clip, Modality.VIDEO))
        codec = picture.codec.canonical_name
        suffix = next((s for s in PREFERRED.get(codec, USUAL) if _takes(s, picture)), None)
        if suffix is None:
            warnings.warn(
                f"no container takes the {codec} frames of {clip} as they are: only the sound is written",
                stacklevel=2,
            )
            return None
        path = Path(f"{stem}{suffix}")
        if path.exists() and path.samefile(clip):
            raise InputError(
                f"{clip} would be overwritten by itself with another sound: name another folder for what is "
                "made"
            )
        if suffix != USUAL[0]:
            warnings.warn(
                f"{clip} holds {codec}, which {suffix} takes unchanged: with its new sound it is {path.name}",
                stacklevel=2,
            )
        seconds = duration_of(source, picture)
        wave = wave[: round(seconds * rate)] if seconds else wave
        with atomic(path) as temporary:
            tags = {"comment": comment} if suffix in FLAGS else {"comment": comment, KEY: record}
            _write(
                temporary, source, picture, wave, int(rate), {key: text for key, text in tags.items() if text}
            )
            if record and suffix in FLAGS:
                append_to_mp4(temporary, record)
    return path


def _takes(suffix: str, picture: Any) -> bool:
    """Whether a container can hold the packets of a stream as they are: whether it writes a
    header for them.
    """
    import av

    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as container:
            container.add_stream_from_template(picture, opaque=True)
            container.start_encoding()
        return True
    except (av.error.FFmpegError, ValueError):
        return False


def _write(path: Path, source: Any, picture: Any, wave: Tensor, rate: int, tags: dict[str, str]) -> None:
    import av

    codec, codec_rate = CODECS.get(path.suffix, ("aac", rate))
    with av.open(str(path), "w", options=FLAGS.get(path.suffix, {})) as container:
        container.metadata.update(tags)
        copied = container.add_stream_from_template(picture, opaque=True)
        encode_sound(container, container.add_stream(codec, rate=codec_rate, layout="mono"), wave, rate)
        _copy(container, source, picture, copied)


def _copy(container: Any, source: Any, picture: Any, copied: Any) -> None:
    """All packets of a stream, as they are, with time counted from its first frame."""
    start = picture.start_time or 0
    for packet in source.demux(picture):
        if not packet.size:  # marks the end
            continue
        pts = packet.dts if packet.pts is None else packet.pts
        packet.dts = None if packet.dts is None else packet.dts - start
        packet.pts = None if pts is None else pts - start
        packet.stream = copied
        container.mux(packet)
