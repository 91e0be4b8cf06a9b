"""Guiders: those of diffusers to the number, CFG++ step by step, options that cannot be, and what is off."""

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeZeroStarGuidance
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from codi.diffusion import FULL, Guidance, Guider, copy_schedulers, named_scheduler
from codi.diffusion.guiders import GUIDERS, WEAKENED, parse_guider
from codi.diffusion.levels import NoiseLevels
from codi.diffusion.schedulers import is_first_order
from codi.joint.sampler import JointSampler
from codi.protocols import Denoiser
from codi.types import InputError, Modality

AUDIO = Modality.AUDIO
NULL = frozenset({"prompt"})


def guidance(guider, scale=4.0, **options):
    return Guidance(scales={"prompt": scale}, guider=parse_guider(guider), **options)


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(1)
    return {branch: torch.randn(3, 4, 5, generator=generator) for branch in (FULL, NULL)}


def combined(guided, answers, memory=None):
    return guided.combine(answers, guided.weights(0.5, ["prompt"]), memory)


def test_every_guider_but_the_plain_one_changes_the_answer(answers):
    plain = combined(guidance("cfg"), answers)
    assert torch.equal(plain, 4.0 * answers[FULL] - 3.0 * answers[NULL])
    for name in ("apg", "zero-star"):
        assert not torch.allclose(combined(guidance(name), answers), plain)


@pytest.mark.parametrize("momentum", [0.0, -0.5])
@pytest.mark.parametrize("eta, limit", [(0.0, 0.0), (0.3, 2.0)])
def test_apg_is_that_of_diffusers(answers, eta, limit, momentum):
    theirs = AdaptiveProjectedGuidance(
        guidance_scale=3.0,  # beyond the full answer, in the paper's formulation
        eta=eta,
        adaptive_projected_guidance_rescale=limit,
        adaptive_projected_guidance_momentum=momentum or None,
        use_original_formulation=True,
    )
    options = {"name": "apg", "eta": eta, "norm_threshold": limit, "momentum": momentum}
    ours, memory = guidance(options), {}
    for step in range(3):
        theirs.set_state(step, 3, torch.tensor(0))
        theirs.prepare_inputs({})
        expected = theirs.forward(answers[FULL], answers[NULL]).pred
        assert torch.equal(combined(ours, answers, memory), expected)
        answers = {branch: answer.flip(0) for branch, answer in answers.items()}


def test_apg_adds_nothing_along_the_answer(answers):
    moved = combined(guidance({"name": "apg", "momentum": 0.0}), answers) - answers[FULL]
    along = (moved * answers[FULL]).flatten(1).sum(1)
    assert along.abs().max() < 1e-4 < moved.abs().max()


def test_zero_star_is_that_of_diffusers(answers):
    theirs = ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=0)
    theirs.set_state(0, 3, torch.tensor(0))
    expected = theirs.forward(answers[FULL], answers[NULL]).pred
    torch.testing.assert_close(combined(guidance("zero-star"), answers), expected)


def test_zero_star_starts_with_zeros_where_asked(answers):
    guided, memory = guidance({"name": "zero-star", "zero_steps": 1}), {}
    assert combined(guided, answers, memory).abs().max() == 0
    assert combined(guided, answers, memory).abs().max() > 0


def test_guiders_act_within_their_interval_alone():
    guided = guidance({"name": "apg", "interval": [0.2, 0.6]})
    assert [set(guided.weights(p, ["prompt"])) for p in (0.0, 0.2, 0.6)] == [{FULL}, {FULL, NULL}, {FULL}]
    assert guided.acts("prompt", 0.2) and not guided.acts("prompt", 0.0)


def test_a_guider_may_rescale_one_output(answers):
    own = guidance({"name": "cfg", "rescale": 1.0}, rescale=0.0)
    torch.testing.assert_close(combined(own, answers).std((1, 2)), answers[FULL].std((1, 2)))


@pytest.mark.parametrize("name", ["skip-layer", "perturbed-attention"])
def test_a_weakened_branch_is_led_away_from_within_its_interval(name):
    guided = guidance({"name": name, "strength": 2.0, "branch_interval": (0.0, 0.5)}, scale=3.0)
    assert guided.weights(0.4, ["prompt"]) == {FULL: 5.0, NULL: -2.0, WEAKENED: -2.0}
    assert guided.weights(0.5, ["prompt"]) == {FULL: 3.0, NULL: -2.0}


class TwoAnswers(Denoiser):
    """eps is sine of the latent with a prompt of ones, and cosine without one."""

    batches_prompts = True
    dtype = torch.float32

    def forward(self, x, t, prompt, partners=None, rate=None, weakening=None):
        return torch.cat([x.sin() if row[0, 0] > 0 else x.cos() for row in prompt.split(len(x))])


def stable_diffusion(name):
    """A scheduler with the levels of Stable Diffusion, whose noisiest still has some signal."""
    levels = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    like = DDIMScheduler(**levels, prediction_type="epsilon")
    return named_scheduler(name, like)


@pytest.mark.parametrize("name", ["ddim", "euler", "released"])
@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_cfg_plus_plus_is_its_algorithm(name, strength):
    """x_0 from the guided eps, noise from the eps without a prompt (arXiv 2406.08070, algorithm 2)."""
    source = stable_diffusion(name)
    sampler = JointSampler(
        denoisers={AUDIO: TwoAnswers()},
        schedulers=copy_schedulers(source, [AUDIO], 5),
        contexts={AUDIO: torch.ones(1, 1, 1)},
        null_contexts={AUDIO: torch.zeros(1, 1, 1)},
        guidance={AUDIO: guidance({"name": "cfg++", "strength": strength}, strength)},
    )
    noise = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    found = sampler.sample(sampler.start({AUDIO: noise}))[AUDIO]
    timesteps = sampler.schedulers[AUDIO].timesteps
    alpha, sigma = map(torch.Tensor.tolist, NoiseLevels.of(source).alpha_sigma(timesteps))
    last = float(source.alphas_cumprod[0]) if name == "released" else 1.0
    alpha, sigma = [*alpha, last**0.5], [*sigma, (1 - last) ** 0.5]
    x = sampler.schedulers[AUDIO].init_noise_sigma * noise
    if name == "euler":  # which holds x / alpha
        x = x * alpha[0]
    for k in range(len(timesteps)):
        null, full = x.cos(), x.sin()
        x_0 = (x - sigma[k] * (null + strength * (full - null))) / alpha[k]
        x = alpha[k + 1] * x_0 + sigma[k + 1] * null
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


def test_second_order_is_no_first_order():
    assert is_first_order(stable_diffusion("ddim")) and is_first_order(stable_diffusion("euler"))
    assert not is_first_order(stable_diffusion("dpm++")) and not is_first_order(stable_diffusion("unipc"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("apgg", "guider 'apgg': expected one of cfg, apg"),
        (3, "guider 3: expected one of"),
        ({"eta": 0.1}, "guider None: expected one of"),
        ({"name": "apg", "eat": 1}, "the guider apg has no option 'eat': expected some of interval, rescale"),
        ({"name": "apg", "eta": 2}, "eta of the guider apg is 2: expected 0 to 1"),
        ({"name": "apg", "eta": "x"}, "eta of the guider apg is 'x': expected a finite number"),
        ({"name": "apg", "momentum": -1}, "momentum of the guider apg is -1: expected a number above -1"),
        ({"name": "cfg", "interval": (0.5, 0.1)}, "interval of the guider cfg is .*two fractions"),
        ({"name": "cfg", "rescale": 1.5}, "rescale of the guider cfg is 1.5: expected 0 to 1"),
        ({"name": "cfg++", "strength": 7.5}, "strength of the guider cfg\\+\\+ is 7.5: expected 0 to 1"),
        (
            {"name": "zero-star", "zero_steps": 0.5},
            "zero_steps of the guider zero-star is 0.5: expected a whole",
        ),
        ({"name": "skip-layer", "blocks": [-1]}, "blocks of the guider skip-layer is \\[-1\\]"),
        ({"name": "skip-layer", "blocks": True}, "blocks of the guider skip-layer"),
    ],
)
def test_bad_guiders_are_one_line(value, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_guider(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GUIDERS)
def test_what_is_described_is_parsed_to_the_same(name):
    guider = parse_guider(name)
    assert parse_guider(guider.described()) == guider and parse_guider(guider) is guider
    assert isinstance(guider, Guider) and guider.described()["name"] == name
