"""What else a converted model can be: other sizes and lengths, other schedules, any subset of the files."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch

from codi import pretrained
from codi.convert.convert import convert
from codi.diffusion import copy_schedulers
from codi.diffusion.schedulers import SCHEDULERS, named_scheduler
from codi.models.denoisers.temporal import RELEASED
from codi.pipeline import CoDiPipeline
from codi.types import InputError, Modality
from tests.convert import fabricated
from tests.convert.small import GIVEN, SMALL, latents, quiet, small

TEXT, IMAGE, AUDIO, VIDEO = Modality


@pytest.fixture(scope="module")
def pipe(converted):
    return quiet(CoDiPipeline.from_pretrained(converted))


# Switches --------------------------------------------------------------

DENOISER = dict(first_skip="middle", prompt="attention", joint="pooled")
SWITCHES = {
    "text_denoiser": DENOISER,
    "vision_denoiser": DENOISER | dict(temporal=RELEASED),
    "audio_denoiser": DENOISER,
    "environment_encoders": dict(environment="own"),
    "vision_tower": dict(truncate=True, picture_size=512, video_size=256, num_frames=4, rate=1.0),
    "audio_tower": dict(num_samples=48000, longest=10.24),
    "text_autoencoder": dict(decoding="multinomial"),
}


def read_json(path):
    return json.loads(path.read_text())


def test_switches_are_written_out(converted):
    for name, switches in SWITCHES.items():
        config = read_json(converted / name / "config.json")
        assert {key: config[key] for key in switches} == switches, name
    defaults = dict(num_inference_steps=50, guidance_scale=7.5, null_prompt="empty", normalise_prompts=False)
    assert pretrained.read_defaults(converted) == defaults


@pytest.mark.parametrize(
    "change, same_weights",
    [
        (dict(first_skip="own"), True),
        (dict(temporal=RELEASED | dict(feed_forward="inner_norm")), True),
        (dict(temporal=RELEASED | dict(feed_forward="geglu")), False),
        (dict(temporal=RELEASED | dict(norm="channels")), False),
        (dict(temporal=RELEASED | dict(rate_embedding=False)), False),
        (dict(temporal=RELEASED | dict(frame_shift=False)), False),
        (dict(prompt="projection"), False),
        (dict(joint="timed"), False),
    ],
    ids=["first_skip", "inner_norm", "geglu", "norm", "rate_embedding", "frame_shift", "prompt", "joint"],
)
def test_switches_of_a_denoiser_on_the_same_weights(converted, tmp_path, change, same_weights):
    folder = shutil.copytree(converted / "vision_denoiser", tmp_path / "vision_denoiser")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | change))
    with nullcontext() if same_weights else pytest.raises(InputError, match="vision_denoiser"):
        pretrained.load_part(folder, "codi.models.denoisers", "UNetDenoiser", torch.float32)


# Sizes and schedules ---------------------------------------------------


def test_other_sizes(pipe):
    pictures = ["image", "video"]
    out = pipe(outputs=pictures, **small(pictures, height=24, width=40, num_frames=1, fps=7.5))
    assert out.images[0].size == (40, 24) and out.videos[0].shape == (1, 3, 24, 40) and out.fps == 7.5
    apart = dict(num_frames=30, audio_length_in_s=0.3)
    made = latents(pipe, outputs=["video", "audio"], height=8, width=8, **apart)
    assert made[VIDEO].shape == (1, 4, 30, 1, 1) and made[AUDIO].shape == (1, 8, 8, 16)
    assert pipe(outputs="audio", **small("audio", audio_length_in_s=0.3)).audios[0].shape == (4800,)
    own = pipe.model.sized()
    assert (
        own[AUDIO].latent_shape == (8, 256, 16)
        and own[AUDIO].raw_shape == (163840,)
        and own[VIDEO].latent_shape == (4, 8, 32, 32)
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(height=30), "height is 30: expected whole pixels that divide by 8"),
        (dict(width=0), "width is 0"),
        (dict(num_frames=31), "num_frames is 31: expected a whole number from 1 to 30"),
        (dict(fps=float("inf")), "fps is inf"),
        (dict(audio_length_in_s=11.0), "at most 10.24"),
        (dict(candidates=2, text="a ball"), "not both"),
    ],
)
def test_sizes_that_cannot_be(pipe, wrong, message):
    with pytest.raises(InputError, match=message):
        pipe(outputs=["image", "video", "audio"], **SMALL | wrong)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_by_name(pipe, name):
    like = pipe.scheduler
    other = named_scheduler(name, like)
    torch.testing.assert_close(other.alphas_cumprod, like.alphas_cumprod, rtol=1e-5, atol=0)
    x, eps = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    for steps in (1, 2, 3, 7, 27, 111, 333, 501, 999, 1000):
        one = copy_schedulers(other, [IMAGE], steps)[IMAGE]
        times = one.timesteps.tolist()
        assert times == sorted(set(times), reverse=True) and 0 <= times[-1] and times[0] < 1000, steps
        assert len(times) == steps or name == "released"
        if steps < 30:
            z = x
            for t in one.timesteps:
                z = one.step(eps, t, z).prev_sample
            assert z.isfinite().all(), steps
    try:
        pipe.scheduler = other
        assert latents(pipe, outputs="image", text="a ball", num_inference_steps=3)[IMAGE].isfinite().all()
    finally:
        pipe.scheduler = like
    with pytest.raises(InputError, match="expected one of released, ddim, dpm\\+\\+, unipc, euler"):
        named_scheduler("quickest", like)


# Subsets of the files --------------------------------------------------

MAKES = {"text": {TEXT}, "audio": {AUDIO}, "video": {IMAGE, VIDEO}}


@pytest.mark.parametrize(
    "slots", [("text",), ("audio",), ("video",), ("text", "audio")], ids=lambda s: "+".join(("encoders", *s))
)
def test_any_subset_of_the_files(files, words, slots, tmp_path):
    convert(
        {s: files[s] for s in ("encoders", *slots)}, tmp_path / "model", words=words, geometry=fabricated.TINY
    )
    pipe = quiet(CoDiPipeline.from_pretrained(tmp_path / "model"))
    able = set().union(*(MAKES[s] for s in slots))
    made = latents(pipe, outputs=[m for m in Modality if m in able], **GIVEN)
    assert set(made) == able and all(z.isfinite().all() for z in made.values())
    for modality in set(Modality) - able:
        with pytest.raises(
            InputError, match=f"cannot make {modality}: it makes .*of {modality} it lacks the denoiser"
        ):
            latents(pipe, outputs=[modality], text="a ball")


def test_without_encoders_what_lacks_is_said(files, tmp_path):
    convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    with pytest.raises(
        InputError, match="cannot make audio: it makes nothing .of audio it lacks the autoencoder"
    ):
        latents(CoDiPipeline.from_pretrained(tmp_path / "model"), outputs="audio", text="a ball")


def test_without_vocabularies_all_but_text_works(files, tmp_path):
    convert(
        {s: files[s] for s in ("encoders", "text", "video")}, tmp_path / "model", geometry=fabricated.TINY
    )
    pipe = quiet(CoDiPipeline.from_pretrained(tmp_path / "model"))
    assert latents(pipe, outputs="image")[IMAGE].isfinite().all()  # no prompt: grey
    assert latents(pipe, outputs="image", image=GIVEN["image"])[IMAGE].isfinite().all()
    for call, lacking in [
        (dict(outputs="image", text="a ball"), "clip-vit"),
        (dict(outputs="text", image=GIVEN["image"]), "gpt2"),
    ]:
        with pytest.raises(InputError, match=f"without the vocabulary of {lacking}.*--tokenizers"):
            pipe(**small(call["outputs"]), **call)


def test_vocabularies_of_another_model_are_refused(files, words, tmp_path):
    (tmp_path / "words").mkdir()
    for name, other in (("clip", "bert"), ("bert", "bert"), ("gpt2", "gpt2")):
        (tmp_path / "words" / name).mkdir()
        (tmp_path / "words" / name / "tokenizer.json").write_bytes(
            (words / other / "tokenizer.json").read_bytes()
        )
    with pytest.raises(
        InputError, match="clip/tokenizer.json has 13 tokens: expected the 11 of clip-vit-large-patch14"
    ):
        convert(
            {"encoders": files["encoders"]},
            tmp_path / "model",
            words=tmp_path / "words",
            geometry=fabricated.TINY,
        )
    (tmp_path / "words" / "clip" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="clip/tokenizer.json is no tokenizer"):
        convert(
            {"encoders": files["encoders"]},
            tmp_path / "model",
            words=tmp_path / "words",
            geometry=fabricated.TINY,
        )
    assert not (tmp_path / "model").exists()
