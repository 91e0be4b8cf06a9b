"""Guidance: its neutral point, its formula, its intervals, and that what is off is not computed."""

import pytest
import torch

from codi.diffusion import Branch, Guidance


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(1)
    return {branch: torch.randn(3, 4, 5, generator=generator) for branch in Branch}


def test_one_is_off_and_changes_no_bit(answers):
    guidance = Guidance()
    assert guidance.weights(0.5) == {Branch.FULL: 1.0}
    assert torch.equal(
        guidance.combine({Branch.FULL: answers[Branch.FULL]}, guidance.weights(0.5)), answers[Branch.FULL]
    )


@pytest.mark.parametrize(
    "prompt, sync, alone", [(4.0, 2.5, Branch.NULL_PROMPT), (2.5, 4.0, Branch.NULL_PARTNERS)]
)
def test_formula(answers, prompt, sync, alone):
    """What both knobs share leads away from neither prompt nor partners, the rest of the stronger one from
    its own lack.
    """
    guidance, full = Guidance(prompt=prompt, sync=sync), answers[Branch.FULL]
    expected = full + 1.5 * (full - answers[Branch.NULL_BOTH]) + 1.5 * (full - answers[alone])
    torch.testing.assert_close(guidance.combine(answers, guidance.weights(0.5)), expected)


def test_sync_guidance_as_strong_as_prompt_guidance_costs_no_branch(answers):
    guidance, full = Guidance(prompt=3.0, sync=3.0), answers[Branch.FULL]
    assert set(guidance.weights(0.5)) == {Branch.FULL, Branch.NULL_BOTH}
    torch.testing.assert_close(
        guidance.combine(answers, guidance.weights(0.5)), full + 2.0 * (full - answers[Branch.NULL_BOTH])
    )


def test_what_branches_are_given():
    assert {b for b in Branch if b.prompted and b.hearing} == {Branch.FULL}
    assert {b for b in Branch if not b.prompted and not b.hearing} == {Branch.NULL_BOTH}


@pytest.mark.parametrize(
    "prompt, sync", [(1.0, 1.0), (0.0, 1.0), (4.0, 1.0), (1.0, 3.0), (7.5, 2.0), (0.5, 2.0)]
)
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_weights_sum_to_one(prompt, sync, progress):
    assert sum(Guidance(prompt=prompt, sync=sync).weights(progress).values()) == pytest.approx(1.0)


def test_zero_is_unconditional():
    assert Guidance(prompt=0.0).weights(0.5) == {Branch.NULL_PROMPT: 1.0}


def test_intervals():
    guidance = Guidance(prompt=2.0, sync=2.0, prompt_interval=(0.0, 0.5), sync_interval=(0.2, 0.8))
    computed = {p: set(guidance.weights(p)) for p in (0.0, 0.3, 0.6, 0.8)}
    assert computed[0.0] == {Branch.FULL, Branch.NULL_PROMPT}
    assert computed[0.3] == {Branch.FULL, Branch.NULL_BOTH}
    assert computed[0.6] == {Branch.FULL, Branch.NULL_PARTNERS}
    assert computed[0.8] == {Branch.FULL}


def test_without_prompt_or_partners_there_is_nothing_to_guide():
    assert Guidance(prompt=5.0, sync=3.0).weights(0.5, has_prompt=False, has_partners=False) == {
        Branch.FULL: 1.0
    }


def test_rescale_restores_the_spread(answers):
    full = answers[Branch.FULL]
    guided = Guidance(prompt=8.0, rescale=1.0)
    result = guided.combine(answers, guided.weights(0.5, has_partners=False))
    torch.testing.assert_close(result.std(dim=(1, 2)), full.std(dim=(1, 2)))
