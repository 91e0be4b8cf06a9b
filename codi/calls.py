"""What a pipeline knows of a call while it runs, for callbacks: one state for each call, so that several
threads may call one pipeline, and an interrupt ends only its own call.

diffusers keeps these on the pipeline itself (`_interrupt`, `guidance_scale`, `num_timesteps`, ...). They
stand there too: read or set in a thread that runs a call they are that call's, and elsewhere those of the
latest call; an interrupt that is set from a thread without a call ends all that are running.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codi import settings
from codi.border import plain
from codi.conditions import PROMPT
from codi.diffusion import Guidance
from codi.types import InputError, Modality


@dataclass
class Call:
    """The state of one call.

    Attributes:
        guidance: of the outputs that were asked for.
        can_steer: whether prompt guidance acts at any step.
        guidance_scale: that of the prompts, one number where all outputs have the same.
        num_timesteps: steps of all outputs together.
        current_timestep: the timestep that is being taken.
        interrupt: whether the steps that are left are skipped.
    """

    guidance: dict[Modality, Guidance] = field(default_factory=dict)
    can_steer: bool = False
    guidance_scale: settings.PerOutput | None = None
    num_timesteps: int = 0
    current_timestep: Tensor | int | None = None
    interrupt: bool = False

    def take_guidance_scale(self, of_all: Mapping[Modality, Guidance]) -> dict[Modality, Guidance]:
        """Returns the guidance of the steps that are left, after a callback has set a scale.

        Args:
            of_all: that of everything that is generated; an auxiliary follows a scale that is one number.

        Raises:
            InputError: for a scale that is none, or where no branch is there to lead away from.
        """
        if not self.can_steer:
            raise InputError(
                "a callback set _guidance_scale in a call without guidance: expected a guidance_scale above "
                "1 from the start"
            )
        self.guidance_scale = plain(self.guidance_scale)
        self.guidance = settings.rescaled(self.guidance, self.guidance_scale)
        auxiliary = {m: g for m, g in of_all.items() if m not in self.guidance}
        if not isinstance(self.guidance_scale, Mapping):
            auxiliary = settings.rescaled(auxiliary, self.guidance_scale)
        return auxiliary | self.guidance


class CallMixin:
    """A pipeline's part that keeps the states of its calls."""

    _running: dict[int, Call]  # by thread
    _latest: Call

    def _init_calls(self) -> None:
        self._running = {}
        self._latest = Call()

    @contextmanager
    def _call(self, call: Call) -> Iterator[Call]:
        """Makes a call the one of this thread."""
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
        """The call of this thread, or the latest one."""
        return self._running.get(threading.get_ident(), self._latest)

    @property
    def interrupt(self) -> bool:
        """True once a callback has set `_interrupt`: the steps that are left are skipped."""
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
        """Steps of this thread's call, or the latest: how often a callback is called."""
        return self._own_call.num_timesteps

    @property
    def current_timestep(self) -> Tensor | int | None:
        """The timestep that is being taken, of the first output that is active; None outside a call."""
        return self._own_call.current_timestep

    @property
    def guidance_scale(self) -> settings.PerOutput | None:
        """Of this thread's call, or the latest: one number where all outputs have the same, else {output:
        number}.

        A callback may set `_guidance_scale`, to either form, for the steps that are left; at most 1 is off.
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
        """Whether a scale other than 1 guides any output towards the prompts."""
        return any(guidance.scales[PROMPT.name] != 1 for guidance in self._own_call.guidance.values())
