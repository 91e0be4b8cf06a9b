"""Captions say exactly the facts asked for, in every pattern and with every word, and are read back."""

import itertools

import numpy as np
import pytest

from codi.types import InputError
from codi.world import ATTRIBUTES, Scene, caption, parse, read_texts, sample_scenes
from codi.world.caption import NUM_TEMPLATES, WORDS, _fill

SCENE = Scene(
    shape="box", colour="red", place="night", motion="swing", tempo="fast", start=0.2, x=0.5, seed=1
)
SUBSETS = [c for n in range(6) for c in itertools.combinations(ATTRIBUTES, n)]


def test_canonical_caption() -> None:
    assert caption(SCENE) == "a red box swings quickly at night"


@pytest.mark.parametrize("template", range(NUM_TEMPLATES))
def test_every_word_is_read_in_every_pattern(template: int) -> None:
    plain = {name: words[getattr(SCENE, name)][0] for name, words in WORDS.items()}
    for name, values in WORDS.items():
        for value, words in values.items():
            for word in words:
                text = _fill(template, plain | {name: word})
                assert parse(text) == SCENE.facts | {name: value}, text


@pytest.mark.parametrize("facts", SUBSETS, ids="-".join)
def test_partial_captions_name_their_facts_and_no_other(facts: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for scene in sample_scenes(30, 8):
        text = caption(scene, facts, rng)
        assert parse(text) == {
            name: getattr(scene, name) if name in facts else None for name in ATTRIBUTES
        }, text
        assert "None" not in text and "  " not in text and text == text.strip(" ,")


@pytest.mark.parametrize(
    "facts, text",
    [
        (("shape", "colour"), "a red box"),
        (("shape", "motion"), "a box swings"),
        (("colour",), "a red thing"),
        (("motion", "place"), "something swings at night"),
        (("shape", "tempo"), "a box moves quickly"),
        ((), "something"),
    ],
)
def test_partial_captions_read_naturally(facts: tuple[str, ...], text: str) -> None:
    assert caption(SCENE, facts) == text


def test_random_captions_vary_and_repeat_with_the_seed() -> None:
    draws = [caption(SCENE, rng=np.random.default_rng(k)) for k in range(60)]
    assert len(set(draws)) > 30
    assert draws[7] == caption(SCENE, rng=np.random.default_rng(7))


def test_reading_what_people_write() -> None:
    (reading,) = read_texts(["A Five-Pointed star, bouncing FAST... in the snow!"])
    assert reading.facts == dict(shape="star", colour=None, place="snow", motion="bounce", tempo="fast")
    assert len(reading.events) == 0 and reading.start is None and reading.x is None
    assert set(parse("the quarrel of boxers reddened").values()) == {None}
    assert parse("")["shape"] is None


def test_unknown_fact_is_named() -> None:
    with pytest.raises(InputError, match="weight"):
        caption(SCENE, ("weight",))
