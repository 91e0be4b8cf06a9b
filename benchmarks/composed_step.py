"""Time a step of foreign models through codi beside a step of their own pipelines.

    python benchmarks/composed_step.py [--steps 12] [--repeats 3] [FOLDER ...]

Both run in turn on the same machine, with the same prompts and seeds. Printed are the median seconds of a
step of each, and by how much codi's is longer. Without folders two models of diffusers' classes with random
weights are measured. Folders are pipelines of diffusers, such as Stable Diffusion.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from codi.compose.check import sample_alone
from codi.compose.foreign import ForeignModel
from codi.joint.sampler import JointSampler

PROMPT = "a red ball bounces in the snow"


def step_times(owner: Any, name: str, run: Callable[[], Any]) -> list[float]:
    """Return the seconds from the end of one call of a method to the end of the next, while `run` runs."""
    own = getattr(owner, name)
    ends: list[float] = []

    @functools.wraps(own)
    def timed(*args: Any, **kwargs: Any) -> Any:
        answer = own(*args, **kwargs)
        ends.append(time.perf_counter())
        return answer

    kept = owner.__dict__.get(name)
    setattr(owner, name, timed)
    try:
        run()
    finally:
        if kept is None:
            delattr(owner, name)
        else:
            setattr(owner, name, kept)
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]


def load(folder: str) -> Any:
    """Return the pipeline in a folder."""
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder)


def measure(model: ForeignModel, steps: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds of a step of the pipeline, and of the same step through codi."""
    scale = model.guidance_scale()
    model.form(model.family.guided and scale > 1, model.call_for())  # found out once, and not part of a step

    def theirs() -> None:
        call = model._arguments(
            model.call_for(),
            prompt=[PROMPT],
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=[torch.Generator().manual_seed(0)],
        )
        with torch.no_grad():
            model.pipeline(**call, **model.family.media)

    def ours() -> None:
        sample_alone(model, [PROMPT], None, steps, scale, [0])

    own: list[float] = []
    through: list[float] = []
    for _ in range(repeats):
        own += step_times(model.pipeline.scheduler, "step", theirs)
        through += step_times(JointSampler, "step", ours)
    return statistics.median(own), statistics.median(through)


def small_pipeline() -> Any:
    """Return a Stable Diffusion pipeline of random weights with a UNet of 40 million parameters."""
    from diffusers import UNet2DConditionModel

    from tests.compose import tiny_foreign

    pipeline = load(str(tiny_foreign.folder("sd15")))
    pipeline.unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(96, 192, 384),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    return pipeline


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="pipelines of diffusers")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.folders:
        pipelines = [(folder, load(folder)) for folder in args.folders]
        models = [ForeignModel(pipeline=pipe, name=Path(folder).name) for folder, pipe in pipelines]
    else:
        models = [
            ForeignModel(
                pipeline=small_pipeline(), call={"height": 64, "width": 64}, name="UNet, 64 x 64 pixels"
            ),
            ForeignModel(
                pipeline=small_pipeline(), call={"height": 128, "width": 128}, name="UNet, 128 x 128"
            ),
        ]
    for model in models:
        own, through = measure(model, args.steps, args.repeats)
        more = (through / own - 1) * 100
        print(f"{model.name}: {own * 1000:.1f} ms alone, {through * 1000:.1f} ms through codi, {more:+.1f} %")


if __name__ == "__main__":
    main()
