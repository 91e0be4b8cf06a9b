"""What a batch says of its samples, of scenes and of files."""

import numpy as np
import torch

from codi.types import Modality
from codi.world import caption, parse
from data.batch import Batch, content_of
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


def alike(texts: list[str], rows: list[dict]) -> list[list[int]]:
    batch = Batch(index=list(range(len(rows))), named={"text": texts}, rows=rows)
    return batch.equal_captions().int().tolist()


def test_equal_captions_are_the_same_row_or_the_same_words():
    rows = [{"id": name, "captions": [name]} for name in ("a", "a", "b", "c")]
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert alike(["x", "y", "y", "z"], rows) == expected


def test_captions_in_common_and_parts_of_them_are_equal_too():
    rows = [{"id": "a", "captions": ["a dog", "a hound"]}, {"id": "b", "captions": ["a pet", "a dog"]}]
    assert alike(["a hound", "a pet"], rows) == [[1, 1], [1, 1]]
    rows = [
        {"id": "a", "captions": ["a dog, on grass"], "said": ["a dog"]},
        {"id": "b", "captions": ["a dog, at night"], "said": ["a dog", "at night"]},
        {"id": "c", "captions": ["x"], "parts": ["a dog, at night"], "said": ["a dog, at night"]},
    ]
    # "a dog" is true of b, "a dog, at night" not of a; c lists its parts, of which "a dog" is none
    texts = ["see: a dog", "a dog, at night", "see: a dog, at night"]
    assert alike(texts, rows) == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_a_paraphrase_of_changed_words_is_another_caption():
    rows = [{"id": "a", "captions": ["a dog, on grass", "a hound"], "said": ["on grass"]}]
    assert Batch(index=[0], named={"text": ["see: on grass"]}, rows=rows).paraphrases() == ["a hound"]


def test_the_content_of_padded_media_is_kept_with_the_facts():
    content = content_of([None, ((0, 3), (2, 4))], (3, 4))
    batch = of_files(image=torch.zeros(2, 3, 4), image_content=content)
    assert content.tolist() == [[[0, 1], [0, 1]], [[0, 1], [0.5, 1]]]
    assert [fact["content"]["image"] for fact in batch.facts()] == content.tolist()
    assert batch.content_of(Modality.IMAGE) is content and batch.content_of(Modality.AUDIO) is None


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
