"""Prepare what a call of a composed model makes: each output by its own pipeline, or by the text model.

Letters: B batch, D width of the shared prompt space.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from codi.compose import editing
from codi.compose.decoupled_attention import DecoupledAttentions
from codi.compose.foreign import ForeignDenoiser, ForeignModel, Prepared
from codi.compose.given import ComposedPrompt, Samples
from codi.compose.grid import Grid
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.native_prompt import NativePrompt
from codi.compose.prompt_translators import PromptTranslators
from codi.compose.request import ComposedRequest
from codi.conditions import PROMPT, LoopCondition
from codi.conditions.areas import Cells, edges_around
from codi.conditions.regional import RegionalPrompt, shares_of
from codi.diffusion import copy_schedulers, draw_noise
from codi.diffusion.levels import NoiseLevels
from codi.edited import Edited
from codi.modalities import kind_of
from codi.regions import Region
from codi.types import InputError, Latents, Modality, ModalitySpec


@dataclass
class Making:
    """What is being made in one call, by modality, while it is put together.

    Attributes:
        denoisers: the denoisers.
        schedulers: the schedulers, set.
        contexts: the prompts in the form that each denoiser takes.
        nulls: what guidance leads away from, where there is such a branch.
        start: the latents that denoising starts from.
        generators: one for each sample.
        levels: the noise levels of each schedule.
        prepared: what each foreign pipeline prepared.
        regional: the prompts of parts of outputs, in the form that each denoiser takes.
        conditions: what else outputs were given, in the order in which it acts.
    """

    denoisers: dict[Modality, Any] = field(default_factory=dict)
    schedulers: dict[Modality, Any] = field(default_factory=dict)
    contexts: dict[Modality, Any] = field(default_factory=dict)
    nulls: dict[Modality, Any] = field(default_factory=dict)
    start: Latents = field(default_factory=dict)
    generators: dict[Modality, list[torch.Generator]] = field(default_factory=dict)
    levels: dict[Modality, NoiseLevels] = field(default_factory=dict)
    prepared: dict[Modality, Prepared] = field(default_factory=dict)
    regional: dict[Modality, RegionalPrompt] = field(default_factory=dict)
    conditions: dict[Modality, list[LoopCondition]] = field(default_factory=dict)

    def add_model(
        self,
        model: ForeignModel,
        request: ComposedRequest,
        samples: Samples,
        adapters: ForeignJointAdapters | None = None,
        translators: PromptTranslators | None = None,
        decoupled: DecoupledAttentions | None = None,
    ) -> None:
        """Let the pipeline of a foreign model prepare what it makes.

        Args:
            model: the model.
            request: what is made, and how.
            samples: what it is made from.
            adapters: the joint adapters of its network.
            translators: what translates prompts that are no sentences.
            decoupled: what lets its network attend to them instead, where the samples say so.

        Raises:
            InputError: for prompts that it cannot be given.
        """
        modality = model.modality
        arguments = samples.arguments.get(modality, {})
        model.check_ip_adapter(arguments)
        generators = samples.generators()
        prepared, prompt = _native(model, request, samples, generators, translators)
        self.prepared[modality] = prepared
        self.denoisers[modality] = ForeignDenoiser(
            model,
            model.form(prepared.null is not None, prepared.call, arguments),
            adapters=adapters,
            grid=prepared.grid,
            translators=translators,
            decoupled=None if decoupled is None else decoupled.by_modality().get(modality),
            decoupled_scale=samples.attended.get(modality, 1.0),
        )
        self.schedulers[modality] = prepared.scheduler
        self.contexts[modality] = prompt
        if prepared.null is not None:
            self.nulls[modality] = prepared.null
        self.start[modality] = prepared.start
        self.generators[modality] = generators
        self.levels[modality] = model.levels

    def add_regions(
        self,
        model: ForeignModel,
        request: ComposedRequest,
        samples: Samples,
        prompts: Mapping[Region, ComposedPrompt],
        translators: PromptTranslators | None = None,
    ) -> None:
        """Give parts of an output that was added prompts of their own.

        Args:
            model: the model that makes it.
            request: what is made, and how.
            samples: what it is made from.
            prompts: the prompts of each region of the call.
            translators: what translates prompts that are no sentences.
        """
        parts = request.regions.by_output.get(model.modality, ())
        if not parts:
            return
        found = [_native_prompt(model, request, samples, prompts[part], translators) for part in parts]
        grid, spec = self.prepared[model.modality].grid, request.specs[model.modality]
        self.regional[model.modality] = RegionalPrompt(
            prompts=tuple(found), shares=_shares(model.modality, parts, grid, spec)
        )

    def add_source(
        self,
        model: ForeignModel,
        source: Edited,
        request: ComposedRequest,
        samples: Samples,
        source_prompt: ComposedPrompt | None = None,
        translators: PromptTranslators | None = None,
    ) -> None:
        """Let an output that was added start from a source, or keep a part of it.

        Args:
            model: the model that makes it.
            source: its source, of which not everything is kept.
            request: what is made, and how.
            samples: what it is made from.
            source_prompt: what the source shows; None where nobody said it.
            translators: what translates prompts that are no sentences.
        """
        prompt = None
        if source_prompt is not None:
            prompt = _native_prompt(model, request, samples, source_prompt, translators)
        conditions = editing.conditions_of(
            model,
            source,
            self.prepared[model.modality],
            request.sizes[model.modality],
            samples.seeds,
            request.edits.resample_steps,
            prompt,
        )
        for condition in conditions:
            self.add_conditions({model.modality: condition})

    def add_conditions(self, conditions: Mapping[Modality, LoopCondition]) -> None:
        """Let conditions of outputs act after those that they have."""
        for modality, condition in conditions.items():
            self.conditions.setdefault(modality, []).append(condition)

    def add_words(self, modality: Modality, text_model: Any, num_steps: int, samples: Samples) -> None:
        """Prepare what the text model makes beside the foreign models.

        Args:
            modality: what it makes.
            text_model: the `codi.pipeline.CoDiPipeline`.
            num_steps: the number of steps.
            samples: what it is made from.

        Raises:
            InputError: for prompts of which the text model reads nothing.
        """
        tokens = samples.tokens()
        if tokens is None:
            raise InputError(
                f"the text model reads nothing of the prompt, from which it would make {modality}: expected "
                "words that it knows"
            )
        device = text_model._execution_device
        denoiser = text_model.model.denoisers[modality]
        shape = text_model.model.specs[modality].latent_shape
        noise, generators = draw_noise(shape, list(samples.seeds), modality)
        shift = text_model._own("timestep_shift")
        scheduler = copy_schedulers(text_model.scheduler, [modality], num_steps, device, shift)[modality]
        null = torch.cat([text_model.encode_null({}) for _ in samples.prompts])
        self.denoisers[modality] = denoiser
        self.schedulers[modality] = scheduler
        self.contexts[modality] = tokens.to(device, denoiser.dtype)
        self.nulls[modality] = null.to(device, denoiser.dtype)
        self.start[modality] = noise.to(device) * scheduler.init_noise_sigma
        self.generators[modality] = generators
        self.levels[modality] = NoiseLevels.of(scheduler)


def _native_prompt(
    model: ForeignModel,
    request: ComposedRequest,
    samples: Samples,
    prompt: ComposedPrompt,
    translators: PromptTranslators | None,
) -> Any:
    """Return another prompt than the samples' own, the same for all of them, as a denoiser takes it."""
    own = replace(samples, prompts=[prompt] * len(samples))
    return _native(model, request, own, own.generators(), translators)[1]


def _native(
    model: ForeignModel,
    request: ComposedRequest,
    samples: Samples,
    generators: list[torch.Generator],
    translators: PromptTranslators | None,
) -> tuple[Prepared, NativePrompt]:
    """Return what a pipeline prepares for samples, and their prompts in the form that its denoiser takes."""
    prepared, prompt = _prepared(model, request, samples, generators)
    if model.modality in samples.attended:
        beside = samples.besides()
        return prepared, prompt.with_token(None if beside is None else beside.to(model.device))
    return prepared, _translated(model.modality, prompt, samples.prompts, translators)


def _shares(modality: Modality, parts: Sequence[Region], grid: Grid, spec: ModalitySpec) -> Tensor:
    """Return the share of each prompt in every element of a foreign latent, with an axis for its batch."""
    cells = Cells(edges=None if grid.seconds is None else edges_around(grid.seconds.tolist()))
    if kind_of(modality).spatial:
        height, width = spec.raw_shape[-2:]
        cells = replace(cells, size=grid.shape[1:], aspect=width / height)
    shares = shares_of([part.area.weights(cells) for part in parts], [part.weight for part in parts])
    return torch.stack([grid.from_steps(share[None, None]) for share in shares])


def _prepared(
    model: ForeignModel, request: ComposedRequest, samples: Samples, generators: list[torch.Generator]
) -> tuple[Prepared, NativePrompt]:
    """Return what a pipeline prepares for samples, and their prompts, in which sentences are combined."""
    modality = model.modality
    scale = request.guidance[modality].scales[PROMPT.name]
    prepare: Callable[..., Prepared] = partial(
        model.prepare,
        negatives=samples.negatives_of(modality) if model.family.guided and scale > 1 else None,
        num_inference_steps=request.num_inference_steps[modality],
        guidance_scale=scale,
        sizes=request.sizes[modality],
        **samples.arguments.get(modality, {}),
    )
    sentences = [prompt.of(modality) for prompt in samples.prompts]
    first = prepare([words[0][0] for words in sentences], generators=generators)
    most = max(map(len, sentences))
    if most == 1:
        return first, first.prompt
    parts = [first.prompt]
    for k in range(1, most):
        texts = [words[min(k, len(words) - 1)][0] for words in sentences]
        parts.append(prepare(texts, generators=samples.generators()).prompt)
    weights = torch.zeros(len(samples), most)
    for row, words in enumerate(sentences):
        weights[row, : len(words)] = torch.tensor([weight for _, weight in words])
    return first, NativePrompt.interpolate(parts, weights)


def _translated(
    modality: Modality,
    prompt: NativePrompt,
    prompts: Sequence[ComposedPrompt],
    translators: PromptTranslators | None,
) -> NativePrompt:
    """Return the native prompts of all samples; those that are no sentences are translated."""
    foreign = [row for row, given in enumerate(prompts) if given.foreign]
    if not foreign:
        return prompt
    if translators is None or modality not in translators.modalities():
        raise InputError(
            f"this model has no translator of prompts for {modality}: expected sentences alone, or "
            "prompt_translators or decoupled_attention that were trained for it (docs/compose.md)"
        )
    tokens = torch.cat([prompts[row].token for row in foreign])  # type: ignore[misc]
    translated = translators.translate(modality, tokens, prompt.select(foreign))
    if len(foreign) == len(prompts):
        return translated
    singles = [prompt.select([row]) for row in range(len(prompts))]
    for place, row in enumerate(foreign):
        singles[row] = translated.select([place])
    return NativePrompt.cat(singles)
