"""Keep one state for each running call of a pipeline, which callbacks read and set.

So several threads may call one pipeline at once, and an interrupt ends only its own call.

diffusers keeps these values on the pipeline itself (`_interrupt`, `guidance_scale`, `num_timesteps`, ...),
and here they can be reached there, too. In a thread that runs a call they are those of that call; in any
other thread they are those of the latest call. An interrupt that is set from a thread without a call ends all
calls that are running.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codi import settings
from codi.border import plain
from codi.conditions import PROMPT
from codi.diffusion import Guidance
from codi.types import InputError, Latents, Modality, ModalitySpec


@dataclass
class Call:
    """The state of one call.

    Attributes:
        guidance: the guidance of each output that was asked for.
        can_steer: whether guidance by prompts acts at any step.
        guidance_scale: the guidance scale of the prompts: one number where all outputs have the same, else
            {output: number}.
        num_timesteps: the number of steps of the call, in which all outputs are made.
        current_timestep: the timestep that is being taken; None outside the steps.
        interrupt: whether the steps that are left are skipped.
        own_steps: how many of its own steps each output has taken, and of how many.
        decode: turns clean latents (B, ...) of this call into raw media; None before the first step.
        specs: the geometry of what is made.
    """

    guidance: dict[Modality, Guidance] = field(default_factory=dict)
    can_steer: bool = False
    guidance_scale: settings.PerOutput | None = None
    num_timesteps: int = 0
    current_timestep: Tensor | int | None = None
    interrupt: bool = False
    own_steps: dict[Modality, tuple[int, int]] = field(default_factory=dict)
    decode: Callable[[Latents], dict[Modality, Any]] | None = None
    specs: Mapping[Modality, ModalitySpec] = field(default_factory=dict)

    def take_guidance_scale(self, of_all: Mapping[Modality, Guidance]) -> dict[Modality, Guidance]:
        """Return the guidance of the steps that are left, after a callback has set a scale.

        Args:
            of_all: the guidance of everything that is generated. An auxiliary caption follows the new scale
                only if that is one number.

        Returns:
            The guidance of everything that is generated, with the new scale.

        Raises:
            InputError: for a value that is no scale, or where the call began without guidance, so that there
                is no branch to lead away from.
        """
        if not self.can_steer:
            raise InputError(
                "a callback set _guidance_scale in a call without guidance: expected a guidance_scale above "
                "1 from the start"
            )
        self.guidance_scale = plain(self.guidance_scale)
        self.guidance = settings.rescaled(self.guidance, self.guidance_scale)
        # {output: number} names no auxiliary, which then keeps its own scale.
        auxiliary = {m: g for m, g in of_all.items() if m not in self.guidance}
        if not isinstance(self.guidance_scale, Mapping):
            auxiliary = settings.rescaled(auxiliary, self.guidance_scale)
        return auxiliary | self.guidance


class CallMixin:
    """The part of a pipeline that keeps the states of its calls, one for each thread."""

    _running: dict[int, Call]  # by the identifier of the thread
    _latest: Call

    def _init_calls(self) -> None:
        self._running = {}
        self._latest = Call()

    @contextmanager
    def _call(self, call: Call) -> Iterator[Call]:
        """Make `call` the call of this thread for as long as the context lasts."""
        thread = threading.get_ident()
        outer = self._running.get(thread)  # a callback may call the pipeline again
        self._running[thread] = self._latest = call
        try:
            yield call
        finally:
            call.current_timestep = None
            if outer is None:
                self._running.pop(thread, None)
            else:
                self._running[thread] = outer

    @property
    def _own_call(self) -> Call:
        """The call of this thread, or else the latest call."""
        return self._running.get(threading.get_ident(), self._latest)

    @property
    def interrupt(self) -> bool:
        """Return whether a callback has set `_interrupt`, so that the steps that are left are skipped."""
        return self._own_call.interrupt

    @property
    def _interrupt(self) -> bool:
        return self._own_call.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        own = self._running.get(threading.get_ident())
        for call in [own] if own is not None else [*self._running.values()]:
            call.interrupt = value

    @property
    def num_timesteps(self) -> int:
        """The number of steps of this thread's call, or else of the latest; a callback is called as often."""
        return self._own_call.num_timesteps

    @property
    def current_timestep(self) -> Tensor | int | None:
        """The timestep that is being taken, of the first active output; None outside a call."""
        return self._own_call.current_timestep

    @property
    def own_steps(self) -> dict[Modality, tuple[int, int]]:
        """The steps that each output of this thread's call has taken, and how many it takes in all.

        Outputs may start one after another, and those of a composed model have steps of their own.
        """
        return dict(self._own_call.own_steps)

    def decode_preview(self, clean_latents: Latents) -> dict[Modality, Any]:
        """Decode what a callback was shown as "clean_latents", or rows of it; only inside a callback.

        Args:
            clean_latents: clean latents (B, ...) by modality.

        Returns:
            Raw media by modality: floats (B, ...) in [-1, 1], or sentences.
        """
        decode = self._own_call.decode
        assert decode is not None, "there is nothing to show before the first step"
        return decode(clean_latents)

    @property
    def call_specs(self) -> Mapping[Modality, ModalitySpec]:
        """The geometry of what this thread's call makes."""
        return self._own_call.specs

    @property
    def guidance_scale(self) -> settings.PerOutput | None:
        """The guidance scale of this thread's call, or else of the latest call.

        It is one number where all outputs have the same, else {output: number}. A callback may set
        `_guidance_scale` to either form for the steps that are left; a scale of at most 1 switches guidance
        off.
        """
        return self._own_call.guidance_scale

    @property
    def _guidance_scale(self) -> settings.PerOutput | None:
        return self._own_call.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: Any) -> None:
        self._own_call.guidance_scale = value

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Return whether a scale other than 1 guides any output towards the prompts."""
        return any(guidance.scales[PROMPT.name] != 1 for guidance in self._own_call.guidance.values())
