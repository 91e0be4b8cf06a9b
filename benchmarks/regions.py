"""Print whether prompts for parts of outputs are followed there, beside the same prompts without regions.

    python benchmarks/regions.py [--scenes 16] [--steps 20] [--tasks place,two] [--feather 0.1] [--fade 0.1]

Every task has two prompts, of scenes a and b. With regions, b counts in a part of the output alone; without
them both are prompts of the whole, which is what they would be combined to otherwise. The truth is rendered
from both scenes and read in the same way. Halves of a picture are read as a picture of the half and its
mirror image, seconds of clips and sounds by themselves. All figures are percentages of scenes.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi import world
from codi.conditions import regional
from codi.pipeline import CoDiPipeline
from codi.types import Modality
from codi.world import ATTRIBUTES, Scene, caption

Media = Mapping[Modality, Tensor]
IMAGE, AUDIO, VIDEO = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
RIGHT = (0.5, 0.0, 1.0, 1.0)
LATER = (1.0, 2.0)  # seconds
SHOWN = ("shape", "colour", "place")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked, and how it is read.

    Attributes:
        outputs: what is made.
        differs: the attributes in which the scenes a and b differ.
        named: the attributes that the prompt of the whole names of a.
        where: what bounds the region, which has the prompt of b.
        join: returns what the truth is of media of a and of b.
        judge: returns for media and two scenes whether each measure is right, by its name.
        facts: the attributes that the prompt of the region names.
    """

    outputs: tuple[Modality, ...]
    differs: tuple[str, ...]
    named: tuple[str, ...]
    where: Mapping[str, Any]
    join: Callable[[Modality, Tensor, Tensor], Tensor]
    judge: Callable[[Media, Sequence[Scene], Sequence[Scene]], dict[str, list[bool]]]
    facts: tuple[str, ...] = tuple(ATTRIBUTES)


def other(scene: Scene, attributes: Sequence[str], rng: np.random.Generator) -> Scene:
    """Return the scene with other values of some attributes."""
    changed = {}
    for name in attributes:
        values = [value for value in ATTRIBUTES[name] if value != getattr(scene, name)]
        changed[name] = values[rng.integers(len(values))]
    return replace(scene, **changed)


# Parts, and reading them -----------------------------------------------


def half(images: Tensor, right: bool) -> Tensor:
    """Return pictures (B, 3, S, S) of one half and its mirror image."""
    middle = images.shape[-1] // 2
    part = images[..., middle:] if right else images[..., :middle]
    mirrored = part.flip(-1)
    return torch.cat([mirrored, part] if right else [part, mirrored], dim=-1)


def second(modality: Modality, raw: Tensor, later: bool) -> Tensor:
    """Return the first or second half, in time, of clips (B, F, 3, S, S) or sounds (B, samples)."""
    middle = raw.shape[1] // 2
    return raw[:, middle:] if later else raw[:, :middle]


def side_by_side(modality: Modality, a: Tensor, b: Tensor) -> Tensor:
    """Return pictures with the left half of a and the right half of b."""
    middle = a.shape[-1] // 2
    return torch.cat([a[..., :middle], b[..., middle:]], dim=-1)


def one_after_another(modality: Modality, a: Tensor, b: Tensor) -> Tensor:
    """Return clips or sounds with the first half of a and the second half of b."""
    return torch.cat([second(modality, a, False), second(modality, b, True)], dim=1)


def second_alone(modality: Modality, a: Tensor, b: Tensor) -> Tensor:
    """Return b."""
    return b


def named(scenes: Sequence[Scene], readings: Sequence[Any], attribute: str) -> list[bool]:
    """Return whether an attribute was read as each scene has it."""
    return [
        reading.facts[attribute] == getattr(s, attribute) for s, reading in zip(scenes, readings, strict=True)
    ]


def both(a: Sequence[bool], b: Sequence[bool]) -> list[bool]:
    """Return where both are true."""
    return [x and y for x, y in zip(a, b, strict=True)]


def judge_halves(
    attribute: str,
) -> Callable[[Media, Sequence[Scene], Sequence[Scene]], dict[str, list[bool]]]:
    """Return a judge of an attribute in the left and in the right half of pictures."""

    def judge(media: Media, a: Sequence[Scene], b: Sequence[Scene]) -> dict[str, list[bool]]:
        left = named(a, world.read_images(half(media[IMAGE], False)), attribute)
        right = named(b, world.read_images(half(media[IMAGE], True)), attribute)
        return {
            f"{attribute}, left": left,
            f"{attribute}, right": right,
            f"{attribute}, both": both(left, right),
        }

    return judge


def judge_box(media: Media, a: Sequence[Scene], b: Sequence[Scene]) -> dict[str, list[bool]]:
    """Return whether the object of b is there, and whether its centre is in the box."""
    readings = world.read_images(media[IMAGE])
    right = both(named(b, readings, "shape"), named(b, readings, "colour"))
    inside = [reading.x is not None and RIGHT[0] <= reading.x <= RIGHT[2] for reading in readings]
    return {"shape and colour": right, "centre in the box": inside, "both": both(right, inside)}


def judge_seconds(
    *attributes: str,
) -> Callable[[Media, Sequence[Scene], Sequence[Scene]], dict[str, list[bool]]]:
    """Return a judge of attributes in the first and in the second second of clips and sounds."""

    def judge(media: Media, a: Sequence[Scene], b: Sequence[Scene]) -> dict[str, list[bool]]:
        found = {}
        for modality, raw in media.items():
            early = world.READERS[modality](second(modality, raw, False))
            late = world.READERS[modality](second(modality, raw, True))
            for attribute in attributes:
                first, last = named(a, early, attribute), named(b, late, attribute)
                title = f"{modality} {attribute}"
                found |= {
                    f"{title}, first": first,
                    f"{title}, second": last,
                    f"{title}, both": both(first, last),
                }
        return found

    return judge


AFTER = {"where": {"interval": LATER}, "join": one_after_another, "named": tuple(ATTRIBUTES)}
BESIDE = {"outputs": (IMAGE,), "where": {"box": RIGHT}, "facts": SHOWN}
TASKS = {
    "place": Task(differs=("place",), named=SHOWN, join=side_by_side, judge=judge_halves("place"), **BESIDE),
    "two": Task(
        differs=("shape", "colour"), named=SHOWN, join=side_by_side, judge=judge_halves("colour"), **BESIDE
    ),
    "box": Task(differs=(), named=("place",), join=second_alone, judge=judge_box, **BESIDE),
    "clip": Task(outputs=(VIDEO,), differs=("colour",), judge=judge_seconds("colour", "place"), **AFTER),
    "clip-place": Task(outputs=(VIDEO,), differs=("place",), judge=judge_seconds("colour", "place"), **AFTER),
    "sound": Task(outputs=(AUDIO,), differs=("colour",), judge=judge_seconds("colour", "place"), **AFTER),
    "sound-place": Task(
        outputs=(AUDIO,), differs=("place",), judge=judge_seconds("colour", "place"), **AFTER
    ),
    "together": Task(outputs=(VIDEO, AUDIO), differs=("colour",), judge=judge_seconds("colour"), **AFTER),
}


# Making and printing ---------------------------------------------------


def made(
    pipe: CoDiPipeline, task: Task, given: Mapping[str, Any], seed: int, steps: int
) -> dict[Modality, Tensor]:
    """Return the media (1, ...) of one call, each kind as the readers take it."""
    out = pipe(
        **given, outputs=task.outputs, seed=seed, num_inference_steps=steps, output_type="pt", num_samples=1
    )
    return {m: torch.stack(out.of(m)) for m in task.outputs}


def calls(task: Task, a: Scene, b: Scene, soft: Mapping[str, float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the prompts of a task without regions and with them, each with its name."""
    whole, part = caption(a, task.named), caption(b, task.facts)
    yield "prompts alone", {"text": [whole, part]}
    yield "regions", {"text": whole, "regions": [{"text": part, **task.where, **soft}]}


def measure(pipe: CoDiPipeline, name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the share of scenes in which each measure is right, by how they were made."""
    task, rng = TASKS[name], np.random.default_rng(options.seed)
    first = world.sample_scenes(options.scenes, options.seed)
    last = [other(scene, task.differs, rng) for scene in first]
    soft = {"feather": options.feather} if "box" in task.where else {"fade": options.fade}
    found: dict[str, list[dict[Modality, Tensor]]] = {}
    for seed, (a, b) in enumerate(zip(first, last, strict=True)):
        for way, given in calls(task, a, b, soft):
            found.setdefault(way, []).append(made(pipe, task, given, seed, options.steps))
    media = {
        way: {m: torch.cat([row[m] for row in rows]) for m in task.outputs} for way, rows in found.items()
    }
    truth = {m: (world.RENDERERS[m](first), world.RENDERERS[m](last)) for m in task.outputs}
    media["truth"] = {m: task.join(m, *pair) for m, pair in truth.items()}
    shares: dict[str, dict[str, float]] = {}
    for way, of_way in media.items():
        for measured, right in task.judge(of_way, first, last).items():
            shares.setdefault(measured, {})[way] = 100 * sum(right) / len(right)
    return shares


def main() -> None:
    """Print a table of all tasks, a row for each measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=16, help="how many pairs of scenes")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--seed", type=int, default=1, help="which scenes")
    parser.add_argument("--feather", type=float, default=0.1, help="soft edge of a box, in fractions")
    parser.add_argument("--fade", type=float, default=0.1, help="soft ends of an interval, in seconds")
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of %(default)s")
    parser.add_argument("--dtype", default="float32", help="precision of the networks")
    parser.add_argument("--apart", type=float, default=regional.APART, help="of codi.conditions.regional")
    options = parser.parse_args()
    regional.APART = options.apart
    pipe = CoDiPipeline.from_pretrained(dtype=getattr(torch, options.dtype))
    pipe.set_progress_bar_config(disable=True)
    print(f"{'task':12}{'measure':24}{'prompts alone':>14}{'regions':>9}{'truth':>7}{'seconds':>9}")
    for name in options.tasks.split(","):
        began = time.perf_counter()
        for measured, ways in measure(pipe, name, options).items():
            figures = "".join(
                f"{ways[way]:>{w}.0f}" for way, w in (("prompts alone", 14), ("regions", 9), ("truth", 7))
            )
            print(f"{name:12}{measured:24}{figures}{time.perf_counter() - began:9.0f}", flush=True)


if __name__ == "__main__":
    main()
