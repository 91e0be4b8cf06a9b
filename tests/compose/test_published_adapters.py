"""LoRAs, learned words and IP-Adapters that others published for a model act in it as in its own pipeline."""

import pytest
import torch

from codi.compose.check import PROMPT_OF_CHECK, compare, sample_alone
from codi.compose.foreign import ForeignModel
from codi.compose.pipeline import ComposedPipeline
from codi.types import InputError, Modality
from tests.compose import tiny_foreign

STEPS = 3


def load(name):
    from diffusers import DiffusionPipeline

    with tiny_foreign.quiet():
        pipeline = DiffusionPipeline.from_pretrained(tiny_foreign.folder(name))
    return ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)


def latents(model, prompt=PROMPT_OF_CHECK, **more):
    with tiny_foreign.quiet():
        return sample_alone(model, [prompt], num_inference_steps=STEPS, **more)


def difference(model, **more):
    with tiny_foreign.quiet():
        return compare(model, STEPS, **more)


def lora_of(network, prefix="unet"):
    """A LoRA of rank 2 for the queries of all attentions, in the layout in which they are published."""
    draw = torch.Generator().manual_seed(3)
    state = {}
    for name, module in network.named_modules():
        if name.endswith("to_q"):
            state[f"{prefix}.{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=draw)
            state[f"{prefix}.{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=draw)
    return state


@pytest.mark.parametrize("name", ["sd15", "animatediff"])
def test_a_lora_acts_as_in_its_own_pipeline(name):
    model = load(name)
    plain = latents(model)
    with tiny_foreign.quiet():
        model.pipeline.load_lora_weights(lora_of(model.network), adapter_name="mine")
    adapted = latents(model)
    assert difference(model).latents == 0.0
    assert (adapted - plain).abs().max() > 1e-3
    model.pipeline.set_adapters("mine", 0.5)
    assert (latents(model) - adapted).abs().max() > 1e-4
    model.pipeline.unload_lora_weights()
    assert torch.equal(latents(model), plain)


def test_a_learned_word_of_two_vectors_is_read_by_its_own_tokenizer():
    model = load("sd15")
    prompt = "a <gizmo> in the snow"
    unknown = latents(model, prompt)
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(4))
    with tiny_foreign.quiet():
        model.pipeline.load_textual_inversion({"<gizmo>": rows})
    assert difference(model, prompt=prompt).latents == 0.0
    assert (latents(model, prompt) - unknown).abs().max() > 1e-3


def ip_adapter(network, image_dim=32, tokens=4):
    """An IP-Adapter for a UNet, in the layout in which the first of them was published."""
    draw = torch.Generator().manual_seed(5)
    context = network.config.cross_attention_dim
    projection = {
        "proj.weight": torch.randn(tokens * context, image_dim, generator=draw),
        "proj.bias": torch.zeros(tokens * context),
        "norm.weight": torch.ones(context),
        "norm.bias": torch.zeros(context),
    }
    attention = {}
    number = 1
    for name in network.attn_processors:
        if name.endswith("attn2.processor") and "motion_modules" not in name:
            width = network.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for key in ("to_k_ip", "to_v_ip"):
                attention[f"{number}.{key}.weight"] = torch.randn(width, context, generator=draw)
            number += 2  # those of self-attention are counted, too
    return {"image_proj": projection, "ip_adapter": attention}


def image_encoder(image_dim=32):
    import transformers

    torch.manual_seed(6)
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=image_dim,
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def load_ip_adapter(model):
    """Load an IP-Adapter, and the encoder of pictures that it is for, into a pipeline."""
    from transformers import CLIPImageProcessor

    with tiny_foreign.quiet():
        model.pipeline.register_modules(
            image_encoder=image_encoder(),
            feature_extractor=CLIPImageProcessor(
                size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
            ),
        )
        model.pipeline.load_ip_adapter(ip_adapter(model.network), subfolder=None, weight_name=None)


def picture(colour):
    from PIL import Image

    return Image.new("RGB", (20, 20), colour)


@pytest.mark.parametrize("name", ["sd15", "animatediff"])
def test_an_ip_adapter_acts_as_in_its_own_pipeline(name):
    model = load(name)
    load_ip_adapter(model)
    red, blue = picture("red"), picture("blue")
    assert difference(model, ip_adapter_image=red).latents == 0.0
    with_red, with_blue = (latents(model, ip_adapter_image=image) for image in (red, blue))
    assert (with_red - with_blue).abs().max() > 1e-3
    model.pipeline.set_ip_adapter_scale(0.0)
    assert (latents(model, ip_adapter_image=red) - with_red).abs().max() > 1e-3
    assert difference(model, ip_adapter_image=red).latents == 0.0


def test_a_composed_call_shows_an_ip_adapter_its_picture():
    """For two samples at once, each as its own pipeline makes it; what has no IP-Adapter is as it was."""
    model, sound = load("sd15"), load("audioldm")
    load_ip_adapter(model)
    pipe = ComposedPipeline({m.modality: m for m in (model, sound)})
    asked = dict(
        text=PROMPT_OF_CHECK,
        outputs=["image", "audio"],
        num_inference_steps=STEPS,
        num_samples=2,
        seed=[0, 1],
        output_type="latent",
    )
    with tiny_foreign.quiet():
        red, blue = (pipe(ip_adapter_image={"image": picture(c)}, **asked) for c in ("red", "blue"))
        own = sample_alone(
            model, [PROMPT_OF_CHECK] * 2, None, STEPS, seeds=[0, 1], ip_adapter_image=picture("red")
        )
        with pytest.raises(InputError, match="sd15 has an IP-Adapter, which is to be shown a picture"):
            pipe(**asked)
        with pytest.raises(InputError, match="ip_adapter_image of image is a str"):
            pipe(ip_adapter_image={"image": "red.png"}, **asked)
        model.pipeline.unload_ip_adapter()
        with pytest.raises(InputError, match=r"has no IP-Adapter .* load one by pipe.models\['image'\]"):
            pipe(ip_adapter_image={"image": picture("red")}, **asked)
        with pytest.raises(InputError, match="no IP-Adapter .* expected no ip_adapter_image for audio"):
            pipe(ip_adapter_image={"audio": picture("red")}, **asked)
    with pytest.raises(InputError, match="one picture for several outputs"):
        pipe(ip_adapter_image=picture("red"), **asked)
    with pytest.raises(InputError, match="names video, which is no output"):
        pipe(ip_adapter_image={"video": picture("red")}, **asked)
    assert torch.equal(red.latents[Modality.IMAGE], own)
    assert not torch.equal(red.latents[Modality.IMAGE], blue.latents[Modality.IMAGE])
    assert torch.equal(red.latents[Modality.AUDIO], blue.latents[Modality.AUDIO])
    assert red.origin["inputs"][-1] == {"as": "embeds", "weight": 1.0, "from": "a picture for an IP-Adapter"}
