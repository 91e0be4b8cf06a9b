"""Wrap the model under test for the benchmark.

It gives the outputs of a run, ground truth through its autoencoders, and retrieval between its prompt towers.

Letters: B batch, F frames, H W height and width in pixels, S samples of a sound, D width of the prompt space.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi.bench.runs import Media, Run, prompts_of, render
from codi.bench.scores import facts_of
from codi.compose.folder import is_composed
from codi.io import fit_audio, fit_image, fit_video, from_unit
from codi.metrics.retrieval import chance_of_recall, recall_at_1
from codi.modalities import kind_of
from codi.outputs import FIELDS, formatted
from codi.pipeline import CoDiPipeline
from codi.pretrained import CHECKSUMS, INDEX, pick_device, resolve
from codi.prompts import prepare
from codi.types import EMBEDDED, InputError, Modality
from codi.world import ATTRIBUTES, READERS, VISIBLE, Scene

TEXT = Modality.TEXT
IMAGE = Modality.IMAGE
AUDIO = Modality.AUDIO
VIDEO = Modality.VIDEO
# Pairs of prompt towers, and the published targets of retrieval between them.
TOWER_PAIRS = {(TEXT, IMAGE): 0.9, (TEXT, AUDIO): 0.9, (TEXT, VIDEO): 0.9, (IMAGE, AUDIO): 0.7}
DESCRIBING = ("provenance.json", CHECKSUMS)  # files about a model's weights that do not change its results
# What the probes read.
SIZE = 64  # pixels
NUM_FRAMES = 16
FPS = 8.0
NUM_SAMPLES = 32000
SAMPLING_RATE = 16000  # Hz
_FIT = {
    TEXT: lambda text, spec: text,
    IMAGE: lambda image, spec: from_unit(fit_image(image, SIZE)),
    AUDIO: lambda wave, spec: fit_audio(wave, round(spec.rate), SAMPLING_RATE, NUM_SAMPLES),
    VIDEO: lambda frames, spec: from_unit(fit_video(frames, spec.rate, NUM_FRAMES, FPS, SIZE)),
}


def _as_it_is(item: Any, spec: Any) -> Any:
    """Return a sample of a modality that the world reads in the form in which the model gives it."""
    return item


class Model:
    """Hold a pipeline that is loaded when the first run needs it.

    A finished benchmark can therefore be scored again without loading one.

    Args:
        source: a folder or hub id; None is the model inside the package.
        device: "auto" or a device of torch.
        dtype: the precision of the networks, by its name in torch.
        steps: the number of denoising steps; None is the model's own.
        guidance: the prompt guidance scale, a number or {output: number}; None is the model's own.
        sync_guidance: the sync guidance scale, a number or {output: number}; None is the model's own.

    Raises:
        InputError: a model that is not there.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "float32",
        steps: int | None = None,
        guidance: Any = None,
        sync_guidance: Any = None,
    ) -> None:
        settings = {
            "device": device,
            "dtype": dtype,
            "steps": steps,
            "guidance": guidance,
            "sync_guidance": sync_guidance,
        }
        self.options = {"source": source, **settings}
        self.name = source or EMBEDDED
        self.folder = resolve(source)
        if is_composed(self.folder):
            raise InputError(
                f"{self.folder} is a composed model, which `codi bench` does not measure: expected a model "
                "of codi; examples/compose_world/measure.py measures composed ones"
            )
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.steps = steps
        self.scales = {"guidance_scale": guidance, "sync_guidance_scale": sync_guidance}

    @cached_property
    def pipe(self) -> CoDiPipeline:
        """The pipeline, on its device.

        Its convolutions keep the channels last in memory, which makes them a sixth faster on a CPU.
        """
        pipe = CoDiPipeline.from_pretrained(self.folder, dtype=self.dtype).to(pick_device(self.device))
        for part in pipe.components.values():
            if not isinstance(part, torch.nn.Module):
                continue
            for layer in part.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    layer.to(memory_format=torch.channels_last)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def defaults(self) -> dict[str, Any]:
        """The model's own values for what a call leaves out."""
        return json.loads((self.folder / INDEX).read_text()).get("defaults") or {}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the world can read of all that the model's folder has an autoencoder for."""
        there = json.loads((self.folder / INDEX).read_text())
        return tuple(m for m in Modality if m in READERS and there.get(kind_of(m).autoencoder))

    @cached_property
    def num_timesteps(self) -> int:
        """The largest number of steps that the model can be asked for."""
        config = json.loads((self.folder / "scheduler" / "scheduler_config.json").read_text())
        return int(config["num_train_timesteps"])

    @cached_property
    def fingerprint(self) -> str:
        """A digest that changes when a weight or a setting in the model's folder changes.

        Files that only describe the model, such as where its weights came from, do not count.
        """
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            decides = path.suffix in (".json", ".safetensors") and path.name not in DESCRIBING
            if decides and path.is_file():
                digest.update(path.relative_to(self.folder).as_posix().encode() + _digest(path))
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def sample(self, run: Run, scenes: list[Scene], seeds: list[int]) -> Media:
        """Generate the outputs of a run for a batch of scenes, each from its own prompts and seed.

        This is the public call of the pipeline, with prompts that were encoded beforehand.

        Args:
            run: what to generate, and how.
            scenes: the scenes of the batch.
            seeds: one seed for each scene.

        Returns:
            The outputs by modality, in the world's size, rate and length.
        """
        columns = [(m, self.prepared(m, column)) for m, column in prompts_of(run, scenes)]
        tokens = [(m, self.embed(m, raw)) for m, raw in columns]
        weights = list(run.weights or [1.0] * len(columns))
        assert len(weights) == len(tokens), f"{len(weights)} weights for {len(tokens)} prompts"
        if run.turned:
            tokens.reverse()
            weights.reverse()
        embeds = self.pipe.mix_prompts(tuple(tokens), tuple(weights))
        timed = self.pipe.find_partners(run.inputs, run.outputs, None if run.sync else False)
        # The reversed list lets the first of several inputs of one modality win.
        given = dict(reversed(columns))
        partners = {m: self.encode(m, given[m]) for m in timed}
        scales = dict(self.scales)
        if run.sync_guidance is not None:
            scales["sync_guidance_scale"] = run.sync_guidance
        with self.without_hearing(run.deaf):
            out = self.pipe(
                outputs=run.outputs,
                num_samples=len(scenes),
                seed=seeds,
                num_inference_steps=self.steps,
                candidates=run.candidates,
                prompt_embeds=embeds,
                partner_latents=partners,
                output_type="pt",
                auxiliary_caption=run.led,
                start_offset=0.0 if run.in_step else None,
                **{name: _for_outputs(scale, run.outputs) for name, scale in scales.items()},
            )
        return {m: self.as_world(m, getattr(out, FIELDS[m])) for m in run.outputs}

    @contextmanager
    def without_hearing(self, deaf: Modality | None) -> Iterator[None]:
        """Cut one output off from its partners while the context is open.

        It attends to no environment and takes no partner estimates; the other outputs still attend to it.

        Args:
            deaf: the output that is cut off; None changes nothing.

        Yields:
            Nothing.
        """
        parts = []
        if deaf is not None:
            found = (self.pipe.environment_encoders, self.pipe.noisy_latent_encoders)
            parts = [part for part in found if part is not None]
        for part in parts:
            attended = dict(part.attends_to())
            attended.pop(deaf, None)
            # This hides the method of its class until it is deleted.
            part.attends_to = partial(dict, attended)
        try:
            yield
        finally:
            for part in parts:
                del part.attends_to

    def round_trip(self, modality: Modality, media: Any) -> Any:
        """Encode and decode ground truth with the model's autoencoder.

        Args:
            modality: the modality of the media.
            media: a batch of renderings in the world's size, rate and length.

        Returns:
            The decoded batch, as the probes read it.
        """
        autoencoder = self.pipe.model.autoencoders[modality]
        with torch.no_grad():
            latents = self.encode(modality, self.prepared(modality, media))
            decoded = autoencoder.decode(latents.to(autoencoder.dtype))
        return self.as_world(modality, formatted(modality, decoded, "pt"))

    def as_world(self, modality: Modality, items: list[Any]) -> Any:
        """Bring media of the model's own size, rate and length to those of the world, which the probes read.

        Args:
            modality: the modality of the media.
            items: decoded media, one item for each sample.

        Returns:
            A batch: uint8 images (B, 3, H, W) or clips (B, F, 3, H, W), sounds (B, S), or a list of
            sentences.
        """
        spec = self.pipe.model.specs.get(modality)
        return _stack([_FIT.get(modality, _as_it_is)(item, spec) for item in items])

    def prepared(self, modality: Modality, media: Any) -> Any:
        """Return renderings as a batch in the form that the model makes of a user's prompts."""
        spec = self.pipe.model.specs.get(modality)
        raw = _stack([prepare(modality, item, spec) for item in media])
        return raw.to(self.pipe.device) if isinstance(raw, Tensor) else raw

    @torch.no_grad()
    def embed(self, modality: Modality, raw: Any) -> Tensor:
        """Return the prompt tokens (B, D) of a prepared batch."""
        return self.pipe.model.towers[modality].embed(raw)

    @torch.no_grad()
    def encode(self, modality: Modality, raw: Any) -> Tensor:
        """Return the latents (B, ...) of a prepared batch, in float32."""
        return self.pipe.model.autoencoders[modality].encode(raw).float()

    def retrieval(self, scenes: list[Scene], batch_size: int = 32) -> dict[str, dict[str, float]]:
        """Measure R@1 between prompt towers in both directions, beside chance.

        A hit agrees in every attribute that both modalities can show.

        Args:
            scenes: the scenes whose renderings are embedded.
            batch_size: the number of renderings that are embedded at once.

        Returns:
            The value, chance and target of every pair of towers that the model has, by direction.
        """
        facts = facts_of(scenes)
        tokens = {}
        for m in Modality:
            if m in self.pipe.model.towers:
                tokens[m] = self._embed_all(m, scenes, batch_size)
        result = {}
        for (a, b), target in TOWER_PAIRS.items():
            if a not in tokens or b not in tokens:
                continue
            shared = [x for x in ATTRIBUTES if x in VISIBLE[a] and x in VISIBLE[b]]
            for query, key in ((a, b), (b, a)):
                result[f"{query}->{key}"] = {
                    "value": recall_at_1(tokens[query], tokens[key], facts, facts, shared),
                    "chance": chance_of_recall(facts, facts, shared),
                    "target": target,
                }
        return result

    def _embed_all(self, modality: Modality, scenes: list[Scene], batch_size: int) -> Tensor:
        """Return the prompt tokens (len(scenes), D) of all renderings of one modality."""
        media = render(modality, scenes)
        tokens = []
        for start in range(0, len(scenes), batch_size):
            raw = self.prepared(modality, media[start : start + batch_size])
            tokens.append(self.embed(modality, raw).cpu())
        return torch.cat(tokens)


def _stack(items: list[Any]) -> Any:
    """Return tensors of one shape, or sentences, as a batch."""
    return torch.stack(items) if isinstance(items[0], Tensor) else list(items)


def _for_outputs(scale: Any, outputs: Sequence[Modality]) -> Any:
    """Return the entries of a scale that belong to these outputs, or None where there are none."""
    if not isinstance(scale, dict):
        return scale
    return {name: value for name, value in scale.items() if Modality(name) in outputs} or None


def _digest(path: Path) -> bytes:
    """Return the SHA-256 digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
