"""Boxes, masks and intervals as weights on cells: closed-form answers, and what is refused."""

import pytest
import torch

from codi.conditions.areas import Area, Cells, edges_around, even_edges
from codi.types import InputError, ModalitySpec

PICTURE = ModalitySpec(raw_shape=(3, 64, 64), latent_shape=(8, 16, 16))
CLIP = ModalitySpec(raw_shape=(16, 3, 64, 64), latent_shape=(8, 16, 8, 8), rate=8, latent_rate=8)
SOUND = ModalitySpec(raw_shape=(32000,), latent_shape=(8, 50, 4), rate=16000, latent_rate=25)


def test_a_box_covers_whole_cells_and_parts_of_cells():
    """A cell's weight is the part of it that is covered, so that weights sum to the area."""
    cells = Cells(size=(2, 4))
    weights = Area.read("it", box=(0, 0, 0.375, 0.5)).weights(cells)
    assert weights.shape == (1, 2, 4)
    torch.testing.assert_close(weights[0], torch.tensor([[1.0, 0.5, 0, 0], [0, 0, 0, 0]]))
    odd = Area.read("it", box=(0.13, 0.2, 0.61, 0.77)).weights(Cells.of_latent(PICTURE, spatial=True))
    assert float(odd.mean()) == pytest.approx(0.48 * 0.57, abs=1e-5)


def test_an_interval_has_the_same_seconds_on_every_latent_and_medium():
    """One interval is so many frames of a clip, columns of a sound, and samples."""
    area = Area.read("it", interval=[0.5, 1.25], box=(0, 0, 1, 1))
    clip = Cells.of_latent(CLIP, spatial=True)
    sound = Cells.of_latent(SOUND, spatial=False)
    samples = Cells.of_medium(SOUND, spatial=False)
    assert area.weights(clip)[:, 0, 0].nonzero().flatten().tolist() == list(range(4, 10))
    assert float(area.weights(sound).sum()) == pytest.approx(0.75 * 25, abs=1e-4)
    assert float(area.weights(samples).sum()) == pytest.approx(0.75 * 16000, abs=0.5)
    assert clip.over_latent(area.weights(clip)).shape == (1, 16, 8, 8)
    assert sound.over_latent(area.weights(sound)).shape == (1, 50, 1)


def test_a_picture_has_no_interval_and_a_sound_no_box():
    """What a modality lacks is left out, and an area of nothing else bounds it not at all."""
    picture = Cells.of_latent(PICTURE, spatial=True)
    sound = Cells.of_latent(SOUND, spatial=False)
    when = Area.read("it", interval=(0, 1))
    where = Area.read("it", box=(0, 0, 0.5, 1))
    assert not when.bounds(picture) and when.bounds(sound)
    assert not where.bounds(sound) and where.bounds(picture)
    assert bool((when.weights(picture) == 1).all()) and bool((where.weights(sound) == 1).all())


@pytest.mark.parametrize("soft", [0.05, 0.25, 0.5])
def test_two_halves_with_soft_edges_add_up_to_the_whole(soft):
    """The edge is the middle of a ramp, which is as wide as it was given, and not soft at the border."""
    cells = Cells(edges=even_edges(40, 20), size=(20, 20), aspect=1.0)
    left = Area.read("it", box=(0, 0, 0.5, 1), feather=soft).weights(cells)
    right = Area.read("it", box=(0.5, 0, 1, 1), feather=soft).weights(cells)
    torch.testing.assert_close(left + right, torch.ones(40, 20, 20))
    assert float(left[0, 0, 0]) == 1
    first = Area.read("it", interval=(0, 1), fade=soft).weights(cells)
    last = Area.read("it", interval=(1, 2), fade=soft).weights(cells)
    torch.testing.assert_close(first + last, torch.ones(40, 20, 20))
    passing = ((first > 0) & (first < 1))[:, 0, 0].sum()
    assert abs(int(passing) / 20 - soft) <= 0.1001


def test_a_mask_is_the_box_that_it_shows():
    """A mask of any resolution gives the weights of the same box, and so do its frames over time."""
    cells = Cells(edges=even_edges(4, 2), size=(8, 8), aspect=1.0)
    mask = torch.zeros(64, 64)
    mask[:32, 16:48] = 1
    box = Area.read("it", box=(0.25, 0, 0.75, 0.5))
    area = Area.read("it", mask=mask)
    torch.testing.assert_close(area.weights(cells), box.weights(cells))
    moving = torch.zeros(2, 16, 16)
    moving[0, :8], moving[1, 8:] = 1, 1
    weights = Area.read("it", mask=moving).weights(cells)
    assert bool((weights[:2, :4] == 1).all()) and bool((weights[2:, 4:] == 1).all())
    assert float(weights.mean()) == 0.5
    soft = Area.read("it", mask=mask, feather=0.25).weights(cells)
    torch.testing.assert_close(
        soft[0, 1],
        Area.read("it", box=(0.25, 0, 0.75, 1), feather=0.25).weights(cells)[0, 1],
        atol=0.03,
        rtol=0,
    )


def test_edges_around_uneven_steps():
    """Mid-points say where steps begin and end, as those of causal video autoencoders."""
    edges = (0.0, 0.1, 0.5, 0.9)
    middles = [(a + b) / 2 for a, b in zip(edges, edges[1:])]
    assert edges_around(middles) == pytest.approx(edges)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"box": (0, 0, 1.2, 1)}, "from 0 to 1"),
        ({"box": (0.5, 0, 0.5, 1)}, "empty"),
        ({"box": (0.5, 0.9, 0.6, 0.1)}, "empty"),
        ({"box": (0, 0, 1)}, "expected x0, y0, x1, y1"),
        ({"box": "left"}, "expected x0, y0, x1, y1"),
        ({"box": (0, float("nan"), 1, 1)}, "expected x0, y0, x1, y1"),
        ({"interval": (1, 1)}, "empty"),
        ({"interval": (-1, 1)}, "begins and ends"),
        ({"interval": 1}, "begins and ends"),
        ({"interval": (True, 2)}, "begins and ends"),
        ({"feather": 2, "box": (0, 0, 1, 1)}, "from 0 to 1"),
        ({"fade": -1, "interval": (0, 1)}, "at least 0"),
        ({"mask": torch.zeros(4, 4)}, "0 everywhere"),
        ({"mask": torch.full((4, 4), 2.0)}, "range 0 to 1"),
        ({"mask": torch.ones(4)}, "height x width"),
    ],
)
def test_what_is_no_area_is_one_line(given, message):
    """Each mistake is one line that says what came and what was expected."""
    with pytest.raises(InputError, match=message) as error:
        Area.read("the region 'a red ball'", **given)
    assert "\n" not in str(error.value) and "the region 'a red ball'" in str(error.value)


def test_what_does_not_fit_an_output_is_one_line():
    """An interval beyond the end and a mask of another form are refused where the output is known."""
    with pytest.raises(InputError, match="beyond the end: expected seconds within 2"):
        Area.read("it", interval=(1, 2.5)).check("it", Cells.of_latent(CLIP, spatial=True))
    with pytest.raises(InputError, match="mask of it is 32 x 64"):
        Area.read("it", mask=torch.ones(32, 64)).check("it", Cells.of_latent(PICTURE, spatial=True))
    Area.read("it", mask=torch.ones(32, 32), interval=(1, 2)).check("it", Cells.of_latent(CLIP, spatial=True))
