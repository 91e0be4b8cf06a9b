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
    low, high = line["intervals"][tolerance]
    return f"{line['f1'][tolerance]:.3f} {_between(low, high, '{:.3f}'.format)}"


def onset_table(lines: dict[str, Any]) -> str:
    """Return the table of onset scores, with a row for each line."""
    rows = []
    for name, line in lines.items():
        moved = f" ({milliseconds(line['offset'])} ms)" if "offset" in line else ""
        scores = [_f1(line, tolerance) for tolerance in ("50 ms", "62.5 ms", "125 ms")]
        low, high = line["bias_interval"]
        bias = f"{milliseconds(line['bias'])} {_between(low, high, milliseconds)}"
        errors = [milliseconds(line["mae"], ""), milliseconds(line["p95"], "")]
        same_count = percent(line["count_accuracy"])
        rows.append([name + moved, str(line["samples"]), *scores, bias, *errors, same_count])
    header = (
        "video and sound | samples | F1 at 50 ms | 62.5 ms | 125 ms | bias ms | MAE ms | p95 ms | same count"
    )
    return table(header, rows)


def _onsets(report: dict[str, Any]) -> str | None:
    """Return the section of video and sound in time, or None where it was not measured."""
    if not report.get("onsets"):
        return None
    return section("In time", onset_table(report["onsets"]), _ABOUT_TIME)


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
        asked = {a: found for a, found in line["attributes"].items() if math.isfinite(found["value"])}
        weakest = min(asked, key=lambda attribute: asked[attribute]["value"])
        spread, attribute, output = _widest_spread(asked)
        rows.append(
            [
                "+".join(line["outputs"]),
                line["made"],
                f"{weakest} {with_interval(asked[weakest])}",
                percent(asked[weakest]["independent"]),
                with_interval(line["all"]),
                percent(line["all"]["independent"]),
                f"{spread:.2f} ({attribute}, {output})",
            ]
        )
    header = "outputs | made | weakest | drawn apart | all of them | drawn apart | widest spread"
    return section("Agreement on what the prompt left open", table(header, rows), _ABOUT_OPEN)


def _widest_spread(attributes: dict[str, dict[str, Any]]) -> tuple[float, str, str]:
    """Return the widest spread of any attribute, that attribute, and the output in which it was found."""
    spreads = []
    for attribute, found in attributes.items():
        for output, spread in found["spread"].items():
            if output != "honest" and math.isfinite(spread):
                spreads.append((spread, attribute, output))
    return max(spreads)


def _open(report: dict[str, Any]) -> str | None:
    """Return the section with a row for every attribute left open, or None where it was not measured."""
    if not report.get("open"):
        return None
    controls = ("independent", "shuffled", "chance", "truth", "ceiling")
    rows = []
    for line in report["open"]:
        name = ["+".join(line["outputs"]), line["made"]]
        for attribute, found in line["attributes"].items():
            shares = [with_interval(found), *percents(found, *controls)]
            rows.append([*name, attribute, *shares, _spread(found["spread"])])
        shares = [with_interval(line["all"]), *percents(line["all"], *controls)]
        rows.append([*name, "*all of them*", *shares, ""])
    header = (
        "outputs | made | attribute | agree | drawn apart | shuffled | chance | ground truth | ceiling | "
        "spread (honest)"
    )
    return section("The same by attribute", table(header, rows))


def _spread(spread: dict[str, float | None]) -> str:
    """Return the spread of each output, with that of honest draws in parentheses."""
    outputs = []
    for output, value in spread.items():
        if output != "honest":
            outputs.append(f"{output} {_two_decimals(value)}")
    return f"{', '.join(outputs)} ({_two_decimals(spread['honest'])})"


def _two_decimals(value: float | None) -> str:
    """Format a number with two decimals, or as a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.2f}"


def _selection(report: dict[str, Any]) -> str | None:
    """Return the section of one candidate against several, or None where it was not measured."""
    if not report.get("selection"):
        return None
    rows = []
    for line in report["selection"]:
        shares = [with_interval(line["prompt_agreement"]), with_interval(line["mutual_agreement"])]
        scores = [_f1(line, "125 ms"), _f1(line, "62.5 ms")]
        rows.append([line["prompt"], str(line["candidates"]), *shares, *scores])
        if "gain" in line:
            gained = [line["gain"][name] for name in ("prompt_agreement", "mutual_agreement", "f1")]
            rows.append([line["prompt"], "*gain*", *map(with_interval, gained), ""])
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
        name = [line["prompts"], line["output"]]
        fall = [with_interval(line["largest_fall"]), yes(line["monotone"])]
        rows.append([*name, "second", *map(with_interval, line["second"]), *fall])
        rows.append([*name, "first", *map(percent, line["first"]), "", ""])
    columns = " | ".join(f"weight {weight:g}" for weight in weights)
    header = f"prompts | output | follows the | {columns} | largest fall | never falls"
    note = (
        "Two prompts of scenes that differ in every attribute; the weight is the second's, the first has the "
        "rest. It falls from one weight to the next if the whole interval of the fall, scene by scene, lies "
        "above zero."
    )
    return section("Prompts that disagree", table(header, rows), note)


def _redundancy(lines: list[dict[str, Any]], order: list[dict[str, Any]]) -> str:
    """Return the section of one more prompt that agrees; its note holds the order of prompts."""
    rows = []
    for line in lines:
        hurts = "yes" if line["hurts"] else "no"
        shares = [*percents(line, "alone", "both"), with_interval(line["change"])]
        rows.append([line["cell"], line["added"], *shares, hurts])
    same = "; ".join(f"{line['cell']} {percent(line['same'])}" for line in order)
    note = (
        "Agreement on what the first prompt tells. It hurts if the whole interval of the change, scene by "
        "scene, lies below zero. Samples whose readings stay the same when the prompts come in the opposite "
        f"order: {same}."
    )
    header = "from -> to | added | alone | both | change | hurts"
    return section("One more prompt that agrees", table(header, rows), note)


def _completion(lines: list[dict[str, Any]]) -> str:
    """Return the section of prompts that complete each other."""
    rows = []
    for line in lines:
        cell = f"text + image -> {line['output']}"
        shares = [with_interval(line["followed"]), percent(line["chance"])]
        rows.append([cell, line["prompt"], ", ".join(line["names"]), *shares])
    note = "One sentence and one picture of the same scene, each of which says what the other leaves open."
    body = table("from -> to | prompt | says | followed | chance", rows)
    return section("Prompts that complete each other", body, note)


def ablation_table(report: dict[str, Any]) -> str:
    """Return the table of the ablation, with a row for each model and then the controls."""
    columns = [(IN_STEP, "125 ms"), ("joint", "125 ms"), ("joint", "62.5 ms")]
    columns += [(direction, "125 ms") for direction in DIRECTIONS]
    columns += [(GUIDED, "125 ms"), (GUIDED, "62.5 ms")]
    rows = []
    for name, lines in {**report["variants"], **report["controls"]}.items():
        row = [name]
        for kind, tolerance in columns:
            row.append(_f1(lines[kind], tolerance) if kind in lines else "-")
        rows.append(row)
    names = [f"{kind}, {tolerance}" for kind, tolerance in columns]
    return table(" | ".join(["model", *names]), rows)
