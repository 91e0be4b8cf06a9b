"""The words of samples: templates and dropped parts are drawn by seed and position alone, at the rates asked
for.
"""

from collections import Counter

import pytest

from codi.types import InputError
from data.captions import Captions, parts_of, read_captions
from data.manifest import Manifest, write_manifest
from data.media import MediaSource
from data.shards import Shards, pack
from data.workers import Decoder

ROW = {"captions": ["a dog, on grass, at night"]}


def words(captions: Captions, row: dict, count: int, seed: int = 0) -> list[str]:
    return [captions.draw(row, seed, position)[0] for position in range(count)]


def test_parts_are_dropped_at_the_rate_asked_for_and_one_stays():
    drawn = words(Captions(drop_parts=0.5), ROW, 4000)
    counts = Counter(drawn)
    parts = parts_of(ROW["captions"][0])
    assert parts == ["a dog", "on grass", "at night"] and len(counts) == 7
    # of eight ways all have an eighth, but that of nothing falls to the three single parts
    assert counts["a dog, on grass, at night"] / 4000 == pytest.approx(1 / 8, abs=0.02)
    assert counts["a dog, at night"] / 4000 == pytest.approx(1 / 8, abs=0.02)
    assert counts["on grass"] / 4000 == pytest.approx(1 / 8 + 1 / 24, abs=0.02)
    assert drawn == words(Captions(drop_parts=0.5), ROW, 4000)
    assert drawn != words(Captions(drop_parts=0.5), ROW, 4000, seed=1)


def test_templates_are_drawn_evenly_and_say_which_parts_they_hold():
    captions = Captions(templates=("{caption}", "a picture of {caption}"), drop_parts=0.3)
    drawn = [captions.draw(ROW, 0, position) for position in range(1000)]
    framed = [said.startswith("a picture of ") for said, _ in drawn]
    assert 0.45 < sum(framed) / 1000 < 0.55
    assert all(said.removeprefix("a picture of ") == ", ".join(parts) for said, parts in drawn)
    assert captions.draw({"captions": []}, 0, 0) == ("", [])
    # braces of a caption are its own
    assert Captions(templates=("see {caption}",)).draw({"captions": ["{x}"]}, 0, 0)[0] == "see {x}"


def test_parts_of_a_row_are_not_cut_at_commas():
    row = {"captions": ["a dog, a big one, at night"], "parts": ["a dog, a big one", "at night"]}
    found = set(words(Captions(drop_parts=0.5), row, 200))
    assert found == {"a dog, a big one, at night", "a dog, a big one", "at night"}


def test_a_source_tells_of_its_words_and_shards_keep_the_parts(tmp_path):
    rows = [{"parts": ["a, b", "c"]}, {"captions": ["x", "y"]}, {"caption": "z"}]
    write_manifest(tmp_path / "m.jsonl", rows)
    manifest = Manifest(tmp_path / "m.jsonl")
    assert manifest[0].captions == ("a, b, c",) and manifest[0].parts == ("a, b", "c")
    pack([manifest[0]], tmp_path / "shards")
    assert Shards(tmp_path / "shards" / "shard-000000.tar")[0].parts == ("a, b", "c")

    def source(captions):
        return MediaSource(
            manifest, ["text"], {}, seed=1, shuffle=False, decoder=Decoder(workers=0), captions=captions
        )

    captions = Captions(choose="first", templates=("so: {caption}",), drop_parts=0.9)
    batch = source(captions).fetch(list(range(6)))
    assert set(batch["text"]) <= {"so: a, b", "so: c", "so: a, b, c", "so: x", "so: z"}
    assert [f"so: {', '.join(row['said'])}" for row in batch.rows] == batch["text"]
    assert batch.rows[0]["parts"] == ["a, b", "c"] and "said" not in batch.facts()[0]
    plain = source(Captions())
    assert "said" not in plain.fetch([0]).rows[0]
    assert plain.identity["order"]["captions"] == "random" != source(captions).identity["order"]["captions"]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("all", "captions is 'all': expected random or first"),
        (3, "captions is 3: expected random, first, or a mapping"),
        ({"template": []}, "unknown key 'template'"),
        ({"templates": ["a picture"]}, r"templates are .* expected sentences with \{caption\} once"),
        ({"templates": "{caption}"}, "templates are"),
        ({"drop_parts": 1}, "drop_parts is 1: expected a chance from 0 to below 1"),
    ],
)
def test_mistakes_are_one_line(given, expected):
    with pytest.raises(InputError, match=expected) as caught:
        read_captions(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"parts": [], "image": "a.png"}, "parts are an empty list"),
        ({"parts": "a dog"}, "parts are 'a dog': expected words, in a list"),
        ({"parts": ["a"], "caption": "b"}, "has both caption and parts"),
    ],
)
def test_rows_have_one_way_to_say_their_caption(tmp_path, row, expected):
    write_manifest(tmp_path / "m.jsonl", [row])
    with pytest.raises(InputError, match=f"row 1.*{expected}"):
        Manifest(tmp_path / "m.jsonl", check_files=False)
