"""What prompts say: the mean of their captions, what several say together, and a token that says it."""

from itertools import permutations

import pytest
import torch
from torch.nn import functional

from codi.joint import caption_prior

# what a caption may say, each at right angles to the others; (1, 8)
SHAPE, COLOUR, PLACE, MOTION = torch.eye(4, 8)[:, None] / 2
CAPTION, PICTURE = SHAPE + COLOUR + PLACE + MOTION, SHAPE + COLOUR + PLACE


def says(u: torch.Tensor, fact: torch.Tensor) -> float:
    """How much of a fact lies in a token, 1 all of it."""
    return float((u * fact).sum() / fact.square().sum())


ALIKE = {
    "caption, picture": (CAPTION, PICTURE),
    "picture, motion": (PICTURE, MOTION),
    "caption twice": (CAPTION, CAPTION),
    "all": (PICTURE, MOTION, CAPTION, SHAPE),
}


@pytest.mark.parametrize("means", ALIKE.values(), ids=ALIKE)
def test_prompts_that_agree_say_everything_that_each_of_them_says_once(means):
    torch.testing.assert_close(caption_prior.combine_prompts(means, [1.0] * len(means)), CAPTION)


def test_interpolation_would_halve_what_one_prompt_leaves_open():
    assert (
        says((CAPTION + PICTURE) / 2, MOTION) == 0.5
        and abs(says(caption_prior.combine_prompts([CAPTION, PICTURE], [1.0, 1.0]), MOTION) - 1) < 1e-6
    )


def test_one_prompt_says_what_it_says():
    m = torch.randn(3, 16)
    torch.testing.assert_close(caption_prior.combine_prompts([m], [0.3]), m)


def test_a_heavier_prompt_is_followed_where_they_contradict_each_other():
    ball, star = SHAPE, torch.eye(8)[5:6] / 2
    first, second = ball + COLOUR, star + COLOUR
    shares = []
    for w in (0.1, 0.3, 0.5, 0.7, 0.9):
        u = caption_prior.combine_prompts([first, second], [1 - w, w])
        shares.append(says(u, star) / (says(u, ball) + says(u, star)))
        assert says(u, COLOUR) > 0.99
    assert shares == sorted(shares) and shares[0] < 0.1 and abs(shares[2] - 0.5) < 1e-6 and shares[-1] > 0.9


def test_contradictions_and_silence_have_an_answer():
    opposite = caption_prior.combine_prompts([CAPTION, -CAPTION], [1.0, 1.0])
    assert opposite.isfinite().all() and opposite.norm() < 1e-6
    assert torch.equal(caption_prior.combine_prompts([torch.zeros(1, 8), CAPTION], [1.0, 1.0]), CAPTION)
    assert torch.equal(caption_prior.project(CAPTION, torch.zeros(1, 8)), CAPTION)


def test_order_and_batch_change_no_bit():
    means, weights = list(torch.randn(4, 5, 64) / 8), [1.0, 0.5, 2.0, 1.0]
    means[1] = means[0].clone()  # the same prompt twice, with two weights
    made = [
        caption_prior.combine_prompts([means[k] for k in order], [weights[k] for k in order])
        for order in permutations(range(4))
    ]
    assert all(torch.equal(made[0], other) for other in made)
    torch.testing.assert_close(caption_prior.combine_prompts([m[2:3] for m in means], weights), made[0][2:3])


def test_it_settles():
    """At the solution every prompt has what it asks for, or all that its weight allows; who needs nothing is
    left out.
    """
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 1, 32, generator=generator)
    means = torch.randn(5, 7, 32, generator=generator) + common
    weights = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2])
    a = caption_prior._multipliers(means.double(), weights[:, None].double().expand(5, 7))
    lacks = weights[:, None] * means.square().sum(-1) - (means * (a[..., None] * means).sum(0)).sum(-1)
    full, silent = a > weights[:, None] - 1e-9, a < 1e-9
    assert (
        (lacks.abs()[~full & ~silent] < 1e-4).all()
        and (lacks[silent] < 1e-4).all()
        and (lacks[full] > -1e-4).all()
    )


def test_gradients_pass():
    token = torch.randn(1, 8, requires_grad=True)
    caption_prior.project(token, caption_prior.combine_prompts([token, PICTURE], [1.0, 1.0])).sum().backward()
    assert token.grad.any()


def test_a_token_is_turned_until_it_says_what_is_said_and_no_further():
    token = functional.normalize(torch.randn(6, 16), dim=-1)
    said = (
        functional.normalize(torch.randn(6, 16), dim=-1)
        * torch.tensor([0.2, 0.5, 0.8, 0.97, 1.0, 1.01])[:, None]
    )
    turned = caption_prior.project(token, said)
    direction, wanted = functional.normalize(said, dim=-1), said.norm(dim=-1).clamp(max=1)
    before, after = ((t * direction).sum(-1) for t in (token, turned))
    torch.testing.assert_close(after, torch.maximum(before, wanted))
    torch.testing.assert_close(turned.norm(dim=-1), torch.ones(6))
    already = caption_prior.project(turned, 0.9 * said)
    assert torch.equal(already, turned)


def test_the_mean_of_captions_is_taken_over_noise():
    """A tower that adds what it sees in the noise to what the prompt says."""

    def tower(x, t, context):
        assert t.shape == (len(x),) and (t == 999).all()
        return context[:, 0] + x

    noise, token = torch.randn(16, 8), torch.randn(3, 8)
    torch.testing.assert_close(
        caption_prior.estimate_captions(tower, noise, 999, token), token + noise.mean(0)
    )
