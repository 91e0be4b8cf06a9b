"""Measure agreement in time.

Video and sound are made together, a sound for a given clip, and a clip for a given sound, each beside its
controls. Offsets are the sound's event minus the picture's: positive means that the sound comes late. F1 and
bias have percentile intervals from a bootstrap over scenes, in which a scene with all its seeds is one unit.

Letters: N scenes, K numbers of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from codi.bench.make import Bench, Plan, plan_of
from codi.bench.runs import Readings, Run
from codi.metrics.agreement import shuffled
from codi.metrics.bootstrap import bootstrap, ratio_of_sums
from codi.metrics.onsets import (
    best_constant_offset,
    f1_of_counts,
    f1_over_tolerance,
    matched_offsets,
    offset_sums,
    onset_counts,
    onset_f1,
)
from codi.types import Modality

TEXT = Modality.TEXT
AUDIO = Modality.AUDIO
VIDEO = Modality.VIDEO
TOLERANCES = (0.05, 0.0625, 0.125)  # seconds: customary, half a frame of the clip, one frame
FRAME = TOLERANCES[-1]
CURVE = tuple(np.round(np.arange(0.01, 0.2501, 0.01), 3))  # seconds, for F1 against tolerance
WIDEST = 0.25  # seconds within which offsets are gathered for the histogram
SHIFTS = (1, 2, 4)  # frames by which ground truth is moved as a control
BOTH = Run(inputs=(TEXT,), outputs=(AUDIO, VIDEO))
ALL_FOUR = Run(inputs=(TEXT,), outputs=tuple(Modality))

SIDES = (AUDIO, VIDEO)  # of a pair
# Onsets of the sound and of the picture in seconds, one array for each sample.
Pairs = tuple[list[np.ndarray], list[np.ndarray]]


def drawn(run: Run, draws: int) -> list[Run]:
    """Return a run with several independent sets of seeds.

    Args:
        run: the run with the first set.
        draws: the number of sets.

    Returns:
        One run for each set.
    """
    return [run.redrawn(run.draw + d) for d in range(draws)]


def onsets(readings: Sequence[Readings], modality: Modality) -> list[np.ndarray]:
    """Return the event times of one modality.

    Args:
        readings: the readings of each draw.
        modality: audio or video.

    Returns:
        One array of seconds for each sample, all draws one after another.
    """
    events = []
    for draw in readings:
        events += [reading.events for reading in draw[modality]]
    return events


def pair_of(readings: Sequence[Readings]) -> Pairs:
    """Return the event times of sound and picture of the same samples."""
    return onsets(readings, AUDIO), onsets(readings, VIDEO)


def onset_line(pairs: Pairs, num_scenes: int) -> dict[str, Any]:
    """Return one line of the table: F1 at each tolerance and how the offsets lie, with intervals over scenes.

    Args:
        pairs: the onsets of sounds and of pictures, one array for each sample, draw after draw.
        num_scenes: the number of scenes in each draw.

    Returns:
        The scores, the curve of F1 over tolerance, and all offsets within 0.25 seconds.
    """
    sound, picture = pairs
    assert len(sound) == len(picture) and len(sound) % num_scenes == 0, (
        f"{len(sound)} sounds, {len(picture)} clips, {num_scenes} scenes"
    )
    f1 = {}
    intervals = {}
    for tolerance in TOLERANCES:
        f1[_named(tolerance)] = onset_f1(sound, picture, tolerance).f1
        intervals[_named(tolerance)] = _f1_interval(sound, picture, tolerance, num_scenes)
    frame = onset_f1(sound, picture, FRAME)
    bias = bootstrap(_by_scene(offset_sums(sound, picture, FRAME), num_scenes), ratio_of_sums)
    return {
        "samples": len(sound),
        "f1": f1,
        "intervals": intervals,
        "precision": frame.precision,
        "recall": frame.recall,
        "bias": frame.bias,
        "mae": frame.mae,
        "p95": frame.p95,
        "count_accuracy": frame.count_accuracy,
        "bias_interval": [bias.low, bias.high],
        "curve": f1_over_tolerance(sound, picture, CURVE).tolist(),
        "offsets": [round(float(offset), 4) for offset in matched_offsets(sound, picture, WIDEST)],
    }


def _named(tolerance: float) -> str:
    """Return a tolerance as the table names it."""
    return f"{tolerance * 1000:g} ms"


def _by_scene(rows: np.ndarray, num_scenes: int) -> np.ndarray:
    """Return rows (draws * N, K) as (N, draws, K), so that a scene with all its draws is one unit."""
    return rows.reshape(-1, num_scenes, rows.shape[-1]).transpose(1, 0, 2)


def _f1_interval(
    sound: list[np.ndarray], picture: list[np.ndarray], tolerance: float, num_scenes: int
) -> list[float]:
    """Return the ends of the interval of F1 over scenes."""
    rows = _by_scene(onset_counts(sound, picture, tolerance), num_scenes)
    interval = bootstrap(rows, lambda x: f1_of_counts(x.reshape(len(x), -1, 3)))
    return [interval.low, interval.high]


def with_strangers(
    name: str, pairs: Pairs, num_scenes: int, moved: Modality = AUDIO
) -> dict[str, dict[str, Any]]:
    """Return the line of `pairs` and two floors.

    The floors are partners from other samples, as they are and moved by the one constant offset that suits
    them best.

    Args:
        name: the name of the line.
        pairs: the onsets of sounds and of pictures, one array for each sample.
        num_scenes: the number of scenes in each draw.
        moved: the side whose onsets are taken from other samples, audio or video.

    Returns:
        The three lines by name.
    """
    side = SIDES.index(moved)
    own = pairs[side]
    other = pairs[1 - side]
    strangers = shuffled(own)
    offset, shifted = best_constant_offset(strangers, other, FRAME)
    lines = {
        name: pairs,
        f"{name}, shuffled partners": ordered(strangers, other, moved),
        f"{name}, shuffled, best constant offset": ordered(shifted, other, moved),
    }
    result = {key: onset_line(pair, num_scenes) for key, pair in lines.items()}
    result[f"{name}, shuffled, best constant offset"]["offset"] = offset
    return result


def ordered(own: list[np.ndarray], other: list[np.ndarray], moved: Modality) -> Pairs:
    """Return the two sides of a pair in the order of `SIDES`, where `own` is of the modality `moved`."""
    return (other, own) if SIDES.index(moved) else (own, other)


@dataclass(frozen=True, kw_only=True)
class InTime:
    """Generate and score video and sound from text.

    What is measured takes all sets of seeds; controls take one.

    Attributes:
        count: the number of scenes.
        draws: the number of independent sets of seeds.
        four: the number of sets of seeds for runs that make all four outputs, from which the same is read; 0
            is none.
    """

    count: int
    draws: int
    four: int = 0

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The runs by kind.

        An output made alone with the seeds of the joint run is that of the joint run without environments, to
        the bit, because the noise of a sample does not depend on what else is made. Made alone with other
        seeds, it is independent generation.
        """
        sound = Run(inputs=(TEXT,), outputs=(AUDIO,))
        picture = Run(inputs=(TEXT,), outputs=(VIDEO,))
        in_step = replace(BOTH, in_step=True, led=False)  # without the auxiliary caption
        return {
            "joint": drawn(BOTH, self.draws),
            "video": [picture],
            "audio": drawn(sound, 2),
            "four": drawn(ALL_FOUR, self.four),
            "in step": [in_step],
            "audio unconditioned": [replace(in_step, deaf=AUDIO)],
            "video unconditioned": [replace(in_step, deaf=VIDEO)],
        }

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        return plan_of(chain(*self.runs.values()), self.count)

    def score(self, bench: Bench) -> dict[str, Any]:
        """Return the lines by name, each control after what it controls."""
        made = {name: bench.readings_of_all(runs, self.count) for name, runs in self.runs.items()}
        lines = with_strangers("joint", pair_of(made["joint"]), self.count)
        if self.four:
            lines["joint, within all four"] = onset_line(pair_of(made["four"]), self.count)
        pictures = onsets(made["video"], VIDEO)
        same, other = made["audio"]
        sounds = onsets([other], AUDIO)
        offset, moved = best_constant_offset(sounds, pictures, FRAME)
        pairs: dict[str, Pairs] = {
            "independent": (sounds, pictures),
            "independent, best constant offset": (moved, pictures),
            "joint, in step": pair_of(made["in step"]),
            "joint, in step, the sound hears nothing": pair_of(made["audio unconditioned"]),
            "joint, in step, the picture hears nothing": pair_of(made["video unconditioned"]),
            "environments off, same seeds": (onsets([same], AUDIO), pictures),
            **self._truth_pairs(bench),
        }
        lines |= {name: onset_line(pair, self.count) for name, pair in pairs.items()}
        lines["independent, best constant offset"]["offset"] = offset
        return lines

    def _truth_pairs(self, bench: Bench) -> dict[str, Pairs]:
        """Return the onsets of ground truth, as it is, through the autoencoders, and with late sounds."""
        truth = bench.truth(self.count)
        pairs = {
            "ground truth": pair_of([truth]),
            "ground truth through autoencoders": pair_of([bench.ceiling(self.count)]),
        }
        for frames in SHIFTS:
            late = bench.truth(self.count, delay=frames * FRAME)
            name = f"ground truth, sound {frames} frame{'s' * (frames > 1)} late"
            pairs[name] = (onsets([late], AUDIO), onsets([truth], VIDEO))
        return pairs


DIRECTIONS = {"video->audio": (VIDEO, AUDIO), "audio->video": (AUDIO, VIDEO)}


@dataclass(frozen=True, kw_only=True)
class Partners:
    """Generate and score a sound for a given clip, and a clip for a given sound.

    The input stands in the loop as clean partner, or is a prompt only.

    Attributes:
        count: the number of scenes.
        draws: the number of independent sets of seeds.
    """

    count: int
    draws: int

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The runs of each direction, with the input as clean partner and as a prompt only."""
        runs = {}
        for name, (source, target) in DIRECTIONS.items():
            run = Run(inputs=(source,), outputs=(target,))
            runs[name] = drawn(run, self.draws)
            runs[f"{name}, prompt only"] = [Run(inputs=(source,), outputs=(target,), sync=False)]
        return runs

    def plan(self) -> Plan:
        """Return every run with the number of scenes."""
        return plan_of(chain(*self.runs.values()), self.count)

    def score(self, bench: Bench) -> dict[str, Any]:
        """Return lines by name, with onsets of the output against those read from the input itself."""
        runs = self.runs
        truth = bench.truth(self.count)
        ceiling = bench.ceiling(self.count)
        lines = {}
        for name, (source, target) in DIRECTIONS.items():
            given = onsets([truth], source)
            made = bench.readings_of_all(runs[name], self.count)
            lines |= with_strangers(name, _against(given, made, target), self.count, moved=target)
            controls = {
                f"{name}, prompt only": bench.readings_of_all(runs[f"{name}, prompt only"], self.count),
                f"{name}, ground truth": [truth],
                f"{name}, ground truth through autoencoder": [ceiling],
            }
            for control, readings in controls.items():
                lines[control] = onset_line(_against(given, readings, target), self.count)
        return lines


def _against(given: list[np.ndarray], readings: Sequence[Readings], target: Modality) -> Pairs:
    """Return the onsets of an output of every draw beside those of the input that was given to all draws."""
    made = onsets(readings, target)
    draws = len(made) // len(given)
    return ordered(made, given * draws, target)
