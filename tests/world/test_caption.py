"""Captions say exactly the facts asked for, in every pattern and with every word, and are read back."""

import itertools

import numpy as np
import pytest

from codi.types import InputError
from codi.world import ATTRIBUTES, Scene, caption, parse, read_texts, sample_scenes
from codi.world.caption import NUM_TEMPLATES, WORDS, _fill, all_words, punctuated

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


def tokens(text: str) -> list[str]:
    return text.replace(",", " ,").split()


def test_the_list_of_words_is_what_captions_are_made_of_and_no_more() -> None:
    rng = np.random.default_rng(1)
    said = set()
    for facts in (*SUBSETS, tuple(ATTRIBUTES)):
        for scene in sample_scenes(40, 9, None):
            said |= set(tokens(caption(scene, facts, rng)))
    assert sorted(said) == all_words()


def test_commas_come_back_where_captions_had_them() -> None:
    rng = np.random.default_rng(2)
    with_commas = 0
    for facts in (*SUBSETS, tuple(ATTRIBUTES)):
        for scene in sample_scenes(20, 10):
            words = tokens(caption(scene, facts, rng))
            assert punctuated([word for word in words if word != ","]) == words
            with_commas += "," in words
    assert with_commas > 100
    assert punctuated([]) == [] and punctuated(["it", "hops"]) == ["it", "hops"]


@pytest.mark.parametrize(
    "template, facts, text",
    [
        (1, ATTRIBUTES, "at night, a red box swings quickly"),
        (1, ("shape",), "a box"),
        (2, ATTRIBUTES, "quickly, a red box swings at night"),
        (2, ("tempo", "shape"), "quickly, a box moves"),
        (3, ATTRIBUTES, "a red box that swings quickly at night"),
        (3, ("colour", "place"), "a red thing at night"),
        (4, ATTRIBUTES, "the box is red and swings quickly at night"),
        (4, ("shape", "place"), "the box at night"),
        (4, ("motion",), "the thing swings"),
        (4, ("place",), "something at night"),
        (5, ATTRIBUTES, "at night there is a red box, it swings quickly"),
        (5, ("colour",), "there is a red thing"),
    ],
)
def test_patterns_shrink_around_what_is_not_said(template: int, facts: tuple, text: str) -> None:
    assert _fill(template, {name: WORDS[name][getattr(SCENE, name)][0] for name in facts}) == text


def test_of_two_values_the_first_counts_and_words_of_other_forms_are_read() -> None:
    assert parse("a red blue ball")["colour"] == "red" and parse("a blue red ball")["colour"] == "blue"
    assert parse("Throbbing rapidly on a snowy lawn") == {
        "shape": None,
        "colour": None,
        "place": "snow",
        "motion": "pulse",
        "tempo": "fast",
    }
    assert parse("a plus-\nsign, AMBER;swayed in-the-dark") == SCENE.facts | {
        "shape": "cross",
        "colour": "orange",
        "tempo": None,
    }
