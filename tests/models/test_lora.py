"""LoRA in a denoiser: which layers have one, what it adds, what fits, and that weights come back exactly."""

import math
import re
import sys

import pytest
import torch
from torch import nn

from codi.models import lora
from codi.models.denoisers import UNetDenoiser
from codi.types import InputError
from tests.models.shared import assert_near, drawn, wake

SMALL = dict(
    in_channels=2,
    block_out_channels=(8,),
    attention_levels=(0,),
    norm_num_groups=4,
    num_heads=2,
    context_dim=6,
    prompt="attention",
    env_dim=4,
    joint_levels=(0,),
)
LAYERS = ["middle.0.attention.block.attn1.to_q", "conv_in"]  # a linear one and a convolution


def denoiser():
    torch.manual_seed(0)
    return wake(UNetDenoiser(**SMALL).eval())


def with_lora(seed=0, **options):
    """A denoiser with a LoRA in both `LAYERS`, whose second halves are no longer zero."""
    model = denoiser()
    torch.manual_seed(seed)
    module = lora.add_lora(model, LAYERS, **{"rank": 2, "alpha": 6, **options})
    return wake(model), module


def tensors(**changed):
    """A LoRA of the first of `LAYERS`, 8 x 8, of rank 2."""
    name = LAYERS[0]
    found = {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    return {key: value for key, value in {**found, **changed}.items() if value is not None}


def test_layers_are_found_by_their_last_names_apart_from_those_of_joint_attention():
    model = denoiser()
    own, joint = (lora.find_layers(model, ["to_q", "conv_in"], joint=joint) for joint in (False, True))
    assert set(LAYERS) <= set(own) and all(".joint." not in name for name in own)
    assert joint and all(name.endswith(".joint.to_q") for name in joint)
    assert "middle.0.attention.block.attn1.to_out" in lora.find_layers(model, lora.ATTENTION, joint=False)
    with pytest.raises(
        InputError, match="^this denoiser has no layers named norm1, q: expected some such as to_q"
    ):
        lora.find_layers(model, ["q", "norm1"], joint=False)  # a norm takes none
    with pytest.raises(InputError, match="^the joint attention of this denoiser has no layers named conv_in"):
        lora.find_layers(model, ["conv_in"], joint=True)


def test_a_new_lora_changes_nothing_and_alone_is_trained():
    model, x = denoiser(), drawn(1, 2, 4, 4)
    given = (x, torch.tensor([5]), drawn(1, 2, 6))
    before = model(*given).detach()
    module = lora.add_lora(model, LAYERS, rank=2, alpha=6, dropout=0.5)
    assert torch.equal(model(*given), before)
    assert set(module) == {"middle/0/attention/block/attn1/to_q", "conv_in"}
    assert {id(p) for p in module.parameters()} == {id(p) for p in model.parameters() if p.requires_grad}
    assert module["conv_in"]["lora_dropout"].p == 0.5
    model(*given).square().sum().backward()
    assert all(
        half["lora_B"].weight.grad.any() and not half["lora_A"].weight.grad.any() for half in module.values()
    )


@torch.no_grad()
def test_what_a_lora_adds_is_its_product_times_alpha_by_rank():
    model, module = with_lora()
    plain, x, h = denoiser(), drawn(1, 3, 8), drawn(1, 2, 4, 4)
    a, b = (module[LAYERS[0].replace(".", "/")][half].weight for half in ("lora_A", "lora_B"))
    expected = plain.get_submodule(LAYERS[0])(x) + 6 / 2 * x @ a.T @ b.T
    assert_near(model.get_submodule(LAYERS[0])(x), expected)
    a, b = (module["conv_in"][half].weight for half in ("lora_A", "lora_B"))
    assert a.shape == (2, 2, 3, 3) and b.shape == (8, 2, 1, 1)
    change = nn.functional.conv2d(nn.functional.conv2d(h, a, padding=1), b)
    assert_near(model.conv_in(h), plain.conv_in(h) + 3 * change)


@torch.no_grad()
def test_tensors_are_those_that_trained_and_fit_their_denoiser():
    model, module = with_lora()
    found = lora.lora_tensors(model)
    assert lora.layers_of(found) == sorted(LAYERS)
    assert torch.equal(found["conv_in.lora_B.weight"], module["conv_in"]["lora_B"].weight)
    assert lora.misfit(denoiser(), found, 2) is None and lora.misfit(model, found, 2) is None


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_half_a_lora_is_none(lost):
    with pytest.raises(
        InputError, match=f"two tensors for each layer, .* not so here: '{LAYERS[0]}.{lost}.weight'"
    ):
        lora.layers_of(tensors(**{f"{LAYERS[0]}.{lost}.weight": None}))
    with pytest.raises(InputError, match="not so here: 'conv_in.weight'"):
        lora.layers_of({"conv_in.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("changed", "rank", "reason"),
    [
        ({}, 2, None),
        ({}, 3, r"lora_A is \(2, 8\) where \(3, 8\) would fit"),
        ({f"{LAYERS[0]}.lora_A.weight": torch.ones(2, 9)}, 2, r"lora_A is \(2, 9\) where \(2, 8\) would fit"),
        ({f"{LAYERS[0]}.lora_B.weight": torch.ones(8, 3)}, 2, r"lora_B is \(8, 3\) where \(8, 2\) would fit"),
        (
            {
                "conv_in.lora_A.weight": torch.ones(2, 2, 1, 1),
                "conv_in.lora_B.weight": torch.ones(8, 2, 1, 1),
            },
            2,
            r"conv_in.lora_A is \(2, 2, 1, 1\) where \(2, 2, 3, 3\) would fit",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_words(changed, rank, reason):
    found = lora.misfit(denoiser(), tensors(**changed), rank)
    assert found is reason is None or re.search(reason, found)


@pytest.mark.parametrize("layer", ["middle.9.to_q", "norm_out", "middle.0.attention"])
def test_layers_that_are_not_there_or_take_none(layer):
    assert lora.base_layer(denoiser(), layer) is None
    strange = {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    assert lora.misfit(denoiser(), strange, 2) == f"it adapts the layer {layer}, which is not there"


def test_the_layer_inside_is_found_with_and_without_a_lora_around_it():
    model, plain = with_lora()[0], denoiser()
    assert type(lora.base_layer(model, "conv_in")) is nn.Conv2d
    assert lora.base_layer(plain, "conv_in") is plain.conv_in


def test_a_probe_knows_weights_in_any_precision_from_others_of_any_size():
    weight = drawn(64, 100)
    number = lora.probe(weight)
    assert lora.probe(3 * weight) == pytest.approx(number, abs=2e-6) and lora.probe(-weight) == -number
    assert lora.probe(weight.bfloat16()) == pytest.approx(number, abs=3e-3)
    assert lora.probe(torch.zeros(4)) == 0
    # Files hold probes, so the wave must stay what it is: cosines at the golden angle.
    wave = torch.cos(torch.arange(400, dtype=torch.float64) * math.pi * (3 - math.sqrt(5)))
    assert lora.probe(wave) == pytest.approx(20, abs=1e-4)
    others = torch.tensor([lora.probe(drawn(64, 100, seed=seed)) for seed in range(1, 200)])
    assert abs(others.mean()) < 0.2 and 0.85 < others.std() < 1.15  # about normally distributed
    assert (others - number).abs().min() > 1e-3
    changed = weight.clone()
    changed.view(-1)[lora.PROBED :] = 7.0
    assert lora.probe(changed) == number


@torch.no_grad()
def test_fused_is_the_sum_of_products_and_unfused_is_the_original_to_the_bit():
    model, plain = with_lora()[0], denoiser()
    given = (drawn(1, 2, 4, 4), torch.tensor([5]), drawn(1, 2, 6))
    with_it, before = model(*given), plain(*given)
    originals = lora.fuse(model, [lora.TRAINED], 1.0)
    assert set(originals) == set(LAYERS)
    model.disable_adapters()
    assert_near(model(*given), with_it)
    assert not torch.allclose(model(*given), before, atol=1e-3)
    lora.unfuse(model, originals)
    assert torch.equal(model(*given), before)
    half = lora.fuse(model, [lora.TRAINED], 0.5)
    layer = model.get_submodule("conv_in")
    expected = half["conv_in"] + 0.5 * layer.get_delta_weight(lora.TRAINED)
    assert_near(layer.base_layer.weight, expected)
    assert lora.fuse(model, ["another"], 1.0) == {}


@torch.no_grad()
def test_a_sum_that_is_not_finite_is_refused_and_nothing_is_changed():
    model, plain = with_lora()[0], denoiser()
    # The convolution comes first, and is finite.
    model.get_submodule(LAYERS[0]).lora_B[lora.TRAINED].weight.fill_(1e38)
    message = f"the weights of {LAYERS[0]} with default are not finite: expected a smaller scale"
    with pytest.raises(InputError, match=message):
        lora.fuse(model, [lora.TRAINED], 1e3)
    for name in LAYERS:
        assert torch.equal(lora.base_layer(model, name).weight, plain.get_submodule(name).weight)


def test_without_peft_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match="LoRA needs the library peft, .*: pip install 'peft"):
        lora.add_lora(denoiser(), LAYERS, rank=2, alpha=2)
