"""Put the page together: the form on the left, progress, results and history on the right."""

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import gradio as gr

from codi.modalities import kinds
from codi.serve.page import cards, fields, form, frame, offers, parts
from codi.serve.page.actions import PAST, Actions, Panels
from codi.serve.page.fields import Fields
from codi.serve.page.words import LANGUAGES, Words

SHOWN: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


def build(service: Any, owner: Callable[[Any], str], words: Words | None = None, root: str = "") -> gr.Blocks:
    """Build the page.

    Args:
        service: the queue of jobs (`codi.serve.service.Service`); nothing else is asked.
        owner: returns whose jobs a request of Gradio may see.
        words: the language; English for None.
        root: the path under which the server lies, behind a proxy.

    Returns:
        The page, to be mounted (`codi.serve.page.mount`).
    """
    words = words or Words()
    models = service.models()
    with gr.Blocks(
        title=words("title"), analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        gr.HTML(frame.header(words, LANGUAGES, root), elem_classes="top")
        with gr.Row(elem_classes="columns", equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes=["side", "ask"], elem_id="ask"):
                gr.HTML(frame.heading(words("section.ask")))
                form_fields = fields.lay_out(words, models, models[0].get("words") or {})
                buttons = _buttons(words)
                problem = gr.HTML("", elem_id="problem")
                _model(form_fields)
                fields.lay_out_more(form_fields)
            with gr.Column(scale=7, min_width=320, elem_classes=["side", "seen"], elem_id="seen"):
                panels = _panels(words, problem, *buttons)
        actions = Actions(
            service=service, words=words, fields=form_fields, panels=panels, owner=owner, root=root
        )
        _wire(page, actions)
    return page


def _buttons(words: Words) -> tuple[gr.Button, gr.Button]:
    """Lay out the button that makes and the one that cancels."""
    with gr.Row(elem_classes="go"):
        make = gr.Button(words("make"), variant="primary", size="lg", elem_id="make", min_width=140, scale=3)
        cancel = gr.Button(
            words("cancel"), variant="stop", size="lg", elem_id="cancel", visible=False, min_width=110
        )
    return make, cancel


def _model(form_fields: Fields) -> None:
    """Lay out the choice of a model."""
    words = form_fields.words
    names = [model["name"] for model in form_fields.models]
    form_fields.add("model", gr.Dropdown(names, value=names[0], label=words("model"), elem_id="model"))


def _panels(words: Words, problem: gr.HTML, make: gr.Button, cancel: gr.Button) -> Panels:
    """Lay out what shows jobs."""
    gr.HTML(frame.heading(words("section.results"), "results"))
    status = gr.HTML("", elem_id="status")
    bars = gr.HTML("", elem_id="bars")
    previews = gr.HTML("", elem_id="previews")
    results = parts.acting(frame.empty(words), elem_id="shown")
    gr.HTML(frame.heading(words("section.history"), "history-head"))
    history = parts.acting("", elem_id="history")
    return Panels(
        problem=problem,
        status=status,
        bars=bars,
        previews=previews,
        results=results,
        history=history,
        make=make,
        cancel=cancel,
        job=gr.State(""),
        shown=gr.State(PAST),
    )


# What happens ----------------------------------------------------------


def _wire(page: gr.Blocks, actions: Actions) -> None:
    """Say what happens when."""
    here, panels = actions.fields, actions.panels
    shown: list[Any] = [
        panels.problem,
        panels.status,
        panels.bars,
        panels.previews,
        panels.results,
        panels.history,
    ]
    shown += [panels.make, panels.cancel, panels.job]
    everything = set(here.by_name.values())
    gr.on([panels.make.click, here.by_name["text"].submit], actions.make, everything, shown, **SHOWN)
    page.load(actions.arrive, None, shown, **SHOWN)
    panels.cancel.click(actions.cancel, [panels.job], [panels.cancel], **SHOWN)
    taking = [here.groups["edits"], here.groups["continue"], here.marks["tabs"], panels.shown]
    taking += [
        each for name, each in here.by_name.items() if not name.startswith(("prompt", "region", "control"))
    ]
    taken = gr.State(None)
    for panel in (panels.results, panels.history):
        panel.act(_acting(actions, taken), [panels.shown], [*shown, *taking, taken], **SHOWN)
    _wire_slots(here, panels, taken)
    _wire_form(here, actions.root)


def _acting(actions: Actions, taken: gr.State) -> Callable[..., Any]:
    """Return the handler of the buttons of cards, which hands a medium to the prompts through `taken`."""
    slots = actions.fields.by_name["slots"]

    async def act(shown: int, event: gr.EventData, request: gr.Request) -> Any:
        async for changes in actions.act(shown, event, request):
            given = changes.pop(slots, None)
            yield changes | ({taken: given} if given else {})

    return act


def _wire_slots(here: Fields, panels: Panels, taken: gr.State) -> None:
    """Let prompts be added, filled from results, and removed."""
    state = here.by_name["slots"]
    shown = [state, panels.problem]
    for slot in here.slots:
        shown += [slot["group"], slot["head"], *slot["kinds"].values()]
    for kind, button in here.adders.items():
        button.click(partial(_added, here, panels, kind, None), [state], shown, **SHOWN)

    def take(slots: list[Any], given: Any) -> dict[Any, Any]:
        return _added(here, panels, given["add"], given["value"], slots) if given else {}

    taken.change(take, [state, taken], shown, **SHOWN)
    for number, slot in enumerate(here.slots):
        slot["remove"].click(partial(_removed, here, number), [state], shown, **SHOWN)


def _added(here: Fields, panels: Panels, kind: str, value: Any, slots: list[Any]) -> dict[Any, Any]:
    """Return what changes when a prompt of a kind is added, empty or with a value."""
    if None not in slots:
        return {panels.problem: cards.error(here.words, here.words("error.slots"))}
    number = slots.index(None)
    slots = [*slots[:number], kind, *slots[number + 1 :]]
    changes = _slots_shown(here, slots, number)
    component = here.slots[number]["kinds"][kind]
    if value is not None:
        changes[component] = gr.update(visible=True, value=value)
    else:
        changes[panels.problem] = ""
    return changes


def _removed(here: Fields, number: int, slots: list[Any]) -> dict[Any, Any]:
    """Return what changes when a prompt is removed."""
    kind = slots[number]
    slots = [*slots[:number], None, *slots[number + 1 :]]
    changes = _slots_shown(here, slots, number)
    if kind:
        changes[here.slots[number]["kinds"][kind]] = gr.update(visible=False, value=None)
    return changes


def _slots_shown(here: Fields, slots: list[Any], number: int) -> dict[Any, Any]:
    """Return the visibility of one prompt and of its parts."""
    words, slot, kind = here.words, here.slots[number], slots[number]
    changes: dict[Any, Any] = {
        here.by_name["slots"]: slots,
        slot["group"]: gr.update(visible=kind is not None),
    }
    if kind is not None:
        called = words("kind.words") if kind == form.words_kind().name else words.kind(kind)
        heading = words("prompt.number", number=number + 1, kind=called)
        changes[slot["head"]] = f"<h3 class='small'>{heading}</h3>"
    changes |= {component: gr.update(visible=name == kind) for name, component in slot["kinds"].items()}
    return changes


def _wire_form(here: Fields, root: str) -> None:
    """Let parts of the form come and go with what is chosen."""
    if here.examples is not None:
        here.examples.act(_example, None, here.by_name["text"], **SHOWN)
    here.by_name["random"].change(
        lambda drawn: gr.update(interactive=not drawn), here.by_name["random"], here.by_name["seed"], **SHOWN
    )
    model = here.by_name["model"]
    changing = [
        here.by_name["outputs"],
        *here.adders.values(),
        here.marks["control"],
        here.marks["no control"],
    ]
    changing += [here.by_name[f"control{number}.kind"] for number in range(form.CONTROLS)]
    changing += [here.by_name[name] for name in offers.hints(here.models[0]) if name in here.by_name]
    changing += [here.by_name[f"region{number}.interval"] for number in range(form.REGIONS)]
    changing += [each for each in (here.marks["world"], here.examples) if each is not None]
    model.change(partial(_model_chosen, here), model, changing, **SHOWN)
    for kind in offers.offered(here.models):
        if kind.regions:
            _wire_keep(here, kind, root)
    here.by_name["continue.way"].change(
        lambda way: gr.update(visible=way == "gap"), here.by_name["continue.way"], here.marks["end"], **SHOWN
    )


def _example(event: gr.EventData) -> str:
    """Return the example that was chosen."""
    given = event._data if isinstance(event._data, dict) else {}
    return str(given.get("file") or "")[:500]


def _model_chosen(here: Fields, name: str) -> dict[Any, Any]:
    """Return what changes with the model: outputs, prompts, its words and numbers, and kinds of control."""
    words = here.words
    model = here.model(name)
    makes = offers.outputs_of(model)
    choices = [(words.kind(kind.name), kind.name) for kind in makes]
    changes = {here.by_name["outputs"]: gr.update(choices=choices, value=[kind.name for kind in makes])}
    changes |= {button: gr.update(visible=offers.takes(model, kind)) for kind, button in here.adders.items()}
    controls = offers.controls_of(model)
    changes[here.marks["control"]] = gr.update(visible=bool(controls))
    changes[here.marks["no control"]] = gr.update(visible=not controls)
    offered = offers.control_choices(words, model)
    for number in range(form.CONTROLS):
        changes[here.by_name[f"control{number}.kind"]] = gr.update(choices=offered, value="")
    known = model.get("words") or {}
    changes[here.marks["world"]] = gr.update(value=frame.world(words, known), visible=bool(known))
    if here.examples is not None:
        changes[here.examples] = gr.update(visible=known == (here.models[0].get("words") or {}))
    for field, hint in offers.hints(model).items():
        if field in here.by_name:
            changes[here.by_name[field]] = gr.update(placeholder=hint)
    seconds = max(offers.seconds_of(model, kind.name) for kind in kinds())
    for number in range(form.REGIONS):
        label = words("region.span", number=number + 1)
        shown = parts.span_of(words, label, seconds)
        changes[here.by_name[f"region{number}.interval"]] = gr.update(**shown)
    return changes


def _wire_keep(here: Fields, kind: Any, root: str) -> None:
    """Let the part of a start be marked once there is a start and a part is to stay."""
    words, name = here.words, kind.name
    fields_of = {part: here.by_name.get(f"{name}.{part}") for part in ("paint", "box", "interval")}
    group, strength = here.marks[name], here.by_name[f"{name}.strength"]
    canvas = here.by_name.get(f"{name}.canvas")

    def marked(value: Any, how: str, model: str) -> dict[Any, Any]:
        seconds = offers.seconds_of(here.model(model), name)
        part, nothing, around = how == "part", how == "nothing", how == form.CANVAS
        changes: dict[Any, Any] = {group: gr.update(visible=part), strength: gr.update(visible=nothing)}
        called = words.kind(name)
        source = f"{root}/gradio_api/file={quote(value)}" if value else ""
        if canvas is not None:
            lies = parts.box_of(words, words("canvas", kind=called), inside=source)
            changes[canvas] = gr.update(visible=around, **(lies if around and value else {}))
        if not part or not value:
            return changes
        shown = {
            "paint": {"value": {"background": value, "layers": [], "composite": None}},
            "box": parts.box_of(words, words("box", kind=called), source),
            "interval": parts.span_of(words, words("span", kind=called), seconds, source),
        }
        return changes | {
            field: gr.update(**shown[key]) for key, field in fields_of.items() if field is not None
        }

    start, keep = here.by_name[f"{name}.start"], here.by_name[f"{name}.keep"]
    outputs = [each for each in (group, strength, canvas, *fields_of.values()) if each is not None]
    gr.on([start.change, keep.change], marked, [start, keep, here.by_name["model"]], outputs, **SHOWN)
