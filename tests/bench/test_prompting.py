"""Prompts that disagree, that agree, and their order: the measure, and what the embedded model does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from codi.bench.choosing import CANDIDATES, Selection
from codi.bench.prompting import (
    COMPLETIONS,
    CONFLICTS,
    WEIGHTS,
    Prompting,
    completion_lines,
    conflict_line,
    follow_rows,
    redundancy_line,
)
from codi.bench.runs import Run, generate, parse_cell, prompts_of, rival_of, truth_sampler
from codi.types import Modality
from codi.world import ATTRIBUTES, is_held_out, read_images, sample_scenes
from tests.bench.perfect import Perfect, bench_of

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
SCENES = sample_scenes(16, seed=4)


def test_a_rival_differs_in_everything_and_is_always_the_same():
    for scene in SCENES:
        rival = rival_of(scene)
        assert (
            all(getattr(rival, a) != getattr(scene, a) for a in ATTRIBUTES)
            and not is_held_out(rival)
            and rival == rival_of(scene)
        )


def test_the_second_of_two_texts_uses_other_words_or_describes_the_rival():
    (_, first), (_, second) = prompts_of(Run(inputs=(TEXT, TEXT), outputs=(IMAGE,)), SCENES)
    assert first != second and len(set(second)) > 1
    (_, first), (_, second) = prompts_of(CONFLICTS[0], SCENES)
    assert all(rival_of(s).colour not in a for s, a in zip(SCENES, first)) and first != second


def readings_of(scenes):
    return generate(Run(inputs=(TEXT,), outputs=(IMAGE,)), scenes, 0, truth_sampler, 16)[0]


def test_following_is_monotone_or_found_out():
    own, rival = readings_of(SCENES), readings_of([rival_of(s) for s in SCENES])
    assert (
        follow_rows(CONFLICTS[0], own, SCENES, TEXT).mean()
        > 0.95
        > 0.05
        > follow_rows(CONFLICTS[0], rival, SCENES, TEXT).mean()
    )
    half = {IMAGE: own[IMAGE][:8] + rival[IMAGE][8:]}
    line = conflict_line(CONFLICTS[0], [own, own, half, rival, rival], SCENES)
    assert (
        line["monotone"]
        and line["largest_fall"]["value"] <= 0
        and np.all(np.diff([x["value"] for x in line["second"]]) >= 0)
    )
    backwards = conflict_line(CONFLICTS[0], [own, rival, half, half, rival], SCENES)
    assert not backwards["monotone"] and backwards["largest_fall"]["low"] > 0


def test_a_prompt_that_makes_results_worse_is_found_out():
    own, rival, base = (
        readings_of(SCENES),
        readings_of([rival_of(s) for s in SCENES]),
        parse_cell("text->image"),
    )
    assert (
        redundancy_line(base, IMAGE, own, rival, SCENES)["hurts"]
        and not redundancy_line(base, IMAGE, own, own, SCENES)["hurts"]
    )
    assert not redundancy_line(base, IMAGE, rival, own, SCENES)["hurts"]


def test_a_prompt_that_is_not_followed_is_found_out():
    """Sounds of other scenes that look alike follow the picture and not the sentence."""
    (run, _), looks = COMPLETIONS, ("shape", "colour", "place")
    still = [replace(scene, motion=rival_of(scene).motion, tempo=rival_of(scene).tempo) for scene in SCENES]
    readings = generate(run, still, 0, truth_sampler, 16)[0]
    text, image = completion_lines(run, readings, SCENES)
    assert (
        text["followed"]["value"] < 0.05
        and image["followed"]["value"] > 0.95
        and tuple(image["names"]) == looks
    )


def test_the_section_of_a_perfect_model(tmp_path):
    bench = bench_of(tmp_path, Perfect(), num_scenes=6)
    parts = Prompting(count=6).score(bench)
    assert len(parts["conflict"]) == 4 and all(
        line["monotone"] and line["second"][-1]["value"] > 0.8 for line in parts["conflict"]
    )
    assert len(parts["redundancy"]) == 14 and not any(line["hurts"] for line in parts["redundancy"])
    assert [line["same"] for line in parts["order"]] == [1.0, 1.0]
    said = [(line["output"], line["prompt"], line["names"]) for line in parts["completion"]]
    assert (
        said[:2] == [("audio", "text", ["motion", "tempo"]), ("audio", "image", ["shape", "colour", "place"])]
        and len(said) == 4
    )
    assert all(line["followed"]["value"] > 0.8 > line["chance"] for line in parts["completion"])
    chosen = Selection(count=6).score(bench)
    asked = [(prompt, n) for prompt in ("full caption", "shape alone") for n in (1, CANDIDATES)]
    assert [(line["prompt"], line["candidates"]) for line in chosen] == asked
    assert all(chosen[k]["gain"]["f1"]["value"] == 0 for k in (1, 3))


@pytest.fixture(scope="module")
def pipe():
    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, columns, weights):
    """Pictures of the embedded model from columns of captions or pictures, as the probe reads them."""
    with torch.no_grad():
        tokens = pipe.mix_prompts(
            [(m, pipe.model.towers[m].embed(pipe_input(m, column))) for m, column in columns], weights
        )
    out = pipe(
        outputs="image",
        num_samples=len(tokens),
        seed=0,
        prompt_embeds=tokens,
        output_type="pt",
        num_inference_steps=6,
    )
    return {IMAGE: read_images(torch.stack(out.images))}


def pipe_input(modality, column):
    return column if modality is TEXT else column.float() / 127.5 - 1


def test_the_embedded_model_follows_the_heavier_prompt_and_none_that_agrees_hurts(pipe):
    """In pictures, which cost little. The report has the other outputs and intervals."""
    columns = prompts_of(CONFLICTS[0], SCENES)
    made = [drawn(pipe, columns, (1 - w, w)) for w in (WEIGHTS[0], WEIGHTS[2], WEIGHTS[-1])]
    line = [
        follow_rows(CONFLICTS[0], readings, [rival_of(s) for s in SCENES], TEXT).mean() for readings in made
    ]
    assert line[0] < 0.2 and line[0] < line[1] < line[2] and line[2] > 0.7
    both = drawn(pipe, prompts_of(Run(inputs=(TEXT, IMAGE), outputs=(IMAGE,)), SCENES), (1.0, 1.0))
    alone, more = (follow_rows(CONFLICTS[0], readings, SCENES, TEXT).mean() for readings in (made[0], both))
    assert more >= alone - 0.05


def test_the_order_of_prompts_does_not_matter(pipe):
    def latents(**prompts):
        return pipe(
            outputs=["image"], seed=3, num_inference_steps=2, output_type="latent", **prompts
        ).latents[IMAGE]

    words = ["a red ball", "at night", "a blue box"]
    assert torch.allclose(latents(text=words), latents(text=words[::-1]), atol=1e-3)
    assert not torch.allclose(latents(text=words), latents(text=words[:2]), atol=1e-2)
