"""Guiders and classifier guidance on published models: what can act does, anything else is one line."""

import pytest
import torch
from diffusers import DDIMScheduler

from codi.compose.pipeline import ComposedPipeline
from codi.types import InputError, Modality
from tests.compose.test_composed_pipeline import models

IMAGE = Modality.IMAGE
ASKED = dict(
    text="a red ball",
    outputs=["image"],
    num_inference_steps=3,
    guidance_scale=4.0,
    seed=7,
    output_type="latent",
)


@pytest.fixture(scope="module")
def pipe():
    found = models({IMAGE: "sd15"})
    scheduler = found[IMAGE].pipeline.scheduler
    found[IMAGE].pipeline.scheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    return ComposedPipeline(found)


def made(pipe, **options):
    return pipe(**{**ASKED, **options})


def test_guiders_act_on_published_models_and_the_plain_one_changes_no_bit(pipe):
    plain = made(pipe)
    assert torch.equal(made(pipe, guider="cfg").latents[IMAGE], plain.latents[IMAGE])
    for name in ("apg", "zero-star"):
        out = made(pipe, guider=name)
        assert not torch.equal(out.latents[IMAGE], plain.latents[IMAGE])
        assert out.settings["guider"]["image"]["name"] == name
    own = made(pipe, guider="cfg++", guidance_scale=None)
    assert own.settings["guidance_scale"] == {"image": 0.6} and own.latents[IMAGE].isfinite().all()


def test_a_function_steers_a_published_model(pipe):
    def low(latents, prompts):
        return -latents[IMAGE].flatten(1).mean(1) * 1000

    steered = made(pipe, classifier_guidance=low).latents[IMAGE]
    assert steered.mean() < made(pipe).latents[IMAGE].mean() - 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guider": "skip-layer"}, "acts on blocks of codi's own denoisers, and another network makes image"),
        ({"guider": "perturbed-attention"}, "acts on blocks of codi's own denoisers"),
        ({"guider": {"name": "zero-star", "zero_steps": 1}}, "image is no flow matching"),
        ({"guider": "cfg++"}, "guidance_scale of image is 4, and the guider cfg++ has a scale of its own"),
        ({"classifier_guidance": "prompt"}, "no noisy-latent encoder of image"),
    ],
)
def test_what_cannot_act_is_one_line(pipe, options, words):
    with pytest.raises(InputError) as caught:
        made(pipe, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
