"""Check what a model folder says in its names and JSON, before a class is imported or a network is built.

Parts are of the classes that are listed here, and lie inside the folder; the settings in their configurations
are known, finite and within what can be built.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union

from codi.modalities import Attribute, kinds
from codi.protocols import Autoencoder, ByModality, Denoiser, PromptEncoder, Upscaler
from codi.tensor_files import AGAIN
from codi.types import InputError

# The modules whose classes a part may have, themselves and what is below them.
OURS = (
    "codi.models.autoencoders",
    "codi.models.conditioning",
    "codi.models.control",
    "codi.models.denoisers",
    "codi.models.released",
    "codi.models.upscaler",
    "codi.compose.decoupled_attention",
    "codi.compose.environment",
    "codi.compose.joint_adapters",
    "codi.compose.noisy_latent",
    "codi.compose.prompt_translators",
    "codi.joint.encoders",
    "codi.joint.noisy_latent_encoder",
    "codi.diffusion.released",
)
SCHEDULER = re.compile(r"diffusers(\.schedulers(\.\w+)?)?:\w+Scheduler")
SNAPSHOTS = "snapshots"  # the hub's cache: models--owner--name/snapshots/<commit>/ links to models--.../blobs
LARGEST = 1 << 24  # of whole numbers in a configuration: sizes, rates, numbers of samples
MOST_LAYERS = 1024
# Settings by the end of their name, in a configuration and in whatever it holds, and what they have to be.
RANGES = (
    (re.compile(r"(^|_)(layers|n_layer|depths?|num_blocks|layers_per_block)$"), 0, MOST_LAYERS),
    (re.compile(r"(^|_)num_train_timesteps$"), 1, 100_000),
    (re.compile(r"(dropout|pdrop|dropout_prob)$"), 0, 1),
    (re.compile(r"^beta_(start|end)$"), 0, 1),
    (re.compile(r"_eps(ilon)?$"), 0, 1),
)
ABOVE_ZERO = re.compile(
    r"(^|_)(std|rate|scaling_factor|channels|size|heads|n_head|n_embd|num_samples|num_frames)$"
)


# Classes ---------------------------------------------------------------


def find_class(name: str, module: str, kind: str) -> type:
    """Return the class of a part, which is imported only if it is one of those that a part may have.

    These are codi's autoencoders, towers, denoisers and encoders, the schedulers of diffusers, and classes of
    packages that have registered a modality: the caller has run the code of such a package already.

    Args:
        name: the name of the part.
        module: the module of the class.
        kind: the name of the class.

    Returns:
        The class; it keeps the contract of the part.

    Raises:
        InputError: for any other class, and for one that does not exist.
    """
    what = f"part {name:.80} of the model is a {module}.{kind}"
    remedy = f"to use another, pass the loaded part to from_pretrained as {name:.80}=..."
    if not _may_import(module, kind):
        raise InputError(f"{what}: expected a network of codi or a scheduler of diffusers; {remedy}")
    try:
        found = getattr(import_module(module), kind)
    except (ImportError, AttributeError, RuntimeError):  # diffusers' lazy modules raise RuntimeError
        raise InputError(f"{what}, which this codi lacks: install the one it was saved by") from None
    # a module also holds what it imports itself
    if not isinstance(found, type) or not _may_import(found.__module__, found.__name__):
        raise InputError(f"{what}, which is none of its classes: expected a network or a scheduler; {remedy}")
    expected = _contract(name)
    if not issubclass(found, expected):
        raise InputError(f"{what}, which is no {expected[-1].__name__}: {remedy}")
    return found


def _may_import(module: str, kind: str) -> bool:
    """Return whether a part may be of that class, judged by its name alone."""
    own = {type(known).__module__.split(".")[0] for known in kinds()} - {"codi", "diffusers", "builtins"}
    if not all(piece.isidentifier() for piece in (*module.split("."), kind)):
        return False
    ours = any(module == place or module.startswith(f"{place}.") for place in OURS)
    return ours or module.split(".")[0] in own or SCHEDULER.fullmatch(f"{module}:{kind}") is not None


def _contract(name: str) -> tuple[type, ...]:
    """Return the classes of which a part has to be a subclass of one, by its name."""
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    if name == "scheduler":
        return (SchedulerMixin,)
    contracts = {
        "autoencoder": Autoencoder,
        "tower": PromptEncoder,
        "denoiser": Denoiser,
        "upscaler": Upscaler,
    }
    for attribute, contract in contracts.items():
        if name in Attribute(attribute).values():
            return (contract,)
    if name in ("environment_encoders", "noisy_latent_encoders"):
        return (ByModality,)
    return (SchedulerMixin, ModelMixin)


# Places ----------------------------------------------------------------


def check_inside(folder: Path, path: Path) -> None:
    """Raise `InputError` if a path of a model folder leads out of it, by its name or by a link.

    Files in the cache of the hub are links to where the cache keeps them; these may be followed.

    Args:
        folder: the folder of the model.
        path: a file or folder in it.
    """
    root = folder.resolve()
    if root.parent.name == SNAPSHOTS:
        root = root.parent.parent
    try:
        place = path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        place = None
    if place is None or not place.is_relative_to(root):
        raise InputError(
            f"{path} leads out of the model folder {folder}: expected a part inside it; copy it there in "
            "place of the link"
        )


# Configurations --------------------------------------------------------


def check_config(path: Path, values: Mapping[str, Any], part_class: type) -> None:
    """Check the settings of a part, before it is built from them.

    Args:
        path: the file that they stand in, for messages.
        values: the settings by name. Names that begin with an underscore say who wrote the file.
        part_class: the class that is to be built.

    Raises:
        InputError: for the first setting that the class does not know, that is of another type than its
            annotation says, not finite, or out of range.
    """
    parameters = {
        name: parameter
        for name, parameter in _parameters(part_class).items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and name != "self"
    }
    given = {name: value for name, value in values.items() if not name.startswith("_")}
    if unknown := sorted(set(given) - set(parameters)):
        # a scheduler keeps the settings of the one that it was made from
        if unknown := sorted(set(unknown) - _of_relatives(part_class)):
            raise InputError(
                f"{path} has the key {unknown[0]!r:.80}, which {part_class.__name__} does not know"
            )
    hints = _annotations(part_class)
    for name, value in given.items():
        if name not in parameters or _same(value, parameters[name].default):
            continue
        if not fits(value, hints.get(name, Any)):
            raise InputError(f"{path} has {name} {_short(value)}: expected {_spoken(hints[name])}; {AGAIN}")
        for place, key, number in _numbers(name, value):
            if expected := _fault(key, number):
                raise InputError(f"{path} has {place} {number!r}: expected {expected}; {AGAIN}")


def _of_relatives(part_class: type) -> set[str]:
    """Return the names of the settings of all schedulers that one of diffusers can be made from."""
    relatives: list[type] = getattr(part_class, "_get_compatibles", list)()
    return {name for other in relatives for name in _parameters(other)}


def _parameters(part_class: type) -> Mapping[str, inspect.Parameter]:
    """Return the arguments with which a class is built, by name."""
    return inspect.signature(getattr(part_class, "__init__")).parameters  # noqa: B009


def _annotations(part_class: type) -> Mapping[str, Any]:
    """Return the types of the arguments of a class; none where an annotation cannot be understood here."""
    try:
        return typing.get_type_hints(inspect.unwrap(getattr(part_class, "__init__")))  # noqa: B009
    except (NameError, TypeError, AttributeError):
        return {}


def _same(value: Any, default: Any) -> bool:
    """Return whether a value from JSON is the default of a setting, be that infinite."""
    if isinstance(default, tuple):
        default = list(default)
    return type(value) is type(default) and value == default


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value from JSON can be an argument that is annotated so.

    Annotations that JSON knows nothing of fit anything.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if annotation is None or annotation is types.NoneType:
        return value is None
    if annotation is int or annotation is float:
        return isinstance(value, (int, float)) and type(value) is not bool and _whole(value, annotation)
    if annotation in (bool, str):
        return type(value) is annotation
    kind = origin or annotation
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, dict)
    if kind in (list, tuple) or kind.__name__ in ("Sequence", "Iterable", "Collection"):
        members = [one for one in inner if one is not Ellipsis]
        return isinstance(value, list) and (
            not members or all(any(fits(item, one) for one in members) for item in value)
        )
    return True


def _whole(value: float, annotation: type) -> bool:
    """Return whether a number may stand for an `int` or `float`; 8.0 may stand for 8."""
    return annotation is float or not math.isfinite(value) or value == int(value)


def _numbers(place: str, value: Any) -> Iterator[tuple[str, str, float]]:
    """Yield every number in a setting, with its place in words and the name of the setting it belongs to."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(f"{place}.{name}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(place, item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield place, place.rpartition(".")[2], value


def _fault(key: str, number: float) -> str | None:
    """Return what was expected of a number in the setting called `key`, or None if it is that."""
    if not math.isfinite(number):
        return "a finite number"
    if isinstance(number, int) and abs(number) > LARGEST:
        return f"at most {LARGEST}"
    for pattern, least, most in RANGES:
        if pattern.search(key) and not least <= number <= most:
            return f"{least} to {most}"
    if ABOVE_ZERO.search(key) and number <= 0:
        return "a number above 0"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _spoken(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
