"""Melody: the pitch of a sound over time."""

import math
import re
from typing import TYPE_CHECKING, Any

from codi.controls.base import Target
from codi.controls.points import PARTS, Points

if TYPE_CHECKING:
    from torch import Tensor

    from codi.world import Scene

LOWEST = 55.0  # Hz, the A below the bass
SEMITONES = 73  # from there up, six octaves
NOTE = re.compile(r"([A-Ga-g])([#b]?)(-?\d)")
STEP_OF = {"c": -9, "d": -7, "e": -5, "f": -4, "g": -2, "a": 0, "b": 2}  # semitones above the A
HEARD = 0.1  # of its amplitude at which a note of the world has died away


class Melody(Points):
    """Notes, each of which lasts until the next begins, or a recording whose pitch is followed."""

    name = "melody"
    given_as = "notes or Hz over time, such as 0:A4,0.5:523,1:0 (0 is silence), or a recording to follow"

    def channels(self, target: Target) -> int:
        """Return one channel for each semitone, one for silence, and one that says it is on."""
        return SEMITONES + 2

    def value_of(self, value: Any) -> float:
        """Return Hz, of a number or of a note such as "C#5"; 0 for silence."""
        found = NOTE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is not None:
            letter, sign, octave = found[1].lower(), found[2], int(found[3])
            above = STEP_OF[letter] + {"#": 1, "b": -1, "": 0}[sign] + 12 * (octave - 4)
            return 440.0 * 2 ** (above / 12)
        hz = 0.0 if value is None else float(value)
        top = LOWEST * 2 ** ((SEMITONES - 1) / 12)
        if not math.isfinite(hz) or not (hz == 0 or LOWEST <= hz <= top):
            raise ValueError(value)
        return hz

    def measured(self, wave: "Tensor", rate: float) -> "Tensor":
        """Return the pitch of a sound."""
        from codi.controls.curves import pitch

        return pitch(wave, rate)

    def encoded(self, seconds: "Tensor", values: "Tensor", at: "Tensor") -> "Tensor":
        """Return how much each semitone sounds; a pitch between two of them is shared by both."""
        import torch

        latest = torch.searchsorted(seconds, at, right=True) - 1
        hz = torch.where(latest >= 0, values[latest.clamp_min(0)], 0.0)
        sounding = hz > 0
        place = (12 * (hz.clamp_min(LOWEST) / LOWEST).log2()).clamp(0, SEMITONES - 1)
        apart = (place[None] - torch.arange(SEMITONES)[:, None]).abs()
        bins = (1 - apart).clamp_min(0) * sounding
        return torch.cat([bins, (~sounding).double()[None]])

    def folded(self, channels: "Tensor", steps: int) -> "Tensor":
        """Return the means over each step, and ones."""
        import torch

        means = channels.unflatten(1, (steps, PARTS)).mean(2)
        return torch.cat([means, torch.ones(1, steps)])[None]

    def of_scene(self, scene: "Scene", target: Target) -> "Tensor":
        """Return the map of a scene's notes: from each event until its note has died away."""
        import torch

        from codi.world import COLOURS, events
        from codi.world.sound import F0, TIMBRES

        hz = float(F0[COLOURS.index(scene.colour)])
        lasts = -TIMBRES[scene.shape].decay * math.log(HEARD)
        points = [(0.0, 0.0)]
        for time, _ in events(scene):
            # a note that still sounds when the next begins goes on
            points = [point for point in points if point[0] < time] + [(time, hz), (time + lasts, 0.0)]
        seconds, values = torch.tensor(points, dtype=torch.float64).T.contiguous()
        return self._map(seconds, values, target)
