"""A checkpoint is whole or it is named; the last good one is never touched by a bad end."""

import json
from pathlib import Path

import pytest
import torch

from codi.types import InputError
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

    class Killed(BaseException):
        pass

    def dying(function):
        def call(*arguments, **named):
            countdown[0] -= 1
            if countdown[0] == 0:
                raise Killed
            return function(*arguments, **named)

        return call

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
                patch.setattr(where, name, dying(getattr(where, name)))
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
