"""Numbers and tables in Markdown."""

from collections.abc import Iterable
from typing import Any


def percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def decimals(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def milliseconds(value: float | None, sign: str = "+") -> str:
    return "-" if value is None or value != value else f"{1000 * value:{sign}.1f}"


def percents(line: dict[str, Any], *keys: str) -> list[str]:
    return [percent(line.get(key)) for key in keys]


def with_interval(line: dict[str, Any]) -> str:
    return f"{percent(line['value'])} [{percent(line['low'])}, {percent(line['high'])}]"


def yes(met: bool) -> str:
    return "yes" if met else "**no**"


def table(header: str, rows: Iterable[list[str]]) -> str:
    """`header` names the columns, separated by bars."""
    columns = [name.strip() for name in header.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    assert all(len(line) == len(columns) for line in lines), f"rows do not fit the header {header!r}"
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(title: str, body: str, note: str = "") -> str:
    return f"## {title}\n\n{body}" + (f"\n\n{note}" if note else "")
