"""Write a clip with other frames, and leave its sound as it is.

The sound is copied packet by packet and never decoded. Letters: F frames, H height, W width.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from codi.io.dub import FLAGS, FORMATS, copy_packets, takes
from codi.io.files import new_file
from codi.io.gates import open_container, reading, sound_stream
from codi.io.media_file import zero_of
from codi.io.write import encode_frames, even, open_new, picture_for
from codi.types import Modality

SUFFIX = ".mp4"


def save_reframed(
    path: str | Path, pieces: Iterable[Tensor], fps: float, clip: str | Path, comment: str | None = None
) -> Path:
    """Write other frames of a clip, at the rate at which it was read, with the sound that it has.

    Args:
        path: the file, whose name ends in .mp4.
        pieces: frames uint8 (F, 3, H, W), piece by piece, all of one size.
        fps: frames per second, those of `codi.io.load_video`.
        clip: the file of the clip. A sound that mp4 cannot take unchanged is left out, which a warning says.
        comment: a text for people that the file carries.

    Returns:
        The path.

    Raises:
        InputError: if the clip cannot be read, or the file cannot be written.
    """
    with reading(clip, Modality.VIDEO), open_container(clip) as source:
        sound = sound_stream(source)
        if sound is not None and not takes(SUFFIX, sound):
            codec = sound.codec.canonical_name
            warnings.warn(
                f"{SUFFIX} does not take the {codec} sound of {clip}: {path} has none", stacklevel=2
            )
            sound = None
        with new_file(path) as file, open_new(file, FORMATS[SUFFIX], FLAGS[SUFFIX]) as container:
            if comment:
                container.metadata["comment"] = comment
            _write(container, pieces, fps, source, sound)
    return Path(path)


def _write(container: Any, pieces: Iterable[Tensor], fps: float, source: Any, sound: Any) -> None:
    """Write the frames and the copied sound into an open file; a header needs both streams first."""
    stream = copied = None
    for piece in pieces:
        pixels = even(piece.cpu()).permute(0, 2, 3, 1).contiguous().numpy()  # (F, H, W, 3)
        if stream is None:
            stream = picture_for(container, fps, *pixels.shape[1:3])
            if sound is not None:
                copied = container.add_stream_from_template(sound, opaque=True)
        encode_frames(container, stream, pixels)
    assert stream is not None, "a clip has at least one frame"
    container.mux(stream.encode(None))
    if sound is not None:
        # frames were read from time 0 of the file, which the sound keeps
        copy_packets(container, source, sound, copied, round(zero_of(source) / sound.time_base))
