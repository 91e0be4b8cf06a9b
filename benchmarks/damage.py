"""Print how well prompts are understood after ordinary damage, beside clean ones.

    python benchmarks/damage.py [MODEL ...] [--scenes 256] [--generate 16 --to text,image]

A model is a folder or hub id; without any it is the one inside the package. For every medium and kind of
damage (`data.damage`) the token of a prompt is held against those of the captions of all looks there are; the
share is of scenes whose nearest caption has the shape, the colour or the place of the scene, and the mean of
the three. With `--generate`, outputs are made from the damaged prompts, and the world's probes read how many
attributes are right, of those that prompt and output can show.

Some damage leaves too little to be understood: what is transmitted at 8 kHz has lost the crickets of the
night (7.2 kHz), and a telephone has lost the surf of the sand (below 90 Hz), too.
"""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codi.bench.models import Model
from codi.bench.runs import Run, generate, render
from codi.bench.scores import cell_rows, facts_of
from codi.types import Modality
from codi.world import ATTRIBUTES, RENDERERS, VISIBLE, Scene, caption, sample_scenes
from data.damage import damage, kinds_of

CLEAN = "clean"
LOOKS = ("shape", "colour", "place")
BATCH = 16


class DamagedPrompts(Model):
    """A model whose prompts are damaged before it is given them.

    Attributes:
        kind: the kind of damage.
    """

    kind: str = CLEAN

    def prepared(self, modality: Modality, media: Any) -> Any:
        """Return renderings with the damage, as a batch in the form of a user's prompts."""
        if self.kind != CLEAN:
            rng = np.random.default_rng(sum(map(ord, self.kind)))
            media = [damage(torch.as_tensor(one), self.kind, rng) for one in media]
        return super().prepared(modality, media)


def kinds(modality: Modality, scenes: list[Scene]) -> list[str]:
    """Return "clean" and the kinds of damage of a modality."""
    return [CLEAN, *kinds_of(torch.as_tensor(render(modality, scenes[:1])[0]))]


@torch.no_grad()
def nearest(model: DamagedPrompts, modality: Modality, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of scenes whose nearest caption agrees, by attribute, and their mean."""
    looks: list[dict[str, Any]] = [
        dict(zip(LOOKS, values)) for values in itertools.product(*(ATTRIBUTES[name] for name in LOOKS))
    ]
    said = [caption(replace(scenes[0], **look), LOOKS) for look in looks]
    words = model.embed(Modality.TEXT, said)
    hits: dict[str, list[bool]] = {name: [] for name in LOOKS}
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        tokens = model.embed(modality, model.prepared(modality, render(modality, part)))
        for scene, best in zip(part, (tokens @ words.T).argmax(1).tolist()):
            for name in LOOKS:
                hits[name].append(looks[best][name] == getattr(scene, name))
    shares = {name: float(np.mean(rows)) for name, rows in hits.items()}
    return shares | {"mean": float(np.mean(list(shares.values())))}


def made(model: DamagedPrompts, run: Run, scenes: list[Scene], seed: int) -> float:
    """Return the share of attributes that are right in what is made of damaged prompts."""
    readings, _ = generate(run, scenes, seed, model.sample, BATCH)
    return float(cell_rows(run, readings, facts_of(scenes)).mean())


def measure(model: DamagedPrompts, args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Return all shares by medium and kind of damage, and print a line for each as it is known."""
    scenes = sample_scenes(args.scenes, args.seed)
    outputs = [Modality.parse(name) for name in args.to.split(",")] if args.generate else []
    found: dict[str, dict[str, dict[str, float]]] = {}
    for modality in [m for m in RENDERERS if not args.media or m.value in args.media.split(",")]:
        rows = found[modality.value] = {}
        for kind in kinds(modality, scenes):
            model.kind = kind
            row = rows[kind] = nearest(model, modality, scenes)
            for output in outputs:
                if set(LOOKS) & set(VISIBLE[output]):
                    run = Run(inputs=(modality,), outputs=(output,))
                    row[f"-> {output}"] = made(model, run, scenes[: args.generate], args.seed)
            of_clean = row["mean"] / rows[CLEAN]["mean"]
            shares = "  ".join(f"{name} {100 * value:5.1f}" for name, value in row.items())
            print(f"{modality.value:6} {kind:18} {shares}  of clean {100 * of_clean:5.1f}", flush=True)
    return found


def main() -> None:
    """Measure each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", help="model folders or hub ids")
    parser.add_argument("--scenes", type=int, default=256, help="of every medium and kind (default 256)")
    parser.add_argument("--generate", type=int, default=0, help="scenes that outputs are made of (default 0)")
    parser.add_argument("--to", default="text", help="the outputs (default text)")
    parser.add_argument("--media", default="", help="the prompts' media (default all)")
    parser.add_argument("--seed", type=int, default=4321)
    parser.add_argument("--out", type=Path, help="a JSON file for all shares")
    args = parser.parse_args()
    report = {}
    for source in args.models or [None]:
        print(source or "the model inside the package")
        report[str(source)] = measure(DamagedPrompts(source), args)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
