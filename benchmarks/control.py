"""How well outputs follow their controls, by the world's readers, on unseen scenes.

    python benchmarks/control.py --model runs/tiny                       # every control that the model has
    python benchmarks/control.py --model runs/tiny --kinds beats,melody --scenes 64

For each control: the measure with it, without it (the floor), and that of the scenes themselves through the
autoencoder (the ceiling). Prompts say what the control does not.

    layout     IoU of the box and the object that is made
    sketch     IoU of the silhouettes, drawn and made
    beats      F1 of the onsets within 62.5 ms
    melody     share of sounds whose pitch is within a semitone
    loudness   correlation over time of the levels in decibels
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.controls import KINDS, ControlMap
from codi.controls.curves import loudness
from codi.io import to_unit
from codi.metrics.onsets import onset_f1
from codi.outputs import formatted
from codi.pipeline import CoDiPipeline
from codi.types import Modality
from codi.world import COLOURS, READERS, RENDERERS, Scene, caption, events, sample_scenes
from codi.world.look import object_masks
from codi.world.sound import F0

BEAT = 0.0625  # seconds within which a beat is met
# what prompts name beside each control: nothing that the control decides
NAMED = {
    "layout": ("shape", "colour", "place"),
    "sketch": ("colour", "place"),
    "beats": ("shape", "colour", "place"),
    "melody": ("shape", "place", "motion", "tempo"),
    "loudness": ("shape", "colour", "place"),
}
Measure = Callable[[Sequence[Scene], Tensor, Tensor, Modality], float]


def box_iou(scenes: Sequence[Scene], made: Tensor, true: Tensor, modality: Modality) -> float:
    """The mean IoU of the boxes around the objects in what is made and in what is true."""
    return _iou(*(_boxed(object_masks(frames)) for frames in (_frames(made), _frames(true))))


def silhouette_iou(scenes: Sequence[Scene], made: Tensor, true: Tensor, modality: Modality) -> float:
    """The mean IoU of the objects in what is made and in what is true."""
    return _iou(object_masks(_frames(made)), object_masks(_frames(true)))


def beat_f1(scenes: Sequence[Scene], made: Tensor, true: Tensor, modality: Modality) -> float:
    """F1 of the onsets that are read from what is made, against the events of the scenes."""
    found = [reading.events for reading in READERS[modality](made)]
    asked = [np.array([time for time, _ in events(scene)]) for scene in scenes]
    return onset_f1(found, asked, BEAT).f1


def semitone_share(scenes: Sequence[Scene], made: Tensor, true: Tensor, modality: Modality) -> float:
    """The share of sounds whose notes are read as within a semitone of the scene's pitch."""
    right = []
    for scene, reading in zip(scenes, READERS[modality](made)):
        read = reading.facts["colour"]
        hz = F0[COLOURS.index(read)] if read is not None else 1.0
        right.append(abs(12 * np.log2(hz / F0[COLOURS.index(scene.colour)])) <= 1)
    return float(np.mean(right))


def level_correlation(scenes: Sequence[Scene], made: Tensor, true: Tensor, modality: Modality) -> float:
    """The mean correlation of the levels of what is made and of what is true."""
    found = []
    for one, other in zip(made, true):
        levels = torch.stack([loudness(one, 16000.0), loudness(other, 16000.0)])
        found.append(float(torch.corrcoef(levels)[0, 1].nan_to_num()))
    return float(np.mean(found))


MEASURES: dict[str, Measure] = {
    "layout": box_iou,
    "sketch": silhouette_iou,
    "beats": beat_f1,
    "melody": semitone_share,
    "loudness": level_correlation,
}


def _frames(media: Tensor) -> Tensor:
    """Pictures, or the frames of clips, one after another: (N, 3, H, W)."""
    return media.reshape(-1, *media.shape[-3:])


def _boxed(masks: Tensor) -> Tensor:
    """The boxes around masks (N, H, W), as masks."""
    rows, columns = masks.any(2), masks.any(1)
    within = [line.cumsum(1).bool() & line.flip(1).cumsum(1).bool().flip(1) for line in (rows, columns)]
    return within[0][:, :, None] & within[1][:, None, :]


def _iou(made: Tensor, true: Tensor) -> float:
    """The mean IoU of masks (N, H, W); two empty ones agree."""
    both, either = (made & true).sum((1, 2)), (made | true).sum((1, 2))
    return float(torch.where(either > 0, both / either.clamp_min(1), 1.0).mean())


@torch.no_grad()
def generate(
    pipe: CoDiPipeline, kind: str, modality: Modality, scenes: list[Scene], weight: float, steps: int | None
) -> Tensor:
    """What is made for the scenes, with the control at this weight."""
    target = pipe.control_target(modality)
    maps = torch.cat([KINDS[kind].of_scene(scene, target) for scene in scenes])
    tower = pipe.model.towers[Modality.TEXT]
    context = tower.embed([caption(scene, NAMED[kind]) for scene in scenes])[:, None]
    made = pipe(
        outputs=[modality],
        num_samples=len(scenes),
        seed=[1000 + scene.seed for scene in scenes],
        prompt_embeds=context,
        num_inference_steps=steps,
        control={modality: {kind: {"value": ControlMap(map=maps), "weight": weight}}},
        output_type="pt",
    )
    return torch.stack(made.of(modality))


@torch.no_grad()
def round_trip(pipe: CoDiPipeline, modality: Modality, true: Tensor) -> Tensor:
    """The scenes themselves, through the autoencoder."""
    part = pipe.model.autoencoders[modality]
    raw = part.decode(part.encode(to_unit(true) if true.dtype == torch.uint8 else true))
    return torch.stack(formatted(modality, raw, "pt"))


def measure(
    pipe: CoDiPipeline, kind: str, modality: Modality, scenes: list[Scene], batch: int, steps: int | None
) -> dict[str, Any]:
    """The measure of one control, beside its floor and its ceiling."""
    made: dict[str, list[Tensor]] = {"with": [], "floor": [], "ceiling": []}
    truths = []
    for at in range(0, len(scenes), batch):
        part = scenes[at : at + batch]
        truths.append(RENDERERS[modality](part))
        made["with"].append(generate(pipe, kind, modality, part, 1.0, steps))
        made["floor"].append(generate(pipe, kind, modality, part, 0.0, steps))
        made["ceiling"].append(round_trip(pipe, modality, truths[-1]))
    true = torch.cat(truths)
    scores = {name: MEASURES[kind](scenes, torch.cat(media), true, modality) for name, media in made.items()}
    return {"kind": kind, "output": modality.value, "scenes": len(scenes), **scores}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the controls of a model, print a table, and write the numbers if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder (default: the embedded model)")
    parser.add_argument("--control-from", action="append", default=[], help="a control beside it; repeatable")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of control, separated by commas")
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--json", help="a file for the numbers")
    args = parser.parse_args(argv)
    pipe = CoDiPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    for folder in args.control_from:
        pipe.load_control(folder)
    scenes = sample_scenes(args.scenes, args.seed)
    wanted = args.kinds.split(",")
    rows = []
    print(f"{'control':10} {'of':6} {'with':>7} {'floor':>7} {'ceiling':>7}")
    for modality, kind in pipe.controls:
        if kind in wanted:
            rows.append(measure(pipe, kind, modality, scenes, args.batch, args.steps))
            print(
                "{kind:10} {output:6} {with:7.3f} {floor:7.3f} {ceiling:7.3f}".format(**rows[-1]), flush=True
            )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
