"""Refer to a published pipeline, so that exactly the same one is found again.

A reference says where a pipeline is and what it was when it was referred to: its commit at the hub, its
class, and a digest of every file that it needs. `Reference.verify` compares the files with these digests, and
names the first one that is no longer what it was. Small files and weights below `READ_IN_FULL` are read in
full; of larger weights the header, which holds the name, type and shape of every tensor, the size, and
samples of the bytes are read, so that models of many gigabytes are compared within a second.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from codi.compose.geometry import Geometry, geometry_of
from codi.compose.hub import Files, download, find
from codi.compose.licences import Licence
from codi.compose.originals import INDEX, Original
from codi.tensor_files import read_header
from codi.types import InputError, blame

READ_IN_FULL = 64 << 20  # bytes of a file up to which its digest is one of all its bytes
SAMPLES, SAMPLE = 64, 64 << 10  # of a larger file: so many samples of so many bytes


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """What is worth knowing of a part without its files.

    Attributes:
        kind: the name of its class.
        parameters: how many numbers it has.
        bytes: how large its weights are on the disk.
        dtypes: the types of its tensors, by the names in their files.
    """

    kind: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One published pipeline in a composed model.

    Attributes:
        modality: what it makes.
        source: the hub id, or the absolute path of a folder.
        revision: the commit at the hub; None for a folder.
        place: where a copy of it is inside the folder of the composed model; None without a copy.
        kind: the class of the pipeline.
        variant: the variant of its weights, such as "fp16"; None for the plain ones.
        call: arguments of every call, by the names that the pipeline gives them.
        licence: what it states of its licence.
        scheduler: the class of its scheduler.
        prediction: what its denoiser predicts, in the words of diffusers: epsilon, v_prediction, flow...
        geometry: the grid of its latent and how long it lasts, for that call.
        parts: what is known of its parts that have weights, by name.
        files: the digest of every file that it needs, by name.
    """

    modality: str
    source: str
    revision: str | None
    place: str | None = None
    kind: str
    variant: str | None
    call: Mapping[str, Any] = field(default_factory=dict)
    licence: Licence
    scheduler: str
    prediction: str
    geometry: Geometry
    parts: Mapping[str, PartFacts]
    files: Mapping[str, str]

    @classmethod
    def read(
        cls,
        modality: str,
        source: str | Path,
        call: Mapping[str, Any] | None = None,
        variant: str | None = None,
    ) -> "Reference":
        """Refer to a pipeline; one at the hub is downloaded.

        Args:
            modality: what it makes.
            source: a folder, or a hub id with or without a revision: "owner/name@revision".
            call: arguments of every call, by the names that the pipeline gives them.
            variant: the variant of its weights; None for the plain ones, and for the only variant where there
                are no plain ones.

        Returns:
            The reference.

        Raises:
            InputError: for whatever is no pipeline that can be composed.
        """
        return cls.of(modality, Original.read(modality, source, variant), call or {})

    @classmethod
    def of(cls, modality: str, original: Original, call: Mapping[str, Any]) -> "Reference":
        """Refer to a pipeline whose files are all here, with these arguments of every call."""
        with blame(f"{modality}: "):
            return cls(
                modality=modality,
                source=original.files.name,
                revision=original.files.revision,
                kind=original.kind,
                variant=original.variant,
                call=dict(call),
                licence=original.licence,
                scheduler=original.parts["scheduler"].kind,
                prediction=prediction_of(original),
                geometry=geometry_of(original, call),
                parts=facts_of(original),
                files={name: digest(original.files.folder / name) for name in original.names},
            )

    @property
    def parameters(self) -> int:
        """How many numbers the pipeline has."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def fingerprint(self) -> str:
        """A digest of the digests of all files."""
        whole = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.files.items()):
            whole.update(f"{name} {value}\n".encode())
        return whole.hexdigest()

    @property
    def name(self) -> str:
        """What the pipeline is called for people: hub id and commit, or the folder."""
        return self.source if self.revision is None else f"{self.source}@{self.revision[:12]}"

    def folder(self, root: Path) -> Path:
        """Return the folder of the pipeline; one at the hub is downloaded unless it is in the cache.

        Args:
            root: the folder of the composed model, which may hold a copy.

        Returns:
            The folder.

        Raises:
            InputError: if it is not there any more, or cannot be had.
        """
        with blame(f"{self.modality}: "):
            return self._found(root).folder

    def _found(self, root: Path) -> Files:
        """Return the files of the pipeline, all of which are here."""
        if self.place is None and self.revision is not None:
            folder = download(self.source, self.revision, list(self.files))
            files = Files(name=self.source, revision=self.revision, folder=folder, names=tuple(self.files))
            files.fetch(self.files)
            return files
        folder = Path(self.source) if self.place is None else root / self.place
        if not folder.is_dir():
            raise InputError(
                f"no folder {folder}, which this model was composed of: put it back there, or compose the "
                "model again"
            )
        files = find(folder)
        files.fetch(self.files)
        return files

    def verify(self, root: Path) -> Path:
        """Return the folder of the pipeline, if every file of it is what it was when it was composed.

        Args:
            root: the folder of the composed model.

        Returns:
            The folder of the pipeline.

        Raises:
            InputError: for the first file that is missing or another one.
        """
        with blame(f"{self.modality}: "):
            files = self._found(root)
            for name, expected in self.files.items():
                if _digest_or_none(files.folder / name) != expected:
                    raise InputError(
                        f"{name} of {self.name} changed since it was composed: put the file back, or compose "
                        "the model again"
                    )
        return files.folder

    # In JSON --------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the reference as a value for JSON, without its modality."""
        parts = {
            name: {
                "class": part.kind,
                "parameters": part.parameters,
                "bytes": part.bytes,
                "dtypes": [*part.dtypes],
            }
            for name, part in self.parts.items()
        }
        return {
            "source": self.source,
            "revision": self.revision,
            "place": self.place,
            "class": self.kind,
            "variant": self.variant,
            "call": dict(self.call),
            "license": self.licence.to_json(),
            "scheduler": self.scheduler,
            "prediction": self.prediction,
            "geometry": self.geometry.to_json(),
            "parts": parts,
            "files": dict(self.files),
        }

    @classmethod
    def from_json(cls, modality: str, value: Any) -> "Reference":
        """Return the reference that `to_json` gave.

        Args:
            modality: what the pipeline makes.
            value: what `to_json` gave.

        Returns:
            The reference.

        Raises:
            InputError: if it is something else, or leads out of the folder of the composed model.
        """
        try:
            reference = cls(
                modality=modality,
                source=_typed(value["source"], str),
                revision=_typed(value["revision"], str, type(None)),
                place=_typed(value["place"], str, type(None)),
                kind=_typed(value["class"], str),
                variant=_typed(value["variant"], str, type(None)),
                call=_typed(value["call"], dict),
                licence=Licence(**value["license"]),
                scheduler=_typed(value["scheduler"], str),
                prediction=_typed(value["prediction"], str),
                geometry=Geometry.from_json(value["geometry"]),
                parts={name: _part_from_json(part) for name, part in value["parts"].items()},
                files={name: _typed(item, str) for name, item in value["files"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"what is said of {modality} is no reference to a pipeline ({error!r:.80})"
            ) from None
        inside = [*reference.files, *([reference.place] if reference.place is not None else [])]
        for name in inside:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise InputError(f"{modality} names the file {name!r:.80}: expected one inside its folder")
        return reference

    def copied(self, place: str) -> "Reference":
        """Return the reference to a copy of the pipeline at a place in the folder of the composed model."""
        return replace(self, place=place)


def facts_of(original: Original) -> dict[str, PartFacts]:
    """Return what is worth knowing of those parts of a pipeline that have weights."""
    return {
        name: PartFacts(
            kind=part.kind, parameters=part.parameters, bytes=part.bytes, dtypes=tuple(part.dtypes)
        )
        for name, part in original.parts.items()
        if part.weights
    }


def prediction_of(original: Original) -> str:
    """Return what the denoiser of a pipeline predicts, as the configuration of its scheduler says it."""
    scheduler = original.parts.get("scheduler")
    if scheduler is None:
        raise InputError(f"{original.files} has no scheduler in {INDEX}: expected a whole pipeline")
    if scheduler.kind.startswith("FlowMatch") or scheduler.config.get("use_flow_sigmas"):
        return "flow"
    return str(scheduler.config.get("prediction_type", "epsilon"))


def digest(path: Path) -> str:
    """Return a digest of a file: of all its bytes, or of its header, size and samples if it is large.

    Args:
        path: the file; one that is larger than `READ_IN_FULL` is a safetensors file.

    Returns:
        32 hexadecimal digits.

    Raises:
        InputError: if it cannot be read.
    """
    value = hashlib.blake2b(digest_size=16)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            if size <= READ_IN_FULL:
                value.update(file.read())
                return value.hexdigest()
            header = sorted((name, entry.dtype, entry.shape) for name, entry in read_header(path).items())
            value.update(f"{size} {header}".encode())
            for k in range(SAMPLES):  # the first begins with the header, the last ends with the file
                file.seek(k * (size - SAMPLE) // (SAMPLES - 1))
                value.update(file.read(SAMPLE))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    return value.hexdigest()


def _digest_or_none(path: Path) -> str | None:
    """Return the digest of a file; None if it is damaged, and so is not what it was."""
    try:
        return digest(path)
    except InputError:
        return None


def _typed(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r:.40} is no {kinds[0].__name__}")
    return value


def _part_from_json(value: Mapping[str, Any]) -> PartFacts:
    return PartFacts(
        kind=_typed(value["class"], str),
        parameters=_typed(value["parameters"], int),
        bytes=_typed(value["bytes"], int),
        dtypes=tuple(value["dtypes"]),
    )
