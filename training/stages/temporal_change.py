"""The temporal-change loss: an environment must say *when* the latent that attends to it changes.

Adapters start at zero and act through a frozen denoiser, so an encoder learns late from them what they need;
that a ball touches the floor between two frames is for it to find out. Here a small decoder, thrown away
after training, reads the environment and the prompt and predicts how much the attending modality's clean
latent changes from step to step; its error reaches the encoder directly. What changes is left
open, so that content does not drown time. No labels: the latent says itself where something happens. B batch,
L environment tokens, D their width, S steps of the attending modality along time.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codi.joint.encoders import sinusoid
from codi.models.denoisers.frames import FrameTransformer
from codi.protocols import Environment
from codi.types import Modality


class TemporalChangeDecoder(nn.Module):
    """One decoder for each attending modality; `rates` holds its latent steps per second."""

    def __init__(
        self,
        rates: Mapping[Modality, float],
        dim: int,
        context_dim: int,
        num_layers: int = 2,
        num_heads: int = 4,
    ):
        super().__init__()
        self.dim, self.rates = dim, {m.value: rate for m, rate in rates.items()}
        layer = nn.TransformerDecoderLayer(
            dim, num_heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.prompt = nn.ModuleDict({name: nn.Linear(context_dim, dim) for name in self.rates})
        self.layers = nn.ModuleDict(
            {name: nn.TransformerDecoder(layer, num_layers, nn.LayerNorm(dim)) for name in self.rates}
        )
        self.out = nn.ModuleDict({name: nn.Linear(dim, 1) for name in self.rates})

    def forward(self, modality: Modality, x_0: Tensor, env: Environment, context: Tensor) -> Tensor:
        """Squared error per sample (B,) of `changes` of x_0 (B, C, S, ...), predicted from env (B, L, D) and
        context (B, 1, .). 1: nothing is known.
        """
        name, wanted = modality.value, changes(x_0)
        # where one step ends and the next begins
        seconds = (torch.arange(wanted.shape[1], device=x_0.device) + 1) / self.rates[name]
        queries = sinusoid(seconds, self.dim) + self.prompt[name](context.mean(1))[:, None]
        return (self.out[name](self.layers[name](queries, env.tokens))[..., 0] - wanted).square().mean(1)


class WithTemporalChange(nn.Module):
    """A denoiser, and a layer that predicts from the tokens of its frame transformer how its clean latent
    changes.

    What a denoiser loses by an irregular rhythm is little beside what it loses by everything else. The layer
    asks for nothing but rhythm, at every noise level, and is thrown away after training.
    """

    def __init__(self, denoiser: nn.Module, steps: int):
        """steps: of the latent along time for each token."""
        super().__init__()
        self.denoiser = denoiser
        norm = next(m for m in denoiser.modules() if isinstance(m, FrameTransformer)).last_norm
        norm.register_forward_hook(lambda norm, given, tokens: setattr(self, "tokens", tokens))
        self.out = nn.Linear(norm.normalized_shape[0], steps)

    def forward(self, *given: Any) -> Tensor:
        """Returns the denoiser's prediction; `temporal_change_loss` reads its tokens next."""
        return self.denoiser(*given)

    def temporal_change_loss(self, x_0: Tensor) -> Tensor:
        """Squared error per sample (B,) of `changes` of x_0 (B, C, S, ...), predicted by the last pass."""
        wanted = changes(x_0)
        predicted = self.out(self.tokens).flatten(1)[:, : wanted.shape[1]]  # (B, S - 1)
        return (predicted - wanted).square().mean(1)


def changes(x_0: Tensor) -> Tensor:
    """How much a latent (B, C, S, ...) changes from each step to the next, (B, S - 1), of mean 0 and variance
    1 over time.
    """
    change = x_0.diff(dim=2).transpose(1, 2).flatten(2).square().mean(-1).sqrt()
    change = change - change.mean(1, keepdim=True)
    return change / change.std(1, keepdim=True, correction=0).clamp(min=1e-6)
