"""report.json as a page: every number beside its ceiling and its floors, and the command that made it."""

from collections.abc import Iterable
from typing import Any

_PLOTS = {
    "contact_sheet.png": "Given on the left, generated on the right; marks are events: red from the picture, white from the sound, "
    "dotted where read from the other medium of the same sample",
    "cells.png": "Agreement of each cell: rows are inputs, columns outputs",
    "onset_tolerance.png": "Onset F1 against tolerance",
    "onset_offsets.png": "Offsets of matched events, sound minus picture",
}
_HEAD = """# Benchmark of {model}

```
{command}
```

Per cent unless a unit is given; brackets hold 95 % bootstrap intervals over scenes. *Ceiling*: ground truth of the same scenes through
the autoencoders. *Shuffled*: outputs compared with another scene. *Chance*: the commonest answer, always. The world's own probes read
everything; no learned judge takes part.

Settings: {settings}. Made with {versions} in {seconds:.0f} s."""


def markdown(report: dict[str, Any], plots: Iterable[str]) -> str:
    """The page. Sections without data are left out."""
    pictures = [f"![{_PLOTS[name]}]({name})\n\n*{_PLOTS[name]}.*" for name in plots]
    sections = [_tasks(report), _targets(report), _summary(report), _onsets(report), _partners(report), _open(report)]
    sections += [*pictures[1:], _cells(report), _ceilings(report), _towers(report)]
    return "\n\n".join(filter(None, [_head(report), *pictures[:1], *sections])) + "\n"


def percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def milliseconds(value: float | None, sign: str = "+") -> str:
    return "-" if value is None or value != value else f"{1000 * value:{sign}.1f}"


def table(header: str, rows: Iterable[list[str]]) -> str:
    """A table of Markdown; `header` names the columns, separated by bars."""
    columns = [name.strip() for name in header.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    assert all(len(line) == len(columns) for line in lines), f"rows do not fit the header {header!r}"
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _section(title: str, body: str, note: str = "") -> str:
    return f"## {title}\n\n{body}" + (f"\n\n{note}" if note else "")


def _head(report: dict[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in report["settings"].items() if value is not None)
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return _HEAD.format(**{**report, "settings": settings, "versions": versions})


def _with_interval(line: dict[str, Any]) -> str:
    return f"{percent(line['value'])} [{percent(line['low'])}, {percent(line['high'])}]"


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def _percents(line: dict[str, Any], *keys: str) -> list[str]:
    return [percent(line.get(key)) for key in keys]


def _tasks(report: dict[str, Any]) -> str | None:
    if not report["tasks"]:
        return None
    rows = [
        [t["task"], t["measure"], _with_interval(t), *_percents(t, "ceiling", "shuffled", "chance", "target"), _yes(t["met"])]
        for t in report["tasks"]
    ]
    note = "`!` marks shape-colour pairs that training never showed. For sound, colour is pitch, shape is timbre, place is ambience."
    return _section("Published table", table("from -> to | measure | score | ceiling | shuffled | chance | target | met", rows), note)


def _targets(report: dict[str, Any]) -> str | None:
    if not report["targets"]:
        return None
    rows = [
        [t["measure"], f"{t['value']:.3f}", f"{'<=' if t['at_most'] else '>='} {t['target']:g}", _yes(t["met"])] for t in report["targets"]
    ]
    return _section("Other targets", table("measure | value | target | met", rows), "Shares and scores here are fractions of one.")


def _summary(report: dict[str, Any]) -> str | None:
    rows = [
        [
            name.replace("_", " "), str(s["count"]), *_percents(s, "value", "ceiling", "ratio", "shuffled", "chance"),
            s["worst"], percent(s["worst_value"]),
        ]
        for name, s in report["summary"].items() if s
    ]  # fmt: skip
    if not rows:
        return None
    header = "cells | number | macro mean | ceiling | of ceiling | shuffled | chance | worst cell | its score"
    note = "Seen: text with anything, anything with itself, sound with video, and two outputs of a joint stage prompted by one of them."
    return _section("Cells in summary", table(header, rows), note)


def _cells(report: dict[str, Any]) -> str | None:
    if not report["cells"]:
        return None
    rows = [
        [
            c["cell"], "yes" if c["seen"] else "no", _with_interval(c), *_percents(c, "ceiling", "shuffled", "chance"),
            "; ".join(f"{m}: " + ", ".join(f"{a} {percent(v)}" for a, v in parts.items()) for m, parts in c["attributes"].items()),
        ]
        for c in report["cells"]
    ]  # fmt: skip
    return _section("Every cell", table("cell | seen | score | ceiling | shuffled | chance | by output and attribute", rows))


def _onset_table(lines: dict[str, Any]) -> str:
    rows = []
    for name, line in lines.items():
        f1, (low, high) = line["f1"], line["interval"]
        rows.append([
            name + (f" ({milliseconds(line['offset'])} ms)" if "offset" in line else ""),
            f"{f1['50 ms']:.3f}", f"{f1['62.5 ms']:.3f}", f"{f1['125 ms']:.3f} [{low:.3f}, {high:.3f}]",
            milliseconds(line["bias"]), milliseconds(line["mae"], ""), milliseconds(line["p95"], ""), percent(line["count_accuracy"]),
        ])  # fmt: skip
    return table("video and sound | F1 at 50 ms | 62.5 ms | 125 ms | bias ms | MAE ms | p95 ms | same count", rows)


def _onsets(report: dict[str, Any]) -> str | None:
    if not report.get("onsets"):
        return None
    note = (
        "Text to video and sound: events read from the picture against those read from the sound of the same sample. "
        "Bias, MAE and p95 are over pairs matched within 125 ms; bias is sound minus picture, so positive is late sound."
    )
    return _section("In time", _onset_table(report["onsets"]), note)


def _partners(report: dict[str, Any]) -> str | None:
    if not report.get("partners"):
        return None
    note = "Events of the output against those read from the input itself."
    return _section("Sound for a clip, a clip for a sound", _onset_table(report["partners"]), note)


def _open(report: dict[str, Any]) -> str | None:
    if not report.get("open"):
        return None
    rows, controls = [], ("independent", "shuffled", "chance", "truth", "ceiling")
    for line in report["open"]:
        name = "+".join(line["outputs"])
        for a, v in line["attributes"].items():
            rows.append([name, a, _with_interval(v), *_percents(v, *controls), _spread(v["spread"])])
        rows.append([name, "*all of them*", _with_interval(line["all"]), *_percents(line["all"], *controls), ""])
    header = "outputs | attribute | agree | independent | shuffled | chance | ground truth | ceiling | spread (honest)"
    four = _with_interval(report["four"])
    note = (
        "The prompt names the shape alone. Spread: total variation from the world's own distribution; in parentheses what as many honest "
        f"draws show.\n\n{_onset_table(report['open_onsets'])}\n\n"
        f"From the full caption all four outputs agree on every attribute they share in {four} of the samples."
    )
    return _section("What the prompt left open", table(header, rows), note)


def _spread(spread: dict[str, float]) -> str:
    return ", ".join(f"{m} {x:.2f}" for m, x in spread.items() if m != "honest") + f" ({spread['honest']:.2f})"


def _ceilings(report: dict[str, Any]) -> str:
    rows = [[m, a, *_percents(v, "truth", "ceiling")] for m, parts in report["ceiling"].items() for a, v in parts.items()]
    return _section("Ceilings: what the probes read", table("modality | attribute | ground truth | through the autoencoder", rows))


def _towers(report: dict[str, Any]) -> str | None:
    if not report.get("retrieval"):
        return None
    rows = [[name, *_percents(v, "value", "chance", "target")] for name, v in report["retrieval"].items()]
    note = "A hit is a nearest neighbour with equal values of every attribute that both modalities can show."
    return _section("Retrieval between prompt towers", table("towers | R@1 | chance | target", rows), note)
