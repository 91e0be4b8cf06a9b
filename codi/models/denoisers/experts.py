"""Experts by noise range: two denoisers of one kind with a boundary between them (eDiff-I, arXiv 2211.01324).

Early steps decide what there will be, late ones how it looks; two networks that were cloned from one and
trained on with a range each have the capacity of both, and a step costs what it did. To everybody else the
pair is a denoiser like any other: its class is that of its halves, the half for clean latents is the object
itself, and the other is its module `noisy`.

Letters: B batch, L prompt tokens, D their width.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config

# diffusers' own loader looks for it beside a class
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from torch import Tensor, nn

from codi.diffusion.process import NoiseProcess
from codi.models.denoisers.skeleton import CachedPrompt, Skeleton
from codi.models.denoisers.text import TextDenoiser
from codi.models.denoisers.text_sequence import TextSequenceDenoiser
from codi.models.denoisers.unet import UNetDenoiser
from codi.protocols import Control, Environment, Weakening
from codi.types import InputError

CLEAN, NOISY = "clean", "noisy"
EXPERTS = (CLEAN, NOISY)
BOUNDARY = {"boundary": float, "boundary_timestep": int}


@dataclass(frozen=True, kw_only=True)
class ExpertPrompts:
    """A prompt, and what each expert computes of it whatever the timestep.

    Attributes:
        clean: that of the expert for clean latents.
        noisy: that of the other.
    """

    clean: CachedPrompt
    noisy: CachedPrompt


def with_boundary(base: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give an `__init__` the parameters of another class, and the two of the boundary, in its signature.

    diffusers saves and loads the parameters that a signature names.

    Args:
        base: the class of both experts.

    Returns:
        A decorator of an `__init__`.
    """

    def sign(init: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(base.__init__)  # type: ignore[misc]
        kind = inspect.Parameter.KEYWORD_ONLY
        more = [inspect.Parameter(name, kind, annotation=value) for name, value in BOUNDARY.items()]
        init.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
        hints = inspect.unwrap(base.__init__).__annotations__  # type: ignore[misc]
        init.__annotations__ = {**hints, **BOUNDARY}
        return init

    return sign


class Experts(Skeleton):
    """What both kinds of experts have in common; a subclass names the class of its halves after this one.

    Attributes:
        noisy: the expert for noisy latents.
        boundary_timestep: the first timestep that is its.
    """

    noisy: Skeleton
    boundary_timestep: int

    def precompute(  # type: ignore[override]
        self, context: Tensor | CachedPrompt | ExpertPrompts, x: Tensor
    ) -> CachedPrompt | ExpertPrompts:
        """Compute what does not depend on the timestep, for both experts.

        Args:
            context: prompt tokens (B, L, D); what was made of them before is returned as it is.
            x: any latent of the shape that will be denoised.

        Returns:
            What `forward` takes in place of prompt tokens.
        """
        if not isinstance(context, Tensor):
            return context
        clean = super().precompute(context, x)
        return ExpertPrompts(clean=clean, noisy=self.noisy.precompute(context, x))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: Tensor | ExpertPrompts,
        partners: Environment | None = None,
        rate: float | None = None,
        weakening: Weakening | None = None,
        control: Sequence[Control] = (),
    ) -> Tensor:
        """Predict the noise (or v) in latents, each by the expert for its timestep.

        Args:
            x: (B, ...) noisy latents.
            t: (B,) their timesteps. Latents on both sides of the boundary need one row of prompt tokens each.
            prompt: prompt tokens (B, L, D), or what `precompute` made of them.
            partners: the environment of the partners, or None.
            rate: latent steps per second, if not the configured ones.
            weakening: which blocks are made worse in this call, in either expert.
            control: what is added to the features of either expert.

        Returns:
            The prediction, as that of the experts' own class.
        """
        steering = {"control": control} if control else {}  # which denoisers of sentences do not take
        noisy = t >= self.boundary_timestep  # (B,)
        cached = self.precompute(prompt, x)
        if bool(noisy.all()):
            own = cached.noisy if isinstance(cached, ExpertPrompts) else cached
            return self.noisy(x, t, own, partners, rate, weakening, **steering)
        if not bool(noisy.any()):
            own = cached.clean if isinstance(cached, ExpertPrompts) else cached
            return super().forward(x, t, own, partners, rate, weakening, **steering)
        assert isinstance(prompt, Tensor) and len(prompt) == len(x), "timesteps on both sides of the boundary"
        return self._by_row(noisy, x, t, prompt, partners, rate, weakening, control)

    def _by_row(
        self,
        noisy: Tensor,
        x: Tensor,
        t: Tensor,
        prompt: Tensor,
        partners: Environment | None,
        rate: float | None,
        weakening: Weakening | None,
        control: Sequence[Control],
    ) -> Tensor:
        """Return the predictions for latents on both sides; `noisy` (B,) says which the noisy ones are."""
        parts = []
        places = []
        for rows in (torch.nonzero(~noisy)[:, 0], torch.nonzero(noisy)[:, 0]):
            env = partners
            if env is not None:
                assert len(env.tokens) == len(x), "an environment for each latent"
                env = Environment(tokens=env.tokens[rows], times=env.times[rows])
            own = tuple(each.rows(rows) for each in control)
            parts.append(self(x[rows], t[rows], prompt[rows], env, rate, weakening, own))
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]


class UNetExperts(Experts, UNetDenoiser):  # type: ignore[misc]
    """Two `UNetDenoiser` by noise range.

    Args:
        boundary: the log-SNR between the two ranges.
        boundary_timestep: the first timestep of the noisy range, in the noise process of the model.
        **arguments: those of `UNetDenoiser`, for both.
    """

    @register_to_config
    @with_boundary(UNetDenoiser)
    def __init__(self, *, boundary: float, boundary_timestep: int, **arguments: Any):
        super().__init__(**arguments)
        self.noisy = UNetDenoiser(**arguments)
        self.boundary_timestep = boundary_timestep


class TextExperts(Experts, TextDenoiser):  # type: ignore[misc]
    """Two `TextDenoiser` by noise range.

    Args:
        boundary: the log-SNR between the two ranges.
        boundary_timestep: the first timestep of the noisy range, in the noise process of the model.
        **arguments: those of `TextDenoiser`, for both.
    """

    @register_to_config
    @with_boundary(TextDenoiser)
    def __init__(self, *, boundary: float, boundary_timestep: int, **arguments: Any):
        super().__init__(**arguments)
        self.noisy = TextDenoiser(**arguments)
        self.boundary_timestep = boundary_timestep


class TextSequenceExperts(Experts, TextSequenceDenoiser):  # type: ignore[misc]
    """Two `TextSequenceDenoiser` by noise range.

    Args:
        boundary: the log-SNR between the two ranges.
        boundary_timestep: the first timestep of the noisy range, in the noise process of the model.
        **arguments: those of `TextSequenceDenoiser`, for both.
    """

    @register_to_config
    @with_boundary(TextSequenceDenoiser)
    def __init__(self, *, boundary: float, boundary_timestep: int, **arguments: Any):
        super().__init__(**arguments)
        self.noisy = TextSequenceDenoiser(**arguments)
        self.boundary_timestep = boundary_timestep


KINDS: dict[type, type] = {
    UNetDenoiser: UNetExperts,
    TextDenoiser: TextExperts,
    TextSequenceDenoiser: TextSequenceExperts,
}
HALVES = {both: half for half, both in KINDS.items()}


def first_noisy_timestep(process: NoiseProcess, boundary: float) -> int:
    """Return the first timestep of the noisy range.

    Args:
        process: the noise process.
        boundary: the log-SNR between the ranges; the clean one has it or more.

    Returns:
        The timestep.

    Raises:
        InputError: for a boundary beyond the noise levels, which leaves a range empty.
    """
    levels = process.log_snr(torch.arange(process.num_train_timesteps))
    first = int((levels >= boundary).sum())
    if not 0 < first < process.num_train_timesteps:
        raise InputError(
            f"the boundary is a log-SNR of {boundary:g}, which leaves an expert without noise levels: "
            f"expected one between {float(levels[-1]):.1f} and {float(levels[0]):.1f}"
        )
    return first


def join(clean: nn.Module, noisy: nn.Module, boundary: float, process: NoiseProcess) -> Experts:
    """Return two denoisers as one.

    Args:
        clean: the expert for latents whose log-SNR is the boundary or more.
        noisy: the expert for all others, of the same configuration.
        boundary: the log-SNR between them.
        process: the noise process of the model, which says what timesteps are.

    Returns:
        A denoiser with copies of their weights, in the mode, the precision and on the device of `clean`.

    Raises:
        InputError: for denoisers of different kinds or configurations.
    """
    settings = [_settings(part) for part in (clean, noisy)]
    if type(clean) is not type(noisy) or type(clean) not in KINDS or settings[0] != settings[1]:
        raise InputError(
            f"experts are a {type(clean).__name__} and a {type(noisy).__name__}: expected two UNetDenoiser "
            "or two of a kind for text, of one configuration"
        )
    timestep = first_noisy_timestep(process, boundary)
    both = KINDS[type(clean)](**settings[0], boundary=boundary, boundary_timestep=timestep)
    state = {**clean.state_dict(), **{f"noisy.{name}": value for name, value in noisy.state_dict().items()}}
    both.load_state_dict(state)
    parameter = next(clean.parameters())
    return both.to(parameter.device, parameter.dtype).train(clean.training)


def split(denoiser: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the experts of a denoiser, clean and noisy, each a denoiser with weights of its own.

    Of a denoiser that is no pair both are copies, from which experts start.
    """
    kind: Any = type(denoiser)
    paired = isinstance(denoiser, Experts)
    if paired:
        kind = type(denoiser.noisy)
    state = denoiser.state_dict()
    halves = []
    for prefix in ("", "noisy." if paired else ""):
        half = kind(**_settings(denoiser))
        half.load_state_dict({name: state[prefix + name] for name in half.state_dict()})
        halves.append(half.train(denoiser.training))
    return halves[0], halves[1]


def _settings(denoiser: Any) -> dict[str, Any]:
    """Return the arguments that a denoiser was built with, but for the boundary."""
    kind = HALVES.get(type(denoiser), type(denoiser))
    known = inspect.signature(getattr(kind, "__init__")).parameters  # noqa: B009
    found = {name: value for name, value in denoiser.config.items() if name in known}
    # what was loaded has lists in the place of tuples
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
