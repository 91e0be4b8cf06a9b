"""The converted model in little memory: one part at a time, groups of layers, half precision, compiled
blocks; as far as a CPU can.
"""

import pytest
import torch
from accelerate.hooks import CpuOffload, ModelHook, add_hook_to_module
from torch import nn

from codi.pipeline import CoDiPipeline
from codi.types import Modality
from tests.convert.small import GIVEN, SMALL, latents, quiet, small

ALL = dict(outputs=["text", "image", "audio", "video"], **GIVEN)


class OneAtATime(ModelHook):
    """What `enable_model_cpu_offload` does, without a device to move to: a part's numbers are there only once
    its own hook has fired, and gone (NaN) as soon as another's does.
    """

    def __init__(self, parts: list[nn.Module]):
        self.parts, self.kept, self.fired = parts, {}, set()
        for part in parts:
            self.away(part)

    def tensors(self, part: nn.Module) -> list[torch.Tensor]:
        return [t.data for t in (*part.parameters(), *part.buffers()) if t.is_floating_point()]

    def away(self, part: nn.Module) -> None:
        self.kept[part] = [t.clone() for t in self.tensors(part)]
        for t in self.tensors(part):
            t.fill_(torch.nan)

    def pre_forward(self, module, *args, **kwargs):
        self.fired.add(module)
        if module in self.kept:
            for other in set(self.parts) - set(self.kept):
                self.away(other)
            for t, kept in zip(self.tensors(module), self.kept.pop(module), strict=True):
                t.copy_(kept)
        return args, kwargs


@pytest.fixture(scope="module")
def expected(converted):
    return latents(quiet(CoDiPipeline.from_pretrained(converted)), **ALL)


def same(made, expected, tolerance=0.0):
    for modality, latent in expected.items():
        torch.testing.assert_close(made[modality], latent, rtol=0, atol=tolerance * latent.abs().max().item())


def test_every_part_announces_itself_before_it_is_used(converted, expected):
    pipe = quiet(CoDiPipeline.from_pretrained(converted))
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    hook = OneAtATime(list(parts.values()))
    for part in parts.values():
        add_hook_to_module(part, hook)
    same(latents(pipe, **ALL), expected)
    out = pipe(**SMALL, **ALL)
    assert out.audios[0].isfinite().all() and hook.fired == set(parts.values())
    encoded = {
        m: pipe.model.autoencoders[m].encode(raw)
        for m, raw in {"text": ["a ball"], "audio": torch.randn(1, 3200)}.items()
    }
    assert all(z.isfinite().all() for z in encoded.values())
    # which also names parts that converted models lack
    assert set(parts) <= set(pipe.model_cpu_offload_seq.split("->"))


def test_model_offload(converted):
    """diffusers' own hooks, with the device that is here; run twice, because each call sets them anew."""
    # copies: weights mapped from a file may be aligned otherwise
    pipe = quiet(CoDiPipeline.from_pretrained(converted)).to("cpu:0")
    plain = latents(pipe, **ALL)
    pipe.enable_model_cpu_offload(device="cpu")
    parts = {name for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    assert len(pipe._all_hooks) == len(parts) and all(
        hasattr(getattr(pipe, name), "_hf_hook") for name in parts
    )
    for _ in range(2):
        same(latents(pipe, **ALL), plain)


@pytest.mark.parametrize(
    "outputs, held",
    [
        ("text", {"text_tower", "text_denoiser", "text_autoencoder"}),
        ("image", {"text_tower", "vision_denoiser", "image_autoencoder"}),
        ("video+audio", {"text_tower", "environment_encoders", "vision_denoiser", "audio_denoiser"}),
    ],
    ids=["text", "image", "video+audio"],
)
def test_what_model_offload_holds(converted, monkeypatch, outputs, held):
    """A part leaves the device when the next one of the chain comes, and no sooner: the docs' figures rest on
    it.
    """
    pipe = quiet(CoDiPipeline.from_pretrained(converted))
    pipe.enable_model_cpu_offload(device="cpu")
    names, there, most = {part: name for name, part in pipe.components.items()}, set(), [set()]

    def come(hook, module, *args, **kwargs):
        if hook.prev_module_hook is not None:
            there.discard(names[hook.prev_module_hook.model])
        there.add(names[module])
        most[0] = max(most[0], set(there), key=len)
        return args, kwargs

    monkeypatch.setattr(CpuOffload, "pre_forward", come)
    pipe(text="a red ball", outputs=outputs.split("+"), **small(outputs.split("+"), num_inference_steps=2))
    assert most[0] == held


def test_groups_of_layers(converted, expected):
    pipe = quiet(CoDiPipeline.from_pretrained(converted))
    pipe.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    same(latents(pipe, **ALL), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(converted, expected, dtype):
    pipe = quiet(CoDiPipeline.from_pretrained(converted, dtype=dtype))
    made = latents(pipe, **ALL)
    assert all(z.isfinite().all() and z.dtype == torch.float32 for z in made.values())
    same(made, expected, tolerance=0.25)
    out = pipe(**SMALL, outputs=list(Modality), text="a red ball")
    assert out.audios[0].isfinite().all() and out.videos[0].dtype == torch.uint8


def test_compiled_blocks(converted, expected):
    pipe = quiet(CoDiPipeline.from_pretrained(converted))
    torch.compiler.reset()
    for denoiser in (pipe.text_denoiser, pipe.vision_denoiser, pipe.audio_denoiser):
        # traced as a whole; inductor would only take longer
        denoiser.compile_repeated_blocks(fullgraph=True, backend="eager")
    same(latents(pipe, **ALL), expected, tolerance=1e-4)
