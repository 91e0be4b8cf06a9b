"""Turn report.json into a page.

Every number stands beside its ceiling and its floors, and the page names the command that made it.
"""

from collections.abc import Iterable
from typing import Any

from codi.bench import report_joint
from codi.bench.markup import decimals, percent, percents, section, table, with_interval, yes

_PLOTS = {
    "contact_sheet.png": "Given on the left, generated on the right; marks are events: red from the picture, "
    "white from the sound, dotted where read from the other medium of the same sample",
    "cells.png": "Agreement of each cell: rows are inputs, columns outputs",
    "onset_strips.png": "Clips above the sounds made with them; full lines are events read from that medium "
    "(red from the picture, white from the sound), dotted lines those of the other",
    "onset_tolerance.png": "Onset F1 against tolerance",
    "onset_offsets.png": "Offsets of matched events, sound minus picture",
}
_HEAD = """# Benchmark of {model}

```
{command}
```

Per cent unless a unit is given; brackets hold 95 % bootstrap intervals over scenes. *Ceiling*: ground truth
of the same scenes through the autoencoders. *Shuffled*: outputs compared with another scene. *Chance*: the
commonest answer, always. The world's own probes read everything; no learned judge takes part.

Scenes, and sets of seeds: {counts}. Settings: {settings}. Made with {versions} in {seconds:.0f} s."""
_ABLATION = """# The ablation

```
{command}
```

Onset F1 between video and sound, read by the world's own probes; brackets hold 95 % bootstrap intervals over
scenes. A given clip or sound counts with the events that the probe reads from it. Settings: {settings}. Made
with {versions} in {seconds:.0f} s."""


_STEPS = """# {model} at several numbers of steps

```
{command}
```

One row for everything that is measured, one column for each number of steps. Shares in per cent, onset F1
and spreads (total variation from the world) as fractions of one. Distances are to what the same prompts and
seeds give in the named number of steps. *Largest drop*: by how much the worst column is worse than the most
steps, and which that is. Seconds are of one sample in a batch, on this machine.

Settings: {settings}. Made with {versions} in {seconds:.0f} s."""
_FORMATS = {"share": percent} | dict.fromkeys(("score", "distance", "seconds"), decimals)


def markdown(report: dict[str, Any], plots: Iterable[str]) -> str:
    """Return the page of a report.

    Sections without data are left out.

    Args:
        report: the report of one model.
        plots: the file names of its pictures.

    Returns:
        The page in Markdown.
    """
    plots = list(plots)
    # The first picture, as a rule the contact sheet, comes before all tables.
    pictures = [f"![{_PLOTS[name]}]({name})\n\n*{_PLOTS[name]}.*" for name in plots]
    if "contact_sheet.png" in plots:
        pictures[0] += "\n\n[These and others with players](samples.html)"
    sections = [_tasks(report), _targets(report), _summary(report), *report_joint.joint_sections(report)]
    sections += [*pictures[1:], _cells(report), _ceilings(report), _towers(report)]
    return "\n\n".join(filter(None, [_head(report), *pictures[:1], *sections])) + "\n"


def ablation_page(report: dict[str, Any]) -> str:
    """Return the page with the table of several models."""
    return "\n\n".join([_ABLATION.format(**_described(report)), report_joint.ablation_table(report)]) + "\n"


def steps_page(report: dict[str, Any]) -> str:
    """Return the page with the table of several numbers of steps."""
    header = " | ".join(["measure", *map(str, report["steps"]), "largest drop"])
    rows = []
    for row in report["rows"]:
        show = _FORMATS[row["kind"]]
        values = [show(row["values"][steps]) for steps in report["steps"]]
        drop = "-" if row.get("drop") is None else show(row["drop"])
        if row.get("drop"):
            drop += f" (at {row['drop_at']})"
        rows.append([row["measure"], *values, drop])
    return "\n\n".join([_STEPS.format(**_described(report)), table(header, rows)]) + "\n"


def _head(report: dict[str, Any]) -> str:
    """Return the head of the page: the command, the settings, and how to read the numbers."""
    return _HEAD.format(**_described(report))


def _described(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with its counts, settings and versions as text for the head of a page."""
    settings = {name: value for name, value in report["settings"].items() if value is not None}
    texts = {
        "settings": _listed(settings),
        "versions": _listed(report["versions"]),
        "counts": _listed(report.get("counts", {})),
    }
    return {**report, **texts}


def _listed(values: dict[str, Any]) -> str:
    """Return names with their values in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _tasks(report: dict[str, Any]) -> str | None:
    """Return the published table, or None where no task was measured."""
    if not report["tasks"]:
        return None
    rows = []
    for line in report["tasks"]:
        shares = percents(line, "ceiling", "shuffled", "chance", "target")
        rows.append([line["task"], line["measure"], with_interval(line), *shares, yes(line["met"])])
    header = "from -> to | measure | score | ceiling | shuffled | chance | target | met"
    note = (
        "`!` marks shape-colour pairs that training never showed. For sound, colour is pitch, shape is "
        "timbre, place is ambience."
    )
    return section("Published table", table(header, rows), note)


def _targets(report: dict[str, Any]) -> str | None:
    """Return the section of the targets that the published table does not hold, or None without any."""
    if not report["targets"]:
        return None
    rows = []
    for line in report["targets"]:
        sign = "<=" if line["at_most"] else ">="
        target = f"{sign} {line['target']:g}"
        rows.append([line["measure"], f"{line['value']:.3f}", target, yes(line["met"])])
    body = table("measure | value | target | met", rows)
    return section("Other targets", body, "Shares and scores here are fractions of one.")


def _summary(report: dict[str, Any]) -> str | None:
    """Return the section of macro means and worst cells, or None without cells."""
    rows = []
    for name, group in report["summary"].items():
        if group:
            shares = percents(group, "value", "ceiling", "ratio", "shuffled", "chance")
            worst = [group["worst"], percent(group["worst_value"])]
            rows.append([name.replace("_", " "), str(group["count"]), *shares, *worst])
    if not rows:
        return None
    header = "cells | number | macro mean | ceiling | of ceiling | shuffled | chance | worst cell | its score"
    note = (
        "Seen: text with anything, anything with itself, sound with video, two outputs that training paired, "
        "prompted by one of them."
    )
    return section("Cells in summary", table(header, rows), note)


def _cells(report: dict[str, Any]) -> str | None:
    """Return the section with a row for every cell, or None without cells."""
    if not report["cells"]:
        return None
    rows = []
    for line in report["cells"]:
        seen = "yes" if line["seen"] else "no"
        shares = percents(line, "ceiling", "shuffled", "chance")
        rows.append([line["cell"], seen, with_interval(line), *shares, _by_output(line["attributes"])])
    header = "cell | seen | score | ceiling | shuffled | chance | by output and attribute"
    return section("Every cell", table(header, rows))


def _by_output(attributes: dict[str, dict[str, float]]) -> str:
    """Return the agreement of every attribute in words, output by output."""
    outputs = []
    for output, shares in attributes.items():
        parts = [f"{attribute} {percent(share)}" for attribute, share in shares.items()]
        outputs.append(f"{output}: {', '.join(parts)}")
    return "; ".join(outputs)


def _ceilings(report: dict[str, Any]) -> str:
    """Return the section of what the probes read from ground truth."""
    rows = []
    for modality, attributes in report["ceiling"].items():
        for attribute, shares in attributes.items():
            rows.append([modality, attribute, *percents(shares, "truth", "ceiling")])
    header = "modality | attribute | ground truth | through the autoencoder"
    return section("Ceilings: what the probes read", table(header, rows))


def _towers(report: dict[str, Any]) -> str | None:
    """Return the section of retrieval between prompt towers, or None where it was not measured."""
    if not report.get("retrieval"):
        return None
    rows = []
    for name, line in report["retrieval"].items():
        rows.append([name, *percents(line, "value", "chance", "target")])
    note = "A hit is a nearest neighbour with equal values of every attribute that both modalities can show."
    return section("Retrieval between prompt towers", table("towers | R@1 | chance | target", rows), note)
