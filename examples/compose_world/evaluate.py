"""Measures the three models with the evaluators of the world.

    python evaluate.py picture --model out/picture --prompts 64
    python evaluate.py clip --model out/clip --prompts 48 --steps 25 --guidance 3
    python evaluate.py sound --model out/sound --prompts 48 --steps 50 --guidance 2.5

For captions that name everything, prints the share of facts that are read back from what the pipeline makes,
beside the ceiling (true media through the model's own autoencoder and vocoder) and the floor (what was made,
judged by the captions of others). For clips and sounds also the F1 of onsets at 50 and 125 ms: of what was
made against the events of the named motion and tempo at the best start, because no caption names the start;
at the ceiling against the true events.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from world_data import NUM_FRAMES, log_mel, to_bytes, to_unit

from codi.metrics.onsets import onset_f1
from codi.world import (
    ATTRIBUTES,
    MOTIONS,
    TEMPOS,
    Reading,
    Scene,
    caption,
    read_images,
    read_sounds,
    read_videos,
    render_images,
    render_sounds,
    render_videos,
    sample_scenes,
)
from codi.world.motion import schedule, schedule_of

_VISIBLE = {"picture": ("shape", "colour", "place"), "clip": tuple(ATTRIBUTES), "sound": tuple(ATTRIBUTES)}
_RENDER = {"picture": render_images, "clip": render_videos, "sound": render_sounds}
_READ = {"picture": read_images, "clip": read_videos, "sound": read_sounds}


def _generate_pictures(pipe: DiffusionPipeline, prompts: list[str], **settings: object) -> Tensor:
    out = pipe(prompts, output_type="np", **settings).images
    return (torch.from_numpy(np.asarray(out)) * 255).round().byte().permute(0, 3, 1, 2)


def _generate_clips(pipe: DiffusionPipeline, prompts: list[str], **settings: object) -> Tensor:
    out = pipe(prompts, num_frames=NUM_FRAMES, output_type="np", **settings).frames
    return (torch.from_numpy(np.asarray(out)) * 255).round().byte().permute(0, 1, 4, 2, 3)


def _generate_sounds(pipe: DiffusionPipeline, prompts: list[str], **settings: object) -> Tensor:
    return torch.from_numpy(np.asarray(pipe(prompts, audio_length_in_s=2.0, **settings).audios))


_GENERATE: dict[str, Callable[..., Tensor]] = {
    "picture": _generate_pictures,
    "clip": _generate_clips,
    "sound": _generate_sounds,
}


def generate(
    pipe: DiffusionPipeline, kind: str, prompts: list[str], steps: int, guidance: float, seed: int
) -> Tensor:
    """Return what the pipeline makes of prompts, 16 at a time, in the form that the evaluators read."""
    pipe.set_progress_bar_config(disable=True)
    parts = []
    for at in range(0, len(prompts), 16):
        generator = torch.Generator().manual_seed(seed + at)
        settings = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generator}
        parts.append(_GENERATE[kind](pipe, prompts[at : at + 16], **settings))
    return torch.cat(parts)


@torch.no_grad()
def through_autoencoder(pipe: DiffusionPipeline, kind: str, media: Tensor) -> Tensor:
    """Return true media after the autoencoder, and for sounds the vocoder, of the pipeline."""

    def again(x: Tensor) -> Tensor:
        return torch.cat([pipe.vae.decode(pipe.vae.encode(p).latent_dist.mean).sample for p in x.split(32)])

    if kind == "sound":
        return pipe.vocoder(again(log_mel(media)[:, None])[:, 0])
    flat = to_unit(media.flatten(0, -4))
    return to_bytes(again(flat)).reshape(media.shape)


def shares(readings: list[Reading], scenes: list[Scene], attributes: tuple[str, ...]) -> dict[str, float]:
    """Return how often each attribute is read as the scene has it."""
    return {
        name: float(np.mean([r.facts[name] == getattr(s, name) for r, s in zip(readings, scenes)]))
        for name in attributes
    }


def _true_events(scenes: list[Scene]) -> list[np.ndarray]:
    return [t[np.isfinite(t)] for t in schedule_of(scenes)[0]]


def best_events(reading: Reading, scene: Scene) -> np.ndarray:
    """Return the events of the scene's motion and tempo at the start that fits a reading best."""
    starts = np.arange(0.10, 0.56, 0.01)
    motion = np.full(len(starts), MOTIONS.index(scene.motion))
    tempo = np.full(len(starts), TEMPOS.index(scene.tempo))
    every = [t[np.isfinite(t)] for t in schedule(motion, tempo, starts)[0]]
    return max(every, key=lambda t: onset_f1([reading.events], [t], 0.05).f1)


def _line(name: str, found: dict[str, float], rhythm: dict[str, float]) -> str:
    facts = "  ".join(f"{key} {value:.3f}" for key, value in found.items())
    times = "".join(f"  onsets {key} ms {value:.3f}" for key, value in rhythm.items())
    return f"{name:10s} {facts}  mean {np.mean(list(found.values())):.3f}{times}"


def _rhythm(readings: list[Reading], events: list[np.ndarray]) -> dict[str, float]:
    return {f"{1000 * t:.0f}": onset_f1([r.events for r in readings], events, t).f1 for t in (0.05, 0.125)}


def report(kind: str, made: Tensor, ceiling: Tensor, scenes: list[Scene]) -> list[str]:
    """Return the lines to print for media made of the captions of scenes."""
    visible = _VISIBLE[kind]
    readings, limits = _READ[kind](made), _READ[kind](ceiling)
    moved = scenes[1:] + scenes[:1]
    with_time = kind != "picture"
    rows = [
        (
            "generated",
            readings,
            scenes,
            [best_events(r, s) for r, s in zip(readings, scenes)] if with_time else [],
        ),
        ("ceiling", limits, scenes, _true_events(scenes)),
        (
            "shuffled",
            readings,
            moved,
            [best_events(r, s) for r, s in zip(readings, moved)] if with_time else [],
        ),
    ]
    return [_line(n, shares(r, s, visible), _rhythm(r, e) if with_time else {}) for n, r, s, e in rows]


def main(argv: list[str] | None = None) -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=_VISIBLE)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the pipeline")
    parser.add_argument("--prompts", type=int, default=48, help="captions (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--held-out", action="store_true", help="only pairs of shape and colour never trained on"
    )
    parser.add_argument("--save", type=Path, help="a .pt file for what was made")
    asked = parser.parse_args(argv)
    pipe = DiffusionPipeline.from_pretrained(asked.model)
    scenes = sample_scenes(asked.prompts, 10_000 + asked.seed, held_out=asked.held_out)
    rng = np.random.default_rng(asked.seed)
    prompts = [caption(scene, rng=rng) for scene in scenes]
    begun = time.time()
    made = generate(pipe, asked.kind, prompts, asked.steps, asked.guidance, asked.seed)
    seconds = (time.time() - begun) / len(prompts)
    settings = f"{asked.steps} steps, guidance {asked.guidance}, {seconds:.2f} s each"
    print(f"{asked.kind}: {len(prompts)} captions, {settings}")
    ceiling = through_autoencoder(pipe, asked.kind, _RENDER[asked.kind](scenes))
    print("\n".join(report(asked.kind, made, ceiling, scenes)), flush=True)
    if asked.save:
        torch.save({"made": made, "ceiling": ceiling, "prompts": prompts}, asked.save)


if __name__ == "__main__":
    main()
