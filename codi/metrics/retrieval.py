"""Measure retrieval between prompt towers, and between features of any extractor.

A query of the world has many right answers: a hit is a key whose visible facts equal those of the query. In a
user's own files a caller says which keys are right for which query.

Letters: N queries, M keys, D width of the prompt space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from codi.metrics.agreement import Facts


def recall_at_1(
    queries: Tensor,
    keys: Tensor,
    query_facts: Sequence[Facts],
    key_facts: Sequence[Facts],
    attributes: Sequence[str],
) -> float:
    """Return the share of queries whose nearest key, by cosine, has the same value of every attribute.

    Args:
        queries: (N, D) prompt tokens.
        keys: (M, D) prompt tokens of another modality.
        query_facts: the facts of the N queries.
        key_facts: the facts of the M keys.
        attributes: the names that must agree. Pass those that both modalities can show: a picture has no
            tempo, so tempo must not count against it.

    Returns:
        The share in [0, 1].
    """
    assert len(queries) == len(query_facts) and len(keys) == len(key_facts), "one set of facts per embedding"
    best = (_unit(queries) @ _unit(keys).T).argmax(dim=1).tolist()
    hits = 0
    for query, nearest in zip(query_facts, best):
        hits += _same(query, key_facts[nearest], attributes)
    return hits / len(best)


def chance_of_recall(
    query_facts: Sequence[Facts], key_facts: Sequence[Facts], attributes: Sequence[str]
) -> float:
    """Return the expected `recall_at_1` of a key that is picked at random.

    Args:
        query_facts: the facts of the queries.
        key_facts: the facts of the keys.
        attributes: the names that must agree.

    Returns:
        The share in [0, 1].
    """
    hits = 0
    for query in query_facts:
        for key in key_facts:
            hits += _same(query, key, attributes)
    return hits / (len(query_facts) * len(key_facts))


def ranks_of_relevant(queries: Tensor, keys: Tensor, relevant: Tensor) -> Tensor:
    """Return the rank at which each query finds the first of its relevant keys, by cosine.

    Of keys that are equally near, those that are not relevant come first, so that features which are all
    alike find nothing.

    Args:
        queries: (N, D) features.
        keys: (M, D) features.
        relevant: (N, M) bool, which keys are right for which query; at least one for each.

    Returns:
        (N,) ranks from 1.
    """
    assert relevant.shape == (len(queries), len(keys)), (relevant.shape, len(queries), len(keys))
    assert relevant.any(dim=1).all(), "every query has a relevant key"
    nearness = _unit(queries) @ _unit(keys).T  # (N, M)
    best = nearness.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    before = (nearness >= best - 1e-12) & ~relevant
    return before.sum(dim=1) + 1


def chance_of_hit(relevant: Tensor, k: int) -> float:
    """Return how often one of `k` keys that are picked at random is relevant.

    Args:
        relevant: (N, M) bool, which keys are right for which query.
        k: how many keys are picked, without replacement.

    Returns:
        The mean over queries, in [0, 1].
    """
    total = relevant.shape[1]
    missed = torch.ones(len(relevant), dtype=torch.float64)
    wrong = (~relevant).sum(dim=1).double()
    for drawn in range(min(k, total)):
        missed *= (wrong - drawn).clamp(min=0) / (total - drawn)
    return float(1 - missed.mean())


def _same(query: Facts, key: Facts, attributes: Sequence[str]) -> bool:
    """Return whether two sets of facts have the same value of every attribute."""
    return all(query[name] == key[name] for name in attributes)


def _unit(x: Tensor) -> Tensor:
    """Return vectors (N, D) scaled to length one, in float64."""
    return torch.nn.functional.normalize(x.double(), dim=-1)
