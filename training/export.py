"""The end of a run: the trained part goes into the model folder, and what was written is noted beside the run."""

import json
from collections.abc import Callable
from pathlib import Path

from training.config import Config

_NOTE = "exported.json"


def export_once(config: Config, samples: int, export: Callable[[Path], None]) -> None:
    """Exports, then notes the files that appeared or changed, so that a later call can tell whether they are still there."""
    config.model.mkdir(parents=True, exist_ok=True)
    before = _stamps(config.model)
    export(config.model)
    files = sorted(name for name, stamp in _stamps(config.model).items() if before.get(name) != stamp)
    note = {"samples": samples, "model": str(config.model), "files": files}
    (config.output / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")


def export_missing(config: Config, samples: int) -> bool:
    """True if the export of this state of the run was never finished, or a file of it has gone."""
    try:
        note = json.loads((config.output / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    here = note.get("samples") == samples and note.get("model") == str(config.model)
    return not here or not all((config.model / name).is_file() for name in note["files"])


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
