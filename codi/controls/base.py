"""The contract of a kind of control, and what several kinds share.

Letters: B batch, K channels of a control's map, S steps along time, F frames, H W, D width of the prompt
space.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from codi.border import check_address, plain
from codi.types import InputError, Modality, ModalitySpec

if TYPE_CHECKING:
    from torch import Tensor

    from codi.world import Scene


@dataclass(frozen=True, kw_only=True)
class Target:
    """The output that is steered.

    Attributes:
        modality: what it is.
        spec: its geometry in this call.
        dim: D, the width of the prompt space.
        embed: turns sentences into tokens (n, D) of the prompt space; None where there is no text tower.
    """

    modality: Modality
    spec: ModalitySpec
    dim: int = 0
    embed: "Callable[[list[str]], Tensor] | None" = None

    @property
    def grid(self) -> tuple[int, ...]:
        """The extent of the latent: (H, W), (F, H, W) or (T, M)."""
        return self.spec.latent_shape[1:]

    @property
    def steps(self) -> int:
        """S, the latent steps along time; ask only what has time."""
        assert self.spec.latent_rate is not None, f"{self.modality} has no time"
        return self.grid[0]

    @property
    def factor(self) -> int:
        """The pixels of a side for which one place of the latent stands; ask only what has pixels."""
        return self.spec.raw_shape[-1] // self.spec.latent_shape[-1]

    @property
    def num_frames(self) -> int | None:
        """F, the frames of a clip; None for a picture."""
        return self.grid[0] if len(self.grid) == 3 else None


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlMap:
    """A control that was rendered already, as `CoDiPipeline.render_control` returns it.

    Attributes:
        map: (B, K, ...), B being one or the number of samples.
    """

    map: "Tensor"


class ControlKind(ABC):
    """One kind of control: what a user gives, and the map that a branch reads.

    A subclass states the attributes in its class body.

    Attributes:
        name: what it is called, in lower case.
        timed: whether its map is a signal along time, (1, K, S), and not one over space, (1, K, H, W) or
            (1, K, F, H, W).
        shared: whether it says the same of all outputs of a call, so that two of them cannot differ in it.
        given_as: what a user gives, for messages and help.
    """

    name: ClassVar[str]
    timed: ClassVar[bool]
    shared: ClassVar[bool] = False
    given_as: ClassVar[str]

    def fits(self, spec: ModalitySpec) -> bool:
        """Return whether an output of this geometry can be steered by it: it has time, or it has pixels."""
        return spec.latent_rate is not None if self.timed else len(spec.raw_shape) >= 3

    @abstractmethod
    def channels(self, target: Target) -> int:
        """Return K, the channels of its map."""

    @abstractmethod
    def parse(self, value: Any, folder: Path = Path()) -> Any:
        """Return what a user gave in its plain form, which a record can hold if it is not in memory alone.

        Args:
            value: as a user gives it: a text, or what JSON or Python holds.
            folder: where relative names of files start.

        Returns:
            The plain form, which `parse` returns as it is.

        Raises:
            InputError: for what is none of this kind.
        """

    def check(self, value: Any, spec: ModalitySpec) -> None:
        """Raise `InputError` for a value in its plain form that does not fit the geometry of an output."""
        return None

    @abstractmethod
    def render(self, value: Any, target: Target) -> "Tensor":
        """Return the map of a value in its plain form, float32 (1, K, ...)."""

    @abstractmethod
    def of_scene(self, scene: "Scene", target: Target) -> "Tensor":
        """Return the map (1, K, ...) that a scene of the world has."""

    @abstractmethod
    def of_media(self, raw: "Tensor", target: Target) -> "Tensor":
        """Compute the map of one raw sample.

        Args:
            raw: the sample, of `spec.raw_shape`.
            target: the output that it is of.

        Returns:
            The map, float32 (1, K, ...).

        Raises:
            InputError: where it cannot be computed of such media.
        """

    def wrong(self, value: Any) -> InputError:
        """Return the error for a value that is none of this kind."""
        shown = repr(value)
        return InputError(
            f"control {self.name} is {shown if len(shown) <= 80 else shown[:80] + '...'}: expected "
            f"{self.given_as}"
        )


# What several kinds share ----------------------------------------------


def as_file(value: Any, folder: Path) -> dict[str, str] | None:
    """Return the file that a value names, as records hold it; None for a value that names none.

    Args:
        value: a path, or {"path": ..., "sha256": ...} from a record.
        folder: where relative paths start.

    Returns:
        {"path": ..., "sha256": ...}.

    Raises:
        InputError: for a file that is not there; one that has changed since it was recorded is a note.
    """
    known = None
    if isinstance(value, Mapping) and set(value) == {"path", "sha256"}:
        value, known = value["path"], value["sha256"]
    if not isinstance(value, (str, Path)):
        return None
    import warnings

    from codi import io

    check_address(str(value))
    path = str(value) if known is not None else str(folder / value)
    io.check_file(path)
    digest = io.sha256_of(path)
    if known not in (None, digest):
        warnings.warn(f"{path} has changed since it was recorded as a control", stacklevel=3)
    return {"path": path, "sha256": digest}


def is_json(value: Any) -> bool:
    """Return whether a value is made of what JSON has."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_json(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    return value is None or isinstance(value, (str, bool, int, float))


def as_plain(value: Any) -> Any:
    """Return numbers of numpy and torch as Python's, without importing either where there are none."""
    found = list(value) if isinstance(value, tuple) else value
    return found if is_json(found) else plain(found)


def numbers(value: Any) -> list[float] | None:
    """Return finite numbers of Python, numpy or torch, or those in a text such as "0.3,0.9"; else None."""
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            return None
    value = as_plain(value)
    if not isinstance(value, (list, tuple)):
        return None
    if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in value):
        return None
    return [float(each) for each in value] if all(map(math.isfinite, value)) else None


def check_within(name: str, seconds: Sequence[float], spec: ModalitySpec, what: str) -> None:
    """Raise `InputError` for a time that is not within what is made, from 0 to its length in seconds."""
    length = spec.timed[1]
    for time in seconds:
        if not 0 <= time <= length:
            raise InputError(
                f"control {name} names {time:g} s, and the {what} lasts {length:g} s: expected times from 0 "
                f"to {length:g}"
            )


def unshuffled(pixels: "Tensor", target: Target) -> "Tensor":
    """Return pixels (F, C, H, W) as channels of the places of the latent, (1, C factor^2, [F,] h, w)."""
    from torch.nn import functional

    places = functional.pixel_unshuffle(pixels, target.factor)
    return over_frames(places, target)


def over_frames(maps: "Tensor", target: Target) -> "Tensor":
    """Return maps (F, K, h, w) as one of a clip, (1, K, F, h, w), or of a picture, (1, K, h, w)."""
    return maps if target.num_frames is None else maps.transpose(0, 1)[None]
