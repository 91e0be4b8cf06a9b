"""Several sources as one, by weight.

The source that position i is taken from, and the position in it, are functions of (seed, i).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.types import InputError, Modality
from data.batch import Batch
from data.order import permute
from data.source import Source
from data.workers import Decoder

BLOCK = 10_000  # positions over which the weights are kept exactly


class Mixture(Source):
    """An endless source that is each of its sources in proportion to their weights.

    Of every `BLOCK` positions each source has its share, to the nearest position, in an order chosen by
    (seed, block). It is asked for its own positions 0, 1, 2, ... in turn, so that none of its samples is
    passed over. All sources give the same media; one that lacks a medium altogether may say so by a mask.
    Masks that a source does not give are True, and media of which it gives no content are whole. Of what
    sources say of samples besides (`says`), a batch has what all of them say, from whichever of them its
    samples are.

    Args:
        sources: (source, weight) of each.
        seed: chooses the order.
        decoder: the processes that the sources share, which are ended with the mixture.

    Raises:
        InputError: if a weight is not above 0, or so small that its source would never come.
    """

    def __init__(
        self, sources: Sequence[tuple[Source, float]], *, seed: int, decoder: Decoder | None = None
    ) -> None:
        given = [weight for _, weight in sources]
        if not given or not all(0 < weight < float("inf") for weight in given):
            raise InputError(f"weights of a mixture are {given}: expected at least one, all more than 0")
        self.sources = tuple(source for source, _ in sources)
        self.weights = tuple(map(float, given))
        assert all(source.infinite for source in self.sources), "a mixture is of sources that count through"
        self.seed = seed
        self.decoder = decoder
        # what every source says of its samples
        self._shared = set(self.sources[0].says)
        for source in self.sources:
            self._shared &= set(source.says)
        self._quotas = quotas(self.weights)
        self._ends = np.cumsum(self._quotas)
        if (self._quotas == 0).any():
            raise InputError(
                f"weights of a mixture are {self.weights}: the least is below 1 in {BLOCK}; leave that "
                "source out"
            )

    @property
    def mixed(self) -> tuple[Source, ...]:
        """The sources that it is mixed of."""
        return self.sources

    def __len__(self) -> int:
        """Return after how many positions every source has been through once, give or take a block."""
        return int(max(len(source) * BLOCK / quota for source, quota in zip(self.sources, self._quotas)))

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells this mixture from others, for a latent cache."""
        mixture = [[weight, source.identity] for weight, source in zip(self.weights, self.sources)]
        return {"mixture": mixture, "seed": self.seed}

    @property
    def bad(self) -> int:  # type: ignore[override]
        """The number of bad samples met so far."""
        decoders = {source.decoder for source in self.sources}
        return sum(decoder.bad for decoder in decoders if decoder is not None)

    @property
    def left_out(self) -> int:  # type: ignore[override]
        """The number of rows that the sources left out because they lack a medium."""
        return sum(source.left_out for source in self.sources)

    def places(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return where each position of the mixture comes from.

        Args:
            indices: B positions.

        Returns:
            The number of the source, and the position in that source, each int64 (B,).
        """
        blocks, offsets = np.divmod(np.asarray(indices, dtype=np.int64), BLOCK)
        slots = np.empty_like(offsets)
        for block in np.unique(blocks):
            slots[blocks == block] = permute(offsets[blocks == block], BLOCK, self.seed, int(block))
        # in each block a source has a stretch of slots as long as its quota
        which = np.searchsorted(self._ends, slots, side="right")
        first = self._ends - self._quotas
        return which, blocks * self._quotas[which] + slots - first[which]

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch of positions `indices`."""
        which, positions = self.places(indices)
        parts: list[Batch] = []
        order: list[int] = []
        for number, source in enumerate(self.sources):
            here = np.flatnonzero(which == number)
            if len(here):
                parts.append(_masked(source.fetch(positions[here].tolist()), len(here)))
                order += here.tolist()
        # the parts lie source by source; this puts their samples back into the order of `indices`
        back = np.argsort(order).tolist()
        parts = _with_content(parts)
        about = {name: _merge(parts, name, back) for name in self._shared}
        named = {name: _merge(parts, name, back) for name in parts[0].named}
        return Batch(index=list(indices), named=named, **about)

    def close(self) -> None:
        """End the decoding processes, those of the sources and those that they share."""
        for source in self.sources:
            source.close()
        if self.decoder is not None:
            self.decoder.close()


def quotas(weights: Sequence[float]) -> np.ndarray:
    """Return how many positions of a block each source has, by largest remainders; they sum to `BLOCK`."""
    shares = np.array(weights) / sum(weights) * BLOCK
    whole = np.floor(shares).astype(np.int64)
    most = np.argsort(whole - shares, kind="stable")[: BLOCK - whole.sum()]
    whole[most] += 1
    return whole


def _masked(batch: Batch, count: int) -> Batch:
    """Return a batch with a mask of True for every medium of which it has no mask."""
    masks = {f"{m}_mask": torch.ones(count, dtype=torch.bool) for m in Modality if m.value in batch.named}
    return batch.with_named(**(masks | batch.named))


def _with_content(parts: list[Batch]) -> list[Batch]:
    """Return the batches, each with the content of every medium that is padded in one of them."""
    shapes: dict[str, Tensor] = {}
    for part in parts:
        shapes |= {name: value for name, value in part.named.items() if name.endswith("_content")}
    found = []
    for part in parts:
        whole = {}
        for name, like in shapes.items():
            ends = torch.tensor([0.0, 1.0]).expand(len(part.index), like.shape[1], 2)
            whole[name] = ends.clone()
        found.append(part.with_named(**(whole | part.named)))
    return found


def _merge(parts: list[Batch], name: str, back: list[int]) -> Any:
    """Return the values that several batches have under a name as one, in the order that `back` gives."""
    values = [part[name] for part in parts]
    if isinstance(values[0], Tensor):
        shapes = [tuple(value.shape[1:]) for value in values]
        if len(set(shapes)) > 1:
            raise InputError(f"sources of a mixture give shapes {shapes}: expected the same geometry")
        return torch.cat(values)[back]
    flat = list(itertools.chain.from_iterable(values))
    return [flat[place] for place in back]
