"""A finished tower learns to give of damaged media what it gave of clean ones, and nothing else changes."""

from pathlib import Path

import pytest
import torch

from codi.models.conditioning import AudioTower
from codi.types import InputError
from codi.world import render_sounds, sample_scenes
from tests.tiny_pipeline import towers
from training.config import Config
from training.stages.align import AlignStage
from training.stages.common import export_part, load_part
from training.stages.distil import DistilStage


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    torch.manual_seed(0)
    for name, tower in towers().items():
        if name == "audio_tower":  # an untrained one gives all sounds nearly the same token, but for its mean
            tower.eval().bridge.measure(tower.features(render_sounds(sample_scenes(16, 2))[:, :8000]))
        if name != "text_tower":
            export_part(tower, folder / name)
    return folder


def stage(model: Path, part: dict | None = None, **options) -> DistilStage:
    config = Config(
        stage="distil",
        model=model,
        output=model / "run",
        samples=8,
        batch_size=8,
        lr=1e-3,
        part=part or {},
        options={"media": {"audio": 1.0}, **options},
    )
    made = DistilStage(config)
    made.load()
    return made


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_undamaged_the_student_is_its_teacher(model):
    both = stage(model, damage=0.0, media={"image": 1.0, "video": 0.25})
    module = both.build()
    batch = both.data().fetch(list(range(4)))
    assert batch["image"].shape[0] == 4 and batch["video"].shape[:2] == (1, 16)
    batch["video"] = batch["video"][:, :4]  # of which the tiny tower takes no more
    loss, terms = both.loss(module, batch, generator())
    assert abs(loss.item()) < 1e-6 and set(terms) == {"image", "video"}


def test_a_few_steps_bring_damaged_sounds_nearer(model):
    distil = stage(model, {"peak": 0.5}, damage=1.0, damage_kinds=["noise"])
    module = distil.build().train()
    assert not any(part.training for part in module.tower.modules())
    still = {name: value.clone() for name, value in module.tower.named_buffers()}
    batch = {"audio": render_sounds(sample_scenes(8, 1))[:, :8000]}
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4)
    losses = []
    for _ in range(12):
        loss, _ = distil.loss(module, batch, generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    assert all(torch.equal(value, still[name]) for name, value in module.tower.named_buffers())


def test_agreement_is_told_by_kind_and_that_of_clean_media_begins_at_one(model):
    distil = stage(model, media={"image": 1.0})
    found = distil.agreement(distil.build(), 2)["image"]
    assert found["clean"] == pytest.approx(1, abs=1e-3)
    assert {"jpeg", "dim"} <= set(found) and all(-1 <= value <= 1.0001 for value in found.values())


def test_the_student_takes_the_teachers_place(model):
    distil = stage(model, {"peak": 0.5})
    distil.export(distil.build(), model / "new")
    tower = load_part(AudioTower, model / "new" / "audio_tower", "")
    assert tower.config.peak == 0.5 and load_part(AudioTower, model / "audio_tower", "").config.peak is None
    assert DistilStage.produces(distil.config) == ("audio_tower",)
    assert stage(model / "new", teacher=str(model)).teacher.config.peak is None


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ({}, {"media": {}}, "media is {}: expected at least one modality"),
        ({}, {"media": {"audio": 1.0, "image": 1.0}}, "media are audio, image: .* all of one tower"),
        ({}, {"media": {"audio": 2.0}}, "media.audio is 2.0: expected above 0"),
        ({}, {"damage_kinds": ["blurr"]}, "damage_kinds: unknown key 'blurr': did you mean 'blur'"),
        ({}, {"damage": 1.5}, "damage is 1.5: expected 0 to 1"),
        ({"peek": 0.5}, {}, "part: unknown key 'peek': did you mean 'peak'"),
    ],
)
def test_mistakes_are_named(model, part, options, message):
    with pytest.raises(InputError, match=message):
        stage(model, part, **options).build()


@torch.no_grad()
def test_loudness_says_nothing_to_a_tower_with_a_peak(model):
    plain = load_part(AudioTower, model / "audio_tower", "")
    even = AudioTower.from_config(plain.config, peak=0.5).eval()
    even.load_state_dict(plain.state_dict())
    sounds = render_sounds(sample_scenes(2, 1))[:, :8000]
    soft = even.embed(0.1 * sounds)
    assert torch.allclose(soft, even.embed(sounds), atol=1e-5)
    assert not torch.allclose(plain.embed(0.1 * sounds), plain.embed(sounds), atol=1e-3)
    assert even.levelled(torch.zeros(1, 8)).abs().max() == 0
    assert torch.allclose(even.levelled(torch.full((1, 8), 1e-4)), torch.full((1, 8), 1e-2))


def test_alignment_damages_a_share_of_its_media(model):
    export_part(towers()["text_tower"], model / "text_tower")
    config = Config(
        stage="align",
        model=model,
        output=model / "align",
        samples=8,
        batch_size=8,
        lr=1e-3,
        options={"modality": "audio", "continue_from": True, "damage": 1.0, "damage_kinds": ["noise"]},
    )
    damaged, plain = AlignStage(config), AlignStage(config)
    plain.options = type(plain.options)(modality="audio", continue_from=True)
    batch = damaged.data().fetch(list(range(4)))
    batch["media"] = batch["media"][:, :8000]
    losses = [each.loss(each.build(), batch, generator())[0].item() for each in (damaged, plain)]
    assert abs(losses[0] - losses[1]) > 1e-4
    with pytest.raises(InputError, match="damage blur is none of such media"):
        damaged.options = type(plain.options)(modality="audio", damage=1.0, damage_kinds=("blur",))
        damaged.loss(plain.build(), batch, generator())
