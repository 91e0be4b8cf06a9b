"""Several threads may call one pipeline, and an interrupt ends only its own call."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests import tiny_pipeline

STEPS = 6
CALL = dict(outputs=["audio", "video"], num_inference_steps=STEPS, output_type="latent", start_offset=0.0)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline.pipeline()


def test_threads_make_what_they_make_alone(pipe):
    prompts = ["a red ball", "a blue ball", "a cube", "a ball at night"]
    alone = [pipe(text=text, seed=k, **CALL).latents for k, text in enumerate(prompts)]
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(pipe, text=text, seed=k, **CALL) for k, text in enumerate(prompts)]
        together = [call.result().latents for call in calls]
    assert all(torch.equal(a[m], b[m]) for a, b in zip(alone, together) for m in a)


def test_an_interrupt_ends_only_its_own_call(pipe):
    alone = pipe(text="a red ball", seed=1, **CALL).latents
    both_run, steps = threading.Barrier(2, timeout=60), {"interrupted": [], "other": []}

    def callback(name):
        def on_step(pipe, step, timestep, tensors):
            if step == 0:
                both_run.wait()
            steps[name].append((step, pipe.interrupt, pipe.num_timesteps))
            if name == "interrupted" and step == 1:
                pipe._interrupt = True
            if name == "other" and step == 1:
                ended.wait(60)  # the other call has been interrupted and has returned
            return {}

        return on_step

    ended = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(pipe, text="a red ball", seed=1, callback_on_step_end=callback("other"), **CALL)
        first = pool.submit(
            pipe, text="a blue cube", seed=2, callback_on_step_end=callback("interrupted"), **CALL
        )
        first.result()
        ended.set()
        whole = other.result().latents
    assert [step for step, _, _ in steps["interrupted"]] == [0, 1]
    assert steps["other"] == [(step, False, STEPS) for step in range(STEPS)]
    assert all(torch.equal(alone[m], whole[m]) for m in alone)


def test_an_interrupt_from_a_thread_without_a_call_ends_all_that_run(pipe):
    counts, started = [], threading.Event()

    def on_step(pipe, step, timestep, tensors):
        counts.append(step)
        started.set()
        stopped.wait(60)
        return {}

    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pipe, text="a red ball", seed=1, callback_on_step_end=on_step, **CALL)
        assert started.wait(60)
        pipe._interrupt = True
        stopped.set()
        running.result()
    assert counts == [0]
    assert pipe.interrupt  # of the latest call


def test_guidance_belongs_to_a_call(pipe):
    seen = {}

    def callback(scale):
        def on_step(pipe, step, timestep, tensors):
            both_run.wait()
            seen.setdefault(scale, set()).add(pipe.guidance_scale)
            return {}

        return on_step

    both_run = threading.Barrier(2, timeout=60)
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(
                pipe, text="a ball", seed=0, guidance_scale=s, callback_on_step_end=callback(s), **CALL
            )
            for s in (2.0, 5.0)
        ]
        for call in calls:
            call.result()
    assert seen == {2.0: {2.0}, 5.0: {5.0}}
