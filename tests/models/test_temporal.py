"""Temporal modules: their parts against formulas written out, and which frames influence which."""

import math

import pytest
import torch
from torch.nn import functional

from codi.models.denoisers.temporal import (
    RELEASED,
    EvenLinear,
    FrameNorm,
    FrameShift,
    InnerNorm,
    InnerNormFeedForward,
    RelativeBias,
    TemporalAttention,
    TemporalModule,
    delay,
    grid_waves,
    waves,
)
from tests.models.shared import assert_near, depends_on, drawn, wake

PLAIN = dict(
    num_heads=2,
    inner=16,
    span="pixel",
    norm="channels",
    positions=False,
    relative_bias=False,
    rate_embedding=False,
    max_frames=6,
    out_bias=True,
)
FRAMES, PLACES, CHANNELS = 4, 6, 16


@pytest.fixture
def x():
    return drawn(2, FRAMES, PLACES, CHANNELS)


def attention(**changed):
    torch.manual_seed(0)
    return wake(TemporalAttention(CHANNELS, **PLAIN | changed))


def attended(layer, rows, bias=None):
    """Attention of rows (N, L, C) by torch's function."""
    heads = lambda y: y.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    key, value = layer.to_kv(rows).chunk(2, dim=-1)
    mixed = functional.scaled_dot_product_attention(
        heads(layer.to_q(rows)), heads(key), heads(value), attn_mask=bias
    )
    return layer.to_out(mixed.transpose(1, 2).flatten(2))


@torch.no_grad()
def test_by_pixel_a_position_is_one_sequence_and_otherwise_the_clip_is(x):
    layer = attention()
    by_pixel = attended(layer, layer.norm(x).transpose(1, 2).flatten(0, 1))
    assert_near(layer(x), by_pixel.unflatten(0, (2, PLACES)).transpose(1, 2))
    layer = attention(span="all")
    assert_near(layer(x), attended(layer, layer.norm(x).flatten(1, 2)).view(x.shape))


@pytest.mark.parametrize("span", ["pixel", "all"])
@torch.no_grad()
def test_a_bias_by_distance_in_frames_is_added_to_the_logits(span, x):
    layer = attention(span=span, relative_bias=True)
    bias = layer.bias(FRAMES)
    assert bias.shape == (1, 2, FRAMES, FRAMES) and attention().bias(FRAMES) is None
    if span == "pixel":
        mixed = attended(layer, layer.norm(x).transpose(1, 2).flatten(0, 1), bias)
        mixed = mixed.unflatten(0, (2, PLACES)).transpose(1, 2)
    else:
        of_places = bias[..., :, None, :, None].expand(-1, -1, -1, PLACES, -1, PLACES)
        mixed = attended(layer, layer.norm(x).flatten(1, 2), of_places.flatten(2, 3).flatten(3, 4))
        mixed = mixed.view(x.shape)
    assert_near(layer(x), mixed)
    assert torch.equal(layer(x, bias=bias), layer(x))


@torch.no_grad()
def test_a_bias_depends_on_the_distance_and_its_sign_alone():
    bias = RelativeBias(2, 8)
    short, long = bias(4), bias(7)
    for distance in range(-3, 4):
        diagonal = short.diagonal(distance, dim1=1, dim2=2)
        assert_near(diagonal, diagonal[:, :1].expand_as(diagonal))
        assert_near(diagonal[:, 0], long.diagonal(distance, dim1=1, dim2=2)[:, 0])
    # row i, column j is the distance i - j, as a signed logarithm
    assert_near(short[:, 3, 1], bias.net(torch.tensor([math.log(3)])))
    assert_near(short[:, 1, 3], bias.net(torch.tensor([-math.log(3)])))


@torch.no_grad()
def test_without_positions_frames_have_no_order_and_with_them_they_have(x):
    order = torch.tensor([2, 0, 3, 1])
    layer = attention()
    assert_near(layer(x[:, order]), layer(x)[:, order])
    layer = attention(positions=True)
    assert not torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-3)


@torch.no_grad()
def test_positions_over_space_are_added_where_all_places_attend(x):
    for norm in ("channels", "frames"):
        layer = attention(positions=True, span="all", norm=norm)
        position = layer.position[:FRAMES, None] + grid_waves((2, 3), CHANNELS)
        rows = layer.norm(x) + position if norm == "channels" else layer.norm(x + position)
        assert_near(layer(x, (2, 3)), attended(layer, rows.flatten(1, 2)).view(x.shape))
    for layer in (attention(positions=True), attention(span="all")):
        assert torch.equal(layer(x, (2, 3)), layer(x))


def test_positions_start_as_waves_or_near_zero():
    assert torch.equal(attention(positions=True).position.data, waves(6, CHANNELS))
    small = attention(positions=True, norm="frames").position
    assert 0.01 < small.std() < 0.03


@torch.no_grad()
def test_a_frame_rate_acts_on_what_is_normalised_over_channels_alone(x):
    for norm, acts in (("channels", True), ("frames", False)):
        layer = attention(positions=True, rate_embedding=True, norm=norm)
        before = layer(x)
        layer.rate_embedding[3] += 1.0
        assert torch.allclose(layer(x), before, atol=1e-4) != acts
        layer.rate_embedding[[0, 1, 2, 4, 5]] += 1.0  # of other rates, which are never asked for
        assert torch.allclose(layer(x), before, atol=1e-4) != acts


@pytest.mark.parametrize("wrong", [dict(span="rows"), dict(norm="batch")])
def test_unknown_spans_and_norms_are_refused(wrong):
    with pytest.raises(AssertionError, match="|".join(wrong.values())):
        attention(**wrong)


@torch.no_grad()
def test_frame_norm_is_over_frames_with_a_clamped_variance():
    norm, x = FrameNorm(3), drawn(2, 5, 4, 3) + 7
    norm.gain.copy_(torch.tensor([1.0, 2.0, -1.0]))
    y = norm(x) / norm.gain
    assert_near(y.mean(1), torch.zeros(2, 4, 3))
    assert_near(y.var(1, correction=0), torch.ones(2, 4, 3))
    still = torch.full((1, 5, 1, 3), 2.5)
    assert torch.equal(norm(still), torch.zeros_like(still))
    faint = still + 1e-4 * drawn(1, 5, 1, 3)  # of a variance far below the floor of 1e-5
    assert_near(norm(faint), (faint - faint.mean(1, keepdim=True)) * 1e-5**-0.5 * norm.gain)


def test_inner_norm_is_torchs_layer_norm_where_there_is_variance():
    norm, x = InnerNorm(12), 3 * drawn(2, 5, 12) + 1
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            values, factor = norm(x)
        assert factor.shape == (2, 5, 1)
        assert_near(values * factor, functional.layer_norm(x, (12,)))


@pytest.mark.parametrize("outputs", [64, 50, 7])
@torch.no_grad()
def test_outputs_that_are_computed_besides_are_left_out(outputs):
    layer, x = EvenLinear(8, outputs, bias=False), drawn(3, 8)
    assert layer(x).shape == (3, outputs)
    assert_near(layer(x), x @ layer.weight.T)
    with torch.enable_grad():
        assert layer(x).requires_grad


def test_half_of_the_inner_channels_come_one_frame_late():
    x = drawn(1, FRAMES, 2, 12)
    for shift, seen in ((True, [1, 2]), (False, [2])):
        layer = wake(InnerNormFeedForward(12, shift))
        assert depends_on(lambda x, layer=layer: layer(x)[:, 2], x, axis=1) == seen
        assert depends_on(lambda x, layer=layer: layer(x)[:, 0], x, axis=1) == [0]
    assert (
        layer.proj_in.out_features == 2 * 32
    )  # two thirds of four times the width, and as much for the gate


def test_the_frame_shift_reaches_seven_frames_back_and_none_ahead():
    layer, h = wake(FrameShift(16, 4)), drawn(10, 16, 2, 2)
    assert depends_on(lambda h: layer(h, 10)[8:9], h, axis=0) == list(range(1, 9))
    assert depends_on(lambda h: layer(h, 10)[:1], h, axis=0) == [0]
    untrained = FrameShift(16, 4)
    assert torch.equal(untrained(h, 10), h)


@pytest.mark.parametrize(
    "options", [{}, dict(span="all"), dict(feed_forward="inner_norm"), RELEASED], ids=str
)
@torch.no_grad()
def test_an_untrained_module_passes_maps_through(options):
    module, h = TemporalModule(32, num_groups=8, **options), drawn(2 * 3, 32, 2, 2)
    assert torch.equal(module(h, 3), h)
    wake(module)
    assert not torch.allclose(module(h, 3), h, atol=1e-3)
    assert_near(module(h[:3], 3), module(h, 3)[:3])


@pytest.mark.parametrize(("span", "seen"), [("pixel", [3]), ("all", list(range(4)))])
def test_what_a_position_sees_of_other_frames(span, seen):
    module, h = wake(TemporalModule(16, num_heads=2, span=span)), drawn(3, 16, 2, 2)
    corner = lambda flat: module(flat.unflatten(2, (2, 2)), 3)[:1, :, 1:, 1:]
    assert (
        depends_on(lambda flat: corner(torch.cat([h[:1].flatten(2), flat])), h[1:].flatten(2), axis=2) == seen
    )
    assert depends_on(lambda h: module(h, 3)[:1], h, axis=0) == [0, 1, 2]


def test_sizes_of_a_module_follow_from_its_options():
    heads = lambda **options: TemporalModule(64, **options).attention.num_heads
    assert (heads(), heads(head_dim=16), heads(num_heads=8), heads(inner_ratio=2)) == (2, 4, 8, 4)
    module = TemporalModule(64, inner_ratio=2, ff_mult=3, out_bias=False)
    assert module.attention.to_q.out_features == 128 and module.attention.to_kv.out_features == 256
    assert module.feed_forward.ff.net[2].in_features == 192 and module.attention.to_out.bias is None


def test_waves_are_sines_and_cosines_of_frequencies_from_one_to_a_thirtysecond():
    table = waves(5, 8)
    frequencies = [32.0 ** -(i / 4) for i in range(4)]
    for place in range(5):
        angles = [place * f for f in frequencies]
        expected = [*map(math.sin, angles), *map(math.cos, angles)]
        assert table[place].tolist() == pytest.approx(expected, abs=1e-6)
    assert waves(5, 7).shape == (5, 7) and torch.equal(waves(5, 7), waves(5, 8)[:, :7])


def test_waves_of_a_grid_say_row_and_column():
    table = grid_waves((2, 3), 8).view(2, 3, 8)
    assert torch.equal(table[1, :, :4], waves(2, 4)[1].expand(3, 4))
    assert torch.equal(table[:, 2, 4:], waves(3, 4)[2].expand(2, 4))


def test_a_delay_is_undone_by_looking_later():
    x = drawn(2, 5, 3)
    for steps in (1, 3):
        late = delay(x, steps)
        assert torch.equal(late[:, steps:], x[:, :-steps]) and not late[:, :steps].any()
