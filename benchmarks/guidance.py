"""What each way to guide costs and gives: guiders and classifier guidance, on sound and clip of the world.

    python benchmarks/guidance.py
    python benchmarks/guidance.py --scenes 64 --ways cfg,apg,prompt@0.15

Every way makes two things: a clip and its sound of the captions of unseen scenes, and as many of "a star",
which leaves all but the shape open. What the world's probes read says

- `right`: of all facts that the caption names and an output can show, how many it shows, in %
- `onset F1`: of the clip's events and the sound's, at 125 ms
- `star`: of "a star", how often both outputs are one, in %
- `agree`: of "a star", the mean over the attributes left open of how often both show the same, in %
- `varied`: how far the open values are from the world's distribution (total variation, 0 is best; what
  honest draws of as many would show stands below the table)
- `ms/step`: time for a step of one sample, both outputs and the auxiliary caption, on this machine: CPU time
  of all threads, or on a GPU until its answer is there
- `rows`: what the denoisers of both outputs answer in it, in rows of a batch, which depends on no machine

The seeds are the same for all ways. With 32 scenes a share of 75 % is known to within 15 points: differences
below that are noise.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from codi import world
from codi.bench.scores import facts_of
from codi.metrics.agreement import agreement, mutual_agreement
from codi.metrics.onsets import onset_f1
from codi.metrics.spread import expected_total_variation, total_variation, world_distribution
from codi.pipeline import CoDiPipeline, named_scheduler
from codi.prompts import Prompt
from codi.types import Modality
from codi.world import ATTRIBUTES, READERS, VISIBLE, Reading, sample_scenes

STAR = "a star"
TOLERANCE = 0.125  # seconds
SEED = 9_000_000  # far from those of training
OUTPUTS = [Modality.VIDEO, Modality.AUDIO]
SHARED = [name for name in ATTRIBUTES if all(name in VISIBLE[m] for m in OUTPUTS)]
OPEN = [name for name in SHARED if name != "shape"]

# arguments of a call, by the name of the way; "scheduler" is a scheduler by its name
WAYS: dict[str, dict[str, Any]] = {
    "none": {"guidance_scale": 1.0, "sync_guidance_scale": 1.0},
    "cfg": {},
    "rescale 0.7": {"guider": {"name": "cfg", "rescale": 0.7}},
    "interval 0.2-0.8": {"guider": {"name": "cfg", "interval": (0.2, 0.8)}},
    "apg": {"guider": "apg"},
    "apg, eta 0.5": {"guider": {"name": "apg", "eta": 0.5, "momentum": 0.0}},
    "zero-star": {"guider": "zero-star"},
    "skip-layer": {"guider": "skip-layer"},
    "perturbed-attention": {"guider": "perturbed-attention"},
    "cfg, ddim": {"scheduler": "ddim"},
    "cfg++, ddim": {"scheduler": "ddim", "guider": "cfg++"},
}
for _scale in (0.05, 0.15, 0.4):
    WAYS[f"prompt@{_scale}"] = {"classifier_guidance": {"name": "prompt", "scale": _scale}}
for _scale in (0.05, 0.15, 0.4):
    WAYS[f"agreement@{_scale}"] = {"classifier_guidance": {"name": "agreement", "scale": _scale}}

Readings = dict[Modality, list[Reading]]


@dataclass
class Made:
    """What one way made, as it was read, and what it took."""

    captioned: Readings = field(default_factory=lambda: {m: [] for m in OUTPUTS})
    star: Readings = field(default_factory=lambda: {m: [] for m in OUTPUTS})
    seconds: float = 0.0
    rows: int = 0
    steps: int = 0


def make(pipe: CoDiPipeline, way: dict[str, Any], captions: list[str], steps: int, batch: int) -> Made:
    """Make sound and clip of the captions, and as many of "a star", in one way."""
    options = dict(way)
    own = pipe.scheduler
    pipe.scheduler = named_scheduler(options.pop("scheduler"), own) if "scheduler" in options else own
    made = Made()
    parts = {id(pipe.model.denoisers[m]): pipe.model.denoisers[m] for m in OUTPUTS}
    hooks = [part.register_forward_hook(lambda _m, _a, out: _count(made, out)) for part in parts.values()]
    try:
        for kind, texts in (("captioned", captions), ("star", [STAR] * len(captions))):
            for start in range(0, len(texts), batch):
                part = texts[start : start + batch]
                _generate(pipe, made, getattr(made, kind), part, SEED + start, steps, options)
    finally:
        pipe.scheduler = own
        for hook in hooks:
            hook.remove()
    return made


@torch.no_grad()
def _generate(
    pipe: CoDiPipeline,
    made: Made,
    readings: Readings,
    texts: Sequence[str],
    seed: int,
    steps: int,
    options: dict[str, Any],
) -> None:
    """Make one batch, read it, and add both to what there is."""
    prompts = [{Modality.TEXT: [Prompt(text)]} for text in texts]
    given = [pipe.encode_prompt(prompt) for prompt in prompts]
    away = [pipe.encode_null(prompt) for prompt in prompts]
    started = clock(pipe)
    out = pipe(
        **pipe.batched_prompts(given, away, range(len(texts)), False),
        outputs=OUTPUTS,
        num_samples=len(texts),
        seed=seed,
        num_inference_steps=steps,
        output_type="pt",
        **options,
    )
    made.seconds += clock(pipe) - started
    made.steps += steps * len(texts)
    for modality in OUTPUTS:
        readings[modality] += READERS[modality](torch.stack(list(out.of(modality))).cpu())


def clock(pipe: CoDiPipeline) -> float:
    """Return seconds: of all threads on a CPU, which a busy machine hardly changes, else on the wall."""
    if pipe.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _count(made: Made, output: torch.Tensor) -> None:
    made.rows += len(output)


def row(made: Made, facts: list[dict[str, str]]) -> dict[str, float]:
    """Return the numbers of one way."""
    hits: list[np.ndarray] = []
    for modality, readings in made.captioned.items():
        shown = [name for name in ATTRIBUTES if name in VISIBLE[modality]]
        hits += list(agreement([r.facts for r in readings], facts, shown).values())
    clips, sounds = (made.captioned[m] for m in OUTPUTS)
    f1 = onset_f1([r.events for r in sounds], [r.events for r in clips], TOLERANCE).f1
    columns = [[r.facts for r in made.star[m]] for m in OUTPUTS]
    stars = [[each["shape"] == "star" for each in column] for column in columns]
    same = mutual_agreement(columns, OPEN)
    return {
        "right": 100 * float(np.mean(hits)),
        "onset F1": float(f1),
        "star": 100 * float(np.all(stars, axis=0).mean()),
        "agree": 100 * float(np.mean(list(same.values()))),
        "varied": float(np.mean([_variation(column, name) for column in columns for name in OPEN])),
        "ms/step": 1000 * made.seconds / made.steps,
        "rows": made.rows / made.steps,
    }


def _variation(column: list[dict[str, str | None]], name: str) -> float:
    """Return the total variation of one attribute from the world's own distribution."""
    values = [facts[name] for facts in column]
    return total_variation(values, ATTRIBUTES[name], world_distribution(name))


def main() -> None:
    """Measure all ways and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", help="folder or hub id (default: the model inside the package)")
    parser.add_argument("--scenes", type=int, default=32, help="of each kind (default 32)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default 20)")
    parser.add_argument("--batch", type=int, default=16, help="made at once (default 16)")
    parser.add_argument("--ways", default="", help=f"some of: {', '.join(WAYS)} (default all)")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    args = parser.parse_args()
    names = [name.strip() for name in args.ways.split(";" if ";" in args.ways else ",") if name.strip()]
    ways = {name: WAYS[name] for name in names} if names else WAYS
    pipe = CoDiPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    scenes = sample_scenes(args.scenes, SEED)
    captions = [world.caption(scene) for scene in scenes]
    print(f"{args.scenes} scenes, {args.steps} steps")
    for number, (name, way) in enumerate(ways.items()):
        found = row(make(pipe, way, captions, args.steps, args.batch), facts_of(scenes))
        if number == 0:
            print("| way | " + " | ".join(found) + " |")
            print("|---" * (len(found) + 1) + "|")
        cells = [f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in found.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    honest = [expected_total_variation(args.scenes, world_distribution(name)) for name in OPEN]
    print(f"varied, of honest draws: {np.mean(honest):.2f}")


if __name__ == "__main__":
    main()
