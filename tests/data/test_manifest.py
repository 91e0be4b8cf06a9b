"""Manifests: what is written reads back, and whatever is wrong is one line that names the file
and the row.
"""

import importlib.util
import json

import numpy as np
import pytest

from codi.rows import bit_of, draw_caption
from codi.types import InputError, Modality
from data.manifest import Manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.mp4", "c.wav"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


ROWS = [
    {"id": "one", "image": "a.png", "caption": "a rød ball ○", "sha256": {"image": "0" * 64}},
    {
        "video": "b.mp4",
        "captions": ["a", "b"],
        "start": 1.5,
        "end": 3,
        "weight": 2.0,
        "info": {"from": "here"},
    },
    {"audio": "c.wav"},
]


def test_rows_read_back(folder):
    assert write_manifest(folder / "m.jsonl", ROWS) == 3
    manifest = Manifest(folder / "m.jsonl")
    one, two, three = (manifest[k] for k in range(len(manifest)))
    assert (one.id, one.captions, one.media[Modality.IMAGE].path) == (
        "one",
        ("a rød ball ○",),
        folder / "a.png",
    )
    assert one.media[Modality.IMAGE].sha256 == "0" * 64
    assert (two.captions, two.start, two.end, two.weight) == (("a", "b"), 1.5, 3.0, 2.0)
    assert three.id.endswith("m.jsonl: row 3") and three.captions == ()
    text, image, audio, video = (bit_of(m) for m in Modality)
    assert manifest.has.tolist() == [text | image, text | video | audio, audio]
    assert manifest.weights.tolist() == [1, 2, 1]


def test_the_identity_follows_the_content(folder):
    write_manifest(folder / "m.jsonl", ROWS)
    before = Manifest(folder / "m.jsonl").identity
    assert before == Manifest(folder / "m.jsonl").identity
    write_manifest(folder / "m.jsonl", [*ROWS[:2], {"audio": "c.wav", "caption": "now with words"}])
    assert Manifest(folder / "m.jsonl").identity != before


@pytest.mark.parametrize(
    "line, expected",
    [
        (b'{"image": "a.png", "captoin": "x"}', "row 2: unknown key 'captoin'"),
        (b'{"image": "none.png"}', "row 2: no image file .*none.png"),
        (
            '{"image": "a.png", "caption": "caf\u00e9"}'.encode("latin-1"),
            "row 2 is not in UTF-8 \\(byte 0xe9",
        ),
        ('{"image": "a.png", "caption": "ball"}'.encode("utf-16-le"), "row 2 is not JSON"),
        (b'{"image": "a.png", "caption": "\\ud800"}', "row 2: caption .* damaged text"),
        (b'{"image": "a.png"', "row 2 is not JSON"),
        (b'{"image": "a.png", "image": "b.png"}', "row 2 is not JSON .*'image' is given twice"),
        (b'{"image": "a.png", "weight": NaN}', "row 2 is not JSON .*NaN"),
        (b'{"image": "a.png", "weight": 0}', "row 2: weight is 0"),
        (b'{"image": "a.png", "weight": "2"}', "row 2: weight is '2'"),
        (b'["a.png"]', "row 2 holds list"),
        (b'{"id": "x"}', "row 2 has nothing in it"),
        (b'{"image": 3}', "row 2: image is 3: expected text"),
        (b'{"image": "a.png", "caption": ["x"]}', "row 2: captions are"),
        (b'{"image": "a.png", "captions": ["x", " "]}', "row 2: captions are"),
        (b'{"image": "a.png", "caption": "x", "captions": ["x"]}', "row 2 has both"),
        (b'{"image": "a.png", "sha256": {"image": "12"}}', "row 2: sha256 of image is '12'"),
        (b'{"image": "a.png", "sha256": "12"}', "row 2: sha256 is '12'"),
        (
            b'{"image": "a.png", "sha256": {"audio": "%s"}}' % (b"0" * 64),
            "row 2: sha256 of audio, which the row does not have",
        ),
        (b'{"audio": "c.wav", "start": 3, "end": 3}', "row 2: from 3.0 to 3.0 seconds"),
        (b'{"audio": "c.wav", "start": -1}', "row 2: from -1.0"),
        (b"[" * 100_000, "row 2 is not JSON"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_row(folder, line, expected):
    (folder / "bad.jsonl").write_bytes(b'{"image": "a.png"}\n' + line + b"\n")
    with pytest.raises(InputError, match=f"bad.jsonl: {expected}") as caught:
        Manifest(folder / "bad.jsonl")
    assert "\n" not in str(caught.value)


def test_no_manifest_or_an_empty_one(folder):
    (folder / "empty.jsonl").write_text("\n\n")
    for name, expected in (("none.jsonl", "no such manifest"), ("empty.jsonl", "no row")):
        with pytest.raises(InputError, match=expected):
            Manifest(folder / name)


def test_missing_files_can_be_left_for_later(folder):
    (folder / "m.jsonl").write_text('{"image": "none.png"}\n')
    assert len(Manifest(folder / "m.jsonl", check_files=False)) == 1


def test_blank_lines_and_a_byte_order_mark_do_not_shift_rows(folder):
    (folder / "m.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "a.png"}\n\n{"audio": "c.wav", "caption": "x"}')
    manifest = Manifest(folder / "m.jsonl")
    assert [manifest[k].id[-5:] for k in range(2)] == ["row 1", "row 3"]
    assert manifest[1].captions == ("x",)


def test_captions_are_drawn_by_seed_and_position():
    drawn = [draw_caption("abcd", 3, position) for position in range(400)]
    assert drawn == [draw_caption("abcd", 3, position) for position in range(400)]
    assert all(70 < drawn.count(letter) < 130 for letter in "abcd")
    assert drawn != [draw_caption("abcd", 4, position) for position in range(400)]
    assert draw_caption([], 0, 0) == ""


def test_parquet_says_what_it_needs(folder):
    if importlib.util.find_spec("pyarrow") is not None:
        pytest.skip("pyarrow is here: the next test reads a table")
    (folder / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="needs pyarrow"):
        Manifest(folder / "m.parquet")


def test_parquet_equals_json_lines(folder):
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_manifest(folder / "m.jsonl", ROWS[:2])
    parquet.write_table(
        arrow.Table.from_pylist([{**dict.fromkeys(ROWS[1]), **ROWS[0]}, ROWS[1]]), folder / "m.parquet"
    )
    lines, table = Manifest(folder / "m.jsonl"), Manifest(folder / "m.parquet")
    assert np.array_equal(lines.has, table.has) and lines[0] == table[0]
    assert json.dumps(table[1].captions) == json.dumps(lines[1].captions)
    parquet.write_table(arrow.Table.from_pylist([{"captoin": "x"}]), folder / "bad.parquet")
    with pytest.raises(InputError, match="unknown column 'captoin'"):
        Manifest(folder / "bad.parquet")
