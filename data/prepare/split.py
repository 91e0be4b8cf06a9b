"""`python -m data.prepare split MANIFEST --train FILE --validation FILE`: a manifest in two parts.

By key, a hash of each row's key decides, so that a row stays where it is when others are added. By
composition (`--combinations A B`), some combinations of the values of two columns are held out, while every
value of either still occurs in training: whether a model can put together what it never saw together.

The same file in both parts would be a leak, and is refused.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codi.modalities import in_files
from codi.types import InputError
from data.prepare.outputs import check_new, place_of

SHARE = 0.1
NAMED = 10  # combinations that the line for people names
Values = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("manifest", type=Path, metavar="FILE", help="a manifest: .jsonl, or .parquet")
    parser.add_argument(
        "--train", required=True, type=Path, metavar="FILE.jsonl", help="the manifest to write for training"
    )
    parser.add_argument(
        "--validation", required=True, type=Path, metavar="FILE.jsonl", help="the manifest to write beside it"
    )
    parser.add_argument(
        "--share",
        type=float,
        default=SHARE,
        help=f"the share of rows for validation, between 0 and 1; {SHARE} if not given",
    )
    parser.add_argument(
        "--key",
        metavar="COLUMN",
        help="the column whose values are kept together, such as info.speaker; id if not given, or the names "
        "of its files where a row has none",
    )
    parser.add_argument(
        "--combinations",
        nargs=2,
        metavar="COLUMN",
        help="hold out combinations of the values of two columns, such as info.name info.style",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses which; 0 if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> str:
    """Write both manifests, and return a line for people.

    What the options name that cannot be used raises `InputError`.
    """
    from data.manifest import Manifest, moved, write_manifest

    if not 0 < options.share < 1:
        raise InputError(f"--share is {options.share}: expected a share between 0 and 1")
    if options.key and options.combinations:
        raise InputError("--key and --combinations are both given: expected one of them")
    if options.train.resolve() == options.validation.resolve():
        raise InputError(f"--train and --validation are both {options.train}: expected two names")
    check_new([options.train, options.validation], options.overwrite)
    manifest = Manifest(options.manifest)
    rows = [manifest.values(number) for number in range(len(manifest))]
    where = [f"{options.manifest}: row {number}" for number in range(1, len(rows) + 1)]
    if options.combinations:
        pairs = [
            tuple(read_column(row, column, place) for column in options.combinations)
            for row, place in zip(rows, where, strict=True)
        ]
        held = held_out(pairs, options.share, options.seed)
        apart = [pair in held for pair in pairs]
        some = ", ".join(" + ".join(pair) for pair in sorted(held)[:NAMED])
        what = f"; {len(held)} combinations held out: {some}{', ...' if len(held) > NAMED else ''}"
    else:
        keys = [key_of(row, options.key, place) for row, place in zip(rows, where, strict=True)]
        apart = [fraction(key, options.seed) < options.share for key in keys]
        what = ""
    check_leaks(manifest, apart)
    count = sum(apart)
    if count in (0, len(rows)):
        empty = options.validation if count == 0 else options.train
        raise InputError(
            f"{empty} would have no row: expected more rows than {len(rows)}, or another --share or --seed"
        )
    for path, validating in ((options.train, False), (options.validation, True)):
        chosen = [row for row, held_back in zip(rows, apart, strict=True) if held_back is validating]
        write_manifest(path, (moved(row, options.manifest, path) for row in chosen))
    return f"{options.train}: {len(rows) - count} rows; {options.validation}: {count} rows{what}"


def read_column(row: Values, column: str, where: str) -> str:
    """Return the value of a row in a column as text, one of its keys or `info.NAME`.

    A row without it, or with a list or an object there, raises an `InputError` that begins with `where`.
    """
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None or isinstance(value, (Mapping, list)):
        raise InputError(
            f"{where}: no {column}: expected a text or a number in every row, such as in info.style"
        )
    return str(value)


def key_of(row: Values, column: str | None, where: str) -> str:
    """Return the key of a row, on which its part depends.

    Args:
        row: its values.
        column: the column that holds it; None for the id, or the files where the row has none.
        where: how messages begin.

    Returns:
        The key.

    Raises:
        InputError: if the row has no such column, or neither an id nor a file.
    """
    if column is not None:
        return read_column(row, column, where)
    if "id" in row:
        return str(row["id"])
    files = [str(row[modality.value]) for modality in in_files() if modality.value in row]
    if not files:
        raise InputError(f"{where} has neither an id nor a file: give it an id, or name a column with --key")
    return "\n".join(files)


def fraction(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on a key and the seed alone, evenly spread over keys."""
    return place_of(f"{seed}\n{key}")


def held_out(pairs: Sequence[tuple[str, ...]], share: float, seed: int) -> set[tuple[str, ...]]:
    """Return the combinations of two values that are held out.

    They are taken in an order that the seed chooses, each unless one of its values would then be in no
    combination that is left, until they have their share of the rows.

    Args:
        pairs: the two values of every row.
        share: the share of rows that are wanted.
        seed: chooses the order.

    Returns:
        The combinations.

    Raises:
        InputError: if none can be held out.
    """
    rows = Counter(pairs)
    left = [Counter(pair[side] for pair in rows) for side in (0, 1)]
    held: set[tuple[str, ...]] = set()
    for pair in sorted(rows, key=lambda pair: (fraction("\n".join(pair), seed), pair)):
        if sum(rows[other] for other in held) >= share * len(pairs):
            break
        if all(left[side][pair[side]] > 1 for side in (0, 1)):
            held.add(pair)
            for side in (0, 1):
                left[side][pair[side]] -= 1
    if not held:
        raise InputError(
            "no combination can be held out: every one has a value that is in no other; choose columns whose "
            "values come together in several ways"
        )
    return held


def check_leaks(manifest: Any, apart: Sequence[bool]) -> None:
    """Raise InputError if a file, by its content, is in both parts.

    Args:
        manifest: the rows.
        apart: of each row whether it is for validation.
    """
    digest_of = _digests()
    seen: dict[str, tuple[int, bool]] = {}
    for number, validating in enumerate(apart):
        row = manifest[number]
        for ref in row.media.values():
            digest = ref.sha256 or digest_of(ref.path)
            other, side = seen.setdefault(digest, (number, validating))
            if side is not validating:
                raise InputError(
                    f"rows {other + 1} and {number + 1} of {manifest.label} have the same file ({ref.path}) "
                    "and would be in different parts: run `python -m data.prepare duplicates` first, or keep "
                    "them together with --key"
                )


def _digests() -> Callable[[Path], str]:
    """Return a function that gives the sha256 of a file, and reads each file once."""
    from codi.io import sha256_of

    known: dict[Path, str] = {}

    def digest_of(path: Path) -> str:
        if path not in known:
            try:
                known[path] = sha256_of(path)
            except OSError as error:
                raise InputError(f"cannot read {path} ({error.strerror}): leave it where it is") from None
        return known[path]

    return digest_of
