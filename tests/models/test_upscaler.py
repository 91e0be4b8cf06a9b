"""The upscaler: its target is what it says, tiles and frames are made as one, and what comes out stays near
what went in.
"""

import pytest
import torch

from codi.models.upscaler import ImageUpscaler
from tests.tiny_pipeline import upscaler


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=noise(7)) * 2 - 1


def decibels(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return -10 * torch.log10((one - other).square().mean(dim=(1, 2, 3)) / 4)


@pytest.fixture(scope="module")
def part() -> ImageUpscaler:
    return upscaler()


def test_details_and_with_details_undo_each_other(part):
    large, given, level = picture(2, 3, 16, 24), picture(2, 3, 4, 6), torch.tensor([0.0, 0.25])
    x_0 = part.details(large, given, level)
    assert x_0.shape == (2, 48, 4, 6)
    torch.testing.assert_close(part.with_details(x_0, given, level), large, atol=1e-5, rtol=0)


def test_a_small_pixel_lies_under_its_block(part):
    large = torch.zeros(1, 3, 16, 16)
    large[..., 4:8, 8:12] = 1.0
    expected = torch.zeros(1, 3, 4, 4)
    expected[..., 1, 2] = 1.0
    assert torch.equal(part.downsampled(large), expected)


def test_scale_is_the_deviation_of_details_on_noise(part):
    """Nothing lies above the interpolation of a plain ground but the noise, as c(s) expects."""
    level = torch.tensor([0.3])
    given = 0.3 * torch.randn(1, 3, 64, 64, generator=noise())
    x_0 = part.details(torch.zeros(1, 3, 256, 256), given, level)
    assert x_0.std() == pytest.approx(0.2 / (0.1**2 + 0.2**2) ** 0.5, rel=0.05)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (12, 20)])
def test_any_size_comes_out_larger_and_near_what_went_in(part, size):
    small = picture(2, 3, *size)
    large = part.upscale(small, noise(), 0.1, 2)
    assert large.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert large.abs().max() <= 1
    assert (decibels(part.downsampled(large), small) > 35).all()
    assert not torch.allclose(large, part.interpolated(small), atol=0.05)


def test_what_is_near_enough_is_left_as_it_is(part):
    large = picture(1, 3, 16, 16) / 2
    near = part.downsampled(large) + 0.01
    assert torch.equal(part.consistent(large, near), large)
    far = part.downsampled(large) + 0.2
    moved = part.consistent(large, far)
    assert decibels(part.downsampled(moved), far) == pytest.approx(part.config.fidelity, abs=0.1)


def test_the_noise_level_is_told(part):
    x, given, t = picture(1, 48, 4, 4), picture(1, 3, 4, 4), torch.tensor([500])
    one, other = (part(x, t, given, torch.tensor([s])) for s in (0.0, 0.3))
    assert not torch.allclose(one, other, atol=1e-4)


def test_equal_frames_come_out_equal_and_alone_as_among_others(part):
    still = picture(1, 3, 8, 8)
    clip = torch.cat([still, -still, still])
    made = part.upscale(clip, noise(), 0.1, 2)
    assert torch.equal(made[0], made[2])
    torch.testing.assert_close(part.upscale(still, noise(), 0.1, 2), made[:1], atol=1e-4, rtol=0)


def test_tiles_cover_a_side_and_agree(part):
    part.register_to_config(tile_size=8, tile_overlap=4)
    try:
        assert [(s.start, s.stop) for s in part._tiles(18)] == [(0, 8), (4, 12), (8, 16), (10, 18)]
        assert [(s.start, s.stop) for s in part._tiles(6)] == [(0, 8)]
        x, given = picture(1, 48, 12, 18), picture(1, 3, 12, 18)
        t, level = torch.tensor([999]), torch.tensor([0.1])
        v = part._predicted(x, t, given, level)
        # a corner lies in the first tile alone
        torch.testing.assert_close(
            v[..., :4, :4], part(x[..., :8, :8], t, given[..., :8, :8], level)[..., :4, :4]
        )
        assert part.upscale(picture(1, 3, 6, 21), noise(), 0.1, 1).shape == (1, 3, 24, 84)
    finally:
        part.register_to_config(tile_size=128, tile_overlap=16)
