"""Denoisers at tiny size: what may influence what, that frames stay apart until trained, that every way of
running agrees.
"""

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import nn

from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.models.denoisers.attention import Attention
from codi.models.denoisers.blocks import Signals
from codi.models.denoisers.frames import PromptedKernels
from codi.models.denoisers.norm import GroupNorm
from codi.models.denoisers.temporal import RELEASED, delay
from codi.protocols import Environment
from tests.models.shared import wake

VISION = dict(
    in_channels=4,
    block_out_channels=(32, 64),
    attention_levels=(1,),
    temporal_levels=(1,),
    context_dim=16,
    latent_rate=8.0,
    head_dim=32,
)
AUDIO = dict(
    in_channels=8,
    block_out_channels=(32, 64),
    attention_levels=(0, 1),
    context_dim=16,
    time_axis=2,
    latent_rate=25.0,
    position_embedding=True,
)
TEXT = dict(in_channels=16, block_out_channels=(32, 32), context_dim=16)
LATENTS = {"image": (4, 8, 8), "video": (4, 5, 8, 8), "audio": (8, 25, 4), "text": (16,)}
CONFIG = {"image": VISION, "video": VISION, "audio": AUDIO, "text": TEXT}


def make(kind, seed=0, **more):
    """A denoiser whose zero-initialised ends have woken, temporal ones excepted."""
    torch.manual_seed(seed)
    model = (TextDenoiser if kind == "text" else UNetDenoiser)(**CONFIG[kind] | more).eval()
    wake(model, skip=(".temporal.", ".frame_mixer."))
    return model


def inputs(kind, batch=2, tokens=1):
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, *LATENTS[kind], generator=g),
        torch.tensor([3, 700])[:batch],
        torch.randn(batch, tokens, 16, generator=g),
    )


@pytest.mark.parametrize("kind", LATENTS)
@torch.no_grad()
def test_shape_and_batch_equals_single(kind):
    model, (x, t, context) = make(kind), inputs(kind)
    out = model(x, t, context)
    assert out.shape == x.shape and out.std() > 0
    torch.testing.assert_close(out[1:], model(x[1:], t[1:], context[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"prompt_embedding": True},
        {"prompt": "attention", "env_dim": 16, "joint": "pooled", "joint_levels": (0, 1)},
    ],
)
@pytest.mark.parametrize("kind", LATENTS)
@torch.no_grad()
def test_several_contexts_for_one_sample(kind, more):
    model, (x, t, context) = make(kind, **more), inputs(kind)
    contexts = torch.cat([torch.zeros_like(context), context])
    repeat = lambda y: torch.cat([y, y])
    env = (
        Environment(tokens=torch.randn(4, 1, 16), times=torch.full((4, 1), torch.nan))
        if "joint" in more
        else None
    )
    once = model(x, t, contexts, partners=env)
    torch.testing.assert_close(
        once, model(repeat(x), repeat(t), contexts, partners=env), rtol=1e-4, atol=1e-5
    )


MOMENTS = dict(joint_per_frame=True, frame_transformer=dict(grid=(2, 2), dim=16, num_layers=1, num_heads=2))


@pytest.mark.parametrize("joint", ["timed", "moments", "pooled"])
@pytest.mark.parametrize("attention_levels", [(0, 1), ()], ids=["prompted early", "prompted in the middle"])
@pytest.mark.parametrize("kind", LATENTS)
@torch.no_grad()
def test_the_first_contexts_hear_the_environment_and_the_others_do_not(kind, joint, attention_levels):
    more = MOMENTS if joint == "moments" and kind != "text" else {}
    model = make(
        kind,
        env_dim=16,
        joint="pooled" if joint == "pooled" else "timed",
        joint_levels=(0, 1),
        attention_levels=attention_levels,
        **more,
    )
    wake(model)
    x, t, context = inputs(kind)
    env = Environment(tokens=torch.randn(2, 1, 16), times=torch.full((2, 1), torch.nan))
    hearing, deaf = model(x, t, context, partners=env), model(x, t, -context)
    assert not torch.allclose(hearing, model(x, t, context), rtol=1e-2)
    torch.testing.assert_close(
        model(x, t, torch.cat([context, -context]), partners=env),
        torch.cat([hearing, deaf]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", LATENTS)
def test_every_parameter_learns(kind):
    model = make(kind, prompt_embedding=True)
    wake(model)
    x, t, context = inputs(kind)
    model(x, t, context).square().mean().backward()
    stand_by = lambda name: kind == "image" and ".temporal." in name
    assert [
        n for n, p in model.named_parameters() if (p.grad is None or not p.grad.any()) and not stand_by(n)
    ] == []


@pytest.mark.parametrize("kind", LATENTS)
def test_prompt_and_noise_level_are_heard(kind):
    model, (x, t, context) = make(kind), inputs(kind)
    context.requires_grad_()
    out = model(x, t, context)
    out[0].square().sum().backward()
    assert context.grad[0].any() and not context.grad[1].any()
    assert not torch.equal(out, model(x, t + 50, context))


@pytest.mark.parametrize("span", ["pixel", "all"])
@torch.no_grad()
def test_an_untrained_video_is_its_pictures(span):
    model, (x, t, context) = make("video", temporal={"span": span}), inputs("video")
    video = model(x, t, context)
    frames = torch.stack([model(x[:, :, f], t, context) for f in range(x.shape[2])], dim=2)
    torch.testing.assert_close(video, frames, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "temporal", [{"span": "pixel"}, {"span": "all"}, {"relative_bias": True, "span": "all"}, dict(RELEASED)]
)
def test_trained_frames_hear_each_other(temporal):
    model, (x, t, context) = make("video", temporal=temporal), inputs("video")
    wake(model)
    x.requires_grad_()
    model(x, t, context)[0, :, 0].square().sum().backward()
    assert x.grad[0].abs().sum(dim=(0, 2, 3)).gt(0).all() and not x.grad[1].any()


WHOLE = {"dim": 16, "num_layers": 1, "num_heads": 2}


KERNELS = {"kernel_layers": 1, "reach": 4}


@pytest.mark.parametrize("more", [{"grid": (4, 4)}, {"grid": (2, 2)}, KERNELS, {"num_layers": 2, **KERNELS}])
@torch.no_grad()
def test_whole_frames_are_heard_once_trained_and_not_before(more):
    model, (x, t, context) = (
        make("video", temporal_levels=(), frame_transformer=WHOLE | more),
        inputs("video"),
    )
    frames = torch.stack([model(x[:, :, f], t, context) for f in range(x.shape[2])], dim=2)
    torch.testing.assert_close(model(x, t, context), frames, rtol=1e-4, atol=1e-5)
    wake(model)
    changed = x.clone()
    changed[0, :, 0] += 1.0
    moved = (model(changed, t, context) - model(x, t, context)).abs().amax(dim=(1, 3, 4))
    assert moved[0].gt(0).all() and not moved[1].any()
    later = model(x.roll(1, dims=2), t, context).roll(-1, dims=2)
    assert not torch.allclose(later, model(x, t, context), atol=1e-4), "the order of frames is not heard"


@torch.no_grad()
def test_kernels_are_the_same_at_any_time_and_end_at_their_reach():
    kernels, emb, tokens = PromptedKernels(8, 4, 2, reach=3), torch.randn(2, 4), torch.zeros(2, 12, 8)
    tokens[:, 5] = torch.randn(2, 8)
    silent = kernels(torch.zeros_like(tokens), emb)
    heard, later = kernels(tokens, emb) - silent, kernels(tokens.roll(2, dims=1), emb) - silent
    assert (heard[:, 2:9].abs().amax(-1) > 0).all() and not heard[:, :2].any() and not heard[:, 9:].any()
    torch.testing.assert_close(later.roll(-2, dims=1), heard)
    assert kernels(tokens, emb.flip(0)).ne(kernels(tokens, emb)).any(), "what the prompt says is not heard"


def test_kernels_learn_a_distance_that_the_prompt_names():
    torch.manual_seed(0)
    kernels, prompts = PromptedKernels(4, 2, 2, reach=8), torch.eye(2)
    optimizer = torch.optim.AdamW(kernels.parameters(), lr=2e-2)
    for _ in range(300):
        at, named = torch.randint(0, 10, (64,)), torch.randint(0, 2, (64,))
        tokens, wanted = torch.zeros(64, 16, 4), torch.zeros(64, 16)
        tokens[torch.arange(64), at] = torch.tensor([1.0, 0.0, -1.0, 0.0])
        wanted[torch.arange(64), at + torch.tensor([2, 6])[named]] = 1.0
        loss = (kernels(tokens, prompts[named])[..., 0] - wanted).square().mean() * 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # 1: nothing is learned


def test_more_frames_than_positions_are_refused():
    model = make("video", temporal={"max_frames": 4})
    with pytest.raises(AssertionError, match="5 latent frames"):
        model(*inputs("video"))


def test_delay():
    x = torch.arange(3.0)[None, :, None]
    assert (
        delay(x, 1).flatten().tolist() == [0, 0, 1]
        and delay(x, 5).flatten().tolist() == [0, 0, 0]
        and delay(x, 0) is x
    )


@torch.no_grad()
def test_odd_extents():
    model = make("audio")
    for shape in [(1, 8, 25, 3), (1, 8, 50, 4), (1, 8, 7, 5)]:
        assert model(torch.randn(shape), torch.tensor([1]), torch.randn(1, 1, 16)).shape == shape


@torch.no_grad()
def test_position_embedding_tells_rows_apart():
    x = torch.zeros(1, 8, 24, 4)
    at = lambda model: model(x, torch.tensor([5]), torch.zeros(1, 1, 16))[0, :, 10:14].std(dim=1).max()
    assert at(make("audio")) > 1e-3


def test_one_prompt_token_is_its_projection():
    torch.manual_seed(0)
    attention = Attention(32, num_heads=2, head_dim=16, context_dim=8)
    x, context = torch.randn(2, 7, 32), torch.randn(2, 1, 8)
    full = attention.processor(attention, x, context)
    torch.testing.assert_close(attention(x, context).expand_as(full), full)
    twice = attention(x, context.expand(-1, 2, -1))  # the same token twice is the same
    torch.testing.assert_close(twice, full)


def test_seconds_of_positions():
    h = torch.zeros(3, 8, 25, 2)
    sound = Signals(emb=h, context=h, time_axis=2, length=50, rate=25.0).times(h)
    assert sound.shape == (50,) and torch.allclose(sound[:4], torch.tensor([0.04, 0.04, 0.12, 0.12]))
    video = Signals(emb=h, context=h, frames=16, length=16, rate=8.0).times(torch.zeros(16, 8, 4, 4))
    assert video.shape == (256,) and video[0] == 0.0625 and torch.isclose(video[-1], torch.tensor(1.9375))
    assert Signals(emb=h, context=h).times(h) is None


@pytest.mark.parametrize("shape", [(4, 64, 3, 5), (2, 64, 8, 8)])
def test_group_norm_in_any_memory_format(shape):
    torch.manual_seed(0)
    norm, x = GroupNorm(32, 64), torch.randn(shape)
    nn.init.normal_(norm.weight)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(norm(last), nn.GroupNorm.forward(norm, x))
    assert norm(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["video", "text"])
def test_gradient_checkpointing_changes_nothing(kind):
    model, (x, t, context) = make(kind), inputs(kind)

    def gradient():
        model.zero_grad()
        model(x, t, context).square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = gradient()
    model.enable_gradient_checkpointing()
    for name, g in gradient().items():
        torch.testing.assert_close(g, plain[name], msg=name)


@pytest.mark.parametrize("kind", ["video", "audio", "text"])
@torch.no_grad()
def test_saved_and_loaded(kind, tmp_path):
    model, args = make(kind, temporal={"span": "all"}) if kind == "video" else make(kind), inputs(kind)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(*args), model(*args))


@torch.no_grad()
def test_attention_backend_reaches_every_head(monkeypatch):
    # Set for one model, it is the default of every model after; here until the end of the test.
    monkeypatch.setattr(
        _AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend
    )
    model, args = make("video", prompt="attention", temporal={"span": "pixel"}), inputs("video", tokens=3)
    wake(model)
    before = model(*args)
    model.set_attention_backend("_native_math")
    heads = [m for m in model.modules() if hasattr(m, "processor")]
    assert len(heads) > 4 and all(m.processor._attention_backend is not None for m in heads)
    torch.testing.assert_close(model(*args), before, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bfloat16():
    for kind in LATENTS:
        x, t, context = inputs(kind)
        model = make(kind).to(torch.bfloat16)
        assert model(x.bfloat16(), t, context.bfloat16()).isfinite().all()
