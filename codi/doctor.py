"""Serve `codi info` and `codi doctor`, which describe a model and check this machine.

`codi info` says what a model is, from its configurations and the headers of its tensors. `codi doctor` says
whether this machine can run it, and how to mend what is wrong.
"""

import importlib.util
import json
import math
import os
import platform
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from codi import __version__
from codi.types import InputError

PROVENANCE = "provenance.json"
RATES = (
    "sampling_rate",
    "rate",
    "fps",
    "frame_rate",
    "latent_rate",
    "sample_size",
    "num_frames",
    "num_samples",
)

# What codi requires of the libraries that others import unasked (`libraries.UNASKED`).
REQUIRED = ("torchaudio", "soundfile")
IMPORTED_AS = {  # where a library is not named like its module, or only its parts tell whether it loads
    "pillow": "PIL.Image",
    "pyyaml": "yaml",
    "diffusers": "diffusers.models.modeling_utils",
    "transformers": "transformers.modeling_utils",
    "scipy": "scipy.optimize",
}

Check = tuple[bool | None, str, str]  # fine (None: only worth knowing), what was found, how to mend it


# What a model is -------------------------------------------------------


def describe(folder: Path) -> dict[str, Any]:
    """Return the parts, parameter counts, bytes, rates, licence and provenance of a model folder.

    They come from configurations and headers; no weights are read.
    """
    from codi import pretrained

    index = _read_json(folder / pretrained.INDEX)
    parts = [_part(folder / name, kind) for name, (_, kind) in pretrained.read_index(folder).items()]
    stated = provenance(folder)
    return {
        "folder": str(folder),
        "pipeline": index.get("_class_name"),
        "parameters": sum(part["parameters"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "license": stated.get("license", "not stated"),
        "parts": parts,
        "controls": _controls(folder),
        "provenance": stated,
    }


def _controls(folder: Path) -> list[dict[str, Any]]:
    """Return the controls that a model folder holds, each with its output, kind, parameters and bytes."""
    found = []
    for path in sorted((folder / "controls").glob("*/config.json")):
        config = _read_json(path)
        part = _part(path.parent, str(config.get("_class_name")))
        found.append(part | {"output": config.get("output"), "kind": config.get("kind")})
    return found


def provenance(folder: Path) -> dict[str, Any]:
    """Return what a model folder states of where its weights come from; empty where it states nothing."""
    return _read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}


def _part(folder: Path, kind: str) -> dict[str, Any]:
    """Return the name, class, parameter count, bytes, types and rates of one part of a model."""
    from codi import pretrained

    found: list[Any] = []
    for path in pretrained.weight_files(folder):
        found += pretrained.read_header(path).values()
    values: dict[str, Any] = {}
    for config in (folder / "config.json", folder / "scheduler_config.json"):
        if config.is_file():
            values = _read_json(config)
            break
    return {
        "name": folder.name,
        "class": kind,
        "parameters": sum(math.prod(entry.shape) for entry in found),
        "bytes": sum(entry.end - entry.begin for entry in found),
        "dtypes": sorted({entry.dtype for entry in found}),
        "rates": {key: values[key] for key in RATES if values.get(key) is not None},
    }


def _read_json(path: Path) -> dict[str, Any]:
    from codi.tensor_files import read_json

    return read_json(path, "copy or download the model again")


def info(name: str | None, as_json: bool = False) -> int:
    """Print what a model is, and return the exit code.

    Args:
        name: a folder or hub id; None for the model inside the package.
        as_json: whether to print JSON for programs in place of lines for people.

    Returns:
        0; a model that cannot be read raises `InputError`.
    """
    from codi import pretrained

    model = describe(pretrained.resolve(name))
    if as_json:
        print(json.dumps(model, indent=2))
        return 0
    print(f"{model['pipeline']} in {model['folder']}")
    print(
        f"{count(model['parameters'])} parameters, {model['bytes'] / 1e6:.1f} MB, licence "
        f"{model['license']}\n"
    )
    for part in model["parts"]:
        rates = ", ".join(f"{key} {value}" for key, value in part["rates"].items())
        size = " " * 25
        if part["parameters"]:
            dtypes = "/".join(part["dtypes"])
            size = f"{count(part['parameters']):>8} {part['bytes'] / 1e6:7.1f} MB {dtypes:5}"
        print(f"  {part['name']:20} {part['class']:28} {size}  {rates}".rstrip())
    for each in model["controls"]:
        what = f"control {each['kind']} of {each['output']}"
        print(f"  {what:49} {count(each['parameters']):>8} {each['bytes'] / 1e6:7.1f} MB")
    if model["provenance"]:
        print("\nprovenance")
        for key, value in model["provenance"].items():
            text = value if isinstance(value, str) else json.dumps(value)
            shown = text if len(text) <= 160 else text[:157] + "..."
            print(f"  {key}: {shown}")
    return 0


def words(name: str | None) -> int:
    """Print the words that a model's text prompts may hold, by kind, and return the exit code.

    Args:
        name: a folder or hub id; None for the model inside the package.

    Returns:
        0; a model that cannot be read raises `InputError`.
    """
    from codi import pretrained, wording

    vocabulary, _ = wording.vocabulary_of(pretrained.resolve(name))
    if vocabulary is None:
        print("any: the vocabulary is open, or this model reads no text")
        return 0
    for kind, known in wording.by_kind(vocabulary).items():
        print(f"{kind}: {', '.join(known)}")
    return 0


def count(number: float) -> str:
    """Return a number of parameters for people."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return str(int(number))


# Whether this machine can run it ---------------------------------------


def examine() -> int:
    """Print the result of every check of this machine, and return exit code 1 if one of them failed, else 0.

    A cure that is printed is a command for the very Python that runs this.
    """
    checks: tuple[Callable[[], list[Check]], ...] = (
        _place,
        _libraries,
        _unasked,
        _devices,
        _resources,
        _codecs,
        _model,
    )
    found: list[Check] = []
    for check in checks:
        found += _guarded(check)
    failed = 0
    for fine, what, cure in found:
        failed += fine is False
        sign = {True: "ok", False: "FAIL", None: "-"}[fine]
        print(f"{sign:5}{what}")
        if cure:
            print(f"     -> {cure}")
    print("\nall is well" if not failed else f"\n{failed} to mend")
    return 1 if failed else 0


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    """Run a check, and return whatever it throws as what it found."""
    try:
        return check()
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        return [(False, f"{check.__name__.strip('_')}: {type(error).__name__}: {what}", "")]


def _pip(arguments: str) -> str:
    """Return a command of pip that changes the environment in which codi runs, and no other."""
    return f"{shlex.quote(sys.executable)} -m pip {arguments}"


def _place() -> list[Check]:
    """Return one line with the versions of codi and Python, the system and the number of cores."""
    version = platform.python_version()
    return [
        (
            True,
            f"codi {__version__}, Python {version}, {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores",
            "",
        )
    ]


def _libraries() -> list[Check]:
    """Check that each library that codi requires is installed, has an allowed version, and loads.

    The requirements are those of the installed codi; where it runs from its source folder they are not
    checked.
    """
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in metadata.requires("codi") or []]
    except metadata.PackageNotFoundError:
        what = (
            "codi runs from its source folder: versions of libraries are not checked (pip install -e . to "
            "have them)"
        )
        return [(None, what, "")]
    lines = []
    for need in stated:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            lines.append(_library(need))
    return lines


def _library(need: Any) -> Check:
    """Check that one required library is installed, has an allowed version, and loads."""
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return False, f"{need.name} is not installed", _pip(f"install '{need.name}{need.specifier}'")
    if not need.specifier.contains(version, prereleases=True):
        return (
            False,
            f"{need.name} {version}, expected {need.specifier}",
            _pip(f"install '{need.name}{need.specifier}'"),
        )
    if reason := _fault(need.name, IMPORTED_AS.get(need.name, need.name.replace("-", "_"))):
        again = _pip(f"install --force-reinstall --no-deps '{need.name}{need.specifier}'")
        return False, f"{need.name} {version} does not load ({reason})", again
    return True, f"{need.name} {version}", ""


def _fault(library: str, module: str) -> str:
    """Return in one line what importing a module of a library throws; empty for one that loads."""
    from codi import libraries

    _leave_out_broken()
    try:
        if not libraries.why_not(library):
            libraries.load(module, "codi")
    except InputError:
        pass
    return libraries.why_not(library)


def _unasked() -> list[Check]:
    """Check the libraries that codi does not require and that others import unasked.

    Those that do not load are left out.
    """
    from codi import libraries

    _leave_out_broken()
    lines: list[Check] = []
    for name in libraries.UNASKED:
        if name in REQUIRED:
            continue
        if reason := libraries.why_not(name):
            cure = _pip(f"uninstall --yes {name}")
            lines.append((None, f"{name} is installed and does not load ({reason}): it is left out", cure))
        elif importlib.util.find_spec(name) is not None:
            lines.append((None, f"{name} loads", ""))
    return lines


def _leave_out_broken() -> None:
    """Leave out broken libraries as codi does before it imports diffusers, but without its warnings.

    Every check has a line of its own in place of a warning.
    """
    from codi import libraries

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        libraries.leave_out_broken()


def _devices() -> list[Check]:
    """Return a line for each device that torch finds."""
    import torch

    lines: list[Check] = [(True, f"cpu: {torch.get_num_threads()} threads", "")]
    for k in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(k)
        note = "" if free > 1 << 30 else " (little: end what occupies it, or use --device cpu)"
        what = (
            f"cuda:{k}: {torch.cuda.get_device_name(k)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB "
            f"free{note}"
        )
        lines.append((None if note else True, what, ""))
    if torch.backends.mps.is_available():
        lines.append((True, "mps: Apple GPU", ""))
    if len(lines) == 1:
        lines.append((None, "no GPU: the embedded model runs well without", ""))
    return lines


def _resources() -> list[Check]:
    """Check memory and disk, which never fail: how much is needed depends on what is asked.

    Little of either is shown as worth knowing.
    """
    free = free_memory()
    disk = shutil.disk_usage(Path.cwd()).free
    memory = "memory: unknown" if free is None else f"memory: {free / 2**30:.1f} GiB free"
    little = free is not None and free < 2 << 30
    if little:
        memory += " (the embedded model takes about 2)"
    return [
        (None if little else True, memory, ""),
        (None if disk < 1 << 30 else True, f"disk: {disk / 2**30:.1f} GiB free in {Path.cwd()}", ""),
    ]


def free_memory() -> int | None:
    """Return the free memory in bytes by the system's own estimate; None where it has none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return None


def _codecs() -> list[Check]:
    """Check that PyAV's own FFmpeg has the codecs that media files need.

    A PyAV that was built against the FFmpeg of a system may lack some.
    """
    if _fault("av", "av"):
        return []  # `_libraries` has reported it
    import av

    missing = [name for name in ("libx264", "aac", "h264", "vp9", "mp3") if name not in av.codecs_available]
    if missing:
        cure = _pip("install --force-reinstall --no-deps --only-binary :all: av")
        return [(False, f"PyAV lacks {', '.join(missing)}", cure)]
    return [(True, "PyAV has h264, aac, vp9, mp3", "")]


def _model() -> list[Check]:
    """Check that the model inside the package is complete and its weights are unaltered."""
    from codi import pretrained

    try:
        folder = pretrained.resolve()
        model = describe(folder)
        pretrained.check_files(folder, pretrained.read_index(folder))
    except InputError as error:
        again = "install codi again from its checkout: pip install --force-reinstall --no-deps ."
        return [(False, f"embedded model: {error}", again)]
    return [
        (True, f"embedded model: {count(model['parameters'])} parameters, {model['bytes'] / 1e6:.1f} MB", "")
    ]
