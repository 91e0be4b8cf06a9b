"""Generate with models that others published: each denoises as it always does, and all hear each other.

    pipe = CoDiPipeline.from_pretrained("my-codi/")
    out = pipe(text="a green star bounces quickly in the snow", outputs=["video", "audio"], seed=0)
    out.save("out/")

A sentence reaches each model through its own text encoders, so that an output that is made by itself is what
its own pipeline makes of the same seed, to the bit. Prompts of other modalities are read by the towers of a
model of codi and translated (`codi.compose.prompt_translators`).

Letters: B batch, D width of the shared prompt space.
"""

import hashlib
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from codi import prompts, records, settings
from codi.border import resolve_names
from codi.calls import Call, CallMixin
from codi.compose import loading
from codi.compose import request as requests
from codi.compose.environment import ForeignEnvironmentEncoders
from codi.compose.folder import read
from codi.compose.foreign import ForeignDenoiser, ForeignModel, Prepared
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.native_prompt import NativePrompt
from codi.compose.prompt_translators import PromptTranslators
from codi.compose.request import ComposedRequest
from codi.diffusion import copy_schedulers, draw_noise
from codi.diffusion.levels import NoiseLevels
from codi.joint.sampler import JointSampler
from codi.modalities import in_words, kind_of
from codi.outputs import CoDiOutput, as_fields, formatted
from codi.prompts import Prompt
from codi.types import InputError, Latents, Modality, ModalitySpec

Words = tuple[tuple[str, float], ...]  # sentences, and how much each of them counts


@dataclass(frozen=True, kw_only=True)
class ComposedPrompt:
    """The prompts of one sample.

    Attributes:
        words: for each output the sentences that it is made from; those under None are for all others.
        token: (1, 1, D) all prompts together in the shared prompt space; None where there are sentences alone
            and no text model.
        foreign: whether there is any prompt that is no sentence, so that outputs are made from the token.
    """

    words: Mapping[Modality | None, Words] = field(default_factory=dict)
    token: Tensor | None = None
    foreign: bool = False

    def of(self, modality: Modality) -> Words:
        """Return the sentences that an output is made from, at least one; without any, an empty one."""
        found = self.words.get(modality, self.words.get(None, ()))
        return found or (("", 1.0),)


@dataclass
class _Making:
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
    """

    denoisers: dict[Modality, Any] = field(default_factory=dict)
    schedulers: dict[Modality, Any] = field(default_factory=dict)
    contexts: dict[Modality, Any] = field(default_factory=dict)
    nulls: dict[Modality, Any] = field(default_factory=dict)
    start: Latents = field(default_factory=dict)
    generators: dict[Modality, list[torch.Generator]] = field(default_factory=dict)
    levels: dict[Modality, NoiseLevels] = field(default_factory=dict)
    prepared: dict[Modality, Prepared] = field(default_factory=dict)


class ComposedPipeline(CallMixin):
    """Pipeline that makes media by latent diffusion models that others published, frozen, and all together.

    Args:
        models: the foreign models by what they make.
        text_model: a `codi.pipeline.CoDiPipeline`, whose towers read prompts that are no sentences, and which
            makes text where it can; None for a model that takes sentences alone.
        environment_encoders: the environment encoders of the foreign latents.
        joint_adapters: the adapters by which the networks attend to their partners; without them, or without
            the encoders, outputs are made side by side and hear nothing of each other.
        translators: the networks that translate prompts of other modalities for each model.
        noisy_latent_encoders: those of the foreign latents, for partner estimates.
        defaults: the composed model's own values of settings (`codi.settings.DEFAULTS`).
        name: what it is called in records.
        described: what records say of the models and their weights.
    """

    text_tower = None

    def __init__(
        self,
        models: Mapping[Modality, ForeignModel],
        *,
        text_model: Any = None,
        environment_encoders: ForeignEnvironmentEncoders | None = None,
        joint_adapters: ForeignJointAdapters | None = None,
        translators: PromptTranslators | None = None,
        noisy_latent_encoders: Any = None,
        defaults: Mapping[str, Any] | None = None,
        name: str | None = None,
        described: Mapping[str, Any] | None = None,
    ):
        if not models:
            raise InputError("a composed model has no models: expected at least one")
        settings.check_defaults(dict(defaults or {}))
        self.models = dict(models)
        self.text_model = text_model
        self.environment_encoders = environment_encoders
        self.joint_adapters = joint_adapters
        self.translators = translators
        self.noisy_latent_encoders = noisy_latent_encoders
        self.defaults = dict(defaults or {})
        self.name = name
        self._described = dict(described or {})
        self._bar: dict[str, Any] = {}
        self._attached: list[Any] = []
        if joint_adapters is not None:
            for modality, model in self.models.items():
                self._attached.append(joint_adapters.attach(modality, model.network))
        # A tap replaces methods of a pipeline for a while: no other call may run it meanwhile.
        self._lock = threading.RLock()
        self._init_calls()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: Any = torch.float32,
        load_text_model: Callable[[Path], Any] | None = None,
        **options: Any,
    ) -> "ComposedPipeline":
        """Load what a folder refers to and holds (`codi.compose.folder`).

        Args:
            folder: a folder that `codi compose` wrote.
            dtype: the precision of the weights, or one by modality, where "default" stands for all others.
            load_text_model: loads the model of codi in a folder; without it prompts are sentences alone.
            **options: options of `codi.pretrained.load_parts`.

        Returns:
            The pipeline.

        Raises:
            InputError: for a source that is no longer what it was, naming the part, and for whatever else
                cannot be loaded.
        """
        composed = read(folder)
        place = loading.text_model_folder(composed)
        default = dtype.get("default", torch.float32) if isinstance(dtype, Mapping) else dtype
        parts = loading.load_parts(composed, default, **options)
        return cls(
            loading.load_models(composed, dtype),
            text_model=None if place is None or load_text_model is None else load_text_model(place),
            environment_encoders=parts.get("environment_encoders"),
            joint_adapters=parts.get("joint_adapters"),
            translators=parts.get("prompt_translators"),
            noisy_latent_encoders=parts.get("noisy_latent_encoders"),
            defaults=composed.defaults,
            name=str(folder),
            described={name: _described(reference) for name, reference in composed.references.items()},
        )

    # Parts --------------------------------------------------------------------------------------------

    @property
    def components(self) -> dict[str, Any]:
        """The pipelines of others by what they make, and the parts that are ours."""
        found: dict[str, Any] = {m.value: model.pipeline for m, model in self.models.items()}
        return found | {"text_model": self.text_model} | self._own_parts()

    def _own_parts(self) -> dict[str, nn.Module]:
        parts = {
            "environment_encoders": self.environment_encoders,
            "joint_adapters": self.joint_adapters,
            "prompt_translators": self.translators,
            "noisy_latent_encoders": self.noisy_latent_encoders,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def model(self) -> Any:
        """The parts of the text model by modality (`codi.models.codi.CoDiModel`), none without one."""
        from codi.models.codi import CoDiModel

        return CoDiModel({}) if self.text_model is None else self.text_model.model

    @property
    def model_name(self) -> str | None:
        """The name of the composed model, without the path of its folder."""
        return None if self.name is None else Path(self.name).resolve().name

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.models.values())).device

    def to(self, *args: Any, **kwargs: Any) -> "ComposedPipeline":
        """Move all models and our own parts to a device or a precision, as in diffusers."""
        for model in self.models.values():
            model.pipeline.to(*args, **kwargs)
        if self.text_model is not None:
            self.text_model.to(*args, **kwargs)
        for part in self._own_parts().values():
            part.to(*args, **kwargs)
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Let each model's parts be on the accelerator only while they are used, as in diffusers."""
        for model in self.models.values():
            model.pipeline.enable_model_cpu_offload(*args, **kwargs)
        self._own_to_accelerator()

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Let each layer be on the accelerator only while it is used, as in diffusers."""
        for model in self.models.values():
            model.pipeline.enable_sequential_cpu_offload(*args, **kwargs)
        self._own_to_accelerator()

    def _own_to_accelerator(self) -> None:
        """Move what is ours, which is small, to where the models compute."""
        for part in self._own_parts().values():
            part.to(self.device)
        if self.text_model is not None:
            self.text_model.to(self.device)

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set options of the progress bar, as in diffusers."""
        self._bar = options
        if self.text_model is not None:  # it draws the auxiliary caption
            self.text_model.set_progress_bar_config(**options)

    def maybe_free_model_hooks(self) -> None:
        """Move what was offloaded back, as in diffusers."""
        for model in self.models.values():
            model.pipeline.maybe_free_model_hooks()

    @property
    def scheduler(self) -> Any:
        """Refuse to be one for all: each of the models has a scheduler of its own."""
        raise InputError(
            "a composed model has no scheduler of its own: expected another scheduler for one of its models, "
            "pipe.models[...].pipeline.scheduler"
        )

    @scheduler.setter
    def scheduler(self, value: Any) -> None:
        _ = self.scheduler

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what would be for one of the models: each loads a LoRA by its own pipeline."""
        raise InputError(
            "a composed model takes no LoRA as a whole: expected it to be loaded into one of its models, "
            "pipe.models[...].pipeline.load_lora_weights"
        )

    def load_control(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a control, which is a branch beside a denoiser of codi."""
        raise InputError(
            "a composed model takes no controls: expected a model of codi's, or a ControlNet in the pipeline "
            "of one of its models, pipe.models[...].pipeline"
        )

    def load_textual_inversion(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what would be for one of the models: each loads words by its own pipeline."""
        raise InputError(
            "a composed model takes no learned words as a whole: expected them to be loaded into one of its "
            "models, pipe.models[...].pipeline.load_textual_inversion"
        )

    # What it can do -----------------------------------------------------------------------------------

    @property
    def makes(self) -> list[Modality]:
        """What it can make: its models' modalities, and text where the text model makes it."""
        own = [] if self.text_model is None else list(self.text_model.model.denoisers)
        words = [m for m in own if in_words(m) and m not in self.models]
        return [m for m in Modality if m in self.models or m in words]

    @property
    def takes(self) -> list[Modality]:
        """The modalities of prompts that it takes.

        Sentences reach every model by itself; others need a text model and translators, and clips and sounds
        stand in the loop as clean partners even without.
        """
        read = self._read_as_prompts()
        heard = {m for partners in self.attends_to().values() for m in partners}
        return [m for m in Modality if in_words(m) or m in read or m in heard]

    def attends_to(self) -> dict[Modality, Collection[Modality]]:
        """Return, for each output, the modalities whose environments it attends to."""
        if self.environment_encoders is None or self.joint_adapters is None:
            return {}
        encoders = self.environment_encoders.by_modality()
        found: dict[Modality, Collection[Modality]] = {}
        for modality, partners in self.joint_adapters.attends_to().items():
            found[modality] = {m for m in partners if m in encoders and m in self.models}
        return found

    def resolve(self, **asked: Any) -> ComposedRequest:
        """Check what is asked of this model, and put its own values in place of what was left out.

        Args:
            **asked: as in `codi.compose.request.resolve`.

        Returns:
            The request, in which every setting has a value.
        """
        with self._lock:
            return requests.resolve(
                self.models,
                self.makes,
                self.attends_to(),
                self.takes,
                self._read_as_prompts(),
                self._defaults(),
                **asked,
            )

    def _read_as_prompts(self) -> list[Modality]:
        """Return the modalities that are read as prompts, besides sentences."""
        if self.text_model is None or self.translators is None:
            return []
        return list(self.text_model.model.towers)

    def _defaults(self) -> dict[str, Any]:
        """Return the model's own values of settings; those of what the text model makes are that model's."""
        own = {} if self.text_model is None else dict(self.text_model.config.get("defaults") or {})
        words = [m.value for m in self.makes if m not in self.models]
        found: dict[str, Any] = {}
        for name in ("num_inference_steps", "guidance_scale"):
            value = own.get(name)
            if value is not None and words:
                by_output = value if isinstance(value, Mapping) else dict.fromkeys(words, value)
                found[name] = {word: by_output[word] for word in words if word in by_output}
        return found | self.defaults

    def find_partners(
        self, items: Collection[Modality], outputs: Sequence[Modality], sync: requests.Sync = None
    ) -> list[Modality]:
        """Return the inputs that stand in the loop as clean partners; see `codi.compose.request.resolve`."""
        return list(self.resolve(given=items, outputs=outputs, sync=sync).partners)

    # Prompts ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(
        self,
        items: Mapping[Modality, Sequence[Prompt]],
        texts: Mapping[Modality, Sequence[Prompt]] | None = None,
    ) -> ComposedPrompt:
        """Return prompts in the form in which a call takes them.

        Args:
            items: the prompts by modality.
            texts: sentences for single outputs, in place of those in `items`.

        Returns:
            The prompts of one sample.

        Raises:
            InputError: for a prompt of another modality in a model without a text model.
        """
        words: dict[Modality | None, Words] = {}
        for modality, given in items.items():
            if in_words(modality):
                words[None] = _words(given)
        for output, given in (texts or {}).items():
            words[output] = _words(given)
        others = [m for m in items if not in_words(m)]
        if self.text_model is None:
            return ComposedPrompt(words=words)
        read = {m: given for m, given in items.items() if in_words(m) or m in self.text_model.model.towers}
        with warnings.catch_warnings():
            # words that the text model does not know still reach every model through its own text encoder
            if not others:
                warnings.simplefilter("ignore", UserWarning)
            token = self._token(read) if read else None
        translated = self.translators is not None and any(m in read for m in others)
        return ComposedPrompt(words=words, token=token, foreign=translated)

    def _token(self, items: Mapping[Modality, Sequence[Prompt]]) -> Tensor | None:
        """Return prompts as one token (1, 1, D); None for sentences of which the text model reads nothing."""
        try:
            return self.text_model.encode_prompt(items)
        except InputError:
            if all(map(in_words, items)):
                return None
            raise

    def encode_null(self, items: Mapping[Modality, Sequence[Prompt]]) -> ComposedPrompt:
        """Return what stands for the lack of these prompts: each pipeline's own."""
        return ComposedPrompt()

    def batched_prompts(
        self,
        given: Sequence[ComposedPrompt],
        away: Sequence[ComposedPrompt],
        rows: Sequence[int],
        refusing: bool,
    ) -> dict[str, Any]:
        """Return the arguments of a call for samples of several jobs.

        Args:
            given: the prompts of each job.
            away: what guidance leads away from, for each job.
            rows: for each sample, the number of its job.
            refusing: whether there are negative prompts.

        Returns:
            Arguments by name.
        """
        found: dict[str, Any] = {"prompt_embeds": [given[row] for row in rows]}
        if refusing:
            found["negative_prompt_embeds"] = [away[row] for row in rows]
        return found

    @torch.no_grad()
    def encode_partners(
        self, items: Mapping[Modality, Sequence[Prompt]], partners: Collection[Modality]
    ) -> Latents:
        """Encode the first prompt of each clean partner into the latent of its model.

        Args:
            items: the prompts by modality.
            partners: the modalities to encode.

        Returns:
            Clean latents (1, ...) by modality, float32.
        """
        found = {}
        for modality in partners:
            model = self.models[modality]
            with self._lock:
                raw = prompts.prepare(modality, items[modality][0].value, model.spec())
                found[modality] = model.encode(raw[None].to(model.device)).float()
        return found

    # Generating ---------------------------------------------------------------------------------------

    @resolve_names
    @torch.no_grad()
    def __call__(
        self,
        text: Any = None,
        image: Any = None,
        audio: Any = None,
        video: Any = None,
        *,
        outputs: Sequence[str | Modality] | str | None = None,
        num_samples: int = 1,
        candidates: int = 1,
        num_inference_steps: int | Mapping[str, int] | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        guidance_scale: settings.PerOutput | None = None,
        sync_guidance_scale: settings.PerOutput | None = None,
        guidance_interval: tuple[float, float] | None = None,
        sync_guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        start_offset: settings.PerOutput | None = None,
        sync: requests.Sync = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        audio_length_in_s: float | None = None,
        lengths: str = "agree",
        auxiliary_caption: bool = True,
        negative_text: Any = None,
        prompt_embeds: Sequence[ComposedPrompt] | ComposedPrompt | None = None,
        negative_prompt_embeds: Sequence[ComposedPrompt] | ComposedPrompt | None = None,
        partner_latents: Latents | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **more: Any,
    ) -> CoDiOutput | tuple[Any, ...]:
        """Make media from prompts.

        Args:
            text: a sentence, or several that combine; {output: sentence} for a sentence for each output.
            image: a picture, or several, as in `codi.pipeline.CoDiPipeline`.
            audio: a sound, or several; where an output attends to sounds the first stands in the loop.
            video: a clip, or several, likewise.
            outputs: what to make.
            num_samples: sets of outputs.
            candidates: 1; a composed model has nothing to judge more of them by.
            num_inference_steps: one number of steps for all outputs, or {output: number}; each model's own by
                default.
            seed: the seed of the first sample, from which the others count on, or one for each.
            generator: draws the seeds in place of `seed`.
            guidance_scale: how closely to follow the prompts, one number or {output: number}; each model's
                own by default.
            sync_guidance_scale: how closely to follow the partners, likewise; 1 is off.
            guidance_interval: the part of the schedule in which prompts are guided.
            sync_guidance_interval: the same for partners.
            guidance_rescale: from 0 to 1, as in diffusers.
            start_offset: noise levels by which an output starts after the first, one number or {output:
                number}.
            sync: which inputs stand in the loop as clean partners: True or None for those that an output
                attends to, False for none, or their names.
            height: of pictures and clips, in pixels; each model's own by default.
            width: the same.
            num_frames: frames of a clip.
            fps: frames per second of a clip.
            audio_length_in_s: seconds of sounds, and of clips where num_frames is not given.
            lengths: "agree": a sound that is made with a clip lasts as long as it; "free": as its model makes
                it.
            auxiliary_caption: whether a caption that the model's defaults ask for is drawn first.
            negative_text: what to steer away from, in the forms of `text`.
            prompt_embeds: what `encode_prompt` returned, one or one for each sample, in place of prompts.
            negative_prompt_embeds: the same in place of `negative_text`.
            partner_latents: clean latents (1 or B, ...) by modality from `encode_partners`.
            output_type: "pil", "pt", "np" or "latent".
            return_dict: False for the tuple of the media alone, in the order of `outputs`.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) -> dict of those it changed.
            callback_on_step_end_tensor_inputs: the tensors that it is shown: "latents".
            **more: prompts of other registered modalities, by their names.

        Returns:
            The media with their seeds, settings and records; see `CoDiOutput`.

        Raises:
            InputError: for anything that cannot be used.
        """
        settings.check_names("a composed model", more, [m.value for m in Modality])
        named = more | dict(text=text, image=image, audio=audio, video=video)
        wanted = settings.parse_outputs(outputs)  # type: ignore[arg-type]
        items, texts = self._given(named, wanted)
        refused, refused_texts = self._given({"text": negative_text}, wanted)
        if (items or texts) and prompt_embeds is not None:
            raise InputError("prompts and prompt_embeds were both given: expected one of them")
        sizes = dict(height=height, width=width, num_frames=num_frames, fps=fps)
        sizes["audio_length_in_s"] = audio_length_in_s
        request = self.resolve(
            given=[*items, *([Modality.parse("text")] if texts else [])],
            negatives=[*refused, *([Modality.parse("text")] if refused_texts else [])],
            clean=None if partner_latents is None else list(partner_latents),
            outputs=wanted,
            num_samples=num_samples,
            candidates=candidates,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sync_guidance_scale=sync_guidance_scale,
            guidance_interval=guidance_interval,
            sync_guidance_interval=sync_guidance_interval,
            guidance_rescale=guidance_rescale,
            start_offset=start_offset,
            sync=sync,
            sizes=sizes,
            lengths=lengths,
            output_type=output_type,
            auxiliary_caption=auxiliary_caption,
        )
        if set(callback_on_step_end_tensor_inputs) - {"latents"}:
            raise InputError("callback_on_step_end_tensor_inputs names another tensor than 'latents'")
        seeds = settings.pick_seeds(num_samples, seed, generator)
        if prompt_embeds is None:
            if texts and any(not in_words(m) for m in items):
                raise InputError(
                    "sentences for single outputs came beside prompts that are no sentences: expected either "
                    "one sentence for all, or sentences alone"
                )
            prompt_embeds = self.encode_prompt(items, texts)
        if refused or refused_texts:
            negative_prompt_embeds = self.encode_prompt(refused, refused_texts)
        rows = _rows(prompt_embeds, num_samples, "prompt_embeds")
        away = None
        if negative_prompt_embeds is not None:
            away = _rows(negative_prompt_embeds, num_samples, "negative_prompt_embeds")
        clean = self.encode_partners(items, request.partners) if partner_latents is None else partner_latents
        scale: Any = settings.shared_scale(request.guidance)
        call = Call(guidance=dict(request.guidance), guidance_scale=scale)
        try:
            with self._lock, self._call(call):
                out = self._generate(call, request, rows, away, clean, seeds, callback_on_step_end)
        finally:
            self.maybe_free_model_hooks()
        described = {Modality(m): list(given) for m, given in items.items()}
        out.clip = prompts.first_file(items.get(Modality.VIDEO, []))
        out.origin = {
            "outputs": [m.value for m in request.outputs],
            **_recorded(described, refused, texts or refused_texts),
            "model": self.described(),
        }
        return out if return_dict else out.to_tuple()

    def _given(
        self, named: Mapping[str, Any], outputs: Sequence[Modality]
    ) -> tuple[dict[Modality, list[Prompt]], dict[Modality, list[Prompt]]]:
        """Return the prompts of a call by modality, and the sentences that are for single outputs."""
        found = dict(prompts.by_modality(named))
        texts: dict[Modality, list[Prompt]] = {}
        for modality in [m for m in found if in_words(m) and isinstance(found[m], Mapping)]:
            for output, words in requests.prompts_of(found.pop(modality), outputs).items():
                if words is not None:
                    texts[output] = prompts.collect({modality: words})[modality]
        return prompts.collect(found), texts

    def _generate(
        self,
        call: Call,
        request: ComposedRequest,
        rows: list[ComposedPrompt],
        away: list[ComposedPrompt] | None,
        clean: Latents,
        seeds: list[int],
        callback: Callable[..., dict] | None,
    ) -> CoDiOutput:
        """Make what a request asks for: encode, prepare, denoise, decode."""
        captions: list[str] | None = None
        if request.auxiliary_caption:
            captions = self._captions(rows, seeds)
            rows = [
                ComposedPrompt(words={None: ((caption, 1.0),)}, token=row.token)
                for row, caption in zip(rows, captions, strict=True)
            ]
        making = _Making()
        for modality in request.outputs:
            if modality in self.models:
                self._prepare(making, modality, request, rows, away, seeds)
            else:
                self._prepare_text(making, modality, request, rows, seeds)
        sampler = self._sampler(making, request, clean, rows)
        latents = self._denoise(call, sampler, making.start, callback)
        media = {} if request.output_type == "latent" else self._decode(latents, request, making)
        out = self._output(latents, media, seeds, request)
        out.outputs = list(request.outputs)
        out.settings = request.settings() | ({} if captions is None else {"captions": captions})
        out.batch = [{"row": row, "rows": len(seeds)} for row in range(len(seeds))]
        return out

    def _captions(self, rows: list[ComposedPrompt], seeds: list[int]) -> list[str]:
        """Draw the auxiliary caption of each sample by the text model."""
        name = Modality.parse(self.defaults["auxiliary_caption"])
        if self.text_model is None or any(row.token is None for row in rows):
            raise InputError(
                "this model draws a caption first, which needs a text model that reads the prompt: expected "
                "auxiliary_caption=False, or a prompt of words that it knows"
            )
        tokens = torch.cat([row.token for row in rows if row.token is not None])
        null = torch.cat([self.text_model.encode_null({}) for _ in rows])
        made = self.text_model(
            prompt_embeds=tokens,
            null_prompt_embeds=null,
            outputs=[name],
            num_samples=len(rows),
            seed=seeds,
            partner_latents={},
        )
        return made.of(name)

    def _prepare(
        self,
        making: _Making,
        modality: Modality,
        request: ComposedRequest,
        rows: list[ComposedPrompt],
        away: list[ComposedPrompt] | None,
        seeds: list[int],
    ) -> None:
        """Let the pipeline of a foreign model prepare what it makes."""
        model = self.models[modality]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        scale = request.guidance[modality].scales["prompt"]
        negatives = None
        if away is not None and model.family.guided and scale > 1:
            named = [row.words.get(modality, row.words.get(None, ())) for row in away]
            if any(named):
                negatives = [", ".join(words for words, _ in sentences) for sentences in named]

        def prepared(texts: list[str], generators: list[torch.Generator]) -> Prepared:
            steps = request.num_inference_steps[modality]
            return model.prepare(texts, negatives, steps, scale, generators, request.sizes[modality])

        sentences = [row.of(modality) for row in rows]
        most = max(map(len, sentences))
        first = prepared([words[0][0] for words in sentences], generators)
        parts = [first.prompt]
        for k in range(1, most):
            own = [torch.Generator().manual_seed(seed) for seed in seeds]
            parts.append(prepared([words[min(k, len(words) - 1)][0] for words in sentences], own).prompt)
        weights = torch.tensor(
            [[words[k][1] if k < len(words) else 0.0 for k in range(most)] for words in sentences]
        )
        prompt = parts[0] if most == 1 else NativePrompt.interpolate(parts, weights)
        prompt = self._translated(modality, prompt, rows)
        making.prepared[modality] = first
        making.denoisers[modality] = ForeignDenoiser(
            model,
            model.form(first.null is not None, first.call),
            adapters=self.joint_adapters,
            grid=first.grid,
            translators=self.translators,
        )
        making.schedulers[modality] = first.scheduler
        making.contexts[modality] = prompt
        if first.null is not None:
            making.nulls[modality] = first.null
        making.start[modality] = first.start
        making.generators[modality] = generators
        making.levels[modality] = model.levels

    def _translated(
        self, modality: Modality, prompt: NativePrompt, rows: list[ComposedPrompt]
    ) -> NativePrompt:
        """Return the native prompts of all rows; those that are no sentences are translated."""
        foreign = [k for k, row in enumerate(rows) if row.foreign]
        if not foreign:
            return prompt
        if self.translators is None or modality not in self.translators.modalities():
            raise InputError(
                f"this model has no translator of prompts for {modality}: expected sentences alone, or "
                "prompt_translators that were trained for it (docs/compose.md)"
            )
        tokens = torch.cat([rows[k].token for k in foreign])  # type: ignore[misc]
        translated = self.translators.translate(modality, tokens, prompt.select(foreign))
        if len(foreign) == len(rows):
            return translated
        singles = [prompt.select([k]) for k in range(len(rows))]
        for place, k in enumerate(foreign):
            singles[k] = translated.select([place])
        return NativePrompt.cat(singles)

    def _prepare_text(
        self,
        making: _Making,
        modality: Modality,
        request: ComposedRequest,
        rows: list[ComposedPrompt],
        seeds: list[int],
    ) -> None:
        """Prepare what the text model makes beside the foreign models."""
        model = self.text_model.model
        if any(row.token is None for row in rows):
            raise InputError(
                f"the text model reads nothing of the prompt, from which it would make {modality}: expected "
                "words that it knows"
            )
        device = self.text_model._execution_device
        denoiser = model.denoisers[modality]
        noise, generators = draw_noise(model.specs[modality].latent_shape, seeds, modality)
        scheduler = copy_schedulers(
            self.text_model.scheduler,
            [modality],
            request.num_inference_steps[modality],
            device,
            self.text_model._own("timestep_shift"),
        )[modality]
        tokens = torch.cat([row.token for row in rows if row.token is not None])
        making.denoisers[modality] = denoiser
        making.schedulers[modality] = scheduler
        making.contexts[modality] = tokens.to(device, denoiser.dtype)
        null = torch.cat([self.text_model.encode_null({}) for _ in rows])
        making.nulls[modality] = null.to(device, denoiser.dtype)
        making.start[modality] = noise.to(device) * scheduler.init_noise_sigma
        making.generators[modality] = generators
        making.levels[modality] = NoiseLevels.of(scheduler)

    def _sampler(
        self, making: _Making, request: ComposedRequest, clean: Latents, rows: list[ComposedPrompt]
    ) -> JointSampler:
        """Return the joint sampler of what was prepared."""
        attends_to = {m: set(self.attends_to().get(m, ())) for m in making.denoisers}
        partners = {
            m: latent.expand(len(rows), *latent.shape[1:]).to(self.device) for m, latent in clean.items()
        }
        levels = dict(making.levels)
        grids = {m: prepared.grid for m, prepared in making.prepared.items()}
        for modality in partners:
            levels[modality] = self.models[modality].levels
            grids[modality] = self.models[modality].prepare([""]).grid
        encoders = {}
        if self.environment_encoders is not None and self.joint_adapters is not None:
            heard = {m for partner in attends_to.values() for m in partner}
            encoders = {m: e for m, e in self.environment_encoders.at(grids).items() if m in heard}
        tokens = None
        estimating: dict[Modality, Any] = {}
        if self.noisy_latent_encoders is not None and all(row.token is not None for row in rows):
            shared = torch.cat([row.token for row in rows if row.token is not None]).to(self.device)
            tokens = dict.fromkeys(making.denoisers, shared)
            estimating = self.noisy_latent_encoders.at(grids)
        own: dict[str, Any] = {**settings.DEFAULTS, **self.defaults}
        return JointSampler(
            denoisers=making.denoisers,
            schedulers=making.schedulers,
            contexts=making.contexts,
            null_contexts=making.nulls,
            environment_encoders=encoders,
            attends_to=attends_to,
            noisy_latent_encoders=estimating,
            estimates_from=None if tokens is None else self.noisy_latent_encoders.attends_to(),
            partner_estimate_weight=own["partner_estimate_weight"],
            guidance=request.guidance,
            partners=partners,
            generators=making.generators,
            start_offsets=request.start_offset,
            levels=levels,
            tokens=tokens,
        )

    def _denoise(
        self, call: Call, sampler: JointSampler, latents: Latents, callback: Callable[..., dict] | None
    ) -> Latents:
        """Take all steps of a sampler, unless the call is interrupted, and return the latents."""
        call.num_timesteps = sampler.num_steps
        for index in self._progress(sampler.num_steps):
            if call.interrupt:
                break
            call.current_timestep = sampler.timestep(sampler.timeline.active(index)[0], index)
            latents = sampler.step(index, latents)
            if callback is not None:
                changed = callback(self, index, call.current_timestep, {"latents": latents}) or {}
                latents = latents | changed.get("latents", {})
        return latents

    def _progress(self, total: int) -> Iterator[int]:
        yield from tqdm(range(total), **self._bar)

    def _decode(self, latents: Latents, request: ComposedRequest, making: _Making) -> dict[Modality, Any]:
        """Let each model decode what it made."""
        media: dict[Modality, Any] = {}
        for modality in request.outputs:
            if modality in self.models:
                prepared = making.prepared[modality]
                latent = latents[modality].to(prepared.start.dtype)  # that its own pipeline would hold
                media[modality] = self.models[modality].decode(latent, prepared.call)
                if not bool(media[modality].isfinite().all()):
                    raise InputError(
                        f"what {self.models[modality].name} decoded is not finite: expected another "
                        "precision, such as bfloat16 or float32"
                    )
            else:
                media[modality] = self.text_model.decode_latents({modality: latents[modality]})[modality]
        return media

    def _output(
        self, latents: Latents, media: dict[Modality, Any], seeds: list[int], request: ComposedRequest
    ) -> CoDiOutput:
        """Return latents, or media in the form of the output type, with their seeds and rates."""
        if request.output_type == "latent":
            return CoDiOutput(seeds=seeds, latents={m: latents[m] for m in request.outputs})
        made = as_fields({m: formatted(m, raw, request.output_type) for m, raw in media.items()})
        rates: dict[str, Any] = {}
        for modality in request.outputs:
            spec: ModalitySpec | None = request.specs.get(modality)
            name = kind_of(modality).rate_field
            if name and spec is not None and spec.rate is not None:
                rates[name] = spec.rate
        return CoDiOutput(seeds=seeds, model=self.model_name, **rates, **made)

    def fingerprint(self) -> str | None:
        """Return a digest of the weights of all models; None for models that were put together by hand."""
        digests = [str(part.get("fingerprint")) for part in self._described.values()]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else None

    def described(self) -> dict[str, Any]:
        """Return what a record says of the model: its name, and those of its models with their weights."""
        models = {m.value: model.name for m, model in self.models.items()}
        own = settings.DEFAULTS | self.defaults
        return {
            "name": self.name,
            "composed": self._described or models,
            "weights": self.fingerprint(),
            "dtype": str(next(iter(self.models.values())).dtype).removeprefix("torch."),
            "device": str(self.device),
            "own": {name: own[name] for name in settings.FIXED},
        }


def _described(reference: Any) -> dict[str, Any]:
    """Return what a record says of one published model."""
    return {
        "source": reference.source,
        "revision": reference.revision,
        "class": reference.kind,
        "variant": reference.variant,
        "fingerprint": reference.fingerprint,
    }


def _words(given: Sequence[Prompt]) -> Words:
    """Return sentences with their weights. Raises `InputError` for what is no sentence."""
    for prompt in given:
        if not isinstance(prompt.value, str):
            raise InputError(f"a text prompt is a {type(prompt.value).__name__}: expected words")
    return tuple((prompt.value, float(prompt.weight)) for prompt in given)


def _recorded(
    items: Mapping[Modality, Sequence[Prompt]], refused: Mapping[Modality, Sequence[Prompt]], single: Any
) -> dict[str, Any]:
    """Return the prompts of a call as a record has them.

    Sentences for single outputs are named and not held, so that nobody makes something else of them.
    """
    found = records.described(items, refused)
    if single:
        row = {"as": "embeds", "weight": 1.0, "from": "sentences for single outputs"}
        found["inputs"] = [*found["inputs"], row]
    return found


def _rows(given: Any, count: int, name: str) -> list[ComposedPrompt]:
    """Return one prompt for each sample."""
    rows = [given] * count if isinstance(given, ComposedPrompt) else list(given)
    if len(rows) != count or not all(isinstance(row, ComposedPrompt) for row in rows):
        raise InputError(f"{name} holds {len(rows)} prompts: expected what encode_prompt gives, 1 or {count}")
    return rows
