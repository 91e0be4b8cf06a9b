"""Resolve what is asked of a model into one value that is checked once and frozen.

The command line, job lines and Python all come here: `resolve` takes the settings of a call under their one
name each, puts the model's own values in place of what was left out, and raises `InputError` for anything
that cannot be done. What it returns decides everything that is made but the prompts and seeds, and is what a
record stores, so that a file can be made again from its own record.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codi import regions as regional
from codi import selection, settings
from codi.conditions import CONDITIONS
from codi.conditions.classifier import ClassifierGuidance, parse_classifier
from codi.controls import asked as controls
from codi.diffusion import Guidance
from codi.edits import NAMES as EDITS
from codi.edits import Edits
from codi.outputs import OUTPUT_TYPES
from codi.regions import Region, Regions
from codi.types import InputError, Modality, ModalitySpec, listed
from codi.upscaling import Upscale

if TYPE_CHECKING:
    from codi.models.codi import CoDiModel

Sync = bool | Iterable["str | Modality"] | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one call makes, and how.

    Attributes:
        outputs: what is made, in the order asked for.
        auxiliary: what is generated beside it, for the outputs to agree with, and not returned.
        auxiliary_caption: whether that was wanted.
        partners: the inputs that stand in the loop as clean partners.
        sync: what was asked about them: a truth value, or their names; None if nothing was.
        num_samples: sets of outputs.
        candidates: how many are drawn for each set, of which the best is kept.
        num_inference_steps: steps of every output.
        guidance: guidance of every output and auxiliary.
        classifier: classifier guidance beside that; None for none.
        start_offset: schedules after which each of them starts.
        lengths: "agree" or "free", for a clip and a sound that are made together.
        sizes: the sizes that were asked for or follow from those, by their names; None for the model's own.
        specs: the geometry of every modality at these sizes.
        prompted: whether there is a prompt.
        refusing: whether there is a negative prompt.
        output_type: one of `codi.outputs.OUTPUT_TYPES`.
        measures: what candidates are judged by (`codi.selection`).
        notes: what a person should know of it, one line each.
        edits: what outputs are given of themselves: a start, a part to keep, keyframes.
        regions: prompts for parts of what is made.
        upscale: how much larger pictures and clips are made than `specs` say; None for not at all.
        control: what steers each output beside its prompt.
    """

    outputs: tuple[Modality, ...]
    auxiliary: tuple[Modality, ...]
    auxiliary_caption: bool
    partners: tuple[Modality, ...]
    sync: Any
    num_samples: int
    candidates: int
    num_inference_steps: int
    guidance: Mapping[Modality, Guidance]
    classifier: ClassifierGuidance | None
    start_offset: Mapping[Modality, float]
    lengths: str
    sizes: Mapping[str, float | None]
    specs: Mapping[Modality, ModalitySpec]
    prompted: bool
    refusing: bool
    output_type: str
    measures: tuple[str, ...]
    notes: tuple[str, ...]
    edits: Edits = Edits()
    regions: Regions = Regions()
    upscale: Upscale | None = None
    control: tuple[controls.ControlInput, ...] = ()

    @property
    def made(self) -> tuple[Modality, ...]:
        """Everything that is generated, auxiliaries last."""
        return (*self.outputs, *self.auxiliary)

    @property
    def can_steer(self) -> bool:
        """Whether prompt guidance acts on anything at any step."""
        return settings.can_steer(self.guidance, self.num_inference_steps)

    def start_steps(self, steps: int) -> dict[Modality, int]:
        """Return the steps after which everything starts, of a scheduler with `steps` for each output."""
        asked = self.num_inference_steps
        found = {}
        for modality, part in self.start_offset.items():
            found[modality] = round(round(part * asked) * steps / asked)
        return found

    def rates(self, own: Mapping[Modality, ModalitySpec]) -> dict[Modality, float]:
        """Return the latent steps per second of what is made at another rate than the model's own."""
        rates = {}
        for modality in self.made:
            rate = self.specs[modality].latent_rate
            if rate is not None and rate != own[modality].latent_rate:
                rates[modality] = rate
        return rates

    def settings(self) -> dict[str, Any]:
        """Return all settings as a record stores them, with nothing left to anyone's default."""
        shared = next(iter(self.guidance.values()))
        found: dict[str, Any] = {"num_inference_steps": int(self.num_inference_steps)}
        for condition in CONDITIONS.values():
            if condition.scale is not None:
                scales = {m.value: g.scales[condition.name] for m, g in self.guidance.items()}
                found[condition.scale] = scales
            if condition.interval is not None:
                found[condition.interval] = list(shared.intervals[condition.name])
        offsets = {m.value: float(offset) for m, offset in self.start_offset.items()}
        partners = [m.value for m in self.partners]
        if self.classifier is not None:
            found["classifier_guidance"] = self.classifier.described()
        if self.upscale is not None:
            found["upscale"] = self.upscale.described()
        return found | {
            "guider": settings.guiders_of(self.guidance),
            "guidance_rescale": shared.rescale,
            "start_offset": offsets,
            "auxiliary_caption": bool(self.auxiliary_caption),
            "auxiliary": [m.value for m in self.auxiliary],
            "sync": self.sync if isinstance(self.sync, bool) else self.sync is None or partners,
            "partners": partners,
            "candidates": int(self.candidates),
            "lengths": self.lengths,
            **({"control": [each.described() for each in self.control]} if self.control else {}),
            **settings.sizes_of(self.outputs, self.specs),
            **self.edits.settings(),
        }


def resolve(
    model: "CoDiModel",
    defaults: Mapping[str, Any],
    *,
    given: Collection[Modality],
    outputs: Sequence[str | Modality] | str,
    negatives: Collection[Modality] = (),
    prompted: bool | None = None,
    refusing: bool | None = None,
    clean: Collection[Modality] | None = None,
    sync: Sync = None,
    auxiliary_caption: bool = True,
    num_samples: int = 1,
    candidates: int = 1,
    lengths: str = "agree",
    sizes: Mapping[str, float | None] | None = None,
    control: Any = None,
    able_controls: Collection[tuple[Modality, str]] = (),
    output_type: str = "pil",
    most_steps: int | None = None,
    classifier_guidance: Any = None,
    upscale: Any = None,
    inputs: Mapping[Modality, Any] | None = None,
    regions: Sequence[Region | Mapping[str, Any]] | None = None,
    **values: Any,
) -> Request:
    """Check what is asked of a model, and put its own values in place of what was left out.

    Args:
        model: the parts of the model by modality.
        defaults: its own values of the settings in `codi.settings.GIVEN`.
        given: the modalities of the prompts.
        outputs: what to make.
        negatives: the modalities of the negative prompts.
        prompted: whether there is a prompt in any form; by default whether `given` names one.
        refusing: whether there is a negative prompt in any form; by default whether `negatives` names one.
        clean: the modalities that came as clean latents, in place of `sync`.
        sync: which inputs stand in the loop as clean partners: True or None for those that run in time where
            an output does, False for none, or their names.
        auxiliary_caption: whether the model's auxiliary caption may be generated.
        num_samples: sets of outputs.
        candidates: how many are drawn for each set.
        lengths: "agree" or "free".
        sizes: sizes by their names (`codi.types.SIZES`); None for the model's own.
        control: what steers outputs beside their prompts (`codi.controls.asked.parse`).
        able_controls: the outputs and kinds of control for which the model has a branch.
        output_type: one of `codi.outputs.OUTPUT_TYPES`.
        most_steps: the most steps that the model's noise process has.
        classifier_guidance: as `codi.conditions.classifier.parse_classifier` takes it; None for none.
        upscale: how much larger pictures and clips are made (`codi.upscaling.Upscale.parse`); None for not at
            all.
        inputs: the first prompt of each modality, of which a part may be kept.
        regions: prompts for parts of what is made (`codi.regions`).
        **values: the settings in `codi.settings.GIVEN`, None for the model's own; and what outputs are given
            of themselves (`codi.edits`).

    Returns:
        The request, with a value for every setting.

    Raises:
        InputError: for anything that this model cannot do, or nobody can.
    """
    edits = Edits.from_arguments(inputs=inputs, **{name: values.pop(name, None) for name in EDITS})
    settings.check_names("a request", values, settings.GIVEN)
    wanted = settings.parse_outputs(outputs)
    if not wanted:
        raise InputError(f"outputs names nothing to make: expected some of {listed(Modality)}")
    # What is kept as a whole is there already: the others are made as beside an input.
    open_outputs = [m for m in wanted if m not in edits.whole]
    partners = find_partners(model, given, open_outputs, sync, clean)
    partners = [m for m in partners if m not in edits.whole]
    taken = [*partners, *edits.whole]
    auxiliary = find_auxiliary(model, defaults, open_outputs, taken) if auxiliary_caption else []
    steps = settings.steps(values, defaults)
    guidance = settings.guidance(wanted, values, defaults, auxiliary)
    offsets = settings.start_offsets(wanted, values.get("start_offset"), defaults, auxiliary)
    parts = regional.read(regions)
    prompting = dict.fromkeys([*given, *negatives, *(m for part in parts for m in part.items)])
    model.check(list(prompting), wanted, partners)
    settings.check_count("num_samples", num_samples, 1)
    settings.check_count("candidates", candidates, 1)
    settings.check_count("num_inference_steps", steps, 1, most_steps)
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}")
    found, specs, notes = _settle_sizes(model, sizes or {}, [*wanted, *auxiliary], lengths)
    edits = edits.settled(wanted, specs)
    if specs != model.specs and candidates > 1:
        raise InputError(
            "candidates are judged at the model's own sizes: expected either candidates or another size, not "
            "both"
        )
    larger = Upscale.parse(upscale)
    if larger is not None:
        larger.check(wanted, model.upscalers, specs, output_type)
    found_regions = regional.settle(parts, open_outputs, specs)
    prompted = bool(parts) or (bool(given) if prompted is None else prompted)
    classifier = parse_classifier(
        classifier_guidance,
        open_outputs,
        encoders=model.noisy_latent_encoders,
        others=[*auxiliary, *taken],
        prompted=prompted,
    )
    refusing = bool(negatives) if refusing is None else refusing
    if refusing and not settings.can_steer({m: guidance[m] for m in wanted}, steps):
        raise InputError(
            "negative prompts act through guidance, which is 1.0 (off) throughout: expected a guidance_scale "
            "such as 3"
        )
    measures = selection.available(model.towers, wanted, partners, prompted) if candidates > 1 else []
    return Request(
        outputs=tuple(wanted),
        auxiliary=tuple(auxiliary),
        auxiliary_caption=auxiliary_caption,
        partners=tuple(partners),
        sync=sync if sync is None or isinstance(sync, bool) else [m.value for m in partners],
        num_samples=num_samples,
        candidates=candidates,
        num_inference_steps=steps,
        guidance=guidance,
        classifier=classifier,
        start_offset=offsets,
        lengths=lengths,
        sizes=found,
        specs=specs,
        prompted=prompted,
        refusing=refusing,
        output_type=output_type,
        measures=tuple(measures),
        notes=tuple(notes),
        edits=edits,
        regions=found_regions,
        upscale=larger,
        control=controls.resolve(controls.parse(control), open_outputs, specs, able_controls),
    )


def _settle_sizes(
    model: "CoDiModel", asked: Mapping[str, float | None], made: Sequence[Modality], lengths: str
) -> tuple[dict[str, float | None], dict[Modality, ModalitySpec], list[str]]:
    """Return the sizes of what is made, its geometry, and what a person should know of them."""
    settings.check_sizes(asked, made)
    found, notes = model.settle_sizes(asked, made, lengths)
    specs = model.sized(**found)
    untrained = model.untrained(specs, made)
    return found, specs, [*notes, untrained] if untrained else notes


def find_partners(
    model: "CoDiModel",
    given: Collection[Modality],
    outputs: Sequence[Modality],
    sync: Sync = None,
    clean: Collection[Modality] | None = None,
) -> list[Modality]:
    """Return which inputs stand in the loop as clean partners.

    Args:
        model: the parts of the model by modality.
        given: the modalities of the inputs.
        outputs: what is made.
        sync: True or None for the inputs that run in time where an output does and attends to them, False for
            none, or the names of inputs.
        clean: the modalities that came as clean latents; they are the partners.

    Returns:
        The partners, in the order in which they were given or named.

    Raises:
        InputError: if `sync` names what is no input, or comes beside `clean`.
    """
    if clean is not None:
        if sync is not None:
            raise InputError("sync and partner_latents were both given: expected one of them")
        return list(clean)
    if sync is not None and not isinstance(sync, bool):
        named = settings.parse_outputs(sync)  # type: ignore[arg-type]
        for modality in named:
            if modality not in given:
                raise InputError(
                    f"sync names {modality}, which is no input: expected some of {listed(given)}"
                )
        return named
    timed = set()
    for modality in model.autoencoders:
        if modality in model.specs and model.specs[modality].latent_rate is not None:
            timed.add(modality)
    if sync is False or not timed.intersection(outputs):
        return []
    attended = timed & model.attended(outputs)
    return [m for m in given if m in attended and m not in outputs]


def find_auxiliary(
    model: "CoDiModel",
    defaults: Mapping[str, Any],
    outputs: Sequence[Modality],
    partners: Sequence[Modality] = (),
) -> list[Modality]:
    """Return the model's auxiliary caption where several outputs lack it.

    Outputs are what they would be if it were one of them, to the bit, but that nobody can give it a scale or
    a start offset of its own and that it takes no part in the choice among candidates.

    Args:
        model: the parts of the model by modality.
        defaults: its own values of settings.
        outputs: what is asked for.
        partners: the inputs that are clean partners.

    Returns:
        One modality, or nothing where it cannot be made or attended to.
    """
    own: dict[str, Any] = {**settings.DEFAULTS, **defaults}
    name = own["auxiliary_caption"]
    if name is None or len(outputs) < 2 or name in (*outputs, *partners):
        return []
    modality = Modality.parse(name)
    reaching = model.attended(outputs)
    if own["partner_estimate_weight"] > 0:
        reaching = reaching | model.estimating(outputs)
    can_be_made = modality in model.denoisers and modality in model.specs
    return [modality] if modality in reaching and can_be_made else []
