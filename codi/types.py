"""The values that every part of codi speaks in: modalities, their geometry, and the one error for a user's
mistake.

Letters used in shapes throughout: B batch, C channels, F frames, H W height and width, T audio frames,
M mel bands, L tokens, D width, S seconds.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EMBEDDED = "codi-tiny"  # name of the model inside the package
DTYPES = ("float32", "bfloat16", "float16")  # in which the networks of a model may compute


class Modality(str, Enum):
    """One kind of medium. Being a `str`, a member may be used wherever its lower-case name is expected."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def parse(cls, name: "str | Modality") -> "Modality":
        """The modality of that name. Raises `InputError` for a name that is none."""
        try:
            return cls(str(name).strip().lower())
        except ValueError:
            raise InputError(
                f"unknown modality {str(name)!r}: expected one of {', '.join(m.value for m in cls)}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class ModalitySpec:
    """Geometry of one modality in one model.

    raw_shape     one sample as the library passes it: image (3, H, W), video (F, 3, H, W), audio (samples,),
                  text ()
    latent_shape  one latent: image (C, H, W), video (C, F, H, W), audio (C, T, M), text (C,)
    rate          raw steps per second along time (frames/s, Hz); None where there is no time
    latent_rate   latent steps per second along time; None where there is no time
    """

    raw_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    rate: float | None = None
    latent_rate: float | None = None

    @property
    def duration(self) -> float | None:
        """Seconds of one raw sample, None where there is no time."""
        return None if self.rate is None else self.raw_shape[0] / self.rate


SIZED = {  # sizes of what is made, as arguments of a pipeline, and the outputs that have them
    "height": (Modality.IMAGE, Modality.VIDEO),
    "width": (Modality.IMAGE, Modality.VIDEO),
    "num_frames": (Modality.VIDEO,),
    "fps": (Modality.VIDEO,),
    "audio_length_in_s": (Modality.AUDIO, Modality.VIDEO),  # of a clip without sound, too
}

Latents = dict[Modality, "torch.Tensor"]


class InputError(ValueError):
    """Something a user gave cannot be used. The message says what came, what was expected and what to do.

    Commands print it as one line and exit with code 2.
    """


def listed(modalities: Iterable[Modality]) -> str:
    """For messages."""
    chosen = set(modalities)
    return ", ".join(m.value for m in Modality if m in chosen) or "nothing"


@contextmanager
def blame(origin: str) -> Iterator[None]:
    """Puts the origin of a job in front of an error inside it."""
    try:
        yield
    except InputError as error:
        if origin and str(error).startswith(origin):
            raise
        raise InputError(f"{origin}{error}") from error
