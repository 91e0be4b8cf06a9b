"""Readings on disk: nothing is made twice, nothing is mistaken for something else."""

import json

import numpy as np
import pytest

from codi.bench import make as making
from codi.bench.make import make, merged
from codi.bench.runs import SHOWN, Run, generate, parse_cell, read, render, seeds_of, truth_sampler
from codi.bench.store import Store
from codi.types import Modality
from codi.world import Reading, is_held_out, sample_scenes
from tests import tiny_pipeline
from tests.bench.perfect import Perfect, bench_of

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
RUN = parse_cell("text->image")


def facts(readings):
    return [r.facts for r in readings[IMAGE]]


def test_a_run_is_read_back_and_other_settings_are_not(tmp_path):
    run, scenes = parse_cell("text->audio+video"), sample_scenes(4, seed=7)
    readings, shown = generate(run, scenes, 0, truth_sampler, 3)
    store = Store(tmp_path, {"seed": 0})
    store.save(run, readings)
    store.show(run, shown)
    again = Store(tmp_path, {"seed": 0})
    found = again.load(run)
    assert [r.facts for r in found[VIDEO]] == [r.facts for r in readings[VIDEO]]
    assert all(
        np.allclose(a.events, b.events, atol=1e-4) for a, b in zip(found[AUDIO], readings[AUDIO], strict=True)
    )
    assert not Store(tmp_path, {"seed": 1}).load(run)[VIDEO] and not again.load(run.redrawn(1))[VIDEO]
    assert (
        np.array_equal(again.shown(run)[VIDEO], render(VIDEO, scenes[:3]))
        and len(read(AUDIO, render(AUDIO, scenes[:2]))) == 2
    )


def test_what_was_interrupted_goes_on_where_it_stopped(tmp_path):
    class Tired(Perfect):
        def sample(self, run, scenes, seeds):
            if self.samples >= 4:
                raise KeyboardInterrupt
            return super().sample(run, scenes, seeds)

    try:
        bench_of(tmp_path, Tired(), batch_size=2).readings(RUN, 7)
    except KeyboardInterrupt:
        pass
    model = Perfect()
    bench = bench_of(tmp_path, model, batch_size=2)
    assert bench.missing(RUN, 7) == 3
    assert (
        facts(bench.readings(RUN, 7)) == facts(bench_of(tmp_path / "other", Perfect()).readings(RUN, 7))
        and model.samples == 3
    )


def test_more_scenes_later_keep_those_that_are_there(tmp_path):
    model = Perfect()
    few = bench_of(tmp_path, model).readings(RUN, 3)
    many = bench_of(tmp_path, model).readings(RUN, 5)
    assert facts(many)[:3] == facts(few) and model.samples == 5
    assert len(bench_of(tmp_path, model).readings(RUN, 2)[IMAGE]) == 2 and model.samples == 5


def test_a_plan_makes_every_run_once_for_the_most_scenes_wanted(tmp_path):
    plan = [(RUN, 2), (parse_cell("text->text"), 3), (RUN, 5), (RUN, 1)]
    assert merged(plan) == {RUN: 5, parse_cell("text->text"): 3} and next(iter(merged(plan))) == RUN
    model = Perfect()
    make(bench_of(tmp_path, model), plan)
    assert model.samples == 8


def test_draws_never_share_a_seed_and_different_runs_never_a_name():
    run = parse_cell("text->video")
    seeds = [s for draw in (0, 1, 100, 101, 200) for s in seeds_of(run.redrawn(draw), 256, 2305)]
    assert len(set(seeds)) == len(seeds) and max(seeds) < 2**63
    base = dict(inputs=(TEXT, AUDIO), outputs=(VIDEO,))
    changes = [
        {},
        {"facts": ("shape",)},
        {"held_out": True},
        {"draw": 1},
        {"weights": (0.5, 0.5)},
        {"weights": (0.25, 0.75)},
        {"rival": True},
        {"turned": True},
        {"sync": False},
        {"sync_guidance": 2.0},
        {"sync_guidance": 1.0},
        {"candidates": 4},
        {"in_step": True},
        {"led": False},
    ]
    names = [Run(**base, **change).name for change in changes]
    truths = [
        Run(inputs=(), outputs=(AUDIO,), source=s, delay=d).name
        for s, d in (("truth", 0.0), ("truth", 0.125), ("autoencoder", 0.0))
    ]
    assert len(set(names + truths)) == len(names) + len(truths)
    assert [Run(**base, **change).plain for change in changes] == [True] + [False] * (len(changes) - 1)


def test_several_processes_make_what_one_makes(tmp_path):
    tiny_pipeline.pipeline().save_pretrained(tmp_path / "model")
    plan = [(parse_cell("text->image"), 2), (parse_cell("text->text"), 2)]
    found = []
    for workers in (1, 2):
        model = making.Model(str(tmp_path / "model"), device="cpu", steps=1)
        bench = bench_of(tmp_path / str(workers), model)
        make(bench, plan, workers)
        assert not any(bench.missing(run, count) for run, count in plan)
        found.append([[r.facts for r in bench.readings(run, 2)[run.outputs[0]]] for run, _ in plan])
    assert found[0] == found[1]


def test_a_file_that_was_cut_short_is_made_again(tmp_path):
    model = Perfect()
    whole = bench_of(tmp_path, model).readings(RUN, 3)
    (path,) = (tmp_path / "runs").glob("*/text_to_image.json")
    path.write_text(path.read_text()[:50])
    again = bench_of(tmp_path, model)
    assert again.missing(RUN, 3) == 3 and facts(again.readings(RUN, 3)) == facts(whole)
    assert model.samples == 6 and len(json.loads(path.read_text())["readings"]["image"]) == 3


def test_readings_are_kept_to_a_hundredth_of_a_millisecond_and_unknown_ones_as_unknown(tmp_path):
    store = Store(tmp_path, {})
    kept = [
        Reading(facts={"shape": "ball", "colour": None}, events=np.array([0.1234567, 1.0]), x=0.7654321),
        Reading(facts={"shape": None, "colour": None}),
    ]
    store.save(RUN, {IMAGE: kept})
    first, second = store.load(RUN)[IMAGE]
    assert first.facts == kept[0].facts and second.facts == kept[1].facts
    assert first.events.tolist() == [0.12346, 1.0] and first.x == 0.76543
    assert second.x is None and second.start is None and len(second.events) == 0


def test_a_value_is_made_once_and_again_only_if_its_file_is_spoilt(tmp_path):
    calls = []

    def make_value():
        calls.append(1)
        return {"n": len(calls)}

    store = Store(tmp_path, {"a": 1})
    assert [store.remember("value", make_value)["n"] for _ in range(3)] == [1, 1, 1]
    assert store.remember("other", make_value)["n"] == 2
    (store.folder / "value.json").write_text("{")
    assert store.remember("value", make_value)["n"] == 3
    assert json.loads((store.folder / "settings.json").read_text()) == {"a": 1}


def test_the_order_of_settings_does_not_matter_and_their_values_do(tmp_path):
    folder = lambda **settings: Store(tmp_path, settings).folder
    assert folder(a=1, b=None) == folder(b=None, a=1)
    assert len({folder(), folder(a=1), folder(a=2), folder(a="1"), folder(b=1)}) == 5


def test_a_few_samples_are_shown_also_sentences(tmp_path):
    store, run = Store(tmp_path, {}), parse_cell("image->text+image")
    scenes = sample_scenes(SHOWN + 2, seed=1)
    store.show(run, {m: render(m, scenes) for m in run.outputs})
    shown = store.shown(run)
    assert shown[TEXT].tolist() == render(TEXT, scenes)[:SHOWN] and len(shown[IMAGE]) == SHOWN


def test_controls_are_of_their_own_scenes_and_delays(tmp_path):
    bench = bench_of(tmp_path, Perfect(), num_scenes=2)
    assert set(bench.truth()) == set(bench.ceiling()) == set(Modality) and set(bench.truth(delay=0.1)) == {
        AUDIO
    }
    (late, *_), (own, *_) = bench.truth(delay=0.1)[AUDIO], bench.truth()[AUDIO]
    assert late.start - own.start == pytest.approx(0.1, abs=0.01)
    held_out = bench.scenes(held_out=True)
    assert all(map(is_held_out, held_out)) and not any(map(is_held_out, bench.scenes()))
    assert [r.facts["shape"] for r in bench.ceiling(held_out=True)[IMAGE]] == [s.shape for s in held_out]
    assert bench.model.samples == 0  # the model takes no part in them


def test_progress_is_told_batch_by_batch_and_only_of_what_is_made(tmp_path):
    reported = []
    bench = bench_of(tmp_path, Perfect(), batch_size=2)
    bench.readings(RUN, 5, reported.append)
    bench.readings(RUN, 6, reported.append)
    bench.readings(RUN, 6, reported.append)
    assert reported == [2, 2, 1, 1]
