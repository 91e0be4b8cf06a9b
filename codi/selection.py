"""Best of several: which joint sample agrees best with its prompts, with itself, and in time.

The judges are the model's own prompt towers and two plain detectors of onsets that know nothing of any world,
so that a benchmark can measure what was selected with judges of its own. B samples, the N candidates of each
wanted one side by side; D width of the prompt space.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from codi.protocols import PromptEncoder
from codi.types import InputError, Modality

PROMPT, MUTUAL, ONSETS = "prompt", "mutual", "onsets"
# candidates that differ by less are not told apart by that measure
LEAST_SPREAD = {PROMPT: 0.02, MUTUAL: 0.02, ONSETS: 0.1}
WINDOW, HOP, LAG = 0.032, 0.010, 2  # of a sound's spectrum: seconds, seconds, hops over which it rises
SILENT = 1e-4  # highest point of a curve that has no onset
LEAST = {Modality.AUDIO: 0.3, Modality.VIDEO: 0.2}  # of its highest point that a curve's peak must reach


def candidate_seeds(seeds: Sequence[int], candidates: int) -> list[int]:
    """N seeds for every seed, itself first. Neighbouring seeds share none, as samples k + 1, k + 2, ... are
    somebody's own.
    """

    def derived(seed: int, number: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}/candidate {number}".encode()).digest()[:6], "big")

    return [seed if number == 0 else derived(seed, number) for seed in seeds for number in range(candidates)]


def expand(value: Tensor, name: str, num_samples: int, candidates: int) -> Tensor:
    """(1 or num_samples, ...) -> (num_samples * N, ...), the candidates of a sample side by side. Raises
    `InputError`.
    """
    if len(value) not in (1, num_samples):
        raise InputError(
            f"{name} holds {len(value)} rows for {num_samples} samples: expected 1 or {num_samples}"
        )
    return value.expand(num_samples, *value.shape[1:]).repeat_interleave(candidates, dim=0)


def take(batch: Mapping[Modality, Any], rows: list[int]) -> dict[Modality, Any]:
    """The named rows of tensors (B, ...) and lists."""
    return {
        m: values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
        for m, values in batch.items()
    }


def available(
    towers: Mapping[Modality, Any], outputs: Sequence[Modality], partners: Sequence[Modality], prompted: bool
) -> list[str]:
    """The measures that can be taken. Raises `InputError` if there is none: candidates could not be told
    apart.
    """
    judged = [m for m in outputs if m in towers]
    timed = [m for m in (*outputs, *partners) if m in DETECTORS]
    found = {
        PROMPT: prompted and bool(judged),
        MUTUAL: len(judged) > 1,
        ONSETS: len(timed) > 1 and any(m in timed for m in outputs),
    }
    if not any(found.values()):
        raise InputError(
            "candidates cannot be told apart: expected a prompt, or several outputs, and a model with their "
            "prompt towers"
        )
    return [name for name, there in found.items() if there]


def prompt_agreement(tokens: Mapping[Modality, Tensor], context: Tensor) -> Tensor:
    """Mean cosine (B,) between the outputs' tokens (B, D) and their prompt's (B, D)."""
    return torch.stack(
        [nnf.cosine_similarity(token.float(), context.float(), dim=-1) for token in tokens.values()]
    ).mean(0)


def mutual_agreement(tokens: Mapping[Modality, Tensor]) -> Tensor:
    """Mean cosine (B,) over the pairs of outputs."""
    pairs = combinations(tokens.values(), 2)
    return torch.stack([nnf.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in pairs]).mean(0)


def onset_agreement(onsets: Mapping[Modality, Sequence[Tensor]], tolerance: float) -> Tensor:
    """Mean `timing` (B,) over the pairs of what has onsets. Lists shorter than B are those of clean partners,
    shared by neighbours.
    """
    length = max(len(rows) for rows in onsets.values())
    shared = [[rows[k * len(rows) // length] for k in range(length)] for rows in onsets.values()]
    pairs = [
        [timing(a, b, tolerance) for a, b in zip(first, second, strict=True)]
        for first, second in combinations(shared, 2)
    ]
    return torch.tensor(pairs).mean(0)


def timing(first: Tensor, second: Tensor, tolerance: float) -> float:
    """0..1 for two rising lists of seconds: onsets that find a partner over all onsets.

    A pair counts less the further it is apart, half at `tolerance`, beyond not at all. Two empty lists agree
    on nothing: 0.
    """
    a, b, i, j, matched = first.tolist(), second.tolist(), 0, 0, 0.0
    reach = tolerance + 1e-6
    while i < len(a) and j < len(b):
        gap = a[i] - b[j]
        if abs(gap) <= reach:
            matched += 1 - abs(gap) / (2 * tolerance)
        i, j = i + (gap <= reach), j + (gap >= -reach)
    return 2 * matched / max(len(a) + len(b), 1)


def sound_onsets(wave: Tensor, rate: float) -> Tensor:
    """Seconds (K,) at which the spectrum of a sound (samples,) rises: peaks of its half-wave
    rectified flux.
    """
    size, step = round(WINDOW * rate), round(HOP * rate)
    window = torch.hann_window(size, device=wave.device)
    spectrum = torch.stft(
        wave.float(), size, step, size, window, pad_mode="constant", return_complex=True
    ).abs() * (2 / window.sum())
    flux = (spectrum[:, LAG:] - spectrum[:, :-LAG]).clamp_min(0).sum(0)
    return _peaks(flux, reach=5, least=LEAST[Modality.AUDIO]).add(LAG / 2) * (step / rate)


def video_onsets(frames: Tensor, rate: float) -> Tensor:
    """Seconds (K,) at which what moves in a clip, float (F, 3, H, W), jumps, turns or appears.

    Differences of frames are projected on 1, x and y: how much there is, and where its centre lies. A still
    ground drops out, steady motion is a constant, and an event is a peak in the energy of its change.
    """
    moments = _moments(frames.float())  # (F, 9)
    motion = moments[1:] - moments[:-1]
    energy = (motion[1:] - motion[:-1]).norm(dim=1)  # of frames 1 .. F - 2
    return _peaks(energy, reach=1, least=LEAST[Modality.VIDEO]).add(1) / rate


DETECTORS = {Modality.AUDIO: sound_onsets, Modality.VIDEO: video_onsets}


def _moments(frames: Tensor) -> Tensor:
    """(F, C, H, W) -> (F, 3 C): the mean of every channel, plain and weighted by x and by y in [-1, 1]."""
    height, width = frames.shape[-2:]
    y = torch.linspace(-1, 1, height, device=frames.device)[:, None]
    x = torch.linspace(-1, 1, width, device=frames.device)
    return torch.cat([(frames * weight).mean((2, 3)) for weight in (torch.ones_like(x), x, y)], dim=1)


def _peaks(curve: Tensor, reach: int, least: float) -> Tensor:
    """Positions (K,), between samples, of the highest points within `reach` that stand out of a
    curve (T,).
    """
    if len(curve) == 0 or curve.max() < SILENT:
        return curve.new_zeros(0)
    padded = nnf.pad(curve, (1, 1))
    highest = nnf.max_pool1d(padded[None, None], 2 * reach + 1, 1, reach)[0, 0]
    level = curve.median() + least * (curve.max() - curve.median())
    top = (padded == highest) & (padded > level)
    # of two equal neighbours the first; the place found lies between them
    at = (top & ~top.roll(1)).nonzero()[:, 0]
    left, middle, right = padded[at - 1], padded[at], padded[at + 1]
    shift = (right - left) / (2 * (2 * middle - left - right)).clamp_min(1e-9)
    return at - 1 + shift.clamp(-0.5, 0.5)


def judge(
    towers: Mapping[Modality, PromptEncoder],
    media: Mapping[Modality, Any],
    names: Sequence[str],
    context: Tensor,
    timed: Mapping[Modality, tuple[Any, float]],
    tolerance: float,
) -> dict[str, Tensor]:
    """The measures `names`, each (B,), of outputs `media` (B, ...) that were made from prompts `context` (B,
    D).

    timed      outputs and clean partners that may have onsets, as (media, rate)
    tolerance  seconds
    """
    tokens = {m: towers[m].embed(raw) for m, raw in media.items() if m in towers}
    onsets = {
        m: [DETECTORS[m](row, rate) for row in raw] for m, (raw, rate) in timed.items() if ONSETS in names
    }
    take = {
        PROMPT: lambda: prompt_agreement(tokens, context),
        MUTUAL: lambda: mutual_agreement(tokens),
        ONSETS: lambda: onset_agreement(onsets, tolerance),
    }
    return {name: take[name]().cpu() for name in names}


def choose(measures: Mapping[str, Tensor], seeds: Sequence[int], candidates: int) -> list[dict[str, Any]]:
    """For every wanted sample the candidate that stands out most among its own, by the sum of standardised
    measures (B,).

    A record has `kept`, a number from 0, and `seeds` and `scores` of all candidates.
    """
    totals = torch.stack(
        [_standardised(values.view(-1, candidates), LEAST_SPREAD[name]) for name, values in measures.items()]
    ).sum(0)
    columns = {name: values.view(-1, candidates).tolist() for name, values in measures.items()} | {
        "total": totals.tolist()
    }
    records = []
    for k, total in enumerate(columns["total"]):
        scores = [{name: round(rows[k][n], 4) for name, rows in columns.items()} for n in range(candidates)]
        records.append(
            {
                "kept": total.index(max(total)),
                "seeds": list(seeds[k * candidates : (k + 1) * candidates]),
                "scores": scores,
            }
        )
    return records


def _standardised(values: Tensor, least: float) -> Tensor:
    """(samples, N) in standard deviations from each row's mean; a row's deviation counts as at
    least `least`.
    """
    return (values - values.mean(1, keepdim=True)) / values.std(1, correction=0, keepdim=True).clamp_min(
        least
    )
