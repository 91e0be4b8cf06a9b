"""The temporal-change loss: an environment must say *when* the latent that attends to it changes.

Adapters start at zero and act through a frozen denoiser, so an encoder learns from them only late what they
need. Nothing else tells it, for example, that a ball touches the floor between two frames. Here a small
decoder, thrown away after training, reads the environment and the prompt, and predicts how much the attending
modality's clean latent changes from step to step; its error reaches the encoder directly. What changes is
left open, so that content does not drown time. There are no labels: the latent itself says where something
happens.

Letters: B batch, C channels, L environment tokens, D their width, S steps of the attending modality along
time.
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
    """Decoders that predict from an environment how a latent changes, one for each attending modality.

    Args:
        rates: the attending modalities, each with its latent steps per second.
        dim: the width D of an environment token.
        context_dim: the width of a prompt token; 1 for decoders that are given none.
        num_layers: the layers of each decoder.
        num_heads: the attention heads of each layer.
    """

    def __init__(
        self,
        rates: Mapping[Modality, float],
        dim: int,
        context_dim: int,
        num_layers: int = 2,
        num_heads: int = 4,
    ):
        super().__init__()
        self.dim = dim
        self.rates = {m.value: rate for m, rate in rates.items()}
        layer = nn.TransformerDecoderLayer(
            dim, num_heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.prompt = nn.ModuleDict({name: nn.Linear(context_dim, dim) for name in self.rates})
        self.layers = nn.ModuleDict(
            {name: nn.TransformerDecoder(layer, num_layers, nn.LayerNorm(dim)) for name in self.rates}
        )
        self.out = nn.ModuleDict({name: nn.Linear(dim, 1) for name in self.rates})

    def forward(
        self,
        modality: Modality,
        x_0: Tensor,
        env: Environment,
        context: Tensor | None = None,
        seconds: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the squared error (B,) with which `changes` of a latent are predicted.

        Args:
            modality: the attending modality.
            x_0: its clean latents, (B, C, S, ...).
            env: the environment that it attends to, with tokens (B, L, D).
            context: the prompt tokens, (B, 1, context_dim); None for decoders that are given none.
            seconds: (S,) the mid-points of the steps, where they are not even.
            mask: (B, C, S, ...) boolean, which latent values are content; None for all.

        Returns:
            The mean over the S - 1 transitions, for each sample; 1 is the error of knowing nothing.
            Transitions to padding do not count.
        """
        name = modality.value
        counted = transitions(mask)
        wanted = changes(x_0, counted)
        # queries stand where one step ends and the next begins
        if seconds is None:
            between = (torch.arange(wanted.shape[1], device=x_0.device) + 1) / self.rates[name]
        else:
            between = ((seconds[1:] + seconds[:-1]) / 2).to(x_0.device)
        if context is None:
            context = x_0.new_zeros(len(x_0), 1, 1)
        queries = sinusoid(between, self.dim) + self.prompt[name](context.mean(1))[:, None]
        predicted = self.out[name](self.layers[name](queries, env.tokens))[..., 0]
        return _mean((predicted - wanted).square(), counted)


class WithTemporalChange(nn.Module):
    """A denoiser with a layer that predicts from its frame transformer's tokens how the clean latent changes.

    A denoiser that gets a rhythm wrong loses little by it beside what it loses by everything else. The layer
    asks for nothing but rhythm, at every noise level, and is thrown away after training.

    Args:
        denoiser: the denoiser, with a frame transformer along time.
        steps: the number of latent steps along time for which each token stands.
    """

    def __init__(self, denoiser: nn.Module, steps: int):
        super().__init__()
        self.denoiser = denoiser
        norm = next(m for m in denoiser.modules() if isinstance(m, FrameTransformer)).last_norm
        # the denoiser's own forward returns no tokens, so a hook keeps them
        norm.register_forward_hook(lambda norm, given, tokens: setattr(self, "tokens", tokens))
        self.out = nn.Linear(norm.normalized_shape[0], steps)

    def forward(self, *given: Any) -> Tensor:
        """Return the denoiser's prediction, and keep its tokens, which `temporal_change_loss` reads next."""
        return self.denoiser(*given)

    def temporal_change_loss(self, x_0: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the squared error of the last pass in predicting `changes` of latents.

        Args:
            x_0: clean latents, (B, C, S, ...).
            mask: (B, C, S, ...) boolean, which latent values are content; None for all.

        Returns:
            (B,).
        """
        counted = transitions(mask)
        wanted = changes(x_0, counted)
        predicted = self.out(self.tokens).flatten(1)[:, : wanted.shape[1]]  # (B, S - 1)
        return _mean((predicted - wanted).square(), counted)


def changes(x_0: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return how much a latent (B, C, S, ...) changes from each step to the next.

    Args:
        x_0: clean latents.
        counted: (B, S - 1) boolean, which transitions are between steps of content; None for all.

    Returns:
        (B, S - 1) root mean squares of the differences, standardised to mean 0 and variance 1 over time.
    """
    change = x_0.diff(dim=2).transpose(1, 2).flatten(2).square().mean(-1).sqrt()
    # a latent that never changes has no deviation to divide by: it stays at zero
    if counted is None:
        change = change - change.mean(1, keepdim=True)
        return change / change.std(1, keepdim=True, correction=0).clamp(min=1e-6)
    change = change - _mean(change, counted)[:, None]
    return change / _mean(change.square(), counted).sqrt()[:, None].clamp(min=1e-6)


def transitions(mask: Tensor | None) -> Tensor | None:
    """Return which steps of latents (B, C, S, ...), and the ones before them, have content: (B, S - 1)."""
    if mask is None:
        return None
    steps = mask.transpose(1, 2).flatten(2).any(-1)
    return steps[:, 1:] & steps[:, :-1]


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Return the mean (B,) of the values (B, S) that count."""
    if counted is None:
        return values.mean(1)
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)
