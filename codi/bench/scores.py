"""Score how well what was generated agrees with what was asked, for each cell and each published task.

A cell is an input subset with an output subset. An output is asked for the attributes that it can show and
that at least one input shows: a picture says nothing of tempo. The score of a cell is the mean over its
outputs of the mean over their attributes.

Letters: N scenes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from codi.bench.runs import Readings, Run, facts_read, parse_cell
from codi.metrics.agreement import agreement, all_agree, shuffled
from codi.metrics.bootstrap import Interval, share_interval
from codi.metrics.spread import world_distribution
from codi.modalities import in_words
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
    """Describe one line of the published table.

    Attributes:
        cell: the name of the cell.
        output: the output that is scored.
        attributes: the attributes that are scored, each with the share that it should reach.
        together: whether the task is one number, the share of samples in which all attributes are right at
            once.
        held_out: whether the scenes are shape-colour pairs that training never showed.
    """

    cell: str
    output: Modality
    attributes: dict[str, float]
    together: bool = False
    held_out: bool = False

    @property
    def run(self) -> Run:
        """The run that the task scores."""
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
    # Partner estimates of pairs that no tower has seen must not override the prompt.
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
    """Return the 15 x 15 input and output subsets, small ones first."""
    subsets: list[tuple[Modality, ...]] = []
    for size in range(1, 5):
        subsets += combinations(Modality, size)
    cells = [Run(inputs=inputs, outputs=outputs) for inputs, outputs in product(subsets, subsets)]
    return sorted(cells, key=lambda run: len(run.inputs) + len(run.outputs))


def chosen_cells(text: str) -> list[Run]:
    """Return the runs of `--cells`.

    Args:
        text: "all", "fast", "none", or names of cells separated by commas.

    Returns:
        One run for each cell.

    Raises:
        InputError: a name that is no cell.
    """
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
    """Return whether training ever showed this combination.

    Seen are text with anything, anything with itself, and sound with video. Two outputs count as seen when
    training paired them (sound and clip attend to each other; pictures and sounds are given partner estimates
    of sentences, and sentences those of pictures) and the one input is of the pair, since prompts came from
    it. That the model may draw an auxiliary caption beside them by default does not count.

    Args:
        run: the run of a cell.

    Returns:
        True for a combination of training.
    """
    if len(run.inputs) > 1 or len(run.outputs) > 2:
        return False
    source = run.inputs[0]
    outputs = set(run.outputs)
    if len(outputs) == 2:
        return source in outputs and outputs in MADE_TOGETHER
    pair = {source} | outputs
    return len(pair) == 1 or any(map(in_words, pair)) or pair in MADE_TOGETHER


def asked(
    inputs: Sequence[Modality], output: Modality, facts: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the attributes that an output is scored on.

    Args:
        inputs: the modalities of the prompts.
        output: the modality that is scored.
        facts: the attributes that a text prompt names; None is all of them.

    Returns:
        The attributes that `output` can show and some input says, in the world's order.
    """
    named: set[str] = set()
    for m in inputs:
        named.update(facts if in_words(m) and facts is not None else VISIBLE[m])
    return tuple(a for a in ATTRIBUTES if a in VISIBLE[output] and a in named)


def facts_of(scenes: Sequence[Scene]) -> list[dict[str, str]]:
    """Return the attributes of each scene with their values."""
    return [_facts(scene) for scene in scenes]


def _facts(scene: Scene) -> dict[str, str]:
    """Return the attributes of one scene with their values."""
    return {attribute: getattr(scene, attribute) for attribute in ATTRIBUTES}


def chance(attributes: Sequence[str]) -> float:
    """Return the mean probability of being right by always naming the commonest value."""
    return float(np.mean([world_distribution(a).max() for a in attributes]))


def cell_rows(run: Run, readings: Readings, facts: list[dict[str, str]]) -> np.ndarray:
    """Return the score of a cell for each scene.

    Args:
        run: the run of the cell.
        readings: what the probes read from its outputs.
        facts: the facts of its scenes.

    Returns:
        The scores (N,) in [0, 1].
    """
    per_output = []
    for output in run.outputs:
        parts = _hits(run, output, readings, facts)
        per_output.append(np.mean(list(parts.values()), axis=0))
    return np.mean(per_output, axis=0)


def _hits(
    run: Run, output: Modality, readings: Readings, facts: list[dict[str, str]]
) -> dict[str, np.ndarray]:
    """Return for each attribute that one output is asked for in which scenes (N,) it is right."""
    return agreement(facts_read(readings[output]), facts, asked(run.inputs, output, run.facts))


def score_cell(run: Run, readings: Readings, ceiling: Readings, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return the line of one cell of the report.

    Args:
        run: the run of the cell.
        readings: what the probes read from its outputs.
        ceiling: what they read from ground truth through the autoencoders.
        scenes: the scenes of the run.

    Returns:
        The score and its interval, the ceiling, the floors, and the agreement of every output and attribute.
    """
    facts = facts_of(scenes)
    interval = share_interval(cell_rows(run, readings, facts))
    top = float(cell_rows(run, ceiling, facts).mean())
    chances = []
    attributes = {}
    for output in run.outputs:
        chances.append(chance(asked(run.inputs, output, run.facts)))
        parts = _hits(run, output, readings, facts)
        attributes[output.value] = {name: float(hits.mean()) for name, hits in parts.items()}
    return {
        "cell": run.name,
        "inputs": [m.value for m in run.inputs],
        "outputs": [m.value for m in run.outputs],
        "seen": is_seen(run),
        **as_dict(interval),
        "ceiling": top,
        "ratio": interval.value / max(top, 1e-9),
        "shuffled": float(cell_rows(run, readings, shuffled(facts)).mean()),
        "chance": float(np.mean(chances)),
        "attributes": attributes,
    }


def score_task(
    task: Task, readings: Readings, ceiling: Readings, scenes: Sequence[Scene]
) -> list[dict[str, Any]]:
    """Return the lines of one task: one for each attribute, or one for all of them together.

    Where the run has several outputs, the measure names the one that is scored.

    Args:
        task: the task.
        readings: what the probes read from the outputs of its run.
        ceiling: what they read from ground truth through the autoencoders.
        scenes: the scenes of the run.

    Returns:
        Lines with score, interval, ceiling, floors and target.
    """
    of_output = f"{task.output}: " if len(task.run.outputs) > 1 else ""
    facts = facts_of(scenes)
    names = tuple(task.attributes)
    whole = " and ".join(names)

    def hits(of: Readings, against: list[dict[str, str]]) -> dict[str, np.ndarray]:
        parts = agreement(facts_read(of[task.output]), against, names)
        return {whole: all_agree(parts)} if task.together else parts

    tops = hits(ceiling, facts)
    floors = hits(readings, shuffled(facts))
    targets = {whole: min(task.attributes.values())} if task.together else task.attributes
    lines = []
    for measure, rows in hits(readings, facts).items():
        line = {
            "task": task.run.name,
            "measure": of_output + measure,
            **as_dict(share_interval(rows)),
            "ceiling": float(tops[measure].mean()),
            "shuffled": float(floors[measure].mean()),
            "chance": _commonest(facts, measure.split(" and ")),
            "target": targets[measure],
            "met": bool(rows.mean() >= targets[measure]),
        }
        lines.append(line)
    return lines


def _commonest(facts: list[dict[str, str]], names: Sequence[str]) -> float:
    """Return the share of the scenes that have the commonest values.

    That is the score of always giving the same answer.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for scene in facts:
        counts[tuple(scene[name] for name in names)] += 1
    return max(counts.values()) / len(facts)


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the macro mean and the worst cell of each group of cells.

    The groups are all cells, those that training never showed, and those that it did.

    Args:
        cells: the lines of `score_cell`.

    Returns:
        The summary of each group by name; None for a group without cells.
    """
    groups = {
        "all": cells,
        "never_seen": [cell for cell in cells if not cell["seen"]],
        "seen": [cell for cell in cells if cell["seen"]],
    }
    summary = {}
    for name, group in groups.items():
        summary[name] = _macro(group) if group else None
    return summary


def _macro(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the macro means and the worst cell of a group of cells."""
    means = {}
    for key in ("value", "ceiling", "shuffled", "chance"):
        means[key] = float(np.mean([cell[key] for cell in cells]))
    worst = min(cells, key=lambda cell: cell["value"])
    ratio = means["value"] / max(means["ceiling"], 1e-9)
    return {
        "count": len(cells),
        **means,
        "ratio": ratio,
        "worst": worst["cell"],
        "worst_value": worst["value"],
    }


def as_dict(interval: Interval) -> dict[str, float]:
    """Return an interval as a value for JSON."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}
