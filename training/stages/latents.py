"""This module gives stages the latents and prompt tokens that frozen parts of the model in the making encode.

Those of the world are encoded once and kept beside the model. Those of media files come from a cache that
`python -m training.cache` made, or are encoded as the files are read. Letters: B batch, D width of the prompt
space.
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
    """Return a finished part of the model in the making, frozen.

    Args:
        model: the model folder.
        component: the part's name, one of `ModalityKind.classes`.

    Returns:
        The part, in eval mode.
    """
    return load_part(component_class(component), model / component, f"run {component_maker(component)} first")


def autoencoder_of(model: Path, modality: Modality) -> Any:
    """Return the frozen autoencoder of a modality."""
    return load_frozen(model, AUTOENCODERS[modality])


def tower_of(model: Path, modality: Modality) -> Any:
    """Return the frozen prompt tower of a modality."""
    return load_frozen(model, TOWERS[modality])


def latents_of(model: Path, modality: Modality, count: int, seed: int) -> CachedSource:
    """Return the latents of scenes in one modality, encoded now if they are not there.

    Args:
        model: the model folder; the cache lies beside it.
        modality: what the scenes are rendered as.
        count: the number of scenes.
        seed: the seed of the scenes and of their order.

    Returns:
        A source whose batches have the latents under the modality's name.
    """
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
    """Return the prompt tokens (D,) of scenes in one modality, encoded now if they are not there.

    Args:
        model: the model folder; the cache lies beside it.
        modality: what the scenes are rendered as.
        count: the number of scenes.
        seed: the seed of the scenes and of their order; with the same seed they are those of `latents_of`.

    Returns:
        A source whose batches have the tokens under "<modality>_token".
    """
    return _cached(
        model, modality, count, seed, TOWERS[modality], f"{modality}_token", lambda part, raw: part.embed(raw)
    )


def _cached(
    model: Path, modality: Modality, count: int, seed: int, component: str, name: str, encode: Any
) -> CachedSource:
    """Return the cache of scenes as one part encodes them, and fill it first if it is not whole."""
    expect(count >= 1, "scenes", count, "1 or more")
    # a part that was trained further has other weights, and so another folder
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
    """Return caches of the same scenes as one source.

    Args:
        sources: the caches. Without any the source gives scenes alone, of which everything is made as it is
            asked for.
        seed: the seed of the scenes in that case.

    Returns:
        The source.
    """
    return Joined(sources) if sources else SceneSource(lambda scenes, rngs: Batch(scenes=scenes), seed)


class Joined(Source):
    """Several caches of the same scenes as one source, whose batches have what all of theirs have."""

    def __init__(self, sources: list[CachedSource]):
        self.sources = sources
        orders = {(len(source), source.seed) for source in sources}
        assert len(orders) == 1, "joined caches hold the same scenes in the same order"

    def __len__(self) -> int:
        return len(self.sources[0])

    def fetch(self, indices: list[int]) -> Batch:
        """Return one batch with the latents and tokens of all the caches."""
        batches = [source.fetch(indices) for source in self.sources]
        if any(batch.scenes != batches[0].scenes for batch in batches[1:]):
            raise InputError("two latent caches hold different scenes: delete both, and they are made again")
        return functools.reduce(operator.or_, batches)


@dataclass(frozen=True)
class Encoding:
    """A choice of media files' latents and prompt tokens that a stage trains on.

    A batch has them under names such as "audio" and "audio_token".

    Attributes:
        config: the run.
        latents: the media whose latents are needed.
        tokens: the media whose prompt tokens are needed.
        known: the geometry of the media, as far as the model has it.
        readers: the text parts that read the captions; without any a row needs no caption.
        optional: those of the latents that a row may lack.
    """

    config: Config
    latents: tuple[Modality, ...]
    tokens: tuple[Modality, ...] = ()
    known: Mapping[Modality, ModalitySpec] = field(default_factory=dict)
    readers: tuple[PromptEncoder | Autoencoder, ...] = ()
    optional: tuple[Modality, ...] = ()

    @property
    def captioned(self) -> bool:
        """Whether the captions of samples are needed beside them."""
        return bool(self.readers)

    @property
    def parts(self) -> dict[str, tuple[str, Modality]]:
        """The part that makes each entry of a batch, and its medium: name -> (component, modality)."""
        latents = {m.value: (AUTOENCODERS[m], m) for m in self.latents}
        return latents | {f"{m}_token": (TOWERS[m], m) for m in self.tokens}

    def files(self, **settings: Any) -> Any:
        """Return the source of the media, and of their captions if some part reads them.

        Where captions are read, a row that has one may lack a medium that is a prompt alone, or `optional`.

        Args:
            **settings: laid over the section `data` of the run.

        Returns:
            A source of media, not encoded.
        """
        words = [kind.modality for kind in kinds() if kind.in_words] if self.readers else []
        # a medium that is only a prompt may be missing, if there is a caption to prompt with instead
        learned = {*self.latents} - {*self.optional}
        optional = {*self.optional, *self.tokens} - learned if words else ()
        media = [*self.latents, *self.tokens, *words]
        return open_media(
            self.config, media, self.known, seed=self.config.seed, optional=optional, **settings
        )

    def open(self, device: torch.device, say: Callable[[str], None] = lambda message: None) -> Any:
        """Return the source of encoded samples: from the cache if that is complete, else from the files.

        Both give the same numbers, to the bit.

        Args:
            device: where the encoders run.
            say: gets a line for people that says where latents come from.

        Returns:
            The source.
        """
        source = self.files()
        check_words(source, self.readers, self.config.model)
        folder = self.folder(source) if self.parts and why_not(source) is None else None
        if folder is not None and (folder / "complete").is_file():
            source.close()
            say(f"latents come from {folder}")
            return CachedSource(
                folder,
                list(self.parts),
                seed=self.config.seed,
                facts=() if self.captioned else None,
                captions=source.captions,
            )
        if self.parts:
            say(
                "latents are encoded as files are read; `python -m training.cache` with the same "
                "configuration does it once"
            )
        return EncodedSource(source, self.encoder(device))

    def folder(self, source: Any) -> Path:
        """Return the folder in which the cache of these files, encoded by these parts, has its place."""
        digest = hashlib.sha256(json.dumps(self.identity(source), sort_keys=True).encode()).hexdigest()[:16]
        return (
            self.config.model.with_name(f"{self.config.model.name}-cache")
            / f"{'+'.join(self.parts)}-{digest}"
        )

    def identity(self, source: Any) -> dict[str, Any]:
        """Return what made the latents: files, geometry, encoders' weights; not the order of training."""
        # one cache serves every order of training
        files = {name: value for name, value in source.identity.items() if name != "order"}
        return {"files": files, "parts": self.weights}

    @cached_property
    def weights(self) -> dict[str, str]:
        """The digest of each encoder's weights, by component."""
        digests: dict[str, str] = {}
        for component, _ in self.parts.values():
            if component not in digests:
                digests[component] = weights_digest(self.config.model / component)
        return digests

    def encoder(self, device: torch.device) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
        """Return a function that encodes a batch of media.

        It encodes every sample alone, since convolutions round differently in batches of another size.

        Args:
            device: where the encoders run.

        Returns:
            A function from a batch to latents and tokens by name, on the CPU, rounded to float16. Those of
            a medium that a sample lacks are zeros.
        """
        loaded = {}
        for component, _ in self.parts.values():
            loaded[component] = load_frozen(self.config.model, component).to(device)

        @torch.no_grad()
        def encode(batch: dict[str, Any]) -> dict[str, Tensor]:
            found = {}
            for name, (component, medium) in self.parts.items():
                part = loaded[component]
                run = part.embed if name.endswith("_token") else part.encode
                media = batch[medium.value].split(1)
                has = present(batch, medium, len(media))
                # a batch in which nobody has the medium still needs its shape
                rows = {k: run(as_unit(media[k].to(device))) for k in has or [0]}
                empty = torch.zeros_like(next(iter(rows.values())))
                every = [rows[k] if k in has else empty for k in range(len(media))]
                # rounded as a cache stores them, so that training does not depend on whether there is one
                found[name] = torch.cat(every).half().float().cpu()
            return found

        return encode


def present(batch: Mapping[str, Any], medium: Modality, count: int) -> list[int]:
    """Return the places of those samples of a batch that have a medium."""
    mask = batch.get(f"{medium}_mask")
    return list(range(count)) if mask is None else mask.nonzero().flatten().tolist()


def as_unit(raw: Any) -> Any:
    """Return media as encoders take them: pixels in [-1, 1], everything else as it is."""
    return to_unit(raw) if isinstance(raw, Tensor) and raw.dtype == torch.uint8 else raw


class EncodedSource(Source):
    """A source of media files that are encoded as they are read.

    Latents pass through float16, as in a cache, so that both give the same numbers.

    Args:
        source: the media.
        encode: makes latents and tokens of a batch of media.
    """

    def __init__(self, source: Source, encode: Callable[[dict[str, Any]], dict[str, Tensor]]):
        self.source = source
        self.encode = encode

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch with latents and tokens in place of media; captions, ids and masks stay."""
        batch = self.source.fetch(indices)
        media = {m.value for m in Modality if not in_words(m)}
        others = {name: value for name, value in batch.named.items() if name not in media}
        return dataclasses.replace(batch, named=others | self.encode(batch))

    @property
    def bad(self) -> int:
        """The number of bad samples met so far."""
        return self.source.bad

    def close(self) -> None:
        """End the decoding processes."""
        self.source.close()


def why_not(source: Any) -> str | None:
    """Return the reason why samples of this source cannot be kept in a cache; None if they can."""
    about = source.identity
    if "rows" not in about:
        return (
            "the data are a mixture of several sources: a cache holds one manifest, or one set of shards; "
            "join them in one manifest"
        )
    augment = about["decoding"]["augment"]
    acting = [name for name, value in augment.items() if value]
    if acting:
        return f"augmentation is on ({', '.join(acting)}): a cache holds one version of a sample"
    if (source.rows.weights != source.rows.weights[0]).any():
        return "rows have weights of their own: a cache holds every row once"
    return None


def weights_digest(folder: Path) -> str:
    """Return the first half of the sha256 over a part's weight files.

    Args:
        folder: the part.

    Returns:
        32 hexadecimal digits.

    Raises:
        InputError: if there are no weights; the message names the stage that makes them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} is missing: run {component_maker(folder.name)} first")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:32]
