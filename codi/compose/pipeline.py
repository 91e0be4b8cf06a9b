"""Generate with models that others published: each denoises as it always does, and all hear each other.

    pipe = CoDiPipeline.from_pretrained("my-codi/")
    out = pipe(text="a green star bounces quickly in the snow", outputs=["video", "audio"], seed=0)
    out.save("out/")

A sentence reaches each model through its own text encoders, so that an output that is made by itself is what
its own pipeline makes of the same seed, to the bit. Prompts of other modalities are read by the towers of a
model of codi and translated (`codi.compose.prompt_translators`).

Letters: B batch, D width of the shared prompt space.
"""

import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from codi import edited, prompts, settings
from codi.border import resolve_names
from codi.callbacks import show_tensors, wanted_tensors
from codi.calls import Call, CallMixin
from codi.compose import editing, loading, records
from codi.compose import given as givens
from codi.compose import request as requests
from codi.compose.decoupled_attention import DecoupledAttentions, attention_scales
from codi.compose.environment import ForeignEnvironmentEncoders
from codi.compose.folder import read
from codi.compose.foreign import ForeignModel
from codi.compose.given import ComposedPrompt, Given, Samples, Words
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.making import Making
from codi.compose.noisy_latent import ForeignNoisyLatentEncoders
from codi.compose.parts import PartsMixin
from codi.compose.prompt_translators import PromptTranslators
from codi.compose.request import Abilities, ComposedRequest
from codi.conditions import PROMPT
from codi.diffusion.levels import NoiseLevels
from codi.edited import Edited
from codi.joint.sampler import JointSampler
from codi.modalities import in_words, kind_of
from codi.models.codi import UPSCALERS
from codi.outputs import CoDiOutput, as_fields, formatted
from codi.prompts import Prompt
from codi.protocols import Upscaler
from codi.regions import Region
from codi.types import InputError, Latents, Modality, ModalitySpec


class ComposedPipeline(PartsMixin, CallMixin):
    """Pipeline that makes media by latent diffusion models that others published, frozen, and all together.

    Args:
        models: the foreign models by what they make.
        text_model: a `codi.pipeline.CoDiPipeline`, whose towers read prompts that are no sentences, and which
            makes text where it can; None for a model that takes sentences alone.
        environment_encoders: the environment encoders of the foreign latents.
        joint_adapters: the adapters by which the networks attend to their partners; without them, or without
            the encoders, outputs are made side by side and hear nothing of each other.
        translators: the networks that translate prompts of other modalities for each model.
        noisy_latent_encoders: those of the foreign latents, for partner estimates. How much these count is
            the setting `partner_estimate_weight` of `defaults`. They reach those outputs that have a
            translator, since no foreign model takes a token of the shared prompt space.
        decoupled_attention: attention of the networks to prompts of other modalities, beside their text.
        image_upscaler: what makes decoded pictures and clips larger; None for that of the text model.
        defaults: the composed model's own values of settings (`codi.settings.DEFAULTS`).
        name: what it is called in records.
        described: what records say of the models and their weights.
        described_parts: digests of everything else, by name (`codi.compose.records.describe_parts`).
    """

    text_tower = None
    _callback_tensor_inputs = ("latents", "prompt_embeds", "clean_latents")

    def __init__(
        self,
        models: Mapping[Modality, ForeignModel],
        *,
        text_model: Any = None,
        environment_encoders: ForeignEnvironmentEncoders | None = None,
        joint_adapters: ForeignJointAdapters | None = None,
        translators: PromptTranslators | None = None,
        noisy_latent_encoders: ForeignNoisyLatentEncoders | None = None,
        decoupled_attention: DecoupledAttentions | None = None,
        image_upscaler: Any = None,
        defaults: Mapping[str, Any] | None = None,
        name: str | None = None,
        described: Mapping[str, Any] | None = None,
        described_parts: Mapping[str, str] | None = None,
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
        self.decoupled_attention = decoupled_attention
        self.image_upscaler = image_upscaler
        self.defaults = dict(defaults or {})
        self.name = name
        self._described = dict(described or {})
        self._described_parts = dict(described_parts or {})
        self._bar: dict[str, Any] = {}
        self._attached: list[Any] = []
        if joint_adapters is not None:
            for modality, model in self.models.items():
                self._attached.append(joint_adapters.attach(modality, model.network))
        if decoupled_attention is not None:
            for modality, model in self.models.items():
                decoupled_attention.attach(modality, model.network)
        # A tap replaces methods of a pipeline for a while: no other call may run it meanwhile.
        self._lock = threading.RLock()
        self._init_calls()
        self._check_estimates()

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
            decoupled_attention=parts.get("decoupled_attention"),
            image_upscaler=parts.get("image_upscaler"),
            defaults=composed.defaults,
            name=str(folder),
            described={
                name: records.describe_reference(reference) for name, reference in composed.references.items()
            },
            described_parts=records.describe_parts(composed),
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

    def estimates_from(self) -> dict[Modality, Collection[Modality]]:
        """Return, for each output, the modalities whose partner estimates are fused with its prompt."""
        if self.noisy_latent_encoders is None or self.text_model is None or self.estimate_weight <= 0:
            return {}
        translated = [] if self.translators is None else self.translators.modalities()
        found: dict[Modality, Collection[Modality]] = {}
        for modality, partners in self.noisy_latent_encoders.attends_to().items():
            # the text model's own outputs take tokens of the shared space as they are
            if modality in translated or (modality in self.makes and modality not in self.models):
                found[modality] = {m for m in partners if m in self.models}
        return found

    @property
    def estimate_weight(self) -> float:
        """By how much partner estimates are amplified; 0 is off."""
        name = "partner_estimate_weight"
        own = self.defaults.get(name)
        value: Any = settings.DEFAULTS[name] if own is None else own
        return value

    def _check_estimates(self) -> None:
        """Raise `InputError` for encoders of another prompt space; warn of those that reach no prompt."""
        if self.noisy_latent_encoders is None or self.estimate_weight <= 0:
            return
        if self.text_model is not None:
            dim = self.noisy_latent_encoders.config["context_dim"]
            if dim != self.model.context_dim:
                raise InputError(
                    f"noisy_latent_encoders read prompt tokens of {dim} numbers, and those of the text model "
                    f"have {self.model.context_dim}: expected the text model that they were trained with"
                )
        if not any(m in self.models for m in self.estimates_from()):
            lacking = "text model" if self.text_model is None else "prompt translators"
            warnings.warn(
                f"this model has noisy-latent encoders and no {lacking}: partner estimates reach no prompt "
                "(docs/compose.md)",
                stacklevel=2,
            )

    def resolve(self, **asked: Any) -> ComposedRequest:
        """Check what is asked of this model, and put its own values in place of what was left out.

        Args:
            **asked: as in `codi.compose.request.resolve`.

        Returns:
            The request, in which every setting has a value.
        """
        with self._lock:
            request = requests.resolve(self.abilities(), **asked)
            self._check_text_guider(request)
            return request

    def _check_text_guider(self, request: ComposedRequest) -> None:
        """Raise `InputError` for a guider that cannot act on what the text model makes."""
        made = {m: guided for m, guided in request.guidance.items() if m not in self.models}
        if not made:
            return
        scheduler = self.text_model.scheduler
        settings.check_guiders(
            made,
            dict.fromkeys(made, scheduler),
            dict.fromkeys(made, NoiseLevels.of(scheduler).prediction_type),
            {m: self.text_model.model.denoisers[m].num_transformers for m in made},
        )

    def abilities(self) -> Abilities:
        """Return what it can do, and its own values of settings."""
        encoders = self.noisy_latent_encoders
        return Abilities(
            models=self.models,
            makes=self.makes,
            attends_to=self.attends_to(),
            takes=self.takes,
            reads=self._read_as_prompts(),
            readable=() if encoders is None else list(encoders.by_modality()),
            defaults=self._defaults(),
            upscalers=self.upscalers,
        )

    @property
    def upscalers(self) -> dict[Modality, Upscaler]:
        """What makes decoded media larger, by modality: its own part, or else the text model's."""
        found = dict(self.model.upscalers)
        if self.image_upscaler is not None:
            found |= {m: self.image_upscaler for m, name in UPSCALERS.items() if name in self._own_parts()}
        return found

    def _read_as_prompts(self) -> list[Modality]:
        """Return the modalities that are read as prompts, besides sentences."""
        if self.text_model is None or (self.translators is None and self.decoupled_attention is None):
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
                words[None] = givens.weighted(given)
        for output, given in (texts or {}).items():
            words[output] = givens.weighted(given)
        others = [m for m in items if not in_words(m)]
        if self.text_model is None:
            return ComposedPrompt(words=words)
        tokens = {output: self._token_of_words(given) for output, given in (texts or {}).items()}
        read = {m: given for m, given in items.items() if in_words(m) or m in self.text_model.model.towers}
        with warnings.catch_warnings():
            # words that the text model does not know still reach every model through its own text encoder
            if not others:
                warnings.simplefilter("ignore", UserWarning)
            token = self._token(read) if read else None
        seen = {m: given for m, given in read.items() if not in_words(m)} if self._read_as_prompts() else {}
        beside = self._token(seen) if seen and self.decoupled_attention is not None else None
        return ComposedPrompt(
            words=words,
            token=token,
            foreign=bool(seen),
            beside=beside,
            tokens={output: own for output, own in tokens.items() if own is not None},
        )

    def _token_of_words(self, given: Sequence[Prompt]) -> Tensor | None:
        """Return sentences as one token (1, 1, D); None where the text model reads nothing of them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # each model's own text encoder may know the words
            return self._token({Modality.parse("text"): given})

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
        guider: Any = None,
        classifier_guidance: Any = None,
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
        ip_adapter_image: Any = None,
        ip_adapter_scale: settings.PerOutput | None = None,
        prompt_embeds: Sequence[ComposedPrompt] | ComposedPrompt | None = None,
        negative_prompt_embeds: Sequence[ComposedPrompt] | ComposedPrompt | None = None,
        partner_latents: Latents | None = None,
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
            guider: a variant of guidance, for all or by output, as in `codi.pipeline.CoDiPipeline`; those
                that act inside a denoiser are refused.
            classifier_guidance: gradients beside it, likewise; the built-in functions need noisy-latent
                encoders.
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
            auxiliary_caption: whether a caption that the model's defaults ask for is drawn first, which other
                outputs are made from; a caption that is an output as well is that one.
            negative_text: what to steer away from, in the forms of `text`.
            ip_adapter_image: {output: picture} for the IP-Adapters that others published and that are loaded
                into the pipelines of these outputs, in the forms that those take: a picture of PIL, an array
                or a tensor, and a list of them where several are loaded; or a picture for the only output.
            ip_adapter_scale: how much outputs attend to prompts that are no sentences, beside their text, one
                number or {output: number}; 1 is as it was trained. None has prompts translated where there
                are translators, and attended to where there is decoupled attention alone.
            prompt_embeds: what `encode_prompt` returned, one or one for each sample, in place of prompts.
            negative_prompt_embeds: the same in place of `negative_text`.
            partner_latents: clean latents (1 or B, ...) by modality from `encode_partners`.
            start: {output: medium}, what an output starts from (docs/editing.md).
            strength: the part of the schedule that an output with a start takes, from 0 to 1.
            keep: {output: regions} of what it starts from that stay as they are.
            keyframes: {"video": {0: picture}}: pictures that are kept as frames.
            canvas: {output: (left, top, right, bottom)}: the box in which the start lies on what is made.
            resample_steps: how often a step is made of an output of which a part is kept.
            source_prompt: what the starts show, in words, or {output: words}.
            regions: prompts for parts of outputs in space and time (`codi.regions`).
            upscale: how many times larger pictures and clips are made by a second model (`codi.upscaling`),
                which is a part of the composed model, or else of its text model; None for not at all.
            output_type: "pil", "pt", "np" or "latent".
            return_dict: False for the tuple of the media alone, in the order of `outputs`.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) -> dict of those it changed.
            callback_on_step_end_tensor_inputs: the tensors that it is shown: "latents", "prompt_embeds" (each
                output's in the form that its network takes). It may also set `_guidance_scale`.
            **more: prompts of other registered modalities, by their names.

        Returns:
            The media with their seeds, settings and records; see `CoDiOutput`.

        Raises:
            InputError: for anything that cannot be used.
        """
        settings.check_names("a composed model", more, [m.value for m in Modality])
        wanted = settings.parse_outputs(outputs)  # type: ignore[arg-type]
        given = Given.from_arguments(
            more | dict(text=text, image=image, audio=audio, video=video),
            negative_text,
            wanted,
            ip_adapter_image,
            ip_adapter_scale=ip_adapter_scale,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            partner_latents=partner_latents,
        )
        sizes = dict(height=height, width=width, num_frames=num_frames, fps=fps)
        sizes["audio_length_in_s"] = audio_length_in_s
        request = self.resolve(
            inputs={m: items[0] for m, items in given.items.items()},
            start=start,
            strength=strength,
            keep=keep,
            keyframes=keyframes,
            canvas=canvas,
            resample_steps=resample_steps,
            source_prompt=source_prompt,
            given=given.modalities,
            negatives=given.refused,
            clean=given.clean,
            outputs=wanted,
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
            sync=sync,
            sizes=sizes,
            lengths=lengths,
            output_type=output_type,
            auxiliary_caption=auxiliary_caption,
            regions=regions,
        )
        known = self._callback_tensor_inputs
        shown = wanted_tensors(callback_on_step_end, callback_on_step_end_tensor_inputs or (), known)
        settings.check_names("callback_on_step_end_tensor_inputs", shown, known)
        samples = self._samples(given, wanted, settings.pick_seeds(num_samples, seed, generator))
        clean = given.partner_latents
        if clean is None:
            clean = self.encode_partners(given.items, request.partners)
        scale: Any = settings.shared_scale(request.guidance)
        call = Call(guidance=dict(request.guidance), can_steer=request.can_steer, guidance_scale=scale)
        try:
            with self._lock, self._call(call):
                out = self._generate(call, request, samples, clean, callback_on_step_end, shown)
        finally:
            self.maybe_free_model_hooks()
        out.clip = prompts.first_file(given.items.get(Modality.VIDEO, []))
        out.origin = {
            "outputs": [m.value for m in request.outputs],
            **given.described(),
            **request.edits.described(),
            **request.regions.described(),
            "model": self.described(),
        }
        return out if return_dict else out.to_tuple()

    def _samples(self, given: Given, outputs: Sequence[Modality], seeds: list[int]) -> Samples:
        """Return what each sample is made from; prompts are encoded unless they came encoded."""
        positive, negative = given.prompt_embeds, given.negative_prompt_embeds
        if positive is None:
            given.check_texts()
            positive = self.encode_prompt(given.items, given.texts)
        if given.refused:
            negative = self.encode_prompt(given.negatives, given.negative_texts)
        if negative is not None:
            negative = givens.one_for_each(negative, len(seeds), "negative_prompt_embeds")
        positive = givens.one_for_each(positive, len(seeds), "prompt_embeds")
        arguments = {}
        for modality, picture in given.ip_adapter_images.items():
            if modality not in self.models:
                raise InputError(f"ip_adapter_image names {modality}, which no published pipeline makes here")
            arguments[modality] = {"ip_adapter_image": picture}
        there = [] if self.decoupled_attention is None else list(self.decoupled_attention.by_modality())
        translated = [] if self.translators is None else self.translators.modalities()
        attended = attention_scales(given.ip_adapter_scale, outputs, there, translated)
        samples = Samples(
            prompts=positive, negatives=negative, seeds=seeds, arguments=arguments, attended=attended
        )
        if given.ip_adapter_scale is not None and samples.besides() is None:
            raise InputError(
                "ip_adapter_scale acts on prompts that are no sentences: expected a picture, a sound or a "
                "clip"
            )
        return samples

    def _generate(
        self,
        call: Call,
        request: ComposedRequest,
        samples: Samples,
        clean: Latents,
        callback: Callable[..., dict] | None,
        shown: Sequence[str],
    ) -> CoDiOutput:
        """Make what a request asks for: encode, prepare, denoise, decode."""
        drawn: Latents = {}
        captions: list[str] = []
        if request.auxiliary_caption:
            drawn = self._draw_captions(request, samples)
            captions = next(iter(self.text_model.decode_latents(drawn).values()))
            samples = self._captioned(samples, captions)
        sources, notes = edited.read(request.edits, request.specs)
        for note in notes:
            warnings.warn(note, stacklevel=1)
        whole = {m: self._encode_source(m, source, request) for m, source in sources.items() if source.whole}
        outputs = [m for m in request.outputs if m not in drawn and m not in whole]
        making = self._making(request, samples, outputs, sources)
        latents = {m: latent.expand(len(samples), *latent.shape[1:]) for m, latent in whole.items()}
        latents |= {m: latent for m, latent in drawn.items() if m in request.outputs}
        if making.denoisers:
            read = self._partners_of(making.denoisers) | request.reads
            beside = {m: latent for m, latent in whole.items() if m in read}
            sampler = self._sampler(making, request, {**clean, **beside}, samples)
            call.decode, call.specs = partial(self._decode, request=request, making=making), request.specs
            latents |= self._denoise(call, sampler, sampler.enter(making.start), callback, shown)
        media = {} if request.output_type == "latent" else self._media(latents, sources, request, making)
        seeds = list(samples.seeds)
        if request.upscale is not None:
            media = request.upscale.apply(media, seeds, self.upscalers, self.device)
        out = self._output(latents, media, seeds, request)
        out.outputs = list(request.outputs)
        out.settings = request.settings() | ({"captions": captions} if captions else {})
        out.batch = [{"row": row, "rows": len(seeds)} for row in range(len(seeds))]
        return out

    def _encode_source(self, modality: Modality, source: Edited, request: ComposedRequest) -> Tensor:
        """Encode the source of an output as its latent (1, ...)."""
        return editing.encode(self.models[modality], source.raw, request.sizes[modality])

    def _partners_of(self, outputs: Collection[Modality]) -> set[Modality]:
        """Return the modalities that any of these outputs attends to, or whose estimates it is given."""
        tables = (self.attends_to(), self.estimates_from())
        return {m for table in tables for output in outputs for m in table.get(output, ())}

    def _making(
        self,
        request: ComposedRequest,
        samples: Samples,
        outputs: Sequence[Modality],
        sources: Mapping[Modality, Edited],
    ) -> Making:
        """Return what is to be made together, each output prepared by its own model."""
        making = Making()
        regions = {region: self.encode_prompt(region.items) for region in request.regions.all}
        for modality in outputs:
            if modality in self.models:
                making.add_model(
                    self.models[modality],
                    request,
                    samples,
                    self.joint_adapters,
                    self.translators,
                    self.decoupled_attention,
                )
                making.add_regions(self.models[modality], request, samples, regions, self.translators)
            else:
                steps = request.num_inference_steps[modality]
                making.add_words(modality, self.text_model, steps, samples)
            if modality in sources:
                source = sources[modality]
                making.add_source(
                    self.models[modality],
                    source,
                    request,
                    samples,
                    None if source.source_prompt is None else self._worded(source.source_prompt),
                    self.translators,
                )
        if request.classifier is not None:
            making.add_conditions(request.classifier.conditions())
        return making

    def _worded(self, sentence: str) -> ComposedPrompt:
        """Return a sentence as a prompt."""
        return self.encode_prompt(prompts.collect({Modality.TEXT: sentence}))

    def _draw_captions(self, request: ComposedRequest, samples: Samples) -> Latents:
        """Return the latents of the auxiliary caption of each sample, by the text model.

        One that is an output as well has its own settings in the request.
        """
        name = Modality.parse(self.defaults["auxiliary_caption"])
        tokens = samples.tokens()
        if self.text_model is None or tokens is None:
            raise InputError(
                "this model draws a caption first, which needs a text model that reads the prompt: expected "
                "auxiliary_caption=False, or a prompt of words that it knows"
            )
        own: dict[str, Any] = {}
        if name in request.outputs:
            guidance = request.guidance[name]
            own["num_inference_steps"] = request.num_inference_steps[name]
            own["guidance_scale"] = guidance.scales[PROMPT.name]
            own["guidance_interval"] = guidance.intervals[PROMPT.name]
            own["guidance_rescale"] = guidance.rescale
            own["guider"] = guidance.guider.described()
        made = self.text_model(
            prompt_embeds=tokens,
            null_prompt_embeds=torch.cat([self.text_model.encode_null({}) for _ in samples.seeds]),
            outputs=[name],
            num_samples=len(samples),
            seed=list(samples.seeds),
            partner_latents={},
            output_type="latent",
            **own,
        )
        return {name: made.latents[name]}

    def _captioned(self, samples: Samples, captions: Sequence[str]) -> Samples:
        """Return the same samples made from captions, one for each, in place of their words."""
        made = []
        for prompt, caption in zip(samples.prompts, captions, strict=True):
            read = self.encode_prompt(prompts.collect({Modality.parse("text"): caption}))
            made.append(replace(read, beside=prompt.beside))
        return replace(samples, prompts=made)

    def _sampler(
        self, making: Making, request: ComposedRequest, clean: Latents, samples: Samples
    ) -> JointSampler:
        """Return the joint sampler of what was prepared."""
        attends_to = {m: set(self.attends_to().get(m, ())) for m in making.denoisers}
        partners = {
            m: latent.expand(len(samples), *latent.shape[1:]).to(self.device) for m, latent in clean.items()
        }
        levels = dict(making.levels)
        grids = {m: prepared.grid for m, prepared in making.prepared.items()}
        for modality in partners:
            levels[modality] = self.models[modality].levels
            grids[modality] = self.models[modality].prepare([""], sizes=request.sizes.get(modality)).grid
        encoders = {}
        if self.environment_encoders is not None and self.joint_adapters is not None:
            heard = {m for partner in attends_to.values() for m in partner}
            encoders = {m: e for m, e in self.environment_encoders.at(grids).items() if m in heard}
        estimates_from = {m: set(self.estimates_from().get(m, ())) for m in making.denoisers}
        read = request.reads  # by classifier guidance, and by estimates where a foreign model is given any
        if any(m in self.models and estimates_from[m] for m in making.denoisers):
            read |= {m for partner in estimates_from.values() for m in partner}
        estimating: dict[Modality, Any] = {}
        if read and self.noisy_latent_encoders is not None:
            estimating = {m: e for m, e in self.noisy_latent_encoders.at(grids).items() if m in read}
        return JointSampler(
            denoisers=making.denoisers,
            schedulers=making.schedulers,
            contexts=making.contexts,
            null_contexts=making.nulls,
            environment_encoders=encoders,
            attends_to=attends_to,
            noisy_latent_encoders=estimating,
            estimates_from=estimates_from,
            partner_estimate_weight=self.estimate_weight,
            guidance=request.guidance,
            partners=partners,
            generators=making.generators,
            start_offsets={m: request.start_offset[m] for m in making.denoisers},
            levels=levels,
            tokens=self._tokens(making, samples, strict=bool(request.reads)) if read else None,
            conditions=making.conditions,
            regions=making.regional,
        )

    def _tokens(self, making: Making, samples: Samples, strict: bool) -> dict[Modality, Tensor]:
        """Return the prompts (B, 1, D) of all outputs in the shared prompt space, for noisy-latent encoders.

        A prompt of which the text model reads nothing is zeros, and stays as it is whatever its partners
        become. With `strict` it raises `InputError` instead: there is nothing that gradients could lead to.
        """
        assert self.noisy_latent_encoders is not None, "estimates come from noisy-latent encoders"
        unread = torch.zeros(1, 1, self.noisy_latent_encoders.config["context_dim"], device=self.device)
        tokens: dict[Modality, Tensor] = {}
        for modality in making.denoisers:
            if modality not in self.models:  # its own prompts are tokens of that space
                tokens[modality] = making.contexts[modality]
                continue
            found = [prompt.token_of(modality) for prompt in samples.prompts]
            if strict and any(token is None for token in found):
                raise InputError(
                    "classifier_guidance by noisy-latent encoders needs a prompt that the text model reads: "
                    "expected other words, or a function of clean latents"
                )
            unread_prompts = [p for p, token in zip(samples.prompts, found, strict=True) if token is None]
            if any(words for prompt in unread_prompts for words, _ in prompt.of(modality)):
                warnings.warn(
                    f"the text model reads nothing of a prompt for {modality}, which partner estimates leave "
                    "as it is",
                    stacklevel=2,
                )
            tokens[modality] = torch.cat([unread if t is None else t.to(unread) for t in found])
        return tokens

    def _denoise(
        self,
        call: Call,
        sampler: JointSampler,
        latents: Latents,
        callback: Callable[..., dict] | None,
        shown: Sequence[str],
    ) -> Latents:
        """Take all steps of a sampler, unless the call is interrupted, and return the latents."""
        call.num_timesteps = sampler.num_steps
        for index in self._progress(sampler.num_steps):
            if call.interrupt:
                break
            call.current_timestep = sampler.timestep(sampler.timeline.active(index)[0], index)
            latents = sampler.step(index, latents)
            call.own_steps = sampler.own_steps(index)
            if callback is not None:
                latents = self._call_back(call, callback, shown, index, sampler, latents)
        return latents

    def _call_back(
        self,
        call: Call,
        callback: Callable[..., dict],
        shown: Sequence[str],
        index: int,
        sampler: JointSampler,
        latents: Latents,
    ) -> Latents:
        """Show a callback the tensors that it wants, and take over what it changed.

        It may change these tensors and the guidance scale.
        """
        scale = call.guidance_scale
        latents = show_tensors(self, callback, shown, index, sampler, latents)
        if call.guidance_scale != scale:
            self._rescale_guidance(call, sampler)
        return latents

    def _rescale_guidance(self, call: Call, sampler: JointSampler) -> None:
        """Let the steps that are left follow the guidance scale that a callback has set.

        Args:
            call: the call, whose scale is new.
            sampler: what takes the steps.

        Raises:
            InputError: for a value that is no scale, and for an output that began without guidance, so that
                there is no branch to lead away from.
        """
        guidance = call.take_guidance_scale(sampler.guidance)
        scales = {m: guidance[m].scales[PROMPT.name] for m in sampler.denoisers}
        for modality, scale in scales.items():
            model = self.models.get(modality)
            if model is not None and not model.family.guided:
                self._tell_scale(model, sampler, scale)
            elif scale > 1 and modality not in (sampler.null_contexts or {}):
                raise InputError(
                    f"a callback set _guidance_scale to {scale:g} for {modality}, which began without "
                    "guidance: expected a guidance_scale above 1 for it from the start, or {output: number} "
                    "for others"
                )
        sampler.guidance = guidance

    def _tell_scale(self, model: ForeignModel, sampler: JointSampler, scale: float) -> None:
        """Change the guidance scale in all prompts of an output whose network is told it beside them."""
        modality = model.modality
        told = model.with_guidance_scale(sampler.contexts[modality], scale)
        sampler.contexts = {**sampler.contexts, modality: told}
        if modality in sampler.regions:
            regional = sampler.regions[modality]
            parts = tuple(model.with_guidance_scale(part, scale) for part in regional.prompts)
            sampler.regions = {**sampler.regions, modality: replace(regional, prompts=parts)}

    def _progress(self, total: int) -> Iterator[int]:
        yield from tqdm(range(total), **self._bar)

    def _media(
        self,
        latents: Latents,
        sources: Mapping[Modality, Edited],
        request: ComposedRequest,
        making: Making,
    ) -> dict[Modality, Any]:
        """Return decoded media, with what is kept put back, in the order of the outputs."""
        count = len(next(iter(latents.values())))
        whole = {m: source.repeated(count) for m, source in sources.items() if source.whole}
        media = self._decode({m: z for m, z in latents.items() if m not in whole}, request, making)
        media = {m: sources[m].pasted(raw) if m in sources else raw for m, raw in media.items()}
        return {m: (media | whole)[m] for m in request.outputs}

    def _decode(self, latents: Latents, request: ComposedRequest, making: Making) -> dict[Modality, Any]:
        """Let each model decode what it made."""
        media: dict[Modality, Any] = {}
        for modality in latents:
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
        """Return a digest of the weights of all models and parts; None for what was put together by hand."""
        return records.fingerprint(self._described, self._described_parts)

    def described(self) -> dict[str, Any]:
        """Return what a record says of the model: its name, and its models and parts with their weights."""
        return records.describe_model(self, self._described, self._described_parts)
