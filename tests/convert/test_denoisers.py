"""The released denoisers' numbers from our modules: alone, with several prompt tokens, and jointly."""

import pytest
import torch

from codi.convert.denoisers import (
    denoiser_table,
    environment_config,
    environment_table,
    text_config,
    unet_config,
)
from codi.convert.tables import load
from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.models.denoisers.temporal import InnerNormFeedForward, LateConv, delay
from codi.models.released.environments import MapEncoder, PooledEnvironmentEncoders, VectorEncoder
from codi.protocols import Environment
from codi.types import Modality
from tests.convert.pack import assert_close, component

ALONE = ["01_image_unet", "02_video_unet", "03_text_unet", "04_audio_unet"]


def build(config: dict, weights: dict, prefix: str = ""):
    """A denoiser and its environment encoder with the pack's weights in them."""
    text = "second_dim" in config
    model = TextDenoiser(**text_config(config)) if text else UNetDenoiser(**unet_config(config))
    encoder = (VectorEncoder if text else MapEncoder)(**environment_config(config))
    mine = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    tables = denoiser_table(model), environment_table(encoder)
    assert set(mine) == set(tables[0].sources) | set(tables[1].sources)
    return load(model, tables[0], mine).eval(), load(encoder, tables[1], mine).eval()


@pytest.mark.parametrize("name", ALONE)
@torch.no_grad()
def test_alone(name):
    part = component(name)
    t = part.tensors
    model, _ = build(part.meta["config"], part.weights())
    assert_close(model(t["in/x"], t["in/timesteps"], t["in/context"]), t["out"])
    assert_close(model(t["in/x"], t["in/timesteps"], t["in/context3"]), t["out_context3"])
    model.register_to_config(first_skip="own")
    assert_close(model(t["in/x"], t["in/timesteps"], t["in/context"]), t["out_plain_skip"])


@pytest.fixture(scope="module")
def joint():
    part = component("05_joint_unet")
    weights = part.weights()
    return part, {
        name: build(config, weights, f"{name}.")
        for name, config in part.meta["config"].items()
        if name.startswith("unet_")
    }


def module_for(nets, modality):
    return nets["unet_image" if modality == "video" else f"unet_{modality}"]


def context_of(case, t):
    parts = [
        w * t[f"{case['tag']}/in.context.{c}"]
        for c, w in zip(case["condition_types"], case["normalised_weights"], strict=True)
    ]
    return sum(parts)


@pytest.fixture(scope="module")
def environments(joint):
    """The encoders of all three as one component, which has the switch."""
    part, nets = joint
    kinds = {
        kind: f"unet_{name}" for kind, name in (("text", "text"), ("vision", "image"), ("audio", "audio"))
    }
    whole = PooledEnvironmentEncoders(
        **{kind: environment_config(part.meta["config"][name]) for kind, name in kinds.items()}
    ).eval()
    for kind, name in kinds.items():
        whole.encoders[kind].load_state_dict(nets[name][1].state_dict())
    return whole


@torch.no_grad()
def test_joint(joint, environments):
    part, nets = joint
    for case in part.meta["cases"]:
        t, tag = part.tensors, case["tag"]
        steps, context = t[f"{tag}/in.timesteps"], context_of(case, t)
        latents = {Modality(m): t[f"{tag}/in.x.{m}"] for m in case["xtype"]}
        said = (
            {m: environments.by_modality()[m](x, steps) for m, x in latents.items()}
            if len(latents) > 1
            else {}
        )
        for m, env in said.items():
            assert_close(env.tokens, t[f"{tag}/h_con.{m}"])
        for switch, out in (("own", "out"), ("exchanged", "out_exchanged")):
            environments.register_to_config(environment=switch)
            for m in (m for m in latents if f"{tag}/{out}.{m}" in t):  # exchanged: pairs only
                heard = [env for other, env in said.items() if other in environments.attends_to()[m]]
                ours = module_for(nets, m)[0](
                    latents[m], steps, context, Environment.cat(heard) if heard else None
                )
                assert_close(ours, t[f"{tag}/{out}.{m}"])


@torch.no_grad()
def test_joint_attention_to_three_tokens(joint):
    part, nets = joint
    names = sorted(
        k.removesuffix(".in") for k in part.tensors if k.startswith("connector3/") and k.endswith(".in")
    )
    assert names
    for name in names:
        net, kind, index = name.removeprefix("connector3/").split(".")
        site = nets[net][0].down[int(index) - 1] if kind.startswith("input") else nets[net][0].up[int(index)]
        ours = site.joint(part.tensors[f"{name}.in"], part.tensors[f"{name}.context"])
        assert_close(ours, part.tensors[f"{name}.out"])


@torch.no_grad()
def test_back_to_the_released_names_bit_for_bit():
    for name in ALONE[1:]:
        part = component(name)
        weights = part.weights()
        model, encoder = build(part.meta["config"], weights)
        back = denoiser_table(model).reverse(model.state_dict()) | environment_table(encoder).reverse(
            encoder.state_dict()
        )
        assert back.keys() == weights.keys() and all(torch.equal(back[k], weights[k]) for k in weights)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 11])
@torch.no_grad()
def test_late_channels_are_computed_only_where_they_stay(frames):
    torch.manual_seed(0)
    conv, x, h = (
        LateConv(24, 24, 3, padding=1),
        torch.randn(2 * frames, 24, 4, 5),
        torch.randn(2 * frames, 24, 4, 5),
    )
    whole = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1).unflatten(0, (2, frames))
    late = torch.cat([delay(group, i) for i, group in enumerate(whole.chunk(8, dim=2))], dim=2)
    torch.testing.assert_close(conv(x, h, frames), h + late.flatten(0, 1))


def test_inner_normalisation_is_the_same_with_and_without_gradients():
    torch.manual_seed(0)
    layer = InnerNormFeedForward(24, shift=True)
    torch.nn.init.normal_(layer.proj_out.weight)
    # the variance of the last two is clamped
    x = torch.randn(1, 4, 3, 24) * torch.tensor([1.0, 1e-3, 0.0])[:, None]
    with torch.no_grad():
        quick = layer(x)
    assert quick[:, :, 1].any() and torch.equal(quick[:, :, 2], torch.zeros_like(quick[:, :, 2]))
    torch.testing.assert_close(quick, layer(x), rtol=1e-4, atol=1e-6)


def test_environment_has_no_time(joint):
    _, nets = joint
    model, encoder = nets["unet_text"]
    env = encoder(torch.randn(1, model.config.in_channels), torch.tensor([5]))
    assert isinstance(env, Environment) and env.times.isnan().all()
