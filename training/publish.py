"""Publishes the finished parts as one pipeline folder, with their provenance.

    python -m training.publish --model runs/tiny --to codi/assets/tiny

Weights become float16 safetensors in diffusers' layout; `provenance.json` says of every run that went into
them its settings, on which data and how many samples it ran, and how its last log line reads
(`training.provenance`). Scores are added by `--scores report/report.json`, as `codi bench` writes it.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from codi import pretrained
from codi.adapters.controls import FOLDER
from codi.joint.encoders import EnvironmentEncoders
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.modalities import component_class, load_plugins_aloud
from codi.models.codi import AUTOENCODERS, DENOISERS, TOWERS, UPSCALERS
from codi.pipeline import CoDiPipeline
from codi.types import InputError
from training.provenance import NAME, provenance
from training.stages.common import load_part
from training.stages.new_model import load_defaults, load_scheduler


def read_parts(model: Path) -> dict[str, torch.nn.Module]:
    """Return every part that the folder has, in float16, by name.

    Environment encoders, noisy-latent encoders and upscalers are optional.
    """
    joint = {"environment_encoders": EnvironmentEncoders, "noisy_latent_encoders": NoisyLatentEncoders}
    networks = [*AUTOENCODERS.values(), *TOWERS.values(), *DENOISERS.values()]
    names = dict.fromkeys([*networks, *filter(None, UPSCALERS.values()), *joint])
    parts = {}
    for name in names:
        if (model / name).is_dir():
            part_class = joint.get(name) or component_class(name)
            parts[name] = load_part(part_class, model / name, "train it first").half()
    return parts


def publish(
    model: Path, to: Path, runs: Path, scores: Path | None = None, notes: list[str] | None = None
) -> None:
    """Write the model beside its destination, then put it in place of the model that may be there.

    Args:
        model: the model folder, with finished parts.
        to: the destination.
        runs: the folder below which the folders of runs lie.
        scores: a report of `codi bench` for the provenance.
        notes: what else there is to know of how the model was made.

    Raises:
        InputError: if there is no finished model or no such report, or something else stands at the
            destination.
    """
    check_place(to, {"--model": model, "--runs": runs, "the folder you are in": Path.cwd()})
    if scores is not None and not scores.is_file():
        raise InputError(f"no such report: {scores}: `codi bench` writes report.json")
    parts = read_parts(model)
    if "text_tower" not in parts:
        raise InputError(f"{model} holds no finished model (no text_tower): run `make tiny` first")
    made = provenance(model, list(parts), runs, scores, notes)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent) as place:
        beside = Path(place) / to.name
        CoDiPipeline(scheduler=load_scheduler(model), **parts, defaults=load_defaults(model)).save_pretrained(
            beside
        )
        if (model / FOLDER).is_dir():  # they were trained beside these very denoisers
            shutil.copytree(model / FOLDER, beside / FOLDER)
        (beside / NAME).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(to, ignore_errors=True)
        beside.rename(to)


def check_place(to: Path, kept: dict[str, Path]) -> None:
    """Raise InputError if publishing would remove what is no published model, or what is to be kept.

    Args:
        to: the destination.
        kept: folders that must stay, by their names for the message.
    """
    for name, path in kept.items():
        if path.resolve().is_relative_to(to.resolve()):
            raise InputError(
                f"--to is {to}, which is or holds {name}: it would be removed: choose another folder"
            )
    if to.exists() and not (to / pretrained.INDEX).is_file() and not (to.is_dir() and not any(to.iterdir())):
        raise InputError(
            f"--to is {to}, which is no model folder (no {pretrained.INDEX}): choose a new folder, or empty "
            "this one"
        )


def main() -> int:
    """Publish a model and return the exit code."""
    load_plugins_aloud()
    parser = argparse.ArgumentParser(
        prog="training.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--to", type=Path, default=Path("codi/assets/tiny"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--scores", type=Path, help="a report.json of `codi bench`, kept in the provenance")
    parser.add_argument(
        "--note", action="append", help="what else there is to know of how the model was made; repeatable"
    )
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
