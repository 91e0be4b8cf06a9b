"""Prompt translators of frozen models that others published, trained on captions alone.

For each caption there are two things: its token in the shared prompt space, by the text tower of a model of
codi, and what the published pipeline gives its denoiser for it. The translator regresses the second from the
first (`codi.compose.prompt_translators`). Neither a denoiser nor any medium takes part.

Tokens of media are not those of captions. They come as a caption prior reads them: where the captions lie
that go with a medium, but for what the medium's tower adds of its own (`codi.joint.caption_prior`). A share
of the tokens here is made like that from captions: the mean of all captions that go with a caption, which may
leave facts open as a picture does, then noise at right angles to it, then the prior's own projection.

Letters: B batch, D width of the prompt space.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codi import pretrained
from codi.compose.folder import is_composed
from codi.compose.folder import read as read_composed
from codi.compose.foreign import ForeignModel
from codi.compose.native_prompt import NativePrompt
from codi.compose.prompt_translators import PromptTranslators, find_contexts
from codi.joint.caption_prior import project
from codi.modalities import component_class, component_names, kind_of
from codi.pipeline import CoDiPipeline
from codi.types import DTYPES, EMBEDDED, InputError, Modality
from codi.world import ATTRIBUTES, Scene, caption
from data.batch import Batch
from data.world import prompted_facts
from training.config import Config, check_names, expect, strict
from training.dry_run import empty
from training.stages import Source, Stage
from training.stages.common import load_part, planning
from training.stages.files import check_words, world_or_files
from training.stages.foreign import foreign_model
from training.stages.published import export_parts

PART = "prompt_translators"
TEXT_TOWER = kind_of("text").tower
READING = (TEXT_TOWER, "text_autoencoder", "noisy_latent_encoders")  # what reads captions and the prior needs
NEEDED = "the text tower reads captions"
CHUNK = 32  # captions that a pipeline encodes at once while statistics are measured
NATIVE_STEPS = 3  # as few as all schedulers take: nothing is denoised


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """Options of stages that train parts of composed models on captions alone.

    Attributes:
        models: the folder of the published pipeline for each modality, such as {image: models/sd15}; or a
            mapping of `folder` and of arguments of its call. Empty for those of the composed model in the
            model folder.
        text: the model of codi whose text tower reads captions: a folder, a hub id, or codi-tiny.
        dtype: the precision in which the pipelines encode captions.
        full: the share of the world's captions that name every fact; the others leave some out.
        read: the share of tokens that are made as those of media are.
        dialect: the greatest length of what a medium's tower adds of its own to a token of length one.
        noise: the length of the noise that is added to the tokens of captions themselves.
        validation_captions: the number of captions in a preview.
    """

    models: dict[str, Any] = field(default_factory=dict)
    text: str = EMBEDDED
    dtype: str = "float32"
    full: float = 0.5
    read: float = 0.5
    dialect: float = 0.9
    noise: float = 0.1
    validation_captions: int = 64

    def __post_init__(self) -> None:
        expect(self.dtype in DTYPES, "dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        for name in ("full", "read"):
            expect(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share in [0, 1]")
        for name in ("dialect", "noise"):
            expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        expect(self.validation_captions >= 2, "validation_captions", self.validation_captions, "2 or more")


@dataclass(frozen=True, kw_only=True)
class ComposedPromptsOptions(CaptionOptions):
    """Options of the stage, beside those of `CaptionOptions`.

    Attributes:
        measured: the number of captions from which shapes and statistics of contexts are measured.
    """

    measured: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(self.measured >= 2, "measured", self.measured, "2 or more")


def sources_of(model: Path, models: Mapping[str, Any]) -> dict[Modality, tuple[Path, dict[str, Any]]]:
    """Return the folder of the pipeline of each modality, and arguments of its call.

    Args:
        model: the folder of the model, whose pipelines are meant where it is a composed model.
        models: the option `models`, which goes first.

    Returns:
        Folders and arguments.

    Raises:
        InputError: for an entry of another form, and where no pipeline is named at all.
    """
    if not models:
        expect(is_composed(model), "models", models, f"pipelines by modality, or a composed model in {model}")
        composed = read_composed(model)
        return {Modality.parse(m): (r.folder(model), dict(r.call)) for m, r in composed.references.items()}
    found = {}
    for name, source in models.items():
        call = dict(source) if isinstance(source, Mapping) else {"folder": source}
        folder = call.pop("folder", None)
        if not isinstance(folder, (str, Path)):
            raise InputError(f"options: models: {name} is {source!r}: expected the folder of a pipeline")
        found[Modality.parse(name)] = (Path(folder), call)
    return found


def load_models(
    sources: Mapping[Modality, tuple[Path, dict[str, Any]]], dtype: torch.dtype
) -> dict[Modality, ForeignModel]:
    """Load the pipelines of `sources_of`; their networks that denoise are loaded and never run."""
    models = {}
    for modality, (folder, call) in sources.items():
        model = foreign_model(folder, call)
        if model.modality is not modality:
            raise InputError(f"options: models: {modality}: {folder} makes {model.modality}")
        if not planning():
            model.pipeline.to(dtype)
        models[modality] = model
    return models


class ComposedPromptsStage(Stage):
    """The stage that trains the prompt translators of all published models of a composed one."""

    identity = ("models", "text")
    options_kind: Any = ComposedPromptsOptions  # the class of its options
    part_name = PART  # what it trains

    def __init__(self, config: Config):
        self.config = config
        self.options = strict(self.options_kind, config.options, where="options")
        check_names(config.part, [self.part_name], "part")
        self.sources = sources_of(config.model, self.options.models)
        self.models: dict[Modality, ForeignModel] = {}

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return the name of what trains."""
        return (cls.part_name,)

    def load(self) -> None:
        """Load the text tower with its caption prior, and the pipelines; of a plan the tower alone.

        For a plan the pipelines are built of their configurations, and asked for two captions, because what
        they give their denoisers has to be known before anything can be built without memory.
        """
        name = None if self.options.text == EMBEDDED else self.options.text
        self.text_folder = pretrained.resolve(name)
        self.models = load_models(self.sources, getattr(torch, self.options.dtype))
        self.natives: dict[Modality, NativePrompt] = {}
        if planning():
            self.dim = load_part(component_class(TEXT_TOWER), self.text_folder / TEXT_TOWER, NEEDED).dim
            self.natives = {m: self.native(m, ["a ball", "a star"]) for m in self.models}
            return
        left_out: dict[str, Any] = {part: None for part in self._parts() if part not in READING}
        self.text = CoDiPipeline.from_pretrained(name, **left_out)
        self.text.set_progress_bar_config(disable=True)
        self.dim = self.tower.dim
        for part in self.text.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

    def _parts(self) -> list[str]:
        return [*component_names(), "environment_encoders", "noisy_latent_encoders"]

    @property
    def tower(self) -> Any:
        """The text tower."""
        return getattr(self.text, TEXT_TOWER)

    def build(self) -> Any:
        """Return new translators for what the pipelines give their denoisers, their statistics measured."""
        settings = dict(self.config.part.get(PART, {}))
        contexts: dict[str, dict[str, list[int]]] = {}
        masks: dict[str, dict[str, int]] = {}
        natives = self.natives or {m: self._measured(m) for m in self.models}
        for modality, native in natives.items():
            found = find_contexts([native], self.models[modality].name)
            contexts[modality.value], masks[modality.value] = found
        translators = PromptTranslators(dim=self.dim, contexts=contexts, masks=masks, **settings)
        if not planning():
            for modality, native in natives.items():
                translators.of(modality).measure(native)
        return translators

    def _measured(self, modality: Modality) -> NativePrompt:
        """Return what a pipeline gives its denoiser for the captions from which statistics are measured."""
        source = self.data(offset=1)
        parts = []
        for start in range(0, self.options.measured, CHUNK):
            places = range(start, min(start + CHUNK, self.options.measured))
            parts.append(self.native(modality, source.fetch(list(places))["targets"]))
        return NativePrompt.cat(parts)

    def to(self, device: torch.device) -> None:
        """Move the text tower, the caption prior and the pipelines to `device`."""
        self.text.to(device)
        for model in self.models.values():
            model.pipeline.to(device)
        self.device = device

    def data(self, offset: int = 0) -> Source:
        """Return a source of captions, of the world's or of files.

        Args:
            offset: added to the seed; another offset gives other captions.

        Returns:
            A source of batches of "captions", whose tokens are translated, and "targets", into whose native
            prompts they are translated.
        """
        source = world_or_files(self.config, self.captions, [Modality.TEXT], {}, self.of_files, offset)
        if self.config.data and not offset:
            check_words(source.source, [self.tower], self.text_folder)
        return source

    def captions(self, scenes: list[Scene], rngs: list[np.random.Generator]) -> dict[str, Any]:
        """Return captions of scenes, and the same facts in the same words always.

        A token hardly knows words, so the mean of all wordings is all that could be regressed otherwise, and
        no pipeline was ever given a mean of sentences.

        Args:
            scenes: the scenes.
            rngs: the random generator of each.

        Returns:
            A batch.
        """
        names = [prompted_facts(tuple(ATTRIBUTES), self.options.full, rng) for rng in rngs]
        said = [caption(s, facts, rng) for s, facts, rng in zip(scenes, names, rngs, strict=True)]
        targets = [caption(scene, facts) for scene, facts in zip(scenes, names, strict=True)]
        return {"captions": said, "targets": targets}

    def of_files(self, batch: Batch) -> dict[str, Any]:
        """Return a batch of files in the form of `captions`: each caption is its own target."""
        return {"captions": batch["text"], "targets": batch["text"]}

    @torch.no_grad()
    def native(self, modality: Modality, captions: list[str]) -> NativePrompt:
        """Return what a pipeline gives its denoiser for captions."""
        model = self.models[modality]
        return model.prepare(
            captions,
            num_inference_steps=NATIVE_STEPS,
            guidance_scale=1.0 if model.family.guided else None,
            # generators of their own, so that no draw of the run depends on what a pipeline draws
            generators=[torch.Generator().manual_seed(0) for _ in captions],
        ).prompt

    @torch.no_grad()
    def tokens(self, captions: list[str], generator: torch.Generator, read: float | None = None) -> Tensor:
        """Return a token (B, 1, D) for each caption, as it stands for a sentence or for a medium.

        Args:
            captions: B captions.
            generator: the source of all draws.
            read: the share of those that stand for a medium; None for that of the options.

        Returns:
            Tokens of length one.
        """
        token = self.tower.embed(captions).float()
        share = self.options.read if read is None else read
        device = token.device

        def drawn() -> Tensor:
            # of a length of about one, as tokens have
            return torch.randn(token.shape, generator=generator, device=device) / token.shape[1] ** 0.5

        plain = functional.normalize(token + self.options.noise * drawn(), dim=-1)
        mean = self.text.estimate_captions(token)
        mean = token if mean is None else mean.to(token)
        length = self.options.dialect * torch.rand((len(token), 1), generator=generator, device=device)
        medium = functional.normalize(functional.normalize(mean, dim=-1) + length * drawn(), dim=-1)
        if mean is not token:
            medium = project(medium, mean)
        chosen = torch.rand((len(token), 1), generator=generator, device=device) < share
        return torch.where(chosen, medium, plain)[:, None]

    def loss(
        self, module: Any, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of all translators and all that they regress, and each of these for the log."""
        token = self.tokens(batch["captions"], generator)
        losses = self._losses(module, token, batch["targets"])
        total = torch.stack(list(losses.values())).sum()
        return total, {name: value.detach() for name, value in losses.items()}

    def _losses(self, module: Any, token: Tensor, targets: list[str]) -> dict[str, Tensor]:
        """Return the mean loss of each context of each model, by name."""
        found = {}
        for modality, translator in module.by_modality().items():
            for name, value in translator.loss(token, self.native(modality, targets)).items():
                found[f"{modality}.{name}"] = value.mean()
        return found

    def dummy_batch(self, module: Any, count: int) -> dict[str, Tensor]:
        """Return tokens."""
        return {"token": empty(count, 1, self.dim)}

    def dry_pass(self, module: Any, batch: dict[str, Tensor]) -> None:
        """Run every translator once."""
        for translator in module.by_modality().values():
            translator(batch["token"])

    @torch.no_grad()
    def preview(self, module: Any, folder: Path) -> None:
        """Write `unexplained.json`: what share of the captions' variance each context lacks.

        It is given for captions, for tokens as media have them, and for those of another sample.
        """
        batch = self.data(offset=2).fetch(list(range(self.options.validation_captions)))
        found = {}
        for name, read in (("caption", 0.0), ("medium", 1.0)):
            generator = torch.Generator(self.device).manual_seed(0)
            found[name] = self.tokens(batch["captions"], generator, read)
        found["another's"] = found["medium"].roll(1, 0)
        scores = {}
        for name, token in found.items():
            losses = self._losses(module, token, batch["targets"])
            scores[name] = {key: round(float(value), 4) for key, value in losses.items()}
        (folder / "unexplained.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")

    def export(self, module: Any, folder: Path) -> None:
        """Write prompt_translators/, and name it in the index of a composed model."""
        export_parts({PART: module}, folder)
