"""Joint attention: silent before training, listens to the right partner at the right time, and does not care
about order.
"""

import pytest
import torch

from codi.joint.attention import JointAttention, PerFrameJointAttention, rotate
from codi.joint.encoders import EnvironmentEncoders
from codi.models.denoisers import UNetDenoiser
from codi.protocols import Environment
from codi.types import Modality

ENV = 16
LATENTS = {
    "text": dict(latent_shape=[8], latent_rate=None, tokens_per_step=2),
    "image": dict(latent_shape=[4, 8, 8], latent_rate=None, tokens_per_step=4),
    "audio": dict(latent_shape=[4, 20, 4], latent_rate=10.0, tokens_per_step=1),
    "video": dict(latent_shape=[4, 8, 8, 8], latent_rate=4.0, tokens_per_step=2),
}
SHAPES = {name: tuple(latent["latent_shape"]) for name, latent in LATENTS.items()}


@pytest.fixture
def encoders() -> EnvironmentEncoders:
    torch.manual_seed(0)
    return EnvironmentEncoders(LATENTS, dim=ENV, num_layers=1, num_heads=2).eval()


def latent(name: str, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *SHAPES[name], generator=torch.Generator().manual_seed(len(name)))


def environment(encoders: EnvironmentEncoders, name: str) -> Environment:
    return encoders.by_modality()[Modality(name)](latent(name), torch.tensor([10, 500]))


def attention(listens: bool = True, **options) -> JointAttention:
    torch.manual_seed(1)
    layer = JointAttention(32, ENV, 4, **options)
    if listens:
        torch.nn.init.normal_(layer.to_out.weight, std=0.5)
    return layer.eval()


@pytest.mark.parametrize(("name", "count"), [("text", 2), ("image", 4), ("audio", 20), ("video", 16)])
def test_environment_has_its_tokens_and_one_global(encoders, name, count):
    env = environment(encoders, name)
    assert env.tokens.shape == (2, count + 1, ENV) and env.times.shape == (2, count + 1)
    assert env.times[:, -1].isnan().all()
    assert env.times[:, :-1].isnan().all() == (LATENTS[name]["latent_rate"] is None)


def test_tokens_of_different_rates_share_one_clock(encoders):
    sound, clip = environment(encoders, "audio"), environment(encoders, "video")
    assert torch.allclose(sound.times[0, :-1], (torch.arange(20) + 0.5) / 10)
    assert torch.allclose(clip.times[0, :-1:2], (torch.arange(8) + 0.5) / 4)


def test_another_rate_moves_the_times_and_nothing_else_needs_to_change(encoders):
    env = encoders.by_modality()[Modality.VIDEO](latent("video"), torch.tensor([0, 0]), rate=8.0)
    assert torch.allclose(env.times[0, :-1:2], (torch.arange(8) + 0.5) / 8)


def test_untrained_attention_is_silent_to_the_bit(encoders):
    h = torch.randn(2, 12, 32)
    assert torch.equal(
        attention(listens=False)(h, environment(encoders, "audio"), torch.linspace(0, 2, 12)), h
    )


def test_order_of_partners_does_not_matter(encoders):
    envs = [environment(encoders, name) for name in ("text", "audio", "video")]
    h, times, layer = torch.randn(2, 12, 32), torch.linspace(0, 2, 12), attention()
    there, back = layer(h, Environment.cat(envs), times), layer(h, Environment.cat(envs[::-1]), times)
    torch.testing.assert_close(there, back)


def test_timed_heads_hear_what_is_near(encoders):
    """All heads timed, through narrow windows: a change of the partner at one second is heard there, and not
    half a second away.
    """
    layer, h, times = (
        attention(timed_heads=4, windows=(0.04, 0.1)),
        torch.randn(1, 40, 32),
        (torch.arange(40) + 0.5) / 20,
    )
    tokens, seconds = torch.randn(1, 20, ENV), ((torch.arange(20) + 0.5) / 10)[None]
    changed = tokens.clone()
    changed[:, 10] += 1.0
    attended = [layer(h, Environment(tokens=x, times=seconds), times) for x in (tokens, changed)]
    moved, apart = (attended[1] - attended[0]).abs().sum(-1)[0], (times - seconds[0, 10]).abs()
    assert moved[apart < 0.1].min() > 100 * moved[apart > 0.5].max()


def test_a_timed_head_hears_sinks_faintly_and_no_token_without_time():
    times = torch.tensor([0.5, 1.0])
    near = attention(num_sinks=2).window_bias(
        times, torch.tensor([[0.5, 1.0, torch.nan, torch.inf, torch.inf]])
    )
    assert near.shape == (1, 4, 2, 5)
    timed, free = near[0, :2], near[0, 2:]
    assert timed[:, 0, 0].eq(0).all() and timed[:, 1, 1].eq(0).all() and (timed[:, 0, 1] < 0).all()
    assert timed[..., 2].eq(-torch.inf).all() and timed[..., 3:].eq(-4).all() and free.eq(0).all()


def test_rotation_depends_on_the_difference_of_seconds_alone():
    q, k = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 2, 8)
    dot = lambda a, b: (
        rotate(q, torch.tensor([[a]]), 0.1, 4.0) * rotate(k, torch.tensor([[b]]), 0.1, 4.0)
    ).sum(-1)
    torch.testing.assert_close(dot(0.7, 0.2), dot(1.5, 1.0), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(dot(0.7, 0.2), dot(0.7, 0.3))


def test_listener_without_time_hears_everything(encoders):
    env = environment(encoders, "audio")
    env.tokens.retain_grad()
    attention()(torch.randn(2, 5, 32), env, None).square().sum().backward()
    assert (env.tokens.grad.abs().sum(-1) > 0).all()


MOMENTS = dict(frame_transformer=dict(grid=(2, 2), dim=16, num_layers=2, num_heads=2), joint_per_frame=True)
LAYERS = MOMENTS | dict(joint_per_frame_config=dict(hidden=8, num_layers=2))


def listener(**more) -> UNetDenoiser:
    """A denoiser of pictures and clips, with no weight at zero."""
    torch.manual_seed(0)
    denoiser = UNetDenoiser(
        in_channels=4,
        block_out_channels=(16, 16),
        context_dim=8,
        norm_num_groups=8,
        num_heads=2,
        temporal_levels=(1,),
        temporal=dict(num_heads=2),
        latent_rate=4.0,
        env_dim=ENV,
        joint_levels=(1,),
        joint_heads=2,
        **more,
    )
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return denoiser.eval()


@pytest.mark.parametrize("more", [{}, MOMENTS, LAYERS], ids=["positions", "moments", "moments, layers"])
def test_gradient_flows_from_each_answer_to_every_partner(encoders, more):
    denoiser = listener(**more)
    partners = {name: latent(name).requires_grad_() for name in ("text", "image", "audio")}
    t = torch.tensor([10, 500])
    env = Environment.cat([encoders.by_modality()[Modality(name)](x, t) for name, x in partners.items()])
    denoiser(latent("video"), t, torch.zeros(2, 1, 8), partners=env).square().sum().backward()
    for name, x in partners.items():
        assert x.grad.abs().sum() > 0, name


@pytest.mark.parametrize("place", ["blocks", "frame transformer"])
def test_moment_by_moment_a_clip_hears_in_both_places_and_a_picture_in_the_blocks(encoders, place):
    denoiser, env, t = listener(**MOMENTS), environment(encoders, "audio"), torch.tensor([10, 500])
    answers = lambda name, env: denoiser(latent(name), t, torch.zeros(2, 1, 8), partners=env)
    clip, picture = answers("video", None), answers("image", None)
    whole = denoiser.middle[0].frame_mixer
    adapters = [
        m.to_out
        for m in denoiser.modules()
        if isinstance(m, JointAttention) and m is not whole.joint.attention
    ]
    for layer in adapters if place == "frame transformer" else [whole.joint.out]:  # the others are silent
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    assert not torch.equal(answers("video", env), clip)
    assert torch.equal(answers("image", env), picture) == (place == "frame transformer")


def test_layers_of_a_moment_listener_carry_what_is_heard_to_other_moments():
    """What a token says of one moment reaches the others through layers along time alone."""
    torch.manual_seed(0)
    moments, tokens = torch.arange(4) + 0.5, torch.randn(1, 4, ENV)
    changed = tokens.clone()
    changed[:, 1] += 1.0
    reached = {}
    for layers in (0, 2):
        heads = dict(num_heads=2, timed_heads=2, windows=(0.01, 0.01), num_sinks=1)
        part = PerFrameJointAttention(16, 12, ENV, num_layers=layers, **heads).eval()
        torch.nn.init.normal_(part.out.weight)
        before, after = (
            part(torch.ones(1, 4, 16), Environment(tokens=env, times=moments[None]), moments)
            for env in (tokens, changed)
        )
        reached[layers] = (after - before).abs().amax(-1)[0] > 1e-4
    assert reached[0].tolist() == [False, True, False, False] and reached[2].all()


def test_adapters_are_in_the_named_parts():
    held = lambda parts: {
        name.split(".")[0] for name, _ in listener(joint_parts=parts).named_parameters() if ".joint." in name
    }
    assert held(("down", "middle", "up")) == {"down", "middle", "up"} and held(("up",)) == {"up"}


def test_what_an_adapter_adds_grows_with_what_it_is_added_to(encoders):
    env, h = environment(encoders, "audio"), torch.randn(2, 6, 32)
    layer, times = attention(), torch.arange(6) / 3
    torch.testing.assert_close(layer(20 * h, env, times), 20 * layer(h, env, times), rtol=1e-4, atol=1e-4)


def test_pairs_say_who_hears_whom():
    pairs = [["audio", "video"], ["image", "text"]]
    encoders = EnvironmentEncoders(LATENTS, dim=ENV, num_layers=1, num_heads=2, pairs=pairs)
    text, image, audio, video = Modality
    assert encoders.attends_to() == {text: {image}, image: {text}, audio: {video}, video: {audio}}


def test_the_released_scheme_is_one_token_without_time_heard_by_its_own_side():
    encoders = EnvironmentEncoders(LATENTS, dim=ENV, num_layers=1, num_heads=2, pooled=True, exchanged=False)
    env = environment(encoders, "audio")
    assert env.tokens.shape == (2, 1, ENV) and env.times.isnan().all()
    assert encoders.attends_to() == {m: {m} for m in Modality}


def test_without_a_clock_seconds_change_nothing(encoders):
    env, h = environment(encoders, "audio"), torch.randn(2, 6, 32)
    layer = attention(time_rotary=False)
    assert torch.equal(layer(h, env, torch.arange(6) / 3), layer(h, env, None))
    assert not torch.equal(attention()(h, env, torch.arange(6) / 3), attention()(h, env, None))
