"""Compute features of media once, and keep them on disk.

features/<extractor>/<number>.npz     arrays by the digest of what they were computed from

A run that was interrupted goes on where it stopped, and the next one reads only what is new. Every file is
written whole or not at all; one that is damaged counts as missing.
"""

import hashlib
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from codi.bench.collection import Collection, Part
from codi.bench.extracting import Extractor
from codi.bench.parts import digest_of, split
from codi.io import atomic, numbered
from codi.types import InputError, Modality

FLUSH = 20.0  # seconds after which what was computed is written
ABSENT = np.zeros(0)  # of a clip without a sound


class Kept:
    """Arrays by digest, in memory and on disk.

    Args:
        folder: where the features of all extractors are.
        fingerprint: what changes when the extractor's features would.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._arrays: dict[str, np.ndarray] = {}
        self._new: dict[str, np.ndarray] = {}
        self._written = time.monotonic()
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    self._arrays.update({name: arrays[name] for name in arrays.files})
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                continue

    def __contains__(self, digest: str) -> bool:
        return digest in self._arrays

    def __getitem__(self, digest: str) -> np.ndarray:
        return self._arrays[digest]

    def add(self, digest: str, array: np.ndarray) -> None:
        """Keep an array, and write what is new from time to time."""
        self._arrays[digest] = self._new[digest] = array
        if time.monotonic() - self._written > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is new."""
        if self._new:
            with numbered(self.folder) as name, atomic(self.folder / f"{name}.npz") as path:
                with open(path, "wb") as file:
                    np.savez(file, **self._new)  # type: ignore[arg-type]  # names are digests
            self._new = {}
        self._written = time.monotonic()


class Features:
    """The features of one extractor for all parts of some collections.

    Args:
        extractor: computes them.
        folder: where they are kept.
        collections: what is read.
        batch: how many media are embedded at once.
        report: is called with one line for every file that cannot be read.
    """

    def __init__(
        self,
        extractor: Extractor,
        folder: Path,
        collections: Iterable[Collection],
        batch: int,
        report: Callable[[str], None],
    ) -> None:
        self.extractor = extractor
        self.kept = Kept(folder, extractor.fingerprint)
        self._digests: dict[Part, list[str]] = {}
        self._report = report
        todo: dict[Modality, dict[str, tuple[str, Part]]] = {m: {} for m in extractor.modalities}
        for collection in collections:
            for item in collection.items:
                for name, part in item.parts.items():
                    if part.modality in extractor.modalities:
                        where = (
                            item.id
                            if item.id.startswith(collection.source)
                            else f"{collection.source}: {item.id}"
                        )
                        self._plan(f"{where}: {name}", part, todo[part.modality])
        for modality, units in todo.items():
            try:
                self._compute(modality, units, batch)
            finally:
                self.kept.flush()

    def of(self, part: Part) -> list[tuple[str, np.ndarray]]:
        """Return digest and feature of a part, of each sentence where there are several.

        It is empty for what could not be read, and for the sound of a clip that has none.
        """
        found = []
        for digest in self._digests.get(part, ()):
            if digest in self.kept and (self.kept[digest].size or not self.extractor.fixed):
                found.append((digest, self.kept[digest]))
        return found

    def _plan(self, where: str, part: Part, todo: dict[str, tuple[str, Part]]) -> None:
        """Note what is to be computed for a part."""
        digests = []
        for unit in split(part):
            digest = digest_of(unit)
            digests.append(digest)
            if digest not in self.kept:
                todo.setdefault(digest, (where, unit))
        self._digests[part] = digests

    def _compute(self, modality: Modality, units: dict[str, tuple[str, Part]], batch: int) -> None:
        """Compute what is missing of a modality, with a progress bar on stderr."""
        # A log file gets a line every half minute, not two each second.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        ready: list[tuple[str, Any]] = []
        with tqdm(
            total=len(units),
            desc=f"{self.extractor.name}, {modality}",
            file=sys.stderr,
            mininterval=interval,
            disable=not units,
            leave=False,
        ) as bar:
            for digest, (where, unit) in units.items():
                medium = self._read(where, unit)
                bar.update()
                if medium is not None:
                    ready.append((digest, medium[0]))
                if len(ready) == batch:
                    self._embed(modality, ready)
                    ready = []
            if ready:
                self._embed(modality, ready)

    def _read(self, where: str, unit: Part) -> tuple[Any] | None:
        """Return a medium, or None where there is none: such a file is reported, a missing sound is kept."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that only the beginning is read stands in the row
                medium = self.extractor.read(unit)
        except InputError as error:
            self._report(f"{where}: {error}")
            return None
        if medium is None:
            self.kept.add(digest_of(unit), ABSENT)
            return None
        return (medium,)

    def _embed(self, modality: Modality, ready: Sequence[tuple[str, Any]]) -> None:
        """Embed some media and keep their features."""
        found = self.extractor.embed(modality, [medium for _, medium in ready])
        assert len(found) == len(ready), f"{self.extractor.name} gave {len(found)} for {len(ready)} media"
        for (digest, _), feature in zip(ready, found):
            self.kept.add(digest, np.asarray(feature, dtype=np.float64))
