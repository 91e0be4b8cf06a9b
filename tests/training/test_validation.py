"""Held-out samples: the same numbers every time, an end when they get no better, and the best model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_loop import final, interrupted_at, same
from training import checkpoint
from training.main import main

HELD_OUT = "data={validation: {manifests: [other points], samples: 20}}"
ON = (HELD_OUT, "validate_every=16", "ema=0")


def lines(case):
    """The log without what a clock says."""
    found = []
    for line in map(json.loads, (case.run / "log.jsonl").read_text().splitlines()):
        found.append({k: v for k, v in line.items() if k not in ("minutes", "samples_per_s", "memory_mb")})
    return found


def measured(case):
    return [line for line in lines(case) if "validation/loss" in line]


def trained(case):
    return [line for line in lines(case) if "loss" in line]


def test_what_trains_does_not_change_by_measuring(bench):
    plain, looking = bench("plain"), bench("looking")
    assert main(plain.command("ema=0")) == 0
    assert main(looking.command(*ON)) == 0
    assert same(final(plain), final(looking))
    assert trained(plain) == trained(looking)
    assert [line["samples"] for line in measured(looking)] == [16, 32, 48, 64, 80, 96]
    last = measured(looking)[-1]
    assert len(last["validation/loss_by_bin"]) == 10 and "validation/offset" in last
    assert last["validation/best_loss"] == min(line["validation/loss"] for line in measured(looking))


def test_every_measurement_has_the_same_samples_and_draws(bench):
    case = bench()
    assert main(case.command(*ON, "lr=1e-30", "weight_decay=0")) == 0
    assert len({line["validation/loss"] for line in measured(case)}) == 1


def test_the_held_out_loss_is_that_of_the_samples(bench):
    from training.config import load_config
    from training.stages import open_stage
    from training.validation import Validation

    config = load_config(bench().file, overrides=ON)
    stage = open_stage(config)
    module = stage.build().eval()
    by_size = []
    for size in (20, 8, 3):
        validation = Validation(config)
        validation.load(stage, size)
        assert validation.counts == [min(size, 20 - start) for start in range(0, 20, size)]
        points = torch.cat([batch["index"] for batch in validation.batches])
        assert points.tolist() == list(range(20))
        by_size.append(validation.measure(stage, module, torch.device("cpu"))["validation/loss"])
    clean = torch.sin(torch.arange(20.0) + 0.5)[:, None]
    expected = (module(clean) - (3 * clean - 1)).square().mean().item()
    assert by_size == pytest.approx([expected] * 3, rel=0.2)  # but for the noise of the loss


def test_every_measurement_is_of_what_the_end_of_the_run_learns(bench, monkeypatch):
    from training.config import load_config
    from training.stages import open_stage
    from training.validation import Validation

    config = load_config(bench().file, overrides=ON)
    stage = open_stage(config)
    module = stage.build().eval()
    seen, loss = [], type(stage).loss

    def noted(self, *given):
        seen.append(self.progress)
        return loss(self, *given)

    monkeypatch.setattr(type(stage), "loss", noted)
    validation = Validation(config)
    validation.load(stage, 20)
    for stage.progress in (0.0, 0.5):
        validation.measure(stage, module, torch.device("cpu"))
    assert seen == [1.0, 1.0] and stage.progress == 0.5


def worse_after(monkeypatch, samples):
    """Held-out losses fall until the run has seen so many samples, then rise."""
    from training.validation import Validation

    def note(self, values, seen, module):
        values["validation/loss"] = abs(seen - samples) / 100
        return original(self, values, seen, module)

    original = Validation.note
    monkeypatch.setattr(Validation, "note", note)


def test_a_run_stops_when_its_patience_ends_and_exports_the_best_model(bench, monkeypatch, capsys):
    worse_after(monkeypatch, 32)
    case, short = bench("long"), bench("short")
    best = (*ON, "patience=2", "keep_best=true", "lr_schedule=constant", "checkpoint_every=16")
    assert main(case.command(*best)) == 0
    said = capsys.readouterr().err
    assert "stopped early at 64 samples: 2 measurements" in said and "best model, that of 32" in said
    assert main(short.command("samples=32", "ema=0", "lr_schedule=constant")) == 0
    files = [each.model / "line" / "model.safetensors" for each in (case, short)]
    exported, expected = map(load_file, files)
    assert same(exported, expected)
    # the same command has nothing to do, unless what was exported is gone: then it is the best one again
    assert main(case.command(*best)) == 0 and "complete at 64" in capsys.readouterr().err
    files[0].unlink()
    assert main(case.command(*best)) == 0
    assert same(load_file(files[0]), expected)
    # with more patience the run goes on from where it stopped
    assert main(case.command(*best, "patience=9")) == 0
    assert measured(case)[-1]["samples"] == 96 and measured(case)[-1]["validation/best_samples"] == 32


def test_twice_n_is_n_and_n_with_held_out_samples(bench, monkeypatch):
    worse_after(monkeypatch, 40)
    settings = (HELD_OUT, "validate_every=24", "keep_best=true", "checkpoint_every=8")
    whole, halves = bench("whole"), bench("halves")
    for case in (whole, halves):
        case.file.write_text(case.file.read_text().replace("log_every: 16", "log_every: 8"))
    command = halves.command
    monkeypatch.setattr(halves, "command", lambda: command(*settings))
    assert main(whole.command(*settings)) == 0
    for stop in (32, 56):
        interrupted_at(halves, stop)
    assert main(halves.command()) == 0
    assert any(name.startswith("best/") for name in final(whole))
    assert same(final(whole), final(halves)) and lines(whole) == lines(halves)
    states = [checkpoint.newest_state(case.run / "checkpoints")["validation"] for case in (whole, halves)]
    assert states[0] == states[1] == {"best": 0.08, "best_samples": 48, "since": 2}
    exported = [load_file(case.model / "line" / "model.safetensors") for case in (whole, halves)]
    assert same(*exported)


def test_losses_on_other_held_out_samples_are_not_compared(bench):
    case = bench()
    assert main(case.command(*ON, "samples=48")) == 0
    other = "data={validation: {manifests: [other points, more of them], samples: 20}}"
    assert main(case.command(*ON, "samples=64", other)) == 0
    last = measured(case)[-1]
    assert last["validation/best_samples"] == 64 and last["validation/best_loss"] == last["validation/loss"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("validate_every=8",), "held-out samples in `data: {validation"),
        (("patience=3",), "patience is 3: expected off where validate_every is 0"),
        (("keep_best=true",), "keep_best is True: expected off"),
        (("validate_every=8", "data={validation: 3}"), "validation is 3: expected a mapping"),
        (("validate_every=8", "data={validation: {manifest: [a]}}"), "did you mean 'manifests'"),
        (("validate_every=8", "data={validation: {samples: 0}}"), "samples is 0: expected a whole number"),
    ],
)
def test_mistakes_are_named(bench, capsys, settings, words):
    assert main(bench().command(*settings)) == 2
    assert words in capsys.readouterr().err
