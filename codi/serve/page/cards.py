"""What the page shows of jobs, as HTML in which everything that came from people is escaped."""

import base64
import binascii
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from codi.modalities import kind_of
from codi.modalities.base import ModalityKind
from codi.serve.page.form import words_kind
from codi.serve.page.words import Words
from codi.types import Modality

PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif")  # of previews
LONGEST_TITLE = 90  # letters of a prompt on a card
ICONS = {  # by what is known of a kind: whether it is in words, has places, runs in time
    (True, False, False): '<path d="M4 6h16M4 12h16M4 18h10"/>',
    (
        False,
        True,
        False,
    ): '<rect x="3" y="4" width="18" height="16" rx="3"/><path d="m4 17 5-5 4 4 3-3 4 4"/>',
    (False, False, True): '<path d="M3 12h2l2-6 3 13 3-16 3 12 2-3h3"/>',
    (False, True, True): '<rect x="3" y="5" width="13" height="14" rx="3"/><path d="m16 11 5-3v8l-5-3"/>',
}

ARROW = '<path d="M12 4v11m-5-5 5 5 5-5M5 20h14"/>'  # of what is downloaded


def url(job: str, name: str, root: str = "") -> str:
    """Return the address of a file of a job."""
    return f"{root}/media/{quote(job, safe='')}/{quote(name, safe='')}"


def icon(kind: ModalityKind) -> str:
    """Return the sign of a kind of medium, which screen readers pass over."""
    return _svg(ICONS.get((kind.in_words, kind.spatial, kind.rate_field is not None), ""))


def _svg(paths: str) -> str:
    """Return a sign of these paths."""
    return f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">{paths}</svg>'


def title_of(request: Mapping[str, Any], words: Words, most: int = LONGEST_TITLE) -> str:
    """Return the first sentence of a request, cut; it is not escaped."""
    value = request.get(words_kind().name)
    entries = value if isinstance(value, list) else [value]
    said = [entry.get("value") if isinstance(entry, Mapping) else entry for entry in entries]
    text = ", ".join(each for each in said if isinstance(each, str) and each)
    if not text and isinstance(request.get("continue"), Mapping):
        named = ", ".join(words.kind(name) for name in outputs_of(request))
        text = words("history.continue", kind=named, seconds=request["continue"].get("seconds"))
    if not text:
        given = [words.kind(m.value) for m in Modality if request.get(m.value)]
        text = f"{', '.join(given)} ({words('history.without')})" if given else words("history.without")
    return text if len(text) <= most else text[: most - 1] + "…"


def outputs_of(request: Mapping[str, Any]) -> list[str]:
    """Return the names of what a request makes."""
    to = request.get("to") or []
    return [str(name).strip() for name in (to.split(",") if isinstance(to, str) else to)]


# While it runs ---------------------------------------------------------


def status(words: Words, state: str, **gaps: Any) -> str:
    """Return the line that says how a job stands; screen readers speak it when it changes."""
    key = f"state.{state}"
    return (
        f'<div class="status status-{escape(state.split(".")[0])}" role="status" aria-live="polite">'
        f'<span class="dot" aria-hidden="true"></span>{escape(words(key, **gaps))}</div>'
    )


def error(words: Words, message: str) -> str:
    """Return an error in place, which screen readers speak at once."""
    return (
        f'<div class="problem" role="alert"><strong>{escape(words("error"))}</strong>'
        f"<p>{escape(message)}</p></div>"
    )


def note(message: str) -> str:
    """Return a short remark, which screen readers speak when they are done."""
    return f'<div class="remark" role="status" aria-live="polite">{escape(message)}</div>'


def bars(words: Words, outputs: Sequence[str], progress: Mapping[str, Any]) -> str:
    """Return the progress of every output, from the data of the newest event of that kind, or of nothing."""
    return f'<div class="card bars">{"".join(_bar(words, name, progress) for name in outputs)}</div>'


def previews(words: Words, outputs: Sequence[str], previews: Mapping[int, Any]) -> str:
    """Return the newest previews of all samples, which come by sample and output."""
    samples = sorted(previews) or [0]
    tiles = "".join(_preview(words, name, previews.get(k, {}).get(name)) for k in samples for name in outputs)
    return f'<section class="card previews" aria-label="{escape(words("preview"))}">{tiles}</section>'


def _bar(words: Words, name: str, progress: Mapping[str, Any]) -> str:
    """Return the bar of one output."""
    by_output = progress.get("outputs")
    step, steps = 0, int(progress.get("steps") or 1)
    if isinstance(by_output, Mapping) and name in by_output:
        step, steps = (int(number) for number in by_output[name])
    called = words.kind(name)
    key = "progress" if step else "progress.waits"
    text = escape(words(key, kind=called, step=step, steps=steps))
    return (
        f'<div class="bar kind-{escape(name)}">{icon(kind_of(name))}<span class="bar-text">{text}</span>'
        f'<progress max="{steps}" value="{step}" aria-label="{text}"></progress></div>'
    )


def _preview(words: Words, name: str, given: Any) -> str:
    """Return the preview of one output of one sample: a picture, words, or an empty frame."""
    inner = f'<span class="quiet">{escape(words("preview.none"))}</span>'
    if isinstance(given, Mapping):
        inner = _previewed(words, name, str(given.get("type")), str(given.get("data") or "")) or inner
    label = f"<figcaption>{icon(kind_of(name))}{escape(words.kind(name))}</figcaption>"
    return f'<figure class="preview kind-{escape(name)}"><div class="frame">{inner}</div>{label}</figure>'


def _previewed(words: Words, name: str, mime: str, data: str) -> str | None:
    """Return what a preview shows; None for what is none."""
    if mime.startswith("text/"):
        try:
            said = base64.b64decode(data, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            said = data
        return f"<q>{escape(said)}</q>"
    if mime not in PICTURES:
        return None
    alt = escape(words("preview.alt", kind=words.kind(name)))
    return f'<img src="data:{mime};base64,{escape(data)}" alt="{alt}">'


# Results ---------------------------------------------------------------


def result(view: Any, words: Words, said: Mapping[str, str], root: str = "") -> str:
    """Return the results of a finished job: a card for each sample, and the full record.

    Args:
        view: the job as the service shows it.
        words: the language.
        said: the words of those of its files that hold words, by name.
        root: the path under which the server lies.

    Returns:
        The HTML.
    """
    title = title_of(view.request, words)
    samples: dict[int, list[Mapping[str, Any]]] = {}
    for file in view.files:
        if file.get("modality") in Modality:
            samples.setdefault(int(file.get("sample") or 0), []).append(file)
    cards = "".join(
        _sample(view, words, number, files, said, root, len(samples))
        for number, files in sorted(samples.items())
    )
    several = " several" if len(samples) > 1 else ""
    head = (
        f'<header class="result-head"><h3>{escape(title)}</h3><p class="quiet">{_when(view)} · '
        f"{escape(str(view.model))}</p></header>"
    )
    buttons = "".join(
        _button(words(action), action, view.id, title=words("again.info") if action == "again" else "")
        for action in ("again", "fresh", "edit")
    )
    notes = "".join(f"<li>{escape(str(each))}</li>" for each in view.notes)
    if notes:
        head += f'<ul class="notes" aria-label="{escape(words("notes"))}">{notes}</ul>'
    return (
        f'<article class="result" data-job="{escape(view.id)}">{head}'
        f'<div class="samples{several}">{cards}</div>'
        f'<div class="actions">{buttons}</div>{_json(words("record"), view.record)}'
        f"{_json(words('request'), view.request)}</article>"
    )


def _sample(
    view: Any,
    words: Words,
    number: int,
    files: Sequence[Mapping[str, Any]],
    said: Mapping[str, str],
    root: str,
    count: int,
) -> str:
    """Return the card of one sample: a tile for every file."""
    seed = seed_of(view.record, number)
    label = words("sample", number=number + 1)
    if seed is not None:
        label += " · " + words("sample.seed", seed=seed)
    held = {m for file in files for m in kind_of(file["modality"]).carries}
    tiles = []
    for file in sorted(files, key=lambda each: -len(kind_of(each["modality"]).regions)):
        sounding = kind_of(file["modality"]).takes_sound and bool(held & {f["modality"] for f in files})
        tiles.append(_tile(view, words, file, said, root, sounding))
    shown = escape(label)
    return (
        f'<section class="card sample" aria-label="{shown}"><h4>{shown}</h4>'
        f'<div class="tiles">{"".join(tiles)}</div></section>'
    )


def _tile(
    view: Any, words: Words, file: Mapping[str, Any], said: Mapping[str, str], root: str, sounding: bool
) -> str:
    """Return the tile of one file: its player, and what can be done with it."""
    name, kind = str(file["name"]), kind_of(file["modality"])
    called = words.kind(kind.name)
    prompt = title_of(view.request, words)
    alt = escape(words("made.alt", kind=called, prompt=prompt))
    source = escape(url(view.id, name, root))
    more = f' <span class="quiet">{escape(words("with_sound"))}</span>' if sounding else ""
    buttons = (
        f'<a class="act" href="{source}?download=1" download="{escape(name)}" '
        f'title="{escape(words("download"))}" aria-label="{escape(words("download.one", name=name))}">'
        f"{_svg(ARROW)}</a>"
    )
    for action in ("use", "from", *(["on"] if kind.rate_field is not None else [])):
        label = words(f"{action}.one", name=name)
        buttons += _button(words(action), action, view.id, file=name, label=label)
    return (
        f'<figure class="tile kind-{escape(kind.name)}">'
        f"<figcaption>{icon(kind)}{escape(called)}{more}</figcaption>"
        f"{_player(words, kind, source, alt, said.get(name), sounding)}"
        f'<div class="actions">{buttons}</div></figure>'
    )


def _player(words: Words, kind: ModalityKind, source: str, alt: str, said: str | None, sounding: bool) -> str:
    """Return what shows or plays a file; a clip and its sound are one player, over one waveform."""
    if kind.in_words:
        return f"<blockquote>{escape(said or '')}</blockquote>"
    if kind.rate_field is None:
        return f'<img src="{source}" alt="{alt}" loading="lazy">'
    called = words.kind(kind.name)
    labels = (
        f'waveform="{escape(words("waveform", kind=called))}" '
        f'spectrogram="{escape(words("spectrogram", kind=called))}"'
    )
    if kind.spatial:
        player = f'<video src="{source}" controls loop playsinline preload="auto" aria-label="{alt}"></video>'
        return f"<codi-player {labels}>{player}</codi-player>" if sounding else player
    player = f'<audio src="{source}" controls preload="auto" aria-label="{alt}"></audio>'
    return f"<codi-player {labels}>{player}</codi-player>"


def seed_of(record: Any, number: int) -> int | None:
    """Return the seed of a sample, as its record says it; None where it says nothing."""
    if not isinstance(record, Mapping):
        return None
    samples = record.get("samples")
    if isinstance(samples, list) and number < len(samples) and isinstance(samples[number], Mapping):
        return samples[number].get("seed")
    seeds = record.get("seeds")
    if isinstance(seeds, list) and number < len(seeds):
        return seeds[number]
    seed = record.get("seed")
    return seed + number if isinstance(seed, int) else None


def _button(text: str, action: str, job: str, file: str = "", label: str = "", title: str = "") -> str:
    """Return a button that the page's script hands on as an event."""
    extra = f' aria-label="{escape(label)}"' if label else ""
    extra += f' title="{escape(title)}"' if title else ""
    extra += f' data-file="{escape(file)}"' if file else ""
    return (
        f'<button type="button" class="act" data-act="{escape(action)}" data-job="{escape(job)}"{extra}>'
        f"{escape(text)}</button>"
    )


def _json(label: str, value: Any) -> str:
    """Return a value as folded JSON."""
    if not value:
        return ""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return (
        f'<details class="record"><summary>{escape(label)}</summary>'
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def _when(view: Any) -> str:
    return escape(time.strftime("%Y-%m-%d %H:%M", time.localtime(view.created or 0)))


# History ---------------------------------------------------------------


def history(views: Iterable[Any], words: Words, root: str = "", more: bool = False) -> str:
    """Return the list of a person's jobs, the newest first."""
    rows = [_row(view, words, root) for view in views]
    if not rows:
        return f'<p class="quiet history-empty">{escape(words("history.empty"))}</p>'
    button = f'<div class="actions">{_button(words("history.more"), "more", "")}</div>' if more else ""
    return f'<ul class="history">{"".join(rows)}</ul>{button}'


def _row(view: Any, words: Words, root: str) -> str:
    """Return one job of the history: a picture of it, its words, what was made, how it stands."""
    title = title_of(view.request, words)
    made = [kind_of(name) for name in outputs_of(view.request) if name in Modality]
    signs = "".join(f'<span class="kind-{escape(k.name)}">{icon(k)}</span>' for k in made)
    spoken = escape(", ".join(words.kind(k.name) for k in made))
    state = escape(view.state)
    remove = (
        f'<button type="button" class="remove" data-act="delete" data-job="{escape(view.id)}" '
        f'data-sure="{escape(words("history.sure"))}" '
        f'aria-label="{escape(words("history.delete", prompt=title))}">×</button>'
    )
    return (
        f'<li><button type="button" class="past" data-act="open" data-job="{escape(view.id)}" '
        f'aria-label="{escape(words("history.open", prompt=title))}">{_thumbnail(view, made, root)}'
        f'<span class="past-text"><span class="past-title">{escape(title)}</span>'
        f'<span class="quiet">{_when(view)} · <span class="tag tag-{state}">'
        f"{escape(words(f'tag.{view.state}'))}</span></span></span>"
        f'<span class="signs" title="{spoken}">{signs}</span></button>{remove}</li>'
    )


def _thumbnail(view: Any, made: Sequence[ModalityKind], root: str) -> str:
    """Return a small picture of a job: a still, a clip's first frame, or the sign of what was made."""
    for timed, tag in ((False, "img"), (True, "video")):
        for file in view.files:
            if file.get("modality") not in Modality:
                continue
            kind = kind_of(file["modality"])
            if kind.spatial and (kind.rate_field is not None) == timed:
                source = escape(url(view.id, file["name"], root))
                if tag == "img":
                    return f'<img class="thumb" src="{source}" alt="" loading="lazy">'
                hidden = 'aria-hidden="true" tabindex="-1"'
                return f'<video class="thumb" src="{source}#t=0.1" muted preload="metadata" {hidden}></video>'
    inner = icon(made[0]) if made else ""
    return f'<span class="thumb sign">{inner}</span>'
