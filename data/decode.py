"""Decode one sample, from its files to tensors of a model's geometry; decoding processes run this.

A `Job` holds all that is needed in plain values, random draws included, so that the same job gives the same
tensors wherever it runs.

Letters: F frames, H height, W width.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from codi.io.fit import BLACK, Fit
from codi.io.media_file import MediaFile
from codi.modalities import Content, Cut, ModalityKind, Padded, kind_of
from codi.rows import Ref
from codi.types import InputError, Modality, ModalitySpec

IN_MEMORY = 64 << 20  # bytes; larger files without a digest to check are read where they lie


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

    @property
    def spec(self) -> ModalitySpec:
        """The geometry in the form that a modality takes."""
        return ModalitySpec(raw_shape=self.shape, latent_shape=(), rate=self.rate or None)


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
        fits: what is done with pixels of another aspect ratio, by modality; the rest is cropped.
        colour: red, green and blue of what pads pixels.
        backend: what decodes clips: "decord" or "av".
        verify: whether files are compared with their sha256, where it is known.
        path: the files of the row in words, for the list of bad samples.
        kinds: what is known of these media and of those of the files, since a decoding process may not have
            registered them all.
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
    fits: Mapping[Modality, Fit] = field(default_factory=dict)
    colour: tuple[int, int, int] = BLACK
    backend: str = "decord"
    verify: bool = True
    path: str = field(default="")
    kinds: Mapping[Modality, ModalityKind] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", {m: kind_of(m) for m in {*self.sizes, *self.refs}})


class Media(dict[Modality, Tensor]):
    """The media of one sample, and what of them is content.

    Attributes:
        content: of each medium that is padded, from where to where each axis is content.
    """

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[Modality, Content] = {}

    def add(self, modality: Modality, value: Tensor | Padded) -> None:
        """Add a medium as its modality reads it."""
        if isinstance(value, Padded):
            self.content[modality] = value.content
            value = value.value
        self[modality] = value


def decode(job: Job) -> Media:
    """Return the media of a job that its files give.

    Args:
        job: what to decode.

    Returns:
        uint8 (3, H, W) for a picture, uint8 (F, 3, H, W) for a clip, float32 (samples,) for a sound. A medium
        that the files do not give, and that is not needed, is left out.

    Raises:
        InputError: if a file is bad, or a needed medium is missing.
    """
    carriers = {m: carrier_of(m, job) for m in job.sizes}
    opened = {m for m in job.refs if m in job.sizes or m in carriers.values()}
    sources = {}
    for modality, ref in job.refs.items():
        if modality in opened:
            sources[modality] = load(ref, job.verify, f"{modality} of {job.id}")
    cut = Cut(
        start=_start(job, sources),
        end=job.end,
        crop=job.crop,
        flip=job.flip,
        backend=job.backend,
        colour=job.colour,
    )
    media = Media()
    for modality, size in job.sizes.items():
        carrier = carriers[modality]
        source = sources.get(modality if carrier is None else carrier)
        value = None
        if source is not None:
            own = replace(cut, fit=job.fits.get(modality, "crop"))
            value = job.kinds[modality].read(source, size.spec, own, carrier)
        if value is not None:
            media.add(modality, value)
            shape = media[modality].shape
            assert shape == size.shape, (job.id, modality, shape, size.shape)
        elif modality in job.needed:
            lacking = "" if carrier is None else f": there is none in its {carrier} file"
            raise InputError(f"{job.id} has no {modality}{lacking}")
    return media


def carrier_of(modality: Modality, job: Job) -> Modality | None:
    """Return the modality of the file of a row that holds a medium which has no file of its own."""
    if modality in job.refs:
        return None
    for carrier in job.refs:
        if modality.value in job.kinds[carrier].carries:
            return carrier
    return None


def load(ref: Ref, verify: bool, name: str) -> MediaFile:
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
            return MediaFile(ref.path, name)
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
    return MediaFile(content, name)


def _start(job: Job, sources: Mapping[Modality, MediaFile]) -> float:
    """Return the second at which the cut begins, the same for all media of a row."""
    low = job.start or 0.0
    if job.window is None:
        return low
    length = max(size.duration for size in job.sizes.values())
    high = job.end
    if high is None:
        high = _seconds(job, sources)
    return low + job.window * max(0.0, high - low - length)


def _seconds(job: Job, sources: Mapping[Modality, MediaFile]) -> float:
    """Return how long all files of a row last that have a length: the shortest; 0 where none states one.

    So there is picture and sound wherever a cut begins.
    """
    found = [job.kinds[modality].seconds_in(source) for modality, source in sources.items()]
    return min((seconds for seconds in found if seconds), default=0.0)


def describe(refs: Mapping[Modality, Ref]) -> str:
    """Return the paths of a row's files as one text, for the list of bad samples."""
    paths = dict.fromkeys(Path(ref.path) for ref in refs.values())
    return ", ".join(map(str, paths))


def silence(size: Size, modality: Modality) -> Tensor:
    """Return what stands for a missing medium: zeros, which are black or nothing to hear."""
    return torch.zeros(size.shape, dtype=getattr(torch, kind_of(modality).dtype))
