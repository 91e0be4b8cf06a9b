"""Small prompts of every kind, and small calls of a converted pipeline."""

import torch

from codi.modalities import sized
from codi.types import SIZES

GENERATOR = torch.Generator().manual_seed(3)
GIVEN = {
    "text": "a red ball",
    "image": torch.randint(0, 256, (3, 40, 50), generator=GENERATOR, dtype=torch.uint8),
    "audio": (torch.rand(5000, generator=GENERATOR) - 0.5, 16000),
    "video": (torch.randint(0, 256, (6, 3, 40, 50), generator=GENERATOR, dtype=torch.uint8), 2),
}
SMALL = dict(
    height=32, width=32, num_frames=3, audio_length_in_s=0.32, lengths="free", num_inference_steps=1, seed=0
)


def small(outputs, **changed):
    """`SMALL`, but for sizes of what is not made, and for the length of a sound where there is none."""
    outputs = [outputs] if isinstance(outputs, str) else outputs
    if "audio" not in outputs:
        changed = {"audio_length_in_s": None, **changed}
    return {
        name: value
        for name, value in {**SMALL, **changed}.items()
        if name not in SIZES or set(sized(name)) & set(outputs)
    }


def quiet(pipe):
    """The pipeline without its bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe, **arguments):
    """What a small call gives, before it is decoded."""
    return pipe(output_type="latent", **small(arguments["outputs"]) | arguments).latents
