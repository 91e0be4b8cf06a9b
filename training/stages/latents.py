"""Latents and prompt tokens by the frozen parts of the model in the making: of the world, encoded once and
kept beside it; of media files, from a cache that `python -m training.cache` made, or encoded as they are
read.
"""

import dataclasses
import functools
import hashlib
import json
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from codi.io import to_unit
from codi.modalities import component_class, component_maker, in_words, kinds
from codi.models.codi import AUTOENCODERS, TOWERS
from codi.protocols import Autoencoder, PromptEncoder
from codi.types import InputError, Modality, ModalitySpec
from data.batch import Batch
from data.cache import CachedSource, build_cache, whole
from data.source import Source
from data.world import SceneSource, WorldSource
from training.config import Config, expect
from training.stages.common import load_part
from training.stages.files import check_words, open_media


def load_frozen(model: Path, component: str) -> Any:
    """Return a finished part of the model in the making, frozen."""
    return load_part(component_class(component), model / component, f"run {component_maker(component)} first")


def autoencoder_of(model: Path, modality: Modality) -> Any:
    """The frozen autoencoder of a modality."""
    return load_frozen(model, AUTOENCODERS[modality])


def tower_of(model: Path, modality: Modality) -> Any:
    """The frozen prompt tower of a modality."""
    return load_frozen(model, TOWERS[modality])


def latents_of(model: Path, modality: Modality, count: int, seed: int) -> CachedSource:
    """Latents of `count` scenes in one modality, encoded now if they are not there. Names: the modality's."""
    return _cached(
        model,
        modality,
        count,
        seed,
        AUTOENCODERS[modality],
        modality.value,
        lambda part, raw: part.encode(raw),
    )


def tokens_of(model: Path, modality: Modality, count: int, seed: int) -> CachedSource:
    """Prompt tokens (D,) of the same scenes. Name: "<modality>_token"."""
    return _cached(
        model, modality, count, seed, TOWERS[modality], f"{modality}_token", lambda part, raw: part.embed(raw)
    )


def _cached(
    model: Path, modality: Modality, count: int, seed: int, component: str, name: str, encode: Any
) -> CachedSource:
    expect(count >= 1, "scenes", count, "1 or more")
    weights = model / component / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else "missing"
    folder = model.with_name(f"{model.name}-cache") / f"{name}-{count}-{seed}-{digest}"
    source = WorldSource([modality], seed=seed)
    identity = {
        "component": component,
        "weights": digest,
        "source": json.loads(json.dumps(source.identity, default=str)),
    }
    size = min(1024, count)
    if not whole(folder, count, size):
        part = load_frozen(model, component)

        def run(batch: dict[str, Any]) -> dict[str, Tensor]:
            return {name: encode(part, as_unit(batch[modality.value]))}

        with tqdm(total=count, desc=f"encoding {name}", unit="scenes", file=sys.stderr) as bar:
            build_cache(folder, source, run, count, identity=identity, shard_size=size, progress=bar.update)
        (folder / "complete").touch()
    return CachedSource(folder, [name], seed=seed)


def joined(sources: list[CachedSource], seed: int) -> Source:
    """Caches of the same scenes as one source; without any the scenes alone, of which everything is made as
    it is asked for.
    """
    return Joined(sources) if sources else SceneSource(lambda scenes, rngs: Batch(scenes=scenes), seed)


class Joined(Source):
    """Several caches of the same scenes as one source: their batches, merged."""

    def __init__(self, sources: list[CachedSource]):
        self.sources = sources
        assert len({(len(s), s.seed) for s in sources}) == 1, (
            "joined caches hold the same scenes in the same order"
        )

    def __len__(self) -> int:
        return len(self.sources[0])

    def fetch(self, indices: list[int]) -> Batch:
        """One batch with the names of all the sources."""
        return functools.reduce(operator.or_, (source.fetch(indices) for source in self.sources))


@dataclass(frozen=True)
class Encoding:
    """Which latents and prompt tokens of which media files a stage trains on. Names in a batch: "audio",
    "audio_token".

    known    geometry of the media as the model has it
    readers  text parts that read the captions; without any a row needs no caption
    """

    config: Config
    latents: tuple[Modality, ...]
    tokens: tuple[Modality, ...] = ()
    known: Mapping[Modality, ModalitySpec] = field(default_factory=dict)
    readers: tuple[PromptEncoder | Autoencoder, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[str, Modality]]:
        """name -> (component that makes it, medium)."""
        latents = {m.value: (AUTOENCODERS[m], m) for m in self.latents}
        return latents | {f"{m}_token": (TOWERS[m], m) for m in self.tokens}

    def files(self, **settings: Any) -> Any:
        """The media, and their captions if somebody reads them; a row with a caption may lack what is a
        prompt alone.
        """
        words = [kind.modality for kind in kinds() if kind.in_words] if self.readers else []
        prompts = {*self.tokens} - {*self.latents} if words else ()
        media = [*self.latents, *self.tokens, *words]
        return open_media(self.config, media, self.known, seed=self.config.seed, optional=prompts, **settings)

    def open(self, device: torch.device, say: Callable[[str], None] = lambda message: None) -> Any:
        """The encoded samples: from the cache if it is complete, else from the files; to the bit the same."""
        source = self.files()
        check_words(source, self.readers, self.config.model)
        folder = self.folder(source) if self.parts and why_not(source) is None else None
        if folder is not None and (folder / "complete").is_file():
            source.close()
            say(f"latents come from {folder}")
            return CachedSource(
                folder, list(self.parts), seed=self.config.seed, facts=() if self.readers else None
            )
        if self.parts:
            say(
                "latents are encoded as files are read; `python -m training.cache` with the same "
                "configuration does it once"
            )
        return EncodedSource(source, self.encoder(device))

    def folder(self, source: Any) -> Path:
        """Where the cache of these files by these parts is."""
        digest = hashlib.sha256(json.dumps(self.identity(source), sort_keys=True).encode()).hexdigest()[:16]
        return (
            self.config.model.with_name(f"{self.config.model.name}-cache")
            / f"{'+'.join(self.parts)}-{digest}"
        )

    def identity(self, source: Any) -> dict[str, Any]:
        """What made the latents: files, geometry, and weights of the encoders; not the order of training."""
        files = {name: value for name, value in source.identity.items() if name != "order"}
        return {"files": files, "parts": self.weights}

    @cached_property
    def weights(self) -> dict[str, str]:
        """Digest of every encoder's weights."""
        folders = {component: self.config.model / component for component, _ in self.parts.values()}
        return {component: weights_digest(folder) for component, folder in folders.items()}

    def encoder(self, device: torch.device) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
        """Encodes a batch of media, every sample alone: convolutions round differently in batches of another
        size.
        """
        loaded = {
            component: load_frozen(self.config.model, component).to(device)
            for component, _ in self.parts.values()
        }

        @torch.no_grad()
        def encode(batch: dict[str, Any]) -> dict[str, Tensor]:
            found = {}
            for name, (component, medium) in self.parts.items():
                raw = batch[medium.value]
                run = loaded[component].embed if name.endswith("_token") else loaded[component].encode
                rows = [run(as_unit(raw[i : i + 1].to(device))) for i in range(len(raw))]
                found[name] = torch.cat(rows).half().float().cpu()
            return found

        return encode


def as_unit(raw: Any) -> Any:
    """Media as encoders take them: pixels in [-1, 1], everything else as it is."""
    return to_unit(raw) if isinstance(raw, Tensor) and raw.dtype == torch.uint8 else raw


class EncodedSource(Source):
    """Media files, encoded as they are read. Latents pass through float16, as in a cache."""

    def __init__(self, source: Source, encode: Callable[[dict[str, Any]], dict[str, Tensor]]):
        self.source, self.encode = source, encode

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: list[int]) -> Batch:
        """The batch with latents and tokens in place of media; captions, ids and masks as they are."""
        batch = self.source.fetch(indices)
        media = {m.value for m in Modality if not in_words(m)}
        others = {name: value for name, value in batch.named.items() if name not in media}
        return dataclasses.replace(batch, named=others | self.encode(batch))

    @property
    def bad(self) -> int:
        """Bad samples met so far."""
        return self.source.bad

    def close(self) -> None:
        """Ends the decoding processes."""
        self.source.close()


def why_not(source: Any) -> str | None:
    """Why samples of this source cannot be kept in a cache, None if they can."""
    about = source.identity
    if "rows" not in about:
        return (
            "the data are a mixture of several sources: a cache holds one manifest, or one set of shards; "
            "join them in one manifest"
        )
    augment = about["decoding"]["augment"]
    if any(augment.values()):
        return (
            f"augmentation is on ({', '.join(name for name, value in augment.items() if value)}): a cache "
            "holds one version of a sample"
        )
    if about["order"]["captions"] != "random":
        return "captions are the first ones: a cache draws among them; leave `captions` out"
    if (source.rows.weights != source.rows.weights[0]).any():
        return "rows have weights of their own: a cache holds every row once"
    return None


def weights_digest(folder: Path) -> str:
    """First half of the sha256 over a part's weight files. Raises `InputError` where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} is missing: run {component_maker(folder.name)} first")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:32]
