"""A short start: what a plain generation does not need is not imported, and nothing else changes. Names, not
seconds.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What diffusers and transformers import for models, losses and compilers that no part of codi uses.
KEPT_OUT = (
    "scipy",
    "sympy",
    "peft",
    "sklearn",
    "triton",
    "pandas",
    "matplotlib",
    "torchvision",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch._dynamo.symbolic_convert",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.autoencoders.autoencoder_rae",
    "diffusers.models.unets.unet_3d_blocks",
    "diffusers.pipelines.stable_diffusion",
    "codi.bench.command",
    "codi.convert.convert",
    "codi.models.released",
    "datasets",
    "tensorboard",
)

GENERATE = """
import sys, codi.cli
command = ['generate', '--text', 'a green star', '--to', 'image', '--steps', '2', '--quiet', '-o', 'out']
assert codi.cli.main(command) == 0
print(*sorted(sys.modules), sep='\\n', file=sys.stderr)
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    assert found.returncode == 0, found.stderr.decode()
    return found


def test_a_picture_is_made_without_what_it_does_not_need(tmp_path):
    modules = set(python(GENERATE, tmp_path).stderr.decode().splitlines())
    assert "diffusers.models.autoencoders.autoencoder_kl" in modules
    assert not [name for name in KEPT_OUT if name in modules]


PICTURE = """
from codi import CoDiPipeline
pipe = CoDiPipeline.from_pretrained()
pipe.set_progress_bar_config(disable=True)
wanted = ['image', 'text', 'audio', 'video']
out = pipe(text='a green star', outputs=wanted, num_inference_steps=3, seed=0, output_type='np')
made = [out.images[0].tobytes(), out.videos[0].tobytes(), out.audios[0].tobytes(), out.texts[0].encode()]
sys.stdout.buffer.write(b''.join(made))
"""


def test_what_is_made_is_the_same_to_the_bit(tmp_path):
    lean = "from codi.start_up import lean_imports\nwith lean_imports():\n    import codi.pipeline\n"
    assert python(lean + PICTURE, tmp_path).stdout == python(PICTURE, tmp_path).stdout


LATER = """
from codi.start_up import lean_imports
with lean_imports():
    import codi.pipeline
import importlib.metadata, torch
assert torch.distributed.is_available() and importlib.metadata.packages_distributions()
import scipy.optimize, peft, matplotlib
from diffusers import FluxTransformer2DModel, AutoencoderTiny
from diffusers.models.transformers import SD3Transformer2DModel
from transformers import AutoModel, BertModel
from torch.nn.attention.flex_attention import flex_attention
class Twice(torch.nn.Module):
    def forward(self, x):
        return 2 * x
compiled = torch.compile(Twice(), backend='eager')
assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))
assert isinstance(compiled, torch._dynamo.eval_frame.OptimizedModule)
"""


def test_whatever_was_left_out_can_be_imported_later(tmp_path):
    python(LATER, tmp_path)


@pytest.mark.parametrize(
    "mistake",
    [["--to", "smell"], ["--to", "image", "--guidance", "video=x"], ["--to", "image", "--seed", "x"]],
)
def test_a_mistake_in_the_arguments_costs_no_import(tmp_path, mistake):
    code = (
        f"import codi.cli\nassert codi.cli.main(['generate', '--text', 'a ball', '-o', 'out', *{mistake}]) "
        "== 2\n"
    )
    python(code + "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)", tmp_path)


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_nothing_is_hidden_from_a_library_that_has_seen_it(library, tmp_path):
    """A program that has imported a part of the two libraries can still run a command in its process."""
    code = f"""
import {library}.utils
from codi.start_up import lean_imports
with lean_imports():
    import peft.tuners, codi.pipeline
print(codi.pipeline.CoDiPipeline.__name__)
"""
    assert python(code, tmp_path).stdout.strip() == b"CoDiPipeline"
