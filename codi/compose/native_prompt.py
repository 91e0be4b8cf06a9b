"""What a pipeline gives its own denoiser besides latent and timestep, as one value for a batch.

It may be anything: token sequences, pooled vectors, masks, sizes, rotary embeddings. Tensors whose rows
belong to samples are told from those that are the same for all (`codi.compose.tap`), and that is all that
has to be known to batch prompts, select among them and repeat them.

Letters: B batch, L tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from codi.protocols import PromptBatch
from codi.types import InputError


@dataclass(frozen=True, kw_only=True)
class NativePrompt(PromptBatch):
    """The arguments of a foreign denoiser for B samples, without latent and timestep.

    Attributes:
        leaves: the leaves of the tree of arguments: tensors and anything else.
        by_sample: for each leaf, whether its rows belong to samples: k rows in turn for each of them.
        spec: how the tree is put together again.
        rows: B.
        dtype: the precision in which the pipeline gives its latent to the denoiser.
    """

    leaves: tuple[Any, ...]
    by_sample: tuple[bool, ...]
    spec: Any
    rows: int
    dtype: torch.dtype

    @classmethod
    def of(
        cls, arguments: Mapping[str, Any], by_sample: Sequence[bool], rows: int, dtype: Any
    ) -> "NativePrompt":
        """Return the prompt that holds these arguments of a denoiser.

        Args:
            arguments: by name, without latent and timestep.
            by_sample: for each leaf of their tree, whether its rows belong to samples.
            rows: the number of samples.
            dtype: the precision of the latent.

        Returns:
            The prompt.
        """
        leaves, spec = pytree.tree_flatten(dict(arguments))
        return cls(leaves=tuple(leaves), by_sample=tuple(by_sample), spec=spec, rows=rows, dtype=dtype)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return pytree.tree_unflatten(list(self.leaves), self.spec)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one row of each leaf whose rows belong to samples."""
        found = []
        for leaf, mine in zip(self.leaves, self.by_sample, strict=True):
            if mine:
                found.append((len(leaf) // self.rows, *leaf.shape[1:]))
        return tuple(found)

    def __len__(self) -> int:
        return self.rows

    @staticmethod
    def cat(prompts: "Sequence[NativePrompt]") -> "NativePrompt":
        """Return the samples of several prompts of one pipeline, one prompt after another."""
        first = prompts[0]
        leaves = []
        for by_sample, parts in zip(
            first.by_sample, zip(*(prompt.leaves for prompt in prompts)), strict=True
        ):
            leaves.append(torch.cat(parts) if by_sample else parts[0])
        return replace(first, leaves=tuple(leaves), rows=sum(map(len, prompts)))

    @staticmethod
    def interpolate(prompts: "Sequence[NativePrompt]", weights: Tensor) -> "NativePrompt":
        """Return prompts that combine, as CoDi combines tokens (arXiv 2305.11846, section 3.2).

        Args:
            prompts: K prompts of the same B samples.
            weights: (B, K) how much each of them counts.

        Returns:
            The weighted means of all floating-point tensors whose rows belong to samples; anything else is the
            first prompt's.

        Raises:
            InputError: where they differ in shape.
        """
        first = prompts[0]
        shares = weights / weights.sum(1, keepdim=True)
        leaves = []
        for by_sample, parts in zip(
            first.by_sample, zip(*(prompt.leaves for prompt in prompts)), strict=True
        ):
            if not by_sample or not parts[0].is_floating_point():
                leaves.append(parts[0])
                continue
            if any(part.shape != parts[0].shape for part in parts):
                raise InputError(
                    "sentences of different lengths cannot be combined for this model: expected one sentence"
                )
            rows = [part.unflatten(0, (first.rows, -1)) for part in parts]
            shape = (-1, *[1] * (rows[0].ndim - 1))
            mean = sum(share.to(row).view(shape) * row for share, row in zip(shares.T, rows, strict=True))
            leaves.append(mean.flatten(0, 1))
        return replace(first, leaves=tuple(leaves))

    def select(self, rows: Sequence[int]) -> "NativePrompt":
        """Return the samples of these numbers, in this order."""
        index = torch.tensor(list(rows))

        def picked(leaf: Tensor) -> Tensor:
            by_row = leaf.unflatten(0, (self.rows, len(leaf) // self.rows))
            return by_row[index.to(leaf.device)].flatten(0, 1)

        leaves = [
            picked(leaf) if mine else leaf for leaf, mine in zip(self.leaves, self.by_sample, strict=True)
        ]
        return replace(self, leaves=tuple(leaves), rows=len(index))

    def split(self, size: int) -> "list[NativePrompt]":
        """Return prompts of `size` samples each, in order."""
        return [self.select(range(start, start + size)) for start in range(0, self.rows, size)]

    def with_arguments(self, changed: Mapping[str, Any]) -> "NativePrompt":
        """Return the prompt with other values in place of some arguments, which have the same form."""
        leaves, spec = pytree.tree_flatten(self.arguments() | dict(changed))
        assert spec == self.spec, f"another form of arguments: {spec}, not {self.spec}"
        return replace(self, leaves=tuple(leaves))

    def tensors(self) -> dict[str, Tensor]:
        """Return, by name, the arguments that are floating-point tensors whose rows belong to samples."""
        names = list(self.arguments())
        found = {}
        for name, value in self.arguments().items():
            if isinstance(value, Tensor) and value.is_floating_point() and self._belongs(name, names):
                found[name] = value
        return found

    def _belongs(self, name: str, names: Sequence[str]) -> bool:
        """Return whether the rows of a single argument belong to samples."""
        marks = pytree.tree_unflatten(list(self.by_sample), self.spec)
        return marks[name] is True
