"""A job that goes on beyond the length of the model: as a line, as it is made, and what is refused."""

import json

import pytest
import torch

from codi import cli, io, jobs, read_record
from codi.job_files import files_of, line_of, with_files
from codi.types import InputError
from tests import tiny_pipeline

LINE = {"id": "a", "to": "audio", "continue": {"files": ["take.wav"], "seconds": 1}, "text": "a red ball"}
QUICK = {"steps": 2, "resample_steps": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    draw = torch.Generator().manual_seed(0)
    wave = torch.rand(8000, generator=draw) * 1.6 - 0.8
    frames = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8, generator=draw)
    tiny_pipeline.saved(folder / "model")
    io.save_audio(folder / "take.wav", wave, 16000)
    io.save_video(folder / "clip.mp4", frames, 8, wave, 16000)
    io.save_image(folder / "photo.png", frames[0])
    return folder


def read(line, folder="in"):
    return jobs.from_line(json.dumps(line), folder, "a: ")


def generated(files, out, *lines):
    path = files / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--model", str(files / "model"), "--device", "cpu", "--quiet", "-o", str(out)]
    return cli.main(["generate", "--jobs", str(path), *options])


# As a line -------------------------------------------------------------


def test_a_line_says_what_goes_on_and_comes_back():
    asked = {
        "files": ["clip.mp4", "take.wav"],
        "seconds": 8,
        "direction": "both",
        "overlap": 0.5,
        "window": 2,
    }
    line = {**LINE, "to": ["video", "audio"], "continue": asked, "resample_steps": 3, "seed": 4}
    job = read(line)
    assert [str(path) for path in job.inputs] == ["in/clip.mp4", "in/take.wav"]
    assert job.continued.resample_steps == 3 and not job.edits
    again = read({"id": "a", **with_files(line_of(job), lambda name: name.removeprefix("in/"))})
    assert again.continued == job.continued and again.seed == 4 and again.group == job.group
    assert read({**line, "id": "b"}).group != job.group, "each is made alone"
    assert files_of(line) == ["clip.mp4", "take.wav"]
    assert read({**LINE, "continue": {"files": "take.wav", "seconds": 1}}).continued == read(LINE).continued
    without = {key: value for key, value in LINE.items() if key != "text"}
    assert read(without).items == ()  # its words are those of the file


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"continue": ["take.wav"]}, "expected an object such as {'files'"),
        ({"continue": {"seconds": 1}}, "files is null"),
        ({"continue": {"files": [], "seconds": 1}}, "files is []"),
        ({"continue": {"files": ["a.wav"] * 5, "seconds": 1}}, "of two of a kind"),
        ({"continue": {"files": ["https://example.org/a.wav"], "seconds": 1}}, "no network is opened"),
        ({"continue": {"files": ["a.wav"]}}, "continue says no seconds"),
        ({"continue": {"files": ["a.wav"], "seconds": True}}, "seconds is true"),
        ({"continue": {"files": ["a.wav"], "seconds": 1, "window": -1}}, "window is -1"),
        ({"continue": {"files": ["a.wav"], "seconds": 1, "direction": "up"}}, "expected one of forwards"),
        ({"continue": {"files": ["a.wav"], "seconds": 1, "loop": 1}}, "loop is 1: expected true or false"),
        ({"continue": {"files": ["a.wav"], "seconds": 1, "speed": 1}}, "continue has the key 'speed'"),
        ({"num_samples": 2}, "continue beside several samples"),
        ({"candidates": 2}, "continue beside several samples"),
        ({"start": {"audio": "a.wav"}}, "start beside continue"),
        ({"seconds": 3}, "audio_length_in_s beside continue"),
        ({"control": {"audio": {"beats": [0.1]}}}, "control beside continue"),
        ({"to": "image"}, "image has no time and cannot go on: expected some of audio, video in to"),
        ({"audio": "a.wav"}, "a prompt of audio beside continue"),
        ({"resample_steps": "many"}, 'resample_steps is "many"'),
    ],
)
def test_what_windows_cannot_have_is_refused_in_a_line(more, expected):
    with pytest.raises(InputError) as caught:
        read({**LINE, **more})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"to": "video"}, "to names video, and no file holds it: expected audio"),
        ({"continue": {"files": ["photo.png"], "seconds": 1}}, "to names audio, and no file holds it"),
        ({"continue": {"files": ["take.wav"], "seconds": 0.3}}, "what is given lasts 0.5 s"),
        ({"continue": {"files": ["none.wav"], "seconds": 1}}, "no such file"),
    ],
)
def test_files_that_cannot_go_on_are_found_before_a_model_is_loaded(files, more, expected):
    with pytest.raises(InputError, match=expected):
        read({**LINE, **more}, files).check()


# As it is made ---------------------------------------------------------


def test_a_job_equals_codi_continue_and_is_resumed(files, tmp_path, capsys):
    asked = {"files": ["clip.mp4"], "seconds": 1, "direction": "backwards"}
    line = {**LINE, **QUICK, "id": "long", "to": "video,audio", "continue": asked, "seed": 5}
    wrong = {**LINE, "id": "short", "continue": {"files": ["take.wav"], "seconds": 0.2}}
    assert generated(files, tmp_path / "jobs", line, wrong) == 2  # which fails alone
    assert "seconds is 0.2, and what is given lasts 0.5 s" in capsys.readouterr().err
    command = [
        "continue",
        str(files / "clip.mp4"),
        "--seconds",
        "1",
        "--direction",
        "backwards",
        "--seed",
        "5",
    ]
    command += [
        "--steps",
        "2",
        "--resample-steps",
        "1",
        "--text",
        "a red ball",
        "--model",
        str(files / "model"),
    ]
    assert cli.main([*command, "--device", "cpu", "--quiet", "-o", str(tmp_path / "alone")]) == 0
    made, alone = (tmp_path / "jobs" / "long.wav", tmp_path / "alone" / "000.wav")
    assert torch.equal(io.load_audio(made)[0], io.load_audio(alone)[0])
    frames = [io.load_video(path.with_suffix(".mp4")).frames for path in (made, alone)]
    assert torch.equal(*frames) and len(frames[0]) == 8
    record = read_record(made.with_suffix(".json"))
    assert record.continued["windows"] == 2 and record.continued["direction"] == "backwards"
    assert [row["as"] for row in record.sources] == ["video", "audio"]
    assert read_record(made).continued == record.continued
    with pytest.raises(InputError, match="window by window"):
        record.check_single()
    stamp = made.stat().st_mtime_ns
    generated(files, tmp_path / "jobs", line)
    assert made.stat().st_mtime_ns == stamp, "it is not made again"


def test_a_job_without_words_has_those_of_its_file_and_an_interrupt_leaves_nothing(
    files, tmp_path, monkeypatch
):
    from codi.continuing import Continuation

    first = {"id": "first", "to": "audio", "text": "a blue cube", "steps": 2}
    assert generated(files, tmp_path, first) == 0
    (files / "first.wav").write_bytes((tmp_path / "first.wav").read_bytes())
    line = {**QUICK, "id": "b", "to": "audio", "continue": {"files": ["first.wav"], "seconds": 1.5}}
    made = Continuation._made

    def interrupted(self, step, held, seed):
        if seed == 1:
            raise KeyboardInterrupt
        return made(self, step, held, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Continuation, "_made", interrupted)
        assert generated(files, tmp_path, line) == 130
    assert not (tmp_path / "b.wav").exists()
    assert generated(files, tmp_path, line) == 0
    assert read_record(tmp_path / "b.wav").inputs[0]["text"] == "a blue cube"
