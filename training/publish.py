"""`python -m training.publish --model runs/tiny --to codi/assets/tiny`: the finished parts as one pipeline folder, with their provenance.

Weights become float16 safetensors in diffusers' layout; `provenance.json` says of every run that went into them what it was told, on which
data and how many samples it ran, and how its last log line reads (`training.provenance`). Scores are added by
`--scores report/report.json`, as `codi bench` writes it.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from codi.models.codi import AUTOENCODERS, DENOISERS, TOWERS
from codi.models.joint import EnvironmentEncoders
from codi.models.noised import NoisedTowers
from codi.pipeline import CoDiPipeline
from codi.types import InputError
from training.provenance import NAME, provenance
from training.stages.common import load_part
from training.stages.denoise import DEFAULTS, load_scheduler
from training.stages.latents import CLASSES as PART_CLASSES
from training.stages.listeners import CLASSES as DENOISER_CLASSES


def read_parts(model: Path) -> dict[str, torch.nn.Module]:
    """Every part that the folder has; environments and noised towers are optional."""
    classes = PART_CLASSES | DENOISER_CLASSES | {"environments": EnvironmentEncoders, "noised_towers": NoisedTowers}
    names = dict.fromkeys([*AUTOENCODERS.values(), *TOWERS.values(), *DENOISERS.values(), "environments", "noised_towers"])
    return {name: load_part(classes[name], model / name, "train it first").half() for name in names if (model / name).is_dir()}


def publish(model: Path, to: Path, runs: Path, scores: Path | None = None, notes: list[str] | None = None) -> None:
    """Writes the folder beside its destination, then puts it in place."""
    if scores is not None and not scores.is_file():
        raise InputError(f"no such report: {scores}: `codi bench` writes report.json")
    parts = read_parts(model)
    if "text_tower" not in parts:
        raise InputError(f"{model} holds no finished model (no text_tower): run `make tiny` first")
    beside = to.with_name(to.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    CoDiPipeline(scheduler=load_scheduler(model), **parts, defaults=DEFAULTS).save_pretrained(beside)
    made = provenance(model, list(parts), runs, scores, notes)
    (beside / NAME).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(to, ignore_errors=True)
    beside.rename(to)


def main() -> int:
    parser = argparse.ArgumentParser(prog="training.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--to", type=Path, default=Path("codi/assets/tiny"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--scores", type=Path, help="a report.json of `codi bench`, kept in the provenance")
    parser.add_argument("--note", action="append", help="what else there is to know of how the model was made; repeatable")
    options = parser.parse_args()
    try:
        publish(options.model, options.to, options.runs, options.scores, options.note)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
