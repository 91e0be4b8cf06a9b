"""Compare one model at several numbers of steps.

The table has a row for everything that is measured and a column for each number of steps. Beside what a
report says of each, it holds distances to a reference of many steps: the first scenes are generated once more
from the same prompts and seeds, and compared as pictures, clips and sounds instead of readings. These calls
are timed.

Letters: B batch, S samples of a sound.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from codi.bench.make import Bench
from codi.bench.runs import Media, Run, seeds_of
from codi.models.autoencoders.mel import LogMel
from codi.types import InputError, Modality

TEXT = Modality.TEXT
IMAGE = Modality.IMAGE
AUDIO = Modality.AUDIO
VIDEO = Modality.VIDEO
REFERENCE = 50  # steps of the outputs that distances are measured to
COMPARED = 16  # scenes at most for a distance
UNITS = {
    IMAGE: "pixels, root mean square of 0 to 255",
    VIDEO: "pixels, root mean square of 0 to 255",
    AUDIO: "log-mel, root mean square",
}
TOLERANCES = ("125 ms", "62.5 ms", "50 ms")


def parse_steps(text: str | None) -> list[int]:
    """Parse the numbers of steps of `--steps`.

    Args:
        text: one number such as `25`, or several such as `4,6,10,20`; None is no choice.

    Returns:
        The numbers in the order in which they were named, none for None.

    Raises:
        InputError: a part that is not a whole number of at least 1, or a number that is named twice.
    """
    if text is None:
        return []
    counts = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise InputError(
                f"--steps {text!r}: expected a whole number of at least 1, or several such as 4,6,10,20"
            )
        counts.append(int(part))
    for count in counts:
        if counts.count(count) > 1:
            raise InputError(f"--steps {text!r} names {count} twice: name each once")
    return counts


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Hold one number of a report.

    Attributes:
        name: the row of the table.
        value: the number.
        kind: how it is shown: "share" as per cent, or "score", "distance" or "seconds".
        falls: whether less is better.
    """

    name: str
    value: float
    kind: str = "share"
    falls: bool = False


def measures(report: dict[str, Any]) -> list[Measure]:
    """Return every number of a report that can be compared between numbers of steps.

    Args:
        report: the report of one number of steps, with its distances.

    Returns:
        The measures in the order of the table.
    """
    groups = (_tasks, _cells, _onsets, _together, _selection, _prompting, _distances)
    found: list[Measure] = []
    for group in groups:
        found += group(report)
    return found


def _tasks(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield the scores of the published table."""
    for line in report["tasks"]:
        yield Measure(name=f"{line['task']}, {line['measure']}", value=line["value"])


def _cells(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield the scores of cells and their macro means."""
    for line in report["cells"]:
        yield Measure(name=f"cell {line['cell']}", value=line["value"])
    for name, group in report["summary"].items():
        if group:
            measure = f"macro mean of {group['count']} cells, {name.replace('_', ' ')}"
            yield Measure(name=measure, value=group["value"])


def _onsets(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield the onset F1 of generated samples.

    Controls that hold no sample of the model's joint generation are left out.
    """
    lines = (report.get("onsets") or {}) | (report.get("partners") or {})
    for name in ("joint", "joint, within all four", "joint, in step", "video->audio", "audio->video"):
        if name not in lines:
            continue
        for tolerance in TOLERANCES:
            value = lines[name]["f1"][tolerance]
            yield Measure(name=f"onset F1 at {tolerance}, {name}", value=value, kind="score")


def _together(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield agreement and spread of outputs that were made together."""
    if report.get("four"):
        yield Measure(name="all four outputs agree", value=report["four"]["value"])
    for line in report.get("open") or ():
        name = f"open prompt, {'+'.join(line['outputs'])} {line['made']}"
        yield Measure(name=f"{name}, all of them", value=line["all"]["value"])
        for attribute, found in line["attributes"].items():
            yield Measure(name=f"{name}, {attribute}", value=found["value"])
            for output, distance in found["spread"].items():
                if output != "honest":
                    measure = f"spread, {name}, {attribute} of {output}"
                    yield Measure(name=measure, value=distance, kind="score", falls=True)


def _selection(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield agreement with one candidate and with several."""
    for line in report.get("selection") or ():
        name = f"selection, {line['prompt']}, {line['candidates']} candidates"
        yield Measure(name=f"{name}, agree with the prompt", value=line["prompt_agreement"]["value"])
        yield Measure(name=f"{name}, agree with each other", value=line["mutual_agreement"]["value"])


def _prompting(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield how far prompts that agree or complete each other are followed."""
    parts = report.get("prompting") or {"redundancy": (), "completion": ()}
    for line in parts["redundancy"]:
        yield Measure(name=f"one more prompt, {line['cell']} with {line['added']}", value=line["both"])
    for line in parts["completion"]:
        name = f"prompts that complete each other, {line['output']}, {line['prompt']}"
        yield Measure(name=name, value=line["followed"]["value"])


def _distances(report: dict[str, Any]) -> Iterator[Measure]:
    """Yield the distances to the reference, then the seconds of a sample."""
    for name, found in report["distances"].items():
        if "distance" in found:
            measure = f"{name} from {found['reference']} steps ({UNITS[Modality(name)]})"
            yield Measure(name=measure, value=found["distance"], kind="distance", falls=True)
    for name, found in report["distances"].items():
        yield Measure(name=f"seconds for one {name}", value=found["seconds"], kind="seconds", falls=True)


# Distances to a reference


@dataclass(kw_only=True)
class Distances:
    """Compare outputs that are made alone from full captions with those of a reference.

    The outputs of the reference are made when they are first needed.

    Attributes:
        reference: the benchmark of the same model at many steps.
        outputs: the modalities to compare and to time.
        count: the number of scenes.
        steps: the number of steps of the reference.
    """

    reference: Bench
    outputs: list[Modality]
    count: int
    steps: int = REFERENCE
    _made: Media = field(default_factory=dict, init=False, repr=False)

    def score(self, bench: Bench) -> dict[str, dict[str, float]]:
        """Return how far each output is from the reference and how long a sample takes.

        The results are kept with the readings.

        Args:
            bench: the benchmark of the number of steps that is compared.

        Returns:
            For each output the `seconds` of a sample, and for all but text the `distance` and the steps of
            the `reference`.
        """
        found = {}
        for output in self.outputs:
            name = f"distance-{output}-{self.count}-{self.steps}"
            found[output.value] = bench.store.remember(name, partial(self._measure, bench, output))
        return found

    def _measure(self, bench: Bench, output: Modality) -> dict[str, float]:
        """Return the seconds of a sample of one output, and its distance where it has one."""
        if output not in self._made and output in UNITS:
            self._made[output] = self._sample(self.reference, output)
        else:
            self._sample(bench, output, count=1)  # loads and warms up the model that is timed
        began = time.perf_counter()
        media = self._sample(bench, output)
        seconds = (time.perf_counter() - began) / self.count
        if output not in UNITS:
            return {"seconds": seconds}
        distance = media_distance(media, self._made[output])
        return {"distance": distance, "reference": self.steps, "seconds": seconds}

    def _sample(self, bench: Bench, output: Modality, count: int | None = None) -> Any:
        """Return one batch of outputs of the first scenes."""
        count = count or self.count
        run = Run(inputs=(TEXT,), outputs=(output,))
        return bench.model.sample(run, bench.scenes(count=count), seeds_of(run, count, bench.seed))[output]


def media_distance(made: Tensor, reference: Tensor) -> float:
    """Return the root mean square difference of two batches of media.

    Args:
        made: uint8 pixels (B, ..., H, W), or sounds (B, S).
        reference: media of the same shape.

    Returns:
        The difference in pixel values from 0 to 255, or in log-mel values for sounds.
    """
    first = made.cpu().float()
    second = reference.cpu().float()
    if made.ndim == 2:
        spectrum = LogMel()
        first = spectrum(first)
        second = spectrum(second)
    return (first - second).square().mean().sqrt().item()


# The table


def compare(reports: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table.

    Args:
        reports: the report of each number of steps.

    Returns:
        A row for each measure: its value at every number of steps, its largest drop, and where that is.
    """
    found = {}
    for steps, report in reports.items():
        found[steps] = {measure.name: measure for measure in measures(report)}
    most = max(found)
    rows = []
    for name, best in found[most].items():
        values = {steps: of[name].value for steps, of in found.items()}
        row = {"measure": name, "kind": best.kind, "less_is_better": best.falls, "values": values}
        if best.kind != "seconds":
            row["drop"], row["drop_at"] = largest_drop(values, best.falls)
        rows.append(row)
    return rows


def largest_drop(values: dict[int, float], falls: bool) -> tuple[float | None, int | None]:
    """Return by how much the worst number of steps is worse than the most steps, and which that is.

    Args:
        values: the value at each number of steps.
        falls: whether less is better.

    Returns:
        The drop and its number of steps. The drop is 0 where none is worse; both are None where the value at
        the most steps is not known.
    """
    most = max(values)
    sign = 1 if falls else -1
    drops = {}
    for steps, value in values.items():
        drop = (value - values[most]) * sign
        if math.isfinite(drop):
            drops[steps] = drop
    if most not in drops:
        return None, None
    worst = max(drops, key=lambda steps: (drops[steps], steps))
    return drops[worst] + 0.0, worst  # turns minus zero into zero
