"""Prompts in training: kinds by their shares, two at once, noise, none."""

import torch
from torch.nn import functional

from codi.world import parse
from data.world import scene_at
from training.stages.denoise import Prompts

WIDTH = 32


class Words:
    """A tower that gives every fact a direction of its own."""

    def embed(self, sentences: list[str]) -> torch.Tensor:
        tokens = torch.full((len(sentences), WIDTH), 0.01)
        for row, sentence in enumerate(sentences):
            for number, (_, value) in enumerate(parse(sentence).items()):
                if value is not None:
                    tokens[row, 6 * number + sum(map(ord, value)) % 6] = 1.0
        return functional.normalize(tokens, dim=-1)


def drawn(**settings) -> torch.Tensor:
    scenes = [scene_at(0, index) for index in range(300)]
    sound = functional.normalize(torch.eye(WIDTH)[-1:].expand(300, -1), dim=-1)
    prompts = Prompts(Words(), **{"shares": {"text": 1.0}, "noise": 0.0, "dropout": 0.0, **settings})
    return prompts.tokens({"scenes": scenes, "audio_token": sound}, torch.Generator().manual_seed(0))[:, 0]


def test_tokens_are_of_length_one_but_for_those_of_nobody():
    length = drawn(dropout=0.2, noise=0.3, interpolation=0.5).norm(dim=-1)
    nobody = length == 0
    assert 30 < nobody.sum() < 90
    torch.testing.assert_close(length[~nobody], torch.ones(len(length))[~nobody])


def test_a_share_is_of_another_kind():
    of_sound = drawn(shares={"text": 0.7, "audio": 0.3})[:, -1] == 1.0
    assert 60 < of_sound.sum() < 120


def test_a_share_hears_a_caption_beside_its_own_prompt():
    """Sounds whose token has nothing of a caption: where there are two prompts it has, and the first is never drowned."""
    beside = drawn(shares={"audio": 1.0}, interpolation=0.25)
    both = beside[:, -1] < 1.0
    assert 45 < both.sum() < 105
    assert beside[both, :-1].amax(1).mean() > 0.2 and beside[both, -1].min() > 0.35
