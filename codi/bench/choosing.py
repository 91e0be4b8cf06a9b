"""Measure whether selection helps: one candidate against several.

The results are read by the world's probes, which took no part in the choice.

Letters: N scenes.
"""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from codi.bench.make import Bench, Plan, plan_of
from codi.bench.runs import Readings, Run, facts_read
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
    """Compare one candidate with several, for video and sound from two kinds of prompt.

    The first of several candidates is the same sample as the single one, since its seed is the same.

    Attributes:
        count: the number of scenes.
    """

    count: int

    @property
    def runs(self) -> dict[str, tuple[Run, Run]]:
        """The run with one candidate and the run with several, for each kind of prompt."""
        return {name: (run, replace(run, candidates=CANDIDATES)) for name, run in PROMPTS.items()}

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        return plan_of(chain(*self.runs.values()), self.count)

    def score(self, bench: Bench) -> list[dict[str, Any]]:
        """Return a line for each kind of prompt and number of candidates.

        The line of several candidates also holds the gain over one.
        """
        scenes = bench.scenes(count=self.count)
        lines = []
        for prompt, runs in self.runs.items():
            made = bench.readings_of_all(runs, self.count)
            for run, readings in zip(runs, made):
                lines.append({"prompt": prompt, **choice_line(run, readings, scenes)})
            gained = gains(runs[0], *made, scenes)
            lines[-1]["gain"] = {name: as_dict(gain) for name, gain in gained.items()}
        return lines


def choice_line(run: Run, readings: Readings, scenes: list[Scene]) -> dict[str, Any]:
    """Return what the probes read from the samples of one number of candidates.

    Args:
        run: a run that makes video and sound.
        readings: what the probes read from its outputs.
        scenes: the scenes whose captions were the prompts.

    Returns:
        The agreement with the prompt, the agreement of the outputs with each other, and the onset F1 with its
        intervals.
    """
    onset = onset_line(pair_of([readings]), len(scenes))
    return {
        "candidates": run.candidates,
        "prompt_agreement": as_dict(share_interval(cell_rows(run, readings, facts_of(scenes)))),
        "mutual_agreement": as_dict(share_interval(_mutual_rows(run, readings))),
        "f1": onset["f1"],
        "intervals": onset["intervals"],
    }


def gains(run: Run, one: Readings, several: Readings, scenes: list[Scene]) -> dict[str, Any]:
    """Return by how much several candidates are better than one.

    The differences are taken scene by scene, so that their intervals are those of paired samples.

    Args:
        run: the run with one candidate.
        one: what the probes read with one candidate.
        several: what they read with several.
        scenes: the scenes of both.

    Returns:
        The intervals of the gain in agreement with the prompt, in agreement of the outputs with each other,
        and in onset F1.
    """
    facts = facts_of(scenes)
    # F1 is a ratio of sums over scenes: numerator and denominator of each scene are resampled together.
    halves = np.stack([_f1_halves(one), _f1_halves(several)], axis=1)  # (N, one and several, 2)
    return {
        "prompt_agreement": bootstrap(cell_rows(run, several, facts) - cell_rows(run, one, facts)),
        "mutual_agreement": bootstrap(_mutual_rows(run, several) - _mutual_rows(run, one)),
        "f1": bootstrap(halves, lambda x: ratio_of_sums(x[:, :, 1]) - ratio_of_sums(x[:, :, 0])),
    }


def _f1_halves(readings: Readings) -> np.ndarray:
    """Return the numerator and the denominator of onset F1 for each scene (N, 2)."""
    counts = onset_counts(*pair_of([readings]), TOLERANCES[-1])
    return np.stack([2 * counts[:, 0], counts[:, 1] + counts[:, 2]], axis=-1)


def _mutual_rows(run: Run, readings: Readings) -> np.ndarray:
    """Return for each sample (N,) the share of common attributes on which its outputs agree."""
    rows = [facts_read(readings[m]) for m in run.outputs]
    agreed = mutual_agreement(rows, shared_attributes(run.outputs))
    return np.mean(list(agreed.values()), axis=0)
