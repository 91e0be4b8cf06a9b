"""Samples of the world: functions of (seed, index), never held out, only in the pairs that are allowed."""

from collections import Counter

import numpy as np
import pytest
import torch

from codi.types import InputError
from codi.world import ATTRIBUTES, is_held_out, parse
from data.world import WorldSource, prompted_facts, scene_at


def test_a_sample_does_not_depend_on_its_batch():
    source = WorldSource(["text", "image"], seed=1)
    batch, alone = source.fetch([5, 6, 7]), source.fetch([6])
    assert alone["scenes"][0] == batch["scenes"][1]
    assert alone["text"][0] == batch["text"][1]
    assert torch.equal(alone["image"][0], batch["image"][1])


def test_held_out_pairs_never_come():
    scenes = WorldSource(["text"], seed=0).fetch(list(range(300)))["scenes"]
    assert not any(is_held_out(scene) for scene in scenes)
    assert len({scene.seed for scene in scenes}) == 300


def test_captions_say_what_the_partner_shows_and_nothing_wrong():
    source = WorldSource(["text", "image"], seed=2)
    batch = source.fetch(list(range(60)))
    for scene, text in zip(batch["scenes"], batch["text"]):
        facts = {name: value for name, value in parse(text).items() if value is not None}
        assert facts.items() <= scene.facts.items()
        assert not {"motion", "tempo"} & facts.keys()
    assert len({tuple(v is None for v in parse(text).values()) for text in batch["text"]}) > 3


def test_shapes_and_transforms():
    batch = WorldSource(["audio", "video"], seed=0, transforms={"video": lambda v: v[:, :2]}).fetch([0, 1])
    assert batch["audio"].shape == (2, 32000) and batch["audio"].dtype == torch.float32
    assert batch["video"].shape == (2, 2, 3, 64, 64) and batch["video"].dtype == torch.uint8


@pytest.mark.parametrize("media", [["image", "audio"], ["image", "video"], ["text", "audio", "video"], []])
def test_forbidden_media_are_refused(media):
    with pytest.raises(InputError):
        WorldSource(media, seed=0)


def test_canonical_captions_name_everything():
    source = WorldSource(["text", "audio"], seed=0, canonical=True)
    batch = source.fetch([3])
    assert parse(batch["text"][0]) == batch["scenes"][0].facts


def test_alike_scenes_differ_in_motion_alone_and_only_in_every_second_run():
    scenes = [scene_at(3, index, alike=4) for index in range(16)]
    looks = [{(s.shape, s.colour, s.place) for s in scenes[start : start + 4]} for start in range(0, 16, 4)]
    assert [len(look) for look in looks[0::2]] == [1, 1] and all(len(look) > 1 for look in looks[1::2])
    assert len({(s.motion, s.tempo, s.start) for s in scenes}) > 8 and not any(is_held_out(s) for s in scenes)
    assert scenes[5] == scene_at(3, 5)


def test_prompts_often_name_nothing_but_what_it_is():
    rng = np.random.default_rng(0)
    drawn = Counter(prompted_facts(tuple(ATTRIBUTES), 0.5, rng) for _ in range(4000))
    assert drawn[tuple(ATTRIBUTES)] > 2000 and drawn[("shape",)] > 200 and drawn[()] > 40
    assert len(drawn) == 2 ** len(ATTRIBUTES) and all(set(facts) <= set(ATTRIBUTES) for facts in drawn)
