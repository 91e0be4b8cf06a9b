"""Which samples are held out: whole names, and compositions of a name with a family of styles.

A side is a function of the words alone, so it stays what it was when packages grow. A model that has seen a
trumpet as Noto draws it, and a violin as Twemoji does, is asked for the trumpet of Twemoji: a held-out
composition. One that has never been shown a trumpet is asked for one: a held-out name. Fluent's three still
styles and its animations are one drawing, so they are one family and are held out together.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

TRAIN, VALIDATION, TEST = SIDES = ("train", "validation", "test")
# Shares of all names, and of all compositions of the other names, that are held out.
NAMES = {VALIDATION: 0.02, TEST: 0.05}
COMPOSITIONS = {VALIDATION: 0.02, TEST: 0.08}


@dataclass(frozen=True)
class Side:
    """The side that a sample is on.

    Attributes:
        side: one of `SIDES`.
        held_out: "name" or "composition", why it is not on the side of training; None where it is.
    """

    side: str
    held_out: str | None = None


def side_of(name: str, family: str | None, names: bool = True) -> Side:
    """Return the side of a sample.

    Args:
        name: what it shows or says, in words.
        family: how it is drawn, played or spoken; None where that is the name's alone.
        names: whether whole names are held out. There are too few instruments for that.

    Returns:
        The side.
    """
    if names:
        side = _drawn("name", name, NAMES)
        if side != TRAIN:
            return Side(side, "name")
    if family is None:
        return Side(TRAIN)
    side = _drawn("composition", f"{name}|{family}", COMPOSITIONS)
    return Side(side, None if side == TRAIN else "composition")


def together(sides: Iterable[Side]) -> Side | None:
    """Return the side of a sample that is made of several others; None if they are on different ones."""
    found = list(dict.fromkeys(sides))
    if len({side.side for side in found}) > 1:
        return None
    return min(found, key=lambda side: (side.held_out != "name", side.held_out or ""))


def number_of(*words: str) -> float:
    """Return a number in [0, 1) that follows from words alone, evenly distributed over words."""
    digest = hashlib.sha256("\n".join(words).encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def choice_of(options: Iterable[T], *words: str) -> T:
    """Return one of several options, which follows from words alone."""
    listed = list(options)
    return listed[int(number_of(*words) * len(listed))]


def _drawn(kind: str, word: str, shares: dict[str, float]) -> str:
    """Return the side that the shares give to a word."""
    number = number_of(kind, word.lower())
    for side, share in shares.items():
        if number < share:
            return side
        number -= share
    return TRAIN
