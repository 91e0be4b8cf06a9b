"""Alignment: captions that differ in nothing but how things move, and a contrast with them that teaches a
tower rhythm.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional

from codi.types import InputError, Modality
from codi.world import parse
from data.batch import Batch
from data.world import scene_at
from training.config import Config
from training.stages.align import AlignOptions, AlignStage, Contrast, moved


def test_the_other_ways_to_move_are_said_in_the_same_words():
    scene = scene_at(0, 3)
    said = moved(scene, ("colour",), np.random.default_rng(5))
    read = [parse(sentence) for sentence in said]
    assert len({(facts["motion"], facts["tempo"]) for facts in read}) == len(said) == 8
    assert (read[0]["motion"], read[0]["tempo"]) == (scene.motion, scene.tempo)
    assert {(facts["colour"], facts["shape"], facts["place"]) for facts in read} == {
        (scene.colour, None, None)
    }
    assert len({sentence.partition(" is ")[0] for sentence in said}) == 1


def test_each_is_held_against_its_own_captions():
    """Media equal to their second caption: right if that is the right one, wrong otherwise."""
    captions = functional.normalize(torch.randn(6, 4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    told_apart, second = Contrast({}).hard_negatives, torch.ones(6, dtype=torch.long)
    assert (
        told_apart(captions[:, 1], captions, second)
        < 0.2
        < 3
        < told_apart(captions[:, 1], captions, 0 * second)
    )
    assert told_apart(captions[:, 1].flip(0), captions, second) > 1


def test_pictures_have_no_rhythm(tmp_path):
    options = {"modality": "image", "rhythm": 1.0}
    with pytest.raises(InputError, match="rhythm.*do not move"):
        AlignStage(
            Config(
                stage="align",
                model=tmp_path,
                output=tmp_path,
                samples=1,
                batch_size=1,
                lr=1e-3,
                options=options,
            )
        )


@pytest.mark.parametrize("rhythm", [0.0, 1.0])
def test_captions_that_move_otherwise_teach_a_tower_rhythm(rhythm):
    """Sentences are three parts looks, one part motion; sounds hold the same in other numbers, and a linear
    tower has to find it.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(16, 40, generator=generator)
    tower, contrast = torch.nn.Linear(40, 16, bias=False), Contrast({})
    optimizer = torch.optim.AdamW(tower.parameters(), lr=1e-2)
    looks, moves = torch.eye(8), torch.eye(8)
    confusion = 0.0
    for step in range(150):
        look, move = torch.randint(8, (2, 16), generator=generator)
        moved_by = [
            functional.normalize(torch.cat([3 * looks[look], moves[(move + k) % 8]], dim=-1), dim=-1)
            for k in range(8)
        ]
        captions, ways = moved_by[0], torch.stack(moved_by, dim=1)
        sounds = functional.normalize(tower(captions @ code), dim=-1)
        apart = contrast.hard_negatives(sounds, ways, torch.zeros(16, dtype=torch.long))
        loss = contrast(captions, sounds, torch.eye(16)) + rhythm * apart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        confusion += float(apart.detach()) / 50 if step >= 100 else 0.0
    assert (confusion < 0.4) == bool(rhythm), confusion


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "audio", "rhythm": -1.0}, "rhythm is -1"),
        (
            {"modality": "image", "continue_from": True},
            "continue_from is True: expected false: pictures start anew",
        ),
        ({"modality": "video", "continue_from": True}, "continue_from is True"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        AlignOptions(**options)


def test_rows_with_an_equal_caption_are_not_contrasted():
    """Three rows, of which the first two say the same: by hand, without the two pairs that are ignored."""
    generator = torch.Generator().manual_seed(0)
    captions, media = functional.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1).unbind(0)
    contrast = Contrast({})
    rows = [{"id": name, "captions": [said]} for name, said in (("a", "x"), ("b", "x"), ("c", "y"))]
    batch = Batch(index=[0, 1, 2], named={"text": ["x", "x", "y"], "image": media}, rows=rows)
    stage = AlignStage.__new__(AlignStage)
    stage.modality, stage.makes_text = Modality.IMAGE, False
    known = stage.pairs(batch)
    expected = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    assert torch.equal(known["ignored"], expected) and torch.equal(known["match"], torch.eye(3))
    logits = (contrast.scale * captions @ media.T).exp().double()
    (aa, _, ac), (_, bb, bc), (ca, cb, cc) = logits
    by_caption = -(aa / (aa + ac)).log() - (bb / (bb + bc)).log() - (cc / (ca + cb + cc)).log()
    by_medium = -(aa / (aa + ca)).log() - (bb / (bb + cb)).log() - (cc / (ac + bc + cc)).log()
    loss = contrast(captions, media, known["match"], known["ignored"])
    torch.testing.assert_close(loss.double(), (by_caption + by_medium) / 6)
    assert loss < contrast(captions, media, torch.eye(3))
    batch = Batch(index=[0, 1], named={"text": ["x", "y"], "image": media[:2]}, rows=rows[1:])
    assert stage.pairs(batch)["ignored"] is None
