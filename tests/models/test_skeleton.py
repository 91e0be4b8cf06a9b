"""The pass that denoisers make: skips, caches of prompts, embeddings, and what configurations switch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from codi.joint.attention import JointAttention, PerFrameJointAttention
from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.models.denoisers.attention import PromptProjection, SpatialTransformer
from codi.models.denoisers.skeleton import at_levels, head_split, joint_heads, per_level
from codi.models.denoisers.unet import GridPosition, fold_frames, unfold_frames
from codi.protocols import Environment
from tests.models.shared import assert_near, depends_on, drawn, wake

SMALL = dict(
    in_channels=2, block_out_channels=(8, 16), norm_num_groups=4, num_heads=2, context_dim=6, ff_mult=1
)
TIME = torch.tensor([3, 700])
TEMPORAL = dict(temporal_levels=(1,), temporal=dict(num_heads=2, relative_bias=True), latent_rate=4.0)
JOINT = dict(env_dim=4, joint_levels=(0, 1))


def unet(**changed):
    torch.manual_seed(0)
    return wake(UNetDenoiser(**SMALL | changed).eval())


def text(**changed):
    torch.manual_seed(0)
    return wake(TextDenoiser(**SMALL | dict(in_channels=12, second_dim=(3, 2)) | changed).eval())


def environment(rows=2):
    return Environment(tokens=drawn(rows, 3, 4), times=torch.tensor([0.1, 0.6, 1.1]).expand(rows, -1))


@pytest.mark.parametrize(
    ("given", "heads", "width"),
    [((None, None), 2, 32), ((4, None), 4, 16), ((None, 16), 4, 16), ((2, 16), 2, 32), ((None, 100), 1, 64)],
)
def test_heads_are_split_by_number_before_width(given, heads, width):
    assert head_split(64, *given) == dict(num_heads=heads, head_dim=width)


def test_joint_adapters_have_their_own_number_of_heads_or_that_of_attention():
    assert joint_heads(unet(joint_heads=4).config, 16) == 4
    assert joint_heads(unet().config, 16) == 2
    assert joint_heads(unet(num_heads=None, head_dim=4).config, 16) == 4


def test_one_count_serves_all_levels_and_several_must_be_as_many():
    assert per_level(2, 3) == (2, 2, 2) and per_level([1, 2], 2) == (1, 2)
    with pytest.raises(AssertionError, match=r"layers_per_block \(1, 2\) for 3 levels"):
        UNetDenoiser(**SMALL | dict(block_out_channels=(8, 8, 8), layers_per_block=(1, 2)))


def test_what_is_built_at_some_levels_is_built_there_alone():
    build = at_levels([0, 2], lambda channels: f"of {channels}")
    assert [build(level, 8) for level in range(3)] == ["of 8", None, "of 8"]


@pytest.mark.parametrize("make", [unet, text])
def test_there_is_one_layer_for_each_skip_connection(make):
    model = make(layers_per_block=(1, 2), attention_levels=(0,))
    # by level: blocks, and the step to the next one; up, one block more for each level
    assert len(model.down) == 1 + 1 + 2 and len(model.up) == (2 + 1) + (1 + 1)
    transformers = [layer.attention is not None for layer in model.up]
    assert transformers == [False] * 3 + [True] * 2 and model.middle[0].attention is not None
    assert [layer.upsample is not None for layer in model.up] == [False, False, True, False, False]


@pytest.mark.parametrize(("make", "x"), [(unet, (2, 2, 5, 6)), (text, (2, 12))])
@torch.no_grad()
def test_a_first_skip_from_the_middle_loses_the_last_result_of_the_encoder(make, x):
    x, context, runs = drawn(*x), drawn(2, 1, 6), {}
    for switch in ("own", "middle"):
        model = make(first_skip=switch)
        seen = {}
        for name, layer in (("down", model.down[-1]), ("middle", model.middle[-1])):
            layer.register_forward_hook(lambda *call, name=name, seen=seen: seen.update({name: call[2]}))
        model.up[0].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.update(up=inputs[0]))
        runs[switch] = model(x, TIME, context)
        expected = seen["down"] if switch == "own" else seen["middle"]
        assert torch.equal(seen["up"], torch.cat([seen["middle"], expected], dim=1))
    assert not torch.allclose(runs["own"], runs["middle"], atol=1e-3)


@pytest.mark.parametrize("options", [{}, dict(prompt_embedding=True), dict(prompt="attention")], ids=str)
@pytest.mark.parametrize(
    ("make", "shape"), [(text, (2, 12)), (lambda **more: unet(**TEMPORAL, **more), (2, 2, 3, 4, 4))]
)
@torch.no_grad()
def test_a_prompt_that_was_precomputed_gives_the_same_to_the_bit(make, shape, options):
    model, x, context = make(**options), drawn(*shape), drawn(2, 1, 6)
    cached = model.precompute(context, x)
    assert model.precompute(cached, x) is cached
    assert len(cached.layers) == len(model.down) + len(model.middle) + len(model.up)
    for t in (TIME, TIME.flip(0)):
        assert torch.equal(model(x, t, cached), model(x, t, context))
    assert (cached.embedding is None) == ("prompt_embedding" not in options)
    assert any(layer.bias is not None for layer in cached.layers) == (len(shape) == 5)


@torch.no_grad()
def test_a_timestep_is_embedded_as_in_diffusers_with_the_mean_prompt_beside_it():
    model, context = unet(prompt_embedding=True, prompt="attention"), drawn(4, 3, 6)
    half = torch.arange(4) / 4
    angles = TIME[:, None] * torch.exp(-torch.log(torch.tensor(10000.0)) * half)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    mlp = model.time_embedding
    timestep = mlp.linear_2(functional.silu(mlp.linear_1(waves)))
    prompt = model.prompt_mlp(context.mean(1))
    x = drawn(2, 2, 4, 4)
    expected = functional.silu(timestep.repeat(2, 1) + prompt)
    torch.testing.assert_close(
        model.embed(TIME, model.precompute(context, x)), expected, rtol=1e-3, atol=1e-3
    )


def test_a_configuration_decides_how_prompts_and_partners_enter():
    layers = lambda model, kind: [m for m in model.modules() if isinstance(m, kind)]
    assert len(layers(unet(), PromptProjection)) == 4  # one block down, two up, and the middle
    assert not layers(unet(prompt="attention"), PromptProjection)
    assert unet().joint_adapters() == unet(joint_levels=(0,)).joint_adapters() == {}
    timed, pooled = unet(**JOINT), unet(**JOINT, joint="pooled")
    assert all(isinstance(part, JointAttention) for part in timed.joint_adapters().values())
    assert all(isinstance(part, SpatialTransformer) for part in pooled.joint_adapters().values())
    assert set(timed.joint_adapters()) - set(pooled.joint_adapters()) == {"middle.0.joint"}
    assert all(timed.get_submodule(name) is part for name, part in timed.joint_adapters().items())
    below = unet(env_dim=4, joint_levels=(0,))
    assert {name.split(".")[0] for name in below.joint_adapters()} == {"down", "up"}
    windows = [
        part.windows
        for part in unet(**JOINT, joint_config=dict(windows=(0.2, 0.2))).joint_adapters().values()
    ]
    assert all(value == pytest.approx([0.2]) for value in windows)


def test_a_frame_transformer_attends_to_partners_only_once_per_frame():
    mixer = dict(frame_transformer=dict(grid=(2, 2), dim=8, num_layers=1, num_heads=2), latent_rate=4.0)
    found = unet(**JOINT, **mixer, joint_per_frame=True, joint_per_frame_config=dict(num_sinks=2))
    adapter = found.joint_adapters()["middle.0.frame_mixer.joint"]
    assert isinstance(adapter, PerFrameJointAttention) and len(adapter.attention.sinks) == 2
    assert "middle.0.frame_mixer.joint" not in unet(**JOINT, **mixer).joint_adapters()
    assert "middle.0.frame_mixer.joint" not in unet(**mixer, joint_per_frame=True).joint_adapters()


@torch.no_grad()
def test_another_rate_moves_what_is_attended_to_and_nothing_else():
    x, context = drawn(2, 2, 4, 3), drawn(2, 1, 6)
    model = unet(**JOINT, time_axis=2, latent_rate=4.0)
    assert torch.equal(
        model(x, TIME, context, environment(), rate=4.0), model(x, TIME, context, environment())
    )
    assert not torch.equal(
        model(x, TIME, context, environment(), rate=9.0), model(x, TIME, context, environment())
    )
    assert torch.equal(model(x, TIME, context, rate=9.0), model(x, TIME, context))
    picture = unet(**JOINT, latent_rate=4.0)
    assert torch.equal(
        picture(x, TIME, context, environment(), rate=9.0), picture(x, TIME, context, environment())
    )


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (unet, (2, 2, 4), r"a latent has 4 or 5 axes, got \(2, 2, 4\)"),
        (text, (2, 12, 1), r"a text latent is \(B, C\), got \(2, 12, 1\)"),
    ],
)
def test_a_latent_with_other_axes_is_refused(make, shape, message):
    with pytest.raises(AssertionError, match=message):
        make()(drawn(*shape), TIME, drawn(2, 1, 6))


@torch.no_grad()
def test_switches_of_layers_act():
    x, context = drawn(2, 2, 4, 4), drawn(2, 1, 6)
    assert unet(out_channels=5)(x, TIME, context).shape == (2, 5, 4, 4)
    ups = lambda model: [up.upsample.conv for up in model.up if up.upsample is not None]
    assert isinstance(ups(unet(upsample_conv=False))[0], nn.Identity)
    assert isinstance(ups(unet())[0], nn.Conv2d)
    norms = [m for m in unet(norm_num_groups=2).modules() if isinstance(m, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {2}
    wide = lambda model: model.middle[0].attention.block.ff.net[2].in_features
    assert wide(unet()) == 16 and wide(unet(ff_mult=3)) == 48
    assert unet(scale_shift=True).middle[0].resnet.time_emb_proj.out_features == 32


@torch.no_grad()
def test_an_untrained_denoiser_predicts_nothing():
    for model, x in ((UNetDenoiser(**SMALL), drawn(2, 2, 4, 4)), (TextDenoiser(**SMALL), drawn(2, 2))):
        assert not model(x, TIME, drawn(2, 1, 6)).any()


def test_every_number_of_a_text_depends_on_every_other():
    model, context = text(), drawn(1, 1, 6)
    one = lambda x: model(x, TIME[:1], context)[:, :1]
    assert depends_on(one, drawn(1, 12), axis=1) == list(range(12))
    with pytest.raises(ValueError, match="zip"):
        text(second_dim=(3, 2, 1))


@torch.no_grad()
def test_a_place_in_a_grid_is_its_sines_and_one_linear_layer():
    grid = GridPosition(8)
    row, column = 2, 3
    frequencies = torch.tensor([1.0, 256.0**-0.5])
    waves = [torch.cat([(n * frequencies).sin(), (n * frequencies).cos()]) for n in (row, column)]
    table = grid(drawn(1, 8, 4, 5))
    assert table.shape == (1, 8, 4, 5)
    assert_near(table[0, :, row, column], grid.linear(torch.cat(waves)))
    assert_near(grid(drawn(1, 8, 9, 9))[:, :, :4, :5], table)  # the same at any extent
    with pytest.raises(AssertionError, match="a width that divides by 4, got 10"):
        GridPosition(10)


def test_frames_are_folded_into_the_batch_and_back():
    clip, picture = drawn(2, 3, 4, 5, 6), drawn(2, 3, 5, 6)
    folded = fold_frames(clip)
    assert folded.shape == (8, 3, 5, 6) and torch.equal(folded[4 + 1], clip[1, :, 1])
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold_frames(folded, clip), clip)
    assert torch.equal(unfold_frames(fold_frames(picture), picture), picture)


@torch.no_grad()
def test_what_a_latent_says_of_its_time():
    sound, vision = unet(time_axis=2, latent_rate=4.0, joint_per_frame=True), unet(latent_rate=8.0)

    def said(model, x, rate=None):
        given = model.signals(x, TIME, model.precompute(drawn(2, 1, 6), x), None, rate)
        return given.frames, given.time_axis, given.length, given.rate, given.per_frame

    assert said(sound, drawn(2, 2, 5, 3)) == (None, 2, 5, 4.0, True)
    assert said(sound, drawn(2, 2, 5, 3), rate=2.0)[3] == 2.0
    assert said(vision, drawn(2, 2, 7, 4, 4)) == (7, None, 7, 8.0, False)
    assert said(vision, drawn(2, 2, 4, 4)) == (None, None, None, None, False)
    assert said(unet(joint_per_frame=True), drawn(2, 2, 4, 4))[4] is False  # a picture has no steps
