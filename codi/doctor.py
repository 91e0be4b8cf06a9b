"""`codi info`: what a model is, from its configurations and the headers of its tensors. `codi doctor`: whether this machine can run it."""

import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from codi import __version__
from codi.types import InputError

PROVENANCE = "provenance.json"
RATES = ("sampling_rate", "rate", "fps", "frame_rate", "latent_rate", "sample_size", "num_frames", "num_samples")

Check = tuple[bool | None, str, str]  # fine (None: only worth knowing), what was found, how to fix it


# What a model is -------------------------------------------------------


def describe(folder: Path) -> dict[str, Any]:
    """Parts, parameter counts, bytes, rates, licence and provenance of a model folder."""
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
        "provenance": stated,
    }


def provenance(folder: Path) -> dict[str, Any]:
    """What a model folder states of where its weights come from; empty where it states nothing."""
    return _read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}


def _part(folder: Path, kind: str) -> dict[str, Any]:
    from codi import pretrained

    found = [entry for path in pretrained.weight_files(folder) for entry in pretrained.read_header(path).values()]
    config = next((folder / name for name in ("config.json", "scheduler_config.json") if (folder / name).is_file()), None)
    values = _read_json(config) if config else {}
    return {
        "name": folder.name,
        "class": kind,
        "parameters": sum(math.prod(entry.shape) for entry in found),
        "bytes": sum(entry.end - entry.begin for entry in found),
        "dtypes": sorted({entry.dtype for entry in found}),
        "rates": {key: values[key] for key in RATES if values.get(key) is not None},
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no JSON object ({error}): copy or download the model again") from None


def info(name: str | None, as_json: bool = False) -> int:
    """Prints what a model is."""
    from codi import pretrained

    model = describe(pretrained.resolve(name))
    if as_json:
        print(json.dumps(model, indent=2))
        return 0
    print(f"{model['pipeline']} in {model['folder']}")
    print(f"{_count(model['parameters'])} parameters, {model['bytes'] / 1e6:.1f} MB, licence {model['license']}\n")
    for part in model["parts"]:
        rates = ", ".join(f"{key} {value}" for key, value in part["rates"].items())
        size = (
            f"{_count(part['parameters']):>8} {part['bytes'] / 1e6:7.1f} MB {'/'.join(part['dtypes']):5}"
            if part["parameters"]
            else " " * 25
        )
        print(f"  {part['name']:20} {part['class']:28} {size}  {rates}".rstrip())
    if model["provenance"]:
        print("\nprovenance")
        for key, value in model["provenance"].items():
            text = value if isinstance(value, str) else json.dumps(value)
            print(f"  {key}: {text if len(text) <= 160 else text[:157] + '...'}")
    return 0


def _count(number: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return str(int(number))


# Whether this machine can run it ---------------------------------------


def examine() -> int:
    """Prints every check; exit code 1 if one of them failed."""
    checks: tuple[Callable[[], list[Check]], ...] = (_python, _packages, _torchaudio, _devices, _memory, _codecs, _attention, _model)
    found = [line for check in checks for line in _guarded(check)]
    for fine, what, fix in found:
        print(f"{ {True: 'ok', False: 'FAIL', None: '-'}[fine]:5}{what}" + (f"\n     -> {fix}" if fix and fine is False else ""))
    failed = sum(fine is False for fine, _, _ in found)
    print("\nall is well" if not failed else f"\n{failed} to fix")
    return 1 if failed else 0


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        return [
            (False, f"{check.__name__.strip('_')}: {type(error).__name__}: {what}", "install codi again into a fresh virtual environment")
        ]


def _python() -> list[Check]:
    version = platform.python_version()
    place = f"codi {__version__}, Python {version}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return [(sys.version_info >= (3, 11), place, "use Python 3.11 or newer")]


def _packages() -> list[Check]:
    """Every requirement that the installed codi states."""
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in metadata.requires("codi") or []]
    except metadata.PackageNotFoundError:
        return [(None, "codi runs from its source folder: versions of libraries are not checked (pip install -e . to have them)", "")]
    return [_package(need) for need in stated if need.marker is None or need.marker.evaluate({"extra": ""})]


def _package(need: Any) -> Check:
    fix = f"pip install '{need.name}{need.specifier}'"
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return False, f"{need.name} is not installed", fix
    fine = need.specifier.contains(version, prereleases=True)
    return fine, f"{need.name} {version}" + ("" if fine else f", expected {need.specifier}"), fix


def _torchaudio() -> list[Check]:
    """Its native library loads only beside the torch it was built for, and transformers imports it as soon as it is installed."""
    import torch

    try:
        import torchaudio
    except Exception as error:
        what = f"torchaudio {metadata.version('torchaudio')} does not load beside torch {torch.__version__} ({type(error).__name__})"
        return [(False, what, "pip install 'torch>=2.11,<2.13' 'torchaudio>=2.11,<2.12', both from the same index")]
    return [(True, f"torch {torch.__version__} and torchaudio {torchaudio.__version__} agree", "")]


def _devices() -> list[Check]:
    import torch

    lines: list[Check] = [(True, f"cpu: {torch.get_num_threads()} threads", "")]
    for k in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(k)
        what = f"cuda:{k}: {torch.cuda.get_device_name(k)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        lines.append((free > 1 << 30, what, "end what occupies the GPU, or use --device cpu"))
    if torch.backends.mps.is_available():
        lines.append((True, "mps: Apple GPU", ""))
    if len(lines) == 1:
        lines.append((None, "no GPU: the embedded model runs well without", ""))
    return lines


def _memory() -> list[Check]:
    free = _free_memory()
    disk = shutil.disk_usage(Path.cwd()).free
    return [
        (
            free is None or free > 2 << 30,
            f"memory: {'unknown' if free is None else f'{free / 2**30:.1f} GiB free'}",
            "close programs: 2 GiB are needed",
        ),
        (disk > 1 << 30, f"disk: {disk / 2**30:.1f} GiB free in {Path.cwd()}", "free some space: results need a little"),
    ]


def _free_memory() -> int | None:
    """Bytes, by the system's own estimate."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _codecs() -> list[Check]:
    import av
    import soundfile

    missing = [name for name in ("libx264", "aac", "h264", "vp9", "mp3") if name not in av.codecs_available]
    what = f"PyAV {av.__version__} and soundfile {soundfile.__version__}" + (
        f", without {', '.join(missing)}" if missing else ": h264, aac, vp9, mp3"
    )
    return [(not missing, what, "pip install --force-reinstall --only-binary :all: av")]


def _attention() -> list[Check]:
    try:
        return [(None, f"xformers {metadata.version('xformers')} is installed: used only if you choose it as attention backend", "")]
    except metadata.PackageNotFoundError:
        return [(None, "attention: PyTorch's own", "")]


def _model() -> list[Check]:
    from codi import pretrained

    try:
        model = describe(pretrained.resolve())
    except InputError as error:
        return [(False, f"embedded model: {error}", "install codi again, or make it with `make tiny`")]
    return [(True, f"embedded model: {_count(model['parameters'])} parameters, {model['bytes'] / 1e6:.1f} MB", "")]
