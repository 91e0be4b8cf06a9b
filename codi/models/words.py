"""New words for a text tower (textual inversion, Gal et al., arXiv 2208.01618).

A new word is one row, or several, behind the tower's embedding table; rows are learned or loaded. The tower's
own weights are never touched, and taking the words away gives back the very same objects.
Letters: B batch, L tokens, W tower width, k rows (vectors) of a word.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.models.conditioning import TextTower
from codi.types import InputError
from codi.vocabulary import add_names, closed_vocabulary, has_pieces


class Vectors(nn.Module):
    """The rows of new words as one parameter (k, W) that can be trained.

    Args:
        rows: its first values, which are copied.
    """

    def __init__(self, rows: Tensor):
        super().__init__()
        self.weight = nn.Parameter(rows.clone())

    def forward(self) -> Tensor:
        """Return the rows (k, W)."""
        return self.weight


class ExtendedEmbedding(nn.Module):
    """An embedding table with further rows behind it, from ids (B, L) to (B, L, W).

    Args:
        table: the tower's own table, which stays as it is.
        rows: the rows (k, W) whose ids follow those of the table.
    """

    def __init__(self, table: nn.Embedding, rows: Tensor):
        super().__init__()
        self.table = table
        self.vectors = Vectors(rows.to(table.weight))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (B, L) in the table and the rows behind it, and return (B, L, W)."""
        return functional.embedding(ids, torch.cat([self.table.weight, self.vectors()]))


class Wordbook:
    """A tokenizer that knows new words besides its own, and remembers what was before.

    A word of several vectors is several tokens.

    Args:
        tokenizer: the tokenizer without the new words; a copy of it learns them.
        words: the rows (k, W) of each new word.
        changed: modules of the tower whose pooling rule was changed for the new words, to be changed back.
    """

    def __init__(self, tokenizer: Any, words: Mapping[str, Tensor], changed: list[nn.Module]):
        self.original = tokenizer
        self.words = dict(words)
        self.changed = changed
        self.tokenizer = copy.deepcopy(tokenizer)
        self.patterns = {}
        added: list[str] = []
        # one that reads pieces tells cases apart, so that a word of one vector is written out as well
        tells_cases = has_pieces(tokenizer.backend_tokenizer.to_str())
        for word, rows in words.items():
            names = _names(word, len(rows))
            added += names
            if len(rows) > 1 or tells_cases:
                pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
                self.patterns[pattern] = " ".join(names)
        add_names(self.tokenizer, added)

    def __call__(self, raw: list[str], **options: Any) -> Any:
        """Tokenize sentences after words of several vectors have been written out in them."""
        return self.tokenizer([self.expand(sentence) for sentence in raw], **options)

    def expand(self, sentence: str) -> str:
        """Return the sentence with each word of several vectors written out as the names of its tokens."""
        for pattern, names in self.patterns.items():
            sentence = pattern.sub(lambda _, names=names: names, sentence)
        return sentence


def _names(word: str, count: int) -> list[str]:
    """Return the names of a word's tokens: the word itself, then word_1, word_2 and so on."""
    return [word, *(f"{word}_{number}" for number in range(1, count))]


def add_words(tower: TextTower, words: Mapping[str, Tensor]) -> Vectors:
    """Teach a text tower new words besides those that it has.

    Args:
        tower: the tower, which is changed in place.
        words: the rows (k, W) of each new word.

    Returns:
        The rows of all learned words, earlier ones first, as one module.

    Raises:
        InputError: for a word that is known already or cannot be one, for rows of another width, and for a
            tower without a tokenizer.
    """
    book = tower.tokenizer
    known = dict(book.words) if isinstance(book, Wordbook) else {}
    tokenizer = book.original if isinstance(book, Wordbook) else book
    if tokenizer is None:
        raise InputError(
            "this model's text tower has no tokenizer: words can only be added where there is one"
        )
    width = tower.text.config.hidden_size
    taken = {name.lower() for name in tokenizer.get_vocab()}
    taken |= {name.lower() for word, rows in known.items() for name in _names(word, len(rows))}
    for word, rows in words.items():
        _check(word, rows, width, taken)
        taken |= {name.lower() for name in _names(word, len(rows))}
    # All learned words go and come back together, so that there is never a table behind a table.
    remove_words(tower)
    known |= words
    table = tower.text.get_input_embeddings()
    assert table.num_embeddings == len(tokenizer), (table.num_embeddings, len(tokenizer))
    embedding = ExtendedEmbedding(table, torch.cat([rows.to(table.weight) for rows in known.values()]))
    tower.text.set_input_embeddings(embedding)
    tower.tokenizer = Wordbook(tokenizer, known, _pool_by_end(tower.text, tokenizer.eos_token_id))
    tower.vocabulary = closed_vocabulary(tokenizer, {word: len(rows) for word, rows in known.items()})
    return embedding.vectors


def _check(word: str, rows: Tensor, width: int, taken: set[str]) -> None:
    """Raise `InputError` unless a new word can be added with these rows to a tower of this width.

    The names of tokens that are `taken` already are in lower case.
    """
    if not re.fullmatch(r"\S{1,64}", word):
        raise InputError(
            f"new word {word!r}: expected one word of at most 64 characters without spaces, such as '<gizmo>'"
        )
    if word.lower() in taken:
        raise InputError(
            f"new word {word!r} is known to this model already: choose another, such as "
            f"'<{word.strip('<>')}-2>'"
        )
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InputError(
            f"new word {word!r} has vectors of shape {tuple(rows.shape)}: this model's text tower takes (k, "
            f"{width})"
        )
    # Two words that share a token would shift the rows of all words behind them.
    for name in _names(word, len(rows)):
        if name.lower() in taken:
            raise InputError(
                f"new word {word!r} of {len(rows)} vectors needs the token {name!r}, which is known to this "
                f"model already: choose another, such as '<{word.strip('<>')}-2>'"
            )


def _pool_by_end(text: nn.Module, end: int) -> list[nn.Module]:
    """Make a text transformer read the sentence at its end token; return the modules that this changed.

    CLIP's older rule (`eos_token_id` 2) reads the sentence at the largest token id, which a new word would
    be. The end of the sentence is the same place without new words, and the right one with them.
    """
    old = [module for module in text.modules() if getattr(module, "eos_token_id", None) == 2 != end]
    for module in old:
        module.eos_token_id = end
    return old


def remove_words(tower: TextTower) -> None:
    """Take all new words away from a text tower, which is then as it was before the first."""
    book = tower.tokenizer
    if not isinstance(book, Wordbook):
        return
    tower.text.set_input_embeddings(tower.text.get_input_embeddings().table)
    for module in book.changed:
        module.eos_token_id = 2
    tower.tokenizer = book.original
    tower.vocabulary = closed_vocabulary(book.original)


def known_vectors(tower: TextTower, word: str) -> Tensor:
    """Return the embedding of a word that the tower knows, to start a new word from.

    Args:
        tower: the text tower.
        word: a word of its vocabulary that is one token; any word for a tower that reads pieces.

    Returns:
        A copy of the word's row, (1, W); of a word of several pieces the mean of their rows.

    Raises:
        InputError: for a word that the tower does not know.
    """
    table = tower.text.get_input_embeddings().weight
    if has_pieces(tower.tokenizer.backend_tokenizer.to_str()):
        pieces = tower.tokenizer(word, add_special_tokens=False).input_ids
        return table[pieces].mean(0, keepdim=True).detach()
    number = tower.tokenizer.get_vocab().get(word)
    if number is None:
        raise InputError(
            f"the text tower does not know the word {word!r}: start from one that it knows, such as 'thing'"
        )
    return table[number][None].detach().clone()
