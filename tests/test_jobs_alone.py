"""Of a file of jobs one bad line fails alone, what is there is kept, what a run reads is never written."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from codi import cli, io, pretrained
from codi.jobs import MAX_LINE
from codi.session import Session
from codi.types import InputError, WriteError
from tests.fuzz import kills

STEPS = ("--steps", "1", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder with an untrained model of the real classes."""
    from tests import tiny_pipeline

    return tiny_pipeline.saved(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(model, tmp_path, capsys):
    """A function that runs lines as a file of jobs; it returns the code, the errors and the notes."""

    def call(lines, *more, out=tmp_path / "out"):
        file = tmp_path / "jobs.jsonl"
        rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        file.write_bytes(b"\n".join(rows))
        command = ["generate", "--jobs", str(file), "-o", str(out), "--model", model]
        code = cli.main([*command, *STEPS, *more])
        said = capsys.readouterr().err.splitlines()
        assert all(line.startswith(("codi: error: ", "codi: note: ")) for line in said), said
        assert all(len(line) < 1100 for line in said)
        errors = [line.removeprefix("codi: error: ") for line in said if line.startswith("codi: error: ")]
        return code, errors, [line for line in said if line.startswith("codi: note: ")]

    return call


def line(name: str, **more):
    return {"id": name, "text": "a red ball", "to": "image"} | more


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("manifest")}


# One bad line ----------------------------------------------------------

BAD_LINES = [
    (b"{", "not JSON"),
    (b"\xff\xfe", "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (b'{"id": "x", "seed": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
    (b'{"id": "x", "seed": NaN}', "NaN is no number"),
    (b'{"id": "x", "guidance": -Infinity}', "-Infinity is no number"),
    (b'{"id": "x", "text": "a", "to": "image", "guidance": 1e999}', "guidance is inf"),
    (b'{"id": "x", "text": "a", "to": "image", "guidance": 1' + b"0" * 390 + b"}", "guidance is '1000"),
    (b'{"id": "x", "text": "a", "text": "b"}', "the key 'text' comes twice"),
    (b'{"id": "x", "text": "a \\ud800", "to": "image"}', "is not UTF-8"),
    (b'{"id": "x", "image": "\\ud800.png", "to": "image"}', "no name of a file"),
    (b'{"id": "x", "image": "a\\u0000.png", "to": "image"}', "no name of a file"),
    (b'{"id": "x", "image": "' + b"x" * 20_000 + b'", "to": "image"}', "File name too long"),
    (b'{"id": "' + b"x" * 20_000 + b'", "text": "a", "to": "image"}', "id 'xxx"),
    (b'{"id": "x", "' + b"x" * 20_000 + b'": 1}', "unknown key 'xxx"),
    (b'{"id": "a/b", "text": "a", "to": "image"}', "id 'a/b'"),
    (b'{"id": "..", "text": "a", "to": "image"}', "id '..'"),
    (b'{"id": "a.", "text": "a", "to": "image"}', "id 'a.'"),
    (b'{"id": "nul.x", "text": "a", "to": "image"}', "id 'nul.x'"),
    (b'{"id": "Manifest", "text": "a", "to": "image"}', "id 'Manifest'"),
    (b'{"id": null, "text": "a", "to": "image"}', "id 'null'"),
    (b'{"id": true, "text": "a", "to": "image"}', "id 'true'"),
    (b'{"id": "GOOD", "text": "a", "to": "image"}', "like those of 'good'"),
    (b'{"id": "x", "text": "zebra", "to": "image"}', "can read nothing"),
    (b'{"id": "x", "text": "a", "to": "image", "num_samples": 4503599627370496}', "from 1 to 100000"),
    (b'{"id": "x", "text": "a", "to": "image", "steps": 4503599627370496}', "num_inference_steps is"),
    (b'{"id": "x", "text": "a", "to": "image", "start_offset": 9}', "start_offset of image is 9"),
    (b'{"id": "x", "text": "a", "to": "audio", "guidance": 1e300}', "not finite"),
]


def test_bad_lines_fail_alone(run, tmp_path):
    """All of them are named with their lines, and what is good is made."""
    bad = [row.replace(b'"x"', b'"x%d"' % k) for k, (row, _) in enumerate(BAD_LINES)]
    rows = [line("good"), *bad, line("fine", seed=3)]
    code, errors, _ = run(rows)
    assert code == 2
    assert errors[-1] == f"{len(BAD_LINES)} of {len(rows)} jobs failed; the others are in {tmp_path / 'out'}"
    said = {}
    for error in errors[:-1]:
        number, _, message = error.removeprefix(f"{tmp_path / 'jobs.jsonl'} line ").partition(": ")
        said[int(number)] = message
    for number, (_, message) in enumerate(BAD_LINES, 2):
        assert message in said.get(number, ""), (number, message, said.get(number))
    assert len(said) == len(errors) - 1 == len(BAD_LINES)
    assert contents(tmp_path / "out").keys() == {"good.png", "good.json", "fine.png", "fine.json"}
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["jobs"]
    assert listed == ["good.json", "fine.json"]


@pytest.mark.parametrize("megabytes", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_line_of_many_megabytes(run, tmp_path, megabytes):
    long = b'{"id": "x", "text": "' + b"a" * (megabytes << 20) + b'"}'
    code, errors, _ = run([line("a"), long, line("b")])
    assert code == 2 and len(errors) == 2 and f"line 2: it has more than {MAX_LINE >> 20} MB" in errors[0]
    assert {"a.png", "b.png"} <= contents(tmp_path / "out").keys()


def test_a_file_that_is_no_text_stops_at_once(run, tmp_path):
    for content in (b"\x89PNG\n\0\0\n", json.dumps(line("a")).encode("utf-16")):
        code, errors, _ = run([content])
        assert code == 2 and "is not text" in errors[0] and len(errors) == 1
    code, errors, _ = run([line("a"), b"{\0"])  # a bad line
    assert code == 2 and "line 2: not JSON" in errors[0] and len(errors) == 2
    code, errors, _ = run([b"", b" "])
    assert code == 2 and "holds no job" in errors[0] and len(errors) == 1


def test_if_all_fail_nothing_is_loaded(run, tmp_path):
    code, errors, _ = run([b"{", b"["], "--model", str(tmp_path / "none"))
    assert code == 2 and errors[-1].startswith("2 of 2 jobs failed")


def test_a_file_that_turns_out_damaged_while_it_is_made_fails_alone(run, tmp_path, monkeypatch):
    """Its neighbours in the batch come out as if it were not there, to the byte."""
    io.save_image(tmp_path / "a.png", torch.full((3, 40, 40), 99, dtype=torch.uint8))
    rows = [line("a", image="a.png"), line("b", image="a.png"), line("c", image="a.png")]
    assert run(rows)[0] == 0
    whole, encode = contents(tmp_path / "out"), Session._encode

    def damaged(self, job):
        if job.id == "b":
            raise InputError("a.png is damaged at 0.5 s")
        return encode(self, job)

    monkeypatch.setattr(Session, "_encode", damaged)
    code, errors, _ = run(rows, out=tmp_path / "other")
    assert code == 2 and "line 2: a.png is damaged" in errors[0] and "1 of 3 jobs failed" in errors[1]
    made = contents(tmp_path / "other")
    assert made.keys() == {"a.png", "a.json", "c.png", "c.json"}
    assert all(made[name] == whole[name] for name in ("a.png", "c.png"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to ...")])
def test_a_job_for_which_memory_does_not_suffice_fails_alone(run, tmp_path, monkeypatch, error):
    from codi.pipeline import CoDiPipeline

    call = CoDiPipeline.__call__

    def hungry(self, *arguments, **options):
        if 7 in options["seed"]:
            raise error
        return call(self, *arguments, **options)

    monkeypatch.setattr(CoDiPipeline, "__call__", hungry)
    code, errors, _ = run([line("a"), line("b", seed=7), line("c")])
    assert code == 2 and "line 2: out of memory" in errors[0] and "1 of 3 jobs failed" in errors[1]
    assert contents(tmp_path / "out").keys() == {"a.png", "a.json", "c.png", "c.json"}


def test_a_disk_that_is_full_stops_at_once(run, tmp_path, monkeypatch):
    from codi.outputs import CoDiOutput

    def full(self, *arguments, **options):
        raise WriteError("cannot write x: No space left on device; free some space")

    monkeypatch.setattr(CoDiOutput, "save", full)
    code, errors, _ = run([line("a"), line("b")])
    assert code == 2 and errors == ["cannot write x: No space left on device; free some space"]


# What is there is kept -------------------------------------------------


def test_what_was_changed_is_made_again(run, tmp_path):
    rows = [line("a", to="image,text", num_samples=3), line("b", to="audio")]
    out = tmp_path / "out"
    assert run(rows)[0] == 0
    before = contents(out)
    record = json.loads(before["a.json"])
    assert [set(sample["sha256"]) for sample in record["samples"]] == [
        {f"a-{k:03d}.png", f"a-{k:03d}.txt"} for k in range(3)
    ]
    (out / "a-001.png").write_bytes(before["a-001.png"][:-40])
    (out / "a-002.txt").unlink()
    (out / "b.wav").write_bytes(before["b.wav"] + b"x")
    kept = (out / "a-000.png").stat().st_mtime_ns
    code, errors, notes = run(rows)
    assert code == 0 and not errors and len(notes) == 3
    assert "a-001.png was changed since" in notes[0] and "a-002.txt is gone" in notes[1]
    after = contents(out)
    media = [name for name in before if not name.endswith(".json")]
    assert before.keys() == after.keys() and all(before[name] == after[name] for name in media)
    assert (out / "a-000.png").stat().st_mtime_ns == kept
    assert run(rows) == (0, [], []) and contents(out) == after


def test_records_of_earlier_versions_count_what_is_there(run, tmp_path):
    assert run([line("a")])[0] == 0
    path = tmp_path / "out" / "a.json"
    record = json.loads(path.read_text())
    del record["samples"][0]["sha256"]
    path.write_text(json.dumps(record))
    (tmp_path / "out" / "a.png").write_bytes(b"other")
    assert run([line("a")]) == (0, [], []) and (tmp_path / "out" / "a.png").read_bytes() == b"other"


def test_a_job_that_was_half_done_keeps_its_seed(run, tmp_path):
    rows = [line("a", seed="random", num_samples=2)]
    assert run(rows)[0] == 0
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "a-001.png").unlink()
    code, _, notes = run(rows)
    assert code == 0 and not any("drawn" in note for note in notes)
    assert contents(tmp_path / "out")["a-001.png"] == before["a-001.png"]


@pytest.mark.slow
def test_several_processes_share_a_folder_and_its_jobs(run, model, tmp_path):
    """All end well, and what is there is what one of them would have made."""
    rows = [line(f"j{k}", seed=k, num_samples=2) for k in range(6)]
    assert run(rows, "--batch", "2")[0] == 0
    expected = kills.contents(tmp_path / "out")
    command = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "--batch", "2", "--model", model, *STEPS]
    fork = multiprocessing.get_context("fork")
    shared = ["-o", str(tmp_path / "shared")]
    running = [fork.Process(target=kills._command, args=([*command, *shared],)) for _ in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=300)
    assert [process.exitcode for process in running] == [0] * 4
    assert kills.contents(tmp_path / "shared") == expected
    assert not list((tmp_path / "shared").glob(".*"))


# What is read is not written -------------------------------------------


@pytest.mark.parametrize("how", ["name", "link", "hard link", "case"])
def test_no_job_writes_over_what_another_reads(run, tmp_path, how):
    out = tmp_path / "out"
    out.mkdir()
    own = out / ("B.png" if how == "case" else "b.png")
    io.save_image(own, torch.full((3, 40, 40), 99, dtype=torch.uint8))
    given = own
    if how == "link":
        given = tmp_path / "given.png"
        given.symlink_to(own)
    elif how == "hard link":
        given = tmp_path / "given.png"
        given.hardlink_to(own)
    before = own.read_bytes()
    rows = [line("a", image=str(given)), line("b")]
    code, errors, _ = run(rows, "--overwrite", "--fail-fast")
    assert code == 2 and len(errors) == 1 and "would be overwritten" in errors[0] and "line 2" in errors[0]
    assert [path.name for path in out.iterdir()] == [own.name] and own.read_bytes() == before
    code, errors, _ = run(rows, "--overwrite")
    assert code == 2 and "1 of 2 jobs failed" in errors[-1] and own.read_bytes() == before
    assert (out / "a.png").is_file()


def test_the_files_of_a_command_are_not_written(model, tmp_path, capsys):
    def fails(*arguments) -> str:
        assert cli.main(["generate", "-o", str(tmp_path), "--model", model, *STEPS, *arguments]) == 2
        return capsys.readouterr().err

    jobs = tmp_path / "a.json"
    jobs.write_text(json.dumps(line("a")))
    assert f"{jobs} would be overwritten" in fails("--jobs", str(jobs), "--overwrite")
    assert json.loads(jobs.read_text()) == line("a")
    named = jobs.rename(tmp_path / "manifest.json")
    assert f"{named} would be overwritten" in fails("--jobs", str(named))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    named.unlink()
    assert (
        cli.main(["generate", "--text", "a", "--to", "image", "-o", str(tmp_path), "--model", model, *STEPS])
        == 0
    )
    before = contents(tmp_path)
    assert "would be overwritten" in fails("--from", str(tmp_path / "000.png"), "--overwrite")
    assert "would be overwritten" in fails("--from", str(tmp_path / "manifest.json"))
    assert contents(tmp_path) == before
    copy = Path(model) / "text_tower" / "config.json"
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line("config")))
    asked = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(copy.parent), "--model", model]
    content = copy.read_bytes()
    assert cli.main([*asked, "--overwrite", *STEPS]) == 2 and copy.read_bytes() == content


# Names and devices -----------------------------------------------------


def test_names_that_are_not_utf8_on_the_command_line(model, tmp_path, capsysbinary):
    """As in a folder that came from an older system."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    given = io.save_image(folder / os.fsdecode(b"\xff.png"), torch.full((3, 40, 40), 99, dtype=torch.uint8))
    out = folder / os.fsdecode(b"out\xfe")
    command = ["generate", "--image", str(given), "--to", "image,audio", "-o", str(out), "--model", model]
    assert cli.main([*command, *STEPS]) == 0
    said = capsysbinary.readouterr().out
    assert set(said.splitlines()) == {os.fsencode(out / name) for name in ("000.png", "000.wav")}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"][0]["path"] == str(given)
    again = ["generate", "--from", str(out / "000.png"), "-o", str(folder / "again"), *STEPS]
    assert cli.main(again) == 0
    assert (folder / "again" / "000.png").read_bytes() == (out / "000.png").read_bytes()


@pytest.mark.parametrize(
    "name", ["meta", "cuda:99", "toaster", "xla", "cpu:-7", "vulkan", "", "privateuseone"]
)
def test_devices_that_cannot_compute(name):
    with pytest.raises(InputError, match="cannot be used") as caught:
        pretrained.pick_device(name)
    assert "\n" not in str(caught.value)
