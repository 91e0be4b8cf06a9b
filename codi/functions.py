"""Load a user's function by its name, `module:function` or `file.py:function`."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from codi.types import InputError

EXAMPLE = "module:function or file.py:function"


def load_function(text: str, option: str, takes: str) -> Callable[..., Any]:
    """Return the function of a name.

    Args:
        text: `module:function` or `file.py:function`.
        option: how the name was given, such as "--filter", for messages.
        takes: what such a function takes, for messages, such as "one sample".

    Returns:
        The function.

    Raises:
        InputError: for a name behind which there is no function.
    """
    place, sign, name = text.rpartition(":")
    if not (place and sign and name.isidentifier()):
        raise InputError(f"{option} {text!r:.120}: expected {EXAMPLE}")
    said = f"{option} {text}"
    module = _from_file(place, said) if place.endswith(".py") else _from_name(place, said)
    function = getattr(module, name, None)
    if not callable(function):
        what = "has none of that name" if function is None else f"has a {type(function).__name__} there"
        raise InputError(f"{said}: {place} {what}: expected a function of {takes}")
    return function


def file_digest(text: str) -> str | None:
    """Return the sha256 of the file in which a loaded function was found, or None where there is none.

    Args:
        text: the name of a function that `load_function` has returned.

    Returns:
        64 hexadecimal digits, or None.
    """
    place = text.rpartition(":")[0]
    module = sys.modules.get(_name_of(place) if place.endswith(".py") else place)
    return module_digest(module)


def module_digest(module: ModuleType | None) -> str | None:
    """Return the sha256 of the file of a module, or None where it has none."""
    path = getattr(module, "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _name_of(place: str) -> str:
    """Return the name under which a file is imported."""
    return f"codi_function_{hashlib.sha256(str(Path(place).resolve()).encode()).hexdigest()[:16]}"


def _from_file(place: str, said: str) -> ModuleType:
    """Import a file as a module of its own."""
    path = Path(place)
    if not path.is_file():
        raise InputError(f"{said}: no such file: {place}; relative names start at {Path.cwd()}")
    name = _name_of(place)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does, for what looks its module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _unusable(said, error) from error
    return module


def _from_name(place: str, said: str) -> ModuleType:
    """Import a module, also one that lies where the command runs, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise _unusable(said, error) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _unusable(said: str, error: BaseException) -> InputError:
    """Return the error for a module that cannot be imported."""
    what = " ".join(str(error).split())[:200]
    return InputError(f"{said} cannot be imported ({type(error).__name__}: {what}): expected {EXAMPLE}")
