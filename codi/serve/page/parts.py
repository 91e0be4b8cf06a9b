"""Gradio's components as the page uses them: pictures that are not decoded here, and pickers of its own."""

from abc import ABCMeta
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from codi.serve.page.words import Words


def _path_of(image: gr.Image, payload: Any) -> str | None:
    """Return the path of the file that came."""
    return None if payload is None else payload.path


# A picture that is handed on as it came: the service decodes it, in its sandbox. Gradio writes a stub file
# beside the module of each class that is made in the ordinary way; hence this one is made by `ABCMeta`.
Picture: Any = ABCMeta.__new__(
    type(gr.Image),
    "Picture",
    (gr.Image,),
    {"__module__": __name__, "preprocess": _path_of, "get_block_name": lambda image: "image"},
)


def picture(label: str, hint: str, **more: Any) -> gr.Image:
    """Return a field for a picture: a file, the camera, or what was copied."""
    return Picture(
        label=label, placeholder=hint, type="filepath", sources=["upload", "webcam", "clipboard"], **more
    )


def _painted_of(editor: gr.ImageEditor, payload: Any) -> dict[str, Any] | None:
    """Return the paths of the pictures that came; those that came as bytes are written, not decoded."""
    if payload is None:
        return None
    if payload.id is not None:
        payload = editor.blob_storage.pop(payload.id, None)
        if payload is None:
            return None

    def path_of(picture: Any) -> str | None:
        if picture is None:
            return None
        if isinstance(picture, bytes):
            saved: str = save_bytes_to_cache(picture, "painted.png", editor.GRADIO_CACHE)
            return saved
        return str(picture.path)

    layers = [path for path in map(path_of, payload.layers or ()) if path is not None]
    return {
        "background": path_of(payload.background),
        "layers": layers,
        "composite": path_of(payload.composite),
    }


# An editor that hands on what came, as `Picture` does.
Editor: Any = ABCMeta.__new__(
    type(gr.ImageEditor),
    "Editor",
    (gr.ImageEditor,),
    {"__module__": __name__, "preprocess": _painted_of, "get_block_name": lambda editor: "imageeditor"},
)


def sheet(label: str, **more: Any) -> gr.ImageEditor:
    """Return a sheet to draw on."""
    brush = gr.Brush(
        colors=["#e5484d", "#f2a900", "#30a46c", "#0090ff", "#8e4ec6", "#111111", "#ffffff"],
        default_color="#e5484d",
        default_size=28,
    )
    return Editor(
        label=label,
        type="filepath",
        sources=(),
        transforms=(),
        layers=False,
        brush=brush,
        canvas_size=(512, 512),
        **more,
    )


def mask(label: str, **more: Any) -> gr.ImageEditor:
    """Return a picture to paint a mask over."""
    brush = gr.Brush(colors=["rgba(229, 72, 77, 0.75)"], color_mode="fixed", default_size="auto")
    return Editor(label=label, type="filepath", sources=(), transforms=(), layers=False, brush=brush, **more)


_PICKED = "element.addEventListener('picked', (event) => { props.value = event.detail; });"


def span(words: Words, label: str, seconds: float, **more: Any) -> gr.HTML:
    """Return a picker of an interval: a timeline, or the waveform of a sound, to drag over."""
    return gr.HTML(
        value=None,
        html_template='<codi-span src="${src}" seconds="${seconds}" label="${label_text}" help="${help}" '
        'begin="${begin}" end="${end}" clear="${clear}"></codi-span>',
        js_on_load=_PICKED,
        **span_of(words, label, seconds),
        **more,
    )


def span_of(words: Words, label: str, seconds: float, src: str = "") -> dict[str, Any]:
    """Return what a picker of an interval shows; Gradio takes all of it anew whenever a part changes."""
    return {
        "src": src,
        "seconds": seconds,
        "label_text": label,
        "help": words("span.help"),
        "begin": words("span.from"),
        "end": words("span.to"),
        "clear": words("span.clear"),
    }


def box(words: Words, label: str, **more: Any) -> gr.HTML:
    """Return a picker of a box in fractions of a picture, or over the first frame of a clip.

    Args:
        words: the language.
        label: what it is called.
        **more: further arguments of the component.

    Returns:
        The picker.
    """
    return gr.HTML(
        value=None,
        html_template='<codi-box src="${src}" inside="${inside}" label="${label_text}" help="${help}" '
        'edges="${edges}" clear="${clear}"></codi-box>',
        js_on_load=_PICKED,
        **box_of(words, label),
        **more,
    )


def box_of(words: Words, label: str, src: str = "", inside: str = "") -> dict[str, Any]:
    """Return what a picker of a box shows; Gradio takes all of it anew whenever a part changes.

    Args:
        words: the language.
        label: what it is called.
        src: the address of a clip under the box.
        inside: the address of a picture or a clip that lies in the box.

    Returns:
        What it shows, by the names in its template.
    """
    return {
        "src": src,
        "inside": inside,
        "label_text": label,
        "help": words("box.help"),
        "edges": ",".join(words(f"box.{edge}") for edge in ("left", "top", "right", "bottom")),
        "clear": words("span.clear"),
    }


def acting(value: str, **more: Any) -> gr.HTML:
    """Return HTML whose buttons with `data-act` are events "act" with action, job and file."""
    script = """element.addEventListener('click', (event) => {
        const button = event.target.closest('[data-act]');
        if (!button) return;
        const { act, job, file, sure } = button.dataset;
        if (sure && !button.classList.contains('sure')) {
            button.classList.add('sure');
            button.textContent = sure;
            button.setAttribute('aria-label', sure + ' ' + button.getAttribute('aria-label'));
            return;
        }
        trigger('act', { action: act, job: job || '', file: file || '' });
    });"""
    return gr.HTML(value, js_on_load=script, **more)


def number(label: str, hint: str = "", **more: Any) -> gr.Textbox:
    """Return a field of a number that may be empty, which Gradio's field of numbers may not."""
    return gr.Textbox(label=label, placeholder=hint, lines=1, max_lines=1, **more)
