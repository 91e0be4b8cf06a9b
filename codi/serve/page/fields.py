"""Lay out the fields of the page, under the names by which `codi.serve.page.form` reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from codi.modalities import kinds, sized
from codi.modalities.base import ModalityKind
from codi.serve.page import form, frame, lasting, offers, parts
from codi.serve.page.words import Words
from codi.types import SIZES

EXAMPLES = (
    "a green star bounces quickly in the snow",
    "a red ball swings slowly on the sand",
    "a blue ring pulses at night",
    "a golden triangle blinks fast on the grass",
)
MOST_SAMPLES = 16
MOST_CANDIDATES = 16
GUIDERS = ("cfg", "apg", "zero-star", "cfg++", "skip-layer", "perturbed-attention")


@dataclass(kw_only=True)
class Fields:
    """The components of the form.

    Attributes:
        words: the language.
        models: what the service says of its models.
        by_name: the components by the names of `codi.serve.page.form`.
        slots: for each further prompt its group, its heading, its button to remove it, and its components by
            kind.
        adders: the buttons that add a prompt, by kind.
        marks: what comes and goes: by output what marks a part of a start, "tabs" of starts, "end" of what
            goes on, "world" for the words of a model, "control" and "no control".
        groups: foldable parts by name.
        examples: the example prompts.
    """

    words: Words
    models: Sequence[Mapping[str, Any]]
    by_name: dict[str, Any] = field(default_factory=dict)
    slots: list[dict[str, Any]] = field(default_factory=list)
    adders: dict[str, gr.Button] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, gr.Accordion] = field(default_factory=dict)
    examples: Any = None

    def model(self, name: str | None) -> Mapping[str, Any]:
        """Return what the service says of a model; of the first one where it has none of that name."""
        return next((model for model in self.models if model["name"] == name), self.models[0])

    def add(self, name: str, component: Any) -> Any:
        """Take a component up under a name, and return it."""
        assert name not in self.by_name, f"{name} is there twice"
        self.by_name[name] = component
        return component

    def values(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the values of the fields by name, from those by component."""
        return {name: data.get(component) for name, component in self.by_name.items()}


def lay_out(words: Words, models: Sequence[Mapping[str, Any]], known: Mapping[str, Sequence[str]]) -> Fields:
    """Lay out the form up to the button, inside the block that is open.

    Args:
        words: the language.
        models: what the service says of its models, the first being the default.
        known: the words that the first model reads, by kind; empty for one that reads any.

    Returns:
        The fields.
    """
    fields = Fields(words=words, models=models)
    _prompts(fields, known)
    model = models[0]
    makes = offers.outputs_of(model)
    fields.add(
        "outputs",
        gr.CheckboxGroup(
            [(words.kind(kind.name), kind.name) for kind in makes],
            value=[kind.name for kind in makes],
            label=words("outputs"),
            info=words("outputs.info"),
            elem_id="outputs",
        ),
    )
    return fields


def lay_out_more(fields: Fields) -> None:
    """Lay out what is folded away below the button."""
    _samples(fields)
    _settings(fields)
    _edits(fields)
    _lasting(fields)
    _regions(fields)
    _controls(fields)


# Prompts ---------------------------------------------------------------


def _prompts(fields: Fields, known: Mapping[str, Sequence[str]]) -> None:
    """Lay out the sentence on top, examples, and the further prompts."""
    words = fields.words
    fields.add(
        "text",
        gr.Textbox(
            label=words("prompt"),
            placeholder=words("prompt.hint"),
            info=words("prompt.info"),
            lines=2,
            max_lines=6,
            elem_id="prompt",
        ),
    )
    if known:
        fields.examples = parts.acting(frame.examples(words, EXAMPLES))
    fields.marks["world"] = gr.HTML(frame.world(words, known) if known else "", visible=bool(known))
    fields.add("slots", gr.State([None] * form.PROMPTS))
    for number in range(form.PROMPTS):
        fields.slots.append(_slot(fields, number))
    with gr.Row(elem_classes="adders"):
        gr.HTML(f'<span class="quiet">{words("add")}</span>', elem_classes="adders-label")
        for kind in (*(each.name for each in kinds()), form.DRAWING):
            called = words("kind.words") if kind == form.words_kind().name else words.kind(kind)
            fields.adders[kind] = gr.Button(
                "+ " + called,
                size="sm",
                elem_classes="adder",
                min_width=60,
                visible=offers.takes(fields.models[0], kind),
            )
    fields.add(
        "negative",
        gr.Textbox(label=words("negative"), placeholder=words("negative.hint"), lines=1, elem_id="negative"),
    )


def _slot(fields: Fields, number: int) -> dict[str, Any]:
    """Lay out one further prompt, which is there when a kind was chosen for it."""
    words, name = fields.words, f"prompt{number}"
    slot: dict[str, Any] = {"kinds": {}}
    with gr.Group(visible=False, elem_classes="slot") as slot["group"]:
        slot["head"] = gr.HTML("", elem_classes="slot-head")
        for kind in kinds():
            slot["kinds"][kind.name] = fields.add(f"{name}.{kind.name}", medium(fields, kind, visible=False))
        slot["kinds"][form.DRAWING] = fields.add(
            f"{name}.{form.DRAWING}", parts.sheet(words("kind.drawing"), visible=False)
        )
        weight = gr.Slider(
            0, 2, value=1, step=0.05, label=words("prompt.weight"), info=words("prompt.weight.info")
        )
        fields.add(f"{name}.weight", weight)
        with gr.Row(elem_classes="slot-foot"):
            fields.add(
                f"{name}.negative", gr.Checkbox(label=words("prompt.negative"), min_width=150, scale=3)
            )
            text = words("prompt.remove", number=number + 1)
            slot["remove"] = gr.Button(text, size="sm", min_width=110, scale=1, elem_classes="adder")
    return slot


def medium(fields: Fields, kind: ModalityKind, label: str | None = None, **more: Any) -> Any:
    """Return the field in which a medium of a kind is given: typed, uploaded or recorded."""
    words = fields.words
    label = label or (words("prompt.words") if kind.in_words else words.kind(kind.name))
    if kind.in_words:
        return gr.Textbox(label=label, lines=2, **more)
    if kind.rate_field is None:
        return parts.picture(label, words("drop.image"), height=220, **more)
    if kind.spatial:
        return gr.Video(label=label, sources=["upload", "webcam"], height=220, **more)
    return gr.Audio(label=label, type="filepath", sources=["upload", "microphone"], **more)


# Settings --------------------------------------------------------------


def _samples(fields: Fields) -> None:
    """Lay out variations, candidates and seeds."""
    words = fields.words
    with gr.Accordion(words("group.samples"), open=False) as fields.groups["samples"]:
        samples = gr.Slider(1, MOST_SAMPLES, 1, step=1, label=words("samples"), info=words("samples.info"))
        fields.add("samples", samples)
        most, info = MOST_CANDIDATES, words("candidates.info")
        fields.add("candidates", gr.Slider(1, most, 1, step=1, label=words("candidates"), info=info))
        with gr.Row():
            fields.add(
                "seed",
                gr.Number(0, label=words("seed"), precision=0, minimum=0, min_width=140, elem_id="seed"),
            )
            fields.add("random", gr.Checkbox(label=words("random"), min_width=180))


def _settings(fields: Fields) -> None:
    """Lay out steps, scales by output, and sizes."""
    words, makes = fields.words, offers.offered(fields.models)
    hints = offers.hints(fields.models[0])
    with gr.Accordion(words("group.settings"), open=False) as fields.groups["settings"]:
        gr.HTML(f'<p class="quiet">{words("settings.info")}</p>')
        with gr.Row():
            fields.add("steps", parts.number(words("steps"), hints["steps"], min_width=120, elem_id="steps"))
            for name in SIZES:
                if any(kind.modality in sized(name) for kind in makes):
                    size = f"size.{name}"
                    fields.add(size, parts.number(words(size), hints[size], min_width=120))
        with gr.Tabs():
            for kind in makes:
                with gr.Tab(words.kind(kind.name)):
                    _scales(fields, kind, hints)
        fields.add("sync", gr.Checkbox(True, label=words("sync")))
        fields.add(
            "lengths",
            gr.Radio(
                [(words(f"lengths.{name}"), name) for name in ("agree", "free")],
                value="agree",
                label=words("lengths"),
            ),
        )


def _scales(fields: Fields, kind: ModalityKind, hints: Mapping[str, str]) -> None:
    """Lay out the numbers of one output."""
    words = fields.words
    with gr.Row():
        for key in form.BY_OUTPUT:
            fields.add(
                f"{kind.name}.{key}",
                parts.number(
                    words(key), hints[f"{kind.name}.{key}"], info=words(f"{key}.info"), min_width=190
                ),
            )
        fields.add(
            f"{kind.name}.guider",
            gr.Dropdown([(words("own"), ""), *GUIDERS], value="", label=words("guider"), min_width=190),
        )


# Start, keep, keyframes ------------------------------------------------


def _edits(fields: Fields) -> None:
    """Lay out what outputs are given of themselves."""
    words = fields.words
    with gr.Accordion(words("group.edits"), open=False) as fields.groups["edits"]:
        gr.HTML(f'<p class="quiet">{words("edits.info")}</p>')
        with gr.Tabs() as fields.marks["tabs"]:
            for kind in offers.offered(fields.models):
                with gr.Tab(words.kind(kind.name), id=kind.name):
                    _edit(fields, kind)
        fields.add("resample_steps", parts.number(words("resample_steps"), "4"))


def _edit(fields: Fields, kind: ModalityKind) -> None:
    """Lay out what one output is given of itself."""
    words, called = fields.words, fields.words.kind(kind.name)
    fields.add(f"{kind.name}.start", medium(fields, kind, words("start", kind=called)))
    fields.add(
        f"{kind.name}.strength", gr.Slider(0, 1, form.DEFAULT_STRENGTH, step=0.05, label=words("strength"))
    )
    if kind.regions:
        _keep(fields, kind)
    if "frame" in kind.regions:
        gr.HTML(f'<h3 class="small">{words("frames")}</h3>')
        with gr.Row():
            for number, when in enumerate(form.FRAMES):
                with gr.Column(min_width=130):
                    name = f"{kind.name}.frame{number}"
                    fields.add(name, parts.picture(words(f"frame.{number}"), words("drop.short"), height=150))
                    if not when:
                        fields.add(f"{name}.second", parts.number(words("frame.second"), "1"))


def _keep(fields: Fields, kind: ModalityKind) -> None:
    """Lay out what of a start stays: nothing, all of it, or a part that is painted or selected."""
    words, name = fields.words, kind.name
    keep = [(words(f"keep.{each}"), each) for each in form.keeps_of(kind)]
    fields.add(f"{name}.keep", gr.Radio(keep, value=form.KEEP[0], label=words("keep")))
    with gr.Column(visible=False) as group:
        selected = [(words(f"selected.{each}"), each) for each in form.SELECTED]
        fields.add(f"{name}.selected", gr.Radio(selected, value=form.SELECTED[0], label=words("selected")))
        if kind.spatial and kind.rate_field is None:
            fields.add(f"{name}.paint", parts.mask(words("paint")))
        elif kind.spatial:
            fields.add(f"{name}.box", parts.box(words, words("box", kind=words.kind(name))))
        if "interval" in kind.regions:
            label = words("span", kind=words.kind(name))
            seconds = offers.seconds_of(fields.models[0], name)
            fields.add(f"{name}.interval", parts.span(words, label, seconds))
    fields.marks[name] = group
    if kind.spatial:
        canvas = parts.box(words, words("canvas", kind=words.kind(name)), visible=False)
        fields.add(f"{name}.canvas", canvas)


# What goes on ----------------------------------------------------------


def _lasting(fields: Fields) -> None:
    """Lay out what goes on beyond the length of the model."""
    words = fields.words
    able = [kind for kind in lasting.lasting() if kind in offers.offered(fields.models)]
    with gr.Accordion(words("group.continue"), open=False) as fields.groups["continue"]:
        gr.HTML(f'<p class="quiet">{words("continue.info")}</p>')
        _media(fields, able, "source")
        sound = gr.Checkbox(True, label=words("continue.sound"), info=words("continue.sound.info"))
        fields.add("continue.sound", sound)
        ways = [(words(f"continue.{way}"), way) for way in lasting.WAYS]
        fields.add("continue.way", gr.Radio(ways, value=lasting.WAYS[0], label=words("continue.way")))
        with gr.Column(visible=False) as fields.marks["end"]:
            _media(fields, able, "end")
        with gr.Row():
            for name, hint in (("seconds", "4"), ("overlap", "1")):
                label, info = words(f"continue.{name}"), words(f"continue.{name}.info")
                fields.add(f"continue.{name}", parts.number(label, hint, info=info, min_width=190))


def _media(fields: Fields, able: Sequence[ModalityKind], place: str) -> None:
    """Lay out a field for a medium of each kind that can go on."""
    with gr.Row():
        for kind in able:
            label = fields.words(f"continue.{place}", kind=fields.words.kind(kind.name))
            fields.add(f"continue.{kind.name}.{place}", medium(fields, kind, label, min_width=190))


# Regions and controls --------------------------------------------------


def _regions(fields: Fields) -> None:
    """Lay out prompts for parts of what is made."""
    words = fields.words
    seconds = max(offers.seconds_of(fields.models[0], kind.name) for kind in kinds())
    with gr.Accordion(words("group.regions"), open=False) as fields.groups["regions"]:
        gr.HTML(f'<p class="quiet">{words("regions.info")}</p>')
        with gr.Tabs():
            for number in range(form.REGIONS):
                name, shown = f"region{number}", number + 1
                with gr.Tab(words("region", number=shown)):
                    fields.add(f"{name}.text", gr.Textbox(label=words("region.text", number=shown), lines=1))
                    with gr.Row():
                        fields.add(
                            f"{name}.box", parts.box(words, words("region.box", number=shown), min_width=200)
                        )
                        fields.add(
                            f"{name}.interval",
                            parts.span(words, words("region.span", number=shown), seconds, min_width=200),
                        )
                    with gr.Row():
                        fields.add(
                            f"{name}.weight",
                            gr.Slider(0, 4, 1, step=0.1, label=words("prompt.weight"), min_width=140),
                        )
                        fields.add(
                            f"{name}.soft",
                            gr.Slider(0, 0.5, 0, step=0.01, label=words("region.soft"), min_width=140),
                        )


def _controls(fields: Fields) -> None:
    """Lay out what steers outputs beside their prompts."""
    words, model = fields.words, fields.models[0]
    with gr.Accordion(words("group.control"), open=False) as fields.groups["control"]:
        gr.HTML(f'<p class="quiet">{words("control.info")}</p>')
        fields.marks["no control"] = gr.HTML(
            f"<p>{words('control.none')}</p>", visible=not offers.controls_of(model)
        )
        with gr.Column(visible=bool(offers.controls_of(model))) as fields.marks["control"]:
            for number in range(form.CONTROLS):
                _control(fields, number)


def _control(fields: Fields, number: int) -> None:
    """Lay out one control."""
    words, name = fields.words, f"control{number}"
    steered = [
        (words("control.all"), ""),
        *((words.kind(k.name), k.name) for k in offers.offered(fields.models)),
    ]
    gr.HTML(f'<h3 class="small">{words("control.number", number=number + 1)}</h3>')
    with gr.Row():
        choices = offers.control_choices(words, fields.models[0])
        fields.add(f"{name}.kind", gr.Dropdown(choices, value="", label=words("control.kind"), min_width=120))
        fields.add(
            f"{name}.output", gr.Dropdown(steered, value="", label=words("control.output"), min_width=120)
        )
        fields.add(
            f"{name}.weight", gr.Slider(0, 2, 1, step=0.05, label=words("prompt.weight"), min_width=120)
        )
    hint = words("control.value.hint")
    fields.add(f"{name}.value", gr.Textbox(label=words("control.value"), placeholder=hint))
    fields.add(f"{name}.file", gr.File(label=words("control.file"), type="filepath", height=110))
