"""`codi inspect`: what a file is, and what the model receives of it, written out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from codi import cli, io
from codi.inspection import inspect
from codi.modalities import kind_of
from codi.types import InputError, Modality, ModalitySpec
from tests.io.cases import CLIPS, PICTURES, SOUNDS

VIDEO = ModalitySpec(raw_shape=(16, 3, 64, 64), latent_shape=(), rate=8)
AUDIO = ModalitySpec(raw_shape=(32000,), latent_shape=(), rate=16000)


@pytest.mark.parametrize(
    "table, name, note",
    [
        (CLIPS, "uneven.mp4", "unevenly"),
        (CLIPS, "a.gif", "unevenly"),
        (CLIPS, "a.webp", "unevenly"),
        (CLIPS, "matrix 1.mp4", "mirrored"),
        (CLIPS, "matrix 5.mp4", "turned by 90 degrees clockwise"),
        (CLIPS, "wide.mp4", "stretched"),
        (CLIPS, "alpha.mov", "shown on white"),
        (CLIPS, "late sound.mp4", "silence"),
        (CLIPS, "late picture.mkv", "its first frame, due at 0.500 s"),
        (CLIPS, "two pictures.mkv", "1 further streams"),
        (SOUNDS, "centre.flac", "mixed down"),
        (SOUNDS, "stereo.wav", "the mean of 2 channels"),
        (PICTURES, "exif 6.jpg", "orientation 6"),
        (PICTURES, "p3.png", "colour profile"),
        (PICTURES, "clear.webp", "shown on white"),
        (PICTURES, "float.tiff", "8 bits"),
    ],
)
def test_facts_say_what_is_done(tmp_path, table, name, note):
    known = io.facts(table[name].make(tmp_path))
    assert any(note in line for line in known["notes"]), known
    assert json.loads(json.dumps(known)) == known
    if table is PICTURES and table[name].size:
        assert (known["image"]["width"], known["image"]["height"]) == table[name].size
    if table is CLIPS and table[name].size:
        assert (known["video"]["width"], known["video"]["height"]) == table[name].size


def test_a_plain_file_needs_no_notes(tmp_path):
    path = io.save_video(tmp_path / "a.mp4", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), 8)
    known = io.facts(path)
    assert known["notes"] == [] and known["kind"] == "video" and known["video"]["frames"] == 8
    assert known["video"]["fps"] == 8 and known["video"]["seconds"] == 1 and "audio" not in known
    (tmp_path / "a.txt").write_text("a ball")
    assert io.facts(tmp_path / "a.txt")["kind"] == "text"


def test_what_the_model_receives_is_written(tmp_path, capsys):
    clip = CLIPS["late sound.mp4"].make(tmp_path)
    out = tmp_path / "out"
    assert cli.main(["inspect", str(clip), "--as", "video", "-o", str(out), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["received"]["shape"] == [16, 3, 64, 64] and known["received"]["rate"] == 8
    frames = io.from_unit(kind_of(Modality.VIDEO).prepare(str(clip), VIDEO))
    for k, frame in enumerate(frames):
        assert torch.equal(io.load_image(out / "frames" / f"{k:03d}.png"), frame)
    wave, rate = io.load_audio(out / "sound.wav")
    heard = kind_of(Modality.AUDIO).prepare(str(clip), AUDIO)
    assert rate == 16000 and (wave - heard).abs().max() < 1e-4
    sheet = np.asarray(Image.open(out / "sheet.png"))
    assert sheet.shape == (384, 768, 3) and sheet[200:280].min() == 0  # two rows of frames, then the waveform
    assert all((out / path).exists() for path in known["written"])


def test_a_sound_and_a_picture(tmp_path, capsys):
    sound, picture = SOUNDS["stereo.wav"].make(tmp_path), PICTURES["exif 6.png"].make(tmp_path)
    known = inspect(sound, "audio", tmp_path / "heard")
    assert {path.rpartition("/")[2] for path in known["written"]} == {"sound.wav", "sheet.png"}
    known = inspect(picture, Modality.IMAGE, tmp_path / "seen")
    assert (
        len(known["written"]) == 2 and io.load_image(tmp_path / "seen" / "frames" / "000.png").shape[1] == 64
    )
    assert cli.main(["inspect", str(picture)]) == 0
    assert "orientation 6" in capsys.readouterr().out


@pytest.mark.parametrize("place, name", [(".", "sheet.png"), (".", "frames/000.png"), ("link", "sheet.png")])
def test_the_file_itself_is_not_overwritten(tmp_path, capsys, place, name):
    (tmp_path / "frames").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    path = io.save_image(tmp_path / name, torch.zeros(3, 8, 8, dtype=torch.uint8))
    before = path.read_bytes()
    assert cli.main(["inspect", str(path), "--as", "image", "-o", str(tmp_path / place)]) == 2
    assert f"would be overwritten by what is made ({name})" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_can_be_described(tmp_path, recwarn, name):
    path = PICTURES[name].make(tmp_path)
    known = io.facts(path)
    assert known["kind"] == "image" and not recwarn.list
    assert known["image"]["opacity"] is name.startswith(("clear", "adobe clear", "16 clear", "16 not clear"))


@pytest.mark.parametrize("name", SOUNDS)
def test_every_sound_can_be_described(tmp_path, name):
    path = SOUNDS[name].make(tmp_path)
    assert io.facts(path)["kind"] == io.describe(path)["kind"] == "audio"


def test_names_do_not_speak_to_the_terminal(capsys):
    assert cli.main(["inspect", "a\x1b[31m\x9b.png"]) == 2
    assert r"a\x1b[31m\x9b.png" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, capsys):
    sound = SOUNDS["stereo.wav"].make(tmp_path)
    for arguments, message in (
        (["--as", "video"], "pass it as --audio"),
        (["--as", "text"], "expected --as image, audio or video"),
        (["--as", "smell"], "unknown modality"),
        (["-o", str(tmp_path / "x")], "nothing to write"),
    ):
        assert cli.main(["inspect", str(sound), *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "none.png")
