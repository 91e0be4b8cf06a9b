"""The sampling loop against a Gaussian whose answer is known: moments, joint correlation, clean partners,
seeds.
"""

import pytest
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from codi.diffusion import Guidance, NoiseProcess, copy_schedulers, draw_noise, stream_seed
from codi.diffusion.schedulers import shifted_timesteps
from codi.joint.sampler import JointSampler
from codi.types import InputError, Modality
from tests.diffusion.toy import (
    MEAN,
    PAIR,
    SCHEDULERS,
    STD,
    GaussianDenoiser,
    LatentEnvironment,
    Reader,
    Recorder,
    context,
    scheduler,
)

AUDIO, VIDEO = PAIR


def sampler(name="ddim", modalities=PAIR, steps=50, batch=2, rho=0.0, prediction="v_prediction", **options):
    source = scheduler(name, prediction)
    process = NoiseProcess.from_scheduler(source)
    return JointSampler(
        denoisers={m: GaussianDenoiser(process, rho) for m in modalities},
        schedulers=copy_schedulers(source, modalities, steps),
        contexts={m: context(batch) for m in modalities},
        environment_encoders={m: LatentEnvironment(process) for m in PAIR} if rho else {},
        **options,
    )


def noise(batch=2, size=4000, modalities=PAIR):
    return {m: draw_noise((size,), range(batch), m)[0] for m in modalities}


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_gaussian_moments(name, steps, prediction):
    out = sampler(name, steps=steps, prediction=prediction).sample(noise())[AUDIO]
    assert out.isfinite().all()
    assert out.mean() == pytest.approx(MEAN, abs=0.03)
    # narrows what it draws, the less the more steps; the default, second order, does not
    first_order = name == "ddim"
    assert out.std() == pytest.approx(
        STD, rel={10: 0.2, 25: 0.08}[steps] if first_order else {10: 0.09, 25: 0.01}[steps]
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_count_works(name):
    for steps in (1, 2, 3, 7, 223):
        one = sampler(name, steps=steps, modalities=[AUDIO])
        assert one.num_steps == steps
        assert one.sample(noise(size=50, modalities=[AUDIO]))[AUDIO].isfinite().all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_have_the_asked_number_of_steps(name):
    source = scheduler(name)
    # trailing spacing rounds 1000 / 223 to one step too many, at t = -1
    for steps in (1, 25, 223, 446, 999, 1000):
        timesteps = copy_schedulers(source, [AUDIO], steps)[AUDIO].timesteps
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0


@pytest.mark.parametrize("shift", [0.5, 2.0, 16.0])
@pytest.mark.parametrize("steps", [1, 2, 25, 523, 1000])
def test_shifted_timesteps_fall_whatever_their_number(steps, shift):
    timesteps = shifted_timesteps(1000, steps, shift)
    assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
    assert all(earlier > later for earlier, later in zip(timesteps, timesteps[1:]))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_takes_shifted_timesteps(name):
    one = sampler(name, steps=25, modalities=[AUDIO])
    one.schedulers = copy_schedulers(scheduler(name), [AUDIO], 25, shift=2.0)
    assert one.schedulers[AUDIO].timesteps.tolist() == shifted_timesteps(1000, 25, 2.0)
    out = one.sample(noise(modalities=[AUDIO]))[AUDIO]
    assert out.mean() == pytest.approx(MEAN, abs=0.03) and out.std() == pytest.approx(
        STD, rel=0.15 if name == "ddim" else 0.05
    )


def test_a_scheduler_of_even_steps_refuses_shifted_timesteps():
    even = PNDMScheduler.from_config(scheduler("ddim").config)
    with pytest.raises(
        InputError, match="PNDMScheduler goes down in even steps.*DPMSolverMultistepScheduler"
    ):
        copy_schedulers(even, [AUDIO], 25, shift=2.0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_joint_outputs_correlate_as_the_data(name):
    out = sampler(name, rho=0.8).sample(noise())
    assert correlation(out[AUDIO], out[VIDEO]) == pytest.approx(0.8, abs=0.05)
    alone = sampler(name).sample(noise())
    assert correlation(alone[AUDIO], alone[VIDEO]) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("delay", [10, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_outputs_that_start_later_correlate_as_the_data_too(name, delay):
    one = sampler(name, rho=0.8, start_offsets={VIDEO: delay})
    assert (one.timeline.steps, one.num_steps) == (50, 50 + delay)
    out = one.sample(noise())
    assert correlation(out[AUDIO], out[VIDEO]) == pytest.approx(0.8, abs=0.05)
    assert all(one.denoisers[m].calls == 50 for m in PAIR)
    assert out[VIDEO].std() == pytest.approx(STD, rel=0.1) and out[AUDIO].std() == pytest.approx(STD, rel=0.1)


def test_who_starts_alone_and_first_is_as_it_would_be_alone():
    alone = sampler(modalities=[AUDIO], rho=0.8, steps=6).sample(noise(modalities=[AUDIO]))
    led = sampler(rho=0.8, steps=6, start_offsets={VIDEO: 6}).sample(noise())
    assert torch.equal(led[AUDIO], alone[AUDIO])
    late = sampler(modalities=[VIDEO], rho=0.8, steps=6, start_offsets={VIDEO: 6})
    assert late.num_steps == 6  # nobody to wait for


def test_nobody_waits_when_all_before_are_finished():
    three, start_offsets = [Modality.TEXT, AUDIO, VIDEO], {AUDIO: 2, VIDEO: 6}
    one = sampler(modalities=three, steps=4, start_offsets=start_offsets)
    assert [one.timeline.starts[m] for m in three] == [0, 2, 6] and one.num_steps == 10
    one = sampler(modalities=[Modality.TEXT, VIDEO], steps=4, start_offsets=start_offsets)
    assert one.timeline.starts[VIDEO] == 4 and all(
        one.timeline.active(index) for index in range(one.num_steps)
    )


def test_clean_partner_is_heard_and_left_alone():
    partner = MEAN + STD * torch.randn(2, 4000, generator=torch.Generator().manual_seed(9))
    before = partner.clone()
    one = sampler(modalities=[AUDIO], rho=0.9, partners={VIDEO: partner})
    out = one.sample(noise(modalities=[AUDIO]))
    assert set(out) == {AUDIO} and torch.equal(partner, before)
    assert correlation(out[AUDIO], partner) == pytest.approx(0.9, abs=0.03)
    # it stands still; nobody hears the output
    assert one.environment_encoders[VIDEO].calls == 1 and one.environment_encoders[AUDIO].calls == 0


def test_what_partners_lean_to_is_added_to_the_prompt():
    leans = {AUDIO: torch.full((2, 1), 0.125), VIDEO: torch.full((2, 1), 0.25)}
    one = sampler(steps=3)  # without a prompt, so that what is told stands alone
    first = one.schedulers[AUDIO].timesteps[0]
    # of noise it says 0.5
    one.noisy_latent_encoders = {
        m: Reader(lambda x, t, c, rate, m=m: 0.5 + leans[m] * (t < first)[:, None]) for m in PAIR
    }
    one.partner_estimate_weight, contexts = 2.0, {}
    for modality in PAIR:
        exact = one.denoisers[modality]
        one.denoisers[modality] = Recorder(exact, prompt=lambda c, m=modality: contexts.update({m: c}))
    one.step(0, noise(size=8))
    assert not contexts[AUDIO].any() and not contexts[VIDEO].any()  # nothing can be known yet
    one.step(1, noise(size=8))
    assert torch.equal(contexts[AUDIO], torch.full((2, 1, 1), 0.5)) and torch.equal(
        contexts[VIDEO], torch.full((2, 1, 1), 0.25)
    )
    one.estimates_from = {AUDIO: {VIDEO}}
    one.step(2, noise(size=8))
    # who is not named is told nothing
    assert contexts[AUDIO].unique().tolist() == pytest.approx([0.5]) and not contexts[VIDEO].any()


def test_who_is_heard_late_leans_away_from_its_own_noise():
    one = sampler(steps=4, start_offsets={VIDEO: 2})
    start = noise(size=8)
    one.noisy_latent_encoders, one.partner_estimate_weight, contexts = (
        {AUDIO: Reader(lambda x, t, c, rate: x.mean(1, keepdim=True))},
        1.0,
        [],
    )
    exact = one.denoisers[VIDEO]
    one.denoisers[VIDEO] = Recorder(exact, prompt=contexts.append)
    latents = one.step(1, one.step(0, start))
    one.step(2, latents)
    expected = (latents[AUDIO] - start[AUDIO]).mean(1)
    torch.testing.assert_close(contexts[0].flatten(), expected)


def test_a_prompt_that_changes_changes_what_finished_outputs_lean_to():
    one = sampler(steps=2, start_offsets={VIDEO: 2})
    one.noisy_latent_encoders = {AUDIO: Reader(lambda x, t, c, rate: c[:, 0] + x.mean(1, keepdim=True))}
    finished = one.step(1, one.step(0, noise(size=8)))
    before = one.estimate_partners(2, finished)[AUDIO]
    assert one.estimate_partners(3, finished)[AUDIO] is before  # read once
    one.contexts = one.contexts | {AUDIO: context(2, 1.0)}
    torch.testing.assert_close(one.estimate_partners(3, finished)[AUDIO].prior, before.prior + 1)


def test_what_is_changed_in_place_is_read_again():
    one = sampler(steps=2, start_offsets={VIDEO: 2})
    one.noisy_latent_encoders = {AUDIO: Reader(lambda x, t, c, rate: c[:, 0] + x.mean(1, keepdim=True))}
    finished = one.step(1, one.step(0, noise(size=8)))
    before = one.estimate_partners(2, finished)[AUDIO]
    one.contexts[AUDIO].add_(1.0)
    torch.testing.assert_close(one.estimate_partners(3, finished)[AUDIO].prior, before.prior + 1)


def test_noise_is_told_of_as_the_scheduler_scales_it():
    """Euler's schedulers start from noise of a large deviation; what starts later waits in it."""
    source = EulerDiscreteScheduler.from_config(scheduler("ddim").config)
    one = sampler(steps=4, start_offsets={VIDEO: 2})
    one.schedulers, read = copy_schedulers(source, PAIR, 4), []
    one.noisy_latent_encoders = {
        VIDEO: Reader(lambda x, t, c, rate: read.append(x) or x.mean(1, keepdim=True))
    }
    latents = {m: x * source.init_noise_sigma for m, x in noise(size=400).items()}
    for index in range(3):
        latents = one.step(index, latents)
    assert [x.std().item() for x in read] == pytest.approx([1, 1], abs=0.1)  # now, and what was expected


def test_environments_are_read_before_any_update():
    one = sampler(rho=0.8, steps=5)
    start = noise(size=8)
    heard = []
    for modality in PAIR:
        exact = one.denoisers[modality]
        one.denoisers[modality] = Recorder(exact, partners=lambda env: heard.append(env.tokens[:, 0]))
    one.step(0, start)
    assert torch.equal(heard[0], start[VIDEO]) and torch.equal(heard[1], start[AUDIO])


def test_the_order_of_modalities_does_not_matter():
    forward = sampler(rho=0.8, steps=6).sample(noise())
    backward = sampler(rho=0.8, steps=6, modalities=PAIR[::-1]).sample(noise(modalities=PAIR[::-1]))
    assert all(torch.equal(forward[m], backward[m]) for m in PAIR)


def test_a_step_leaves_what_came_in():
    one, start = sampler(rho=0.5, steps=4), noise(size=8)
    before = {m: x.clone() for m, x in start.items()}
    one.sample(start)
    assert all(torch.equal(start[m], before[m]) for m in PAIR)


def test_each_modality_has_its_own_scheduler_state():
    source = scheduler("dpm")
    copies = copy_schedulers(source, PAIR, 10)
    assert copies[AUDIO] is not copies[VIDEO] and source.num_inference_steps is None
    together = sampler("dpm", steps=10).sample(noise())
    apart = sampler("dpm", steps=10, modalities=[AUDIO]).sample(noise(modalities=[AUDIO]))
    assert torch.equal(together[AUDIO], apart[AUDIO])


def test_guidance_moves_the_mean_and_batches_its_branches():
    guided = sampler(steps=25, modalities=[AUDIO], guidance={AUDIO: Guidance(scales={"prompt": 2.0})})
    guided.contexts, guided.null_contexts = {AUDIO: context(2, 0.5)}, {AUDIO: context(2)}
    mean = guided.sample(noise(modalities=[AUDIO]))[AUDIO].mean().item()
    assert mean == pytest.approx(MEAN + 1.0, abs=0.08)  # for equal variances guidance is linear in the mean
    assert guided.denoisers[AUDIO].calls == 25 and guided.denoisers[AUDIO].samples == 25 * 2 * 2


def test_guidance_of_one_costs_nothing():
    plain = sampler(steps=8, rho=0.5, guidance={m: Guidance() for m in PAIR})
    plain.null_contexts = plain.contexts
    plain.sample(noise(size=4))
    assert all(plain.denoisers[m].samples == 8 * 2 for m in PAIR)


def test_sync_guidance_strengthens_the_bond_within_its_interval():
    kwargs = dict(modalities=[AUDIO], rho=0.6, steps=20, partners={VIDEO: MEAN + STD * torch.randn(2, 4000)})
    plain = sampler(**kwargs)
    synced = sampler(
        **kwargs, guidance={AUDIO: Guidance(scales={"partners": 2.0}, intervals={"partners": (0.2, 0.8)})}
    )
    partner = kwargs["partners"][VIDEO]
    start = noise(modalities=[AUDIO])
    assert (
        correlation(synced.sample(start)[AUDIO], partner)
        > correlation(plain.sample(start)[AUDIO], partner) + 0.05
    )
    assert synced.denoisers[AUDIO].calls == 20 + 12  # the branch without partners, in 60 % of the steps


def test_noise_depends_on_its_own_seed_alone():
    both, _ = draw_noise((3, 5), [7, 8], AUDIO)
    alone, _ = draw_noise((3, 5), [8], AUDIO)
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(draw_noise((3, 5), [7], VIDEO)[0], both[:1])
    assert len({stream_seed(s, m) for s in range(100) for m in Modality}) == 400


def test_a_modality_cannot_be_partner_and_output():
    with pytest.raises(AssertionError, match="partners"):
        sampler(partners={AUDIO: torch.zeros(2, 4)})
