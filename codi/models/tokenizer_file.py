"""The tokenizer of a part that reads pieces of words: an ordinary `tokenizer.json` beside its configuration.

In memory the argument `tokenizer` of a part is always the whole `tokenizers` JSON string. A folder holds one
of pieces in a file of its own, which other libraries read as well, and its configuration names that file; the
few words of a closed vocabulary stay in the configuration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.configuration_utils import ConfigMixin

from codi.tensor_files import AGAIN, Entry
from codi.types import InputError
from codi.vocabulary import TOKENIZER_FILE, has_pieces


class WithTokenizerFile(ConfigMixin):
    """The base of parts whose argument `tokenizer` may be kept in a file.

    Attributes:
        table: the name of the tensor that has one row for each piece.
        table_config: the name of the argument whose `vocab_size`, if it has one, says how many rows there
            are, in place of the tokenizer.
    """

    table: ClassVar[str]
    table_config: ClassVar[str]

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json, and tokenizer.json if the part reads pieces of words."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        serialised = self.config.get("tokenizer")
        if serialised is None or not has_pieces(serialised):
            return
        folder = Path(save_directory)
        (folder / TOKENIZER_FILE).write_text(serialised + "\n", encoding="utf-8")
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer": TOKENIZER_FILE}
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what config.json says, with the contents of tokenizer.json where that is named."""
        found = super().load_config(pretrained_model_name_or_path, *args, **kwargs)
        values = found[0] if isinstance(found, tuple) else found
        if values.get("tokenizer") == TOKENIZER_FILE:
            folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
            values["tokenizer"] = read_tokenizer(folder)
        return found

    @classmethod
    def check_tokenizer(cls, folder: Path, values: Mapping[str, Any], stored: Mapping[str, Entry]) -> None:
        """Raise `InputError` unless the tokenizer in a part's folder is there and fits its weights.

        Args:
            folder: the folder of the part.
            values: what its config.json says.
            stored: the entries of its tensors by name.
        """
        if values.get("tokenizer") != TOKENIZER_FILE:
            return
        vocabulary = json.loads(read_tokenizer(folder))["model"]["vocab"]
        entry = stored.get(cls.table)
        if entry is None:  # what is said of weights that lack a tensor does not concern the tokenizer
            return
        rows = entry.shape[0]
        asked = (values.get(cls.table_config) or {}).get("vocab_size", len(vocabulary))
        if not len(vocabulary) <= rows == asked:
            raise InputError(
                f"{folder / TOKENIZER_FILE} has {len(vocabulary)} pieces: expected those of the weights "
                f"beside it, which are made for {rows}; copy or download both of them again"
            )


def read_tokenizer(folder: Path) -> str:
    """Return the tokenizer in the folder of a part as a `tokenizers` JSON string.

    Args:
        folder: the folder of the part.

    Returns:
        The string.

    Raises:
        InputError: if there is no such file, or if it holds no tokenizer of pieces.
    """
    path = folder / TOKENIZER_FILE
    try:
        serialised = path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        raise InputError(
            f"{folder} lacks {TOKENIZER_FILE}, which holds the pieces of words that this part knows: copy or "
            "download it again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): {AGAIN}") from None
    if not has_pieces(serialised):
        raise InputError(f"{path} holds no tokenizer of pieces that codi made: {AGAIN}")
    return serialised
