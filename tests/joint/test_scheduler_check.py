"""Every scheduler that diffusers exports, against the model's own noise process: right on known data, or
refused in one line.
"""

import inspect

import pytest
import torch
from diffusers import schedulers
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler

from codi.diffusion import NoiseProcess, copy_schedulers, draw_noise
from codi.diffusion.released import ReleasedDDIMScheduler
from codi.diffusion.schedulers import SCHEDULERS, named_scheduler
from codi.joint.sampler import JointSampler
from codi.joint.scheduler_check import check_scheduler
from codi.types import InputError
from tests.diffusion.toy import MEAN, PAIR, STD, GaussianDenoiser, LatentEnvironment, context

AUDIO, VIDEO = PAIR
COSINE = dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing")
SCALED = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="epsilon",
    timestep_spacing="trailing",
)
MODELS = {"cosine, shifted": (COSINE, 2.0), "cosine": (COSINE, 1.0), "scaled linear": (SCALED, 1.0)}
# modules come when they are asked for
NAMES = [name for name in dir(schedulers) if name.endswith("Scheduler")]
EXPORTED = [name for name in NAMES if inspect.isclass(getattr(schedulers, name))]
ALWAYS = {
    "DDIMScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
}
EVEN = {"DDIMParallelScheduler", "PNDMScheduler"}
SECOND_ORDER = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}
RIGHT = {
    "cosine, shifted": ALWAYS,
    "cosine": ALWAYS | EVEN,
    "scaled linear": ALWAYS | EVEN | SECOND_ORDER,
}


def own(settings=COSINE, **changed):
    return DPMSolverMultistepScheduler(**{**settings, **changed})


def check(scheduler, settings=COSINE, steps=25, shift=1.0):
    model = own(settings)
    check_scheduler(scheduler, model, NoiseProcess.from_scheduler(model), steps, shift)


def sample(scheduler, process, steps, shift, rho=0.0, delay=0):
    """Two correlated outputs, the second `delay` schedules later: (2, 1000) each."""
    copies = copy_schedulers(scheduler, PAIR, steps, shift=shift)
    noise = {m: draw_noise((1000,), (0, 1), m) for m in PAIR}
    sampler = JointSampler(
        denoisers={m: GaussianDenoiser(process, rho) for m in PAIR},
        schedulers=copies,
        contexts={m: context(2) for m in PAIR},
        environment_encoders={m: LatentEnvironment(process) for m in PAIR} if rho else {},
        start_offsets={VIDEO: delay * len(copies[VIDEO].timesteps)},
        generators={m: generators for m, (_, generators) in noise.items()},
    )
    return sampler.sample(sampler.start({m: x for m, (x, _) in noise.items()}))


def test_there_are_as_many_as_diffusers_has():
    assert len(EXPORTED) > 40


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", EXPORTED)
def test_every_scheduler_is_right_or_refused(name, kind):
    settings, shift = MODELS[kind]
    model = own(settings)
    try:
        scheduler = getattr(schedulers, name).from_config(model.config)
    except Exception as error:  # its own constructor's, before anybody could give it to a pipeline
        assert name not in RIGHT[kind], error
        return
    process = NoiseProcess.from_scheduler(model)
    if name not in RIGHT[kind]:
        with pytest.raises(InputError, match=f"^the scheduler {name} .*: expected "):
            check_scheduler(scheduler, model, process, 25, shift)
        return
    check_scheduler(scheduler, model, process, 25, shift)
    late = sample(scheduler, process, 25, shift, rho=0.8, delay=1)
    for made in late.values():
        assert made.mean() == pytest.approx(MEAN, abs=0.05) and made.std() == pytest.approx(STD, rel=0.3)
    assert torch.corrcoef(torch.stack([late[m].flatten() for m in PAIR]))[0, 1] == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 20, 223])
@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "ddpm", "euler"])
def test_named_schedulers_are_right_at_any_number_of_steps(name, steps):
    for settings, shift in MODELS.values():
        check(named_scheduler(name, own(settings)), settings, steps, shift)


@pytest.mark.parametrize("steps", [334, 600])
def test_ddim_goes_down_by_its_timesteps_where_whole_strides_would_not_do(steps):
    check(named_scheduler("ddim", own(SCALED)), SCALED, steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_a_models_own_scheduler_may_start_where_it_does(steps):
    """The released one starts at timestep 1 if it is asked for one step."""
    model = ReleasedDDIMScheduler()
    check_scheduler(named_scheduler("released", model), model, NoiseProcess.from_scheduler(model), steps)


@pytest.mark.parametrize(
    "changed, settings, shift, message",
    [
        (
            dict(prediction_type="epsilon"),
            COSINE,
            2.0,
            "expects 'epsilon' of the model, which was trained to answer 'v_prediction'",
        ),
        (dict(beta_schedule="linear"), COSINE, 2.0, "another noise level at timestep"),
        (dict(beta_end=0.02), SCALED, 1.0, "another noise level at timestep"),
        (dict(num_train_timesteps=500), COSINE, 1.0, "starts at timestep 499 in 20 steps"),
        (dict(num_train_timesteps=500), COSINE, 2.0, "starts at timestep 499 in 20 steps"),
        (dict(num_train_timesteps=2000), COSINE, 1.0, "timestep 1999 is not one of 0 to 999"),
        (dict(thresholding=True), COSINE, 2.0, "another noise level|does it clip or threshold"),
        (dict(rescale_betas_zero_snr=True), SCALED, 1.0, "another noise level at timestep"),
        (dict(use_flow_sigmas=True), SCALED, 1.0, "another noise level at timestep"),
        (
            dict(use_karras_sigmas=True),
            COSINE,
            2.0,
            "spaces its noise levels by use_karras_sigmas.*timestep_shift",
        ),
        (dict(use_lu_lambdas=True), COSINE, 2.0, "spaces its noise levels by use_lu_lambdas.*timestep_shift"),
    ],
)
def test_settings_that_do_not_fit_the_model(changed, settings, shift, message):
    with pytest.raises(
        InputError, match=f"^the scheduler DPMSolverMultistepScheduler .*({message}).*: expected"
    ):
        check(own(settings, **changed), settings, 20, shift)


@pytest.mark.parametrize(
    "changed",
    [
        dict(use_karras_sigmas=True),
        dict(solver_order=1),
        dict(solver_order=3),
        dict(algorithm_type="sde-dpmsolver++"),
        dict(final_sigmas_type="sigma_min"),
        dict(timestep_spacing="leading", steps_offset=1),
        dict(timestep_spacing="linspace"),
        dict(euler_at_final=True),
    ],
)
def test_settings_that_fit(changed):
    check(own(SCALED, **changed), SCALED, 20)


def test_steps_too_few_for_a_spacing_that_starts_late():
    with pytest.raises(InputError, match="starts at timestep 500 in 2 steps"):
        check(EulerDiscreteScheduler.from_config(own(SCALED).config, timestep_spacing="leading"), SCALED, 2)


def test_even_strides_between_uneven_timesteps():
    """DDIM steps down by a fixed stride, whatever the distance to its next timestep."""
    with pytest.raises(InputError, match="another noise level at timestep"):
        check(DDIMScheduler.from_config(own(SCALED).config, timestep_spacing="linspace"), SCALED, 8)


def test_a_solver_that_diverges_in_few_steps_and_converges_in_more():
    heun = HeunDiscreteScheduler.from_config(own().config)
    with pytest.raises(InputError, match="HeunDiscreteScheduler .*in 20 steps.: it diverges"):
        check(heun, steps=20, shift=2.0)
    check(heun, steps=200, shift=2.0)


class Global(DDIMScheduler):
    """Draws its noise from the global generator."""

    def step(self, *args, generator=None, **kwargs):
        return super().step(*args, eta=1.0, **kwargs)


def test_noise_that_seeds_do_not_decide_is_refused_and_draws_nothing_from_the_user():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with pytest.raises(InputError, match="Global draws noise that the seeds"):
        check(Global.from_config(own().config))
    assert torch.equal(torch.randn(4), expected)


def test_copies_do_not_clip_latents():
    clipping = DDIMScheduler.from_config(own().config)
    assert clipping.config.clip_sample
    assert not copy_schedulers(clipping, [AUDIO], 5)[AUDIO].config.clip_sample and clipping.config.clip_sample
    check(clipping)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_noise_is_scaled_for_the_step_that_comes_first(spacing):
    """Before its timesteps are set, Euler's noise is that of the last of all noise levels."""
    scheduler = EulerDiscreteScheduler.from_config(own().config, timestep_spacing=spacing)
    copies = copy_schedulers(scheduler, [AUDIO], 20)
    process = NoiseProcess.from_scheduler(own())
    one = JointSampler(
        denoisers={AUDIO: GaussianDenoiser(process)}, schedulers=copies, contexts={AUDIO: context(1)}
    )
    start = one.start({AUDIO: torch.ones(1)})[AUDIO]
    assert copies[AUDIO].scale_model_input(start, copies[AUDIO].timesteps[0]).item() == pytest.approx(
        1, abs=0.01
    )


def test_the_command_knows_these_names():
    from codi.cli import SCHEDULERS as NAMES

    assert tuple(SCHEDULERS) == NAMES
