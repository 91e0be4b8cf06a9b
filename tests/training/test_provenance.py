"""What a model says of how it was made is what the runs that went into it were told."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from codi import CoDiPipeline, pretrained
from codi.diffusion.released import ReleasedDDIMScheduler
from training.config import load_config
from training.main import main
from training.provenance import command_of, provenance
from training.publish import main as publish
from training.stages.new_model import DEFAULTS

ROOT = Path(__file__).parents[2]
FILES = ("data.manifests=[{path: a.jsonl, weight: 2}, b.parquet]", "data.shards=[c.tar]")


@pytest.fixture
def runs(bench):
    """Starts runs into `runs/NAME` and into a model, by `train(NAME, MODEL, ...)`."""
    case = bench()

    def train(name, model, *overrides):
        places = (f"output={case.folder}/runs/{name}", f"model={case.folder}/{model}")
        assert main(case.command(*places, "samples=16", *overrides)) == 0
        return case.folder / "runs" / name

    train.folder = case.folder
    return train


def test_only_runs_that_went_into_the_model_count(runs):
    runs("first", "model", *FILES, "seed=3")
    runs("second", "model", "data.manifests=[b.parquet]", "data.world={weight: 1}")
    runs("elsewhere", "other", "data.manifests=[secret.jsonl]")
    made = provenance(runs.folder / "model", ["line"], runs.folder / "runs")
    assert list(made["stages"]) == ["first", "second"] and "unknown" not in made and "base" not in made
    assert made["data"] == ["a.jsonl", "b.parquet", "c.tar", "codi.world"]
    first = made["stages"]["first"]
    assert (
        first["data"] == ["a.jsonl", "b.parquet", "c.tar"]
        and first["seed"] == 3
        and first["samples_seen"] == 16
    )
    assert first["settings"]["lr"] == 1e-2 and first["command"] is None and first["last_log"]["loss"] > 0
    assert json.loads(json.dumps(made)) == made


def test_a_part_that_no_run_made_is_named(runs):
    runs("first", "model")
    made = provenance(runs.folder / "model", ["line", "curve"], runs.folder / "runs")
    assert made["unknown"] == ["curve"]
    assert provenance(runs.folder / "model", ["curve"], runs.folder / "runs")["stages"] == {}


def test_settings_that_are_gone_are_not_made_up(runs):
    shutil.rmtree(runs("first", "model", *FILES) / "checkpoints")
    made = provenance(runs.folder / "model", ["line"], runs.folder / "runs")
    assert (
        made["stages"]["first"]["data"] is None
        and made["stages"]["first"]["settings"] is None
        and made["data"] == []
    )


def test_a_model_that_was_trained_on_says_what_it_started_from(runs):
    runs("first", "model", *FILES)
    base = {"data": "the world", "license": "MIT", "scores": {"tasks": []}, "stages": {"line": {}}}
    (runs.folder / "model" / "provenance.json").write_text(json.dumps(base))
    made = provenance(runs.folder / "model", ["line", "curve"], runs.folder / "runs")
    assert made["base"] == {name: value for name, value in base.items() if name != "scores"}
    assert made["data"] == ["a.jsonl", "b.parquet", "c.tar", "the world"]


def test_the_command_is_one_that_gives_these_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    changed = ["samples=77", "options.prompts={text: 1.0}", "lr=1.0e-5", "max_minutes=3"]
    settings = load_config("configs/world/denoise_image.yaml", overrides=changed).as_json()
    words = shlex.split(command_of(settings))
    assert words[:6] == [
        "accelerate",
        "launch",
        "-m",
        "training.main",
        "--config",
        "configs/world/denoise_image.yaml",
    ]
    assert load_config(words[5], overrides=words[7::2]).as_json() == settings and words[6::2] == ["--set"] * 4
    assert command_of(settings | {"output": "runs/something"}) is None


# Publishing --------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in the making that has no more than a text tower, in the folder that the test is in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "runs").mkdir(parents=True)
    shutil.copytree(pretrained.resolve() / "text_tower", tmp_path / "my" / "model" / "text_tower")
    return tmp_path / "my" / "model"


def command(to):
    return ["publish", "--model", "my/model", "--runs", "my/runs", "--to", str(to)]


def test_a_model_in_the_making_is_published_with_the_worlds_settings(model, monkeypatch):
    monkeypatch.setattr("sys.argv", command("my/published"))
    monkeypatch.setenv("PATH", "/nowhere")  # no git
    for _ in range(2):  # over the published one too
        assert publish() == 0
    pipe = CoDiPipeline.from_pretrained("my/published")
    assert pipe.config.defaults == DEFAULTS and pipe.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert json.loads(Path("my/published/provenance.json").read_text())["commit"] is None
    assert sorted(path.name for path in model.parent.iterdir()) == ["model", "published", "runs"]


def test_a_model_keeps_its_own_scheduler_and_settings(model, monkeypatch):
    ReleasedDDIMScheduler().save_pretrained(model / "scheduler")
    index = {
        "defaults": {"guidance_scale": 7.5},
        "scheduler": [ReleasedDDIMScheduler.__module__, ReleasedDDIMScheduler.__name__],
    }
    (model / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr("sys.argv", command("my/published"))
    assert publish() == 0
    pipe = CoDiPipeline.from_pretrained("my/published")
    assert pipe.config.defaults == index["defaults"] and type(pipe.scheduler) is ReleasedDDIMScheduler


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("my", "is or holds --model"),
        ("my/model", "is or holds --model"),
        ("my/runs", "is or holds --runs"),
        (".", "is or holds --model"),
        ("photos", "no model folder .no model_index.json.: choose a new folder"),
        ("photos/a.png", "no model folder"),
    ],
)
def test_publishing_removes_nothing_but_a_model(model, monkeypatch, capsys, to, words):
    Path("photos").mkdir()
    Path("photos/a.png").touch()
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr("sys.argv", command(to))
    assert publish() == 2
    assert re.search(words, capsys.readouterr().err) and sorted(Path().rglob("*")) == before
