"""`python -m data.prepare duplicates MANIFEST --out MANIFEST`: drop rows whose media came before.

Copies that are encoded again, made smaller or louder are found by hashes (`codi.io.likeness`). The first row
of those that are alike stays; what goes is listed beside the new manifest, in OUT.duplicates.jsonl. Captions
do not matter: the same picture with another caption is the same picture. Rows are duplicates where they have
files of the same modalities, and each of these is alike.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.modalities import Likeness, kind_of
from codi.rows import Row
from codi.types import InputError, Modality

BITS = 64
MOST = 16  # bits of 64: unlike ones differ in half of them
DEFAULT = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("manifest", type=Path, metavar="FILE", help="a manifest: .jsonl, or .parquet")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl", help="the manifest to write")
    parser.add_argument(
        "--distance",
        type=int,
        default=DEFAULT,
        metavar="BITS",
        help=f"bits of {BITS} in which hashes of near duplicates may differ; 0 to {MOST}, {DEFAULT} if not "
        "given; -1 drops exact copies alone",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> str:
    """Write the new manifest and the list of what was dropped, and return a line for people.

    What the options name that cannot be used raises `InputError`.
    """
    from tqdm import tqdm

    from data.manifest import Manifest, moved, write_manifest
    from data.prepare.outputs import check_new, write_lines

    if not -1 <= options.distance <= MOST:
        raise InputError(f"--distance is {options.distance}: expected a whole number from -1 to {MOST}")
    listed = options.out.with_suffix(".duplicates.jsonl")
    check_new([options.out], options.overwrite)
    manifest = Manifest(options.manifest)
    rows = (manifest[number] for number in tqdm(range(len(manifest)), unit=" rows", disable=None))
    found = duplicates(rows, options.distance)
    dropped = {duplicate.number for duplicate in found if duplicate.of is not None}
    kept = [number for number in range(len(manifest)) if number not in dropped]
    write_manifest(
        options.out, (moved(manifest.values(number), options.manifest, options.out) for number in kept)
    )
    write_lines(listed, [duplicate.line(manifest) for duplicate in found])
    exact = sum(duplicate.exact for duplicate in found)
    unread = len(found) - len(dropped)
    return (
        f"{options.out}: {len(kept)} of {len(manifest)} rows; dropped {exact} exact and "
        f"{len(dropped) - exact} near duplicates"
        f"{f'; {unread} could not be read, and stay' if unread else ''}; listed in {listed}"
    )


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A row that is alike to one before it, or that could not be read.

    Attributes:
        number: its place in the manifest, from 0.
        of: the place of the row that it is alike to; None where it could not be read.
        exact: whether what is decoded is the same.
        distance: the bits of 64 in which hashes differ, of the medium in which they differ most.
        reason: why it could not be read.
    """

    number: int
    of: int | None = None
    exact: bool = False
    distance: float = 0.0
    reason: str = ""

    def line(self, rows: Any) -> dict[str, Any]:
        """Return plain JSON for the list, with rows counted from 1."""
        about = {"id": rows[self.number].id, "row": self.number + 1}
        if self.of is None:
            return {**about, "unread": self.reason}
        of = {"of": rows[self.of].id, "of_row": self.of + 1}
        return {**about, **of, "kind": "exact" if self.exact else "near", "distance": self.distance}


def duplicates(rows: Iterator[Row], distance: int) -> list[Duplicate]:
    """Return the rows that are alike to one before them, in their order.

    Args:
        rows: the rows.
        distance: the bits of 64 in which hashes may differ; below 0 only exact copies are alike.

    Returns:
        One entry for each row that is dropped, and for each that cannot be read.
    """
    known = Known(distance)
    found = []
    for number, row in enumerate(rows):
        if not row.media:
            continue
        try:
            media = {
                modality: kind_of(modality).likeness(ref.path, row.start, row.end)
                for modality, ref in row.media.items()
            }
        except InputError as error:
            found.append(Duplicate(number=number, reason=str(error)))
            continue
        duplicate = known.find(number, media)
        if duplicate is None:
            known.add(number, media)
        else:
            found.append(duplicate)
    return found


class Known:
    """The rows that stay, found by parts of their hashes.

    Two hashes that differ in at most d bits agree in at least one of d + 1 stretches of their bits, so that
    only rows with a stretch in common are compared: nothing is missed, and little is compared.

    Args:
        distance: the bits of 64 in which hashes may differ; below 0 only exact copies are alike.
    """

    def __init__(self, distance: int) -> None:
        self.distance = distance
        self._media: dict[int, dict[Modality, Likeness]] = {}
        self._places: dict[Any, list[int]] = {}

    def add(self, number: int, media: dict[Modality, Likeness]) -> None:
        """Keep a row."""
        self._media[number] = media
        for key in self._keys(media):
            self._places.setdefault(key, []).append(number)

    def find(self, number: int, media: dict[Modality, Likeness]) -> Duplicate | None:
        """Return the first row that is alike, exact copies before all others; None where there is none."""
        candidates: set[int] = set()
        for key in self._keys(media):
            candidates.update(self._places.get(key, ()))
        near = None
        for other in sorted(candidates):
            theirs = self._media[other]
            if theirs.keys() != media.keys():
                continue
            if all(media[modality].digest == theirs[modality].digest for modality in media):
                return Duplicate(number=number, of=other, exact=True)
            apart = [difference(media[modality], theirs[modality]) for modality in media]
            known = [each for each in apart if each is not None and each <= self.distance]
            if near is None and len(known) == len(apart):
                near = Duplicate(number=number, of=other, distance=max(known))
        return near

    def _keys(self, media: dict[Modality, Likeness]) -> Iterator[Any]:
        """Yield what two rows that are alike have at least one of in common."""
        modality = min(media)
        first = media[modality]
        yield modality, first.digest
        count = self.distance + 1
        for place, bits in enumerate(first.hashes):
            for part in range(count):
                low, high = part * BITS // count, (part + 1) * BITS // count
                yield modality, place, part, (bits >> low) & ((1 << (high - low)) - 1)


def difference(one: Likeness, two: Likeness) -> float | None:
    """Return the mean number of bits in which two likenesses differ; None where they are not alike at all."""
    from codi.io.likeness import same_length

    if one.digest == two.digest:
        return 0.0
    if not one.hashes or len(one.hashes) != len(two.hashes) or not same_length(one.seconds, two.seconds):
        return None
    if bool((abs(one.coarse - two.coarse) > 1).any()):
        return None
    counts = [(a ^ b).bit_count() for a, b in zip(one.hashes, two.hashes, strict=True)]
    return sum(counts) / len(counts)
