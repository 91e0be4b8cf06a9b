"""Follows and steers a generation step by step, with a callback as diffusers has them.

    python examples/control_the_guidance.py --out out/

Guidance is strong while the picture is decided and fades afterwards. Prints the scale of every step and how
far the latent moved in it, and writes the picture.
"""

import argparse

from codi import CoDiPipeline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="out/")
parser.add_argument("--steps", type=int, help="steps of denoising (default: the model's own)")
asked = parser.parse_args()

pipe = CoDiPipeline.from_pretrained()
pipe.set_progress_bar_config(disable=True)
before = None


def fade(pipe, step, timestep, tensors):
    """Lowers the scale for the steps that are left; 1 is off."""
    global before
    latent = tensors["latents"]["image"]
    moved = 0.0 if before is None else (latent - before).pow(2).mean().sqrt().item()
    print(f"step {step + 1} of {pipe.num_timesteps}: scale {pipe.guidance_scale:.2f}, moved {moved:.2f}")
    before = latent.clone()
    pipe._guidance_scale = max(1.01, pipe.guidance_scale * 0.9)
    return tensors


out = pipe(
    text="a green star in the snow",
    outputs="image",
    guidance_scale=6.0,
    callback_on_step_end=fade,
    num_inference_steps=asked.steps,
    seed=0,
)
out.save(asked.out)
