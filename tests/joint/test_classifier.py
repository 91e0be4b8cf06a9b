"""Classifier guidance against Gaussians whose posteriors are known, and what it may not be given."""

import pytest
import torch

from codi.conditions import CLASSIFIER, CONDITIONS, Mechanism
from codi.conditions.classifier import ClassifierGuidance, parse_classifier
from codi.diffusion import NoiseProcess, copy_schedulers, draw_noise
from codi.diffusion.levels import DiscreteLevels, EDMLevels, FlowLevels
from codi.joint.sampler import JointSampler
from codi.types import InputError
from tests.diffusion.toy import PAIR, GaussianDenoiser, Reader, context, scheduler

AUDIO, VIDEO = PAIR
SIZE = 40


def sampled(function, scale=1.0, modalities=PAIR, steps=20, **options):
    source = scheduler("ddim")
    process = NoiseProcess.from_scheduler(source)
    given = dict(outputs=tuple(modalities), scale=dict.fromkeys(modalities, scale), readable=frozenset(PAIR))
    classifier = None if function is None else ClassifierGuidance(function=function, **given | options)
    sampler = JointSampler(
        denoisers={m: GaussianDenoiser(process) for m in modalities},
        schedulers=copy_schedulers(source, modalities, steps),
        contexts={m: context(2) for m in modalities},
        noisy_latent_encoders={m: Reader(lambda x, t, c, rate: x[:, :1]) for m in modalities},
        partner_estimate_weight=0.0,
        conditions={} if classifier is None else {m: [c] for m, c in classifier.conditions().items()},
    )
    with torch.no_grad():
        return sampler.sample(sampler.start({m: draw_noise((SIZE,), range(2), m)[0] for m in modalities}))


def test_it_is_a_condition_that_acts_by_gradients():
    assert CONDITIONS["classifier"] is CLASSIFIER and CLASSIFIER.mechanism is Mechanism.GRADIENT
    assert CLASSIFIER.scale is None and CLASSIFIER.batch([], []) is None


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_answer_moves_as_far_as_the_clean_latent(prediction):
    alphas = torch.linspace(0.99, 0.05, 100)
    families = [DiscreteLevels(alphas_cumprod=alphas, prediction_type=prediction)]
    families += [FlowLevels(num_train_timesteps=100), EDMLevels(sigma_data=0.5, prediction_type="epsilon")]
    generator = torch.Generator().manual_seed(0)
    answer, x, delta = (torch.randn(3, 5, generator=generator) for _ in range(3))
    for levels in families:
        t = levels.timestep(torch.tensor([0.2, 0.5, 0.8]))
        moved = levels.to_x_0(answer + levels.moved(delta, t), x, t)
        torch.testing.assert_close(moved, levels.to_x_0(answer, x, t) + delta, rtol=1e-3, atol=1e-3)


def test_scale_zero_and_a_flat_function_change_no_bit():
    plain = sampled(None)
    for changed in (sampled(lambda x, p: x[AUDIO].sum(1), 0.0), sampled(lambda x, p: 0 * x[AUDIO].sum(1))):
        assert all(torch.equal(plain[m], changed[m]) for m in PAIR)


def test_a_function_of_clean_latents_steers_what_it_reads_alone():
    plain = sampled(None)
    steered = sampled(lambda x, p: x[AUDIO][:, 0], 0.5)
    assert torch.equal(plain[VIDEO], steered[VIDEO])
    assert torch.equal(plain[AUDIO][:, 1:], steered[AUDIO][:, 1:])
    assert (steered[AUDIO][:, 0] > plain[AUDIO][:, 0] + 0.05).all()
    stronger = sampled(lambda x, p: x[AUDIO][:, 0], 1.0)
    assert (stronger[AUDIO][:, 0] > steered[AUDIO][:, 0]).all()


def test_a_function_of_two_outputs_makes_them_agree():
    apart = sampled(None)
    nearer = sampled(lambda x, p: -((x[AUDIO] - x[VIDEO]) ** 2).sum(1), 0.5)
    distance = [float((out[AUDIO] - out[VIDEO]).square().mean()) for out in (apart, nearer)]
    assert distance[1] < 0.7 * distance[0]


def test_outputs_and_intervals_are_kept():
    plain = sampled(None)
    both = lambda x, p: (x[AUDIO] + x[VIDEO]).sum(1)  # noqa: E731
    one = sampled(both, 0.5, outputs=(AUDIO,))
    assert torch.equal(one[VIDEO], plain[VIDEO]) and not torch.equal(one[AUDIO], plain[AUDIO])
    never = sampled(both, 0.5, interval=(0.5, 0.5))
    assert all(torch.equal(never[m], plain[m]) for m in PAIR)


def test_the_built_in_functions_read_noisy_latents():
    """The reader's token is the first number of a latent."""
    plain = sampled(None)
    closer = sampled("agreement", 2.0)
    first = [out[AUDIO][:, 0] * out[VIDEO][:, 0] for out in (plain, closer)]
    assert (first[1] > first[0]).all()
    assert torch.equal(plain[AUDIO][:, 1:], closer[AUDIO][:, 1:])
    alone = sampled("agreement", 2.0, [AUDIO])
    assert torch.equal(alone[AUDIO], sampled(None, modalities=[AUDIO])[AUDIO])


def test_no_gradients_are_stored_when_it_is_off_or_after_it():
    seen = []

    def function(x, prompts):
        seen.append(torch.is_grad_enabled())
        return x[AUDIO].sum(1)

    out = sampled(function, 0.1, steps=2)
    assert seen == [True, True] and not any(z.requires_grad for z in out.values())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, p: x[AUDIO].sum(), r"returned \(\): expected a tensor of shape \(2,\)"),
        (lambda x, p: 3, "returned int: expected a tensor"),
        (lambda x, p: torch.zeros(2), "does not depend on the latents that it steers"),
        (lambda x, p: x[AUDIO].sum(1) * float("nan"), "returned NaN or infinity"),
        (lambda x, p: (0 * x[AUDIO].sum(1)).sqrt(), "the gradient towards audio is NaN or infinite"),
    ],
)
def test_functions_that_cannot_be_used_are_one_line(function, words):
    with pytest.raises(InputError, match=words) as caught:
        sampled(function, steps=2)
    assert "\n" not in str(caught.value)


def parsed(value, outputs=(AUDIO, VIDEO), encoders=PAIR, others=(), prompted=True):
    return parse_classifier(value, outputs, encoders=encoders, others=others, prompted=prompted)


def test_what_is_asked_is_parsed():
    assert parsed(None) is None
    found = parsed({"name": "prompt", "scale": {"audio": 0.5}, "interval": [0, 0.5], "outputs": ["audio"]})
    assert (found.outputs, found.scale, found.interval) == ((AUDIO,), {AUDIO: 0.5}, (0.0, 0.5))
    assert parsed(found.described()) == found
    assert parsed("agreement").outputs == (AUDIO, VIDEO)
    own = parsed(len)
    assert own.scale == {AUDIO: 1.0, VIDEO: 1.0} and own.described()["name"] is None


@pytest.mark.parametrize(
    ("value", "options", "words"),
    [
        ("promt", {}, "classifier_guidance 'promt': expected one of prompt, agreement, or a function"),
        ({"scale": 1}, {}, "classifier_guidance None: expected one of"),
        (["prompt"], {}, "classifier_guidance \\['prompt'\\]: expected one of"),
        ({"name": "prompt", "strength": 1}, {}, "has no option 'strength': expected some of scale"),
        ({"name": "prompt", "scale": -1}, {}, "scale of classifier_guidance is -1: expected a finite"),
        ({"name": "prompt", "scale": {"image": 1}}, {}, "names image, which is not steered: expected"),
        ({"name": "prompt", "interval": 3}, {}, "interval of classifier_guidance is 3: expected two"),
        ({"name": "prompt", "outputs": ["image"]}, {}, "names image, which is no output"),
        ("prompt", {"prompted": False}, "leads towards a prompt: expected one"),
        ("prompt", {"encoders": ()}, "no noisy-latent encoder of audio, video"),
        ({"name": "prompt", "outputs": "video"}, {"encoders": (AUDIO,)}, "no noisy-latent encoder of video"),
        ("agreement", {"outputs": (AUDIO,)}, "'agreement' is between outputs, and audio alone is made"),
    ],
)
def test_what_cannot_be_asked_is_one_line(value, options, words):
    with pytest.raises(InputError, match=words) as caught:
        parsed(value, **options)
    assert "\n" not in str(caught.value)


def test_agreement_with_a_partner_needs_one_output_alone():
    assert parsed("agreement", outputs=(AUDIO,), others=(VIDEO,)).outputs == (AUDIO,)


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(InputError, match="outside torch.inference_mode"):
        parsed("prompt")
