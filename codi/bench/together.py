"""Measure agreement between the outputs of one sample on what the prompt left open.

Pairs, triples and all four outputs are compared.

Beside each number stand the same outputs drawn apart, shuffled partners, chance, ground truth, and ground
truth through the autoencoders. The spread of each output's values stands beside them too, as a distance from
the world's own distribution, so that always answering the same cannot win. Besides the attributes there are
two quantities that no caption names: the time of the first event, and the column in which an object bounces.

Letters: N samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np

from codi.bench.make import Bench, Plan, plan_of
from codi.bench.runs import Readings, Run, facts_read
from codi.bench.scores import as_dict
from codi.bench.timing import ALL_FOUR, drawn
from codi.metrics.agreement import all_agree, mutual_agreement, mutual_closeness, shuffled
from codi.metrics.bootstrap import nanmean, share_interval
from codi.metrics.spread import expected_total_variation, quantile_bins, total_variation, world_distribution
from codi.types import Modality
from codi.world import ATTRIBUTES, VISIBLE, Reading

TEXT = Modality.TEXT
IMAGE = Modality.IMAGE
AUDIO = Modality.AUDIO
VIDEO = Modality.VIDEO
OPEN_FACTS = ("shape",)  # named by the prompt, as in "a ball"; all the rest is left open
APART = 100  # draws from here on are of outputs made apart, which therefore never share a seed
NUM_BINS = 5  # of a quantity, for its spread
NUM_SHUFFLES = 20  # for the chance of a quantity

Outputs = tuple[Modality, ...]
Columns = list[list[Reading]]  # readings of each output, samples in the same order


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Describe a number that some outputs show and no caption names.

    Outputs agree when no two of them are further apart than `tolerance`.

    Attributes:
        of: a function that takes the number from a reading, None where there is none.
        shown: the modalities that show the number.
        tolerance: the largest difference that counts as agreement, in the unit of the number.
        asks: the output without whose number the question does not arise; None is a question that always
            does.
    """

    of: Callable[[Reading], float | None]
    shown: frozenset[Modality]
    tolerance: float
    asks: Modality | None = None


QUANTITIES = {
    # In seconds, within half a frame of the clip.
    "first event": Quantity(of=lambda r: r.start, shown=frozenset((AUDIO, VIDEO)), tolerance=0.0625),
    # In parts of the width, where the object of the clip bounces.
    "column": Quantity(of=lambda r: r.x, shown=frozenset((IMAGE, VIDEO)), tolerance=0.05, asks=VIDEO),
}


def output_sets() -> list[Outputs]:
    """Return all pairs and triples of outputs, and all four."""
    return [*combinations(Modality, 2), *combinations(Modality, 3), *combinations(Modality, 4)]


def shared_attributes(outputs: Sequence[Modality], told: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the attributes that all of several outputs can show and the prompt does not name.

    Args:
        outputs: the modalities.
        told: the attributes that the prompt names.

    Returns:
        The attributes in the world's order.
    """
    shared = []
    for attribute in ATTRIBUTES:
        shown_by_all = all(attribute in VISIBLE[m] for m in outputs)
        if shown_by_all and attribute not in told:
            shared.append(attribute)
    return tuple(shared)


def columns(readings: Sequence[Readings], outputs: Sequence[Modality]) -> Columns:
    """Return the readings of each output, all draws one after another."""
    found = []
    for m in outputs:
        rows: list[Reading] = []
        for draw in readings:
            rows += draw[m]
        found.append(rows)
    return found


@dataclass(frozen=True, kw_only=True)
class Open:
    """Generate and score outputs from prompts that name the shape alone.

    Every set of outputs is read from samples of all four.

    Attributes:
        count: the number of scenes.
        draws: the number of independent sets of seeds.
        every: whether each set of outputs is also made by itself.
    """

    count: int
    draws: int
    every: bool

    @property
    def together(self) -> dict[Outputs, list[Run]]:
        """The runs of each set of outputs that is made together, the largest set first."""
        sets = output_sets() if self.every else [tuple(Modality)]
        runs = {}
        for outputs in reversed(sets):
            run = Run(inputs=(TEXT,), outputs=outputs, facts=OPEN_FACTS)
            runs[outputs] = drawn(run, self.draws)
        return runs

    @property
    def apart(self) -> dict[Modality, Run]:
        """The run of each output by itself, with seeds that no other output has."""
        runs = {}
        for k, m in enumerate(Modality):
            runs[m] = Run(inputs=(TEXT,), outputs=(m,), facts=OPEN_FACTS, draw=APART * (1 + k))
        return runs

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        return plan_of([*chain(*self.together.values()), *self.apart.values()], self.count)

    def score(self, bench: Bench) -> list[dict[str, Any]]:
        """Return a line for each set of outputs and way of making it."""
        made = {outputs: bench.readings_of_all(runs, self.count) for outputs, runs in self.together.items()}
        apart = readings_apart(bench, self.apart, self.count)
        truth = bench.truth(self.count)
        ceiling = bench.ceiling(self.count)
        lines = []
        for outputs in output_sets():
            ways = {}
            if outputs in made:
                ways["by themselves"] = made[outputs]
            if len(outputs) < 4:
                ways["within all four"] = made[tuple(Modality)]
            for way, readings in ways.items():
                rows = columns(readings, outputs)
                line = open_line(rows, outputs, apart, truth, ceiling, draws=self.draws)
                lines.append({"outputs": [m.value for m in outputs], "made": way, **line})
        return lines


def readings_apart(bench: Bench, runs: dict[Modality, Run], count: int) -> Readings:
    """Return the readings of outputs that are each made by a run of their own."""
    return {m: bench.readings(run, count)[m] for m, run in runs.items()}


def open_line(
    made: Columns,
    outputs: Outputs,
    apart: Readings,
    truth: Readings,
    ceiling: Readings,
    draws: int,
    told: Sequence[str] = OPEN_FACTS,
) -> dict[str, Any]:
    """Return how far one set of outputs agrees on what the prompt leaves open.

    Args:
        made: the readings of each output, made together.
        outputs: the modalities of `made`.
        apart: the readings of every modality, made with seeds of its own.
        truth: the readings of ground truth.
        ceiling: the readings of ground truth through the autoencoders.
        draws: the number of sets of seeds in `made`.
        told: the attributes that the prompt names.

    Returns:
        The agreement on each attribute that all of the outputs show, on each quantity whose modalities are
        all among the outputs, and on all attributes at once, each with its controls.
    """
    sources = _sources(made, outputs, apart, truth, ceiling)
    attributes = shared_attributes(outputs, told)
    hits = {name: mutual_agreement(_facts(rows), attributes) for name, rows in sources.items()}
    lines = {}
    for attribute in attributes:
        line = _with_controls({name: parts[attribute] for name, parts in hits.items()}, draws)
        line["chance"] = float((world_distribution(attribute) ** len(outputs)).sum())
        line["spread"] = _spread(attribute, outputs, made)
        lines[attribute] = line
    for name, quantity in QUANTITIES.items():
        if quantity.shown <= set(outputs):
            lines[name] = _quantity_line(quantity, outputs, sources, draws)
    every = {name: all_agree(parts) for name, parts in hits.items()}
    return {"attributes": lines, "all": _with_controls(every, draws)}


def _sources(
    made: Columns, outputs: Outputs, apart: Readings, truth: Readings, ceiling: Readings
) -> dict[str, Columns]:
    """Return the readings of each output as they were made together, and those of every control."""
    return {
        "joint": made,
        "independent": columns([apart], outputs),
        "shuffled": _shuffled(made),
        "truth": columns([truth], outputs),
        "ceiling": columns([ceiling], outputs),
    }


def _shuffled(made: Columns) -> Columns:
    """Return readings in which each output after the first is of another sample."""
    first, *others = made
    mixed = [first]
    for i, rows in enumerate(others):
        mixed.append(shuffled(rows, seed=i))
    return mixed


def _facts(made: Columns) -> list[list[dict[str, str | None]]]:
    """Return the facts of all readings, for each output."""
    return [facts_read(rows) for rows in made]


def _with_controls(hits: dict[str, np.ndarray], draws: int) -> dict[str, float]:
    """Return the mean of joint samples with its interval over scenes, and the mean of every control.

    A sample to which the question does not apply is NaN.
    """
    by_scene = hits["joint"].reshape(draws, -1).T  # (N, draws)
    line = as_dict(share_interval(by_scene))
    for name, rows in hits.items():
        if name != "joint":
            line[name] = float(nanmean(rows[None])[0])
    return line


def _spread(attribute: str, outputs: Outputs, made: Columns) -> dict[str, float]:
    """Return the total variation of each output from the world's own distribution.

    Beside it stands what as many honest draws would show.
    """
    p = world_distribution(attribute)
    spread = {"honest": expected_total_variation(len(made[0]), p)}
    for m, rows in zip(outputs, made):
        answers = [reading.facts[attribute] for reading in rows]
        spread[m.value] = total_variation(answers, ATTRIBUTES[attribute], p)
    return spread


def _quantity_line(
    quantity: Quantity, outputs: Outputs, sources: dict[str, Columns], draws: int
) -> dict[str, Any]:
    """Return the line of a quantity.

    Chance is the agreement of ground truth with shuffled partners. Spread is taken over the quintiles of
    ground truth.
    """
    shown = [m for m in outputs if m in quantity.shown]
    values = {}
    hits = {}
    for name, rows in sources.items():
        values[name] = _values(quantity, shown, outputs, rows)
        hits[name] = _close(quantity, shown, values[name])
    line = _with_controls(hits, draws)
    first, second = values["truth"]
    mixed = []
    for k in range(NUM_SHUFFLES):
        strangers = np.array([shuffled(first, seed=k), second])
        mixed.append(_close(quantity, shown, strangers))
    line["chance"] = float(nanmean(np.concatenate(mixed)[None])[0])
    count = int(np.isfinite(values["joint"]).sum(axis=1).min())
    quintiles = np.full(NUM_BINS, 1 / NUM_BINS)
    line["spread"] = {"honest": expected_total_variation(count, quintiles) if count else float("nan")}
    for m, made, true in zip(shown, values["joint"], values["truth"]):
        line["spread"][m.value] = quantile_bins(made, true, NUM_BINS)
    return line


def _close(quantity: Quantity, shown: list[Modality], values: np.ndarray) -> np.ndarray:
    """Return for each sample (N,) whether the numbers agree, NaN where the question does not arise."""
    hits = mutual_closeness(values, quantity.tolerance)
    if quantity.asks is None:
        return hits
    not_asked = np.isnan(values[shown.index(quantity.asks)])
    return np.where(not_asked, np.nan, hits)


def _values(quantity: Quantity, shown: list[Modality], outputs: Outputs, made: Columns) -> np.ndarray:
    """Return the numbers (len(shown), N) that the probes read, NaN where there is none."""
    by_output = dict(zip(outputs, made))
    numbers = np.full((len(shown), len(made[0])), np.nan)
    for row, m in zip(numbers, shown):
        for k, reading in enumerate(by_output[m]):
            value = quantity.of(reading)
            if value is not None:
                row[k] = value
    return numbers


@dataclass(frozen=True, kw_only=True)
class Four:
    """Generate and score all four outputs from a full caption.

    The score is how often every two of them agree on every attribute that both can show.

    Attributes:
        count: the number of scenes.
        draws: the number of independent sets of seeds.
    """

    count: int
    draws: int

    @property
    def apart(self) -> dict[Modality, Run]:
        """The run of each output by itself, with the seeds of the joint run.

        Equal seeds decide nothing between modalities, because each draws its noise from a stream of its own.
        """
        return {m: Run(inputs=(TEXT,), outputs=(m,)) for m in Modality}

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        return plan_of([*drawn(ALL_FOUR, self.draws), *self.apart.values()], self.count)

    def score(self, bench: Bench) -> dict[str, float]:
        """Return the share of samples in which all outputs agree, beside its controls."""
        outputs = ALL_FOUR.outputs
        made = columns(bench.readings_of_all(drawn(ALL_FOUR, self.draws), self.count), outputs)
        apart = readings_apart(bench, self.apart, self.count)
        truth = bench.truth(self.count)
        ceiling = bench.ceiling(self.count)
        sources = _sources(made, outputs, apart, truth, ceiling)
        hits = {name: all_shared(rows, outputs) for name, rows in sources.items()}
        return _with_controls(hits, self.draws)


def all_shared(made: Columns, outputs: Outputs) -> np.ndarray:
    """Return in which samples every two outputs agree on every attribute that both can show.

    Args:
        made: the readings of each output.
        outputs: the modalities of `made`.

    Returns:
        A row (N,), 1.0 where all agree and 0.0 elsewhere.
    """
    by_output = dict(zip(outputs, _facts(made)))
    hits = []
    for a, b in combinations(outputs, 2):
        agreed = mutual_agreement([by_output[a], by_output[b]], shared_attributes((a, b)))
        hits.append(all_agree(agreed))
    return np.min(hits, axis=0)
