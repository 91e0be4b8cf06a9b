"""Does selection help? One candidate against several, read by the world's probes, which took no part in the
choice.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codi.bench.make import Bench, Plan
from codi.bench.runs import Readings, Run
from codi.bench.scores import as_dict, cell_rows, facts_of
from codi.bench.timing import BOTH, TOLERANCES, onset_line, pair_of
from codi.bench.together import OPEN_FACTS, shared_attributes
from codi.metrics.agreement import mutual_agreement
from codi.metrics.bootstrap import bootstrap, ratio_of_sums, share_interval
from codi.metrics.onsets import onset_counts
from codi.world import Scene

CANDIDATES = 4
PROMPTS = {"full caption": BOTH, "shape alone": replace(BOTH, facts=OPEN_FACTS)}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Video and sound from two kinds of prompt, for `count` scenes. The first candidate of several is the
    only one of one.
    """

    count: int

    @property
    def runs(self) -> dict[str, tuple[Run, Run]]:
        return {name: (run, replace(run, candidates=CANDIDATES)) for name, run in PROMPTS.items()}

    def plan(self) -> Plan:
        return [(run, self.count) for pair in self.runs.values() for run in pair]

    def score(self, bench: Bench) -> list[dict[str, Any]]:
        scenes = bench.scenes(count=self.count)
        lines = []
        for prompt, runs in self.runs.items():
            made = [bench.readings(run, self.count) for run in runs]
            lines += [
                {"prompt": prompt, **choice_line(run, readings, scenes)} for run, readings in zip(runs, made)
            ]
            lines[-1]["gain"] = {name: as_dict(gain) for name, gain in gains(runs[0], *made, scenes).items()}
        return lines


def choice_line(run: Run, readings: Readings, scenes: list[Scene]) -> dict[str, Any]:
    """What the probes say of one number of candidates."""
    onset = onset_line(pair_of([readings]), len(scenes))
    return {
        "candidates": run.candidates,
        "prompt_agreement": as_dict(share_interval(cell_rows(run, readings, facts_of(scenes)))),
        "mutual_agreement": as_dict(share_interval(_mutual_rows(run, readings))),
        "f1": onset["f1"],
        "intervals": onset["intervals"],
    }


def gains(run: Run, one: Readings, several: Readings, scenes: list[Scene]) -> dict[str, Any]:
    """Several candidates minus one, scene by scene."""
    facts = facts_of(scenes)
    counts = [onset_counts(*pair_of([readings]), TOLERANCES[-1]) for readings in (one, several)]
    # (N, one and several, 2)
    halves = np.stack([np.stack([2 * c[:, 0], c[:, 1] + c[:, 2]], axis=-1) for c in counts], axis=1)
    return {
        "prompt_agreement": bootstrap(cell_rows(run, several, facts) - cell_rows(run, one, facts)),
        "mutual_agreement": bootstrap(_mutual_rows(run, several) - _mutual_rows(run, one)),
        "f1": bootstrap(halves, lambda x: ratio_of_sums(x[:, :, 1]) - ratio_of_sums(x[:, :, 0])),
    }


def _mutual_rows(run: Run, readings: Readings) -> np.ndarray:
    """Share of the shared attributes on which the outputs of each sample agree, (N,)."""
    rows = [[r.facts for r in readings[m]] for m in run.outputs]
    return np.mean(list(mutual_agreement(rows, shared_attributes(run.outputs)).values()), axis=0)
