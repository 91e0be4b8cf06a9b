"""Say what records hold of a composed model: its models and parts, their weights, and its own settings."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from codi import pretrained, settings

if TYPE_CHECKING:
    from codi.compose.folder import Composed


def describe_reference(reference: Any) -> dict[str, Any]:
    """Return what a record says of one published model (`codi.compose.references.Reference`)."""
    return {
        "source": reference.source,
        "revision": reference.revision,
        "class": reference.kind,
        "variant": reference.variant,
        "fingerprint": reference.fingerprint,
    }


def describe_parts(composed: "Composed") -> dict[str, str]:
    """Return digests of what a composed model has beside its published models.

    Args:
        composed: what the folder of the composed model says.

    Returns:
        By name, digests of the weights of its own trained parts, and of the model that its words come from.
    """
    found = {name: pretrained.fingerprint(composed.folder, name) for name in sorted(composed.parts)}
    return found if composed.text is None else {"text": composed.text.fingerprint, **found}


def fingerprint(models: Mapping[str, Mapping[str, Any]], parts: Mapping[str, str]) -> str | None:
    """Return a digest of all weights; None for models that were put together by hand.

    Args:
        models: what a record says of each published model, as from `describe_reference`.
        parts: digests of everything else, as from `describe_parts`.

    Returns:
        The digest.
    """
    digests = [str(part.get("fingerprint")) for part in models.values()]
    digests += [f"{name} {digest}" for name, digest in parts.items()]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else None


def describe_model(
    pipe: Any, models: Mapping[str, Mapping[str, Any]], parts: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a record says of a composed model: its name, and those of its models with their weights.

    Args:
        pipe: the `codi.compose.pipeline.ComposedPipeline`.
        models: what a record says of each of its models; nothing for models that were put together by hand.
        parts: digests of everything else that it consists of, likewise.

    Returns:
        The description.
    """
    own = settings.DEFAULTS | pipe.defaults
    return {
        "name": pipe.name,
        "composed": models or {m.value: model.name for m, model in pipe.models.items()},
        "parts": dict(parts),
        "weights": fingerprint(models, parts),
        "dtype": str(next(iter(pipe.models.values())).dtype).removeprefix("torch."),
        "device": str(pipe.device),
        "own": {name: own[name] for name in settings.FIXED},
    }
