"""Manifests: tables of media files with captions, as JSON lines or Parquet.

A row is an object with some of the keys of `codi.rows.row_keys`:

    {"id": "a7", "image": "pictures/a7.jpg", "caption": "a red ball", "sha256": {"image": "..."}}
    {"video": "clips/b.mp4", "captions": ["a dog barks", "barking"], "start": 12.5, "end": 14.5, "weight": 2}
    {"video": "clips/c.webm", "silent": true}

Paths are relative to the manifest. Everything is checked when the manifest is opened; whatever is wrong is
one `InputError` that names the manifest and the row (counted from 1). Only the places of the rows stay in
memory: 18 bytes a row for JSON lines.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codi.io import atomic
from codi.modalities import in_files
from codi.rows import Row, parse_json, parse_row, row_keys
from codi.types import InputError

MAX_LINE = 1 << 20  # bytes of one row


class Manifest:
    """The rows of one manifest, by number.

    Attributes:
        path: the manifest.
        has: (N,) uint16, bit mask of the media of each row (`codi.rows.bits_of`).
        weights: (N,) float64, how often each row comes relative to the others.

    Args:
        path: a file of JSON lines, or of Parquet if its name ends in .parquet.
        check_files: whether every file that is named must exist; otherwise a missing one is a bad sample when
            its turn comes.

    Raises:
        InputError: for whatever is wrong with the manifest.
    """

    def __init__(self, path: str | Path, check_files: bool = True) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(
                f"no such manifest: {path}. Check the name; relative names start at {Path.cwd()}."
            )
        self._table = (_Parquet if self.path.suffix == ".parquet" else _Lines)(self.path)
        has = array("H")
        weights = array("d")
        for number, values in self._table.scan():
            row = self._parse(number, values)
            if check_files:
                self._check_files(row, number)
            has.append(row.has)
            weights.append(row.weight)
        if not has:
            raise InputError(f"{path} holds no row: expected one object per line")
        self.has = np.array(has, dtype=np.uint16)
        self.weights = np.array(weights)

    def __len__(self) -> int:
        return len(self.has)

    def __getitem__(self, index: int) -> Row:
        return self._parse(*self._table.read(index))

    def values(self, index: int) -> dict[str, Any]:
        """Return the plain values of a row as they stand in the file, without keys that are null."""
        _, values = self._table.read(index)
        return {name: value for name, value in values.items() if value is not None}

    @property
    def label(self) -> str:
        """The name of the manifest in messages."""
        return str(self.path)

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells this manifest from others: its name, length and sha256."""
        return {"manifest": self.path.name, "rows": len(self), "sha256": self._table.sha256}

    def _parse(self, number: int, values: Any) -> Row:
        return parse_row(values, self.path.parent, f"{self.path}: row {number}")

    def _check_files(self, row: Row, number: int) -> None:
        """Raise InputError for the first file of a row that does not exist."""
        for modality, ref in row.media.items():
            if not ref.path.is_file():
                raise InputError(
                    f"{self.path}: row {number}: no {modality} file {ref.path}: put it there, or take the "
                    "row out"
                )


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines and return how many there are.

    The file appears under its name only when all rows are written, so that nobody reads half of it.

    Args:
        path: the manifest to write; its folder is made if need be.
        rows: plain values under the keys of `codi.rows.row_keys`, as they stand in the file.

    Returns:
        The number of rows.
    """
    count = 0
    keys = set(row_keys())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            assert set(row) <= keys, row
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


class _Lines:
    """A manifest of JSON lines, which are read where they lie in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = ""
        self._offsets = array("q")
        self._numbers = array("q")

    def scan(self) -> Iterator[tuple[int, Any]]:
        """Yield (number of the line, values) of every row; blank lines are passed over."""
        digest = hashlib.sha256()
        offset = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), start=1):
                if len(line) == MAX_LINE:
                    raise InputError(
                        f"{self.path}: row {number} has more than {MAX_LINE >> 20} MiB: expected one object "
                        "per line"
                    )
                digest.update(line)
                if line.strip():
                    self._offsets.append(offset)
                    self._numbers.append(number)
                    yield number, self._values(line, number)
                offset += len(line)
        self.sha256 = digest.hexdigest()

    def read(self, index: int) -> tuple[int, Any]:
        number = self._numbers[index]
        with self.path.open("rb") as stream:
            stream.seek(self._offsets[index])
            return number, self._values(stream.readline(MAX_LINE), number)

    def _values(self, line: bytes, number: int) -> Any:
        """Return the values of a line, or raise InputError where it is no JSON in UTF-8."""
        try:
            return parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            wrong = f"byte {line[error.start]:#04x} at {error.start}"
            raise InputError(
                f"{self.path}: row {number} is not in UTF-8 ({wrong}): save the manifest in UTF-8"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{self.path}: row {number} is not JSON ({error}): expected one object per line"
            ) from None


class _Parquet:
    """A Parquet table, held in memory; its columns are the keys of a row, null where a row lacks one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise InputError(
                f"{path} is Parquet, which needs pyarrow: pip install pyarrow, or write JSON lines"
            ) from None
        with path.open("rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        try:
            self._table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no Parquet table ({' '.join(str(error).split())[:120]})") from None
        unknown = sorted(set(self._table.column_names) - set(row_keys()))
        if unknown:
            raise InputError(
                f"{path}: unknown column {unknown[0]!r}: expected some of {', '.join(row_keys())}"
            )

    def scan(self) -> Iterator[tuple[int, Any]]:
        number = 0
        for batch in self._table.to_batches(max_chunksize=4096):
            for values in self._plain(batch, number):
                yield (number := number + 1), values

    def read(self, index: int) -> tuple[int, Any]:
        return index + 1, self._plain(self._table.slice(index, 1), index)[0]

    def _plain(self, part: Any, before: int) -> list[dict[str, Any]]:
        """Return a part of the table, which begins after row `before`, as plain values."""
        try:
            return part.to_pylist()
        except UnicodeDecodeError:
            last = before + part.num_rows
            raise InputError(
                f"{self.path}: one of the rows {before + 1} to {last} is not in UTF-8: write the table again"
            ) from None


def relative(path: Path, manifest: Path) -> str:
    """Return a file's path as the manifest names it."""
    return os.path.relpath(path.resolve(), manifest.resolve().parent)


def moved(values: Mapping[str, Any], manifest: Path, to: Path) -> dict[str, Any]:
    """Return the plain values of a row as they stand in another manifest.

    Args:
        values: the values in `manifest`.
        manifest: the manifest that they are from.
        to: the manifest that they go to; relative paths are made relative to it.

    Returns:
        The values.
    """
    found = dict(values)
    for modality in in_files():
        path = found.get(modality.value)
        if path is not None and not os.path.isabs(path):
            found[modality.value] = relative(manifest.parent / path, to)
    return found
