"""What a machine refuses, a GPU that is not there or a byte more on its disk, is one line and exit code 2;
what was saved stays.
"""

import re
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors import SafetensorError

from codi.models.denoisers import TextDenoiser
from codi.types import InputError
from tests.training.test_loop import final, newest, same
from training import folder
from training.engine import on_cpu
from training.main import main
from training.stages.common import export_part


@contextmanager
def no_file_above(size):
    """The system refuses to let files of this process grow beyond `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def said(capsys):
    """The error line; there is one, and nothing of a traceback."""
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    (line,) = [line for line in captured.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("size", "overrides", "words"),
    [
        (0, (), "cannot write: File too large"),  # the log
        (4000, ("log_every=0",), "cannot write checkpoint .*older checkpoints are untouched"),
    ],
)
def test_a_disk_that_takes_no_more_ends_a_run_in_one_line(bench, capsys, size, overrides, words):
    case, whole, settings = bench(), bench("whole"), ("lr_schedule=constant", "part.width=512")
    assert main(case.command("samples=48", *settings)) == 0
    before, name = final(case), newest(case)
    capsys.readouterr()
    with no_file_above(size):
        assert main(case.command(*settings, *overrides)) == 2
    assert re.search(words, said(capsys))
    assert (
        newest(case) == name
        and same(final(case), before)
        and not list((case.run / "checkpoints").glob("*.tmp"))
    )
    assert main(case.command(*settings)) == 0 and main(whole.command(*settings)) == 0
    assert same(final(case), final(whole))


def test_an_export_that_fails_leaves_the_part_that_was_there(tmp_path):
    torch.manual_seed(0)
    shape = dict(
        in_channels=4,
        context_dim=8,
        block_out_channels=(16,),
        second_dim=(4,),
        norm_num_groups=8,
        num_heads=2,
    )
    part = TextDenoiser(**shape)
    export_part(part, tmp_path / "part")
    before = {path.name: path.read_bytes() for path in (tmp_path / "part").iterdir()}
    changed = {name: tensor + 1 for name, tensor in part.state_dict().items()}
    part.load_state_dict(changed)
    with no_file_above(2000), pytest.raises((SafetensorError, OSError)) as caught:
        export_part(part, tmp_path / "part")
    assert "File too large" in folder.refusal(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "part").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert all(torch.equal(tensor, changed[name]) for name, tensor in part.state_dict().items())
    export_part(part, tmp_path / "part")
    assert {path.name: path.read_bytes() for path in (tmp_path / "part").iterdir()} != before


def test_other_errors_are_not_about_the_disk():
    assert (
        folder.refusal(OSError(2, "No such file or directory")) is None
        and folder.refusal(ValueError("x")) is None
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("override", "words"),
    [("device=cuda", "device is cuda, which asks for a GPU"), ("precision=fp16", "fp16, which needs a GPU")],
)
def test_a_gpu_that_is_not_there_is_said(bench, capsys, override, words):
    case = bench()
    assert main(case.command(override)) == 2
    assert words in said(capsys)
    assert main(case.command("device=cpu")) == 0


def test_more_processes_than_gpus_and_contradictions_are_said(bench, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert not on_cpu(bench().config()) and on_cpu(bench().config("device=cpu"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="there are 2: launch with --num_processes 2"):
        on_cpu(bench().config())
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert on_cpu(bench().config())
    with pytest.raises(InputError, match="launched for the CPU"):
        on_cpu(bench().config("device=cuda"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="DeepSpeed takes the GPUs"):
        on_cpu(bench().config("device=cpu"))
