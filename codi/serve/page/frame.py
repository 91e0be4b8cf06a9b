"""What stands around the form, as HTML: the head of the page, examples, and what stands for nothing."""

from collections.abc import Mapping, Sequence
from html import escape

from codi.modalities import kinds
from codi.serve.page.cards import icon
from codi.serve.page.words import TABLE, Words


def header(words: Words, languages: Mapping[str, str], root: str = "") -> str:
    """Return the head of the page: its sign, what it is, languages, and the switch of light and dark."""
    links = []
    for code, name in languages.items():
        here = ' aria-current="true"' if code == words.language else ""
        path = f"{root}/?lang={code}"
        links.append(f'<a href="{escape(path)}" lang="{code}" hreflang="{code}"{here}>{escape(name)}</a>')
    strands = "".join(f'<i class="kind-{escape(kind.name)}"></i>' for kind in kinds())
    return (
        f'<a class="skip" href="#results">{escape(words("skip"))}</a><div class="masthead">'
        f'<div class="brand"><span class="logo" aria-hidden="true">{strands}</span>'
        f"<div><h1>codi</h1><p>{escape(words('tagline'))}</p></div></div>"
        f'<nav aria-label="{escape(words("language"))}">{"".join(links)}'
        f'<button type="button" class="mode" data-mode aria-label="{escape(words("theme"))}" '
        f'title="{escape(words("theme"))}"><svg class="icon" viewBox="0 0 24 24" aria-hidden="true">'
        '<circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" class="full"/></svg></button></nav>'
        "</div>"
    )


def examples(words: Words, prompts: Sequence[str]) -> str:
    """Return example prompts as buttons."""
    chips = "".join(
        f'<button type="button" class="chip" data-act="example" data-file="{escape(each)}" lang="en">'
        f"{escape(each)}</button>"
        for each in prompts
    )
    label = escape(words("examples"))
    return (
        f'<div class="examples" role="group" aria-label="{label}">'
        f'<span class="quiet">{label}</span>{chips}</div>'
    )


def world(words: Words, known: Mapping[str, Sequence[str]]) -> str:
    """Return which words the embedded model understands, folded away."""
    rows = "".join(
        f"<dt>{escape(words(f'world.{name}'))}</dt><dd lang='en'>{escape(', '.join(each))}</dd>"
        for name, each in known.items()
        if f"world.{name}" in TABLE
    )
    return (
        f'<details class="world"><summary>{escape(words("world"))}</summary>'
        f"<p>{escape(words('world.text'))}</p><dl>{rows}</dl></details>"
    )


def heading(text: str, anchor: str = "") -> str:
    """Return the heading of a part of the page."""
    mark = f' id="{escape(anchor)}" tabindex="-1"' if anchor else ""
    return f"<h2{mark}>{escape(text)}</h2>"


def empty(words: Words) -> str:
    """Return what stands where there are no results yet."""
    signs = "".join(f'<span class="kind-{escape(k.name)}">{icon(k)}</span>' for k in kinds())
    return (
        f'<section class="empty"><div class="signs">{signs}</div><h3>{escape(words("empty.title"))}</h3>'
        f"<p>{escape(words('empty.text'))}</p></section>"
    )
