"""A start and a known part in the sampling loop, against Gaussians whose answer is known."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from codi import protocols
from codi.conditions import KNOWN, LoopCondition
from codi.conditions.known import Known, KnownLatent
from codi.conditions.source_prompt import SourcePrompt
from codi.conditions.start import Start
from codi.diffusion import Guidance, NoiseProcess, copy_schedulers, draw_noise
from codi.diffusion.levels import NoiseLevels
from codi.diffusion.trajectory import Trajectory
from codi.joint.sampler import JointSampler
from codi.joint.start_offsets import EvenTimeline, LevelTimeline
from tests.diffusion.toy import (
    MEAN,
    PAIR,
    SCHEDULERS,
    STD,
    GaussianDenoiser,
    LatentEnvironment,
    Reader,
    context,
    scheduler,
)

AUDIO, VIDEO = PAIR


def sampler(name="dpm", modalities=PAIR, steps=10, batch=2, **options):
    source = scheduler(name) if isinstance(name, str) else name
    process = NoiseProcess.from_scheduler(source)
    return JointSampler(
        denoisers={m: GaussianDenoiser(process) for m in modalities},
        schedulers=copy_schedulers(source, modalities, steps),
        contexts={m: context(batch) for m in modalities},
        **options,
    )


def noise(batch=2, size=600, modalities=PAIR):
    return {m: draw_noise((size,), range(batch), m)[0] for m in modalities}


def generators(batch=2):
    return [torch.Generator().manual_seed(k) for k in range(batch)]


OTHERS = {
    "euler": EulerDiscreteScheduler.from_config(scheduler("ddim").config),
    "pndm": PNDMScheduler.from_config(scheduler("ddim").config, skip_prk_steps=True),
}
ALL = [*SCHEDULERS, *OTHERS]


def source(name):
    return OTHERS.get(name) or scheduler(name)


# Where an output enters ------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_at_strength_1_it_is_plain_generation_to_the_bit(name):
    plain = sampler(source(name))
    given = sampler(source(name), conditions={AUDIO: [Start(x_0=torch.ones(1, 600), strength=1.0)]})
    expected = plain.sample(plain.start(noise()))
    found = given.sample(given.start(noise()))
    assert all(torch.equal(found[m], expected[m]) for m in PAIR)


@pytest.mark.parametrize("name", ALL)
def test_at_strength_0_the_start_comes_back_and_nothing_is_called(name):
    one = sampler(source(name), [AUDIO], conditions={AUDIO: [Start(x_0=torch.ones(1, 600), strength=0.0)]})
    assert one.num_steps == 0
    assert torch.equal(one.sample(one.start(noise(modalities=[AUDIO])))[AUDIO], torch.ones(2, 600))
    assert one.denoisers[AUDIO].calls == 0


@pytest.mark.parametrize("name", ALL)
def test_a_sample_of_the_data_stays_one_at_any_strength(name):
    """Noised and denoised, what was drawn from the data is still of the data, and nearer at less strength."""
    data = MEAN + STD * torch.randn(1, 4000, generator=torch.Generator().manual_seed(3))
    distances = []
    for strength in (0.2, 0.5, 0.9):
        one = sampler(source(name), [AUDIO], 20, conditions={AUDIO: [Start(x_0=data, strength=strength)]})
        out = one.sample(one.start(noise(size=4000, modalities=[AUDIO])))[AUDIO]
        assert out.mean() == pytest.approx(MEAN, abs=0.03) and out.std() == pytest.approx(STD, rel=0.15)
        distances.append((out - data).abs().mean().item())
    assert distances == sorted(distances) and distances[0] < 0.6 * STD


def edited(name, shift, strength, data, steps=20, said=0.0):
    """Return what is made of a source with a prompt that moves the mean, the source's own saying `said`."""
    prompt = SourcePrompt(modality=AUDIO, x_0=data, prompt=context(1) + said)
    given = [Start(x_0=data, strength=strength), prompt]
    one = sampler(source(name), [AUDIO], steps, batch=1, conditions={AUDIO: given})
    one.contexts = {AUDIO: context(1) + shift}
    return one.sample(one.start(noise(1, data.shape[1], [AUDIO])))[AUDIO]


def data_of(seed=3, size=4000):
    return MEAN + STD * torch.randn(1, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", ALL)
def test_with_the_prompt_of_the_source_the_source_comes_back(name, strength):
    data = data_of()
    last = 0.1 if name == "pndm" else 1e-3  # its last level is not quite clean, and its first nearly empty
    assert (edited(name, 0.3, strength, data, said=0.3) - data).abs().max() < last


@pytest.mark.parametrize("name", ALL)
def test_the_difference_of_two_prompts_moves_every_element_by_as_much(name):
    """The nearest way between two Gaussians of one spread; without it each element lands anywhere."""
    data = data_of()
    moved = edited(name, 0.5, 1.0, data) - data
    assert moved.mean() == pytest.approx(0.5, abs=0.05) and moved.std() < 0.05
    plain = sampler(source(name), [AUDIO], 20, batch=1)
    plain.contexts = {AUDIO: context(1) + 0.5}
    alone = plain.sample(plain.start(noise(1, 4000, [AUDIO])))[AUDIO] - data
    assert alone.std() > STD


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_can_be_entered_at_each_of_its_steps(name):
    data = data_of()
    count = len(sampler(source(name), [AUDIO], 20).schedulers[AUDIO].timesteps)
    for first in (1, 2, 3, count - 1):
        strength = 1 - first / count
        one = sampler(source(name), [AUDIO], 20, conditions={AUDIO: [Start(x_0=data, strength=strength)]})
        out = one.sample(one.start(noise(size=4000, modalities=[AUDIO])))[AUDIO]
        assert out.mean() == pytest.approx(MEAN, abs=0.03) and out.std() == pytest.approx(STD, rel=0.15), (
            first
        )


def test_a_pair_of_steps_of_second_order_is_entered_at_its_first():
    heun = HeunDiscreteScheduler.from_config(scheduler("ddim").config)
    one = sampler(heun, [AUDIO], 10, conditions={AUDIO: [Start(x_0=torch.ones(1, 600), strength=0.5)]})
    assert len(one.schedulers[AUDIO].timesteps) == 19 and one.timeline.first_steps == {AUDIO: 8}
    assert one.sample(one.start(noise(modalities=[AUDIO])))[AUDIO].isfinite().all()


def test_one_with_a_start_and_one_without_end_together():
    start = {AUDIO: [Start(x_0=torch.ones(1, 600), strength=0.4)]}
    one = sampler(conditions=start)
    assert one.num_steps == 10
    active = [one.timeline.active(index) for index in range(10)]
    assert active == [[VIDEO]] * 6 + [[AUDIO, VIDEO]] * 4
    # it stands at its own level meanwhile, where the other attends to it
    assert all(AUDIO in one.timeline.visible(index) for index in range(10))
    assert one.timestep(AUDIO, 0) == one.schedulers[AUDIO].timesteps[6]


def test_all_are_noised_alike_and_no_step_is_idle():
    starts = {m: [Start(x_0=torch.ones(1, 600), strength=0.4)] for m in PAIR}
    one = sampler(conditions=starts)
    assert [one.timeline.active(index) for index in range(one.num_steps)] == [list(PAIR)] * 4
    late = sampler(conditions=starts, start_offsets={VIDEO: 10})
    assert [late.timeline.active(k) for k in range(late.num_steps)] == [[AUDIO]] * 4 + [[VIDEO]] * 4


@pytest.mark.parametrize("first", [{}, {AUDIO: 3}, {AUDIO: 3, VIDEO: 5}, {AUDIO: 6}, {AUDIO: 6, VIDEO: 6}])
def test_timelines_take_every_step_once_from_the_first(first):
    levels = {m: [1 - k / 6 for k in range(6)] for m in PAIR}
    for timeline in (
        EvenTimeline(outputs=PAIR, steps=6, start_offsets={VIDEO: 2}, first_steps=first),
        LevelTimeline(levels=levels, start_offsets={VIDEO: 0.3}, first_steps=first),
    ):
        taken = {m: [] for m in PAIR}
        for index in range(timeline.num_steps):
            assert timeline.active(index)
            for modality in timeline.active(index):
                taken[modality].append(timeline.own_step(modality, index))
        assert taken == {m: list(range(first.get(m, 0), 6)) for m in PAIR}


# What is known ---------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_what_is_known_comes_back_and_the_rest_is_of_the_data(name, repeats):
    mask = torch.zeros(1, 4000, dtype=torch.bool)
    mask[:, :1000] = True
    known = Known(x_0=torch.full((2, 4000), 5.0), mask=mask, resample_steps=repeats, generators=generators())
    one = sampler(source(name), [AUDIO], 20, conditions={AUDIO: [known]})
    out = one.sample(one.start(noise(size=4000, modalities=[AUDIO])))[AUDIO]
    assert torch.equal(out[:, :1000], torch.full((2, 1000), 5.0))
    rest = out[:, 1000:]
    assert rest.mean() == pytest.approx(MEAN, abs=0.05) and rest.std() == pytest.approx(STD, rel=0.2)


class Correlated(protocols.Denoiser):
    """Answers exactly for pairs of neighbours (B, 2 N) of N(0, 1) with a correlation."""

    def __init__(self, process, rho):
        self.process, self.rho = process, rho

    def forward(self, x, t, prompt, partners=None, rate=None):
        alpha, sigma = (v[..., None].double() for v in self.process.alpha_sigma(t, 2))
        data = torch.tensor([[1.0, self.rho], [self.rho, 1.0]]).double()
        noisy = alpha[..., 0, None] ** 2 * data + sigma[..., 0, None] ** 2 * torch.eye(2).double()
        pairs = x.double().unflatten(1, (-1, 2))
        x_0 = alpha * (pairs @ torch.linalg.solve(noisy, data.expand_as(noisy)))
        return ((alpha * pairs - x_0) / sigma).flatten(1)


def correlated(repeats, value=1.5, rho=0.9):
    """The mean of what is beside a known value."""
    source = scheduler("dpm")
    process = NoiseProcess.from_scheduler(source)
    mask = torch.tensor([True, False]).repeat(2000)[None]
    known = Known(
        x_0=torch.full((1, 4000), value), mask=mask, resample_steps=repeats, generators=generators(1)
    )
    one = JointSampler(
        denoisers={AUDIO: Correlated(process, rho)},
        schedulers=copy_schedulers(source, [AUDIO], 20),
        contexts={AUDIO: context(1)},
        conditions={AUDIO: [known]},
    )
    return one.sample(one.start(noise(1, 4000, [AUDIO])))[AUDIO][:, 1::2].mean().item()


def test_the_rest_follows_what_is_known_the_better_the_more_often_steps_are_made():
    """Replacement alone is biased (arXiv 2201.09865); repeats bring it to the conditional mean."""
    right = 0.9 * 1.5
    errors = [abs(correlated(repeats) - right) for repeats in (1, 4, 10)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.1 * right


def test_only_the_last_repeat_asks_the_scheduler():
    mask = torch.ones(1, 600, dtype=torch.bool)
    mask[:, 300:] = False
    known = Known(x_0=torch.ones(2, 600), mask=mask, resample_steps=3, generators=generators())
    one = sampler("unipc", [AUDIO], 5, conditions={AUDIO: [known]})
    taken = []
    step = one.schedulers[AUDIO].step
    one.schedulers[AUDIO].step = lambda *args, **kwargs: taken.append(args[1]) or step(*args, **kwargs)
    one.sample(one.start(noise(modalities=[AUDIO])))
    assert len(taken) == 5 and one.denoisers[AUDIO].calls == 15


def test_repeats_depend_on_the_seed_of_the_sample_alone():
    def made(batch, rows):
        mask = torch.arange(600)[None] < 300
        known = Known(
            x_0=torch.ones(batch, 600),
            mask=mask,
            resample_steps=2,
            generators=[generators()[k] for k in rows],
        )
        one = sampler(modalities=[AUDIO], batch=batch, conditions={AUDIO: [known]})
        return one.sample(one.start({AUDIO: noise()[AUDIO][rows]}))[AUDIO]

    assert torch.allclose(made(2, [0, 1])[1:], made(1, [1]), atol=1e-5)


# What others hear, and what a denoiser is given -------------------------


class Timed(protocols.EnvironmentEncoder):
    """One token a second, which says the latent and whether it is clean."""

    def __init__(self):
        self.calls = []

    def forward(self, x, t, rate=None, cache=None):
        self.calls.append((x, t))
        return protocols.Environment(tokens=x[..., None], times=torch.arange(x.shape[1])[None] + 0.5)


def test_what_is_known_speaks_before_its_output_starts_cut_to_known_times():
    encoder = Timed()
    heard = []

    class Hearing(GaussianDenoiser):
        def forward(self, x, t, prompt, partners=None, rate=None):
            heard.append(None if partners is None else partners.times[0].tolist())
            return super().forward(x, t, prompt)

    known = Known(
        x_0=torch.ones(2, 4),
        mask=torch.tensor([[False, True, True, False]]),
        seconds=((1.0, 3.0),),
        standing=torch.full((2, 4), 7.0),
        generators=generators(),
    )
    one = sampler(
        steps=3,
        conditions={VIDEO: [known]},
        start_offsets={VIDEO: 3},
        environment_encoders={VIDEO: encoder},
        attends_to={AUDIO: [VIDEO]},
    )
    one.denoisers[AUDIO] = Hearing(one.denoisers[AUDIO].process)
    one.sample(one.start(noise(size=4)))
    assert heard == [[1.5, 2.5]] * 3
    x, t = encoder.calls[0]
    assert len(encoder.calls) == 1 and (t == 0).all() and (x == 7.0).all()  # read once, as a clean latent


def test_a_denoiser_that_names_it_is_given_mask_and_known_latent():
    given = []

    class Taking(GaussianDenoiser):
        conditions = ("prompt", "partners", KNOWN.name)

        def forward(self, x, t, prompt, partners=None, rate=None, known=None):
            given.append(known)
            return super().forward(x, t, prompt)

    mask = torch.arange(600)[None] < 300
    known = Known(x_0=torch.full((2, 600), 5.0), mask=mask, generators=generators())
    one = sampler(modalities=[AUDIO], steps=2, conditions={AUDIO: [known]})
    one.denoisers[AUDIO] = Taking(one.denoisers[AUDIO].process)
    one.sample(one.start(noise(modalities=[AUDIO])))
    assert len(given) == 2 and torch.equal(given[0].mask[0], mask[0].float())
    assert (given[0].latent[:, :300] == 5).all() and (given[0].latent[:, 300:] == 0).all()


def test_a_branch_that_drops_what_is_known_is_given_zeros():
    one = KnownLatent(mask=torch.ones(2, 3), latent=torch.ones(2, 3))
    both = KNOWN.batch([frozenset(), frozenset([KNOWN.name])], [one, one])
    assert both.mask.tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2
    assert torch.equal(both.mask, both.latent)


def test_a_condition_may_change_the_answers():
    class Pushed(LoopCondition):
        def answered(self, answers, step):
            noisy = step.active[AUDIO]
            assert noisy.levels.to_x_0(answers[AUDIO], noisy.x, noisy.t).isfinite().all()
            return {**answers, AUDIO: answers[AUDIO] - 1.0}

    plain, pushed = sampler(), sampler(conditions={AUDIO: [Pushed()]})
    before, after = plain.sample(plain.start(noise())), pushed.sample(pushed.start(noise()))
    assert torch.equal(before[VIDEO], after[VIDEO])
    assert (after[AUDIO] > before[AUDIO]).all()  # less of v is more of x_0


def test_a_condition_of_several_outputs_is_asked_once_a_step_and_once_a_repeat():
    asked = []

    class Watching(LoopCondition):
        def answered(self, answers, step):
            asked.append((set(answers), set(step.active)))
            return answers

    one = Watching()
    known = Known(
        x_0=torch.zeros(1, 600),
        mask=torch.arange(600)[None] < 300,
        resample_steps=3,
        generators=generators(),
    )
    joint = sampler(steps=4, conditions={AUDIO: [known, one], VIDEO: [one]})
    found = joint.sample(joint.start(noise()))
    assert asked == [(set(PAIR), set(PAIR))] * 12
    assert (found[AUDIO][:, :300] == 0).all()


# Levels ----------------------------------------------------------------


def trajectory(name):
    one = FlowMatchEulerDiscreteScheduler() if name == "flow" else source(name)
    one.set_timesteps(10)
    return Trajectory.of(one), one


@pytest.mark.parametrize("name", [*ALL, "flow"])
def test_a_latent_is_scaled_as_its_scheduler_holds_it(name):
    path, one = trajectory(name)
    x_0, eps = torch.full((1, 8), 2.0), torch.ones(1, 8)
    step = 4
    t = one.timesteps[step].reshape(1)
    if name == "flow":
        expected = one.scale_noise(x_0, t, eps)
    else:
        expected = one.add_noise(x_0, eps, t if name in OTHERS and name != "pndm" else t.long())
    assert torch.allclose(path.noised(x_0, eps, step), expected, atol=1e-3)
    assert torch.equal(path.noised(x_0, eps, path.num_steps), x_0)


@pytest.mark.parametrize("name", [*ALL, "flow"])
def test_a_step_back_has_the_noise_of_its_level(name):
    path, _ = trajectory(name)
    x_0, eps = torch.full((1, 20000), 2.0), torch.randn(1, 20000, generator=torch.Generator().manual_seed(0))
    for step in (0, 4, 9):
        later = path.noised(x_0, eps, step + 1)
        new = torch.randn(1, 20000, generator=torch.Generator().manual_seed(1))
        back = path.returned(later, new, step)
        a, s = path.scales(step)
        assert back.mean() == pytest.approx(2 * a, abs=0.05 * max(s, 1)) and back.std() == pytest.approx(
            s, rel=0.05
        )


@pytest.mark.parametrize("name", [*SCHEDULERS, "euler", "flow"])
def test_a_step_without_state_is_the_first_step_of_ddim(name):
    path, one = trajectory(name)
    x = (
        torch.randn(1, 50, generator=torch.Generator().manual_seed(2)) * one.init_noise_sigma
        if name != "flow"
        else (torch.randn(1, 50, generator=torch.Generator().manual_seed(2)))
    )
    answer = torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
    if name == "euler":
        one.scale_model_input(x, one.timesteps[0])
    expected = one.step(answer, one.timesteps[0], x).prev_sample
    assert torch.allclose(path.moved(answer, x, 0), expected, atol=2e-3, rtol=1e-3)


def test_levels_of_a_trajectory_may_be_given():
    one = DDIMScheduler()
    one.set_timesteps(4)
    levels = NoiseLevels.of(one)
    assert Trajectory.of(one, levels).levels is levels


def test_the_environment_of_a_time():
    times = torch.tensor([[0.5, 1.5, float("nan"), 2.5]])
    env = protocols.Environment(tokens=torch.arange(4.0).view(1, 4, 1), times=times)
    assert env.during([(0.0, 1.0), (2.0, 3.0)]).tokens.flatten().tolist() == [0.0, 3.0]
    assert env.during([]).tokens.shape == (1, 0, 1)


# Without any of it -----------------------------------------------------


class Before(JointSampler):
    """The loop as it was before steps could be repeated: all answers first, then all steps."""

    def step(self, index, latents):
        active = self.timeline.active(index)
        inputs = dict(latents)
        for modality in latents:
            if isinstance(self.timestep(modality, index), torch.Tensor):
                inputs[modality] = self._scaled(modality, index, latents[modality])
        if not self._initial:
            starts = self.timeline.starts
            self._initial = {m: self._scaled(m, starts[m], x) for m, x in latents.items()}
        environments = self.encode_environments(index, inputs)
        estimates = self.estimate_partners(index, inputs)
        answers = {}
        for modality in active:
            environment = self._environment(modality, environments)
            estimate = self._partner_estimate(modality, estimates)
            answers[modality] = self.predict(modality, index, inputs[modality], environment, estimate)
        return latents | {m: self._advance(m, index, answers[m], latents[m]) for m in active}


def lean(x, t, context, rate):
    """What a noisy-latent encoder may say: something of the latent and of the noise level."""
    return 0.1 * x[:, :1] + 0.001 * t[:, None]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start_offsets": {VIDEO: 4}},
        {"start_offsets": {AUDIO: 10, VIDEO: 20}},
        {"partners": True},
        {"guidance": {AUDIO: Guidance(scales={"prompt": 3.0, "partners": 2.0}, rescale=0.5)}},
        {"levels": True, "start_offsets": {VIDEO: 0.5}},
    ],
)
def test_calls_that_use_none_of_it_are_what_they_were_to_the_bit(name, options):
    made = []
    for kind in (Before, JointSampler):
        one = source(name)
        process = NoiseProcess.from_scheduler(one)
        given = dict(options)
        outputs = list(PAIR)
        if given.pop("partners", False):
            outputs = [AUDIO]
            given["partners"] = {VIDEO: torch.full((2, 600), 0.3)}
        if given.pop("levels", False):
            given["levels"] = {m: NoiseLevels.of(one) for m in PAIR}
        sampling = kind(
            denoisers={m: GaussianDenoiser(process, 0.8) for m in outputs},
            schedulers=copy_schedulers(one, outputs, 6),
            contexts={m: context(2, 0.2) for m in outputs},
            null_contexts={m: context(2) for m in outputs},
            environment_encoders={m: LatentEnvironment(process) for m in PAIR},
            noisy_latent_encoders={m: Reader(lean) for m in PAIR},
            **given,
        )
        made.append(sampling.sample(sampling.start(noise(modalities=outputs))))
    assert all(torch.equal(made[0][m], made[1][m]) for m in made[0])
