"""What a closed vocabulary reads of a sentence: its own captions as they are, and of all others what they say
in known words.
"""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from codi.models import words
from codi.vocabulary import (
    ClosedVocabulary,
    closed_vocabulary,
    load_tokenizer,
    stored_vocabulary,
    word_tokenizer,
)
from codi.world import ATTRIBUTES, caption, sample_scenes
from codi.world.caption import all_words
from tests import tiny_pipeline

TOWER = Path(__file__).parents[1] / "codi" / "assets" / "tiny" / "text_tower" / "config.json"


@pytest.fixture(scope="module")
def stored() -> str:
    return json.loads(TOWER.read_text())["tokenizer"]


@pytest.fixture(scope="module")
def vocabulary(stored) -> ClosedVocabulary:
    return stored_vocabulary(stored)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """Every choice of facts, in every pattern and in many words."""
    facts = [chosen for count in range(6) for chosen in combinations(ATTRIBUTES, count)]
    rng = np.random.default_rng(0)
    said = {
        caption(scene, chosen, rng) for scene in sample_scenes(60, seed=3, held_out=None) for chosen in facts
    }
    assert len(said) > 1000 and sum("," in sentence for sentence in said) > 300
    return sorted(said)


def test_captions_of_training_keep_their_tokens(stored, vocabulary, captions):
    tokenizer = load_tokenizer(stored)
    assert (
        tokenizer([vocabulary.normal(said) for said in captions]).input_ids == tokenizer(captions).input_ids
    )
    assert not any(vocabulary.read(said, 32).unread for said in captions)


def test_commas_change_nothing(vocabulary, captions):
    for said in captions:
        bare = said.replace(",", "")
        assert (
            vocabulary.normal(bare)
            == vocabulary.normal(bare.replace(" ", ", ") + ",")
            == vocabulary.normal(said)
        )


@pytest.mark.parametrize(
    "written",
    [
        "A RED BALL",
        "a red ball!!!",
        "a red ball.",
        "“a red ball”",
        "'a red ball'",
        "a, red; ball",
        "(a) red/ball",
        "a_red_ball",
        "a-red-ball",
        "\ta \n red   ball ",
        "a\u00a0red\u3000ball",
        "a red ball\x00",
        "a red\u200b ball",
        "a re\u200bd ba\u00adll",
        "a\u200bred\u200bball",
        "\ufeffa red ball\u200d",
        "ａ ＲＥＤ ｂａｌｌ",
        "a 𝐫𝐞𝐝 ball",
        "a rèd bàll",
        "a re\u0300d ball",
        "a red ball’s",
        "a red balls'",
        "a red ball 🌙✨",
        "❤️ a red ball",
        "a big, shiny red ball",
        "a red shiny ball",
        "Please show me a red ball",
        "a photo of a red ball",
        "a red ball on the table",
        "<eos> a <pad>red ball",
    ],
)
def test_case_punctuation_and_unknown_words_change_nothing(vocabulary, written):
    assert vocabulary.normal(written) == "a red ball"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("two green stars", "green star"),
        ("boxes, crosses & spheres", "box cross sphere"),
        ("a five-pointed star", "a five pointed star"),
        ("a plus-sign at night-time", "a plus sign at night"),
        ("an orange ball bouncing", "a orange ball bounces"),
        ("balls hop", "ball hops"),
        ("a ball flashed", "a ball flashes"),
        ("it throbbed, swaying", "it throbs sways"),
        ("there’s a red ball", "there is a red ball"),
        ("At night a red ball hops", "at night , a red ball hops"),
        ("a starfish on the rocks", ""),
        ("hope", ""),
        ("bored", ""),
        ("!!!", ""),
        ("", ""),
    ],
)
def test_other_forms_of_a_word_are_read_and_no_other_words(vocabulary, written, meant):
    assert vocabulary.normal(written) == meant


def test_what_is_lost_is_named_as_it_was_written(vocabulary):
    reading = vocabulary.read("Two SHINY red balls; zebra's (2) 🌙 on the Zürich-road!!!", limit=32)
    assert reading.unread == ("Two", "SHINY", "zebra's", "2", "🌙", "Zürich", "road")
    assert (reading.num_words, reading.num_known, reading.num_read) == (11, 4, 2)
    nothing = vocabulary.read("a horse galloping through a forest")
    assert nothing.num_known == 2 and nothing.num_read == 0


def test_unknown_words_take_no_room_in_the_longest_sentence(vocabulary):
    assert vocabulary.read("shiny " * 40 + "red " * 30, limit=32).unread == ("shiny",)
    assert vocabulary.read("red " * 32, limit=32).unread == ("red red",)


def test_words_of_files_keep_their_marks_and_their_forms():
    """A sentence that such a vocabulary knows is the one that training saw, whatever it looks like."""
    vocabulary = stored_vocabulary(word_tokenizer(["a", "dog", "dogs", "runs", ",", ".", "café"]))
    for known in ("a dog,runs.", "dogs , dogs", "A  Café ."):
        assert vocabulary.normal(known) == known and not vocabulary.read(known).unread
    assert (
        vocabulary.normal("a quick dog, running!") == "a dog , runs"
        and vocabulary.normal("cafe\u0301s") == "café"
    )
    assert not vocabulary.of_the_world and stored_vocabulary(word_tokenizer(all_words())).of_the_world


def test_a_vocabulary_of_pieces_is_open():
    pieces = Tokenizer(models.BPE({"a": 0, "b": 1, "<unk>": 2}, [], unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    assert closed_vocabulary(PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>")) is None
    assert stored_vocabulary(pieces.to_str()) is None


@torch.no_grad()
def test_learned_words_are_known():
    tower = tiny_pipeline.pipeline().text_tower
    assert tower.read("a <gizmo> ball").unread == ("gizmo",)
    words.add_words(tower, {"<gizmo>": torch.ones(2, 32), "blob": torch.zeros(1, 32)})
    assert tower.read("a <gizmo> ball and two Blobs").unread == ("and", "two")
    assert torch.equal(tower.embed(["A <Gizmo>, ball!"]), tower.embed(["a <gizmo> ball"]))
    assert torch.equal(tower.embed(["shiny blobs"]), tower.embed(["blob"]))
    assert tower.read("<gizmo> " * 8).unread == ("<gizmo>",)
    words.remove_words(tower)
    assert tower.read("a blob").unread == ("blob",)
