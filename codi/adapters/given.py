"""Read and check the adapters that a command was given, before the model is loaded."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.types import InputError


@dataclass(frozen=True, kw_only=True)
class Given:
    """The adapters that a command was given, in that order; every file was read once and is sound.

    Attributes:
        loras: the path and scale of each LoRA.
        words: the path of each file of words.
        controls: the folder of each control.
    """

    loras: tuple[tuple[Path, float], ...] = ()
    words: tuple[Path, ...] = ()
    controls: tuple[Path, ...] = ()

    @classmethod
    def parse(cls, loras: Iterable[str], learned: Iterable[str], controls: Iterable[str] = ()) -> "Given":
        """Read and check adapters as they are typed.

        Args:
            loras: for each LoRA 'DIR' or 'DIR::0.7', its folder or file, with or without a scale (1 without).
            learned: folders or files of words.
            controls: folders of controls.

        Returns:
            The adapters.

        Raises:
            InputError: for what cannot be used.
        """
        return cls(
            loras=tuple(map(_parse_lora, loras)),
            words=tuple(map(_check_words, learned)),
            controls=tuple(map(_check_control, controls)),
        )

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Return the adapters by their files, for a manifest: path, sha256, and the scale of a LoRA.

        Without a LoRA, or without learned words, their key is left out.
        """
        loras = [{"path": str(path), "sha256": sha256_of(path), "scale": scale} for path, scale in self.loras]
        learned = [{"path": str(path), "sha256": sha256_of(path)} for path in self.words]
        return ({"loras": loras} if loras else {}) | ({"words": learned} if learned else {})

    def apply(self, pipe: Any) -> None:
        """Load all of the adapters into a pipeline."""
        for path, scale in self.loras:
            pipe.load_lora_weights(path, scale=scale)
        for path in self.words:
            pipe.load_textual_inversion(path)
        for path in self.controls:
            pipe.load_control(path)


def _parse_lora(text: str) -> tuple[Path, float]:
    """Return the path and scale of a LoRA as it is typed, and check its file."""
    from codi.adapters.files import LORA_FILE, check_scale, find_file, read_lora
    from codi.models.lora import need_peft

    need_peft()
    source, sign, tail = text.rpartition("::")
    try:
        scale = float(tail) if sign else 1.0
    except ValueError:
        raise InputError(
            f"--lora {text!r}: expected a folder, or folder::scale such as {source}::0.7"
        ) from None
    path = find_file(source if sign else text, LORA_FILE)
    check_scale(str(path), scale)
    read_lora(path)
    return path, scale


def _check_words(source: str) -> Path:
    from codi.adapters.files import WORDS_FILE, find_file, read_words

    path = find_file(source, WORDS_FILE)
    read_words(path)
    return path


def _check_control(source: str) -> Path:
    from codi.adapters.controls import read_place

    folder = Path(source).expanduser()
    read_place(folder)
    return folder


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file of a few MB, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
