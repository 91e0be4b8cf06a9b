"""Start offsets let outputs that are generated together be at different noise levels.

The idea is that of asynchronous noise levels (arXiv 2303.06555, 2407.01392). An output with a start offset
begins later than the first, when its partners are further on and say more. Before it starts it is not visible
to the others; once finished it stays visible as a clean partner at timestep 0.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from codi.types import Modality


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Which output takes which of its own steps at which step of the joint loop.

    Attributes:
        outputs: what is generated.
        steps: the number of steps that every output takes.
        start_offsets: steps after the first output at which an output starts; 0 for one that is not named. An
            output never waits longer than those need that start before it.
    """

    outputs: Collection[Modality]
    steps: int
    start_offsets: Mapping[Modality, int] = field(default_factory=dict)

    @cached_property
    def starts(self) -> dict[Modality, int]:
        """The step of the joint loop at which each output starts; the first one starts at 0."""
        return {m: self._start(m) for m in self.outputs}

    def _start(self, modality: Modality) -> int:
        """Return the step of the joint loop at which an output starts.

        It is the output's offset from the first one, but no later than the step at which all outputs with
        smaller offsets are finished: a pause in which nothing is denoised would be of no use.
        """
        offsets = {m: self.start_offsets.get(m, 0) for m in self.outputs}
        own = self.start_offsets.get(modality, 0)
        earlier = [m for m in self.outputs if offsets[m] < own]
        if not earlier:
            return 0
        finished = max(map(self._start, earlier)) + self.steps
        return min(own - min(offsets.values()), finished)

    @property
    def num_steps(self) -> int:
        """The number of steps of the joint loop until the last output is finished."""
        return self.steps + max(self.starts.values())

    def own_step(self, modality: Modality, index: int) -> int | None:
        """Return the step that an output takes at a step of the joint loop.

        Args:
            modality: the output.
            index: the step of the joint loop.

        Returns:
            the output's own step; None before it starts, `steps` once it is finished.
        """
        own = index - self.starts[modality]
        return None if own < 0 else min(own, self.steps)

    def active(self, index: int) -> list[Modality]:
        """Return the outputs that take a step at step `index` of the joint loop."""
        return [m for m in self.outputs if 0 <= index - self.starts[m] < self.steps]

    def visible(self, index: int) -> list[Modality]:
        """Return the outputs that have started at step `index` and that another, active one can attend to."""
        active = set(self.active(index))
        started = [m for m in self.outputs if index >= self.starts[m]]
        return [m for m in started if active - {m}]
