"""Check what is asked of a composed model, and put each model's own values in place of what was left out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codi import regions as regional
from codi import settings
from codi.compose.foreign import ForeignModel
from codi.compose.sizes import settle_sizes
from codi.conditions import CONDITIONS, PROMPT
from codi.conditions.classifier import ClassifierGuidance, parse_classifier
from codi.diffusion.guidance import Guidance
from codi.edits import NAMES as EDITS
from codi.edits import Edits
from codi.modalities import kind_of
from codi.outputs import OUTPUT_TYPES
from codi.protocols import Upscaler
from codi.regions import Region, Regions
from codi.types import InputError, Modality, ModalitySpec, listed
from codi.upscaling import Upscale

Sync = bool | Iterable["str | Modality"] | None
GIVEN = (  # what a call may decide besides sizes
    "num_inference_steps",
    "guidance_scale",
    "sync_guidance_scale",
    "guidance_interval",
    "sync_guidance_interval",
    "guidance_rescale",
    "guider",
    "start_offset",
)


@dataclass(frozen=True, kw_only=True)
class ComposedRequest:
    """What one call of a composed model makes, and how.

    Attributes:
        outputs: what is made, in the order asked for.
        partners: the inputs that stand in the loop as clean partners.
        sync: what was asked about them; None if nothing was.
        num_samples: sets of outputs.
        num_inference_steps: the steps of each output.
        guidance: the guidance of each output.
        classifier: classifier guidance beside that; None for none.
        start_offset: noise levels by which each output starts after the first.
        sizes: the sizes of each output by our names; what is left out is its model's own.
        asked: the sizes that the call named, by our names.
        specs: the geometry of each output and clean partner.
        lengths: "agree" or "free".
        output_type: one of `codi.outputs.OUTPUT_TYPES`.
        auxiliary_caption: whether a caption is drawn first, which all other outputs are then made from; it
            may be an output itself.
        notes: what a person should know of it, one line each.
        edits: what outputs are given of themselves: a start, a part to keep, keyframes.
        regions: prompts for parts of what is made.
        upscale: how much larger pictures and clips are made than `specs` say; None for not at all.
    """

    outputs: tuple[Modality, ...]
    partners: tuple[Modality, ...]
    sync: Any
    num_samples: int
    num_inference_steps: Mapping[Modality, int]
    guidance: Mapping[Modality, Guidance]
    classifier: ClassifierGuidance | None
    start_offset: Mapping[Modality, float]
    sizes: Mapping[Modality, Mapping[str, Any]]
    asked: Mapping[str, Any]
    specs: Mapping[Modality, ModalitySpec]
    lengths: str
    output_type: str
    auxiliary_caption: bool = False
    notes: tuple[str, ...] = ()
    edits: Edits = Edits()
    regions: Regions = Regions()
    upscale: Upscale | None = None

    @property
    def reads(self) -> frozenset[Modality]:
        """The modalities whose noisy-latent encoders classifier guidance uses."""
        return frozenset() if self.classifier is None else self.classifier.reads

    @property
    def can_steer(self) -> bool:
        """Whether prompt guidance acts on any output at any step."""
        steps = self.num_inference_steps
        return any(settings.can_steer({m: guided}, steps[m]) for m, guided in self.guidance.items())

    def settings(self) -> dict[str, Any]:
        """Return all settings as a record stores them.

        Sizes are those that were asked for: what is left out is each model's own, which need not agree.
        """
        steps: Any = {m.value: count for m, count in self.num_inference_steps.items()}
        if len(set(steps.values())) == 1:
            steps = next(iter(steps.values()))
        found: dict[str, Any] = {"num_inference_steps": steps}
        shared = next(iter(self.guidance.values()))
        for condition in CONDITIONS.values():
            if condition.scale is not None:
                scales = {m.value: g.scales[condition.name] for m, g in self.guidance.items()}
                found[condition.scale] = scales
            if condition.interval is not None:
                found[condition.interval] = list(shared.intervals[condition.name])
        partners = [m.value for m in self.partners]
        if self.classifier is not None:
            found["classifier_guidance"] = self.classifier.described()
        if self.upscale is not None:
            found["upscale"] = self.upscale.described()
        return found | {
            "guider": settings.guiders_of(self.guidance),
            "guidance_rescale": shared.rescale,
            "start_offset": {m.value: offset for m, offset in self.start_offset.items()},
            "auxiliary_caption": self.auxiliary_caption,
            "sync": self.sync if isinstance(self.sync, bool) else self.sync is None or partners,
            "partners": partners,
            "candidates": 1,
            "lengths": self.lengths,
            **self.asked,
            **self.edits.settings(),
        }


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a composed model can do.

    Attributes:
        models: its foreign models.
        makes: what it makes: theirs, and text where a model of codi makes it.
        attends_to: for each output, the modalities whose environments it attends to.
        takes: the modalities of prompts that it takes.
        reads: those of them that are read as prompts besides sentences; others can only stand in the loop.
        readable: the modalities of latents that have a noisy-latent encoder.
        defaults: its own values of settings.
        upscalers: what makes decoded media of a modality larger.
    """

    models: Mapping[Modality, ForeignModel]
    makes: Collection[Modality]
    attends_to: Mapping[Modality, Collection[Modality]]
    takes: Collection[Modality]
    reads: Collection[Modality]
    readable: Collection[Modality]
    defaults: Mapping[str, Any]
    upscalers: Mapping[Modality, Upscaler]


def resolve(
    able: Abilities,
    *,
    given: Collection[Modality],
    outputs: Sequence[str | Modality] | str,
    negatives: Collection[Modality] = (),
    clean: Collection[Modality] | None = None,
    sync: Sync = None,
    num_samples: int = 1,
    candidates: int = 1,
    auxiliary_caption: bool = True,
    lengths: str = "agree",
    sizes: Mapping[str, Any] | None = None,
    control: Any = None,
    output_type: str = "pil",
    classifier_guidance: Any = None,
    upscale: Any = None,
    inputs: Mapping[Modality, Any] | None = None,
    regions: Sequence[Region | Mapping[str, Any]] | None = None,
    **values: Any,
) -> ComposedRequest:
    """Check what is asked of a composed model.

    Args:
        able: what the model can do.
        given: the modalities of the prompts.
        outputs: what to make.
        negatives: the modalities of the negative prompts.
        clean: the modalities that came as clean latents, in place of `sync`.
        sync: which inputs stand in the loop as clean partners: True or None for those that run in time where
            an output attends to them, False for none, or their names.
        num_samples: sets of outputs.
        candidates: 1; a composed model has no towers by which candidates could be judged.
        auxiliary_caption: whether the caption that the model's `auxiliary_caption` names may be drawn.
        lengths: "agree": sounds and clips that are made together last equally long where nobody gave both;
            "free": each lasts as long as its model makes it.
        sizes: sizes by their names (`codi.types.SIZES`); None for each model's own.
        control: nothing; branches for controls stand beside denoisers of codi.
        output_type: one of `codi.outputs.OUTPUT_TYPES`.
        classifier_guidance: as `codi.conditions.classifier.parse_classifier` takes it; None for none.
        upscale: how much larger pictures and clips are made (`codi.upscaling.Upscale.parse`); None for not at
            all.
        inputs: the first prompt of each modality, of which a part may be kept.
        regions: prompts for parts of what is made (`codi.regions`).
        **values: the settings in `GIVEN`, None for the model's own; and what outputs are given of themselves
            (`codi.edits`).

    Returns:
        The request, with a value for every setting.

    Raises:
        InputError: for anything that this model cannot do, or nobody can.
    """
    edits = Edits.from_arguments(inputs=inputs, **{name: values.pop(name, None) for name in EDITS})
    settings.check_names("a request", values, GIVEN)
    if control:
        raise InputError("a composed model takes no controls: expected none, or a model of codi's")
    wanted = _check_outputs(able, outputs)
    _check_taken(able, (*given, *negatives))
    _check_form(num_samples, candidates, output_type)
    _check_negatives_are_words(negatives)
    # What is kept as a whole is there already: the others are made as beside an input.
    open_outputs = [m for m in wanted if m not in edits.whole]
    partners = [m for m in _partners(able, given, open_outputs, sync, clean) if m not in edits.whole]
    _check_edited(able, wanted, edits)
    _check_used(able, given, [*partners, *edits.by_output])
    guidance = _guidance(able, wanted, values)
    if negatives:
        _check_negatives_act(able, wanted, guidance)
    _check_guiders(able, guidance)
    parts = regional.read(regions)
    _check_regions(able, parts)
    caption = _caption(able.defaults, open_outputs) if auxiliary_caption else None
    classifier = parse_classifier(
        classifier_guidance,
        [m for m in open_outputs if m != caption],
        encoders=able.readable,
        others=[*partners, *edits.whole],
        prompted=bool(given),
    )
    found, specs = settle_sizes(able.models, dict(sizes or {}), wanted, partners, lengths)
    larger = Upscale.parse(upscale)
    if larger is not None:
        larger.check(wanted, able.upscalers, specs, output_type)
    return ComposedRequest(
        outputs=tuple(wanted),
        partners=tuple(partners),
        sync=sync if sync is None or isinstance(sync, bool) else [m.value for m in partners],
        num_samples=num_samples,
        num_inference_steps=_steps(able, wanted, values.get("num_inference_steps")),
        guidance=guidance,
        classifier=classifier,
        start_offset=settings.start_offsets(wanted, values.get("start_offset"), able.defaults),
        sizes=found,
        asked={name: value for name, value in (sizes or {}).items() if value is not None},
        specs=specs,
        lengths=lengths,
        output_type=output_type,
        auxiliary_caption=caption is not None,
        edits=edits.settled(wanted, specs),
        regions=regional.settle(parts, open_outputs, specs),
        upscale=larger,
    )


def _check_outputs(able: Abilities, outputs: Sequence[str | Modality] | str) -> list[Modality]:
    """Return what is to be made. Raises `InputError` for what this model does not make."""
    wanted = settings.parse_outputs(outputs)
    if not wanted:
        raise InputError(f"outputs names nothing to make: expected some of {listed(able.makes)}")
    for modality in wanted:
        if modality not in able.makes:
            raise InputError(f"this model cannot make {modality}: it makes {listed(able.makes)}")
    return wanted


def _check_taken(able: Abilities, prompts: Collection[Modality]) -> None:
    """Raise `InputError` for prompts of a modality that this model does not take."""
    for modality in prompts:
        if modality not in able.takes:
            raise InputError(
                f"this model takes no {modality} prompt: it takes {listed(able.takes)}; prompts of other "
                "modalities need a text model (codi compose --text) and trained prompt translators "
                "(docs/compose.md)"
            )


def _check_form(num_samples: int, candidates: int, output_type: str) -> None:
    """Raise `InputError` for a number of samples, or a form of the output, that cannot be."""
    settings.check_count("num_samples", num_samples, 1)
    settings.check_count("candidates", candidates, 1)
    if candidates > 1:
        raise InputError("candidates cannot be judged by a composed model: expected 1")
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}")


def _check_negatives_are_words(negatives: Collection[Modality]) -> None:
    """Raise `InputError` for negative prompts that are no sentences."""
    for modality in negatives:
        if not kind_of(modality).in_words:
            raise InputError(f"a composed model takes no negative {modality} prompt: expected negative_text")


def _check_edited(able: Abilities, outputs: Sequence[Modality], edits: Edits) -> None:
    """Raise `InputError` where an output of the text model is given anything of itself."""
    for modality in edits.by_output:
        if modality in outputs and modality not in able.models:
            raise InputError(
                f"{modality} is made by the text model, beside the composed ones: expected a start or a part "
                f"to keep for {listed(able.models)} alone"
            )


def _check_used(able: Abilities, given: Collection[Modality], taken: Collection[Modality]) -> None:
    """Raise `InputError` for a prompt that neither is read nor taken as a partner or a source."""
    for modality in given:
        if modality not in (*able.reads, *taken) and not kind_of(modality).in_words:
            raise InputError(
                f"nothing would come of the {modality} that was given: expected outputs that attend to it in "
                "time, or a model with prompt translators (docs/compose.md)"
            )


def _guidance(
    able: Abilities, outputs: Sequence[Modality], values: Mapping[str, Any]
) -> dict[Modality, Guidance]:
    """Return each output's guidance: as asked, by the model's defaults, or its own pipeline's."""
    own = {m.value: able.models[m].guidance_scale() for m in outputs if m in able.models}
    scales = own | _by_output(able.defaults.get("guidance_scale"), outputs)
    return settings.guidance(outputs, values, {**able.defaults, "guidance_scale": scales})


def _check_negatives_act(
    able: Abilities, outputs: Sequence[Modality], guidance: Mapping[Modality, Guidance]
) -> None:
    """Raise `InputError` where negative prompts would change nothing."""
    if not any(m in able.models and guidance[m].scales[PROMPT.name] > 1 for m in outputs):
        raise InputError(
            "negative prompts act through guidance, which is 1.0 (off) for all outputs: expected a "
            "guidance_scale such as 3"
        )
    for modality in outputs:
        if modality in able.models and not able.models[modality].family.guided:
            raise InputError(
                f"{able.models[modality].name} has no branch without a prompt: expected no negative prompt "
                f"where {modality} is made"
            )


def _caption(defaults: Mapping[str, Any], outputs: Sequence[Modality]) -> Modality | None:
    """Return the caption that a model draws first: for several outputs, of which it may be one."""
    name = defaults.get("auxiliary_caption")
    return Modality.parse(name) if name and len(outputs) > 1 else None


def _check_regions(able: Abilities, regions: Sequence[Region]) -> None:
    """Raise `InputError` for a region with a prompt that this model does not read."""
    for modality in {m: None for region in regions for m in region.items}:
        if modality not in able.reads and not kind_of(modality).in_words:
            raise InputError(
                f"a region has a prompt of the kind {modality}, which this model does not read: expected "
                "words"
            )


def _check_guiders(able: Abilities, guidance: Mapping[Modality, Guidance]) -> None:
    """Raise `InputError` for a guider that cannot act on the published model that makes an output."""
    made = {m: guided for m, guided in guidance.items() if m in able.models}
    schedulers = {m: able.models[m].pipeline.scheduler for m in made}
    predictions = {m: able.models[m].levels.prediction_type for m in made}
    settings.check_guiders(made, schedulers, predictions, dict.fromkeys(made, 0))


def _by_output(value: Any, outputs: Sequence[Modality]) -> dict[str, Any]:
    """Return a setting, one value or {output: value}, by the names of the outputs."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {Modality.parse(name).value: number for name, number in value.items()}
    return {m.value: value for m in outputs}


def _steps(able: Abilities, outputs: Sequence[Modality], given: Any) -> dict[Modality, int]:
    """Return the number of steps of each output."""
    asked = _by_output(given, outputs)
    for name in asked:
        if Modality.parse(name) not in outputs:
            raise InputError(
                f"num_inference_steps names {name}, which is no output: expected some of {listed(outputs)}"
            )
    own = _by_output(able.defaults.get("num_inference_steps"), outputs)
    found: dict[Modality, int] = {}
    for modality in outputs:
        count: Any = asked.get(modality.value, own.get(modality.value))
        if count is None and modality in able.models:
            count = able.models[modality].num_inference_steps()
        if count is None:
            count = settings.DEFAULTS["num_inference_steps"]
        settings.check_count(f"num_inference_steps of {modality}", count, 1, settings.MOST_STEPS)
        found[modality] = count
    return found


def _partners(
    able: Abilities,
    given: Collection[Modality],
    outputs: Sequence[Modality],
    sync: Sync,
    clean: Collection[Modality] | None,
) -> list[Modality]:
    """Return the inputs that stand in the loop as clean partners."""
    if clean is not None:
        return _clean_partners(able, outputs, sync, clean)
    heard: set[Modality] = set()
    for output in outputs:
        heard.update(able.attends_to.get(output, ()))
    fit = [m for m in given if m in able.models and m in heard and m not in outputs]
    if sync is not None and not isinstance(sync, bool):
        return _named_partners(given, fit, sync)
    timed = {m for m, model in able.models.items() if model.family.rate is not None}
    if sync is False or not timed & set(outputs):
        return []
    return [m for m in fit if m in timed]


def _clean_partners(
    able: Abilities, outputs: Sequence[Modality], sync: Sync, clean: Collection[Modality]
) -> list[Modality]:
    """Return the partners that came as clean latents. Raises `InputError` for what cannot be one."""
    if sync is not None:
        raise InputError("sync and partner_latents were both given: expected one of them")
    for modality in clean:
        if modality in outputs or modality not in able.models:
            raise InputError(
                f"partner_latents names {modality}: expected a modality that one of the models makes "
                "and that is no output"
            )
    return list(clean)


def _named_partners(given: Collection[Modality], fit: Collection[Modality], sync: Any) -> list[Modality]:
    """Return the partners that `sync` names. Raises `InputError` for what is not given, or does not fit."""
    named = settings.parse_outputs(sync)
    for modality in named:
        if modality not in given:
            raise InputError(f"sync names {modality}, which is no input: expected some of {listed(given)}")
        if modality not in fit:
            raise InputError(
                f"{modality} cannot be held in step: expected an input that is no output, and joint "
                "adapters that were trained for it"
            )
    return named
