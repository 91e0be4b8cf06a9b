"""How the released code turns GPT-2 pieces into a sentence, with what it loses.

It drops the first and the last word, which it takes for <BOS> and <EOS>, and removes repetitions.
"""

from itertools import groupby

SPACED = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
]
OPENING = "([{"
CLOSING = "?!.,:;}])"
GLUE = None  # between two tokens that were written without a space


def tidy_spaces(text: str) -> str:
    """Remove spaces before punctuation and contractions; " do not" becomes " don't"."""
    for spaced, closed in SPACED:
        text = text.replace(spaced, closed)
    return text


def strip_ends(text: str) -> str:
    """Drop the first and the last word, whatever they are."""
    return " ".join(text.split()[1:-1])


def drop_repetitions(text: str) -> str:
    """Merge equal neighbouring words, then equal neighbouring phrases of growing length."""
    tokens: list[str | None] = []
    for word, _ in groupby(text.split()):
        tokens += split_punctuation(word)
    length = 1
    while 2 * length <= len(tokens):
        tokens = drop_repeated(tokens, length)
        length += 1
    return join(tokens)


def split_punctuation(word: str) -> list[str | None]:
    """Split a word and the brackets and marks around it, with GLUE between them."""
    start = 0
    end = len(word)
    while start < end and word[start] in OPENING:
        start += 1
    while end > start and word[end - 1] in CLOSING:
        end -= 1
    parts = [*word[:start], word[start:end], *word[end:]]
    tokens: list[str | None] = []
    for part in filter(None, parts):
        if tokens:
            tokens.append(GLUE)
        tokens.append(part)
    return tokens


def drop_repeated(tokens: list[str | None], length: int) -> list[str | None]:
    """Drop phrases of `length` tokens that repeat what stands before them, until none is left."""
    i = 0
    while i + 2 * length <= len(tokens):
        if tokens[i : i + length] == tokens[i + length : i + 2 * length]:
            tokens = tokens[: i + length] + tokens[i + 2 * length :]
            i = 0
        else:
            i += 1
    return tokens


def join(tokens: list[str | None]) -> str:
    """Join tokens by spaces, but for those with GLUE between them."""
    text = ""
    glued = True
    for token in tokens:
        if token is GLUE:
            glued = True
        else:
            text = text + ("" if glued else " ") + token
            glued = False
    return text
