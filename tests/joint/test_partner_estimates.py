"""Noised towers: what partners seem to be, added to the prompt."""

import pytest
import torch
from torch.nn import functional

from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.joint.partner_estimates import PartnerEstimate, centred_estimate, fuse_prompt, max_deviation
from codi.types import Modality

LATENTS = {
    "text": {"latent_shape": [16], "latent_rate": None, "tokens_per_step": 2},
    "audio": {"latent_shape": [4, 10, 2], "latent_rate": 25.0, "tokens_per_step": 1},
    "video": {"latent_shape": [4, 3, 8, 8], "latent_rate": 8.0, "tokens_per_step": 1},
}


def towers() -> NoisyLatentEncoders:
    return NoisyLatentEncoders(LATENTS, context_dim=6, dim=16, num_layers=1, num_heads=2)


def latents(batch: int) -> dict[Modality, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        Modality(m): torch.randn(batch, *spec["latent_shape"], generator=generator)
        for m, spec in LATENTS.items()
    }


def test_an_untrained_tower_says_nothing_and_every_modality_is_heard_by_all_others() -> None:
    module, t = towers(), torch.tensor([10, 500])
    for modality, x in latents(2).items():
        assert torch.equal(module.by_modality()[modality](x, t, torch.ones(2, 1, 6)), torch.zeros(2, 6))
    assert module.attends_to()[Modality.IMAGE] == {Modality.TEXT, Modality.AUDIO, Modality.VIDEO}
    assert module.attends_to()[Modality.AUDIO] == {Modality.TEXT, Modality.VIDEO}


def test_a_trained_tower_reads_the_latent_its_noise_level_and_the_prompt() -> None:
    module, t, prompt = towers(), torch.tensor([10, 10]), torch.ones(2, 1, 6)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for modality, x in latents(2).items():
        tower = module.by_modality()[modality]
        first, other = said = tower(x, t, prompt)
        assert not torch.allclose(first, other)
        assert not torch.allclose(tower(x, t + 500, prompt), said) and not torch.allclose(
            tower(x, t, -prompt), said
        )


def test_a_blend_is_as_long_as_the_prompt_and_nothing_told_changes_no_bit() -> None:
    prompt = functional.normalize(torch.randn(4, 1, 8), dim=-1)
    told = torch.randn(4, 8) * torch.tensor([1.0, 0.3, 0.01, 0.0])[:, None]
    mixed = fuse_prompt(prompt, PartnerEstimate.clean(told), 3.0)
    assert torch.allclose(mixed.norm(dim=-1), torch.ones(4, 1), atol=1e-5)
    assert torch.equal(mixed[3], prompt[3]) and torch.equal(
        fuse_prompt(prompt, PartnerEstimate.clean(torch.zeros(4, 8))), prompt
    )


def test_a_sure_partner_is_taken_at_its_word() -> None:
    prompt = functional.normalize(torch.randn(3, 1, 8), dim=-1)
    token = functional.normalize(prompt[:, 0] + 0.8 * functional.normalize(torch.randn(3, 8), dim=-1), dim=-1)
    for weight in (1.0, 5.0):
        assert torch.allclose(
            fuse_prompt(prompt, PartnerEstimate.clean(token), weight)[:, 0], token, atol=1e-5
        )


def test_what_the_prompt_leaves_open_is_amplified_and_what_it_says_is_kept() -> None:
    prompt, told = torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[0.6, 0.1, 0]])
    once, thrice, most = (
        fuse_prompt(prompt, PartnerEstimate.clean(told), weight)[0, 0] for weight in (1.0, 3.0, 100.0)
    )
    assert torch.allclose(once[1] / once[0], torch.tensor(1 / 6)) and torch.allclose(
        thrice[1] / thrice[0], torch.tensor(1 / 2)
    )
    assert torch.allclose(most, torch.tensor([0.6, 0.8, 0])) and once[2] == thrice[2] == 0


def test_without_a_prompt_what_is_told_stands_alone() -> None:
    told = torch.randn(3, 8) * 0.05
    assert torch.allclose(fuse_prompt(torch.zeros(3, 1, 8), PartnerEstimate.clean(told))[:, 0], told)
    assert torch.allclose(
        fuse_prompt(torch.zeros(3, 1, 8), PartnerEstimate.clean(100 * told), 3.0).norm(dim=-1),
        torch.ones(3, 1),
    )


def test_a_partner_that_says_the_opposite_does_not_cover_the_prompt() -> None:
    prompt = functional.normalize(torch.ones(1, 1, 4), dim=-1)
    assert torch.allclose(fuse_prompt(prompt, PartnerEstimate.clean(-prompt[:, 0]), 3.0), prompt)
    against = functional.normalize(torch.tensor([[1.0, -1.0, -1.0, -1.0]]), dim=-1)
    assert (fuse_prompt(prompt, PartnerEstimate.clean(against), 3.0)[0, 0] @ prompt[0, 0]) > 0.2


def test_what_is_expected_of_a_prompt_is_no_opinion() -> None:
    prompt, expected = torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[0.4, 0.3, 0]])
    # what follows from the prompt stays
    assert torch.allclose(centred_estimate(prompt, expected, expected).token, torch.tensor([[0.4, 0, 0]]))
    assert torch.allclose(
        centred_estimate(prompt, torch.tensor([[0.4, 0.3, 0.2]]), expected).token,
        torch.tensor([[0.4, 0, 0.2]]),
    )
    assert torch.allclose(centred_estimate(torch.zeros(1, 1, 3), expected, expected).token, torch.zeros(1, 3))


def test_where_the_prompt_names_everything_partners_that_err_do_not_talk_it_over() -> None:
    prompt, told = torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[0.9, 0.2, 0]])
    everything, nearly_all, little, nothing = (
        torch.tensor([e]) for e in ([0.9, 0.15, 0.1], [0.85, 0.35, 0], [0.25, 0.4, 0], [0, 0, 0.5])
    )
    rooms = [max_deviation(prompt, expected).item() for expected in (everything, nearly_all, little, nothing)]
    assert rooms[0] == 0.0 and rooms == sorted(rooms) and rooms[3] == pytest.approx(1.25)
    assert torch.equal(fuse_prompt(prompt, centred_estimate(prompt, told, everything), 3.0), prompt)
    turned = fuse_prompt(prompt, centred_estimate(prompt, told, nearly_all), 100.0)[0, 0]
    # as far as there is room
    assert turned[1:].norm() / turned[0] == pytest.approx(min(rooms[1], (1 - 0.9**2) ** 0.5) / 0.9, rel=1e-4)
    assert max_deviation(torch.zeros(1, 1, 3), told).item() == pytest.approx(
        1.25
    )  # without a prompt all is open


def test_of_several_partners_the_mean_counts_and_inputs_expect_nothing() -> None:
    first, second = (
        PartnerEstimate.clean(torch.tensor([[1.0, 0.0]])),
        PartnerEstimate(token=torch.tensor([[0.0, 0.5]]), prior=torch.tensor([[0.4, 0.2]])),
    )
    both = PartnerEstimate.mean([first, second])
    assert both.token.tolist() == [[0.5, 0.25]] and torch.allclose(both.prior, torch.tensor([[0.2, 0.1]]))
