"""The nodes that write files with their records, and that show a record."""

import json
from pathlib import Path
from typing import Any, ClassVar

from .base import RESULT, Node, socket, words

SHOWN = {".png": "images", ".wav": "audio"}  # under which key the page shows a file


class Save(Node):
    """Writes everything that was made into ComfyUI's output folder."""

    DESCRIPTION = (
        "Writes clips with their sound (mp4), sounds (wav), pictures (png) and sentences (txt), with the "
        "record of how they were made; `codi generate --from FILE` makes one again."
    )
    OUTPUT_NODE = True
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("files",)
    OUTPUT_IS_LIST = (True,)
    required: ClassVar[dict[str, Any]] = {
        "result": socket(RESULT, "of CoDi Generate"),
        "filename_prefix": words("codi/made", "below ComfyUI's output folder, as in Save Image"),
    }

    def run(self, result: Any, filename_prefix: str) -> dict[str, Any]:
        """Write the files, and return their paths and what the page shows of them."""
        import folder_paths

        root = folder_paths.get_output_directory()
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, root)
        names = [f"{name}_{counter + k:05}_" for k in range(len(result.seeds))]
        paths = result.save(folder, names)
        return {"ui": shown(paths, subfolder, result.texts), "result": ([str(path) for path in paths],)}


def shown(paths: list[Path], subfolder: str, texts: list[str]) -> dict[str, list[Any]]:
    """Return what the page shows of files: pictures or clips, sounds, sentences.

    Args:
        paths: the files.
        subfolder: where they lie below the output folder.
        texts: the sentences.

    Returns:
        Files by kind, in the form that ComfyUI's page takes.
    """
    found: dict[str, list[Any]] = {"text": list(texts)} if texts else {}
    clips = [path for path in paths if path.suffix == ".mp4"]
    for path in paths:
        key = SHOWN.get(path.suffix)
        if key:
            found.setdefault(key, []).append(_entry(path, subfolder))
    if clips:  # a node shows clips or pictures
        found["images"] = [_entry(path, subfolder) for path in clips]
        found["animated"] = [True]
    return found


def _entry(path: Path, subfolder: str) -> dict[str, str]:
    return {"filename": path.name, "subfolder": subfolder, "type": "output"}


class Record(Node):
    """Shows how every sample was made."""

    DESCRIPTION = "The record of every sample as JSON: prompts, seed, every setting, model, versions."
    OUTPUT_NODE = True
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("record",)
    OUTPUT_IS_LIST = (True,)
    required: ClassVar[dict[str, Any]] = {"result": socket(RESULT, "of CoDi Generate")}

    def run(self, result: Any) -> dict[str, Any]:
        """Return one record for each sample, and show them."""
        records = [json.dumps(result.record(k), indent=2) for k in range(len(result.seeds))]
        return {"ui": {"text": records}, "result": (records,)}
