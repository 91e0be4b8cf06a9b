"""Mutated lines of jobs, many to a file, through `codi generate --jobs`."""

import contextlib
import copy
import io as memory
import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import torch

from codi import cli, io
from tests.fuzz.folders import save_model
from tests.fuzz.mutate import VALUES, dumps, mutate_bytes, mutate_json, rng
from tests.fuzz.trial import REFUSALS, RESULTS, Wrong

PER_FILE = 20
WORDS = ("a red ball", "a blue cube", "at night", "at sea", "a red cube bounces slowly")
# Whole lines and parts of lines that people and machines have sent elsewhere.
ODD_LINES = (
    b"[" * 100_000,
    b'{"id":' * 100_000,
    b'{"id": "x", "text": "a ball", "to": "image", "seed": ' + b"9" * 5000 + b"}",
    b'{"id": "x", "text": "a ball", "to": "image", "seed": NaN}',
    b'{"id": "x", "text": "a ball", "to": "image", "guidance": Infinity}',
    b'{"id": "x", "text": "a ball", "to": "image", "guidance": 1e999}',
    b'{"id": "x", "text": "a ball", "text": "a cube", "to": "image"}',
    b'{"id": "x", "text": "a \\ud800 ball", "to": "image"}',
    b'{"id": "x", "image": "\\ud800.png", "to": "image"}',
    b'{"id": "x", "image": "a\\u0000.png", "to": "image"}',
    b'{"id": "x", "text": "' + b"a " * 10_000 + b'", "to": "image"}',
    b'{"id": "' + b"x" * 20_000 + b'", "text": "a ball", "to": "image"}',
    b'{"id": "x", "image": "' + b"x" * 20_000 + b'", "to": "image"}',
    b'{"id": "CON", "text": "a ball", "to": "image"}',
    b'{"id": "../x", "text": "a ball", "to": "image"}',
    b'{"id": "a/b", "text": "a ball", "to": "image"}',
    b'{"id": null, "text": "a ball", "to": "image"}',
    b"\xff\xfe{\0}\0",
    b"\0",
    b"null",
    b'"',
    b'{"id": "x", "text": "a ball", "to": "image", "guidance": 1e38}',
    b'{"id": "x", "text": "a ball", "to": "audio", "guidance": 1e300}',
    b'{"id": "x", "text": "a ball", "to": "image", "num_samples": 4503599627370496}',
    b'{"id": "x", "text": "a ball", "to": "image", "steps": 4503599627370496}',
    b'{"id": "x", "text": "a ball", "to": "image", "candidates": 4503599627370496}',
    b'{"id": "x", "text": "a ball", "to": "image", "height": 4503599627370496, "width": 64}',
)


def good_line(dice: random.Random, name: str) -> dict:
    """Return a line that can be made."""
    line: dict = {"id": name, "to": dice.choice(("image", "text", "audio", "image,text", ["image"]))}
    line["text"] = dice.choice((dice.choice(WORDS), [dice.choice(WORDS), {"value": "at sea", "weight": 2}]))
    extra = {
        "seed": dice.choice((3, "random", 2**40)),
        "guidance_scale": dice.choice((2, {"image": 3.5})),
        "image": "a.png",
        "audio": ["a.wav::0.5"],
        "video": "a.mp4",
        "negative_text": "at night",
        "num_samples": 2,
        "auxiliary_caption": False,
        "sync": False,
        "start_offset": 0.5,
    }
    for key in dice.sample(list(extra), dice.randrange(4)):
        line[key] = extra[key]
    return line


def mutated_line(dice: random.Random, name: str) -> bytes:
    """Return a line that may be good, and is mostly not."""
    if dice.random() < 0.15:
        return dice.choice(ODD_LINES).replace(b'"x"', json.dumps(name).encode())
    line = good_line(dice, name)
    way = dice.random()
    if way < 0.15:
        return dumps(line).encode()
    if way < 0.3:
        text = mutate_bytes(dumps(line).encode(), dice, [b'{"id": "a", "to": "image"}'])
        return text.replace(b"\n", b" ")
    if way < 0.45:  # another key, or a value that belongs elsewhere
        line[dice.choice(("width", "fps", "lengths", "seconds", "candidates", "txt", "files", "samples"))] = (
            copy.deepcopy(dice.choice(VALUES))
        )
    else:
        line = mutate_json(line, dice)
    return dumps(line).encode("utf-8", "surrogatepass")


def case_of(folder: Path, seed: int, per_file: int = PER_FILE):
    """Return the function that tries the file of jobs of a number."""
    model = save_model(folder / "model")
    io.save_image(folder / "a.png", torch.full((3, 40, 40), 99, dtype=torch.uint8))
    io.save_audio(folder / "a.wav", 0.5 * torch.sin(torch.arange(8000) * 0.2), 16000)
    io.save_video(folder / "a.mp4", torch.full((4, 3, 40, 40), 99, dtype=torch.uint8), 8)

    def made(number: int) -> list[bytes]:
        lines = []
        for k in range(number * per_file, (number + 1) * per_file):
            dice = rng(seed, "jobs", k)
            # what begins with something else may be no file of jobs at all
            lines.append(mutated_line(dice, f"j{k}") if lines else dumps(good_line(dice, f"j{k}")).encode())
        return lines

    def case(number: int) -> Counter[str]:
        lines = made(number)
        path, out = folder / f"jobs-{os.getpid()}.jsonl", folder / f"out-{os.getpid()}"
        path.write_bytes(b"\n".join(lines))
        shutil.rmtree(out, ignore_errors=True)
        command = ["generate", "--jobs", str(path), "-o", str(out), "--model", str(model)]
        before = path.read_bytes()
        with contextlib.redirect_stderr(memory.StringIO()) as err:
            with contextlib.redirect_stdout(memory.StringIO()):
                code = cli.main([*command, "--steps", "1", "--device", "cpu", "--quiet"])
        if path.read_bytes() != before:
            raise Wrong("the file of jobs was overwritten")
        return counted(err.getvalue(), code, lines, out)

    def show(number: int, keep: Path) -> str:
        (keep / f"jobs-{number}.jsonl").write_bytes(b"\n".join(made(number)))
        return f"a file of {per_file} lines"

    return case, show


def counted(said: str, code: int, lines: list[bytes], out: Path) -> Counter[str]:
    """Return how many lines were made and refused, by what the command said; check what it wrote."""
    asked = sum(bool(line.strip()) for line in lines)
    errors = [line for line in said.splitlines() if line.startswith("codi: error: ")]
    if strange := [line for line in said.splitlines() if not line.startswith("codi: ")]:
        raise Wrong(f"not a line of the command: {strange[0][:300]!r}")
    if long := [line for line in said.splitlines() if len(line) > 2000]:
        raise Wrong(f"a line of {len(long[0])} letters")
    failed = 0
    if errors:
        found = re.search(r"(\d+) of (\d+) jobs failed", errors[-1])
        if found is None or int(found[2]) != asked or len(errors) != int(found[1]) + 1 or code != 2:
            raise Wrong(f"code {code}, {asked} lines, {len(errors)} errors, at last {errors[-1][:300]!r}")
        failed = int(found[1])
    elif code != 0:
        raise Wrong(f"code {code} without a word")
    whole(out)
    finished = len([path for path in out.glob("*.json") if not path.name.startswith((".", "manifest"))])
    if finished != asked - failed:
        raise Wrong(f"{asked} lines, {failed} failed, {finished} records")
    return Counter({RESULTS: asked - failed, REFUSALS: failed})


def whole(folder: Path) -> None:
    """Raise `Wrong` unless every file of a folder can be read and nothing hidden is left."""
    readers = {".png": io.load_image, ".wav": io.load_audio, ".mp4": io.load_video, ".txt": Path.read_text}
    for path in folder.iterdir():
        if path.name.startswith("."):
            raise Wrong(f"{path.name} is left")
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            readers[path.suffix](path)
