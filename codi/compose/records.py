"""Say what records hold of a composed model: its models, their weights, and the settings of its own."""

import hashlib
from collections.abc import Mapping
from typing import Any

from codi import settings


def describe_reference(reference: Any) -> dict[str, Any]:
    """Return what a record says of one published model (`codi.compose.references.Reference`)."""
    return {
        "source": reference.source,
        "revision": reference.revision,
        "class": reference.kind,
        "variant": reference.variant,
        "fingerprint": reference.fingerprint,
    }


def fingerprint(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return a digest of the weights of all models; None for models that were put together by hand.

    Args:
        models: what a record says of each, as from `describe_reference`.

    Returns:
        The digest.
    """
    digests = [str(part.get("fingerprint")) for part in models.values()]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else None


def describe_model(pipe: Any, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a record says of a composed model: its name, and those of its models with their weights.

    Args:
        pipe: the `codi.compose.pipeline.ComposedPipeline`.
        models: what a record says of each of its models; nothing for models that were put together by hand.

    Returns:
        The description.
    """
    own = settings.DEFAULTS | pipe.defaults
    return {
        "name": pipe.name,
        "composed": models or {m.value: model.name for m, model in pipe.models.items()},
        "weights": fingerprint(models),
        "dtype": str(next(iter(pipe.models.values())).dtype).removeprefix("torch."),
        "device": str(pipe.device),
        "own": {name: own[name] for name in settings.FIXED},
    }
