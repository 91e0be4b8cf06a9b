"""Write the sections of the page that are about joint generation.

They show agreement in time, agreement on what the prompt left open, prompts, selection and the ablation.
"""

import math
from typing import Any

from codi.bench.ablation import DIRECTIONS, GUIDED, IN_STEP
from codi.bench.markup import milliseconds, percent, percents, section, table, with_interval, yes

_ABOUT_TIME = (
    "Text to video and sound: events read from the picture against those read from the sound of the same "
    "sample. Bias, MAE and p95 are over pairs matched within 125 ms; bias is sound minus picture, so "
    "positive is late sound. People notice sound from 45 ms early and 125 ms late (ITU-R BT.1359). "
    "*Environments off, same seeds*: the joint call without environments, which is each output drawn alone "
    "with its seed. *Best constant offset*: the one shift that suits the floor best."
)
_ABOUT_OPEN = (
    "The prompt names the shape alone. *Within all four*: read from samples of which all four outputs were "
    "made together. Column: of a bouncing object, within 0.05 of the width; first event: within 62.5 ms. "
    "Spread: total variation from the world's own distribution, and in parentheses what as many honest draws "
    "show; of a number, over quintiles of ground truth. *All of them*: every attribute at once."
)


def joint_sections(report: dict[str, Any]) -> list[str | None]:
    """Return the sections on joint generation in the order of the page.

    Args:
        report: the report of one model.

    Returns:
        The sections, None in place of each that was not measured.
    """
    return [
        _onsets(report),
        _partners(report),
        _four(report),
        _summary(report),
        _open(report),
        _selection(report),
        *_prompting(report),
    ]


def _between(low: float | None, high: float | None, show: Any) -> str:
    """Return an interval in brackets."""
    return f"[{show(low)}, {show(high)}]"


def _f1(line: dict[str, Any], tolerance: str) -> str:
    """Return the F1 at one tolerance with its interval."""
    return f"{line['f1'][tolerance]:.3f} {_between(*line['intervals'][tolerance], lambda x: f'{x:.3f}')}"


def onset_table(lines: dict[str, Any]) -> str:
    """Return the table of onset scores, with a row for each line."""
    rows = []
    for name, line in lines.items():
        rows.append(
            [
                name + (f" ({milliseconds(line['offset'])} ms)" if "offset" in line else ""),
                str(line["samples"]),
                _f1(line, "50 ms"),
                _f1(line, "62.5 ms"),
                _f1(line, "125 ms"),
                f"{milliseconds(line['bias'])} {_between(*line['bias_interval'], milliseconds)}",
                milliseconds(line["mae"], ""),
                milliseconds(line["p95"], ""),
                percent(line["count_accuracy"]),
            ]
        )
    return table(
        "video and sound | samples | F1 at 50 ms | 62.5 ms | 125 ms | bias ms | MAE ms | p95 ms | same count",
        rows,
    )


def _onsets(report: dict[str, Any]) -> str | None:
    """Return the section of video and sound in time, or None where it was not measured."""
    return section("In time", onset_table(report["onsets"]), _ABOUT_TIME) if report.get("onsets") else None


def _partners(report: dict[str, Any]) -> str | None:
    """Return the section of sounds for clips and clips for sounds, or None where it was not measured."""
    if not report.get("partners"):
        return None
    note = (
        "Events of the output against those read from the input itself. *Prompt only*: the input is not in "
        "the loop (`--no-sync`)."
    )
    return section("Sound for a clip, a clip for a sound", onset_table(report["partners"]), note)


def _four(report: dict[str, Any]) -> str | None:
    """Return the section of all four outputs together, or None where it was not measured."""
    if not report.get("four"):
        return None
    four = report["four"]
    row = [with_interval(four), *percents(four, "independent", "shuffled", "truth", "ceiling")]
    body = table("all agree | drawn apart | shuffled | ground truth | ceiling", [row])
    note = (
        "From the full caption: samples in which every two of the four outputs agree on every attribute that "
        "both can show."
    )
    return section("All four together", body, note)


def _summary(report: dict[str, Any]) -> str | None:
    """Return the section with one row for each set of outputs, or None where it was not measured.

    A row shows the weakest attribute, all attributes at once, and the widest spread.
    """
    if not report.get("open"):
        return None
    rows = []
    for line in report["open"]:
        # A column is asked only where something bounces; else its value is NaN.
        asked = {a: v for a, v in line["attributes"].items() if math.isfinite(v["value"])}
        worst = min(asked.items(), key=lambda item: item[1]["value"])
        widest = max(
            (x, a, m)
            for a, v in asked.items()
            for m, x in v["spread"].items()
            if m != "honest" and math.isfinite(x)
        )
        rows.append(
            [
                "+".join(line["outputs"]),
                line["made"],
                f"{worst[0]} {with_interval(worst[1])}",
                percent(worst[1]["independent"]),
                with_interval(line["all"]),
                percent(line["all"]["independent"]),
                f"{widest[0]:.2f} ({widest[1]}, {widest[2]})",
            ]
        )
    header = "outputs | made | weakest | drawn apart | all of them | drawn apart | widest spread"
    return section("Agreement on what the prompt left open", table(header, rows), _ABOUT_OPEN)


def _open(report: dict[str, Any]) -> str | None:
    """Return the section with a row for every attribute left open, or None where it was not measured."""
    if not report.get("open"):
        return None
    rows, controls = [], ("independent", "shuffled", "chance", "truth", "ceiling")
    for line in report["open"]:
        name = ["+".join(line["outputs"]), line["made"]]
        rows += [
            [*name, a, with_interval(v), *percents(v, *controls), _spread(v["spread"])]
            for a, v in line["attributes"].items()
        ]
        rows.append(
            [*name, "*all of them*", with_interval(line["all"]), *percents(line["all"], *controls), ""]
        )
    header = (
        "outputs | made | attribute | agree | drawn apart | shuffled | chance | ground truth | ceiling | "
        "spread (honest)"
    )
    return section("The same by attribute", table(header, rows))


def _spread(spread: dict[str, float | None]) -> str:
    """Return the spread of each output, with that of honest draws in parentheses."""
    shown = {m: "-" if x is None or x != x else f"{x:.2f}" for m, x in spread.items()}
    return ", ".join(f"{m} {x}" for m, x in shown.items() if m != "honest") + f" ({shown['honest']})"


def _selection(report: dict[str, Any]) -> str | None:
    """Return the section of one candidate against several, or None where it was not measured."""
    if not report.get("selection"):
        return None
    rows = []
    for line in report["selection"]:
        shares = [with_interval(line[key]) for key in ("prompt_agreement", "mutual_agreement")]
        rows.append(
            [line["prompt"], str(line["candidates"]), *shares, _f1(line, "125 ms"), _f1(line, "62.5 ms")]
        )
        if "gain" in line:
            gain = line["gain"]
            rows.append(
                [
                    line["prompt"],
                    "*gain*",
                    *(with_interval(gain[k]) for k in ("prompt_agreement", "mutual_agreement", "f1")),
                    "",
                ]
            )
    note = (
        "Video and sound. The choice is made by the model's prompt towers and two plain onset detectors, the "
        "numbers here by the world's probes. Gains are scene by scene, per cent."
    )
    header = "prompt | candidates | agree with the prompt | with each other | onset F1 at 125 ms | 62.5 ms"
    return section("Selection", table(header, rows), note)


def _prompting(report: dict[str, Any]) -> list[str]:
    """Return the sections on several prompts together, none where they were not measured."""
    if not report.get("prompting"):
        return []
    parts = report["prompting"]
    return [
        _conflict(parts["conflict"]),
        _redundancy(parts["redundancy"], parts["order"]),
        _completion(parts["completion"]),
    ]


def _conflict(lines: list[dict[str, Any]]) -> str:
    """Return the section of prompts that disagree."""
    weights = lines[0]["weights"]
    rows = []
    for line in lines:
        rows.append(
            [
                line["prompts"],
                line["output"],
                "second",
                *map(with_interval, line["second"]),
                with_interval(line["largest_fall"]),
                yes(line["monotone"]),
            ]
        )
        rows.append([line["prompts"], line["output"], "first", *map(percent, line["first"]), "", ""])
    header = (
        f"prompts | output | follows the | {' | '.join(f'weight {w:g}' for w in weights)} | largest fall | "
        "never falls"
    )
    note = (
        "Two prompts of scenes that differ in every attribute; the weight is the second's, the first has the "
        "rest. It falls from one weight to the next if the whole interval of the fall, scene by scene, lies "
        "above zero."
    )
    return section("Prompts that disagree", table(header, rows), note)


def _redundancy(lines: list[dict[str, Any]], order: list[dict[str, Any]]) -> str:
    """Return the section of one more prompt that agrees; its note holds the order of prompts."""
    rows = [
        [
            line["cell"],
            line["added"],
            *percents(line, "alone", "both"),
            with_interval(line["change"]),
            "yes" if line["hurts"] else "no",
        ]
        for line in lines
    ]
    same = "; ".join(f"{line['cell']} {percent(line['same'])}" for line in order)
    note = (
        "Agreement on what the first prompt tells. It hurts if the whole interval of the change, scene by "
        "scene, lies below zero. Samples whose readings stay the same when the prompts come in the opposite "
        f"order: {same}."
    )
    return section(
        "One more prompt that agrees", table("from -> to | added | alone | both | change | hurts", rows), note
    )


def _completion(lines: list[dict[str, Any]]) -> str:
    """Return the section of prompts that complete each other."""
    told = lambda line: (f"text + image -> {line['output']}", line["prompt"], ", ".join(line["names"]))
    rows = [[*told(line), with_interval(line["followed"]), percent(line["chance"])] for line in lines]
    note = "One sentence and one picture of the same scene, each of which says what the other leaves open."
    return section(
        "Prompts that complete each other",
        table("from -> to | prompt | says | followed | chance", rows),
        note,
    )


def ablation_table(report: dict[str, Any]) -> str:
    """Return the table of the ablation, with a row for each model and then the controls."""
    kinds = {
        IN_STEP: ("125 ms",),
        "joint": ("125 ms", "62.5 ms"),
        **dict.fromkeys(DIRECTIONS, ("125 ms",)),
        GUIDED: ("125 ms", "62.5 ms"),
    }
    columns = [(kind, tolerance) for kind, tolerances in kinds.items() for tolerance in tolerances]
    rows = []
    for name, lines in {**report["variants"], **report["controls"]}.items():
        rows.append(
            [name, *(_f1(lines[kind], tolerance) if kind in lines else "-" for kind, tolerance in columns)]
        )
    return table(" | ".join(["model", *(f"{kind}, {tolerance}" for kind, tolerance in columns)]), rows)
