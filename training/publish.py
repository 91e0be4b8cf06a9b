"""`python -m training.publish --model runs/tiny --to codi/assets/tiny`: the finished parts as one pipeline folder, with their provenance.

Weights become float16 safetensors in diffusers' layout; `provenance.json` says of every stage what it ran, on how many samples, and how
its last log line reads. Scores are added by `--scores report/report.json`, as `codi bench` writes it.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from codi.models.codi import AUTOENCODERS, DENOISERS, TOWERS
from codi.models.joint import EnvironmentEncoders
from codi.pipeline import CoDiPipeline
from codi.types import InputError
from training.stages.common import load_part
from training.stages.denoise import DEFAULTS, load_scheduler
from training.stages.joint import CLASSES as DENOISER_CLASSES
from training.stages.latents import CLASSES as PART_CLASSES

# What the provenance keeps of a benchmark's report.
SCORES = ("command", "settings", "versions", "tasks", "targets", "summary", "retrieval", "ceiling")


def read_parts(model: Path) -> dict[str, torch.nn.Module]:
    """Every part that the folder has; environments are optional."""
    classes = PART_CLASSES | DENOISER_CLASSES | {"environments": EnvironmentEncoders}
    names = dict.fromkeys([*AUTOENCODERS.values(), *TOWERS.values(), *DENOISERS.values(), "environments"])
    return {name: load_part(classes[name], model / name, "train it first").half() for name in names if (model / name).is_dir()}


def provenance(runs: Path, scores: Path | None, notes: list[str]) -> dict[str, Any]:
    """How the model was made: commit, and for every finished run its command, seed, samples seen and last losses."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() or None
    stages = {}
    for exported in sorted(runs.glob("*/exported.json"), key=lambda path: path.stat().st_mtime):
        log = [json.loads(line) for line in (exported.parent / "log.jsonl").read_text(encoding="utf-8").splitlines() if line.strip()]
        name, last = exported.parent.name, log[-1] if log else {}
        stages[name] = {
            "command": f"accelerate launch -m training.main --config configs/world/{name}.yaml",
            "samples_seen": json.loads(exported.read_text(encoding="utf-8"))["samples"],
            "last_log": {key: value for key, value in last.items() if isinstance(value, (int, float))},
        }
    made = {"commit": commit, "license": "MIT", "data": "the world of codi.world, rendered", "seed": 0, "stages": stages}
    if notes:
        made["notes"] = notes
    if scores is not None:
        report = json.loads(scores.read_text(encoding="utf-8"))
        made["scores"] = {name: report[name] for name in SCORES if report.get(name)}
    return made


def publish(model: Path, to: Path, runs: Path, scores: Path | None = None, notes: list[str] | None = None) -> None:
    """Writes the folder beside its destination, then puts it in place."""
    parts = read_parts(model)
    if "text_tower" not in parts:
        raise InputError(f"{model} holds no finished model (no text_tower): run `make tiny` first")
    beside = to.with_name(to.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    CoDiPipeline(scheduler=load_scheduler(model), **parts, defaults=DEFAULTS).save_pretrained(beside)
    (beside / "provenance.json").write_text(json.dumps(provenance(runs, scores, notes or []), indent=1) + "\n", encoding="utf-8")
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
