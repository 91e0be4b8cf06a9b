"""Turn scenes into English sentences, and sentences back into facts.

In every list of words the canonical one comes first.
"""

import re
from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np

from codi.types import InputError
from codi.world.scene import ATTRIBUTES, Scene

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "red": ("red", "crimson"),
        "orange": ("orange", "amber"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue", "navy"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose"),
    },
    "shape": {
        "ball": ("ball", "sphere"),
        "box": ("box", "square"),
        "triangle": ("triangle", "pyramid"),
        "star": ("star", "five pointed star"),
        "ring": ("ring", "hoop"),
        "cross": ("cross", "plus sign"),
    },
    "motion": {
        "bounce": ("bounces", "hops"),
        "swing": ("swings", "sways"),
        "pulse": ("pulses", "throbs"),
        "blink": ("blinks", "flashes"),
    },
    "tempo": {"slow": ("slowly", "at a slow pace"), "fast": ("quickly", "fast")},
    "place": {
        "night": ("at night", "in the dark"),
        "snow": ("in the snow", "on snow"),
        "grass": ("on the grass", "in a meadow"),
        "sand": ("on the sand", "on a beach"),
    },
}

# What people write besides the words above. `parse` reads it, `caption` never writes it.
_ALSO_READ: dict[str, dict[str, str]] = {
    "colour": {},
    "shape": {},
    "motion": {
        "bounce": r"bounc(?:e|ed|ing)|hop|hopping|hopped",
        "swing": r"swing|swinging|sway|swaying|swayed",
        "pulse": r"pulse|pulsing|pulsed|throb|throbbing",
        "blink": r"blink|blinking|blinked|flash|flashing",
    },
    "tempo": {"slow": "slow", "fast": "quick|rapidly"},
    "place": {
        "night": "night|dark",
        "snow": "snow|snowy",
        "grass": "grass|meadow|lawn",
        "sand": "sand|beach",
    },
}

NUM_TEMPLATES = 6
# The words that the patterns add to those above.
_JOINING = "a the that is and there it something thing moves ,".split()


def _phrases(attribute: str) -> list[str]:
    """Return all words and phrases for the values of an attribute."""
    return list(chain(*WORDS[attribute].values()))


_OPENING = [tuple(phrase.split()) for phrase in _phrases("place") + _phrases("tempo")]


def all_words() -> list[str]:
    """Return every word that captions can hold, in order, punctuation included."""
    words = set(_JOINING)
    for attribute in WORDS:
        words.update(" ".join(_phrases(attribute)).split())
    return sorted(words)


def punctuated(words: Sequence[str]) -> list[str]:
    """Put commas where captions have them.

    They stand after a place or tempo that opens the sentence, and before "it".

    Args:
        words: the words of one sentence, without commas.

    Returns:
        the words with commas as further ones.
    """
    result = list(words)
    if "it" in result[1:]:
        result.insert(result.index("it", 1), ",")
    for phrase in _OPENING:
        opens = tuple(result[: len(phrase)]) == phrase
        if opens and result[len(phrase) :][:1] in (["a"], ["something"]):
            result.insert(len(phrase), ",")
    return result


def _noun(article: str, named: dict[str, str]) -> str:
    """Return the object with its colour, as far as they are named."""
    if "shape" not in named and "colour" not in named:
        return "something"
    return _join(article, named.get("colour"), named.get("shape", "thing"))


def _join(*parts: str | None) -> str:
    return " ".join(p for p in parts if p)


def _fill(template: int, named: dict[str, str]) -> str:
    """Return one of the six sentence patterns with what is named; patterns shrink around what is not."""
    place = named.get("place")
    tempo = named.get("tempo")
    verb = named.get("motion") or ("moves" if tempo else None)
    act = _join(verb, tempo)
    noun = _noun("a", named)
    match template:
        case 0:
            return _join(noun, act, place)
        case 1:
            return _join(place and place + ",", noun, act)
        case 2:
            return _join(tempo and tempo + ",", noun, verb, place)
        case 3:
            return _join(noun, act and "that " + act, place)
        case 4:
            return _about_the_thing(named, act)
    assert template == 5, template
    return _join(place, "there is", noun) + (f", it {act}" if act else "")


def _about_the_thing(named: dict[str, str], act: str) -> str:
    """Return the pattern that makes the colour a statement; without colour or act it has nothing to join."""
    subject = "the " + named.get("shape", "thing")
    quality = named.get("colour") and "is " + named["colour"]
    claim = _join(quality, "and" if quality and act else None, act)
    if not claim:
        return _join(subject if "shape" in named else "something", named.get("place"))
    return _join(subject, claim, named.get("place"))


def caption(
    scene: Scene, facts: Collection[str] = tuple(ATTRIBUTES), rng: np.random.Generator | None = None
) -> str:
    """Return a sentence that names some facts of a scene and no other.

    Args:
        scene: the scene.
        facts: the names of the facts, keys of `ATTRIBUTES`.
        rng: without it, the sentence has the first pattern and canonical words; with it, a random pattern and
            random synonyms.

    Returns:
        the sentence.

    Raises:
        InputError: there is no such fact.
    """
    unknown = set(facts) - set(ATTRIBUTES)
    if unknown:
        raise InputError(f"unknown facts {sorted(unknown)}: expected some of {', '.join(ATTRIBUTES)}")
    named = {}
    for name in ATTRIBUTES:
        if name in facts:
            choices = WORDS[name][getattr(scene, name)]
            named[name] = choices[0 if rng is None else rng.integers(len(choices))]
    return _fill(0 if rng is None else int(rng.integers(NUM_TEMPLATES)), named)


def _pattern(attribute: str) -> re.Pattern[str]:
    """Return the expression that finds an attribute in a sentence, with a named group per value.

    It matches whole words only.
    """
    groups = []
    for value, words in WORDS[attribute].items():
        also = _ALSO_READ[attribute].get(value)
        alternatives = list(map(re.escape, words))
        if also:
            alternatives.append(also)
        groups.append(f"(?P<{value}>{'|'.join(alternatives)})")
    return re.compile(rf"\b(?:{'|'.join(groups)})\b")


_PATTERNS = {name: _pattern(name) for name in ATTRIBUTES}


def parse(text: str) -> dict[str, str | None]:
    """Return the facts that a sentence names, by name; None for those that it does not name.

    Of two values of one fact the first counts.
    """
    plain = " ".join(re.sub(r"[^a-z]+", " ", text.lower()).split())
    facts: dict[str, str | None] = {}
    for name, pattern in _PATTERNS.items():
        match = pattern.search(plain)
        facts[name] = match.lastgroup if match else None
    return facts
