"""Experts by noise range: each row goes to its expert, and a pair is saved, loaded, split as one."""

import pytest
import torch

from codi import pretrained
from codi.diffusion import NoiseProcess
from codi.models.denoisers import TextDenoiser, UNetDenoiser, UNetExperts
from codi.models.denoisers.experts import first_noisy_timestep, join, split
from codi.protocols import Weakening
from codi.types import InputError
from tests.tiny_pipeline import DIM, denoisers, scheduler

PROCESS = NoiseProcess.from_scheduler(scheduler())


def drawn(name="audio_denoiser", seed=0):
    """A denoiser with every weight drawn."""
    torch.manual_seed(seed)
    part = denoisers()[name].eval()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return part


def call(part, t, name="audio_denoiser", prompt=None, **options):
    generator = torch.Generator().manual_seed(3)
    size = (16,) if name == "text_denoiser" else (4, 6, 4)
    x = torch.randn(len(t), *size, generator=generator)
    context = torch.randn(len(t), 1, DIM, generator=generator)
    with torch.no_grad():
        cached = part.precompute(context, x) if prompt == "cached" else context
        return part(x, torch.tensor(t), cached, **options)


@pytest.mark.parametrize("name", ["audio_denoiser", "text_denoiser"])
def test_each_range_has_its_expert(name):
    clean, noisy = drawn(name, 0), drawn(name, 1)
    both = join(clean, noisy, 0.0, PROCESS)
    boundary = both.config.boundary_timestep
    below, above = [3, boundary - 1], [boundary, 999]
    for prompt in (None, "cached"):
        assert torch.equal(call(both, below, name, prompt), call(clean, below, name, prompt))
        assert torch.equal(call(both, above, name, prompt), call(noisy, above, name, prompt))
    mixed = [999, 3, boundary, 5]
    rows = call(both, mixed, name)
    torch.testing.assert_close(rows[[1, 3]], call(clean, mixed, name)[[1, 3]])
    torch.testing.assert_close(rows[[0, 2]], call(noisy, mixed, name)[[0, 2]])


def test_the_boundary_is_a_log_snr():
    t = first_noisy_timestep(PROCESS, 1.0)
    assert PROCESS.log_snr(torch.tensor([t - 1])) >= 1.0 > PROCESS.log_snr(torch.tensor([t]))
    with pytest.raises(InputError, match="leaves an expert without noise levels: expected one between"):
        first_noisy_timestep(PROCESS, 1000.0)


def test_a_pair_is_saved_loaded_and_split_as_one_part(tmp_path):
    clean, noisy = drawn(seed=0), drawn(seed=1)
    both = join(clean, noisy, 0.0, PROCESS)
    both.save_pretrained(tmp_path)
    loaded = pretrained.load_part(tmp_path, "codi.models.denoisers.experts", "UNetExperts", torch.float32)
    assert isinstance(loaded, UNetExperts) and isinstance(loaded, UNetDenoiser)
    for t in ([10], [990]):
        assert torch.equal(call(loaded, t), call(both, t))
    halves = split(loaded)
    assert [type(half) for half in halves] == [UNetDenoiser, UNetDenoiser]
    assert torch.equal(call(halves[0], [10]), call(clean, [10]))
    assert torch.equal(call(halves[1], [990]), call(noisy, [990]))
    again = join(*halves, 0.0, PROCESS)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in both.state_dict().items())


def test_both_experts_start_as_the_denoiser_that_they_are_cloned_from():
    one = drawn()
    halves = split(one)
    assert all(torch.equal(call(half, [500]), call(one, [500])) for half in halves)
    halves[0].conv_in.weight.data.zero_()
    assert one.conv_in.weight.abs().max() > 0 and halves[1].conv_in.weight.abs().max() > 0


def test_both_experts_have_joint_adapters():
    both = join(drawn(), drawn(seed=1), 0.0, PROCESS)
    names = list(both.joint_adapters())
    assert names and {f"noisy.{name}" for name in names if not name.startswith("noisy.")} <= set(names)


def test_experts_of_different_kinds_are_refused():
    with pytest.raises(InputError, match="a UNetDenoiser and a TextDenoiser: expected two"):
        join(drawn(), drawn("text_denoiser"), 0.0, PROCESS)
    assert isinstance(drawn("text_denoiser"), TextDenoiser)


@pytest.mark.parametrize("perturbs", [False, True])
@pytest.mark.parametrize("name", ["audio_denoiser", "text_denoiser"])
def test_a_denoiser_is_weakened_in_one_call_alone(name, perturbs):
    part = drawn(name)
    plain = call(part, [500], name, "cached")
    for blocks in ((), (0,), tuple(range(part.num_transformers))):
        weakening = Weakening(blocks=blocks, perturbs_attention=perturbs)
        assert not torch.allclose(call(part, [500], name, "cached", weakening=weakening), plain, atol=1e-5)
    assert torch.equal(call(part, [500], name, "cached"), plain)


def test_a_perturbed_position_gets_itself_alone():
    attention = drawn().middle[0].attention.block.attn1
    x = torch.randn(2, 5, attention.to_q.in_features)
    alone = torch.cat([attention(x[:, k : k + 1], x[:, k : k + 1]) for k in range(5)], dim=1)
    torch.testing.assert_close(attention.identity(x), alone)
    single = torch.cat([attention.processor(attention, *[x[:, k : k + 1]] * 2) for k in range(5)], dim=1)
    torch.testing.assert_close(attention.identity(x), single)
