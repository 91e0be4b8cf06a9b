"""Write a clip with another sound, and leave its picture as it is.

The picture is copied packet by packet and never decoded: every frame stays what it was.
"""

import io
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from codi.io.files import NewFile, new_file
from codi.io.gates import open_container, picture_stream, reading, wrong_kind
from codi.io.media_file import duration_of
from codi.io.tags import KEY, append_to_mp4
from codi.io.write import encode_sound, open_new
from codi.types import InputError, Modality

USUAL = (".mp4", ".mov", ".mkv")  # in order of preference; what players expect of a few codecs differs
PREFERRED = {"vp8": (".webm", ".mkv"), "vp9": (".webm", ".mkv"), "rawvideo": (".mkv",)}
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
FLAGS = {".mp4": {"movflags": "+faststart"}, ".mov": {"movflags": "+faststart"}}
# The codec of the sound in a container, and the rate in Hz that it asks for. Elsewhere it is aac, at the rate
# of the sound itself.
CODECS = {".webm": ("libopus", 48_000)}


def save_dubbed(
    stem: str | Path,
    clip: str | Path,
    wave: Tensor,
    rate: int,
    comment: str | None = None,
    record: str | None = None,
) -> Path | None:
    """Write the picture of a clip with another sound, which begins at its first frame.

    A sound that outlasts the picture ends with it.

    Args:
        stem: the path to write, without its suffix. The suffix is .mp4, or another one if mp4 cannot take the
            clip's packets as they are, which a warning says.
        clip: the file of the clip.
        wave: the sound, float (samples,) in [-1, 1].
        rate: the sampling rate of the sound in Hz.
        comment: a text for people that the file carries.
        record: how the sound was made, in ASCII, which the file carries as well (`codi.io.tags`).

    Returns:
        The path that was written; None, and a warning, if no container can take the clip's packets.

    Raises:
        InputError: if the clip cannot be read, or would be overwritten by itself.
    """
    import av

    with reading(clip, Modality.VIDEO), open_container(clip) as source:
        picture = picture_stream(source)
        if picture is None:
            raise InputError(wrong_kind(clip, Modality.VIDEO))
        codec = picture.codec.canonical_name
        suffix = next((s for s in PREFERRED.get(codec, USUAL) if takes(s, picture)), None)
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
        with new_file(path) as file:
            tags = {"comment": comment} if suffix in FLAGS else {"comment": comment, KEY: record}
            notes = {key: text for key, text in tags.items() if text}
            try:
                _write(file, suffix, source, picture, wave, int(rate), notes)
            except av.error.FFmpegError as error:
                if file.error is not None:  # the disk refused something
                    raise
                raise InputError(wrong_kind(clip, Modality.VIDEO, error)) from error
            if record and suffix in FLAGS:
                append_to_mp4(file, record)
    return path


def takes(suffix: str, stream: Any) -> bool:
    """Return whether a container can hold the packets of a stream as they are.

    It can if it writes a header for them.
    """
    import av

    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as container:
            container.add_stream_from_template(stream, opaque=True)
            container.start_encoding()
        return True
    except (av.error.FFmpegError, ValueError):
        return False


def _write(
    file: NewFile, suffix: str, source: Any, picture: Any, wave: Tensor, rate: int, tags: dict[str, str]
) -> None:
    """Write the copied picture and the new sound into one container, of the kind that the suffix says."""
    codec, codec_rate = CODECS.get(suffix, ("aac", rate))
    with open_new(file, FORMATS[suffix], FLAGS.get(suffix, {})) as container:
        container.metadata.update(tags)
        copied = container.add_stream_from_template(picture, opaque=True)
        encode_sound(container, container.add_stream(codec, rate=codec_rate, layout="mono"), wave, rate)
        copy_packets(container, source, picture, copied, picture.start_time or 0)


def copy_packets(container: Any, source: Any, stream: Any, copied: Any, start: int) -> None:
    """Copy all packets of a stream, unchanged but for their times, which are counted from `start`.

    Args:
        container: the new file.
        source: the file that is read.
        stream: the stream of it whose packets are copied.
        copied: the stream of the new file.
        start: the time that becomes 0, in units of the stream.
    """
    for packet in source.demux(stream):
        if not packet.size:  # an empty packet marks the end
            continue
        pts = packet.dts if packet.pts is None else packet.pts
        packet.dts = None if packet.dts is None else packet.dts - start
        packet.pts = None if pts is None else pts - start
        packet.stream = copied
        container.mux(packet)
