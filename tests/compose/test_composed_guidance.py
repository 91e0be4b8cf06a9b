"""Guiders and classifier guidance on published models: what can act does, anything else is one line."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback

from codi.compose.pipeline import ComposedPipeline
from codi.types import InputError, Modality
from tests.compose.test_composed_pipeline import models, own

IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
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


@pytest.fixture(scope="module")
def pair():
    return ComposedPipeline(models({IMAGE: "sd15", AUDIO: "audioldm"}))


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


# Callbacks that change guidance ---------------------------------------------------------------------------


def cutoff(kind=SDCFGCutoffCallback):
    return kind(cutoff_step_ratio=None, cutoff_step_index=1)


def setting(scale, at=0):
    """Return a callback that sets the guidance scale of the steps after one."""

    def callback(pipe, step, timestep, tensors):
        pipe._guidance_scale = scale if step == at else pipe._guidance_scale
        return tensors

    return callback


@pytest.mark.parametrize("callback", [cutoff(), setting(0.0, at=1)], ids=["diffusers", "own"])
def test_guidance_that_a_callback_switches_off_is_off_as_in_its_own_pipeline(pipe, callback):
    cut = made(pipe, callback_on_step_end=callback).latents[IMAGE]
    model = pipe.models[IMAGE]
    theirs = own(model, "a red ball", 7, 3, 4.0, callback_on_step_end=cutoff())
    assert torch.equal(cut, theirs)
    assert torch.equal(cut, made(pipe, guidance_interval=(0.0, 0.5)).latents[IMAGE])
    assert not torch.equal(cut, made(pipe).latents[IMAGE])


def test_a_callback_may_change_the_scale_of_the_steps_that_are_left(pipe):
    changed = made(pipe, callback_on_step_end=setting({"image": 8.0}))
    assert pipe.guidance_scale == {"image": 8.0}
    assert not torch.equal(changed.latents[IMAGE], made(pipe).latents[IMAGE])
    assert not torch.equal(changed.latents[IMAGE], made(pipe, guidance_scale=8.0).latents[IMAGE])
    same = made(pipe, callback_on_step_end=setting(4)).latents[IMAGE]
    assert torch.equal(same, made(pipe).latents[IMAGE])


def test_a_network_that_is_told_the_scale_is_told_the_new_one():
    pipe = ComposedPipeline(models({IMAGE: "flux"}))
    changed = made(pipe, callback_on_step_end=setting(8.0)).latents[IMAGE]
    assert not torch.equal(changed, made(pipe).latents[IMAGE])
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(tensors["prompt_embeds"][IMAGE].arguments()["guidance"].tolist())
        return setting(8.0)(pipe, step, timestep, tensors)

    made(pipe, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert seen == [[4.0], [8.0], [8.0]]


@pytest.mark.parametrize(
    ("scale", "new", "words"),
    [
        (1.0, 3.0, "a callback set _guidance_scale in a call without guidance"),
        ({"image": 3.0, "audio": 1.0}, 5.0, "to 5 for audio, which began without guidance"),
        (3.0, "much", "guidance_scale"),
    ],
)
def test_a_scale_that_cannot_act_any_more_is_one_line(pair, scale, new, words):
    asked = dict(outputs=["image", "audio"], guidance_scale=scale, callback_on_step_end=setting(new))
    with pytest.raises(InputError) as error:
        made(pair, **asked)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_new_scale_of_one_output_leaves_the_others_alone(pair):
    asked = dict(outputs=["image", "audio"], guidance_scale={"image": 3.0, "audio": 1.0})
    plain = made(pair, **asked).latents
    changed = made(pair, **asked, callback_on_step_end=setting({"image": 5.0})).latents
    assert torch.equal(changed[AUDIO], plain[AUDIO]) and not torch.equal(changed[IMAGE], plain[IMAGE])


def test_callbacks_for_tensors_that_are_not_here_are_refused(pipe):
    with pytest.raises(InputError, match="asks for add_text_embeds"):
        made(pipe, callback_on_step_end=cutoff(SDXLCFGCutoffCallback))
    with pytest.raises(InputError, match="callback_on_step_end_tensor_inputs"):
        made(pipe, callback_on_step_end=setting(2.0), callback_on_step_end_tensor_inputs=["noise"])
