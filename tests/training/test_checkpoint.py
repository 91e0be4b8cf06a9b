"""A checkpoint is whole or it is named; the last good one is never touched by a bad end."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from codi.types import InputError
from tests.training.shared import Killed, dying
from training import checkpoint
from training.checkpoint import Snapshot


def snapshot(step: int) -> Snapshot:
    tied = torch.full((3, 2), float(step))
    weights = {"a": tied, "b": tied, "view": tied.T}
    state = {
        "samples": 8 * step,
        "elapsed": 1.5,
        "config": {"model": "m", "options": {}},
        "scaler": None,
        "ema_updates": 0,
    }
    return Snapshot(step=step, weights=weights, optimizer={"a/step": torch.tensor(1.0)}, state=state)


def test_round_trip_with_tied_weights(tmp_path):
    back = checkpoint.read(checkpoint.write(tmp_path, snapshot(3)))
    assert back.step == 3 and back.state["samples"] == 24 and back.ema == {}
    assert all(torch.equal(back.weights[name], value) for name, value in snapshot(3).weights.items())
    assert torch.equal(back.optimizer["a/step"], torch.tensor(1.0))


def test_only_the_newest_are_kept_and_litter_goes(tmp_path):
    (tmp_path / "step-00000009.tmp").mkdir()
    for step in (1, 2, 10):
        checkpoint.write(tmp_path, snapshot(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "lose manifest", "empty manifest", "odd manifest"])
def test_damage_is_named_and_an_older_one_taken(tmp_path, harm):
    checkpoint.write(tmp_path, snapshot(1))
    path = checkpoint.write(tmp_path, snapshot(2))
    file = path / ("manifest.json" if "manifest" in harm else "weights.safetensors")
    content = file.read_bytes()
    if harm.startswith("lose"):
        file.unlink()
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        file.write_bytes(
            {"flip": flipped, "cut": content[:-5], "empty manifest": b"", "odd manifest": b"[]"}[harm]
        )
    said = []
    assert checkpoint.find(tmp_path, said.append).name == "step-00000001"
    assert "step-00000002" in said[0] and file.name in said[0]
    checkpoint.write(tmp_path, snapshot(2))
    assert checkpoint.find(tmp_path, pytest.fail).name == "step-00000002"


def agreeing(path):
    """Writes the manifest anew, so that it agrees with whatever the files are."""
    files = {
        file.name: {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in path.iterdir()
        if file.name != "manifest.json"
    }
    (path / "manifest.json").write_text(json.dumps({"files": files}))


STATES = {
    "cut": "{",
    "deep": '{"a":' * 5000,
    "a list": "[]",
    "not UTF-8": b"\xff",
    "empty": "",
    "no samples": {"samples": ...},
    "no step": {"step": ...},
    "no config": {"config": ...},
    "another step": {"step": 7},
    "a step of text": {"step": "2"},
    "a step of truth": {"step": True},
    "negative samples": {"samples": -1},
    "samples of fractions": {"samples": 1.5},
    "endless time": {"elapsed": float("inf")},
    "no time": {"elapsed": None},
    "a config of text": {"config": "x"},
    "a config without options": {"config": {"model": "m"}},
    "a config of an odd model": {"config": {"model": 5, "options": {}}},
    "a scaler of text": {"scaler": "x"},
    "an odd scaler": {"scaler": {"scale": "x"}},
    "updates of text": {"ema_updates": "3"},
    "held-out losses of text": {"validation": "none"},
    "half of the held-out losses": {"validation": {"best": 1.0}},
    "a held-out loss that is none": {"validation": {"best": "1", "best_samples": 0, "since": 0}},
    "fractions of measurements": {"validation": {"best": None, "best_samples": 0, "since": 0.5}},
}


@pytest.mark.parametrize("harm", STATES.values(), ids=STATES)
def test_a_state_that_no_run_can_go_on_from_is_passed_over(tmp_path, harm):
    checkpoint.write(tmp_path, snapshot(1))
    path = checkpoint.write(tmp_path, snapshot(2))
    file = path / "state.json"
    if isinstance(harm, dict):
        values = json.loads(file.read_text()) | harm
        harm = json.dumps({name: value for name, value in values.items() if value is not ...})
    file.write_bytes(harm if isinstance(harm, bytes) else harm.encode())
    agreeing(path)
    said = []
    assert checkpoint.find(tmp_path, said.append).name == "step-00000001"
    assert len(said) == 1 and "step-00000002 is damaged: " in said[0] and "state.json" in said[0]
    assert "\n" not in said[0] and said[0].endswith("looking for an older one")
    assert checkpoint.newest_state(tmp_path) is not None


@pytest.mark.parametrize(
    "files",
    [{}, [], None, {"../x": {"size": 1, "sha256": ""}}, {"state.json": {}}, {"weights.safetensors": 5}],
    ids=str,
)
def test_a_manifest_that_lists_too_little_or_too_much(tmp_path, files):
    checkpoint.write(tmp_path, snapshot(1))
    path = checkpoint.write(tmp_path, snapshot(2))
    listed = json.loads((path / "manifest.json").read_text())["files"]
    if isinstance(files, dict) and files:
        files = listed | files
    (path / "manifest.json").write_text(json.dumps({"files": files}))
    said = []
    assert checkpoint.find(tmp_path, said.append).name == "step-00000001" and len(said) == 1


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "ema.safetensors"])
def test_tensors_that_are_none(tmp_path, name):
    checkpoint.write(tmp_path, snapshot(1))
    path = checkpoint.write(tmp_path, snapshot(2))
    (path / name).write_bytes(b"hello, this is no file of tensors")
    if name.startswith("ema"):  # it is not in the manifest
        assert "ema.safetensors" in checkpoint.inspect(path)
    agreeing(path)
    assert name in checkpoint.inspect(path)
    assert checkpoint.find(tmp_path, lambda message: None).name == "step-00000001"


def test_a_deep_manifest_and_a_file_in_place_of_a_folder(tmp_path):
    checkpoint.write(tmp_path, snapshot(1))
    path = checkpoint.write(tmp_path, snapshot(2))
    (path / "manifest.json").write_text("[" * 100_000)
    (tmp_path / "step-00000003").write_text("mine")
    said = []
    assert checkpoint.find(tmp_path, said.append).name == "step-00000001" and len(said) == 2


def test_only_damaged_ones_is_an_error(tmp_path):
    (checkpoint.write(tmp_path, snapshot(1)) / "state.json").write_text("{}")
    with pytest.raises(InputError, match="step-00000001.*--restart"):
        checkpoint.find(tmp_path, lambda message: None)


def test_none_is_no_error(tmp_path):
    assert checkpoint.find(tmp_path / "nothing", pytest.fail) is None


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, snapshot(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match="No space left.*untouched"):
        checkpoint.write(tmp_path, snapshot(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_kill_between_any_two_operations_of_a_save_loses_nothing(tmp_path):
    """The kill is an exception that nothing catches; afterwards there is a whole checkpoint, and nothing
    looks damaged.
    """

    survived, operation = [], 0
    while len(survived) == operation:
        operation, countdown = operation + 1, [-1]
        folder = tmp_path / str(operation)
        for step in (1, 2):
            checkpoint.write(folder, snapshot(step))
        with pytest.MonkeyPatch.context() as patch:
            for where, name in (
                (checkpoint, "save_file"),
                (checkpoint.os, "fsync"),
                (checkpoint.shutil, "rmtree"),
                (Path, "rename"),
                (Path, "write_text"),
                (Path, "mkdir"),
                (checkpoint.hashlib, "file_digest"),
            ):
                patch.setattr(where, name, dying(getattr(where, name), countdown))
            countdown[0] = operation
            try:
                checkpoint.write(folder, snapshot(3))
            except Killed:
                survived.append(operation)
        countdown[0] = -1
        assert checkpoint.find(folder, pytest.fail).name in ("step-00000002", "step-00000003")
        checkpoint.write(folder, snapshot(4))
        assert (
            sorted(p.name for p in folder.iterdir())[-1] == "step-00000004"
            and len(list(folder.iterdir())) == 2
        )
    assert len(survived) > 15


def test_nothing_in_it_is_a_pickle(tmp_path):
    path = checkpoint.write(tmp_path, snapshot(1))
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    assert set(json.loads((path / "manifest.json").read_text())["files"]) == {
        p.name for p in path.iterdir()
    } - {"manifest.json"}
