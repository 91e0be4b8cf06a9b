"""Foreign models are what their own pipelines are, to the bit, and say where their latents are."""

import functools

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from codi.compose.check import latents_of_pipeline, sample_alone
from codi.compose.families import FAMILIES, family_of
from codi.compose.foreign import ForeignModel
from codi.compose.grid import causal_seconds
from codi.types import InputError
from tests.compose import tiny_foreign

MODELS: dict[str, ForeignModel] = {}


def foreign(name: str) -> ForeignModel:
    """The tiny pipeline of a name as a foreign model, loaded once."""
    if name not in MODELS:
        MODELS[name] = fresh(name)
    return MODELS[name]


def fresh(name: str) -> ForeignModel:
    pipeline = DiffusionPipeline.from_pretrained(str(tiny_foreign.folder(name)))
    return ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)


def own_latents(model: ForeignModel, texts, negatives, steps, scale, seeds):
    call = model._arguments(
        model.call_for(),
        prompt=texts,
        num_inference_steps=steps,
        guidance_scale=scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    if negatives is not None:
        call["negative_prompt"] = negatives
    latents = latents_of_pipeline(model, **call)
    if model.pipeline.__class__.__name__ == "TextToVideoSDPipeline":
        latents = latents.unflatten(0, (len(texts), -1)).transpose(1, 2)
    return latents


CASES = [
    (["a red ball bounces"], ["blurry bad"], 7),
    (["a red ball bounces", "a blue star at night"], None, 10),
]


@pytest.mark.parametrize("name", tiny_foreign.NAMES)
@pytest.mark.parametrize("texts, negatives, steps", CASES, ids=["one-negative", "two"])
def test_latents_equal_the_pipelines_own_to_the_bit(name, texts, negatives, steps):
    model = foreign(name)
    if not model.family.guided:
        negatives = None
    seeds = [5 + k for k in range(len(texts))]
    ours = sample_alone(model, texts, negatives, steps, 5.0, seeds)
    assert torch.equal(ours, own_latents(model, texts, negatives, steps, 5.0, seeds))


@pytest.mark.parametrize("name", ["sd15", "wan", "audioldm2", "flux"])
def test_another_guidance_scale_gives_something_else(name):
    model = foreign(name)
    ours = sample_alone(model, ["a red ball"], None, 3, 5.0, [1])
    assert not torch.equal(ours, own_latents(model, ["a red ball"], None, 3, 2.0, [1]))


def test_without_guidance_there_is_one_branch():
    model = foreign("sd15")
    ours = sample_alone(model, ["a red ball"], None, 3, 1.0, [1])
    assert torch.equal(ours, own_latents(model, ["a red ball"], None, 3, 1.0, [1]))
    with pytest.raises(InputError, match="guidance scale of 1.*no negative prompt"):
        model.prepare(["a red ball"], ["bad"], 3, 1.0)


def test_no_negative_prompt_where_there_is_no_branch_for_it():
    with pytest.raises(InputError, match="has no second branch"):
        foreign("flux").prepare(["a red ball"], ["bad"], 3, 5.0)


@pytest.mark.parametrize("name", tiny_foreign.NAMES)
def test_media_are_those_of_the_pipeline(name):
    model = foreign(name)
    latent = sample_alone(model, ["a red ball"], None, 3, 5.0, [1])
    call = model._arguments(
        model.call_for(),
        prompt=["a red ball"],
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(1)],
    )
    theirs = torch.as_tensor(model.pipeline(**call, **model.family.media)[0])
    theirs = theirs * 2 - 1 if model.family.of_pixels else theirs
    ours = model.decode(latent)
    assert ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= 1e-6


@pytest.mark.parametrize("name", tiny_foreign.NAMES)
def test_encoding_gives_what_the_pipeline_would_decode(name):
    """The autoencoder is given exactly what it made of the media."""
    model = foreign(name)
    media = model.decode(sample_alone(model, ["a red ball"], None, 2, 5.0, [1]))
    encoded = model.family.encode(model.pipeline, media, None, model.call_for()).float()
    latent = model.encode(media)
    assert latent.shape[1:] == model.spec().latent_shape
    assert torch.allclose(model._decoded_from(latent, model.call_for()), encoded, atol=2e-6)


@pytest.mark.parametrize("name", tiny_foreign.NAMES)
def test_geometry_is_that_of_the_media(name):
    model = foreign(name)
    spec = model.spec()
    media = model.decode(sample_alone(model, ["a red ball"], None, 2, 5.0, [1]))
    channels = media.ndim == 3  # a sound of several channels
    assert tuple(media[0, 0].shape if channels else media.shape[1:]) == spec.raw_shape


@pytest.mark.parametrize("name", ["sd15", "flux", "animatediff", "ltx"])
def test_pictures_need_not_be_square(name):
    model = foreign(name)
    sizes = {"height": 32, "width": 64}
    ours = sample_alone(model, ["a red ball"], None, 3, 5.0, [1], sizes)
    call = model._arguments(
        model.call_for(sizes),
        prompt=["a red ball"],
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(1)],
    )
    assert torch.equal(ours, latents_of_pipeline(model, **call))
    assert model.spec(sizes).raw_shape[-2:] == (32, 64)
    grid = model.prepare(["a"], sizes=sizes).grid
    assert grid.to_steps(ours).shape[-2:] == (grid.shape[1], grid.shape[2])
    assert torch.equal(grid.from_steps(grid.to_steps(ours)), ours)


def test_latent_frames_of_causal_autoencoders_are_not_even():
    """One frame, then eight: 0 to 1/8 s, and 1/8 to 9/8 s."""
    assert torch.allclose(causal_seconds(2, 8, 8.0), torch.tensor([0.0625, 0.625]))
    grid = foreign("ltx").prepare(["a"]).grid
    assert grid.seconds is not None and len(grid.seconds) == grid.steps == 3
    steps = grid.seconds.diff()
    assert not torch.allclose(steps[0], steps[1])


def test_lengths_in_seconds_are_rounded_to_the_grid():
    assert foreign("animatediff").lasting(0.5)["num_frames"] == 4
    wan = foreign("wan").lasting(1.0)["num_frames"]
    assert (wan - 1) % 4 == 0 and abs(wan / 16 - 1.0) < 0.25
    assert foreign("stable_audio").lasting(0.7)["audio_length_in_s"] == 0.7
    assert foreign("sd15").lasting(0.7) == {}


def test_a_networks_class_and_weights_are_untouched():
    model = fresh("sd15")
    kind, before = type(model.network), {k: v.clone() for k, v in model.network.state_dict().items()}
    sample_alone(model, ["a red ball"], None, 2, 5.0, [1])
    after = model.network.state_dict()
    assert type(model.network) is kind and before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert "forward" not in model.network.__dict__ and "step" not in model.pipeline.scheduler.__dict__


def test_what_offloading_put_in_place_of_forward_stays():
    model = fresh("sd15")
    own = model.network.forward
    model.network.forward = lambda *args, **kwargs: own(*args, **kwargs)
    hook = model.network.__dict__["forward"]
    model.prepare(["a red ball"])
    assert model.network.__dict__["forward"] is hook


def test_another_scheduler_of_the_pipeline_is_used():
    model = fresh("sd15")
    model.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(model.pipeline.scheduler.config)
    ours = sample_alone(model, ["a red ball"], None, 4, 5.0, [1])
    assert torch.equal(ours, own_latents(model, ["a red ball"], None, 4, 5.0, [1]))


def test_a_pipeline_that_changes_arguments_from_step_to_step_is_refused():
    model = fresh("sd15")
    network = model.network
    original = type(model.pipeline).__call__

    class Changing(type(model.pipeline)):
        @functools.wraps(original)  # its arguments are asked for
        def __call__(self, *args, **kwargs):
            count = 0
            inner = network.forward

            def forward(sample, t, encoder_hidden_states=None, **more):
                nonlocal count
                count += 1
                return inner(sample, t, encoder_hidden_states=encoder_hidden_states * count, **more)

            self.unet.forward = forward
            return original(self, *args, **kwargs)

    Changing.__name__ = "StableDiffusionPipeline"
    model.pipeline.__class__ = Changing
    with pytest.raises(InputError, match="changes encoder_hidden_states of its denoiser from step to step"):
        model.prepare(["a red ball"])


def test_a_second_denoiser_is_refused_by_name():
    pipeline = DiffusionPipeline.from_pretrained(str(tiny_foreign.folder("wan")))
    pipeline.transformer_2 = pipeline.transformer
    with pytest.raises(InputError, match="second denoiser that takes over at low noise"):
        ForeignModel(pipeline=pipeline)


def test_what_a_pipeline_refuses_is_one_line():
    with pytest.raises(InputError, match="sd15 refuses this call: .*divisible by 8"):
        foreign("sd15").prepare(["a"], sizes={"height": 33, "width": 32})


def test_a_class_that_is_not_in_the_table_is_refused():
    with pytest.raises(InputError, match="KandinskyPipeline cannot be composed: expected one of"):
        family_of("KandinskyPipeline")
    assert len(FAMILIES) >= 11


def test_more_frames_than_a_motion_module_has_positions_for_are_refused():
    model = foreign("animatediff")
    with pytest.raises(InputError, match="at most 16 frames, and 17 were asked for: expected fewer"):
        model.prepare(["a red ball"], num_inference_steps=2, sizes={"num_frames": 17})
    most = sample_alone(model, ["a red ball"], None, 2, 1.0, sizes={"num_frames": 16})
    assert most.shape[2] == 16
    # other networks have no such limit
    assert (
        foreign("modelscope").prepare(["a"], num_inference_steps=2, sizes={"num_frames": 17}).grid.steps == 17
    )
