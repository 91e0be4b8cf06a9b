"""Schedules of every kind on one scale, and outputs whose schedules differ."""

import copy
import math

import pytest
import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from codi.diffusion.levels import NoiseLevels
from codi.diffusion.schedulers import scaled_input
from codi.joint.sampler import JointSampler
from codi.joint.start_offsets import EvenTimeline, LevelTimeline
from codi.protocols import Denoiser, Environment, EnvironmentEncoder
from codi.types import InputError, Modality

IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SCHEDULERS = {
    "ddim-eps": DDIMScheduler(**SD, clip_sample=False),
    "ddim-v": DDIMScheduler(**SD, clip_sample=False, prediction_type="v_prediction"),
    "ddim-sample": DDIMScheduler(**SD, clip_sample=False, prediction_type="sample"),
    "dpm": DPMSolverMultistepScheduler(**SD),
    "euler": EulerDiscreteScheduler(**SD, prediction_type="v_prediction"),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc-flow": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "cosine": CosineDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_data=1.0),
    "edm": EDMEulerScheduler(sigma_data=0.5),
    "edm-v": EDMEulerScheduler(sigma_data=0.5, prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_levels_fall_from_noise_to_clean(name):
    scheduler = copy.deepcopy(SCHEDULERS[name])
    scheduler.set_timesteps(8)
    angles = NoiseLevels.of(scheduler).angle(scheduler.timesteps)
    assert (angles.diff() < 0).all() and angles[0] > 0.9 and angles.min() >= 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_target_implies_the_clean_latent(name):
    levels = NoiseLevels.of(SCHEDULERS[name])
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(5, 2, 3, generator=generator)
    eps = torch.randn(5, 2, 3, generator=generator)
    t = levels.timestep(torch.tensor([0.15, 0.3, 0.5, 0.7, 0.9]))
    x_t = levels.add_noise(x_0, eps, t)
    assert torch.allclose(levels.to_x_0(levels.target(x_0, eps, t), x_t, t), x_0, atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_timestep_is_found_by_its_level(name):
    levels = NoiseLevels.of(SCHEDULERS[name])
    angles = torch.linspace(0.2, 0.9, 7)
    assert torch.allclose(levels.angle(levels.timestep(angles)), angles, atol=2e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_that_is_told_the_target_finds_the_clean_latent(name):
    """The levels, the target and the scaling of the input fit the scheduler that samples."""
    scheduler = copy.deepcopy(SCHEDULERS[name])
    if name == "cosine":
        pytest.importorskip("torchsde", reason="the cosine scheduler draws its noise by torchsde")
    scheduler.set_timesteps(40)
    levels = NoiseLevels.of(scheduler)
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.randn(2, 4, 3, 3, generator=generator) * (0.5 if "edm" in name else 1.0)
    x = torch.randn(x_0.shape, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        scaled = scaled_input(scheduler, x, t)
        times = t.expand(len(x))
        alpha, sigma = levels._shaped(times, x_0)
        eps = (scaled - alpha * x_0) / sigma
        x = scheduler.step(levels.target(x_0, eps, times), t, x).prev_sample
    # PNDM and DDIM end a little above no noise (set_alpha_to_one)
    assert float((x - x_0).abs().max()) < 0.05


def test_a_scheduler_without_levels_is_refused():
    class Strange:
        config: dict = {}

    with pytest.raises(InputError, match="Strange states no noise levels"):
        NoiseLevels.of(Strange())


def test_the_noisiest_act_first():
    line = LevelTimeline(levels={IMAGE: [1.0, 0.5], AUDIO: [1.0, 0.8, 0.6, 0.4, 0.2]})
    acting = [line.active(k) for k in range(line.num_steps)]
    assert acting == [[IMAGE, AUDIO], [AUDIO], [AUDIO], [IMAGE], [AUDIO], [AUDIO]]
    assert sum(IMAGE in active for active in acting) == 2 and sum(AUDIO in active for active in acting) == 5
    assert line.own_step(IMAGE, 2) == 1 and line.own_step(IMAGE, 5) == 2 == line.own_steps(IMAGE)
    assert line.visible(1) == [IMAGE]
    assert line.progress(AUDIO, 4) == pytest.approx(3 / 5)


def test_equal_schedules_go_side_by_side_as_ever():
    levels = [1.0, 0.7, 0.4, 0.1]
    line = LevelTimeline(levels={IMAGE: levels, AUDIO: levels})
    even = EvenTimeline(outputs=[IMAGE, AUDIO], steps=4)
    assert line.num_steps == even.num_steps == 4
    assert all(line.active(k) == even.active(k) for k in range(4))


def test_an_offset_keeps_an_output_behind_by_so_much_noise():
    levels = [1.0, 0.75, 0.5, 0.25]
    line = LevelTimeline(levels={IMAGE: levels, AUDIO: levels}, start_offsets={AUDIO: 0.5})
    assert line.starts == {IMAGE: 0, AUDIO: 2}
    assert line.own_step(AUDIO, 1) is None and line.visible(0) == []
    assert line.active(2) == [IMAGE, AUDIO]
    whole = LevelTimeline(levels={IMAGE: levels, AUDIO: levels}, start_offsets={AUDIO: 1.0})
    assert whole.active(3) == [IMAGE] and whole.active(4) == [AUDIO] and whole.num_steps == 8


def test_gaps_between_schedules_are_smaller_than_side_by_side():
    """At equally many calls the noise levels of two schedules stay nearer to each other."""
    curved = [1 - (k / 10) ** 3 for k in range(10)]
    straight = [1 - k / 25 for k in range(25)]
    line = LevelTimeline(levels={IMAGE: curved, AUDIO: straight})

    def level(levels, own):
        return levels[own] if own < len(levels) else 0.0

    gaps = []
    for k in range(line.num_steps):
        gaps.append(abs(level(curved, line.own_step(IMAGE, k)) - level(straight, line.own_step(AUDIO, k))))
    spread = []
    for k in range(25):  # evenly spread over the longer schedule
        spread.append(abs(level(curved, math.ceil(k * 10 / 25)) - level(straight, k)))
    assert sum(gaps) / len(gaps) < 0.5 * sum(spread) / len(spread)


class Answering(Denoiser):
    """Answers with the clean latent's own target, and notes what it attended to."""

    def __init__(self, levels, x_0):
        self.levels, self.x_0 = levels, x_0

    def forward(self, x, t, prompt, partners=None, rate=None):
        alpha, sigma = self.levels._shaped(t, x)
        eps = (x - alpha * self.x_0) / sigma
        return self.levels.target(self.x_0, eps, t)


class Noting(EnvironmentEncoder):
    """Notes the noise levels that it is given."""

    def __init__(self):
        self.seen = []

    def forward(self, x, t, rate=None, cache=None):
        self.seen.append((float(t[0]), x.clone()))
        return Environment(tokens=torch.zeros(len(x), 1, 4), times=torch.full((len(x), 1), torch.nan))


def test_models_of_different_schedules_are_sampled_together():
    """Every output arrives, whatever the other's schedule; encoders are given comparable levels."""
    generator = torch.Generator().manual_seed(2)
    x_0 = {
        IMAGE: torch.randn(2, 4, 3, 3, generator=generator),
        AUDIO: torch.randn(2, 6, 5, generator=generator),
    }
    schedulers = {IMAGE: copy.deepcopy(SCHEDULERS["euler"]), AUDIO: copy.deepcopy(SCHEDULERS["flow"])}
    schedulers[IMAGE].set_timesteps(12)
    schedulers[AUDIO].set_timesteps(20)
    levels = {m: NoiseLevels.of(s) for m, s in schedulers.items()}
    encoders = {m: Noting() for m in x_0}
    sampler = JointSampler(
        denoisers={m: Answering(levels[m], x_0[m]) for m in x_0},
        schedulers=schedulers,
        contexts={m: torch.zeros(2, 1, 4) for m in x_0},
        environment_encoders=encoders,
        levels=levels,
    )
    noise = {m: torch.randn(x.shape, generator=generator) for m, x in x_0.items()}
    start = {m: x * getattr(schedulers[m], "init_noise_sigma", 1.0) for m, x in noise.items()}
    made = sampler.sample(start)
    for modality, clean in x_0.items():
        assert torch.allclose(made[modality], clean, atol=0.03)
    for encoder in encoders.values():
        seen = [level for level, _ in encoder.seen]
        assert seen == sorted(seen, reverse=True) and 900 < seen[0] <= 1000
        # what an encoder is given is of a network's scale: near to one at every level
        assert all(0.3 < float(x.std()) < 2 for _, x in encoder.seen)
