"""New words of a text tower: what they are read as, which are refused, and that none leaves a trace."""

import pytest
import torch

from codi.models import words
from codi.models.words import ExtendedEmbedding, Vectors, Wordbook
from codi.types import InputError
from tests import tiny_pipeline
from tests.models.shared import drawn

WIDTH = 32


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    return tiny_pipeline.towers()["text_tower"].eval()


@pytest.fixture
def tower(built):
    """The tower without new words, before and after each test."""
    words.remove_words(built)
    yield built
    words.remove_words(built)


def test_rows_behind_a_table_are_looked_up_and_alone_learn():
    table, rows = torch.nn.Embedding(5, 3).requires_grad_(False), drawn(2, 3)
    embedding = ExtendedEmbedding(table, rows)
    found = embedding(torch.tensor([[0, 4, 5], [6, 6, 1]]))
    assert torch.equal(found[0, 2], rows[0]) and torch.equal(found[1, 1], rows[1])
    assert torch.equal(found[0, :2], table.weight[[0, 4]]) and torch.equal(found[1, 2], table.weight[1])
    found.sum().backward()
    assert embedding.vectors.weight.grad[:, 0].tolist() == [1, 2] and table.weight.grad is None
    with torch.no_grad():
        embedding.vectors.weight.zero_()
    assert rows.all()  # a copy of them was learned


def test_rows_come_in_the_precision_of_the_table():
    table = torch.nn.Embedding(5, 3).bfloat16()
    assert ExtendedEmbedding(table, drawn(2, 3)).vectors.weight.dtype is torch.bfloat16


@torch.no_grad()
def test_a_word_with_the_row_of_another_is_read_as_that_one(tower):
    plain = tower.embed(["a red ball", "a cube"])
    words.add_words(tower, {"<orb>": words.known_vectors(tower, "ball")})
    assert torch.allclose(tower.embed(["a red <orb>"]), plain[:1], atol=1e-6)
    assert torch.equal(tower.embed(["a red ball", "a cube"]), plain)


@torch.no_grad()
def test_a_word_of_several_rows_is_as_many_tokens(tower):
    rows = torch.cat([words.known_vectors(tower, word) for word in ("red", "ball")])
    words.add_words(tower, {"<orb>": rows})
    assert tower.tokenizer.expand("a <ORB>, <orb>s <orb>.") == "a <orb> <orb>_1, <orb>s <orb> <orb>_1."
    assert torch.allclose(tower.embed(["a <orb>"]), tower.embed(["a red ball"]), atol=1e-6)
    reading = tower.read("a <orb> gizmo")
    assert (reading.num_words, reading.num_known, reading.unread) == (3, 2, ("gizmo",))


@torch.no_grad()
def test_words_that_were_added_one_after_another_are_as_if_added_together(tower):
    both = {"<one>": drawn(1, WIDTH), "<two>": drawn(2, WIDTH, seed=1)}
    together = words.add_words(tower, both)
    table, sentence = together.weight.clone(), ["a <one> <two> ball"]
    expected = tower.embed(sentence)
    words.remove_words(tower)
    words.add_words(tower, {"<one>": both["<one>"]})
    vectors = words.add_words(tower, {"<two>": both["<two>"]})
    assert isinstance(vectors, Vectors) and torch.equal(vectors.weight, table)
    assert torch.equal(tower.embed(sentence), expected)
    assert set(tower.tokenizer.words) == set(both) and tower.text.get_input_embeddings().vectors is vectors


@torch.no_grad()
def test_without_its_words_a_tower_is_as_it_was(tower):
    tokenizer, table, known = tower.tokenizer, tower.text.get_input_embeddings(), tower.vocabulary.words
    before = tower.embed(["a <orb> ball"])
    words.add_words(tower, {"<orb>": drawn(1, WIDTH)})
    assert isinstance(tower.tokenizer, Wordbook) and not torch.equal(tower.embed(["a <orb> ball"]), before)
    for _ in range(2):  # the second time there is nothing to take away
        words.remove_words(tower)
        assert tower.tokenizer is tokenizer and tower.text.get_input_embeddings() is table
    assert torch.equal(tower.embed(["a <orb> ball"]), before) and tower.vocabulary.words == known


def test_the_row_of_a_known_word_is_a_copy(tower):
    row = words.known_vectors(tower, "ball")
    number = tower.tokenizer.get_vocab()["ball"]
    weight = tower.text.get_input_embeddings().weight
    assert torch.equal(row, weight[number][None]) and not row.requires_grad
    row.zero_()
    assert weight[number].any()
    with pytest.raises(InputError, match="does not know the word 'gizmo': start from one that it knows"):
        words.known_vectors(tower, "gizmo")


@pytest.mark.parametrize(
    ("word", "rows", "message"),
    [
        ("two words", (1, WIDTH), "new word 'two words': expected one word of at most 64 characters"),
        ("", (1, WIDTH), "new word '': expected one word"),
        ("x" * 65, (1, WIDTH), "expected one word of at most 64 characters without spaces"),
        (
            "Ball",
            (1, WIDTH),
            "new word 'Ball' is known to this model already: choose another, such as '<Ball-2>'",
        ),
        ("<orb>", (1, 31), r"new word '<orb>' has vectors of shape \(1, 31\): .* takes \(k, 32\)"),
        ("<orb>", (WIDTH,), r"has vectors of shape \(32,\)"),
        ("<orb>", (0, WIDTH), r"has vectors of shape \(0, 32\)"),
    ],
)
def test_what_can_be_no_word_is_refused_and_changes_nothing(tower, word, rows, message):
    words.add_words(tower, {"<kept>": drawn(1, WIDTH)})
    book = tower.tokenizer
    with pytest.raises(InputError, match=message):
        words.add_words(tower, {"<fine>": drawn(1, WIDTH), word: torch.ones(rows)})
    assert tower.tokenizer is book and set(book.words) == {"<kept>"}


def test_a_word_that_was_learned_is_known(tower):
    words.add_words(tower, {"<orb>": drawn(1, WIDTH)})
    with pytest.raises(InputError, match="new word '<Orb>' is known to this model already: .* '<Orb-2>'"):
        words.add_words(tower, {"<Orb>": drawn(1, WIDTH)})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"orb": 2}, {"orb_1": 1}),
        ({"orb_1": 1}, {"Orb": 2}),
        ({"ORB": 2}, {"orb_1": 1}),
        ({"orb": 2, "orb_1": 1}, None),
        ({"<orb>": 1, "<Orb>": 1}, None),
    ],
)
def test_words_that_would_share_a_token_are_refused(tower, first, second):
    rows = lambda named: {word: drawn(count, WIDTH) for word, count in named.items()}
    if second is not None:
        words.add_words(tower, rows(first))
    with pytest.raises(InputError, match="is known to this model already: choose another"):
        words.add_words(tower, rows(first if second is None else second))


def test_a_tower_without_a_tokenizer_learns_no_words(tower):
    tokenizer, tower.tokenizer = tower.tokenizer, None
    try:
        with pytest.raises(InputError, match="has no tokenizer: words can only be added where there is one"):
            words.add_words(tower, {"<orb>": drawn(1, WIDTH)})
    finally:
        tower.tokenizer = tokenizer
