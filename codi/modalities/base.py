"""What a modality is to the rest of codi: one class, of which every modality has an object.

Nothing else asks which modality it deals with; it asks the object. Heavy libraries are imported inside
methods, because the command reads names and sizes here before it knows what it needs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from codi.types import Modality, ModalitySpec

MARGIN = 0.5  # seconds read beyond a clip's length, for resampling at its end


class ModalityKind(ABC):
    """All that is known of one modality by name.

    A subclass states the attributes, in a class body, and the methods that have no default.

    Attributes:
        name: what it is called, in lower case; arguments, options and keys are called so as well.
        autoencoder: name of the pipeline's component that encodes and decodes it; likewise `tower` for its
            prompts and `denoiser`. Without any, NAME_autoencoder, NAME_tower, NAME_denoiser.
        field: name of the list in a `CoDiOutput`; without one, NAMEs.
        rate_field: name of the attribute of a `CoDiOutput` that holds its rate, if it has one of its own.
        suffix: of the file that a sample is written as.
        more_suffixes: of files that a sample may be written into besides, such as a clip with a new sound.
        sizes: names of those of `codi.types.SIZES` that it has.
        prompt_file: what a prompt's file may be, for `codi generate --help`.
        in_words: whether its prompts are sentences, and not files or arrays.
        takes_sound: whether a sound that is made for a file of it is written into that file as well.
        has_onsets: whether `onsets` finds moments in it, by which samples are told apart.
    """

    name: ClassVar[str]
    autoencoder: ClassVar[str] = ""
    tower: ClassVar[str] = ""
    denoiser: ClassVar[str] = ""
    field: ClassVar[str] = ""
    rate_field: ClassVar[str | None] = None
    suffix: ClassVar[str]
    more_suffixes: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[tuple[str, ...]] = ()
    prompt_file: ClassVar[str] = "any"
    in_words: ClassVar[bool] = False
    takes_sound: ClassVar[bool] = False
    has_onsets: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Names components and field after the modality where the class does not."""
        super().__init_subclass__(**options)
        for part in ("autoencoder", "tower", "denoiser"):
            if not getattr(cls, part):
                setattr(cls, part, f"{cls.name}_{part}")
        if not cls.field:
            cls.field = f"{cls.name}s"

    @property
    def modality(self) -> Modality:
        """The modality that this is all about."""
        return Modality(self.name)

    @property
    def components(self) -> tuple[str, str, str]:
        """Names of the pipeline's components that serve it."""
        return self.tower, self.denoiser, self.autoencoder

    # Geometry

    @abstractmethod
    def describe(self, autoencoder: Any, denoiser: Any | None) -> ModalitySpec | None:
        """Returns its geometry in a model with this autoencoder; None where that takes a denoiser that is not
        there.
        """

    def serves(self, denoiser: Any) -> bool:
        """Returns whether the component `denoiser` makes this modality: several may share one."""
        return True

    def resized(
        self, spec: ModalitySpec, sizes: Mapping[str, Any], autoencoder: Any, denoiser: Any | None
    ) -> ModalitySpec:
        """Returns its geometry with the named sizes, of which None leaves the model's own.

        Raises `InputError` for a size that these parts cannot make.
        """
        return spec

    def sizes_of(self, spec: ModalitySpec) -> dict[str, Any]:
        """Returns the sizes of a geometry, by the names that `sizes` lists."""
        return {}

    def size_in_words(self, spec: ModalitySpec) -> list[str]:
        """Returns what can be chosen of a geometry, in words: pixels, then time."""
        return []

    def trimmed(self, raw: Any, spec: ModalitySpec) -> Any:
        """Returns decoded media (B, ...) cut to `spec`, which a latent may reach beyond."""
        return raw

    # Prompts

    def is_part(self, value: Any) -> bool:
        """Returns whether a value is one of several that make one prompt together, in a list."""
        return False

    @abstractmethod
    def prepare(self, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
        """Returns one prompt as the model takes it: a sentence, or a float tensor of `spec.raw_shape`.

        Args:
            value: what a user gave: a path, bytes, or whatever form of it this modality takes.
            spec: the model's geometry; None only where `in_words`.
            padded: whether what is too short is filled up; False: it keeps its own length, if it has one.

        Raises `InputError` for what is no prompt of this kind.
        """

    def check_file(self, path: str | Path, seconds: float) -> None:
        """Raises `InputError` unless the file can serve as a prompt; decodes no more than `seconds` of it."""
        from codi import io

        io.check_prompt(path, self.modality, seconds)

    def check_heard(self, path: str | Path, spec: ModalitySpec) -> None:
        """Raises `InputError` for a file that says nothing in the part of it that the model takes."""
        return None

    # Outputs

    @abstractmethod
    def formatted(self, raw: Any, output_type: str) -> list[Any]:
        """Returns decoded media (B, ...) as a list in the form of `output_type`: "pil", "pt" or "np"."""

    @abstractmethod
    def write(self, out: Any, stem: Path, k: int) -> Path:
        """Writes sample `k` of a `CoDiOutput` to the path `stem` with a suffix added; returns that path."""

    def path(self, stem: Path) -> Path:
        """Returns the path of the file beside others that are called `stem`."""
        return stem.with_name(stem.name + self.suffix)

    def onsets(self, raw: Any, rate: float) -> Any:
        """Returns the seconds (K,) of the moments in one raw sample; only where `has_onsets`."""
        raise NotImplementedError(f"{self.name} has no onsets")
