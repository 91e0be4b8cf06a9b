"""Start offsets let outputs that are generated together be at different noise levels.

The idea is that of asynchronous noise levels (arXiv 2303.06555, 2407.01392). An output with a start offset
begins later than the first, when its partners are further on and say more. Before it starts it is not visible
to the others; once finished it stays visible as a clean partner at timestep 0.

An output that starts from a medium (`codi.conditions.start`) enters its schedule at a later step of its own.
It takes that step when it would have taken it anyway, so that all end as without it, and until then it
stands at that noise level and is visible.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from codi.types import Modality

TOGETHER = 1e-3  # outputs whose noise levels are no further apart than this act together


class Timeline(ABC):
    """Which output takes which of its own steps at which step of the joint loop.

    Attributes:
        outputs: what is generated.
    """

    outputs: Collection[Modality]

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """The number of steps of the joint loop until the last output is finished."""

    @property
    @abstractmethod
    def starts(self) -> Mapping[Modality, int]:
        """The step of the joint loop at which each output starts."""

    @abstractmethod
    def own_steps(self, modality: Modality) -> int:
        """Return how many steps an output takes."""

    @abstractmethod
    def own_step(self, modality: Modality, index: int) -> int | None:
        """Return the step that an output takes next at a step of the joint loop.

        Args:
            modality: the output.
            index: the step of the joint loop.

        Returns:
            the output's own step; None before it starts, `own_steps` once it is finished.
        """

    @abstractmethod
    def active(self, index: int) -> list[Modality]:
        """Return the outputs that take a step at step `index` of the joint loop."""

    def progress(self, modality: Modality, index: int) -> float:
        """Return how much of its own schedule an active output has behind it, in [0, 1)."""
        return (self.own_step(modality, index) or 0) / self.own_steps(modality)

    def visible(self, index: int) -> list[Modality]:
        """Return the outputs that have started at step `index` and that another, active one can attend to."""
        active = set(self.active(index))
        started = [m for m in self.outputs if index >= self.starts[m]]
        return [m for m in started if active - {m}]


@dataclass(frozen=True, kw_only=True)
class EvenTimeline(Timeline):
    """The timeline of outputs that all have one schedule, and go down it side by side.

    Attributes:
        outputs: what is generated.
        steps: the number of steps of the schedule.
        start_offsets: steps after the first output at which an output starts; 0 for one that is not named. An
            output never waits longer than those need that start before it.
        first_steps: the own step at which an output enters the schedule; 0 for one that is not named. Steps
            of the joint loop at which nothing would act are left out.
    """

    outputs: Collection[Modality]
    steps: int
    start_offsets: Mapping[Modality, int] = field(default_factory=dict)
    first_steps: Mapping[Modality, int] = field(default_factory=dict)

    @cached_property
    def _whole_starts(self) -> dict[Modality, int]:
        """The step at which each output would start if all went down the whole schedule."""
        return {m: self._start(m) for m in self.outputs}

    @cached_property
    def _places(self) -> list[int]:
        """The steps, of the loop in which all go down the whole schedule, at which an output acts."""
        whole = self.steps + max(self._whole_starts.values())
        return [place for place in range(whole) if self._active_at(place)]

    def _active_at(self, place: int) -> list[Modality]:
        found = []
        for modality in self.outputs:
            own = place - self._whole_starts[modality]
            if self.first_steps.get(modality, 0) <= own < self.steps:
                found.append(modality)
        return found

    @cached_property
    def starts(self) -> dict[Modality, int]:
        """The step of the joint loop from which on each output is there; the first one starts at 0."""
        found = {}
        for modality, start in self._whole_starts.items():
            there = self.first_steps.get(modality, 0) > 0
            found[modality] = 0 if there else self._places.index(start)
        return found

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
        return len(self._places)

    def own_steps(self, modality: Modality) -> int:
        """Return how many steps the schedule of an output has, which are equally many for all."""
        return self.steps

    def own_step(self, modality: Modality, index: int) -> int | None:
        """Return the step that an output takes next at a step of the joint loop.

        Args:
            modality: the output.
            index: the step of the joint loop.

        Returns:
            the output's own step; None before it starts, `steps` once it is finished.
        """
        if index < self.starts[modality]:
            return None
        own = self._places[index] - self._whole_starts[modality]
        return min(max(own, self.first_steps.get(modality, 0)), self.steps)

    def active(self, index: int) -> list[Modality]:
        """Return the outputs that take a step at step `index` of the joint loop."""
        return self._active_at(self._places[index])


@dataclass(frozen=True, kw_only=True)
class LevelTimeline(Timeline):
    """The timeline of outputs whose schedules differ: at every step those act that are noisiest.

    In this way outputs are at about the same noise level at any time, whatever their schedules and numbers of
    steps are. The calls of the denoisers are as many as in any other order.

    Attributes:
        levels: for each output the noise levels of its own steps, from 1, nothing but noise, to 0, clean
            (`codi.diffusion.levels`).
        start_offsets: schedules after the first output at which an output starts; 0 for one that is not
            named. Where it is 0.5 the output starts when the first one has lost half of its noise level,
            and stays as far behind.
        first_steps: the own step at which an output enters its schedule; 0 for one that is not named.
    """

    levels: Mapping[Modality, Sequence[float]]
    start_offsets: Mapping[Modality, float] = field(default_factory=dict)
    first_steps: Mapping[Modality, int] = field(default_factory=dict)

    @property
    def outputs(self) -> list[Modality]:  # type: ignore[override]
        """What is generated."""
        return list(self.levels)

    @cached_property
    def _plan(self) -> list[dict[Modality, int]]:
        """The own step of each output before every step of the joint loop, and after the last."""
        taken = {m: self.first_steps.get(m, 0) for m in self.levels}
        plan = [dict(taken)]
        while unfinished := [m for m in self.levels if taken[m] < len(self.levels[m])]:
            noise = {m: self.levels[m][taken[m]] - self.start_offsets.get(m, 0.0) for m in unfinished}
            noisiest = max(noise.values())
            for modality in unfinished:
                if noise[modality] >= noisiest - TOGETHER:
                    taken[modality] += 1
            plan.append(dict(taken))
        return plan

    @property
    def num_steps(self) -> int:
        """The number of steps of the joint loop until the last output is finished."""
        return len(self._plan) - 1

    @cached_property
    def starts(self) -> dict[Modality, int]:
        """The step of the joint loop at which each output takes its first step.

        Outputs without an offset are there from the beginning, whenever their first step comes, and so are
        those that enter their schedule later.
        """
        least = min(self.start_offsets.get(m, 0.0) for m in self.levels)
        found = {}
        for modality in self.levels:
            enters_later = self.first_steps.get(modality, 0) > 0
            waits = self.start_offsets.get(modality, 0.0) > least and not enters_later
            found[modality] = self._first_step(modality) if waits else 0
        return found

    def _first_step(self, modality: Modality) -> int:
        return next(k for k in range(self.num_steps) if self._plan[k + 1][modality] > 0)

    def own_steps(self, modality: Modality) -> int:
        """Return how many steps the schedule of an output has."""
        return len(self.levels[modality])

    def own_step(self, modality: Modality, index: int) -> int | None:
        """Return the step that an output takes next; None before it starts, `own_steps` at the end."""
        return None if index < self.starts[modality] else self._plan[index][modality]

    def active(self, index: int) -> list[Modality]:
        """Return the outputs that take a step at step `index` of the joint loop."""
        before, after = self._plan[index], self._plan[index + 1]
        return [m for m in self.levels if after[m] > before[m]]
