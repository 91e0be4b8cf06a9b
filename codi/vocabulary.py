"""Tokenizers as values, and what a sentence says in a closed vocabulary.

A tokenizer is a `tokenizers` JSON string among a component's arguments, so that a part and its words never
come apart. One of pieces (byte-level BPE, arXiv 1508.07909 on bytes as in GPT-2) reads and writes any string
exactly. A closed vocabulary is one of words, beside which all other words are one unknown token that says
nothing. Nothing here imports torch before a tokenizer is loaded, so that prompts can be checked before a
model is loaded.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "cls_token": "<bos>",
    "sep_token": "<eos>",
}

# Words that say nothing without the word they lead to: "on the table" goes as a whole if "table" is unknown.
LEADING = frozenset("a an the in on at of to with by from is are it that there and or".split())
APOSTROPHES = frozenset("'’‘ʼʹ′`´＇")
INVISIBLE = frozenset(("Mn", "Me", "Cf", "Cc"))  # Unicode: accents, zero-width, control characters
MOST_COMMAS = 2  # at most as many stand in a caption of the world
FRAME = ["<pad>", "<unk>", "<bos>", "<eos>"]  # the tokens that are no words, in the order of their ids
TOKENIZER_FILE = "tokenizer.json"  # beside the configuration of a part that reads pieces of words
BYTES = 256
LEAST_PIECES = len(FRAME) + BYTES


def load_tokenizer(serialised: str) -> "PreTrainedTokenizerFast":
    """Build the tokenizer that a `tokenizers` JSON string describes.

    Its special tokens are those of `SPECIAL`, and it frames sentences by <bos> and <eos> if the string says
    so, as those of `word_tokenizer` and `piece_tokenizer` do. One of pieces takes the name of a special token
    in a sentence for the text that it is.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    text: dict[str, bool] = {}
    if has_pieces(serialised):
        text = {"split_special_tokens": True, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(serialised), model_max_length=64, **text, **SPECIAL
    )


def has_pieces(serialised: str) -> bool:
    """Return whether a `tokenizers` JSON string describes a tokenizer as `piece_tokenizer` makes them.

    A string that is damaged describes none.
    """
    try:
        described = json.loads(serialised)
        vocabulary = described["model"]["vocab"]
        framed = [vocabulary[name] for name in FRAME] == list(range(len(FRAME)))
        return described["model"]["type"] == "BPE" and described["model"]["unk_token"] is None and framed
    except (ValueError, KeyError, TypeError):
        return False


def piece_tokenizer(captions: Iterable[str], size: int) -> str:
    """Learn a tokenizer of pieces from captions, as a `tokenizers` JSON string.

    It is byte-level BPE: a piece is a string of bytes of UTF-8, and every byte is a piece. So it reads and
    writes any string exactly, case, accents, spaces, pictographs and all scripts alike. A space is put before
    the sentence, so that its first word is the same as elsewhere. The same captions in any order give the
    same string, to the byte.

    Args:
        captions: the sentences; without any the pieces are the bytes.
        size: the most pieces that it has, the four special ones and the 256 bytes included.

    Returns:
        The tokenizer, which frames sentences by <bos> and <eos>.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    assert size >= LEAST_PIECES, f"{size} pieces: every byte needs one"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=FRAME,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = _framing(FRAME.index("<bos>"), FRAME.index("<eos>"))
    return tokenizer.to_str()


def blank_pieces(size: int) -> str:
    """Return a tokenizer of `size` pieces without meaning, for a plan, which reads no captions."""
    described = json.loads(piece_tokenizer([], LEAST_PIECES))
    vocabulary = described["model"]["vocab"]
    vocabulary |= {f"<{number}>": number for number in range(len(vocabulary), size)}
    return json.dumps(described)


def _framing(bos: int, eos: int) -> Any:
    """Return what puts <bos> before a sentence and <eos> behind it, given their ids."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", bos), ("<eos>", eos)]
    )


def word_tokenizer(words: list[str]) -> str:
    """Describe a tokenizer of whole words as a `tokenizers` JSON string.

    It ignores case, takes any word but those of `words` for <unk>, and frames sentences by <bos> and <eos>.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokens = [*FRAME, *sorted(set(words))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = _framing(vocabulary["<bos>"], vocabulary["<eos>"])
    return tokenizer.to_str()


def add_names(tokenizer: Any, names: Iterable[str]) -> None:
    """Add words to a tokenizer that it then reads whole and in any case.

    A tokenizer of pieces, which tells cases apart, reads them as they are written here alone. It takes the
    spaces around them for theirs, because every stretch of text between them is begun with a space.

    Args:
        tokenizer: a tokenizer of `tokenizers` or of transformers, which is changed.
        names: the words.
    """
    from tokenizers import AddedToken

    pieces = has_pieces(getattr(tokenizer, "backend_tokenizer", tokenizer).to_str())
    tokenizer.add_tokens(
        [
            AddedToken(name, single_word=True, normalized=not pieces, lstrip=pieces, rstrip=pieces)
            for name in names
        ]
    )


# What a sentence says --------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Tells which words of a sentence a model can read.

    Attributes:
        num_words: how many words the sentence has.
        num_known: how many of them the model knows.
        num_read: how many are left: "on the" is known in "on the table", and says nothing without the table.
        unread: the text that is lost, as it was written: unknown words, and what is beyond the longest
            sentence.
    """

    num_words: int
    num_known: int
    num_read: int
    unread: tuple[str, ...]


class ClosedVocabulary:
    """The words that a model knows, and how it reads sentences.

    Case, punctuation and unknown words change nothing. A known word stays as it is. An unknown word is looked
    at again without accents and invisible characters, taken apart at hyphens, and as a plural or a verb form
    of a known word; it is dropped if that does not help. In a model of the world a comma is no word either:
    commas are put where the captions of the world have them.

    Args:
        tokenizer: a word-level tokenizer, which is copied.
        unknown: its token for unknown words.
        special: its other tokens that are no words.
        learned: words that were learned besides, each with the number of tokens that stand for it.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        unknown: str,
        special: Iterable[str],
        learned: Mapping[str, int] | None = None,
    ):
        self.learned = dict(learned or {})
        self.tokenizer = type(tokenizer).from_str(
            tokenizer.to_str()
        )  # a copy, because truncation is a state of a tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        add_names(self.tokenizer, self.learned)
        self.tokens = frozenset(self.tokenizer.get_vocab()) - {unknown, *special}
        self.forms = _forms(self.tokens)

    @property
    def words(self) -> list[str]:
        """All words in alphabetical order, without punctuation."""
        return sorted(filter(_is_word, self.tokens))

    @cached_property
    def of_the_world(self) -> bool:
        """Whether all words but the learned ones are those of the world's captions."""
        from codi.world.caption import all_words

        return self.tokens - set(self.learned) <= set(all_words())

    def read(self, sentence: str, limit: int | None = None) -> Reading:
        """Find out how much of a sentence the model can read.

        Args:
            sentence: the sentence as a user wrote it.
            limit: the number of tokens of the longest sentence, with those that frame it; None if length does
                not matter.

        Returns:
            The numbers of words that are there, known and read, and the text that is not read.
        """
        found = self._found(sentence)
        words = [token for token, _ in found if token is None or _is_word(token)]
        lost = [written for token, written in found if token is None]
        num_known = len(words) - len(lost)
        if limit is not None:
            lost += self._beyond(sentence, limit, len(found))
        num_read = len(_without_leading(words))
        unread = tuple(dict.fromkeys(lost))
        return Reading(num_words=len(words), num_known=num_known, num_read=num_read, unread=unread)

    def normal(self, sentence: str) -> str:
        """Return the sentence reduced to what the model knows; one of known words alone keeps its tokens."""
        tokens = [token for token, _ in self._found(sentence)]
        if "," in self.tokens and self.of_the_world:
            from codi.world.caption import punctuated

            words = [token for token in tokens if token != ","]
            return " ".join(punctuated(_without_leading(words)))
        if self.tokens.issuperset(self.tokenizer.encode(sentence, add_special_tokens=False).tokens):
            return sentence
        return " ".join(_without_leading(tokens))

    def _beyond(self, sentence: str, limit: int, num_found: int) -> list[str]:
        """Return the text of the normal form that is beyond `limit` tokens, if there is any."""
        # the normal form may have commas that were not found, and a learned word may be several tokens
        room = limit - self.tokenizer.num_special_tokens_to_add(False)
        longest = max(self.learned.values(), default=1)
        if (num_found + MOST_COMMAS) * longest <= room:
            return []
        text = self.normal(sentence)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        for token, (start, _) in zip(encoding.tokens, encoding.offsets, strict=True):
            room -= self.learned.get(token, 1)
            if room < 0:
                return [text[start:].strip()]
        return []

    def _found(self, sentence: str) -> list[tuple[str | None, str]]:
        """Return the tokens of a sentence in order, each with the text that was written there.

        The token is None for an unknown word. Unknown punctuation is left out.
        """
        found: list[tuple[str | None, str]] = []
        before = None
        end = -1
        for token, start, stop in self._pieces(sentence):
            if token is not None:
                found.append((token, sentence[start:stop]))
            else:
                found += self._again(sentence[start:stop], after=before if end == start else None)
            before = token
            end = stop
        return found

    def _pieces(self, sentence: str) -> list[tuple[str | None, int, int]]:
        """Split a sentence into known tokens and unknown stretches, each with where it begins and ends.

        The token of an unknown stretch is None; unknown tokens without a gap between them are one stretch.
        """
        encoding = self.tokenizer.encode(sentence, add_special_tokens=False)
        pieces: list[tuple[str | None, int, int]] = []
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            known = token if token in self.tokens else None
            last = pieces[-1] if pieces else None
            if known is None and last is not None and last[0] is None and last[2] == start:
                pieces[-1] = (None, last[1], end)
            else:
                pieces.append((known, start, end))
        return pieces

    def _again(self, unknown: str, after: str | None) -> Iterator[tuple[str | None, str]]:
        """Look once more at characters that the tokenizer does not know.

        Args:
            unknown: the characters, as they were written.
            after: the known token that they follow without a gap, if they do.

        Yields:
            Each word in them as a known word, or None, with the text that was written.
        """
        words = list(_words_in(unknown))
        if after is not None and unknown[0] in APOSTROPHES and words and _plain(words[0]) == "s":
            written = words.pop(0)
            # "it's" says "it is"; after any other word "'s" is a possessive, which says nothing
            if after in ("it", "there", "that") and "is" in self.tokens:
                yield "is", written
        for written in words:
            yield self._known(written), written

    def _known(self, written: str) -> str | None:
        """Return the known word that was meant by a written one, or None."""
        composed = unicodedata.normalize("NFKC", written).casefold()
        plain = _plain(written)
        for word in (composed, plain, plain.removesuffix("'s")):
            if word in self.tokens:
                return word
            if word in self.forms:
                return self.forms[word]
        return None


def closed_vocabulary(tokenizer: Any, learned: Mapping[str, int] | None = None) -> ClosedVocabulary | None:
    """Return the vocabulary of a tokenizer that has whole words and one token for all others.

    Args:
        tokenizer: a tokenizer of transformers.
        learned: words that were learned besides, each with the number of tokens that stand for it.

    Returns:
        The vocabulary; None for a tokenizer of any other kind, or where there is none.
    """
    from tokenizers.models import WordLevel

    if (
        tokenizer is None
        or tokenizer.unk_token is None
        or not isinstance(tokenizer.backend_tokenizer.model, WordLevel)
    ):
        return None
    return ClosedVocabulary(
        tokenizer.backend_tokenizer, tokenizer.unk_token, tokenizer.all_special_tokens, learned
    )


def stored_vocabulary(serialised: str, learned: Mapping[str, int] | None = None) -> ClosedVocabulary | None:
    """Return the vocabulary of a tokenizer that is stored as a `tokenizers` JSON string.

    Args:
        serialised: the string, as `load_tokenizer` takes it.
        learned: words that were learned besides, each with the number of tokens that stand for it.

    Returns:
        The vocabulary; None for a tokenizer that is not one of whole words.

    Raises:
        ValueError: if the string is damaged.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    try:
        tokenizer = Tokenizer.from_str(serialised)
    except Exception as error:  # it has no class of its own
        raise ValueError(str(error)) from None
    if not isinstance(tokenizer.model, WordLevel):
        return None
    return ClosedVocabulary(tokenizer, SPECIAL["unk_token"], SPECIAL.values(), learned)


def _is_word(token: str) -> bool:
    return any(letter.isalnum() for letter in token)


def _without_leading(tokens: Iterable[str | None]) -> list[str]:
    """Drop unknown words (None), and the words that lead to nothing but them.

    So "a photo of a ball", with "photo" and "of" unknown, becomes "a ball"; so does "a shiny ball" with
    "shiny" unknown.
    """
    tokens = list(tokens)
    kept: list[str] = []
    for place, token in enumerate(tokens):
        if token is not None:
            kept.append(token)
            continue
        following = next((later for later in tokens[place + 1 :] if later is not None), None)
        while kept and kept[-1] in LEADING and (following is None or following in LEADING):
            kept.pop()
    return kept


def _words_in(text: str) -> Iterator[str]:
    """Yield the words in some characters, as they are written there, with their apostrophes.

    Pictographs are yielded, too, because they say something.
    """
    # one letter for the kind of each visible character, so that a pattern can find the words
    kinds = ""
    places = []
    for place, letter in enumerate(text):
        if unicodedata.category(letter) not in INVISIBLE:
            kinds += _kind(letter)
            places.append(place)
    for match in re.finditer(r"w+(?:'w+)*|o+", kinds):
        first = places[match.start()]
        last = places[match.end() - 1]
        yield text[first : last + 1]


def _kind(letter: str) -> str:
    """Return "w" for a character of a word, "'" for an apostrophe, "o" for a pictograph, else "-"."""
    if letter in APOSTROPHES:
        return "'"
    if letter.isalnum():
        return "w"
    return "o" if unicodedata.category(letter) == "So" else "-"


def _plain(written: str) -> str:
    """Return a word without accents, invisible characters and case, with plain apostrophes."""
    text = "".join("'" if letter in APOSTROPHES else letter for letter in written)
    parts = unicodedata.normalize("NFKD", text)
    visible = [letter for letter in parts if unicodedata.category(letter) not in INVISIBLE]
    return "".join(visible).casefold()


# Other forms of a word -------------------------------------------------


def _forms(tokens: frozenset[str]) -> dict[str, str]:
    """Map plurals and verb forms that are no words of their own to the words that they are forms of."""
    forms = {"an": "a"} if "a" in tokens else {}
    for word in sorted(tokens - LEADING):
        if word.isalpha() and len(word) > 2:
            for form in (*_plurals(word), *_verb_forms(word)):
                forms.setdefault(form, word)
    return {form: word for form, word in forms.items() if form not in tokens}


def _plurals(noun: str) -> list[str]:
    if re.search(r"[^aeiou]y$", noun):
        return [noun[:-1] + "ies"]
    if re.search(r"(ss|us|x|z|ch|sh)$", noun):
        return [noun + "es"]
    return [] if noun.endswith("s") else [noun + "s"]


def _verb_forms(word: str) -> list[str]:
    """Return the other forms of a verb in the third person: of "bounces", bounce, bouncing and bounced."""
    if not re.search(r"[^su]s$", word) or len(word) < 4:
        return []
    bases = [word[:-2] if re.search(r"(ss|x|z|ch|sh)es$", word) else word[:-1]]  # flash, bounce
    forms: list[str] = []
    for base in bases:
        forms += [base, *_participles(base)]
    return forms


def _participles(base: str) -> tuple[str, str]:
    if base.endswith("e"):
        return base[:-1] + "ing", base + "d"
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", base):
        base += base[-1]  # hop, hopping
    return base + "ing", base + "ed"
