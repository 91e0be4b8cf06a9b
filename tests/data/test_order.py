"""The order of samples and the seeds of draws are pure functions."""

import itertools

import numpy as np
import pytest

from data.order import draw_seed, permute, sample_indices


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_permutation_is_one_to_one(length):
    image = permute(np.arange(length), length, seed=3, epoch=1)
    assert sorted(image) == list(range(length))


def test_epochs_and_seeds_differ_and_repeat():
    orders = [tuple(permute(np.arange(1000), 1000, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert orders[4] == tuple(permute(np.arange(1000), 1000, 1, 1))


def test_permutation_mixes_neighbours():
    image = permute(np.arange(10_000), 10_000, seed=0, epoch=0)
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05
    assert (np.abs(np.diff(image)) == 1).mean() < 0.01


def test_huge_source_costs_nothing():
    assert len(set(sample_indices(0, 10**9, 100, 10**12))) == 100


def test_every_epoch_sees_every_sample_once_however_it_is_cut():
    whole = sample_indices(5, 0, 30, 10)
    assert [sorted(whole[i : i + 10]) for i in (0, 10, 20)] == [list(range(10))] * 3
    assert whole == [i for start in range(0, 30, 3) for i in sample_indices(5, start, 3, 10)]


def test_infinite_source_is_counted():
    assert sample_indices(0, 7, 4, 2, infinite=True) == [7, 8, 9, 10]


def test_draw_seeds_differ():
    seeds = {draw_seed(*key) for key in itertools.product(range(3), range(20), range(4), range(2))}
    assert len(seeds) == 480
    assert all(0 <= seed < 2**63 for seed in seeds)
