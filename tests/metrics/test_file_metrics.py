"""Measures on files, with answers that are known: optical flow of a known shift, AV-Align of known lists,
distances of known distributions, ranks of known neighbours.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from codi.metrics.av_align import av_align, flow_peaks
from codi.metrics.flow import flow_magnitudes, optical_flow
from codi.metrics.frechet import frechet_distance, kernel_distance, kernel_distance_of_subsets
from codi.metrics.retrieval import chance_of_hit, ranks_of_relevant


def texture(seed=0, side=96):
    torch.manual_seed(seed)
    coarse = torch.rand(1, 1, side // 4, side // 4)
    return F.interpolate(coarse, (side, side), mode="bicubic")[0, 0].clamp(0, 1) * 255


@pytest.mark.parametrize("right, down", [(3, 2), (-4, 0), (0, -1), (0, 0)])
def test_the_flow_of_a_shifted_picture_is_the_shift(right, down):
    whole = texture()
    first = whole[8:-8, 8:-8]
    second = whole[8 - down : 88 - down, 8 - right : 88 - right]
    flow = optical_flow(first[None], second[None])[0, :, 16:-16, 16:-16]
    assert torch.allclose(flow.mean((1, 2)), torch.tensor([right, down]).float(), atol=0.05)
    assert flow.std(dim=(1, 2)).max() < 0.1


def test_a_flat_picture_does_not_move():
    assert optical_flow(torch.full((1, 40, 40), 100.0), torch.full((1, 40, 40), 100.0)).abs().max() < 1e-20


def test_flow_grows_with_the_speed_and_frames_are_pairs_in_order():
    whole = texture(side=112)
    places = [0, 1, 2, 6, 7]  # one jump of four pixels
    frames = torch.stack([whole[16:96, 16 - x : 96 - x] for x in places])
    found = flow_magnitudes(frames[:, None].expand(-1, 3, -1, -1).round().to(torch.uint8))
    assert found.argmax() == 2 and found.shape == (4,)
    assert found[2] > 2.5 * found[[0, 1, 3]].max()
    assert flow_magnitudes(frames[:1, None].expand(-1, 3, -1, -1).byte()).shape == (0,)


def test_peaks_of_the_flow_are_where_it_is_larger_than_before_and_after():
    # Flow into frames 1 to 7; that into frame 1 stands for frame 0 as well, and so is no peak.
    assert flow_peaks(np.array([5, 1, 2, 1, 4, 4, 1]), fps=4).tolist() == [0.75]
    assert flow_peaks(np.array([1e-30, 2e-30, 1e-30]), fps=4).size == 0  # rounding is no motion
    assert flow_peaks(np.array([1.0]), fps=4).size == flow_peaks(np.zeros(0), fps=4).size == 0


@pytest.mark.parametrize(
    "sound, picture, expected",
    [
        ([0.5, 1.0], [0.5, 1.0], 1.0),
        ([0.5, 1.0], [0.6, 1.5], 1 / 3),  # one met: 1 / (2 + 2 - 1)
        ([0.5], [0.625], 0.0),  # a whole frame apart is too far
        ([0.5], [], 0.0),
        ([0.50, 0.52], [0.5], 2.0),  # both meet the one peak: 2 / (2 + 1 - 2), as published
    ],
)
def test_av_align_of_known_lists(sound, picture, expected):
    assert av_align(np.array(sound), np.array(picture), fps=8) == pytest.approx(expected)


def test_av_align_says_nothing_of_two_empty_lists():
    assert math.isnan(av_align(np.zeros(0), np.zeros(0), fps=8))


def gaussian(count, shift, scale=1.0, width=4, seed=0):
    return (
        torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
        + shift
    )


def test_equal_sets_are_at_distance_zero():
    x = gaussian(200, 0.0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert kernel_distance_of_subsets(x, x, 20, 50)[0] < 0.02


def test_shifted_gaussians_are_at_the_closed_form_of_their_distance():
    x, y = gaussian(20000, 0.0), gaussian(20000, 0.5, scale=2.0, seed=1)
    # |shift|^2 + D (2 - 1)^2
    assert frechet_distance(x, y) == pytest.approx(4 * 0.25 + 4 * 1.0, rel=0.03)


def test_the_kernel_distance_of_shifted_points_is_its_closed_form():
    # One value each: k(a, a) + k(b, b) - 2 k(a, b) with k(a, b) = (a b + 1)^3
    a, b = torch.full((5, 1), 1.0), torch.full((7, 1), 2.0)
    expected = 2.0**3 + 5.0**3 - 2 * 3.0**3
    assert kernel_distance(a, b) == pytest.approx(expected)
    assert kernel_distance_of_subsets(a, b, 10, 3) == pytest.approx((expected, 0.0))


def test_subsets_of_the_kernel_distance_agree_with_the_whole_and_with_their_seed():
    x, y = gaussian(400, 0.0), gaussian(400, 0.4, seed=1)
    mean, deviation = kernel_distance_of_subsets(x, y, 50, 100)
    assert abs(mean - kernel_distance(x, y)) < 3 * deviation / math.sqrt(50) + 0.02
    assert deviation > 0
    assert kernel_distance_of_subsets(x, y, 50, 100) == (mean, deviation)
    assert kernel_distance_of_subsets(x, y, 50, 100, seed=1) != (mean, deviation)


def test_ranks_are_of_the_nearest_relevant_key():
    keys = torch.eye(4)
    queries = torch.tensor([[1, 0.5, 0.2, 0.1], [0.1, 0.2, 0.5, 1]])
    relevant = torch.tensor([[False, True, False, True], [True, True, False, False]])
    assert ranks_of_relevant(queries, keys, relevant).tolist() == [2, 3]


def test_features_that_are_all_alike_find_nothing():
    same = torch.ones(5, 3)
    assert ranks_of_relevant(same, same, torch.eye(5, dtype=torch.bool)).tolist() == [5] * 5


def test_chance_is_that_of_draws_without_replacement():
    relevant = torch.tensor([[True, False, False, False], [True, True, False, False]])
    assert chance_of_hit(relevant, 1) == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert chance_of_hit(relevant, 2) == pytest.approx((1 - 3 / 4 * 2 / 3 + 1 - 2 / 4 * 1 / 3) / 2)
    assert chance_of_hit(relevant, 4) == 1.0
