"""Foreign latents become environments: tokens that know their own seconds, whatever the latents' layout."""

import pytest
import torch

from codi.compose.environment import ForeignEnvironmentEncoders, describe_latent
from codi.joint.sampler import LEVEL_SCALE
from codi.types import InputError, Modality
from tests.compose import tiny_foreign
from tests.compose.attending import model, prepared

SMALL = dict(dim=32, num_layers=1, tokens_per_step=2)


def encoders(name, **options):
    torch.manual_seed(0)
    latent = describe_latent(prepared(name).start, prepared(name).grid)
    return ForeignEnvironmentEncoders({model(name).modality.value: latent}, **{**SMALL, **options})


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_tokens_know_the_seconds_of_the_grid(name):
    modality, grid, x = model(name).modality, prepared(name).grid, prepared(name).start
    encoder = encoders(name).at({modality: grid})[modality]
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    env = encoder(x, torch.full((2,), 500.0), rate=None, cache=encoder.precompute(x))
    assert env.tokens.shape == (2, 2 * grid.steps + 1, 32) and env.tokens.isfinite().all()
    if grid.seconds is None:
        assert env.times.isnan().all()
    else:
        torch.testing.assert_close(env.times[0, :-1], grid.seconds.repeat_interleave(2))
        assert env.times[:, -1].isnan().all()


@pytest.mark.parametrize("name", tiny_foreign.each("animatediff", "ltx", "wan", "audioldm", "stable_audio"))
def test_the_tokens_of_a_step_say_what_is_in_that_step(name):
    """Without layers along time a step changes its own tokens alone."""
    modality, grid = model(name).modality, prepared(name).grid
    encoder = encoders(name, num_layers=0).at({modality: grid})[modality]
    x = torch.randn(prepared(name).start.shape, generator=torch.Generator().manual_seed(1))
    t = torch.zeros(2)
    step = grid.steps // 2
    steps = grid.to_steps(x).clone()
    steps[:, :, step] += 1
    changed = (encoder(x, t).tokens - encoder(grid.from_steps(steps), t).tokens).abs().amax((0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [2 * step, 2 * step + 1]


@pytest.mark.parametrize("name", tiny_foreign.each("sd15", "flux", "animatediff", "ltx", "audioldm"))
def test_one_encoder_takes_latents_of_other_sizes(name):
    own = model(name)
    sizes = (
        {"audio_length_in_s": 1.28} if "audio_length_in_s" in own.family.sizes else dict(height=64, width=32)
    )
    other = own.prepare(["a red ball"], num_inference_steps=2, guidance_scale=1.0, sizes=sizes)
    assert other.grid.shape != prepared(name).grid.shape
    encoder = encoders(name).at({own.modality: other.grid})[own.modality]
    env = encoder(other.start, torch.zeros(1))
    assert env.tokens.shape[1] == 2 * other.grid.steps + 1


def test_noise_levels_and_contents_and_samples_tell_apart():
    own, grid = model("audioldm"), prepared("audioldm").grid
    encoder = encoders("audioldm").at({own.modality: grid})[own.modality]
    x = torch.randn(prepared("audioldm").start.shape, generator=torch.Generator().manual_seed(1))
    clean = encoder(x, torch.zeros(2)).tokens
    assert not torch.allclose(encoder(x, torch.full((2,), float(LEVEL_SCALE))).tokens, clean)
    torch.testing.assert_close(encoder(x.flip(0), torch.zeros(2)).tokens, clean.flip(0))
    assert not torch.allclose(clean[0], clean[1])


def test_saved_encoders_are_the_same(tmp_path):
    own, grid = model("wan"), prepared("wan").grid
    first = encoders("wan", pairs=[["audio", "video"]])
    first.save_pretrained(tmp_path)
    second = ForeignEnvironmentEncoders.from_pretrained(tmp_path)
    x = prepared("wan").start
    answers = [e.at({own.modality: grid})[own.modality](x, torch.zeros(2)).tokens for e in (first, second)]
    assert torch.equal(*answers)
    assert second.attends_to()[Modality.AUDIO] == {Modality.VIDEO}


def test_latents_of_another_model_are_refused():
    encoder = encoders("audioldm").at({Modality.AUDIO: prepared("stable_audio").grid})[Modality.AUDIO]
    with pytest.raises(InputError, match="do not fit an encoder of 8 channels and 4 bands"):
        encoder(prepared("stable_audio").start, torch.zeros(2))
