"""Published models beside a run: their latents, encoded once, and the prompts that their own pipelines make.

Letters: B batch.
"""

import hashlib
import importlib
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from codi import pretrained
from codi.compose.families import family_of
from codi.compose.foreign import ForeignModel, Prepared
from codi.compose.native_prompt import NativePrompt
from codi.tensor_files import read_json
from codi.types import InputError, Modality, blame
from data.cache import CachedSource, build_cache, whole
from data.world import WorldSource
from training.stages.common import planning
from training.stages.files import open_media
from training.stages.latents import Encoding, as_unit, weights_digest

SHARD = 1024  # samples in each shard of a cache
KEPT = 4096  # sentences whose prompts are kept


def foreign_model(source: Path, call: Mapping[str, Any]) -> ForeignModel:
    """Return the model in a pipeline's folder, frozen, in float32.

    Args:
        source: a folder of diffusers with weights as safetensors.
        call: the arguments of every call, by the names of the pipeline's (`ForeignModel.call`).

    Returns:
        The model.

    Raises:
        InputError: if there is no such folder, or it cannot be loaded.
    """
    from diffusers import DiffusionPipeline

    if not (source / "model_index.json").is_file():
        raise InputError(
            f"{source} is no pipeline: expected a folder with a model_index.json, as diffusers saves"
        )
    if planning():
        return ForeignModel(pipeline=planned_pipeline(source), call=dict(call), name=source.name)
    with blame(f"{source}: "), pretrained.quietly():
        try:
            pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True, local_files_only=True)
            pipeline.to(torch.float32)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"cannot be loaded: {' '.join(str(error).split())[:200]}") from error
        return ForeignModel(pipeline=pipeline, call=dict(call), name=source.name)


def planned_pipeline(source: Path) -> Any:
    """Return a pipeline built from its configurations alone, for a plan.

    Its network has no memory. The text encoders are real, because prompts are made by running them, but have
    one layer each and random weights: what they return is as large as it will be.

    Args:
        source: the folder; no weights are read.

    Returns:
        The pipeline.
    """
    import diffusers

    index = read_json(source / "model_index.json", "save the pipeline again")
    kind = getattr(diffusers, str(index.pop("_class_name")))
    network = family_of(kind.__name__).network
    parts = {}
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2:
            library, cls = entry
            bare = name == network
            parts[name] = None if library is None else _planned_part(source / name, library, cls, bare)
    cpu = property(lambda pipeline: torch.device("cpu"))  # whatever part comes first
    return type(kind.__name__, (kind,), {"_execution_device": cpu, "device": cpu})(**parts)


def _planned_part(place: Path, library: str, name: str, bare: bool) -> Any:
    """Return one part of a pipeline without its weights.

    Args:
        place: its folder.
        library: the library that has its class, or the name of a pipeline of diffusers.
        name: the name of the class.
        bare: whether it has no memory.

    Returns:
        The part.
    """
    import diffusers

    try:
        home: Any = importlib.import_module(library)
    except ImportError:
        home = importlib.import_module(f"diffusers.pipelines.{library}")
    kind = getattr(home, name)
    if not issubclass(kind, nn.Module):
        return kind.from_pretrained(place)
    if issubclass(kind, diffusers.ModelMixin):
        with torch.device("meta" if bare else "cpu"):
            return kind.from_config(kind.load_config(place))
    config = kind.config_class.from_pretrained(place)
    for section in filter(None, (config, getattr(config, "text_config", None))):
        if hasattr(section, "num_hidden_layers"):
            section.num_hidden_layers = 1
    return kind(config)


def opened(model: ForeignModel, texts: Sequence[str] = ("",)) -> Prepared:
    """Return what the pipeline prepares for B prompts without guidance."""
    scale = 1.0 if model.family.guided else None
    return model.prepare(texts, num_inference_steps=2, guidance_scale=scale)


class NativePrompts:
    """The prompts of sentences as a pipeline makes them, the latest ones kept.

    Args:
        model: the model.
        kept: how many sentences are kept.
    """

    def __init__(self, model: ForeignModel, kept: int = KEPT):
        self.model = model
        self.kept = kept
        self.rows: OrderedDict[str, NativePrompt] = OrderedDict()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> NativePrompt:
        """Return the prompts of B sentences.

        Those of a pipeline whose prompts are as long as the longest sentence of a batch do not fit together,
        and are made for each batch.
        """
        for text in texts:
            if text not in self.rows:  # alone: text encoders round differently in batches of another size
                self.rows[text] = opened(self.model, [text]).prompt
        rows = [self.rows[text] for text in texts]
        for text in texts:
            self.rows.move_to_end(text)
        while len(self.rows) > self.kept:
            self.rows.popitem(last=False)
        if len({row.shapes for row in rows}) > 1:
            return opened(self.model, texts).prompt
        return NativePrompt.cat(rows)


def autoencoder_digest(source: Path, model: ForeignModel) -> str:
    """Return what identifies the latents of a model: its autoencoder, and the size of its media."""
    parts = [weights_digest(source / "vae"), json.dumps(model.call_for(), sort_keys=True, default=str)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def encoder_of(models: Mapping[Modality, ForeignModel]) -> Callable[[Mapping[str, Any]], dict[str, Tensor]]:
    """Return a function that encodes the media of a batch, as caches store them.

    Args:
        models: a model for each medium.

    Returns:
        A function from a batch of media to latents (B, ...) by modality, on the CPU, rounded to float16.
    """

    @torch.no_grad()
    def encode(batch: Mapping[str, Any]) -> dict[str, Tensor]:
        found = {}
        for modality, model in models.items():
            # each sample alone, since convolutions round differently in batches of another size
            rows = [model.encode(as_unit(row)) for row in batch[modality.value].split(1)]
            found[modality.value] = torch.cat(rows).half().float().cpu()
        return found

    return encode


def scene_latents(folder: Path, source: Path, model: ForeignModel, count: int, seed: int) -> CachedSource:
    """Return the latents of scenes of the world, encoded now if they are not there.

    Args:
        folder: the model folder of the run; the cache lies beside it.
        source: the folder of the published model.
        model: the published model.
        count: the number of scenes.
        seed: the seed of the scenes and of their order.

    Returns:
        A source whose batches have the latents under the modality's name.

    Raises:
        InputError: for a model whose media have another size than those of the world.
    """
    modality = model.modality
    digest = autoencoder_digest(source, model)
    place = folder.with_name(f"{folder.name}-cache") / f"{modality}-{count}-{seed}-{digest}"
    scenes = WorldSource([modality], seed=seed)
    identity = {"autoencoder": digest, "source": json.loads(json.dumps(scenes.identity, default=str))}
    size = min(SHARD, count)
    if not whole(place, count, size):
        check_size(model, tuple(scenes.fetch([0])[modality.value].shape[1:]))
        with tqdm(total=count, desc=f"encoding {modality}", unit="scenes", file=sys.stderr) as bar:
            run = encoder_of({modality: model})
            build_cache(place, scenes, run, count, identity=identity, shard_size=size, progress=bar.update)
        (place / "complete").touch()
    return CachedSource(place, [modality.value], seed=seed)


def check_size(model: ForeignModel, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless media of the world, of this shape, are what a model takes."""
    own = model.spec().raw_shape
    if own != shape:
        raise InputError(
            f"{model.name} makes {model.modality} of {own} and scenes of the world are {shape}: expected "
            "options.calls to ask for that size, or a section `data` with media files"
        )


@dataclass(frozen=True)
class ForeignEncoding(Encoding):
    """The latents and captions of media files for published models, as a cache holds them.

    Attributes:
        models: a model for each medium.
        sources: its folder.
    """

    models: Mapping[Modality, ForeignModel] = field(default_factory=dict)
    sources: Mapping[Modality, Path] = field(default_factory=dict)

    def files(self, **settings: Any) -> Any:
        """Return the source of the media and of their captions, which all prompts are made from."""
        media = [*self.latents, Modality.TEXT]
        return open_media(self.config, media, self.known, seed=self.config.seed, **settings)

    @property
    def captioned(self) -> bool:
        """Whether captions are needed: always, since published models are prompted by sentences."""
        return True

    @property
    def parts(self) -> dict[str, tuple[str, Modality]]:
        """The model that makes each entry of a batch, and its medium."""
        return {m.value: (self.sources[m].name, m) for m in self.latents}

    @cached_property
    def weights(self) -> dict[str, str]:
        """What identifies the latents of each model."""
        return {m.value: autoencoder_digest(self.sources[m], self.models[m]) for m in self.latents}

    def encoder(self, device: torch.device) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
        """Return a function that encodes a batch of media; the models are where they compute already."""
        return encoder_of({m: self.models[m] for m in self.latents})
