"""Read single fields of the page: numbers, intervals, boxes. No Gradio here."""

import math
from collections.abc import Sequence
from typing import Any

from codi.types import InputError


class FormError(InputError):
    """Says that a field is wrong in a way that the page itself can tell.

    Args:
        key: the sentence in the table of words (`codi.serve.page.words`).
        **values: what stands in the gaps of the sentence.
    """

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(f"{key} {values}" if values else key)
        self.key = key
        self.values = values


def read_number(value: Any) -> float | int | None:
    """Return a number of a field, a whole one as an int; None for an empty field."""
    if value is None or value == "" or isinstance(value, bool):
        return None
    try:
        number = float(str(value).replace(",", ".")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        raise FormError("error.no_number", value=str(value)[:40]) from None
    if not math.isfinite(number):
        raise FormError("error.no_number", value=str(value)[:40])
    return int(number) if number.is_integer() else number


def read_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Return the numbers of a picker, which come as a list or with commas; None for an empty one."""
    if value in (None, "", []):
        return None
    parts = value.split(",") if isinstance(value, str) else list(value)
    numbers = [read_number(part) for part in parts]
    if len(numbers) != count or None in numbers:
        raise FormError("error.no_number", value=str(value)[:40])
    return tuple(float(number) for number in numbers if number is not None)


def read_span(value: Any) -> tuple[float, float] | None:
    """Return an interval in seconds."""
    numbers = read_numbers(value, 2)
    if numbers is None:
        return None
    if numbers[0] >= numbers[1]:
        raise FormError("error.empty_interval")
    return numbers[0], numbers[1]


def read_box(value: Any) -> tuple[float, ...] | None:
    """Return a box in fractions: left, top, right, bottom."""
    numbers = read_numbers(value, 4)
    if numbers is not None and (numbers[0] >= numbers[2] or numbers[1] >= numbers[3]):
        raise FormError("error.empty_box")
    return numbers


def around(box: Sequence[float]) -> list[list[float]]:
    """Return the boxes that lie around a box: above, below, on the left and on the right.

    Raises `FormError` where the box is all of the picture.
    """
    left, top, right, bottom = box
    sides = (
        [0.0, 0.0, 1.0, top],
        [0.0, bottom, 1.0, 1.0],
        [0.0, top, left, bottom],
        [right, top, 1.0, bottom],
    )
    found = [side for side in sides if side[0] < side[2] and side[1] < side[3]]
    if not found:
        raise FormError("error.all_selected")
    return found


def outside(span: tuple[float, float], seconds: float | None) -> list[list[float]]:
    """Return what of a medium of that many seconds lies outside an interval.

    Raises `FormError` where the interval is all of it, and where nobody knows how long it is.
    """
    if seconds is None:
        raise FormError("error.no_length")
    begin, end = span
    left = [[0.0, begin]] if begin > 0 else []
    right = [[end, seconds]] if end < seconds else []
    if not left + right:
        raise FormError("error.all_selected")
    return left + right
