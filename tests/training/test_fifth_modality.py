"""A modality from outside is trained on files like any other: its tower, its cache, its denoiser; then it is
made from words.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml

from codi import CoDiPipeline, modalities
from codi.models.denoisers import TextDenoiser
from data.manifest import write_manifest
from data.shards import Shards, pack
from tests import tiny_pipeline
from tests.event_parts import EventAutoencoder, EventTower
from tests.event_times import STEPS, WIDTH, EventTimes
from training import cache
from training.main import main

NUM_ROWS = 8
DENOISER = dict(
    in_channels=WIDTH,
    context_dim=tiny_pipeline.DIM,
    block_out_channels=[16, 16],
    second_dim=[4, 4],
    norm_num_groups=8,
    num_heads=2,
)
RUN = {"samples": 8, "batch_size": 4, "device": "cpu", "lr": 1e-3, "checkpoint_every": 8, "preview_every": 8}


@pytest.fixture(scope="module", autouse=True)
def event_times():
    with modalities.registered(EventTimes()) as modality:
        yield modality


@pytest.fixture(scope="module")
def place(tmp_path_factory, event_times):
    """Files, their manifest, and a model that has neither a denoiser nor a tower of the modality yet."""
    folder = tmp_path_factory.mktemp("fifth")
    rows = []
    for k in range(NUM_ROWS):
        (folder / f"{k}.events").write_text(json.dumps([0.1 * k, 0.1 * k + 0.5]))
        rows.append(
            {"id": f"r{k}", "event_times": f"{k}.events", "caption": "a red ball" if k % 2 else "a blue cube"}
        )
    write_manifest(folder / "rows.jsonl", rows)
    base = tiny_pipeline.pipeline()
    base.text_tower.save_pretrained(folder / "model" / "text_tower")
    base.text_autoencoder.save_pretrained(folder / "model" / "text_autoencoder")
    torch.manual_seed(0)
    EventAutoencoder().save_pretrained(folder / "model" / "event_times_autoencoder")
    return folder


def train(place: Path, name: str, **settings) -> Path:
    """Trains one stage by the command; returns the folder of the run."""
    output = place / "runs" / name
    config = RUN | {"model": str(place / "model"), "output": str(output)} | settings
    config["data"] = {"manifests": [str(place / "rows.jsonl")], "workers": 1} | settings.get("data", {})
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    assert main(["--config", str(file)]) == 0
    return output


def test_a_row_of_a_manifest_and_of_a_shard_is_decoded_in_a_process_of_its_own(place, event_times):
    from data.manifest import Manifest
    from data.sources import open_source

    pack(Manifest(place / "rows.jsonl"), place / "shards", per_shard=NUM_ROWS)
    assert len(Shards(str(place / "shards" / "*.tar"))) == NUM_ROWS
    batches = []
    for where in ({"manifests": [str(place / "rows.jsonl")]}, {"shards": [str(place / "shards" / "*.tar")]}):
        options = where | {"media": ["event_times", "text"], "geometry": {"event_times": {"steps": STEPS}}}
        with open_source(options | {"shuffle": False, "workers": 1}, seed=0) as source:
            batches.append(source.fetch(list(range(NUM_ROWS))))
    for batch in batches:
        assert batch["event_times"].shape == (NUM_ROWS, 1, STEPS) and batch["event_times_mask"].all()
        assert (batch["event_times"][1] > 0).nonzero()[:, 1].tolist() == [1, 9]  # 0.1 and 0.6 s at 16 Hz
        assert batch["text"][:2] == ["a blue cube", "a red ball"]
    assert torch.equal(batches[0]["event_times"], batches[1]["event_times"])


def test_its_tower_and_its_denoiser_are_trained_and_then_it_is_made_from_words(place, event_times, capsys):
    stage = dict(stage="align", options={"modality": "event_times", "validation_scenes": 4})
    run = train(place, "align", **stage, part={"event_times_tower": {"dim": tiny_pipeline.DIM}})
    assert set(json.loads(next(run.glob("previews/*/retrieval.json")).read_text())) == {
        "text->event_times",
        "event_times->text",
        "cosine",
    }
    tower = EventTower.from_pretrained(place / "model" / "event_times_tower")
    assert tower.bridge.center.abs().max() > 0  # measured when it was exported

    shares = {"text": 0.5, "event_times": 0.5}
    options = {"modality": "event_times", "prompts": shares, "preview_captions": ["a red ball"]}
    stage = dict(stage="denoise", options=options, part=DENOISER)
    train(place, "denoise", **stage)
    said = capsys.readouterr().err
    assert "latents are encoded as files are read" in said
    denoiser = TextDenoiser.from_pretrained(place / "model" / "event_times_denoiser")

    assert cache.main(["--config", str(place / "denoise.yaml"), "--shard-size", "4"]) == 0
    folder = capsys.readouterr().out.strip()
    train(place, "cached", **stage)
    assert f"latents come from {folder}" in capsys.readouterr().err
    again = TextDenoiser.from_pretrained(place / "model" / "event_times_denoiser")
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), again.parameters()))

    written = [path.name for path in (place / "runs" / "denoise").glob("previews/*/*")]
    assert written == ["0.json"]
    base = tiny_pipeline.pipeline()
    parts = {
        "tower": tower,
        "denoiser": denoiser,
        "autoencoder": EventAutoencoder.from_pretrained(place / "model" / "event_times_autoencoder"),
    }
    pipe = CoDiPipeline(**base.components | {f"event_times_{name}": part for name, part in parts.items()})
    pipe.set_progress_bar_config(disable=True)
    made = pipe(text="a red ball", outputs="event_times", num_inference_steps=2, seed=0).event_times
    assert all(0 <= second < 2 for second in made[0])


def test_what_its_kind_does_not_say_is_said(place, event_times, capsys, monkeypatch):
    monkeypatch.setattr(EventTimes, "classes", {})
    options = {"modality": "event_times", "prompts": {"text": 1.0}}
    file = place / "wrong.yaml"
    config = RUN | {
        "model": str(place / "model"),
        "output": str(place / "runs" / "wrong"),
        "stage": "denoise",
    }
    config |= {"options": options, "part": DENOISER, "data": {"manifests": [str(place / "rows.jsonl")]}}
    file.write_text(yaml.safe_dump(config))
    assert main(["--config", str(file)]) == 2
    assert "nothing says of which class event_times_denoiser is" in capsys.readouterr().err
