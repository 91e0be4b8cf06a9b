"""What a modality is to the rest of codi: one class, of which every modality has an object.

Nothing else asks which modality it deals with; it asks the object. Heavy libraries are imported inside
methods, because the command line reads names and sizes here before it knows what it needs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from codi.types import InputError, Modality, ModalitySpec

MARGIN = 0.5  # seconds read beyond a clip's length, for resampling at its end


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which part of a media file a training sample is.

    Attributes:
        start: the second of the file at which it begins.
        end: the second of the file from which on nothing belongs to it; None for the end of the file.
        crop: (side as a share of the shorter side, place from left, place from top), all in [0, 1]; None for
            the central square.
        flip: whether pixels are mirrored.
        backend: which library decodes clips, "decord" or "av".
        fit: what is done with pixels of another aspect ratio (`codi.io.fit_image`).
        colour: red, green and blue of what pads pixels, 0 to 255 each.
    """

    start: float = 0.0
    end: float | None = None
    crop: tuple[float, float, float] | None = None
    flip: bool = False
    backend: Literal["decord", "av"] = "decord"
    fit: Literal["crop", "pad", "stretch"] = "crop"
    colour: tuple[int, int, int] = (0, 0, 0)


# Of each axis of a raw shape, the first step that is content, and the one after the last.
Content = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Padded:
    """A training sample of which a part is padding: silence, a held frame, a plain ground.

    Attributes:
        value: the sample, of the whole raw shape.
        content: of each axis, from where to where it is content.
    """

    value: Any
    content: Content


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What a file of a data set is compared by, to find duplicates (`codi.io.likeness`).

    Attributes:
        digest: the sha256 of what is decoded.
        hashes: one or several hashes of 64 bits, which differ little between files that are nearly the same.
        coarse: (K,) float32, features of which none may differ by more than 1 between such files.
        seconds: the length; None without time.
    """

    digest: str
    hashes: tuple[int, ...] = ()
    coarse: Any = None
    seconds: float | None = None


def shortened(found: Any, axis: int, count: int) -> Any:
    """Return a sample of which only the first `count` steps along an axis are content, as `Padded`.

    Args:
        found: the sample, a tensor or `Padded`.
        axis: the axis.
        count: the number of steps, at least one.

    Returns:
        The sample as it came where all of its steps are content.
    """
    value = found.value if isinstance(found, Padded) else found
    if count >= value.shape[axis]:
        return found
    content = found.content if isinstance(found, Padded) else tuple((0, size) for size in value.shape)
    kept = (content[axis][0], max(1, count))
    return Padded(value=value, content=(*content[:axis], kept, *content[axis + 1 :]))


class ModalityKind(ABC):
    """All that is known of one modality by name.

    A subclass states the attributes in its class body, and defines the methods that have no default.

    Attributes:
        name: what it is called, in lower case; arguments, options and keys are called so as well.
        autoencoder: the name of the pipeline's component that encodes and decodes it; NAME_autoencoder if it
            is not given.
        tower: the name of the component that encodes its prompts; NAME_tower if it is not given.
        denoiser: the name of the component that denoises it; NAME_denoiser if it is not given.
        upscaler: the name of the component that makes it larger once it is decoded; none if it is empty.
        field: the name of the list in a `CoDiOutput`; NAMEs if it is not given.
        rate_field: the name of the attribute of a `CoDiOutput` that holds its rate, if it has one of its own.
        suffix: the suffix of the file as which a sample is written.
        more_suffixes: those of other files into which a sample may be written, such as a clip with a new
            sound.
        sizes: the names of those of `codi.types.SIZES` that it has.
        prompt_file: what a prompt's file may be, for `codi generate --help`.
        in_words: whether its prompts are sentences, and not files or arrays.
        regions: the kinds of regions of it that can be kept (`codi.edits.KeptPart`), besides the whole of it.
        takes_sound: whether a sound that is made for a file of it is written into that file as well.
        has_onsets: whether `onsets` finds moments in it, by which samples are told apart.
        data_suffixes: what files of it in a data set may end in, the first in a shard of our own.
        geometry_keys: what a training configuration says of its geometry (`geometry_of`).
        carries: names of the modalities that a file of it may hold as well, as a clip holds its sound.
        dtype: of its raw samples in training: "uint8" of pixels, else "float32".
        latent_axes: of each axis of its raw shape, the axis of its latent shape that runs along it; None
            where there is none. With it the padding of a sample is found in its latent.
        classes: "module:Class" of the components that are trained for it, by their names.
        sequence_classes: the same for those that are others where its latents are sequences (C, L).
        made_by: which stages make these components, by their names; for messages.
        aligned: the components that its alignment with text trains anew (`training.stages.align`).
        bridge: the attribute of its tower that holds its bridge to text.
        sampling: what a new model says of it in settings that each output has for itself: "guidance_scale",
            "sync_guidance_scale", and "start_offset", in schedules (`codi.settings.DEFAULTS`).
    """

    name: ClassVar[str]
    autoencoder: ClassVar[str] = ""
    tower: ClassVar[str] = ""
    denoiser: ClassVar[str] = ""
    upscaler: ClassVar[str] = ""
    field: ClassVar[str] = ""
    rate_field: ClassVar[str | None] = None
    suffix: ClassVar[str]
    more_suffixes: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[tuple[str, ...]] = ()
    prompt_file: ClassVar[str] = "any"
    in_words: ClassVar[bool] = False
    regions: ClassVar[tuple[str, ...]] = ()
    takes_sound: ClassVar[bool] = False
    has_onsets: ClassVar[bool] = False
    data_suffixes: ClassVar[tuple[str, ...]] = ()
    geometry_keys: ClassVar[tuple[str, ...]] = ()
    carries: ClassVar[tuple[str, ...]] = ()
    dtype: ClassVar[str] = "float32"
    latent_axes: ClassVar[tuple[int | None, ...]] = ()
    classes: ClassVar[Mapping[str, str]] = {}
    sequence_classes: ClassVar[Mapping[str, str]] = {}
    made_by: ClassVar[Mapping[str, str]] = {}
    aligned: ClassVar[tuple[str, ...]] = ()
    bridge: ClassVar[str] = "bridge"
    sampling: ClassVar[Mapping[str, float]] = {"guidance_scale": 3.0}

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the components and the field after the modality where the class does not."""
        super().__init_subclass__(**options)
        for part in ("autoencoder", "tower", "denoiser"):
            if not getattr(cls, part):
                setattr(cls, part, f"{cls.name}_{part}")
        if not cls.field:
            cls.field = f"{cls.name}s"

    @property
    def modality(self) -> Modality:
        """The modality that this object describes."""
        return Modality(self.name)

    @property
    def components(self) -> tuple[str, str, str]:
        """The names of the pipeline's components that serve it: tower, denoiser and autoencoder."""
        return self.tower, self.denoiser, self.autoencoder

    @property
    def spatial(self) -> bool:
        """Whether the last two axes of its media are places."""
        return "box" in self.regions

    # Geometry

    @abstractmethod
    def describe(self, autoencoder: Any, denoiser: Any | None) -> ModalitySpec | None:
        """Return its geometry in a model with these parts.

        Args:
            autoencoder: the component that encodes and decodes it.
            denoiser: the component that denoises it; None if the model has none.

        Returns:
            the geometry; None where it depends on a denoiser that is not there.
        """

    def serves(self, denoiser: Any) -> bool:
        """Return whether the component `denoiser` makes this modality: several may share one."""
        return True

    def resized(
        self, spec: ModalitySpec, sizes: Mapping[str, Any], autoencoder: Any, denoiser: Any | None
    ) -> ModalitySpec:
        """Return its geometry with other sizes.

        Args:
            spec: the model's own geometry.
            sizes: sizes by name, of which None leaves the model's own.
            autoencoder: the component that encodes and decodes it.
            denoiser: the component that denoises it; None if the model has none.

        Returns:
            the new geometry.

        Raises:
            InputError: these parts cannot make such a size.
        """
        return spec

    def sizes_of(self, spec: ModalitySpec) -> dict[str, Any]:
        """Return the sizes of a geometry, by the names that `sizes` lists."""
        return {}

    def size_in_words(self, spec: ModalitySpec) -> list[str]:
        """Return what can be chosen of a geometry, in words: pixels, then time."""
        return []

    def trimmed(self, raw: Any, spec: ModalitySpec) -> Any:
        """Return decoded media (B, ...) cut to `spec`, beyond which a latent may reach."""
        return raw

    # Prompts

    def is_part(self, value: Any) -> bool:
        """Return whether a value is one of several in a list that make one prompt together."""
        return False

    @abstractmethod
    def prepare(self, value: Any, spec: ModalitySpec | None, padded: bool = True) -> Any:
        """Return one prompt as the model takes it.

        Args:
            value: what a user gave: a path, bytes, or whatever form of it this modality takes.
            spec: the model's geometry; None only where `in_words`.
            padded: whether what is too short is filled up; with False it keeps its own length, if it has one.

        Returns:
            a sentence, or a float tensor of `spec.raw_shape`.

        Raises:
            InputError: the value is no prompt of this kind.
        """

    def prepare_frame(self, value: Any, spec: ModalitySpec) -> Any:
        """Return a picture as one frame, (3, H, W) in [-1, 1]; only where frames are `regions`."""
        raise NotImplementedError(f"{self.name} has no frames")

    def own_size(self, value: Any, spec: ModalitySpec) -> tuple[int, int]:
        """Return the height and width in pixels that a prompt's value itself has; only where `spatial`."""
        raise NotImplementedError(f"{self.name} has no pixels")

    def check_file(self, path: str | Path, seconds: float) -> None:
        """Raise `InputError` unless the file can serve as a prompt; decode no more than `seconds` of it."""
        from codi import io

        io.check_prompt(path, self.modality, seconds)

    def check_heard(self, path: str | Path, spec: ModalitySpec) -> None:
        """Raise `InputError` for a file that says nothing in the part of it that the model takes."""
        return None

    # Outputs

    @abstractmethod
    def formatted(self, raw: Any, output_type: str) -> list[Any]:
        """Return decoded media (B, ...) as a list in the form of `output_type`: "pil", "pt" or "np"."""

    @abstractmethod
    def write(self, out: Any, stem: Path, k: int) -> Path:
        """Write one sample of an output into a file.

        Args:
            out: the `CoDiOutput`.
            stem: the path of the file without its suffix.
            k: which sample.

        Returns:
            the path of the file.
        """

    def shown(self, out: Any, k: int) -> str:
        """Return one sample of an output as HTML, for a notebook; by default as words.

        Args:
            out: the `CoDiOutput`.
            k: which sample.

        Returns:
            a piece of HTML in which all text is escaped.
        """
        from codi.io import players

        return players.words(str(out.of(self.modality)[k]))

    def whole(self, value: Any, spec: ModalitySpec) -> Any:
        """Return a medium of its own length, at the rate and in the size of `spec`, as `formatted` has "pt".

        Args:
            value: a medium in any form of a prompt.
            spec: the geometry of what is made.

        Returns:
            A tensor whose first axis is time.

        Raises:
            InputError: for a medium that cannot be read, or a modality without time.
        """
        raise InputError(f"{self.name} has no time: expected a medium that can be continued")

    def stream(
        self, stem: Path, specs: Mapping[Modality, ModalitySpec], comment: str, record: Callable[[], str]
    ) -> AbstractContextManager[Callable[[Mapping[Modality, Any]], None]]:
        """Write a file piece by piece; only of a modality that has time.

        Args:
            stem: the path of the file without its suffix.
            specs: the geometry of all that is made together.
            comment: a text for people that the file carries.
            record: returns how it was made, in ASCII; it is called at the end.

        Returns:
            A context of a function that appends a piece, media by modality in the form of `whole`.
        """
        raise NotImplementedError(f"{self.name} has no time")

    def path(self, stem: Path) -> Path:
        """Return the path of its file for the path `stem` without a suffix."""
        return stem.with_name(stem.name + self.suffix)

    def onsets(self, raw: Any, rate: float) -> Any:
        """Return the seconds (K,) of the moments in one raw sample; only where `has_onsets`.

        Args:
            raw: one raw sample.
            rate: raw steps per second: frames per second, or Hz.

        Returns:
            (K,) seconds, in order.
        """
        raise NotImplementedError(f"{self.name} has no onsets")

    def preview(self, raw: Any, spec: ModalitySpec) -> tuple[str, bytes] | None:
        """Return one raw sample as something small to be shown while it is still being made.

        Args:
            raw: one raw sample: floats in [-1, 1] of about `spec.raw_shape`, or a sentence.
            spec: its geometry.

        Returns:
            The MIME type and the content; None of what cannot be shown.
        """
        return None

    # Training

    @property
    def in_files(self) -> bool:
        """Whether data sets hold it in files of its own."""
        return bool(self.data_suffixes)

    def geometry_of(self, values: Mapping[str, Any]) -> ModalitySpec:
        """Return the geometry that a training configuration states; latent shapes are left empty.

        Args:
            values: a number above 0 under each of `geometry_keys`.

        Returns:
            The raw shape and the rate.
        """
        raise NotImplementedError(f"{self.name} has no geometry to be stated")

    def geometry_in(self, configs: Mapping[str, Mapping[str, Any]]) -> ModalitySpec | None:
        """Return its geometry as far as finished components say it.

        Args:
            configs: what stands in the `config.json` of each component that a model folder has.

        Returns:
            The raw shape and the rate; None where they do not say it.
        """
        return None

    def aligned_geometry(self, known: ModalitySpec | None, tower: Mapping[str, Any]) -> ModalitySpec | None:
        """Return the geometry in which media of it are aligned with text.

        Args:
            known: the geometry as finished components say it, if they do.
            tower: the arguments of the tower that is trained; nothing where a finished one goes on.

        Returns:
            The raw shape and the rate; None where only the data know them.
        """
        return known

    def trained_parts(self, tower: Any) -> list[Any]:
        """Return the modules of a finished tower that train where its alignment with text goes on."""
        return [tower]

    def read(self, source: Any, spec: ModalitySpec, cut: Cut, carrier: Modality | None = None) -> Any:
        """Read one training sample from a file of a data set.

        Args:
            source: the file, a `codi.io.media_file.MediaFile`.
            spec: the geometry that is wanted.
            cut: which part of the file.
            carrier: the modality of the file where it is another one's (`carries`).

        Returns:
            A tensor of `spec.raw_shape` and `dtype`, as `Padded` where a part of it is padding; None for a
            file of another modality without this one.

        Raises:
            InputError: for a file that cannot be read, or is none of this kind.
        """
        raise InputError(f"{self.name} is not read from files: expected captions, or another medium")

    def likeness(self, path: Path, start: float | None, end: float | None) -> Likeness:
        """Return what a file of it is compared by; by default its bytes, of which no copy is nearly the same.

        Args:
            path: the file.
            start: the second at which the sample begins; None for the beginning of the file.
            end: the second at which it ends; None for the end of the file.

        Returns:
            Its digest, and hashes where the modality has some.

        Raises:
            InputError: for a file that cannot be read.
        """
        from codi import io

        io.check_file(path)
        return Likeness(digest=f"{io.sha256_of(path)} {start} {end}")

    def carried_in(self, source: Any) -> tuple[str, ...]:
        """Return which of the media that files of it may hold as well (`carries`) a file really holds."""
        return self.carries

    def seconds_in(self, source: Any) -> float | None:
        """Return how long a file of it lasts as its header states, 0 where it does not; None without time."""
        return None
