"""Parts that are exported are whole: what was there, or what comes, and never a mixture or nothing."""

import json
import multiprocessing
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_pipeline
from tests.training.shared import Killed, dying
from training import folder as run_folder
from training.stages import common

WEIGHTS, SHARDED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-00001-of-00002.safetensors"


def part(value, size=16):
    found = tiny_pipeline.VisionTower(
        dict(tiny_pipeline.TRANSFORMER, hidden_size=size, image_size=32, patch_size=8), max_frames=4
    )
    with torch.no_grad():
        for tensor in found.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(value)
    return found


def check_whole(folder):
    """Every number is of one export, and so is the configuration; returns the number."""
    assert sorted(path.name for path in folder.iterdir() if path.name != "notes.md") == [
        "config.json",
        WEIGHTS,
    ]
    values = {
        float(v) for t in load_file(folder / WEIGHTS).values() if t.is_floating_point() for v in t.unique()
    }
    [value] = values
    assert json.loads((folder / "config.json").read_text())["vision_config"]["hidden_size"] == 16 * value
    return value


@pytest.mark.parametrize("exchanges", [True, False])
def test_files_of_others_stay_and_older_weights_go(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(common, "_exchange", lambda one, other: False)
    place = tmp_path / "model" / "part"
    common.export_part(part(1), place)
    (place / "notes.md").write_text("mine")
    (place / SHARDED).write_bytes(b"older")
    common.export_part(part(2, 32), place)
    assert check_whole(place) == 2 and (place / "notes.md").read_text() == "mine"
    assert [path.name for path in place.parent.iterdir()] == ["part"]


def test_a_part_that_is_a_link_is_written_where_it_is(tmp_path):
    common.export_part(part(1), tmp_path / "there")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "part").symlink_to(tmp_path / "there")
    common.export_part(part(2, 32), tmp_path / "model" / "part")
    assert check_whole(tmp_path / "there") == 2 and (tmp_path / "model" / "part").is_symlink()


def test_a_kill_between_any_two_operations_leaves_a_whole_part(tmp_path):
    operation, survived = 0, 0
    while survived == operation:
        operation += 1
        place, countdown = tmp_path / str(operation) / "part", [-1]
        common.export_part(part(1), place)
        (place / "notes.md").write_text("mine")

        with pytest.MonkeyPatch.context() as patch:
            for where, name in (
                (common.shutil, "copy2"),
                (common.shutil, "rmtree"),
                (common.os, "replace"),
                (common, "_exchange"),
                (common, "put_in_place"),
            ):
                patch.setattr(where, name, dying(getattr(where, name), countdown))
            countdown[0] = operation
            try:
                common.export_part(part(2, 32), place)
            except Killed:
                survived += 1
        assert check_whole(place) in (1, 2) and (place / "notes.md").is_file()
    assert survived >= 3


def export_many(place, value, until):
    torch.set_num_threads(1)
    mine = part(value, 16 * value)
    while time.time() < until:
        common.export_part(mine, place)


def test_runs_that_export_one_part_at_the_same_time(tmp_path):
    """Two processes, and a third that looks: it never meets a mixture, or nothing."""
    place = tmp_path / "part"
    common.export_part(part(1), place)
    until = time.time() + 3
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=export_many, args=(place, value, until)) for value in (1, 2)]
    for run in runs:
        run.start()
    while time.time() < until - 0.5:
        # a folder that was opened stays the same one, whatever takes its name
        opened = os.open(place, os.O_RDONLY)
        names = os.listdir(opened)
        os.close(opened)
        assert "config.json" in names or not names  # emptied, because another one has its name by now
        assert place.is_dir()
    runs[0].kill()
    for run in runs:
        run.join()
    assert check_whole(place) in (1, 2)


def test_exports_into_one_model_wait_for_each_other(tmp_path):
    config = SimpleNamespace(model=tmp_path / "model", output=tmp_path / "run", options={})
    config.output.mkdir()
    abandoned = config.model / f".part{common.EXPORTING}1-a"
    abandoned.mkdir(parents=True)
    inside = []

    def export(target):
        inside.append(True)
        assert len(inside) == 1 and not abandoned.exists()
        with pytest.raises(BlockingIOError):  # whoever else comes has to wait
            lock = os.open(target, os.O_RDONLY)
            run_folder.fcntl.flock(lock, run_folder.fcntl.LOCK_EX | run_folder.fcntl.LOCK_NB)
        os.close(lock)
        common.export_part(part(1), target / "part")
        inside.pop()

    run_folder.export_once(config, 8, export)
    assert run_folder.read_note(config.output)["files"] == ["part/config.json", f"part/{WEIGHTS}"]
    assert not run_folder.export_missing(config, 8)


def test_a_model_is_copied_part_by_part(tmp_path):
    common.export_part(part(1), tmp_path / "model" / "part")
    (tmp_path / "model" / "index.json").write_text("{}")
    shutil.copytree(tmp_path / "model" / "part", tmp_path / "model" / f".part{common.EXPORTING}1-a")
    shutil.copytree(tmp_path / "model" / "part", tmp_path / "model" / "left")
    common.export_part(part(2, 32), tmp_path / "into" / "part")
    common.copy_model(tmp_path / "model", tmp_path / "into", but=["left"])
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["index.json", "part"]
    assert check_whole(tmp_path / "into" / "part") == 1
