"""Agreement between the outputs of one sample: in time (video and sound), and on what the prompt left open.

Offsets are the sound's event minus the picture's: positive means that the sound comes late.
Ceilings and controls stand beside each number: ground truth, ground truth through the autoencoders, the same prompts generated
independently, shuffled partners, and shuffled partners moved by the best constant offset.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from codi.bench.runs import Readings, Run
from codi.bench.scores import as_dict
from codi.metrics.agreement import all_agree, mutual_agreement, shuffled
from codi.metrics.bootstrap import bootstrap
from codi.metrics.onsets import best_constant_offset, f1_of_counts, f1_over_tolerance, matched_offsets, onset_counts, onset_f1
from codi.metrics.spread import expected_total_variation, total_variation, world_distribution
from codi.types import Modality
from codi.world import ATTRIBUTES, VISIBLE

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
TOLERANCES = (0.05, 0.0625, 0.125)  # seconds: customary, half a frame, one frame
CURVE = tuple(np.round(np.arange(0.01, 0.2501, 0.01), 3))  # seconds, for F1 against tolerance
WIDEST = 0.25  # seconds within which offsets are gathered for the histogram
OPEN_FACTS = ("shape",)  # "a ball": all the rest is left open

Pairs = tuple[list[np.ndarray], list[np.ndarray]]  # onsets of the sound, onsets of the picture, one array per sample


def onset_runs(draws: int) -> dict[str, list[Run]]:
    """Runs of the table of onsets; independent partners never share a seed."""
    both, video, audio = (Run(inputs=(TEXT,), outputs=o) for o in ((AUDIO, VIDEO), (VIDEO,), (AUDIO,)))
    return {
        "joint": [both.redrawn(d) for d in range(draws)],
        "video": [video.redrawn(100 + d) for d in range(draws)],
        "audio": [audio.redrawn(200 + d) for d in range(draws)],
    }


def partner_runs(draws: int) -> dict[str, list[Run]]:
    """Sound for a given clip, and a clip for a given sound."""
    runs = {"video->audio": Run(inputs=(VIDEO,), outputs=(AUDIO,)), "audio->video": Run(inputs=(AUDIO,), outputs=(VIDEO,))}
    return {name: [run.redrawn(d) for d in range(draws)] for name, run in runs.items()}


def open_sets() -> list[tuple[Modality, ...]]:
    """Pairs, triples and all four outputs."""
    return [subset for size in (2, 3, 4) for subset in combinations(Modality, size)]


def open_runs(draws: int) -> dict[tuple[Modality, ...], list[Run]]:
    """Outputs drawn together from a prompt that names the shape alone, and each of them drawn by itself with other seeds."""
    runs = {}
    for outputs in [*open_sets(), *((m,) for m in Modality)]:
        offset = 100 * (1 + list(Modality).index(outputs[0])) if len(outputs) == 1 else 0
        runs[outputs] = [Run(inputs=(TEXT,), outputs=outputs, facts=OPEN_FACTS, draw=offset + d) for d in range(draws)]
    return runs


def onsets(readings: Sequence[Readings], modality: Modality) -> list[np.ndarray]:
    """Event times of all draws, one after another."""
    return [r.events for draw in readings for r in draw[modality]]


def pair_of(readings: Sequence[Readings]) -> Pairs:
    """Sound and picture of the same samples."""
    return onsets(readings, AUDIO), onsets(readings, VIDEO)


def onset_line(pairs: Pairs, num_scenes: int) -> dict[str, Any]:
    """One line of the table: F1 at each tolerance, its interval over scenes at one frame, and how the offsets lie."""
    sound, picture = pairs
    scores = {f"{t * 1000:g} ms": onset_f1(sound, picture, t) for t in TOLERANCES}
    counts = onset_counts(sound, picture, TOLERANCES[-1])
    by_scene = counts.reshape(-1, num_scenes, 3).transpose(1, 0, 2)  # (N, draws, 3)
    interval = bootstrap(by_scene, lambda x: f1_of_counts(x.reshape(len(x), -1, 3)))
    frame = asdict(scores["125 ms"])
    return {
        "f1": {name: score.f1 for name, score in scores.items()}, "interval": [interval.low, interval.high],
        **{key: frame[key] for key in ("precision", "recall", "bias", "mae", "p95", "count_accuracy")},
        "curve": f1_over_tolerance(sound, picture, CURVE).tolist(),
        "offsets": [round(float(x), 4) for x in matched_offsets(sound, picture, WIDEST)],
    }  # fmt: skip


def onset_table(
    joint: Sequence[Readings], video: Sequence[Readings], audio: Sequence[Readings], truth: Readings, ceiling: Readings
) -> dict[str, Any]:
    """Lines by name: what was drawn together, and every control. `video` and `audio` were drawn alone."""
    num_scenes = len(truth[VIDEO])
    sound, picture = onsets(joint, AUDIO), onsets(joint, VIDEO)
    strangers = shuffled(sound)
    offset, moved = best_constant_offset(strangers, picture, TOLERANCES[-1])
    pairs: dict[str, Pairs] = {
        "joint": (sound, picture),
        "independent": (onsets(audio, AUDIO), onsets(video, VIDEO)),
        "shuffled partners": (strangers, picture),
        "shuffled, best constant offset": (moved, picture),
        "ground truth": (onsets([truth], AUDIO), onsets([truth], VIDEO)),
        "ground truth through autoencoders": (onsets([ceiling], AUDIO), onsets([ceiling], VIDEO)),
    }
    lines = {name: onset_line(pair, num_scenes) for name, pair in pairs.items()}
    lines["shuffled, best constant offset"]["offset"] = offset
    return lines


def partner_table(made: dict[str, Sequence[Readings]], truth: Readings, ceiling: Readings) -> dict[str, Any]:
    """Sound for a clip and a clip for a sound: onsets of the output against those read from the input itself."""
    num_scenes, lines = len(truth[VIDEO]), {}
    for name, target in (("video->audio", AUDIO), ("audio->video", VIDEO)):
        source = VIDEO if target is AUDIO else AUDIO
        given = onsets([truth], source)
        drawn = onsets(made[name], target)
        repeated = given * (len(drawn) // len(given))
        strangers = shuffled(drawn)
        offset, moved = best_constant_offset(strangers, repeated, TOLERANCES[-1])
        pairs = {
            name: (drawn, repeated),
            f"{name}, shuffled partners": (strangers, repeated),
            f"{name}, shuffled, best constant offset": (moved, repeated),
            f"{name}, ground truth through autoencoder": (onsets([ceiling], target), given),
        }
        for key, (output, source_events) in pairs.items():
            lines[key] = onset_line((output, source_events) if target is AUDIO else (source_events, output), num_scenes)
        lines[f"{name}, shuffled, best constant offset"]["offset"] = offset
    return lines


def open_line(
    together: Sequence[Readings],
    alone: dict[Modality, Sequence[Readings]],
    outputs: tuple[Modality, ...],
    truth: Readings,
    ceiling: Readings,
) -> dict[str, Any]:
    """Agreement of one set of outputs on every attribute that all can show and the prompt left open."""
    attributes = tuple(a for a in ATTRIBUTES if a not in OPEN_FACTS and all(a in VISIBLE[m] for m in outputs))
    drawn, draws = [_facts(together, m) for m in outputs], len(together)
    hits = {
        "joint": mutual_agreement(drawn, attributes),
        "independent": mutual_agreement([_facts(alone[m], m) for m in outputs], attributes),
        "shuffled": mutual_agreement([drawn[0], *(shuffled(rows, seed=i) for i, rows in enumerate(drawn[1:]))], attributes),
        "truth": mutual_agreement([_facts([truth], m) for m in outputs], attributes),
        "ceiling": mutual_agreement([_facts([ceiling], m) for m in outputs], attributes),
    }
    lines = {}
    for a in attributes:
        by_chance = float((world_distribution(a) ** len(outputs)).sum())
        spread = _spread(a, dict(zip((m.value for m in outputs), drawn)))
        lines[a] = _with_controls({name: parts[a] for name, parts in hits.items()}, draws) | {"chance": by_chance, "spread": spread}
    together_hits = {name: all_agree(parts) for name, parts in hits.items()}
    return {"outputs": [m.value for m in outputs], "attributes": lines, "all": _with_controls(together_hits, draws)}


def _facts(readings: Sequence[Readings], modality: Modality) -> list[dict[str, str | None]]:
    return [r.facts for draw in readings for r in draw[modality]]


def _with_controls(hits: dict[str, np.ndarray], draws: int) -> dict[str, float]:
    """The joint mean with its interval over scenes, and the mean of every control."""
    by_scene = hits["joint"].reshape(draws, -1).T  # (N, draws)
    return as_dict(bootstrap(by_scene)) | {name: float(x.mean()) for name, x in hits.items() if name != "joint"}


def _spread(attribute: str, drawn: dict[str, list[dict]]) -> dict[str, float]:
    """Total variation of each output from the world, beside what honest draws of that number would show."""
    p, count = world_distribution(attribute), len(next(iter(drawn.values())))
    distances = {m: total_variation([f[attribute] for f in rows], ATTRIBUTES[attribute], p) for m, rows in drawn.items()}
    return {"honest": expected_total_variation(count, p), **distances}


def shared_line(readings: Readings, outputs: tuple[Modality, ...]) -> dict[str, float]:
    """Share of samples whose outputs agree on *every* attribute that each pair of them can show, from a full prompt."""
    hits = []
    for a, b in combinations(outputs, 2):
        attributes = tuple(x for x in ATTRIBUTES if x in VISIBLE[a] and x in VISIBLE[b])
        hits.append(all_agree(mutual_agreement([[r.facts for r in readings[m]] for m in (a, b)], attributes)))
    return as_dict(bootstrap(np.min(hits, axis=0)))
