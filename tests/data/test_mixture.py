"""Mixtures: exact shares, every sample of a source in its turn, a pure function of (seed, position)."""

import numpy as np
import pytest
import torch

from codi.types import InputError
from data.manifest import Manifest, write_manifest
from data.media import MediaSource
from data.mixture import BLOCK, Mixture, quotas
from data.sources import open_source
from data.workers import Decoder
from tests.data.files import GEOMETRY


def texts(tmp_path, name, count):
    write_manifest(
        tmp_path / f"{name}.jsonl", [{"id": f"{name}{k}", "caption": f"{name} {k}"} for k in range(count)]
    )
    return MediaSource(
        Manifest(tmp_path / f"{name}.jsonl"), ["text"], {}, seed=0, shuffle=False, decoder=Decoder(workers=0)
    )


@pytest.fixture
def mixture(tmp_path):
    return Mixture(
        [(texts(tmp_path, "a", 7), 1), (texts(tmp_path, "b", 5), 2), (texts(tmp_path, "c", 3), 0.5)], seed=3
    )


def test_shares_are_exact_in_every_block(mixture):
    which, positions = mixture.places(range(3 * BLOCK))
    shares = np.array([1, 2, 0.5]) / 3.5
    for block in range(3):
        counts = np.bincount(which[block * BLOCK : (block + 1) * BLOCK], minlength=3)
        assert np.abs(counts - shares * BLOCK).max() < 1
    for source in range(3):
        assert sorted(positions[which == source]) == list(range((which == source).sum()))


def test_positions_far_away_cost_nothing_and_batches_may_be_cut_anywhere(mixture):
    start = 10**12
    which, positions = mixture.places(range(start, start + 50))
    alone = [mixture.places([start + k]) for k in range(50)]
    assert which.tolist() == [int(w[0]) for w, _ in alone] and positions.tolist() == [
        int(p[0]) for _, p in alone
    ]
    whole = mixture.fetch(list(range(40)))
    pieces = [mixture.fetch(list(range(k, k + 8))) for k in range(0, 40, 8)]
    assert whole["text"] == [text for piece in pieces for text in piece["text"]]
    assert whole["index"] == list(range(40)) and whole["text_mask"].all()


def test_sources_come_mixed_and_seeds_differ(mixture, tmp_path):
    first = "".join(name[0] for name in mixture.fetch(list(range(60)))["ids"])
    assert set(first) == set("abc") and "b" * 12 not in first
    other = Mixture([(source, weight) for source, weight in zip(mixture.sources, mixture.weights)], seed=4)
    assert (
        other.identity != mixture.identity
        and other.fetch(list(range(60)))["ids"] != mixture.fetch(list(range(60)))["ids"]
    )


def test_quotas_sum_up():
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights = rng.uniform(0.01, 5, rng.integers(1, 9)).tolist()
        assert (
            quotas(weights).sum() == BLOCK
            and np.abs(quotas(weights) - np.array(weights) / sum(weights) * BLOCK).max() < 1
        )


def test_weights_that_cannot_be_kept(tmp_path):
    one, two = texts(tmp_path, "a", 2), texts(tmp_path, "b", 2)
    for weights in ((0, 1), (-1, 1), (1, float("inf"))):
        with pytest.raises(InputError, match="expected at least one, all more than 0"):
            Mixture(list(zip((one, two), weights)), seed=0)
    with pytest.raises(InputError, match="leave that source out"):
        Mixture([(one, 1), (two, 1e-9)], seed=0)


def test_files_and_the_world_in_one_batch(tmp_path):
    write_manifest(tmp_path / "words.jsonl", [{"id": "w", "caption": "just words"}])
    options = {
        "media": ["text", "image"],
        "geometry": {"image": GEOMETRY["image"]},
        "manifests": [{"path": str(tmp_path / "words.jsonl"), "weight": 1}],
        "world": {"weight": 2},
        "require": [],
        "workers": 0,
    }
    with open_source(options, seed=0) as mixed:
        batch = mixed.fetch(list(range(24)))
        real = [text == "just words" for text in batch["text"]]
        alone = [mixed.fetch([real.index(words)]) for words in (True, False)]
    assert alone[0].keys() == alone[1].keys() == batch.keys() and not {"ids", "rows", "scenes"} & batch.keys()
    assert 3 <= sum(real) <= 14 and batch["text_mask"].all()
    assert batch["image_mask"].tolist() == [not words for words in real]
    assert torch.equal(batch["image"].flatten(1).any(dim=1), batch["image_mask"])
