"""Compare in one table several models of the same denoisers, each with one more idea in its joint attention.

They are measured in time only. Video and sound are made together, both in step and as the model makes them by
default (a variant that never met a clean partner in training may do better in step); then a sound for a clip,
a clip for a sound, and video and sound together with sync guidance. Independent generation, which no joint
attention touches, and the ceiling come from the first model.
"""

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from codi.bench.make import Bench, Plan, plan_of
from codi.bench.runs import Run
from codi.bench.timing import (
    AUDIO,
    BOTH,
    DIRECTIONS,
    TEXT,
    VIDEO,
    drawn,
    onset_line,
    onsets,
    ordered,
    pair_of,
)
from codi.types import InputError

SYNC_GUIDANCE = 3.0
IN_STEP = "joint, in step"
GUIDED = f"joint, sync guidance {SYNC_GUIDANCE:g}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Name one model of the ablation.

    Attributes:
        name: what is new in the model, as the table shows it.
        folder: the model's folder.
    """

    name: str
    folder: str


def parse_variants(texts: list[str]) -> list[Variant]:
    """Parse the models of `--ablation`.

    Args:
        texts: `DIR` or `DIR=name` for each model. Without a name, that of the folder is taken.

    Returns:
        The variants in the order in which they were named.

    Raises:
        InputError: a text without a folder, or two models with the same name.
    """
    variants = []
    for text in texts:
        folder, _, name = text.partition("=")
        if not folder:
            raise InputError(f"--ablation {text!r}: expected DIR or DIR=name")
        variants.append(Variant(name=name or Path(folder).name, folder=folder))
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--ablation has two models called {name!r}: give one another name, DIR=name")
    return variants


@dataclass(frozen=True, kw_only=True)
class VariantRuns:
    """List what is generated and scored for one variant.

    Attributes:
        count: the number of scenes.
        draws: the number of independent sets of seeds.
    """

    count: int
    draws: int

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The runs by kind.

        Sync guidance is off in all but the last kind, whatever the models' own defaults are.
        """
        both = replace(BOTH, led=False)  # without the auxiliary caption: joint attention alone is compared
        kinds = {
            IN_STEP: replace(both, sync_guidance=1.0, in_step=True),
            "joint": replace(both, sync_guidance=1.0),
        }
        for name, (source, target) in DIRECTIONS.items():
            kinds[name] = Run(inputs=(source,), outputs=(target,), sync_guidance=1.0)
        kinds[GUIDED] = replace(both, sync_guidance=SYNC_GUIDANCE)
        return {name: drawn(run, self.draws) for name, run in kinds.items()}

    def plan(self) -> Plan:
        """Return every run of a variant with the number of scenes."""
        return plan_of(chain(*self.runs.values()), self.count)

    def score(self, bench: Bench) -> dict[str, Any]:
        """Return a line of onset scores for each kind of run.

        A clip or sound that was given counts with the events that the same probes read from it.
        """
        truth = bench.truth(self.count)
        lines = {}
        for name, runs in self.runs.items():
            made = bench.readings_of_all(runs, self.count)
            if name in DIRECTIONS:
                source, target = DIRECTIONS[name]
                given = onsets([truth], source) * self.draws
                drawn_events = onsets(made, target)
                pair = ordered(drawn_events, given, target)
            else:
                pair = pair_of(made)
            lines[name] = onset_line(pair, self.count)
        return lines

    @property
    def apart(self) -> list[Run]:
        """A sound and a clip that are made alone, with different seeds."""
        return [Run(inputs=(TEXT,), outputs=(AUDIO,), draw=1), Run(inputs=(TEXT,), outputs=(VIDEO,))]

    def floor_plan(self) -> Plan:
        """Return the runs of independent generation with the number of scenes."""
        return plan_of(self.apart, self.count)

    def controls(self, bench: Bench) -> dict[str, Any]:
        """Return the lines of independent generation and of the ceiling, under the same kinds."""
        sound, picture = bench.readings_of_all(self.apart, self.count)
        truth = bench.truth(self.count)
        round_trip = bench.ceiling(self.count)
        pairs = {
            IN_STEP: pair_of([round_trip]),
            "joint": pair_of([round_trip]),
            "video->audio": (onsets([round_trip], AUDIO), onsets([truth], VIDEO)),
            "audio->video": (onsets([truth], AUDIO), onsets([round_trip], VIDEO)),
        }
        apart = onset_line((onsets([sound], AUDIO), onsets([picture], VIDEO)), self.count)
        ceiling = {name: onset_line(pair, self.count) for name, pair in pairs.items()}
        return {"independent": {IN_STEP: apart, "joint": apart}, "ceiling": ceiling}
