"""Which pairs of modalities training may see together: those of the world on scenes, any two on files."""

import json

import pytest
import torch

from codi import pretrained
from codi.types import InputError, Modality
from tests.training.media import make_media
from training.config import Config
from training.plan import HardwareSpec, plan
from training.stages import open_stage
from training.stages.building import build_module
from training.stages.pairs import parse_pair, rule_of

IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
EMBEDDED = pretrained.resolve()
JOINT = dict(
    stage="joint",
    part=dict(
        dim=128,
        global_tokens=1,
        num_layers=1,
        num_heads=4,
        latents={
            "image": dict(latent_shape=[8, 8, 8], latent_rate=None, tokens_per_step=4),
            "audio": dict(latent_shape=[8, 50, 4], latent_rate=25.0, tokens_per_step=1),
        },
    ),
    options={"pairs": {"image+audio": 1.0}},
)
DENOISE = dict(
    stage="denoise",
    options={
        "modality": "image",
        "prompts": {"audio": 1.0},
        "partner_estimates": {"audio": 1.0},
        "continue_from": True,
    },
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The section `data` of a run on two files, each a picture with its sound and a caption."""
    folder = tmp_path_factory.mktemp("files") / "media"
    make_media(folder, 2)
    rows = [
        {"id": str(n), "image": f"scene-{n}.png", "audio": f"scene-{n}.wav", "caption": "a red ball"}
        for n in range(2)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"manifests": [str(folder / "train.jsonl")], "workers": 0}


def config_of(settings, folder, data):
    run = dict(model=EMBEDDED, output=folder / "run", samples=4, batch_size=2, lr=1e-3, data=data)
    return Config(**run, **settings)


@pytest.mark.parametrize("settings", [JOINT, DENOISE], ids=["joint", "denoise"])
def test_pictures_and_sounds_train_together_on_files(settings, files, tmp_path):
    config = config_of(settings, tmp_path, files)
    assert "GFLOP" in plan(config, tmp_path, HardwareSpec())
    stage = open_stage(config)
    module = build_module(stage, config.part)
    stage.to(torch.device("cpu"))
    with stage.data() as source:
        batch = source.fetch([0, 1])
    loss, _ = stage.loss(module, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("settings", [JOINT, DENOISE], ids=["joint", "denoise"])
def test_they_do_not_on_scenes(settings, files, tmp_path):
    for data in ({}, {**files, "world": {"weight": 1}}):
        with pytest.raises(InputError, match="may see together|training sees together"):
            open_stage(config_of(settings, tmp_path, data))


def test_a_pair_is_two_modalities_whatever_the_rule():
    assert parse_pair("image+audio", None) == (IMAGE, AUDIO)
    for name in ("image", "image+image", "text+image+audio"):
        with pytest.raises(InputError, match="expected two modalities"):
            parse_pair(name, None)


def test_prompts_keep_to_the_rule_too(tmp_path):
    settings = dict(stage="denoise", options={"modality": "image", "prompts": {"audio": 1.0}})
    config = config_of(settings, tmp_path, {})
    assert rule_of(config) is not None
    with pytest.raises(InputError, match="prompts names audio"):
        open_stage(config).data()
