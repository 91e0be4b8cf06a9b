"""Retrieval between prompt towers, with many right answers: a hit is a key whose visible facts equal the
query's.
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
    """Share of queries (N, D) whose nearest key (M, D) by cosine has the same value of every one of
    `attributes`.

    Pass the attributes that both modalities can show: a picture has no tempo, so tempo cannot count against
    it.
    """
    assert len(queries) == len(query_facts) and len(keys) == len(key_facts), "one set of facts per embedding"
    best = (_unit(queries) @ _unit(keys).T).argmax(dim=1).tolist()
    hits = [all(query_facts[i][a] == key_facts[k][a] for a in attributes) for i, k in enumerate(best)]
    return sum(hits) / len(hits)


def chance_of_recall(
    query_facts: Sequence[Facts], key_facts: Sequence[Facts], attributes: Sequence[str]
) -> float:
    """Expected `recall_at_1` of a key picked at random."""
    hits = [all(q[a] == k[a] for a in attributes) for q in query_facts for k in key_facts]
    return sum(hits) / len(hits)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.double(), dim=-1)
