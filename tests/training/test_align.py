"""Alignment: captions that differ in nothing but how things move, and a contrast with them that teaches a tower rhythm."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from codi.types import InputError
from codi.world import parse
from data.world import scene_at
from training.stages.align import AlignOptions, AlignStage, Contrast, moved


def test_the_other_ways_to_move_are_said_in_the_same_words():
    scene = scene_at(0, 3)
    said = moved(scene, ("colour",), np.random.default_rng(5))
    read = [parse(sentence) for sentence in said]
    assert len({(facts["motion"], facts["tempo"]) for facts in read}) == len(said) == 8
    assert (read[0]["motion"], read[0]["tempo"]) == (scene.motion, scene.tempo)
    assert {(facts["colour"], facts["shape"], facts["place"]) for facts in read} == {(scene.colour, None, None)}
    assert len({sentence.partition(" is ")[0] for sentence in said}) == 1


def test_each_is_held_against_its_own_captions():
    """Media equal to their second caption: right if that is the right one, wrong otherwise."""
    captions = functional.normalize(torch.randn(6, 4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    contrast, second = Contrast({}), torch.ones(6, dtype=torch.long)
    assert contrast.among(captions[:, 1], captions, second) < 0.2 < 3 < contrast.among(captions[:, 1], captions, 0 * second)
    assert contrast.among(captions[:, 1].flip(0), captions, second) > 1


def test_pictures_have_no_rhythm(tmp_path):
    from training.config import Config

    options = {"modality": "image", "rhythm": 1.0}
    with pytest.raises(InputError, match="rhythm.*do not move"):
        AlignStage(Config(stage="align", model=tmp_path, output=tmp_path, samples=1, batch_size=1, lr=1e-3, options=options))
    with pytest.raises(InputError, match="rhythm is -1"):
        AlignOptions(modality="audio", rhythm=-1.0)
