"""Agreement in time, measured on scenes whose events are known: what agrees, what does not, and every
control.
"""

import numpy as np
import pytest

from codi.bench.runs import Run, delayed, generate, render, truth_sampler
from codi.bench.timing import (
    AUDIO,
    BOTH,
    CURVE,
    VIDEO,
    InTime,
    Partners,
    drawn,
    onset_line,
    onsets,
    pair_of,
    with_strangers,
)
from codi.joint.sampler import JointSampler
from codi.types import Modality
from codi.world import Reading, sample_scenes
from tests import tiny_pipeline
from tests.bench.perfect import Perfect, bench_of

COUNT = 24


@pytest.fixture(scope="module")
def truth():
    return generate(BOTH, sample_scenes(COUNT, seed=7), 0, truth_sampler, 16)[0]


@pytest.fixture(scope="module")
def strangers():
    return generate(BOTH, sample_scenes(COUNT, seed=8), 0, truth_sampler, 16)[0]


def test_what_is_of_one_scene_agrees_and_no_floor_reaches_its_interval(truth, strangers):
    lines = with_strangers("joint", pair_of([truth, truth]), COUNT)
    joint, floor = lines["joint"], lines["joint, shuffled, best constant offset"]
    low, high = joint["intervals"]["125 ms"]
    assert (
        joint["samples"] == 2 * COUNT and low <= joint["f1"]["125 ms"] <= high and joint["f1"]["125 ms"] > 0.9
    )
    assert (
        floor["f1"]["125 ms"] >= lines["joint, shuffled partners"]["f1"]["125 ms"]
        and floor["f1"]["125 ms"] < low
    )
    assert (
        joint["bias_interval"][0] <= joint["bias"] <= joint["bias_interval"][1] and abs(joint["bias"]) < 0.03
    )
    apart = onset_line((onsets([truth], AUDIO), onsets([strangers], VIDEO)), COUNT)
    assert apart["f1"]["125 ms"] < low and np.all(np.diff(joint["curve"]) >= 0)


def test_a_delayed_sound_is_read_as_late_by_as_much(truth):
    scenes = sample_scenes(COUNT, seed=7)
    late = generate(
        Run(inputs=(), outputs=(AUDIO,), source="truth", delay=0.08), scenes, 0, truth_sampler, 16
    )[0]
    line = onset_line((onsets([late], AUDIO), onsets([truth], AUDIO)), COUNT)
    assert abs(line["bias"] - 0.08) < 0.01 and line["f1"]["50 ms"] < 0.2 < 0.8 < line["f1"]["125 ms"]
    sounds = render(AUDIO, scenes[:1])
    assert (delayed(sounds, 0.5)[:, :8000] == 0).all() and (
        delayed(sounds, 0.5)[:, 8000:] == sounds[:, :-8000]
    ).all()


def test_every_control_is_there_and_ground_truth_is_best_in_time(tmp_path):
    bench = bench_of(tmp_path, Perfect(), num_scenes=COUNT, batch_size=16)
    lines = InTime(count=COUNT, draws=2, four=1).score(bench)
    f1 = {name: line["f1"]["125 ms"] for name, line in lines.items()}
    moved = [f1[f"ground truth, sound {k} late"] for k in ("1 frame", "2 frames", "4 frames")]
    assert (
        f1["ground truth"] > max(moved) and f1["joint"] == f1["joint, within all four"] == f1["ground truth"]
    )
    assert {
        "independent",
        "independent, best constant offset",
        "environments off, same seeds",
        "joint, shuffled partners",
    } <= set(f1)
    cut = {f"joint, in step, the {what} hears nothing" for what in ("sound", "picture")}
    assert {"joint, in step"} | cut <= set(f1)
    partners = Partners(count=COUNT, draws=1).score(bench)
    assert (
        partners["video->audio"]["f1"]["125 ms"]
        > 0.9
        > partners["video->audio, shuffled partners"]["f1"]["125 ms"] + 0.2
    )
    assert {
        f"audio->video, {control}"
        for control in ("prompt only", "ground truth", "ground truth through autoencoder")
    } <= set(partners)


def test_an_output_alone_is_the_joint_one_without_environments_to_the_bit(monkeypatch):
    """So that the control costs nothing: the readings of outputs alone, with the seeds of the joint run, are
    those of environments off.
    """
    pipe, call = (
        tiny_pipeline.pipeline(),
        dict(text="a red ball", seed=[5], num_inference_steps=2, output_type="latent"),
    )
    alone = {m: pipe(outputs=[m], **call).latents[m] for m in (AUDIO, VIDEO)}
    together = pipe(outputs=[AUDIO, VIDEO], **call).latents
    for ear in ("encode_environments", "estimate_partners"):
        monkeypatch.setattr(JointSampler, ear, lambda self, index, latents: {})
    deaf = pipe(outputs=[AUDIO, VIDEO], **call).latents
    for m in (AUDIO, VIDEO):
        assert deaf[m].equal(alone[m]) and not together[m].equal(alone[m])


def test_runs_of_a_pair_never_share_a_seed_when_independence_is_claimed():
    runs = InTime(count=1, draws=3).runs
    assert runs["audio"][1].draw not in {run.draw for run in runs["video"]} and [
        r.draw for r in runs["joint"]
    ] == [0, 1, 2]
    assert all(Modality.TEXT in run.inputs for group in runs.values() for run in group)


# Closed forms ----------------------------------------------------------


def at(*times):
    return np.array(times, dtype=float)


def test_a_line_of_known_offsets():
    """Of three events the sound has two, 30 ms late and 10 ms early, and one that no picture shows."""
    pictures, sounds = [at(0.3, 0.9, 1.5), at(0.2)], [at(0.33, 0.89, 1.2), at(0.2)]
    line = onset_line((sounds, pictures), 2)
    assert line["f1"] == {name: pytest.approx(3 / 4) for name in ("50 ms", "62.5 ms", "125 ms")}
    assert line["bias"] == pytest.approx(0.02 / 3) and line["mae"] == pytest.approx(0.04 / 3)
    assert line["precision"] == line["recall"] == 3 / 4 and line["count_accuracy"] == 1.0
    assert sorted(line["offsets"]) == [-0.01, 0.0, 0.03] and line["samples"] == 2
    assert line["curve"][0] == pytest.approx(2 / 4) and len(line["curve"]) == len(CURVE) == 25
    assert CURVE[2] == 0.03 and line["curve"][2] == pytest.approx(3 / 4)


def test_silence_has_no_bias_and_agrees_with_nothing():
    line = onset_line(([at()] * 3, [at(0.5)] * 3), 3)
    assert line["f1"]["125 ms"] == 0 and line["offsets"] == [] and np.isnan(line["bias"])
    with pytest.raises(AssertionError, match="3 sounds, 3 clips, 2 scenes"):
        onset_line(([at()] * 3, [at(0.5)] * 3), 2)


@pytest.mark.parametrize("moved, sign", [(AUDIO, 1), (VIDEO, -1)])
def test_the_floor_moves_the_side_that_was_made(moved, sign):
    """Positive is late sound, whichever side was made."""
    ordered = lambda own, other: (own, other) if moved is AUDIO else (other, own)
    near = with_strangers("x", ordered([at(0.6)] * 4, [at(0.5)] * 4), 4, moved=moved)
    assert list(near) == ["x", "x, shuffled partners", "x, shuffled, best constant offset"]
    assert near["x"]["bias"] == pytest.approx(sign * 0.1) == near["x, shuffled partners"]["bias"]
    far = with_strangers("x", ordered([at(0.8)] * 4, [at(0.5)] * 4), 4, moved=moved)
    best = far["x, shuffled, best constant offset"]
    assert far["x"]["f1"]["125 ms"] == 0.0 and best["f1"]["125 ms"] == 1.0
    assert -0.43 < best["offset"] < -0.17 and best["bias"] == pytest.approx(sign * (0.3 + best["offset"]))


def test_draws_are_numbered_on_and_onsets_stand_draw_after_draw():
    assert [run.draw for run in drawn(BOTH.redrawn(5), 3)] == [5, 6, 7] and drawn(BOTH, 0) == []
    made = [{AUDIO: [Reading(facts={}, events=at(t))]} for t in (0.1, 0.2)]
    assert [events.tolist() for events in onsets(made, AUDIO)] == [[0.1], [0.2]]


def test_scenes_with_all_their_draws_are_what_is_resampled():
    """Draws that repeat each other narrow no interval; as scenes of their own they would."""
    rng = np.random.default_rng(0)
    pictures = [at(0.5)] * 6
    sounds = [at(0.5 + offset) for offset in rng.uniform(-0.12, 0.12, 6)]
    once = onset_line((sounds, pictures), 6)
    thrice = onset_line((sounds * 3, pictures * 3), 6)
    apart = onset_line((sounds * 3, pictures * 3), 18)
    width = lambda line: line["bias_interval"][1] - line["bias_interval"][0]
    assert width(thrice) == pytest.approx(width(once)) and width(apart) < 0.75 * width(once)
    assert thrice["intervals"] == once["intervals"]


def test_a_given_sound_is_the_partner_of_every_clip_that_is_made():
    runs = Partners(count=2, draws=3).runs
    assert [run.draw for run in runs["audio->video"]] == [0, 1, 2] and all(
        r.sync for r in runs["video->audio"]
    )
    (prompted,) = runs["audio->video, prompt only"]
    assert prompted.inputs == (AUDIO,) and not prompted.sync and len(Partners(count=2, draws=3).plan()) == 8
