"""Every stage on media files, by the commands of docs/training.md, each from what the earlier ones left; and
training from a cache.
"""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codi import io
from codi.types import InputError, Modality
from data.manifest import write_manifest
from tests.training.page import command, commands, in_what_the_page_leaves, of, stage_of
from tests.training.test_loop import final, same
from training import cache
from training.config import load_config
from training.main import main, make_parser
from training.stages import open_stage


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    """What the page leaves."""
    yield from in_what_the_page_leaves(tmp_path_factory)


def test_every_stage_trains_previews_and_exports():
    done = [stage_of(arguments) for module, arguments in commands() if module == "training.main"]
    assert len(done) == 16
    for stage in done:
        run = of(stage).run
        assert json.loads((run / "exported.json").read_text())["samples"] == 4, stage
        assert any(path.is_file() for path in (run / "previews").rglob("*")), stage
    words = json.loads(json.loads(Path("my/model/text_tower/config.json").read_text())["tokenizer"])["model"][
        "vocab"
    ]
    said = set()
    for row in map(json.loads, Path("media/train.jsonl").read_text().splitlines()):
        said |= {word for caption in row["captions"] for word in caption.split()}
    assert set(words) - {"<pad>", "<unk>", "<bos>", "<eos>"} == said


def held_out(stage):
    """The held-out numbers that a run left."""
    lines = map(json.loads, (of(stage).run / "log.jsonl").read_text().splitlines())
    [line] = [line for line in lines if "validation/loss" in line]
    assert line["samples"] == 4
    return {name.removeprefix("validation/"): value for name, value in line.items()}


def test_every_stage_is_measured_on_held_out_rows():
    pictures, sounds = held_out("autoencoder_image"), held_out("autoencoder_audio")
    assert 0 < pictures["psnr"] < pictures["psnr_pca"] < 60
    assert sounds["log_mel_l1"] > sounds["log_mel_l1_pca"] > 0 and held_out("vocoder")["log_mel_l1"] > 0
    assert held_out("autoencoder_text")["exact"] == 0
    for medium in ("image", "audio", "video"):
        found = held_out(f"align_{medium}")
        assert 0 < found["chance R@1"] < found["chance R@5"] <= 1
        assert found[f"text->{medium} R@1"] <= found[f"text->{medium} R@5"]
        assert found[f"{medium}->text R@1"] <= found[f"{medium}->text R@5"]
    assert held_out("align_image")["sentences"] > 0  # the captions of sounds and clips as well
    for medium in ("image", "video", "audio", "text"):
        assert len(held_out(f"denoise_{medium}")["loss_by_bin"]) == 10
    assert {"text", "image", "audio", "video"} <= held_out("noisy_latent_encoders").keys()
    assert held_out("temporal_change")["audio+video/audio, temporal change"] > 0
    assert {"audio+video/audio"} <= held_out("joint_audio").keys() and held_out("joint_video")["loss"] > 0


def test_previews_are_prompted_by_held_out_captions():
    rows = list(map(json.loads, Path("media/held_out.jsonl").read_text().splitlines()))
    [folder] = (of("denoise_text").run / "previews").iterdir()
    prompts = (folder / "texts.txt").read_text().splitlines()[::2]
    assert prompts and set(prompts) <= {row["captions"][0] for row in rows}


def test_a_run_says_what_rows_there_are_and_what_it_leaves_out(capsys):
    rows = [json.loads(line) for line in Path("media/train.jsonl").read_text().splitlines()]
    silent = [row for row in rows if "video" not in row]
    Path("media/silent.jsonl").write_text("".join(json.dumps(row) + "\n" for row in silent))
    only = (
        "data={manifests: [media/silent.jsonl]}",
        "validate_every=0",
        "patience=0",
        "keep_best=false",
    )
    shutil.copytree("my/model", "my/without-clips")  # what this run exports is none of the page's
    assert main(command("noisy_latent_encoders", *only, "model=my/without-clips", run="no-clips")) == 0
    said = capsys.readouterr().err
    counted = "text 11, image 5, audio 6, text+image 5, text+audio 6; none has video, text+video,"
    assert f"data: 11 rows: {counted}" in said
    assert "no row has a caption and video: left out of this run" in said
    assert "no row has text and video: left out of prompts" in said
    # the encoder of clips that was there is kept beside those that trained
    assert held_by("my/without-clips/noisy_latent_encoders") == {"text", "image", "audio", "video"}
    assert main(command("joint_audio", *only, run="no-pair")) == 2
    assert "no row has both media of a pair: expected some of audio+video" in capsys.readouterr().err
    more = "options.pairs={audio+video: 1.0, text+audio: 1.0}"
    stage = open_stage(load(command("joint_audio", *only, more, "options.attending={}", run="one-pair")))
    assert ["+".join(pair) for pair in stage.pairs] == ["text+audio"]
    assert "no row has both media of audio+video: left out of this run" in capsys.readouterr().err


def held_by(folder):
    return set(json.loads((Path(folder) / "config.json").read_text())["latents"])


def load(arguments):
    """The configuration that a command names."""
    options = make_parser().parse_args(arguments)
    return load_config(options.config, small=options.small, overrides=options.set)


def test_a_cache_gives_the_same_training_to_the_bit(capsys):
    arguments = command("denoise_image", run="cached")
    capsys.readouterr()
    assert cache.main([*arguments, "--shard-size", "4"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "complete").is_file() and len(list(folder.glob("*.safetensors"))) == 2
    assert main(arguments) == 0
    assert f"latents come from {folder}" in capsys.readouterr().err
    assert same(final(of("denoise_image")), final(of("cached")))
    (folder / "shard-00001.safetensors").write_bytes(b"cut short")
    assert cache.main([*arguments, "--shard-size", "4"]) == 0
    assert main(command("denoise_image", run="again")) == 0
    assert same(final(of("cached")), final(of("again")))


def test_short_sounds_train_by_what_is_heard_from_files_and_from_a_cache_alike(capsys):
    """Half of one sound is there: its other half counts neither in the loss nor in the cached one."""
    rows = [json.loads(line) for line in Path("media/train.jsonl").read_text().splitlines()]
    sound = next(row["audio"] for row in rows if row.get("audio", "").endswith((".wav", ".flac")))
    wave, rate = io.load_audio(f"media/{sound}")
    io.save_audio("media/short.wav", wave[: len(wave) // 2], rate)
    write_manifest("media/short.jsonl", [{"audio": "short.wav", "parts": ["a ball", "a bell", "a sea"]}])
    words = "{templates: ['{caption}', 'hear {caption}'], drop_parts: 0.5}"
    short = ("data.manifests=[media/short.jsonl]", f"data.captions={words}", "options.partner_estimates={}")
    arguments = command("denoise_audio", *short, run="short")

    options = make_parser().parse_args(arguments)
    stage = open_stage(load_config(options.config, small=options.small, overrides=options.set))
    stage.to(torch.device("cpu"))
    module = stage.build()

    def batch_and_losses():
        with stage.data() as source:
            batch = source.fetch(list(range(4)))
        without = {name: value for name, value in batch.named.items() if name != "audio_content"}
        both = (batch, replace(batch, named=without))
        return batch, *(stage.loss(module, each, torch.Generator().manual_seed(0))[0] for each in both)

    batch, loss, unmasked = batch_and_losses()
    assert batch.content_of(Modality.AUDIO)[:, 0].tolist() == [[0, 0.5]] * 4 and loss != unmasked
    assert len(set(batch["text"])) > 2 and any(said.startswith("hear ") for said in batch["text"])
    capsys.readouterr()
    assert cache.main(arguments) == 0
    again, same_loss, _ = batch_and_losses()
    assert "latents come from" in capsys.readouterr().err
    assert again["text"] == batch["text"] and again["rows"] == batch["rows"]
    assert torch.equal(again["audio_content"], batch["audio_content"]) and same_loss == loss


def test_processes_share_the_shards():
    options = cache.make_parser().parse_args([*command("denoise_audio", run="shared"), "--shard-size", "4"])
    (encoding,) = cache.encodings(options)
    written = []
    for mine in ([1], [0, 2]):
        share = lambda numbers, mine=mine: [k for k in numbers if k in mine]
        folder = cache.fill(encoding, torch.device("cpu"), 4, share, show=False)
        written.append(sorted(path.stem for path in folder.glob("*.safetensors")))
    assert (
        written == [["shard-00001"], ["shard-00000", "shard-00001", "shard-00002"]]
        and not (folder / "complete").exists()
    )


@pytest.mark.parametrize(
    ("stage", "override", "words"),
    [
        ("denoise_image", "data.augment={flip: true}", "augmentation is on"),
        ("denoise_image", "data.world={weight: 1}", "mixture"),
        ("autoencoder_image", "seed=0", "nothing to encode"),
    ],
)
def test_what_a_cache_cannot_hold_is_said(capsys, stage, override, words):
    assert cache.main(command(stage, override, run="refused")) == 2
    assert words in capsys.readouterr().err


def test_a_cluster_without_the_gpus_that_are_asked_for_is_said():
    cache.check_cluster({"CPU": 4.0}, 0.0)
    cache.check_cluster({"CPU": 4.0, "GPU": 2.0}, 0.5)
    for gpus in (1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="this Ray cluster has 0 GPUs"):
            cache.check_cluster({"CPU": 4.0}, gpus)


def test_ray_that_is_not_there_is_said(capsys):
    if importlib.util.find_spec("ray"):
        pytest.skip("Ray is installed")
    assert cache.main([*command("denoise_image", run="ray"), "--ray"]) == 2
    assert "pip install 'ray[data]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.manifest=[x]", "unknown key 'manifest'.*manifests"),
        ("data.media=[image]", "media is"),
        ("data.geometry={image: {size: 32}}", r"geometry of image .*the model takes \(3, 64, 64\)"),
        ("data.manifests=[nowhere.jsonl]", "nowhere.jsonl"),
        ("data.geometry=64", "geometry is 64: expected a mapping"),
        ("data.world={facts: [smell]}", r"world: facts is \['smell'\]: expected some of"),
        ("data.world={full: 3}", "world: full is 3: expected a share"),
    ],
)
def test_mistakes_in_the_section_are_named(capsys, override, words):
    assert main(command("autoencoder_image", override, run="mistake")) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_bad_file_is_left_out_and_listed():
    Path("media/broken.png").write_bytes(b"not a picture")
    rows = Path("media/train.jsonl").read_text().splitlines()
    good = next(row for row in rows if "image" in json.loads(row))
    bad = json.dumps({"id": "broken", "image": "broken.png", "caption": "none"})
    Path("media/bad-inside.jsonl").write_text(f"{good}\n{bad}\n")
    settings = ("data.manifests=[media/bad-inside.jsonl]", "log_every=4", "model=my/elsewhere")
    assert main(command("autoencoder_image", *settings, run="with-bad")) == 0
    run = of("with-bad").run
    assert "broken" in (run / "bad.jsonl").read_text()
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["bad_samples"] >= 1


def test_a_sample_without_a_number_is_named_by_its_id(capsys, monkeypatch):
    from training.stages.denoise import DenoiseStage

    def poisoned(self, module, batch, generator):
        loss, extras = original(self, module, batch, generator)
        level, each = extras["bins"]
        each = torch.where(torch.tensor([name == batch["ids"][1] for name in batch["ids"]]), torch.nan, each)
        return each.mean() + 0 * loss, {"bins": (level, each)}

    original = DenoiseStage.loss
    monkeypatch.setattr(DenoiseStage, "loss", poisoned)
    assert main(command("denoise_image", run="poisoned")) == 1
    assert re.search(r"samples \['scene-\d'\]", capsys.readouterr().err)


def test_the_model_says_on_which_files_it_was_trained():
    from training.provenance import provenance

    parts = [path.name for path in Path("my/model").iterdir() if path.name != "scheduler"]
    made = provenance(Path("my/model"), parts, Path("my/runs"))
    assert made["data"] == ["media/train.jsonl"] and "unknown" not in made and len(parts) == 11
    assert {"autoencoder_text", "align_video", "noisy_latent_encoders", "joint_video"} <= made[
        "stages"
    ].keys()
