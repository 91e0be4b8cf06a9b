"""What a run does: the same numbers however often it is stopped, clear ends, and what it leaves behind."""

import json
import math
import os
import random
import re
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from tests.training.line import Line
from training import checkpoint, loop
from training.log import BAR
from training.main import main
from training.schedule import learning_rate


def final(case):
    """Every tensor of the last checkpoint of a run."""
    found = checkpoint.find(case.run / "checkpoints", pytest.fail)
    return {
        f"{file.stem}/{name}": t
        for file in found.glob("*.safetensors")
        for name, t in load_file(file).items()
    }


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def losses(case):
    lines = [json.loads(line) for line in (case.run / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]  # and not the lines of held-out samples
    return [(line["samples"], line["loss"], line["grad_norm"], line["loss_by_bin"]) for line in trained]


def test_trains_logs_previews_and_exports(bench):
    case = bench()
    assert main(case.command("preview_every=48", "samples=1600", "options.infinite=true")) == 0
    lines = [json.loads(line) for line in (case.run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["samples"] == 1600 and lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert {"step", "lr", "samples_per_s", "grad_norm", "offset", "memory_mb"} <= lines[0].keys() and len(
        lines[0]["loss_by_bin"]
    ) == 10
    assert (case.run / "previews" / "0000000048" / "line.txt").exists() and (
        case.run / "previews" / "0000001600" / "line.txt"
    ).exists()
    exported, trained = load_file(case.model / "line" / "model.safetensors"), final(case)
    for name, tensor in exported.items():
        assert torch.equal(tensor, trained[f"ema/{name}"].half())
        assert not torch.equal(trained[f"ema/{name}"], trained[f"weights/{name}"])


def test_twice_n_is_n_and_n_to_the_bit(bench):
    whole, halves = bench("whole"), bench("halves")
    assert main(whole.command()) == 0
    for stop in (24, 56):
        interrupted_at(halves, stop)
    assert main(halves.command()) == 0
    assert same(final(whole), final(halves))
    assert losses(whole)[-1] == losses(halves)[-1]


def interrupted_at(case, samples):
    """Runs until `samples` are seen, then sends itself SIGTERM, as a cluster would."""

    def step(self, *arguments):
        result = original(self, *arguments)
        if self.samples == samples:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    original = loop.Trainer._step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", step)
        assert main(case.command()) == 130


def test_killed_at_random_moments_nothing_is_lost(bench):
    whole, killed = bench("whole"), bench("killed")
    settings = ("samples=1600", "checkpoint_every=8", "log_every=80")
    assert main(whole.command(*settings)) == 0
    rng, kills = random.Random(0), 0
    while kills < 20:
        process = killed.fork(*settings)
        before = newest(killed)
        wait(lambda: newest(killed) > before or not process.is_alive())  # noqa: B023
        time.sleep(rng.uniform(0, 0.02))
        kills += process.is_alive()
        process.kill()
        process.join()
        assert newest(killed) >= before
        assert not (killed.run / "exported.json").exists(), "the run is too short to be killed 20 times"
    assert main(killed.command(*settings)) == 0
    assert same(final(whole), final(killed))
    assert losses(whole)[-1] == losses(killed)[-1]


def wait(event, seconds=120):
    end = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < end
        time.sleep(0.004)


def newest(case):
    return max((path.name for path in (case.run / "checkpoints").glob("step-????????")), default="")


def test_the_same_command_when_complete(bench, capsys):
    case = bench()
    assert main(case.command()) == 0
    part = case.model / "line" / "model.safetensors"
    stamp, content = part.stat().st_mtime_ns, part.read_bytes()
    assert main(case.command()) == 0
    assert "complete at 96" in capsys.readouterr().err and part.stat().st_mtime_ns == stamp
    part.unlink()
    assert main(case.command()) == 0
    assert "exporting again" in capsys.readouterr().err and part.read_bytes() == content


def test_more_samples_go_on_and_restart_forgets(bench):
    case = bench()
    settings = ("lr_schedule=constant", "options.infinite=true")
    assert main(case.command("samples=48", *settings)) == 0
    assert main(case.command("samples=96", *settings)) == 0
    longer = final(case)
    assert main(case.command("samples=96", *settings, extra=("--restart",))) == 0
    assert same(longer, final(case))


def test_settings_of_the_optimizer_follow_the_configuration(bench):
    """A changed rate or decay acts after a resume; it must not be shadowed by what the checkpoint held."""
    case, other = bench(), bench("other")
    for each, decay in ((case, 0.0), (other, 0.5)):
        assert main(each.command("samples=48", "weight_decay=0")) == 0
        assert main(each.command("samples=96", f"weight_decay={decay}")) == 0
    assert not same(final(case), final(other))


def test_another_run_or_model_in_the_folder_is_refused(bench, capsys):
    case = bench()
    assert main(case.command("samples=48")) == 0
    before = final(case)
    other = f"model={case.folder}/other"
    for override in ("part.width=5", "seed=1", "options.length=38", other):
        assert main(case.command("samples=48", override)) == 2
        assert (
            f"belongs to another run ({override.partition('=')[0].replace('part.width', 'part')} was "
            in capsys.readouterr().err
        )
    assert same(before, final(case)) and not (case.folder / "other").exists()


def test_a_run_says_what_else_it_is_told_than_before(bench, capsys):
    case = bench()
    assert main(case.command("samples=48")) == 0
    assert main(case.command("samples=48")) == 0
    assert "other settings" not in capsys.readouterr().err
    assert (
        main(case.command("samples=96", "options.pause=0.001", f"model={os.path.relpath(case.model)}")) == 0
    )
    said = capsys.readouterr().err
    assert "other settings than before: samples was 48, now 96; options.pause was None, now 0.001\n" in said


def test_optimizer_state_of_another_model_is_refused(bench, capsys):
    case = bench()
    assert main(case.command("samples=48")) == 0
    path = checkpoint.find(case.run / "checkpoints", pytest.fail)
    snapshot = checkpoint.read(path)
    snapshot.optimizer["0.weight/exp_avg"] = torch.zeros(9, 9)
    checkpoint.write(path.parent, snapshot)
    assert main(case.command()) == 2
    assert "optimizer state" in (said := capsys.readouterr().err) and "0.weight" in said


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on(bench, capsys):
    whole, case = bench("whole"), bench()
    assert main(whole.command()) == 0
    assert main(case.command("checkpoint_every=32", "samples=64", "lr_schedule=cosine")) == 0
    (case.run / "checkpoints" / "step-00000008" / "ema.safetensors").write_bytes(b"")
    assert main(case.command("samples=64", "checkpoint_every=32")) == 0
    assert "step-00000008 is damaged: ema.safetensors" in capsys.readouterr().err


def test_a_number_that_is_not_finite_stops_and_names_the_sample(bench, capsys):
    case = bench()
    assert main(case.command("options.poison=23", "checkpoint_every=8")) == 1
    said = capsys.readouterr().err
    assert "loss is nan in step" in said and "samples [23]" in said
    assert all(torch.isfinite(t).all() for t in final(case).values() if t.is_floating_point())


def test_a_gradient_that_is_not_finite_stops_and_names_the_step(bench, capsys, monkeypatch):
    def loss(self, module, batch, generator):
        total, extras = original(self, module, batch, generator)
        if len(self.seen) > 24:
            # nothing is added, but its slope at zero is infinite
            total = total + (0 * module[0].weight.sum()).sqrt()
        return total, extras

    original, case = Line.loss, bench()
    monkeypatch.setattr(Line, "loss", loss)
    assert main(case.command("checkpoint_every=8")) == 1
    said = capsys.readouterr().err
    assert "gradient norm is nan in step 4, after 24 samples, at samples [" in said and "loss is" not in said
    assert newest(case) == "step-00000003" and all(torch.isfinite(t).all() for t in final(case).values())


def test_the_bar_shows_speed_and_the_time_left(bench, capsys):
    case = bench()
    interrupted_at(case, 24)
    (elapsed, left, speed), *_ = re.findall(
        r"line: .* 24/96 \[([\d:]+)<([\d:]+), +([\d.]+) samples/s", capsys.readouterr().err
    )
    assert len(elapsed) == len(left) == len("00:00") and float(speed) > 0
    assert "4/96 [00:20<07:40,  0.20 samples/s]" in tqdm.format_meter(
        4, 96, 20, unit=" samples", bar_format=BAR
    )


def test_the_budget_of_minutes_ends_a_run_properly(bench, capsys):
    case = bench()
    assert main(case.command("max_minutes=0.001", "options.pause=0.02", "samples=100000")) == 0
    assert (case.model / "line" / "model.safetensors").exists()
    assert main(case.command("max_minutes=0.001", "samples=100000")) == 0
    assert "is complete at" in capsys.readouterr().err


def test_errors_of_the_data_come_through(bench, monkeypatch):
    def broken(self, indices):
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr("tests.training.line.Points.fetch", broken)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        main(bench().command())


def test_two_runs_cannot_share_a_folder(bench, capsys):
    from training.folder import locked

    case = bench()
    with locked(case.run, True):
        assert main(case.command()) == 2
    assert "another run" in capsys.readouterr().err


def test_every_sample_once_per_epoch(bench):
    case = bench()
    seen = []

    def note(self, module, batch, generator):
        seen.extend(batch["index"].tolist())
        return original(self, module, batch, generator)

    original = Line.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "loss", note)
        assert main(case.command("samples=80", "options.length=40")) == 0
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40)) and seen[:40] != seen[40:]


def test_schedule(bench):
    config = bench().config("lr=1", "warmup=10", "samples=110", "final_lr_fraction=0.1")
    assert learning_rate(config, 5) == 0.5 and learning_rate(config, 10) == 1
    assert math.isclose(learning_rate(config, 60), 0.55) and math.isclose(learning_rate(config, 110), 0.1)
    assert learning_rate(bench("b").config("lr=1", "lr_schedule=constant", "warmup=0"), 95) == 1
