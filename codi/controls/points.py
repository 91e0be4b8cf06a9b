"""What loudness and melody share: a value over time, given as points or as a recording.

Letters: N points, S steps along time.
"""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.controls.base import ControlKind, Target, as_file, as_plain, check_within
from codi.types import InputError, ModalitySpec

if TYPE_CHECKING:
    from torch import Tensor

PARTS = 4  # points of a latent step at which the value is read
MARGIN = 0.5  # seconds of a recording that are read beyond what is made


class Points(ControlKind):
    """A value over time: points (seconds, value), or a recording of which it is measured."""

    timed = True

    @abstractmethod
    def value_of(self, value: Any) -> float:
        """Return the value of a point as a number; raise `ValueError` or `TypeError` for what is none."""

    @abstractmethod
    def measured(self, wave: "Tensor", rate: float) -> "Tensor":
        """Return its values (T,) in a sound (samples,) of `rate` Hz, a `curves.HOP` apart."""

    @abstractmethod
    def encoded(self, seconds: "Tensor", values: "Tensor", at: "Tensor") -> "Tensor":
        """Return the channels (K, S * PARTS) at times `at` (S * PARTS,) of points (N,) in order."""

    def parse(self, value: Any, folder: Path = Path()) -> Any:
        """Return points as [seconds, value] in order, or the file of a recording, or one in memory."""
        value = self._from_text(value)
        if (file := as_file(value, folder)) is not None:
            return file
        if not isinstance(value, (list, tuple)) or not value:
            return self._in_memory(value)
        try:
            points = sorted([float(second), self.value_of(each)] for second, each in as_plain(value))
        except (TypeError, ValueError):
            return self._in_memory(value)
        for one, other in zip(points, points[1:]):
            if one[0] == other[0]:
                raise InputError(
                    f"control {self.name} names {one[0]:g} s twice: expected one value at a time"
                )
        return points

    def _from_text(self, value: Any) -> Any:
        """Return the points in a text such as "0:-20,0.5:-6"; anything else as it is."""
        if not isinstance(value, str) or ":" not in value:
            return value
        pairs = [part.partition(":")[::2] for part in value.split(",")]
        try:
            return [[float(second), each.strip()] for second, each in pairs]
        except ValueError:  # such as the name of a file with a colon in it
            return value

    def _in_memory(self, value: Any) -> Any:
        """Return a recording in memory, any form of it that a prompt may have; refuse what is none."""
        from codi import media

        try:
            media.load_sound(value, 16000.0, 1.0)
        except InputError:
            raise self.wrong(value) from None
        return value

    def check(self, value: Any, spec: ModalitySpec) -> None:
        """Raise `InputError` for a point that is not within what is made."""
        if is_points(value):
            check_within(self.name, [second for second, _ in value], spec, "output")

    def render(self, value: Any, target: Target) -> "Tensor":
        """Return the values of each step, and a channel that says that there are any."""
        import torch

        if is_points(value):
            seconds, values = torch.tensor(value, dtype=torch.float64).T.contiguous()
            return self._map(seconds, values, target)
        from codi import media

        source = value["path"] if isinstance(value, dict) and "path" in value else value
        wave, rate = media.load_sound(source, 16000.0, target.spec.timed[1] + MARGIN)
        return self._of_sound(wave, rate, target)

    def of_media(self, raw: "Tensor", target: Target) -> "Tensor":
        """Return the map of a sound; a clip has none of its own."""
        if raw.ndim != 1:
            raise InputError(
                f"control {self.name} is measured in sounds: expected audio among the media, not a "
                f"{target.modality} alone"
            )
        return self._of_sound(raw, target.spec.timed[0], target)

    def _of_sound(self, wave: "Tensor", rate: float, target: Target) -> "Tensor":
        """Return the map of a sound (samples,) of `rate` Hz."""
        import torch

        from codi.controls.curves import HOP

        values = self.measured(wave, rate).double()
        return self._map(torch.arange(len(values), dtype=torch.float64) * HOP, values, target)

    def _map(self, seconds: "Tensor", values: "Tensor", target: Target) -> "Tensor":
        """Return the map (1, K, S) of points (N,)."""
        import torch

        steps, rate = target.steps, target.spec.latent_rate
        assert rate is not None, "a latent of what has time has a rate"
        at = (torch.arange(steps * PARTS, dtype=torch.float64) + 0.5) / (rate * PARTS)
        return self.folded(self.encoded(seconds, values, at).float(), steps)

    @abstractmethod
    def folded(self, channels: "Tensor", steps: int) -> "Tensor":
        """Return channels (K, S * PARTS) as those of whole steps, (1, K', S)."""


def is_points(value: Any) -> bool:
    """Return whether a value is points in their plain form, and not a recording."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], list) and len(value[0]) == 2
