"""Noisy-latent encoders estimate what a noisy latent will become, as a token of the shared prompt space.

The paper lets denoisers attend to each other through cross-attention alone, so that each would have to learn
anew what a prompt has taught it already. Yet the shared prompt space is there: an encoder that reads latents
at any noise level (as the noised CLIP of GLIDE does, arXiv 2112.10741, section 2.4) says *what* a partner is
becoming. Every frozen denoiser understands that, also from partners that it was never trained with. *When*
things happen is what environments are for (`codi.joint.encoders`).

Letters: B batch, L prompt tokens, D width of the prompt space.
"""

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from codi import protocols
from codi.joint.encoders import EnvironmentEncoder
from codi.layers import zeroed
from codi.types import Modality


class NoisyLatentEncoder(nn.Module, protocols.NoisyLatentEncoder):
    """The noisy-latent encoder of one modality.

    It estimates the mean of the tokens of all captions that a noisy latent may have, given the prompt from
    which the latent is generated. The prompt is needed: what it says is certain long before the latent shows
    it, and an estimate must not contradict it.

    Args:
        context_dim: D, the width of the prompt space.
        dim: the width of the encoder.
        **arguments: further arguments of its trunk, an `EnvironmentEncoder`.

    Attributes:
        trunk_class: the class of the trunk.
    """

    trunk_class: type[EnvironmentEncoder] = EnvironmentEncoder

    def __init__(self, context_dim: int, dim: int, **arguments: Any):
        super().__init__()
        self.trunk = self.trunk_class(dim=dim, global_tokens=0, pooled=True, **arguments)
        self.prompt = zeroed(nn.Linear(context_dim, dim, bias=False))
        # An encoder that was never trained estimates zeros, which change no prompt (`fuse_prompt`).
        self.out = zeroed(nn.Linear(dim, context_dim))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, rate: float | None = None) -> Tensor:
        """Return the estimated token (B, D), the shorter the less can be told.

        Args:
            x: (B, *latent_shape) noisy latents.
            t: (B,) their timesteps.
            context: (B, L, D) the prompt tokens from which they are generated.
            rate: latent steps per second, where it differs from the configured rate.

        Returns:
            (B, D).
        """
        return self.estimated(self.trunk(x, t, rate, hint=self.hint(context)))

    def hint(self, context: Tensor) -> Tensor:
        """Return what the trunk is told of the prompt tokens (B, L, D), in its own width."""
        return self.prompt(context.mean(1))

    def estimated(self, environment: protocols.Environment) -> Tensor:
        """Return the token (B, D) that the pooled environment of a latent stands for."""
        return self.out(environment.tokens[:, 0])


class NoisyLatentEncoders(ModelMixin, ConfigMixin, protocols.ByModality):
    """The noisy-latent encoders of a model, one `NoisyLatentEncoder` for each modality.

    Args:
        latents: by the name of a modality, the latent_shape, latent_rate, tokens_per_step and further
            arguments of its encoder.
        context_dim: D, the width of the prompt space.
        dim: the width of the encoders.
        num_layers: as in `EnvironmentEncoder`.
        num_heads: as in `EnvironmentEncoder`.
    """

    @register_to_config
    def __init__(
        self,
        latents: dict[str, dict[str, Any]],
        context_dim: int = 128,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
    ):
        super().__init__()
        alike = dict(context_dim=context_dim, dim=dim, num_layers=num_layers, num_heads=num_heads)
        self.towers = nn.ModuleDict()
        for name, latent in latents.items():
            self.towers[name] = NoisyLatentEncoder(**{**alike, **latent})

    def by_modality(self) -> dict[Modality, NoisyLatentEncoder]:
        """Return the encoders by their modalities."""
        return {Modality(name): tower for name, tower in self.towers.items()}

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Return the modalities whose estimates each modality is given: all others that have an encoder.

        Every modality is given some, because every one takes prompt tokens.
        """
        estimated = {Modality(name) for name in self.towers}
        return {m: estimated - {m} for m in Modality}
