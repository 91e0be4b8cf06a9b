"""Decoupled attention trained on captions: what goes in, what is written, a plan, a run that is stopped."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codi.compose.decoupled_attention import DecoupledAttentions
from codi.compose.folder import read, text_source, write
from codi.compose.loading import load_parts
from codi.compose.references import Reference
from codi.types import InputError, Modality
from codi.world import parse
from tests.compose import tiny_foreign
from training.config import load_config
from training.main import main
from training.plan import HardwareSpec, plan
from training.stages import open_stage

CONFIG = Path(__file__).parents[2] / "configs" / "compose" / "attention.yaml"
WEIGHTS = "decoupled_attention/diffusion_pytorch_model.safetensors"


def sources(**names):
    found = []
    for modality, name in names.items():
        sizes = json.dumps(tiny_foreign.SIZES[name])[1:-1]
        found.append(f"{modality}: {{folder: {tiny_foreign.folder(name)}, {sizes}}}")
    return f"options.models={{{', '.join(found)}}}"


def train(model, run, *overrides):
    settings = (f"model={model}", f"output={run}", *overrides)
    words = [word for setting in settings for word in ("--set", setting)]
    with tiny_foreign.quiet():
        return main(["--config", str(CONFIG), "--small", *words])


def test_a_plan_reads_configurations_alone(tmp_path):
    source = tiny_foreign.folder("sd15")
    for path in source.rglob("*.json"):  # no weights
        copy = tmp_path / "sd15" / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    config = load_config(CONFIG, overrides=[f"options.models.image={tmp_path / 'sd15'}"])
    said = plan(config, CONFIG.parent, HardwareSpec())
    assert int(re.search(r"^parameters +([\d,]+) in what trains", said, re.M)[1].replace(",", "")) > 10_000
    assert "GFLOP" in said and "decoupled_attention" in said.splitlines()[-1]


def test_it_learns_the_networks_answers_and_stops_and_goes_on(tmp_path, capsys):
    """In a composed model, whose index names it; one of its models has no place for it and is left out."""
    models = {}
    with tiny_foreign.quiet():
        references = [
            Reference.read(modality, tiny_foreign.folder(name), tiny_foreign.SIZES[name])
            for modality, name in (("image", "sd15"), ("audio", "audioldm"))
        ]
        for place in ("whole", "halves"):
            models[place] = tmp_path / place / "my-codi"
            write(models[place], references, text_source("codi-tiny"))
    same = ("lr_schedule=constant", "checkpoint_every=4")
    assert train(models["whole"], tmp_path / "whole" / "run", *same) == 0
    assert re.search("left out: .* has no attention to a text", "".join(capsys.readouterr()))
    assert train(models["halves"], tmp_path / "halves" / "run", *same, "samples=4") == 0
    half = load_file(models["halves"] / WEIGHTS)
    assert train(models["halves"], tmp_path / "halves" / "run", *same) == 0
    whole, again = (load_file(models[place] / WEIGHTS) for place in ("whole", "halves"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert not all(torch.equal(value, half[name]) for name, value in whole.items())
    assert any(value.any() for name, value in whole.items() if "to_v" in name)  # it was zero
    (made,) = load_parts(read(models["whole"]), torch.float32).values()
    assert isinstance(made, DecoupledAttentions) and list(made.by_modality()) == [Modality.IMAGE]


def test_texts_are_parts_of_captions():
    with tiny_foreign.quiet():
        stage = open_stage(load_config(CONFIG, small=True, overrides=[sources(image="sd15")]))
    batch = stage.data().fetch(list(range(16)))
    for text, target in zip(batch["texts"], batch["targets"], strict=True):
        said, whole = parse(text), parse(target)
        assert all(whole[name] in (None, value) for name, value in said.items() if value is not None)
    (text,) = stage.of_files({"text": ["a red ball in the snow"]})["texts"]
    assert text == "a red ball"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="text_dropout is 2"):
        load = load_config(CONFIG, small=True, overrides=[sources(image="sd15"), "options.text_dropout=2"])
        open_stage(load)
    assert train(tmp_path / "model", tmp_path / "run", sources(audio="audioldm")) != 0
