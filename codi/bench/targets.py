"""Compare a report with the published targets that its table of tasks does not hold.

They are about cells in summary, agreement in time, joint outputs and several prompts.
"""

from typing import Any


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line for every target whose numbers a report has.

    Args:
        report: the report of one model.

    Returns:
        Lines of a measure, its value, its target, and whether the target is met.
    """
    lines = (
        _of_cells(report["summary"]) + _of_onsets(report.get("onsets")) + _of_partners(report.get("partners"))
    )
    return (
        lines
        + _of_open(report.get("open"))
        + _of_four(report.get("four"))
        + _of_prompting(report.get("prompting"))
    )


def _line(measure: str, value: float, target: float, at_most: bool = False) -> dict[str, Any]:
    """Return one line, for a value that must reach its target or, with `at_most`, stay below or at it."""
    met = value <= target if at_most else value >= target
    return {"measure": measure, "value": value, "target": target, "at_most": at_most, "met": bool(met)}


def _of_cells(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of all cells, and of those that training never showed."""
    lines, every, unseen = [], summary["all"], summary["never_seen"]
    if every:
        count = every["count"]
        lines.append(_line(f"macro mean of {count} cells, share of the ceiling", every["ratio"], 0.85))
        lines.append(_line(f"worst of {count} cells ({every['worst']})", every["worst_value"], 0.60))
    if unseen:
        lines.append(
            _line(
                f"macro mean of {unseen['count']} cells never seen, share of the ceiling",
                unseen["ratio"],
                0.90,
            )
        )
    return lines


def _of_onsets(lines: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the targets of video and sound in time."""
    if not lines:
        return []
    # The autoencoders lose some of the timing too, so that two targets are shares of the ceiling.
    drawn, top, apart = (
        lines[name]["f1"] for name in ("joint", "ground truth through autoencoders", "independent")
    )
    bias = lines["joint"]["bias"]
    return [
        _line(
            "text -> video + audio, onset F1 at 125 ms above independent generation",
            drawn["125 ms"] - apart["125 ms"],
            0.25,
        ),
        _line(
            "text -> video + audio, onset F1 at 125 ms, share of the ceiling",
            drawn["125 ms"] / max(top["125 ms"], 1e-9),
            0.92,
        ),
        _line(
            "text -> video + audio, onset F1 at 62.5 ms, share of the ceiling",
            drawn["62.5 ms"] / max(top["62.5 ms"], 1e-9),
            0.85,
        ),
        _line("text -> video + audio, size of the bias in seconds", abs(bias), 0.015, at_most=True),
    ]


def _of_partners(lines: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the targets of a sound for a clip and a clip for a sound."""
    result = []
    for name in ("video->audio", "audio->video") if lines else ():
        top = lines[f"{name}, ground truth through autoencoder"]["f1"]["125 ms"]
        result.append(
            _line(
                f"{name}, onset F1 at 125 ms, share of the ceiling",
                lines[name]["f1"]["125 ms"] / max(top, 1e-9),
                0.95,
            )
        )
    return result


def _of_open(lines: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the targets of agreement and variety on what the prompt left open."""
    result = []
    for line in lines or ():
        parts = {a: v for a, v in line["attributes"].items() if a in ("colour", "place", "motion")}
        spread = max(x for v in parts.values() for m, x in v["spread"].items() if m != "honest")
        name = f"{' + '.join(line['outputs'])}, {line['made']}"
        result.append(
            _line(
                f"{name}, lowest agreement on an open attribute",
                min(v["value"] for v in parts.values()),
                0.90,
            )
        )
        result.append(
            _line(f"{name}, widest distance of an open attribute from the world", spread, 0.15, at_most=True)
        )
    return result


def _of_four(line: dict[str, float] | None) -> list[dict[str, Any]]:
    """Return the target of all four outputs together."""
    return (
        [_line("text + image + audio + video together, all shared attributes agree", line["value"], 0.80)]
        if line
        else []
    )


def _of_prompting(parts: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the targets of several prompts together."""
    if not parts:
        return []
    falls, hurts = (
        sum(not line["monotone"] for line in parts["conflict"]),
        sum(line["hurts"] for line in parts["redundancy"]),
    )
    return [
        _line(
            f"pairs of prompts, of {len(parts['conflict'])}, followed less as the weight rises",
            falls,
            0,
            at_most=True,
        ),
        _line(
            f"added prompts that agree, of {len(parts['redundancy'])}, that make a result worse",
            hurts,
            0,
            at_most=True,
        ),
        _line(
            "samples that stay the same when prompts come in the opposite order",
            min(line["same"] for line in parts["order"]),
            1.0,
        ),
    ]
