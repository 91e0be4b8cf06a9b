"""Read under which licence a published model stands, and order licences by how much they restrict.

The order is a reading aid for people who decide what they may do, and no legal advice: what counts is the
text of each licence. A licence that is not in the table, or that nobody stated, counts as the most
restrictive.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codi.compose.hub import CARD, LICENCES

NOT_STATED = "not stated"
MOST_BYTES = 1 << 20  # of a licence or a card; more is not read

# From the least restrictive to the most: what is asked, and the ids of the hub (lower case, * for anything).
LEVELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("nothing", ("cc0-1.0", "unlicense", "wtfpl", "pddl")),
    ("its notices to be kept", ("mit*", "apache-2.0", "bsd*", "isc", "zlib", "artistic-2.0", "afl-3.0")),
    ("attribution", ("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by", "cdla-permissive-*")),
    ("the same licence for what is derived", ("cc-by-sa-*", "gpl*", "lgpl*", "agpl*", "mpl-2.0", "odbl")),
    ("uses on its list to be left alone", ("openrail*", "creativeml-openrail*", "bigscience-*")),
    (
        "a licence of its own for larger companies",
        ("stabilityai-ai-community", "stable-audio-community", "stability-ai-community*", "llama*", "gemma"),
    ),
    (
        "no commercial use",
        ("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "flux-1-dev-non-commercial*", "*non-commercial*"),
    ),
    ("no commercial use, and the same licence", ("cc-by-nc-sa-*",)),
    ("nothing derived from it", ("cc-by-nd-*", "cc-by-nc-nd-*")),
)
UNKNOWN = "unknown: read its text"

# Sentences by which the text of a licence is recognised, and its id; the first one that is found counts.
TITLES = (
    (r"non-?commercial license|noncommercial", "flux-1-dev-non-commercial-license", r"FLUX"),
    (r"stability ai community license", "stabilityai-ai-community", ""),
    (r"open ?rail\+\+", "openrail++", ""),
    (r"creativeml open ?rail", "creativeml-openrail-m", ""),
    (r"attribution-noncommercial-sharealike 4\.0", "cc-by-nc-sa-4.0", ""),
    (r"attribution-noncommercial-noderivatives 4\.0", "cc-by-nc-nd-4.0", ""),
    (r"attribution-noncommercial 4\.0", "cc-by-nc-4.0", ""),
    (r"attribution-sharealike 4\.0", "cc-by-sa-4.0", ""),
    (r"attribution 4\.0 international", "cc-by-4.0", ""),
    (r"cc0 1\.0 universal", "cc0-1.0", ""),
    (r"apache license\s+version 2\.0", "apache-2.0", ""),
    (r"mit license", "mit", ""),
)


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of a published model, as its files state it.

    Attributes:
        id: its id as the hub has it, or its own name; "not stated" where no file states one.
        stated_in: the file that states it; None where none does.
        link: where its text is, if the file says so.
    """

    id: str
    stated_in: str | None = None
    link: str | None = None

    @property
    def level(self) -> int:
        """How much it restricts: its place in `LEVELS`, behind all of them for what is not known."""
        for level, (_, patterns) in enumerate(LEVELS):
            if any(_matches(self.id, pattern) for pattern in patterns):
                return level
        return len(LEVELS)

    @property
    def asks(self) -> str:
        """What it asks of whoever uses the model, in a few words."""
        return LEVELS[self.level][0] if self.level < len(LEVELS) else UNKNOWN

    def to_json(self) -> dict[str, Any]:
        """Return it as a value for JSON."""
        return {"id": self.id, "stated_in": self.stated_in, "link": self.link}


def _matches(name: str, pattern: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name.lower()) is not None


def most_restrictive_first(licences: Iterable[Licence]) -> list[Licence]:
    """Return licences, each once, those that restrict most before the others."""
    return sorted(dict.fromkeys(licences), key=lambda licence: (-licence.level, licence.id))


def licence_in(folder: Path) -> Licence:
    """Return the licence that the files of a model state: the head of its card, or else a file of its own.

    Args:
        folder: the folder of the model.

    Returns:
        The licence; one that is "not stated" where no file states any.
    """
    stated = _front_matter(_text(folder / CARD))
    name = stated.get("license")
    if isinstance(name, list):  # the hub allows several
        name = name[0] if name else None
    link = stated.get("license_link")
    if isinstance(name, str) and name.lower() in ("other", "unknown"):
        own = stated.get("license_name")
        name = own if isinstance(own, str) and own else None
    if isinstance(name, str) and name:
        return Licence(id=name.strip(), stated_in=CARD, link=link if isinstance(link, str) else None)
    for path in sorted(folder.glob("*")):
        if path.name.upper().startswith(LICENCES) and path.is_file():
            return Licence(id=_recognised(_text(path)) or "other", stated_in=path.name)
    return Licence(id=NOT_STATED)


def _text(path: Path) -> str:
    """Return the beginning of a text file; empty where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _front_matter(text: str) -> dict[str, Any]:
    """Return the head of a model card, between two lines of ---; empty where there is none."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.S)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    return values if isinstance(values, dict) else {}


def _recognised(text: str) -> str | None:
    """Return the id of a licence, by the title of its text; None for one that is not known."""
    head = " ".join(text[:4000].split())
    for pattern, name, also in TITLES:
        if re.search(pattern, head, re.I) and re.search(also, head):
            return name
    return None
