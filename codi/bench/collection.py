"""Read what is measured on one's own data: rows of a manifest, or what stands in a generated folder.

Every row becomes an `Item`, whose parts belong together: the media of a row of a manifest and its captions,
or what was generated (`image`) beside what was asked for it (`asked text`). A row that cannot be used is set
apart with one line that says why.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi import io, records
from codi.modalities import kind_of, kinds
from codi.rows import Row, parse_json, parse_row
from codi.types import InputError, Modality

MAX_LINE = 1 << 20  # bytes of one row
ASKED = "asked "  # begins the name of a part that is a prompt
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One medium of an item.

    Attributes:
        modality: what it is.
        path: its file; None for words that stand in the row.
        words: sentences that say the same, of a modality in words; empty for a file.
        start: the second of the file at which it begins.
        end: the second of the file at which it ends; None for the end of the file.
        carried: whether it is the sound of a clip's file, which may have none.
    """

    modality: Modality
    path: Path | None = None
    words: tuple[str, ...] = ()
    start: float = 0.0
    end: float | None = None
    carried: bool = False


@dataclass(frozen=True, kw_only=True)
class Item:
    """Media and words that belong together.

    Attributes:
        id: the name of the row in messages.
        parts: the media by name: that of the modality, with `ASKED` before it for a prompt.
    """

    id: str
    parts: Mapping[str, Part]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All items of one source.

    Attributes:
        source: what it was read from.
        items: what can be measured, in order.
        bad: one line for each row that cannot.
    """

    source: str
    items: Sequence[Item]
    bad: list[str] = field(default_factory=list)


def read(source: str, option: str) -> Collection:
    """Read a manifest or a generated folder.

    Args:
        source: a manifest as JSON lines or Parquet, a folder of generated files, or its manifest.json.
        option: how it was given, for messages.

    Returns:
        The items, and what is wrong with the other rows.

    Raises:
        InputError: where nothing is there, or no row can be used.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{option} {source}: no such file or folder; relative names start at {Path.cwd()}")
    bad: list[str] = []
    if path.is_dir() or path.name == MANIFEST:
        found = _of_folder(path if path.is_dir() else path.parent, bad)
    else:
        found = _of_manifest(path, bad)
    items = _with_files(source, found, bad)
    if not items:
        first = f" ({bad[0]})" if bad else ""
        raise InputError(f"{option} {source}: no row of it can be measured{first}")
    return Collection(source=source, items=items, bad=bad)


def _with_files(source: str, found: Iterator[Item], bad: list[str]) -> list[Item]:
    """Return the items whose files are all there; a line says of every other one which is not."""
    items = []
    for item in found:
        gone = [part.path for part in item.parts.values() if part.path and not part.path.is_file()]
        if gone:
            where = item.id if item.id.startswith(source) else f"{source}: {item.id}"
            bad.append(f"{where}: no such file: {gone[0]}: put it there, or take the row out")
        elif item.parts:
            items.append(item)
    return items


# Manifests -------------------------------------------------------------


def _of_manifest(path: Path, bad: list[str]) -> Iterator[Item]:
    """Yield the rows of a manifest (`codi.rows`)."""
    lines = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path, bad)
    for number, values in lines:
        where = f"{path}: row {number}"
        try:
            yield item_of(parse_row(values, path.parent, where))
        except InputError as error:
            bad.append(str(error))


def _json_rows(path: Path, bad: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield number and values of each line; one that is no JSON is bad."""
    with path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), start=1):
            if not line.strip():
                continue
            try:
                yield number, parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:  # also of bytes that are not in UTF-8
                said = " ".join(str(error).split())[:120]
                bad.append(f"{path}: row {number} is not JSON ({said}): expected one object per line")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and values of each row of a Parquet table."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path} is Parquet, which needs pyarrow: pip install 'codi[parquet]', or write JSON lines"
        ) from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no Parquet table ({' '.join(str(error).split())[:120]})") from None
    yield from enumerate(rows, start=1)


def item_of(row: Row) -> Item:
    """Return the media and captions of a row; a clip stands for its sound where the row names none."""
    parts = {}
    start, end = row.start or 0.0, row.end
    for modality, ref in row.media.items():
        parts[modality.value] = Part(modality=modality, path=ref.path, start=start, end=end)
    for modality, ref in row.media.items():
        for name in kind_of(modality).carries:
            carried = Part(modality=Modality(name), path=ref.path, start=start, end=end, carried=True)
            parts.setdefault(name, carried)
    if row.captions:
        words = next(kind.modality for kind in kinds() if kind.in_words)
        parts[words.value] = Part(modality=words, words=row.captions)
    return Item(id=row.id, parts=parts)


# Generated folders -----------------------------------------------------


def _of_folder(folder: Path, bad: list[str]) -> Iterator[Item]:
    """Yield every sample of a folder: as its manifest lists them, or else by the records that files carry."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        yield from _of_files(folder, bad)
        return
    names = _object(manifest).get("jobs")
    places = [folder / name for name in _plain_names(names)] if isinstance(names, list) else [manifest]
    for place in places:
        try:
            record = records.read_record(place)
            samples = _object(place)["samples"]
        except InputError as error:
            bad.append(str(error))
            continue
        for number, sample in enumerate(samples):
            label = record.id or ""
            if len(samples) > 1 or not label:
                label = f"{label}{'-' if label else ''}{number:03d}"
            files = [folder / name for name in _plain_names(sample.get("files"))]
            if files:
                yield _generated(label, record, files)
            else:
                bad.append(f"{place}: sample {number} names no files: expected what codi wrote")


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, which may be anything."""
    io.check_file(path)
    if path.stat().st_size > records.MAX_BYTES:
        raise InputError(f"{path} has more than {records.MAX_BYTES >> 20} MB: expected a manifest of codi's")
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of bytes that are not in UTF-8
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}: expected an object as codi writes it")
    return found


def _plain_names(names: Any) -> list[str]:
    """Return those of some names that are names of files in the same folder."""
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and name and Path(name).name == name]


def _of_files(folder: Path, bad: list[str]) -> Iterator[Item]:
    """Yield the samples of a folder without a manifest; files of one name but for its end are one sample."""
    suffixes = {suffix for kind in kinds() for suffix in (kind.suffix, *kind.more_suffixes)}
    stems: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in suffixes and not path.name.startswith("."):
            stems.setdefault(path.stem, []).append(path)
    if not stems:
        raise InputError(
            f"{folder} holds neither {MANIFEST} nor media files: expected a folder that codi generated, or a "
            "manifest of rows such as manifest.jsonl"
        )
    for stem, paths in stems.items():
        lines = []
        for path in paths:
            try:
                record = records.read_record(path)
            except InputError as error:
                lines.append(str(error))
                continue
            yield _generated(stem, record, paths)
            break
        else:
            bad.append(lines[0])


def _generated(label: str, record: records.Record, paths: Sequence[Path]) -> Item:
    """Return what was made of a sample beside what was asked for it."""
    parts: dict[str, Part] = {}
    for path in paths:
        for modality in record.outputs:
            if path.suffix == kind_of(modality).suffix:
                parts.setdefault(modality.value, Part(modality=modality, path=path))
    for row in sorted(record.inputs, key=lambda row: -row["weight"]):
        name = f"{ASKED}{row['as']}"
        if name in parts or row["as"] not in Modality or row["weight"] == 0:
            continue
        modality = Modality(row["as"])
        if records.WORDS in row:
            words = re.sub(r"\s+", " ", row[records.WORDS]).strip()
            parts[name] = Part(modality=modality, words=(words,))
        elif "path" in row:
            parts[name] = Part(modality=modality, path=Path(row["path"]))
    return Item(id=label, parts=parts)
