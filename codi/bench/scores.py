"""Agreement of what was generated with what was asked, per cell (input subset -> output subset) and per
published task.

An output is asked for the attributes that it can show and that at least one input shows: a picture tells
nothing of tempo. A cell's score is the mean over its outputs of the mean over their attributes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from codi.bench.runs import Readings, Run, parse_cell
from codi.metrics.agreement import agreement, all_agree, shuffled
from codi.metrics.bootstrap import Interval, share_interval
from codi.metrics.spread import world_distribution
from codi.types import Modality
from codi.world import ATTRIBUTES, VISIBLE, Scene

FAST = (
    "text->image",
    "text->video",
    "text->audio",
    "text->text",
    "image->text",
    "audio->text",
    "video->text",
    "image->audio",
    "audio->image",
    "image->video",
    "video->audio",
    "audio->video",
    "text->video+audio",
    "image+audio->video+text",
    "text->text+image+audio+video",
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One line of the published table: `attributes` of one output, each of which should reach `target`."""

    cell: str
    output: Modality
    attributes: dict[str, float]
    together: bool = False  # one number: all attributes right at once
    held_out: bool = False

    @property
    def run(self) -> Run:
        cell = parse_cell(self.cell)
        return Run(inputs=cell.inputs, outputs=cell.outputs, held_out=self.held_out)


_LOOKS = {"colour": 0.95, "shape": 0.95, "place": 0.95}
_WORDS = {"colour": 0.90, "shape": 0.90, "place": 0.90}
_UNSEEN = {"colour": 0.80, "shape": 0.80}
_PAIR = {"shape": 0.75, "colour": 0.75}
TASKS = (
    Task(cell="text->image", output=Modality.IMAGE, attributes=_LOOKS),
    Task(cell="text->video", output=Modality.VIDEO, attributes={**_LOOKS, "motion": 0.90}),
    Task(
        cell="text->audio", output=Modality.AUDIO, attributes={"colour": 0.95, "shape": 0.90, "place": 0.90}
    ),
    Task(cell="image->text", output=Modality.TEXT, attributes=_WORDS),
    Task(cell="audio->text", output=Modality.TEXT, attributes=_WORDS),
    Task(cell="video->text", output=Modality.TEXT, attributes=_WORDS),
    Task(cell="image->audio", output=Modality.AUDIO, attributes=_UNSEEN),
    Task(cell="audio->image", output=Modality.IMAGE, attributes=_UNSEEN),
    Task(cell="text->image", output=Modality.IMAGE, attributes=_PAIR, together=True, held_out=True),
    # What partners say of pairs that no tower has seen must not talk the prompt over.
    Task(
        cell="text->text+image+audio+video",
        output=Modality.IMAGE,
        attributes=_PAIR,
        together=True,
        held_out=True,
    ),
    Task(
        cell="text->text+image+audio+video",
        output=Modality.VIDEO,
        attributes=_PAIR,
        together=True,
        held_out=True,
    ),
)


def all_cells() -> list[Run]:
    """The 15 x 15 input and output subsets, small ones first."""
    subsets = [subset for size in range(1, 5) for subset in combinations(Modality, size)]
    cells = [Run(inputs=inputs, outputs=outputs) for inputs in subsets for outputs in subsets]
    return sorted(cells, key=lambda run: len(run.inputs) + len(run.outputs))


def chosen_cells(text: str) -> list[Run]:
    """The runs of `--cells`."""
    if text == "all":
        return all_cells()
    if text == "none":
        return []
    names = FAST if text == "fast" else [name for name in text.split(",") if name.strip()]
    return [parse_cell(name) for name in names]


MADE_TOGETHER = (
    {Modality.TEXT, Modality.IMAGE},
    {Modality.TEXT, Modality.AUDIO},
    {Modality.AUDIO, Modality.VIDEO},
)


def is_seen(run: Run) -> bool:
    """Whether training ever showed this combination: text with anything, anything with itself, and sound with
    video.

    Two outputs count as seen when training paired them (sound and clip hear each other, pictures and sounds
    are told of sentences and sentences of pictures) and the one input is of the pair, since prompts came from
    it; that the model may draw a caption beside them, unasked, does not count.
    """
    if len(run.inputs) > 1 or len(run.outputs) > 2:
        return False
    source, outputs = run.inputs[0], set(run.outputs)
    if len(outputs) == 2:
        return source in outputs and outputs in MADE_TOGETHER
    pair = {source} | outputs
    return len(pair) == 1 or Modality.TEXT in pair or pair == {Modality.AUDIO, Modality.VIDEO}


def asked(
    inputs: Sequence[Modality], output: Modality, facts: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Attributes that `output` can show and that some input tells, in the world's order."""
    told = {a for m in inputs for a in (facts if m is Modality.TEXT and facts is not None else VISIBLE[m])}
    return tuple(a for a in ATTRIBUTES if a in VISIBLE[output] and a in told)


def facts_of(scenes: Sequence[Scene]) -> list[dict[str, str]]:
    return [{a: getattr(scene, a) for a in ATTRIBUTES} for scene in scenes]


def chance(attributes: Sequence[str]) -> float:
    """Mean probability of being right by naming the commonest value."""
    return float(np.mean([world_distribution(a).max() for a in attributes]))


def cell_rows(run: Run, readings: Readings, facts: list[dict[str, str]]) -> np.ndarray:
    """The score of the cell for each scene, (N,)."""
    per_output = []
    for output in run.outputs:
        parts = agreement([r.facts for r in readings[output]], facts, asked(run.inputs, output, run.facts))
        per_output.append(np.mean(list(parts.values()), axis=0))
    return np.mean(per_output, axis=0)


def score_cell(run: Run, readings: Readings, ceiling: Readings, scenes: Sequence[Scene]) -> dict[str, Any]:
    """One cell of the report: score and interval, ceiling, floors, and the agreement of every output and
    attribute.
    """
    facts = facts_of(scenes)
    interval = share_interval(cell_rows(run, readings, facts))
    top = float(cell_rows(run, ceiling, facts).mean())
    return {
        "cell": run.name,
        "inputs": [m.value for m in run.inputs],
        "outputs": [m.value for m in run.outputs],
        "seen": is_seen(run),
        **as_dict(interval),
        "ceiling": top,
        "ratio": interval.value / max(top, 1e-9),
        "shuffled": float(cell_rows(run, readings, shuffled(facts)).mean()),
        "chance": float(np.mean([chance(asked(run.inputs, m, run.facts)) for m in run.outputs])),
        "attributes": {m.value: _attribute_means(run, m, readings, facts) for m in run.outputs},
    }


def _attribute_means(
    run: Run, output: Modality, readings: Readings, facts: list[dict[str, str]]
) -> dict[str, float]:
    parts = agreement([r.facts for r in readings[output]], facts, asked(run.inputs, output, run.facts))
    return {a: float(hits.mean()) for a, hits in parts.items()}


def score_task(
    task: Task, readings: Readings, ceiling: Readings, scenes: Sequence[Scene]
) -> list[dict[str, Any]]:
    """The lines of one task: one per attribute, or one for all of them together; of several outputs the
    measure names the one.
    """
    of_output = f"{task.output}: " if len(task.run.outputs) > 1 else ""
    facts, names = facts_of(scenes), tuple(task.attributes)

    def hits(of: Readings, against: list[dict[str, str]]) -> dict[str, np.ndarray]:
        parts = agreement([r.facts for r in of[task.output]], against, names)
        return {" and ".join(names): all_agree(parts)} if task.together else parts

    values, tops, floors = hits(readings, facts), hits(ceiling, facts), hits(readings, shuffled(facts))
    targets = {" and ".join(names): min(task.attributes.values())} if task.together else task.attributes
    return [
        {
            "task": task.run.name,
            "measure": of_output + key,
            **as_dict(share_interval(values[key])),
            "ceiling": float(tops[key].mean()),
            "shuffled": float(floors[key].mean()),
            "chance": _commonest(facts, key.split(" and ")),
            "target": targets[key],
            "met": bool(values[key].mean() >= targets[key]),
        }
        for key in values
    ]


def _commonest(facts: list[dict[str, str]], names: Sequence[str]) -> float:
    """Share of the scenes that have the commonest values: the score of always answering the same."""
    return Counter(tuple(f[a] for a in names) for f in facts).most_common(1)[0][1] / len(facts)


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Macro mean and worst cell: of all, of those that training never showed, of those it did. None for an
    empty group.
    """
    groups = {
        "all": cells,
        "never_seen": [c for c in cells if not c["seen"]],
        "seen": [c for c in cells if c["seen"]],
    }
    return {name: _macro(group) if group else None for name, group in groups.items()}


def _macro(cells: list[dict[str, Any]]) -> dict[str, Any]:
    means = {
        key: float(np.mean([c[key] for c in cells])) for key in ("value", "ceiling", "shuffled", "chance")
    }
    worst = min(cells, key=lambda c: c["value"])
    ratio = means["value"] / max(means["ceiling"], 1e-9)
    return {
        "count": len(cells),
        **means,
        "ratio": ratio,
        "worst": worst["cell"],
        "worst_value": worst["value"],
    }


def as_dict(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
