"""The control: what a sketch, a layout, beats or a melody add to the features inside a denoiser.

A branch beside the frozen denoiser makes it of the control once for all steps (T2I-Adapter, arXiv
2302.08453), and starts at zero (ControlNet, arXiv 2302.05543).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from codi.conditions.base import Condition, LoopCondition, Mechanism
from codi.diffusion.guidance import Branch
from codi.protocols import Control


@dataclass(frozen=True, kw_only=True)
class Steering:
    """One control of one output, and when it acts.

    Attributes:
        control: what it adds; its weight is in that.
        interval: the fractions [from, to) of the output's schedule in which it acts.
    """

    control: Control
    interval: tuple[float, float] = (0.0, 1.0)

    def acts(self, progress: float) -> bool:
        """Return whether it acts when this fraction of the schedule has passed, in [0, 1)."""
        first, last = self.interval
        return first <= progress < last


@dataclass(frozen=True, kw_only=True)
class ControlCondition(Condition):
    """The controls of an output, which act in every branch alike, so that guidance leads away from none."""

    def batch(self, branches: Sequence[Branch], values: Sequence[Sequence[Control]]) -> tuple[Control, ...]:
        """Return the controls, which are the same in all branches; none where nothing acts.

        Args:
            branches: the branches of one call of the denoiser.
            values: the controls in each branch.

        Returns:
            what the denoiser is given.
        """
        assert all(value is values[0] for value in values), "a control acts in all branches or in none"
        return tuple(values[0])


CONTROL = ControlCondition(
    name="control",
    mechanism=Mechanism.ADDITION,
    null="no control: nothing is added",
)


@dataclass(kw_only=True)
class Steered(LoopCondition):
    """All controls of one output in one generation.

    Attributes:
        controls: what steers it.
    """

    name: ClassVar[str] = CONTROL.name
    controls: Sequence[Steering]

    def inputs(self, progress: float) -> Mapping[str, Any]:
        """Return the controls that act by now; none at all where there are none."""
        acting = [each.control for each in self.controls if each.acts(progress)]
        return {self.name: acting} if acting else {}
