"""Guidance: its neutral point, its formula, its intervals, and that what is off is not computed."""

import itertools

import pytest
import torch

from codi.conditions import CONDITIONS
from codi.diffusion import FULL, Guidance

BOTH = frozenset({"prompt", "partners"})
NO_PROMPT, NO_PARTNERS = frozenset({"prompt"}), frozenset({"partners"})
GIVEN = ("prompt", "partners")


def guide(prompt=1.0, partners=1.0, **options):
    return Guidance(scales={"prompt": prompt, "partners": partners}, **options)


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(1)
    return {
        branch: torch.randn(3, 4, 5, generator=generator) for branch in (FULL, NO_PROMPT, NO_PARTNERS, BOTH)
    }


def test_one_is_off_and_changes_no_bit(answers):
    for guidance in (Guidance(), guide()):
        assert guidance.weights(0.5, GIVEN) == {FULL: 1.0}
        only = {FULL: answers[FULL]}
        assert torch.equal(guidance.combine(only, guidance.weights(0.5, GIVEN)), answers[FULL])


@pytest.mark.parametrize("prompt, partners, alone", [(4.0, 2.5, NO_PROMPT), (2.5, 4.0, NO_PARTNERS)])
def test_formula(answers, prompt, partners, alone):
    """What both scales share leads away from neither prompt nor partners, the rest of the stronger one from
    its own lack.
    """
    guidance, full = guide(prompt, partners), answers[FULL]
    expected = full + 1.5 * (full - answers[BOTH]) + 1.5 * (full - answers[alone])
    torch.testing.assert_close(guidance.combine(answers, guidance.weights(0.5, GIVEN)), expected)


def test_sync_guidance_as_strong_as_prompt_guidance_costs_no_branch(answers):
    guidance, full = guide(3.0, 3.0), answers[FULL]
    assert set(guidance.weights(0.5, GIVEN)) == {FULL, BOTH}
    expected = full + 2.0 * (full - answers[BOTH])
    torch.testing.assert_close(guidance.combine(answers, guidance.weights(0.5, GIVEN)), expected)


def test_three_conditions_are_dropped_from_all_at_once_to_the_strongest_alone():
    guidance = Guidance(scales={"prompt": 3.0, "partners": 2.0, "depth": 6.0})
    weights = guidance.weights(0.5, ("prompt", "partners", "depth"))
    everything, two, one = BOTH | {"depth"}, frozenset({"prompt", "depth"}), frozenset({"depth"})
    assert weights == {FULL: 6.0, everything: -1.0, two: -1.0, one: -3.0}


@pytest.mark.parametrize(
    "prompt, partners", [(1.0, 1.0), (0.0, 1.0), (4.0, 1.0), (1.0, 3.0), (7.5, 2.0), (0.5, 2.0)]
)
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_weights_sum_to_one(prompt, partners, progress):
    assert sum(guide(prompt, partners).weights(progress, GIVEN).values()) == pytest.approx(1.0)


def test_zero_is_unconditional():
    assert guide(0.0).weights(0.5, GIVEN) == {NO_PROMPT: 1.0}


def test_intervals():
    guidance = guide(2.0, 2.0, intervals={"prompt": (0.0, 0.5), "partners": (0.2, 0.8)})
    computed = {p: set(guidance.weights(p, GIVEN)) for p in (0.0, 0.3, 0.6, 0.8)}
    assert computed == {0.0: {FULL, NO_PROMPT}, 0.3: {FULL, BOTH}, 0.6: {FULL, NO_PARTNERS}, 0.8: {FULL}}


def test_what_is_not_given_cannot_be_led_away_from():
    assert guide(5.0, 3.0).weights(0.5, ()) == {FULL: 1.0}
    assert set(guide(5.0, 3.0).weights(0.5, ("partners",))) == {FULL, NO_PARTNERS}


def test_rescale_restores_the_spread(answers):
    guided = guide(8.0, rescale=1.0)
    result = guided.combine(answers, guided.weights(0.5, ("prompt",)))
    torch.testing.assert_close(result.std(dim=(1, 2)), answers[FULL].std(dim=(1, 2)))


def test_every_condition_says_how_it_acts_and_what_its_null_is():
    assert list(CONDITIONS) == [condition.name for condition in CONDITIONS.values()]
    scales = [condition.scale for condition in CONDITIONS.values() if condition.scale]
    assert len(set(scales)) == len(scales) and all(condition.null for condition in CONDITIONS.values())
    assert all(a.name != b.name for a, b in itertools.combinations(CONDITIONS.values(), 2))
