"""Serve diffusers' own callbacks (`diffusers.callbacks`) in a joint generation.

This module says which tensors they ask for, and gives them prompt tokens in the form that they expect.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from diffusers.callbacks import IPAdapterScaleCutoffCallback, MultiPipelineCallbacks, PipelineCallback

from codi.types import InputError, Latents


class Embeds(dict):
    """Prompt tokens by output, in a form that diffusers' callbacks can slice.

    diffusers stacks the branches of guidance, the one with the prompt last, and its callbacks take `[-1:]` to
    switch guidance off. Here branches are never stacked, and these tokens are those of the prompt, so that
    this slice is all of them. Any other slice has no meaning and raises `InputError`.
    """

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            return super().__getitem__(key)
        if key != slice(-1, None):
            raise InputError(
                f"prompt_embeds{[key]}: expected an output's name, or [-1:] for those of the prompt, which "
                "are all there are"
            )
        return self


def show_tensors(
    pipe: Any,
    callback: Callable[..., dict | None],
    wanted: Sequence[str],
    index: int,
    sampler: Any,
    latents: Latents,
) -> Latents:
    """Show a callback the tensors that it wants, and take over what it changed of them.

    Args:
        pipe: the pipeline, which says the timestep.
        callback: called as f(pipe, index, timestep, tensors).
        wanted: the names of the tensors; "clean_latents", which outputs seem to become, are made only if they
            are wanted, and nothing is taken over of them.
        index: the step that was taken.
        sampler: what takes the steps (`codi.joint.sampler.JointSampler`); it is given changed prompts.
        latents: (B, ...) by output, after the step.

    Returns:
        The latents with which the next step begins.
    """
    offered: dict[str, Callable[[], Any]] = {
        "latents": lambda: latents,
        "prompt_embeds": lambda: Embeds(sampler.contexts),
        "clean_latents": sampler.estimate_clean,
    }
    tensors = {name: offered[name]() for name in wanted}
    changed = callback(pipe, index, pipe.current_timestep, tensors) or {}
    sampler.contexts = {**sampler.contexts, **changed.get("prompt_embeds", {})}
    return latents | changed.get("latents", {})


def wanted_tensors(callback: Any, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names of the tensors that a callback is given.

    Args:
        callback: a function, or a callback of diffusers, which names its tensors itself; None for none.
        names: the tensors that the caller of the pipeline chose for any other callback.
        known: the tensors that this pipeline has for callbacks.

    Returns:
        The names, for a callback of diffusers each of them once.

    Raises:
        InputError: for a callback that cannot be called, and for a callback of diffusers that steers what
            this pipeline does not have.
    """
    if callback is not None and not callable(callback):
        came = type(callback).__name__
        raise InputError(
            f"callback_on_step_end is a {came}: expected a function (pipe, step, timestep, tensors) -> dict"
        )
    if not isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        return [names] if isinstance(names, str) else list(names)
    for part in _flat(callback):
        kind = type(part).__name__
        if isinstance(part, IPAdapterScaleCutoffCallback):
            raise InputError(
                f"{kind} acts on an IP-Adapter, which codi has none of: a picture is a prompt, "
                "image=Prompt(picture, weight)"
            )
        if unknown := [name for name in part.tensor_inputs if name not in known]:
            raise InputError(
                f"{kind} asks for {unknown[0]}, which there is not: expected one for {', '.join(known)}, as "
                "SDCFGCutoffCallback"
            )
    # Several callbacks may ask for the same tensor.
    return list(dict.fromkeys(callback.tensor_inputs))


def _flat(callback: Any) -> Iterator[PipelineCallback]:
    """Yield the single callbacks that make up a callback."""
    if not isinstance(callback, MultiPipelineCallbacks):
        yield callback
        return
    for part in callback.callbacks:
        yield from _flat(part)
