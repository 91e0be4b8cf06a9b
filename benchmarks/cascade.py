"""What the super-resolution stage gives, of pictures and clips of the world, rendered and generated.

    python benchmarks/cascade.py --upscaler runs/tiny/image_upscaler
    python benchmarks/cascade.py --upscaler runs/tiny/image_upscaler --levels 0,0.05,0.1 --scenes 32 --clips 8

Two tables, with bilinear interpolation, and with the network at each strength of the augmentation (0 is
without). Of pictures that were rendered small the truth is known, which is rendered large; of pictures and
clips that the model generated from captions of unseen scenes it is not. What is measured:

- `PSNR`: against the truth, in dB, the mean over pictures
- `returned`: of the result downsampled again against what was given, in dB, the worst of all
- `edge`: how many pixels an edge is wide: in each row of a picture the range of its values over their
  greatest step, the median of all rows that have an edge (the truth has 1 to 2)
- `right`: of the facts that the caption names and that can be seen, how many the world's probes read, in %
- `as before`: of what they read, how much they read of what was given as well, in %
- `onset F1`: of the events of the clip and of what was given, at 125 ms
- `s/frame`: CPU time of one picture or frame

`right` and `onset F1` of what was given stand in the row "given".
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi import world
from codi.bench.scores import facts_of
from codi.io import from_unit, to_unit
from codi.metrics.agreement import agreement
from codi.metrics.onsets import onset_f1
from codi.models.upscaler import ImageUpscaler
from codi.pipeline import CoDiPipeline
from codi.types import Modality
from codi.upscaling import STEPS, Upscale
from codi.world import ATTRIBUTES, READERS, VISIBLE, render_images, sample_scenes

SEED = 9_100_000  # far from those of training
TOLERANCE = 0.125  # seconds
LEAST_RANGE = 0.15  # of [0, 1]: rows with less have no edge
Larger = Callable[[Modality, Tensor, int], Tensor]


def decibels(one: Tensor, other: Tensor) -> Tensor:
    """Return the PSNR (B,) of pictures (B, 3, H, W) in [-1, 1]."""
    return -10 * torch.log10((one - other).square().mean(dim=(1, 2, 3)).clamp(min=1e-10) / 4)


def edge_width(pictures: Tensor) -> float:
    """Return how many pixels an edge of pictures (B, 3, H, W) in [-1, 1] is wide."""
    rows = pictures.div(2).transpose(1, 2).flatten(0, 1)  # (B H, 3, W), a range of 1
    ranges = rows.amax(-1) - rows.amin(-1)  # (B H, 3)
    steps = rows.diff(dim=-1).abs().amax(-1)
    best = ranges.argmax(1, keepdim=True)
    spread, step = ranges.gather(1, best)[:, 0], steps.gather(1, best)[:, 0]
    seen = spread > LEAST_RANGE
    return float((spread[seen] / step[seen]).median())


def ways(part: ImageUpscaler, levels: list[float], steps: int) -> dict[str, Larger]:
    """Return what makes media larger, by the names of the rows."""

    def interpolated(modality: Modality, raw: Tensor, seed: int) -> Tensor:
        return part.interpolated(raw if raw.ndim == 4 else raw[None]).reshape(
            *raw.shape[:-2], raw.shape[-2] * part.factor, raw.shape[-1] * part.factor
        )

    found: dict[str, Larger] = {"bilinear": interpolated}
    for level in levels:
        asked = Upscale(factor=part.factor, noise_aug_strength=level, num_inference_steps=steps)
        found[f"network, s = {level:g}"] = lambda m, raw, seed, asked=asked: asked.one(m, raw, seed, part)
    return found


def applied(larger: Larger, modality: Modality, media: Tensor) -> tuple[Tensor, float]:
    """Return media (B, ...) larger, quantised as in files, and the CPU seconds of a frame."""
    begun = time.process_time()
    made = torch.stack([larger(modality, raw, seed) for seed, raw in enumerate(media)])
    seconds = time.process_time() - begun
    return to_unit(from_unit(made)), seconds / num_frames(media)


def num_frames(media: Tensor) -> int:
    """Return how many pictures there are in media (B, 3, H, W) or (B, F, 3, H, W)."""
    return media.shape[:-3].numel()


def returned(part: ImageUpscaler, made: Tensor, given: Tensor) -> float:
    """Return the PSNR of the worst frame of media downsampled again, against what was given."""
    return float(decibels(part.downsampled(made.flatten(0, -4)), given.flatten(0, -4)).min())


def rendered_row(part: ImageUpscaler, larger: Larger, scenes: list) -> dict[str, float]:
    """Return the numbers of one way for pictures that were rendered small."""
    given = to_unit(render_images(scenes))
    truth = to_unit(render_images(scenes, 64 * part.factor))
    made, seconds = applied(larger, Modality.IMAGE, given)
    return {
        "PSNR": float(decibels(made, truth).mean()),
        "returned": returned(part, made, given),
        "edge": edge_width(made),
        **read(Modality.IMAGE, made, facts_of(scenes), given),
        "s/frame": seconds,
    }


def read(modality: Modality, media: Tensor, facts: list[dict[str, str]], given: Tensor) -> dict[str, float]:
    """Return what the world's probes read of media, and of what was given."""
    readings, before = (READERS[modality](from_unit(each)) for each in (media, given))
    shown = [name for name in ATTRIBUTES if name in VISIBLE[modality]]
    right = agreement([r.facts for r in readings], facts, shown)
    same = agreement([r.facts for r in readings], [r.facts for r in before], shown)
    found = {
        "right": 100 * float(np.mean(list(right.values()))),
        "as before": 100 * float(np.mean(list(same.values()))),
    }
    if modality is Modality.VIDEO:
        f1 = onset_f1([r.events for r in readings], [r.events for r in before], TOLERANCE).f1
        found["onset F1"] = float(f1)
    return found


def generated_row(
    part: ImageUpscaler, larger: Larger, modality: Modality, given: Tensor, facts: list[dict[str, str]]
) -> dict[str, float]:
    """Return the numbers of one way for what a model generated."""
    made, seconds = applied(larger, modality, given)
    found = {"returned": returned(part, made, given), "edge": edge_width(made.flatten(0, -4))}
    return found | read(modality, made, facts, given) | {"s/frame": seconds}


def generated(pipe: CoDiPipeline, modality: Modality, captions: list[str], steps: int) -> Tensor:
    """Return what a model makes of captions, (B, ...) in [-1, 1]."""
    made = []
    for seed, caption in enumerate(captions):
        out: Any = pipe(
            text=caption, outputs=modality, seed=seed, num_inference_steps=steps, output_type="pt"
        )
        made.append(torch.as_tensor(out.of(modality)[0]))
    return to_unit(torch.stack(made))


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"\n{title}\n\n| way | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(_cell(row.get(column)) for column in columns) + " |", flush=True)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


@torch.no_grad()
def main() -> None:
    """Measure all ways and print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--upscaler", required=True, help="folder of the part image_upscaler")
    parser.add_argument("--model", help="folder or hub id of what generates (default: the embedded)")
    parser.add_argument("--scenes", type=int, default=32, help="pictures of each table (default 32)")
    parser.add_argument("--clips", type=int, default=8, help="clips (default 8)")
    parser.add_argument(
        "--levels", default="0,0.05,0.1,0.2", help="of the augmentation (default 0,0.05,0.1,0.2)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the upscaler (default {STEPS})")
    args = parser.parse_args()
    part = ImageUpscaler.from_pretrained(args.upscaler).eval()
    larger = ways(part, [float(level) for level in args.levels.split(",")], args.steps)
    scenes = sample_scenes(args.scenes, SEED)
    facts = facts_of(scenes)
    truth = to_unit(render_images(scenes, 64 * part.factor))
    rows = {name: rendered_row(part, way, scenes) for name, way in larger.items()}
    rows["truth"] = {"edge": edge_width(truth), **read(Modality.IMAGE, truth, facts, truth)}
    show(f"{args.scenes} rendered pictures, {args.steps} steps", rows)
    pipe = CoDiPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    for modality, count in ((Modality.IMAGE, args.scenes), (Modality.VIDEO, args.clips)):
        captions = [world.caption(scene) for scene in scenes[:count]]
        given = generated(pipe, modality, captions, 20)
        rows = {"given": read(modality, given, facts[:count], given)}
        for name, way in larger.items():
            rows[name] = generated_row(part, way, modality, given, facts[:count])
        show(f"{count} generated: {modality}, {args.steps} steps", rows)


if __name__ == "__main__":
    main()
