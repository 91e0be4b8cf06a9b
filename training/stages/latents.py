"""Latents and prompt tokens of the world, encoded once by the frozen parts of the model in the making and kept beside it."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from codi.io import to_unit
from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.models.codi import AUTOENCODERS, TOWERS
from codi.models.conditioning import AudioTower, TextTower, VisionTower
from codi.types import Modality
from data.cache import CachedSource, build_cache
from data.world import WorldSource
from training.stages.common import load_part

CLASSES = {
    "text_autoencoder": TextAutoencoder,
    "image_autoencoder": ImageAutoencoder,
    "audio_autoencoder": AudioAutoencoder,
    "text_tower": TextTower,
    "vision_tower": VisionTower,
    "audio_tower": AudioTower,
}
MADE_BY = {
    "text_autoencoder": "autoencoder_text",
    "image_autoencoder": "autoencoder_image",
    "audio_autoencoder": "autoencoder_audio and vocoder",
    "text_tower": "align_image",
    "vision_tower": "align_image and align_video",
    "audio_tower": "align_audio",
}


def load_frozen(model: Path, component: str) -> Any:
    """A finished part of the model in the making."""
    return load_part(CLASSES[component], model / component, f"run {MADE_BY[component]} first")


def autoencoder_of(model: Path, modality: Modality) -> Any:
    """The frozen autoencoder of a modality."""
    return load_frozen(model, AUTOENCODERS[modality])


def tower_of(model: Path, modality: Modality) -> Any:
    """The frozen prompt tower of a modality."""
    return load_frozen(model, TOWERS[modality])


def latents_of(model: Path, modality: Modality, count: int, seed: int) -> CachedSource:
    """Latents of `count` scenes in one modality, encoded now if they are not there. Names: the modality's."""
    return _cached(model, modality, count, seed, AUTOENCODERS[modality], modality.value, lambda part, raw: part.encode(raw))


def tokens_of(model: Path, modality: Modality, count: int, seed: int) -> CachedSource:
    """Prompt tokens (D,) of the same scenes. Name: "<modality>_token"."""
    return _cached(model, modality, count, seed, TOWERS[modality], f"{modality}_token", lambda part, raw: part.embed(raw))


def _cached(model: Path, modality: Modality, count: int, seed: int, component: str, name: str, encode: Any) -> CachedSource:
    weights = model / component / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else "missing"
    folder = model.with_name(f"{model.name}-cache") / f"{name}-{count}-{seed}-{digest}"
    source = WorldSource([modality], seed=seed)
    identity = {"component": component, "weights": digest, "source": json.loads(json.dumps(source.identity, default=str))}
    if not (folder / "complete").is_file():
        part = load_frozen(model, component)

        def run(batch: dict[str, Any]) -> dict[str, Tensor]:
            raw = batch[modality.value]
            return {name: encode(part, to_unit(raw) if isinstance(raw, Tensor) and raw.dtype == torch.uint8 else raw)}

        with tqdm(total=count, desc=f"encoding {name}", unit="scenes", file=sys.stderr) as bar:
            build_cache(folder, source, run, count, identity=identity, shard_size=min(1024, count), progress=bar.update)
        (folder / "complete").touch()
    return CachedSource(folder, [name], seed=seed)


class Joined:
    """Several caches of the same scenes as one source: their batches, merged."""

    infinite = True

    def __init__(self, sources: list[CachedSource]):
        self.sources = sources
        assert len({(len(s), s.seed) for s in sources}) == 1, "joined caches hold the same scenes in the same order"

    def __len__(self) -> int:
        return len(self.sources[0])

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """One batch with the names of all the sources."""
        merged: dict[str, Any] = {}
        for source in self.sources:
            merged |= source.fetch(indices)
        return merged
