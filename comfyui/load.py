"""The node that loads a model."""

from pathlib import Path
from typing import Any, ClassVar

from .base import MODEL, Node, choice, words
from .running import outside_inference_mode, pipeline_class

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
EMBEDDED = "codi-tiny"


class LoadModel(Node):
    """Loads a model of codi, which other nodes generate with."""

    DESCRIPTION = "Loads a model: the one inside the package, a folder, or a hub id."
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    required: ClassVar[dict[str, Any]] = {
        "model": words(
            EMBEDDED,
            "codi-tiny, which is inside the package; a folder, also below models/codi; or a hub id",
        ),
        "device": choice(DEVICES, "auto", "where it computes; auto is where ComfyUI does"),
        "dtype": choice(DTYPES, "float32", "the precision of the networks"),
    }
    optional: ClassVar[dict[str, Any]] = {
        "lora": words(
            tooltip="folders of LoRAs that codi trained, one a line, such as my-lora::0.7", multiline=True
        ),
        "learned_words": words(
            tooltip="folders of words that codi learned (textual inversion), one a line", multiline=True
        ),
        "control": words(
            tooltip="folders of controls that codi trained, one a line (docs/control.md)", multiline=True
        ),
    }

    def run(
        self, model: str, device: str, dtype: str, lora: str = "", learned_words: str = "", control: str = ""
    ) -> tuple[Any]:
        """Return the pipeline."""
        import torch

        pipeline = pipeline_class()
        from codi.adapters.given import Given

        with outside_inference_mode():
            adapters = Given.parse(_lines(lora), _lines(learned_words), _lines(control))
            pipe = pipeline.from_pretrained(_source(model), dtype=getattr(torch, dtype))
            adapters.apply(pipe)
            pipe.to(_device(device))
            pipe.set_progress_bar_config(disable=True)  # ComfyUI shows its own
        return (pipe,)

    @classmethod
    def IS_CHANGED(cls, model: str, **others: Any) -> str:
        """Return another value when the files of the model's folder are others, so that it is loaded anew."""
        source = _source(model)
        if source is None or not Path(source).is_dir():
            return model
        files = sorted(path for path in Path(source).rglob("*") if path.is_file())
        return repr([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files])


def _lines(text: str) -> list[str]:
    """Return the lines of a text that hold anything."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _source(model: str) -> str | None:
    """Return what `from_pretrained` takes: None for the embedded model, else a folder or a hub id."""
    import folder_paths

    model = model.strip()
    if model in ("", EMBEDDED):
        return None
    below = Path(folder_paths.models_dir) / "codi" / model
    return str(below) if below.is_dir() else model


def _device(name: str) -> Any:
    """Return the device of a name; "auto" is ComfyUI's."""
    from comfy import model_management

    return model_management.get_torch_device() if name == "auto" else name
