"""Public data sets -> manifests: made-up examples of each published form; what is missing is counted and
listed.
"""

import json
import re
import subprocess
import sys

import pytest

from codi.io import save_audio, save_image
from codi.rows import bits_of
from codi.types import InputError, Modality
from data.manifest import Manifest
from data.prepare.__main__ import main, make_parser
from data.prepare.sets import SETS
from data.prepare.tables import read_table, seconds
from tests.data.files import RATE, clicks, digest, numbered, save_clip


@pytest.fixture
def media(tmp_path):
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


def sound(path, length=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_audio(path, clicks(length, 0.1), RATE)


def clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_clip(path, numbered(2), 8)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_image(path, numbered(1)[0])


def prepare(name, media, table, text, *more, capsys):
    """(rows as plain values, rows as read, ids that are missing)"""
    path, out = media.parent / table, media.parent / "out" / "m.jsonl"
    more = (*more, "--overwrite") if out.exists() else more
    path.write_text(text, encoding="utf-8")
    code = main([name, "--metadata", str(path), "--media", str(media), "--out", str(out), *more])
    said = capsys.readouterr()
    assert code == 0, said.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    listed = out.with_suffix(".missing.jsonl")
    missing = [json.loads(line)["id"] for line in listed.read_text().splitlines()] if listed.exists() else []
    assert said.out.startswith(f"{out}: {len(rows)} rows; {len(missing)} without their file")
    manifest = Manifest(out)
    return rows, [manifest[k] for k in range(len(manifest))], missing


def test_laion_by_img2dataset(media, capsys):
    picture(media / "00000" / "000000001.jpg")
    picture(media / "00001" / "000010002.jpg")
    text = (
        "url,caption,key,status,width\nhttp://x/1,a red "
        "ball,000000001,success,9\nhttp://x/2,gone,000000002,failed_to_download,\n"
        'http://x/3,"two, words",000010002,success,9\nhttp://x/4,lost,000010003,success,9\n'
    )
    rows, read, missing = prepare("laion", media, "t.csv", text, capsys=capsys)
    assert [row["caption"] for row in rows] == ["a red ball", "two, words"] and missing == ["000010003"]
    assert rows[0]["image"] == "../media/00000/000000001.jpg" and rows[0]["info"] == {"url": "http://x/1"}
    assert rows[0]["sha256"]["image"] == digest(media / "00000" / "000000001.jpg") and len(read) == 2


def test_laion_as_published(media, capsys):
    picture(media / "any" / "77.png")
    text = '{"SAMPLE_ID": 77.0, "URL": "http://x", "TEXT": "caf\u00e9", "NSFW": "UNLIKELY"}\n'
    text += '{"SAMPLE_ID": 78.0, "URL": "", "TEXT": "no"}\n'
    rows, _, missing = prepare("laion", media, "t.jsonl", text, "--no-sha256", capsys=capsys)
    assert rows[0]["caption"] == "café" and "sha256" not in rows[0] and missing == ["78"]


def test_audiocaps(media, capsys):
    sound(media / "abc_30.wav")
    sound(media / "-Ydef.flac")
    sound(media / "whole.wav", 60.0)
    sound(media / "cut.wav", 10.0)
    text = (
        "audiocap_id,youtube_id,start_time,caption\n1,abc,30,a dog barks\n2,abc,30,barking\n3,-Ydef,0,rain\n"
        "4,whole,20,wind\n5,cut,20,waves\n6,gone,5,nothing\n"
    )
    rows, read, missing = prepare("audiocaps", media, "train.csv", text, capsys=capsys)
    assert [row["id"] for row in rows] == ["abc_30", "-Ydef_0", "whole_20", "cut_20"] and missing == [
        "gone_5"
    ]
    assert rows[0]["captions"] == ["a dog barks", "barking"] and "start" not in rows[0]
    assert (rows[2]["start"], rows[2]["end"]) == (20.0, 30.0) and "start" not in rows[3]
    assert read[1].captions == ("rain",)


def test_audioset(media, capsys):
    clip(media / "--PJHxphWEs_30.000.mp4")
    sound(media / "Yxyz.wav")
    labels = media.parent / "class_labels_indices.csv"
    labels.write_text('index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/t/dd00088,"Gush, flow"\n')
    text = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3\n# YTID, start_seconds, end_seconds, "
        "positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        'xyz, 0.000, 10.000, "/m/09x0r"\nnone, 0.000, 10.000, "/m/09x0r"\n'
    )
    rows, _, missing = prepare(
        "audioset", media, "segments.csv", text, "--labels", str(labels), capsys=capsys
    )
    assert (
        rows[0]["caption"] == "speech, gush, flow" and "video" in rows[0] and rows[1]["caption"] == "speech"
    )
    assert rows[0]["info"]["labels"] == ["/m/09x0r", "/t/dd00088"] and missing == ["none_0"]
    rows, _, _ = prepare("audioset", media, "segments.csv", text, capsys=capsys)
    assert "caption" not in rows[0]
    labels.write_text("index,mid,display_name\n0,/m/other,Other\n")
    with pytest.raises(InputError, match="segments.csv: row 4: label '/m/09x0r' is not in"):
        list(SETS["audioset"]([media.parent / "segments.csv"], labels))


def test_freesound(media, capsys):
    sound(media / "11.wav")
    sound(media / "22__jane__big-door-2.flac")
    sound(media / "33.ogg")
    values = {
        "results": [
            {
                "id": 11,
                "name": "a.wav",
                "description": "A <b>dog</b> barks twice. Recorded with X.",
                "tags": ["dog"],
                "license": "CC0",
            },
            {
                "id": 22,
                "name": "Big Door 2.wav",
                "username": "jane",
                "description": "x",
                "tags": ["door-slam", "wood"],
                "license": "BY",
            },
            {"id": 33, "caption": "A given caption", "description": "other words here"},
            {"id": 44, "name": "gone.wav", "description": "not downloaded"},
        ]
    }
    rows, _, missing = prepare("freesound", media, "export.json", json.dumps(values), capsys=capsys)
    assert [row["caption"] for row in rows] == [
        "A dog barks twice.",
        "Big Door 2, door slam, wood",
        "A given caption",
    ]
    assert rows[0]["info"] == {"license": "CC0"} and missing == ["44"]


def test_bbc(media, capsys):
    sound(media / "07076051.wav")
    text = "location,description,secs,category\n"
    text += '07076051.wav,"Two-stroke engine, idling",194,Engines\n07076052.wav,gone,3,Engines\n'
    rows, _, missing = prepare("bbc", media, "bbc.csv", text, capsys=capsys)
    assert rows[0]["caption"] == "Two-stroke engine, idling" and missing == ["07076052"]


def test_webvid(media, capsys):
    clip(media / "part1" / "000001_000050" / "123.mp4")
    clip(media / "part1" / "000051_000100" / "123.mp4")
    text = (
        "videoid,contentUrl,duration,page_dir,name\n123,http://x,PT00H00M09S,000051_000100,Aerial view of a "
        "coast\n"
        "9,http://x,PT00H00M09S,000051_000100,gone\n"
    )
    rows, _, missing = prepare("webvid", media, "results.csv", text, capsys=capsys)
    assert (
        rows[0]["video"] == "../media/part1/000051_000100/123.mp4"
        and rows[0]["caption"] == "Aerial view of a coast"
    )
    assert missing == ["9"]


def test_hdvila(media, capsys):
    clip(media / "QMi" / "QMi.1.mp4")
    clip(media / "long.mp4")
    lines = [
        {
            "video_id": "QMi",
            "url": "u",
            "clip": [{"clip_id": "QMi.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]}],
        },
        {
            "video_id": "long",
            "url": "u",
            "clip": [{"clip_id": "long.0.mp4", "span": ["00:00:00.000", "00:00:00.100"]}],
        },
        {
            "video_id": "gone",
            "url": "u",
            "clip": [{"clip_id": f"gone.{k}.mp4", "span": ["00:04:52.140", "01:05:03.350"]} for k in (1, 2)],
        },
    ]
    rows, read, missing = prepare(
        "hdvila", media, "list.jsonl", "\n".join(map(json.dumps, lines)), capsys=capsys
    )
    assert (
        "start" not in rows[0]
        and (read[1].start, read[1].end) == (0.0, 0.1)
        and missing == ["gone.1", "gone.2"]
    )


def test_acav(media, capsys):
    clip(media / "shard-000009" / "qpxektwhzra_292.mp4")
    clip(media / "whole.mp4")
    text = (
        'shard-000009,qpxektwhzra_292.mp4,qpxektwhzra,"[292.3329999997, 302.3329999997]"\n'
        'shard-000001,whole_0.mp4,whole,"[0.0, 0.2]"\nshard-000001,gone_1.mp4,gone,"[1.0, 11.0]"\n'
    )
    rows, _, missing = prepare("acav", media, "output.csv", text, capsys=capsys)
    assert [row["id"] for row in rows] == ["qpxektwhzra_292", "whole_0"] and missing == ["gone_1"]
    assert "start" not in rows[0] and (rows[1]["start"], rows[1]["end"]) == (0.0, 0.2)


@pytest.mark.parametrize(
    "name, table, text, expected",
    [
        (
            "webvid",
            "t.csv",
            "a,b\n1,2\n",
            "row 2: no column videoid .there are a, b.: is this the right table",
        ),
        ("webvid", "t.csv", "videoid,name\n1,2,3\n", "row 2 has another number of columns"),
        ("webvid", "t.csv", b"videoid,name\n1,caf\xe9\n", "t.csv is not in UTF-8"),
        ("webvid", "t.xls", "x", "no table that can be read"),
        ("freesound", "t.json", "{", "t.json is not JSON"),
        (
            "hdvila",
            "t.jsonl",
            '{"video_id": "a", "clip": [{"clip_id": "b"}]}',
            "row 1: cut .*expected clip_id and span",
        ),
        (
            "hdvila",
            "t.jsonl",
            '{"video_id": "a", "clip": [{"clip_id": "b", "span": ["x", "y"]}]}',
            "row 1: 'x' is no time",
        ),
        ("acav", "t.csv", "a,b\n", "row 1 is 'a,b': expected shard"),
        ("audioset", "t.csv", "a,1,2\n", "row 1 has 3 columns"),
        ("audiocaps", "t.csv", "youtube_id,start_time,caption\nx,-4,y\n", "row 2: '-4' is no time"),
        ("bbc", "t.csv", "location,description\nnone.wav,x\n", "none of the files that .*t.csv speaks of"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(media, capsys, name, table, text, expected):
    sound(media / "a.wav")
    path, out = media.parent / table, media.parent / "m.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([name, "--metadata", str(path), "--media", str(media), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and not out.exists()
    assert re.search(expected, lines[0]), lines[0]


def test_folders_that_hold_nothing(media, capsys):
    (media.parent / "t.csv").write_text("location,description\nx.wav,x\n")
    arguments = [
        "bbc",
        "--metadata",
        str(media.parent / "t.csv"),
        "--out",
        str(media.parent / "m.jsonl"),
        "--media",
    ]
    assert main([*arguments, str(media)]) == 2 and main([*arguments, str(media / "none")]) == 2
    said = capsys.readouterr().err
    assert "holds no media file" in said and "no such folder" in said


def test_times():
    assert [seconds(text, "x") for text in ("30", " 30.000", "00:00:17.759", "01:00:01")] == [
        30,
        30,
        17.759,
        3601,
    ]


def test_tables_of_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([{"key": "1", "caption": "é"}]), tmp_path / "t.parquet")
    assert [row for _, row in read_table(tmp_path / "t.parquet")] == [{"key": "1", "caption": "é"}]


def test_the_command_knows_every_set():
    choices = next(action.choices for action in make_parser()._actions if action.dest == "name")
    assert set(choices) == set(SETS)


def test_help_is_instant():
    code = (
        "import argparse, importlib, sys; import data.prepare.__main__ as m; m.make_parser(); "
        "modules = map(importlib.import_module, m.COMMANDS.values()); "
        "[module.add_arguments(argparse.ArgumentParser()) for module in modules]; "
        "assert 'torch' not in sys.modules, 'torch is imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# A folder of one's own ---------------------------------------------------


@pytest.fixture
def own(media):
    """Samples of every kind, with endings in any case."""
    picture(media / "dog.png")
    picture(media / "dog.JPG")
    sound(media / "dog.flac")
    (media / "dog.txt").write_text("a dog barks\n\n  barking \n", encoding="utf-8-sig")
    clip(media / "walks" / "wood.mp4")
    save_clip(media / "walks" / "street.mp4", numbered(8), 8, clicks(1.0, 0.1))
    (media / "words.txt").write_text("a caption alone\n")
    (media / ".hidden.png").write_bytes(b"")
    (media / "notes.pdf").write_bytes(b"")
    return media


def rows_in(path):
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def test_a_folder_of_ones_own(own, capsys):
    out = own.parent / "lists" / "train.jsonl"
    assert main(["folder", str(own), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert said == f"{out}: 5 rows: text 3, image 2, audio 2, video 2\n"
    rows = rows_in(out)
    assert rows["dog"]["image"] == "../media/dog.JPG" and rows["dog.png"]["image"] == "../media/dog.png"
    assert rows["dog"]["audio"] == "../media/dog.flac" and "audio" not in rows["dog.png"]
    assert rows["dog"]["captions"] == rows["dog.png"]["captions"] == ["a dog barks", "barking"]
    assert rows["dog"]["sha256"]["audio"] == digest(own / "dog.flac")
    assert rows["walks/wood"]["silent"] and "silent" not in rows["walks/street"]
    assert rows["words"] == {"id": "words", "captions": ["a caption alone"]}
    manifest = Manifest(out)
    assert [bool(has & bits_of([Modality.AUDIO])) for has in manifest.has] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_held_out_samples_stay_apart_when_others_are_added(own, capsys):
    names = [own.parent / name for name in ("train.jsonl", "held_out.jsonl")]
    arguments = ["folder", str(own), "-o", str(names[0]), "--held-out", str(names[1]), "--share", "0.83"]
    assert main(arguments) == 0
    train, held_out = map(rows_in, names)
    assert held_out and train and not train.keys() & held_out.keys() and len(train) + len(held_out) == 5
    for number in range(40):
        (own / f"more-{number}.txt").write_text("one more\n")
    assert main(arguments) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--no-sha256"]) == 0
    more_train, more_held_out = map(rows_in, names)
    assert train.keys() <= more_train.keys() and held_out.keys() <= more_held_out.keys()
    assert 26 <= len(more_held_out) - len(held_out) <= 39


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (
            lambda media: (media / "bad.txt").write_bytes(b"caf\xe9"),
            [],
            "cannot read the captions in .*bad.txt",
        ),
        (lambda media: (media / "nul.txt").write_bytes(b"a\0b"), [], "nul of the folder: caption .*damaged"),
        (lambda media: None, ["--held-out", "OUT"], "is to hold both parts"),
        (lambda media: None, ["--held-out", "x.csv"], "expected a name that ends in .jsonl"),
        (lambda media: None, ["--share", "1"], "--share is 1: expected a share between"),
    ],
)
def test_mistakes_in_a_folder_write_nothing(own, capsys, change, more, words):
    change(own)
    out = own.parent / "train.jsonl"
    more = [str(out) if word == "OUT" else word for word in more]
    assert main(["folder", str(own), "-o", str(out), *more]) == 2
    assert re.search(words, capsys.readouterr().err) and not out.exists()


def test_a_folder_without_media_is_said(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["folder", str(folder), "-o", str(tmp_path / "train.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "expected files that end in" in said and "webm" in said and "no such folder" in said
