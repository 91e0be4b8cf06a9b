"""Write what was measured on one's own files: report.json, report.md, and report.html with players."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codi import io
from codi.bench.collection import Collection, Item
from codi.bench.lines import Line
from codi.bench.markup import section, table

ON_PAGE = 12  # rows that are shown with players
WORDS = ("beside it", "extractor", "read at", "note")  # columns that hold words
COLUMNS = ("value", "beside it", "count", "extractor", "read at", "note")
HOW = (
    "Brackets hold 95 % bootstrap intervals over rows; ± is the standard deviation over subsets. "
    "*Shuffled*: the same with the partner of another row. *Chance*: keys picked at random. *Halves of "
    "the reference*: the distance between two random halves of it, a floor; fewer samples make a Frechet "
    "distance larger."
)
NOTES = {
    "Retrieval": "A hit is a key that stands in a row with the query; words or files that are in several "
    "rows count once, with all of these rows.",
    "Agreement": "The mean cosine of what belongs together. Features of different extractors have different "
    "cosines for strangers: compare the second line.",
    "Distances": "A distance is comparable with others of the same extractor, rate and counts alone. With "
    "published FID, KID or FAD it is comparable only where the extractor has their weights: Inception v3 for "
    "FID and KID, VGGish for FAD.",
    "In time": "AV-Align: onsets of the sound less than a frame from a peak of the optical flow, over the "
    "union of both (arXiv 2309.16429), with codi's onset detector in place of librosa's. Onset F1: "
    "mir_eval, matched one to one. Rows in which neither has an onset do not count.",
}
TOWERS = (
    "The prompt towers of a model steered what that model made: they are no independent judge of it. Name "
    "others with --extractor."
)


def write(folder: Path, report: dict[str, Any], lines: Sequence[Line], items: Sequence[Item]) -> Path:
    """Write the three files.

    Args:
        folder: where they go.
        report: the head: `command`, `versions`, `sources`, `extractors`, `bad`, `notes`, `seconds`.
        lines: the numbers.
        items: the rows, of which the first are shown.

    Returns:
        The path of report.md.
    """
    from codi.bench.command import finite

    values = {**report, "lines": [line.as_json() for line in lines]}
    io.save_json(folder / "report.json", finite(values))
    io.save_text(folder / "report.html", _page(folder, report, lines, items))
    return io.save_text(folder / "report.md", _markdown(report, lines))


def _markdown(report: dict[str, Any], lines: Sequence[Line]) -> str:
    """Return the report in Markdown."""
    parts = ["# Measures on files", f"```\n{report['command']}\n```", f"{_about(report)} {HOW}"]
    parts += report["notes"]
    for title, rows in _sections(lines):
        body = table(" | ".join(("what", *COLUMNS)), [[_plain(cell) for cell in row] for row in rows])
        parts.append(section(title, body, NOTES[title]))
    if report["bad"]:
        parts.append(section("Left out", "\n".join(f"- {_plain(line)}" for line in report["bad"])))
    parts.append("[The first rows with players](report.html)")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Return a text without what Markdown would take for the end of a cell, or for markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _about(report: dict[str, Any]) -> str:
    """Return in words what was measured with what."""
    sources = "; ".join(f"{name}: {number} rows" for name, number in report["sources"].items())
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    return f"{sources}. Made with {versions} in {report['seconds']:.0f} s."


def _sections(lines: Sequence[Line]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the title and the rows of every table that has any."""
    for title in NOTES:
        found = [line for line in lines if line.section == title]
        if found:
            yield title, [_cells(line) for line in found]


def _cells(line: Line) -> list[str]:
    """Return the cells of a line."""
    numbers = [line.shown, line.compared, line.count]
    return [f"{line.what}: {line.measure}", *numbers, line.extractor, line.rate, line.note or "-"]


def _page(folder: Path, report: dict[str, Any], lines: Sequence[Line], items: Sequence[Item]) -> str:
    """Return the page with the tables and the first rows."""
    from codi.sheets import page

    body = [page.paragraph(report["command"], soft=True), page.paragraph(_about(report), soft=True)]
    body.append(page.paragraph(HOW.replace("*", ""), soft=True))
    body += [page.paragraph(note) for note in report["notes"]]
    for title, rows in _sections(lines):
        labels = [row[0] for row in rows]
        body += [
            page.heading(title),
            page.figures_table("what", COLUMNS, labels, [row[1:] for row in rows], WORDS),
        ]
        body.append(page.paragraph(NOTES[title], soft=True))
    if report["bad"]:
        body += [page.heading("Left out"), *map(page.paragraph, report["bad"])]
    shown = items[:ON_PAGE]
    body.append(page.heading(f"{'All' if len(shown) == len(items) else 'The first'} {len(shown)} rows"))
    body.append(page.sheet_table(_sheet(shown), folder))
    return page.page("Measures on files", body)


def _sheet(items: Sequence[Item]) -> Any:
    """Return rows as a sheet: a column for each kind of part that has files, words beside the name."""
    from codi.sheets.sheet import Sheet

    names = list(dict.fromkeys(name for item in items for name, part in item.parts.items() if part.path))
    rows, cells = [], []
    for item in items:
        words = [" / ".join(part.words) for part in item.parts.values() if part.words]
        rows.append(": ".join([Path(item.id).name if os.sep in item.id else item.id, *words]))
        parts = [item.parts.get(name) for name in names]
        cells.append([[part.path] if part and part.path and not part.carried else [] for part in parts])
    return Sheet(title="Rows", corner=("row", "media"), columns=names, rows=rows, cells=cells)


def collections_read(collections: Sequence[Collection]) -> dict[str, int]:
    """Return how many rows of each source were read."""
    return {collection.source: len(collection.items) for collection in collections}
