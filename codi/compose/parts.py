"""Reach the parts of a composed pipeline, and move them: the pipelines of others, and what is ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from codi.compose.foreign import ForeignModel
from codi.types import InputError, Modality


class PartsMixin:
    """The part of a composed pipeline that holds its parts.

    Attributes:
        models: the foreign models by what they make.
        text_model: a `codi.pipeline.CoDiPipeline`, or None.
        environment_encoders: the environment encoders of the foreign latents, or None.
        joint_adapters: the adapters by which networks attend to their partners, or None.
        translators: the networks that translate prompts of other modalities, or None.
        noisy_latent_encoders: those of the foreign latents, or None.
        decoupled_attention: what lets networks attend to prompts that are no sentences, or None.
        image_upscaler: what makes decoded pictures and clips larger, or None.
        name: what it is called in records.
    """

    models: dict[Modality, ForeignModel]
    text_model: Any
    environment_encoders: Any
    joint_adapters: Any
    translators: Any
    noisy_latent_encoders: Any
    decoupled_attention: Any
    image_upscaler: Any
    name: str | None
    _bar: Mapping[str, Any]  # options of the progress bar

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
            "decoupled_attention": self.decoupled_attention,
            "image_upscaler": self.image_upscaler,
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

    def to(self, *args: Any, **kwargs: Any) -> Self:
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
