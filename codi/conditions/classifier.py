"""Classifier guidance: gradients of a function of what is being made move the answers of the denoisers.

Of a function f of an estimate y of the clean latents, every step moves

    x_0 <- x_0 + s sigma^2 / (alpha^2 + sigma^2) grad_y f

and the answer with it. With f = log p(c | x_0) that is Bayes' rule at first order for latents of variance 1,
whose variance given x_t is at most the factor before the gradient. Classifiers of noisy latents (Dhariwal and
Nichol, arXiv 2105.05233, section 4) are read at x_t; the exact rule has sigma^2 / alpha there, and the factor
here is alpha times that, because the gradients of a network do not vanish with alpha as those of the true
classifier do. Functions of clean latents are read at the x_0 that the answer implies (universal guidance,
arXiv 2302.07121), and the gradient stops there: nothing is stored of the denoiser.

Letters: B batch, L prompt tokens, D width of the prompt space.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from codi.border import check_interval, check_number
from codi.conditions.base import Condition, JointStep, LoopCondition, Mechanism, NoisyLatent, ReadToken
from codi.diffusion.guidance import WHOLE_SCHEDULE, Branch
from codi.types import InputError, Latents, Modality, listed

Tokens = Mapping[Modality, Tensor]
Function = Callable[[Latents, Tokens], Tensor]
DEFAULT_SCALE = 0.15  # of the built-in functions; docs/guidance.md has the table
OPTIONS = ("scale", "interval", "outputs")


@dataclass(frozen=True, kw_only=True)
class ClassifierCondition(Condition):
    """What gradients lead towards. Denoisers are given nothing of it, and no branch drops it."""

    def batch(self, branches: Sequence[Branch], values: Sequence[Any]) -> None:
        """Return None: a denoiser is given nothing."""


CLASSIFIER = ClassifierCondition(
    name="classifier", mechanism=Mechanism.GRADIENT, null="no gradient: answers stay as they are"
)


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidance:
    """Classifier guidance of one call.

    Attributes:
        function: the name of a built-in function (`BUILT_IN`); or any function of the estimated clean latents
            {modality: (B, ...)} and the prompt tokens {modality: (B, L, D)}, which returns (B,): the higher,
            the better.
        outputs: what is steered; a function of clean latents waits until all of these have started.
        scale: s, one number for each of them.
        interval: the fractions [from, to) of an output's own steps in which it is steered.
        readable: what built-in functions can read: the modalities that have a noisy-latent encoder.
    """

    function: str | Function
    outputs: tuple[Modality, ...]
    scale: Mapping[Modality, float]
    interval: tuple[float, float] = WHOLE_SCHEDULE
    readable: frozenset[Modality] = frozenset()

    @property
    def name(self) -> str:
        """The function's name, as records have it."""
        if isinstance(self.function, str):
            return self.function
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def reads(self) -> frozenset[Modality]:
        """The modalities whose noisy-latent encoders are used; none by a function of clean latents."""
        return self.readable if isinstance(self.function, str) else frozenset()

    def described(self) -> dict[str, Any]:
        """Return what a record says of it; a function that came from Python is only named."""
        built_in = isinstance(self.function, str)
        return {
            "name": self.name if built_in else None,
            "from": None if built_in else f"memory ({self.name:.60})",
            "outputs": [m.value for m in self.outputs],
            "scale": {m.value: self.scale[m] for m in self.outputs},
            "interval": list(self.interval),
        }

    def steers(self, modality: Modality, progress: float) -> bool:
        """Return whether an output is steered at this progress of its own schedule."""
        first, last = self.interval
        return modality in self.outputs and self.scale[modality] != 0 and first <= progress < last

    def conditions(self) -> dict[Modality, LoopCondition]:
        """Return what acts in one generation, by the outputs that it steers: one and the same for all."""
        return dict.fromkeys(self.outputs, ClassifierGradient(guidance=self))


@dataclass(kw_only=True)
class ClassifierGradient(LoopCondition):
    """Classifier guidance in one generation, for all outputs that it steers together.

    Attributes:
        guidance: what the call asked for.
    """

    name: ClassVar[str] = CLASSIFIER.name
    guidance: ClassifierGuidance
    _latest: Latents = field(default_factory=dict, init=False, repr=False)  # what outputs seemed to become

    def answered(self, answers: Latents, step: JointStep) -> Latents:
        """Return the answers of one step, moved towards what the function is higher for.

        Args:
            answers: (B, ...) the guided answer of every output that takes a step.
            step: the step.

        Returns:
            (B, ...) for every answer; those that are not steered are the same objects.
        """
        steered = [m for m, noisy in step.active.items() if self.guidance.steers(m, noisy.progress)]
        if not steered:
            return answers
        with torch.enable_grad():
            slopes = self._slopes(steered, answers, step)
        moved = dict(answers)
        for modality, slope in slopes.items():
            noisy = step.active[modality]
            delta = self.guidance.scale[modality] * noisy.variance() * slope.float()
            moved[modality] = answers[modality] + noisy.levels.moved(delta, noisy.t)
        return moved

    def _slopes(self, steered: Sequence[Modality], answers: Latents, step: JointStep) -> Latents:
        """Return the gradients (B, ...) of the function, for every output that is steered."""
        function, readable = self.guidance.function, self.guidance.readable
        if not isinstance(function, str):
            return self._slopes_of_clean(function, steered, answers, step)
        active = {m: noisy for m, noisy in step.active.items() if m in readable}
        clean = {m: z for m, z in step.clean.items() if m in readable}
        return BUILT_IN[function](steered, active, clean, step.read)

    def _slopes_of_clean(
        self, function: Function, steered: Sequence[Modality], answers: Latents, step: JointStep
    ) -> Latents:
        """Return the gradients (B, ...) of a function of the estimated clean latents."""
        estimates = {}
        for modality, noisy in step.active.items():
            x_0 = noisy.levels.to_x_0(answers[modality], noisy.x.float(), noisy.t).detach()
            estimates[modality] = x_0.requires_grad_(modality in steered)
        known = {**self._latest, **step.clean, **estimates}
        self._latest.update({m: x.detach() for m, x in estimates.items()})
        if any(m not in known for m in self.guidance.outputs):
            return {}
        first = estimates[steered[0]]
        value = function(known, {m: noisy.context for m, noisy in step.active.items()})
        _check_value(value, len(first), getattr(function, "__name__", "a function"))
        return _gradients(value, {m: estimates[m] for m in steered})


def towards_prompt(
    steered: Sequence[Modality], active: Mapping[Modality, NoisyLatent], clean: Latents, read: ReadToken
) -> Latents:
    """Return the gradients of <token of the noisy latent, prompt>, each output by itself.

    It is the guidance of GLIDE by its noised CLIP (arXiv 2112.10741, section 2.4).

    Args:
        steered: the outputs whose gradients are wanted.
        active: the outputs that take a step.
        clean: unused.
        read: reads the token (B, D) of a noisy latent.

    Returns:
        (B, ...) for every steered output.
    """
    slopes: Latents = {}
    for modality in steered:
        noisy = active[modality]
        x = noisy.x.detach().float().requires_grad_()
        prompt = torch.nn.functional.normalize(noisy.context.float().mean(1), dim=-1)
        likeness = (read(modality, x, noisy.t, noisy.context).float() * prompt).sum(-1)
        slopes |= _gradients(likeness, {modality: x})
    return slopes


def towards_each_other(
    steered: Sequence[Modality], active: Mapping[Modality, NoisyLatent], clean: Latents, read: ReadToken
) -> Latents:
    """Return the gradients of the mean of <token, token> over all pairs of outputs and partners.

    Args:
        steered: the outputs whose gradients are wanted.
        active: the outputs that take a step.
        clean: (B, ...) finished outputs and partners, which are read as they are.
        read: reads the token (B, D) of a latent.

    Returns:
        (B, ...) for every steered output; nothing while one is alone.
    """
    tokens = {}
    free = {}
    context = next(iter(active.values())).context
    for modality, noisy in active.items():
        x = noisy.x.detach().float()
        if modality in steered:
            free[modality] = x = x.requires_grad_()
        tokens[modality] = read(modality, x, noisy.t, noisy.context).float()
    for modality, z in clean.items():
        tokens[modality] = read(modality, z.detach(), 0, context).float()
    pairs = [(a, b) for a, b in combinations(tokens, 2) if a in free or b in free]
    if not pairs:
        return {}
    likeness = torch.stack([(tokens[a] * tokens[b]).sum(-1) for a, b in pairs]).mean(0)
    return _gradients(likeness, free)


# by the name under which the command line knows them
BUILT_IN: dict[str, Callable[..., Latents]] = {"prompt": towards_prompt, "agreement": towards_each_other}


def parse_classifier(
    value: Any,
    outputs: Sequence[Modality],
    *,
    encoders: Collection[Modality],
    others: Collection[Modality],
    prompted: bool,
) -> ClassifierGuidance | None:
    """Return the classifier guidance that a call asks for.

    Args:
        value: the name of a built-in function; a function; a dict of {"name": either, "scale": one number or
            {output: number}, "interval": (from, to), "outputs": names}; or None.
        outputs: what is made.
        encoders: the modalities that have a noisy-latent encoder.
        others: what is there besides for outputs to agree with: the auxiliary caption and clean partners.
        prompted: whether there is a prompt.

    Returns:
        Classifier guidance; None for None.

    Raises:
        InputError: for anything that cannot be used.
    """
    if value is None:
        return None
    options = dict(value) if isinstance(value, Mapping) else {"name": value}
    function = options.pop("name", None)
    options.pop("from", None)  # of a record
    _check_options(function, options)
    able = list(outputs) if callable(function) else [m for m in outputs if m in encoders]
    steered = _outputs(options.get("outputs"), outputs, able)
    if function == "prompt" and not prompted:
        raise InputError("classifier_guidance 'prompt' leads towards a prompt: expected one")
    if function == "agreement" and len({*able, *(m for m in others if m in encoders)}) < 2:
        raise InputError(
            f"classifier_guidance 'agreement' is between outputs, and {listed(outputs)} alone is made: "
            "expected several, or a clean partner"
        )
    return ClassifierGuidance(
        function=function,
        outputs=steered,
        scale=_scales(options.get("scale"), steered, 1.0 if callable(function) else DEFAULT_SCALE),
        interval=check_interval("interval of classifier_guidance", options.get("interval", WHOLE_SCHEDULE)),
        readable=frozenset(encoders),
    )


def _check_options(function: Any, options: Mapping[str, Any]) -> None:
    """Raise `InputError` for a function or an option that there is not, and where gradients cannot be."""
    if not callable(function) and not (isinstance(function, str) and function in BUILT_IN):
        raise InputError(
            f"classifier_guidance {function!r:.80}: expected one of {', '.join(BUILT_IN)}, or a function of "
            "clean latents and prompts"
        )
    if unknown := [key for key in options if key not in OPTIONS]:
        raise InputError(
            f"classifier_guidance has no option {unknown[0]!r:.80}: expected some of {', '.join(OPTIONS)}"
        )
    if torch.is_inference_mode_enabled():
        raise InputError(
            "classifier_guidance needs gradients: expected a call outside torch.inference_mode()"
        )


def _outputs(given: Any, outputs: Sequence[Modality], able: Sequence[Modality]) -> tuple[Modality, ...]:
    """Return the outputs that are steered; all that can be, where none is named."""
    if given is None:
        named = list(able)
    else:
        named = [Modality.parse(name) for name in ([given] if isinstance(given, str) else given)]
    for modality in named:
        if modality not in outputs:
            raise InputError(
                f"classifier_guidance names {modality}, which is no output: expected some of "
                f"{listed(outputs)}"
            )
    if not named or any(modality not in able for modality in named):
        lacking = listed([m for m in named or outputs if m not in able])
        raise InputError(
            f"this model has no noisy-latent encoder of {lacking}, by which classifier_guidance would steer "
            "it: expected another output, or a function of clean latents"
        )
    return tuple(dict.fromkeys(named))


def _scales(given: Any, steered: Sequence[Modality], default: float) -> dict[Modality, float]:
    """Return the scale of each steered output."""
    if not isinstance(given, Mapping):
        number = check_number("scale of classifier_guidance", default if given is None else given)
        return dict.fromkeys(steered, number)
    found = dict.fromkeys(steered, default)
    for name, value in given.items():
        modality = Modality.parse(name)
        if modality not in found:
            raise InputError(
                f"scale of classifier_guidance names {modality}, which is not steered: expected some of "
                f"{listed(steered)}"
            )
        found[modality] = check_number(f"scale of classifier_guidance of {modality}", value)
    return found


def _check_value(value: Any, batch: int, name: str) -> None:
    """Raise `InputError` for what a function may not return."""
    if not isinstance(value, Tensor) or tuple(value.shape) != (batch,):
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"classifier_guidance: {name} returned {came}: expected a tensor of shape ({batch},)"
        )
    if not value.requires_grad:
        raise InputError(
            f"classifier_guidance: what {name} returned does not depend on the latents that it steers: "
            "expected a differentiable function of them"
        )
    if not value.isfinite().all():
        raise InputError(f"classifier_guidance: {name} returned NaN or infinity: expected finite numbers")


def _gradients(value: Tensor, latents: Latents) -> Latents:
    """Return the gradients (B, ...) of a sum over the batch (B,); zeros where it does not depend on one."""
    found = torch.autograd.grad(value.sum(), list(latents.values()), allow_unused=True)
    slopes = {}
    for (modality, x), slope in zip(latents.items(), found, strict=True):
        slopes[modality] = torch.zeros_like(x) if slope is None else slope
        if not slopes[modality].isfinite().all():
            raise InputError(
                f"classifier_guidance: the gradient towards {modality} is NaN or infinite: expected a "
                "function whose gradient is finite"
            )
    return slopes
