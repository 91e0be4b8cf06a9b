"""The tiny pipelines are what they say: of the real classes, complete, and nowhere silent."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.compose import tiny_foreign


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_a_folder_loads_and_runs_and_no_weight_is_all_zero(name):
    from diffusers import DiffusionPipeline

    call = dict(prompt=["a red ball bounces"], num_inference_steps=2, generator=torch.Generator())
    with tiny_foreign.quiet(), torch.no_grad():
        pipe = DiffusionPipeline.from_pretrained(tiny_foreign.folder(name))
        pipe.set_progress_bar_config(disable=True)
        media = pipe(**call, **tiny_foreign.SIZES[name])[0]
    assert len(media) == 1
    parts = {key: part for key, part in pipe.components.items() if isinstance(part, nn.Module)}
    silent = [
        f"{key}.{parameter}"
        for key, part in parts.items()
        for parameter, tensor in part.named_parameters()
        if not tensor.any()
    ]
    assert parts and not silent


def test_a_folder_is_built_once_and_is_the_same_from_a_shell(tmp_path):
    first = tiny_foreign.folder("sd15")
    assert tiny_foreign.folder("sd15") == first
    command = [sys.executable, "-m", "tests.compose.tiny_foreign", str(tmp_path), "sd15"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [str(tmp_path / "sd15")]
    for part in ("unet", "vae"):
        weights = f"{part}/diffusion_pytorch_model.safetensors"
        assert (first / weights).read_bytes() == (tmp_path / "sd15" / weights).read_bytes()
