"""Draw media in rows and columns with their labels on one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codi.sheets.tiles import INK, PAPER, font, tile, wrapped

if TYPE_CHECKING:
    from PIL import Image

WIDTH, NARROWEST = 192, 48  # pixels of a cell
MARGIN = 24  # around the sheet
PAD = 10  # around what a cell holds
LABEL = 132  # pixels of the labels of the rows
LINE = 20  # pixels of a line of a label
SIZE, SMALL, TITLE = 15, 13, 20  # of letters
GREY, STRIPE, RULE = "#667085", "#f6f7fb", "#d5d9e6"
MOST_PIXELS = 120_000_000  # of a sheet


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a sheet shows.

    Attributes:
        title: stands above it.
        corner: says what rows and columns are, such as ("seed", "guidance_scale").
        columns: the labels of the columns.
        rows: the labels of the rows.
        cells: for each row the files of every cell, in the order in which they are shown; none for a cell
            that was not made.
    """

    title: str
    corner: tuple[str, str]
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Sequence[Path]]]


def draw(sheet: Sheet, width: int = WIDTH) -> "Image.Image":
    """Return a sheet as a picture.

    Args:
        sheet: what it shows.
        width: of a cell, in pixels.

    Returns:
        The picture. Columns become narrower where it would be larger than `MOST_PIXELS`.
    """
    from PIL import Image, ImageDraw

    stacks = [[[tile(path, width) for path in files] for files in row] for row in sheet.cells]
    labels = [wrapped(label, LABEL - 16, font(SIZE)) for label in sheet.rows]
    heights = []
    for lines, row in zip(labels, stacks):
        heights.append(max([LINE * len(lines), *(_height(stack) for stack in row)]) + 2 * PAD)
    head = [wrapped(label, width, font(SIZE, "Bold")) for label in sheet.columns]
    left, step = MARGIN + LABEL, width + 2 * PAD
    across = left + step * len(sheet.columns) + MARGIN
    title = wrapped(sheet.title, across - 2 * MARGIN, font(TITLE, "Bold"))
    begin = MARGIN + len(title) * (TITLE + 6) + 14
    top = begin + LINE * (1 + max(map(len, head), default=1)) + 8
    size = across, top + sum(heights) + MARGIN
    if size[0] * size[1] > MOST_PIXELS and width > NARROWEST:
        return draw(sheet, max(NARROWEST, width * 2 // 3))
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    for k, line in enumerate(title):
        pen.text((MARGIN, MARGIN + k * (TITLE + 6)), line, font=font(TITLE, "Bold"), fill=INK)
    pen.text((left + PAD, begin), f"{sheet.corner[1]}  \u2192", font=font(SMALL), fill=GREY)
    pen.text((MARGIN, top - LINE - 4), f"{sheet.corner[0]}  \u2193", font=font(SMALL), fill=GREY)
    for k, lines in enumerate(head):
        for j, line in enumerate(lines):
            place = (left + k * step + PAD, begin + LINE * (1 + j))
            pen.text(place, line, font=font(SIZE, "Bold"), fill=INK)
    for k, (lines, row, height) in enumerate(zip(labels, stacks, heights)):
        if k % 2 == 0:
            pen.rectangle((MARGIN - 8, top, across - MARGIN + 8, top + height - 1), fill=STRIPE)
        pen.line((MARGIN - 8, top, across - MARGIN + 8, top), fill=RULE)
        for j, line in enumerate(lines):
            pen.text((MARGIN, top + PAD + j * LINE), line, font=font(SIZE), fill=INK)
        for j, stack in enumerate(row):
            _paste(canvas, stack, left + j * step + PAD, top + PAD)
        top += height
    return canvas


def _height(stack: "Sequence[Image.Image]") -> int:
    """Return the height of tiles above each other."""
    return sum(picture.height for picture in stack) + 6 * max(0, len(stack) - 1)


def _paste(canvas: "Image.Image", stack: "Sequence[Image.Image]", left: int, top: int) -> None:
    """Put tiles above each other."""
    for picture in stack:
        canvas.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
        top += picture.height + 6
