"""One sample of the set: the file that is made for it, and the row that it has in the manifests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi.io import sha256_of
from codi.rows import modality_of_suffix
from data.prepare.emoji.packages import Package
from data.prepare.emoji.split import Side


class LeftOut(Exception):
    """Raised by what makes a file, if the sample is of no use; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample.

    Attributes:
        id: its name, which no other sample has.
        file: the path of its file, relative to the folder of the set.
        make: writes that file, whole or not at all; raises `LeftOut` for a sample of no use.
        captions: several texts that say the same.
        name: what it shows or says, in words, by which samples are held out.
        side: the side of the split that it is on.
        sources: the packages that it is made of.
        beside: paths of further files that the sample holds, which are there already.
        facts: what else its row records under `info`.
    """

    id: str
    file: str
    make: Callable[[Path], object]
    captions: tuple[str, ...]
    name: str
    side: Side
    sources: tuple[Package, ...]
    beside: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sample whose file is there: the item, and its row relative to the folder of the set."""

    item: Item
    row: dict[str, Any]


def make_all(
    items: Sequence[Item], out: Path, part: str, leave_out: Callable[[str, str], None]
) -> list[Made]:
    """Make the files that are not there yet, and return the samples in their order.

    A file that is there is taken as it is: files appear under their names only when they are whole. One that
    equals another's to the bit is left out.

    Args:
        items: the samples.
        out: the folder of the set.
        part: what the samples are, for the line of progress and for their rows.
        leave_out: is called with the id of each sample that is left out, and why.

    Returns:
        The samples that are of use.
    """
    from tqdm import tqdm

    made = []
    digests: dict[str, str] = {}
    files: dict[str, str] = {}
    for item in tqdm(items, desc=part, unit=" files", disable=None):
        path = out / item.file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                item.make(path)
            except LeftOut as reason:
                leave_out(item.id, str(reason))
                continue
        row = _row(item, out, part, digests)
        first = files.setdefault(digests[item.file], item.file)
        if first == item.file:
            made.append(Made(item=item, row=row))
        else:
            leave_out(item.id, f"equals {first}")
    return made


def _row(item: Item, out: Path, part: str, digests: dict[str, str]) -> dict[str, Any]:
    """Return the row of a sample; `digests` keeps those of files that several samples hold."""
    kinds = modality_of_suffix()
    row: dict[str, Any] = {"id": item.id}
    row["sha256"] = {}
    for file in (item.file, *item.beside):
        medium = kinds[Path(file).suffix[1:]].value
        row[medium] = file
        if file not in digests:
            digests[file] = sha256_of(out / file)
        row["sha256"][medium] = digests[file]
    row["captions"] = list(dict.fromkeys(item.captions))
    row["info"] = {
        "part": part,
        "name": item.name,
        "held_out": item.side.held_out,
        **item.facts,
        "sources": [source.fact() for source in item.sources],
    }
    return row
