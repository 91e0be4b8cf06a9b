"""Write media in rows and columns as an HTML page with players, which needs nothing but the files beside it.

Whatever comes from a prompt or a file is escaped.
"""

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from codi import io
from codi.modalities import kind_of
from codi.sheets.sheet import Sheet
from codi.sheets.tiles import is_heard, poster, tile

if TYPE_CHECKING:
    from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --paper: #fff; --stripe: #f6f7fb;
  --rule: #d5d9e6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaf3; --soft: #9aa3b5; --paper: #12151c; --stripe: #191d27; --rule: #2c3242 } }
body { margin: 2rem auto; padding: 0 1.25rem; max-width: 100rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { margin: .25rem 0 } .soft { color: var(--soft) } code { font: 13px/1.4 ui-monospace, monospace }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse } th, td { border-top: 1px solid var(--rule); padding: .6rem .7rem;
  text-align: left; vertical-align: top } tbody tr:nth-child(odd) { background: var(--stripe) }
thead th { border-top: 0; vertical-align: bottom } tbody th { font-weight: 500; max-width: 14rem }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
figure { margin: 0 0 .5rem } figure > * { display: block; width: 192px; max-width: 100% }
figure img, video { border-radius: 4px; width: 192px; height: auto } .small { image-rendering: pixelated }
table.figures tbody th { min-width: 10rem; max-width: 36rem }
audio { height: 34px; margin-top: 3px } blockquote { margin: 0; font-style: italic; max-width: 192px }
"""
SMALL = 128  # pixels up to which a picture is enlarged with sharp pixels
PREVIEW = 384  # pixels of the width of a drawn sound


def page(title: str, body: Iterable[str]) -> str:
    """Return a page.

    Args:
        title: its title, as text.
        body: parts of it, as HTML.

    Returns:
        The page as HTML.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    parts = [f"<h1>{escape(title)}</h1>", *body]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def paragraph(text: str, soft: bool = False) -> str:
    """Return a text as a paragraph, which may be set back."""
    return f"<p{' class=soft' if soft else ''}>{escape(text)}</p>"


def heading(text: str) -> str:
    """Return a text as a heading."""
    return f"<h2>{escape(text)}</h2>"


def sheet_table(sheet: Sheet, folder: Path) -> str:
    """Return a sheet as a table with players.

    Args:
        sheet: what it shows.
        folder: where the page will be, from which names of files start.

    Returns:
        The table as HTML.
    """
    corner = f"{sheet.corner[0]} \u2193 / {sheet.corner[1]} \u2192"
    cells = []
    for row in sheet.cells:
        cells.append(["".join(player(path, folder) for path in files) or "&ndash;" for files in row])
    return _table(corner, sheet.columns, sheet.rows, cells, [""] * len(sheet.columns))


def figures_table(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[str]],
    texts: Sequence[str] = (),
) -> str:
    """Return numbers as a table.

    Args:
        corner: says what the rows are.
        columns: the labels of the columns.
        rows: the labels of the rows.
        cells: for each row the texts of its cells.
        texts: the labels of columns that hold words, which are broken into lines, and no numbers.

    Returns:
        The table as HTML.
    """
    inside = [[escape(cell) for cell in row] for row in cells]
    kinds = ["" if label in texts else ' class="number"' for label in columns]
    made = _table(corner, columns, rows, inside, kinds)
    return made.replace("<table>", '<table class="figures">', 1)


def _table(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[str]],
    kinds: Sequence[str],
) -> str:
    """Return a table, whose cells are HTML; every column has a kind, an attribute of its cells."""
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in columns)
    lines = []
    for label, row in zip(rows, cells):
        inside = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{inside}</tr>')
    top = f'<thead><tr><th scope="col" class="soft">{escape(corner)}</th>{head}</tr></thead>'
    return f'<div class="wide"><table>{top}\n<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"


def player(path: Path, folder: Path) -> str:
    """Return what shows or plays a file.

    Args:
        path: the file.
        folder: where the page will be.

    Returns:
        HTML; a sound is drawn above its player, a text is quoted.
    """
    kind = kind_of(io.probe(path))
    source = quote(Path(os.path.relpath(path, folder)).as_posix())
    name = escape(path.name)
    if kind.in_words:
        text = path.read_text(encoding="utf-8", errors="replace")
        return f"<figure><blockquote>{escape(text.strip())}</blockquote></figure>"
    if is_heard(path):
        drawn = f'<img src="{_inline(tile(path, PREVIEW))}" alt="waveform and spectrogram of {name}">'
        return (
            f'<figure>{drawn}<audio controls preload="none" src="{source}" title="{name}"></audio></figure>'
        )
    if kind.rate_field is not None:
        still = poster(path)
        more = f'{_small(still.width)}poster="{_inline(still)}" title="{name}"'
        return f'<figure><video controls loop preload="metadata" src="{source}" {more}></video></figure>'
    height, width = io.load_image(path).shape[-2:]
    size = f'{_small(width)}width="{width}" height="{height}"'
    shown = f'<img {size} loading="lazy" src="{source}" alt="{name}">'
    return f'<figure><a href="{source}">{shown}</a></figure>'


def _small(width: int) -> str:
    """Return what keeps the pixels of a small picture apart."""
    return 'class="small" ' if width <= SMALL else ""


def _inline(picture: "Image.Image") -> str:
    """Return a picture as an address that holds it."""
    data = BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
