"""Check what is asked of a composed model, and put each model's own values in place of what was left out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codi import settings
from codi.compose.foreign import ForeignModel
from codi.conditions import CONDITIONS, PROMPT
from codi.diffusion.guidance import Guidance
from codi.modalities import kind_of
from codi.outputs import OUTPUT_TYPES
from codi.types import SIZES, InputError, Modality, ModalitySpec, listed

Sync = bool | Iterable["str | Modality"] | None
GIVEN = (  # what a call may decide besides sizes
    "num_inference_steps",
    "guidance_scale",
    "sync_guidance_scale",
    "guidance_interval",
    "sync_guidance_interval",
    "guidance_rescale",
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
        start_offset: noise levels by which each output starts after the first.
        sizes: the sizes of each output by our names; what is left out is its model's own.
        asked: the sizes that the call named, by our names.
        specs: the geometry of each output and clean partner.
        lengths: "agree" or "free".
        output_type: one of `codi.outputs.OUTPUT_TYPES`.
        auxiliary_caption: whether a caption is drawn first, which all outputs are then made from.
        notes: what a person should know of it, one line each.
    """

    outputs: tuple[Modality, ...]
    partners: tuple[Modality, ...]
    sync: Any
    num_samples: int
    num_inference_steps: Mapping[Modality, int]
    guidance: Mapping[Modality, Guidance]
    start_offset: Mapping[Modality, float]
    sizes: Mapping[Modality, Mapping[str, Any]]
    asked: Mapping[str, Any]
    specs: Mapping[Modality, ModalitySpec]
    lengths: str
    output_type: str
    auxiliary_caption: bool = False
    notes: tuple[str, ...] = ()

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
        return found | {
            "guidance_rescale": shared.rescale,
            "start_offset": {m.value: offset for m, offset in self.start_offset.items()},
            "auxiliary_caption": self.auxiliary_caption,
            "sync": self.sync if isinstance(self.sync, bool) else self.sync is None or partners,
            "partners": partners,
            "candidates": 1,
            "lengths": self.lengths,
            **self.asked,
        }


def resolve(
    models: Mapping[Modality, ForeignModel],
    able: Collection[Modality],
    attended: Mapping[Modality, Collection[Modality]],
    takes: Collection[Modality],
    read: Collection[Modality],
    defaults: Mapping[str, Any],
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
    **values: Any,
) -> ComposedRequest:
    """Check what is asked of a composed model.

    Args:
        models: the foreign models.
        able: what can be made: theirs, and text where a model of codi makes it.
        attended: for each output, the modalities whose environments it attends to.
        takes: the modalities of prompts that it takes.
        read: those of them that are read as prompts; others can only stand in the loop.
        defaults: the composed model's own values of settings.
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
        **values: the settings in `GIVEN`; None for the model's own.

    Returns:
        The request, with a value for every setting.

    Raises:
        InputError: for anything that this model cannot do, or nobody can.
    """
    settings.check_names("a request", values, GIVEN)
    if control:
        raise InputError("a composed model takes no controls: expected none, or a model of codi's")
    wanted = settings.parse_outputs(outputs)
    if not wanted:
        raise InputError(f"outputs names nothing to make: expected some of {listed(able)}")
    for modality in wanted:
        if modality not in able:
            raise InputError(f"this model cannot make {modality}: it makes {listed(able)}")
    for modality in (*given, *negatives):
        if modality not in takes:
            raise InputError(
                f"this model takes no {modality} prompt: it takes {listed(takes)}; prompts of other "
                "modalities need a text model (codi compose --text) and trained prompt translators "
                "(docs/compose.md)"
            )
    settings.check_count("num_samples", num_samples, 1)
    settings.check_count("candidates", candidates, 1)
    if candidates > 1:
        raise InputError("candidates cannot be judged by a composed model: expected 1")
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}")
    for modality in negatives:
        if not kind_of(modality).in_words:
            raise InputError(f"a composed model takes no negative {modality} prompt: expected negative_text")
    partners = _partners(models, attended, given, wanted, sync, clean)
    for modality in given:
        if modality not in (*read, *partners) and not kind_of(modality).in_words:
            raise InputError(
                f"nothing would come of the {modality} that was given: expected outputs that attend to it in "
                "time, or a model with prompt translators (docs/compose.md)"
            )
    own_scales = {m.value: models[m].guidance_scale() for m in wanted if m in models}
    scales = {**own_scales, **_by_output(defaults.get("guidance_scale"), wanted)}
    own = {**defaults, "guidance_scale": scales}
    guidance = settings.guidance(wanted, values, own)
    unguided = [m for m in wanted if guidance[m].scales[PROMPT.name] <= 1 or m not in models]
    if negatives and len(unguided) == len(wanted):
        raise InputError(
            "negative prompts act through guidance, which is 1.0 (off) for all outputs: expected a "
            "guidance_scale such as 3"
        )
    for modality in wanted:
        if modality in models and not models[modality].family.guided and negatives:
            raise InputError(
                f"{models[modality].name} has no branch without a prompt: expected no negative prompt where "
                f"{modality} is made"
            )
    found, specs = _settle_sizes(models, dict(sizes or {}), wanted, partners, lengths)
    return ComposedRequest(
        outputs=tuple(wanted),
        partners=tuple(partners),
        sync=sync if sync is None or isinstance(sync, bool) else [m.value for m in partners],
        num_samples=num_samples,
        num_inference_steps=_steps(models, wanted, values.get("num_inference_steps"), defaults),
        guidance=guidance,
        start_offset=settings.start_offsets(wanted, values.get("start_offset"), defaults),
        sizes=found,
        asked={name: value for name, value in (sizes or {}).items() if value is not None},
        specs=specs,
        lengths=lengths,
        output_type=output_type,
        auxiliary_caption=bool(
            auxiliary_caption
            and defaults.get("auxiliary_caption")
            and len(wanted) > 1
            and Modality.parse(defaults["auxiliary_caption"]) not in wanted
        ),
    )


def _by_output(value: Any, outputs: Sequence[Modality]) -> dict[str, Any]:
    """Return a setting, one value or {output: value}, by the names of the outputs."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {Modality.parse(name).value: number for name, number in value.items()}
    return {m.value: value for m in outputs}


def _steps(
    models: Mapping[Modality, ForeignModel],
    outputs: Sequence[Modality],
    given: Any,
    defaults: Mapping[str, Any],
) -> dict[Modality, int]:
    """Return the number of steps of each output."""
    asked = _by_output(given, outputs)
    for name in asked:
        if Modality.parse(name) not in outputs:
            raise InputError(
                f"num_inference_steps names {name}, which is no output: expected some of {listed(outputs)}"
            )
    own = _by_output(defaults.get("num_inference_steps"), outputs)
    found: dict[Modality, int] = {}
    for modality in outputs:
        count: Any = asked.get(modality.value, own.get(modality.value))
        if count is None and modality in models:
            count = models[modality].num_inference_steps()
        if count is None:
            count = settings.DEFAULTS["num_inference_steps"]
        settings.check_count(f"num_inference_steps of {modality}", count, 1, settings.MOST_STEPS)
        found[modality] = count
    return found


def _partners(
    models: Mapping[Modality, ForeignModel],
    attended: Mapping[Modality, Collection[Modality]],
    given: Collection[Modality],
    outputs: Sequence[Modality],
    sync: Sync,
    clean: Collection[Modality] | None,
) -> list[Modality]:
    """Return the inputs that stand in the loop as clean partners."""
    if clean is not None:
        if sync is not None:
            raise InputError("sync and partner_latents were both given: expected one of them")
        for modality in clean:
            if modality in outputs or modality not in models:
                raise InputError(
                    f"partner_latents names {modality}: expected a modality that one of the models makes "
                    "and that is no output"
                )
        return list(clean)
    heard: set[Modality] = set()
    for output in outputs:
        heard.update(attended.get(output, ()))
    if sync is not None and not isinstance(sync, bool):
        named = settings.parse_outputs(sync)  # type: ignore[arg-type]
        for modality in named:
            if modality not in given:
                raise InputError(
                    f"sync names {modality}, which is no input: expected some of {listed(given)}"
                )
            if modality in outputs or modality not in heard or modality not in models:
                raise InputError(
                    f"{modality} cannot be held in step: expected an input that is no output, and joint "
                    "adapters that were trained for it"
                )
        return named
    if sync is False:
        return []
    timed = [m for m in given if m in models and models[m].family.rate is not None]
    if not any(m in models and models[m].family.rate is not None for m in outputs):
        return []
    return [m for m in timed if m in heard and m not in outputs]


def _settle_sizes(
    models: Mapping[Modality, ForeignModel],
    asked: Mapping[str, Any],
    outputs: Sequence[Modality],
    partners: Sequence[Modality],
    lengths: str,
) -> tuple[dict[Modality, dict[str, Any]], dict[Modality, ModalitySpec]]:
    """Return the sizes of each output by our names, and the geometry of outputs and clean partners."""
    if lengths not in ("agree", "free"):
        raise InputError(f"lengths is {lengths!r}: expected 'agree' or 'free'")
    named = {name: value for name, value in asked.items() if value is not None}
    settings.check_sizes(dict(asked), list(outputs))
    for name, value in named.items():
        if name not in SIZES:
            raise InputError(f"unknown size {name!r}: expected one of {', '.join(SIZES)}")
        whole = name not in ("fps", "audio_length_in_s")
        fine = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not fine or not 0 < value < 2**31:
            raise InputError(f"{name} is {value!r}: expected a {'whole ' if whole else ''}number above 0")
    made = [m for m in outputs if m in models]
    seconds = named.get("audio_length_in_s")
    found: dict[Modality, dict[str, Any]] = {}
    for modality in made:
        own = {name: value for name, value in named.items() if name in kind_of(modality).sizes}
        own.pop("audio_length_in_s", None)
        found[modality] = own if seconds is None else models[modality].lasting(seconds, own)
    timed = [m for m in made if models[m].family.rate is not None]
    if lengths == "agree" and seconds is None:
        # clips have the coarser grid: the others last as long as the one that is made of frames, or an input
        leading = [m for m in (*partners, *timed) if m in models and "num_frames" in models[m].family.sizes]
        if leading:
            lasts = models[leading[0]].spec(found.get(leading[0])).duration
            for modality in timed:
                if modality not in leading and lasts is not None:
                    found[modality] = models[modality].lasting(lasts, found[modality])
    specs = {m: models[m].spec(found[m]) for m in made}
    for modality in partners:
        specs[modality] = models[modality].spec()
    return found, specs


def prompts_of(texts: Any, outputs: Sequence[Modality]) -> dict[Modality, Any]:
    """Return the text prompts of each output, of one argument: words for all, or {output: words}.

    Args:
        texts: a sentence, a list of sentences that combine, or either of them by the name of an output.
        outputs: what is made.

    Returns:
        By output; one that is not named has none.

    Raises:
        InputError: for words for what is no output.
    """
    if texts is None:
        return {}
    if not isinstance(texts, Mapping):
        return dict.fromkeys(outputs, texts)
    found = {}
    for name, words in texts.items():
        modality = Modality.parse(name)
        if modality not in outputs:
            raise InputError(f"text names {name}, which is no output: expected some of {listed(outputs)}")
        found[modality] = words
    return found
