"""What a pipeline gives its own denoiser besides latent and timestep, as one value for a batch.

It may be anything: token sequences, pooled vectors, masks, sizes, rotary embeddings. Tensors whose rows
belong to samples are told from those that are the same for all (`codi.compose.tap`), and that is all that
has to be known to batch prompts, select among them and repeat them.

Letters: B batch, L tokens, D width.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from codi.protocols import PromptBatch
from codi.types import InputError

# By these words networks of diffusers call a sequence and its mask, whose names are the same otherwise.
SEQUENCE, MASK = "hidden_states", "attention_mask"


@dataclass(frozen=True, kw_only=True)
class NativePrompt(PromptBatch):
    """The arguments of a foreign denoiser for B samples, without latent and timestep.

    Attributes:
        leaves: the leaves of the tree of arguments: tensors and anything else.
        by_sample: for each leaf, whether its rows belong to samples: k rows in turn for each of them.
        spec: how the tree is put together again.
        rows: B.
        dtype: the precision in which the pipeline gives its latent to the denoiser.
        token: (B, 1, D) a prompt of the shared space beside the pipeline's own, for decoupled attention
            (`codi.compose.decoupled_attention`); zeros for a sample without one, None where no
            sample has one.
    """

    leaves: tuple[Any, ...]
    by_sample: tuple[bool, ...]
    spec: Any
    rows: int
    dtype: torch.dtype
    token: Tensor | None = None

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
        """Return the samples of several prompts of one pipeline, one prompt after another.

        Sequences that come with a mask may differ in length, because pipelines pad them to the longest of a
        batch: shorter ones are filled up with zeros, which their masks leave out.
        """
        first = prompts[0]
        lengths = {length for prompt in prompts for length in prompt.masked_lengths()}
        leaves = []
        for by_sample, parts in zip(
            first.by_sample, zip(*(prompt.leaves for prompt in prompts)), strict=True
        ):
            leaves.append(torch.cat(_as_long(parts, lengths)) if by_sample else parts[0])
        tokens = [prompt.token for prompt in prompts]
        return replace(
            first, leaves=tuple(leaves), rows=sum(map(len, prompts)), token=_cat_tokens(tokens, prompts)
        )

    @staticmethod
    def interpolate(prompts: "Sequence[NativePrompt]", weights: Tensor) -> "NativePrompt":
        """Return prompts that combine, as CoDi combines tokens (arXiv 2305.11846, section 3.2).

        Sequences that come with a mask may differ in length: shorter ones are filled up. Each token is then
        the mean of those prompts that reach it, and the mask of all says where any of them does.

        Args:
            prompts: K prompts of the same B samples.
            weights: (B, K) how much each of them counts.

        Returns:
            The weighted means of all floating-point tensors whose rows belong to samples; anything else but
            masks is the first prompt's.

        Raises:
            InputError: where they differ in shape without a mask.
        """
        first = prompts[0]
        shares = weights / weights.sum(1, keepdim=True)
        reached = _reached(prompts, shares)
        leaves = []
        for name, by_sample, parts in zip(
            first.names, first.by_sample, zip(*(prompt.leaves for prompt in prompts)), strict=True
        ):
            if not by_sample:
                leaves.append(parts[0])
            elif (own := reached.get(name.replace(MASK, SEQUENCE))) is None:
                _check_shapes(name, parts)
                leaves.append(_mean(parts, list(shares.T)) if parts[0].is_floating_point() else parts[0])
            elif MASK in name:
                leaves.append(own.any(0).to(parts[0]))
            else:
                parts = tuple(with_length(part, own.shape[2]) for part in parts)
                leaves.append(_mean(parts, list(_shares_of_tokens(shares, own))))
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
        token = None if self.token is None else self.token[index.to(self.token.device)]
        return replace(self, leaves=tuple(leaves), rows=len(index), token=token)

    def split(self, size: int) -> "list[NativePrompt]":
        """Return prompts of `size` samples each, in order."""
        return [self.select(range(start, start + size)) for start in range(0, self.rows, size)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the leaves: those of the arguments, and of what lies in them behind a dot."""
        paths, _ = pytree.tree_flatten_with_path(self.arguments())
        return tuple(".".join(map(_key, path)) for path, _ in paths)

    def with_arguments(self, changed: Mapping[str, Any]) -> "NativePrompt":
        """Return the prompt with other values in place of some leaves.

        Args:
            changed: the values by the names of the leaves (`names`).

        Returns:
            The prompt.
        """
        names = self.names
        assert changed.keys() <= set(names), f"no arguments {sorted(changed.keys() - set(names))}: {names}"
        leaves = [changed.get(name, leaf) for name, leaf in zip(names, self.leaves, strict=True)]
        return replace(self, leaves=tuple(leaves))

    def with_token(self, token: Tensor | None) -> "NativePrompt":
        """Return the prompt with a token (B, 1, D) for decoupled attention, or with none."""
        assert token is None or len(token) == self.rows, f"{len(token)} tokens for {self.rows} samples"
        return replace(self, token=token)

    def tensors(self) -> dict[str, Tensor]:
        """Return the floating-point tensors whose rows belong to samples, by the names of the leaves."""
        return {name: x for name, x in self._of_samples().items() if x.is_floating_point()}

    def masks(self) -> dict[str, Tensor]:
        """Return the masks of sequences, by name: (B, L) of whole numbers or booleans, one row a sample."""
        found = {}
        for name, x in self._of_samples().items():
            if not x.is_floating_point() and x.ndim == 2 and len(x) == self.rows:
                found[name] = x
        return found

    def masked_lengths(self) -> set[int]:
        """Return the lengths L of those sequences that come with a mask."""
        return {mask.shape[1] for mask in self.masks().values()}

    def _of_samples(self) -> dict[str, Tensor]:
        """Return all tensors whose rows belong to samples, by name."""
        marked = zip(self.names, self.leaves, self.by_sample, strict=True)
        return {name: leaf for name, leaf, by_sample in marked if by_sample}


def _key(key: Any) -> str:
    """Return the name of one step of a path in a tree: a key, or a place in a sequence."""
    return str(key.idx if isinstance(key, pytree.SequenceKey) else key.key)


def _reached(prompts: Sequence[NativePrompt], shares: Tensor) -> dict[str, Tensor]:
    """Return which tokens of each sequence with a mask are there, by the name of the sequence.

    Args:
        prompts: K prompts of the same B samples.
        shares: (B, K) how much each of them counts; of one that does not, no token is there.

    Returns:
        (K, B, L) booleans by name, L being the longest of the K sequences.
    """
    counts = (shares > 0).T[..., None]
    sequences = prompts[0].tensors()
    found = {}
    for name in prompts[0].masks():
        if MASK in name and name.replace(MASK, SEQUENCE) in sequences:
            masks = [prompt.masks()[name] for prompt in prompts]
            longest = max(mask.shape[1] for mask in masks)
            there = torch.stack([with_length(mask, longest) > 0 for mask in masks])
            found[name.replace(MASK, SEQUENCE)] = there & counts.to(there.device)
    return found


def _shares_of_tokens(shares: Tensor, reached: Tensor) -> Tensor:
    """Return how much each prompt counts at each token.

    Prompts share a token that several reach. One that none reaches is masked, and shared by all.

    Args:
        shares: (B, K) how much each prompt counts.
        reached: (K, B, L) which tokens each prompt has.

    Returns:
        (K, B, L) that sum to one over the prompts.
    """
    even = shares.T[..., None].to(reached.device).expand(reached.shape)
    own = even * reached
    total = own.sum(0)
    return torch.where(total > 0, own / total.clamp(min=torch.finfo(own.dtype).tiny), even)


def _mean(parts: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """Return the weighted mean of K tensors with n rows for each of B samples.

    Args:
        parts: K tensors (B n, ...), or (B n, L, ...).
        shares: how much each of them counts: K of (B,), or of (B, L).

    Returns:
        (B n, ...).
    """
    rows = [part.unflatten(0, (len(shares[0]), -1)) for part in parts]
    axes = shares[0].shape[1:]
    shape = (len(shares[0]), 1, *axes, *[1] * (rows[0].ndim - 2 - len(axes)))
    mean = sum(share.to(row).view(shape) * row for share, row in zip(shares, rows, strict=True))
    return mean.flatten(0, 1)  # type: ignore[union-attr]


def _check_shapes(name: str, parts: Sequence[Tensor]) -> None:
    """Raise `InputError` for prompts that differ in the shape of an argument that has no mask."""
    if any(part.shape != parts[0].shape for part in parts):
        raise InputError(
            f"these sentences differ in length ({name} has no mask for this model) and cannot be combined: "
            "expected one sentence, or sentences of equal length"
        )


def _as_long(parts: Sequence[Tensor], lengths: Collection[int]) -> list[Tensor]:
    """Return sequences (B, L, ...) that are as long as the longest, where all their lengths are masked."""
    found = {part.shape[1] for part in parts if part.ndim > 1}
    if len(found) < 2 or not found <= set(lengths):
        return list(parts)
    return [with_length(part, max(found)) for part in parts]


def with_length(x: Tensor, length: int) -> Tensor:
    """Return sequences (B, L, ...) cut to a length, or filled up to it with zeros."""
    missing = max(0, length - x.shape[1])
    return torch.cat([x[:, :length], x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)


def _cat_tokens(tokens: Sequence[Tensor | None], prompts: Sequence[NativePrompt]) -> Tensor | None:
    """Return the tokens of all samples, zeros for those that have none; None where no sample has one."""
    like = next((token for token in tokens if token is not None), None)
    if like is None:
        return None
    parts = []
    for token, prompt in zip(tokens, prompts, strict=True):
        parts.append(like.new_zeros(len(prompt), *like.shape[1:]) if token is None else token)
    return torch.cat(parts)
