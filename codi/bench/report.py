"""report.json as a page: every number beside its ceiling and its floors, and the command that made it."""

from typing import Any, Iterable

_PLOTS = {
    "contact_sheet.png": "Inputs on the left, what was generated from them on the right; red marks are events read from the pictures, white ones from the sound",
    "cells.png": "Agreement of each cell: rows are inputs, columns outputs",
    "onset_tolerance.png": "Onset F1 against tolerance",
    "onset_offsets.png": "Offsets of matched events, sound minus picture",
}  # fmt: skip


def markdown(report: dict[str, Any], plots: Iterable[str]) -> str:
    """The page. Sections without data are left out."""
    sections = [_head(report), _tasks(report), _summary(report), _onsets(report), _partners(report), _open(report)]
    sections += [_cells(report), _ceilings(report), _towers(report)]
    pictures = [f"![{_PLOTS[name]}]({name})\n\n*{_PLOTS[name]}.*" for name in plots]
    return "\n\n".join([*filter(None, sections[:1]), *pictures[:1], *filter(None, sections[1:]), *pictures[1:]]) + "\n"


def percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def milliseconds(value: float | None) -> str:
    return "-" if value is None or value != value else f"{1000 * value:+.1f}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _head(report: dict[str, Any]) -> str:
    settings = report["settings"]
    listed = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"# Benchmark of {report['model']}\n\n```\n{report['command']}\n```\n\nPer cent unless a unit is given; in brackets 95 % bootstrap intervals "
        f"over scenes. *Ceiling*: ground truth of the same scenes through the autoencoders. *Shuffled*: outputs compared with another scene. "
        f"Probes that know the world read everything; no learned judge takes part.\n\nSettings: {listed}. Made with {versions} in {report['seconds']:.0f} s."
    )


def _with_interval(line: dict[str, Any]) -> str:
    return f"{percent(line['value'])} [{percent(line['low'])}, {percent(line['high'])}]"


def _tasks(report: dict[str, Any]) -> str | None:
    if not report["tasks"]:
        return None
    header = ["from -> to", "measure", "score", "ceiling", "shuffled", "chance", "target", "met"]
    rows = [
        [t["task"], t["measure"], _with_interval(t), percent(t["ceiling"]), percent(t["shuffled"]), percent(t["chance"]), percent(t["target"]), "yes" if t["met"] else "**no**"]
        for t in report["tasks"]
    ]  # fmt: skip
    note = "`!` marks shape-colour pairs that training never showed. For sound, colour is pitch and shape is timbre."
    return f"## Published table\n\n{table(header, rows)}\n\n{note}"


def _summary(report: dict[str, Any]) -> str | None:
    header = ["cells", "number", "macro mean", "ceiling", "of ceiling", "shuffled", "chance", "worst cell", "its score"]
    rows = [
        [name.replace("_", " "), str(s["count"]), *(percent(s[key]) for key in ("value", "ceiling", "ratio", "shuffled", "chance")), s["worst"], percent(s["worst_value"])]
        for name, s in report["summary"].items()
        if s
    ]  # fmt: skip
    if not rows:
        return None
    note = "Seen: text with anything, anything with itself, sound with video, and two outputs that a joint stage trained, prompted by one of them."
    return f"## Cells in summary\n\n{table(header, rows)}\n\n{note}"


def _cells(report: dict[str, Any]) -> str | None:
    if not report["cells"]:
        return None
    header = ["cell", "seen", "score", "ceiling", "shuffled", "chance", "by output and attribute"]
    rows = [
        [c["cell"], "yes" if c["seen"] else "no", _with_interval(c), percent(c["ceiling"]), percent(c["shuffled"]), percent(c["chance"]), _attributes(c["attributes"])]
        for c in report["cells"]
    ]  # fmt: skip
    return f"## Every cell\n\n{table(header, rows)}"


def _attributes(parts: dict[str, dict[str, float]]) -> str:
    return "; ".join(f"{m}: " + ", ".join(f"{a} {percent(v)}" for a, v in values.items()) for m, values in parts.items())


def _onset_rows(lines: dict[str, Any]) -> str:
    header = ["video and sound", "F1 at 50 ms", "62.5 ms", "125 ms", "bias ms", "MAE ms", "p95 ms", "same count"]
    rows = []
    for name, line in lines.items():
        low, high = line["interval"]
        shift = f" ({milliseconds(line['offset'])} ms)" if "offset" in line else ""
        f1 = line["f1"]
        rows.append([
            name + shift, f"{f1['50 ms']:.3f}", f"{f1['62.5 ms']:.3f}", f"{f1['125 ms']:.3f} [{low:.3f}, {high:.3f}]",
            milliseconds(line["bias"]), milliseconds(line["mae"]), milliseconds(line["p95"]), percent(line["count_accuracy"]),
        ])  # fmt: skip
    return table(header, rows)


def _onsets(report: dict[str, Any]) -> str | None:
    if not report.get("onsets"):
        return None
    note = "Text to video and sound, events read from the picture against those read from the sound of the same sample. Bias: sound minus picture, so positive is late sound."
    return f"## In time\n\n{_onset_rows(report['onsets'])}\n\n{note}"


def _partners(report: dict[str, Any]) -> str | None:
    if not report.get("partners"):
        return None
    return f"## Sound for a clip, a clip for a sound\n\n{_onset_rows(report['partners'])}\n\nEvents of the output against those read from the input itself."


def _open(report: dict[str, Any]) -> str | None:
    if not report.get("open"):
        return None
    header = ["outputs", "attribute", "agree", "independent", "shuffled", "chance", "ground truth", "ceiling", "spread (honest)"]
    rows = []
    for line in report["open"]:
        for a, v in line["attributes"].items():
            spread = ", ".join(f"{m} {x:.2f}" for m, x in v["spread"].items() if m != "honest") + f" ({v['spread']['honest']:.2f})"
            rows.append(["+".join(line["outputs"]), a, _with_interval(v), *(percent(v[k]) for k in ("independent", "shuffled", "chance", "truth", "ceiling")), spread])
        v = line["all"]
        rows.append(["+".join(line["outputs"]), "*all of them*", _with_interval(v), percent(v["independent"]), percent(v["shuffled"]), "", percent(v["truth"]), percent(v["ceiling"]), ""])
    note = "The prompt names the shape alone. Spread: total variation from the world's own distribution; in parentheses what honest draws of that number show."
    text = f"## What the prompt left open\n\n{table(header, rows)}\n\n{note}"
    if report.get("open_onsets"):
        text += f"\n\n{_onset_rows(report['open_onsets'])}"
    if report.get("four"):
        text += f"\n\nAll four from the full caption agree on every attribute they share: {_with_interval(report['four'])}."
    return text


def _ceilings(report: dict[str, Any]) -> str:
    header = ["modality", "attribute", "ground truth", "through the autoencoder"]
    rows = [[m, a, percent(v["truth"]), percent(v["ceiling"])] for m, parts in report["ceiling"].items() for a, v in parts.items()]
    return f"## Ceilings: what the probes read\n\n{table(header, rows)}"


def _towers(report: dict[str, Any]) -> str | None:
    if not report.get("retrieval"):
        return None
    header = ["prompt towers", "R@1", "chance", "target"]
    rows = [[name, percent(v["value"]), percent(v["chance"]), percent(v["target"])] for name, v in report["retrieval"].items()]
    note = "A hit is a nearest neighbour with equal values of every attribute that both modalities can show."
    return f"## Retrieval\n\n{table(header, rows)}\n\n{note}"
