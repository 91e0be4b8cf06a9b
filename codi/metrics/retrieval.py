"""Measure retrieval between prompt towers.

A query has many right answers: a hit is a key whose visible facts equal those of the query.

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


def _same(query: Facts, key: Facts, attributes: Sequence[str]) -> bool:
    """Return whether two sets of facts have the same value of every attribute."""
    return all(query[name] == key[name] for name in attributes)


def _unit(x: Tensor) -> Tensor:
    """Return vectors (N, D) scaled to length one, in float64."""
    return torch.nn.functional.normalize(x.double(), dim=-1)
