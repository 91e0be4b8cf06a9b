"""What turns media into features: models and functions that a user names, or a model's own prompt towers.

    clip:FOLDER_OR_ID        a CLIPModel of transformers; of a clip it takes the mean of eight frames
    clap:FOLDER_OR_ID        a ClapModel of transformers
    towers:FOLDER_OR_ID      the prompt towers of a model of codi
    module:function          any function of a list of media of one kind, which returns an array (N, D)
    file.py:function

Weights are read from safetensors alone, and no code that comes with a model is run. Media reach a function as
`codi.io` reads them: pictures uint8 (3, H, W), sounds (float32 (samples,), Hz), clips `codi.io.Video`, words
`str`.

Letters: N media, D width of the features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from codi.bench.clip_clap import Clap, Clip
from codi.bench.collection import Part
from codi.bench.extracting import OPTION, Extractor
from codi.bench.models import Model
from codi.bench.parts import read_part
from codi.functions import file_digest, load_function
from codi.types import EMBEDDED, InputError, Modality

FORM = "image,text=clip:FOLDER, audio,text=clap:FOLDER, or image=file.py:function"


def parse_extractors(texts: Sequence[str], model: str | None, device: str, dtype: str) -> list[Extractor]:
    """Return the extractors of `--extractor`, or the towers of the model where there are none.

    Args:
        texts: MODALITIES=SOURCE for each.
        model: folder or hub id of the model of codi whose towers are meant; None for that in the package.
        device: "auto", or a device of torch.
        dtype: the precision of the networks.

    Returns:
        The extractors in the order in which they were named.

    Raises:
        InputError: for one that cannot be used.
    """
    if not texts:
        return [Towers(model, device, dtype)]
    found: list[Extractor] = []
    for text in texts:
        names, sign, source = text.partition("=")
        if not (sign and names.strip() and source.strip()):
            raise InputError(f"{OPTION} {text!r:.120}: expected {FORM}")
        modalities = tuple(dict.fromkeys(Modality.parse(name.strip()) for name in names.split(",")))
        kind, _, place = source.strip().partition(":")
        make = _MADE.get(kind)
        if make is None:
            found.append(Function(source.strip(), modalities))
        elif not place:
            raise InputError(f"{OPTION} {text}: expected a folder or hub id after {kind}:")
        else:
            found.append(make(place, modalities, device, dtype))
    return found


class Towers(Extractor):
    """The prompt towers of a model of codi."""

    def __init__(
        self, source: str | None, device: str, dtype: str, modalities: tuple[Modality, ...] = ()
    ) -> None:
        self.model = Model(source, device=device, dtype=dtype)
        self.name = f"prompt towers of {source or EMBEDDED}"
        own = self.model.pipe.model.towers
        self.modalities = modalities or tuple(m for m in Modality if m in own)
        if wrong := [str(m) for m in self.modalities if m not in own]:
            raise InputError(f"{OPTION} towers: {self.model.name} has no prompt tower for {', '.join(wrong)}")

    @property
    def fingerprint(self) -> str:
        """A digest of the weights, with the precision."""
        return f"towers {self.model.fingerprint} {self.model.dtype}"

    def rate(self, modality: Modality) -> str:
        """Return the geometry of the model's prompts."""
        return _geometry(self.model.pipe.model.specs.get(modality))

    def read(self, part: Part) -> Any:
        """Return a prompt as the model takes it."""
        medium = read_part(part)
        return None if medium is None else self.model.prepared(part.modality, [medium])[0]

    def embed(self, modality: Modality, media: list[Any]) -> Any:
        """Return prompt tokens (N, D)."""
        raw = torch.stack(media) if isinstance(media[0], torch.Tensor) else media
        return self.model.embed(modality, raw).float().cpu().numpy()


def _geometry(spec: Any) -> str:
    """Return the size and rate of a modality in a model, in words."""
    if spec is None or not spec.raw_shape:
        return "as a sentence"
    said = [f"{spec.raw_shape[-2]} x {spec.raw_shape[-1]} pixels"] if len(spec.raw_shape) > 1 else []
    if spec.rate:
        seconds = spec.raw_shape[0] / spec.rate
        unit = "fps" if said else "Hz"
        said.append(f"{spec.rate:g} {unit}, first {seconds:g} s")
    return ", ".join(said)


class Function(Extractor):
    """A user's own function."""

    def __init__(self, text: str, modalities: tuple[Modality, ...]) -> None:
        self.name, self.modalities = text, modalities
        self._function = load_function(
            text, OPTION, "a list of media, or clip:, clap: or towers: and a folder"
        )

    @property
    def fingerprint(self) -> str:
        """Its name with the digest of its file."""
        return f"{self.name} {file_digest(self.name)}"

    def rate(self, modality: Modality) -> str:
        """Say that it gets media as they are."""
        return "as the files have it"

    def embed(self, modality: Modality, media: list[Any]) -> Any:
        """Return what the function makes of media, after a check of its form."""
        try:
            found = self._function(media)
            found = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
            found = found.astype(np.float64)
        except Exception as error:  # anything may go wrong in it
            said = " ".join(str(error).split())[:160]
            raise _Broken(
                f"{OPTION} {self.name} failed on {len(media)} media of kind {modality} "
                f"({type(error).__name__}: {said})"
            ) from error
        if found.ndim != 2 or len(found) != len(media) or not np.isfinite(found).all():
            raise _Broken(
                f"{OPTION} {self.name} returned {found.shape} for {len(media)} media of kind {modality}: "
                f"expected finite numbers ({len(media)}, D)"
            )
        return found


class _Broken(InputError):
    """Raised for a function that does not work, which no other medium will mend."""


def _towers(place: str, modalities: tuple[Modality, ...], device: str, dtype: str) -> Extractor:
    return Towers(None if place == EMBEDDED else place, device, dtype, modalities)


_MADE: dict[str, Callable[..., Extractor]] = {"clip": Clip, "clap": Clap, "towers": _towers}
