"""The model under test: its media in the world's form, its settings, its partners, its towers, and the code
that decides what it gives.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import codi
from codi.bench.models import NUM_SAMPLES, Model
from codi.bench.runs import Run, parse_cell, prompts_of, read, render
from codi.bench.store import DECIDING, code_digest, deciding_files
from codi.types import EMBEDDED, InputError, Modality
from codi.world import sample_scenes
from tests import tiny_pipeline

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
SCENES, SEEDS = sample_scenes(2, seed=5), [11, 12]
# Files that check, carry or record what passes through them, and leave every number as it is.
# Reading of folders, and of controls, of which no run of the benchmark has any.
NEUTRAL = {
    "adapters/controls.py",
    "compose/folder.py",
    "controls/asked.py",
    "folder_checks.py",
    "tensor_files.py",
}
NEUTRAL |= {"adapters/mixin.py", "border.py", "callbacks.py", "calls.py", "io/gates.py", "pretrained.py"}
NEUTRAL |= {"protocols.py", "records.py", "renamed.py", "types.py"}
NEUTRAL |= {"upscaling.py"}  # no run of the benchmark makes anything larger


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Model(str(folder), device="cpu", steps=1)


# Media -----------------------------------------------------------------


def in_form(modality, batch):
    if modality is TEXT:
        return len(batch) == 2 and all(isinstance(text, str) for text in batch)
    shape = {IMAGE: (2, 3, 64, 64), VIDEO: (2, 16, 3, 64, 64), AUDIO: (2, NUM_SAMPLES)}[modality]
    return batch.shape == shape and batch.dtype == (torch.float32 if modality is AUDIO else torch.uint8)


@pytest.mark.parametrize("modality", list(Modality))
def test_media_come_back_through_the_autoencoders_in_the_form_of_the_world(model, modality):
    made = model.round_trip(modality, render(modality, SCENES))
    assert in_form(modality, made)
    assert len(read(modality, made)) == 2


def test_outputs_are_in_the_form_of_the_world_and_of_their_seeds(model):
    run = Run(inputs=(TEXT,), outputs=tuple(Modality))
    made = model.sample(run, SCENES, SEEDS)
    assert list(made) == list(Modality) and all(in_form(m, made[m]) for m in Modality)
    turned = model.sample(replace(run, outputs=(IMAGE,)), SCENES[::-1], SEEDS[::-1])
    again = model.sample(replace(run, outputs=(IMAGE,)), SCENES, SEEDS)
    assert (turned[IMAGE].flip(0).int() - again[IMAGE].int()).abs().max() <= 1
    assert not torch.equal(
        again[IMAGE], model.sample(replace(run, outputs=(IMAGE,)), SCENES, [13, 14])[IMAGE]
    )


def test_pixels_and_sounds_of_another_size_and_length_are_fitted(model):
    grey = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    (image,) = model.as_world(IMAGE, [grey])
    assert image.shape == (3, 64, 64) and (image == 100).all()
    (clip,) = model.as_world(VIDEO, [torch.stack([grey * k for k in range(3)])])  # at 8 frames a second
    assert clip.shape == (16, 3, 64, 64) and [int(frame.max()) for frame in clip[:4]] == [0, 100, 200, 200]
    (sound,) = model.as_world(AUDIO, [torch.ones(800)])
    assert sound.shape == (NUM_SAMPLES,) and sound[:800].min() == 1 and sound[800:].abs().max() == 0
    assert model.as_world(TEXT, ["a ball", "a box"]) == ["a ball", "a box"]


# Prompts and partners --------------------------------------------------


def test_weights_belong_to_their_prompts_also_in_the_opposite_order(model):
    run = Run(inputs=(TEXT, IMAGE), outputs=(IMAGE,))
    image = lambda **changes: model.sample(replace(run, **changes), SCENES, SEEDS)[IMAGE]
    first = image(weights=(1.0, 0.0))
    assert (first.int() - image(weights=(1.0, 0.0), turned=True).int()).abs().max() <= 1
    assert not torch.equal(first, image(weights=(0.0, 1.0)))
    assert torch.equal(image(weights=(1.0, 1.0)), image())


def test_an_input_in_time_stands_in_the_loop_unless_it_is_a_prompt_only(model):
    run = parse_cell("audio->video")
    synced, prompted = (model.sample(replace(run, sync=s), SCENES, SEEDS)[VIDEO].int() for s in (True, False))
    assert (synced - prompted).abs().max() > 10
    # Of two sounds the first is the partner: the second, of other scenes, is a prompt that weighs nothing.
    twice = replace(run, inputs=(AUDIO, AUDIO), rival=True, weights=(1.0, 0.0))
    assert (model.sample(twice, SCENES, SEEDS)[VIDEO].int() - synced).abs().max() <= 1


def test_what_an_output_attends_to_is_restored_even_after_an_error(model):
    parts = [model.pipe.environment_encoders, model.pipe.noisy_latent_encoders]
    before = [part.attends_to() for part in parts]
    with pytest.raises(RuntimeError, match="stop"), model.without_hearing(AUDIO):
        for part, partners in zip(parts, before):
            assert part.attends_to() == {m: found for m, found in partners.items() if m is not AUDIO}
        raise RuntimeError("stop")
    assert [part.attends_to() for part in parts] == before
    with model.without_hearing(None):
        assert [part.attends_to() for part in parts] == before


def test_scales_are_given_to_the_outputs_that_are_made(folder, model):
    def image(scale):
        other = Model(str(folder), device="cpu", steps=1, guidance=scale)
        other.pipe = model.pipe  # loaded once
        return other.sample(parse_cell("text->image"), SCENES, SEEDS)[IMAGE]

    three = image(3.0)
    assert torch.equal(image({"image": 3.0}), three) and torch.equal(
        image({"video": 2.0, "image": 3.0}), three
    )
    assert not torch.equal(image(1.0), three)
    assert torch.equal(image({"video": 2.0}), image(None))  # the model's own


# Settings --------------------------------------------------------------


def test_a_model_can_be_opened_again_from_its_options_and_loads_nothing_before_it_is_used(folder):
    first = Model(str(folder), device="cpu", dtype="bfloat16", steps=3, guidance=2.0, sync_guidance=1.5)
    again = Model(**first.options)
    assert again.options == first.options and again.fingerprint == first.fingerprint
    assert (again.steps, again.dtype, again.num_timesteps) == (3, torch.bfloat16, 1000)
    assert again.scales == {"guidance_scale": 2.0, "sync_guidance_scale": 1.5}
    assert isinstance(again.defaults, dict) and "pipe" not in vars(again)
    assert Model().name == EMBEDDED and first.name == str(folder)
    with pytest.raises(InputError, match="nowhere"):
        Model("./nowhere")


# Towers ----------------------------------------------------------------


def test_retrieval_is_measured_between_all_towers_in_both_directions(model):
    scenes = sample_scenes(6, seed=5)
    found = model.retrieval(scenes, batch_size=4)
    pairs = [("text", "image"), ("text", "audio"), ("text", "video"), ("image", "audio")]
    assert list(found) == [name for a, b in pairs for name in (f"{a}->{b}", f"{b}->{a}")]
    assert all(0 <= line["value"] <= 1 and 1 / 6 <= line["chance"] < 1 for line in found.values())
    assert found["image->audio"]["target"] == 0.7 and found["audio->text"]["target"] == 0.9
    assert found == model.retrieval(scenes, batch_size=6)
    tokens = model.embed(IMAGE, model.prepared(IMAGE, render(IMAGE, scenes)))
    assert tokens.shape == (6, tiny_pipeline.DIM)
    assert torch.allclose(tokens.norm(dim=1), torch.ones(6), atol=1e-4)


# The code that decides -------------------------------------------------


def test_every_file_that_takes_part_in_a_run_is_in_the_digest_of_the_code(model):
    """Readings of two versions would stand in one table where a file is missing."""
    root, called = Path(codi.__file__).parent, set()

    def note(frame, event, argument):
        called.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        for name in ("text->image+audio", "text+video->audio+text"):
            for modality, media in model.sample(parse_cell(name), SCENES, SEEDS).items():
                read(modality, media)
        prompts_of(parse_cell("video->audio"), SCENES)
        model.round_trip(VIDEO, render(VIDEO, SCENES))
    finally:
        sys.setprofile(None)
    ours = {Path(name) for name in called if name.startswith(str(root))}
    missing = {path.relative_to(root).as_posix() for path in ours - set(deciding_files())} - NEUTRAL
    assert len(ours) > 40 and not missing
    assert list(DECIDING) == sorted(DECIDING) and len(code_digest()) == 12
