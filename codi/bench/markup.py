"""Write numbers and tables in Markdown."""

from collections.abc import Iterable
from typing import Any


def percent(value: float | None) -> str:
    """Format a share as per cent with one decimal, or as a dash where there is none."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def decimals(value: float | None) -> str:
    """Format a number with three decimals, or as a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.3f}"


def milliseconds(value: float | None, sign: str = "+") -> str:
    """Format seconds as milliseconds, by default with a sign, or as a dash where there are none."""
    return "-" if value is None or value != value else f"{1000 * value:{sign}.1f}"


def percents(line: dict[str, Any], *keys: str) -> list[str]:
    """Format several shares of a line as per cent."""
    return [percent(line.get(key)) for key in keys]


def with_interval(line: dict[str, Any]) -> str:
    """Format the share of a line with its interval in brackets, as per cent."""
    return f"{percent(line['value'])} [{percent(line['low'])}, {percent(line['high'])}]"


def yes(met: bool) -> str:
    """Return "yes", or a bold "no" for a target that is missed."""
    return "yes" if met else "**no**"


def table(header: str, rows: Iterable[list[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: the names of the columns, separated by bars.
        rows: the cells of each row, as many as there are columns.

    Returns:
        The lines of the table.
    """
    columns = [name.strip() for name in header.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    assert all(len(line) == len(columns) for line in lines), f"rows do not fit the header {header!r}"
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(title: str, body: str, note: str = "") -> str:
    """Return a section of a page with its title, and a note below if there is one."""
    return f"## {title}\n\n{body}" + (f"\n\n{note}" if note else "")
