"""Make any combination of text, image, audio and video from any combination of them.

    pipe = CoDiPipeline.from_pretrained()
    out = pipe(text="a green star bounces quickly in the snow", outputs=["video", "audio"], seed=0)
    out.save("out/")

`CoDiPipeline` follows Composable Diffusion (CoDi, arXiv 2305.11846): prompts of all modalities become tokens
of one space, and one latent diffusion model for each output denoises beside the others.

Letters: B batch, D width of the prompt space.
"""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from codi.libraries import leave_out_broken

leave_out_broken()  # before the first import of diffusers

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from codi import card, edited, pretrained, prompts, records, selection, settings
from codi import request as requests
from codi.adapters.controls import ControlMixin
from codi.adapters.mixin import AdapterMixin
from codi.border import resolve_names
from codi.callbacks import show_tensors, wanted_tensors
from codi.calls import Call, CallMixin
from codi.compose.folder import is_composed
from codi.conditions import LoopCondition
from codi.conditions.areas import Cells
from codi.conditions.regional import RegionalPrompt, shares_of
from codi.diffusion import NoiseProcess, copy_schedulers, draw_noise, named_scheduler
from codi.edited import Edited
from codi.given import Given
from codi.joint import caption_prior
from codi.joint.sampler import JointSampler
from codi.joint.scheduler_check import check_scheduler
from codi.memory import MemoryMixin
from codi.modalities import component_names, kind_of
from codi.models.codi import CoDiModel
from codi.models.conditioning import interpolate, null_prompt
from codi.outputs import CoDiOutput, as_fields, formatted
from codi.prompts import Prompt
from codi.protocols import Autoencoder, PromptEncoder
from codi.regions import Region
from codi.request import Request
from codi.types import EMBEDDED, InputError, Latents, Modality, ModalitySpec, listed

PRIOR_DRAWS = 16  # draws of noise over which the mean of a caption prior is taken

__all__ = ["CoDiOutput", "CoDiPipeline", "Prompt", "named_scheduler"]


class _PartNames:
    """The names of all parts that a model may have, as an attribute of a class.

    They are asked anew each time, because modalities may be registered at any time.
    """

    def __get__(self, pipeline: Any, owner: Any = None) -> list[str]:
        return [*component_names(), "environment_encoders", "noisy_latent_encoders"]


def _by_fixed_names(init: Callable[..., None]) -> Callable[..., None]:
    """Leave out of an `__init__`'s signature whatever has no fixed name.

    diffusers takes each name in the signature of a pipeline for a part.
    """
    signature = inspect.signature(init)
    fixed = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
    init.__signature__ = signature.replace(parameters=fixed)
    return init


class CoDiPipeline(AdapterMixin, ControlMixin, MemoryMixin, CallMixin, DiffusionPipeline):
    """Pipeline that takes prompts of any modality and makes media of any modality, denoised together.

    Parts may be missing; what needs one is then refused, naming the part. LoRA and learned words are
    described in `codi.adapters`.

    Args:
        scheduler: the scheduler, which holds the noise process that the model was trained with.
        text_autoencoder: the autoencoder of sentences.
        image_autoencoder: the autoencoder of pictures, and of the frames of clips.
        audio_autoencoder: the autoencoder of sounds.
        text_tower: the prompt tower of sentences.
        vision_tower: the prompt tower of pictures and clips.
        audio_tower: the prompt tower of sounds.
        text_denoiser: the denoiser of sentences.
        vision_denoiser: the denoiser of pictures and clips.
        audio_denoiser: the denoiser of sounds.
        environment_encoders: the environment encoders of all modalities.
        noisy_latent_encoders: the noisy-latent encoders of all modalities.
        defaults: the model's own values for what a call leaves out, and for what no call can change (the keys
            of `settings.DEFAULTS`). They are saved with the model.
        **more: parts of other modalities that were registered (`codi.modalities`).
    """

    _optional_components = _PartNames()
    _folder: Path | None = None  # the folder that the parts came from
    _weights: str | None = None  # the fingerprint, once it was asked for
    _callback_tensor_inputs = ["latents", "prompt_embeds", "clean_latents"]
    model_cpu_offload_seq = (
        "text_tower->vision_tower->audio_tower->environment_encoders->noisy_latent_encoders"
        "->text_denoiser->vision_denoiser->audio_denoiser"
        "->text_autoencoder->image_autoencoder->audio_autoencoder->image_upscaler"
    )

    @_by_fixed_names
    def __init__(
        self,
        scheduler: SchedulerMixin,
        text_autoencoder: ModelMixin | None = None,
        image_autoencoder: ModelMixin | None = None,
        audio_autoencoder: ModelMixin | None = None,
        text_tower: ModelMixin | None = None,
        vision_tower: ModelMixin | None = None,
        audio_tower: ModelMixin | None = None,
        text_denoiser: ModelMixin | None = None,
        vision_denoiser: ModelMixin | None = None,
        audio_denoiser: ModelMixin | None = None,
        environment_encoders: ModelMixin | None = None,
        noisy_latent_encoders: ModelMixin | None = None,
        defaults: dict | None = None,
        **more: ModelMixin | None,
    ):
        super().__init__()
        # Another scheduler that takes its place is checked against it, and against the noise process that the
        # model was trained with.
        self._own_scheduler = scheduler
        self._process = NoiseProcess.from_scheduler(scheduler)
        self.register_modules(
            scheduler=scheduler,
            text_autoencoder=text_autoencoder,
            image_autoencoder=image_autoencoder,
            audio_autoencoder=audio_autoencoder,
            text_tower=text_tower,
            vision_tower=vision_tower,
            audio_tower=audio_tower,
            text_denoiser=text_denoiser,
            vision_denoiser=vision_denoiser,
            audio_denoiser=audio_denoiser,
            environment_encoders=environment_encoders,
            noisy_latent_encoders=noisy_latent_encoders,
        )
        settings.check_names("CoDiPipeline", more, self._optional_components)
        self.register_modules(**more)
        settings.check_defaults(defaults or {})
        self.register_to_config(defaults=dict(defaults or {}))
        self._kept_card: str | None = None  # somebody else's, in the folder that is being saved to
        self._init_calls()
        self._init_controls()

    @classmethod
    def _get_signature_keys(cls, obj: Any) -> tuple[list[str], list[str]]:
        """Return the names of required and of optional parts, as diffusers does.

        The parts of registered modalities are in no signature, and each pipeline has its own of them. They
        are added here.
        """
        expected, optional = super()._get_signature_keys(obj)
        there = cls._optional_components if isinstance(obj, type) else obj.config
        optional_there = [name for name in cls._optional_components if name in there]
        return sorted({*expected, *optional_there}), optional

    # Loading and saving

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        dtype: torch.dtype | dict[str, torch.dtype] = torch.float32,
        torch_dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        variant: str | None = None,
        verify: bool | None = None,
        use_safetensors: bool | None = None,
        **options: Any,
    ) -> "CoDiPipeline":
        """Load the model inside the package, or that of a local folder or a hub id.

        Args:
            source: a folder or a hub id; None for the model inside the package.
            revision: the revision of a model on the hub.
            dtype: the precision of the networks, one for all or {part: dtype}.
            torch_dtype: diffusers' name for `dtype`; it counts where both are given.
            variant: the variant of the weights, such as "fp16", by which their files are named.
            verify: whether the checksums of all tensors are compared; None for where there are any and the
                model is below 2 GiB.
            use_safetensors: as in diffusers; False is refused, because weights are read as safetensors only.
            **options: parts by their names, which are taken as they are, or left out where they are None
                (`text_denoiser=None`); options of a download (`pretrained.HUB`); and options of each part's
                own `from_pretrained` (`pretrained.LOADING`).

        Returns:
            The pipeline.

        Raises:
            InputError: for an option that is none of these, and for a folder with anything missing, altered
                or left over.
        """
        if use_safetensors is False:
            raise InputError(
                "use_safetensors is False: weights are read as safetensors only, convert others with `codi "
                "convert`"
            )
        given = {name: options.pop(name) for name in cls._optional_components if name in options}
        scheduler = options.pop("scheduler", None)
        hub = {name: options.pop(name) for name in pretrained.HUB if name in options}
        settings.check_names("from_pretrained", options, pretrained.LOADING)
        folder = pretrained.resolve(source, revision, **hub)
        if is_composed(folder):
            return cls._composed(folder, torch_dtype or dtype, {**given, "scheduler": scheduler}, options)
        index = {name: kind for name, kind in pretrained.read_index(folder).items() if name not in given}
        if unknown := sorted(set(index) - {"scheduler", *cls._optional_components}):
            raise InputError(
                f"{folder / pretrained.INDEX} names the part {unknown[0]!r:.80}, which codi does not know"
            )
        pretrained.check_files(folder, index, verify, variant)
        parts = pretrained.load_parts(folder, index, torch_dtype or dtype, variant=variant, **options)
        pipe = cls(**parts, **given, defaults=pretrained.read_defaults(folder))
        if scheduler is not None:  # in place of the model's own, which says what it was trained with
            pipe.scheduler = scheduler
        pipe.register_to_config(_name_or_path=str(source or EMBEDDED))
        # With a part from elsewhere the folder does not say what the weights are.
        pipe._folder = folder if all(part is None for part in given.values()) else None
        pipe._find_controls(folder)
        return pipe

    @classmethod
    def _composed(cls, folder: Path, dtype: Any, given: Mapping[str, Any], options: dict[str, Any]) -> Any:
        """Return the pipeline of a model that is composed of published ones (`codi.compose`)."""
        from codi.compose.pipeline import ComposedPipeline

        if named := [name for name, part in given.items() if part is not None]:
            raise InputError(
                f"{folder} is a composed model, which takes no other {named[0]}: expected the parts that it "
                "refers to, which may be changed once they are loaded (docs/compose.md)"
            )
        return ComposedPipeline.from_folder(folder, dtype, cls.from_pretrained, **options)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "CoDiPipeline":
        """Return another pipeline of the very same parts, with the same `defaults`.

        Args:
            pipeline: the pipeline whose parts are used.
            **kwargs: parts and `defaults` that replace those of `pipeline`; and `dtype` (or `torch_dtype`),
                to which the parts are converted, those of `pipeline` too, since they are the same.

        Returns:
            The new pipeline.
        """
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        parts = {**pipeline.components, "defaults": pipeline.config.get("defaults"), **kwargs}
        scheduler = parts.pop("scheduler")
        # The present scheduler may be another than the one that the model was trained with.
        pipe = cls(scheduler=pipeline._own_scheduler if isinstance(pipeline, cls) else scheduler, **parts)
        pipe.scheduler = scheduler
        pipe.register_to_config(_name_or_path=pipeline.config.get("_name_or_path"))
        pipe._folder = (
            None if set(kwargs) & set(cls._optional_components) else getattr(pipeline, "_folder", None)
        )
        if isinstance(pipeline, cls):  # the branches are those of the parts that both have
            pipe._control_folders, pipe._control_branches = (
                pipeline._control_folders,
                pipeline._control_branches,
            )
        return pipe if dtype is None else pipe.to(dtype)

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Save the model as diffusers does, as safetensors only.

        Beside it are written checksums of every tensor, a model card, and what lets diffusers load the model.
        An older model in that folder is replaced as a whole once this one is complete. Other files there
        stay, and so does a README.md that somebody else wrote or changed.

        Args:
            save_directory: the folder.
            safe_serialization: as in diffusers; False is refused.
            **kwargs: further options of diffusers' `save_pretrained`, such as `push_to_hub`.

        Raises:
            InputError: for a folder that cannot be written, and while a LoRA or learned words are loaded.
        """
        if not safe_serialization:
            raise InputError("safe_serialization is False: weights are saved as safetensors only")
        self.check_unadapted()
        upload = kwargs.pop("push_to_hub", False)
        with pretrained.replacing(Path(save_directory)) as beside:
            self._kept_card = card.foreign(Path(save_directory))
            super().save_pretrained(beside, **kwargs)
            self.save_controls(beside)
        self._complete(Path(save_directory))
        if upload:  # diffusers uploads what it saves, from where it saves it
            super().save_pretrained(save_directory, push_to_hub=upload, **kwargs)

    def _upload_folder(self, working_dir: str | Path, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Complete the folder before diffusers uploads it.

        With `push_to_hub` diffusers uploads before its own `save_pretrained` returns.
        """
        self._complete(Path(working_dir), name=repo_id)
        return super()._upload_folder(working_dir, repo_id, *args, **kwargs)

    def _complete(self, folder: Path, name: str | None = None) -> None:
        """Write into a saved folder what diffusers does not: checksums, card and loader."""
        pretrained.write_checksums(folder)
        model = self.model
        facts = card.Facts(
            source=self.config.get("_name_or_path"),
            takes=list(model.towers),
            makes=[m for m in model.denoisers if m in model.autoencoders],
            specs=model.specs,
            defaults=self.config.defaults or {},
        )
        card.write(folder, facts, name, self._kept_card)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refuse sequential offloading, which is not supported.

        Parts are called by other methods than `forward`, too, and for those the weights would never arrive.
        """
        raise InputError(
            "sequential offloading is not supported: expected enable_model_cpu_offload or "
            "enable_group_offload"
        )

    @property
    def model(self) -> CoDiModel:
        """The parts that are there, by modality."""
        return CoDiModel({name: part for name, part in self.components.items() if part is not None})

    @property
    def model_name(self) -> str | None:
        """The model's hub id, or the name of its folder; None for parts that were put together by hand."""
        name = self.config.get("_name_or_path")
        return Path(name).resolve().name if name and Path(name).is_dir() else name

    def fingerprint(self) -> str | None:
        """Return a digest of the weights in the folder that this model was loaded from.

        For parts that were put together by hand it is None.
        """
        if self._folder is not None and self._weights is None:
            self._weights = pretrained.fingerprint(self._folder)
        return self._weights

    # The stages of a call

    def resolve(self, *, given: Collection[Modality], outputs: Any, **asked: Any) -> Request:
        """Check what is asked of this model, and put its own values in place of what was left out.

        Args:
            given: the modalities of the prompts.
            outputs: what to make.
            **asked: other settings of a call, as in `codi.request.resolve`.

        Returns:
            The request, in which every setting has a value.

        Raises:
            InputError: for what this model cannot do, or nobody can.
        """
        total = self._process.num_train_timesteps
        defaults = self.config.defaults or {}
        request = requests.resolve(
            self.model,
            defaults,
            given=given,
            outputs=outputs,
            most_steps=total,
            able_controls=self.controls,
            **asked,
        )
        shift = self._own("timestep_shift")
        check_scheduler(
            self.scheduler, self._own_scheduler, self._process, request.num_inference_steps, shift
        )
        denoisers = self.model.denoisers
        settings.check_guiders(
            request.guidance,
            dict.fromkeys(request.made, self.scheduler),
            dict.fromkeys(request.made, self._process.prediction_type),
            {m: denoisers[m].num_transformers for m in request.made},
        )
        return request

    def encode_prompt(self, items: Mapping[Modality, Sequence[Prompt]]) -> Tensor:
        """Encode prompts that combine into one context, as `mix_prompts` does.

        Args:
            items: the prompts by modality; where there are none, the context is that of `encode_null`.

        Returns:
            The context (1, 1, D).
        """
        return self._mixed(items) if items else self.encode_null({})

    def batched_prompts(
        self, given: Sequence[Tensor], away: Sequence[Tensor], rows: Sequence[int], refusing: bool
    ) -> dict[str, Tensor]:
        """Return the arguments of a call for samples of several jobs.

        Args:
            given: the context (1, 1, D) of each job, from `encode_prompt`.
            away: what guidance leads away from, (1, 1, D) for each job.
            rows: for each sample, the number of its job.
            refusing: whether `away` are negative prompts.

        Returns:
            Contexts (B, 1, D) by the names of arguments.
        """
        name = "negative_prompt_embeds" if refusing else "null_prompt_embeds"
        index = list(rows)
        return {"prompt_embeds": torch.cat(list(given))[index], name: torch.cat(list(away))[index]}

    def encode_null(self, items: Mapping[Modality, Sequence[Prompt]]) -> Tensor:
        """Encode what stands for the lack of these prompts, from which guidance leads away.

        The model's setting `null_prompt` says what that is: "zeros"; or "empty", as released, tokens of an
        empty sentence, of grey and of silence, one for each prompt and interpolated like them. Where there is
        no prompt, "empty" is an empty sentence, or grey for a model without a vocabulary.

        Args:
            items: the prompts by modality.

        Returns:
            The context (1, 1, D).

        Raises:
            InputError: for "empty" in a model without prompt towers.
        """
        model = self.model
        if self._own("null_prompt") == "zeros":
            return null_prompt(1, model.context_dim, device=self._execution_device)
        if not model.towers:
            raise InputError(
                "this model has no prompt towers: expected prompt_embeds, and negative_prompt_embeds or a "
                "guidance_scale of 1"
            )
        if items:
            return self._mixed(items, empty=True)
        if any(tower.reads_words for tower in model.towers.values()):
            return self._mixed({Modality.TEXT: [Prompt("nothing")]}, empty=True)
        grey = Prompt(torch.zeros(3, 8, 8, dtype=torch.uint8))
        return self._mixed({Modality.IMAGE: [grey]}, empty=True)

    def _mixed(self, items: Mapping[Modality, Sequence[Prompt]], empty: bool = False) -> Tensor:
        """Encode prompts, or empty ones in their place, and combine their tokens by weight: (1, 1, D)."""
        model = self.model
        tokens: list[tuple[Modality, Tensor]] = []
        weights: list[float] = []
        for modality in Modality:
            if modality not in items:
                continue
            tower = model.towers[modality]
            if kind_of(modality).in_words and not empty:
                prompts.note_unread(tower, items[modality])
            spec = model.prompt_specs.get(modality)
            for raw in self._prepared(modality, items[modality], tower, spec):
                embedded = tower.embed(prompts.emptied(raw) if empty else raw)
                tokens += [(modality, token) for token in embedded.split(1)]
            weights += [prompt.weight for prompt in items[modality]]
        return self.mix_prompts(tokens, weights, read=not empty)

    def mix_prompts(
        self, tokens: Sequence[tuple[Modality, Tensor]], weights: Sequence[float], read: bool = True
    ) -> Tensor:
        """Combine prompt tokens by their weights into one context.

        They are interpolated (CoDi, section 3.2), and brought back to length one where the model says
        `normalise_prompts`. A model with a `caption_prior` then puts what the prompts say together in place
        of what interpolation left of it (`codi.joint.caption_prior`), unless the only prompt is one sentence.

        Args:
            tokens: the prompt tokens (B, D), each with its modality.
            weights: the weight of each token; a token of weight 0 says nothing.
            read: whether the caption prior reads the prompts.

        Returns:
            The context (B, 1, D).
        """
        mixed = interpolate([token for _, token in tokens], list(weights), self._own("normalise_prompts"))
        kinds: list[Modality] = []
        counted_tokens: list[Tensor] = []
        counted_weights: list[float] = []
        for (modality, token), weight in zip(tokens, weights, strict=True):
            if weight > 0:
                kinds.append(modality)
                counted_tokens.append(token)
                counted_weights.append(weight)
        # A sentence alone needs no translation into captions: it is one.
        only_a_sentence = len(kinds) == 1 and kind_of(kinds[0]).in_words
        estimate = self._prior() if read and not only_a_sentence else None
        if estimate is None:
            return mixed
        captions = list(map(estimate, counted_tokens))
        combined = caption_prior.combine_prompts(captions, counted_weights)
        return caption_prior.project(mixed[:, 0].to(combined), combined)[:, None].to(mixed)

    def estimate_captions(self, token: Tensor) -> Tensor | None:
        """Return the means of the captions that go with prompts, by the model's caption prior.

        Args:
            token: (B, D) prompt tokens.

        Returns:
            (B, D), the shorter the less a prompt determines; None for a model without a caption prior.
        """
        prior = self._prior()
        return None if prior is None else prior(token)

    def _prior(self) -> Callable[[Tensor], Tensor] | None:
        """Return a function from prompt tokens (B, D) to the means of their captions, by the caption prior.

        It is None where the model has no `caption_prior`, or no noisy-latent encoder of that modality.
        """
        name = self._own("caption_prior")
        if name is None:
            return None
        model = self.model
        modality = Modality.parse(name)
        if modality not in model.noisy_latent_encoders or modality not in model.specs:
            return None
        tower = model.noisy_latent_encoders[modality]
        last = self._process.num_train_timesteps - 1
        noise, _ = draw_noise(model.specs[modality].latent_shape, range(PRIOR_DRAWS), modality)
        noise = noise.to(self._execution_device, tower.dtype)
        return lambda token: caption_prior.estimate_captions(tower, noise, last, token.to(noise))

    def _own(self, name: str) -> Any:
        """Return this model's value of a setting that a call cannot change."""
        return (settings.DEFAULTS | (self.config.defaults or {}))[name]

    def find_partners(
        self,
        items: Collection[Modality],
        outputs: Sequence[Modality],
        sync: requests.Sync = None,
    ) -> list[Modality]:
        """Return the inputs that stand in the loop as clean partners.

        Args:
            items: the modalities of the prompts.
            outputs: what is made.
            sync: True or None for inputs that run in time where an output does, False for none, or their
                names.

        Returns:
            The modalities of the partners.
        """
        return requests.find_partners(self.model, items, outputs, sync)

    def find_auxiliary(
        self, outputs: Sequence[Modality], partners: Sequence[Modality] = ()
    ) -> list[Modality]:
        """Return the model's auxiliary caption where several outputs lack it, else nothing.

        Args:
            outputs: what is made.
            partners: the modalities of the clean partners.

        Returns:
            A list of one modality, or an empty one (`codi.request.find_auxiliary`).
        """
        return requests.find_auxiliary(self.model, self.config.defaults or {}, outputs, partners)

    def encode_partners(
        self, items: Mapping[Modality, Sequence[Prompt]], partners: Iterable[Modality]
    ) -> Latents:
        """Encode the first prompt of each clean partner into its latent.

        Args:
            items: the prompts by modality.
            partners: the modalities to encode.

        Returns:
            Clean latents `(1, *latent_shape)` by modality, float32.
        """
        model = self.model
        raws = {}
        for modality in partners:
            first = items[modality][:1]
            part = model.autoencoders[modality]
            raws[modality] = self._prepared(modality, first, part, model.specs[modality])[0]
        return {m: model.autoencoders[m].encode(raw).float() for m, raw in raws.items()}

    def prepare_latents(
        self,
        outputs: Iterable[Modality],
        seeds: Sequence[int],
        specs: Mapping[Modality, ModalitySpec] | None = None,
        given: Latents | None = None,
    ) -> tuple[Latents, dict[Modality, list[torch.Generator]]]:
        """Draw the noise that outputs begin from, each sample from its own seed.

        Args:
            outputs: the modalities.
            seeds: one seed for each of the B samples.
            specs: the geometry of each modality; None for the model's own.
            given: standard normal noise `(B, *latent_shape)` by modality, in place of what would be drawn.
                The generators are as if it had been drawn.

        Returns:
            Noise `(B, *latent_shape)` by modality, float32, and by modality the generators that it came from,
            one for each sample.
        """
        specs = specs or self.model.specs
        latents = {}
        generators = {}
        for modality in outputs:
            noise, generators[modality] = draw_noise(specs[modality].latent_shape, seeds, modality)
            noise = (given or {}).get(modality, noise)
            latents[modality] = noise.to(self._execution_device)
        return latents, generators

    def decode_latents(self, latents: Latents) -> dict[Modality, Any]:
        """Decode normalised latents into raw media.

        Args:
            latents: latents `(B, *latent_shape)` by modality.

        Returns:
            Media by modality: floats (B, ...) in [-1, 1], or sentences.

        Raises:
            InputError: for latents, and for decoded media, that are not finite.
        """
        autoencoders = self.model.autoencoders
        if lost := [m for m, z in latents.items() if not z.isfinite().all()]:
            raise InputError(
                f"the latents of {listed(lost)} are not finite: expected another scheduler, or dtype "
                "bfloat16 or float32"
            )
        media = {m: autoencoders[m].decode(z.to(autoencoders[m].dtype)) for m, z in latents.items()}
        for modality, raw in media.items():
            if isinstance(raw, Tensor) and not raw.isfinite().all():
                raise InputError(
                    f"the decoded {modality} is not finite: expected a lower guidance or another dtype; for "
                    "a model of your own, latents whose statistics were measured"
                )
        return media

    @resolve_names
    @torch.no_grad()
    def __call__(
        self,
        text: Any = None,
        image: Any = None,
        audio: Any = None,
        video: Any = None,
        outputs: Sequence[str | Modality] | str = (),
        num_samples: int = 1,
        candidates: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: settings.PerOutput | None = None,
        sync_guidance_scale: settings.PerOutput | None = None,
        guidance_interval: tuple[float, float] | None = None,
        sync_guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        guider: Any = None,
        classifier_guidance: Any = None,
        start_offset: settings.PerOutput | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        audio_length_in_s: float | None = None,
        lengths: str = "agree",
        sync: bool | Iterable[str | Modality] | None = None,
        auxiliary_caption: bool = True,
        control: Any = None,
        negative_text: Any = None,
        negative_image: Any = None,
        negative_audio: Any = None,
        negative_video: Any = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        null_prompt_embeds: Tensor | None = None,
        partner_latents: Latents | None = None,
        latents: Latents | Tensor | None = None,
        start: Mapping[str, Any] | None = None,
        strength: settings.PerOutput | None = None,
        keep: Mapping[str, Any] | None = None,
        keyframes: Mapping[str, Mapping[int | float, Any]] | None = None,
        canvas: Mapping[str, Sequence[float]] | None = None,
        resample_steps: int | None = None,
        source_prompt: str | Mapping[str, str] | None = None,
        regions: Sequence[Region | Mapping[str, Any]] | None = None,
        upscale: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **more: Any,
    ) -> CoDiOutput | tuple:
        """Generate `num_samples` sets of outputs that belong together.

        diffusers' names prompt, negative_prompt and num_images_per_prompt (num_videos_..., num_waveforms_...)
        stand for text, negative_text and num_samples; numbers may be numpy's or torch's (`codi.border`).

        Args:
            text: prompts, an item or a list of them (`codi.prompts`); without any prompt samples are
                unprompted. A list holds prompts that combine into every sample, not a batch as in diffusers:
                for one sample of each, call once for each, or pass `prompt_embeds` of as many rows.
            image: prompts, as for text.
            audio: prompts, as for text.
            video: prompts, as for text; frames in a list are one clip.
            outputs: what to make, names or `Modality`.
            num_samples: how many sets are made.
            candidates: how many are drawn for each sample; the one that agrees best is kept
                (`codi.selection`).
            seed: sample k is made from seed + k, or from the k-th of a list; None for one that is chosen at
                random and reported.
            generator: in place of seed: one, or one per sample, from which the seeds are drawn.
            num_inference_steps: denoising steps of each output; None for the model's own.
            guidance_scale: how closely to follow the prompts, for all or {output: scale}; 1.0 is off.
            sync_guidance_scale: how closely to follow the other outputs and clean partners, likewise.
            guidance_interval: the part of the steps in which guidance by prompts acts, as two fractions such
                as (0.2, 0.8).
            sync_guidance_interval: the part of the steps in which guidance by other outputs acts, in the same
                form.
            guidance_rescale: from 0 to 1, against over-saturation.
            guider: a variant of guidance, such as "apg" or {"name": "apg", "eta": 0.2}, for all or by output
                (`codi.diffusion.guiders`); None for the model's own.
            classifier_guidance: gradients beside guidance by branches: "prompt", "agreement", a function of
                estimated clean latents and prompt tokens, or a dict of such a "name" with "scale",
                "interval" and "outputs" (`codi.conditions.classifier`).
            start_offset: schedules after which an output starts, for all or {output: 0.5}, to attend to the
                others when they are further on; with 0 for all they go in step. No output waits longer than
                those need that start before it.
            height: the height of pictures and clips in pixels; None for the model's own.
            width: their width in pixels; None for the model's own.
            num_frames: the number of frames of clips; None for the model's own.
            fps: frames per second of clips; None for the model's own.
            audio_length_in_s: length of sounds and of clips, in seconds.
            lengths: "agree": a clip and a sound that are made together last equally long, and what is not
                named follows; or "free".
            sync: which inputs stand in the loop as clean partners: True or None for those that run in time
                where an output does, False for none, or their names.
            auxiliary_caption: whether the model's auxiliary caption is generated beside several outputs that
                lack it, so that they agree on what prompts leave open. Numbers for all outputs hold for it;
                it is not returned.
            control: what outputs follow beside their prompts, {kind: value} for all that can, or {output:
                {kind: value}}; a value may be {"value": ..., "weight": 0.5, "interval": (0, 0.6)}. The kinds
                are layout, sketch, beats, melody and loudness (docs/control.md).
            negative_text: what to steer away from, an item or a list as for text; it acts through
                guidance_scale.
            negative_image: pictures to steer away from, likewise.
            negative_audio: sounds to steer away from, likewise.
            negative_video: clips to steer away from, likewise.
            prompt_embeds: (1 or B, 1, D) from `encode_prompt`, in place of prompts.
            negative_prompt_embeds: the same in place of negatives.
            null_prompt_embeds: (1 or B, 1, D) from `encode_null`, beside `prompt_embeds`.
            partner_latents: (1 or B, ...) by modality from `encode_partners`, in place of `sync`.
            latents: the standard normal noise `(1 or B, *latent_shape)` that an output begins from, {output:
                noise}, or a tensor for a single output. It is multiplied by the scheduler's initial sigma
                here. Outputs that are not named there, the auxiliary caption, and what a scheduler draws on
                its way are still made of the seeds.
            start: {output: medium}, what an output starts from, in any form of a prompt (docs/editing.md).
            strength: the part of the schedule that an output with a start takes, from 0 to 1, for all or
                {output: 0.6}; 0.8 by default, and 1 where a part is kept.
            keep: {output: regions} of what it starts from that stay as they are: True for everything, seconds
                (begin, end), boxes (left, top, right, bottom) in fractions, numbers of frames, or a mask that
                is bright where the medium is kept; one of them or a list. Without a start, the first prompt
                of that kind is kept.
            keyframes: {"video": {0: picture}}: pictures that are kept as frames, by number or by seconds.
            canvas: {output: (left, top, right, bottom)}: the box, in fractions, in which the start lies on
                what is made; around it all is made.
            resample_steps: how often a step is made of an output of which a part is kept.
            source_prompt: what the starts show, in words, or {output: words}: what they have in common with
                the prompt then stays (FlowEdit, arXiv 2412.08629).
            regions: prompts for parts of outputs in space and time, a list of dicts such as {"text": "a red
                ball", "box": (0, 0, 0.5, 1), "interval": (0, 1)} (`codi.regions`). What none of them covers
                has the prompt of the call.
            upscale: how many times larger pictures and clips are made by a second model, 4, or a dict of
                "factor", "noise_level" and "num_inference_steps" (`codi.upscaling`); height and width are
                those before. None for not at all.
            output_type: "pil", "pt", "np" or "latent", see `CoDiOutput`.
            return_dict: False for the tuple of the media alone, in the order of `outputs`.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) -> dict of those it changed. With
                start offsets there are more steps than num_inference_steps, and the auxiliary caption is
                among the tensors. Callbacks of diffusers that switch guidance off (`SDCFGCutoffCallback`)
                act; those for what codi lacks are refused.
            callback_on_step_end_tensor_inputs: the tensors that it is shown: "latents", "prompt_embeds", and
                "clean_latents", what the outputs seem to become by now (`decode_preview` shows them).
            **more: prompts of other registered modalities, by their names, and their negatives.

        Returns:
            The media with their seeds, settings and records; see `CoDiOutput`.

        Raises:
            InputError: for anything that cannot be used.
        """
        named = more | dict(text=text, image=image, audio=audio, video=video)
        named |= dict(negative_text=negative_text, negative_image=negative_image)
        named |= dict(negative_audio=negative_audio, negative_video=negative_video)
        sizes = {"height": height, "width": width, "num_frames": num_frames, "fps": fps}
        sizes["audio_length_in_s"] = audio_length_in_s
        given = Given.from_arguments(
            named,
            partner_latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            null_prompt_embeds=null_prompt_embeds,
        )
        request = self.resolve(
            inputs={m: items[0] for m, items in given.items.items()},
            start=start,
            strength=strength,
            keep=keep,
            keyframes=keyframes,
            canvas=canvas,
            resample_steps=resample_steps,
            source_prompt=source_prompt,
            given=given.items,
            negatives=given.negatives,
            prompted=given.prompted,
            refusing=given.refusing,
            clean=given.partner_latents,
            outputs=outputs,
            num_samples=num_samples,
            candidates=candidates,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sync_guidance_scale=sync_guidance_scale,
            guidance_interval=guidance_interval,
            sync_guidance_interval=sync_guidance_interval,
            guidance_rescale=guidance_rescale,
            guider=guider,
            classifier_guidance=classifier_guidance,
            upscale=upscale,
            start_offset=start_offset,
            sizes=sizes,
            lengths=lengths,
            sync=sync,
            auxiliary_caption=auxiliary_caption,
            control=control,
            output_type=output_type,
            regions=regions,
        )
        given.check(self.model)
        if latents is not None and candidates > 1:
            raise InputError(
                "latents and candidates were both given: candidates are drawn from noise of their own; "
                "expected one of them"
            )
        noise = settings.initial_noise(latents, request.outputs, request.specs, num_samples)
        known = self._callback_tensor_inputs
        wanted = wanted_tensors(callback_on_step_end, callback_on_step_end_tensor_inputs or (), known)
        settings.check_names("callback_on_step_end_tensor_inputs", wanted, known)
        seeds = selection.candidate_seeds(settings.pick_seeds(num_samples, seed, generator), candidates)
        for note in request.notes:
            warnings.warn(note, stacklevel=1)  # one more is torch's, which decorates this function

        own_guidance = {m: request.guidance[m] for m in request.outputs}
        call = Call(
            guidance=own_guidance,
            can_steer=request.can_steer,
            guidance_scale=settings.shared_scale(own_guidance),
        )
        with self._call(call):
            out = self._generate(call, request, given, seeds, noise, callback_on_step_end, wanted)
        self.maybe_free_model_hooks()
        return out if return_dict else out.to_tuple()

    def _generate(
        self,
        call: Call,
        request: Request,
        given: Given,
        seeds: list[int],
        noise: Latents,
        callback: Callable[..., dict] | None,
        wanted: Sequence[str],
    ) -> CoDiOutput:
        """Make what a request asks for: encode, prepare, denoise, decode, select."""
        rows = partial(selection.expand, num_samples=request.num_samples, candidates=request.candidates)
        context, null = self._contexts(call, request, given)
        clean = given.partner_latents
        if clean is None:
            clean = self.encode_partners(given.items, request.partners)
        context = rows(context, "prompt_embeds")
        null = rows(null, "negative_prompt_embeds")
        partners = {m: rows(z, "partner_latents").to(self._execution_device) for m, z in clean.items()}
        sources, notes = edited.read(request.edits, request.specs)
        for note in notes:
            warnings.warn(note, stacklevel=1)
        kept_whole = {m: self._encode_source(m, s.raw) for m, s in sources.items() if s.whole}
        made = [m for m in request.made if m not in kept_whole]
        latents, generators = self.prepare_latents(made, seeds, request.specs, noise)
        # Without any prompt there is nothing to guide towards, and no null branch is needed.
        null = null if request.prompted or request.refusing else None
        if made:
            attended = self.model.attended(made) | self.model.estimating(made)
            partners |= {
                m: z.expand(len(seeds), *z.shape[1:]) for m, z in kept_whole.items() if m in attended
            }
            conditions = self._conditions(sources, request, seeds)
            sampler = self._sampler(latents, context, null, partners, request, generators, conditions)
            call.decode, call.specs = self.decode_latents, request.specs
            latents = self._denoise(call, sampler, sampler.start(latents), callback, wanted)
        latents |= {m: z.expand(len(seeds), *z.shape[1:]) for m, z in kept_whole.items()}
        latents = {m: latents[m] for m in request.outputs}
        only_latents = request.output_type == "latent" and request.candidates == 1
        media = {} if only_latents else self._media(latents, sources, request)
        num_rows = len(seeds)
        kept = list(range(num_rows))
        choices: list[dict[str, Any]] = []
        if request.candidates > 1:
            judged = self._judge(list(request.measures), media, context, clean)
            choices = selection.choose(judged, seeds, request.candidates)
            kept = [k * request.candidates + choice["kept"] for k, choice in enumerate(choices)]
            latents = selection.take(latents, kept)
            media = selection.take(media, kept)
            seeds = [seeds[row] for row in kept]
        if request.upscale is not None:
            media = request.upscale.apply(media, seeds, self.model.upscalers, self._execution_device)
        out = self._output(latents, media, seeds, request.output_type, request.specs)
        out.outputs = list(request.outputs)
        out.selection = choices
        out.clip = prompts.first_file(given.items.get(Modality.VIDEO, []))
        out.batch = [{"row": row, "rows": num_rows} for row in kept]
        out.settings = request.settings()
        out.origin = {
            "outputs": [m.value for m in request.outputs],
            **given.described(),
            **request.edits.described(),
            **request.regions.described(),
            "model": self.described() | self.describe_controls(request.control),
        }
        return out

    def _encode_source(self, modality: Modality, raw: Any) -> Tensor:
        """Encode the source of an output (1, ...) into its latent (1, ...), float32."""
        part = self.model.autoencoders[modality]
        return part.encode(raw.to(self._execution_device) if isinstance(raw, Tensor) else raw).float()

    def _conditions(
        self, sources: Mapping[Modality, Edited], request: Request, seeds: Sequence[int]
    ) -> dict[Modality, list[LoopCondition]]:
        """Return what else outputs were given: sources that are not kept whole, controls, gradients."""
        found = self._source_conditions(sources, request, seeds)
        steered = self._steered(request.control, request.specs, request.num_samples, request.candidates)
        gradients = {} if request.classifier is None else request.classifier.conditions()
        for modality, condition in (*steered.items(), *gradients.items()):
            found.setdefault(modality, []).append(condition)
        return {m: conditions for m, conditions in found.items() if conditions}

    def _source_conditions(
        self, sources: Mapping[Modality, Edited], request: Request, seeds: Sequence[int]
    ) -> dict[Modality, list[LoopCondition]]:
        """Return what the sources of outputs do in the sampling loop, of those that are not kept whole."""
        found = {}
        for modality, source in sources.items():
            if source.whole:
                continue
            found[modality] = edited.conditions_of(
                modality,
                source,
                partial(self._encode_source, modality),
                edited.Layout.of(source.geometry),
                seeds,
                request.edits.resample_steps,
                self._source_prompt(modality, source, len(seeds)),
            )
        return found

    def _source_prompt(self, modality: Modality, source: Edited, rows: int) -> Tensor | None:
        """Return the prompt token (B, 1, D) of what a source shows; None where nobody said it."""
        if source.source_prompt is None:
            return None
        token = self.encode_prompt(prompts.collect({Modality.TEXT: source.source_prompt}))
        return token.to(self._execution_device, self.model.denoisers[modality].dtype).expand(rows, -1, -1)

    def _media(
        self, latents: Latents, sources: Mapping[Modality, Edited], request: Request
    ) -> dict[Modality, Any]:
        """Return decoded media, cut to the length that was asked for, with what is kept put back."""
        rows = len(next(iter(latents.values())))
        made = {m: z for m, z in latents.items() if m not in sources or not sources[m].whole}
        media = self.decode_latents(made)
        # A latent has a whole number of steps, and may reach beyond the seconds that were asked for.
        if request.sizes["audio_length_in_s"] is not None:
            media = {m: kind_of(m).trimmed(raw, request.specs[m]) for m, raw in media.items()}
        media = {m: sources[m].pasted(raw) if m in sources else raw for m, raw in media.items()}
        media |= {m: source.repeated(rows) for m, source in sources.items() if source.whole}
        return {m: media[m] for m in latents}

    def _contexts(self, call: Call, request: Request, given: Given) -> tuple[Tensor, Tensor]:
        """Return the prompt tokens (1 or B, 1, D), and the tokens that guidance leads away from.

        Where there is no prompt, or guidance cannot act, the latter are not used and are the prompt's own.
        """
        context = self.encode_prompt(given.items) if given.prompt_embeds is None else given.prompt_embeds
        null = (
            given.null_prompt_embeds if given.negative_prompt_embeds is None else given.negative_prompt_embeds
        )
        if null is not None:
            return context, null
        if given.negatives:
            return context, self.encode_prompt(given.negatives)
        return context, self.encode_null(given.items) if request.prompted and call.can_steer else context

    def _regional(
        self, request: Request, contexts: Mapping[Modality, Tensor]
    ) -> dict[Modality, RegionalPrompt]:
        """Return the prompts of regions of each output that has any, shaped like its context (B, 1, D)."""
        tokens = {region: self.encode_prompt(region.items) for region in request.regions.all}
        found = {}
        for modality, parts in request.regions.by_output.items():
            like = contexts[modality]
            cells = Cells.of_latent(request.specs[modality], kind_of(modality).spatial)
            shares = shares_of([part.area.weights(cells) for part in parts], [part.weight for part in parts])
            found[modality] = RegionalPrompt(
                prompts=tuple(tokens[part].to(like).expand_as(like) for part in parts),
                shares=torch.stack([cells.over_latent(share) for share in shares]),
            )
        return found

    def described(self) -> dict[str, Any]:
        """Return what a record says of the model.

        That is its name, weights, precision, device and scheduler, the settings that no call can change, and
        the adapters.
        """
        own = settings.DEFAULTS | (self.config.defaults or {})
        dtype = None
        for name, part in self.components.items():
            if name != "scheduler" and part is not None:
                dtype = str(part.dtype).removeprefix("torch.")
                break
        return {
            "name": self.config.get("_name_or_path"),
            "weights": self.fingerprint(),
            "dtype": dtype,
            "device": str(self._execution_device),
            "scheduler_config": records.scheduler(self.scheduler),
            "own": {name: own[name] for name in settings.FIXED},
            **self.describe_adapters(),
        }

    # Inside

    def _sampler(
        self,
        latents: Latents,
        context: Tensor,
        null: Tensor | None,
        clean: Latents,
        request: Request,
        generators: dict[Modality, list[torch.Generator]],
        conditions: Mapping[Modality, Sequence[LoopCondition]] | None = None,
    ) -> JointSampler:
        """Return the joint sampler of these latents and prompts."""
        model = self.model
        device = self._execution_device
        denoisers = {m: model.denoisers[m] for m in latents}

        def spread(tokens: Tensor) -> dict[Modality, Tensor]:
            return {m: tokens.to(device, part.dtype) for m, part in denoisers.items()}

        steps = request.num_inference_steps
        schedulers = copy_schedulers(self.scheduler, latents, steps, device, self._own("timestep_shift"))
        # Schedulers of second order take two steps for each that is asked for.
        own_steps = len(next(iter(schedulers.values())).timesteps)
        contexts = spread(context)
        return JointSampler(
            denoisers=denoisers,
            schedulers=schedulers,
            contexts=contexts,
            null_contexts=None if null is None else spread(null),
            environment_encoders=model.environment_encoders,
            attends_to=model.attends_to,
            noisy_latent_encoders=model.noisy_latent_encoders,
            estimates_from=model.estimates_from,
            partner_estimate_weight=self._own("partner_estimate_weight"),
            guidance=request.guidance,
            partners=clean,
            generators=generators,
            start_offsets=request.start_steps(own_steps),
            rates=request.rates(model.specs),
            conditions=conditions or {},
            regions=self._regional(request, contexts),
        )

    def _denoise(
        self,
        call: Call,
        sampler: JointSampler,
        latents: Latents,
        callback: Callable[..., dict] | None,
        wanted: Sequence[str],
    ) -> Latents:
        """Take all steps of a sampler, unless the call is interrupted, and return the latents."""
        call.num_timesteps = sampler.num_steps
        with self.progress_bar(total=sampler.num_steps) as bar:
            for index in range(sampler.num_steps):
                if call.interrupt:
                    break
                call.current_timestep = sampler.timestep(sampler.timeline.active(index)[0], index)
                latents = sampler.step(index, latents)
                call.own_steps = sampler.own_steps(index)
                if callback is not None:
                    latents = self._call_back(call, callback, wanted, index, sampler, latents)
                bar.update()
        return latents

    def _call_back(
        self,
        call: Call,
        callback: Callable[..., dict],
        wanted: Sequence[str],
        index: int,
        sampler: JointSampler,
        latents: Latents,
    ) -> Latents:
        """Show a callback the tensors that it wants, and take over what it changed.

        It may change these tensors and the guidance scale.
        """
        scale = call.guidance_scale
        latents = show_tensors(self, callback, wanted, index, sampler, latents)
        if call.guidance_scale != scale:
            sampler.guidance = call.take_guidance_scale(sampler.guidance)
        return latents

    def _judge(
        self, measures: list[str], media: dict[Modality, Any], context: Tensor, clean: Latents
    ) -> dict[str, Tensor]:
        """Return the measures of `codi.selection` for decoded candidates (B, ...).

        Clean partners (1 or num_samples, ...) count in time only.
        """
        model = self.model
        device = self._execution_device
        timed_partners = {m: z.to(device) for m, z in clean.items() if kind_of(m).has_onsets}
        partners = self.decode_latents(timed_partners)
        timed = {}
        for modality, raw in (media | partners).items():
            if kind_of(modality).has_onsets:
                timed[modality] = (raw, model.specs[modality].rate)
        tolerance = max((1 / model.specs[m].latent_rate for m in timed), default=0.0)
        # In float32, as prompts are: towers cast to their own precision later.
        fitted = {m: raw.float() if isinstance(raw, Tensor) else raw for m, raw in media.items()}
        return selection.judge(model.towers, fitted, measures, context[:, 0].to(device), timed, tolerance)

    def _output(
        self,
        latents: Latents,
        media: dict[Modality, Any],
        seeds: list[int],
        output_type: str,
        specs: Mapping[Modality, ModalitySpec],
    ) -> CoDiOutput:
        """Return latents, or media in the form of `output_type`, with their seeds and rates."""
        if output_type == "latent":
            return CoDiOutput(seeds=seeds, latents=latents)
        made = as_fields({m: formatted(m, raw, output_type) for m, raw in media.items()})
        rates = {}
        for modality, spec in specs.items():
            field = kind_of(modality).rate_field
            if field:
                rates[field] = spec.rate
        return CoDiOutput(seeds=seeds, model=self.model_name, **rates, **made)

    def _prepared(
        self,
        modality: Modality,
        items: Sequence[Prompt],
        part: PromptEncoder | Autoencoder,
        spec: ModalitySpec | None,
    ) -> list[Any]:
        """Prepare items of one modality as raw batches for `part`, on its device, in float32."""
        padded = not part.any_length
        samples = [prompts.prepare(modality, prompt.value, spec, padded) for prompt in items]
        device = self._execution_device
        return [raw.to(device) if isinstance(raw, Tensor) else raw for raw in prompts.batches(samples)]
