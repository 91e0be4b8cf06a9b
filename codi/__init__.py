"""Make any combination of text, image, audio and video from any combination of them, together.

    from codi import CoDiPipeline
    pipe = CoDiPipeline.from_pretrained()
    out = pipe(text="a green star bounces quickly in the snow", outputs=["video", "audio"], seed=0)

Importing this package is quick: whatever is heavy is imported only when it is asked for.
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
    # The next look-up finds it without coming here again.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
