"""Read tables of metadata, in whatever form they are published, as rows of plain values."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codi.rows import parse_json
from codi.types import InputError

csv.field_size_limit(1 << 24)


def read_table(path: Path, columns: Sequence[Sequence[str]] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) of every row of a csv, tsv, json, jsonl or parquet file.

    Args:
        path: the table.
        columns: groups of names; the table must have a column of one name from each group.

    Yields:
        `where`, which names the file and the row for messages, and the row as values by column.

    Raises:
        InputError: if the file cannot be read as a table, or a column is missing.
    """
    if not path.is_file():
        raise InputError(f"no such table: {path}. Check the name; relative names start at {Path.cwd()}.")
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_lines,
        ".parquet": _read_parquet,
    }
    if path.suffix.lower() not in readers:
        raise InputError(
            f"{path} is no table that can be read: expected a name that ends in {', '.join(readers)}"
        )
    checked = False
    for where, row in readers[path.suffix.lower()](path):
        if not isinstance(row, dict):
            raise InputError(f"{where} holds {type(row).__name__}: expected named values")
        if not checked:
            _check_columns(where, row, columns)
            checked = True
        yield where, row


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, line) of every line of a text in UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, line in enumerate(stream, start=1):
                yield f"{path}: row {number}", line
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not in UTF-8 ({error.reason} at {error.start}): save it in UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def first(row: dict[str, Any], *names: str) -> str:
    """Return the first of these columns that is not blank, its white space tidied; "" if all are blank."""
    for name in names:
        value = row.get(name)
        if value is not None and str(value).strip():
            return " ".join(str(value).split())
    return ""


def seconds(text: Any, where: str) -> float:
    """Return the seconds of a number, or of hours:minutes:seconds, or raise InputError."""
    try:
        value = 0.0
        for part in str(text).strip().split(":"):
            value = 60 * value + float(part)
        if not 0 <= value < float("inf"):
            raise ValueError
        return value
    except ValueError:
        raise InputError(
            f"{where}: {text!r} is no time: expected seconds, or hours:minutes:seconds"
        ) from None


def _check_columns(where: str, row: dict[str, Any], columns: Sequence[Sequence[str]]) -> None:
    """Raise InputError unless the row has one column of each group."""
    for group in columns:
        if row.keys().isdisjoint(group):
            raise InputError(
                f"{where}: no column {' or '.join(group)} (there are {', '.join(map(str, row))}): is this "
                "the right table?"
            )


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) of a csv, or of a tsv."""
    lines = (line for _, line in read_lines(path))
    reader = csv.DictReader(
        lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True
    )
    try:
        for row in reader:
            where = f"{path}: row {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(
                    f"{where} has another number of columns than the first row: expected "
                    f"{len(reader.fieldnames)}"
                )
            yield where, row
    except csv.Error as error:
        raise InputError(f"{path}: row {reader.line_num} is no csv ({error})") from None


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) of a JSON list of objects, which stands alone or under `data` or `results`."""
    try:
        values = parse_json("".join(line for _, line in read_lines(path)))
    except InputError as error:
        raise error from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error})") from None
    if isinstance(values, dict):
        for name in ("data", "results"):
            if isinstance(values.get(name), list):
                values = values[name]
                break
    for number, row in enumerate(values if isinstance(values, list) else [values], start=1):
        yield f"{path}: row {number}", row


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of every line that is not blank, each of them JSON."""
    for where, line in read_lines(path):
        if line.strip():
            try:
                yield where, parse_json(line)
            except ValueError as error:
                raise InputError(f"{where} is not JSON ({error}): expected one object per line") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) of a Parquet table."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path} is Parquet, which needs pyarrow: pip install pyarrow, or export the table as csv"
        ) from None
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                yield f"{path}: row {(number := number + 1)}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no Parquet table ({' '.join(str(error).split())[:120]})") from None
