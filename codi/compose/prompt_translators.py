"""Prompts of any modality for frozen models that were trained on text alone.

A foreign model takes its text natively. Of anything else codi has one token in the shared prompt space, read
through the caption prior (`codi.joint.caption_prior`), that is, as the captions that go with it. From this
token a small network regresses what the model's own pipeline gives its denoiser for such a caption: token
sequences, pooled vectors, class labels. It is trained on captions alone; neither the denoiser nor any medium
takes part. unCLIP's prior goes the same way from text to pictures (arXiv 2204.06125), and ELLA
(arXiv 2403.05135) replaces a frozen model's text context likewise.

Letters: B batch, D width of the prompt space, P positions of a context (one for a vector), W its width, L
tokens of a masked sequence, R rank, H width of the network.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from codi.compose.native_prompt import NativePrompt, with_length
from codi.types import InputError, Modality

# The least deviation of a channel, as a share of that of all: what hardly changes from caption to caption
# must not be magnified into what counts most.
LEAST_DEVIATION = 0.1
SAME = 1e-6  # what differs by no more between captions says nothing of them


class ContextHead(nn.Module):
    """Regresses one native context (B, *shape) from features (B, H), and keeps its statistics.

    A long context is factorised: R coefficients for each of P positions, and one map from R to W channels for
    all of them. A context of 512 x 4096 would else need a thousand times as many weights.

    Args:
        hidden: H.
        shape: the shape of the context of one sample; its last axis is W, all before it are P.
        rank: the greatest R.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, shape: Sequence[int], rank: int):
        super().__init__()
        self.shape = tuple(shape)
        width = self.shape[-1]
        positions = math.prod(self.shape[:-1])
        inner = min(rank, width) if positions > 1 else width
        self.coefficients = nn.Linear(hidden, positions * inner)
        self.basis = nn.Linear(inner, width, bias=False) if inner < width else nn.Identity()
        # NaN until they are measured, so that nobody forgets to
        self.register_buffer("mean", torch.full((positions, width), math.nan))
        self.register_buffer("deviation", torch.full((width,), math.nan))

    def forward(self, features: Tensor) -> Tensor:
        """Return the context (B, P, W) of features (B, H), normalised."""
        return self.basis(self.coefficients(features).unflatten(1, (len(self.mean), -1)))

    def restore(self, normalised: Tensor) -> Tensor:
        """Return a normalised context (B, P, W) on its own scale, (B, *shape)."""
        return (
            (normalised * self.deviation + self.mean)
            .unflatten(1, self.shape[:-1] or (1,))
            .reshape(len(normalised), *self.shape)
        )

    def normalise(self, context: Tensor) -> Tensor:
        """Return a context (B, *shape) of captions as (B, P, W) with mean 0 and a variance of about 1."""
        flat = context.float().reshape(len(context), *self.mean.shape)
        return (flat - self.mean) / self.deviation

    @torch.no_grad()
    def measure(self, context: Tensor, weight: Tensor | None) -> None:
        """Set the statistics from the contexts (N, *shape) of N captions.

        The mean is that of each element. The deviation is that of each channel over all positions: T5's
        channels differ a hundredfold, its positions do not.

        Args:
            context: the contexts.
            weight: (N, P) which positions count; None for all.
        """
        flat = context.float().reshape(len(context), *self.mean.shape)
        counts = torch.ones_like(flat[..., :1]) if weight is None else weight.to(flat)[..., None]
        self.mean.copy_((flat * counts).sum(0) / counts.sum(0).clamp(min=1))
        variance = ((flat - self.mean).square() * counts).sum((0, 1)) / counts.sum()
        least = LEAST_DEVIATION * variance.mean().sqrt()
        self.deviation.copy_(variance.sqrt().clamp(min=float(least.clamp(min=SAME))))


class PromptTranslator(nn.Module):
    """Regresses all that one pipeline gives its denoiser for a caption, from the caption's token.

    Args:
        dim: D, the width of the prompt space.
        contexts: the shape of each context without the batch, by name (`NativePrompt.names`).
        masks: the length L of each mask by name; a mask belongs to the contexts of that length.
        hidden: H.
        layers: residual layers of the network.
        rank: the greatest R of a context.
    """

    def __init__(
        self,
        dim: int,
        contexts: Mapping[str, Sequence[int]],
        masks: Mapping[str, int],
        hidden: int,
        layers: int,
        rank: int,
    ):
        super().__init__()
        self.names = {_key(name): name for name in contexts}
        self.mask_names = {_key(name): name for name in masks}
        self.lengths = dict(masks)
        self.entry = nn.Linear(dim, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
            )
            for _ in range(layers)
        )
        self.heads = nn.ModuleDict(
            {key: ContextHead(hidden, contexts[name], rank) for key, name in self.names.items()}
        )
        self.mask_heads = nn.ModuleDict(
            {key: nn.Linear(hidden, masks[name]) for key, name in self.mask_names.items()}
        )

    def features(self, token: Tensor) -> Tensor:
        """Return the features (B, H) of tokens (B, 1, D), which are of length one."""
        x = token.to(self.entry.weight)[:, 0]
        h = functional.gelu(self.entry(x * x.shape[1] ** 0.5))
        for layer in self.layers:
            h = h + layer(h)
        return h

    def forward(self, token: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what captions are given that have this token.

        Args:
            token: (B, 1, D) tokens of the prompt space.

        Returns:
            The contexts (B, *shape) by name, and for each mask the logits (B, L) of its positions.
        """
        h = self.features(token)
        contexts = {
            self.names[key]: head.restore(head(h).float())  # type: ignore[operator]
            for key, head in self.heads.items()
        }
        return contexts, {self.mask_names[key]: head(h).float() for key, head in self.mask_heads.items()}

    def loss(self, token: Tensor, prompt: NativePrompt) -> dict[str, Tensor]:
        """Return the losses (B,), by name, of tokens (B, 1, D) whose captions were encoded as `prompt`.

        Those of contexts are mean squares in units of the captions' own variance, those of masks cross-
        entropies. What a mask leaves out does not count.
        """
        h = self.features(token)
        contexts, masks = self.targets(prompt)
        losses = {}
        for key, head in self.heads.items():
            context = contexts[self.names[key]]
            squares = (head(h).float() - head.normalise(context)).square().mean(-1)  # type: ignore[operator]
            counts = torch.ones_like(squares)
            if (mask := self._mask_of(head.shape, masks)) is not None:  # type: ignore[arg-type]
                counts = mask.to(squares)
            losses[self.names[key]] = (squares * counts).sum(1) / counts.sum(1).clamp(min=1)
        for key, head in self.mask_heads.items():
            mask = masks[self.mask_names[key]].to(h)
            entropy = functional.binary_cross_entropy_with_logits(head(h), mask, reduction="none")
            losses[self.mask_names[key]] = entropy.float().mean(1)
        return losses

    def measure(self, prompt: NativePrompt) -> None:
        """Set the statistics of all contexts from N captions that the pipeline encoded as `prompt`."""
        contexts, masks = self.targets(prompt)
        for key, head in self.heads.items():
            mask = self._mask_of(head.shape, masks)  # type: ignore[arg-type]
            head.measure(contexts[self.names[key]], mask)  # type: ignore[operator]

    def targets(self, prompt: NativePrompt) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the contexts (B, *shape) and the masks (B, L) of a native prompt, at the lengths here."""
        found = {name: of_samples(name, prompt) for name in self.names.values()}
        masks = {
            name: with_length(prompt.masks()[name], self.lengths[name]) for name in self.mask_names.values()
        }
        contexts = {}
        for key, head in self.heads.items():
            name = self.names[key]
            context = found[name]
            shape: tuple[int, ...] = head.shape  # type: ignore[assignment]
            if self._mask_of(shape, masks) is not None:
                context = with_length(context, shape[0])
            if context.shape[1:] != shape:
                raise InputError(
                    f"{name} is {tuple(context.shape[1:])}, and the prompt translators were made for {shape}"
                    ": expected the pipeline that they were trained with"
                )
            contexts[name] = context
        return contexts, masks

    @staticmethod
    def _mask_of(shape: Sequence[int], masks: Mapping[str, Tensor]) -> Tensor | None:
        """Return the mask (B, L) of contexts of this shape; None for those without one."""
        if len(shape) < 2:
            return None
        return next((mask for mask in masks.values() if mask.shape[1] == shape[0]), None)


class PromptTranslators(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The prompt translators of a composed model, one for each of its frozen models that has any.

    Args:
        dim: D, the width of the prompt space.
        contexts: by modality of the output, the shape without the batch of every context that captions
            change, by name (`NativePrompt.names`).
        masks: by modality, the length of every mask that captions change, by name.
        hidden: the width of the networks.
        layers: their residual layers.
        rank: how many coefficients stand for the channels of a position of a long context.
    """

    @register_to_config
    def __init__(
        self,
        dim: int,
        contexts: dict[str, dict[str, Sequence[int]]],
        masks: dict[str, dict[str, int]],
        hidden: int = 512,
        layers: int = 2,
        rank: int = 64,
    ):
        super().__init__()
        self.translators = nn.ModuleDict(
            {
                modality: PromptTranslator(dim, shapes, masks.get(modality, {}), hidden, layers, rank)
                for modality, shapes in contexts.items()
            }
        )

    def by_modality(self) -> dict[Modality, PromptTranslator]:
        """Return the translators by the modality of the output."""
        there = [m for m in Modality if m.value in self.translators]
        return {m: self.of(m) for m in there}

    def modalities(self) -> list[Modality]:
        """Return the outputs that there is a translator for."""
        return list(self.by_modality())

    def of(self, modality: Modality) -> PromptTranslator:
        """Return the translator for the output of one modality. Raises `InputError` where there is none."""
        if modality.value not in self.translators:
            raise InputError(
                f"there is no prompt translator for {modality}: expected one of "
                f"{', '.join(self.translators) or 'none'}; train them with configs/compose/prompts.yaml, or "
                "prompt with text"
            )
        return self.translators[modality.value]  # type: ignore[return-value]

    @torch.no_grad()
    def translate(self, modality: Modality, token: Tensor, like: NativePrompt) -> NativePrompt:
        """Return what a frozen model would be given for captions that have these tokens.

        A mask comes from the token as well: it has those positions that captions with this token have.

        Args:
            modality: what the model makes.
            token: (B, 1, D) tokens of the shared prompt space, from `CoDiPipeline.encode_prompt`.
            like: B prompts of the model's pipeline, of any sentence, from which comes whatever captions do
                not change: sizes, positions, the guidance scale.

        Returns:
            B prompts.
        """
        assert len(token) == len(like), f"{len(token)} tokens for {len(like)} prompts"
        contexts, masks = self.of(modality)(token)
        there = dict(zip(like.names, like.leaves, strict=True))
        changed = {name: _as_rows(x, there[name], len(like)) for name, x in contexts.items()}
        for name, logits in masks.items():
            # the likeliest position always counts: attention to nothing at all is not a number
            kept = (logits > 0) | (logits == logits.amax(1, keepdim=True))
            changed[name] = kept.to(there[name])
        return like.with_arguments(changed)

    @torch.no_grad()
    def refit(self, modality: Modality, like: NativePrompt, token: Tensor, fused: Tensor) -> NativePrompt:
        """Return a prompt that says as well what partner estimates add to it (`Denoiser.refit`).

        What the translator makes of the fused token beyond what it makes of the prompt's own is added to the
        prompt, so that one that partners leave as it was stays exact.

        Args:
            modality: what the model makes.
            like: B native prompts.
            token: (B, 1, D) the same prompts in the shared prompt space, zeros for one that nothing reads.
            fused: (B, 1, D) these, fused with what the partners seem to become.

        Returns:
            B prompts, exactly `like` in those rows in which `fused` equals `token` or `token` is zeros.
        """
        translator = self.of(modality)
        before, _ = translator(token.expand(len(like), -1, -1))
        after, _ = translator(fused.expand(len(like), -1, -1))
        same = ((token == fused).flatten(1).all(1) | ~token.flatten(1).any(1)).expand(len(like))
        there = dict(zip(like.names, like.leaves, strict=True))
        lengths = like.masked_lengths()
        changed = {}
        for name, context in after.items():
            own = there[name]
            added = context - before[name]
            added[same.to(added.device)] = 0
            if added.ndim > 2 and own.shape[1] in lengths:  # padded to the longest prompt of its batch
                added = with_length(added, own.shape[1])
            changed[name] = own + _as_rows(added, own, len(like))
        return like.with_arguments(changed)


def find_contexts(
    prompts: Sequence[NativePrompt], name: str = "the pipeline"
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Find out which arguments of a denoiser depend on the caption.

    Args:
        prompts: native prompts of many captions, of one pipeline and of one size.
        name: what the pipeline is called in messages.

    Returns:
        The shape without the batch of every context, and the length of every mask, by name; the lengths of
        masked sequences are the greatest that there are.

    Raises:
        InputError: for a pipeline that gives its denoiser the same for all captions, and for one whose
            contexts differ in length and have no mask.
    """
    joined = NativePrompt.cat(prompts)
    masks = {key: mask.shape[1] for key, mask in joined.masks().items() if _varies(mask)}
    contexts = {}
    for key in joined.tensors():
        rows = of_samples(key, joined)
        if _varies(rows):
            contexts[key] = list(rows.shape[1:])
    if not contexts:
        raise InputError(f"{name} gives its denoiser the same for all captions: expected one that reads them")
    return contexts, masks


def of_samples(name: str, prompt: NativePrompt) -> Tensor:
    """Return an argument of a prompt as (B, ...), one row a sample: frames of a clip share their context."""
    x = prompt.tensors()[name]
    return x[:: len(x) // len(prompt)]


def _varies(rows: Tensor) -> bool:
    """Return whether rows (N, ...) differ."""
    return bool((rows.float() - rows[:1].float()).abs().max() > SAME)


def _as_rows(x: Tensor, like: Tensor, samples: int) -> Tensor:
    """Return (B, ...) in the precision of an argument, with as many rows for each sample as that has."""
    return x.to(like).repeat_interleave(len(like) // samples, 0)


def _key(name: str) -> str:
    """Return the name of an argument as modules may be called."""
    return name.replace(".", "/")


def num_parameters(
    dim: int, contexts: Mapping[str, Sequence[int]], masks: Mapping[str, int], **settings: Any
) -> int:
    """Return how many parameters a translator of these contexts has; it is built without memory."""
    with torch.device("meta"):
        translator = PromptTranslator(dim, contexts, masks, **settings)
    return sum(p.numel() for p in translator.parameters())
