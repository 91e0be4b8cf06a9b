"""Latents encoded once, into safetensors shards: resumable, checked, read through memory maps.

A cache is a folder. `cache.json` says what it holds, and of what. Each shard is `shard-00000.safetensors`,
with one float16 tensor (N, *latent_shape) per medium, for media files one (N,) of ones and zeros per medium
that says which samples have it, and the facts of the samples (scenes, or rows of files) as JSON in its
metadata, beside `shard-00000.json` (size, sha256), which is written last: a shard without it is unfinished.

Letters: B samples of a batch, N samples of a shard.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from codi.io import to_unit
from codi.types import InputError, Modality
from codi.world import Scene
from data.batch import Batch
from data.captions import Captions
from data.order import rows_of
from data.source import Source
from data.world import random_caption

MASK = "_mask"  # what the names of tensors end in that say which samples have a medium
Encode = Callable[[dict[str, Any]], dict[str, Tensor]]


def build_cache(
    folder: Path,
    source: Any,
    encode: Encode,
    count: int,
    *,
    identity: Mapping[str, Any],
    shard_size: int = 1024,
    batch_size: int = 32,
    numbers: Iterable[int] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Encode samples 0 .. count - 1 of `source` into `folder`; what is there already is kept.

    Args:
        folder: where the cache is, or will be.
        source: the samples, a `data.source.Source`.
        encode: turns a batch into latents (B, *latent_shape) by medium.
        count: how many samples the cache holds.
        identity: what made the latents (source, encoders), as plain JSON.
        shard_size: how many samples a shard holds.
        batch_size: how many samples are encoded at once.
        numbers: the shards that this process makes; None for all.
        progress: called after each shard with the number of its samples.

    Raises:
        InputError: if the folder holds another cache, or latents are not finite in float16.
    """
    _claim(folder, {"count": count, "shard_size": shard_size, "identity": json.loads(json.dumps(identity))})
    starts = range(0, count, shard_size)
    for number in range(len(starts)) if numbers is None else numbers:
        start, stop = starts[number], min(count, starts[number] + shard_size)
        path = _shard(folder, number)
        if fault(path) is not None:
            _write_shard(path, *_encode_range(source, encode, start, stop, batch_size))
        progress(stop - start)


@torch.no_grad()
def _encode_range(
    source: Any, encode: Encode, start: int, stop: int, batch_size: int
) -> tuple[dict[str, Tensor], list[Any]]:
    """Return the latents (float16, by medium) and the facts of samples start .. stop - 1."""
    parts: list[dict[str, Tensor]] = []
    scenes: list[Any] = []
    for low in range(start, stop, batch_size):
        batch = source.fetch(list(range(low, min(stop, low + batch_size))))
        masks = {name: mask for name, mask in batch.items() if name.endswith(MASK)}
        found = {**encode(batch), **masks}
        parts.append({name: latent.half().cpu() for name, latent in found.items()})
        scenes += batch.facts()
    latents = {}
    for name in parts[0]:
        latents[name] = torch.cat([part[name] for part in parts]).contiguous()
    for name, latent in latents.items():
        if not latent.isfinite().all():
            raise InputError(
                f"{name} latents {start} to {stop - 1} are not finite in float16: are the autoencoder's "
                "statistics set?"
            )
    return latents, scenes


def latent_encoder(autoencoders: Mapping[Modality, Any]) -> Encode:
    """Return a function that encodes the media of a batch by the means of the autoencoders' posteriors.

    Args:
        autoencoders: an autoencoder for each modality to encode.

    Returns:
        A function from a batch of `WorldSource` to latents (B, *latent_shape) by modality.
    """

    def encode(batch: dict[str, Any]) -> dict[str, Tensor]:
        latents = {}
        for modality, autoencoder in autoencoders.items():
            raw = batch[modality.value]
            if isinstance(raw, Tensor):
                raw = (to_unit(raw) if raw.dtype == torch.uint8 else raw).to(
                    next(autoencoder.parameters()).device
                )
            latents[modality.value] = autoencoder.encode(raw)
        return latents

    return encode


class CachedSource(Source):
    """An endless source of latents: every pass over the cache has its own order and its own captions.

    `fetch` gives "index", "scenes" (for media files "rows" and "ids", as `data.media.MediaSource` does), a
    float32 tensor (B, *latent_shape) per name, for media files which samples have each medium ("audio_mask"),
    and "text" where captions are asked for.

    Args:
        folder: the cache; every shard is compared with its sha256 first.
        names: which of the cached media to give.
        seed: chooses the order and the captions.
        facts: what captions may name; None for no captions. For media files any value asks for the captions
            of their rows.
        full: as in `data.world.WorldSource`.
        captions: how the words of samples of media files are drawn from the captions of their rows.

    Raises:
        InputError: if the cache is missing, unfinished or altered, or lacks one of the media.
    """

    def __init__(
        self,
        folder: Path,
        names: Iterable[str],
        *,
        seed: int,
        facts: Iterable[str] | None = None,
        full: float = 0.5,
        captions: Captions = Captions(),  # noqa: B008 (frozen)
    ) -> None:
        folder = Path(folder)
        self.names = tuple(names)
        self.seed = seed
        self.full = full
        self.captions = captions
        self.facts = tuple(facts) if facts is not None else None
        about = _about(folder)
        self.count = about["count"]
        self.shard_size = about["shard_size"]
        paths = shards_of(folder, self.count, self.shard_size)
        for path in paths:
            if (wrong := fault(path)) is not None:
                raise InputError(
                    f"latent cache {folder}: {path.name} {wrong}: run the encoding again, it makes what is "
                    "missing"
                )
        self.shards = [self._open(path) for path in paths]
        # shards of older versions have no masks: all their samples have every medium
        self._columns = [name for name in self.shards[0][0] if all(name in held for held, _ in self.shards)]

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch of positions `indices`, counted over all passes."""
        places = [divmod(int(row), self.shard_size) for row in rows_of(indices, self.count, self.seed)]
        facts = []
        for shard, row in places:
            _, facts_of_shard = self.shards[shard]
            facts.append(facts_of_shard[row])
        known = self._words(facts, indices)
        latents = {}
        for name in self._columns:
            rows = torch.stack([self.shards[shard][0][name][row] for shard, row in places])
            latents[name] = rows.bool() if name.endswith(MASK) else rows.float()
        return dataclasses.replace(known.with_named(**latents), index=list(indices))

    def _words(self, facts: list[dict[str, Any]], indices: list[int]) -> Batch:
        """Return scenes, or ids and rows of media files, with a caption of each if captions are asked for."""
        if "captions" in facts[0]:
            rows = [{key: value for key, value in row.items() if key != "content"} for row in facts]
            words = [] if self.facts is None else self.captions.words(rows, self.seed, indices)
            batch = Batch(rows=rows, named=_content(facts))
        else:
            scenes = [Scene(**scene) for scene in facts]
            batch = Batch(scenes=scenes)
            if self.facts is None:
                return batch
            rngs = [np.random.default_rng((self.seed, index, 1)) for index in indices]
            words = [random_caption(scene, self.facts, self.full, rng) for scene, rng in zip(scenes, rngs)]
        return batch if self.facts is None else batch.with_named(text=words)

    def _open(self, path: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Return the latents of a shard by name, and the facts of its samples."""
        with safe_open(path, framework="pt") as shard:
            missing = set(self.names) - set(shard.keys())
            if missing:
                raise InputError(
                    f"latent cache {path.parent} holds {', '.join(shard.keys())}: no "
                    f"{', '.join(sorted(missing))} in it"
                )
            masks = [name for name in shard.keys() if name.endswith(MASK)]
            tensors = {name: shard.get_tensor(name) for name in (*self.names, *masks)}
            return tensors, json.loads(shard.metadata()["scenes"])


def _content(facts: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return what of the media of some samples is content, as a batch has it; nothing where all are whole."""
    padded: dict[str, list[list[float]]] = {}
    for row in facts:
        padded |= row.get("content", {})
    found = {}
    for name, like in padded.items():
        entire = [[0.0, 1.0]] * len(like)
        found[f"{name}_content"] = torch.tensor([row.get("content", {}).get(name, entire) for row in facts])
    return found


def whole(folder: Path, count: int, shard_size: int) -> bool:
    """Return whether a complete cache of this size agrees with its checksums.

    If it does not, its mark of completeness is taken away, so that what is wrong is made again. A cache of
    another size, or cut into other shards, stays as it is: `build_cache` refuses to change it.
    """
    if not (folder / "complete").is_file():
        return False
    about = _about(folder) if (folder / "cache.json").is_file() else {}
    if about and (about.get("count"), about.get("shard_size")) != (count, shard_size):
        return False
    good = all(fault(path) is None for path in shards_of(folder, count, shard_size))
    if not good:
        (folder / "complete").unlink(missing_ok=True)
    return good


def shards_of(folder: Path, count: int, shard_size: int) -> list[Path]:
    """Return the paths of the shards of a cache, whether they exist or not."""
    return [_shard(folder, number) for number in range(-(-count // shard_size))]


def fault(path: Path) -> str | None:
    """Return what is wrong with a shard, or None if nothing is."""
    try:
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.stat().st_size != note["size"]:
            return f"has {path.stat().st_size} bytes instead of {note['size']}"
        return "was altered: its sha256 differs" if _digest(path) != note["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return "is missing or was never finished"


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder of a cache, or raise InputError unless it is the cache that is meant."""
    if (folder / "cache.json").exists():
        before = _about(folder)
        if before != about:
            changed = []
            for name, value in about.items():
                if before.get(name) != value:
                    changed.append(f"{name} {before.get(name)!r} instead of {value!r}")
            raise InputError(
                f"latent cache {folder} holds something else ({', '.join(changed)}): choose another folder, "
                "or delete this one"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "cache.json", json.dumps(about, indent=1).encode())


def _about(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{folder} is no latent cache: it has no readable cache.json; encode first"
        ) from None


def _write_shard(path: Path, latents: dict[str, Tensor], scenes: list[dict[str, Any]]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(latents, temporary, metadata={"scenes": json.dumps(scenes)})
    note = {"size": temporary.stat().st_size, "sha256": _digest(temporary)}
    os.replace(temporary, path)
    # the note comes last: a shard without one counts as unfinished
    _replace(path.with_suffix(".json"), json.dumps(note).encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
