"""A converted folder as a pipeline: every output from every prompt, and what is computed how often.

Tiny checkpoints in the released layout (see fabricated.py): 32 x 32 pictures, a third of a second of sound.
"""

import pytest
import torch
from torch import nn

from codi.diffusion import Guidance, copy_schedulers
from codi.joint.sampler import JointSampler
from codi.outputs import FIELDS
from codi.pipeline import CoDiPipeline, Prompt
from codi.protocols import Denoiser, EnvironmentEncoder
from codi.types import Modality
from tests.convert import fabricated
from tests.convert.small import GIVEN, latents, quiet, small

TEXT, IMAGE, AUDIO, VIDEO = Modality


@pytest.fixture(scope="module")
def pipe(converted):
    return quiet(CoDiPipeline.from_pretrained(converted))


@pytest.mark.parametrize(
    "outputs",
    [[TEXT], [IMAGE], [AUDIO], [VIDEO], [VIDEO, AUDIO], [TEXT, IMAGE], list(Modality)],
    ids="+".join,
)
def test_every_output(pipe, outputs):
    out = pipe(text="a red ball", outputs=outputs, **small(outputs))
    assert all(len(getattr(out, name)) == (modality in outputs) for modality, name in FIELDS.items())
    if VIDEO in outputs:
        assert out.videos[0].shape == (3, 3, 32, 32) and out.fps == 4
    if AUDIO in outputs:
        assert out.audios[0].shape == (5120,) and out.sampling_rate == 16000


def test_every_prompt_and_its_null(pipe):
    tokens = {}
    with torch.no_grad():
        for modality in Modality:
            items = {modality: [Prompt(GIVEN[modality])]}
            tokens[modality] = pipe.encode_prompt(items), pipe.encode_null(items)
            assert latents(pipe, outputs="image", **{modality: GIVEN[modality]})[IMAGE].isfinite().all()
        mixed = {TEXT: [Prompt("a red ball", 3.0)], AUDIO: [Prompt(GIVEN["audio"], 1.0)]}
        for half in (0, 1):
            mix = (pipe.encode_prompt, pipe.encode_null)[half](mixed)
            torch.testing.assert_close(mix, 0.75 * tokens[TEXT][half] + 0.25 * tokens[AUDIO][half])
        empty = {
            TEXT: pipe.text_tower.embed([""]),
            IMAGE: pipe.vision_tower.embed(torch.zeros(1, 3, 64, 64)),
            AUDIO: pipe.audio_tower.embed(torch.zeros(1, 5000)),
            VIDEO: pipe.vision_tower.embed(torch.zeros(1, 4, 3, 64, 64)),
        }
        for modality, (prompt, null) in tokens.items():
            torch.testing.assert_close(null[:, 0], empty[modality], rtol=1e-3, atol=1e-3)
            assert not torch.allclose(prompt, null)
        assert torch.equal(pipe.encode_null({})[:, 0], empty[TEXT])


def test_null_prompt_of_zeros_is_a_switch(converted):
    pipe = CoDiPipeline.from_pretrained(
        converted, **{name: None for name in ("text_denoiser", "audio_denoiser")}
    )
    pipe.register_to_config(defaults=pipe.config.defaults | {"null_prompt": "zeros"})
    assert not pipe.encode_null({TEXT: [Prompt("a ball")]}).any()


def test_short_sound_is_repeated_not_filled_up(pipe):
    with torch.no_grad():
        token = pipe.encode_prompt({AUDIO: [Prompt(GIVEN["audio"])]})
        assert torch.equal(token[:, 0], pipe.audio_tower.embed(GIVEN["audio"][0][None]))


# What is computed, and how often ---------------------------------------


class Count:
    """Calls of modules, and rows that came in."""

    def __init__(self, modules: dict[str, nn.Module]):
        self.rows: dict[str, list[int]] = {name: [] for name in modules}
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda m, given, name=name: self.note(name, given))

    def note(self, name: str, given: tuple) -> None:
        self.rows[name].append(len(given[0]) if given and isinstance(given[0], torch.Tensor) else 0)


def test_nothing_is_computed_twice(converted):
    pipe = quiet(CoDiPipeline.from_pretrained(converted))
    vision, heard = pipe.vision_denoiser, pipe.environment_encoders.encoders["vision"]
    first, later = vision.down[0], vision.down[1]
    modules = {
        f"prompt.{name}": m
        for name, m in vision.named_modules()
        if name.endswith(("attention.block.attn2.to_v", "attn2.to_q"))
    }
    modules |= {
        f"bias.{name}": m
        for name, m in [*vision.named_modules(), *heard.named_modules()]
        if name.endswith("relative_bias")
    }
    modules |= {
        "conv_in": vision.conv_in,
        "first": first.resnet.conv1,
        "attended": first.attention.block.norm1,
        "later": later.conv,
    }
    modules |= {"heard": heard.conv_in, "env": first.joint.block.attn2.to_v}
    count = Count(modules)
    steps, frames = 3, 3
    latents(pipe, text="a red ball", outputs=["video", "audio"], num_inference_steps=steps)
    for name, rows in count.rows.items():
        if name.startswith("prompt."):
            once = [2] if name.endswith("attention.block.attn2.to_v") else []
            # one token: no query anywhere; values once, for both halves
            assert rows == (once if ".attention." in name else []), name
        elif name.startswith("bias."):
            assert len(rows) == 1, name
    # one half only, up to where the prompt first enters
    for name in ("conv_in", "first", "attended", "heard"):
        assert count.rows[name] == [frames] * steps, name
    # one token for each half
    assert count.rows["later"] == [2 * frames] * steps and count.rows["env"] == [2] * steps


def test_guidance_of_one_skips_the_second_half(converted):
    pipe = quiet(CoDiPipeline.from_pretrained(converted))
    count = Count({"out": pipe.vision_denoiser.conv_out, "tower": pipe.text_tower.text})
    latents(pipe, text="a red ball", outputs="image", guidance_scale=1.0)
    assert count.rows["out"] == [1] and len(count.rows["tower"]) == 1  # nor is the null prompt embedded


@torch.no_grad()
class Bare(Denoiser, EnvironmentEncoder):
    """A network that batches no prompts and precomputes nothing."""

    dtype = torch.float32

    def __init__(self, network):
        self.network = network

    def forward(self, *inputs, **named):
        return self.network(*inputs, **named)

    def precompute(self, *inputs):
        return inputs[0] if len(inputs) > 1 else None


def test_the_quick_way_is_the_plain_way(pipe):
    """Two guided joint steps, against denoisers and encoders that are given everything doubled and nothing
    prepared.
    """
    names, generator = [VIDEO, AUDIO], torch.Generator().manual_seed(1)
    noise = {
        VIDEO: torch.randn(2, 4, 3, 4, 4, generator=generator),
        AUDIO: torch.randn(2, 8, 8, 16, generator=generator),
    }
    prompt, null = torch.randn(2, 2, 1, fabricated.DIM, generator=generator)
    model = pipe.model

    def sample(denoisers, environment_encoders):
        sampler = JointSampler(
            denoisers=denoisers,
            environment_encoders=environment_encoders,
            attends_to=model.attends_to,
            schedulers=copy_schedulers(pipe.scheduler, names, 2),
            contexts={m: prompt for m in names},
            null_contexts={m: null for m in names},
            guidance={m: Guidance(scales={"prompt": 7.5}) for m in names},
        )
        return sampler.sample(noise)

    quick = sample({m: model.denoisers[m] for m in names}, model.environment_encoders)
    plain = sample(
        {m: Bare(model.denoisers[m]) for m in names}, {m: Bare(model.environment_encoders[m]) for m in names}
    )
    for m in names:
        torch.testing.assert_close(quick[m], plain[m], rtol=1e-4, atol=1e-4 * plain[m].abs().max().item())


def test_the_papers_environment_is_a_switch(pipe):
    alone, together = (
        latents(pipe, outputs=["video"], text="a ball"),
        latents(pipe, outputs=["video", "audio"], text="a ball"),
    )
    other = latents(pipe, outputs=["video", "audio"], text="a ball", audio_length_in_s=0.16)
    # hears itself
    assert torch.equal(together[VIDEO], other[VIDEO]) and not torch.equal(alone[VIDEO], together[VIDEO])
    pipe.environment_encoders.register_to_config(environment="exchanged")
    try:
        crossed = latents(pipe, outputs=["video", "audio"], text="a ball")
        assert not torch.equal(crossed[VIDEO], together[VIDEO])
        assert not torch.equal(
            crossed[VIDEO],
            latents(pipe, outputs=["video", "audio"], text="a ball", audio_length_in_s=0.16)[VIDEO],
        )
        assert latents(pipe, outputs=list(Modality))[TEXT].isfinite().all()  # three partners: three tokens
    finally:
        pipe.environment_encoders.register_to_config(environment="own")
