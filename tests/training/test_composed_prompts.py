"""Prompt translators trained on captions: what goes in, what comes out, a plan, a run that is stopped."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codi.compose.context_shapes import planned_contexts
from codi.compose.foreign import ForeignModel
from codi.compose.prompt_translators import PromptTranslators, find_contexts
from codi.types import InputError, Modality
from codi.world import parse
from tests.compose import tiny_foreign
from training.config import load_config
from training.main import main
from training.plan import HardwareSpec, plan
from training.stages import open_stage

CONFIG = Path(__file__).parents[2] / "configs" / "compose" / "prompts.yaml"


def settings(place, *overrides, models=("sd15",)):
    made = {"sd15": "image", "audioldm": "audio"}
    sizes = {name: json.dumps(tiny_foreign.SIZES[name])[1:-1] for name in models}
    sources = ", ".join(f"{made[n]}: {{folder: {tiny_foreign.folder(n)}, {sizes[n]}}}" for n in models)
    return [f"model={place}/model", f"output={place}/run", f"options.models={{{sources}}}", *overrides]


def stage_of(place, *overrides, **chosen):
    with tiny_foreign.quiet():
        return open_stage(load_config(CONFIG, small=True, overrides=settings(place, *overrides, **chosen)))


def train(place, *overrides, **chosen):
    words = [w for override in settings(place, *overrides, **chosen) for w in ("--set", override)]
    with tiny_foreign.quiet():
        return main(["--config", str(CONFIG), "--small", *words])


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return stage_of(tmp_path_factory.mktemp("composed"))


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_configurations_alone_tell_what_a_pipeline_gives_its_denoiser(name):
    from diffusers import DiffusionPipeline

    place = tiny_foreign.folder(name)
    with tiny_foreign.quiet():
        pipeline = DiffusionPipeline.from_pretrained(place)
        model = ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name])
        found = find_contexts([model.prepare(["a red ball in the snow", "a star"]).prompt])
    planned = planned_contexts(place)
    if name == "audioldm2":  # the configurations tell the most tokens that a caption may have
        assert found[1].popitem()[1] <= planned[1].popitem()[1]
        assert found[0].pop("encoder_hidden_states_1")[1] == planned[0].pop("encoder_hidden_states_1")[1]
    assert planned == found


def test_a_plan_reads_configurations_alone(tmp_path, monkeypatch):
    folder = tmp_path / "sd15"
    for path in tiny_foreign.folder("sd15").rglob("*.json"):  # no weights
        copy = folder / path.relative_to(tiny_foreign.folder("sd15"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    config = load_config(CONFIG, overrides=[f"options.models.image={folder}"])
    said = plan(config, CONFIG.parent, HardwareSpec())
    parameters = int(re.search(r"^parameters +([\d,]+) in what trains", said, re.M)[1].replace(",", ""))
    made = PromptTranslators(
        128, {"image": {"encoder_hidden_states": [77, 32]}}, {}, **config.part["prompt_translators"]
    )
    assert parameters == sum(p.numel() for p in made.parameters())
    assert "GFLOP" in said and "prompt_translators" in said.splitlines()[-1]


def test_targets_say_the_same_facts_in_the_same_words(stage):
    batch = stage.data().fetch(list(range(64)))
    assert batch["captions"] != batch["targets"]
    for said, target in zip(batch["captions"], batch["targets"], strict=True):
        assert parse(said) == parse(target)
    named = [sum(value is not None for value in parse(target).values()) for target in batch["targets"]]
    assert max(named) == 5 and min(named) < 4


def test_tokens_of_media_lie_around_the_mean_of_their_captions(stage):
    captions = ["a red ball swings quickly in the snow", "a blue star"] * 8
    draws = torch.Generator().manual_seed(0)
    plain = stage.tokens(captions, draws, read=0.0)[:, 0]
    medium = stage.tokens(captions, draws, read=1.0)[:, 0]
    own = stage.tower.embed(captions)
    mean = torch.nn.functional.normalize(stage.text.estimate_captions(own), dim=-1)
    assert torch.allclose(medium.norm(dim=-1), torch.ones(16), atol=1e-5)
    assert (plain * own).sum(-1).min() > 0.98
    along = (medium * mean).sum(-1)
    assert along.min() > 0.5 and along.std() > 0.01
    # "a blue star" leaves much open: the mean of what goes with it is not its own token
    assert (medium * own).sum(-1)[1::2].mean() < (medium * own).sum(-1)[::2].mean()


def test_it_learns_what_captions_say(stage, tmp_path):
    torch.manual_seed(0)
    with tiny_foreign.quiet():
        stage.to(torch.device("cpu"))
        module = stage.build()
        optimizer = torch.optim.Adam(module.parameters(), 2e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(30):
            batch = stage.data().fetch(list(range(step * 32, step * 32 + 32)))
            loss, _ = stage.loss(module, batch, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        stage.preview(module, tmp_path)
    left = json.loads((tmp_path / "unexplained.json").read_text())
    found = {name: scores["image.encoder_hidden_states"] for name, scores in left.items()}
    assert found["caption"] < 0.7 and found["medium"] < 0.8 and found["another's"] > 1.0
    assert all(p.grad is None for model in stage.models.values() for p in model.network.parameters())


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    weights = "model/prompt_translators/diffusion_pytorch_model.safetensors"
    both = ("sd15", "audioldm")
    settings = ("lr_schedule=constant", "checkpoint_every=16")
    assert train(tmp_path / "whole", *settings, models=both) == 0
    assert train(tmp_path / "halves", *settings, "samples=16", models=both) == 0
    half = load_file(tmp_path / "halves" / weights)
    assert train(tmp_path / "halves", *settings, models=both) == 0
    whole, again = (load_file(tmp_path / place / weights) for place in ("whole", "halves"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert not all(torch.equal(value, half[name]) for name, value in whole.items())
    assert all(value.isfinite().all() for value in whole.values())
    assert [m.name for m in (tmp_path / "whole" / "model").iterdir()] == ["prompt_translators"]
    made = PromptTranslators.from_pretrained(tmp_path / "whole" / "model" / "prompt_translators")
    assert made.modalities() == [Modality.IMAGE, Modality.AUDIO]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="models is .*: expected the folder"):
        load = load_config(CONFIG, overrides=["options.models={}"])
        open_stage(load)
    with pytest.raises(InputError, match="audio: .* makes image"):
        stage_of(tmp_path, f"options.models={{audio: {tiny_foreign.folder('sd15')}}}")
    with pytest.raises(InputError, match="image: .* has no model_index.json"):
        stage_of(tmp_path, f"options.models={{image: {tmp_path}}}")
    with pytest.raises(InputError, match="read is 2"):
        stage_of(tmp_path, "options.read=2")
