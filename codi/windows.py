"""Plan the windows by which a medium is continued beyond the length of a model, in whole ticks of time.

A tick is the shortest time in which every medium that is continued has whole steps: 1/8 s for a clip of 8
frames per second and its sound. Place 0 is the beginning of what was given; what comes before it is below 0.

A window is as long as the model's output. A part of it is known, from what was given or from windows before
it, and what is new borders on that part. A window that would reach beyond the end moves back, so that it
knows more rather than makes less.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd

from codi.types import InputError

DIRECTIONS = ("forwards", "backwards", "both")
TOLERANCE = 1e-3  # seconds that a length may lie beside a tick
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One window of a plan.

    Attributes:
        begin: where the window begins, in ticks.
        made: what is new in it, (begin, end) in ticks.
        known: what of it is known, each (begin, end) in ticks.
    """

    begin: int
    made: Span
    known: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is given and what is to be made, in ticks.

    Attributes:
        source: the length of what is given.
        end: where what is made ends, if all of it comes behind what is given.
        window: the length of a window.
        overlap: how much of a window is known at least, as far as so much was given.
        after: the length of what comes behind `end`, so that a gap is filled; 0 for an open end.
    """

    source: int
    end: int
    window: int
    overlap: int
    after: int = 0


def tick_rate(rates: list[float]) -> Fraction:
    """Return the ticks per second at which every medium has whole steps, the greatest common divisor.

    Args:
        rates: steps per second of each medium, such as frames per second and Hz.

    Returns:
        The ticks per second.
    """
    parts = [Fraction(rate).limit_denominator(1001) for rate in rates]
    below = 1
    for part in parts:
        below = below * part.denominator // gcd(below, part.denominator)
    above = gcd(*(int(part * below) for part in parts))
    return Fraction(above, below)


def ticks(name: str, seconds: float, rate: Fraction) -> int:
    """Return a length in whole ticks.

    Args:
        name: what the length is called, for messages.
        seconds: the length.
        rate: ticks per second.

    Returns:
        The ticks.

    Raises:
        InputError: for a length that lies between two ticks.
    """
    count = round(seconds * rate)
    if abs(float(count / rate) - seconds) > TOLERANCE:
        raise InputError(
            f"{name} is {seconds:g} s: expected a multiple of {float(1 / rate):g} s, where the frames and "
            f"samples of what is continued meet, such as {float(count / rate):g}"
        )
    return count


def plan(layout: Layout, direction: str = "forwards") -> list[Step]:
    """Return the windows in the order in which they are made, from what is given outwards.

    Args:
        layout: what is given and what is wanted.
        direction: one of `DIRECTIONS`; of a gap nothing but "forwards". For "both", half of what is new
            comes before.

    Returns:
        The windows.
    """
    if layout.after:
        return _closed(layout)
    new = layout.end - layout.source
    before = {"forwards": 0, "backwards": new, "both": new // 2}[direction]
    mirrored = _open(-layout.source, 0, before, layout)
    steps = [_mirrored(step, layout.window) for step in mirrored]
    return steps + _open(-before, layout.source, layout.end - before, layout)


def _open(first: int, end: int, target: int, layout: Layout) -> list[Step]:
    """Return the windows that go on from `end` to `target`; all from `first` on is known."""
    steps = []
    while end < target:
        stop = min(max(first, end - layout.overlap) + layout.window, target)
        begin = max(first, stop - layout.window)
        steps.append(Step(begin=begin, made=(end, stop), known=((begin, end),)))
        end = stop
    return steps


def _closed(layout: Layout) -> list[Step]:
    """Return the windows that fill the gap between what is given and what comes behind it."""
    room = layout.window - 2 * layout.overlap  # of the last window, which is known at both ends
    steps = _open(0, layout.source, layout.end - room, layout)
    end = steps[-1].made[1] if steps else layout.source
    spare = layout.window - (layout.end - end)
    right = min(spare // 2, layout.after)
    left = min(spare - right, end)
    right = min(spare - left, layout.after)
    known = ((end - left, end), (layout.end, layout.end + right))
    return [*steps, Step(begin=end - left, made=(end, layout.end), known=known)]


def _mirrored(step: Step, window: int) -> Step:
    """Return a window as it lies where time runs the other way."""
    known = tuple((-end, -begin) for begin, end in step.known)
    return replace(step, begin=-step.begin - window, made=(-step.made[1], -step.made[0]), known=known)
