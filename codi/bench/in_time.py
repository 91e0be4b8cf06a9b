"""Measure whether sounds and clips of one's own come together in time.

AV-Align compares onsets of the sound with peaks of the optical flow (`codi.metrics.av_align`); onset
agreement is `mir_eval.onset.f_measure` of the onsets that codi's plain detectors find in both
(`codi.modalities.onsets`).

Letters: N rows, F frames, K onsets.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codi.bench.collection import ASKED, Item, Part
from codi.bench.extracting import Extractor
from codi.bench.features import Features
from codi.bench.lines import Line
from codi.metrics import av_align, flow
from codi.metrics.agreement import shuffled
from codi.metrics.bootstrap import bootstrap, nanmean
from codi.modalities import kind_of, kinds, onsets
from codi.types import Modality

NO_MIR_EVAL = "onset agreement was not measured: it needs mir_eval, pip install 'codi[bench]'"
WINDOW = 0.05  # seconds within which mir_eval takes two onsets for one


class Moments(Extractor):
    """When something happens in sounds and clips. Of a sound [K onsets], of a clip [fps, F, flow, onsets]."""

    name = "onsets and optical flow"
    fixed = False

    def __init__(self) -> None:
        self.modalities = tuple(kind.modality for kind in kinds() if kind.has_onsets)

    @property
    def fingerprint(self) -> str:
        """A digest of the detectors."""
        code = inspect.getsource(onsets) + inspect.getsource(flow)
        return f"moments {hashlib.sha256(code.encode()).hexdigest()}"

    def rate(self, modality: Modality) -> str:
        """Say that media are read at their own rate."""
        return "the files' own"

    def embed(self, modality: Modality, media: list[Any]) -> list[np.ndarray]:
        """Return what is found in each medium, as an array of any length."""
        return [_found(modality, medium) for medium in media]


def _found(modality: Modality, medium: Any) -> np.ndarray:
    """Return the onsets of a sound, preceded by its rate, or what is found in a clip."""
    kind = kind_of(modality)
    if isinstance(medium, tuple):
        wave, rate = medium
        return np.array([rate, *kind.onsets(wave, rate).tolist()], dtype=np.float64)
    curve = flow.flow_magnitudes(medium.frames)
    found = kind.onsets(medium.frames.float() / 255, medium.fps)
    return np.array([medium.fps, len(curve), *curve.tolist(), *found.tolist()], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A sound and a clip of one row.

    Attributes:
        sound: the onsets of the sound in seconds.
        clip: the onsets of the clip in seconds.
        peaks: the seconds at which the optical flow peaks.
        fps: frames per second of the clip.
        rate: Hz of the sound.
    """

    sound: np.ndarray
    clip: np.ndarray
    peaks: np.ndarray
    fps: float
    rate: float


def measure_in_time(items: Sequence[Item], moments: Features) -> list[Line]:
    """Return the lines of every kind of sound beside every kind of clip.

    Args:
        items: the rows.
        moments: what `Moments` found in them.

    Returns:
        AV-Align and, where mir_eval is installed, onset agreement.
    """
    names = sorted({name for item in items for name in item.parts})
    lines: list[Line] = []
    for sound in names:
        for clip in names:
            if sound.startswith(ASKED) and clip.startswith(ASKED):
                continue
            pairs = [pair for item in items if (pair := _pair(item, sound, clip, moments))]
            if len(pairs) > 1:
                lines += _lines(f"{sound}, {clip}", pairs)
    return lines


def _pair(item: Item, sound: str, clip: str, moments: Features) -> Pair | None:
    """Return what was found in a sound and a clip of a row; None where it lacks one of them."""
    parts = [item.parts.get(name) for name in (sound, clip)]
    if None in parts or not _is_sound(parts[0]) or _is_sound(parts[1]):
        return None
    heard, seen = ([array for _, array in moments.of(part)] for part in parts if part)
    if not heard or not seen or not heard[0].size:
        return None
    fps, count = seen[0][0], int(seen[0][1])
    return Pair(
        sound=heard[0][1:],
        clip=seen[0][2 + count :],
        peaks=av_align.flow_peaks(seen[0][2 : 2 + count], fps),
        fps=fps,
        rate=heard[0][0],
    )


def _is_sound(part: Part | None) -> bool:
    """Return whether a part has onsets and no frames."""
    return part is not None and kind_of(part.modality).has_onsets and not kind_of(part.modality).spatial


def _lines(what: str, pairs: Sequence[Pair]) -> list[Line]:
    """Return the lines of some pairs, each beside the same with the sounds of other rows."""
    strangers = []
    for pair, sound in zip(pairs, shuffled([pair.sound for pair in pairs])):
        strangers.append((sound, pair))
    rate = f"{_span(pair.rate for pair in pairs)} Hz, {_span(pair.fps for pair in pairs)} fps"

    def line(measure: str, by: str, score: Callable[[np.ndarray, Pair], float]) -> Line:
        scores = np.array([score(pair.sound, pair) for pair in pairs])
        floor = np.array([score(sound, pair) for sound, pair in strangers])
        interval = bootstrap(scores, nanmean)
        return Line(
            section="In time",
            measure=measure,
            what=what,
            extractor=by,
            rate=rate,
            count=f"{int(np.isfinite(scores).sum())} of {len(scores)}",
            value=interval.value,
            low=interval.low,
            high=interval.high,
            beside={"shuffled": float(nanmean(floor[None])[0])},
        )

    found = [line("AV-Align", "sound onsets, flow peaks", lambda s, p: av_align.av_align(s, p.peaks, p.fps))]
    f_measure = _f_measure()
    if f_measure is not None:
        for name, width in (
            (f"onset F1, {1000 * WINDOW:g} ms", lambda p: WINDOW),
            ("onset F1, one frame", _frame),
        ):
            found.append(line(name, "sound onsets, clip onsets", _score(f_measure, width)))
    return found


def _frame(pair: Pair) -> float:
    """Return how long a frame of a clip is on show, in seconds."""
    return 1 / pair.fps


def _score(
    f_measure: Callable[..., Any], width: Callable[[Pair], float]
) -> Callable[[np.ndarray, Pair], float]:
    """Return what scores a sound beside a clip; NaN where neither has an onset."""

    def score(sound: np.ndarray, pair: Pair) -> float:
        if not len(sound) and not len(pair.clip):
            return float("nan")
        if not len(sound) or not len(pair.clip):
            return 0.0  # as mir_eval says, with a warning
        return float(f_measure(np.sort(pair.clip), np.sort(sound), window=width(pair))[0])

    return score


def _f_measure() -> Callable[..., Any] | None:
    """Return the F-measure of mir_eval, or None where it is not installed."""
    try:
        import mir_eval.onset
    except ImportError:
        return None
    return mir_eval.onset.f_measure


def has_mir_eval() -> bool:
    """Return whether onset agreement can be measured."""
    return _f_measure() is not None


def _span(values: Any) -> str:
    """Return one value, or the smallest and the largest of several."""
    found = sorted(set(values))
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"
