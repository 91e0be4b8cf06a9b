"""A tap: what a pipeline of diffusers gives its own denoiser, taken from a run that stops before it denoises.

Nobody's conditioning is written anew here. The original pipeline runs up to its first steps with its denoiser
stubbed out, and three things are kept: the arguments that it gives its denoiser, the latent that it starts
from, and its scheduler as it set it. Then the frozen network can be called with exactly these arguments, by
any sampler.

Letters: B batch.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codi.types import InputError


class _Stop(Exception):
    """Ends a run of a pipeline from inside its scheduler."""


class _Answer(tuple):
    """An answer of a stubbed denoiser or scheduler: a tuple of one tensor, which is an attribute as well."""

    sample: Tensor
    prev_sample: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "_Answer":
        answer = cls((x,))
        answer.sample = answer.prev_sample = x
        return answer


@dataclass(frozen=True, kw_only=True)
class Tap:
    """What was taken from a run.

    Attributes:
        steps: for each step that was run, the arguments by name of each call of the denoiser in it. A
            pipeline calls it once for all branches of guidance, or once for each.
        start: the latent that the pipeline steps, as it starts.
        scheduler: a copy of the scheduler, set as the pipeline set it.
    """

    steps: tuple[tuple[dict[str, Any], ...], ...]
    start: Tensor
    scheduler: Any

    @property
    def calls(self) -> tuple[dict[str, Any], ...]:
        """The calls of the first step."""
        return self.steps[0]


@contextmanager
def _replaced(module: nn.Module, scheduler: Any, forward: Callable, step: Callable) -> Iterator[None]:
    """Replace the `forward` of a network and the `step` of a scheduler for a while.

    What offloading has put in the place of `forward` is put back afterwards.
    """
    kept = {
        name: owner.__dict__[key] for name, owner, key in _places(module, scheduler) if key in owner.__dict__
    }
    module.forward = forward  # type: ignore[method-assign]
    scheduler.step = step
    try:
        yield
    finally:
        for name, owner, key in _places(module, scheduler):
            del owner.__dict__[key]
            if name in kept:
                owner.__dict__[key] = kept[name]


def _places(module: nn.Module, scheduler: Any) -> tuple[tuple[str, Any, str], ...]:
    return ("network", module, "forward"), ("scheduler", scheduler, "step")


def tap(pipeline: Any, part: str, steps: int = 1, **call: Any) -> Tap:
    """Run a pipeline for its first steps without its denoiser, and keep what it gives it.

    Args:
        pipeline: the pipeline.
        part: the name of the component that denoises.
        steps: after how many steps the run stops.
        **call: the arguments of the call.

    Returns:
        What was taken.

    Raises:
        InputError: for a pipeline that takes no step with its scheduler.
    """
    module = getattr(pipeline, part)
    scheduler = pipeline.scheduler
    signature = inspect.signature(type(module).forward)
    calls: list[dict[str, Any]] = []
    taken: list[tuple[dict[str, Any], ...]] = []
    start: list[Tensor] = []
    copies: list[Any] = []

    def forward(*args: Any, **kwargs: Any) -> _Answer:
        given = dict(signature.bind(module, *args, **kwargs).arguments)
        given.pop("self")
        given |= given.pop("kwargs", {})
        calls.append(given)
        return _Answer.of(torch.zeros_like(next(iter(given.values()))))

    def step(output: Any, t: Any, sample: Tensor, *args: Any, **kwargs: Any) -> _Answer:
        if not taken:
            start.append(sample)
            copies.append(_copy(scheduler))
        taken.append(tuple(calls))
        calls.clear()
        if len(taken) == steps:
            raise _Stop
        return _Answer.of(sample)

    try:
        with _replaced(module, scheduler, forward, step), torch.no_grad():
            pipeline(**call)
    except _Stop:
        pass
    if not taken:
        raise InputError(
            f"{type(pipeline).__name__} took no step with its scheduler: expected a pipeline that calls its "
            f"{part} and then scheduler.step"
        )
    return Tap(steps=tuple(taken), start=start[0], scheduler=copies[0])


def _copy(scheduler: Any) -> Any:
    """Return a copy of a scheduler without the `step` that stands in for its own."""
    stub = scheduler.__dict__.pop("step")
    try:
        return copy.deepcopy(scheduler)
    finally:
        scheduler.__dict__["step"] = stub


def finish(pipeline: Any, part: str, latent: Tensor, **call: Any) -> Any:
    """Let a pipeline decode a latent, as if it had made it.

    It runs with its denoiser stubbed out, and its scheduler answers every step with the latent.

    Args:
        pipeline: the pipeline.
        part: the name of the component that denoises.
        latent: (B, ...) the clean latent. A pipeline that steps the frames of clips by themselves is
            given (B F, C, H, W) of clips (B, C, F, H, W).
        **call: the arguments of the call.

    Returns:
        What the pipeline returns first: its media.
    """

    def forward(*args: Any, **kwargs: Any) -> _Answer:
        return _Answer.of(torch.zeros_like(args[0] if args else next(iter(kwargs.values()))))

    def step(output: Any, t: Any, sample: Tensor, *args: Any, **kwargs: Any) -> _Answer:
        steps_clips = sample.ndim == latent.ndim
        return _Answer.of(latent if steps_clips else latent.transpose(1, 2).flatten(0, 1))

    module = getattr(pipeline, part)
    with _replaced(module, pipeline.scheduler, forward, step), torch.no_grad():
        return pipeline(**call)[0]
