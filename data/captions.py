"""Which words a sample of media files is given: one of its captions, parts of it left out, in a template.

Every draw is a function of (seed, position), so that it depends neither on the batch nor on the process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codi.rows import draw_caption
from codi.types import InputError

CHOICES = ("random", "first")
PLACE = "{caption}"  # where a template has the caption
_PARTS, _TEMPLATE = 4, 5  # streams of draws; 1 to 3 are those of captions, media and passes


@dataclass(frozen=True, kw_only=True)
class Captions:
    """How captions are drawn.

    Attributes:
        choose: which of several captions of a row is given: "random" or "first".
        templates: sentences with the place `{caption}` in each, of which one is drawn; none leaves captions
            as they are.
        drop_parts: the chance of each part of a caption to be left out, in [0, 1); one part always stays. The
            parts are those that the row lists, or what commas separate.
    """

    choose: str = "random"
    templates: tuple[str, ...] = ()
    drop_parts: float = 0.0

    @property
    def identity(self) -> Any:
        """Return plain JSON that tells this way of drawing from others."""
        if not self.changing:
            return self.choose
        return {"choose": self.choose, "templates": list(self.templates), "drop_parts": self.drop_parts}

    @property
    def changing(self) -> bool:
        """Whether samples may get other words than those that stand in their rows."""
        return bool(self.templates or self.drop_parts)

    def draw(self, row: Mapping[str, Any], seed: int, position: int) -> tuple[str, list[str]]:
        """Return the words of a sample.

        Args:
            row: "captions", and "parts" where the row lists them.
            seed: the seed of the source.
            position: the place of the sample in the order of the source.

        Returns:
            The words, and the parts of the caption that they say; nothing where the row has no caption.
        """
        captions = row["captions"] if self.choose == "random" else row["captions"][:1]
        caption = draw_caption(captions, seed, position)
        if not caption or not self.changing:
            return caption, [caption] if caption else []
        parts = list(row.get("parts") or parts_of(caption))
        if self.drop_parts:
            parts = self._kept(parts, np.random.default_rng((seed, position, _PARTS)))
            caption = ", ".join(parts)
        if self.templates:
            number = np.random.default_rng((seed, position, _TEMPLATE)).integers(len(self.templates))
            return self.templates[int(number)].replace(PLACE, caption), parts
        return caption, parts

    def words(self, rows: Sequence[dict[str, Any]], seed: int, positions: Sequence[int]) -> list[str]:
        """Return the words of several samples.

        Where these may be others than those in the rows, each row is told under "said" which parts of its
        caption they say.

        Args:
            rows: of each sample "captions", and "parts" where its row lists them.
            seed: the seed of the source.
            positions: the places of the samples in the order of the source.

        Returns:
            The words of each sample, "" where it has no caption.
        """
        found = []
        for row, position in zip(rows, positions, strict=True):
            words, said = self.draw(row, seed, position)
            if self.changing:
                row["said"] = said
            found.append(words)
        return found

    def _kept(self, parts: Sequence[str], rng: np.random.Generator) -> list[str]:
        """Return the parts that are not dropped, in their order."""
        kept = rng.random(len(parts)) >= self.drop_parts
        always = int(rng.integers(len(parts)))
        return [
            part for place, part in enumerate(parts) if kept[place] or (place == always and not kept.any())
        ]


def parts_of(caption: str) -> list[str]:
    """Return what commas separate in a caption; the whole caption where nothing else is between them."""
    return [part for piece in caption.split(",") if (part := piece.strip())] or [caption]


def read_captions(given: Any, where: str = "data: captions") -> Captions:
    """Return what the setting `captions` says.

    Args:
        given: "random", "first", or a mapping with some of the fields of `Captions`.
        where: how messages begin.

    Returns:
        The way of drawing.

    Raises:
        InputError: for anything else.
    """
    values = {"choose": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {given!r}: expected random, first, or a mapping with templates")
    known = ("choose", "templates", "drop_parts")
    for name in values:
        if name not in known:
            raise InputError(f"{where}: unknown key {name!r}: expected some of {', '.join(known)}")
    choose = values.get("choose", "random")
    if choose not in CHOICES:
        raise InputError(f"{where} is {choose!r}: expected random or first")
    templates = values.get("templates", [])
    if not isinstance(templates, (list, tuple)) or not all(map(_is_template, templates)):
        raise InputError(
            f"{where}: templates are {templates!r}: expected sentences with {PLACE} once in each"
        )
    drop = values.get("drop_parts", 0.0)
    if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0 <= drop < 1:
        raise InputError(f"{where}: drop_parts is {drop!r}: expected a chance from 0 to below 1")
    return Captions(choose=choose, templates=tuple(templates), drop_parts=float(drop))


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and value.count(PLACE) == 1
