"""Every configuration parses strictly and builds without memory; what the headers at full scale say is what
`--dry-run` says.
"""

import re
from pathlib import Path

import pytest

from codi.types import InputError
from training.config import load_config
from training.main import main
from training.plan import HardwareSpec, plan

ROOT = Path(__file__).parents[2]
FILES = ROOT / "configs" / "files"
WORLD = sorted((ROOT / "configs" / "world").glob("*.yaml"))
PAPER = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
OBJECTIVES = {"autoencoder": 3, "vocoder": 1, "align": 3, "denoise": 4, "joint": 3}


def test_there_are_fourteen_objectives():
    found = [path.stem.partition("_")[0] for path in PAPER]
    assert {name: found.count(name) for name in OBJECTIVES} == OBJECTIVES and len(found) == 14
    sides = {"joint_audio", "joint_video"}  # of the pair that the paper trains at once
    assert {path.stem for path in PAPER} - {"joint_audio_video"} <= {path.stem for path in WORLD} >= sides


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_full_scale_builds_and_its_header_is_computed(path, tmp_path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    asked = re.search(r"--dry-run --processes (\d+)(?: --zero (\d))? --tflops (\d+)", text)
    monkeypatch.chdir(tmp_path)
    said = plan(
        load_config(path),
        path.parent,
        HardwareSpec(processes=int(asked[1]), zero=int(asked[2] or 0), tflops=float(asked[3])),
    )
    header = [
        line.removeprefix("#   ")
        for line in text.splitlines()
        if re.match(r"#   (run|parameters|memory|compute|time) ", line)
    ]
    assert len(header) == 5 and set(header) <= set(said.splitlines())
    assert f"--config configs/paper/{path.name}" in text and "# Expect: " in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", WORLD, ids=lambda path: path.stem)
def test_the_embedded_model_builds(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = plan(load_config(path), path.parent, HardwareSpec())
    assert re.search(r"^parameters +[1-9][\d,]* in what trains, [1-9][\d,]* of them trainable", said, re.M)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["align_video", "denoise_image", "joint_video", "noisy_latent_encoders"])
def test_a_model_of_ones_own_files_builds_before_there_are_any(name, tmp_path, monkeypatch):
    """At full size; tests/training/page.py trains the miniatures of all."""
    monkeypatch.chdir(tmp_path)
    said = plan(load_config(FILES / f"{name}.yaml"), FILES, HardwareSpec())
    assert re.search(r"^parameters +[1-9][\d,]* in what trains, [1-9][\d,]* of them trainable", said, re.M)
    assert not list(tmp_path.iterdir())


def test_configurations_for_files_hold_nothing_of_the_world():
    for path in sorted(FILES.glob("*.yaml")):
        config = load_config(path)
        assert not {"rhythm", "alike", "tones", "canonical", "facts", "scenes"} & config.options.keys(), path
        assert config.samples > load_config(path, small=True).samples
        assert config.validate_every and config.keep_best and config.data["validation"], path
        assert config.output == Path("my/runs") / path.stem and config.model == Path("my/model")


def test_sharding_and_settings_show_in_the_memory():
    path = ROOT / "configs" / "world" / "denoise_image.yaml"
    config = load_config(path)
    amount = lambda text, name: float(re.search(rf"{name} ([\d.]+)", text)[1])
    line = lambda config, **hardware: plan(config, path.parent, HardwareSpec(**hardware)).splitlines()[2]
    whole, cut = line(config), line(config, processes=4, zero=3)
    assert amount(whole, "activations") == pytest.approx(4 * amount(cut, "activations"), abs=0.05)
    less = line(load_config(path, overrides=["gradient_checkpointing=true"]))
    assert amount(less, "activations") < 0.6 * amount(whole, "activations")


def test_the_command_prints_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = str(ROOT / "configs" / "world" / "autoencoder_text.yaml")
    assert main(["--config", path, "--dry-run", "--samples-per-second", "100"]) == 0
    assert "time        40.0 min at 100 samples/s" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(["--config", path, "--dry-run", "--processes", "7"]) == 2
    assert "cannot be split over 7 processes" in capsys.readouterr().err


def test_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in (
        {"zero": 1},
        {"processes": 0},
        {"tflops": 0.0},
        {"tflops": -1.0},
        {"samples_per_second": float("nan")},
    ):
        with pytest.raises(InputError, match="ZeRO stage 0, 2 or 3, and rates above 0"):
            HardwareSpec(**wrong)
    path = ROOT / "configs" / "world" / "denoise_image.yaml"
    for override, words in (
        ("options.scene=3", "unknown key 'scene'"),
        ("data={manifest: x}", "unknown key 'manifest'"),
    ):
        with pytest.raises(InputError, match=words):
            plan(load_config(path, overrides=[override]), path.parent, HardwareSpec())
    alone = tmp_path / "denoise_video.yaml"
    alone.write_text((ROOT / "configs" / "world" / "denoise_video.yaml").read_text())
    with pytest.raises(InputError, match="no configuration in .* makes it: "):
        plan(load_config(alone), tmp_path, HardwareSpec())
    (tmp_path / "shared.yaml").write_text("stage: joint\n")  # for others to extend
    with pytest.raises(InputError, match="makes it .not read: shared.yaml.: "):
        plan(load_config(alone), tmp_path, HardwareSpec())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_joint", "runs/tiny/loras/lora_joint"),
        ("textual_inversion", "runs/tiny/words/textual_inversion"),
        ("tower_audio", "runs/tiny/towers/tower_audio"),
        (
            "ablation/tokens",
            "runs/ablation/tokens/environment_encoders, runs/ablation/tokens/audio_denoiser, "
            "runs/ablation/tokens/vision_denoiser",
        ),
        ("noisy_latent_encoders", "runs/tiny/noisy_latent_encoders"),
        ("joint_audio", "runs/tiny/environment_encoders, runs/tiny/audio_denoiser"),
        ("vocoder", "runs/tiny/audio_autoencoder"),
        ("align_image", "runs/tiny/text_tower, runs/tiny/vision_tower"),
        ("denoise_text", "runs/tiny/text_denoiser, runs/tiny/scheduler"),
    ],
)
def test_where_the_result_goes_is_said(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / "world" / f"{name}.yaml"
    said = plan(load_config(path), ROOT / "configs" / "world", HardwareSpec()).splitlines()[-1]
    end = ", beside a copy of runs/tiny" if name.startswith("ablation") else ""
    assert said.startswith("writes ") and said.endswith(f" and {expected}{end}")


def test_pictures_of_a_word_are_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / "world" / "textual_inversion.yaml"
    config = load_config(path, overrides=["options.facts={}", "options.images=photos"])
    assert "reads       photos, runs/tiny/" in plan(config, path.parent, HardwareSpec())
