"""Everything that is known of a modality by its name, and the one registry of modalities.

    base.py    `ModalityKind`: what there is to know of one
    text.py image.py audio.py video.py   the four that codi brings
    lengths.py how long a clip and a sound last that are made together
    onsets.py  when something happens in a sound and in a clip

A further modality is a subclass of `ModalityKind`, here or in anybody's own package, and one call of
`register` before a pipeline is built of its components:

    codi.modalities.register(EventTimes())

A package that brings one for the commands too names it in its pyproject.toml:

    [project.entry-points."codi.modalities"]
    event_times = "my_package:EventTimes"
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from codi.modalities.audio import Audio
from codi.modalities.base import MARGIN, Content, Cut, Likeness, ModalityKind, Padded
from codi.modalities.image import Image
from codi.modalities.text import Text
from codi.modalities.video import Video
from codi.types import RESERVED, InputError, Modality, ModalitySpec

__all__ = [
    "MARGIN",
    "Attribute",
    "Content",
    "Cut",
    "Likeness",
    "ModalityKind",
    "Padded",
    "component_class",
    "component_maker",
    "component_names",
    "geometries_in",
    "in_files",
    "in_words",
    "kind_of",
    "kinds",
    "load_plugins",
    "load_plugins_aloud",
    "register",
    "registered",
    "sized",
]

PLUGINS = "codi.modalities"  # the group of entry points by which installed packages bring modalities
_KINDS: dict[Modality, ModalityKind] = {}


def register(kind: ModalityKind) -> Modality:
    """Make a modality known everywhere, by its name; the same kind may be registered again.

    Args:
        kind: what is known of the modality.

    Returns:
        the modality.

    Raises:
        InputError: its name or field cannot be used, or belongs to another kind.
    """
    taken = {other.field for other in kinds() if other.name != kind.name}
    if kind.field in taken | RESERVED:
        raise InputError(
            f"modality {kind.name} has the field {kind.field!r}, which outputs have already: expected another"
        )
    modality = Modality.register(kind.name)
    there = _KINDS.setdefault(modality, kind)
    if type(there) is not type(kind):
        raise InputError(
            f"modality {modality} is registered as {type(there).__name__}: expected another name for "
            f"{type(kind).__name__}"
        )
    return modality


@contextmanager
def registered(kind: ModalityKind) -> Iterator[Modality]:
    """Register a modality for the length of a `with` block only.

    Args:
        kind: what is known of the modality.

    Yields:
        the modality.

    Raises:
        InputError: its name is registered already, or cannot be used.
    """
    if kind.name in Modality:
        raise InputError(f"modality {kind.name} is registered already: expected another name")
    modality = register(kind)
    try:
        yield modality
    finally:
        del _KINDS[modality]
        Modality.forget(modality)


def load_plugins() -> list[str]:
    """Register what installed packages bring under the entry point group "codi.modalities".

    An entry point names a subclass of `ModalityKind`. Commands call this before they read their arguments; in
    Python, `register` does. One that cannot be loaded breaks nothing but itself.

    Returns:
        For each that cannot be used, a line that says why.
    """
    from importlib.metadata import entry_points

    notes = []
    for entry in entry_points(group=PLUGINS):
        try:
            register(entry.load()())
        except Exception as error:  # whatever somebody else's package throws
            reason = " ".join(str(error).split()) or type(error).__name__
            notes.append(f"modality {entry.name} of {entry.value} is left out: {reason}")
    return notes


def load_plugins_aloud() -> None:
    """Call `load_plugins` and say on stderr what is left out, as a command does."""
    for note in load_plugins():
        print(f"note: {note}", file=sys.stderr, flush=True)


def kind_of(modality: Modality | str) -> ModalityKind:
    """Return what is known of a modality.

    Raises `InputError` for an unknown name, and for a modality that nobody has registered in this process.
    """
    found = _KINDS.get(Modality.parse(modality))
    if found is None:
        raise InputError(
            f"nothing is known of modality {modality}: expected codi.modalities.register(...) in this process"
        )
    return found


def kinds() -> list[ModalityKind]:
    """Return what is known of every registered modality, in the order of registration."""
    return list(_KINDS.values())


def sized(size: str) -> tuple[Modality, ...]:
    """Return the modalities that have a size of that name (`codi.types.SIZES`)."""
    return tuple(kind.modality for kind in kinds() if size in kind.sizes)


def in_words(modality: Modality | str) -> bool:
    """Return whether a modality is said in sentences, and so is no file and no array."""
    return kind_of(modality).in_words


def in_files() -> tuple[Modality, ...]:
    """Return the modalities that data sets hold in files of their own."""
    return tuple(kind.modality for kind in kinds() if kind.in_files)


def geometries_in(configs: Mapping[str, Mapping[str, Any]]) -> dict[Modality, ModalitySpec]:
    """Return the geometry of every modality of which finished components say it.

    Args:
        configs: what stands in the `config.json` of each component, by its name.

    Returns:
        The raw shape and the rate of each; latent shapes are left empty.
    """
    found = {kind.modality: kind.geometry_in(configs) for kind in kinds()}
    return {modality: spec for modality, spec in found.items() if spec is not None}


def component_class(name: str, sequence: bool = False) -> type:
    """Return the class of which a component is trained, and import its module.

    Args:
        name: the component's name in a model.
        sequence: whether the latents of its modality are sequences (C, L) and its modality has classes for
            such (`ModalityKind.sequence_classes`).

    Returns:
        The class.

    Raises:
        InputError: for a component of which no modality says it.
    """
    places = {component: place for kind in kinds() for component, place in kind.classes.items()}
    if sequence:
        places |= {component: place for kind in kinds() for component, place in kind.sequence_classes.items()}
    if name not in places:
        raise InputError(
            f"nothing says of which class {name} is: expected it in `classes` of its modality's ModalityKind"
        )
    module, _, attribute = places[name].partition(":")
    return getattr(import_module(module), attribute)


def component_maker(name: str) -> str:
    """Return in words which stages make a component, by its name in a model."""
    makers = {component: stages for kind in kinds() for component, stages in kind.made_by.items()}
    return makers.get(name, "the stage that makes it")


def component_names() -> list[str]:
    """Return the names of the components that serve any modality, each once."""
    names = [name for kind in kinds() for name in kind.components]
    names += [kind.upscaler for kind in kinds() if kind.upscaler]
    return list(dict.fromkeys(names))


class Attribute(Mapping[Modality, str]):
    """One attribute of every registered kind under its modality, later ones included.

    Args:
        name: the attribute's name, such as "field".
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, modality: Modality) -> str:
        return getattr(_KINDS[modality], self.name)

    def __iter__(self) -> Iterator[Modality]:
        return iter(list(_KINDS))

    def __len__(self) -> int:
        return len(_KINDS)


for _kind in (Text(), Image(), Audio(), Video()):
    register(_kind)
