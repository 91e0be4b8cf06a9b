"""The user's own filter: what it is shown, what it may answer, that nothing is written behind its back."""

import json
import sys

import pytest
import torch

from codi import cli, continuing, jobs
from codi.filters import Filter, Refused
from codi.outputs import read_record
from codi.types import InputError
from tests import tiny_pipeline

QUICK = dict(num_inference_steps=1, outputs=["image", "audio", "text"], num_samples=2, seed=5)


@pytest.fixture(scope="module")
def out():
    return tiny_pipeline.pipeline()("a red ball", **QUICK)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


def written(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def blank_picture(sample):
    return {"image": sample.media["image"].point(lambda value: 7)}


def test_a_filter_sees_media_prompts_and_record_of_every_sample_before_anything_is_written(out, tmp_path):
    seen = []

    def look(sample):
        seen.append((sample.seed, sorted(sample.media), sample.prompts, written(tmp_path)))
        assert sample.media["audio"].shape == (8000,) and sample.sampling_rate == 16000
        assert sample.record["seed"] == sample.seed and sample.record["resolved"]

    out.save(tmp_path, filter=look)
    row = (["audio", "image", "text"], {"text": ["a red ball"]}, [])
    assert seen == [(5, *row), (6, *row)]
    assert written(tmp_path) == [f"00{k}.{suffix}" for k in range(2) for suffix in ("png", "txt", "wav")]
    assert not read_record(tmp_path / "000.png").filter


@pytest.mark.parametrize("answer", [None, True, {}])
def test_what_passes_is_written_as_it_is(out, tmp_path, answer):
    out.save(tmp_path / "a")
    out.save(tmp_path / "b", filter=lambda sample: answer)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (False, "refused the sample of seed 6"),
        ("not\nthis", "refused the sample of seed 6: not this"),
        (3, "answered with a int"),
        ({"video": 1}, "changed 'video', which was not made: expected some of text, image, audio"),
        ({"image": "x"}, "returned the image as a sentence: expected a PIL image of mode RGB"),
        ({"audio": torch.zeros(1, 8000)}, "returned the audio as Tensor of torch.float32, 2 dimensions"),
    ],
)
def test_if_one_sample_does_not_pass_nothing_is_written(out, tmp_path, answer, said):
    with pytest.raises(Refused) as caught:
        out.save(tmp_path, filter=lambda sample: answer if sample.seed == 6 else None)
    assert said in str(caught.value) and "\n" not in str(caught.value) and written(tmp_path) == []


def test_what_a_filter_writes_into_what_it_is_shown_changes_nothing(out, tmp_path):
    def scribble(sample):
        sample.media["audio"].zero_()
        sample.media["image"].putpixel((0, 0), (1, 2, 3))
        sample.record["resolved"].clear()

    before = out.audios[0].clone(), out.images[0].copy()
    assert out.filtered_by(scribble) is out and torch.equal(out.audios[0], before[0])
    assert out.images[0].tobytes() == before[1].tobytes() and out.record(0)["resolved"]


def test_a_filter_that_fails_lets_nothing_pass(out, tmp_path):
    def broken(sample):
        raise RuntimeError("out of\nwhatever")

    with pytest.raises(
        Refused, match="test_filters:.*broken failed on the sample of seed 5 .RuntimeError: out of"
    ):
        out.save(tmp_path, filter=broken)
    assert written(tmp_path) == []


def test_what_a_filter_changed_is_written_and_the_record_says_so(out, tmp_path):
    changed = out.filtered_by(blank_picture)
    assert changed.images[0].getpixel((3, 3)) == (7, 7, 7) and out.images[0].getpixel((3, 3)) != (7, 7, 7)
    assert changed.texts == out.texts and torch.equal(changed.audios[1], out.audios[1])
    changed.save(tmp_path)
    found = read_record(tmp_path / "001.wav").filter
    assert (
        found["changed"] == ["image"]
        and found["name"].endswith(":blank_picture")
        and len(found["sha256"]) == 64
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "expected module:function or file.py:function"),
        ("no_such_module_here:f", "cannot be imported (ModuleNotFoundError"),
        ("gone.py:f", "no such file: gone.py"),
        ("json:nothing", "json has none of that name"),
        ("json:__name__", "json has a str there"),
        ("exits.py:f", "cannot be imported (SystemExit"),
    ],
)
def test_names_behind_which_there_is_no_filter(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    with pytest.raises(InputError) as caught:
        Filter.parse(name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_filter_is_found_by_file_and_by_module_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_filter.py").write_text("def f(sample): return False")
    path = list(sys.path)
    assert Filter.parse("my_own_filter.py:f").function(None) is False
    found = Filter.parse("my_own_filter:f")
    assert found.function(None) is False and found.name == "my_own_filter:f" and sys.path == path
    assert Filter.parse(found) is found and Filter.parse(None) is None
    with pytest.raises(InputError, match="expected a function"):
        Filter.parse(3)


# The commands ----------------------------------------------------------

SOURCE = """
def check(sample):
    if "blue" in sample.prompts["text"][0] and sample.seed % 2:
        return "no odd blue"
    if "cube" in sample.prompts["text"][0]:
        return {"image": sample.media["image"].point(lambda value: 0)}
"""


def test_a_job_that_is_refused_fails_alone_and_nothing_of_it_stays(model, tmp_path, capsys):
    rows = [
        {"id": "a", "text": "a red ball", "num_samples": 2},
        {"id": "b", "text": "a blue ball", "num_samples": 2},  # its second sample is refused
        {"id": "c", "text": "a red cube"},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.py").write_text(SOURCE)
    out = tmp_path / "out"
    call = [
        "generate",
        "--jobs",
        str(tmp_path / "jobs.jsonl"),
        "--to",
        "image",
        "--model",
        model,
        "-o",
        str(out),
    ]
    call += ["--steps", "1", "--quiet", "--filter", f"{tmp_path / 'own.py'}:check", "--batch", "1"]
    assert cli.main(call) == 2
    error = capsys.readouterr().err
    assert "line 2: the filter" in error and "no odd blue" in error and "1 of 3 jobs failed" in error
    assert written(out) == [
        "a-000.png",
        "a-001.png",
        "a.json",
        "c.json",
        "c.png",
        "failures.jsonl",
        "manifest.json",
    ]
    [failed] = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failed["id"] == "b" and failed["refused"] is True and "no odd blue" in failed["error"]
    assert json.loads((out / "c.json").read_text())["samples"][0]["filter"]["changed"] == ["image"]
    before = (out / "c.png").read_bytes()
    assert cli.main(call) == 2  # what was finished is not made again, what was refused is asked about again
    assert (out / "c.png").read_bytes() == before
    assert cli.main(call[:-4] + ["--filter", "json:dumps", "--batch", "1"]) == 2  # another request
    assert "made by this request" in capsys.readouterr().err


def test_a_refused_sample_is_one_line_and_exit_code_2(model, tmp_path, capsys):
    (tmp_path / "own.py").write_text(SOURCE)
    call = [
        "generate",
        "--text",
        "a blue ball",
        "--to",
        "image",
        "--model",
        model,
        "-o",
        str(tmp_path / "out"),
    ]
    call += ["--steps", "1", "--quiet", "--filter", f"{tmp_path / 'own.py'}:check"]
    assert cli.main([*call, "--samples", "2"]) == 2
    error = capsys.readouterr().err.strip()
    assert (
        error.startswith("codi: error: the filter") and "\n" not in error and written(tmp_path / "out") == []
    )
    assert cli.main([*call, "--seed", "4"]) == 0
    assert cli.main([*call, "--seed", "3", "--filter", "nothing"]) == 2


def test_windows_of_a_continuation_are_filtered_as_they_are_made(tmp_path):
    pipe = tiny_pipeline.pipeline()
    given = 0.1 * torch.sin(torch.arange(8000) * 0.3)
    call = dict(seconds=1.0, text="a ball", num_inference_steps=1)
    longer = lambda: continuing.extend(pipe, {"audio": (given, 16000)}, **call)
    with pytest.raises(Refused):
        longer().save(tmp_path / "a", filter=lambda sample: "no")
    assert written(tmp_path / "a") == []
    seen = []

    def silence(sample):
        seen.append(sample.media["audio"].shape)
        return {"audio": torch.zeros_like(sample.media["audio"])}

    [path] = longer().save(tmp_path / "b", filter=silence)
    assert seen and read_record(path).filter["changed"] == ["audio"]


def test_jobs_know_the_option_and_lines_do_not(model, tmp_path, capsys):
    (tmp_path / "jobs.jsonl").write_text('{"id": "a", "text": "a", "filter": "json:dumps"}')
    assert cli.main(["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path / "out")]) == 2
    assert "unknown key 'filter'" in capsys.readouterr().err and "filter" not in jobs.job_keys()
