"""The judge of real media learns what its set shows, and says how good it is on what was held out."""

import json

import pytest
import torch

from benchmarks import judge
from codi.io import save_audio, save_image
from codi.types import InputError
from data.manifest import write_manifest

COLOURS = {"ruby": 0, "leaf": 1, "sea": 2}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Names that differ in colour in two styles, halves and stripes; tones of two instruments."""
    folder = tmp_path_factory.mktemp("media")
    rows = {"train": [], "test": []}
    for name, channel in COLOURS.items():
        for style in ("half", "stripes"):
            for shade in (150, 200, 250):
                picture = torch.full((3, 64, 64), 255, dtype=torch.uint8)
                where = slice(0, 32) if style == "half" else slice(0, 64, 4)
                picture[:, where] = 0
                picture[channel, where] = shade
                file = f"{name}-{style}-{shade}.png"
                save_image(folder / file, picture)
                info = {"name": name, "style": style, "held_out": "composition" if shade == 200 else None}
                rows["test" if shade == 200 else "train"].append({"id": file, "image": file, "info": info})
    sounds = []
    for name, frequency in (("flute", 0.2), ("bass", 0.02)):
        save_audio(folder / f"{name}.flac", 0.5 * torch.sin(torch.arange(32_000) * frequency), 16_000)
        info = {"name": name, "held_out": "composition"}
        sounds.append({"id": name, "audio": f"{name}.flac", "info": info})
    for side, listed in rows.items():
        write_manifest(folder / f"{side}.pictures.jsonl", listed)
        write_manifest(folder / f"{side}.sounds.jsonl", sounds)
    return folder


def test_a_judge_learns_and_says_how_good_it_is(media, tmp_path, monkeypatch):
    found = judge.train(media, "pictures", tmp_path / "judge", samples=480, batch=12)
    assert found["name"]["count"] == 6 and found["name"]["chance"] == pytest.approx(1 / 3)
    assert found["name"]["right"] == 1.0 and found["style"]["right"] >= 5 / 6
    assert judge.score(tmp_path / "judge", media) == found  # what was written is what was trained
    # as `codi bench --extractor` calls it: media of any size -> features, with the judge of the environment
    monkeypatch.setenv(judge.FOLDER, str(tmp_path / "judge"))
    features = judge.pictures([torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(3, 90, 70).byte()])
    assert features.shape == (2, 256) and abs(features[0] - features[1]).max() < 1e-4
    with pytest.raises(InputError, match="judges pictures: expected one of sounds"):
        judge.sounds([(torch.zeros(100), 16_000)])


def test_a_judge_of_sounds_tells_instruments(media, tmp_path):
    found = judge.train(media, "sounds", tmp_path / "judge", samples=48, batch=4)
    assert found["name"]["right"] == 1.0 and found["name"]["count"] == 2


def test_what_cannot_be_judged_is_named(media, tmp_path, capsys):
    assert judge.main(["score", str(tmp_path), str(media)]) == 2
    assert "no judge in" in capsys.readouterr().err
    assert judge.main(["train", str(tmp_path), "--kind", "sounds", "--out", str(tmp_path / "j")]) == 2
    assert "data.prepare emoji" in capsys.readouterr().err
    write_manifest(tmp_path / "train.pictures.jsonl", [])
    with pytest.raises(InputError, match="has no row"):
        judge.read_examples(tmp_path, "train", "pictures")
    assert json.loads((media / "test.pictures.jsonl").read_text().splitlines()[0])["info"]["held_out"]
