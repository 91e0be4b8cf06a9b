"""The scripts of examples/compose_world train, resume, and leave folders that diffusers loads."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FOLDER = Path(__file__).parent.parent / "examples" / "compose_world"
SMALL = ("--batch", "2", "--scenes", "8")


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        names = ("autoencoder", "vocoder", "picture", "clip", "sound")
        yield {name: importlib.import_module(f"train_{name}").main for name in names} | {
            "evaluate": importlib.import_module("evaluate").main
        }


@pytest.fixture(scope="module")
def trained(scripts, tmp_path_factory):
    """Every script for two steps, each from what the one before it left."""
    at = tmp_path_factory.mktemp("compose_world")

    def train(name, out, *more, steps=2):
        options = ("--out", f"{at}/{out}", "--work", f"{at}/work", "--steps", str(steps), *SMALL)
        scripts[name]([*more, *options])

    train("autoencoder", "picture_vae", "picture")
    train("autoencoder", "sound_vae", "sound")
    train("vocoder", "vocoder", "--vae", f"{at}/sound_vae")
    train("picture", "picture", "--vae", f"{at}/picture_vae")
    train("clip", "clip", "--picture", f"{at}/picture")
    train("sound", "sound", "--vae", f"{at}/sound_vae", "--vocoder", f"{at}/vocoder", "--text-steps", "3")
    return at


@pytest.mark.parametrize(
    ("name", "kind"),
    [("picture", "StableDiffusionPipeline"), ("clip", "AnimateDiffPipeline"), ("sound", "AudioLDMPipeline")],
)
def test_folders_load_as_pipelines(trained, name, kind):
    pipe = diffusers.DiffusionPipeline.from_pretrained(trained / name)
    assert type(pipe).__name__ == kind
    assert "license: apache-2.0" in (trained / name / "README.md").read_text()
    assert "Apache License" in (trained / name / "LICENSE").read_text()
    for part in (trained / name).iterdir():
        assert not list(part.glob("*.bin")) if part.is_dir() else True


def test_media_have_the_sizes_of_the_world(trained):
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0}
    load = diffusers.DiffusionPipeline.from_pretrained
    picture = load(trained / "picture")("a red ball", output_type="np", **settings).images
    assert np.asarray(picture).shape == (1, 64, 64, 3)
    clip = load(trained / "clip")("a red ball", num_frames=16, output_type="np", **settings).frames
    assert np.asarray(clip).shape == (1, 16, 64, 64, 3)
    sound = load(trained / "sound")("a red ball", audio_length_in_s=2.0, **settings).audios
    assert np.asarray(sound).shape == (1, 32000)


def test_latents_have_a_standard_deviation_of_one(trained):
    for kind in ("picture", "sound"):
        config = json.loads((trained / f"{kind}_vae" / "config.json").read_text())
        assert 0.1 < config["scaling_factor"] < 1000 and config["scaling_factor"] != 0.18215


def test_the_same_command_goes_on_where_it_stopped(scripts, trained, tmp_path, capsys):
    options = ["--vae", f"{trained}/sound_vae", "--out", f"{tmp_path}/v", "--work", f"{tmp_path}", *SMALL]
    scripts["vocoder"]([*options, "--steps", "1"])
    scripts["vocoder"]([*options, "--steps", "3"])
    said = capsys.readouterr().out
    assert "goes on after step 1" in said and "saved after step 3" in said
    state = torch.load(tmp_path / "v.training.pt", weights_only=True)
    assert state["step"] == 3


def test_carriers_keep_what_is_heard_and_repeat_in_every_frame(scripts):
    from codi.world import read_sounds, render_sounds

    vocoder = importlib.import_module("train_vocoder")
    scenes = importlib.import_module("world_data").training_scenes(8, 4)
    played = vocoder.locked(render_sounds(scenes))
    assert played.shape == (8, 32000)
    for reading, scene in zip(read_sounds(played), scenes):
        assert reading.facts == scene.facts
    steady = vocoder.locked(torch.sin(2 * torch.pi * 441.0 * torch.arange(32000) / 16000)[None])[0]
    frames = steady[4000:28000].view(-1, 500)
    assert (frames - frames[0]).abs().max() < 1e-2


def test_the_text_encoder_learns_to_read(scripts):
    sound = importlib.import_module("train_sound")
    autoencoder = importlib.import_module("train_autoencoder").make("sound")
    torch.manual_seed(0)
    pipe = sound.make(autoencoder, importlib.import_module("train_vocoder").make())
    read = importlib.import_module("reading").learn_to_read
    assert read(pipe.text_encoder, pipe.tokenizer, 5) < 0.3 < read(pipe.text_encoder, pipe.tokenizer, 80)


def test_training_never_shows_held_out_pairs(scripts):
    from codi.world import is_held_out

    world_data = importlib.import_module("world_data")
    assert not any(map(is_held_out, world_data.training_scenes(300, 1)))


def test_captions_fit_the_tokenizer_and_hold_no_unknown_word(scripts):
    world_data = importlib.import_module("world_data")
    rng = np.random.default_rng(0)
    texts = [world_data.training_caption(s, rng) for s in world_data.training_scenes(300, 2)]
    assert "" in texts
    for kind in ("clip", "roberta"):
        tokenizer = world_data.words_tokenizer(kind)
        ids = tokenizer(texts, add_special_tokens=False).input_ids
        assert max(map(len, ids)) + 2 <= world_data.MAX_TOKENS
        assert all(tokenizer.unk_token_id not in row for row in ids)


def test_the_evaluation_prints_made_media_between_ceiling_and_floor(scripts, trained, capsys):
    for kind in ("picture", "clip", "sound"):
        scripts["evaluate"]([kind, "--model", f"{trained}/{kind}", "--prompts", "2", "--steps", "2"])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[-3:]] == ["generated", "ceiling", "shuffled"]
