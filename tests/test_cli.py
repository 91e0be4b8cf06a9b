"""The command `codi`, as a stranger types it: files, manifest, jobs, resuming, and one line for every
mistake.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from codi import cli, io, jobs, pretrained, renamed
from codi.types import InputError, Modality

ROOT = Path(__file__).parent.parent
STEPS = ("--steps", "2", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder with an untrained model of the real classes."""
    from tests import tiny_pipeline

    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


@pytest.fixture
def media(tmp_path) -> dict[str, str]:
    """One file of each kind."""
    noise = torch.randint(0, 255, (8, 3, 40, 52), dtype=torch.uint8, generator=torch.manual_seed(0))
    wave = 0.5 * torch.sin(torch.arange(11025) * 0.2)
    folder = tmp_path / "media"
    folder.mkdir()
    io.save_image(folder / "a.jpg", noise[0])
    io.save_audio(folder / "a.wav", wave, 22050)
    io.save_video(folder / "a.mp4", noise, 12.5)
    return {"image": str(folder / "a.jpg"), "audio": str(folder / "a.wav"), "video": str(folder / "a.mp4")}


def fails(capsys, *arguments: str) -> str:
    """Runs a command that must end with code 2 and one line on stderr; returns the line."""
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("codi: error: "), captured
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Generating ------------------------------------------------------------


def test_generate_writes_everything_that_was_asked_for(model, media, tmp_path, capsys):
    out = tmp_path / "out"
    prompts = [
        "--text",
        "a red ball::0.7",
        "--image",
        media["image"],
        "--audio",
        media["audio"],
        "--video",
        f"{media['video']}::2",
    ]
    asked = [
        "--to",
        "video,audio,image,text",
        "-o",
        str(out),
        "--samples",
        "2",
        "--seed",
        "5",
        "--model",
        model,
    ]
    assert cli.main(["generate", *prompts, *asked, *STEPS]) == 0
    made = {f"{k:03d}.{suffix}" for k in range(2) for suffix in ("mp4", "wav", "png", "txt")}
    captured = capsys.readouterr()
    assert {Path(line).name for line in captured.out.split()} == made and {
        p.name for p in out.iterdir()
    } == made | {"manifest.json"}
    assert io.load_image(out / "000.png").shape == (3, 32, 32) and io.load_audio(out / "000.wav")[1] == 16000
    clip = io.load_video(out / "001.mp4")
    assert clip.frames.shape == (4, 3, 32, 32) and clip.fps == 8 and clip.sampling_rate == 16000

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seeds"] == [5, 6] and manifest["settings"]["num_inference_steps"] == 2
    assert [(row["as"], row["weight"]) for row in manifest["inputs"]] == [
        ("text", 0.7),
        ("image", 1.0),
        ("audio", 1.0),
        ("video", 2.0),
    ]
    assert manifest["inputs"][1]["sha256"] == io.describe(media["image"])["sha256"]
    assert (
        manifest["versions"]["torch"] and manifest["timings"]["total"] >= manifest["timings"]["generate"] > 0
    )


def test_the_command_and_python_make_the_same(model, tmp_path):
    from codi import CoDiPipeline

    cli.main(
        [
            "generate",
            "--text",
            "a red ball",
            "--to",
            "image",
            "-o",
            str(tmp_path),
            "--seed",
            "3",
            "--model",
            model,
            *STEPS,
        ]
    )
    out = CoDiPipeline.from_pretrained(model)(
        text="a red ball", outputs=["image"], seed=3, num_inference_steps=2, output_type="pt"
    )
    assert (io.load_image(tmp_path / "000.png").int() - out.images[0].int()).abs().max() <= 1


def test_scales_for_each_output_negatives_and_no_sync_reach_the_model(model, media, tmp_path):
    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained(model)
    asked = ["--video", media["video"], "--to", "image,audio", "--seed", "3", "--model", model, *STEPS]
    options = [
        "--guidance",
        "image=5,audio=2",
        "--sync-guidance",
        "audio=2",
        "--negative-text",
        "a blue cube::2",
        "--no-sync",
    ]
    options += ["--delay", "image=0.5", "--no-lead"]
    call = dict(
        video=media["video"], outputs=["image", "audio"], seed=3, num_inference_steps=2, output_type="pt"
    )
    same = dict(
        guidance_scale={"image": 5, "audio": 2},
        sync_guidance_scale={"audio": 2},
        negative_text="a blue cube",
        sync=False,
    )
    same |= {"start_offset": {"image": 0.5}, "auxiliary_caption": False}
    for number, (given, arguments) in enumerate((([], {}), (options, same))):
        out = tmp_path / str(number)
        assert cli.main(["generate", *asked, *given, "-o", str(out)]) == 0
        expected = pipe(**call, **arguments)
        assert (io.load_image(out / "000.png").int() - expected.images[0].int()).abs().max() <= 1
        assert (io.load_audio(out / "000.wav")[0] - expected.audios[0]).abs().max() < 1e-3
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["sync"] is manifest["settings"]["auxiliary_caption"] is False
    assert manifest["settings"]["guidance_scale"] == {"image": 5.0, "audio": 2.0}
    assert [(row["as"], row["weight"]) for row in manifest["negatives"]] == [("text", 2.0)]
    assert not torch.equal(io.load_image(tmp_path / "0" / "000.png"), io.load_image(out / "000.png"))


def test_sound_for_a_clip_comes_with_the_clip(model, tmp_path, capsys):
    """Five seconds: the model makes half a second, for the beginning."""
    noise = torch.randint(0, 255, (60, 3, 40, 52), dtype=torch.uint8, generator=torch.manual_seed(0))
    clip = io.save_video(tmp_path / "clip.mp4", noise, 12.0, torch.ones(44100), 44100)
    assert (
        cli.main(
            [
                "generate",
                "--video",
                str(clip),
                "--to",
                "audio",
                "-o",
                str(tmp_path / "out"),
                "--model",
                model,
                *STEPS,
            ]
        )
        == 0
    )
    assert {Path(line).name for line in capsys.readouterr().out.split()} == {"000.wav", "000.mp4"}
    old, new = io.load_video(clip), io.load_video(tmp_path / "out" / "000.mp4")
    assert torch.equal(old.frames, new.frames) and old.fps == new.fps
    assert new.sampling_rate == 16000 and len(new.audio) < 10000  # 0.5 s and the encoder's padding


@pytest.mark.parametrize("kind, to", [("image", "image"), ("video", "audio"), ("audio", "audio")])
def test_a_prompt_is_not_overwritten(media, tmp_path, capsys, kind, to):
    suffix = {"image": ".png", "video": ".mp4", "audio": ".wav"}[kind]
    own = shutil.copy(media[kind], tmp_path / f"000{suffix}")
    content = own.read_bytes()
    asked = ["generate", f"--{kind}", str(own), "--to", to, "-o", str(tmp_path), "--overwrite"]
    line = fails(capsys, *asked, "--model", "no/such/model")
    assert "would be overwritten" in line and own.read_bytes() == content


def test_candidates_are_recorded(model, tmp_path):
    asked = [
        "generate",
        "--text",
        "a red ball",
        "--to",
        "image,text",
        "--samples",
        "2",
        "--seed",
        "4",
        "--model",
        model,
        *STEPS,
    ]
    assert cli.main([*asked, "-o", str(tmp_path / "a"), "--candidates", "3", "--batch", "3"]) == 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["settings"]["candidates"] == 3
    for k, sample in enumerate(manifest["samples"]):
        chosen = sample["selection"]
        assert (
            sample["seed"] == manifest["seeds"][k] == chosen["seeds"][chosen["kept"]]
            and chosen["seeds"][0] == 4 + k
        )
        assert [set(scores) for scores in chosen["scores"]] == [{"prompt", "mutual", "total"}] * 3
    again = [str(x) for x in ("--samples", 1, "--seed", manifest["seeds"][1], "-o", tmp_path / "b")]
    assert cli.main([*asked, *again]) == 0
    assert (
        io.load_image(tmp_path / "a" / "001.png").int() - io.load_image(tmp_path / "b" / "000.png").int()
    ).abs().max() <= 1


def test_lines_have_scales_negatives_sync_and_candidates(model, media, tmp_path):
    rows = [
        {
            "id": "a",
            "text": "a ball",
            "to": "image",
            "negative_text": ["a cube", {"value": "at night", "weight": 2}],
            "guidance_scale": 2,
        },
        {"id": "b", "text": "a ball", "to": "image,text", "guidance_scale": {"image": 3}, "candidates": 2},
        {
            "id": "c",
            "video": Path(media["video"]).name,
            "to": "audio",
            "sync": False,
            "sync_guidance_scale": "audio=2",
        },
        {"id": "d", "text": "a ball", "to": "image", "auxiliary_caption": False},
    ]
    file, out = tmp_path / "media" / "jobs.jsonl", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, rows)))
    command = [
        "generate",
        "--jobs",
        str(file),
        "-o",
        str(out),
        "--guidance",
        "video=3,image=1.5",
        "--model",
        model,
        *STEPS,
    ]
    assert cli.main(command) == 0
    records = {row["id"]: json.loads((out / f"{row['id']}.json").read_text()) for row in rows}
    assert [row["weight"] for row in records["a"]["negatives"]] == [1.0, 2.0] and "negatives" not in records[
        "d"
    ]
    scales = {name: record["settings"]["guidance_scale"] for name, record in records.items()}
    # a line's own, or the part that speaks of it
    assert scales == {"a": 2.0, "b": {"image": 3.0}, "c": None, "d": {"image": 1.5}}
    assert records["b"]["samples"][0]["selection"] and "selection" not in records["a"]["samples"][0]
    assert [records[name]["settings"]["auxiliary_caption"] for name in "cd"] == [True, False]
    assert records["c"]["settings"]["sync"] is False and records["c"]["samples"][0]["files"] == [
        "c.wav",
        "c.mp4",
    ]
    before = contents(out)
    assert (
        cli.main(command) == 0
        and contents(out).keys() == before.keys()
        and contents(out)["c.json"] == before["c.json"]
    )


def test_jobs_are_batched_named_and_resumed(model, media, tmp_path, capsys):
    rows = [
        {"id": "a", "text": "a red ball", "to": "image", "seed": 1},
        {
            "id": "b",
            "text": ["a blue cube::0.5", {"value": "at night", "weight": 2}],
            "to": ["image"],
            "seed": 7,
            "num_samples": 2,
        },
        {"id": 3, "audio": Path(media["audio"]).name, "to": "text,image"},
    ]
    file, out = tmp_path / "media" / "jobs.jsonl", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    command = ["generate", "--jobs", str(file), "-o", str(out), "--model", model, *STEPS]
    assert cli.main(command) == 0
    expected = ["a.png", "b-000.png", "b-001.png", "3.png", "3.txt"]
    assert sorted(Path(line).name for line in capsys.readouterr().out.split()) == sorted(expected)
    records = {f"{name}.json" for name in ("a", "b", "3")}
    assert {path.name for path in out.iterdir()} == {*expected, *records, "manifest.json"}
    assert json.loads((out / "b.json").read_text())["seeds"] == [7, 8]

    before, third = contents(out), io.load_image(out / "3.png")
    assert cli.main(command) == 0 and capsys.readouterr().out == ""  # all finished: nothing is made again
    (out / "a.png").unlink()
    rows[2]["seed"] = 9  # another request under an old name
    file.write_text("\n".join(map(json.dumps, rows)))
    assert cli.main([*command, "--fail-fast"]) == 2
    note, line = capsys.readouterr().err.splitlines()
    assert "line 1: " in note and "a.png is gone: its sample is made again" in note
    assert "line 3: " in line and "was not made by this request" in line
    assert contents(out) == {name: content for name, content in before.items() if name != "a.png"}
    assert cli.main([*command, "--overwrite"]) == 0
    assert sorted(Path(line).name for line in capsys.readouterr().out.split()) == ["3.png", "3.txt", "a.png"]
    after = contents(out)
    assert after["b.json"] == before["b.json"] and not torch.equal(io.load_image(out / "3.png"), third)
    assert after["a.png"] == before["a.png"]  # in a batch as large as before


def test_a_job_in_a_batch_equals_the_job_alone(model, tmp_path):
    rows = [
        {"id": f"x{k}", "text": words, "to": "image", "seed": 4}
        for k, words in enumerate(("a red ball", "a blue cube", "at sea"))
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for batch in ("1", "3"):
        cli.main(
            [
                "generate",
                "--jobs",
                str(tmp_path / "jobs.jsonl"),
                "-o",
                str(tmp_path / batch),
                "--batch",
                batch,
                "--model",
                model,
                *STEPS,
            ]
        )
    for row in rows:
        alone, together = (io.load_image(tmp_path / batch / f"{row['id']}.png").int() for batch in ("1", "3"))
        assert (alone - together).abs().max() <= 1
    assert not torch.equal(io.load_image(tmp_path / "1" / "x0.png"), io.load_image(tmp_path / "1" / "x1.png"))


# What the model cannot read --------------------------------------------


def test_unknown_words_are_named_once_and_change_nothing(model, tmp_path, capsys):
    asked = ["--to", "image,text", "-o", str(tmp_path), "--model", model, *STEPS]
    assert cli.main(["generate", "--text", "a red ball", *asked]) == 0 and capsys.readouterr().err == ""
    plain = {name: content for name, content in contents(tmp_path).items() if name != "manifest.json"}
    assert cli.main(["generate", "--text", "A shiny, RED ball!!!", "--negative-text", "dull", *asked]) == 2
    assert "read nothing in 'dull'" in capsys.readouterr().err
    assert cli.main(["generate", "--text", "A shiny, RED ball!!!", *asked]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("codi: note: this model cannot read 'shiny' in 'A shiny, RED ball!!!'")
    assert plain.items() <= contents(tmp_path).items()


def test_of_mostly_unknown_prompts_the_first_line_says_what_the_model_knows(tmp_path, capsys):
    assert (
        cli.main(
            ["generate", "--text", "two elephants paint stars", "--to", "text", "-o", str(tmp_path), *STEPS]
        )
        == 0
    )
    notes = capsys.readouterr().err.splitlines()
    assert "speaks of a small world of 63 words" in notes[0] and "'two', 'elephants', 'paint'" in notes[0]
    for kind in ("colours red, crimson", "shapes ball", "motions bounces", "tempi slowly", "places at night"):
        assert kind in notes[1]
    assert (
        "--model" in notes[2]
        and "docs/training.md" in notes[2]
        and "docs/released-weights.md" in notes[2]
        and len(notes) == 3
    )


@pytest.mark.parametrize(
    "more",
    [
        ["--text", "a shiny ball", "--strict"],
        ["--text", "a zebra"],
        ["--text", "a ball", "--negative-text", "zebras"],
    ],
)
def test_what_cannot_be_read_is_an_error_before_anything_heavy(tmp_path, more):
    code = (
        "import sys; from codi import cli; code = cli.main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "generate", "--to", "image", "-o", str(tmp_path / "out"), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"] and not (tmp_path / "out").exists()
    assert done.stderr.startswith("codi: error: this model can") and len(done.stderr.splitlines()) == 1


def test_a_line_that_cannot_be_read_is_named_before_any_is_done(model, tmp_path, capsys):
    rows = [
        {"id": "a", "text": "a shiny ball", "to": "image"},
        {"id": "b", "text": ["a ball", "zebra"], "to": "image"},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [
        "generate",
        "--jobs",
        str(tmp_path / "jobs.jsonl"),
        "-o",
        str(tmp_path / "out"),
        "--model",
        model,
        *STEPS,
    ]
    fast = [*asked, "--fail-fast"]
    assert "line 2: this model can read nothing in 'zebra'" in fails(capsys, *fast)
    assert "line 1: this model cannot read 'shiny'" in fails(capsys, *fast, "--strict")
    assert not (tmp_path / "out").exists()


def test_strict_holds_for_the_end_of_a_long_prompt(model, tmp_path, capsys):
    asked = ["--to", "image", "-o", str(tmp_path), "--model", model, "--strict", *STEPS]
    assert "cannot read 'red red'" in fails(capsys, "generate", "--text", "red " * 16, *asked)
    assert cli.main(["generate", "--text", "red " * 14, *asked]) == 0


def test_info_lists_the_words(model, capsys):
    assert cli.main(["info", "--words"]) == 0
    shown = capsys.readouterr().out
    assert "places: at night, in the dark, in the snow" in shown and len(shown.splitlines()) == 5
    assert cli.main(["info", model, "--words"]) == 0
    assert capsys.readouterr().out == "words: a, at, ball, blue, bounces, cube, night, red, sea, slowly\n"


def test_samples_are_put_into_batches_that_fit():
    def job(name: str, samples: int, to: str) -> jobs.Job:
        items = (jobs.parse_item(Modality.TEXT, name),)
        return jobs.Job(
            id=name,
            items=items,
            outputs=jobs.parse_outputs(to),
            num_samples=samples,
            seed=0,
            num_inference_steps=None,
            candidates=candidates,
        )

    candidates = 1
    todo = [job("a", 3, "image"), job("b", 1, "audio"), job("c", 2, "image")]
    made = [[(j.id, k) for j, k in batch] for batch in jobs.batches(todo, 4)]
    assert made == [[("a", 0), ("a", 1), ("a", 2), ("c", 0)], [("c", 1)], [("b", 0)]]
    candidates = 2
    assert [len(batch) for batch in jobs.batches([job("a", 3, "image")], 4)] == [2, 1]
    candidates = 9
    assert [len(batch) for batch in jobs.batches([job("a", 2, "image")], 4)] == [1, 1]


@pytest.mark.parametrize(
    "text, value, weight",
    [
        ("a red ball::0.7", "a red ball", 0.7),
        ("a red ball", "a red ball", 1),
        ("std::vector", "std::vector", 1),
        ("a::b::2", "a::b", 2),
    ],
)
def test_weights_by_suffix(text, value, weight):
    item = jobs.parse_item(Modality.TEXT, text)
    assert (item.value, item.weight) == (value, weight)


# Nothing is overwritten ------------------------------------------------


def test_a_second_run_goes_on(model, tmp_path, capsys):
    ask = lambda words, to, *more: cli.main(
        ["generate", "--text", words, "--to", to, "-o", str(tmp_path), "--model", model, *STEPS, *more]
    )
    assert ask("a red ball", "image,text") == 0
    before = contents(tmp_path)
    assert ask("a blue cube", "audio", "--samples", "2") == 0 and ask("at night", "image") == 0
    after = contents(tmp_path)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        n: c for n, c in before.items() if n != "manifest.json"
    }
    assert set(after) == {*before, "001.wav", "002.wav", "003.png", "manifest-000.json", "manifest-001.json"}
    assert after["manifest-000.json"] == before["manifest.json"]
    texts = [
        json.loads(after[name])["inputs"][0]["text"]
        for name in ("manifest-000.json", "manifest-001.json", "manifest.json")
    ]
    assert texts == ["a red ball", "a blue cube", "at night"]
    listed = [sample["files"] for sample in json.loads(after["manifest-001.json"])["samples"]]
    assert listed == [["001.wav"], ["002.wav"]]


def test_overwrite_replaces_a_number_as_a_whole(model, tmp_path):
    ask = lambda to, *more: cli.main(
        ["generate", "--text", "a ball", "--to", to, "-o", str(tmp_path), "--model", model, *STEPS, *more]
    )
    (tmp_path / "000.jpg").write_text("mine")
    assert ask("image,text", "--overwrite", "--samples", "2") == 0
    assert ask("audio", "--overwrite") == 0  # 000.png would be of another sample than 000.wav
    assert {path.name for path in tmp_path.iterdir()} == {
        "000.jpg",
        "000.wav",
        "001.png",
        "001.txt",
        "manifest.json",
        "manifest-000.json",
    }
    assert ask("audio", "--overwrite") == 0  # everything of the newest run was replaced: its manifest, too
    assert not (tmp_path / "manifest-001.json").exists() and (tmp_path / "000.jpg").read_text() == "mine"


def test_a_prompt_may_lie_in_the_folder(model, media, tmp_path):
    own = shutil.copy(media["image"], tmp_path / "000.png")
    content = own.read_bytes()
    assert (
        cli.main(
            ["generate", "--image", str(own), "--to", "image", "-o", str(tmp_path), "--model", model, *STEPS]
        )
        == 0
    )
    assert own.read_bytes() == content and (tmp_path / "001.png").is_file()


def test_a_job_does_not_replace_what_is_not_its_own(model, tmp_path, capsys):
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"id": "a", "text": "a ball", "to": "image,text"}))
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("mine")
    command = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(out), "--model", model, *STEPS]
    assert "a.txt is there already" in fails(capsys, *command, "--fail-fast")
    assert contents(out) == {"a.txt": b"mine"}
    (out / "a.txt").rename(out / "b.txt")
    assert cli.main(command) == 0
    record = json.loads((out / "a.json").read_text())
    # as after an interrupt: its own, and not finished
    (out / "a.json").write_text(json.dumps(record | {"samples": []}))
    capsys.readouterr()
    assert cli.main(command) == 0 and len(capsys.readouterr().out.split()) == 2


def test_python_does_not_overwrite_either(model, tmp_path):
    from codi import CoDiPipeline

    out = CoDiPipeline.from_pretrained(model)(
        text="a ball", outputs=["image", "text"], num_inference_steps=1, seed=0
    )
    names = [
        [path.name for path in out.save(tmp_path, **options)]
        for options in ({}, {}, {"overwrite": True}, {"names": ["x"]})
    ]
    assert names == [
        ["000.png", "000.txt"],
        ["001.png", "001.txt"],
        ["000.png", "000.txt"],
        ["x.png", "x.txt"],
    ]
    (tmp_path / "x.png").unlink()
    with pytest.raises(InputError, match="x.txt is there already"):
        out.save(tmp_path, names=["x"])
    assert not (tmp_path / "x.png").exists()
    out.save(tmp_path, names=["x"], overwrite=True)


# Seeds -----------------------------------------------------------------


def test_a_random_seed_is_said_recorded_and_repeatable(model, tmp_path, capsys):
    ask = lambda seed: cli.main(
        [
            "generate",
            "--text",
            "a ball",
            "--to",
            "image",
            "-o",
            str(tmp_path),
            "--seed",
            seed,
            "--model",
            model,
            *STEPS,
        ]
    )
    assert ask("random") == 0
    (drawn,) = re.findall(r"^codi: note: seed (\d+) was drawn$", capsys.readouterr().err, re.M)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seeds"] == [manifest["settings"]["seed"]] == [int(drawn)]
    assert ask("RANDOM") == 0 and ask(drawn) == 0
    pictures = [io.load_image(tmp_path / f"00{k}.png") for k in range(3)]
    assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])


def test_lines_draw_their_own_seeds_once(model, tmp_path, capsys):
    rows = [
        {"id": "a", "text": "x ball", "to": "image", "seed": "random"},
        {"id": "b", "text": "a ball", "to": "image", "seed": 3},
    ]
    rows += [{"id": "c", "text": "a ball", "to": "image"}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    command = [
        "generate",
        "--jobs",
        str(tmp_path / "jobs.jsonl"),
        "-o",
        str(out),
        "--seed",
        "random",
        "--model",
        model,
        *STEPS,
    ]
    assert cli.main(command) == 0
    said = dict(re.findall(r"line (\d): seed (\d+) was drawn", capsys.readouterr().err))
    seeds = [json.loads((out / f"{name}.json").read_text())["seeds"] for name in "abc"]
    assert seeds == [[int(said["1"])], [3], [int(said["3"])]] and said["1"] != said["3"]
    before = contents(out)
    assert cli.main(command) == 0 and contents(out) == before  # finished: nothing is drawn again


# Options that are meant ------------------------------------------------


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("--prompt", "--text"),
        ("--n", "--samples"),
        ("--num_samples", "--num-samples"),
        ("--n-samples", "--samples"),
        ("-n", "--samples"),
        ("--output", "-o FOLDER"),
        ("--outputs", "--to"),
        ("--guidance_scale", "--guidance-scale"),
        ("--inference-steps", "--steps"),
        ("--negative-prompt", "--negative-text"),
        ("--cfg", "--guidance"),
        ("--cfg=3", "--guidance"),
        ("--size", "--height and --width"),
        ("--duration", "--seconds"),
        ("--length", "--seconds"),
        ("--frames", "--num-frames"),
        ("--modality", "--to"),
        ("--sam", "--samples"),
        ("--sampels", "--samples"),
        ("--num_frames", "--num-frames"),
        ("--neg", "--negative-text or --negative-image"),
        ("--batch-size", "--batch"),
        ("--force", "--overwrite"),
    ],
)
def test_an_option_that_nobody_knows_is_answered_with_the_one_that_was_meant(typed, meant, capsys):
    line = fails(capsys, "generate", typed, "x", "--to", "image")  # without -o, which is not what it is about
    assert f"unrecognized arguments: {typed}: did you mean {meant}" in line


def test_every_option_that_is_advised_exists():
    from codi.options import HABITS

    known = cli.build_parser()._subparsers._group_actions[0].choices["generate"]._option_string_actions
    advised = {
        word.rstrip(",.)") for text in HABITS.values() for word in re.findall(r"--?[a-z][a-z-]*", text)
    }
    assert advised <= set(known) and not set(HABITS) & set(known)


def test_other_commands_guess_nothing_either(capsys):
    assert "did you mean --out?" in fails(capsys, "bench", "--ou", "x")
    assert "did you mean --version?" in fails(capsys, "--versio")
    assert "expected a whole number, or random" in fails(capsys, "generate", "--seed", "1.5", "-o", "x")


# Bad input -------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "image"], "no prompt"),
        (["--text", "a ball"], "nothing to make"),
        (["--text", "a ball", "--to", "smell"], "unknown modality 'smell'"),
        (["--text", " ", "--to", "image"], "an empty text prompt"),
        (["--text", "a::0", "--text", "b::0", "--to", "image"], "sum to zero"),
        (["--text", "a::-1", "--to", "image"], "weight -1"),
        (["--text", "a \udce9", "--to", "image"], "is not UTF-8"),
        (["--text", "a::nan", "--to", "image"], "weight nan"),
        (["--text", "a", "--to", "image", "--samples", "0"], " samples is 0"),
        (["--text", "a", "--to", "image", "--num-samples", "0"], " num_samples is 0"),
        (["--text", "a", "--to", "image", "--guidance-scale", "much"], "--guidance-scale is 'much'"),
        (["--text", "a", "--to", "image", "--num-inference-steps", "x"], "argument --num-inference-steps: "),
        (["--text", "a", "--to", "image", "--candidates", "0"], "candidates is 0"),
        (["--text", "a", "--to", "image", "--steps", "x"], "no number of steps"),
        (["--text", "a", "--to", "image", "--steps", "image=x"], "no number of steps"),
        (["--text", "a", "--to", "image", "--steps", "sculpture=3"], "unknown modality 'sculpture'"),
        (["--text", "a", "--to", "image", "--guidance", "much"], "--guidance is 'much'"),
        (["--text", "a", "--to", "image", "--guidance", "image=-1"], "at least 0"),
        (["--text", "a", "--to", "image", "--sync-guidance", "nan"], "--sync-guidance is nan"),
        (["--text", "a", "--to", "image", "--guidance", "smell=2"], "unknown modality 'smell'"),
        (
            ["--text", "a", "--to", "image", "--guidance", "audio=2"],
            " guidance names audio, which is not made",
        ),
        (
            ["--text", "a", "--to", "image", "--guidance", "1", "--negative-text", "b"],
            "negative prompts act through guidance",
        ),
        (
            ["--text", "a", "--to", "image", "--negative-text", "b::0"],
            "weights of the negative prompts sum to zero",
        ),
        (["--text", "a", "--to", "image", "--negative-image", "none.png"], "no such file: none.png"),
        (["--jobs", "none.jsonl", "--negative-text", "a"], "--negative-text beside --jobs"),
        (["--text", "a", "--to", "image", "--frobnicate"], "unrecognized arguments"),
        (["--text", "a", "--to", "image", "--batch", "0"], "--batch is 0"),
        (["--text", "a", "--to", "image", "--device", "toaster"], "device 'toaster'"),
        (["--image", "none.png", "--to", "text"], "no such file: none.png"),
        (["--jobs", "none.jsonl"], "no such file: none.jsonl"),
        (["--jobs", "none.jsonl", "--text", "a"], "--text beside --jobs"),
        (["--text", "a", "--to", "image", "--model", "no/such/model"], "no/such/model"),
    ],
)
def test_mistakes_of_arguments(arguments, message, tmp_path, capsys):
    assert message in fails(capsys, "generate", *arguments, "-o", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def bad_file(kind: str, folder: Path) -> tuple[str, str]:
    """Option and path of a file that can be no prompt."""
    import soundfile
    from PIL import Image

    path = folder / kind
    if kind == "empty":
        path.touch()
    elif kind == "corrupt":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    elif kind == "large":
        Image.new("1", (12_500, 8_000)).save(path, format="PNG")
    elif kind == "wrong":
        soundfile.write(path, np.ones(4000) * 0.5, 8000, format="WAV")
    elif kind in ("silent", "nan", "long"):
        wave = {"silent": np.zeros(8000), "nan": np.full(8000, np.nan), "long": np.ones(20 * 60 * 2000)}[
            kind
        ].astype(np.float32)
        soundfile.write(path, wave, 2000 if kind == "long" else 8000, format="WAV", subtype="FLOAT")
        return "--audio", str(path)
    return "--image", str(path)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("empty", "is empty"),
        ("corrupt", "damaged"),
        ("large", "100 megapixels"),
        ("wrong", "is a recording"),
        ("silent", "is silent"),
        ("nan", "NaN"),
        ("long", "20.0 minutes"),
        ("missing", "no such file"),
    ],
)
def test_files_that_can_be_no_prompt(kind, message, tmp_path, capsys):
    option, path = bad_file(kind, tmp_path)
    began = time.perf_counter()
    assert message in fails(capsys, "generate", option, path, "--to", "text", "-o", str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == [] and time.perf_counter() - began < 5


def test_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "file").touch()
    line = fails(
        capsys,
        "generate",
        "--text",
        "a",
        "--to",
        "image",
        "-o",
        str(tmp_path / "file" / "out"),
        "--model",
        "no/such/model",
    )
    assert "cannot write into folder" in line


@pytest.mark.parametrize(
    "damage, message",
    [
        ("cut", ".safetensors"),
        ("altered", "altered"),
        ("removed", "text_tower"),
        ("missing", "lacks the tensor"),
    ],
)
def test_a_damaged_model(model, tmp_path, capsys, damage, message):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    weights = next((folder / "text_tower").glob("*.safetensors"))
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "altered":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "removed":
        shutil.rmtree(folder / "text_tower")
    else:
        tensors = load_file(weights)
        tensors.popitem()
        save_file(tensors, weights)
    line = fails(
        capsys,
        "generate",
        "--text",
        "a",
        "--to",
        "image",
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(folder),
        "--device",
        "cpu",
    )
    assert message in line and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "not JSON"),
        ("[]", "a list"),
        ('{"id": "a", "txt": "x", "to": "image"}', "unknown key 'txt'"),
        ('{"id": "../a", "text": "x", "to": "image"}', "id '../a'"),
        ('{"text": "x", "to": "image"}', "id ''"),
        ('{"id": "ok", "text": "x", "to": "image"}', "another id"),
        ('{"id": "a", "to": "image"}', "no prompt"),
        ('{"id": "a", "text": [], "to": "image"}', "no prompt"),
        ('{"id": "a", "text": 5, "to": "image"}', "text is 5"),
        ('{"id": "a", "text": "x", "to": "image", "seed": 1.5}', "seed is 1.5"),
        ('{"id": "a", "text": "x", "to": "image", "seed": true}', "seed is true"),
        ('{"id": "a", "image": "none.png", "to": "image"}', "none.png"),
        ('{"id": "a", "text": "a", "to": "image", "negative_audio": "none.wav"}', "none.wav"),
        ('{"id": "a", "text": "x", "to": "image", "negative_text": 5}', "negative_text is 5"),
        ('{"id": "a", "text": "x", "to": "image", "guidance": {"audio": 2}}', ": guidance names audio"),
        ('{"id": "a", "text": "x", "to": "image", "guidance": true}', ": guidance is True"),
        ('{"id": "a", "text": "x", "to": "image", "guidance_scale": {"audio": 2}}', ": guidance_scale names"),
        ('{"id": "a", "text": "x", "to": "image", "guidance_scale": true}', ": guidance_scale is True"),
        ('{"id": "a", "text": "x", "to": "image", "samples": 1.5}', ": samples is 1.5"),
        ('{"id": "a", "text": "x", "to": "image", "num_samples": 0}', ": num_samples is 0"),
        ('{"id": "a", "text": "x", "to": "image", "seconds": 1}', ": seconds is 1, but no audio or video"),
        (
            '{"id": "a", "text": "x", "to": "image", "steps": 2, "num_inference_steps": 2}',
            ": num_inference_steps and steps were both given, and mean the same: expected one of them",
        ),
        ('{"id": "a", "text": "x", "to": "image", "sync": "no"}', 'sync is "no"'),
        (
            '{"id": "a", "text": "x", "to": "image", "auxiliary_caption": 1}',
            "auxiliary_caption is 1: expected true or false",
        ),
        ('{"id": "a", "text": "x", "to": "image", "candidates": 1.5}', "candidates is 1.5"),
        ('{"id": "a", "text": "x"}', "nothing to make"),
        ('{"id": "a", "text": "x", "to": 5}', "to is 5"),
        ('{"id": "a", "text": "x", "to": true}', "to is true"),
    ],
)
def test_mistakes_in_a_file_of_jobs_name_the_line(line, message, tmp_path, capsys):
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"id": "ok", "text": "a", "to": "image"}\n' + line + "\n")
    said = fails(capsys, "generate", "--fail-fast", "--jobs", str(file), "-o", str(tmp_path / "out"))
    assert f"{file} line 2: " in said and message in said
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "line, message", [({"start_offset": 9}, "start_offset of image is 9"), ({"audio": "late.wav"}, "silent")]
)
def test_what_only_the_model_can_tell_is_told_before_anything_is_made(model, line, message, tmp_path, capsys):
    # the model hears half a second
    io.save_audio(tmp_path / "late.wav", torch.cat([torch.zeros(64000), torch.ones(16000)]), 16000)
    file = tmp_path / "jobs.jsonl"
    rows = {"id": "ok", "text": "a", "to": "image"}, {"id": "a", "text": "a", "to": "image"} | line
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = fails(
        capsys,
        "generate",
        "--fail-fast",
        "--jobs",
        str(file),
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(model),
        "--device",
        "cpu",
    )
    assert f"{file} line 2: " in said and message in said
    assert not list(tmp_path.glob("out/*"))


def test_lines_end_where_json_lines_end(tmp_path):
    file = tmp_path / "jobs.jsonl"
    row = json.dumps({"id": "a", "text": "a\u2028ball", "to": "image"}, ensure_ascii=False)
    file.write_text(row + "\n", encoding="utf-8-sig")
    (job,) = jobs.from_file(
        cli.build_parser().parse_args(["generate", "--jobs", str(file), "-o", str(tmp_path)])
    )
    assert job.items[0].value == "a\u2028ball"


def job_of(tmp_path, line, *more):
    """Reads the job of one line, and gives its values without the names that were written."""
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"id": "a", "text": "a ball", "to": "audio"} | line))
    command = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path), *more]
    (job,) = jobs.from_file(cli.build_parser().parse_args(command))
    return {name: value for name, value in vars(job).items() if name != "written"}


def test_short_keys_of_a_line_mean_the_same(tmp_path, recwarn):
    values = {"samples": 2, "steps": 3, "guidance": 4, "sync_guidance": {"audio": 1.5}, "seconds": 0.5}
    assert set(values) == set(renamed.SHORT)
    short, full = job_of(tmp_path, values), job_of(tmp_path, {renamed.SHORT[k]: v for k, v in values.items()})
    assert short == full and full["sizes"] == {"audio_length_in_s": 0.5} and not recwarn.list
    assert (full["num_samples"], full["num_inference_steps"], full["guidance_scale"]) == (2, 3, 4.0)
    for key, value in values.items():
        name = renamed.SHORT[key]
        with pytest.raises(InputError, match=f"line 1: {name} and {key} were both given"):
            job_of(tmp_path, {key: value, name: value})
        nothing = job_of(tmp_path, {key: None, name: value})  # null is not given
        assert nothing == job_of(tmp_path, {name: value})
        option = json.dumps(value) if not isinstance(value, dict) else "audio=1.5"
        for typed in (key, name):
            option_name = f"--{typed.replace('_', '-')}"
            assert job_of(tmp_path, {}, option_name, option) == nothing, typed


def test_no_command_and_an_unknown_one(capsys):
    assert "command" in fails(capsys)
    assert "frobnicate" in fails(capsys, "frobnicate")
    assert "--out" in fails(capsys, "bench")


# Stopping --------------------------------------------------------------


def test_an_interrupt_leaves_whole_files_only(model, tmp_path):
    rows = [json.dumps({"id": f"j{k}", "text": "a red ball", "to": "image,audio"}) for k in range(500)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(rows))
    command = [
        sys.executable,
        "-m",
        "codi.cli",
        "generate",
        "--jobs",
        str(tmp_path / "jobs.jsonl"),
        "-o",
        str(tmp_path / "out"),
        "--batch",
        "1",
    ]
    process = subprocess.Popen(
        [*command, "--model", model, *STEPS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()  # the first file is there
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (
        process.returncode == 130
        and err.strip().splitlines()[-1] == "codi: error: interrupted; what was finished is kept"
    )
    for path in (tmp_path / "out").iterdir():
        assert not path.name.startswith("."), path
        {".png": io.load_image, ".wav": io.load_audio, ".json": lambda p: json.loads(p.read_text())}[
            path.suffix
        ](path)


def test_a_reader_that_goes_away_is_no_traceback(model):
    command = [sys.executable, "-m", "codi.cli", "info", model]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


# The other commands ----------------------------------------------------


def test_info_counts_without_loading(model, capsys):
    assert cli.main(["info", model, "--json"]) == 0
    from tests import tiny_pipeline

    known = json.loads(capsys.readouterr().out)
    pipe = tiny_pipeline.pipeline()
    for part in known["parts"]:
        module = getattr(pipe, part["name"])
        expected = (
            sum(t.numel() for t in module.state_dict().values()) if isinstance(module, torch.nn.Module) else 0
        )
        assert abs(part["parameters"] - expected) <= 0.1 * expected, part["name"]
    assert cli.main(["info", model]) == 0
    shown = capsys.readouterr().out
    assert "vision_denoiser" in shown and re.search(r"licence", shown)


def test_info_on_what_is_no_model(tmp_path, capsys):
    assert "model" in fails(capsys, "info", str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    assert "JSON" in fails(capsys, "info", str(tmp_path))


def test_doctor_names_what_is_there(capsys):
    code = cli.main(["doctor"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("torch ", "torchaudio", "cpu", "memory", "embedded model"))
    assert code == (1 if "FAIL" in shown else 0)


def test_memory_and_devices(monkeypatch):
    assert pretrained.pick_device("auto") in ("cpu", "cuda") and pretrained.pick_device("cpu") == "cpu"
    with pytest.raises(InputError, match="expected one of"):
        pretrained.pick_device("cuda:99")
    arguments = Namespace(
        run=lambda args: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried ..."))
    )
    monkeypatch.setattr(cli.Parser, "parse_args", lambda *_: arguments)
    assert cli.main([]) == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0 and re.fullmatch(r"codi \d+\.\d+\.\d+\n", capsys.readouterr().out)
