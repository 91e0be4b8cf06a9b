"""Check the numbers and names of a pipeline call, and give their defaults.

Anything that a setting may not be raises `InputError`. Letters: B batch.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch

from codi.border import check_interval, check_number
from codi.conditions import CONDITIONS, PROMPT
from codi.diffusion.guidance import Guidance
from codi.diffusion.guiders import Guider, parse_guider
from codi.diffusion.schedulers import is_first_order
from codi.modalities import kind_of, sized
from codi.types import SIZES, InputError, Modality, ModalitySpec, listed

PerOutput = float | Mapping[str, float]
SCALES = ("guidance_scale", "sync_guidance_scale")
NULL_PROMPTS = ("zeros", "empty")
MOST_STEPS = 100_000  # of any noise process
MAX_START_OFFSET = 3  # in schedules: the last of four outputs starts when three are done
DEFAULTS = {
    "num_inference_steps": 25,
    "guidance_scale": 3.0,
    "sync_guidance_scale": 1.0,
    "guidance_interval": (0.0, 1.0),
    "sync_guidance_interval": (0.2, 0.8),
    "guidance_rescale": 0.0,
    # the variant of guidance, a name or {"name": "apg", "eta": 0.2}, for all or by output
    # (`codi.diffusion.guiders`)
    "guider": "cfg",
    "timestep_shift": 1.0,  # above 1 more of the steps are spent at high noise
    # a modality, such as "text", whose noisy-latent encoder reads prompts as means of captions
    # (`codi.joint.caption_prior`)
    "caption_prior": None,
    "normalise_prompts": False,  # whether interpolated prompts are brought back to unit length
    # how much partner estimates count (`codi.joint.noisy_latent_encoder`,
    # `codi.joint.partner_estimates.fuse_prompt`); 0 is off
    "partner_estimate_weight": 1.0,
    # schedules after which an output starts, one number for all or {output: 0.5} (`codi.joint.sampler`)
    "start_offset": 0.0,
    # a modality, such as "text", that is drawn beside several outputs that lack it, so that they agree
    "auxiliary_caption": None,
    # what stands for no prompt: "zeros", or "empty" for the tokens of an empty sentence, grey and silence
    "null_prompt": "zeros",
}

# what a model decides, whatever a call says
FIXED = (
    "timestep_shift",
    "caption_prior",
    "normalise_prompts",
    "partner_estimate_weight",
    "auxiliary_caption",
    "null_prompt",
)
GIVEN = tuple(name for name in DEFAULTS if name not in FIXED)  # what a call may decide


def parse_outputs(names: Sequence[str | Modality] | str) -> list[Modality]:
    """Return names as modalities, each once; none for None."""
    if names is None:
        return []
    names = [names] if isinstance(names, str) else names
    return list(dict.fromkeys(map(Modality.parse, names)))


def steps(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> int:
    """Return the number of steps: the call's, else the model's own, else ours."""
    value = _first("num_inference_steps", [given, defaults, DEFAULTS])
    check_count("num_inference_steps", value, 1)
    return value


def guidance(
    outputs: Sequence[Modality],
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    auxiliary_caption: Sequence[Modality] = (),
) -> dict[Modality, Guidance]:
    """Return the guidance of every output and auxiliary.

    Args:
        outputs: what is asked for.
        given: the settings of the call, by the keys of `DEFAULTS`; None counts as left out. A scale is one
            number for all outputs or {output: scale}.
        defaults: the model's own, which take the place of what is left out; what they lack is in `DEFAULTS`.
            An output that a scale does not name falls back likewise.
        auxiliary_caption: what is generated beside the outputs. It has guidance too, but a scale cannot name
            it.

    Returns:
        The scales, intervals and rescaling of each.

    Raises:
        InputError: for a number that cannot be used, or a scale of what is no output.
    """
    layers = [given, defaults, DEFAULTS]
    for name in SCALES:
        _check_names(name, given.get(name), outputs)
    if _is_by_output(given.get("guider")):
        _check_names("guider", given["guider"], outputs)
    made = (*outputs, *auxiliary_caption)
    rescale = check_number("guidance_rescale", _first("guidance_rescale", layers))
    if rescale > 1:
        raise InputError(f"guidance_rescale is {rescale:g}: expected 0 to 1")
    guided = {condition.name: condition for condition in CONDITIONS.values() if condition.scale is not None}
    intervals = {}
    for name, condition in guided.items():
        if condition.interval:
            intervals[name] = check_interval(condition.interval, _first(condition.interval, layers))
    found = {}
    for modality in made:
        scales = {name: _scale(str(guided[name].scale), modality, layers) for name in guided}
        guider = _guider(modality, layers)
        if guider.own_scale is not None:
            _check_own_scale(modality, guider, given)
            scales[PROMPT.name] = guider.own_scale
        found[modality] = Guidance(scales=scales, intervals=intervals, rescale=rescale, guider=guider)
    return found


def rescaled(guidance: Mapping[Modality, Guidance], scale: Any) -> dict[Modality, Guidance]:
    """Return guidance with another `guidance_scale`, one number or {output: number}.

    As in diffusers, a scale of at most 1 switches it off. A guider that has a scale of its own becomes the
    plain one.
    """
    _check_names("guidance_scale", scale, list(guidance))
    changed = {}
    for modality, own in guidance.items():
        own = _without_own_scale(modality, own)
        layers = [{"guidance_scale": scale}, {"guidance_scale": own.scales[PROMPT.name]}]
        scales = {**own.scales, PROMPT.name: max(1.0, _scale("guidance_scale", modality, layers))}
        changed[modality] = replace(own, scales=scales)
    return changed


def shared_scale(guidance: Mapping[Modality, Guidance]) -> float | dict[Modality, float]:
    """Return the guidance scale of these outputs, as one number where all have the same."""
    scales = {m: g.scales[PROMPT.name] for m, g in guidance.items()}
    if len(set(scales.values())) == 1:
        return next(iter(scales.values()))
    return scales


def initial_noise(
    given: Any, outputs: Sequence[Modality], specs: Mapping[Modality, ModalitySpec], num_samples: int
) -> dict[Modality, torch.Tensor]:
    """Return the noise that outputs begin from, where it was given.

    Args:
        given: standard normal floats: {output: (1 or B, *latent_shape)}, one such tensor for one output, or
            None.
        outputs: what is made.
        specs: the geometry of every modality.
        num_samples: B.

    Returns:
        (B, *latent_shape), float32, for every output whose noise was given.

    Raises:
        InputError: for noise of another shape or kind, or for what is no output.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(outputs) != 1:
            raise InputError(
                f"latents is one {type(given).__name__} for {listed(outputs)}: expected a dict such as "
                f"{{'image': noise}}"
            )
        given = {outputs[0]: given}
    noise = {Modality.parse(name): value for name, value in given.items()}
    _check_names("latents", noise, outputs)
    for modality, value in noise.items():
        shape = specs[modality].latent_shape
        _check_noise(modality, value, shape, num_samples)
        noise[modality] = value.detach().float().expand(num_samples, *shape)
    return noise


def _check_noise(modality: Modality, value: Any, shape: tuple[int, ...], num_samples: int) -> None:
    """Raise `InputError` for noise of another shape, and for what is not finite."""
    rows = "1" if num_samples == 1 else f"1 or {num_samples}"
    expected = f"expected standard normal floats ({', '.join([rows, *map(str, shape)])})"
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise InputError(f"latents of {modality} is a {type(value).__name__}: {expected}")
    if tuple(value.shape[1:]) != shape or len(value) not in (1, num_samples):
        raise InputError(f"latents of {modality} is {tuple(value.shape)}: {expected}")
    if not value.isfinite().all():
        raise InputError(f"latents of {modality} has values that are NaN or infinite: {expected}")


def start_offsets(
    outputs: Sequence[Modality],
    given: Any,
    defaults: Mapping[str, Any],
    auxiliary: Sequence[Modality] = (),
) -> dict[Modality, float]:
    """Return the schedules after which each output, and each auxiliary, starts.

    Args:
        outputs: what is asked for.
        given: what the call says: one number for all, {output: number}, or None.
        defaults: the model's own values, which take the place of what is left out.
        auxiliary: what is generated beside the outputs; the call cannot name it.

    Returns:
        0 to `MAX_START_OFFSET` for each.

    Raises:
        InputError: for a number that cannot be used, or one for what is no output.
    """
    layers = [{"start_offset": given}, defaults, DEFAULTS]
    _check_names("start_offset", given, outputs)
    offsets = {m: _scale("start_offset", m, layers) for m in (*outputs, *auxiliary)}
    for modality, offset in offsets.items():
        if offset > MAX_START_OFFSET:
            raise InputError(
                f"start_offset of {modality} is {offset:g}: expected 0 to {MAX_START_OFFSET}, the schedules "
                "after which it starts"
            )
    return offsets


def can_steer(guidance: Mapping[Modality, Guidance], num_steps: int) -> bool:
    """Return whether prompt guidance acts on any output at any step.

    Where it does not, a negative prompt could do nothing.
    """
    for guided in guidance.values():
        for index in range(num_steps):
            if guided.acts(PROMPT.name, index / num_steps):
                return True
    return False


def _without_own_scale(modality: Modality, own: Guidance) -> Guidance:
    """Return guidance whose guider has no scale of its own, so that another scale can act."""
    if own.guider.own_scale is None:
        return own
    return replace(own, guider=Guider(interval=own.guider.interval, rescale=own.guider.rescale))


def _is_by_output(value: Any) -> bool:
    """Return whether a guider is given by output, and not one for all."""
    return isinstance(value, Mapping) and "name" not in value


def _guider(output: Modality, layers: Sequence[Mapping[str, Any]]) -> Guider:
    """Return the guider of the first layer that says something of `output`."""
    for layer in layers:
        value = layer.get("guider")
        if _is_by_output(value):
            value = next((each for key, each in value.items() if Modality.parse(key) is output), None)
        if value is not None:
            return parse_guider(value)
    raise AssertionError("DEFAULTS lacks guider")


def _check_own_scale(output: Modality, guider: Guider, given: Mapping[str, Any]) -> None:
    """Raise `InputError` for a guidance scale that could not act beside the guider's own."""
    if given.get("guidance_scale") is None:
        return
    scale = _scale("guidance_scale", output, [given, {"guidance_scale": guider.own_scale}])
    if scale != guider.own_scale:
        raise InputError(
            f"guidance_scale of {output} is {scale:g}, and the guider {guider.name} has a scale of its own "
            f"({guider.own_scale:g}): expected the guider's strength alone"
        )


def check_guiders(
    guidance: Mapping[Modality, Guidance],
    schedulers: Mapping[Modality, Any],
    predictions: Mapping[Modality, str],
    transformers: Mapping[Modality, int],
) -> None:
    """Check that the guider of each output can act on what makes it.

    Args:
        guidance: the guidance of everything that is made.
        schedulers: the scheduler of each.
        predictions: what the network of each predicts, as schedulers name it.
        transformers: how many blocks of the denoiser of each have a transformer that can be weakened.

    Raises:
        InputError: for the first guider that cannot.
    """
    for modality, guided in guidance.items():
        guider = guided.guider
        if guider.first_order and not is_first_order(schedulers[modality]):
            raise InputError(
                f"the guider {guider.name} is stated for steps of first order, and "
                f"{type(schedulers[modality]).__name__} takes others for {modality}: expected the scheduler "
                "ddim or euler"
            )
        guider.check_flow(modality.value, predictions[modality])
        guider.check_blocks(modality.value, transformers[modality])


def guiders_of(guidance: Mapping[Modality, Guidance]) -> dict[str, dict[str, Any]]:
    """Return the guider of each output, as records have them."""
    return {m.value: g.guider.described() for m, g in guidance.items()}


def _first(name: str, layers: Sequence[Mapping[str, Any]]) -> Any:
    return next(layer[name] for layer in layers if layer.get(name) is not None)


def _scale(name: str, output: Modality, layers: Sequence[Mapping[str, Any]]) -> float:
    """Return the number of the first layer that says something of `output`."""
    for layer in layers:
        value = layer.get(name)
        if isinstance(value, Mapping):
            value = next((number for key, number in value.items() if Modality.parse(key) is output), None)
        if value is not None:
            return check_number(f"{name} of {output}", value)
    raise AssertionError(f"DEFAULTS lacks {name}")


def _check_names(name: str, value: Any, outputs: Sequence[Modality]) -> None:
    """Raise `InputError` for a scale of what is not made, which would be ignored silently."""
    for key in value if isinstance(value, Mapping) else ():
        if Modality.parse(key) not in outputs:
            raise InputError(f"{name} names {key}, which is no output: expected some of {listed(outputs)}")


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Check a model's own values for what a call leaves out, and for what no call can change.

    Args:
        defaults: the values by the keys of `DEFAULTS`; None counts as left out.

    Raises:
        InputError: for a name that is unknown, and for a value that no call could have.
    """
    if unknown := sorted(set(defaults) - set(DEFAULTS)):
        raise InputError(f"unknown default {unknown[0]!r:.80}: expected one of {', '.join(DEFAULTS)}")
    for name, value in defaults.items():
        if value is not None:
            try:
                _check_default(name, value)
            except InputError as error:
                raise InputError(f"default {error}") from None


def _check_default(name: str, value: Any) -> None:
    """Raise `InputError`, whose text begins with the name, unless a setting can have that value."""
    expected = None
    if name == "num_inference_steps":
        check_count(name, value, 1, MOST_STEPS)
    elif name in (*SCALES, "start_offset"):
        numbers = value if isinstance(value, Mapping) else {"all outputs": value}
        for output, number in numbers.items():
            of = output if output == "all outputs" else _parsed(name, output)
            if check_number(f"{name} of {of}", number) > MAX_START_OFFSET and name == "start_offset":
                expected = f"0 to {MAX_START_OFFSET}"
    elif name in ("guidance_interval", "sync_guidance_interval"):
        check_interval(name, value)
    elif name in ("guidance_rescale", "timestep_shift", "partner_estimate_weight"):
        number = check_number(name, value)
        if name == "guidance_rescale" and number > 1:
            expected = "0 to 1"
        if name == "timestep_shift" and number == 0:
            expected = "a number above 0"
    elif name in ("auxiliary_caption", "caption_prior"):
        if value not in list(Modality):
            raise InputError(f"{name} is {value!r}: expected {listed(Modality)}, or none")
    elif name == "guider":
        guiders = value if _is_by_output(value) else {"all outputs": value}
        for output, guider in guiders.items():
            if output != "all outputs":
                _parsed(name, output)
            parse_guider(guider)
    elif name == "normalise_prompts" and not isinstance(value, bool):
        expected = "true or false"
    elif name == "null_prompt" and value not in NULL_PROMPTS:
        expected = " or ".join(NULL_PROMPTS)
    if expected is not None:
        raise InputError(f"{name} is {value!r}: expected {expected}")


def _parsed(name: str, output: str) -> Modality:
    """Return the modality that a scale names; raise `InputError` for what is none."""
    try:
        return Modality.parse(output)
    except InputError:
        raise InputError(f"{name} names {output!r}: expected some of {listed(Modality)}") from None


def check_names(option: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise `InputError` for the first of the names that is not known."""
    for name in names:
        if name not in known:
            raise InputError(f"{option} names {name!r:.80}: expected some of {', '.join(known)}")


def check_count(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise `InputError` for what is no whole number from `least` to `most`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or value < least
        or (most is not None and value > most)
    ):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {value!r}: expected a whole number {bounds}")


def check_sizes(sizes: Mapping[str, float | None], outputs: Sequence[Modality]) -> None:
    """Raise `InputError` for a size of what is not made, which would be ignored silently."""
    for name, value in sizes.items():
        if value is not None and set(outputs).isdisjoint(sized(name)):
            able = " or ".join(sized(name))
            raise InputError(
                f"{name} is {value!r}, but no {able} is made: expected {able} among the outputs, or no {name}"
            )


def pick_seeds(
    num_samples: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | list[torch.Generator] | None,
) -> list[int]:
    """Return one seed per sample, from whichever source was given.

    Args:
        num_samples: how many seeds there are to be.
        seed: that of the first sample, from which the others count on, or one for each; None draws them.
        generator: draws the seeds in place of `seed`: one for all samples, or one for each.

    Returns:
        Whole numbers from 0.

    Raises:
        InputError: for both sources, for another number of seeds or generators, or for what is no seed.
    """
    if seed is not None and generator is not None:
        raise InputError("seed and generator were both given: expected one of them")
    if generator is not None:
        generators = generator if isinstance(generator, list) else [generator] * num_samples
        drawn = [int(torch.randint(2**31, (1,), generator=g, device=g.device)) for g in generators]
        return _as_many(drawn, num_samples, "generators")
    if seed is None:
        return [secrets.randbits(31) + k for k in range(num_samples)]
    seeds = list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
    for each in seeds:
        if isinstance(each, bool) or not isinstance(each, Integral) or not 0 <= each < 2**63:
            raise InputError(f"seed is {seed!r}: expected a whole number from 0, or a list of them")
    if isinstance(seed, Integral):
        return [int(seed) + k for k in range(num_samples)]
    return _as_many(seeds, num_samples, "seeds")


def _as_many(values: list[int], num_samples: int, what: str) -> list[int]:
    """Return the values, or raise `InputError` if there are not as many as samples."""
    if len(values) != num_samples:
        raise InputError(f"{len(values)} {what} for num_samples={num_samples}: expected as many")
    return values


def sizes_of(outputs: Sequence[Modality], specs: Mapping[Modality, ModalitySpec]) -> dict[str, float]:
    """Return the sizes of what was made, by the names of a pipeline's arguments."""
    found: dict[str, float] = {}
    for modality in Modality:
        if modality in outputs and modality in specs:
            found |= kind_of(modality).sizes_of(specs[modality])
    return {name: found[name] for name in SIZES if name in found}
