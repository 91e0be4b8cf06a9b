"""Compare foreign models with their own pipelines: a few steps of each, side by side.

A user with real weights, another precision or another device learns in this way whether a composed model
makes what each of its models makes alone.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi.compose.foreign import ForeignDenoiser, ForeignModel
from codi.conditions import PROMPT
from codi.diffusion.guidance import Guidance
from codi.joint.sampler import JointSampler
from codi.types import Modality

PROMPT_OF_CHECK = "a red ball bounces in the snow"
EXACT = 1e-6  # the largest difference in float32
# The largest difference in other precisions, as a share of the largest value: some roundings of each.
ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a foreign model is from its own pipeline.

    Attributes:
        modality: what it makes.
        name: the model.
        steps: the number of steps that were compared.
        latents: the largest difference of latents.
        media: the largest difference of what is decoded from them, in [-1, 1].
        largest: the largest value in the pipeline's own latents and media.
        dtype: the precision of the network.
    """

    modality: Modality
    name: str
    steps: int
    latents: float
    media: float
    largest: float
    dtype: torch.dtype

    @property
    def allowed(self) -> float:
        """The largest difference that the precision allows."""
        if self.dtype is torch.float32:
            return EXACT
        return ROUNDING.get(self.dtype, EXACT) * max(1.0, self.largest)

    @property
    def fine(self) -> bool:
        """Whether the difference is no larger than that."""
        return self.most <= self.allowed

    @property
    def most(self) -> float:
        """The larger one of both differences; what is not finite is further than anything."""
        both = (self.latents, self.media)
        return max(both) if all(map(math.isfinite, both)) else math.inf

    def __str__(self) -> str:
        verdict = "" if self.fine else f", more than {self.allowed:.1e}"
        precision = str(self.dtype).removeprefix("torch.")
        each = f"latents {self.latents:.1e}, decoded media {self.media:.1e}"
        measured = f"{self.steps} steps in {precision}: {each}{verdict}, difference {self.most:.1e}"
        return f"{self.modality} {self.name}: {measured}"


def sample_alone(
    model: ForeignModel,
    texts: Sequence[str],
    negatives: Sequence[str] | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seeds: Sequence[int] = (0,),
    sizes: Mapping[str, Any] | None = None,
    **more: Any,
) -> Tensor:
    """Return the latents that a foreign model makes alone, by our sampler.

    Args:
        model: the foreign model.
        texts: B prompts.
        negatives: B negative prompts, or None.
        num_inference_steps: the number of steps; None for the pipeline's own.
        guidance_scale: the guidance scale; None for the pipeline's own.
        seeds: B seeds.
        sizes: sizes by our names; None for the model's own.
        **more: further arguments of the pipeline, such as `ip_adapter_image`.

    Returns:
        (B, ...) clean latents.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prepared = model.prepare(texts, negatives, num_inference_steps, guidance_scale, generators, sizes, **more)
    scale = model.guidance_scale(guidance_scale)
    guided = prepared.null is not None
    modality = model.modality
    sampler = JointSampler(
        denoisers={modality: ForeignDenoiser(model, model.form(guided, prepared.call, more))},
        schedulers={modality: prepared.scheduler},
        contexts={modality: prepared.prompt},
        null_contexts={modality: prepared.null} if guided else None,
        guidance={modality: Guidance(scales={PROMPT.name: scale if guided else 1.0})},
        generators={modality: generators},
        levels={modality: model.levels},
    )
    with torch.no_grad():
        return sampler.sample({modality: prepared.start})[modality]


def latents_of_pipeline(model: ForeignModel, **call: Any) -> Tensor:
    """Return the latents (B, ...) that a pipeline makes by itself; see `made_by_pipeline`."""
    return made_by_pipeline(model, **call)[0]


def made_by_pipeline(model: ForeignModel, **call: Any) -> tuple[Tensor, Tensor]:
    """Return what a pipeline makes by itself: its latents, whether it can return them or not, and its media.

    What its scheduler answers last is what it decodes.

    Args:
        model: the foreign model.
        **call: the arguments of the call.

    Returns:
        The latents as it steps them, and raw media in [-1, 1] as of `ForeignModel.decode`.
    """
    scheduler = model.pipeline.scheduler
    own = scheduler.step
    last: list[Tensor] = []

    @functools.wraps(own)  # pipelines ask its signature what it takes
    def step(*args: Any, **kwargs: Any) -> Any:
        answer = own(*args, **kwargs)
        last[:] = [answer[0] if isinstance(answer, tuple) else answer.prev_sample]
        return answer

    scheduler.step = step
    try:
        with torch.no_grad():
            media = model.pipeline(**call, **model.family.media)[0]
    finally:
        del scheduler.__dict__["step"]
    return last[0], model.raw_of(media)


def compare(
    model: ForeignModel,
    num_inference_steps: int = 2,
    sizes: Mapping[str, Any] | None = None,
    prompt: str = PROMPT_OF_CHECK,
    **more: Any,
) -> Difference:
    """Run a few steps of a pipeline, and the same by our sampler, and return how far both are apart.

    Latents are compared, and what each of them becomes when it is decoded.

    Args:
        model: the foreign model.
        num_inference_steps: the number of steps.
        sizes: sizes by our names; None for the model's own.
        prompt: the prompt, such as one with a word that the pipeline was taught.
        **more: further arguments of the pipeline, such as `ip_adapter_image`.

    Returns:
        The difference.
    """
    scale = model.guidance_scale()
    ours = sample_alone(model, [prompt], None, num_inference_steps, scale, [0], sizes, **more)
    call = model.call_for(sizes)
    theirs, media = made_by_pipeline(
        model,
        **model._arguments(
            call,
            prompt=[prompt],
            num_inference_steps=num_inference_steps,
            guidance_scale=scale,
            generator=[torch.Generator().manual_seed(0)],
            **more,
        ),
    )
    if theirs.ndim != ours.ndim:  # a pipeline that steps the frames of clips by themselves
        theirs = theirs.unflatten(0, (len(ours), -1)).transpose(1, 2)
    decoded = model.decode(ours.to(theirs.dtype), call)  # in the precision that the pipeline decodes
    return Difference(
        modality=model.modality,
        name=model.name,
        steps=num_inference_steps,
        latents=_largest(ours.float() - theirs.float()),
        media=_largest(decoded - media),
        largest=max(_largest(theirs), _largest(media)),
        dtype=model.dtype,
    )


def _largest(x: Tensor) -> float:
    """Return the largest absolute value of a tensor."""
    return float(x.abs().max())
