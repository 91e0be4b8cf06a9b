"""What a run is: its name, cost, prompts and seeds, and that neither batches nor lengths change a sample."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from codi.bench.runs import (
    AUTOENCODER,
    SHOWN,
    TRUTH,
    Run,
    batches,
    delayed,
    generate,
    join,
    parse_cell,
    prompts_of,
    read,
    render,
    rival_of,
    seeds_of,
    truth_sampler,
)
from codi.types import InputError, Modality
from codi.world import VISIBLE, caption, parse, sample_scenes

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
SCENES = sample_scenes(7, seed=12)
CELL = Run(inputs=(TEXT,), outputs=(IMAGE,))


def test_a_cell_may_be_written_in_any_order_case_and_spacing():
    run = parse_cell(" Video + text->AUDIO+ image")
    assert run == Run(inputs=(TEXT, VIDEO), outputs=(IMAGE, AUDIO)) == parse_cell("text+video->image+audio")
    assert run.name == "text+video->image+audio" and run.plain and join(()) == ""


@pytest.mark.parametrize(
    "text, message",
    [
        ("text", "cell 'text' is not of the form inputs->outputs, such as text\\+audio->video"),
        (" ->image", "is not of the form inputs->outputs"),
        ("text->image->audio", "is not of the form inputs->outputs"),
        ("text+text->image", "'text\\+text->image' names a modality twice on one side: name each once"),
        ("text->image+image", "names a modality twice on one side"),
        ("text->smell", "unknown modality 'smell': expected one of text, image, audio, video"),
        ("text+->image", "unknown modality ''"),
    ],
)
def test_what_is_wrong_with_a_cell_is_said(text, message):
    with pytest.raises(InputError, match=message):
        parse_cell(text)


@pytest.mark.parametrize(
    "changes, name",
    [
        (dict(facts=("shape", "colour")), "text[shape,colour]->image"),
        (dict(held_out=True, draw=2), "text->image!~2"),
        (dict(inputs=(TEXT, TEXT), weights=(0.25, 0.75)), "text+text->image@weights 0.25,0.75"),
        (dict(rival=True, turned=True, sync=False), "text->image@rival@turned@no sync"),
        (dict(candidates=4, sync_guidance=1.5), "text->image@candidates 4@sync guidance 1.5"),
        (dict(deaf=AUDIO, in_step=True, led=False), "text->image@deaf audio@in step@no lead"),
        (dict(inputs=(), source=TRUTH, delay=0.125), "truth->image@delay 0.125"),
        (dict(inputs=(), source=AUTOENCODER), "autoencoder->image"),
    ],
)
def test_a_name_says_everything_that_sets_a_run_apart(changes, name):
    run = replace(CELL, **changes)
    assert run.name == name and not run.plain


def test_every_field_of_a_run_changes_its_name():
    """Readings are kept by name: a field that does not show there would mix up two runs."""
    changed = dict(inputs=(AUDIO,), outputs=(VIDEO,), facts=("shape",), held_out=True, draw=1, delay=0.5)
    changed |= dict(weights=(1.0,), rival=True, turned=True, sync=False, sync_guidance=2.0, candidates=2)
    changed |= dict(deaf=VIDEO, in_step=True, led=False)
    assert {f.name for f in fields(Run)} == {*changed, "source"}
    names = [replace(CELL, **{key: value}).name for key, value in changed.items()]
    assert len({*names, CELL.name}) == len(changed) + 1
    assert replace(CELL, inputs=(), source=TRUTH).name != replace(CELL, inputs=(), source=AUTOENCODER).name


def test_costs_add_up_over_outputs_and_candidates_and_the_truth_is_cheap():
    assert CELL.cost == 12 and parse_cell("image->text+image+audio+video").cost == 6 + 12 + 36 + 110
    assert replace(CELL, candidates=3).cost == 36
    assert Run(inputs=(), outputs=(VIDEO,), source=TRUTH, candidates=9).cost == 22
    assert Run(inputs=(), outputs=(TEXT,), source=TRUTH).cost == 1


def test_seeds_are_one_apart_and_do_not_depend_on_how_many_there_are():
    seeds = seeds_of(CELL.redrawn(3), 5, 2)
    assert seeds == [2_000_006 + 196_611 + k for k in range(5)]
    assert seeds_of(CELL.redrawn(3), 9, 2)[:5] == seeds and CELL.redrawn(3) == replace(CELL, draw=3)


@pytest.mark.parametrize("modality", [TEXT, IMAGE, AUDIO, VIDEO])
def test_ground_truth_is_read_as_the_facts_of_its_scenes(modality):
    for scene, reading in zip(SCENES, read(modality, render(modality, SCENES)), strict=True):
        assert {a: reading.facts[a] for a in VISIBLE[modality]} == {
            a: getattr(scene, a) for a in VISIBLE[modality]
        }


def test_prompts_are_of_the_scenes_and_only_the_last_one_of_their_rivals():
    run = Run(inputs=(TEXT, AUDIO, IMAGE), outputs=(VIDEO,), rival=True)
    (text, captions), (audio, sounds), (image, pictures) = prompts_of(run, SCENES)
    assert (text, audio, image) == run.inputs
    assert captions == [caption(scene) for scene in SCENES] and torch.equal(sounds, render(AUDIO, SCENES))
    rivals = [rival_of(scene) for scene in SCENES]
    assert torch.equal(pictures, render(IMAGE, rivals)) and not torch.equal(pictures, render(IMAGE, SCENES))
    (_, own), *_, (_, last) = prompts_of(replace(run, rival=False), SCENES)
    assert own == captions and torch.equal(last, render(IMAGE, SCENES))


def test_sentences_name_the_facts_that_are_asked_for_also_in_other_words():
    run = Run(inputs=(TEXT, TEXT), outputs=(IMAGE,), facts=("colour", "motion"))
    for _, sentences in prompts_of(run, SCENES):
        for scene, sentence in zip(SCENES, sentences):
            assert {k: v for k, v in parse(sentence).items() if v} == {
                "colour": scene.colour,
                "motion": scene.motion,
            }


def test_the_truth_is_the_scenes_whatever_the_seeds_and_sounds_may_come_late():
    run = Run(inputs=(), outputs=(IMAGE, AUDIO), source=TRUTH)
    plain, late = (truth_sampler(r, SCENES, [0] * 7) for r in (run, replace(run, delay=0.25)))
    assert torch.equal(plain[AUDIO], render(AUDIO, SCENES)) and torch.equal(late[IMAGE], plain[IMAGE])
    assert torch.equal(late[AUDIO], delayed(plain[AUDIO], 0.25))
    sounds = torch.arange(1.0, 32001)[None]
    assert torch.equal(delayed(sounds, 0.0), sounds) and sounds[0, 0] == 1  # what came in is not changed
    moved = delayed(sounds, 0.25)[0]
    assert (moved[:4000] == 0).all() and moved[4000:].tolist() == list(range(1, 28001))


def test_batches_only_divide_the_work():
    """Each scene keeps its seed and its place, whatever the size of a batch and wherever a run goes on."""
    asked = []

    def sampler(run, scenes, seeds):
        asked.append((scenes, seeds))
        return truth_sampler(run, scenes, seeds)

    whole, _ = generate(CELL, SCENES, 5, sampler, 16)
    parts = list(batches(CELL, SCENES, 5, sampler, 3, first=2))
    assert [len(scenes) for scenes, _ in asked] == [7, 3, 2]
    assert [s for scenes, _ in asked[1:] for s in scenes] == SCENES[2:]
    assert [s for _, seeds in asked[1:] for s in seeds] == seeds_of(CELL, 7, 5)[2:] == asked[0][1][2:]
    again = [reading.facts for made, _ in parts for reading in made[IMAGE]]
    assert again == [reading.facts for reading in whole[IMAGE]][2:]
    _, media = generate(CELL, SCENES, 5, truth_sampler, 4)
    assert np.array_equal(media[IMAGE], render(IMAGE, SCENES[:SHOWN]))
