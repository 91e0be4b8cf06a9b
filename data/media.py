"""Media files as a training set: the counterpart of `data.world.WorldSource` over manifests and shards.

Letters: B samples, N rows, F frames, H height, W width.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from codi.io.fit import BLACK, Fit
from codi.io.frames import choose_backend
from codi.modalities import in_words
from codi.rows import Row, bit_of, bits_of
from codi.types import InputError, Modality, ModalitySpec
from data.batch import Batch, content_of
from data.captions import Captions
from data.decode import Job, Media, Size, describe, silence
from data.order import rows_of
from data.source import Source
from data.worker import BadSample
from data.workers import Decoder

PADDINGS = ("ignored", "learned")  # what padding is to losses


class Rows(Protocol):
    """The interface that `data.manifest.Manifest` and `data.shards.Shards` share: rows by number.

    Attributes:
        has: (N,) uint8, bit mask of the media of each row (`codi.rows.BITS`).
        weights: (N,) float64, how often each row comes relative to the others.
    """

    has: np.ndarray
    weights: np.ndarray

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells these rows from others, for a latent cache."""
        ...

    @property
    def label(self) -> str:
        """The name of the rows in messages: the file that they are read from."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes to media, all off by default.

    Attributes:
        flip: pictures and clips are mirrored with an even chance; a caption that says left or right is not
            changed.
        crop: a random square is cut out instead of the central one, its side at least this share of the
            shorter side, in (0, 1]; None for the central square. Where pixels are padded or stretched, the
            part has the aspect ratio of the whole instead.
        window: clips and recordings begin at a random time, picture and sound at the same.
    """

    flip: bool = False
    crop: float | None = None
    window: bool = False

    def __post_init__(self) -> None:
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InputError(
                f"augment: crop is {self.crop!r}: expected a share of the side in (0, 1], or null"
            )


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How media come to the geometry of the model.

    Attributes:
        fits: what is done with pixels of another aspect ratio, "crop", "pad" or "stretch", by modality; the
            rest is cropped (`codi.io.fit_image`).
        colour: red, green and blue of what pads pixels, 0 to 255 each.
        padding: whether padding counts in losses: "ignored", or "learned" as if it were content. It is the
            ground around pixels, the silence after a sound that is too short, the last frame of a clip that
            is.
    """

    fits: Mapping[Modality, Fit] = field(default_factory=dict)
    colour: tuple[int, int, int] = BLACK
    padding: str = "ignored"

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells this fitting from others."""
        fits = {str(modality): fit for modality, fit in sorted(self.fits.items()) if fit != "crop"}
        colour = {"colour": list(self.colour)} if "pad" in fits.values() else {}
        return {"fit": fits, **colour, "padding": self.padding}


class MediaSource(Source):
    """An endless source over the rows of a manifest or of shards; every pass has its own order.

    `fetch` gives "index" (the positions), "ids" and "rows" (of the samples used), and by medium "image" uint8
    (B, 3, H, W), "video" uint8 (B, F, 3, H, W), "audio" float32 (B, samples), "text" list[str], each with
    "<medium>_mask" bool (B,), False where a row lacks it. Where a sample of a batch is padded,
    "<medium>_content" says what is not padding (`data.batch`). A bad sample is replaced by the next good row.
    Every sample is a function of (seed, position) and the files alone, whatever its batch.

    Args:
        rows: a manifest or shards.
        media: what a batch holds.
        specs: the geometry of each of the media but text; only `raw_shape` and `rate` are read.
        seed: chooses the order and every random draw.
        decoder: decodes the files; None for one of the source's own with two workers.
        require: media without which a row is left out; None for all of `media`.
        shuffle: whether every pass has its own order. Without it position p is row p modulo the number of
            rows, as the encoding of a latent cache needs it.
        captions: how the words of a sample are drawn from the captions of its row.
        backend: what decodes clips: "auto", "decord" or "av".
        verify: whether files are compared with their sha256, where it is known.
        augment: random changes to the media.
        fitting: how media come to their geometry.

    Raises:
        InputError: if the media cannot be, their geometry is missing, or no row has them.
    """

    says = ("rows",)

    def __init__(
        self,
        rows: Rows,
        media: Iterable[str],
        specs: Mapping[Modality, ModalitySpec],
        *,
        seed: int,
        decoder: Decoder | None = None,
        require: Iterable[str] | None = None,
        shuffle: bool = True,
        captions: Captions = Captions(),  # noqa: B008 (frozen)
        backend: str = "auto",
        verify: bool = True,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
        fitting: Fitting = Fitting(),  # noqa: B008 (frozen)
    ) -> None:
        self.rows = rows
        self.media = tuple(map(Modality.parse, media))
        self.require = self.media if require is None else tuple(map(Modality.parse, require))
        twice = len(set(self.media)) < len(self.media)
        if not self.media or twice or not set(self.require) <= set(self.media):
            raise InputError(
                f"media are {_names(self.media)}, required {_names(self.require)}: expected some, each once, "
                "required among them"
            )
        self.sizes = {m: size_of(m, specs) for m in self.media if not in_words(m)}
        self.seed = seed
        self.shuffle = shuffle
        self.captions = captions
        self.verify = verify
        self.augment = augment
        own = {modality: fit for modality, fit in fitting.fits.items() if modality in self.sizes}
        self.fitting = replace(fitting, fits=own)
        self.backend = choose_backend(backend)
        needed = bits_of(self.require)
        has_needed = (rows.has & needed) == needed
        has_some = (rows.has & bits_of(self.media)) != 0
        self._usable = np.flatnonzero(has_needed & has_some)
        self.left_out = len(rows) - len(self._usable)
        if not len(self._usable):
            raise InputError(
                f"none of {len(rows)} rows of {rows.label} has {_names(self.require or self.media)}: name "
                "other media"
            )
        weights = rows.weights[self._usable]
        # equal weights need no sampling: every row comes once in a pass
        self._weights = weights if (weights != weights[0]).any() else None
        self.owns_decoder = decoder is None
        self.decoder = decoder or Decoder()
        # sources that share a decoder number their rows alike: their bad rows are told apart by this number
        self._number = self.decoder.sources
        self.decoder.sources += 1

    def __len__(self) -> int:
        return len(self._usable)

    @property
    def bad(self) -> int:
        """The number of bad samples met so far, of all sources that share the decoder."""
        return self.decoder.bad

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells this source from others, for a latent cache."""
        sizes = {str(m): [list(size.shape), size.rate] for m, size in self.sizes.items()}
        return {
            "media": list(map(str, self.media)),
            "rows": self.rows.identity,
            "sizes": sizes,
            "require": list(map(str, self.require)),
            "order": {"seed": self.seed, "shuffle": self.shuffle, "captions": self.captions.identity},
            "decoding": {
                "backend": self.backend,
                "verify": self.verify,
                "augment": asdict(self.augment),
                **self.fitting.identity,
            },
        }

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch of positions `indices`, counted over all passes."""
        seen: dict[int, Row] = {}
        candidates = []
        for place, position in zip(self._places(indices), indices):
            candidates.append(self._candidates(place, position, seen))
        valid = self.decoder.first_valid(candidates)
        rows = [_about(seen[job.key[1]]) for job, _ in valid]
        named: dict[str, Any] = {}
        for modality in self.media:
            if in_words(modality):
                named[modality.value] = self.captions.words(rows, self.seed, indices)
                named[f"{modality}_mask"] = torch.tensor([bool(row["captions"]) for row in rows])
            else:
                named |= self._stack(modality, [media for _, media in valid])
        return Batch(index=list(indices), named=named, rows=rows)

    def close(self) -> None:
        """End the decoding processes, if they are this source's own."""
        if self.owns_decoder:
            self.decoder.close()

    def _places(self, positions: list[int]) -> np.ndarray:
        """Return the place in `_usable` at which each position begins to look for a good row."""
        if self.shuffle:
            return rows_of(positions, len(self), self.seed, self._weights)
        return np.asarray(positions, dtype=np.int64) % len(self)

    def _stack(self, modality: Modality, media: list[Media]) -> dict[str, Any]:
        size = self.sizes[modality]
        empty = silence(size, modality)
        named = {
            modality.value: torch.stack([found.get(modality, empty) for found in media]),
            f"{modality}_mask": torch.tensor([modality in found for found in media]),
        }
        padded = [found.content.get(modality) for found in media]
        if self.fitting.padding == "ignored" and any(padded):
            named[f"{modality}_content"] = content_of(padded, size.shape)
        return named

    def _candidates(self, place: int, position: int, seen: dict[int, Row]) -> Iterator[Job | BadSample]:
        """Yield jobs for the row of a position, then for those after it, which stand in where it is bad.

        Rows that are known to be bad are passed over. Every row that is read is put into `seen`.
        """
        for step in range(len(self)):
            index = int(self._usable[(place + step) % len(self)])
            if (key := (self._number, index)) in self.decoder.known:
                continue
            try:
                row = seen[index] = self.rows[index]
            except (InputError, OSError) as error:
                # words in a shard may be unreadable, and a manifest may have been altered since it was opened
                yield BadSample(key, f"{self.rows.label} row {index}", self.rows.label, str(error))
                continue
            yield self._job(key, row, position)

    def _job(self, key: tuple[int, int], row: Row, position: int) -> Job | BadSample:
        """Return what to decode of a row, or a bad sample if it lacks a caption that is required."""
        path = describe(row.media)
        if any(map(in_words, self.require)) and not row.captions:
            return BadSample(key, row.id, path, "it has no caption")
        sizes = {m: size for m, size in self.sizes.items() if row.has & bit_of(m)}
        return Job(
            key=key,
            id=row.id,
            path=path,
            sizes=sizes,
            refs=dict(row.media) if sizes else {},
            needed=frozenset(m for m in self.require if not in_words(m)),
            start=row.start,
            end=row.end,
            fits=self.fitting.fits,
            colour=self.fitting.colour,
            backend=self.backend,
            verify=self.verify,
            **self._draws(position),
        )

    def _draws(self, position: int) -> dict[str, Any]:
        """Return the random part of a job, a function of (seed, position)."""
        side, x, y, window, flip = np.random.default_rng((self.seed, position, 2)).random(5)
        least = self.augment.crop
        timed = any(size.rate for size in self.sizes.values())
        return {
            "crop": None if least is None else (least + (1 - least) * side, x, y),
            "window": window if self.augment.window and timed else None,
            "flip": self.augment.flip and flip < 0.5,
        }


def _about(row: Row) -> dict[str, Any]:
    """Return what a batch says of a row."""
    about: dict[str, Any] = {"id": row.id, "captions": list(row.captions)}
    return about | ({"parts": list(row.parts)} if row.parts else {})


def size_of(modality: Modality, specs: Mapping[Modality, ModalitySpec]) -> Size:
    """Return the geometry of a medium, or raise InputError where it is not given."""
    if modality not in specs:
        raise InputError(f"geometry of {modality} is missing: name its size, or do not ask for {modality}")
    spec = specs[modality]
    return Size(tuple(spec.raw_shape), float(spec.rate or 0))


def _names(media: Iterable[Modality]) -> str:
    return ", ".join(map(str, media)) or "nothing"
