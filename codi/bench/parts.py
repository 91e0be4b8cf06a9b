"""Read the parts of an item: pictures, sounds, clips and words, cut as their row says."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from codi import io
from codi.bench.collection import MAX_LINE, Part
from codi.modalities import kind_of
from codi.types import InputError


def read_part(part: Part) -> Any:
    """Return a medium as `codi.io` reads it.

    Args:
        part: what is read; of words that stand in a row, the first sentence.

    Returns:
        A picture uint8 (3, H, W), a sound (float32 (samples,), Hz), a clip as `io.Video`, or a `str`; None
        for the sound of a clip that has none.

    Raises:
        InputError: for a file that cannot be read, or that ends before the part begins.
    """
    if part.words:
        return part.words[0]
    kind = kind_of(part.modality)
    if kind.in_words:
        return _words(part)
    read = _READ.get((kind.rate_field is not None, kind.spatial))
    if read is None:
        raise InputError(f"files of kind {part.modality} cannot be measured")
    return read(part)


def _image(part: Part) -> Any:
    return io.load_image(_path(part))


def _words(part: Part) -> str:
    with _path(part).open(encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_LINE).strip()
    if not text:
        raise InputError(f"{part.path} holds no words")
    return text


def _sound(part: Part) -> Any:
    path = _path(part)
    if part.carried and part.modality.value not in io.facts(path):
        return None
    wave, rate = io.load_audio(path, part.end)
    wave = wave[round(part.start * rate) :]
    if not len(wave):
        raise InputError(f"{path} ends before second {part.start:g}, where its row begins")
    return wave, rate


def _clip(part: Part) -> Any:
    path = _path(part)
    clip = io.load_video(path, seconds=part.end, size=SIDE, sound=False)
    frames = clip.frames[round(part.start * clip.fps) :]
    if not len(frames):
        raise InputError(f"{path} ends before second {part.start:g}, where its row begins")
    return io.Video(frames=frames, fps=clip.fps)


SIDE = 256  # pixels; larger clips are shrunk to about twice that, which spares memory
_READ: dict[tuple[bool, bool], Callable[[Part], Any]] = {  # whether it has time, whether it has places
    (False, True): _image,
    (True, False): _sound,
    (True, True): _clip,
}


def _path(part: Part) -> Path:
    assert part.path is not None, f"a part of kind {part.modality} has words or a file"
    return part.path


def split(part: Part) -> list[Part]:
    """Return a part with several sentences as a part for each."""
    if not part.words:
        return [part]
    return [Part(modality=part.modality, words=(sentence,)) for sentence in part.words]


def digest_of(part: Part) -> str:
    """Return what tells the content of a part from that of others, wherever its file lies."""
    if part.words:
        content = f"words {part.words[0]}"
    else:
        content = f"{_sha256(_path(part))} {part.start:g} {part.end} {part.carried}"
    return hashlib.sha256(f"{part.modality} {content}".encode()).hexdigest()[:32]


@cache
def _sha256(path: Path) -> str:
    """Return the digest of a file, which is taken once in a process."""
    return io.sha256_of(path)
