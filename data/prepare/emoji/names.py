"""What each emoji is called: its name, its tags and its groups, from emojibase-data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codi.types import InputError
from data.prepare.emoji.packages import Package, read_json

# Groups that are left out: skin tones and hair alone, and flags, which a style draws or does not.
LEFT_OUT = ("component", "flags")


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji.

    Attributes:
        key: its code points in hexadecimal digits, joined by dashes, without the variation selector.
        name: what it is called in English, such as "red apple".
        tags: further English words for it.
        group: the larger group that it belongs to, such as "food-drink".
        subgroup: the smaller one, such as "food-fruit".
        labels: what it is called in other languages, by their codes.
    """

    key: str
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    labels: dict[str, str]


def key_of(code_points: str) -> str:
    """Return code points as a key: in lower case, without the variation selector."""
    return "-".join(part for part in code_points.lower().split("-") if part != "fe0f")


def read_names(package: Package, languages: Sequence[str]) -> dict[str, Emoji]:
    """Return all emoji by their keys, in the order of Unicode.

    Args:
        package: emojibase-data.
        languages: codes of the languages that `labels` shall have, beside English.

    Returns:
        The emoji.

    Raises:
        InputError: for a language that the package does not have.
    """
    groups = read_json(package.folder / "meta" / "groups.json")
    labels = {language: _labels(package.folder, language) for language in languages if language != "en"}
    found = {}
    for entry in read_json(package.folder / "en" / "data.json"):
        group = groups["groups"].get(str(entry.get("group")))
        if group is None or group in LEFT_OUT:
            continue
        key = key_of(entry["hexcode"])
        found[key] = Emoji(
            key=key,
            name=entry["label"].lower(),
            tags=tuple(entry.get("tags", ())),
            group=group,
            subgroup=groups["subgroups"][str(entry["subgroup"])],
            labels={language: names[key] for language, names in labels.items() if key in names},
        )
    return found


def _labels(folder: Path, language: str) -> dict[str, str]:
    """Return the names of all emoji in one language by their keys."""
    path = folder / language / "data.json"
    if not path.is_file():
        known = sorted(place.parent.name for place in folder.glob("*/data.json"))
        raise InputError(f"no names in {language!r}: expected some of {', '.join(known)}")
    return {key_of(entry["hexcode"]): entry["label"] for entry in read_json(path)}
