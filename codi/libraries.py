"""Leave out libraries whose native part does not load.

Each of them is named in one line, and only what needs it is refused.

diffusers and transformers import a number of libraries as soon as they are installed, without trying whether
they load. One that was built for another torch ends every import of the two, whatever is asked for. So each
is tried here first, before either of the two is imported.
"""

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

from codi.types import InputError

# Libraries that the two import unasked as soon as they are installed -> the module that they import of each.
# All have native parts.
UNASKED = {
    "torchaudio": "torchaudio",
    "torchvision": "torchvision",
    "xformers": "xformers.ops",
    "bitsandbytes": "bitsandbytes",
    "flash_attn": "flash_attn",
    "flash_attn_interface": "flash_attn_interface",
    "flashinfer": "flashinfer",
    "gguf": "gguf",
    "hqq": "hqq",
    "sageattention": "sageattention",
    "sentencepiece": "sentencepiece",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "torchao": "torchao",
}

# A library -> the one that is to load before it. Both bring libvpx, the first one loaded serves both, and
# with that of decord PyAV cannot write VP9.
BEFORE = {"decord": "av"}

_reasons: dict[str, str] = {}  # each library that was found not to load -> why


def leave_out_broken() -> None:
    """Try every library of `UNASKED` that is installed, once a process, and hide those that do not load.

    They are hidden from all importers, with one warning for each. Call this before the first import of
    diffusers or transformers; what those have imported already has loaded.
    """
    for name in UNASKED:
        loads(name)


def loads(name: str) -> bool:
    """Return whether a library is installed and loads.

    One that is installed and does not load is hidden from all importers, with one warning.
    """
    if name in _reasons or importlib.util.find_spec(name) is None:
        return False
    if name in BEFORE:
        loads(BEFORE[name])
    try:
        importlib.import_module(UNASKED.get(name, name))
    except Exception as error:  # whatever a foreign library throws while it loads
        _reasons[name] = _in_a_line(error)
        _hide(name)
        warnings.warn(
            f"{name} does not load and is left out ({_reasons[name]}): `codi doctor` says how to mend it",
            stacklevel=2,
        )
    return name not in _reasons


def why_not(name: str) -> str:
    """Return in one line what kept a library from loading; empty where it loads or was not tried."""
    return _reasons.get(name, "")


def load(name: str, purpose: str) -> ModuleType:
    """Import a module whose library may be missing or broken.

    Args:
        name: the full name of the module.
        purpose: what needs it, for the message ("sound at another rate").

    Returns:
        The module.

    Raises:
        InputError: where the library of the module is missing or broken.
    """
    library = name.partition(".")[0]
    if library not in _reasons:
        try:
            return importlib.import_module(name)
        except Exception as error:  # not there, or whatever it throws while it loads
            _reasons[library] = _in_a_line(error)
            _hide(library)
    reason = f"it cannot be used here ({_reasons[library]})"
    raise InputError(
        f"{purpose} needs the library {library}, and {reason}: `codi doctor` says how to mend it"
    )


def _hide(name: str) -> None:
    """Make a library look as if it were not installed.

    Importing it raises ImportError, and `find_spec` gives None.
    """
    for module in list(sys.modules):
        if module == name or module.startswith(name + "."):
            del sys.modules[module]
    sys.modules[name] = None  # type: ignore[assignment]  # the import system takes None for "not there"


def _in_a_line(error: Exception) -> str:
    """Return the kind of an error and the beginning of its message, in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:160]}" if said else type(error).__name__
