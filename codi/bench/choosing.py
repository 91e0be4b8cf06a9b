"""Measure whether selection helps: one candidate against several.

The results are read by the world's probes, which took no part in the choice.

Letters: N scenes.
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
        return [(run, self.count) for pair in self.runs.values() for run in pair]

    def score(self, bench: Bench) -> list[dict[str, Any]]:
        """Return a line for each kind of prompt and number of candidates.

        The line of several candidates also holds the gain over one.
        """
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
    counts = [onset_counts(*pair_of([readings]), TOLERANCES[-1]) for readings in (one, several)]
    # F1 is a ratio of sums over scenes: numerator and denominator of each scene are resampled together.
    # The shape is (N, one and several, 2).
    halves = np.stack([np.stack([2 * c[:, 0], c[:, 1] + c[:, 2]], axis=-1) for c in counts], axis=1)
    return {
        "prompt_agreement": bootstrap(cell_rows(run, several, facts) - cell_rows(run, one, facts)),
        "mutual_agreement": bootstrap(_mutual_rows(run, several) - _mutual_rows(run, one)),
        "f1": bootstrap(halves, lambda x: ratio_of_sums(x[:, :, 1]) - ratio_of_sums(x[:, :, 0])),
    }


def _mutual_rows(run: Run, readings: Readings) -> np.ndarray:
    """Return for each sample (N,) the share of common attributes on which its outputs agree."""
    rows = [[r.facts for r in readings[m]] for m in run.outputs]
    return np.mean(list(mutual_agreement(rows, shared_attributes(run.outputs)).values()), axis=0)
