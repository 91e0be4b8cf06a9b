"""The parts of a model under their modalities: what it can take and make, at which sizes, what it says."""

import pytest
import torch
from torch import nn

from codi.models.codi import AUTOENCODERS, DENOISERS, TOWERS, CoDiModel, HookedEncoder
from codi.models.denoisers import UNetDenoiser
from codi.types import InputError, Modality
from tests import tiny_pipeline
from tests.models.shared import drawn

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
OPEN = dict(height=None, width=None, num_frames=None, fps=None, audio_length_in_s=None)


@pytest.fixture(scope="module")
def components():
    return {name: part for name, part in tiny_pipeline.pipeline().components.items() if name != "scheduler"}


@pytest.fixture(scope="module")
def model(components):
    return CoDiModel(components)


def without(components, *names):
    return CoDiModel({name: None if name in names else part for name, part in components.items()})


def test_every_part_stands_under_the_modalities_that_it_serves(components, model):
    assert set(model.autoencoders) == set(model.towers) == set(model.denoisers) == set(Modality)
    assert model.denoisers[IMAGE] is model.denoisers[VIDEO] is components["vision_denoiser"]
    assert model.towers[VIDEO] is components["vision_tower"]
    for table, parts in (
        (AUTOENCODERS, model.autoencoders),
        (TOWERS, model.towers),
        (DENOISERS, model.denoisers),
    ):
        assert all(part is components[table[m]] for m, part in parts.items())
    assert model.context_dim == tiny_pipeline.DIM
    assert {m: set(others) for m, others in model.attends_to.items()} == {
        m: set(Modality) - {m} for m in Modality
    }


def test_missing_parts_are_missing_modalities(components):
    less = without(components, "vision_denoiser", "audio_tower", "text_autoencoder", "environment_encoders")
    assert set(less.denoisers) == {TEXT, AUDIO} and AUDIO not in less.towers
    assert set(less.specs) == {IMAGE, AUDIO}  # of a clip the denoiser knows the length
    assert less.attends_to == less.environment_encoders == {} and less.attended(Modality) == set()
    assert without(components, "noisy_latent_encoders").estimating(Modality) == set()


def test_a_denoiser_without_temporal_layers_makes_no_clips(components):
    still = UNetDenoiser(
        in_channels=4, block_out_channels=(16,), attention_levels=(), norm_num_groups=8, context_dim=32
    )
    assert set(CoDiModel({**components, "vision_denoiser": still}).denoisers) == {TEXT, IMAGE, AUDIO}


def test_parts_that_keep_no_contract_are_refused(components):
    for name, contract in (
        ("text_tower", "PromptEncoder"),
        ("image_autoencoder", "Autoencoder"),
        ("audio_denoiser", "Denoiser"),
    ):
        message = f"{name} is of class Linear: expected one that inherits from codi.protocols.{contract}"
        with pytest.raises(InputError, match=message):
            CoDiModel({**components, name: nn.Linear(1, 1)})


def test_parts_of_two_prompt_spaces_are_noticed(components):
    other = UNetDenoiser(in_channels=4, block_out_channels=(32,), attention_levels=(), context_dim=48)
    with pytest.raises(AssertionError, match=r"disagree about the width of the prompt space: \[32, 48\]"):
        _ = CoDiModel({**components, "audio_denoiser": other}).context_dim


def test_who_is_attended_to_and_who_gives_estimates(components, model):
    assert model.attended([AUDIO]) == model.estimating([AUDIO]) == {TEXT, IMAGE, VIDEO}
    assert model.attended([AUDIO, VIDEO]) == set(Modality) and model.attended([]) == set()


@pytest.mark.parametrize(
    ("missing", "call", "message"),
    [
        (
            "audio_denoiser",
            ([], [AUDIO], []),
            "cannot make audio: it makes text, image, video .of audio it lacks the denoiser",
        ),
        (
            "image_autoencoder",
            ([], [VIDEO], []),
            "cannot make video: it makes text, audio .of video it lacks the autoencoder",
        ),
        ("audio_tower", ([TEXT, AUDIO], [IMAGE], []), "takes no audio prompt: it takes text, image, video"),
        ("environment_encoders", ([], [VIDEO], [AUDIO]), "audio cannot be held in step: expected an input"),
        ("audio_autoencoder", ([], [VIDEO], [AUDIO]), "audio cannot be held in step: expected an input"),
        (
            None,
            ([], [VIDEO, AUDIO], [AUDIO]),
            "audio cannot be held in step: expected an input that is no output",
        ),
    ],
)
def test_what_these_parts_cannot_do_is_said(components, missing, call, message):
    with pytest.raises(InputError, match=message):
        without(components, missing).check(*call)
    without(components).check(call[0], call[1], [m for m in call[2] if m not in call[1]])


def test_without_any_denoiser_nothing_is_made(components):
    with pytest.raises(InputError, match="cannot make text: it makes nothing .of text it lacks the denoiser"):
        without(components, *set(DENOISERS.values())).check([], [TEXT], [])
    with pytest.raises(InputError, match="it makes nothing$"):
        CoDiModel({}).check([], [TEXT], [])


def test_geometry_is_that_of_the_parts(model):
    assert model.specs[IMAGE].raw_shape == (3, 32, 32) and model.specs[IMAGE].latent_shape == (4, 8, 8)
    assert model.specs[VIDEO].raw_shape == (4, 3, 32, 32) and model.specs[VIDEO].rate == 8
    assert model.specs[AUDIO].duration == 0.5 and model.specs[AUDIO].latent_rate == 100
    assert model.prompt_specs == model.specs


def test_other_sizes_change_what_has_them(model):
    sized = model.sized(height=16, num_frames=2, fps=4, audio_length_in_s=0.25)
    assert sized[IMAGE].raw_shape == (3, 16, 32) and sized[IMAGE].latent_shape == (4, 4, 8)
    assert sized[VIDEO].raw_shape == (2, 3, 16, 32) and sized[VIDEO].latent_shape == (4, 2, 4, 8)
    assert sized[VIDEO].rate == sized[VIDEO].latent_rate == 4
    assert sized[AUDIO].raw_shape == (4000,) and sized[AUDIO].latent_shape == (4, 25, 4)
    assert sized[TEXT] == model.specs[TEXT] and model.sized(**OPEN) == model.specs
    with pytest.raises(AssertionError, match="unknown sizes among .'depth'"):
        model.sized(depth=3)


@pytest.mark.parametrize(
    ("asked", "made", "found"),
    [
        ({}, [AUDIO, VIDEO], {}),
        (dict(audio_length_in_s=0.25), [AUDIO, VIDEO], dict(audio_length_in_s=0.25, num_frames=2)),
        (dict(num_frames=2), [AUDIO, VIDEO], dict(num_frames=2, audio_length_in_s=0.25)),
        (
            dict(num_frames=2, audio_length_in_s=0.5),
            [AUDIO, VIDEO],
            dict(num_frames=2, fps=4, audio_length_in_s=0.5),
        ),
        (dict(audio_length_in_s=0.25), [VIDEO], dict(num_frames=2)),  # of the clip, since no sound is made
        (dict(audio_length_in_s=0.25), [AUDIO], dict(audio_length_in_s=0.25)),
    ],
)
def test_what_is_left_open_follows_so_that_lengths_agree(model, asked, made, found):
    assert model.settle_sizes(OPEN | asked, made) == (OPEN | found, [])


def test_lengths_that_are_free_stay_as_they_are_named(model):
    asked = OPEN | dict(num_frames=4, fps=2, audio_length_in_s=0.25)
    assert model.settle_sizes(asked, [AUDIO, VIDEO], "free") == (asked, [])
    with pytest.raises(
        InputError, match="lengths differ: 4 frames at 2 per second last 2 s, the sound lasts 0.25 s"
    ):
        model.settle_sizes(asked, [AUDIO, VIDEO])


def test_what_had_to_be_cut_is_said(model):
    sizes, notes = model.settle_sizes(OPEN | dict(fps=16), [AUDIO, VIDEO])
    assert sizes == OPEN | dict(fps=16, num_frames=4, audio_length_in_s=0.25)
    assert notes == ["clip and sound last 0.25 s each, as long as both can: 4 frames at 16 per second"]


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan"), True, "1"])
def test_lengths_that_are_no_numbers_above_zero_are_refused(model, seconds):
    with pytest.raises(InputError, match="audio_length_in_s is .*: expected a number above 0"):
        model.settle_sizes(OPEN | dict(audio_length_in_s=seconds), [VIDEO])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(height=30), "height is 30: expected whole pixels that divide by 4"),
        (dict(num_frames=5), "num_frames is 5: expected"),
        (dict(audio_length_in_s=2.0), "audio_length_in_s is 2.0: expected .* at most 0.5 s"),
    ],
)
def test_a_size_that_cannot_be_is_named_as_it_was_given(model, asked, message):
    with pytest.raises(InputError, match=message):
        model.settle_sizes(OPEN | asked, [AUDIO, VIDEO])
    with pytest.raises(InputError, match="lengths is 'loose': expected 'agree' or 'free'"):
        model.settle_sizes(OPEN, [AUDIO], "loose")


def test_what_is_not_as_in_training_is_said_once(model):
    say = lambda made, **sizes: model.untrained(model.sized(**sizes), made)
    assert say([IMAGE, VIDEO]) is None and say([TEXT], height=16) is None
    assert say([IMAGE, VIDEO], height=16) == "made at 16 x 32; this model was trained at 32 x 32"
    assert say([VIDEO, AUDIO], fps=4, audio_length_in_s=0.25) == (
        "made at 0.25 s of sound, 4 frames at 4 per second; "
        "this model was trained at 0.5 s of sound, 4 frames at 8 per second"
    )


def test_hooks_of_a_component_act_before_each_of_its_encoders(components, model):
    component, calls = components["environment_encoders"], []
    encoder = model.environment_encoders[IMAGE]
    assert isinstance(encoder, HookedEncoder) and encoder.dtype is component.dtype
    x, t = drawn(1, 4, 8, 8), torch.tensor([5])
    expected = component.by_modality()[IMAGE](x, t)
    component._hf_hook = type("Hook", (), {"pre_forward": lambda self, module: calls.append(module)})()
    try:
        cache = encoder.precompute(x)
        found = encoder(x, t, cache=cache)
    finally:
        del component._hf_hook
    assert torch.equal(found.tokens, expected.tokens) and calls == [component, component]
