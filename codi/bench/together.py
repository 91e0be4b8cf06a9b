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

from codi.bench.make import Bench, Plan
from codi.bench.runs import Readings, Run
from codi.bench.scores import as_dict
from codi.bench.timing import ALL_FOUR, drawn
from codi.metrics.agreement import all_agree, mutual_agreement, mutual_closeness, shuffled
from codi.metrics.bootstrap import nanmean, share_interval
from codi.metrics.spread import expected_total_variation, quantile_bins, total_variation, world_distribution
from codi.types import Modality
from codi.world import ATTRIBUTES, VISIBLE, Reading

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
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
    return [subset for size in (2, 3, 4) for subset in combinations(Modality, size)]


def shared_attributes(outputs: Sequence[Modality], told: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the attributes that all of several outputs can show and the prompt does not name.

    Args:
        outputs: the modalities.
        told: the attributes that the prompt names.

    Returns:
        The attributes in the world's order.
    """
    return tuple(a for a in ATTRIBUTES if a not in told and all(a in VISIBLE[m] for m in outputs))


def columns(readings: Sequence[Readings], outputs: Sequence[Modality]) -> Columns:
    """Return the readings of each output, all draws one after another."""
    return [[r for draw in readings for r in draw[m]] for m in outputs]


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
        return {
            o: drawn(Run(inputs=(TEXT,), outputs=o, facts=OPEN_FACTS), self.draws) for o in reversed(sets)
        }

    @property
    def apart(self) -> dict[Modality, Run]:
        """The run of each output by itself, with seeds that no other output has."""
        return {
            m: Run(inputs=(TEXT,), outputs=(m,), facts=OPEN_FACTS, draw=APART * (1 + k))
            for k, m in enumerate(Modality)
        }

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        return [(run, self.count) for run in (*chain(*self.together.values()), *self.apart.values())]

    def score(self, bench: Bench) -> list[dict[str, Any]]:
        """Return a line for each set of outputs and way of making it."""
        made = {
            outputs: [bench.readings(run, self.count) for run in runs]
            for outputs, runs in self.together.items()
        }
        apart = {m: bench.readings(run, self.count)[m] for m, run in self.apart.items()}
        truth, ceiling, lines = bench.truth(self.count), bench.ceiling(self.count), []
        for outputs in output_sets():
            ways = {
                "by themselves": made.get(outputs),
                "within all four": made[tuple(Modality)] if len(outputs) < 4 else None,
            }
            for way, readings in ways.items():
                if readings is not None:
                    line = open_line(
                        columns(readings, outputs), outputs, apart, truth, ceiling, draws=self.draws
                    )
                    lines.append({"outputs": [m.value for m in outputs], "made": way, **line})
        return lines


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
    sources = {
        "joint": made,
        "independent": [apart[m] for m in outputs],
        "shuffled": _shuffled(made),
        "truth": [truth[m] for m in outputs],
        "ceiling": [ceiling[m] for m in outputs],
    }
    attributes = shared_attributes(outputs, told)
    hits = {name: mutual_agreement(_facts(rows), attributes) for name, rows in sources.items()}
    lines = {}
    for a in attributes:
        lines[a] = _with_controls({name: parts[a] for name, parts in hits.items()}, draws)
        lines[a] |= {
            "chance": float((world_distribution(a) ** len(outputs)).sum()),
            "spread": _spread(a, outputs, made),
        }
    for name, quantity in QUANTITIES.items():
        if quantity.shown <= set(outputs):
            lines[name] = _quantity_line(quantity, outputs, sources, draws)
    return {
        "attributes": lines,
        "all": _with_controls({name: all_agree(parts) for name, parts in hits.items()}, draws),
    }


def _shuffled(made: Columns) -> Columns:
    """Return readings in which each output after the first is of another sample."""
    first, *others = made
    return [first, *(shuffled(rows, seed=i) for i, rows in enumerate(others))]


def _facts(made: Columns) -> list[list[dict[str, str | None]]]:
    """Return the facts of all readings, for each output."""
    return [[r.facts for r in rows] for rows in made]


def _with_controls(hits: dict[str, np.ndarray], draws: int) -> dict[str, float]:
    """Return the mean of joint samples with its interval over scenes, and the mean of every control.

    A sample to which the question does not apply is NaN.
    """
    by_scene = hits["joint"].reshape(draws, -1).T  # (N, draws)
    return as_dict(share_interval(by_scene)) | {
        name: float(nanmean(x[None])[0]) for name, x in hits.items() if name != "joint"
    }


def _spread(attribute: str, outputs: Outputs, made: Columns) -> dict[str, float]:
    """Return the total variation of each output from the world's own distribution.

    Beside it stands what as many honest draws would show.
    """
    p, count = world_distribution(attribute), len(made[0])
    distances = {
        m.value: total_variation([r.facts[attribute] for r in rows], ATTRIBUTES[attribute], p)
        for m, rows in zip(outputs, made)
    }
    return {"honest": expected_total_variation(count, p), **distances}


def _quantity_line(
    quantity: Quantity, outputs: Outputs, sources: dict[str, Columns], draws: int
) -> dict[str, Any]:
    """Return the line of a quantity.

    Chance is the agreement of ground truth with shuffled partners. Spread is taken over the quintiles of
    ground truth.
    """
    shown = [m for m in outputs if m in quantity.shown]
    values = {name: _values(quantity, shown, outputs, rows) for name, rows in sources.items()}
    line = _with_controls({name: _close(quantity, shown, rows) for name, rows in values.items()}, draws)
    first, second = values["truth"]
    mixed = [
        _close(quantity, shown, np.array([shuffled(first, seed=k), second])) for k in range(NUM_SHUFFLES)
    ]
    spread = {
        m.value: quantile_bins(made, true, NUM_BINS)
        for m, made, true in zip(shown, values["joint"], values["truth"])
    }
    p, count = np.full(NUM_BINS, 1 / NUM_BINS), int(np.isfinite(values["joint"]).sum(axis=1).min())
    honest = expected_total_variation(count, p) if count else float("nan")
    return line | {
        "chance": float(nanmean(np.concatenate(mixed)[None])[0]),
        "spread": {"honest": honest, **spread},
    }


def _close(quantity: Quantity, shown: list[Modality], values: np.ndarray) -> np.ndarray:
    """Return for each sample (N,) whether the numbers agree, NaN where the question does not arise."""
    hits = mutual_closeness(values, quantity.tolerance)
    return (
        hits
        if quantity.asks is None
        else np.where(np.isnan(values[shown.index(quantity.asks)]), np.nan, hits)
    )


def _values(quantity: Quantity, shown: list[Modality], outputs: Outputs, made: Columns) -> np.ndarray:
    """Return the numbers (len(shown), N) that the probes read, NaN where there is none."""
    by_output = dict(zip(outputs, made))
    rows = [[quantity.of(r) for r in by_output[m]] for m in shown]
    return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)


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
        return [(run, self.count) for run in (*drawn(ALL_FOUR, self.draws), *self.apart.values())]

    def score(self, bench: Bench) -> dict[str, float]:
        """Return the share of samples in which all outputs agree, beside its controls."""
        made = [bench.readings(run, self.count) for run in drawn(ALL_FOUR, self.draws)]
        apart = {m: bench.readings(run, self.count)[m] for m, run in self.apart.items()}
        truth, ceiling = bench.truth(self.count), bench.ceiling(self.count)
        rows = columns(made, ALL_FOUR.outputs)
        sources = {
            "joint": rows,
            "independent": [apart[m] for m in ALL_FOUR.outputs],
            "shuffled": _shuffled(rows),
            "truth": [truth[m] for m in ALL_FOUR.outputs],
            "ceiling": [ceiling[m] for m in ALL_FOUR.outputs],
        }
        return _with_controls(
            {name: all_shared(columns_, ALL_FOUR.outputs) for name, columns_ in sources.items()}, self.draws
        )


def all_shared(made: Columns, outputs: Outputs) -> np.ndarray:
    """Return in which samples every two outputs agree on every attribute that both can show.

    Args:
        made: the readings of each output.
        outputs: the modalities of `made`.

    Returns:
        A row (N,), 1.0 where all agree and 0.0 elsewhere.
    """
    hits, by_output = [], dict(zip(outputs, _facts(made)))
    for a, b in combinations(outputs, 2):
        hits.append(all_agree(mutual_agreement([by_output[a], by_output[b]], shared_attributes((a, b)))))
    return np.min(hits, axis=0)
