"""Decode one sample, from its files to tensors of a model's geometry; decoding processes run this.

A `Job` holds all that is needed in plain values, random draws included, so that the same job gives the same
tensors wherever it runs.

Letters: F frames, H height, W width.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from codi.io import fit_audio, fit_image, from_unit
from codi.types import InputError, Modality
from data.frames import read_frames
from data.readers import Source, read_image, read_sound, seconds_of
from data.rows import Ref

IN_MEMORY = 64 << 20  # bytes; larger files without a digest to check are read where they lie
RESAMPLING = 64  # samples beyond the end of a cut that the filter may need where the rate is changed


@dataclass(frozen=True)
class Size:
    """The geometry of one medium.

    Attributes:
        shape: the raw shape, as in `codi.types.ModalitySpec`.
        rate: steps per second: frames of a clip, samples of a sound; 0 for a picture.
    """

    shape: tuple[int, ...]
    rate: float = 0.0

    @property
    def duration(self) -> float:
        """The length in seconds, 0 for a picture."""
        return self.shape[0] / self.rate if self.rate else 0.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to decode of one row.

    Attributes:
        key: (number of the source, number of the row), which identifies the sample.
        id: the name of the sample in messages.
        sizes: the media wanted, each with its geometry.
        refs: the files of the row.
        needed: media without which the sample is bad.
        start: the second of the file where the sample begins; None for the beginning of the file.
        end: the second where it ends; None for the end of the file.
        window: the place of the cut between `start` and `end`, in [0, 1); None for a cut that begins at
            `start`.
        crop: (side as a share of the whole, place from left, place from top), all in [0, 1]; None for the
            central square.
        flip: whether pictures and clips are mirrored.
        backend: what decodes clips: "decord" or "av".
        verify: whether files are compared with their sha256, where it is known.
        path: the files of the row in words, for the list of bad samples.
    """

    key: tuple[int, int]
    id: str
    sizes: Mapping[Modality, Size]
    refs: Mapping[Modality, Ref]
    needed: frozenset[Modality] = frozenset()
    start: float | None = None
    end: float | None = None
    window: float | None = None
    crop: tuple[float, float, float] | None = None
    flip: bool = False
    backend: str = "decord"
    verify: bool = True
    path: str = field(default="")


def decode(job: Job) -> dict[Modality, Tensor]:
    """Return the media of a job that its files give.

    Args:
        job: what to decode.

    Returns:
        uint8 (3, H, W) for a picture, uint8 (F, 3, H, W) for a clip, float32 (samples,) for a sound. A medium
        that the files do not give, and that is not needed, is left out.

    Raises:
        InputError: if a file is bad, or a needed medium is missing.
    """
    sources = {
        m: load(ref, job.verify, f"{m} of {job.id}") for m, ref in job.refs.items() if _is_wanted(m, job)
    }
    start = _start(job, sources)
    media: dict[Modality, Tensor] = {}
    for modality, size in job.sizes.items():
        source, clip = sources.get(modality), False
        if source is None and modality is Modality.AUDIO:
            source, clip = sources.get(Modality.VIDEO), True
        value = None if source is None else _READ[modality](job, size, source, start, clip)
        if value is not None:
            assert value.shape == size.shape, (job.id, modality, value.shape, size.shape)
            media[modality] = value
        elif modality in job.needed:
            raise InputError(f"{job.id} has no {modality}" + (": its clip is without sound" if clip else ""))
    return media


def load(ref: Ref, verify: bool, name: str) -> Source:
    """Return the content of a file, or of a member of a shard, after comparing it with its digest.

    Args:
        ref: where the content lies.
        verify: whether to compare it with the digest, where there is one.
        name: what messages call it.

    Returns:
        The bytes; the path instead for a large file that is not to be compared.

    Raises:
        InputError: if the file cannot be read, is empty or cut short, or was altered.
    """
    verify = verify and ref.sha256 is not None
    try:
        if ref.offset is None and not verify and ref.path.stat().st_size > IN_MEMORY:
            return Source(ref.path, name)
        with ref.path.open("rb") as stream:
            stream.seek(ref.offset or 0)
            content = stream.read(-1 if ref.size is None else ref.size)
    except OSError as error:
        raise InputError(f"{name}: cannot read {ref.path} ({error.strerror or error})") from None
    if ref.size is not None and len(content) != ref.size:
        raise InputError(f"{name}: {ref.path} is cut short")
    if not content:
        raise InputError(f"{name}: {ref.path} is empty")
    if verify and (found := hashlib.sha256(content).hexdigest()) != ref.sha256:
        raise InputError(
            f"{name}: {ref.path} was altered: its sha256 is {found[:12]}... instead of {ref.sha256[:12]}..."
        )
    return Source(content, name)


def _is_wanted(modality: Modality, job: Job) -> bool:
    """Return whether a file has to be opened; a clip also stands in for sound that has no file of its own."""
    stands_in = modality is Modality.VIDEO and Modality.AUDIO in job.sizes and Modality.AUDIO not in job.refs
    return modality in job.sizes or stands_in


def _start(job: Job, sources: Mapping[Modality, Source]) -> float:
    """Return the second at which the cut begins, the same for picture and sound."""
    low = job.start or 0.0
    if job.window is None:
        return low
    length = max(size.duration for size in job.sizes.values())
    high = job.end
    if high is None:
        timed = next((m for m in (Modality.VIDEO, Modality.AUDIO) if m in sources), None)
        high = 0.0 if timed is None else seconds_of(sources[timed], clip=timed is Modality.VIDEO)
    return low + job.window * max(0.0, high - low - length)


def _image(job: Job, size: Size, source: Source, start: float, clip: bool) -> Tensor:
    return _fit(read_image(source), job, size.shape[-1])


def _video(job: Job, size: Size, source: Source, start: float, clip: bool) -> Tensor:
    return _fit(
        read_frames(source, start, size.shape[0], size.rate, job.end, job.backend), job, size.shape[-1]
    )


def _audio(job: Job, size: Size, source: Source, start: float, clip: bool) -> Tensor | None:
    seconds = size.duration + RESAMPLING / min(size.rate, 8000)
    found = read_sound(source, start, seconds, job.end, clip)
    return None if found is None else fit_audio(*found, round(size.rate), size.shape[0]).contiguous()


_READ = {Modality.IMAGE: _image, Modality.VIDEO: _video, Modality.AUDIO: _audio}


def _fit(pixels: Tensor, job: Job, side: int) -> Tensor:
    """Return uint8 (..., 3, H, W) cropped, scaled to (..., 3, side, side), and mirrored if so asked."""
    if job.crop is not None:
        share, x, y = job.crop
        height, width = pixels.shape[-2:]
        edge = max(1, round(min(height, width) * share))
        top, left = round(y * (height - edge)), round(x * (width - edge))
        pixels = pixels[..., top : top + edge, left : left + edge]
    pixels = from_unit(fit_image(pixels, side))
    return (pixels.flip(-1) if job.flip else pixels).contiguous()


def describe(refs: Mapping[Modality, Ref]) -> str:
    """Return the paths of a row's files as one text, for the list of bad samples."""
    return ", ".join(str(path) for path in dict.fromkeys(Path(ref.path) for ref in refs.values()))


def silence(size: Size, modality: Modality) -> Tensor:
    """Return what stands for a missing medium: zeros, which are black or nothing to hear."""
    return torch.zeros(size.shape, dtype=torch.float32 if modality is Modality.AUDIO else torch.uint8)
