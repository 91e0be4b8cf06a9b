"""Measure what two models, or two settings, made of the same prompts and seeds, from the files they wrote.

Letters: N pairs, F frames, H height, W width, S samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from codi import io, world
from codi.bench.models import FPS, NUM_FRAMES, NUM_SAMPLES, SAMPLING_RATE, SIZE
from codi.metrics.agreement import mutual_agreement
from codi.metrics.bootstrap import Interval, bootstrap, share_interval
from codi.metrics.distances import psnr, ssim
from codi.metrics.onsets import f1_of_counts, onset_counts
from codi.modalities import kind_of
from codi.types import Modality
from codi.world import VISIBLE, Reading

TOLERANCE = 0.125  # seconds within which two onsets are one
SECONDS = 60.0  # of a recording or a clip that is read


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One prompt and seed, made twice.

    Attributes:
        name: the id of the job, and with several samples the number.
        prompt: the words of the prompt, or the names of its files.
        facts: what the words say of the world; None of an attribute that they leave open.
        seed: the seed.
        first: the files of the first side, by modality.
        second: those of the second.
        seconds: what a sample took on either side.
    """

    name: str
    prompt: str
    facts: Mapping[str, str | None]
    seed: int
    first: Mapping[Modality, Path]
    second: Mapping[Modality, Path]
    seconds: tuple[float, float]

    @property
    def sides(self) -> tuple[Mapping[Modality, Path], Mapping[Modality, Path]]:
        """The files of both sides."""
        return self.first, self.second


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One line of the table.

    Attributes:
        name: what is measured.
        unit: in which unit: "%" for shares, "" for plain numbers, or such as "dB".
        first: the first side; None for a distance between the two.
        second: the second side.
        difference: the second less the first over the same prompts, or the distance between the two.
        count: over how many pairs.
    """

    name: str
    unit: str
    first: Interval | None
    second: Interval | None
    difference: Interval
    count: int

    def as_json(self) -> dict[str, Any]:
        """Return the line as JSON has it."""
        return asdict(self)


def facts_of(words: str) -> dict[str, str | None]:
    """Return what a sentence says of the world; all None where it says nothing of it."""
    return world.parse(words)


def measure(pairs: Sequence[Pair]) -> list[Measure]:
    """Return all measures that the pairs allow.

    Args:
        pairs: the pairs, all with the same outputs.

    Returns:
        The lines of the table.
    """
    outputs = [m for m in Modality if all(m in side for pair in pairs for side in pair.sides)]
    readings = _Readings(pairs, outputs)
    found = [*_attributes(pairs, outputs, readings), *_mutual(pairs, outputs, readings)]
    found += [*_onsets(pairs, outputs, readings), *_distances(pairs, outputs)]
    seconds = np.array([pair.seconds for pair in pairs])
    found.append(_between("seconds for one sample", "s", seconds, bootstrap))
    return found


# What the world's evaluators read --------------------------------------


@dataclass
class _Readings:
    """What is read from the files of both sides, each once."""

    pairs: Sequence[Pair]
    outputs: Sequence[Modality]
    _kept: dict[tuple[Modality, int], list[Reading]] = field(default_factory=dict)

    @property
    def of_world(self) -> bool:
        """Return whether all prompts are of the world."""
        return all(any(value is not None for value in pair.facts.values()) for pair in self.pairs)

    def read(self, modality: Modality, side: int) -> list[Reading]:
        """Return what is read from all files of a modality on one side."""
        key = (modality, side)
        if key not in self._kept:
            media = [_AS_WORLD[modality](pair.sides[side][modality]) for pair in self.pairs]
            batch = media if isinstance(media[0], str) else _stacked(media)
            self._kept[key] = world.READERS[modality](batch)
        return self._kept[key]


def _stacked(media: list[Any]) -> Any:
    import torch

    return torch.stack(media)


def _as_image(path: Path) -> Any:
    """Return a picture as the evaluators see it, uint8 (3, H, W)."""
    return io.from_unit(io.fit_image(io.load_image(path), SIZE))


def _as_clip(path: Path) -> Any:
    """Return a clip as the evaluators see it, uint8 (F, 3, H, W)."""
    clip = io.load_video(path, SECONDS, sound=False)
    return io.from_unit(io.fit_video(clip.frames, clip.fps, NUM_FRAMES, FPS, SIZE))


def _as_sound(path: Path) -> Any:
    """Return a sound as the evaluators hear it, float (S,)."""
    wave, rate = io.load_audio(path, SECONDS)
    return io.fit_audio(wave, round(rate), SAMPLING_RATE, NUM_SAMPLES)


def _as_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


_AS_WORLD: dict[Modality, Callable[[Path], Any]] = {
    Modality.TEXT: _as_text,
    Modality.IMAGE: _as_image,
    Modality.AUDIO: _as_sound,
    Modality.VIDEO: _as_clip,
}


def _attributes(pairs: Sequence[Pair], outputs: Sequence[Modality], readings: _Readings) -> Iterator[Measure]:
    """Yield for every output and attribute in how many samples it is as the prompt says."""
    if not readings.of_world:
        return
    for modality in (m for m in outputs if m in _AS_WORLD):
        for attribute in VISIBLE[modality]:
            asked = [pair.facts.get(attribute) for pair in pairs]
            rows = np.full((len(pairs), 2), np.nan)  # NaN where the prompt leaves it open
            for side in range(2):
                for k, (fact, reading) in enumerate(zip(asked, readings.read(modality, side))):
                    if fact is not None:
                        rows[k, side] = float(reading.facts.get(attribute) == fact)
            rows = rows[~np.isnan(rows[:, 0])]
            if len(rows):
                yield _between(f"{modality}: {attribute} as prompted", "%", rows, share_interval)


def _mutual(pairs: Sequence[Pair], outputs: Sequence[Modality], readings: _Readings) -> Iterator[Measure]:
    """Yield for every two outputs on how much of what both can show they agree."""
    known = [m for m in outputs if m in _AS_WORLD] if readings.of_world else []
    for a, b in combinations(known, 2):
        shared = [name for name in VISIBLE[a] if name in VISIBLE[b]]
        if not shared:
            continue
        sides = []
        for side in range(2):
            facts = [[reading.facts for reading in readings.read(m, side)] for m in (a, b)]
            agree = mutual_agreement(facts, shared)
            sides.append(np.mean([agree[name] for name in shared], axis=0))
        name = f"{a} and {b} agree ({', '.join(shared)})"
        yield _between(name, "%", np.stack(sides, axis=1), share_interval)


def _onsets(pairs: Sequence[Pair], outputs: Sequence[Modality], readings: _Readings) -> Iterator[Measure]:
    """Yield for every two outputs with events how well these coincide."""
    for a, b in combinations([m for m in outputs if kind_of(m).has_onsets], 2):
        counts = []
        for side in range(2):
            times = [_events(pairs, m, side, readings) for m in (a, b)]
            counts.append(onset_counts(times[0], times[1], TOLERANCE))
        rows = np.stack(counts, axis=1)  # (N, 2, 3)
        one = bootstrap(rows, lambda x: f1_of_counts(x[:, :, 0]))
        two = bootstrap(rows, lambda x: f1_of_counts(x[:, :, 1]))
        change = bootstrap(rows, lambda x: f1_of_counts(x[:, :, 1]) - f1_of_counts(x[:, :, 0]))
        by = "the world's evaluators" if readings.of_world else "plain detectors"
        name = f"onset F1 of {a} and {b} within {1000 * TOLERANCE:g} ms ({by})"
        yield Measure(name=name, unit="", first=one, second=two, difference=change, count=len(pairs))


def _events(pairs: Sequence[Pair], modality: Modality, side: int, readings: _Readings) -> list[np.ndarray]:
    """Return the seconds of the events of every file of a modality."""
    if readings.of_world and modality in _AS_WORLD:
        return [reading.events for reading in readings.read(modality, side)]
    found = []
    for pair in pairs:
        media, rate = _raw(pair.sides[side][modality])
        found.append(np.asarray(kind_of(modality).onsets(media, rate)))
    return found


def _between(name: str, unit: str, rows: np.ndarray, interval: Callable[[np.ndarray], Interval]) -> Measure:
    """Return the line of numbers (N, 2) of both sides, with their difference over the same prompts."""
    one, two = interval(rows[:, 0]), interval(rows[:, 1])
    change = bootstrap(rows[:, 1] - rows[:, 0])
    return Measure(name=name, unit=unit, first=one, second=two, difference=change, count=len(rows))


# How far the two are apart ---------------------------------------------


def _raw(path: Path) -> tuple[Any, float]:
    """Return what a file holds, and its rate (0 for what has none)."""
    kind = kind_of(io.probe(path))
    if kind.rate_field is None:
        return io.load_image(path), 0.0
    if kind.spatial:
        clip = io.load_video(path, SECONDS, sound=False)
        return clip.frames, clip.fps
    return io.load_audio(path, SECONDS)


def distances_of(pair: Pair) -> dict[str, float]:
    """Return how far the two sides of a pair are apart, by the name of the measure; none for other sizes.

    Args:
        pair: the pair.

    Returns:
        PSNR and SSIM for pictures and clips, the root mean square difference of log-mel spectrograms for
        sounds, and for sentences whether they are the same.
    """
    found: dict[str, float] = {}
    for modality in pair.first.keys() & pair.second.keys():
        kind, paths = kind_of(modality), (pair.first[modality], pair.second[modality])
        if kind.in_words:
            found[f"{modality}: the same words (%)"] = float(_as_text(paths[0]) == _as_text(paths[1]))
            continue
        (one, rate), (two, other) = (_raw(path) for path in paths)
        if one.shape != two.shape or rate != other:
            continue
        if kind.spatial:
            found[f"{modality}: PSNR (dB)"] = psnr(one, two)
            found[f"{modality}: SSIM ()"] = ssim(one, two)
        else:
            found[f"{modality}: log-mel distance ()"] = _mel_distance(one, two, round(rate))
    return found


@cache
def _mel(rate: int) -> Any:
    from codi.models.autoencoders.mel import LogMel

    return LogMel(sampling_rate=rate)


def _mel_distance(one: Any, two: Any, rate: int) -> float:
    """Return the root mean square difference of two log-mel spectrograms."""
    spectrum = _mel(rate)
    return (spectrum(one[None]) - spectrum(two[None])).square().mean().sqrt().item()


def _distances(pairs: Sequence[Pair], outputs: Sequence[Modality]) -> Iterator[Measure]:
    """Yield the mean distances between the two sides."""
    rows = [distances_of(pair) for pair in pairs]
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([row[name] for row in rows if name in row])
        title, _, unit = name.rpartition(" (")
        interval = share_interval(values) if unit == "%)" else bootstrap(values)
        told = f"{title}, A against B"
        yield Measure(
            name=told, unit=unit[:-1], first=None, second=None, difference=interval, count=len(values)
        )
