"""A pipeline that somebody else published, as the denoiser and the autoencoder of one modality.

The network stays frozen, and keeps its class and its weights. Its prompts, schedule and decoding are its own
pipeline's, which `codi.compose.tap` takes from it, so that what it makes alone is what that pipeline
makes, to the bit.

Letters: B batch, n branches of guidance, C channels, F frames, H W height and width.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from codi.compose.families import Family, family_of, value_of
from codi.compose.grid import Grid
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.native_prompt import NativePrompt
from codi.compose.streams import survey
from codi.compose.tap import Tap, finish, tap
from codi.conditions import PROMPT
from codi.diffusion.guidance import FULL, Branch, Guidance
from codi.diffusion.levels import NoiseLevels
from codi.protocols import Autoencoder, Control, Denoiser, Environment, Weakening
from codi.types import InputError, Modality, ModalitySpec

if TYPE_CHECKING:
    from codi.compose.decoupled_attention import DecoupledAttention
    from codi.compose.prompt_translators import PromptTranslators

# By these sentences it is found out once what a pipeline does with a prompt.
PROBES = ["a bird sings in a tree", "two dogs run along a beach"]
NULL_PROMPT: Branch = frozenset([PROMPT.name])
GUIDANCE = "guidance"  # what networks of diffusers call the guidance scale that they are told


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a pipeline calls its denoiser, whatever the prompt.

    Attributes:
        by_sample: for each leaf of the arguments, whether its rows belong to samples.
        null: which half of the batch, or which of two calls, is the branch that guidance leads away from;
            None without such a branch.
        separate: whether each branch is a call of its own.
        time_scale: what the denoiser is given of a timestep, as a share of what the scheduler calls it.
        one_time: whether the denoiser is given one timestep for the whole batch.
    """

    by_sample: tuple[bool, ...]
    null: int | None
    separate: bool
    time_scale: float
    one_time: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a pipeline is about to denoise.

    Attributes:
        prompt: the prompt, B samples.
        null: what guidance leads away from; None without guidance.
        start: the latent that it starts from.
        scheduler: its scheduler, set to the number of steps.
        grid: where the elements of the latent are.
        call: the arguments of the call that say how large it is.
    """

    prompt: NativePrompt
    null: NativePrompt | None
    start: Tensor
    scheduler: Any
    grid: Grid
    call: Mapping[str, Any]


@dataclass(kw_only=True)
class ForeignModel:
    """A pipeline of diffusers, with what is known of its family.

    Attributes:
        pipeline: the pipeline; its denoiser is frozen and put into evaluation mode.
        call: arguments of every call, by the names of the pipeline's. Whether the pipeline takes them or not,
            "fps" may be among them, and "mel", the settings of the spectrogram that its vocoder takes
            (`codi.compose.mel`).
        name: what it is called in messages.
    """

    pipeline: Any
    call: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    _forms: dict[tuple[str, bool], Form] = field(default_factory=dict, init=False, repr=False)
    _specs: dict[Any, ModalitySpec] = field(default_factory=dict, init=False, repr=False)
    _affine: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.family: Family = family_of(type(self.pipeline).__name__)
        self.name = self.name or type(self.pipeline).__name__
        for part, why in self.family.refused.items():
            if getattr(self.pipeline, part, None) is not None:
                raise InputError(
                    f"{self.name} {why}, so that its denoiser changes from step to step: such a pipeline "
                    "cannot be composed"
                )
        self.pipeline.set_progress_bar_config(disable=True)
        self.network.requires_grad_(False).eval()
        # the names by which the network takes latent and timestep
        names = list(inspect.signature(type(self.network).forward).parameters)
        self._latent_name, self._time_name = names[1], "timestep"

    @property
    def network(self) -> nn.Module:
        """The network that denoises."""
        return getattr(self.pipeline, self.family.network)

    @property
    def modality(self) -> Modality:
        """What it makes."""
        return self.family.modality

    @property
    def levels(self) -> NoiseLevels:
        """The noise levels of its schedule."""
        return NoiseLevels.of(self.pipeline.scheduler)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network that denoises."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.pipeline._execution_device

    # Calls --------------------------------------------------------------------------------------------

    def call_for(self, sizes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the arguments of a call, as the pipeline names them, and "fps" for clips.

        Args:
            sizes: sizes by our names (`codi.types.SIZES`); None for the model's own.

        Returns:
            The arguments.
        """
        call = dict(self.call)
        for name, value in (sizes or {}).items():
            if value is None:
                continue
            if name in self.family.sizes:
                call[self.family.sizes[name]] = value
            elif name == "fps":
                call["fps"] = value
        if "num_frames" in self.family.sizes and call.get("fps") is None:
            named = self.family.fps_argument
            given = self.family.fps if named is None else value_of(self.pipeline, call, named)
            assert given is not None, f"the family of {self.name} has no frames per second"
            call["fps"] = float(given)
        return call

    def lasting(self, seconds: float, sizes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return sizes with which what it makes lasts some seconds, as nearly as its grid allows.

        Args:
            seconds: how long it should last.
            sizes: other sizes by our names; a size that says a length is kept.

        Returns:
            Sizes by our names; those of a model without time are as they were.
        """
        found = {name: value for name, value in (sizes or {}).items() if value is not None}
        if "num_frames" in self.family.sizes and "num_frames" not in found:
            frames = max(1, round(seconds * self.call_for(found)["fps"]))
            if self.family.frames_per_step is not None:
                ratio = self.family.frames_per_step(self.pipeline)
                frames = round((frames - 1) / ratio) * ratio + 1
            found["num_frames"] = frames
        if "audio_length_in_s" in self.family.sizes:
            found.setdefault("audio_length_in_s", seconds)
        return found

    def spec(self, sizes: Mapping[str, Any] | None = None) -> ModalitySpec:
        """Return the geometry of what it makes, of its media and its latents.

        Args:
            sizes: sizes by our names; None for the model's own.

        Returns:
            The geometry; raw shapes are (3, H, W), (F, 3, H, W) and (samples,).
        """
        key = tuple(sorted((sizes or {}).items(), key=str))
        if key not in self._specs:
            prepared = self.prepare(PROBES[:1], sizes=sizes)
            self._specs[key] = self._spec_of(prepared)
        return self._specs[key]

    def _spec_of(self, prepared: Prepared) -> ModalitySpec:
        grid, rate = prepared.grid, self.rate(prepared.call)
        latent_shape = tuple(prepared.start.shape[1:])
        if rate is None or grid.duration is None:
            return ModalitySpec(raw_shape=(3, *self._pixels(grid)), latent_shape=latent_shape)
        seconds = grid.duration
        named = self.family.sizes.get("audio_length_in_s")
        if named is not None and prepared.call.get(named) is not None:
            seconds = prepared.call[named]  # its latent may reach beyond it
        count = round(seconds * rate)
        frames = () if self.family.pixels is None else (3, *self._pixels(grid))
        return ModalitySpec(
            raw_shape=(count, *frames),
            latent_shape=latent_shape,
            rate=rate,
            latent_rate=grid.steps / grid.duration,
        )

    def _pixels(self, grid: Grid) -> tuple[int, int]:
        """Return height and width in pixels."""
        assert self.family.pixels is not None, "a sound has no pixels"
        side = self.family.pixels(self.pipeline)
        return grid.shape[1] * side, grid.shape[2] * side

    def _arguments(self, call: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the arguments that the pipeline itself takes."""
        given = {**call, **more}
        given.pop("mel", None)
        fps = given.pop("fps", None)
        if fps is not None and self.family.fps_argument is not None:
            given[self.family.fps_argument] = fps
        return given

    def _tap(self, steps: int = 1, **arguments: Any) -> Tap:
        """Tap the pipeline, whose own objections to a call are a user's mistake."""
        try:
            return tap(self.pipeline, self.family.network, steps, **arguments)
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.name} refuses this call: {' '.join(str(error).split())}") from error

    def prepare(
        self,
        texts: Sequence[str],
        negatives: Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generators: Sequence[torch.Generator] | None = None,
        sizes: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Prepared:
        """Let the pipeline encode prompts, draw its noise and set its scheduler.

        Args:
            texts: B prompts.
            negatives: B negative prompts; None for what the pipeline takes for none.
            num_inference_steps: the number of steps; None for the pipeline's own.
            guidance_scale: the guidance scale; None for the pipeline's own.
            generators: one for each sample; they are in the state that the pipeline would leave them in.
            sizes: sizes by our names; None for the model's own.
            **more: further arguments of the pipeline, such as `ip_adapter_image`.

        Returns:
            What would be denoised.

        Raises:
            InputError: for negative prompts where the pipeline has no branch for them, for more frames than
                its network takes, and for a pipeline that changes what it gives its denoiser from step to
                step.
        """
        call = self.call_for(sizes)
        self._check_frames(call)
        scale = self.guidance_scale(guidance_scale)
        guided = self.family.guided and scale > 1
        if negatives is not None and not guided:
            why = (
                "has no second branch" if not self.family.guided else f"runs at a guidance scale of {scale:g}"
            )
            raise InputError(f"{self.name} {why}: expected no negative prompt for {self.modality}")
        form = self.form(guided, call, more)
        arguments = self._arguments(call, prompt=list(texts), guidance_scale=scale, **more)
        if num_inference_steps is not None:
            arguments["num_inference_steps"] = num_inference_steps
        if negatives is not None:
            arguments["negative_prompt"] = list(negatives)
        if generators is None:  # not from a state that others draw from as well
            generators = [torch.Generator().manual_seed(0) for _ in texts]
        arguments["generator"] = list(generators)
        taken = self._tap(**arguments, **self.family.media)
        prompt, null = self._branches(taken, form, len(texts))
        start = taken.start
        if (
            start.ndim != taken.calls[0][self._latent_name].ndim
        ):  # it steps frames (B F, C, H, W) by themselves
            start = start.unflatten(0, (len(texts), -1)).transpose(1, 2)
        grid = self.family.grid(self.pipeline, start, call)
        return Prepared(
            prompt=prompt, null=null, start=start, scheduler=taken.scheduler, grid=grid, call=call
        )

    def check_ip_adapter(self, arguments: Mapping[str, Any]) -> None:
        """Raise `InputError` for a picture without an IP-Adapter, and for an IP-Adapter without a picture.

        Args:
            arguments: further arguments of the pipeline, `ip_adapter_image` among them or not.
        """
        # where the networks of diffusers have what `load_ip_adapter` brings along
        projections = (getattr(self.network, name, None) for name in ("encoder_hid_proj", "image_proj"))
        loaded = any(projection is not None for projection in projections)
        if loaded == ("ip_adapter_image" in arguments):
            return
        where = f"pipe.models[{self.modality.value!r}].pipeline"
        if loaded:
            raise InputError(
                f"{self.name} has an IP-Adapter, which is to be shown a picture: expected ip_adapter_image="
                f"{{{self.modality.value!r}: picture}}, or {where}.unload_ip_adapter()"
            )
        advice = f"load one by {where}.load_ip_adapter" if hasattr(self.pipeline, "load_ip_adapter") else ""
        raise InputError(
            f"{self.name} has no IP-Adapter that could be shown a picture: "
            f"{advice or f'expected no ip_adapter_image for {self.modality}'}"
        )

    def _check_frames(self, call: Mapping[str, Any]) -> None:
        """Raise `InputError` for more frames than the network takes; it would fail in its own words."""
        if self.family.most_frames is None:
            return
        frames, most = value_of(self.pipeline, call, "num_frames"), self.family.most_frames(self.pipeline)
        if frames > most:
            raise InputError(
                f"{self.name} makes clips of at most {most} frames, and {frames} were asked for: expected "
                "fewer (num_frames), fewer per second (fps), or a shorter clip"
            )

    def guidance_scale(self, given: float | None = None) -> float:
        """Return the guidance scale of a call: the one given, or else the pipeline's own."""
        if given is not None:
            return float(given)
        return float(value_of(self.pipeline, self.call, "guidance_scale"))

    def with_guidance_scale(self, prompt: NativePrompt, scale: float) -> NativePrompt:
        """Return a prompt with another guidance scale, for a network that is told the scale by its pipeline.

        Args:
            prompt: B native prompts of a family without a second branch.
            scale: the scale.

        Returns:
            The prompt; as it was for a network that is told none, as those that were distilled for few steps.
        """
        told = prompt.arguments().get(GUIDANCE)
        if not isinstance(told, Tensor):
            return prompt
        return prompt.with_arguments({GUIDANCE: torch.full_like(told, scale)})

    def num_inference_steps(self, given: int | None = None) -> int:
        """Return the number of steps of a call: the one given, or else the pipeline's own."""
        return int(
            value_of(self.pipeline, {**self.call, "num_inference_steps": given}, "num_inference_steps")
        )

    # What a pipeline does with prompts ------------------------------------------------------------------

    def form(self, guided: bool, call: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Form:
        """Return how the pipeline calls its denoiser; it is found out once.

        Per-sample tensors are those that have twice as many rows for twice as many prompts. What guidance
        leads away from is what is not there without guidance.

        Args:
            guided: whether with guidance.
            call: the arguments that say how large the output is.
            more: further arguments of the pipeline.

        Returns:
            The form.

        Raises:
            InputError: for a pipeline that cannot be understood so.
        """
        key = (",".join(sorted(more or {})), guided)
        if key not in self._forms:
            self._forms[key] = self._find_form(guided, call, more or {})
        return self._forms[key]

    def _find_form(self, guided: bool, call: Mapping[str, Any], more: Mapping[str, Any]) -> Form:
        scale = 1.0 if self.family.guided else self.guidance_scale()

        def run(texts: Sequence[str], scale: float, steps: int = 1) -> Tap:
            arguments = self._arguments(call, prompt=list(texts), guidance_scale=scale, **more)
            own = self.num_inference_steps()
            arguments["num_inference_steps"] = max(3, min(own, 5))
            generators = [torch.Generator().manual_seed(k) for k in range(len(texts))]
            return self._tap(steps, generator=generators, **arguments, **self.family.media)

        alone = run(PROBES[:1], scale)
        twice = run(PROBES, scale)
        seen = run(PROBES[:1], 2.0 if guided else scale, steps=3)
        self._check_constant(seen)
        rows = self._leaves(alone.calls[0])
        by_sample = []
        for one, two in zip(rows, self._leaves(twice.calls[0]), strict=True):
            per = isinstance(one, Tensor) and one.ndim > 0 and len(two) == 2 * len(one) and len(one) > 0
            by_sample.append(per)
        null, separate = self._find_null(rows, by_sample, seen) if guided else (None, False)
        given = torch.as_tensor(alone.calls[0][self._time_name]).flatten()[0].double().cpu()
        own = alone.scheduler.timesteps[0].double().cpu()
        same = bool(torch.isclose(given, own, rtol=1e-3))
        asked = torch.as_tensor(twice.calls[0][self._time_name])
        return Form(
            by_sample=tuple(by_sample),
            null=null,
            separate=separate,
            time_scale=1.0 if same else float(given / own),
            one_time=asked.ndim == 1 and len(asked) == 1,
        )

    def _leaves(self, call: Mapping[str, Any]) -> list[Any]:
        """Return the leaves of the arguments of one call, without latent and timestep."""
        return pytree.tree_leaves(self._rest(call))

    def _rest(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value for name, value in call.items() if name not in (self._latent_name, self._time_name)
        }

    def _check_constant(self, seen: Tap) -> None:
        """Raise `InputError` if a pipeline gives its denoiser other arguments at a later step."""
        first = seen.steps[0]
        for index, calls in enumerate(seen.steps[1:], start=1):
            if len(calls) != len(first):
                raise InputError(
                    f"{self.name} calls its denoiser {len(first)} times at its first step and "
                    f"{len(calls)} times at step {index}: such a pipeline cannot be composed"
                )
            for before, now in zip(first, calls, strict=True):
                for name, value in self._rest(now).items():
                    if name not in before or not _same(before[name], value):
                        raise InputError(
                            f"{self.name} changes {name} of its denoiser from step to step: such a pipeline "
                            "cannot be composed"
                        )

    def _find_null(self, alone: list[Any], by_sample: Sequence[bool], seen: Tap) -> tuple[int, bool]:
        """Return which branch is not the prompt's, and whether branches are calls of their own."""
        if len(seen.calls) > 2:
            raise InputError(
                f"{self.name} calls its denoiser {len(seen.calls)} times a step: expected 1 or 2"
            )
        separate = len(seen.calls) == 2
        if separate:
            found = [self._leaves(call) for call in seen.calls]
        else:
            halves = []
            for per, leaf, one in zip(by_sample, self._leaves(seen.calls[0]), alone, strict=True):
                if per and len(leaf) != 2 * len(one):
                    raise InputError(
                        f"{self.name} has no second branch where it is guided, as models that were distilled "
                        "have none: such a pipeline cannot be composed"
                    )
                halves.append(leaf.chunk(2) if per else (leaf, leaf))
            found = [[half[k] for half in halves] for k in range(2)]
        is_prompt = [all(map(_close, alone, leaves)) for leaves in found]
        if is_prompt[0] == is_prompt[1]:
            raise InputError(
                f"{self.name} gives its denoiser something else with guidance than without: such a pipeline "
                "cannot be composed"
            )
        return is_prompt.index(False), separate

    def _branches(self, taken: Tap, form: Form, rows: int) -> tuple[NativePrompt, NativePrompt | None]:
        """Return the prompt and what guidance leads away from."""
        dtype = taken.calls[0][self._latent_name].dtype
        arguments = [self._rest(call) for call in taken.calls]

        def native(given: Mapping[str, Any]) -> NativePrompt:
            return NativePrompt.of(given, form.by_sample, rows, dtype)

        if form.null is None:
            return native(arguments[0]), None
        if form.separate:
            return native(arguments[1 - form.null]), native(arguments[form.null])
        both = NativePrompt.of(arguments[0], form.by_sample, 2 * rows, dtype)
        halves = both.split(rows)
        return halves[1 - form.null], halves[form.null]

    # Media ----------------------------------------------------------------------------------------------

    def decode(self, latent: Tensor, call: Mapping[str, Any] | None = None) -> Tensor:
        """Let the pipeline decode latents, as if it had made them.

        Args:
            latent: (B, ...) clean latents.
            call: the arguments of the call that they were made with; None for the model's own.

        Returns:
            Raw media in [-1, 1]: pictures (B, 3, H, W), clips (B, F, 3, H, W), sounds (B, samples) or (B,
            channels, samples).
        """
        return self.raw_of(self._finish(latent, self.call_for() if call is None else call))

    def raw_of(self, media: Any) -> Tensor:
        """Return media (B, ...), as the pipeline returns them, in [-1, 1] (`decode`)."""
        if isinstance(media, list):
            media = torch.stack([torch.as_tensor(item) for item in media])
        raw = torch.as_tensor(media)
        return raw.float() * 2 - 1 if self.family.of_pixels else raw.float()

    def _finish(self, latent: Tensor, call: Mapping[str, Any]) -> Any:
        """Return the media that the pipeline makes of a latent, as it returns them."""
        count = len(latent)
        # its own noise is thrown away, and must not be drawn from a generator that somebody else uses
        generators = [torch.Generator().manual_seed(0) for _ in range(count)]
        arguments = self._arguments(
            call, prompt=[""] * count, num_inference_steps=2, guidance_scale=1.0, generator=generators
        )
        return finish(self.pipeline, self.family.network, latent, **arguments, **self.family.media)

    @torch.no_grad()
    def encode(
        self, raw: Tensor, generator: torch.Generator | None = None, call: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Encode raw media into latents as the denoiser takes them: the inverse of `decode`.

        Args:
            raw: (B, ...) media in [-1, 1], as `decode` returns them.
            generator: draws from the autoencoder's posterior; None for its mode.
            call: the arguments of a call; None for the model's own.

        Returns:
            (B, ...) latents.
        """
        call = self.call_for() if call is None else call
        latent = self.family.encode(self.pipeline, raw.to(self.device), generator, call).float()
        scale, shift = self._affine_of_decoding(call)
        shape = (1, -1, *[1] * (latent.ndim - 2))
        latent = (latent - shift.to(latent).view(shape)) / scale.to(latent).view(shape)
        return self.family.pack(self.pipeline, latent, len(raw))

    def _affine_of_decoding(self, call: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return what the pipeline multiplies a latent by and adds to it before its autoencoder decodes it.

        It is (C,) each, and measured: the autoencoder is shown what becomes of zeros and of ones.
        """
        if self._affine is None:
            like = self.prepare(PROBES[:1], guidance_scale=None, sizes=None).start
            zeros, ones = (self._decoded_from(torch.full_like(like, value), call) for value in (0.0, 1.0))
            axes = [axis for axis in range(zeros.ndim) if axis != 1]
            shift = zeros.mean(axes)
            self._affine = (ones.mean(axes) - shift, shift)
        return self._affine

    def _decoded_from(self, latent: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Return what the pipeline gives its autoencoder when it decodes a latent."""
        vae = self.pipeline.vae
        seen: list[Tensor] = []

        def decode(z: Tensor, *args: Any, **kwargs: Any) -> None:
            seen.append(z.float())
            raise _Seen

        kept = vae.__dict__.get("decode")
        vae.decode = decode
        try:
            self._finish(latent, call)
        except _Seen:
            pass
        finally:
            del vae.__dict__["decode"]
            if kept is not None:
                vae.decode = kept
        return torch.cat(seen)

    def rate(self, call: Mapping[str, Any] | None = None) -> float | None:
        """Return the raw steps per second of what it makes, Hz or frames; None for media without time."""
        if self.family.rate is None:
            return None
        return self.family.rate(self.pipeline, self.call_for() if call is None else call)


class _Seen(Exception):
    """Ends a run of a pipeline as soon as its autoencoder was given something to decode."""


class ForeignDenoiser(Denoiser):
    """The frozen network of a foreign model, called with the arguments that its own pipeline gives it.

    Args:
        model: the foreign model.
        form: how its pipeline calls the network (`ForeignModel.form`).
        adapters: the joint adapters of the network, which are attached to it; None if it attends to nothing.
        grid: the grid of the latents; needed with adapters alone.
        translators: what translates prompts of the shared space for it; without them partner estimates change
            nothing.
        decoupled: attention to the tokens of prompts that have any, attached to the network; None without.
        decoupled_scale: how much of it is added.
    """

    null_first = True

    def __init__(
        self,
        model: ForeignModel,
        form: Form,
        adapters: ForeignJointAdapters | None = None,
        grid: Grid | None = None,
        translators: "PromptTranslators | None" = None,
        decoupled: "DecoupledAttention | None" = None,
        decoupled_scale: float = 1.0,
    ):
        self.model = model
        self.form = form
        self.adapters = adapters
        self.grid = grid
        self.translators = translators
        self.decoupled = decoupled
        self.decoupled_scale = decoupled_scale
        self.one_branch_per_call = form.separate

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network."""
        return self.model.dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: NativePrompt,
        partners: Environment | None = None,
        rate: float | None = None,
        weakening: Weakening | None = None,
        control: Sequence[Control] = (),
    ) -> Tensor:
        """Return the network's answer (B, ...), of the shape of x.

        Args:
            x: (B, ...) noisy latents, scaled as the scheduler gives them to a network.
            t: (B,) timesteps, as the scheduler calls them.
            prompt: B native prompts.
            partners: the environment of the partners, one row for each of the first samples; without joint
                adapters nothing attends to it.
            rate: unused: the grid of a foreign latent says when its steps are.
            weakening: unused: a published network is never made worse.
            control: unused: it has no sites for one.

        Returns:
            (B, ...).
        """
        beside: AbstractContextManager[None] = nullcontext()
        if self.decoupled is not None:
            beside = self.decoupled.attending(prompt.token, self.decoupled_scale)
        with self.attending(partners), beside:
            answer = self.model.network(**self.arguments(x, t, prompt))
        return answer[0] if isinstance(answer, tuple) else answer.sample

    def arguments(self, x: Tensor, t: Tensor, prompt: NativePrompt) -> dict[str, Any]:
        """Return all arguments of the network by name: latents (B, ...), timesteps (B,) and B prompts."""
        time = t if self.form.time_scale == 1.0 else t.to(x.dtype) / round(1 / self.form.time_scale)
        if self.form.one_time and bool((time == time[0]).all()):
            time = time[:1]
        return prompt.arguments() | {self.model._latent_name: x, self.model._time_name: time}

    def blocks(self, prepared: Prepared) -> dict[str, int]:
        """Return the blocks of the network that can attend, with their channels (`codi.compose.streams`)."""
        t = prepared.scheduler.timesteps[0].expand(len(prepared.prompt))
        return survey(self.model.network, prepared.grid, self.arguments(prepared.start, t, prepared.prompt))

    def refit(self, prompt: NativePrompt, token: Tensor, fused: Tensor) -> NativePrompt:
        """Return a prompt that says as well what partner estimates add to it, by the prompt translators.

        Args:
            prompt: B native prompts.
            token: (B, 1, D) the same prompts in the shared prompt space.
            fused: (B, 1, D) these, fused with what the partners seem to become.

        Returns:
            B prompts; `prompt` itself without translators.
        """
        if self.translators is None or self.model.modality not in self.translators.modalities():
            return prompt
        return self.translators.refit(self.model.modality, prompt, token, fused)

    def attending(self, partners: Environment | None) -> AbstractContextManager[None]:
        """Return a context in which the network attends to its partners, if it has adapters."""
        if partners is None or self.adapters is None:
            return nullcontext()
        assert self.grid is not None, "adapters need the grid of the latents"
        return self.adapters.attending(self.model.modality, partners, self.grid)

    def joint_adapters(self) -> Mapping[str, nn.Module]:
        """Return the joint adapters of the network, by the names of its blocks."""
        return {} if self.adapters is None else self.adapters.sites(self.model.modality)

    def combine(
        self,
        guidance: Guidance,
        answers: Mapping[Branch, Tensor],
        weights: Mapping[Branch, float],
        memory: dict[str, Any] | None = None,
    ) -> Tensor:
        """Return the guided answer (B, ...), rounded as pipelines of diffusers round it.

        Args:
            guidance: the guidance of this output.
            answers: (B, ...) the answer in each branch.
            weights: the weight of each branch.
            memory: what the guider keeps from step to step of this output.

        Returns:
            (B, ...).
        """
        if set(weights) != {FULL, NULL_PROMPT} or not guidance.guider.plain_sum:
            return guidance.combine(answers, weights, memory)
        full, null = answers[FULL], answers[NULL_PROMPT]
        guided = null + weights[FULL] * (full - null)
        if guidance.spread > 0:
            return _rescaled(guided, full, guidance.spread)
        return guided


class ForeignAutoencoder(Autoencoder):
    """The autoencoder of a foreign model, whose latents are those that its denoiser takes.

    Args:
        model: the foreign model.
        call: the arguments of the call that say how large its media are; None for the model's own.
    """

    def __init__(self, model: ForeignModel, call: Mapping[str, Any] | None = None):
        self.model = model
        self.call = call

    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode raw media (B, ...) in [-1, 1] into latents (B, ...); see `ForeignModel.encode`."""
        return self.model.encode(raw, generator, self.call)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents (B, ...) into raw media (B, ...) in [-1, 1]; see `ForeignModel.decode`."""
        return self.model.decode(latent, self.call)


def _rescaled(guided: Tensor, full: Tensor, amount: float) -> Tensor:
    """Pull the spread of a guided answer back to that of the unguided one (arXiv 2305.08891, section 3.4).

    It is the formula of `codi.diffusion.guidance`, in the order in which pipelines of diffusers compute it.
    """
    axes = list(range(1, full.ndim))
    spread = full.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * (guided * spread) + (1 - amount) * guided


def _same(a: Any, b: Any) -> bool:
    """Return whether two arguments are equal, tensors to the bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    return a is b or bool(a == b)


def _close(a: Any, b: Any) -> bool:
    """Return whether two leaves of arguments are equal up to the rounding of a batch of another size."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=1e-3, rtol=1e-2)
    return isinstance(a, Tensor) == isinstance(b, Tensor) and (
        isinstance(a, Tensor) or a is b or bool(a == b)
    )
