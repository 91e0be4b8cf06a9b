"""Mutated model folders and adapters, through `CoDiPipeline.from_pretrained` and the loaders of adapters."""

import json
import os
import random
import shutil
import struct
from pathlib import Path

import torch

from codi.adapters.files import LORA_FILE, WORDS_FILE, save_lora, save_words
from codi.models import lora
from codi.pipeline import CoDiPipeline
from tests import tiny_pipeline
from tests.fuzz.mutate import dumps, mutate_bytes, mutate_json, rng


def save_model(folder: Path) -> Path:
    """Save a small untrained model, unless it is there, and return its folder."""
    if not (folder / "model_index.json").is_file():
        tiny_pipeline.pipeline().save_pretrained(folder)
    return folder


def save_adapters(folder: Path) -> list[Path]:
    """Save a LoRA and learned words for the small model, and return their files."""
    from codi.models import words

    pipe = tiny_pipeline.pipeline()
    denoiser, tower = pipe.vision_denoiser, pipe.text_tower
    lora.add_lora(denoiser, lora.find_layers(denoiser, lora.ATTENTION, False), rank=2, alpha=2)
    save_lora(folder, {"vision_denoiser": denoiser}, rank=2, alpha=2, base="tiny", targets=lora.ATTENTION)
    words.add_words(tower, {"<x>": torch.ones(2, tiny_pipeline.DIM)})
    save_words(folder, tower, base="tiny")
    return [folder / LORA_FILE, folder / WORDS_FILE]


def mutate_file(path: Path, content: bytes, dice: random.Random) -> bytes:
    """Return a damaged file: values of JSON, headers of safetensors, and plain bytes."""
    if path.suffix == ".json" and dice.random() < 0.75:
        return dumps(mutate_json(json.loads(content), dice)).encode("utf-8", "surrogatepass")
    if path.suffix == ".safetensors" and dice.random() < 0.6:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        entries = [name for name in header if name != "__metadata__"]
        if dice.random() < 0.3 and "__metadata__" in header:
            header["__metadata__"] = mutate_json(header["__metadata__"], dice)
        else:
            name = dice.choice(entries)
            header[name] = mutate_json(header[name], dice)
        changed = dumps(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(changed)) + changed + content[8 + size :]
    return mutate_bytes(content, dice, [content])


def case_of(folder: Path, seed: int):
    """Return the function that tries the case of a number."""
    model = save_model(folder / "model")
    adapters = save_adapters(folder / "adapters")
    files = sorted(path for path in model.rglob("*") if path.suffix in (".json", ".safetensors"))
    pipe = CoDiPipeline.from_pretrained(model)

    def made(number: int) -> tuple[Path, bytes, bool]:
        dice = rng(seed, "folders", number)
        path = dice.choice(adapters if dice.random() < 0.3 else files)
        return path, mutate_file(path, path.read_bytes(), dice), dice.random() < 0.5

    def case(number: int) -> None:
        path, content, unchecked = made(number)
        place = folder / f"case-{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        if path in adapters:
            place.mkdir()
            (place / path.name).write_bytes(content)
            load = pipe.load_lora_weights if path.name == LORA_FILE else pipe.load_textual_inversion
            load(place)
            return
        shutil.copytree(model, place, copy_function=os.link)
        damaged = place / path.relative_to(model)
        damaged.unlink()
        damaged.write_bytes(content)
        if unchecked:  # as for a model that was saved without checksums
            (place / "checksums.json").unlink(missing_ok=True)
        CoDiPipeline.from_pretrained(place)

    def show(number: int, keep: Path) -> str:
        path, content, unchecked = made(number)
        (keep / f"folders-{number}-{path.name}").write_bytes(content)
        where = path.relative_to(folder)
        return f"{where}{', no checksums' if unchecked else ''}"

    return case, show
