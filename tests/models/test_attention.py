"""Attention of the denoisers against torch's own, and the transformer over positions against its formula."""

import pytest
import torch
from torch.nn import functional

from codi.models.denoisers.attention import (
    Attention,
    PromptProjection,
    SpatialTransformer,
    TransformerBlock,
    to_map,
    to_tokens,
)
from tests.models.shared import assert_near, depends_on, drawn, wake

SHAPE = dict(num_heads=2, head_dim=8, context_dim=6, ff_mult=2)


def heads_of(layer, x, context):
    """Queries, keys and values (B, heads, L, d)."""
    split = lambda y: y.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    return split(layer.to_q(x)), split(layer.to_k(context)), split(layer.to_v(context))


@pytest.fixture
def x():
    return drawn(2, 5, 16)


@pytest.fixture
def context():
    return drawn(2, 3, 6, seed=1)


@torch.no_grad()
def test_self_attention_is_torchs_with_the_same_weights(x):
    layer = Attention(16, num_heads=2, head_dim=8)
    theirs = torch.nn.MultiheadAttention(16, 2, bias=True, batch_first=True)
    theirs.in_proj_weight.copy_(torch.cat([layer.to_q.weight, layer.to_k.weight, layer.to_v.weight]))
    theirs.in_proj_bias.zero_()
    theirs.out_proj.load_state_dict(layer.to_out.state_dict())
    assert_near(layer(x), theirs(x, x, x)[0])


@torch.no_grad()
def test_cross_attention_is_softmax_of_scaled_products(x, context):
    layer = Attention(16, num_heads=2, head_dim=4, context_dim=6)
    query, key, value = heads_of(layer, x, context)
    weights = (query @ key.mT / 4**0.5).softmax(-1)
    assert_near(layer(x, context), layer.to_out((weights @ value).transpose(1, 2).flatten(2)))


@torch.no_grad()
def test_a_mask_is_added_to_the_logits_or_shuts_tokens_out(x, context):
    layer = Attention(16, num_heads=2, head_dim=8, context_dim=6)
    bias = drawn(2, 2, 5, 3, seed=2)
    mixed = functional.scaled_dot_product_attention(*heads_of(layer, x, context), attn_mask=bias)
    assert_near(layer(x, context, bias), layer.to_out(mixed.transpose(1, 2).flatten(2)))
    shut = torch.tensor([True, True, False]).expand(2, 1, 5, 3)
    assert_near(layer(x, context, shut), layer(x, context[:, :2]))
    own = torch.eye(5, dtype=torch.bool).expand(2, 1, 5, 5)
    alone = Attention(16, num_heads=2, head_dim=8)
    assert_near(alone(x, mask=own), alone.to_out(alone.to_v(x)))


@torch.no_grad()
def test_prompt_tokens_have_no_order_and_positions_keep_theirs(x, context):
    layer = Attention(16, num_heads=2, head_dim=8, context_dim=6)
    order = torch.tensor([4, 0, 3, 1, 2])
    assert_near(layer(x, context.flip(1)), layer(x, context))
    assert_near(layer(x[:, order], context), layer(x, context)[:, order])


def test_attention_without_a_bias_has_none_and_says_what_it_is():
    crossing = Attention(16, num_heads=2, head_dim=8, context_dim=6, out_bias=False)
    own = Attention(16, num_heads=2, head_dim=8)
    assert crossing.to_out.bias is None and own.to_out.bias is not None
    assert crossing.is_cross_attention and not own.is_cross_attention


def test_a_projection_takes_one_token_whatever_the_query_is(x, context):
    layer = PromptProjection(16, 6)
    one = context[:, :1]
    assert torch.equal(layer(x, one), layer.to_out(one)) and torch.equal(layer(-x, one), layer(x, one))
    with pytest.raises(AssertionError, match="prompt='projection' takes one context token, got 3"):
        layer(x, context)


@torch.no_grad()
def test_a_block_is_its_three_residual_branches(x, context):
    block = TransformerBlock(16, prompt="attention", **SHAPE)
    y = x + block.attn1(block.norm1(x))
    y = y + block.attn2(block.norm2(y), context)
    value, gate = block.ff.net[0].proj(block.norm3(y)).chunk(2, dim=-1)
    assert_near(block(x, context), y + block.ff.net[2](value * functional.gelu(gate)))


@pytest.mark.parametrize("prompt", ["attention", "projection"])
@torch.no_grad()
def test_what_one_token_adds_is_known_beforehand(prompt, x, context):
    block, one = TransformerBlock(16, prompt=prompt, **SHAPE), context[:, :1]
    constant = block.constant(one)
    assert constant.shape == (2, 1, 16)
    assert_near(block(x, one, constant=constant), block(x, one))
    assert not torch.allclose(block(x, one, constant=constant + 1), block(x, one), atol=1e-3)
    if prompt == "attention":
        assert block.constant(context) is None


@torch.no_grad()
def test_frames_share_their_prompt_and_attend_to_their_own_positions_alone(context):
    block, clip = TransformerBlock(16, prompt="attention", **SHAPE), drawn(2 * 3, 5, 16)
    each = torch.cat([block(clip[i : i + 1], context[i // 3 : i // 3 + 1]) for i in range(6)])
    assert_near(block(clip, context, frames=3), each)


@torch.no_grad()
def test_a_transformer_over_space_is_its_formula_and_starts_as_nothing(context):
    layer, h = SpatialTransformer(8, num_groups=4, **SHAPE), drawn(2, 8, 3, 4)
    assert torch.equal(layer(h, context), h)
    wake(layer)
    normalised = functional.group_norm(h, 4, layer.norm.weight, layer.norm.bias, eps=1e-6)
    tokens = layer.proj_in(normalised.flatten(2).mT)
    tokens = layer.proj_out(layer.block(tokens, context))
    assert_near(layer(h, context), h + tokens.mT.unflatten(2, (3, 4)))


def test_every_position_depends_on_all_positions_and_tokens_of_its_sample(context):
    layer, h = wake(SpatialTransformer(8, num_groups=4, **SHAPE)), drawn(2, 8, 2, 3)
    first = lambda h: layer(h, context)[:1, :, :1, :1]
    assert depends_on(first, h, axis=0) == [0]
    assert depends_on(lambda flat: first(flat.unflatten(2, (2, 3))), h.flatten(2), axis=2) == list(range(6))
    assert depends_on(lambda context: layer(h, context)[:1], context, axis=0) == [0]
    assert depends_on(lambda context: layer(h, context)[:1], context, axis=1) == [0, 1, 2]


@torch.no_grad()
def test_several_prompts_for_one_map_are_as_if_it_were_repeated():
    layer, h, contexts = wake(SpatialTransformer(8, num_groups=4, **SHAPE)), drawn(1, 8, 2, 3), drawn(3, 2, 6)
    assert_near(layer(h, contexts), layer(h.repeat(3, 1, 1, 1), contexts))
    with pytest.raises(AssertionError, match="2 samples for 3 contexts: expected a multiple"):
        layer(h.repeat(2, 1, 1, 1), contexts)


def test_maps_and_tokens_are_turned_into_each_other():
    h = drawn(2, 8, 3, 4)
    assert to_tokens(h)[1, 2 * 4 + 3].equal(h[1, :, 2, 3])
    assert torch.equal(to_map(to_tokens(h), h), h)
