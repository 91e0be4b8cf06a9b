"""Write and read the folder of a composed model, which refers to published models and holds what is ours.

    model_index.json       references to the published models, the source of text, defaults, our own parts
    README.md              a model card: licences, what is trained
    joint_adapters/ ...    parts that were trained for these models, as `save_pretrained` writes them
    sources/image/ ...     copies of the published models, where they were asked for

Without copies and trained parts such a folder has a few kilobytes. It is written as a whole or not at all.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.types import InputError, blame
from codi.version import __version__

if TYPE_CHECKING:
    from codi.compose.licences import Licence
    from codi.compose.references import Reference

INDEX = "model_index.json"
CLASS = "ComposedPipeline"
SOURCES = "sources"
# The parts that are trained for a composed model; all of them are networks of their own.
PARTS = (
    "environment_encoders",
    "joint_adapters",
    "prompt_translators",
    "noisy_latent_encoders",
    "decoupled_attention",
    "image_upscaler",
)
BESIDE = ".composing-"  # start of the name of the folder that is written first
OTHER_KEYS = ("composed", "text", "defaults")
AGAIN = "compose the model again"


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """The model of codi from which a composed model has its words: towers, prompts, captions.

    Attributes:
        source: its folder, absolute, or its hub id.
        fingerprint: a digest of its weights.
        licence: what it states of its licence.
    """

    source: str
    fingerprint: str
    licence: "Licence"

    def to_json(self) -> dict[str, Any]:
        """Return it as a value for JSON."""
        return {"source": self.source, "fingerprint": self.fingerprint, "license": self.licence.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TextSource":
        """Return what `to_json` gave. Raises `KeyError` or `TypeError` for anything else.

        Folders that were written before licences were kept state none.
        """
        from codi.compose.licences import NOT_STATED, Licence

        licence = Licence(**value.get("license", {"id": NOT_STATED}))
        source, fingerprint = value["source"], value["fingerprint"]
        if not isinstance(source, str) or not isinstance(fingerprint, str):
            raise TypeError("source and fingerprint are no texts")
        return cls(source=source, fingerprint=fingerprint, licence=licence)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """What the folder of a composed model says.

    Attributes:
        folder: the folder.
        references: the published models by modality.
        text: where its words come from; None if every model reads its own prompts alone.
        defaults: the model's own values for options that a call leaves out.
        parts: the module and the class of each of its own parts that are there, by name.
        version: the version of codi that wrote it.
    """

    folder: Path
    references: Mapping[str, "Reference"]
    text: TextSource | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """Return what stands in its model_index.json."""
        return {
            "_class_name": CLASS,
            "_codi_version": self.version,
            "composed": {modality: reference.to_json() for modality, reference in self.references.items()},
            "text": None if self.text is None else self.text.to_json(),
            "defaults": dict(self.defaults),
            **{name: list(kind) for name, kind in self.parts.items()},
        }

    def verify(self) -> dict[str, Path]:
        """Return the folder of each published model, if every file is what it was when it was composed."""
        return {modality: reference.verify(self.folder) for modality, reference in self.references.items()}


# Reading ------------------------------------------------------------------------------------------------


def is_composed(folder: str | Path) -> bool:
    """Return whether a folder is that of a composed model; torch is not imported to find out."""
    from codi.tensor_files import read_json

    try:
        return "composed" in read_json(Path(folder) / INDEX)
    except (InputError, ValueError):
        return False


def composed_folder(source: str | Path) -> Path | None:
    """Return the folder of a composed model; of one at the hub its index alone is fetched to find out.

    Args:
        source: a folder, or a hub id.

    Returns:
        The folder, in which there may be nothing but the index; None for what is no composed model, and for
        what cannot be had.
    """
    from codi.compose.hub import HUB_ID, download

    place = Path(source).expanduser()
    if not place.exists() and HUB_ID.fullmatch(str(source)) and not str(source).startswith((".", "/", "~")):
        try:
            place = download(str(source), None, [INDEX])
        except InputError:  # whoever loads the model says what is wrong with it
            return None
    return place if is_composed(place) else None


def read(folder: str | Path) -> Composed:
    """Return what the folder of a composed model says; no published model is looked at.

    Args:
        folder: the folder.

    Returns:
        What it says.

    Raises:
        InputError: if it is no such folder, or says something that cannot be.
    """
    from codi.compose.references import Reference
    from codi.modalities import kind_of
    from codi.tensor_files import read_json

    folder = Path(folder).expanduser()
    path = folder / INDEX
    value = read_json(path, AGAIN)
    if not isinstance(value.get("composed"), dict) or not value["composed"]:
        raise InputError(f"{folder} is no composed model: expected a folder that `codi compose` wrote")
    with blame(f"{path}: "):
        references = {
            kind_of(modality).name: Reference.from_json(modality, item)
            for modality, item in value["composed"].items()
        }
        defaults = value.get("defaults")
        if not isinstance(defaults, dict):
            raise InputError(f"defaults are {defaults!r:.60}: expected an object; {AGAIN}")
        parts = _parts(folder, value)
    if parts:
        from codi.folder_checks import check_inside  # brings torch along

        for name in parts:
            check_inside(folder, folder / name)
    return Composed(
        folder=folder,
        references=references,
        text=_text(path, value.get("text")),
        defaults=defaults,
        parts=parts,
        version=str(value.get("_codi_version", "unknown")),
    )


def _parts(folder: Path, value: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the own parts that an index names."""
    found = {}
    for name, pair in value.items():
        if name.startswith("_") or name in OTHER_KEYS:
            continue
        if name not in PARTS:
            raise InputError(f"unknown key {name!r:.60}: expected one of {', '.join((*OTHER_KEYS, *PARTS))}")
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(item, str) for item in pair):
            raise InputError(f"{name} is {pair!r:.60}: expected [module, class] of a part; {AGAIN}")
        if not (folder / name / "config.json").is_file():
            raise InputError(f"{name}/ is missing or has no config.json: copy or download the model again")
        found[name] = (pair[0], pair[1])
    return found


def _text(path: Path, value: Any) -> TextSource | None:
    if value is None:
        return None
    try:
        return TextSource.from_json(value)
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} has text {value!r:.60}: expected its source and fingerprint; {AGAIN}"
        ) from None


def text_source(source: str) -> TextSource:
    """Refer to the model of codi from which a composed model has its words.

    Args:
        source: a folder, a hub id, or the name of the model inside the package.

    Returns:
        The reference.

    Raises:
        InputError: if there is no such model.
    """
    from codi import pretrained
    from codi.compose.hub import STATING, download
    from codi.compose.licences import licence_in
    from codi.types import EMBEDDED

    folder = text_folder(source)
    pretrained.read_index(folder)
    local = Path(source).expanduser().is_dir()
    if not local and source != EMBEDDED:  # what says how it may be used does not come with the weights
        with blame("text: "):
            download(source, folder.name, STATING)
    return TextSource(
        source=str(folder.resolve()) if local else source,
        fingerprint=pretrained.fingerprint(folder),
        licence=licence_in(folder),
    )


def text_folder(source: str) -> Path:
    """Return the folder of the model of codi that words come from."""
    from codi import pretrained
    from codi.types import EMBEDDED

    with blame("text: "):
        return pretrained.resolve(None if source == EMBEDDED else source)


def verify_text(text: TextSource) -> Path:
    """Return the folder of the model that words come from. Raises `InputError` if it is another one now."""
    from codi import pretrained

    folder = text_folder(text.source)
    if pretrained.fingerprint(folder) != text.fingerprint:
        raise InputError(
            f"text: the weights of {text.source} changed since it was composed: put them back, or {AGAIN}"
        )
    return folder


# Writing ------------------------------------------------------------------------------------------------


def write(
    folder: str | Path,
    references: Iterable["Reference"],
    text: TextSource | None = None,
    defaults: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
    copy: bool = False,
    report: Callable[[str], Any] = lambda line: None,
) -> Composed:
    """Write the folder of a composed model, as a whole or not at all.

    A composed model that is there is replaced. Parts that were trained for it stay if it refers to the same
    models as before.

    Args:
        folder: where it goes.
        references: the published models.
        text: where its words come from; None if every model reads its own prompts alone.
        defaults: the model's own values for options that a call leaves out.
        parts: own parts by name, each with `save_pretrained`.
        copy: whether the published models are copied into the folder, which then needs nothing else.
        report: what is called with a line for each model that is copied.

    Returns:
        What the folder says.

    Raises:
        InputError: if the folder holds something else, or cannot be written.
    """
    folder = Path(folder).expanduser()
    chosen = {reference.modality: reference for reference in references}
    before = _check_place(folder, chosen, parts or {})
    composed = Composed(
        folder=folder,
        references=chosen,
        text=text,
        defaults=dict(defaults or {}),
        parts={} if before is None else before.parts,
    )
    with _replacing(folder) as new:
        if copy:
            composed = replace(composed, references=_copy(chosen, folder, new, report))
        _write(composed, new, parts or {})
    return read(folder)


def add_parts(folder: str | Path, parts: Mapping[str, Any]) -> Composed:
    """Put trained parts into the folder of a composed model, in place of older ones of the same names.

    Args:
        folder: the folder.
        parts: the parts by name, each with `save_pretrained`.

    Returns:
        What the folder says then.

    Raises:
        InputError: if it is no composed model, a part has no name of one, or it cannot be written.
    """
    composed = read(folder)
    _check_names(parts)
    with _replacing(composed.folder) as new:
        _write(composed, new, parts)
    return read(folder)


def _check_names(parts: Mapping[str, Any]) -> None:
    for name in parts:
        if name not in PARTS:
            raise InputError(
                f"{name!r:.60} is no part of a composed model: expected one of {', '.join(PARTS)}"
            )


def check_place(folder: str | Path, references: Iterable["Reference"] = ()) -> None:
    """Raise `InputError` unless a composed model can be written into a folder.

    Args:
        folder: the folder.
        references: the published models of the new one, which trained parts there have to fit; empty if they
            are not known yet.
    """
    _check_place(Path(folder).expanduser(), {item.modality: item for item in references}, {})


def _check_place(
    folder: Path, references: Mapping[str, "Reference"], parts: Mapping[str, Any]
) -> Composed | None:
    """Return the composed model in a folder, which may be replaced; None where there is nothing."""
    _check_names(parts)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: expected the name of a folder that is new or a composed model")
    if not folder.is_dir() or not any(not path.name.startswith(BESIDE) for path in folder.iterdir()):
        return None
    if not is_composed(folder):
        raise InputError(
            f"{folder} holds something else than a composed model: name a folder that is new, or empty it"
        )
    before = read(folder)
    kept = sorted(before.parts.keys() - parts.keys())
    if kept and references and _identities(before.references) != _identities(references):
        raise InputError(
            f"{folder} has {kept[0]}/, which was trained for other models: name another folder, or delete "
            "that one"
        )
    return before


def _identities(references: Mapping[str, "Reference"]) -> dict[str, str]:
    return {modality: reference.fingerprint for modality, reference in references.items()}


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder, whose entries replace those of the same names in `folder` at the end.

    The index comes last: until then the folder says what it said before. After an error nothing is left of
    the new folder, nor of `folder` if it was not there before.
    """
    from codi.io import check_folder

    created = [place for place in (folder, *folder.parents) if not place.exists()]
    check_folder(folder)
    for abandoned in folder.glob(f"{BESIDE}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=BESIDE) as place:
            new = Path(place) / "new"
            new.mkdir()
            yield new
            older = Path(place) / "older"
            older.mkdir()
            entries = sorted(new.iterdir(), key=lambda path: path.name == INDEX)
            if not (new / SOURCES).exists() and (new / INDEX).exists():
                _move_unused_sources(folder, new, older)
            for path in entries:
                if path.is_dir() and (folder / path.name).exists():
                    (folder / path.name).rename(older / path.name)
                path.replace(folder / path.name)
    except OSError as error:
        _remove_empty(created)
        raise InputError(
            f"cannot write the model into {folder}: {error.strerror or error}. Free some space or name "
            "another place."
        ) from error
    except BaseException:
        _remove_empty(created)
        raise


def _move_unused_sources(folder: Path, new: Path, older: Path) -> None:
    """Move copies of published models away, if the new index refers to none of them."""
    written = json.loads((new / INDEX).read_text(encoding="utf-8"))
    if all(item["place"] is None for item in written["composed"].values()) and (folder / SOURCES).exists():
        (folder / SOURCES).rename(older / SOURCES)


def _remove_empty(created: Sequence[Path]) -> None:
    """Remove folders that were made for what could not be written."""
    for place in created:
        with suppress(OSError):
            place.rmdir()


def _write(composed: Composed, new: Path, parts: Mapping[str, Any]) -> None:
    """Write the index, the card and the given parts of a composed model into a new folder."""
    from codi import io
    from codi.compose.describe import model_card

    kinds = dict(composed.parts)
    for name, part in parts.items():
        part.save_pretrained(new / name)
        kinds[name] = (type(part).__module__, type(part).__name__)
    composed = replace(composed, parts=kinds)
    card = model_card(composed, new)
    if card is not None:
        io.save_text(new / "README.md", card)
    io.save_json(new / INDEX, composed.to_json())


def _copy(
    references: Mapping[str, "Reference"], folder: Path, new: Path, report: Callable[[str], Any]
) -> dict[str, "Reference"]:
    """Copy the files of the published models into the new folder, and return references to the copies."""
    from codi.compose.hub import CARD, LICENCES
    from codi.compose.references import digest

    found = {modality: reference.folder(folder) for modality, reference in references.items()}
    needed = sum(
        (found[modality] / name).stat().st_size
        for modality, reference in references.items()
        for name in reference.files
    )
    free = shutil.disk_usage(new).free
    if needed > free:
        raise InputError(
            f"the copies need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {folder}: free some "
            "space, name another place, or leave --copy out"
        )
    copied = {}
    for modality, reference in references.items():
        place = f"{SOURCES}/{modality}"
        report(f"copying {reference.name} to {folder / place}")
        texts = [
            path.name
            for path in found[modality].iterdir()
            if path.is_file() and (path.name == CARD or path.name.upper().startswith(LICENCES))
        ]
        for name in (*reference.files, *texts):
            target = new / place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found[modality] / name, target)  # of a link in the hub's cache what it leads to
        for name, expected in reference.files.items():
            if digest(new / place / name) != expected:
                raise InputError(
                    f"{modality}: {name} of {reference.name} changed while it was copied: try again"
                )
        copied[modality] = reference.copied(place)
    return copied


def size_of(folder: Path) -> int:
    """Return how many bytes all files of a folder have."""
    return sum(
        os.stat(path).st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
