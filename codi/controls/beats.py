"""Beats: the seconds at which something happens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.controls.base import ControlKind, Target, check_within, numbers
from codi.types import InputError, ModalitySpec

if TYPE_CHECKING:
    from torch import Tensor

    from codi.world import Scene

PARTS = 8  # parts of a latent step in which a beat is placed
FADES = (0.06, 0.2, 0.6)  # seconds in which the memory of the last beat, and the wait for the next one, fade


class Beats(ControlKind):
    """A grid of beats, which clips and sounds share."""

    name = "beats"
    timed = True
    shared = True
    given_as = "the seconds of at least one beat, such as 0.3,0.9,1.5"

    def channels(self, target: Target) -> int:
        """Return the parts of a step, how near the last and the next beat are, and one that says it is on."""
        return PARTS + 2 * len(FADES) + 1

    def parse(self, value: Any, folder: Path = Path()) -> list[float]:
        """Return seconds in order; one that comes twice is refused."""
        found = numbers(value)
        if not found:
            raise self.wrong(value)
        for time in found:
            if found.count(time) > 1:
                raise InputError(f"control beats names {time:g} s twice: expected every beat once")
        return sorted(found)

    def check(self, value: Any, spec: ModalitySpec) -> None:
        """Raise `InputError` for a beat that is not within what is made."""
        check_within(self.name, value, spec, "output")

    def render(self, value: Any, target: Target) -> "Tensor":
        """Return where in its step each beat lies, and how near the beats around each step are."""
        import torch

        rate, steps = target.spec.latent_rate, target.steps
        assert rate is not None, "a latent of what has time has a rate"
        times = torch.tensor(value, dtype=torch.float64)
        parts = torch.zeros(steps * PARTS)
        place = (times * rate * PARTS - 0.5).clamp(0, steps * PARTS - 1)
        low = place.floor().long()
        share = (place - low).float()
        parts.index_add_(0, low, 1 - share)
        parts.index_add_(0, (low + 1).clamp(max=steps * PARTS - 1), share)
        apart = times[None] - (torch.arange(steps, dtype=torch.float64) / rate)[:, None]  # (S, N) seconds
        infinite = torch.tensor(torch.inf, dtype=torch.float64)
        later = torch.where(apart > 0, apart, infinite).amin(1)
        since = torch.where(apart <= 0, -apart, infinite).amin(1)
        fades = [(-wait / fade).exp().float() for wait in (since, later) for fade in FADES]
        placed = parts.view(steps, PARTS).T
        return torch.cat([placed, torch.stack(fades), torch.ones(1, steps)])[None]

    def of_scene(self, scene: "Scene", target: Target) -> "Tensor":
        """Return the map of the events of a scene that lie within what is made."""
        from codi.world import events

        length = target.spec.timed[1]
        return self.render([time for time, _ in events(scene) if time <= length], target)

    def of_media(self, raw: "Tensor", target: Target) -> "Tensor":
        """Return the map of the onsets in a clip or a sound."""
        from codi.modalities import kind_of

        rate, length = target.spec.timed
        found = kind_of(target.modality).onsets(raw, rate)
        return self.render([time for time in found.tolist() if 0 <= time <= length], target)
