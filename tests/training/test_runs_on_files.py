"""Runs of real stages on media files: with decoding processes, from shards and tables, with mistakes in them,
in several processes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.manifest import Manifest
from data.shards import pack
from data.workers import _Worker
from tests.training import test_distributed
from tests.training.conftest import fork, fork_ranks
from tests.training.page import ROOT, command, in_what_the_page_leaves, of
from tests.training.test_loop import final, losses, newest, same, wait
from tests.training.test_refusals import said
from training import cache, checkpoint
from training.main import main

pytestmark = pytest.mark.slow

STEPS = ("samples=12", "log_every=4")


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    """What the page leaves."""
    yield from in_what_the_page_leaves(tmp_path_factory)


@pytest.fixture(scope="module")
def plain(trained):
    """Three steps of a real stage, from a manifest, decoded in the process that trains."""
    assert main(command("denoise_image", *STEPS, run="plain")) == 0
    return of("plain")


def finish(processes):
    return test_distributed.finish(processes, seconds=600)


def equal(one, two):
    return same(final(one), final(two)) and losses(one) == losses(two)


def previews(stage):
    return {
        path.suffix
        for path in (of(stage).run / "previews").rglob("*")
        if path.is_file() and path.stat().st_size
    }


def test_previews_are_of_the_kind_that_is_made():
    assert previews("denoise_image") == {".png"}
    assert previews("denoise_audio") == {".png", ".wav"}
    assert previews("denoise_video") == {".png", ".mp4"}


# Where samples come from -------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
def test_decoding_processes_change_nothing_even_when_one_is_killed(plain, monkeypatch, killed):
    def send(self, job):
        connection = original(self, job)
        jobs.append(self.pid)
        if killed and len(jobs) == 6:
            os.kill(self.pid, signal.SIGKILL)
        return connection

    original, jobs, run = _Worker.send, [], f"workers-{killed}"
    monkeypatch.setattr(_Worker, "send", send)
    assert main(command("denoise_image", *STEPS, "data.workers=2", run=run)) == 0
    assert len(jobs) >= 12 + killed and len(set(jobs)) == 2 + killed
    assert equal(plain, of(run)) and not (of(run).run / "bad.jsonl").exists()


def test_shards_give_what_their_manifest_gives(plain):
    paths = pack(Manifest("media/train.jsonl"), "shards", per_shard=4)
    assert len(paths) == 2
    assert (
        main(
            command("denoise_image", *STEPS, "data.manifests=[]", "data.shards=[shards/*.tar]", run="shards")
        )
        == 0
    )
    assert equal(plain, of("shards"))


def test_a_parquet_table_gives_what_its_rows_give_as_lines(plain):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    rows = [json.loads(line) for line in Path("media/train.jsonl").read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "media/train.parquet")
    assert main(command("denoise_image", *STEPS, "data.manifests=[media/train.parquet]", run="parquet")) == 0
    assert equal(plain, of("parquet"))


def test_bf16_trains_and_keeps_weights_in_float32(plain):
    assert finish([fork(command("denoise_image", *STEPS, "precision=bf16", run="bf16"))]) == [0]
    for (_, loss, norm, _), (_, half, norm_of_half, _) in zip(losses(plain), losses(of("bf16")), strict=True):
        assert abs(loss - half) < 0.05 * loss and 0 < abs(norm - norm_of_half) < 0.2 * norm
    assert {tensor.dtype for tensor in final(of("bf16")).values()} == {torch.float32}


# What is wrong with files ------------------------------------------------


def test_a_hundred_bad_rows_end_a_run_and_are_listed(capsys):
    Path("media/broken.png").write_bytes(b"not a picture")
    rows = [{"id": f"bad-{number}", "image": "broken.png", "caption": "none"} for number in range(120)]
    Path("media/all-bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(
            command(
                "autoencoder_image", "data.manifests=[media/all-bad.jsonl]", "model=my/new", run="all-bad"
            )
        )
        == 2
    )
    assert re.search(r"100 bad samples in a row, the last one bad-\d+: .*bad.jsonl", said(capsys))
    listed = [json.loads(line) for line in (of("all-bad").run / "bad.jsonl").read_text().splitlines()]
    assert len(listed) == len({row["id"] for row in listed}) == 100 and all(row["reason"] for row in listed)
    assert not Path("my/new").exists()


def row_without_its_file():
    Path("media/gone.jsonl").write_text(
        json.dumps({"id": "a", "image": "gone.png", "caption": "a red ball"}) + "\n"
    )
    return ["data.manifests=[media/gone.jsonl]"]


def captions_in_latin_1():
    Path("media/latin.jsonl").write_bytes(
        '{"image": "scene-0.png", "caption": "caf\u00e9"}\n'.encode("latin-1")
    )
    return ["data.manifests=[media/latin.jsonl]"]


def shard_cut_short():
    (path,) = pack(Manifest("media/train.jsonl"), "cut")
    path.write_bytes(path.read_bytes()[:5000])
    return ["data.manifests=[]", f"data.shards=[{path}]"]


def weights_that_are_missing():
    shutil.rmtree("my/model/image_autoencoder")
    return []


def cache_with_a_flipped_byte():
    assert cache.main(command("denoise_image", run="harmed")) == 0
    (path,) = Path("my/model-cache").glob("*/shard-00000.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return []


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (row_without_its_file, "gone.jsonl: row 1: no image file media/gone.png"),
        (captions_in_latin_1, "latin.jsonl: row 1 is not in UTF-8"),
        (shard_cut_short, "shard-000000.tar.* cut short"),
        (weights_that_are_missing, "my/model/image_autoencoder is missing: run autoencoder_image first"),
        (lambda: ["data.require=[]"], r"data: require is \[\]: leave it out, or add image, text"),
        (
            cache_with_a_flipped_byte,
            "shard-00000.safetensors was altered: its sha256 differs: run the encoding again",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_the_checkpoint_stays(
    plain, capsys, tmp_path, monkeypatch, harm, words
):
    run = shutil.copytree(plain.run, tmp_path / of("harmed").run)
    shutil.copytree("my/model", tmp_path / "my" / "model")
    for name in ("media", "configs"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    overrides = harm()
    capsys.readouterr()
    assert main(command("denoise_image", "samples=16", *overrides, run="harmed")) == 2
    assert re.search(words, said(capsys))
    assert (
        before
        and {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()} == before
    )


# Several processes -------------------------------------------------------


def test_two_processes_equal_one_and_resume_to_the_bit():
    settings = ("samples=24", "log_every=4", "checkpoint_every=4")
    assert main(command("denoise_image", *settings, "accumulate=2", run="one")) == 0
    assert finish(fork_ranks(command("denoise_image", *settings, run="two"))) == [0, 0]
    for (samples, loss, norm, _), (samples_2, loss_2, norm_2, _) in zip(
        losses(of("one")), losses(of("two")), strict=True
    ):
        assert samples == samples_2 and abs(loss - loss_2) < 1e-5 and abs(norm - norm_2) < 1e-5
    first, second = final(of("one")), final(of("two"))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    launch = checkpoint.read(checkpoint.find(of("two").run / "checkpoints", pytest.fail)).state["launch"]
    assert launch["distributed_type"] == "MULTI_CPU" and launch["processes"] == 2
    ranks = fork_ranks(command("denoise_image", *settings, run="halves"))
    wait(lambda: newest(of("halves")) >= "step-00000002", seconds=600)
    for rank in ranks:
        rank.kill()
    finish(ranks)
    assert not (of("halves").run / "exported.json").exists()
    assert finish(fork_ranks(command("denoise_image", *settings, run="halves"))) == [0, 0]
    assert same(final(of("two")), final(of("halves"))) and losses(of("two"))[-1] == losses(of("halves"))[-1]


def test_two_processes_fill_one_cache():
    arguments = [*command("denoise_audio", run="cached by two"), "--shard-size", "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "training.cache"]
    together = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = subprocess.run([*launch, *arguments], env=together, capture_output=True, text=True, timeout=600)
    assert out.returncode == 0, out.stderr
    (folder,) = map(Path, out.stdout.split())  # said once
    shards = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert (folder / "complete").is_file() and len(shards) == 3
    shutil.rmtree(folder)
    assert cache.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == shards
