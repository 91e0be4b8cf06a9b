"""The noise process: closed forms, and agreement with the scheduler that it is read from."""

import pytest
import torch

from codi.diffusion import NoiseProcess, denoising_loss, info_nce, min_snr_weight
from tests.diffusion.toy import SCHEDULERS, scheduler


@pytest.fixture(params=["epsilon", "v_prediction"])
def process(request):
    return NoiseProcess.from_scheduler(scheduler("ddim", request.param))


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 6, 3, 4, generator=generator)
    return x_0, eps, torch.tensor([0, 1, 250, 500, 900, 990])


def test_variance_is_preserved(process, drawn):
    alpha, sigma = process.alpha_sigma(drawn[2])
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(6))


def test_target_inverts_to_data_and_noise(process, drawn):
    x_0, eps, t = drawn
    x_t, target = process.add_noise(x_0, eps, t), process.target(x_0, eps, t)
    # at t = 990 eps-prediction divides by 0.015
    torch.testing.assert_close(process.to_x_0(target, x_t, t), x_0, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(process.to_eps(target, x_t, t), eps, atol=1e-5, rtol=1e-4)


def test_log_snr_falls_and_is_found_again(process):
    t = torch.arange(process.num_train_timesteps)
    levels = process.log_snr(t)
    assert (levels.diff() < 0).all()
    assert torch.equal(process.at_log_snr(levels), t)


def test_agrees_with_the_scheduler(drawn):
    x_0, eps, t = drawn
    source = scheduler("ddim")
    process = NoiseProcess.from_scheduler(source)
    torch.testing.assert_close(
        process.add_noise(x_0, eps, t), source.add_noise(x_0, eps, t), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        process.target(x_0, eps, t), source.get_velocity(x_0, eps, t), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_schedulers_mean_the_same_process(name):
    assert torch.equal(
        NoiseProcess.from_scheduler(scheduler(name)).alphas_cumprod, scheduler("ddim").alphas_cumprod
    )


def test_unknown_prediction_type_is_refused():
    with pytest.raises(AssertionError, match="sample"):
        NoiseProcess(alphas_cumprod=torch.ones(2), prediction_type="sample")


def test_loss_is_per_sample():
    output, target = torch.zeros(3, 2, 2), torch.stack([torch.full((2, 2), float(i)) for i in range(3)])
    assert denoising_loss(output, target).tolist() == [0.0, 1.0, 4.0]


def test_min_snr_weights_x_0_alike_for_eps_and_v(process):
    """Weight times what an error in x_0 is multiplied by is the clipped SNR, whatever the
    denoiser predicts.
    """
    snr = process.snr(torch.tensor([100, 400, 800]))
    factor = {"epsilon": snr, "v_prediction": snr + 1.0}[process.prediction_type]
    torch.testing.assert_close(min_snr_weight(snr, 5.0, process.prediction_type) * factor, snr.clamp(max=5.0))


def test_info_nce_closed_forms():
    eye = torch.eye(4)
    expected = -torch.log(torch.tensor(10.0).exp() / (torch.tensor(10.0).exp() + 3))
    torch.testing.assert_close(info_nce(eye, eye, torch.tensor(10.0).log()), expected.expand(4))
    chance = info_nce(eye, eye[:1].expand(4, 4), 0.0)
    torch.testing.assert_close(chance.mean(), torch.log(torch.tensor(4.0)), atol=0.2, rtol=0)
    assert (info_nce(eye, eye, 1.0, negatives=eye[:, None]) > info_nce(eye, eye, 1.0)).all()
