"""Measures against answers known in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch

from codi.metrics.agreement import agreement, all_agree, mutual_agreement, mutual_closeness, shuffled
from codi.metrics.bootstrap import bootstrap, nanmean, ratio_of_sums, share_interval
from codi.metrics.frechet import frechet_distance, kernel_distance
from codi.metrics.onsets import (
    best_constant_offset,
    f1_of_counts,
    f1_over_tolerance,
    match_onsets,
    offset_sums,
    onset_counts,
    onset_f1,
)
from codi.metrics.retrieval import chance_of_recall, recall_at_1
from codi.metrics.spread import expected_total_variation, quantile_bins, total_variation


def brute_force(predicted, true, tolerance):
    """The best (number of matches, -total distance) over every one-to-one assignment."""
    best = (0, 0.0)
    for size in range(1, min(len(predicted), len(true)) + 1):
        for rows in itertools.combinations(range(len(predicted)), size):
            for columns in itertools.permutations(range(len(true)), size):
                distances = [abs(predicted[i] - true[j]) for i, j in zip(rows, columns)]
                if max(distances) <= tolerance:
                    best = max(best, (size, -sum(distances)))
    return best


def test_matching_is_the_best_one_to_one_assignment():
    rng = np.random.default_rng(0)
    for _ in range(60):
        predicted, true = rng.uniform(0, 1, rng.integers(0, 5)), rng.uniform(0, 1, rng.integers(0, 5))
        pairs = match_onsets(predicted, true, 0.2)
        count, closeness = brute_force(predicted, true, 0.2)
        assert len(pairs) == count
        assert np.isclose(np.abs(predicted[pairs[:, 0]] - true[pairs[:, 1]]).sum(), -closeness)
        assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)


def test_matching_prefers_more_pairs_to_a_closer_pair():
    """Greedy would take 0.50 with 0.49 and leave 0.45 alone."""
    assert len(match_onsets([0.50, 0.60], [0.45, 0.50], 0.10)) == 2


def test_a_constant_shift_is_read_as_bias():
    true = [np.array([0.2, 0.9]), np.array([0.5])]
    late = [t + 0.03 for t in true]
    score = onset_f1(late, true, 0.05)
    assert score.f1 == score.precision == score.recall == score.count_accuracy == 1.0
    assert np.allclose([score.bias, score.mae, score.p95], 0.03)
    assert onset_f1(late, true, 0.02).f1 == 0.0
    shift, corrected = best_constant_offset([t + 0.3 for t in true], true, 0.05)
    assert math.isclose(shift, -0.3, abs_tol=0.05) and onset_f1(corrected, true, 0.05).f1 == 1.0


def test_bias_is_the_ratio_of_sums_over_scenes():
    true = [np.array([0.2, 0.9]), np.array([0.5]), np.zeros(0)]
    moved = [true[0] + 0.03, true[1] - 0.01, true[2]]
    rows = offset_sums(moved, true, 0.05)
    assert np.allclose(rows, [[0.06, 2], [-0.01, 1], [0, 0]])
    assert np.allclose(ratio_of_sums(rows[None]), 0.05 / 3) and math.isclose(
        onset_f1(moved, true, 0.05).bias, 0.05 / 3
    )
    assert np.isnan(ratio_of_sums(rows[None, 2:])).all()


def test_of_offsets_that_do_not_matter_the_smallest_is_best():
    assert best_constant_offset([np.array([0.5])], [np.zeros(0)], 0.05)[0] == 0.0


def test_f1_counts_misses_and_extras():
    score = onset_f1([np.array([0.1, 0.5, 1.5])], [np.array([0.1, 0.9])], 0.05)
    assert (
        math.isclose(score.precision, 1 / 3)
        and math.isclose(score.recall, 1 / 2)
        and math.isclose(score.f1, 0.4)
    )
    assert score.count_accuracy == 0.0
    empty = onset_f1([np.zeros(0)], [np.zeros(0)], 0.05)
    assert empty.f1 == 0.0 and empty.count_accuracy == 1.0 and math.isnan(empty.bias)


def test_f1_grows_with_tolerance():
    rng = np.random.default_rng(1)
    true = [np.sort(rng.uniform(0, 2, 4)) for _ in range(20)]
    noisy = [t + rng.normal(0, 0.05, 4) for t in true]
    scores = f1_over_tolerance(noisy, true, [0.0, 0.02, 0.05, 0.1, 0.3])
    assert (np.diff(scores) >= 0).all() and scores[0] == 0.0 and scores[-1] > 0.95


def test_agreement_counts_an_unread_attribute_as_wrong():
    facts = [{"shape": "ball", "colour": "red"}, {"shape": "box", "colour": "red"}]
    read = [{"shape": "ball", "colour": None}, {"shape": "ball", "colour": "red"}]
    parts = agreement(read, facts, ["shape", "colour"])
    assert (
        parts["shape"].tolist() == [1, 0]
        and parts["colour"].tolist() == [0, 1]
        and all_agree(parts).tolist() == [0, 0]
    )
    assert agreement([{"shape": None}], [{"shape": None}], ["shape"])["shape"].tolist() == [0]
    assert mutual_agreement([facts, facts, read], ["shape"])["shape"].tolist() == [1, 0]


def test_numbers_agree_within_the_tolerance_and_what_is_missing_agrees_with_nothing():
    values = [np.array([0.1, 0.1, np.nan, np.nan]), np.array([0.15, 0.2, 0.1, np.nan])]
    assert mutual_closeness(values, 0.05).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("n", [2, 3, 17])
def test_shuffling_leaves_nothing_in_place(n):
    items = shuffled(list(range(n)))
    assert sorted(items) == list(range(n)) and all(i != x for i, x in enumerate(items))


def test_total_variation_of_known_frequencies():
    p = np.array([0.5, 0.5])
    assert total_variation(["a", "b"], ["a", "b"], p) == 0.0
    assert total_variation(["a", "a"], ["a", "b"], p) == 0.5
    assert total_variation([None, None], ["a", "b"], p) == 1.0
    # E|k/n - 1/2| of a fair coin is about sqrt(1 / (2 pi n)).
    assert math.isclose(expected_total_variation(400, p), math.sqrt(1 / (2 * math.pi * 400)), rel_tol=0.1)


def test_spread_of_a_number_is_over_the_quantiles_of_its_reference():
    reference = np.linspace(0, 1, 1001)
    assert quantile_bins(reference[::7], reference, 5) < 0.01
    assert math.isclose(quantile_bins(np.full(10, 0.5), reference, 5), 0.8) and math.isnan(
        quantile_bins(np.full(3, np.nan), reference, 5)
    )


def test_mean_and_bootstrap_leave_out_what_is_not_there():
    rows = np.array([[1.0, np.nan], [0.0, 1.0]])
    assert nanmean(rows[None]).tolist() == [2 / 3] and np.isnan(nanmean(np.full((1, 2), np.nan))).all()
    interval = bootstrap(rows, nanmean)
    assert math.isclose(interval.value, 2 / 3) and interval.low <= 2 / 3 <= interval.high


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    rows = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap(rows, num_resamples=2000)
    half = 1.96 * rows.std() / 20
    assert math.isclose(interval.value, rows.mean())
    assert math.isclose(interval.low, rows.mean() - half, abs_tol=0.05) and math.isclose(
        interval.high, rows.mean() + half, abs_tol=0.05
    )


def test_a_share_that_is_always_right_is_not_certain():
    """Clopper and Pearson: 12 of 12 leave 73.5 to 100 %, and none of 12 the mirror image."""
    right = share_interval(np.ones((12, 3)))
    assert right.value == right.high == 1.0 and math.isclose(right.low, 0.7354, abs_tol=1e-4)
    wrong = share_interval(np.zeros(12))
    assert wrong.value == wrong.low == 0.0 and math.isclose(wrong.high, 0.2646, abs_tol=1e-4)
    asked_of_few = np.full(12, np.nan)
    asked_of_few[:3] = 1.0
    assert math.isclose(share_interval(asked_of_few).low, 0.025 ** (1 / 3))
    mixed = np.arange(12) % 2
    assert share_interval(mixed) == bootstrap(mixed, nanmean)


def test_bootstrap_of_pooled_f1_keeps_the_point_estimate():
    counts = onset_counts([np.array([0.1]), np.array([0.5, 0.9])], [np.array([0.1]), np.array([0.5])], 0.05)
    interval = bootstrap(counts, f1_of_counts)
    assert math.isclose(interval.value, 0.8) and interval.low <= interval.value <= interval.high


def test_retrieval_accepts_any_key_with_equal_facts():
    keys = torch.eye(3)
    facts = [
        {"shape": "ball", "tempo": "slow"},
        {"shape": "ball", "tempo": "fast"},
        {"shape": "box", "tempo": "slow"},
    ]
    queries = keys[[1, 0, 2]]  # the first two find each other
    assert recall_at_1(queries, keys, facts, facts, ["shape"]) == 1.0
    assert math.isclose(recall_at_1(queries, keys, facts, facts, ["shape", "tempo"]), 1 / 3)
    assert math.isclose(chance_of_recall(facts, facts, ["shape"]), 5 / 9)


def test_frechet_distance_of_gaussians_with_diagonal_covariance():
    """Between N(0, 1) and N(m, s^2) it is m^2 + (1 - s)^2 per dimension."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20000, 3, generator=generator), torch.randn(20000, 3, generator=generator) * 2 + 1
    assert math.isclose(frechet_distance(x, y), 6.0, rel_tol=0.05)
    assert abs(frechet_distance(x, x)) < 1e-9


def test_kernel_distance_is_zero_only_for_equal_distributions():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(1000, 4, generator=generator), torch.randn(1000, 4, generator=generator)
    assert abs(kernel_distance(x, y)) < 0.02 < kernel_distance(x, y + 1)
