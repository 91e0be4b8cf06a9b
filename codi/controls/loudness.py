"""Loudness: the level of a sound over time, in decibels of full scale."""

import math
from typing import TYPE_CHECKING, Any

from codi.controls.base import Target
from codi.controls.points import PARTS, Points

if TYPE_CHECKING:
    from torch import Tensor

    from codi.world import Scene

RANGE = 60.0  # decibels from silence to full scale


class Loudness(Points):
    """Levels at moments, between which they change evenly, or a recording that is followed."""

    name = "loudness"
    given_as = "decibels of full scale over time, such as 0:-40,0.5:-10, or a recording to follow"

    def channels(self, target: Target) -> int:
        """Return the levels of a step, and one that says it is on."""
        return PARTS + 1

    def value_of(self, value: Any) -> float:
        """Return decibels, 0 at most."""
        level = float(value)
        if not math.isfinite(level) or level > 0:
            raise ValueError(value)
        return level

    def measured(self, wave: "Tensor", rate: float) -> "Tensor":
        """Return the level of a sound."""
        from codi.controls.curves import loudness

        return loudness(wave, rate)

    def encoded(self, seconds: "Tensor", values: "Tensor", at: "Tensor") -> "Tensor":
        """Return levels from 0, for silence, to 1; beyond the first and the last point they stay."""
        import numpy as np
        import torch

        levels = np.interp(at.numpy(), seconds.numpy(), values.numpy())
        return (1 + torch.from_numpy(levels) / RANGE).clamp(0, 1)[None]

    def folded(self, channels: "Tensor", steps: int) -> "Tensor":
        """Return the levels of each step as channels, and ones."""
        import torch

        return torch.cat([channels.view(steps, PARTS).T, torch.ones(1, steps)])[None]

    def of_scene(self, scene: "Scene", target: Target) -> "Tensor":
        """Return the map of a scene's sound."""
        from codi.world import render_sounds

        return self._of_sound(render_sounds([scene])[0], 16000.0, target)
