"""Train a judge of real media that no model of codi ever sees, and say how good it is on what was held out.

    python benchmarks/judge.py train media --kind pictures --out judge/ [--samples 400000]
    python benchmarks/judge.py score judge/ media
    CODI_JUDGE=judge/ codi bench --files made/ --extractor image=benchmarks/judge.py:pictures

A judge of pictures names what is drawn, and in which style; one of sounds names the instrument. It learns
from the training side of a set of `python -m data.prepare emoji`, and its accuracy on held-out compositions
of real media is the ceiling: what a model makes cannot be named better than what is real. Its features are
independent of the prompt towers, which steer what codi makes and would flatter it.

Letters: B samples, C classes, D width of the features, H W height and width, M bands, T frames.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as nnf
from tqdm import tqdm

from codi import io
from codi.models.autoencoders.mel import LogMel
from codi.types import InputError

FOLDER = "CODI_JUDGE"  # the variable of the environment that names the judge for `codi bench`
SETTINGS, WEIGHTS = "judge.json", "model.safetensors"
RATE, SAMPLES, SIZE = 16_000, 32_000, 64  # the geometry that judges read
HEADS = {"pictures": ("name", "style"), "sounds": ("name",)}  # what each kind of judge tells
MEDIUM = {"pictures": "image", "sounds": "audio"}  # the column that its files stand in
TOP = 5


class Judge(nn.Module):
    """A small convolutional network with one linear head for each thing that it tells.

    Args:
        kind: "pictures" or "sounds".
        classes: the number of classes of each head.
        width: channels of its first block.
    """

    def __init__(self, kind: str, classes: dict[str, int], width: int = 32) -> None:
        super().__init__()
        self.mel = None
        if kind == "sounds":
            self.mel = LogMel(RATE)
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        before = 3 if kind == "pictures" else 1
        for channels in widths:
            layers += [_block(before, channels, 2), _block(channels, channels, 1)]
            before = channels
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(before, count) for name, count in classes.items()})

    def features(self, raw: Tensor) -> Tensor:
        """Return the features (B, D) of pictures (B, 3, H, W) in [-1, 1] or of sounds (B, samples)."""
        x = raw if self.mel is None else self.mel(raw).transpose(1, 2)[:, None] / 4 + 1  # (B, 1, M, T)
        return self.body(x).mean(dim=(2, 3))

    def forward(self, raw: Tensor) -> dict[str, Tensor]:
        """Return logits (B, C) by the names of the heads."""
        found = self.features(raw)
        return {name: head(found) for name, head in self.heads.items()}


def _block(before: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.GroupNorm(8, channels), nn.SiLU()
    )


@dataclass
class Examples:
    """Real media with what a judge is to tell of them.

    Attributes:
        raw: uint8 (N, 3, H, W) or float32 (N, samples), all in memory.
        told: by the names of heads, what each sample is.
    """

    raw: Tensor
    told: dict[str, list[str]]


def read_examples(media: Path, side: str, kind: str, held_out: str | None = None) -> Examples:
    """Return the examples of one side of a set.

    Args:
        media: the folder of the set.
        side: "train", "validation" or "test".
        kind: "pictures" or "sounds".
        held_out: only what was held out for this reason; None for all.

    Raises:
        InputError: if the set has none.
    """
    path = media / f"{side}.{kind}.jsonl"
    if not path.is_file():
        raise InputError(f"no {path}: run `python -m data.prepare emoji PACKAGES -o {media}` first")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if held_out is None or row["info"]["held_out"] == held_out]
    wanted = [
        row for row in rows if row["info"].get("style") != "clip art" and row["info"].get("kind") != "sample"
    ]
    if not wanted:
        raise InputError(f"{path} has no row that a judge of {kind} can learn from: make the whole set")
    raw = torch.stack(
        [READ[kind](media / row[MEDIUM[kind]]) for row in tqdm(wanted, desc=side, disable=None)]
    )
    return Examples(raw, {head: [row["info"][head] for row in wanted] for head in HEADS[kind]})


def _picture(path: Path) -> Tensor:
    return io.from_unit(io.fit_image(io.load_image(path), SIZE))


def _sound(path: Path) -> Tensor:
    wave, rate = io.load_audio(path)
    return io.fit_audio(wave, rate, RATE, SAMPLES)


READ: dict[str, Callable[[Path], Tensor]] = {"pictures": _picture, "sounds": _sound}


def train(media: Path, kind: str, out: Path, samples: int, batch: int = 64, seed: int = 0) -> dict[str, Any]:
    """Train a judge, write it, and return its scores on held-out compositions.

    Args:
        media: the folder of the set.
        kind: "pictures" or "sounds".
        out: where the judge is written.
        samples: how many samples it sees.
        batch: how many at a time.
        seed: of its weights, the order and the changes.
    """
    torch.manual_seed(seed)
    examples = read_examples(media, "train", kind)
    classes = {head: sorted(set(told)) for head, told in examples.told.items()}
    places = {head: {name: place for place, name in enumerate(names)} for head, names in classes.items()}
    answers = {
        head: torch.tensor([places[head][name] for name in told]) for head, told in examples.told.items()
    }
    judge = Judge(kind, {head: len(names) for head, names in classes.items()})
    steps = max(1, samples // batch)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    for _ in tqdm(range(steps), desc=f"judge of {kind}", unit=" steps", disable=None):
        index = torch.randint(len(examples.raw), (batch,))
        logits = judge(changed(examples.raw[index], kind))
        loss = sum(
            nnf.cross_entropy(logits[head], answers[head][index], label_smoothing=0.1) for head in answers
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    out.mkdir(parents=True, exist_ok=True)
    judge.eval()
    save_file(judge.state_dict(), out / WEIGHTS)
    settings = {"kind": kind, "classes": classes, "samples": steps * batch, "seed": seed}
    io.save_json(out / SETTINGS, settings)
    return score(out, media)


def changed(raw: Tensor, kind: str) -> Tensor:
    """Return a batch as the network reads it, with small random changes that do not change what it is."""
    if kind == "sounds":
        gain = 10 ** (torch.rand(len(raw), 1) * 0.6 - 0.45)
        shift = int(torch.randint(0, RATE // 5, ()))
        return nnf.pad(raw, (shift, 0))[:, : raw.shape[1]] * gain
    x = io.to_unit(raw)
    scale = torch.rand(len(x)) * 0.4 + 0.8
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = torch.rand(len(x), 2) * 0.2 - 0.1
    grid = nnf.affine_grid(theta, list(x.shape), align_corners=False)
    moved = nnf.grid_sample(x - 1, grid, align_corners=False) + 1  # what comes in from outside is white
    return (moved * (0.85 + 0.3 * torch.rand(len(x), 1, 1, 1))).clamp(-1, 1)


def score(folder: Path, media: Path) -> dict[str, Any]:
    """Return how often a judge is right on held-out compositions of real media, beside chance.

    Args:
        folder: the judge.
        media: the set that it learned from.

    Returns:
        For each head: the share that is right, the share among its best five, and chance.
    """
    judge, settings = load_judge(str(folder))
    kind = settings["kind"]
    examples = read_examples(media, "test", kind, "composition")
    logits: dict[str, list[Tensor]] = {head: [] for head in HEADS[kind]}
    with torch.inference_mode():
        for raw in examples.raw.split(256):
            for head, found in judge(io.to_unit(raw) if kind == "pictures" else raw).items():
                logits[head].append(found)
    found = {}
    for head, told in examples.told.items():
        names = settings["classes"][head]
        order = torch.cat(logits[head]).argsort(dim=1, descending=True)[:, :TOP]
        best = [[names[place] for place in row] for row in order.tolist()]
        found[head] = {
            "count": len(told),
            "classes": len(names),
            "right": sum(row[0] == name for row, name in zip(best, told)) / len(told),
            f"right_in_{TOP}": sum(name in row for row, name in zip(best, told)) / len(told),
            "chance": 1 / len(names),
        }
    return found


@cache
def load_judge(folder: str) -> tuple[Judge, dict[str, Any]]:
    """Return a judge and its settings."""
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise InputError(
            f"no judge in {folder!r}: train one with benchmarks/judge.py, and name it in {FOLDER}"
        )
    settings = json.loads(path.read_text(encoding="utf-8"))
    judge = Judge(settings["kind"], {head: len(names) for head, names in settings["classes"].items()})
    judge.load_state_dict(load_file(path.parent / WEIGHTS))
    return judge.eval(), settings


def pictures(media: Sequence[Tensor]) -> Any:
    """Return features (N, D) of pictures (3, H, W): `--extractor image=benchmarks/judge.py:pictures`."""
    return _features("pictures", [io.fit_image(picture, SIZE) for picture in media])


def sounds(media: Sequence[tuple[Tensor, int]]) -> Any:
    """Return features (N, D) of (sound, Hz): `--extractor audio=benchmarks/judge.py:sounds`."""
    return _features("sounds", [io.fit_audio(wave, rate, RATE, SAMPLES) for wave, rate in media])


def _features(kind: str, raw: list[Tensor]) -> Any:
    judge, settings = load_judge(os.environ.get(FOLDER, ""))
    if settings["kind"] != kind:
        raise InputError(f"the judge in {FOLDER} judges {settings['kind']}: expected one of {kind}")
    with torch.inference_mode():
        return judge.features(torch.stack(raw)).numpy()


def main(arguments: list[str] | None = None) -> int:
    """Train or score, print the scores as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a judge")
    training.add_argument("media", type=Path, help="a set of `python -m data.prepare emoji`")
    training.add_argument("--kind", choices=HEADS, required=True, help="what it judges")
    training.add_argument("--out", type=Path, required=True, help="the folder of the judge")
    training.add_argument("--samples", type=int, default=400_000, help="how many samples it sees (400000)")
    scoring = commands.add_parser("score", help="say how good a judge is")
    scoring.add_argument("judge", type=Path, help="the folder of the judge")
    scoring.add_argument("media", type=Path, help="the set that it learned from")
    options = parser.parse_args(arguments)
    try:
        if options.command == "train":
            found = train(options.media, options.kind, options.out, options.samples)
        else:
            found = score(options.judge, options.media)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
