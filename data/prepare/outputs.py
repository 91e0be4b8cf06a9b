"""Files that the commands of `data.prepare` write: refused where they are there, whole or not at all."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codi.types import InputError


def check_new(manifests: Iterable[Path], overwrite: bool) -> None:
    """Raise InputError unless manifests can be written under these names."""
    for path in manifests:
        if path.suffix != ".jsonl":
            raise InputError(f"cannot write a manifest as {path}: expected a name that ends in .jsonl")
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already: expected another name, or --overwrite to replace it")


def place_of(text: str) -> float:
    """Return a number in [0, 1) that depends on a text alone, evenly spread over texts."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    """Write values as JSON lines, or take a file of an earlier run away where there is none."""
    from codi.io import save_text

    path.unlink(missing_ok=True)
    if values:
        save_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
