"""`codi bench --files`: what is read, measured, kept and written, with judges whose answers are known."""

import json
import math

import numpy as np
import pytest
import torch

from codi import io
from codi.bench import collection, in_time, main
from codi.bench.extractors import parse_extractors
from codi.bench.parts import digest_of, read_part
from codi.cli import main as command
from codi.types import InputError, Modality
from tests.bench import tiny_judges

IMAGE, AUDIO, VIDEO, TEXT = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO, Modality.TEXT
COUNT = 6
COLOURS = ["red", "green", "blue", "cyan", "pink", "grey"]
JUDGE = """
import os
import numpy as np
COLOURS = ["red", "green", "blue", "cyan", "pink", "grey"]

def judge(media):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{len(media)}\\n")
    rows = []
    for medium in media:
        if isinstance(medium, str):
            number = COLOURS.index(medium.split()[-1])
        else:
            number = round(float(medium.float().mean()) / 40)
        rows.append(np.eye(6)[number])
    return np.array(rows)

def mean(media):
    return np.array([[float(m.float().mean()), 1.0] for m in media])

def wrong(media):
    return np.zeros(len(media))

def raises(media):
    return 1 / 0
"""


def click_clip(folder, times, name, offset=0.0):
    """A clip of 16 frames in which a square jumps at some times, and a sound that clicks then."""
    frames = torch.zeros(16, 3, 64, 64, dtype=torch.uint8)
    for k in range(16):
        x = 8 + 12 * sum(k / 8 >= time - 1e-6 for time in times)
        frames[k, :, 24:40, x : x + 16] = 255
    sound = torch.zeros(32000)
    for time in times:
        at = round((time + offset) * 16000)
        sound[at : at + 800] = 0.5 * torch.sin(torch.arange(800) * 0.5)
    io.save_video(folder / f"{name}.mp4", frames, 8.0)
    io.save_audio(folder / f"{name}.wav", sound, 16000)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with pictures of known brightness, their names as captions, and a judge of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "judge.py").write_text(JUDGE)
    rows = []
    for k, colour in enumerate(COLOURS):
        io.save_image(tmp_path / f"{k}.png", torch.full((3, 8, 8), 40 * k, dtype=torch.uint8))
        rows.append({"id": colour, "image": f"{k}.png", "caption": f"a {colour}"})
    write(tmp_path / "rows.jsonl", rows)
    return tmp_path


def write(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def bench(*words):
    return main(["--out", "report", *map(str, words)])


def lines(section=None):
    report = json.loads(open("report/report.json", encoding="utf-8").read())
    return {
        (line["measure"], line["what"]): line
        for line in report["lines"]
        if section is None or line["section"] == section
    }


def calls(place):
    return (place / "calls").read_text().split() if (place / "calls").exists() else []


# Numbers ---------------------------------------------------------------


def test_a_judge_that_knows_finds_everything(place, capsys):
    assert bench("--files", "rows.jsonl", "--extractor", "image,text=judge.py:judge") == 0
    found = lines()
    for what in ("text -> image", "image -> text"):
        line = found["R@1", what]
        assert (line["value"], line["high"], line["count"]) == (1.0, 1.0, "6 in 6")
        assert line["beside"]["chance"] == pytest.approx(1 / 6) and 0.5 < line["low"] < 0.6
        assert line["extractor"] == "judge.py:judge"
    agreement = found["cosine", "text, image"]
    assert (agreement["value"], agreement["beside"]["shuffled"]) == (1.0, 0.0)
    assert found["cosine above shuffled", "text, image"]["value"] == 1.0
    assert capsys.readouterr().out.strip() == "report/report.md"


def test_wrong_captions_are_found_by_nobody(place):
    rows = [{"image": f"{k}.png", "caption": f"a {COLOURS[k - 1]}"} for k in range(COUNT)]
    write(place / "rows.jsonl", rows)
    bench("--files", "rows.jsonl", "--extractor", "image,text=judge.py:judge")
    found = lines()
    assert found["R@1", "text -> image"]["value"] == 0.0 == found["cosine", "text, image"]["value"]
    assert found["cosine above shuffled", "text, image"]["value"] == pytest.approx(-1 / 5)


def test_words_that_are_in_several_rows_find_each_of_them(place):
    rows = [{"image": f"{k}.png", "caption": f"a {COLOURS[k]}"} for k in range(COUNT)]
    write(place / "rows.jsonl", [*rows, {"image": "1.png", "captions": ["a red", "a green"]}])
    bench("--files", "rows.jsonl", "--extractor", "image,text=judge.py:judge")
    line = lines()["R@1", "text -> image"]
    assert (line["count"], line["value"]) == ("6 in 6", 1.0)


def test_a_set_is_at_no_distance_from_itself_and_at_the_known_one_from_a_brighter_one(place):
    brighter = []
    for k in range(COUNT):
        io.save_image(place / f"b{k}.png", torch.full((3, 8, 8), 40 * k + 30, dtype=torch.uint8))
        brighter.append({"image": f"b{k}.png"})
    write(place / "brighter.jsonl", brighter)
    judge = ["--extractor", "image=judge.py:mean"]
    bench("--files", "rows.jsonl", "--reference", "rows.jsonl", *judge)
    line = lines("Distances")["Frechet distance", "image, reference"]
    assert line["value"] == pytest.approx(0, abs=1e-6) and line["count"] == "6, 6"
    bench("--files", "rows.jsonl", "--reference", "brighter.jsonl", *judge)
    found = lines("Distances")
    assert found["Frechet distance", "image, reference"]["value"] == pytest.approx(30**2)
    kernel = found["kernel distance (KID)", "image, reference"]
    assert kernel["deviation"] > 0 and kernel["note"] == "100 subsets of 3"
    assert found["Frechet distance", "image, reference"]["beside"]["halves of the reference"] > 0


def test_sound_and_clip_in_step_score_more_than_apart_and_than_strangers(place):
    pytest.importorskip("mir_eval")
    starts = [(0.5, 1.25), (0.375, 1.0), (0.625, 1.5), (0.25, 0.875)]
    for k, times in enumerate(starts):
        click_clip(place, times, f"t{k}")
        click_clip(place, times, f"late{k}", offset=0.3)
    judge = ["--extractor", "image=judge.py:mean"]
    scores = {}
    for name in ("t", "late"):
        rows = [{"video": f"{name}{k}.mp4", "audio": f"{name}{k}.wav"} for k in range(len(starts))]
        write(place / f"{name}.jsonl", rows)
        assert bench("--files", f"{name}.jsonl", *judge) == 0
        scores[name] = lines("In time")
    for measure in ("AV-Align", "onset F1, one frame"):
        line = scores["t"][measure, "audio, video"]
        assert line["value"] > 0.9 and line["value"] > line["beside"]["shuffled"] + 0.3
        assert scores["late"][measure, "audio, video"]["value"] < 0.4
        assert (line["rate"], line["count"]) == ("16000 Hz, 8 fps", "4 of 4")


@pytest.mark.parametrize(
    "sound, clip, expected",
    [([0.5, 1.0], [0.52, 1.04], 1.0), ([0.5, 1.0], [0.52, 1.2], 0.5), ([], [0.5], 0.0), ([], [], math.nan)],
)
def test_onset_agreement_of_known_lists_is_that_of_mir_eval(sound, clip, expected):
    mir_eval = pytest.importorskip("mir_eval.onset")
    score = in_time._score(mir_eval.f_measure, lambda pair: 0.05)
    none = np.zeros(0)
    pair = in_time.Pair(sound=none, clip=np.array(clip), peaks=none, fps=8.0, rate=16000.0)
    assert score(np.array(sound), pair) == pytest.approx(expected, nan_ok=True)


def test_without_mir_eval_a_line_says_so_and_the_rest_is_measured(place, monkeypatch, capsys):
    monkeypatch.setattr(in_time, "_f_measure", lambda: None)
    for k, times in enumerate([(0.5,), (1.0,)]):
        click_clip(place, times, f"t{k}")
    write(place / "rows.jsonl", [{"video": f"t{k}.mp4", "audio": f"t{k}.wav"} for k in range(2)])
    assert bench("--files", "rows.jsonl", "--extractor", "image=judge.py:mean") == 0
    assert "pip install 'codi[bench]'" in capsys.readouterr().err
    assert "pip install 'codi[bench]'" in open("report/report.md").read()
    assert [measure for measure, _ in lines("In time")] == ["AV-Align"]


# What is read ----------------------------------------------------------


def test_bad_rows_are_left_out_with_one_line_each(place, capsys):
    (place / "text.png").write_text("no picture")
    good = (place / "rows.jsonl").read_text().splitlines()
    bad = [
        {"image": "gone.png"},
        "{broken",
        {"imag": "0.png"},
        {"image": "text.png", "caption": "a red"},
        [1],
    ]
    write(place / "rows.jsonl", [*good, *bad])
    assert bench("--files", "rows.jsonl", "--extractor", "image,text=judge.py:judge") == 2
    said = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("codi: error: rows.jsonl")
    ]
    assert len(said) == 5 and all("rows.jsonl: row" in line for line in said)
    report = json.loads((place / "report" / "report.json").read_text())
    assert len(report["bad"]) == 5 and report["sources"] == {"rows.jsonl": 7}
    assert lines()["R@1", "text -> image"]["count"] == "6 in 6"


def test_a_second_run_computes_nothing_and_a_new_row_only_itself(place):
    judge = ["--extractor", "image,text=judge.py:judge", "--batch", "4"]
    bench("--files", "rows.jsonl", *judge)
    assert calls(place) == ["4", "2", "4", "2"]
    first = (place / "report" / "report.json").read_text()
    bench("--files", "rows.jsonl", *judge)
    assert len(calls(place)) == 4
    assert json.loads(first)["lines"] == json.loads((place / "report" / "report.json").read_text())["lines"]
    io.save_image(place / "again.png", torch.full((3, 8, 8), 200, dtype=torch.uint8))
    with open(place / "rows.jsonl", "a") as file:
        file.write(json.dumps({"image": "again.png", "caption": "a grey"}) + "\n")
    bench("--files", "rows.jsonl", *judge)
    assert calls(place)[4:] == ["1"] or calls(place)[4:] == []


def test_damaged_features_are_computed_again(place):
    judge = ["--extractor", "image,text=judge.py:judge"]
    bench("--files", "rows.jsonl", *judge)
    for path in (place / "report" / "features").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:40])
    bench("--files", "rows.jsonl", *judge)
    assert len(calls(place)) == 4 and lines()["R@1", "text -> image"]["value"] == 1.0


def test_another_text_of_the_function_is_another_extractor(place):
    judge = ["--extractor", "image,text=judge.py:judge"]
    bench("--files", "rows.jsonl", *judge)
    with open(place / "judge.py", "a") as file:
        file.write("# changed\n")
    bench("--files", "rows.jsonl", *judge)
    assert len(calls(place)) == 4


def test_parts_are_cut_as_their_row_says(place):
    io.save_audio(place / "a.wav", torch.linspace(-0.5, 0.5, 16000), 8000)
    write(place / "cut.jsonl", [{"audio": "a.wav", "start": 0.5, "end": 1.5}, {"audio": "a.wav", "start": 3}])
    cut, late = (item.parts["audio"] for item in collection.read("cut.jsonl", "--files").items)
    wave, rate = read_part(cut)
    assert (len(wave), rate) == (8000, 8000) and abs(float(wave[0]) + 0.25) < 1e-3
    with pytest.raises(InputError, match="ends before second 3"):
        read_part(late)
    assert digest_of(cut) != digest_of(late)


def test_a_clip_stands_for_its_sound_and_a_mute_one_for_none(place):
    click_clip(place, (0.5,), "mute")
    io.save_video(
        place / "loud.mp4", torch.zeros(8, 3, 64, 64, dtype=torch.uint8), 8.0, torch.rand(16000), 16000
    )
    write(place / "clips.jsonl", [{"video": "mute.mp4"}, {"video": "loud.mp4"}])
    mute, loud = (item.parts["audio"] for item in collection.read("clips.jsonl", "--files").items)
    assert read_part(mute) is None and 16000 <= len(read_part(loud)[0]) < 18000  # AAC fills its last frame


def test_parquet_and_json_lines_are_the_same_rows(place):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), place / "rows.parquet")
    found = [collection.read(name, "--files").items for name in ("rows.jsonl", "rows.parquet")]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is damaged"),
        ("[1]", "holds a list"),
        ('{"jobs": ["../secret.json", 3]}', "no row of it can be measured"),
        ('{"jobs": ["gone.json"]}', "gone.json"),
        ('{"record": 1, "samples": [{"seed": 0, "files": 3}]}', "cannot be used"),
    ],
)
def test_manifests_of_generated_folders_that_nobody_wrote_are_one_line(place, text, message):
    (place / "out").mkdir()
    (place / "out" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        collection.read("out", "--files")
    assert "\n" not in str(caught.value)


# Extractors ------------------------------------------------------------


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    return tiny_judges.clip(folder / "clip"), tiny_judges.clap(folder / "clap")


def test_clip_and_clap_give_what_their_models_give(judges):
    from transformers import CLIPModel

    clip, clap = parse_extractors(
        [f"text,image,video=clip:{judges[0]}", f"audio,text=clap:{judges[1]}"], None, "cpu", "float32"
    )
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (clip._parts[1].image_mean, clip._parts[1].image_std)
    )
    with torch.no_grad():
        pixels = ((picture / 255 - mean) / std)[None]
        expected = CLIPModel.from_pretrained(judges[0]).eval().get_image_features(pixels).pooler_output
    assert np.allclose(clip.embed(IMAGE, [picture]), expected, atol=1e-5)
    still = io.Video(frames=picture.expand(3, -1, -1, -1), fps=8.0)
    assert np.allclose(clip.embed(VIDEO, [still]), torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)
    words = clip.embed(TEXT, ["a red ball", "a blue cube " * 30])
    assert words.shape == (2, 12) and not np.allclose(words[0], words[1])
    assert np.allclose(clip.embed(TEXT, ["a red ball"]), words[:1], atol=1e-5)  # padding changes nothing
    wave = 0.3 * torch.sin(torch.arange(40000) * 0.1)
    sounds = clap.embed(AUDIO, [(wave, 22050), (wave[:30000], 22050), (wave[:500], 16000)])
    assert np.allclose(sounds[0], sounds[1], atol=1e-5)  # both are longer than what is read
    assert clap.embed(TEXT, ["a red ball", "night " * 40]).shape == (2, 12)
    assert (clap.rate(AUDIO), clip.rate(VIDEO)) == ("16000 Hz, first 1 s", "32 pixels, mean of 8 frames")


def test_weights_decide_the_fingerprint(judges, tmp_path):
    import shutil

    folder = shutil.copytree(judges[0], tmp_path / "clip")
    texts = [f"image=clip:{place}" for place in (judges[0], folder)]
    same = [one.fingerprint for one in parse_extractors(texts, None, "cpu", "float32")]
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    [other] = parse_extractors(texts[1:], None, "cpu", "float32")
    assert same[0] == same[1] != other.fingerprint


@pytest.mark.parametrize(
    "text, message",
    [
        ("clip:folder", "expected image,text=clip:FOLDER"),
        ("image=clip:", "expected a folder or hub id after clip:"),
        ("image=clip:./nowhere", "no such folder"),
        ("audio=clip:{clip}", "reads text, image, video, not audio"),
        ("image=clip:{clap}", "says model_type 'clap': expected 'clip'"),
        ("image=clip:.", "says model_type None"),
        ("smell=clip:{clip}", "smell"),
        ("image=judge.py:nothing", "has none of that name: expected a function of a list of media"),
        ("image=gone.py:judge", "no such file"),
        ("image=judge", "expected module:function or file.py:function"),
        (
            "image=judge.py:wrong",
            r"returned \(6,\) for 6 media of kind image: expected finite numbers \(6, D\)",
        ),
        ("image=judge.py:raises", r"failed on 6 media of kind image \(ZeroDivisionError"),
    ],
)
def test_extractors_that_cannot_be_used_are_one_line(place, judges, text, message):
    with pytest.raises(InputError, match=message) as caught:
        bench("--files", "rows.jsonl", "--extractor", text.format(clip=judges[0], clap=judges[1]))
    assert "\n" not in str(caught.value)
    assert not (place / "report" / "report.md").exists()


def test_weights_that_are_not_safetensors_are_refused(place, judges):
    import shutil

    folder = shutil.copytree(judges[0], place / "clip")
    weights = folder / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        bench("--files", "rows.jsonl", "--extractor", f"image=clip:{folder}")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--files", "nowhere.jsonl"], "no such file or folder"),
        (["--files", "empty.jsonl"], "no row of it can be measured"),
        (["--files", "empty"], "holds neither manifest.json nor media files"),
        (["--files", "one.jsonl"], "nothing in one.jsonl can be measured"),
        (["--files", "rows.jsonl", "--joint"], "--joint beside --files"),
        (["--files", "rows.jsonl", "--steps", "4"], "--steps beside --files"),
        (["--files", "rows.jsonl", "--batch", "0"], "--batch 0"),
        (["--reference", "rows.jsonl"], "--reference without --files"),
        (["--extractor", "image=judge.py:mean"], "--extractor without --files"),
    ],
)
def test_mistakes_are_one_line(place, words, message):
    (place / "empty").mkdir()
    (place / "empty.jsonl").write_text("\n")
    write(place / "one.jsonl", [{"image": "0.png"}])
    if "--extractor" not in words and "--files" in words:
        words = [*words, "--extractor", "image=judge.py:mean"]
    with pytest.raises(InputError, match=message) as caught:
        bench(*words)
    assert "\n" not in str(caught.value)


# What was generated ----------------------------------------------------


def test_what_was_generated_is_measured_beside_what_was_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "jobs.jsonl",
        [
            {
                "id": "a",
                "text": "a red star bounces in the snow",
                "to": ["image", "audio", "video"],
                "seed": 1,
            },
            {"id": "b", "text": "a blue ball at the sea", "to": ["image", "audio", "video"], "seed": 2},
        ],
    )
    assert command(["generate", "--jobs", "jobs.jsonl", "-o", "out", "--steps", "2", "--quiet"]) == 0
    items = collection.read("out", "--files").items
    assert [item.id for item in items] == ["a", "b"]
    assert {name: part.modality for name, part in items[0].parts.items()} == {
        "image": IMAGE,
        "audio": AUDIO,
        "video": VIDEO,
        "asked text": TEXT,
    }
    (tmp_path / "moved").mkdir()
    for path in (tmp_path / "out").glob("a.*"):
        if path.suffix != ".json":
            path.rename(tmp_path / "moved" / path.name)
    [alone] = collection.read("moved", "--files").items  # by the records that its files carry
    assert alone.parts["asked text"].words == ("a red star bounces in the snow",) and len(alone.parts) == 4
    for path in (tmp_path / "moved").iterdir():
        path.rename(tmp_path / "out" / path.name)
    capsys.readouterr()
    assert command(["bench", "--files", "out", "--out", "report"]) == 0
    assert capsys.readouterr().out.strip() == "report/report.md"
    found = lines()
    assert ("R@1", "asked text -> image") in found and ("AV-Align", "audio, video") in found
    assert found["cosine", "asked text, image"]["extractor"] == "prompt towers of codi-tiny"
    assert "no independent judge" in open("report/report.md").read()
    page = open("report/report.html").read()
    assert page.count("<video") == page.count("<audio") == 2 and "a red star bounces" in page
