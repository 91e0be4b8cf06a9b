"""What files say of how they were made, and making them again."""

import json
import re
import shlex
from pathlib import Path

import av
import pytest
import soundfile
import torch
from PIL import Image

from codi import CoDiPipeline, __version__, cli, io, jobs, read_record, records, renamed
from codi.types import InputError, Modality

ROOT = Path(__file__).parent.parent
STEPS = ("--steps", "2", "--device", "cpu", "--quiet")
HARD = (
    'a "red" ball\'s\n\tb\\all; = # \u00e9\u4f60\u597d \U0001f600 \u202e\u0000 ' + "bounces at night " * 640
)  # 10 kB


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder with an untrained model of the real classes."""
    from tests import tiny_pipeline

    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def made(model, tmp_path_factory) -> Path:
    """A run of two samples of everything."""
    folder = tmp_path_factory.mktemp("made")
    run(
        folder,
        "--text",
        "a red ball::0.7",
        "--to",
        "video,audio,image,text",
        "--samples",
        "2",
        "--seed",
        "5",
        "--model",
        model,
        *STEPS,
    )
    return folder


def run(out: Path, *arguments: str) -> None:
    assert cli.main(["generate", "-o", str(out), *arguments]) == 0


def fails(capsys, *arguments: str) -> str:
    """The one line of a command that must end with code 2."""
    capsys.readouterr()
    assert cli.main(["generate", *arguments]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if not line.startswith("codi: note: ")]
    assert captured.out == "" and len(errors) == 1 and errors[0].startswith("codi: error: "), captured
    return errors[0]


def noted(capsys) -> list[str]:
    return [
        line.removeprefix("codi: note: ")
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("codi: note: ")
    ]


def altered(path: Path, to: Path, **changes) -> Path:
    """The record of a file as JSON in another, with values changed; None takes one out."""
    row = json.loads(io.read_text(path)) | changes
    to.write_text(json.dumps({key: value for key, value in row.items() if value is not None}))
    return to


# Writing ---------------------------------------------------------------


def test_hard_words_survive_every_container(model, tmp_path):
    pipe = CoDiPipeline.from_pretrained(model)
    out = pipe(
        text=HARD, outputs=["image", "audio", "video"], num_inference_steps=1, seed=3, output_type="pt"
    )
    video, audio, image = out.save(tmp_path)
    with av.open(str(video)) as clip, av.open(str(audio)) as sound, Image.open(image) as picture:
        texts = [clip.metadata["codi"], sound.metadata["codi"], picture.text["codi"]]
        assert (
            clip.metadata["comment"]
            == picture.text["Comment"]
            == soundfile.SoundFile(str(audio)).comment
            == out.comment(0)
        )
    for text, path in zip(texts, (video, audio, image)):
        assert json.loads(text)["inputs"] == [{"as": "text", "weight": 1.0, "text": HARD}] and text.isascii()
        assert io.read_text(path) == text and read_record(path).inputs[0]["text"] == HARD
    wave, rate = io.load_audio(audio)
    assert (
        len(wave) == soundfile.info(str(audio)).frames == 8000 and (wave - out.audios[0]).abs().max() < 1e-3
    )
    assert len(io.load_video(video).frames) == 4 and torch.equal(io.load_image(image), out.images[0])


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mp4"), ("libvpx", ".webm")])
def test_a_clip_with_its_new_sound_has_a_record(tmp_path, codec, suffix):
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    text = records.to_text({"inputs": HARD + "\udce9"})  # a file name that is no UTF-8
    path = io.save_dubbed(tmp_path / "out", clip, torch.rand(8000) / 2, 16000, "a comment", text)
    assert path.suffix == suffix and io.read_text(path) == text
    with av.open(str(path)) as container:
        assert {key.lower(): value for key, value in container.metadata.items()}["comment"] == "a comment"
    assert len(io.load_video(path).frames) == 8 and io.load_video(path).audio is not None


def test_a_record_holds_what_the_model_decided(made):
    manifest = json.loads((made / "manifest.json").read_text())
    for name, seed in (("000.png", 5), ("001.wav", 6), ("001.mp4", 6)):
        row = json.loads(io.read_text(made / name))
        assert (
            row["seed"] == seed
            and row["batch"] == {"row": seed - 5, "rows": 2}
            and row["resolved"] == manifest["resolved"]
        )
        assert row["inputs"] == manifest["inputs"] == [{"as": "text", "weight": 0.7, "text": "a red ball"}]
        assert (
            row["outputs"] == ["video", "audio", "image", "text"]
            and row["codi"] == __version__
            and row["versions"]["torch"]
        )
        assert re.fullmatch("[0-9a-f]{64}", row["model"]["weights"]) and row["model"]["dtype"] == "float32"
    settled = manifest["resolved"]
    assert (
        settled["guidance_scale"] == {"video": 3.0, "audio": 3.0, "image": 3.0, "text": 3.0}
        and settled["num_inference_steps"] == 2
    )
    sizes = {"height": 32, "width": 32, "num_frames": 4, "fps": 8.0, "audio_length_in_s": 0.5}
    assert {name: settled[name] for name in sizes} == sizes
    asked = manifest["settings"]
    assert asked["num_samples"] == 2 and asked["guidance_scale"] is None  # as asked
    assert not set(asked) & set(renamed.SHORT)


def test_what_came_from_memory_is_named(model, tmp_path, capsys):
    pipe = CoDiPipeline.from_pretrained(model)
    pipe(image=torch.zeros(3, 32, 32), outputs="image", num_inference_steps=1, seed=0).save(tmp_path)
    record = read_record(tmp_path / "000.png")
    assert record.inputs == ({"as": "image", "weight": 1.0, "from": "memory (Tensor)"},)
    with pytest.raises(
        InputError, match="the image prompt of .*000.png came from memory .*give it with --image"
    ):
        record.arguments()
    assert "came from memory" in fails(capsys, "--from", str(tmp_path / "000.png"), "-o", str(tmp_path))


# Again -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["001.png", "001.wav", "001.mp4"])
def test_from_a_file_makes_it_again_to_the_byte(made, tmp_path, name):
    run(tmp_path, "--from", str(made / name), "--quiet")
    for suffix in ("png", "wav", "txt", "mp4"):
        assert (tmp_path / f"000.{suffix}").read_bytes() == (made / f"001.{suffix}").read_bytes(), suffix


def test_from_a_manifest_makes_the_run_again(made, tmp_path):
    run(tmp_path, "--from", str(made / "manifest.json"), "--quiet")
    for path in made.iterdir():
        assert path.name == "manifest.json" or path.read_bytes() == (tmp_path / path.name).read_bytes(), (
            path.name
        )


def test_from_a_manifest_with_former_names(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(renamed, "_noted", set())
    row = json.loads((made / "manifest.json").read_text())
    former = {name: key for key, name in renamed.SHORT.items()}
    row["settings"] = {former.get(name, name): value for name, value in row["settings"].items()}
    assert {"samples", "steps", "guidance"} <= set(row["settings"])
    (tmp_path / "old.json").write_text(json.dumps(row))
    capsys.readouterr()
    run(tmp_path / "out", "--from", str(tmp_path / "old.json"), "--quiet")
    said = [note for note in noted(capsys) if "has names of" in note]
    assert [note.split("old.json ")[1] for note in said] == [
        "has names of an earlier version, such as 'samples', now 'num_samples'"
    ]
    for path in made.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    now = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert now["num_samples"] == 2 and not set(now) & set(renamed.SHORT)
    assert read_record(tmp_path / "old.json").asked["num_samples"] == 2


def test_all_options_and_files_come_back(model, tmp_path):
    picture, clip = tmp_path / "a picture.png", tmp_path / "clip.mp4"
    noise = torch.randint(0, 255, (8, 3, 40, 52), dtype=torch.uint8, generator=torch.manual_seed(0))
    io.save_image(picture, noise[0])
    io.save_video(clip, noise, 12.5)
    asked = [
        "--image",
        f"{picture}::0.3",
        "--text",
        "a ball",
        "--video",
        str(clip),
        "--negative-text",
        "night::2",
        "--to",
        "audio,text",
    ]
    asked += [
        "--guidance",
        "audio=2,text=1.5",
        "--sync-guidance",
        "2",
        "--delay",
        "audio=0.5",
        "--no-lead",
        "--scheduler",
        "ddim",
    ]
    asked += ["--seconds", "0.3", "--dtype", "bfloat16", "--samples", "3", "--seed", "9"]
    run(tmp_path / "a", *asked, "--model", model, *STEPS)
    run(tmp_path / "b", "--from", str(tmp_path / "a" / "002.wav"), "--quiet")
    for suffix in ("wav", "txt", "mp4"):
        assert (tmp_path / "b" / f"000.{suffix}").read_bytes() == (
            tmp_path / "a" / f"002.{suffix}"
        ).read_bytes(), suffix


def test_the_best_of_several_is_made_by_itself(model, tmp_path):
    asked = [
        "--text",
        "a red ball",
        "--to",
        "image,text",
        "--samples",
        "2",
        "--candidates",
        "3",
        "--model",
        model,
    ]
    run(tmp_path / "a", *asked, *STEPS)
    run(tmp_path / "b", "--from", str(tmp_path / "a" / "001.png"), "--quiet")
    assert torch.equal(io.load_image(tmp_path / "a" / "001.png"), io.load_image(tmp_path / "b" / "000.png"))
    assert (tmp_path / "a" / "001.txt").read_text() == (tmp_path / "b" / "000.txt").read_text()
    run(
        tmp_path / "b", "--from", str(tmp_path / "a" / "001.png"), "--quiet", "--seed", "0"
    )  # another draw: of several again
    assert read_record(tmp_path / "b" / "001.png").resolved["candidates"] == 3


def test_options_count_instead_of_the_record(made, tmp_path, capsys):
    source = str(made / "001.png")
    changes = ["--steps", "1", "--to", "image,audio", "--guidance", "audio=2", "--text", "a cube"]
    run(tmp_path, "--from", source, "--quiet", *changes)
    record = read_record(tmp_path / "000.png")
    assert (
        record.inputs[0]["text"] == "a cube"
        and record.samples[0]["seed"] == 6
        and record.resolved["num_inference_steps"] == 1
    )
    assert record.outputs == (Modality.IMAGE, Modality.AUDIO) and record.resolved["guidance_scale"] == {
        "image": 3.0,
        "audio": 2.0,
    }
    run(tmp_path, "--from", source, "--quiet", "--seed", "40", "--samples", "2", "--fps", "4")
    assert [read_record(tmp_path / f"00{k}.mp4").samples[0]["seed"] for k in (1, 2)] == [40, 41]
    assert (
        read_record(tmp_path / "001.mp4").resolved["num_frames"] == 2
    )  # follows from the rate that is named, not from the record
    run(
        tmp_path, "--from", source, "--quiet", "--to", "image", "--image", source
    )  # a prompt of another kind is added
    assert [row["as"] for row in read_record(tmp_path / "003.png").inputs] == ["text", "image"]
    assert "--from beside --jobs" in fails(capsys, "--from", source, "--jobs", "x.jsonl", "-o", str(tmp_path))


def test_jobs_come_back_by_their_records(model, tmp_path, capsys):
    rows = [
        {"id": f"x{k}", "text": words, "to": "image", "seed": k}
        for k, words in enumerate(("a red ball", "a blue cube", "at sea"))
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "a", "--jobs", str(tmp_path / "jobs.jsonl"), "--model", model, *STEPS)
    run(tmp_path / "b", "--from", str(tmp_path / "a" / "x1.json"), "--quiet")
    assert (tmp_path / "b" / "000.png").read_bytes() == (tmp_path / "a" / "x1.png").read_bytes()
    run(tmp_path / "c", "--from", str(tmp_path / "a" / "manifest.json"), "--quiet")
    for name in ("x0.png", "x1.png", "x2.png"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name
    with pytest.raises(InputError, match="lists 3 jobs"):
        read_record(tmp_path / "a" / "manifest.json")


def test_python_reads_what_python_wrote(model, tmp_path):
    pipe = CoDiPipeline.from_pretrained(model)
    call = dict(
        outputs=["video", "audio"],
        num_inference_steps=2,
        guidance_rescale=0.5,
        guidance_interval=(0.0, 0.5),
        output_type="pt",
    )
    out = pipe(text="a ball", negative_text="a cube", seed=4, **call)
    out.save(tmp_path)
    again = pipe(**read_record(tmp_path / "000.mp4").arguments(), output_type="pt")
    assert torch.equal(out.videos[0], again.videos[0]) and torch.equal(out.audios[0], again.audios[0])
    assert out.settings == again.settings | {"sync": True} and out.settings["guidance_rescale"] == 0.5


# What differs ----------------------------------------------------------


def test_what_differs_is_said(made, model, tmp_path, capsys):
    row = json.loads(io.read_text(made / "000.png"))
    versions = row["versions"] | {"torch": "1.0.0"}
    told = row["model"] | {
        "device": "cuda:7",
        "weights": "0" * 64,
        "own": row["model"]["own"] | {"partner_estimate_weight": 9.0},
    }
    source = altered(made / "000.png", tmp_path / "x.json", codi="0.0.9", versions=versions, model=told)
    run(tmp_path / "out", "--from", str(source), "--quiet")
    notes = "\n".join(noted(capsys))
    expected = [
        "made by codi 0.0.9",
        "torch 1.0.0, here is",
        "made on cuda:7, now cpu is used",
        "other weights",
        "own settings were others",
    ]
    for said in (*expected, model):
        assert said in notes, said


def test_files_that_changed_or_are_gone(model, tmp_path, capsys):
    noise = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    prompt = io.save_image(tmp_path / "prompt.png", noise)
    run(tmp_path / "a", "--image", str(prompt), "--to", "image", "--model", model, *STEPS)
    source = str(tmp_path / "a" / "000.png")
    io.save_image(prompt, 255 - noise)
    capsys.readouterr()
    run(tmp_path / "b", "--from", source, "--quiet")
    assert any(f"{prompt} has changed since" in note for note in noted(capsys))
    prompt.unlink()
    assert (
        "was made from" in (line := fails(capsys, "--from", source, "-o", str(tmp_path / "c")))
        and "which is not there" in line
    )
    run(tmp_path / "c", "--from", source, "--quiet", "--image", source)  # another in its place


def test_files_without_a_record(tmp_path, capsys):
    io.save_image(tmp_path / "a.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    io.save_audio(tmp_path / "a.wav", torch.zeros(100), 16000)
    io.save_video(tmp_path / "a.mp4", torch.zeros(2, 3, 16, 16, dtype=torch.uint8), 8)
    (tmp_path / "a.txt").write_text("a ball")
    for name in ("a.png", "a.wav", "a.mp4", "a.txt"):
        assert "carries no record" in fails(
            capsys, "--from", str(tmp_path / name), "-o", str(tmp_path / "out")
        )
    assert "no such file" in fails(capsys, "--from", str(tmp_path / "none"), "-o", str(tmp_path / "out"))
    (tmp_path / "old.json").write_text('{"codi": "0.1.0", "inputs": []}')
    assert "has no key 'record'" in fails(
        capsys, "--from", str(tmp_path / "old.json"), "-o", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"record": 2, "codi": "9.9"}, "made by a newer codi (9.9)"),
        ({"record": "1"}, "record is"),
        ({"record": True, "x": 1}, "has the key 'x'"),
        ({"frobnicate": 1}, "has the key 'frobnicate'"),
        ({"outputs": []}, "outputs is []"),
        ({"outputs": ["smell"]}, "outputs is"),
        ({"outputs": "image"}, "outputs is"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": 2**70}, "seed is"),
        ({"seed": None}, "seed is null"),
        ({"batch": {"row": 5, "rows": 2}}, "batch is"),
        ({"batch": {"row": 0, "rows": 10**9}}, "batch is"),
        ({"inputs": [{"as": "text", "weight": 1, "text": ["x"]}]}, "text is"),
        ({"inputs": [{"as": "image", "weight": 1, "path": "/dev/zero", "sha256": ""}]}, "which is not there"),
        ({"inputs": [{"as": "image", "weight": 1, "path": "a\0b", "sha256": ""}]}, "path is"),
        ({"inputs": [{"as": "image", "weight": 1, "path": "x"}]}, "sha256 is"),
        ({"inputs": [{"as": "text", "weight": "much", "text": "x"}]}, "weight is"),
        ({"inputs": [{"as": "text", "weight": 1, "text": "x", "run": "rm"}]}, "has the key 'run'"),
        ({"inputs": []}, "no prompt"),
        ({"inputs": {}}, "inputs is"),
        ({"resolved": {}}, "resolved lacks num_inference_steps"),
        ({"resolved": [1]}, "resolved is"),
        ({"model": None}, "model is null"),
        ({"model": {"name": "codi-tiny", "dtype": "__import__"}}, "dtype is"),
        ({"model": {"name": "no/such/../model"}}, "no model folder"),
        ({"model": {"name": "codi-tiny", "loras": [{"path": "x"}]}}, "loras is"),
        ({"model": {"name": "codi-tiny", "class": "os.system"}}, "has the key 'class'"),
        ({"samples": []}, "samples is []"),
        ({"jobs": ["../../etc/passwd"]}, "is no name of a job's record"),
        ({"jobs": []}, "no list of names"),
    ],
)
def test_records_that_cannot_be_used(made, tmp_path, capsys, changes, message):
    source = altered(made / "000.png", tmp_path / "x.json", **changes)
    if None in changes.values():
        assert not set(changes) & set(json.loads(source.read_text()))
    assert message in fails(capsys, "--from", str(source), "-o", str(tmp_path / "out"))
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", True),
        ("guidance_scale", {"image": "x"}),
        ("guidance_scale", {}),
        ("start_offset", 3),
        ("guidance_interval", [1, 0]),
        ("fps", "8"),
        ("height", 1e9),
        ("partners", ["audio"]),
        ("lengths", "x"),
        ("auxiliary_caption", 1),
        ("new", 1),
    ],
)
def test_settings_that_cannot_be_used(made, tmp_path, capsys, name, value):
    settled = json.loads(io.read_text(made / "000.png"))["resolved"] | {name: value}
    source = altered(made / "000.png", tmp_path / "x.json", resolved=settled)
    assert name in fails(capsys, "--from", str(source), "-o", str(tmp_path / "out"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        '{"record": NaN}',
        '{"record": 1e999}',
        "{" + '"a":{' * 50_000,
        '{"record": ' + "9" * 5000 + "}",
        '{"record": -Infinity}',
    ],
    ids=["cut", "list", "nan", "huge float", "deep", "huge int", "infinity"],
)
def test_text_that_is_no_record(tmp_path, capsys, text):
    io.save_image(tmp_path / "x.png", torch.zeros(3, 8, 8, dtype=torch.uint8), record=text)
    (tmp_path / "x.json").write_text(text)
    for name in ("x.png", "x.json"):
        fails(capsys, "--from", str(tmp_path / name), "-o", str(tmp_path / "out"))


# The page --------------------------------------------------------------


def test_the_commands_of_the_page_are_understood():
    """The blocks of docs/command-line.md, and the README's, as far as the options."""
    text = (ROOT / "docs" / "command-line.md").read_text() + (ROOT / "README.md").read_text()
    lines = [
        line for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()
    ]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("codi generate")]
    assert len(commands) > 10
    for command in commands:
        cli.build_parser().parse_args(command[1:])


def test_the_job_lines_of_the_page_are_understood(tmp_path):
    text = (ROOT / "docs" / "command-line.md").read_text()
    (block,) = re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "jobs.jsonl").write_text(block)
    command = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path)]
    found = jobs.from_file(cli.build_parser().parse_args(command))
    assert [job.num_samples for job in found] == [1, 4, 1, 1]
    assert not any(json.loads(line).keys() & renamed.SHORT.keys() for line in block.splitlines())
