"""The shapes of native contexts as configurations tell them, for a plan that loads no weights.

Training finds out by itself what a pipeline gives its denoiser for a caption
(`codi.compose.prompt_translators.find_contexts`); this table says the same of a folder of which nothing but
the configurations are read. Lengths are those of a call's own defaults.

Letters: L tokens, W width.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codi.compose.families import family_of
from codi.types import InputError

Shapes = tuple[dict[str, list[int]], dict[str, int]]

TEXT = "encoder_hidden_states"
POOLED = "pooled_projections"


class Folder:
    """The configurations in the folder of a pipeline.

    Args:
        place: the folder.
    """

    def __init__(self, place: Path):
        self.place = place
        self.pipeline = str(self._read("model_index.json").get("_class_name"))
        self.network = family_of(self.pipeline).network

    def of(self, part: str, key: str) -> Any:
        """Return an entry of the configuration of a component."""
        return self._read(f"{part}/config.json")[key]

    def longest(self, part: str = "tokenizer") -> int:
        """Return the most tokens that a tokenizer gives."""
        return int(self._read(f"{part}/tokenizer_config.json")["model_max_length"])

    def default(self, name: str) -> int:
        """Return the value that an argument of the pipeline's call has when nobody gives it."""
        kind = getattr(importlib.import_module("diffusers"), self.pipeline)
        return int(inspect.signature(kind.__call__).parameters[name].default)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.place / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot read {path} ({type(error).__name__}): expected the folder of a pipeline of diffusers"
            ) from None


def _clip(folder: Folder) -> Shapes:
    return {TEXT: [folder.longest(), folder.of("unet", "cross_attention_dim")]}, {}


def _sdxl(folder: Folder) -> Shapes:
    contexts, masks = _clip(folder)
    pooled = {"added_cond_kwargs.text_embeds": [folder.of("text_encoder_2", "projection_dim")]}
    return contexts | pooled, masks


def _sd3(folder: Folder) -> Shapes:
    length = folder.longest() + folder.default("max_sequence_length")
    return _joint(folder, length)


def _flux(folder: Folder) -> Shapes:
    return _joint(folder, folder.default("max_sequence_length"))


def _joint(folder: Folder, length: int) -> Shapes:
    network = "transformer"
    return {
        TEXT: [length, folder.of(network, "joint_attention_dim")],
        POOLED: [folder.of(network, "pooled_projection_dim")],
    }, {}


def _ltx(folder: Folder) -> Shapes:
    length = folder.default("max_sequence_length")
    return {TEXT: [length, folder.of("transformer", "caption_channels")]}, {"encoder_attention_mask": length}


def _wan(folder: Folder) -> Shapes:
    return {TEXT: [folder.default("max_sequence_length"), folder.of("transformer", "text_dim")]}, {}


def _audioldm(folder: Folder) -> Shapes:
    return {"class_labels": [folder.of("text_encoder", "projection_dim")]}, {}


AUDIOLDM2_TOKENS = 8  # that its language model writes (arXiv 2308.05734, section 3.2)


def _audioldm2(folder: Folder) -> Shapes:
    """Return what AudioLDM2 is given; T5's tokens are at most so many, and in training as many as occur."""
    length = folder.longest("tokenizer_2")
    contexts = {
        TEXT: [AUDIOLDM2_TOKENS, folder.of("language_model", "n_embd")],
        f"{TEXT}_1": [length, folder.of("text_encoder_2", "d_model")],
    }
    return contexts, {"encoder_attention_mask_1": length}


def _stable_audio(folder: Folder) -> Shapes:
    seconds = 2  # tokens that say where a sound begins and ends
    width = folder.of("transformer", "cross_attention_input_dim")
    return {TEXT: [folder.longest() + seconds, width]}, {}


SHAPES: Mapping[str, Callable[[Folder], Shapes]] = {
    "StableDiffusionPipeline": _clip,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "AnimateDiffPipeline": _clip,
    "TextToVideoSDPipeline": _clip,
    "LTXPipeline": _ltx,
    "WanPipeline": _wan,
    "AudioLDMPipeline": _audioldm,
    "AudioLDM2Pipeline": _audioldm2,
    "StableAudioPipeline": _stable_audio,
}


def planned_contexts(place: Path) -> Shapes:
    """Return the shapes of the contexts that captions change, from configurations alone.

    Args:
        place: the folder of a pipeline.

    Returns:
        The shape of each context without the batch, and the length of each mask, by name.

    Raises:
        InputError: for a folder that is none of a pipeline, or of one that cannot be composed.
    """
    folder = Folder(place)
    return SHAPES[folder.pipeline](folder)
