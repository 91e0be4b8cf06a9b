"""The values that all parts of codi share: modalities, their geometry, and the error for a user's mistake.

Letters used in shapes throughout: B batch, C channels, F frames, H W height and width, T audio frames, M mel
bands, L tokens, D width, S seconds.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

EMBEDDED = "codi-tiny"  # name of the model inside the package
DTYPES = ("float32", "bfloat16", "float16")  # in which the networks of a model may compute
RESERVED = frozenset(  # names of options, of keys of jobs and of records, and of arguments beside modalities
    "id to as out jobs seed seeds samples steps candidates batch height width frames num_frames fps seconds "
    "num_samples num_inference_steps guidance_scale sync_guidance_scale audio_length_in_s written "
    "sampling_rate lengths sync latents embeds outputs generator guidance sync_guidance start_offset "
    "auxiliary_caption model device dtype scheduler lora words strict quiet defaults weight value selection "
    "settings origin clip "
    "others again overwrite run command owns_process region regions control control_from "
    "start strength keep keyframes keyframe canvas resample_steps source_prompt sources filter sign "
    "certificate key upscale".split()
)


class _Registry(type):
    """Lets a class be asked for its registered values as an `Enum` is for its members."""

    _members: dict[str, Any]

    def __iter__(cls) -> Iterator[Any]:
        """Iterate over the values in the order in which they were registered."""
        return iter(list(cls._members.values()))

    def __reversed__(cls) -> Iterator[Any]:
        """Iterate over the values in the opposite order."""
        return reversed(list(cls._members.values()))

    def __len__(cls) -> int:
        """Return how many values are registered."""
        return len(cls._members)

    def __contains__(cls, value: object) -> bool:
        """Return whether `value` is a registered value, or the name of one."""
        return isinstance(value, str) and value in cls._members

    def __getitem__(cls, name: str) -> Any:
        """Return the value that is the attribute `name` of the class. Raises `KeyError` if there is none."""
        for member in cls:
            if member.name == name:
                return member
        return cls._members[name]


class Modality(str, metaclass=_Registry):
    """One kind of medium; being a `str`, it may be used wherever its lower-case name is expected.

    There is one object for each name, so that modalities may be compared with `is`. Further ones are
    registered, as a rule with all that is known of them (`codi.modalities.register`).
    """

    __slots__ = ()
    _members: ClassVar[dict[str, "Modality"]] = {}
    TEXT: ClassVar["Modality"]
    IMAGE: ClassVar["Modality"]
    AUDIO: ClassVar["Modality"]
    VIDEO: ClassVar["Modality"]

    def __new__(cls, value: Any) -> "Modality":
        """Return the modality called `value`, or `value` itself. Raises `ValueError` if there is none."""
        if value not in cls:
            raise ValueError(f"{value!r} is not a valid {cls.__name__}")
        return cls._members[value]

    def __init_subclass__(cls, **options: Any) -> None:
        raise TypeError("Modality has no subclasses: expected Modality.register for another modality")

    @property
    def value(self) -> str:
        """The name of the modality as a plain `str`."""
        return str.__str__(self)

    @property
    def name(self) -> str:
        """The name of the attribute of this class that holds the modality, such as "TEXT"."""
        return self.value.upper()

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"<Modality.{self.name}: {self.value!r}>"

    def __copy__(self) -> "Modality":
        return self

    def __deepcopy__(self, memo: Any) -> "Modality":
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restore, (self.value,)

    @classmethod
    def parse(cls, name: "str | Modality") -> "Modality":
        """Return the modality of a name, which may be in any case and have spaces around it.

        Args:
            name: the name of a modality, or a modality.

        Returns:
            The modality.

        Raises:
            InputError: if there is no modality of that name.
        """
        try:
            return cls(str(name).strip().lower())
        except ValueError:
            raise InputError(
                f"unknown modality {str(name)!r}: expected one of {', '.join(m.value for m in cls)}"
            ) from None

    @classmethod
    def register(cls, name: str) -> "Modality":
        """Return the modality of a name, which is made if there was none.

        Args:
            name: the name, by which arguments, options and components are named as well: at most 40
                lower-case letters, digits and underscores, the first of them a letter.

        Returns:
            The modality.

        Raises:
            InputError: if the name is not of that kind, or stands for something else already.
        """
        if name in cls:
            return cls._members[name]
        usable = isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name)
        if not usable or name.startswith("negative_") or name in RESERVED or iskeyword(name):
            raise InputError(
                f"modality name {name!r}: expected at most 40 lower-case letters, digits and '_', beginning "
                "with a letter, and neither 'negative_...' nor what an argument is called already"
            )
        member = str.__new__(cls, name)
        cls._members[member.value] = member
        setattr(cls, member.name, member)
        return member

    @classmethod
    def forget(cls, modality: "Modality") -> None:
        """Undo `register`, for a modality that was needed for a while."""
        del cls._members[modality.value]
        delattr(cls, modality.name)


def _restore(name: str) -> Modality:
    """Return the modality that was pickled, also in a process that has not registered it."""
    return Modality.register(name)


for _name in ("text", "image", "audio", "video"):
    Modality.register(_name)


@dataclass(frozen=True, kw_only=True)
class ModalitySpec:
    """The geometry of one modality in one model.

    Attributes:
        raw_shape: one sample as the library passes it: image (3, H, W), video (F, 3, H, W), audio (samples,),
            text ().
        latent_shape: one latent: image (C, H, W), video (C, F, H, W), audio (C, T, M), text (C,) or (C, L).
        rate: raw steps per second along time (frames/s, Hz); None where there is no time.
        latent_rate: latent steps per second along time; None where there is no time.
    """

    raw_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    rate: float | None = None
    latent_rate: float | None = None

    @property
    def duration(self) -> float | None:
        """The duration of one raw sample in seconds; None where there is no time."""
        return None if self.rate is None else self.raw_shape[0] / self.rate

    @property
    def timed(self) -> tuple[float, float]:
        """The rate (frames/s, Hz) and the duration (seconds) of a modality that has time; ask no other."""
        assert self.rate is not None, "this modality has no time"
        return self.rate, self.raw_shape[0] / self.rate


# Sizes of what is made, as arguments of a pipeline; `codi.modalities.sized` says which outputs have them.
SIZES = ("height", "width", "num_frames", "fps", "audio_length_in_s")

Latents = dict[Modality, "torch.Tensor"]


class InputError(ValueError):
    """Says that something a user gave cannot be used: what came, what was expected and what to do.

    Commands print the message as one line and exit with code 2.
    """


class WriteError(InputError):
    """Says that a file cannot be written, so that going on with others would be in vain."""


def listed(modalities: Iterable[Modality]) -> str:
    """Return the names of modalities for a message, in the order of registration; "nothing" for none."""
    chosen = set(modalities)
    return ", ".join(m.value for m in Modality if m in chosen) or "nothing"


@contextmanager
def blame(origin: str) -> Iterator[None]:
    """Put the origin of a job in front of the message of any `InputError` that is raised inside."""
    try:
        yield
    except InputError as error:
        if origin and str(error).startswith(origin):
            raise
        raise InputError(f"{origin}{error}") from error
