"""Noised towers: what a noisy latent will turn out to be, as a token of the shared prompt space.

The paper lets denoisers hear each other through cross-attention alone, and each would have to learn anew what
a prompt has taught it already. Yet the shared space is there: a tower that reads latents at any noise level
(as the noised CLIP of GLIDE does, arXiv 2112.10741, section 2.4) says *what* a partner is becoming, and every
frozen denoiser understands it, also of partners that it was never trained with. *When* things happen is what
environments are for (`codi.joint.encoders`). Letters: B batch, D width of the shared space.
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
    """A noisy latent of one modality, and the prompt that it is made of -> the mean of the tokens of all
    captions that it may have.

    The prompt is needed: what it says is certain long before the latent shows it, and must not be talked
    over. Arguments as in `EnvironmentEncoder`.
    """

    def __init__(self, context_dim: int, dim: int, **arguments: Any):
        super().__init__()
        self.trunk = EnvironmentEncoder(dim=dim, global_tokens=0, pooled=True, **arguments)
        self.prompt = zeroed(nn.Linear(context_dim, dim, bias=False))
        self.out = zeroed(nn.Linear(dim, context_dim))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, rate: float | None = None) -> Tensor:
        """x (B, *latent_shape) at the noise level t (B,), context (B, L, D) -> (B, D), the shorter the less
        can be told; `rate` as in `EnvironmentEncoder`.
        """
        return self.out(self.trunk(x, t, rate, hint=self.prompt(context.mean(1))).tokens[:, 0])


class NoisyLatentEncoders(ModelMixin, ConfigMixin, protocols.ByModality):
    """One `NoisyLatentEncoder` per modality; `latents` holds each one's latent_shape, latent_rate,
    tokens_per_step and further arguments.
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
        self.towers = nn.ModuleDict(
            {name: NoisyLatentEncoder(**{**alike, **latent}) for name, latent in latents.items()}
        )

    def by_modality(self) -> dict[Modality, NoisyLatentEncoder]:
        """The towers under their modalities."""
        return {Modality(name): tower for name, tower in self.towers.items()}

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Who is told by whom: every modality, having tokens for prompts, by all the others."""
        return {m: {Modality(name) for name in self.towers} - {m} for m in Modality}
