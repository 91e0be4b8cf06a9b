"""Agreement between the outputs of one sample on what the prompt left open: pairs, triples and all four.

Beside each number: the same outputs drawn apart, shuffled partners, chance, ground truth, ground truth
through the autoencoders, and how far each output's values are spread from the world's own, so that always
answering the same cannot win. Besides the attributes two quantities that no caption names: when the first
event is, and the column in which an object bounces.
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
OPEN_FACTS = ("shape",)  # "a ball": all the rest is left open
APART = 100  # draws from here on are of outputs made apart, so that partners never share a seed
NUM_BINS = 5  # of a quantity, for its spread
NUM_SHUFFLES = 20  # for the chance of a quantity

Outputs = tuple[Modality, ...]
Columns = list[list[Reading]]  # readings per output, samples in the same order


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that some outputs show and no caption names; they agree when none is further apart than
    `tolerance`.

    asks  the output without whose number the question does not arise; None: it always does
    """

    of: Callable[[Reading], float | None]
    shown: frozenset[Modality]
    tolerance: float
    asks: Modality | None = None


QUANTITIES = {
    # seconds: half a frame
    "first event": Quantity(of=lambda r: r.start, shown=frozenset((AUDIO, VIDEO)), tolerance=0.0625),
    # of the width, where a clip bounces
    "column": Quantity(of=lambda r: r.x, shown=frozenset((IMAGE, VIDEO)), tolerance=0.05, asks=VIDEO),
}


def output_sets() -> list[Outputs]:
    """Pairs, triples and all four outputs."""
    return [subset for size in (2, 3, 4) for subset in combinations(Modality, size)]


def shared_attributes(outputs: Sequence[Modality], told: Sequence[str] = ()) -> tuple[str, ...]:
    """What all of them can show and the prompt does not tell."""
    return tuple(a for a in ATTRIBUTES if a not in told and all(a in VISIBLE[m] for m in outputs))


def columns(readings: Sequence[Readings], outputs: Sequence[Modality]) -> Columns:
    """All draws, one after another."""
    return [[r for draw in readings for r in draw[m]] for m in outputs]


@dataclass(frozen=True, kw_only=True)
class Open:
    """Prompts that name the shape alone. Every set of outputs is read from samples of all four; with `every`,
    also made by itself.
    """

    count: int
    draws: int
    every: bool

    @property
    def together(self) -> dict[Outputs, list[Run]]:
        sets = output_sets() if self.every else [tuple(Modality)]
        return {
            o: drawn(Run(inputs=(TEXT,), outputs=o, facts=OPEN_FACTS), self.draws) for o in reversed(sets)
        }

    @property
    def apart(self) -> dict[Modality, Run]:
        return {
            m: Run(inputs=(TEXT,), outputs=(m,), facts=OPEN_FACTS, draw=APART * (1 + k))
            for k, m in enumerate(Modality)
        }

    def plan(self) -> Plan:
        return [(run, self.count) for run in (*chain(*self.together.values()), *self.apart.values())]

    def score(self, bench: Bench) -> list[dict[str, Any]]:
        """One line for each set of outputs and way of making it."""
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
    """Agreement of one set of outputs on every attribute and quantity that all of them show and the prompt
    leaves open.
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
    first, *others = made
    return [first, *(shuffled(rows, seed=i) for i, rows in enumerate(others))]


def _facts(made: Columns) -> list[list[dict[str, str | None]]]:
    return [[r.facts for r in rows] for rows in made]


def _with_controls(hits: dict[str, np.ndarray], draws: int) -> dict[str, float]:
    """The joint mean with its interval over scenes, and the mean of every control. A sample to which the
    question does not apply is NaN.
    """
    by_scene = hits["joint"].reshape(draws, -1).T  # (N, draws)
    return as_dict(share_interval(by_scene)) | {
        name: float(nanmean(x[None])[0]) for name, x in hits.items() if name != "joint"
    }


def _spread(attribute: str, outputs: Outputs, made: Columns) -> dict[str, float]:
    """Total variation of each output from the world, beside what honest draws of that number would show."""
    p, count = world_distribution(attribute), len(made[0])
    distances = {
        m.value: total_variation([r.facts[attribute] for r in rows], ATTRIBUTES[attribute], p)
        for m, rows in zip(outputs, made)
    }
    return {"honest": expected_total_variation(count, p), **distances}


def _quantity_line(
    quantity: Quantity, outputs: Outputs, sources: dict[str, Columns], draws: int
) -> dict[str, Any]:
    """The same for a quantity. Chance: ground truth with shuffled partners. Spread: over the quintiles of
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
    """Per sample (N,): whether the numbers agree, NaN where the question does not arise."""
    hits = mutual_closeness(values, quantity.tolerance)
    return (
        hits
        if quantity.asks is None
        else np.where(np.isnan(values[shown.index(quantity.asks)]), np.nan, hits)
    )


def _values(quantity: Quantity, shown: list[Modality], outputs: Outputs, made: Columns) -> np.ndarray:
    """(len(shown), N), NaN where a probe reads none."""
    by_output = dict(zip(outputs, made))
    rows = [[quantity.of(r) for r in by_output[m]] for m in shown]
    return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Four:
    """All four outputs from a full caption: do they agree on every attribute that two of them can show?"""

    count: int
    draws: int

    @property
    def apart(self) -> dict[Modality, Run]:
        """With the same seeds, which decide nothing between modalities: each draws its noise from a stream of
        its own.
        """
        return {m: Run(inputs=(TEXT,), outputs=(m,)) for m in Modality}

    def plan(self) -> Plan:
        return [(run, self.count) for run in (*drawn(ALL_FOUR, self.draws), *self.apart.values())]

    def score(self, bench: Bench) -> dict[str, float]:
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
    """Per sample (N,): 1.0 where every two outputs agree on *every* attribute that both can show."""
    hits, by_output = [], dict(zip(outputs, _facts(made)))
    for a, b in combinations(outputs, 2):
        hits.append(all_agree(mutual_agreement([by_output[a], by_output[b]], shared_attributes((a, b)))))
    return np.min(hits, axis=0)
