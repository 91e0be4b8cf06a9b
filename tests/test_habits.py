"""The habits of diffusers: names, noise, callbacks, outputs and switches of memory do here what they do
there, or say why not.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import callbacks
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from codi.adapters.files import save_lora
from codi.diffusion import draw_noise
from codi.models import lora
from codi.pipeline import CoDiPipeline
from codi.types import InputError, Modality
from tests.tiny_pipeline import pipeline

QUICK = dict(num_inference_steps=4, seed=0, output_type="latent")
IMAGE, AUDIO, VIDEO, TEXT = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO, Modality.TEXT


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture
def fresh():
    return pipeline()


def latents(pipe, *values, **arguments):
    return pipe(*values, **{**QUICK, "outputs": "image", **arguments}).latents


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[m], b[m]) for m in a)


def error(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names and numbers -----------------------------------------------------


def test_names_of_diffusers_are_ours(pipe):
    ours = latents(pipe, text="a ball", negative_text="at night", num_samples=2)
    assert same(latents(pipe, "a ball", negative_text="at night", num_samples=2), ours)
    assert same(latents(pipe, prompt="a ball", negative_prompt="at night", num_images_per_prompt=2), ours)
    for name in ("num_videos_per_prompt", "num_waveforms_per_prompt"):
        assert same(latents(pipe, "a ball", negative_prompt="at night", **{name: 2}), ours)
    none = dict(prompt=None, negative_prompt=None, num_images_per_prompt=None)
    assert same(latents(pipe, "a ball", **none), latents(pipe, "a ball"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (dict(text="a", prompt="b"), "text and prompt were both given, and mean the same"),
        (dict(negative_text="a", negative_prompt="b"), "negative_text and negative_prompt were both"),
        (dict(num_samples=1, num_images_per_prompt=1), "num_samples and num_images_per_prompt were both"),
        (
            dict(num_videos_per_prompt=1, num_images_per_prompt=1),
            "num_videos_per_prompt and num_images_per_prompt",
        ),
        (dict(steps=3), "unknown argument 'steps': did you mean num_inference_steps?"),
        (dict(guidance=3), "did you mean guidance_scale?"),
        (dict(guidance_scales=3), "did you mean guidance_scale?"),
        (dict(output="image"), "did you mean outputs?"),
        (dict(promt="a"), "did you mean prompt?"),
        (dict(num_frame=3), "did you mean num_frames?"),
        (dict(seconds=1), "did you mean audio_length_in_s?"),
        (dict(callback=print), "did you mean callback_on_step_end?"),
        (dict(zzz=3), "expected some of text, image,"),
    ],
)
def test_arguments_that_are_wrong_are_named(pipe, arguments, expected):
    assert expected in error(
        pipe, **{"outputs": "image", **arguments} if "output" not in arguments else arguments
    )


def test_places_and_names(pipe):
    assert "text was given twice" in error(pipe, "a", text="b", outputs="image")
    assert "text and prompt were both given" in error(pipe, "a", prompt="b", outputs="image")
    assert "arguments without a name" in error(pipe, *[None] * 60)


def test_numbers_of_numpy_and_torch_are_numbers(pipe):
    plain = latents(
        pipe,
        "a",
        seed=3,
        guidance_scale=2.5,
        height=32,
        width=64,
        num_samples=2,
        guidance_interval=(0.0, 0.5),
    )
    dressed = dict(
        seed=np.int64(3),
        guidance_scale={"image": np.float32(2.5)},
        height=np.int32(32),
        width=torch.tensor(64),
        num_samples=np.uint8(2),
        guidance_interval=np.array([0.0, 0.5]),
        num_inference_steps=np.int64(4),
        guidance_rescale=np.float16(0),
        auxiliary_caption=np.True_,
    )
    assert same(latents(pipe, "a", **dressed), plain)
    for seeds in (np.array([3, 4]), torch.tensor([3, 4]), [np.int64(3), torch.tensor(4)], range(3, 5)):
        assert same(latents(pipe, "a", **dressed | {"seed": seeds}), plain)
    made = dict(outputs=["video", "audio"])
    plain = latents(pipe, "a", num_frames=2, fps=4.0, audio_length_in_s=0.5, start_offset=0.5, **made)
    dressed = dict(
        num_frames=np.int64(2),
        fps=np.float32(4),
        audio_length_in_s=torch.tensor(0.5),
        start_offset=np.float64(0.5),
        **made,
    )
    assert same(latents(pipe, "a", **dressed), plain)
    assert "num_inference_steps is 2.5" in error(
        pipe, "a", outputs="image", num_inference_steps=np.float32(2.5)
    )
    assert "seed is an array of shape (1, 1)" in error(pipe, "a", outputs="image", seed=torch.zeros(1, 1))
    assert "seed is True" in error(pipe, "a", outputs="image", seed=np.True_)


# Noise -----------------------------------------------------------------


def test_latents_are_the_noise_that_a_seed_would_have_drawn(pipe):
    shape = pipe.model.specs[IMAGE].latent_shape
    noise, _ = draw_noise(shape, [5, 6], IMAGE)
    kept = noise.clone()
    assert same(latents(pipe, "a", latents=noise, num_samples=2), latents(pipe, "a", seed=5, num_samples=2))
    one = latents(pipe, "a", latents={"image": noise[:1]}, num_samples=2)[IMAGE]
    assert torch.equal(one[0], one[1]) and torch.equal(noise, kept)
    assert torch.allclose(one[:1], latents(pipe, "a", latents=noise[:1].double())[IMAGE], atol=1e-4)


def test_outputs_that_are_not_named_are_made_of_the_seeds(pipe):
    call = dict(outputs=["image", "audio"], seed=7)
    noise, _ = draw_noise(pipe.model.specs[AUDIO].latent_shape, [7], AUDIO)
    assert same(latents(pipe, "a", latents={"audio": noise}, **call), latents(pipe, "a", **call))
    assert not same(latents(pipe, "a", latents={AUDIO: -noise}, **call), latents(pipe, "a", **call))


def test_the_schedulers_sigma_is_put_to_given_noise(fresh):
    fresh.scheduler = EulerDiscreteScheduler.from_config(fresh.scheduler.config, timestep_spacing="linspace")
    noise, _ = draw_noise(fresh.model.specs[IMAGE].latent_shape, [0], IMAGE)
    assert fresh.scheduler.init_noise_sigma > 2
    assert same(latents(fresh, "a", latents=noise), latents(fresh, "a"))


def test_latents_of_another_size(pipe):
    shape = (4, 8, 16)
    assert latents(pipe, "a", width=64, latents=torch.randn(1, *shape))[IMAGE].shape == (1, *shape)


BAD_NOISE = {
    "shape": (
        dict(latents=torch.zeros(1, 4, 8, 9)),
        r"latents of image is \(1, 4, 8, 9\): expected standard normal floats \(1, 4, 8, 8\)",
    ),
    "rows": (dict(latents=torch.zeros(3, 4, 8, 8), num_samples=2), r"\(1 or 2, 4, 8, 8\)"),
    "one for two": (
        dict(latents=torch.zeros(1, 4, 8, 8), outputs=["image", "audio"]),
        "one Tensor for image, audio",
    ),
    "no output": (dict(latents={"audio": torch.zeros(1)}), "latents names audio, which is no output"),
    "unknown": (dict(latents={"smell": torch.zeros(1)}), "unknown modality 'smell'"),
    "array": (dict(latents=np.zeros((1, 4, 8, 8))), "latents of image is a ndarray"),
    "whole numbers": (dict(latents=torch.zeros(1, 4, 8, 8, dtype=torch.int64)), "latents of image"),
    "not finite": (dict(latents=torch.full((1, 4, 8, 8), torch.inf)), "NaN or infinite"),
    "candidates": (
        dict(latents=torch.zeros(1, 4, 8, 8), candidates=2),
        "latents and candidates were both given",
    ),
}


@pytest.mark.parametrize("name", BAD_NOISE)
def test_noise_that_cannot_be_used(pipe, name):
    arguments, message = BAD_NOISE[name]
    with pytest.raises(InputError, match=message):
        pipe("a", **{"outputs": "image", **arguments})


# Callbacks -------------------------------------------------------------


def cutoff(index=None, ratio=None):
    return callbacks.SDCFGCutoffCallback(cutoff_step_ratio=ratio, cutoff_step_index=index)


@pytest.mark.parametrize("outputs", [["image"], ["image", "audio"]], ids="+".join)
def test_guidance_that_a_callback_of_diffusers_cuts_off_is_an_interval(pipe, outputs):
    call = dict(outputs=outputs, guidance_scale=4.0, negative_text="night", num_samples=2)
    cut = latents(pipe, "a ball", callback_on_step_end=cutoff(index=1), **call)
    assert same(cut, latents(pipe, "a ball", guidance_interval=(0.0, 0.5), **call))
    assert same(cut, latents(pipe, "a ball", callback_on_step_end=cutoff(ratio=0.25), **call))
    assert not same(cut, latents(pipe, "a ball", **call))
    assert not same(cut, latents(pipe, "a ball", **call | {"guidance_scale": 1.0, "negative_text": None}))
    assert same(
        latents(pipe, "a ball", **call), latents(pipe, "a ball", callback_on_step_end=cutoff(index=9), **call)
    )


def test_several_callbacks_of_diffusers_and_one_of_the_users_kind(pipe):
    seen = []

    class Watch(callbacks.PipelineCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            state = (
                step_index,
                pipeline.num_timesteps,
                pipeline.guidance_scale,
                pipeline.do_classifier_free_guidance,
            )
            seen.append(
                (
                    *state,
                    int(timestep) == int(pipeline.current_timestep),
                    callback_kwargs["latents"][IMAGE].shape[0],
                )
            )
            return callback_kwargs

    both = callbacks.MultiPipelineCallbacks([cutoff(index=1), Watch()])
    cut = latents(pipe, "a ball", guidance_scale=4.0, callback_on_step_end=both)
    assert same(cut, latents(pipe, "a ball", guidance_scale=4.0, guidance_interval=(0.0, 0.5)))
    assert (
        [row[0] for row in seen] == [0, 1, 2, 3]
        and {row[1] for row in seen} == {4}
        and {row[-2:] for row in seen} == {(True, 1)}
    )
    assert [row[2] for row in seen] == [4.0, 0.0, 0.0, 0.0] and [row[3] for row in seen][::2] == [True, False]
    assert pipe.current_timestep is None and not pipe.interrupt


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (callbacks.IPAdapterScaleCutoffCallback, "IP-Adapter, which codi has none of"),
        (callbacks.SDXLCFGCutoffCallback, "asks for add_text_embeds"),
        (callbacks.SD3CFGCutoffCallback, "asks for pooled_prompt_embeds"),
    ],
)
def test_callbacks_for_what_is_not_here_are_refused_before_anything_is_made(pipe, kind, expected):
    callback = kind(cutoff_step_ratio=None, cutoff_step_index=10**6)  # a step that never comes
    for given in (callback, callbacks.MultiPipelineCallbacks([cutoff(index=0), callback])):
        assert expected in error(pipe, "a", outputs="image", callback_on_step_end=given)


def test_a_callback_may_set_the_scale_of_the_steps_that_are_left(pipe):
    def dynamic(pipe, step, timestep, tensors):
        pipe._guidance_scale = {"image": np.float32(4)} if step == 1 else pipe._guidance_scale

    changed = latents(pipe, "a", guidance_scale=2.0, callback_on_step_end=dynamic)
    assert pipe.guidance_scale == {"image": 4.0}
    assert not same(changed, latents(pipe, "a", guidance_scale=2.0))
    assert "without guidance" in error(latents, pipe, "a", guidance_scale=1.0, callback_on_step_end=dynamic)
    latents(pipe, "a", outputs=["image", "audio"], guidance_scale={"image": 2.0, "audio": 3.0})
    assert pipe.guidance_scale == {"image": 2.0, "audio": 3.0} and pipe.do_classifier_free_guidance
    latents(pipe, "a", guidance_scale=1.0)
    assert pipe.guidance_scale == 1.0 and not pipe.do_classifier_free_guidance


def test_what_is_no_callback_and_what_holds_no_partners(pipe):
    assert "callback_on_step_end is a str" in error(pipe, "a", outputs="image", callback_on_step_end="x")
    assert "partner_latents is a int" in error(pipe, "a", outputs="image", partner_latents=3)
    assert "outputs names nothing" in error(pipe, "a", outputs=None)


def test_before_a_call_there_is_no_scale(fresh):
    assert fresh.guidance_scale is None and fresh.num_timesteps == 0 and not fresh.do_classifier_free_guidance


# Outputs ---------------------------------------------------------------


def test_the_tuple_is_the_media_in_the_order_of_the_outputs(pipe):
    call = dict(num_inference_steps=1, seed=0)
    out = pipe("a", outputs=["video", "text", "audio"], **call)
    assert out.frames is out.videos and out["frames"] is out.videos and out["videos"] is out.videos
    assert out[0] is out.videos and out[1] is out.texts and out[-1] is out.audios and len(out.to_tuple()) == 3
    plain = pipe("a", outputs=["video", "text", "audio"], return_dict=False, **call)
    assert isinstance(plain, tuple) and torch.equal(plain[0][0], out.videos[0]) and plain[1] == out.texts
    [images] = pipe("a", outputs="image", return_dict=False, **call)
    assert images[0].size == (32, 32)
    made = pipe("a", outputs=["audio", "image"], output_type="latent", **call)
    assert made[0] is made.latents[AUDIO] and made[1] is made.latents[IMAGE]


# Memory ----------------------------------------------------------------


@pytest.mark.parametrize("outputs", ["image", "video", "audio"])
def test_slicing_changes_no_more_than_rounding(fresh, outputs):
    call = dict(outputs=outputs, num_samples=2, num_inference_steps=1, seed=0)
    latent = fresh("a", output_type="latent", **call).latents
    whole = fresh.decode_latents(latent)
    fresh.enable_vae_slicing()
    calls = []
    part = fresh.audio_autoencoder if outputs == "audio" else fresh.image_autoencoder
    part.vae.decoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    sliced = fresh.decode_latents(latent)
    assert set(calls) == {1} and len(calls) > 1
    fresh.disable_vae_slicing()
    calls.clear()
    fresh.decode_latents(latent)
    assert set(calls) != {1}
    assert all((whole[m] - sliced[m]).abs().max() < 1e-5 for m in whole)


def test_tiling_acts_above_the_models_own_size_alone(fresh):
    call = dict(num_inference_steps=1, seed=0, output_type="pt")
    own, large = (
        fresh("a", outputs="image", **call, **size).images[0] for size in ({}, dict(height=64, width=96))
    )
    fresh.enable_vae_tiling()
    calls = []
    fresh.image_autoencoder.vae.decoder.register_forward_hook(
        lambda module, inputs, output: calls.append(inputs[0].shape[-2:])
    )
    assert torch.equal(fresh("a", outputs="image", **call).images[0], own) and len(calls) == 1
    tiled = fresh("a", outputs="image", height=64, width=96, **call).images[0]
    assert len(calls) > 2 and max(max(shape) for shape in calls) == 8 and tiled.shape == large.shape
    fresh.disable_vae_tiling()
    assert torch.equal(fresh("a", outputs="image", height=64, width=96, **call).images[0], large)


def test_without_autoencoders_there_is_nothing_to_slice(fresh):
    fresh.image_autoencoder = None
    assert "nothing to tile" in error(fresh.enable_vae_tiling)
    fresh.enable_vae_slicing()
    fresh.audio_autoencoder = None
    assert "nothing to slice" in error(fresh.enable_vae_slicing)


def test_switches_of_attention_say_that_they_change_nothing(fresh):
    alone = latents(fresh, "a")
    for switch in ("attention_slicing", "xformers_memory_efficient_attention"):
        with pytest.warns(UserWarning, match=f"enable_{switch} changes nothing"):
            getattr(fresh, f"enable_{switch}")()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            getattr(fresh, f"disable_{switch}")()
    assert same(latents(fresh, "a"), alone)


# The page --------------------------------------------------------------


def test_the_page_on_python_runs(tmp_path, monkeypatch):
    """Every block, in order, with the embedded model at two steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    first, *rest = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(rest) > 6
    donor = CoDiPipeline.from_pretrained()
    denoiser = donor.vision_denoiser
    lora.add_lora(denoiser, lora.find_layers(denoiser, lora.ATTENTION, False), rank=2, alpha=2)
    save_lora(
        tmp_path / "my-lora",
        {"vision_denoiser": denoiser},
        rank=2,
        alpha=2,
        base="codi-tiny",
        targets=lora.ATTENTION,
    )
    load = CoDiPipeline.from_pretrained

    def quick(*arguments, **options):
        pipe = load(*arguments, **options)
        pipe.register_to_config(defaults={**pipe.config.defaults, "num_inference_steps": 2})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    monkeypatch.setattr(CoDiPipeline, "from_pretrained", quick)
    names = {}
    for block in (first, *rest):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "out" / "000.mp4").is_file() and (tmp_path / "my-model" / "README.md").is_file()
