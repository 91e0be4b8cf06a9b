"""Duplicates are found however they were encoded, what is merely alike is none, and parts of a manifest leak
nothing.
"""

import json
from collections import Counter

import pytest
import torch

from codi.io import save_audio, save_image, save_video
from codi.io.sandbox import here
from codi.modalities import kind_of
from codi.world import render_images, render_sounds
from data.manifest import Manifest, write_manifest
from data.prepare.__main__ import main
from data.prepare.duplicates import difference
from data.prepare.split import fraction, held_out
from tests.data.files import RATE, number_of, numbered, save_clip, scenes

COUNT = 24


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Scenes as pictures and sounds, no two of which are the same, and copies of the first three."""
    folder = tmp_path_factory.mktemp("media")
    pictures, sounds = render_images(scenes(COUNT)), render_sounds(scenes(COUNT))
    for k in range(COUNT):
        save_image(folder / f"{k}.png", pictures[k])
        save_audio(folder / f"{k}.wav", sounds[k], RATE)
    save_image(folder / "same.webp", pictures[0])  # lossy
    save_image(folder / "same.jpg", pictures[1])
    bigger = torch.nn.functional.interpolate(pictures[2][None].float(), scale_factor=3, mode="nearest")
    save_image(folder / "bigger.png", bigger[0].to(torch.uint8))
    save_audio(folder / "copy.flac", sounds[0], RATE)
    save_audio(folder / "softer.wav", 0.3 * sounds[1], RATE)
    save_audio(folder / "lossy.mp3", sounds[2], RATE)
    return folder


@pytest.fixture(autouse=True)
def in_this_process():
    with here():
        yield


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unlike(media, modality, names, limit) -> list[tuple]:
    """The pairs of files that are near duplicates."""
    known = [kind_of(modality).likeness(media / name, None, None) for name in names]
    found = []
    for i, one in enumerate(known):
        for j in range(i):
            apart = difference(one, known[j])
            if apart is not None and apart <= limit:
                found.append((i, j))
    return found


def test_copies_are_found_and_scenes_are_none(media, capsys):
    rows = [{"id": f"p{k}", "image": f"{k}.png"} for k in range(COUNT)]
    rows += [{"id": f"s{k}", "audio": f"{k}.wav"} for k in range(COUNT)]
    rows += [{"id": name, "image": name} for name in ("0.png", "same.webp", "same.jpg", "bigger.png")]
    rows += [{"id": name, "audio": name} for name in ("copy.flac", "softer.wav", "lossy.mp3")]
    # a row of other media, and a part of a recording, are other samples
    rows += [{"id": "both", "image": "0.png", "audio": "0.wav"}, {"id": "cut", "audio": "0.wav", "start": 1}]
    (media / "bad.png").write_bytes(b"no picture")
    rows += [{"id": "bad", "image": "bad.png"}]
    write_manifest(media / "all.jsonl", rows)
    (media / "out").mkdir(exist_ok=True)
    out = media / "out" / "kept.jsonl"
    assert main(["duplicates", str(media / "all.jsonl"), "--out", str(out), "--overwrite"]) == 0
    said = capsys.readouterr().out
    listed = {line["id"]: line for line in lines(out.with_suffix(".duplicates.jsonl"))}
    assert "no picture" not in said and "unread" in listed.pop("bad")
    assert {name: (line["of"], line["kind"]) for name, line in listed.items()} == {
        "0.png": ("p0", "exact"),
        "same.webp": ("p0", "near"),
        "same.jpg": ("p1", "near"),
        "bigger.png": ("p2", "near"),
        "copy.flac": ("s0", "near"),
        "softer.wav": ("s1", "near"),
        "lossy.mp3": ("s2", "near"),
    }
    assert "51 of 58 rows; dropped 1 exact and 6 near duplicates; 1 could not be read" in said
    kept = Manifest(out)  # whose files are where they were
    assert [kept[k].id for k in range(len(kept))] == [row["id"] for row in rows if row["id"] not in listed]
    again = ["duplicates", str(out), "--out", str(media / "again.jsonl"), "--distance", "-1"]
    assert main(again) == 0 and "dropped 0 exact and 0 near" in capsys.readouterr().out
    assert main(again) == 2 and "is there already" in capsys.readouterr().err


def test_clips_are_compared_by_what_they_show(tmp_path):
    wave = 0.2 * torch.sin(torch.arange(2 * RATE) * 0.1)
    moving = numbered(16, 64)
    moving[:, 0, 20:40, 20:40] = 200
    save_clip(tmp_path / "a.mp4", moving, 8, wave)
    save_video(tmp_path / "b.mp4", moving, 8, wave, RATE)  # encoded otherwise
    save_clip(tmp_path / "c.webm", moving, 8)
    save_clip(tmp_path / "d.mp4", moving.flip(0), 8)
    names = ["a.mp4", "b.mp4", "c.webm", "d.mp4"]
    assert unlike(tmp_path, "video", names, 4) == [(1, 0), (2, 0), (2, 1)]
    whole, part = (kind_of("video").likeness(tmp_path / "a.mp4", None, end) for end in (None, 1.0))
    assert whole.digest != part.digest and part.seconds == 1.0
    assert number_of(numbered(3)) == [0, 1, 2]


def split(folder, *options, name="m.jsonl") -> int:
    parts = ["--train", str(folder / "t.jsonl"), "--validation", str(folder / "v.jsonl"), "--overwrite"]
    return main(["split", str(folder / name), *parts, *options])


def test_a_row_stays_on_its_side_when_others_are_added(tmp_path, capsys):
    rows = [{"id": f"{k}", "caption": "x", "info": {"speaker": k % 40}} for k in range(400)]
    write_manifest(tmp_path / "m.jsonl", rows[:200])
    assert split(tmp_path, "--share", "0.2") == 0
    first = {row["id"] for row in lines(tmp_path / "v.jsonl")}
    write_manifest(tmp_path / "m.jsonl", rows[::-1])
    assert split(tmp_path, "--share", "0.2") == 0
    held = {row["id"] for row in lines(tmp_path / "v.jsonl")}
    assert first == {name for name in held if int(name) < 200} and 50 < len(held) < 110
    assert held == {row["id"] for row in rows if fraction(row["id"], 0) < 0.2}
    assert len(held) + len(lines(tmp_path / "t.jsonl")) == 400
    assert split(tmp_path, "--key", "info.speaker", "--seed", "1") == 0
    sides = [{row["info"]["speaker"] for row in lines(tmp_path / name)} for name in ("t.jsonl", "v.jsonl")]
    assert sides[0].isdisjoint(sides[1]) and len(sides[0] | sides[1]) == 40
    capsys.readouterr()
    assert split(tmp_path, "--key", "info.age") == 2 and "row 1: no info.age" in capsys.readouterr().err
    assert split(tmp_path, "--share", "1") == 2 and "share between 0 and 1" in capsys.readouterr().err


def test_combinations_are_held_out_and_their_values_are_not(tmp_path, capsys):
    names, styles = ("cat", "dog", "cow", "owl"), ("oil", "ink", "pen")
    rows = [{"caption": "x", "info": {"name": n, "style": s}} for n in names for s in styles] * 3
    write_manifest(tmp_path / "m.jsonl", rows)
    assert split(tmp_path, "--combinations", "info.name", "info.style", "--share", "0.3") == 0
    parts = [
        Counter((row["info"]["name"], row["info"]["style"]) for row in lines(tmp_path / name))
        for name in ("t.jsonl", "v.jsonl")
    ]
    assert parts[0].keys().isdisjoint(parts[1]) and set(parts[1].values()) == {3} and len(parts[1]) == 4
    assert {name for name, _ in parts[0]} == set(names) and {style for _, style in parts[0]} == set(styles)
    assert " + ".join(min(parts[1])) in capsys.readouterr().out
    only = [("cat", "oil"), ("cat", "ink"), ("dog", "oil")]
    # of dog and of ink there is nothing else: nothing but cat in oil may go
    assert held_out(only, 0.9, 0) == {("cat", "oil")}
    write_manifest(
        tmp_path / "m.jsonl", [{"caption": "x", "info": {"name": n, "style": "oil"}} for n in names]
    )
    assert split(tmp_path, "--combinations", "info.name", "info.style") == 2
    assert "no combination can be held out" in capsys.readouterr().err


def test_the_same_file_on_both_sides_is_refused(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name, numbered(1)[0])
    named = {
        side: [f"{k}" for k in range(40) if (fraction(f"{k}", 0) < 0.3) is side] for side in (True, False)
    }
    rows = [{"id": named[True][0], "image": "a.png"}, {"id": named[False][0], "image": "b.png"}]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert split(tmp_path, "--share", "0.3") == 2
    said = capsys.readouterr().err
    assert "rows 1 and 2" in said and "the same file" in said and not (tmp_path / "t.jsonl").exists()
    write_manifest(tmp_path / "m.jsonl", [{**row, "id": name} for row, name in zip(rows, named[False])])
    assert split(tmp_path, "--share", "0.3") == 2 and "v.jsonl would have no row" in capsys.readouterr().err
