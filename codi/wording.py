"""Find out which words of its text prompts a model can read, and report those that it cannot.

This is known before anything heavy is imported.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any

from codi.modalities import kind_of
from codi.types import InputError, blame
from codi.vocabulary import LEADING, TOKENIZER_FILE, ClosedVocabulary, Reading, stored_vocabulary

KINDS = {"colour": "colours", "shape": "shapes", "motion": "motions", "tempo": "tempi", "place": "places"}
OTHERS = (
    "for other words name another model with --model FOLDER or a hub id (docs/released-weights.md), or train "
    "one on your own files (docs/training.md)"
)
MOST_LISTED = 100  # words of a vocabulary that a message lists
MOST_NAMED = 8  # unknown words that a message names
CLIP_LONGEST = 77  # tokens of CLIP's longest sentence, where its configuration does not say


def report(vocabulary: ClosedVocabulary | None, reading: Reading, prompt: str) -> None:
    """Warn of the words of a prompt that are lost and, if most are, tell which ones the model knows.

    Args:
        vocabulary: as for `notes`.
        reading: as for `notes`.
        prompt: as for `notes`.

    Raises:
        InputError: if nothing of the prompt is left.
    """
    for note in notes(vocabulary, reading, prompt):
        _warn(note)


def notes(vocabulary: ClosedVocabulary | None, reading: Reading, prompt: str) -> list[str]:
    """Name the words of a prompt that are lost and, if most are, tell which ones the model knows.

    Args:
        vocabulary: the words that the model knows; None if it reads any word, so that only the end of a long
            prompt can be lost.
        reading: what the model can read of the prompt.
        prompt: the prompt.

    Returns:
        The lines, for a person.

    Raises:
        InputError: if nothing of the prompt is left.
    """
    refuse(vocabulary, reading, prompt)
    if vocabulary is not None and 2 * reading.num_known < reading.num_words:
        count = len(vocabulary.words)
        knows = (
            f"speaks of a small world of {count} words" if count <= MOST_LISTED else f"knows {count} words"
        )
        lost = f"this model {knows}, and cannot read {_named(reading)} in {prompt!r}"
        return [lost, _knowledge(vocabulary), OTHERS]
    if reading.unread:
        return [
            f"this model cannot read {_named(reading)} in {prompt!r}: expected words that it was trained on"
        ]
    return []


def refuse(vocabulary: ClosedVocabulary | None, reading: Reading, prompt: str, strict: bool = False) -> None:
    """Raise `InputError` for a prompt of which nothing is left, or not all with `strict`."""
    if vocabulary is not None and not reading.num_read:
        raise InputError(f"this model can read nothing in {prompt!r}: {_expected(vocabulary)}; {OTHERS}")
    if strict and reading.unread:
        raise InputError(
            f"this model cannot read {_named(reading)} in {prompt!r}: say it in other words, or leave out "
            "--strict"
        )


def _named(reading: Reading) -> str:
    """List the unread words of a prompt for a message, at most `MOST_NAMED` of them."""
    more = ", ..." if len(reading.unread) > MOST_NAMED else ""
    return ", ".join(map(repr, reading.unread[:MOST_NAMED])) + more


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _expected(vocabulary: ClosedVocabulary) -> str:
    words = [word for word in vocabulary.words if word not in LEADING]
    if len(words) > MOST_LISTED:
        return "`codi info MODEL --words` lists what it knows"
    return f"expected some of {', '.join(words)}"


def _knowledge(vocabulary: ClosedVocabulary) -> str:
    if len(vocabulary.words) > MOST_LISTED:
        return "`codi info MODEL --words` lists what it knows"
    kinds = [f"{kind} {', '.join(words)}" for kind, words in by_kind(vocabulary).items()]
    return "it knows " + "; ".join(kinds)


def by_kind(vocabulary: ClosedVocabulary) -> dict[str, list[str]]:
    """Sort the words of a vocabulary by what they say, for display.

    Words of the world are phrases by kind, such as "colours" and "shapes"; other words are one list. Learned
    words are a list of their own.
    """
    learned = {"learned words": sorted(vocabulary.learned)} if vocabulary.learned else {}
    if not vocabulary.of_the_world:
        return {"words": [word for word in vocabulary.words if word not in vocabulary.learned]} | learned
    from codi.world.caption import WORDS

    known = {}
    for name, values in WORDS.items():
        phrases = [phrase for phrases_of_value in values.values() for phrase in phrases_of_value]
        of_kind = [phrase for phrase in phrases if vocabulary.tokens.issuperset(phrase.split())]
        if of_kind:
            known[KINDS[name]] = of_kind
    return known | learned


# Before a model is loaded ----------------------------------------------


Lost = tuple[ClosedVocabulary, Reading, str]  # what `report` is to say of a prompt
Guard = Callable[[Any], AbstractContextManager[None]]


def _blamed(job: Any) -> AbstractContextManager[None]:
    """Return a context that puts the origin of a job in front of an error."""
    return blame(job.origin)


def check(
    jobs: Iterable[Any],
    model: str | None,
    words: Iterable[str] = (),
    strict: bool = False,
    guard: "Guard | None" = None,
) -> list[Lost]:
    """Read the prompts of some jobs as a model will, before it is loaded.

    A model that is still to be downloaded has no folder yet: it is left to `check_loaded`, and nothing is
    returned.

    Args:
        jobs: values of `codi.jobs.Job`.
        model: the folder of the model; None stands for the model inside the package.
        words: folders of learned words.
        strict: whether every word has to be read.
        guard: is given a job and returns the context in which it is checked; by default one that puts the
            origin of the job in front of an error.

    Returns:
        The prompts that lose something, each as the arguments of `report`.

    Raises:
        InputError: for a prompt of which nothing is left, or not all with `strict`.
    """
    prompts = _texts(jobs)
    folder = embedded() if model is None else Path(model).expanduser()
    vocabulary, limit = vocabulary_of(folder, _learned(words)) if prompts else (None, 0)
    if vocabulary is None:
        return []
    lost = []
    for job, prompt in prompts:
        reading = vocabulary.read(prompt, limit)
        with (guard or _blamed)(job):
            refuse(vocabulary, reading, prompt, strict)
            if reading.unread:
                lost.append((vocabulary, reading, prompt))
    return lost


def check_loaded(jobs: Iterable[Any], tower: Any, strict: bool = False, guard: "Guard | None" = None) -> None:
    """Raise `InputError` for a prompt of which a loaded tower reads nothing, or not all with `strict`.

    Args:
        jobs: values of `codi.jobs.Job`.
        tower: the text tower of the model; None for one that has none of its own.
        strict: whether every word has to be read.
        guard: as for `check`.

    Raises:
        InputError: for the first such prompt, with the origin of its job.
    """
    if tower is None:  # of a composed model: each of its models has text encoders of its own
        return
    for job, prompt in _texts(jobs):
        with (guard or _blamed)(job):
            refuse(tower.vocabulary, tower.read(prompt), prompt, strict)


def _texts(jobs: Iterable[Any]) -> list[tuple[Any, str]]:
    """Return all prompts that are sentences, each with its job."""
    found = []
    for job in jobs:
        for item in (*job.items, *job.negatives, *job.region_items):
            if kind_of(item.modality).in_words:
                found.append((job, item.value))
    return found


def vocabulary_of(
    folder: Path, learned: Mapping[str, int] | None = None
) -> tuple[ClosedVocabulary | None, int]:
    """Return the closed vocabulary of the model in a folder, and its longest sentence in tokens.

    The vocabulary is None if the model reads any word, or no text at all. A folder that is damaged counts as
    one without a vocabulary here: loading says what is wrong with it.
    """
    try:
        config = json.loads((folder / "text_tower" / "config.json").read_text(encoding="utf-8"))
        if config["_class_name"] != "TextTower":
            return None, 0
        limit = config["text_config"].get("max_position_embeddings", CLIP_LONGEST)
        if config["tokenizer"] == TOKENIZER_FILE:  # one of pieces, which read any word
            return None, 0
        return stored_vocabulary(config["tokenizer"], learned), limit
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, 0


def embedded() -> Path:
    """Return the folder of the model inside the package.

    `codi.pretrained.resolve` returns it as well, but that module imports torch.
    """
    return Path(str(resources.files("codi"))) / "assets" / "tiny"


def _learned(words: Iterable[str]) -> dict[str, int]:
    """Return the learned words in some folders, each with the number of tokens that stand for it."""
    words = list(words)
    if not words:
        return {}
    from codi.adapters.files import read_words  # imports torch

    found = {}
    for path in words:
        embeddings, *_ = read_words(path)
        for word, rows in embeddings.items():
            found[word] = len(rows)
    return found
