"""What a batch says of its samples, of scenes and of files."""

import numpy as np
import torch

from codi.world import caption, parse
from data.batch import Batch
from data.world import scene_at

ROWS = [{"id": "a", "captions": ["one", "two"]}, {"id": "b", "captions": ["three"]}]
SCENES = [scene_at(0, 0), scene_at(0, 1)]


def of_files(**named) -> Batch:
    return Batch(index=[4, 5], named={"text": ["two", "three"], **named}, rows=ROWS)


def test_captions_of_scenes_name_every_fact_and_those_of_files_are_their_own():
    scenes = Batch(scenes=SCENES)
    assert scenes.captions() == [caption(scene) for scene in SCENES]
    assert [parse(said) for said in scenes.captions(np.random.default_rng(0))] == [s.facts for s in SCENES]
    assert of_files().captions() == ["two", "three"]


def test_paraphrases_are_of_the_same_row():
    assert of_files().paraphrases() == ["one", "three"]
    mixed = Batch(index=[0, 1], named={"text": ["two", "three"]})
    assert mixed.paraphrases() == ["two", "three"] and mixed.ids is None


def test_equal_captions_are_the_same_row_or_the_same_words():
    rows = [{"id": name, "captions": ["x"]} for name in ("a", "a", "b", "c")]
    batch = Batch(index=[0, 1, 2, 3], named={"text": ["x", "y", "y", "z"]}, rows=rows)
    expected = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert batch.equal_captions().tolist() == expected


def test_facts_are_what_a_cache_keeps():
    assert Batch(scenes=SCENES).facts()[1]["shape"] == SCENES[1].shape
    assert of_files(image_mask=torch.tensor([True, False])).facts() == ROWS


def test_the_first_samples_are_those_of_everything():
    first = of_files(image=torch.arange(2)).first(1)
    assert (first.index, first.ids, first["text"], first["image"].tolist()) == ([4], ["a"], ["two"], [0])
    assert Batch(scenes=SCENES).first(1).scenes == SCENES[:1]


def test_batches_of_the_same_samples_are_joined():
    both = of_files(image=1) | Batch(named={"image": 2, "audio": 3})
    assert both.keys() == {"index", "ids", "rows", "text", "image", "audio"}
    assert (both["image"], both["audio"], both.ids) == (2, 3, ["a", "b"])
