"""Settle the sizes of what a composed model makes, so that what is made together lasts equally long."""

from collections.abc import Mapping, Sequence
from typing import Any

from codi import settings
from codi.compose.foreign import ForeignModel
from codi.modalities import kind_of
from codi.types import SIZES, InputError, Modality, ModalitySpec

Models = Mapping[Modality, ForeignModel]
Sizes = dict[Modality, dict[str, Any]]
LENGTH = "audio_length_in_s"  # in seconds, of clips as well
FRACTIONAL = ("fps", LENGTH)


def settle_sizes(
    models: Models,
    asked: Mapping[str, Any],
    outputs: Sequence[Modality],
    partners: Sequence[Modality],
    lengths: str,
) -> tuple[Sizes, dict[Modality, ModalitySpec]]:
    """Return the sizes of each output by our names, and the geometry of outputs and clean partners.

    Args:
        models: the foreign models.
        asked: sizes by our names (`codi.types.SIZES`); None for each model's own.
        outputs: what is made.
        partners: the inputs that stand in the loop.
        lengths: "agree": sounds and clips that are made together last equally long where nobody gave both;
            "free": each lasts as long as its model makes it.

    Returns:
        The sizes and the geometry.

    Raises:
        InputError: for sizes that cannot be.
    """
    named = _check(asked, outputs, lengths)
    made = [m for m in outputs if m in models]
    found = {modality: _own_sizes(models[modality], modality, named) for modality in made}
    if lengths == "agree" and LENGTH not in named:
        _agree(models, found, [*partners, *made])
    specs = {m: models[m].spec(found[m]) for m in made}
    for modality in partners:
        specs[modality] = models[modality].spec()
    return found, specs


def _check(asked: Mapping[str, Any], outputs: Sequence[Modality], lengths: str) -> dict[str, Any]:
    """Return the sizes that are named. Raises `InputError` for those that cannot be."""
    if lengths not in ("agree", "free"):
        raise InputError(f"lengths is {lengths!r}: expected 'agree' or 'free'")
    settings.check_sizes(dict(asked), list(outputs))
    named = {name: value for name, value in asked.items() if value is not None}
    for name, value in named.items():
        if name not in SIZES:
            raise InputError(f"unknown size {name!r}: expected one of {', '.join(SIZES)}")
        fractional = name in FRACTIONAL
        fine = isinstance(value, (int, float) if fractional else int) and not isinstance(value, bool)
        if not fine or not 0 < value < 2**31:
            raise InputError(
                f"{name} is {value!r}: expected a {'' if fractional else 'whole '}number above 0"
            )
    return named


def _own_sizes(model: ForeignModel, modality: Modality, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the named sizes that are an output's, with the length in the form of its model."""
    own = {name: value for name, value in named.items() if name in kind_of(modality).sizes and name != LENGTH}
    return model.lasting(named[LENGTH], own) if LENGTH in named else own


def _agree(models: Models, sizes: Sizes, present: Sequence[Modality]) -> None:
    """Let what runs in time last as long as the first clip that is given or made.

    Clips have the coarser grid: a sound can last as long as any clip, but a clip not as long as any sound.
    """
    clips = [m for m in present if m in models and "num_frames" in models[m].family.sizes]
    if not clips:
        return
    seconds = models[clips[0]].spec(sizes.get(clips[0])).duration
    if seconds is None:
        return
    for modality, own in sizes.items():
        if modality not in clips and models[modality].family.rate is not None:
            sizes[modality] = models[modality].lasting(seconds, own)
