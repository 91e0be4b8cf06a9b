"""Autoencoder and prompt tower of `tests.event_times`."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from codi.models.conditioning import Bridge
from codi.protocols import Autoencoder, PromptEncoder
from tests import tiny_pipeline
from tests.event_times import STEPS, WIDTH


class EventAutoencoder(ModelMixin, ConfigMixin, Autoencoder):
    """(B, 1, T) <-> (B, WIDTH)."""

    @register_to_config
    def __init__(self, steps: int = STEPS, width: int = WIDTH):
        super().__init__()
        self.down, self.up = nn.Linear(steps, width), nn.Linear(width, steps)

    @property
    def latent_shape(self) -> tuple[int]:
        return (self.config.width,)

    @apply_forward_hook
    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.down(raw[:, 0].to(self.dtype))

    @apply_forward_hook
    def decode(self, latent: Tensor) -> Tensor:
        return self.up(latent)[:, None].tanh()


class EventTower(ModelMixin, ConfigMixin, PromptEncoder):
    """(B, 1, T) -> unit tokens (B, D)."""

    @register_to_config
    def __init__(self, steps: int = STEPS, dim: int = tiny_pipeline.DIM):
        super().__init__()
        self.layer, self.dim, self.bridge = nn.Linear(steps, dim), dim, Bridge(dim)

    def features(self, raw: Tensor) -> Tensor:
        return self.layer(raw[:, 0].to(self.dtype))

    @apply_forward_hook
    def embed(self, raw: Tensor) -> Tensor:
        return self.bridge(self.features(raw))
