"""This module makes the tokenizers of new text parts: of the words that training can say, or of their pieces.

A text tower and a text autoencoder that are trained on the same captions with the same option get the same
tokenizer.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

from codi.types import Modality
from codi.vocabulary import LEAST_PIECES, blank_pieces, piece_tokenizer, word_tokenizer
from codi.world.caption import all_words
from training.config import Config, expect, strict
from training.stages.common import planning
from training.stages.files import captions_in, open_media, templates_in

# A tokenizer is made from at most so many rows of each manifest.
MAX_ROWS = 200_000
MAX_WORDS = 30_000
PIECES = 4096


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """The tokenizer of a new text part, the option `tokenizer` of the stages that make one.

    Attributes:
        kind: "words": the commonest words of the captions, in lower case, beside which all others are one
            unknown word; "bpe": pieces of words learned from the captions, from which any string can be put
            together (byte-level BPE).
        size: the most words or pieces; None for 30,000 words or 4,096 pieces.
    """

    kind: Literal["words", "bpe"] = "words"
    size: int | None = None

    def __post_init__(self) -> None:
        least = LEAST_PIECES if self.of_pieces else 1
        expect(self.count >= least, "tokenizer: size", self.size, f"{least} or more")

    @property
    def of_pieces(self) -> bool:
        """Whether pieces of words are learned."""
        return self.kind == "bpe"

    @property
    def count(self) -> int:
        """The most words or pieces."""
        return self.size if self.size is not None else PIECES if self.of_pieces else MAX_WORDS


def read_tokenizer_options(values: Mapping[str, Any], config: Config, anew: bool) -> TokenizerOptions:
    """Return the option `tokenizer` of a run.

    Args:
        values: the option as the configuration has it.
        config: the run.
        anew: whether the run makes a text part anew.

    Returns:
        The options.

    Raises:
        InputError: for values that cannot be used, and for any where no tokenizer is made.
    """
    options = strict(TokenizerOptions, values, where="options: tokenizer")
    expect(anew or not values, "tokenizer", values, "nothing: this run makes no text part anew")
    files = bool(config.data) or not options.of_pieces
    expect(files, "tokenizer", values, "kind words: pieces are learned from the captions in a section `data`")
    return options


def tokenizer_of(config: Config, options: TokenizerOptions) -> str:
    """Return the tokenizer of a new text part as `tokenizers` JSON.

    On files it is made from the captions, else it has the words of the world. A plan does not read captions:
    the size of `options` or of `part` says how many tokens there are.
    """
    if options.of_pieces:
        return blank_pieces(options.count) if planning() else piece_tokenizer(captions(config), options.count)
    if not config.data or planning():
        return word_tokenizer(all_words())
    return word_tokenizer(commonest_words(captions(config), options.count))


def captions(config: Config) -> Iterator[str]:
    """Yield the captions of at most `MAX_ROWS` rows of each manifest, evenly spread, and those of templates.

    Where the world is mixed in, each of its words is a caption.
    """
    source = open_media(config, [Modality.TEXT], seed=config.seed, require=["text"])
    try:
        if any(part.of_world for part in source.mixed):
            yield from all_words()
        yield from captions_in(source, MAX_ROWS)
        for sentence, rows in templates_in(source):
            yield from repeat(sentence, min(rows, MAX_ROWS))  # any row may be put in it
    finally:
        source.close()


def commonest_words(sentences: Iterator[str], most: int) -> list[str]:
    """Return the commonest words and marks of some sentences, in lower case, at most `most` of them."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(re.findall(r"\w+|[^\w\s]+", sentence.lower()))
    # equally common words go by the alphabet, so that the order of rows does not matter
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return ordered[:most]
