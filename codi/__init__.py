"""codi: any combination of text, image, audio and video from any combination of them, together.

    from codi import CoDiPipeline
    out = CoDiPipeline.from_pretrained()(text="a green star bounces quickly in the snow", outputs=["video",
    "audio"], seed=0)

Nothing heavy is imported before it is asked for.
"""

from importlib import import_module
from typing import Any

from codi.types import InputError, Modality, ModalitySpec
from codi.version import __version__

_LAZY = {
    "CoDiPipeline": "codi.pipeline",
    "CoDiOutput": "codi.outputs",
    "Prompt": "codi.prompts",
    "read_record": "codi.records",
}
__all__ = ["InputError", "Modality", "ModalitySpec", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'codi' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
