"""The pipeline with real parts, small and untrained: what it promises holds whatever the weights are."""

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image

from codi import io
from codi.models.conditioning import interpolate
from codi.outputs import FIELDS
from codi.pipeline import CoDiPipeline, Prompt
from codi.types import InputError, Modality
from tests.tiny_pipeline import WORDS, pipeline

SUBSETS = [subset for size in range(1, 5) for subset in combinations(Modality, size)]
QUICK = dict(num_inference_steps=2, seed=0)
GENERATOR = torch.Generator().manual_seed(3)
SOUND = torch.rand(6000, generator=GENERATOR) - 0.5
FRAMES = torch.randint(0, 256, (6, 3, 40, 50), generator=GENERATOR, dtype=torch.uint8)
PICTURE = Image.fromarray(FRAMES[0].permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture
def fresh():
    return pipeline()


def latents(pipe, **arguments):
    return pipe(output_type="latent", **{**QUICK, **arguments}).latents


def largest_difference(a, b):
    return max((a[m] - b[m]).abs().max().item() for m in a)


@pytest.mark.parametrize("outputs", SUBSETS, ids="+".join)
def test_every_set_of_outputs(pipe, outputs):
    out = pipe(text="a red ball", outputs=list(outputs), num_samples=2, **QUICK)
    for modality, name in FIELDS.items():
        assert len(getattr(out, name)) == (2 if modality in outputs else 0)
    if Modality.VIDEO in outputs:
        assert out.videos[0].shape == (4, 3, 32, 32) and out.videos[0].dtype == torch.uint8 and out.fps == 8
    if Modality.AUDIO in outputs:
        assert out.audios[0].shape == (8000,) and out.sampling_rate == 16000


@pytest.mark.parametrize("inputs", SUBSETS, ids="+".join)
def test_every_set_of_inputs(pipe, inputs):
    given = {"text": "a ball", "image": PICTURE, "audio": (SOUND, 16000), "video": (FRAMES, 10)}
    result = latents(pipe, outputs="image", **{m.value: given[m.value] for m in inputs})
    assert result[Modality.IMAGE].isfinite().all()


@pytest.mark.parametrize(
    "outputs", [["image"], ["video", "audio"], ["text", "image", "audio", "video"]], ids="+".join
)
def test_sample_of_a_batch_equals_sample_alone(pipe, outputs):
    batch = latents(pipe, text="a red ball", outputs=outputs, num_samples=3, seed=5, guidance_scale=2.0)
    alone = latents(pipe, text="a red ball", outputs=outputs, seed=7, guidance_scale=2.0)
    assert largest_difference(alone, {m: z[2:] for m, z in batch.items()}) < 1e-4


def test_noise_does_not_depend_on_the_batch_or_on_other_outputs(pipe):
    both, _ = pipe.prepare_latents([Modality.AUDIO, Modality.VIDEO], [4, 5])
    one, _ = pipe.prepare_latents([Modality.VIDEO], [5])
    assert torch.equal(one[Modality.VIDEO][0], both[Modality.VIDEO][1])


def test_reported_seeds_make_the_same_again(pipe):
    first = pipe(text="a ball", outputs="image", num_samples=2, num_inference_steps=2, output_type="np")
    again = pipe(
        text="a ball",
        outputs="image",
        num_samples=2,
        num_inference_steps=2,
        output_type="np",
        seed=first.seeds,
    )
    assert all(np.array_equal(a, b) for a, b in zip(first.images, again.images))


def test_a_generator_is_a_source_of_seeds(pipe):
    call = dict(text="a ball", outputs="image", num_inference_steps=1, num_samples=2)
    first, again = (pipe(**call, generator=torch.Generator().manual_seed(1)).seeds for _ in range(2))
    assert first == again and len(set(first)) == 2


def test_order_of_prompts_and_outputs_does_not_matter(pipe):
    there = latents(pipe, text=["a ball", "a cube", "a sea"], image=PICTURE, outputs=["image", "audio"])
    back = latents(pipe, image=PICTURE, text=["a sea", "a ball", "a cube"], outputs=["audio", "image"])
    assert largest_difference(there, back) == 0


def test_prompts_interpolate_to_the_same_bits_in_every_order():
    """Sums of floats depend on the order of their terms; many terms, so that it would show."""
    tokens = list(torch.randn(5, 2, 64, generator=torch.Generator().manual_seed(0)).split(1))
    weights = [1.0, 0.7, 0.3, 2.0, 0.1]
    orders = list(permutations(range(5)))
    for dtype in (torch.float32, torch.bfloat16):
        mixed = [
            interpolate([tokens[i][0].to(dtype) for i in order], [weights[i] for i in order], True)
            for order in orders
        ]
        assert all(torch.equal(mixed[0], other) for other in mixed)


def test_weights_interpolate(pipe):
    encode = lambda *items: pipe.encode_prompt({Modality.TEXT: items})
    ball, cube = encode(Prompt("a ball")), encode(Prompt("a cube"))
    torch.testing.assert_close(
        encode(Prompt("a ball", 3.0), Prompt("a cube", 1.0)), 0.75 * ball + 0.25 * cube
    )
    torch.testing.assert_close(encode(Prompt("a ball"), Prompt("a cube", 0.0)), ball)


def test_no_prompt_is_unconditional(pipe):
    plain = latents(pipe, outputs="image", guidance_scale=4.0)
    same = latents(pipe, text="a ball", outputs="image", guidance_scale=0.0)
    assert largest_difference(plain, same) < 1e-5
    assert largest_difference(plain, latents(pipe, text="a ball", outputs="image", guidance_scale=4.0)) > 1e-3


def test_guidance_per_output(fresh):
    fresh.environment_encoders = fresh.noisy_latent_encoders = None
    settings = dict(text="a ball", outputs=["image", "audio"])
    both, one = (
        latents(fresh, guidance_scale=scale, **settings) for scale in (5.0, {"image": 5.0, "audio": 1.0})
    )
    assert torch.equal(both[Modality.IMAGE], one[Modality.IMAGE]) and not torch.equal(
        both[Modality.AUDIO], one[Modality.AUDIO]
    )


@pytest.mark.parametrize("kept", ["environment_encoders", "noisy_latent_encoders"])
def test_outputs_hear_each_other_through_environments_and_partner_estimates_only(fresh, kept):
    alone = latents(fresh, text="a ball", outputs=["audio"])
    for name in {"environment_encoders", "noisy_latent_encoders"} - {kept}:
        setattr(fresh, name, None)
    together = latents(fresh, text="a ball", outputs=["audio", "video"])
    assert not torch.equal(alone[Modality.AUDIO], together[Modality.AUDIO])
    setattr(fresh, kept, None)
    apart = latents(fresh, text="a ball", outputs=["audio", "video"])
    assert (alone[Modality.AUDIO] - apart[Modality.AUDIO]).abs().max() < 1e-5


def test_an_output_may_start_late_and_a_callback_sees_every_step(pipe):
    seen, call = [], dict(text="a ball", outputs=["audio", "video"], num_inference_steps=4)
    note = lambda pipe, step, timestep, tensors: seen.append((step, int(timestep))) or {}
    late = latents(pipe, **call, start_offset={"video": 0.5}, callback_on_step_end=note)
    assert [step for step, _ in seen] == list(range(6))
    assert largest_difference(late, latents(pipe, **call)) > 1e-4
    with pytest.raises(InputError, match="start_offset of video is 4: expected 0 to 3"):
        latents(pipe, **call, start_offset={"video": 4.0})
    with pytest.raises(InputError, match="start_offset names image, which is no output"):
        latents(pipe, **call, start_offset={"image": 0.5})


def test_the_weight_of_what_partners_seem_to_be_is_a_default_of_the_model(fresh):
    fresh.environment_encoders = None
    call = dict(text="a ball", outputs=["audio", "video"])
    plain = latents(fresh, **call)
    fresh.register_to_config(defaults={**fresh.config.defaults, "partner_estimate_weight": 0.0})
    unheard = latents(fresh, **call)
    fresh.noisy_latent_encoders = None
    assert (
        largest_difference(plain, unheard) > 1e-4
        and largest_difference(unheard, latents(fresh, **call)) < 1e-6
    )


def test_a_prior_reads_every_prompt_but_a_single_sentence(fresh):
    encode = lambda **items: fresh.encode_prompt({Modality(m): prompts for m, prompts in items.items()})
    ball, cube, picture = Prompt("a ball"), Prompt("a cube", 0.5), Prompt(PICTURE)
    calls = [
        dict(text=[ball]),
        dict(image=[picture]),
        dict(text=[ball, cube]),
        dict(text=[ball], image=[picture]),
    ]
    plain = [encode(**call) for call in calls]
    fresh.register_to_config(
        defaults={**fresh.config.defaults, "caption_prior": "text", "normalise_prompts": True}
    )
    sentence, *others = [encode(**call) for call in calls]
    assert torch.equal(sentence, plain[0]) and all(
        (a - b).abs().max() > 1e-3 for a, b in zip(others, plain[1:])
    )
    torch.testing.assert_close(sentence, encode(text=[ball, Prompt("a cube", 0.0)]))
    assert torch.equal(encode(text=[ball, cube]), encode(text=[cube, ball]))
    assert all((token.norm(dim=-1) - 1).abs().max() < 1e-5 for token in others)
    fresh.noisy_latent_encoders = None  # nothing to read with
    assert torch.equal(encode(image=[picture]), plain[1])
    with pytest.raises(InputError, match="default caption_prior is 'smell': expected text, image, audio"):
        CoDiPipeline(fresh.scheduler, defaults={"caption_prior": "smell"})


def test_outputs_agree_with_a_caption_that_nobody_asked_for(fresh):
    pair, three = ["audio", "video"], ["text", "audio", "video"]
    call, scales = (
        dict(text="a ball", guidance_scale=2.0, start_offset={"audio": 0.5}),
        {"audio": 3.0, "video": 2.0},
    )
    alone, unled = latents(fresh, **call, outputs=["audio"]), latents(fresh, **call, outputs=pair)
    fresh.register_to_config(defaults={**fresh.config.defaults, "auxiliary_caption": "text"})
    led = latents(fresh, **call, outputs=pair)
    assert set(led) == {Modality.AUDIO, Modality.VIDEO} and largest_difference(led, unled) > 1e-4
    assert largest_difference(led, latents(fresh, **call, outputs=three)) == 0.0
    assert largest_difference(unled, latents(fresh, **call, outputs=pair, auxiliary_caption=False)) == 0.0
    # the caption's is the model's own
    by_name = latents(fresh, **{**call, "guidance_scale": scales}, outputs=pair)
    assert (
        largest_difference(
            by_name, latents(fresh, **{**call, "guidance_scale": scales | {"text": 3.0}}, outputs=three)
        )
        == 0.0
    )
    # one output has nobody to agree with
    assert largest_difference(alone, latents(fresh, **call, outputs=["audio"])) == 0.0
    with pytest.raises(InputError, match="guidance_scale names text, which is no output"):
        latents(fresh, **{**call, "guidance_scale": {**scales, "text": 1.5}}, outputs=pair)
    out = fresh(**call, outputs=pair, num_samples=2, candidates=2, **QUICK)
    assert (
        out.texts == []
        and len(out.audios) == 2
        and set(out.selection[0]["scores"][0]) == {"prompt", "mutual", "onsets", "total"}
    )


def test_a_lead_is_there_for_whoever_hears_it(fresh):
    fresh.register_to_config(
        defaults={**fresh.config.defaults, "auxiliary_caption": "text", "partner_estimate_weight": 0.0}
    )
    pair = [Modality.AUDIO, Modality.VIDEO]
    assert (
        fresh.find_auxiliary(pair) == [Modality.TEXT]
        and fresh.find_auxiliary(pair, [Modality.TEXT]) == fresh.find_auxiliary(pair[:1]) == []
    )
    # an input cannot be drawn as well
    held = latents(fresh, text="a ball", outputs=["image", "audio"], sync=["text"])
    assert set(held) == {Modality.IMAGE, Modality.AUDIO}
    fresh.environment_encoders = None
    assert fresh.find_auxiliary(pair) == []
    fresh.register_to_config(defaults={**fresh.config.defaults, "partner_estimate_weight": 1.0})
    assert fresh.find_auxiliary(pair) == [Modality.TEXT]
    fresh.text_denoiser = None
    assert fresh.find_auxiliary(pair) == [] and latents(fresh, text="a ball", outputs=["audio", "video"])
    with pytest.raises(InputError, match="default auxiliary_caption is 'smell': expected text, image, audio"):
        CoDiPipeline(fresh.scheduler, defaults={"auxiliary_caption": "smell"})


def test_a_callback_sees_a_lead_and_may_leave_it_alone(fresh):
    fresh.register_to_config(defaults={**fresh.config.defaults, "auxiliary_caption": "text"})
    call, seen = dict(text="a ball", outputs=["audio", "video"]), []
    given = ("latents", "prompt_embeds")

    def only_sound(pipe, step, timestep, tensors):
        seen.append(set(tensors["latents"]))
        return {name: {Modality.AUDIO: tensors[name][Modality.AUDIO]} for name in given}

    untouched = latents(
        fresh, **call, callback_on_step_end=only_sound, callback_on_step_end_tensor_inputs=given
    )
    assert (
        seen == [{Modality.TEXT, Modality.AUDIO, Modality.VIDEO}] * 2
        and largest_difference(untouched, latents(fresh, **call)) == 0.0
    )


def test_a_lead_with_a_clock_keeps_the_sizes_of_the_call(fresh):
    fresh.register_to_config(defaults={**fresh.config.defaults, "auxiliary_caption": "video"})
    call = dict(text="a ball", fps=10, num_frames=3)
    led, asked = (
        latents(fresh, **call, outputs=outputs)
        for outputs in (["image", "audio"], ["image", "audio", "video"])
    )
    assert largest_difference(led, asked) == 0.0


def test_negatives_need_guidance_of_what_is_asked_for(fresh):
    fresh.register_to_config(defaults={**fresh.config.defaults, "auxiliary_caption": "text"})
    with pytest.raises(InputError, match="negative prompts act through guidance"):
        fresh(
            text="a ball",
            negative_text="a cube",
            outputs=["image", "audio"],
            guidance_scale={"image": 1.0, "audio": 1.0},
            **QUICK,
        )


def test_partners_that_speak_through_the_prompt_alone_cost_no_call_of_their_own(fresh):
    fresh.environment_encoders, calls, prepared = None, [], []
    fresh.vision_denoiser.register_forward_hook(lambda module, given, answer: calls.append(len(answer)))
    prepare = fresh.vision_denoiser.precompute
    fresh.vision_denoiser.precompute = lambda tokens, x: prepared.append(type(tokens)) or prepare(tokens, x)
    call = dict(
        outputs=["text", "video"], start_offset={"video": 1.0}, guidance_scale=3.0, sync_guidance_scale=2.0
    )
    latents(fresh, text="a ball", num_inference_steps=5, sync_guidance_interval=(0.0, 1.0), **call)
    assert calls == [3] * 5  # with both, without partners, without both
    assert prepared.count(torch.Tensor) == 1  # the text stands still, so what it says is read once


def test_a_negative_prompt_takes_the_place_of_the_null_prompt(fresh):
    fresh.noisy_latent_encoders = None  # what partners seem to be is led towards like a prompt
    call = dict(text="a ball", outputs=["image", "audio"], guidance_scale=3.0)
    plain, undone = (
        latents(fresh, **{**call, "guidance_scale": 1.0}),
        latents(fresh, **call, negative_text="a ball"),
    )
    # away from the prompt itself: nothing is left of guidance
    assert largest_difference(plain, undone) < 1e-4
    with torch.no_grad():
        token = fresh.encode_prompt(
            {Modality.TEXT: [Prompt("a cube", 2.0)], Modality.IMAGE: [Prompt(PICTURE)]}
        )
    given = latents(fresh, **call, negative_text=Prompt("a cube", 2.0), negative_image=[PICTURE])
    assert largest_difference(given, latents(fresh, **call, negative_prompt_embeds=token)) < 1e-5
    assert largest_difference(given, latents(fresh, **call)) > 1e-3


@pytest.mark.parametrize("modality", list(Modality))
def test_negatives_of_every_modality_also_without_a_prompt(pipe, modality):
    value = {"text": "a ball", "image": PICTURE, "audio": (SOUND, 16000), "video": (FRAMES, 10)}[modality]
    made = latents(pipe, outputs="image", **{f"negative_{modality}": value})
    assert largest_difference(made, latents(pipe, outputs="image")) > 1e-4


def test_one_candidate_is_a_plain_call_and_the_best_of_several_is_one_of_them(pipe):
    call = dict(text="a ball", outputs=["video", "audio"], num_samples=2, seed=5)
    assert largest_difference(latents(pipe, **call), latents(pipe, **call, candidates=1)) == 0.0
    out = pipe(**call, candidates=3, num_inference_steps=2, output_type="latent")
    assert [z.shape[0] for z in out.latents.values()] == [2, 2]
    for k, record in enumerate(out.selection):
        totals = [scores["total"] for scores in record["scores"]]
        assert set(record["scores"][0]) == {"prompt", "mutual", "onsets", "total"} and totals[
            record["kept"]
        ] == max(totals)
        assert record["seeds"][0] == 5 + k and out.seeds[k] == record["seeds"][record["kept"]]
        alone = latents(pipe, text="a ball", outputs=["video", "audio"], seed=out.seeds[k])
        assert largest_difference(alone, {m: z[k : k + 1] for m, z in out.latents.items()}) < 1e-4


def test_the_candidate_that_is_kept_is_nearest_to_the_prompt(pipe):
    out = pipe(text="a ball", outputs="image", candidates=4, output_type="pt", **QUICK)
    (record,) = out.selection
    with torch.no_grad():
        prompt = pipe.encode_prompt({Modality.TEXT: [Prompt("a ball")]})[0]
        image = pipe(
            text="a ball",
            outputs="image",
            num_inference_steps=2,
            seed=record["seeds"],
            num_samples=4,
            output_type="pt",
        ).images
        cosines = [
            torch.cosine_similarity(prompt, pipe.encode_prompt({Modality.IMAGE: [Prompt(i)]})[0]).item()
            for i in image
        ]
    assert cosines == pytest.approx([scores["prompt"] for scores in record["scores"]], abs=5e-3)
    assert cosines[record["kept"]] > max(cosines) - 5e-3 and torch.equal(out.images[0], image[record["kept"]])


def test_candidates_of_a_sound_are_judged_by_the_clip_that_is_heard(pipe):
    call = dict(video=(FRAMES, 10), outputs="audio", candidates=2, num_samples=2, **QUICK)
    assert "onsets" in pipe(**call).selection[1]["scores"][0]
    assert "onsets" not in pipe(**call, sync=False).selection[1]["scores"][0]


def test_an_input_with_a_clock_stands_in_the_loop(pipe):
    arguments = dict(video=(FRAMES, 10), outputs=["audio"])
    heard, named, unheard = (latents(pipe, sync=sync, **arguments) for sync in (None, ["video"], False))
    assert largest_difference(heard, named) == 0.0
    assert largest_difference(heard, unheard) > 1e-6
    items = {Modality.VIDEO: [Prompt((FRAMES, 10))]}
    assert pipe.find_partners(items, [Modality.AUDIO]) == [Modality.VIDEO]
    assert pipe.find_partners(items, [Modality.AUDIO, Modality.VIDEO]) == []
    assert pipe.find_partners(items, [Modality.IMAGE]) == []


def test_embeds_and_partners_stand_for_prompts(pipe):
    items = {Modality.VIDEO: [Prompt((FRAMES, 10))]}
    whole = latents(pipe, video=(FRAMES, 10), outputs=["audio"])
    with torch.no_grad():
        clean = pipe.encode_partners(items, [Modality.VIDEO])
        parts = latents(
            pipe, prompt_embeds=pipe.encode_prompt(items), partner_latents=clean, outputs=["audio"]
        )
    assert largest_difference(whole, parts) == 0.0


@pytest.mark.parametrize("scheduler", [DDIMScheduler, UniPCMultistepScheduler])
def test_other_schedulers(fresh, scheduler):
    fresh.scheduler = scheduler.from_config(fresh.scheduler.config)
    result = latents(fresh, text="a ball", outputs=["image", "audio"], num_inference_steps=3)
    assert all(z.isfinite().all() for z in result.values())


@pytest.mark.parametrize(
    "other, message",
    [
        (
            lambda own: FlowMatchEulerDiscreteScheduler(),
            "FlowMatchEulerDiscreteScheduler cannot go down the noise levels",
        ),
        (lambda own: type(own).from_config(own.config, beta_schedule="linear"), "is at another noise level"),
        (
            lambda own: type(own).from_config(own.config, prediction_type="epsilon"),
            "expects 'epsilon' of the model",
        ),
        (lambda own: torch.nn.Identity(), "the scheduler is Identity"),
    ],
)
def test_a_scheduler_is_held_to_what_the_model_was_trained_with(fresh, tmp_path, other, message):
    """However it came: in place of the model's own, when loading, or for a second pipeline of
    the same parts.
    """
    fresh.save_pretrained(tmp_path)
    scheduler = other(fresh.scheduler)
    loaded, given = (
        CoDiPipeline.from_pretrained(tmp_path, scheduler=scheduler),
        CoDiPipeline.from_pipe(fresh, scheduler=scheduler),
    )
    fresh.scheduler = scheduler
    for pipe in (fresh, loaded, given, CoDiPipeline.from_pipe(fresh)):
        with pytest.raises(InputError, match=message):
            pipe(text="a ball", outputs=["image"], **QUICK)


def test_noise_is_scaled_as_the_scheduler_asks(fresh):
    """Euler is DDIM in other coordinates: noise of a large deviation instead of one."""
    fresh.scheduler = DDIMScheduler.from_config(fresh.scheduler.config, clip_sample=False)
    ddim = latents(
        fresh, text="a ball", outputs=["image", "audio"], num_inference_steps=4, start_offset={"audio": 1.0}
    )
    fresh.scheduler = EulerDiscreteScheduler.from_config(fresh.scheduler.config)
    euler = latents(
        fresh, text="a ball", outputs=["image", "audio"], num_inference_steps=4, start_offset={"audio": 1.0}
    )
    assert all((ddim[m] - euler[m]).abs().max() < 0.02 * ddim[m].abs().max() for m in ddim)


def test_a_delay_is_in_schedules_of_the_scheduler(fresh):
    """One of second order takes two of its steps for one; who starts after a whole schedule hears the other
    finished.
    """
    trained = type(fresh.scheduler)(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    pipe, seen = CoDiPipeline(**{**fresh.components, "scheduler": trained}), []
    pipe.scheduler = HeunDiscreteScheduler.from_config(trained.config)
    call = dict(text="a ball", outputs=["image", "audio"], num_inference_steps=6, start_offset={"audio": 1.0})
    latents(pipe, **call, callback_on_step_end=lambda pipe, step, t, tensors: seen.append(float(t)) or {})
    assert len(seen) == 2 * 11 and seen[11] == seen[0] == 999


def test_candidates_in_bfloat16_are_judged_as_prompts_are_read(fresh):
    """Towers compute in bfloat16, but what they read is not rounded to it: 8 bits of a sound are noise."""
    fresh.to(torch.bfloat16)
    embed, read = fresh.audio_tower.embed, []
    fresh.audio_tower.embed = lambda raw: read.append(raw.dtype) or embed(raw)
    fresh(text="a ball", outputs=["audio", "image"], candidates=2, **QUICK)
    assert read == [torch.float32]


def test_bfloat16(fresh):
    fresh.to(torch.bfloat16)
    out = fresh(
        text="a ball",
        audio=(SOUND, 16000),
        video=(FRAMES, 10),
        outputs=["text", "image", "audio", "video"],
        **QUICK,
    )
    assert out.audios[0].dtype == torch.float32 and out.videos[0].dtype == torch.uint8


@pytest.mark.parametrize(
    "part",
    [
        "text_denoiser",
        "vision_denoiser",
        "environment_encoders",
        "noisy_latent_encoders",
        "text_tower",
        "audio_autoencoder",
    ],
)
def test_one_part_in_another_precision(fresh, part):
    getattr(fresh, part).to(torch.bfloat16)
    plain = pipeline()(
        text="a ball", audio=(SOUND, 16000), outputs=["text", "image", "video"], output_type="latent", **QUICK
    ).latents
    mixed = fresh(
        text="a ball", audio=(SOUND, 16000), outputs=["text", "image", "video"], output_type="latent", **QUICK
    ).latents
    assert 0 < largest_difference(plain, mixed) < 0.5


def test_a_pipeline_of_the_same_parts(pipe):
    other = CoDiPipeline.from_pipe(pipe, defaults={"num_inference_steps": 3})
    same = CoDiPipeline.from_pipe(pipe)
    assert all(
        same.components[name] is part is other.components[name] for name, part in pipe.components.items()
    )
    assert same.config.defaults == pipe.config.defaults and other.config.defaults == {
        "num_inference_steps": 3
    }
    assert same.dtype == pipe.dtype


def test_sequential_offloading_is_refused(fresh):
    with pytest.raises(InputError, match="enable_model_cpu_offload"):
        fresh.enable_sequential_cpu_offload(device="cpu")


def test_words_that_the_model_cannot_read_are_named(pipe):
    with pytest.warns(UserWarning, match="cannot read 'zebra' in 'a red zebra'"):
        pipe.encode_prompt({Modality.TEXT: [Prompt("a red zebra")]})
    with pytest.warns(UserWarning, match="cannot read 'red red red"):
        pipe.encode_prompt({Modality.TEXT: [Prompt("red " * 40)]})


@pytest.mark.parametrize("sign", ["", "negative_"])
def test_a_prompt_of_unknown_words_alone_is_refused(pipe, sign):
    for nothing in ("zebra", "a zebra", "!!!"):
        prompts = {"text": "a red ball", f"{sign}text": ["at night", nothing]}
        with pytest.raises(
            InputError, match=f"read nothing in '{nothing}'.*expected some of ball, blue, .*docs/training.md"
        ):
            pipe(**prompts, outputs="image", **QUICK)


def test_unknown_words_and_punctuation_change_no_bit(pipe):
    call = dict(outputs="image", negative_text="a ball", guidance_scale=2.0)
    plain = latents(pipe, text="a red cube at night", **call)
    with pytest.warns(UserWarning, match="cannot read 'shiny'"):
        other = latents(pipe, text="“A shiny, RED cube, at night!!!”", **call | {"negative_text": "BALLS."})
    assert largest_difference(plain, other) > 0  # "balls" has no article
    with pytest.warns(UserWarning, match="cannot read 'shiny'"):
        other = latents(pipe, text="“A shiny, RED cube, at night!!!”", **call | {"negative_text": "a BALL."})
    assert largest_difference(plain, other) == 0


def test_of_a_prompt_that_is_mostly_unknown_it_says_what_the_model_knows(pipe):
    with pytest.warns(UserWarning) as caught:
        pipe.encode_prompt({Modality.TEXT: [Prompt("two large zebras chase a red ball")]})
    first, second, third = [str(warning.message) for warning in caught]
    assert (
        first.startswith(f"this model speaks of a small world of {len(WORDS)} words") and "'zebras'" in first
    )
    assert "cube" in second and "--model" in third and "docs/training.md" in third


def test_names_of_outputs_are_read_alike_everywhere(pipe):
    results = [
        latents(pipe, text="a ball", outputs="image", guidance_scale={name: 9.0})
        for name in ("image", "Image", Modality.IMAGE)
    ]
    assert all(largest_difference(results[0], other) == 0 for other in results[1:])
    assert largest_difference(results[0], latents(pipe, text="a ball", outputs="image")) > 0


def test_a_sound_of_any_stride_is_one_sound(pipe):
    backwards = SOUND.numpy()[::-1]
    results = [
        latents(pipe, audio=(wave, 16000), outputs="image")
        for wave in (backwards, backwards.copy(), backwards.astype(">f8"))
    ]
    assert all(largest_difference(results[0], other) < 1e-4 for other in results[1:])


def test_latents_that_are_lost_are_no_sentence(pipe):
    with pytest.raises(InputError, match="latents of text are not finite"):
        pipe.decode_latents({Modality.TEXT: torch.full((1, 16), torch.nan)})


def test_callback_sees_and_changes_every_step(pipe):
    steps = []

    def zero_the_last(pipe, step, timestep, tensors):
        steps.append((step, int(timestep)))
        return {"latents": {m: z * (step < 2) for m, z in tensors["latents"].items()}}

    result = latents(
        pipe, text="a ball", outputs="image", num_inference_steps=3, callback_on_step_end=zero_the_last
    )
    assert [step for step, _ in steps] == [0, 1, 2] and steps[0][1] == 999
    assert result[Modality.IMAGE].abs().max() == 0


def test_interrupt(pipe):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return tensors

    assert pipe(
        text="a ball", outputs="image", num_inference_steps=9, seed=0, callback_on_step_end=stop
    ).images
    assert steps == [0, 1]
    assert len(pipe(text="a ball", outputs="image", **QUICK).images) == 1


def test_progress_goes_to_stderr(fresh, capsys):
    fresh.set_progress_bar_config(disable=False)
    fresh(text="a ball", outputs="image", **QUICK)
    captured = capsys.readouterr()
    assert captured.out == "" and "2/2" in captured.err


def test_output_types(pipe):
    make = lambda kind: pipe(text="a ball", outputs=["image", "video", "audio"], output_type=kind, **QUICK)
    pil, pt, array = make("pil"), make("pt"), make("np")
    assert isinstance(pil.images[0], Image.Image)
    assert np.array_equal(np.asarray(pil.images[0]), array.images[0])
    assert np.array_equal(pt.images[0].permute(1, 2, 0).numpy(), array.images[0])
    assert array.videos[0].shape == (4, 32, 32, 3) and array.audios[0].dtype == np.float32
    assert isinstance(pipe(text="a ball", outputs="image", return_dict=False, **QUICK), tuple)


def test_saved_files_can_be_read_again(pipe, tmp_path):
    out = pipe(text="a ball", outputs=["video", "audio", "image", "text"], num_samples=2, **QUICK)
    paths = out.save(tmp_path / "new")
    assert [p.name for p in paths] == [
        f"{k:03d}.{kind}" for k in range(2) for kind in ("mp4", "wav", "png", "txt")
    ]
    clip = io.load_video(paths[0])
    assert len(clip.frames) == 4 and clip.fps == 8 and clip.sampling_rate == 16000
    wave, rate = io.load_audio(paths[1])
    assert rate == 16000 and (wave - out.audios[0]).abs().max() < 1e-3
    assert np.array_equal(np.asarray(Image.open(paths[2])), np.asarray(out.images[0]))
    assert [p.name for p in out.save(tmp_path, names=["one", "a.b"])][::4] == ["one.mp4", "a.b.mp4"]


def test_files_say_where_they_come_from(pipe, tmp_path):
    import av
    import soundfile

    out = pipe(text="a ball", outputs=["video", "audio", "image"], **{**QUICK, "seed": 12})
    video, audio, image = out.save(tmp_path)
    with av.open(str(video)) as container, soundfile.SoundFile(str(audio)) as sound:
        comments = [container.metadata["comment"], sound.comment, Image.open(image).text["Comment"]]
    assert set(comments) == {out.comment(0)} and "generated" in comments[0] and "seed 12" in comments[0]


def test_sound_for_a_clip_is_also_saved_with_the_clip(pipe, tmp_path):
    clip = io.save_video(tmp_path / "clip.mp4", FRAMES, 8.0)
    paths = pipe(video=str(clip), outputs="audio", num_samples=2, **QUICK).save(tmp_path / "out")
    assert [path.name for path in paths] == ["000.wav", "000.mp4", "001.wav", "001.mp4"]
    assert (
        torch.equal(io.load_video(paths[3]).frames, io.load_video(clip).frames)
        and io.load_video(paths[3]).audio is not None
    )
    # no file, no clip
    assert len(pipe(video=(FRAMES, 8), outputs="audio", **QUICK).save(tmp_path / "values")) == 1
    assert len(pipe(video=clip, outputs="text", **QUICK).save(tmp_path / "text")) == 1


def test_prompts_from_files_equal_prompts_from_values(pipe, tmp_path):
    picture = io.save_image(tmp_path / "picture.png", FRAMES[0])
    sound = io.save_audio(tmp_path / "sound.wav", SOUND, 16000)
    clip = io.save_video(tmp_path / "clip.mp4", FRAMES, 8.0)
    near = lambda a, b, tolerance: (a - b).abs().max() < tolerance
    encode = lambda modality, value: pipe.encode_prompt({modality: [Prompt(value)]})
    assert near(encode(Modality.IMAGE, str(picture)), encode(Modality.IMAGE, PICTURE), 1e-5)
    assert near(encode(Modality.AUDIO, Path(sound)), encode(Modality.AUDIO, (SOUND.numpy(), 16000)), 1e-3)
    assert encode(Modality.VIDEO, str(clip)).isfinite().all()  # h264 is not exact


def test_values_of_one_picture_agree(pipe):
    encode = lambda value: pipe.encode_prompt({Modality.IMAGE: [Prompt(value)]})
    expected = encode(PICTURE)
    for value in (FRAMES[0], FRAMES[0].float() / 255, np.asarray(PICTURE), np.asarray(PICTURE) / 255.0):
        torch.testing.assert_close(encode(value), expected, atol=1e-5, rtol=0)
    clip = lambda value: pipe.encode_prompt({Modality.VIDEO: [Prompt(value)]})
    torch.testing.assert_close(
        clip(([PICTURE] * 4, 8)), clip(FRAMES[:1].expand(4, -1, -1, -1)), atol=1e-5, rtol=0
    )


def test_inputs_of_any_rate_and_length(pipe):
    for wave, rate in ((SOUND[:100], 8000), (SOUND.repeat(40), 44100), (SOUND.view(2, -1), 22050)):
        assert (
            latents(pipe, audio=(wave, rate), outputs="text", num_inference_steps=1)[Modality.TEXT]
            .isfinite()
            .all()
        )
    for frames, fps in ((FRAMES[:1], 1), (FRAMES.repeat(5, 1, 1, 1), 29.97)):
        assert (
            latents(pipe, video=(frames, fps), outputs="text", num_inference_steps=1)[Modality.TEXT]
            .isfinite()
            .all()
        )


def test_nothing_given_is_changed(pipe):
    wave, frames = SOUND.clone(), FRAMES.clone()
    latents(pipe, audio=(wave, 16000), video=(frames, 8), outputs=["image"])
    assert torch.equal(wave, SOUND) and torch.equal(frames, FRAMES)


NAN = SOUND.clone()
NAN[5] = float("nan")
BAD = {
    "no outputs": (dict(text="a"), "outputs names nothing"),
    "unknown output": (dict(text="a", outputs="smell"), "unknown modality 'smell'"),
    "empty list": (dict(text=[], outputs="image"), "holds no prompt"),
    "empty text": (dict(text=" ", outputs="image"), "empty text"),
    "zero weights": (dict(text=Prompt("a", 0), outputs="image"), "sum to zero"),
    "negative weight": (dict(text=Prompt("a", -1), outputs="image"), "weight -1"),
    "nan weight": (dict(text=Prompt("a", float("nan")), outputs="image"), "weight nan"),
    "text of another type": (dict(text=3, outputs="image"), "expected a string"),
    "missing file": (dict(image="nowhere.png", outputs="text"), "no such file"),
    "wrong kind": (dict(image=SOUND, outputs="text"), "an image is a Tensor"),
    "pixels out of range": (dict(image=torch.full((3, 8, 8), 9.0), outputs="text"), "outside"),
    "nan in a waveform": (dict(audio=(NAN, 16000), outputs="text"), "NaN"),
    "silence": (dict(audio=torch.zeros(8000), outputs="text"), "silent"),
    "20 minutes": (dict(audio=(torch.ones(1200 * 1000), 1000), outputs="text"), "minutes"),
    "no rate": (dict(audio=(SOUND, "fast"), outputs="text"), "Hz"),
    "empty clip": (dict(video=([], 8), outputs="text"), "0 frames"),
    "mixed sizes": (dict(video=([FRAMES[0], FRAMES[0, :, :9]], 8), outputs="text"), "all of one size"),
    "frames and a number": (dict(video=[FRAMES, 3], outputs="text"), "a clip is a int"),
    "no samples": (dict(text="a", outputs="image", num_samples=0), "num_samples is 0"),
    "no steps": (dict(text="a", outputs="image", num_inference_steps=0), "num_inference_steps is 0"),
    "too many steps": (dict(text="a", outputs="image", num_inference_steps=1001), "from 1 to 1000"),
    "guidance": (dict(text="a", outputs="image", guidance_scale=float("inf")), "guidance_scale"),
    "guidance of no output": (dict(text="a", outputs="image", guidance_scale={"audio": 2.0}), "no output"),
    "interval": (dict(text="a", outputs="image", guidance_interval=(0.8, 0.2)), "guidance_interval"),
    "seed": (dict(text="a", outputs="image", seed=-1), "seed is -1"),
    "seeds": (dict(text="a", outputs="image", seed=[1, 2]), "2 seeds for num_samples=1"),
    "output type": (dict(text="a", outputs="image", output_type="jpg"), "output_type is 'jpg'"),
    "sync without input": (dict(text="a", outputs="image", sync=["video"]), "no input"),
    "sync with an output": (dict(video=FRAMES, outputs="video", sync=["video"]), "held in step"),
    "prompts twice": (dict(text="a", outputs="image", prompt_embeds=torch.zeros(1, 1, 32)), "both given"),
    "negatives twice": (
        dict(text="a", negative_text="b", outputs="image", negative_prompt_embeds=torch.zeros(1, 1, 32)),
        "negative_prompt_embeds were both",
    ),
    "negative without guidance": (
        dict(text="a", negative_text="b", outputs="image", guidance_scale=1.0),
        "is 1.0 \\(off\\)",
    ),
    "negative outside the interval": (
        dict(text="a", negative_text="b", outputs="image", guidance_interval=(0.5, 0.5)),
        "through guidance",
    ),
    "empty negative": (
        dict(text="a", negative_audio=[], outputs="image"),
        "negative_audio=\\[\\] holds no prompt",
    ),
    "negative weight of a negative": (
        dict(text="a", negative_text=Prompt("b", -1), outputs="image"),
        "weight -1 of a negative_text",
    ),
    "no candidates": (dict(text="a", outputs="image", candidates=0), "candidates is 0"),
    "candidates of nothing": (dict(outputs="image", candidates=2), "told apart"),
    "steps in words": (
        dict(text="a", outputs="image", num_inference_steps="20"),
        "num_inference_steps is '20'",
    ),
    "interval of one number": (
        dict(text="a", outputs="image", guidance_interval=0.5),
        "guidance_interval is 0.5",
    ),
    "half a seed": (dict(text="a", outputs="image", seed=1.5), "seed is 1.5"),
    "half a seed of several": (dict(text="a", outputs="image", seed=[1.5]), "seed is \\[1.5\\]"),
    "size of what is not made": (dict(text="a", outputs="text", height=32), "no image or video is made"),
    "too many channels": (
        dict(audio=(SOUND.unsqueeze(1).repeat(1, 40), 16000), outputs="image"),
        "40 channels: expected at most 32",
    ),
    "whole numbers for a sound": (
        dict(audio=np.zeros(800, np.int64), outputs="image"),
        "of int64: expected floats",
    ),
    "length of what is not made": (
        dict(text="a", outputs="image", audio_length_in_s=0.2),
        "no audio or video is made",
    ),
    "objects for pixels": (
        dict(image=np.full((8, 8, 3), None), outputs="text"),
        "of object: expected PIL images",
    ),
    "width of embeds": (
        dict(prompt_embeds=torch.zeros(1, 1, 5), outputs="image"),
        "prompt_embeds is .*\\(1, 1, 5\\)",
    ),
    "axes of embeds": (
        dict(prompt_embeds=torch.zeros(1, 32), outputs="image"),
        "prompt_embeds is .*\\(1, 32\\)",
    ),
    "embeds that are none": (dict(prompt_embeds="a ball", outputs="image"), "prompt_embeds is a str"),
    "embeds of several lengths": (
        dict(
            prompt_embeds=torch.zeros(1, 1, 32), negative_prompt_embeds=torch.zeros(1, 2, 32), outputs="image"
        ),
        "\\[1, 2\\] tokens",
    ),
    "shape of a partner": (
        dict(text="a", partner_latents={"video": torch.zeros(1, 2, 2)}, outputs="audio"),
        "partner_latents of video is",
    ),
    "a partner twice": (
        dict(text="a", partner_latents={}, sync=True, outputs="audio"),
        "sync and partner_latents",
    ),
    "callback tensors": (
        dict(text="a", outputs="image", callback_on_step_end_tensor_inputs=["noise"]),
        "'noise'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(pipe, name):
    arguments, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        pipe(**arguments)
    assert "\n" not in str(caught.value)


def test_parts_that_are_missing_are_refused_by_name(fresh):
    fresh.audio_denoiser = fresh.audio_tower = None
    with pytest.raises(InputError, match="cannot make audio: it makes text, image, video"):
        fresh(text="a", outputs="audio")
    with pytest.raises(InputError, match="takes no audio prompt"):
        fresh(audio=SOUND, outputs="image")
    assert fresh(text="a", outputs=["image", "video"], **QUICK).videos


def test_a_folder_that_cannot_be_written(pipe, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"):
        pipe(text="a", outputs="text", **QUICK).save(tmp_path / "file")


def test_defaults_of_the_model(fresh):
    parts = dict(fresh.components)
    with pytest.raises(InputError, match="'steps'"):
        CoDiPipeline(**parts, defaults={"steps": 3})
    quick = CoDiPipeline(**parts, defaults={"num_inference_steps": 2, "guidance_scale": {"image": 5.0}})
    quick.set_progress_bar_config(disable=True)
    steps = []
    note = lambda pipe, step, timestep, tensors: steps.append(step)
    made = quick(text="a", outputs="image", seed=0, output_type="latent", callback_on_step_end=note).latents
    assert (
        steps == [0, 1]
        and largest_difference(made, latents(fresh, text="a", outputs="image", guidance_scale=5.0)) == 0.0
    )
