"""Guiders: how the denoiser's answers with and without conditions become one guided answer.

The plain guider is the weighted sum of `codi.diffusion.guidance`. The others are variants that diffusers has
as guiders too, under the names of their papers; where their formulas are functions of diffusers, those are
called. Let e be the answer with all conditions, and D what the plain sum adds to it.

- `apg`: of D counts what is orthogonal to e (adaptive projected guidance, arXiv 2410.02416)
- `zero-star`: each answer that is led away from is first scaled to fit e best (CFG-Zero*, arXiv 2503.18886)
- `cfg++`: a scale in [0, 1], with noise that is added back without the prompt (arXiv 2406.08070)
- `skip-layer`: leads away from the denoiser without some transformers as well (arXiv 2411.18664)
- `perturbed-attention`: leads away from the denoiser whose self-attention is the identity (arXiv 2403.17377)

Letters: B batch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor

from codi.border import check_interval, check_number
from codi.protocols import Weakening
from codi.types import InputError

Branch = frozenset[str]

FULL: Branch = frozenset()  # drops nothing
# The branch of a denoiser that was weakened; it keeps all conditions.
WEAKENED: Branch = frozenset({"blocks"})
WHOLE_SCHEDULE = (0.0, 1.0)
FLOW = "flow_prediction"


@dataclass(frozen=True, kw_only=True)
class Guider:
    """Classifier-free guidance (arXiv 2207.12598), and the base of its variants.

    Attributes:
        name: the name by which it is asked for.
        first_order: whether it is stated for schedulers of first order alone.
        plain_sum: whether the guided answer is the weighted sum of the branches.
        interval: the fractions [from, to) of the steps in which this output is guided at all; conditions may
            have narrower intervals of their own.
        rescale: how far the spread is pulled back to that of the unguided answer, from 0 to 1 (arXiv
            2305.08891, section 3.4); None for the call's own `guidance_rescale`.
    """

    name: ClassVar[str] = "cfg"
    first_order: ClassVar[bool] = False
    plain_sum: ClassVar[bool] = True

    interval: tuple[float, float] = WHOLE_SCHEDULE
    rescale: float | None = None

    def __post_init__(self) -> None:
        """Check every option, and raise `InputError` for the first that cannot be used."""
        self._set("interval", check_interval(self._called("interval"), self.interval))
        if self.rescale is not None:
            self._bounded("rescale", 1.0)

    @property
    def own_scale(self) -> float | None:
        """The scale that takes the place of `guidance_scale`; None for a guider without one."""
        return None

    def scale(self, condition: str, scale: float, noise_left: float) -> float:
        """Return the scale of a condition at one step.

        Args:
            condition: its name.
            scale: the scale that was asked for.
            noise_left: what the step leaves of the ratio of noise to signal, from 0 to 1.

        Returns:
            The scale; 1.0 is off.
        """
        return scale

    def weakening(self, progress: float) -> tuple[Weakening, float] | None:
        """Return how a branch is weakened, and the scale that leads away from it.

        Args:
            progress: how much of the schedule has passed, in [0, 1).

        Returns:
            both; None for no such branch.
        """
        return None

    def combine(
        self, answers: Mapping[Branch, Tensor], weights: Mapping[Branch, float], memory: dict[str, Any]
    ) -> Tensor:
        """Return the guided answer (B, ...), before it is rescaled.

        Args:
            answers: (B, ...) the denoiser's answer in each branch that `weights` names.
            weights: the weight of each branch; they sum to one.
            memory: what the guider keeps from step to step of one output; it starts empty.

        Returns:
            (B, ...).
        """
        guided = sum(weight * answers[branch] for branch, weight in weights.items())
        assert isinstance(guided, Tensor)
        return guided

    def check_flow(self, output: str, prediction_type: str) -> None:
        """Raise `InputError` where an option means nothing to a network that predicts `prediction_type`."""

    def check_blocks(self, output: str, count: int) -> None:
        """Raise `InputError` where a denoiser lacks the blocks that a branch weakens; `count` it has."""

    def described(self) -> dict[str, Any]:
        """Return the name and all options, as records have them."""
        options = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
        return {"name": self.name, **options}

    def _called(self, option: str) -> str:
        return f"{option} of the guider {self.name}"

    def _set(self, option: str, value: Any) -> None:
        object.__setattr__(self, option, value)

    def _bounded(self, option: str, most: float) -> None:
        """Make an option a number from 0 to `most`, or raise `InputError`."""
        number = check_number(self._called(option), getattr(self, option))
        if number > most:
            raise InputError(f"{self._called(option)} is {number:g}: expected 0 to {most:g}")
        self._set(option, number)


@dataclass(frozen=True, kw_only=True)
class AdaptiveProjectedGuidance(Guider):
    """Adaptive projected guidance (arXiv 2410.02416), of the denoiser's answers as diffusers' guider does.

    Attributes:
        eta: how much of the part that is parallel to the answer counts, which saturates; 1 is all of it.
        norm_threshold: the length to which the difference between the branches is limited; 0 is no limit.
        momentum: how much of the differences of former steps is added, in (-1, 1); below 0 they are taken
            away.
    """

    name: ClassVar[str] = "apg"
    plain_sum: ClassVar[bool] = False

    eta: float = 0.0
    norm_threshold: float = 0.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        self._bounded("eta", 1.0)
        self._bounded("norm_threshold", 1e6)
        value = self.momentum
        if isinstance(value, bool) or not isinstance(value, Real) or not -1 < value < 1:
            raise InputError(
                f"{self._called('momentum')} is {value!r}: expected a number above -1 and below 1"
            )
        self._set("momentum", float(value))

    def combine(
        self, answers: Mapping[Branch, Tensor], weights: Mapping[Branch, float], memory: dict[str, Any]
    ) -> Tensor:
        """Return the guided answer (B, ...); see `Guider.combine`."""
        if FULL not in weights or weights[FULL] == 1.0:
            return super().combine(answers, weights, memory)
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

        if self.momentum and "momentum" not in memory:
            memory["momentum"] = MomentumBuffer(self.momentum)
        full, scale = answers[FULL], weights[FULL] - 1.0
        return normalized_guidance(
            full,
            _led_away_from(answers, weights),
            scale,
            memory.get("momentum"),
            self.eta,
            self.norm_threshold,
            use_original_formulation=True,
        )


@dataclass(frozen=True, kw_only=True)
class ZeroStarGuidance(Guider):
    """CFG-Zero* (arXiv 2503.18886): what is led away from is scaled to be as near to the answer as it can be.

    Attributes:
        zero_steps: the first steps in which the answer is zero (section 4.2), for flow matching alone: there
            a zero leaves the latent where it is.
    """

    name: ClassVar[str] = "zero-star"
    plain_sum: ClassVar[bool] = False

    zero_steps: int = 0

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        value = self.zero_steps
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
            raise InputError(
                f"{self._called('zero_steps')} is {value!r}: expected a whole number from 0 to 1000"
            )

    def combine(
        self, answers: Mapping[Branch, Tensor], weights: Mapping[Branch, float], memory: dict[str, Any]
    ) -> Tensor:
        """Return the guided answer (B, ...); see `Guider.combine`."""
        from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

        memory["steps"] = memory.get("steps", 0) + 1
        if memory["steps"] <= self.zero_steps:
            return 0.0 * next(iter(answers.values()))
        if FULL not in answers:
            return super().combine(answers, weights, memory)
        full = answers[FULL]
        fitted = {FULL: full}
        for branch, answer in answers.items():
            if branch != FULL:
                fit = cfg_zero_star_scale(full.flatten(1), answer.flatten(1))  # (B, 1)
                fitted[branch] = answer * fit.view(-1, *[1] * (full.ndim - 1))
        return super().combine(fitted, weights, memory)

    def check_flow(self, output: str, prediction_type: str) -> None:
        """Raise `InputError` for steps of zeros where these are no velocities of flow matching."""
        if self.zero_steps and prediction_type != FLOW:
            raise InputError(
                f"{self._called('zero_steps')} is {self.zero_steps}, and what makes {output} is no flow "
                f"matching ({prediction_type}): expected 0"
            )


@dataclass(frozen=True, kw_only=True)
class CFGPlusPlus(Guider):
    """CFG++ (arXiv 2406.08070): x_0 is guided by a scale in [0, 1], and noise is added back without a prompt.

    A DDIM step from x_0 and eps, (alpha, sigma) to (alpha', sigma'), moves by alpha' x_0 + sigma' eps. With
    x_0 guided and eps from the null branch, the scale w moves the result as far as plain guidance of both by

        w / (1 - r),   r = (sigma' / alpha') / (sigma / alpha)

    so that on a scheduler of first order CFG++ is plain guidance with a scale that changes by the step. Only
    the prompt is guided so; guidance by partners stays what it is.

    Attributes:
        strength: w, the scale, in the place of `guidance_scale`.
    """

    name: ClassVar[str] = "cfg++"
    first_order: ClassVar[bool] = True
    condition: ClassVar[str] = "prompt"

    strength: float = 0.6

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        self._bounded("strength", 1.0)

    @property
    def own_scale(self) -> float | None:
        """The scale w."""
        return self.strength

    def scale(self, condition: str, scale: float, noise_left: float) -> float:
        """Return the scale of a condition at one step; see `Guider.scale`."""
        return self.strength / (1.0 - noise_left) if condition == self.condition else scale


@dataclass(frozen=True, kw_only=True)
class SkipLayerGuidance(Guider):
    """Skip-layer guidance: e + scale (e - e without the transformers of some blocks), beside plain guidance.

    Attributes:
        perturbs_attention: whether only self-attention is changed in these blocks, to the identity.
        strength: the scale; 0 is off.
        blocks: the blocks with a transformer, counted from 0 in the order of execution; none for the one in
            the middle.
        branch_interval: the fractions [from, to) of the steps in which there is this branch.
    """

    name: ClassVar[str] = "skip-layer"
    perturbs_attention: ClassVar[bool] = False

    strength: float = 2.8
    blocks: tuple[int, ...] = ()
    branch_interval: tuple[float, float] = (0.01, 0.2)

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        self._bounded("strength", 1e3)
        self._set("branch_interval", check_interval(self._called("branch_interval"), self.branch_interval))
        value = [self.blocks] if isinstance(self.blocks, int) else self.blocks
        fine = isinstance(value, (list, tuple)) and all(type(block) is int and block >= 0 for block in value)
        if not fine or isinstance(self.blocks, bool):
            raise InputError(
                f"{self._called('blocks')} is {value!r}: expected whole numbers from 0, as in [0, 1]"
            )
        self._set("blocks", tuple(value))

    def weakening(self, progress: float) -> tuple[Weakening, float] | None:
        """Return how the branch is weakened, and the scale; None outside its interval."""
        first, last = self.branch_interval
        if not self.strength or not first <= progress < last:
            return None
        return Weakening(blocks=self.blocks, perturbs_attention=self.perturbs_attention), self.strength

    def check_blocks(self, output: str, count: int) -> None:
        """Raise `InputError` for a denoiser without such blocks."""
        if count == 0:
            raise InputError(
                f"the guider {self.name} acts on blocks of codi's own denoisers, and another network makes "
                f"{output}: expected one of {', '.join(name for name in GUIDERS if name != self.name)}"
            )
        if missing := [block for block in self.blocks if block >= count]:
            raise InputError(
                f"{self._called('blocks')} names {missing[0]}, and what makes {output} has {count} with a "
                f"transformer: expected 0 to {count - 1}"
            )


@dataclass(frozen=True, kw_only=True)
class PerturbedAttentionGuidance(SkipLayerGuidance):
    """Perturbed-attention guidance (arXiv 2403.17377): `SkipLayerGuidance` by self-attention alone."""

    name: ClassVar[str] = "perturbed-attention"
    perturbs_attention: ClassVar[bool] = True


GUIDERS: dict[str, type[Guider]] = {
    kind.name: kind
    for kind in (
        Guider,
        AdaptiveProjectedGuidance,
        ZeroStarGuidance,
        CFGPlusPlus,
        SkipLayerGuidance,
        PerturbedAttentionGuidance,
    )
}


def parse_guider(value: Any) -> Guider:
    """Return the guider that a call names.

    Args:
        value: a name, such as "apg"; a dict of a name and options, {"name": "apg", "eta": 0.2}; or a guider.

    Returns:
        The guider.

    Raises:
        InputError: for a name or an option that is unknown, and for a value that an option cannot have.
    """
    if isinstance(value, Guider):
        return value
    options = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in GUIDERS:
        raise InputError(f"guider {name!r:.80}: expected one of {', '.join(GUIDERS)}")
    kind = GUIDERS[name]
    known = [option.name for option in fields(kind)]
    if unknown := [key for key in options if key not in known]:
        raise InputError(
            f"the guider {name} has no option {unknown[0]!r:.80}: expected some of {', '.join(known)}"
        )
    return kind(**options)


def _led_away_from(answers: Mapping[Branch, Tensor], weights: Mapping[Branch, float]) -> Tensor:
    """Return the mean of all answers but the full one, by their weights: what guidance leads away from."""
    others = [branch for branch in weights if branch != FULL]
    if len(others) == 1:
        return answers[others[0]]
    total = sum(weights[branch] for branch in others)
    mean = sum(weights[branch] / total * answers[branch] for branch in others)
    assert isinstance(mean, Tensor)
    return mean
