"""Libraries whose native part may not load: each is named in one line and left out, and only what needs it is
refused.

diffusers and transformers import a number of libraries as soon as they are installed, and do not try whether
they can: one that was built for another torch ends every import of theirs, whatever is asked for. So each is
tried here first, before either of the two is imported.
"""

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

from codi.types import InputError

# What the two import unasked as soon as it is installed, and the module of it that they import. All have
# native parts.
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

_reasons: dict[str, str] = {}  # of each library that was found not to load


def leave_out_broken() -> None:
    """Tries every library of `UNASKED` that is installed, once a process, and hides from all importers those
    that raise.

    Warns once of each. Call it before the first import of diffusers or transformers; what they have imported
    already has loaded.
    """
    for name in UNASKED:
        loads(name)


def loads(name: str) -> bool:
    """Tells whether a library is installed and loads. One that is installed and does not is hidden, which one
    warning says.
    """
    if name in _reasons or importlib.util.find_spec(name) is None:
        return False
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
    """Returns what kept a library from loading, in a line; nothing where it loads or was not tried."""
    return _reasons.get(name, "")


def load(name: str, purpose: str) -> ModuleType:
    """Imports the module `name` for `purpose` ("sound at another rate"). Raises `InputError` where its
    library is missing or broken.
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
    """Makes a library look as if it were not installed: importing it raises ImportError, and `find_spec`
    gives None.
    """
    for module in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(name + ".")]:
        del sys.modules[module]
    sys.modules[name] = None  # type: ignore[assignment]  # what the import system takes for "not there"


def _in_a_line(error: Exception) -> str:
    """Returns the kind of an error and the beginning of what it says."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:160]}" if said else type(error).__name__
