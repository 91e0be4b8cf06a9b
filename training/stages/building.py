"""This module builds what trains from the section `part` of a configuration.

A mistake in that section is named in the configuration's terms, rather than met as an error in somebody's
constructor.
"""

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from codi.types import InputError
from training.config import check_names

_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Sections that are the arguments of a configuration of transformers, which takes whatever it is given.
_TRANSFORMERS = {
    "text_config": "CLIPTextConfig",
    "vision_config": "CLIPVisionConfig",
    "audio_config": "ClapAudioConfig",
    "encoder_config": "BertConfig",
    "decoder_config": "GPT2Config",
    "vocoder_config": "SpeechT5HifiGanConfig",
}


def build_module(stage: Any, part: Mapping[str, Any]) -> nn.Module:
    """Return `stage.build()`, with mistakes in `part` turned into errors that a user can act on.

    Args:
        stage: the stage of the run.
        part: the section `part` of its configuration.

    Returns:
        The module that trains.

    Raises:
        InputError: for an argument in `part` that nobody knows, for one that is missing, or for values from
            which nothing can be built.
    """
    check_sections(part, "part")
    try:
        return stage.build()
    except (InputError, NotImplementedError):  # the latter is what torch says of numbers on its meta device
        raise
    except _MISTAKES as error:
        if isinstance(error, OSError):
            raise
        raise InputError(f"part: {explain(error)}") from error


def check_sections(part: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` for a key that a configuration of transformers would keep and never look at.

    Args:
        part: the section to check; its own sections are checked too.
        where: the section's name, for the message.
    """
    import transformers

    for name, values in part.items():
        if not isinstance(values, Mapping):
            continue
        check_sections(values, f"{where}.{name}")
        if name in _TRANSFORMERS:
            known = getattr(transformers, _TRANSFORMERS[name])()
            wrong = [key for key in values if not hasattr(known, str(key))]
            check_names(wrong, known.to_dict(), f"{where}.{name}")


def explain(error: Exception) -> str:
    """Return a constructor's complaint in a configuration's terms."""
    said = " ".join(str(error).split())
    if unknown := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", said):
        return f"unknown key {unknown[2]!r}: {unknown[1]} has no such argument"
    if missing := re.search(r"(\w+)\.__init__\(\) missing .* arguments?: (.*)", said):
        return f"missing {missing[2]}, which {missing[1]} needs"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"nothing can be built from these values ({type(error).__name__} in {Path(place.filename).name}, "
        f"line {place.lineno}: {said})"
    )
