"""Parts of a denoiser: the residual block against diffusers' own, resampling, and the times of a map."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional

from codi.joint.attention import JointAttention
from codi.layers import root_mean_square
from codi.models.denoisers.attention import SpatialTransformer, to_map, to_tokens
from codi.models.denoisers.blocks import Block, Downsample, LayerCache, ResidualBlock, Signals, Upsample
from codi.models.denoisers.frames import FrameTransformer, KernelLayer, PromptedKernels
from codi.models.denoisers.norm import GroupNorm, for_conv
from codi.models.denoisers.temporal import TemporalModule
from codi.models.denoisers.text import DenseBlock, Remap
from codi.protocols import Environment
from tests.models.shared import assert_near, depends_on, drawn, wake

EMB = 8


def signals(batch=2, **more):
    """Signals with an embedding, and a context of one token."""
    return Signals(emb=drawn(batch, EMB, seed=1), context=drawn(batch, 1, 6, seed=2), **more)


def environment(batch=2, tokens=3):
    return Environment(
        tokens=drawn(batch, tokens, 4, seed=3), times=torch.linspace(0.1, 0.9, tokens).expand(batch, -1)
    )


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("outputs", [16, 8])
@torch.no_grad()
def test_a_residual_block_is_diffusers_with_the_same_weights(scale_shift, outputs):
    torch.manual_seed(0)
    ours = ResidualBlock(8, outputs, EMB, num_groups=4, scale_shift=scale_shift)
    theirs = ResnetBlock2D(
        in_channels=8,
        out_channels=outputs,
        temb_channels=EMB,
        groups=4,
        eps=1e-5,
        time_embedding_norm="scale_shift" if scale_shift else "default",
    )
    h, given = drawn(2, 8, 5, 3), signals()
    shortcut = h if outputs == 8 else ours.conv_shortcut(h)
    assert torch.equal(ours(h, given), shortcut)
    theirs.load_state_dict(wake(ours).state_dict())
    # diffusers applies SiLU to the embedding itself; here it was applied before.
    applied = replace(given, emb=functional.silu(given.emb))
    assert_near(ours(h, applied), theirs(h, given.emb))


@torch.no_grad()
def test_frames_of_a_sample_have_one_timestep():
    block, clip = wake(ResidualBlock(8, 8, EMB, num_groups=4)), drawn(2 * 3, 8, 4, 4)
    given = signals(frames=3)
    of_sample = lambda i: Signals(emb=given.emb[[i // 3]], context=given.context[[i // 3]])
    each = [block(clip[i : i + 1], of_sample(i)) for i in range(6)]
    assert_near(block(clip, given), torch.cat(each))


@pytest.mark.parametrize("extent", [(6, 4), (5, 7), (1, 2)])
def test_resampling_halves_rounding_up_and_comes_back_to_any_extent(extent):
    h, half = drawn(1, 4, *extent), tuple((n + 1) // 2 for n in extent)
    down, up = Downsample(4), Upsample(4, conv=False)
    small = down(h, signals(1))
    assert small.shape[-2:] == half
    assert_near(small, functional.conv2d(h, down.conv.weight, down.conv.bias, stride=2, padding=1))
    back = up(small, extent)
    assert torch.equal(back, functional.interpolate(small, size=extent, mode="nearest"))
    convolved = Upsample(4)
    assert_near(convolved(small, extent), convolved.conv(back))


def test_group_norm_takes_any_number_of_axes():
    norm = wake(GroupNorm(2, 4))
    for shape in ((3, 4), (3, 4, 5), (3, 4, 5, 2)):
        assert_near(norm(drawn(*shape)), nn.GroupNorm.forward(norm, drawn(*shape)))


def test_few_wide_positions_are_convolved_in_the_plain_layout():
    last = lambda *shape: drawn(*shape).contiguous(memory_format=torch.channels_last)
    assert for_conv(last(1, 512, 4, 4)).is_contiguous()
    for kept in (last(1, 64, 4, 4), last(1, 512, 40, 40), last(1, 512, 4, 4).double()):
        assert for_conv(kept) is kept


def test_the_middle_of_each_step_in_seconds():
    # twice downsampled: a sound of 8 columns at 4 per second has 4 columns of half a second
    sound = signals(time_axis=2, length=8, rate=4.0)
    h = drawn(2, 3, 4, 2)
    assert sound.step_times(h).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert sound.times(h).tolist() == [0.25, 0.25, 0.75, 0.75, 1.25, 1.25, 1.75, 1.75]
    clip, h = signals(frames=2, length=2, rate=4.0), drawn(4, 3, 2, 1)
    assert clip.step_times(h).tolist() == [0.125, 0.375]
    assert clip.times(h).tolist() == [0.125, 0.125, 0.375, 0.375]
    for timeless in (signals(), signals(rate=4.0), signals(frames=2, length=2)):
        assert timeless.step_times(h) is None and timeless.times(h) is None


def test_signals_are_repeated_for_frames_and_for_prompts():
    y, cache = torch.tensor([[1.0], [2.0]]), LayerCache(prompt=torch.ones(1))
    clip = signals(frames=3)
    assert clip.samples(drawn(6, 1, 1, 1)) == 2 and clip.samples(drawn(12, 1, 1, 1)) == 4
    assert clip.per_row(y, drawn(12, 1, 1, 1)).flatten().tolist() == [1, 1, 1, 2, 2, 2] * 2
    assert signals().per_row(y, drawn(4, 1, 1, 1)).flatten().tolist() == [1, 2, 1, 2]
    assert signals().for_samples(y, drawn(2, 1, 1, 1)) is y
    assert clip.at(cache).cache is cache and clip.at(cache).frames == 3 and clip.cache is None


def test_only_samples_with_an_environment_are_changed():
    given = signals(4, env=environment(2), frames=2)
    h = drawn(4, 1, 2, 2)  # two samples of two frames, and four contexts
    changed = given.for_attending(lambda attending: attending + 1, h)
    assert torch.equal(changed, torch.cat([h + 1, h]))


def test_a_cache_holds_what_does_not_depend_on_the_latent():
    attention = SpatialTransformer(8, num_heads=2, head_dim=4, context_dim=6, num_groups=4)
    temporal = TemporalModule(8, num_heads=2, relative_bias=True, num_groups=4)
    block = Block(nn.Identity(), attention=attention, temporal=temporal)
    one, several = drawn(2, 1, 6), drawn(2, 3, 6)
    cache = LayerCache.of(block, one, 4)
    assert torch.equal(cache.prompt, attention.block.constant(one))
    assert torch.equal(cache.bias, temporal.attention.bias(4))
    assert LayerCache.of(block, several, None) == LayerCache() == LayerCache.of(Downsample(8), one, 4)
    assert LayerCache.of(block, None, None) == LayerCache()


@torch.no_grad()
def test_a_block_runs_its_layers_in_order():
    torch.manual_seed(0)
    parts = dict(
        temporal=TemporalModule(8, num_heads=2, num_groups=4),
        attention=SpatialTransformer(8, num_heads=2, head_dim=4, context_dim=6, num_groups=4),
        joint=JointAttention(8, 4, 2),
        frame_mixer=FrameTransformer(8, EMB, grid=(2, 2), dim=8, num_layers=1, num_heads=2),
        upsample=Upsample(8),
    )
    block = wake(Block(ResidualBlock(8, 8, EMB, num_groups=4), **parts))
    given = signals(frames=2, length=2, rate=4.0, env=environment())
    h = drawn(4, 8, 2, 2)
    y = block.resnet(h, given)
    y = parts["temporal"](y, 2)
    y = parts["attention"](y, given.context, 2)
    tokens = to_tokens(y).view(2, 8, 8)
    y = to_map(parts["joint"](tokens, given.env, given.times(y)).view(4, 4, 8), y)
    y = parts["frame_mixer"](y, given.emb, 2, given.env, given.step_times(h))
    assert_near(block(h, given, (4, 4)), parts["upsample"](y, (4, 4)))


@torch.no_grad()
def test_a_pooled_environment_is_attended_to_after_upsampling():
    torch.manual_seed(0)
    pooled = SpatialTransformer(8, num_heads=2, head_dim=4, context_dim=4, num_groups=4)
    block = wake(Block(ResidualBlock(8, 8, EMB, num_groups=4), joint=pooled, upsample=Upsample(8)))
    given, h = signals(env=environment(tokens=1)), drawn(2, 8, 2, 2)
    y = block.upsample(block.resnet(h, given), (4, 3))
    assert_near(block(h, given, (4, 3)), pooled(y, given.env.tokens))
    assert_near(block(h, signals(), (4, 3)), y)


@torch.no_grad()
def test_what_is_for_clips_leaves_pictures_alone():
    temporal = wake(TemporalModule(8, num_heads=2, num_groups=4))
    mixer = wake(FrameTransformer(8, EMB, grid=(2, 2), dim=8, num_layers=1, num_heads=2))
    block = Block(ResidualBlock(8, 8, EMB, num_groups=4), temporal=temporal, frame_mixer=mixer)
    h = drawn(2, 8, 2, 2)
    assert torch.equal(block(h, signals()), block.resnet(h, signals()))


@torch.no_grad()
def test_columns_of_a_sound_are_mixed_as_frames_of_one_row():
    mixer = wake(FrameTransformer(8, EMB, grid=(1, 3), dim=8, num_layers=1, num_heads=2))
    block = Block(ResidualBlock(8, 8, EMB, num_groups=4), frame_mixer=mixer)
    h, sound = drawn(2, 8, 4, 3), signals(time_axis=2, length=4, rate=4.0)
    rows = torch.stack([h[i, :, [k]] for i in range(2) for k in range(4)])  # (B T, C, 1, M)
    mixed = mixer(rows, sound.emb, 4).view(2, 4, 8, 3)
    assert_near(block(h, sound), mixed.transpose(1, 2))


@torch.no_grad()
def test_once_for_each_step_the_same_is_added_everywhere_in_it():
    joint = wake(JointAttention(8, 4, 2))
    block = Block(ResidualBlock(8, 8, EMB, num_groups=4), joint=joint)
    h = drawn(2, 8, 4, 3)
    sound = signals(env=environment(), per_frame=True, time_axis=2, length=4, rate=4.0)
    added = block(h, sound) - h
    assert_near(added, added[..., :1].expand_as(added))
    means = joint.attended(h.mean(3).mT, sound.env, sound.step_times(h))
    assert_near(added[..., 0], means.mT * root_mean_square(h)[:, None, None])
    clip, frames = signals(env=environment(), per_frame=True, frames=4, length=4, rate=4.0), drawn(8, 8, 2, 2)
    added = block(frames, clip) - frames
    assert_near(added, added[:, :, :1, :1].expand_as(added))
    means = joint.attended(frames.mean((2, 3)).view(2, 4, 8), clip.env, clip.step_times(frames))
    scale = root_mean_square(frames.view(2, -1))[:, None, None]
    assert_near(added[:, :, 0, 0], (means * scale).flatten(0, 1))


@torch.no_grad()
def test_a_kernel_is_a_sum_over_distances():
    torch.manual_seed(0)
    kernels, emb, tokens = PromptedKernels(8, EMB, 2, reach=2), drawn(2, EMB), drawn(2, 6, 8)
    weights = kernels.kernel(emb).view(2, 2, 5)  # (B, heads, 2 reach + 1)
    value = kernels.value(kernels.norm(tokens)).view(2, 6, 2, 4)
    mixed = torch.zeros(2, 6, 2, 4)
    for i in range(6):
        for j in range(max(0, i - 2), min(6, i + 3)):
            mixed[:, i] += weights[:, :, i - j + 2, None] * value[:, j]
    assert_near(kernels(tokens, emb), kernels.out(mixed.flatten(2)))


def test_a_layer_with_kernels_has_two_residual_branches():
    layer, tokens, emb = KernelLayer(8, EMB, 2, 2, reach=1), drawn(2, 6, 8), drawn(2, EMB)
    y = tokens + layer.mixer(tokens, emb)
    assert_near(layer(tokens, emb), y + layer.feed_forward(y))
    assert depends_on(lambda tokens: layer(tokens, emb)[:, 2], tokens, axis=1) == [1, 2, 3]


@pytest.mark.parametrize("grid", [(2, 2), (4, 4)])
@torch.no_grad()
def test_a_frame_transformer_adds_in_proportion_to_its_stream(grid):
    torch.manual_seed(0)
    mixer = FrameTransformer(4, EMB, grid=grid, dim=8, num_layers=2, num_heads=2, kernel_layers=1, reach=2)
    mixer = mixer.double()
    h, emb = 100 * drawn(2 * 3, 4, 4, 4).double(), drawn(2, EMB).double()
    assert torch.equal(mixer(h, emb, 3), h) and len(mixer.kernels) == len(mixer.layers.layers) == 1
    wake(mixer)
    added = mixer(h, emb, 3) - h
    assert_near(mixer(8 * h, emb, 3) - 8 * h, 8 * added)  # the norm in front sees no scale
    assert_near(mixer(h[3:], emb[1:], 3) - h[3:], added[3:])
    assert not torch.allclose(mixer(h, -emb, 3) - h, added, atol=1e-3)


@torch.no_grad()
def test_frames_are_pooled_to_tokens_and_tokens_spread_over_frames():
    torch.manual_seed(0)
    mixer = wake(FrameTransformer(4, EMB, grid=(2, 2), dim=8, num_layers=1, num_heads=2, kernel_layers=1))
    h, emb = drawn(3, 4, 4, 4), drawn(1, EMB)
    pooled = functional.avg_pool2d(h, 2).flatten(1)
    tokens = mixer.proj_in(mixer.norm(pooled)) + mixer.position[:3] + mixer.emb_proj(emb)
    tokens = mixer.proj_out(mixer.last_norm(mixer.kernels[0](tokens[None], emb)[0]))
    spread = functional.interpolate(tokens.view(3, 4, 2, 2), size=(4, 4), mode="bilinear")
    assert_near(mixer(h, emb, 3), h + spread * h.square().mean().sqrt())


@torch.no_grad()
def test_a_text_block_is_fully_connected_and_starts_as_its_shortcut():
    torch.manual_seed(0)
    wider, same = DenseBlock(4, 8, 3, EMB, 4), DenseBlock(4, 4, 3, EMB, 4)
    h, given = drawn(2, 4, 3, 1), signals()
    assert torch.equal(same(h, given), h)
    assert torch.equal(wider(h, given), wider.shortcut(h.flatten(1)).view(2, 8, 3, 1))
    wake(wider)
    norm = lambda x, layer: functional.silu(functional.group_norm(x, 4, layer.weight, layer.bias, 1e-5))
    y = wider.linear1(norm(h.flatten(1), wider.norm1)) + wider.time_emb_proj(given.emb)
    y = wider.shortcut(h.flatten(1)) + wider.linear2(norm(y, wider.norm2))
    assert_near(wider(h, given), y.view(2, 8, 3, 1))


def test_places_of_a_text_are_mapped_together():
    remap, h = Remap(4, 3, 2), drawn(2, 4, 3, 1)
    assert remap(h).shape == (2, 4, 2, 1)
    assert depends_on(lambda h: remap(h)[0, 0, 0], h, axis=2) == [0, 1, 2]
    assert depends_on(lambda h: remap(h)[:1], h, axis=0) == [0]
