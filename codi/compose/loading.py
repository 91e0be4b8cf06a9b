"""Load what the folder of a composed model refers to and holds: published models, our own parts.

What is loaded is what was composed: every file of a published model is compared with its digest first.
"""

from pathlib import Path
from typing import Any

from codi import pretrained
from codi.compose.folder import Composed, verify_text
from codi.compose.foreign import ForeignModel
from codi.compose.rules import pipeline_class
from codi.types import InputError, Modality, blame


def load_models(composed: Composed, dtype: Any) -> dict[Modality, ForeignModel]:
    """Load the published models of a composed model.

    Args:
        composed: what the folder of the composed model says.
        dtype: the dtype of the weights, or one by modality, where "default" stands for all others.

    Returns:
        The models by what they make.

    Raises:
        InputError: for one whose files are no longer what they were, or that cannot be loaded.
    """
    dtypes = dtype if isinstance(dtype, dict) else {"default": dtype}
    return {
        Modality.parse(modality): load_model(composed, modality, dtypes.get(modality, dtypes.get("default")))
        for modality in composed.references
    }


def load_model(composed: Composed, modality: str, dtype: Any) -> ForeignModel:
    """Load one published model of a composed model.

    Args:
        composed: what the folder of the composed model says.
        modality: which of its models.
        dtype: the dtype of the weights; None for that of their files.

    Returns:
        The model.

    Raises:
        InputError: if its files are no longer what they were, or if it cannot be loaded.
    """
    reference = composed.references[modality]
    place = reference.verify(composed.folder)
    with blame(f"{modality}: "):
        with pretrained.quietly():  # the classes are imported, with all that they may need
            found: Any = pipeline_class(reference.kind)
        options = {} if dtype is None else {"torch_dtype": dtype}
        try:
            with pretrained.quietly():
                pipeline = found.from_pretrained(
                    place, variant=reference.variant, use_safetensors=True, local_files_only=True, **options
                )
        except MemoryError:
            raise
        except Exception as error:  # configurations that nobody wrote raise errors of every kind
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{reference.name} cannot be loaded: {reason}") from error
        return ForeignModel(pipeline=pipeline, call=reference.call, name=reference.name)


def load_parts(composed: Composed, dtype: Any, **options: Any) -> dict[str, Any]:
    """Load the own parts of a composed model, each checked as those of any model of codi.

    Args:
        composed: what the folder of the composed model says.
        dtype: the dtype of the weights.
        **options: options of `codi.pretrained.load_parts`.

    Returns:
        The parts by name.

    Raises:
        InputError: if a part is damaged, or of a class that it may not have.
    """
    return pretrained.load_parts(composed.folder, composed.parts, dtype, **options)


def text_model_folder(composed: Composed) -> Path | None:
    """Return the folder of the model that words come from.

    Args:
        composed: what the folder of the composed model says.

    Returns:
        The folder; None for a model without words of its own.

    Raises:
        InputError: if its weights are no longer what they were.
    """
    return None if composed.text is None else verify_text(composed.text)
