"""Measure what several prompts do together.

Four questions are asked. Conflict: the second of two prompts describes a scene that differs in every
attribute; how often the result follows it must not fall as its weight rises. Redundancy: one more prompt of
the same scene must not make the result worse. Completion: a sentence names motion and tempo, a picture shows
the rest, and both are to be followed. Order: the order of the prompts must not matter.

Differences are taken scene by scene, so that their intervals are those of paired samples.

Letters: N scenes.
"""

from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np

from codi.bench.make import Bench, Plan, plan_of
from codi.bench.runs import Readings, Run, facts_read, parse_cell, rival_of
from codi.bench.scores import as_dict, asked, chance, facts_of
from codi.metrics.agreement import agreement
from codi.metrics.bootstrap import bootstrap, share_interval
from codi.types import Modality
from codi.world import Scene

TEXT = Modality.TEXT
IMAGE = Modality.IMAGE
AUDIO = Modality.AUDIO
VIDEO = Modality.VIDEO
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the second prompt; the first has the rest
CONFLICTS = (
    Run(inputs=(TEXT, TEXT), outputs=(IMAGE,), rival=True, sync=False),
    Run(inputs=(TEXT, IMAGE), outputs=(IMAGE,), rival=True, sync=False),
    Run(inputs=(TEXT, AUDIO), outputs=(IMAGE,), rival=True, sync=False),
    Run(inputs=(TEXT, TEXT), outputs=(AUDIO,), rival=True, sync=False),
)
ADDED = {  # the modalities that are added, one at a time, to the prompt of each cell
    "text->image": (TEXT, IMAGE, AUDIO, VIDEO),
    "audio->image": (TEXT, IMAGE, VIDEO),
    "text->audio": (TEXT, IMAGE, AUDIO, VIDEO),
    "image->audio": (TEXT, AUDIO, VIDEO),
}
COMPLETIONS = (
    Run(inputs=(TEXT, IMAGE), outputs=(AUDIO,), facts=("motion", "tempo")),
    Run(inputs=(TEXT, IMAGE), outputs=(VIDEO,), facts=("motion", "tempo")),
)
ORDER = (parse_cell("text+image+audio->image"), parse_cell("text+image+audio+video->audio"))


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """Generate and score conflict, redundancy, completion and order.

    Attributes:
        count: the number of scenes of each.
    """

    count: int

    @property
    def conflicts(self) -> dict[Run, list[Run]]:
        """The runs with each weight of `WEIGHTS`, for each pair of prompts that disagree."""
        runs = {}
        for run in CONFLICTS:
            runs[run] = [replace(run, weights=(1 - weight, weight)) for weight in WEIGHTS]
        return runs

    @property
    def additions(self) -> dict[Run, dict[Modality, Run]]:
        """The runs with one more prompt by its modality, for each run with one prompt."""
        runs = {}
        for name, added in ADDED.items():
            base = parse_cell(name)
            runs[base] = {m: replace(base, inputs=(*base.inputs, m)) for m in added}
        return runs

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        runs = list(chain(*self.conflicts.values()))
        for base, more in self.additions.items():
            runs += [base, *more.values()]
        runs += COMPLETIONS
        for run in ORDER:
            runs += [run, replace(run, turned=True)]
        return plan_of(runs, self.count)

    def score(self, bench: Bench) -> dict[str, Any]:
        """Return the lines of the report for each of the four questions, by name."""
        scenes = bench.scenes(count=self.count)
        conflict = []
        for run, weighted in self.conflicts.items():
            made = bench.readings_of_all(weighted, self.count)
            conflict.append(conflict_line(run, made, scenes))
        redundancy = []
        for base, more in self.additions.items():
            alone = bench.readings(base, self.count)
            for m, run in more.items():
                both = bench.readings(run, self.count)
                redundancy.append(redundancy_line(base, m, alone, both, scenes))
        completion = []
        for run in COMPLETIONS:
            completion += completion_lines(run, bench.readings(run, self.count), scenes)
        order = []
        for run in ORDER:
            as_named, turned = bench.readings_of_all([run, replace(run, turned=True)], self.count)
            order.append(order_line(run, as_named, turned))
        return {"conflict": conflict, "redundancy": redundancy, "completion": completion, "order": order}


def follow_rows(run: Run, readings: Readings, scenes: list[Scene], estimates_from: Modality) -> np.ndarray:
    """Return how far one prompt is followed in each scene.

    Args:
        run: a run with a single output.
        readings: what the probes read from the output.
        scenes: the scenes that the prompt describes.
        estimates_from: the modality of the prompt.

    Returns:
        For each scene (N,) the share of correct attributes, among those that the prompt names and the output
        shows.
    """
    (output,) = run.outputs
    attributes = asked((estimates_from,), output, run.facts)
    parts = agreement(facts_read(readings[output]), facts_of(scenes), attributes)
    return np.mean(list(parts.values()), axis=0)


def conflict_line(run: Run, made: list[Readings], scenes: list[Scene]) -> dict[str, Any]:
    """Return how often either of two prompts that disagree is followed at each of `WEIGHTS`.

    Args:
        run: the run without weights.
        made: the readings at each weight.
        scenes: the scenes of the first prompt.

    Returns:
        The shares for both prompts, with the largest fall of the second one from one weight to the next.
    """
    first, second = run.inputs
    rivals = [rival_of(scene) for scene in scenes]
    follows = [follow_rows(run, readings, rivals, second) for readings in made]  # one (N,) for each weight
    stays = [follow_rows(run, readings, scenes, first) for readings in made]
    falls = [bootstrap(before - after) for before, after in pairwise(follows)]
    worst = max(falls, key=lambda fall: fall.value)
    return {
        "prompts": f"{first} against {second}",
        "output": run.outputs[0].value,
        "weights": list(WEIGHTS),
        "second": [as_dict(share_interval(rows)) for rows in follows],
        "first": [float(rows.mean()) for rows in stays],
        "largest_fall": as_dict(worst),
        "monotone": all(fall.low <= 0 for fall in falls),
    }


def redundancy_line(
    base: Run, added: Modality, alone: Readings, more: Readings, scenes: list[Scene]
) -> dict[str, Any]:
    """Return the agreement with and without an added prompt, on what the first prompt names.

    Args:
        base: the run with one prompt.
        added: the modality of the prompt that is added.
        alone: the readings without it.
        more: the readings with it.
        scenes: the scenes that both prompts describe.

    Returns:
        Both agreements and their difference scene by scene.
    """
    estimates_from = base.inputs[0]
    before = follow_rows(base, alone, scenes, estimates_from)
    after = follow_rows(base, more, scenes, estimates_from)
    change = bootstrap(after - before)
    return {
        "cell": base.name,
        "added": added.value,
        "alone": float(before.mean()),
        "both": float(after.mean()),
        "change": as_dict(change),
        "hurts": change.high < 0,
    }


def completion_lines(run: Run, readings: Readings, scenes: list[Scene]) -> list[dict[str, Any]]:
    """Return how far each of two prompts is followed on what it says, beside chance.

    Args:
        run: a run whose prompts complete each other.
        readings: what the probes read from its output.
        scenes: the scenes that both prompts describe.

    Returns:
        A line for each prompt.
    """
    (output,) = run.outputs
    lines = []
    for m in run.inputs:
        attributes = asked((m,), output, run.facts)
        line = {
            "output": output.value,
            "prompt": m.value,
            "names": list(attributes),
            "chance": chance(attributes),
            "followed": as_dict(share_interval(follow_rows(run, readings, scenes, m))),
        }
        lines.append(line)
    return lines


def order_line(run: Run, made: Readings, turned: Readings) -> dict[str, Any]:
    """Return the share of samples whose readings are the same whichever prompt comes first.

    Args:
        run: the run in one order.
        made: its readings.
        turned: the readings in the opposite order.

    Returns:
        The line of the report.
    """
    same = []
    for m in run.outputs:
        for a, b in zip(made[m], turned[m], strict=True):
            same.append(a.facts == b.facts and len(a.events) == len(b.events))
    return {"cell": run.name, "same": float(np.mean(same))}
