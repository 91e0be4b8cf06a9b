"""Choose the best of several samples: the one that agrees best with its prompts, with itself, and in time.

The judges are the model's own prompt towers and two plain detectors of onsets that know nothing of any world,
so that a benchmark can measure what was selected with judges of its own.

Letters: B samples, the N candidates of each wanted one side by side; D width of the prompt space.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from codi.modalities import kind_of
from codi.protocols import PromptEncoder
from codi.types import InputError, Modality

PROMPT = "prompt"
MUTUAL = "mutual"
ONSETS = "onsets"
# candidates whose standard deviation is less are not told apart by that measure
LEAST_SPREAD = {PROMPT: 0.02, MUTUAL: 0.02, ONSETS: 0.1}


def candidate_seeds(seeds: Sequence[int], candidates: int) -> list[int]:
    """Return N seeds for every seed, itself first.

    The others are derived by a hash, so that neighbouring seeds share none: k + 1, k + 2, ... are the seeds
    of other samples.
    """

    def derived(seed: int, number: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}/candidate {number}".encode()).digest()[:6], "big")

    found = []
    for seed in seeds:
        found.append(seed)
        found += [derived(seed, number) for number in range(1, candidates)]
    return found


def expand(value: Tensor, name: str, num_samples: int, candidates: int) -> Tensor:
    """Repeat each row for its candidates: (1 or num_samples, ...) becomes (num_samples * N, ...).

    The candidates of a sample stand side by side. Raises `InputError` for another number of rows, by the
    `name` of the value.
    """
    if len(value) not in (1, num_samples):
        raise InputError(
            f"{name} holds {len(value)} rows for {num_samples} samples: expected 1 or {num_samples}"
        )
    return value.expand(num_samples, *value.shape[1:]).repeat_interleave(candidates, dim=0)


def take(batch: Mapping[Modality, Any], rows: list[int]) -> dict[Modality, Any]:
    """Return the rows of these numbers, of tensors (B, ...) and of lists."""
    taken: dict[Modality, Any] = {}
    for modality, values in batch.items():
        if isinstance(values, Tensor):
            taken[modality] = values[rows]
        else:
            taken[modality] = [values[row] for row in rows]
    return taken


def available(
    towers: Mapping[Modality, Any], outputs: Sequence[Modality], partners: Sequence[Modality], prompted: bool
) -> list[str]:
    """Return the measures that can be taken of candidates.

    Args:
        towers: the prompt towers of the model by modality.
        outputs: what is made.
        partners: the inputs that are clean partners.
        prompted: whether there is a prompt.

    Returns:
        Some of `PROMPT`, `MUTUAL` and `ONSETS`.

    Raises:
        InputError: if there is none, so that candidates could not be told apart.
    """
    judged = [m for m in outputs if m in towers]
    timed = [m for m in (*outputs, *partners) if kind_of(m).has_onsets]
    found = []
    if prompted and judged:
        found.append(PROMPT)
    if len(judged) > 1:
        found.append(MUTUAL)
    if len(timed) > 1 and not set(timed).isdisjoint(outputs):
        found.append(ONSETS)
    if not found:
        raise InputError(
            "candidates cannot be told apart: expected a prompt, or several outputs, and a model with their "
            "prompt towers"
        )
    return found


def prompt_agreement(tokens: Mapping[Modality, Tensor], context: Tensor) -> Tensor:
    """Return the mean cosine (B,) between the outputs' tokens (B, D) and their prompt's (B, D)."""
    found = []
    for token in tokens.values():
        found.append(nnf.cosine_similarity(token.float(), context.float(), dim=-1))
    return torch.stack(found).mean(0)


def mutual_agreement(tokens: Mapping[Modality, Tensor]) -> Tensor:
    """Return the mean cosine (B,) between tokens (B, D) over the pairs of outputs."""
    found = []
    for first, second in combinations(tokens.values(), 2):
        found.append(nnf.cosine_similarity(first.float(), second.float(), dim=-1))
    return torch.stack(found).mean(0)


def onset_agreement(onsets: Mapping[Modality, Sequence[Tensor]], tolerance: float) -> Tensor:
    """Return the mean `timing` (B,) over the pairs of what has onsets.

    Args:
        onsets: onsets in seconds of every sample, by modality. A list shorter than B is that of a clean
            partner, whose rows are shared by neighbours.
        tolerance: seconds, see `timing`.

    Returns:
        0 to 1 for each sample.
    """
    length = max(map(len, onsets.values()))
    shared = []
    for rows in onsets.values():
        shared.append([rows[k * len(rows) // length] for k in range(length)])
    pairs = []
    for first, second in combinations(shared, 2):
        pairs.append([timing(a, b, tolerance) for a, b in zip(first, second, strict=True)])
    return torch.tensor(pairs).mean(0)


def timing(first: Tensor, second: Tensor, tolerance: float) -> float:
    """Return how well two rising lists of seconds agree, from 0 to 1: matched onsets over all onsets.

    A pair counts less the further it is apart, half at `tolerance` and beyond that nothing. Two empty lists
    agree on nothing: 0.
    """
    a = first.tolist()
    b = second.tolist()
    i = j = 0
    matched = 0.0
    reach = tolerance + 1e-6  # rounding must not part onsets that are just as far apart as they may be
    while i < len(a) and j < len(b):
        gap = a[i] - b[j]
        if abs(gap) <= reach:
            matched += 1 - abs(gap) / (2 * tolerance)
        i += gap <= reach
        j += gap >= -reach
    return 2 * matched / max(len(a) + len(b), 1)


def judge(
    towers: Mapping[Modality, PromptEncoder],
    media: Mapping[Modality, Any],
    names: Sequence[str],
    context: Tensor,
    timed: Mapping[Modality, tuple[Any, float]],
    tolerance: float,
) -> dict[str, Tensor]:
    """Measure outputs that were made from prompts.

    Args:
        towers: the prompt towers by modality.
        media: the outputs (B, ...) by modality.
        names: which measures to take.
        context: the prompts' tokens (B, D).
        timed: outputs and clean partners that may have onsets, as (media, rate).
        tolerance: seconds within which onsets are a pair.

    Returns:
        (B,) for each of the measures.
    """
    tokens = {m: towers[m].embed(raw) for m, raw in media.items() if m in towers}
    found = {}
    for name in names:
        if name == PROMPT:
            agreement = prompt_agreement(tokens, context)
        elif name == MUTUAL:
            agreement = mutual_agreement(tokens)
        else:
            onsets = {}
            for modality, (raw, rate) in timed.items():
                onsets[modality] = [kind_of(modality).onsets(row, rate) for row in raw]
            agreement = onset_agreement(onsets, tolerance)
        found[name] = agreement.cpu()
    return found


def choose(measures: Mapping[str, Tensor], seeds: Sequence[int], candidates: int) -> list[dict[str, Any]]:
    """Choose for every wanted sample the candidate that stands out most among its own.

    The one with the highest sum of standardised measures is kept.

    Args:
        measures: (B,) for each measure.
        seeds: the seeds of all B candidates.
        candidates: N.

    Returns:
        For each wanted sample `kept`, the number of a candidate from 0, and the `seeds` and `scores` of all
            candidates.
    """
    tables = {name: values.view(-1, candidates) for name, values in measures.items()}
    standardised = [_standardised(table, LEAST_SPREAD[name]) for name, table in tables.items()]
    tables["total"] = torch.stack(standardised).sum(0)
    records = []
    for k, total in enumerate(tables["total"].tolist()):
        rows = {name: table[k].tolist() for name, table in tables.items()}
        scores = []
        for n in range(candidates):
            scores.append({name: round(row[n], 4) for name, row in rows.items()})
        own_seeds = list(seeds[k * candidates : (k + 1) * candidates])
        records.append({"kept": total.index(max(total)), "seeds": own_seeds, "scores": scores})
    return records


def _standardised(values: Tensor, least: float) -> Tensor:
    """Return (samples, N) in standard deviations from each row's mean.

    The deviation of a row counts as at least `least`, so that small differences are not blown up.
    """
    return (values - values.mean(1, keepdim=True)) / values.std(1, correction=0, keepdim=True).clamp_min(
        least
    )
