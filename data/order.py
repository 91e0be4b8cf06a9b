"""Who comes when: the order of the data and every random draw as pure functions of the seed and the number of
samples seen.

Nothing here has state, so a resumed run needs nothing but its sample count.
"""

from collections.abc import Sequence

import numpy as np

_ROUNDS = 6


def sample_indices(seed: int, start: int, count: int, length: int, infinite: bool = False) -> list[int]:
    """Indices of the samples at positions start .. start + count - 1 of the run.

    A finite source is permuted anew in every epoch; an infinite one is counted through.
    """
    positions = range(start, start + count)
    return list(positions) if infinite else rows_of(positions, length, seed).tolist()


def permute(values: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """Images of `values` (in 0 .. length - 1) under a permutation chosen by (seed, epoch), at no cost in
    memory.

    A Feistel network on the smallest even number of bits that holds `length`; a value that lands outside
    walks on along its cycle until it is inside (cycle walking), which keeps the map one to one.
    """
    half = np.uint64(max(1, (max(length - 1, 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    image = _feistel(values.astype(np.uint64), half, keys)
    while (outside := image >= length).any():
        image[outside] = _feistel(image[outside], half, keys)
    return image.astype(np.int64)


def rows_of(
    positions: Sequence[int], length: int, seed: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Rows of a table of `length` at positions counted over all passes, every pass in its own order.

    With `weights` a row comes in every pass length * weight / sum(weights) times, rounded up or down
    (systematic sampling).
    """
    epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), length)
    rows = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = permute(offsets[here], length, seed, int(epoch))
        if weights is not None:
            shift = np.random.default_rng((seed, int(epoch), 3)).random()
            bounds = np.cumsum(weights) * (length / np.sum(weights))
            rows[here] = np.searchsorted(bounds, rows[here] + shift, side="right").clip(max=length - 1)
    return rows


def draw_seed(seed: int, samples: int, chunk: int, stream: int = 0) -> int:
    """Seed (63 bits) of the random draws for one micro-batch: `samples` seen before its step, `chunk` its
    place in the step.
    """
    state = np.random.SeedSequence([seed, samples, chunk, stream]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_scramble(right + key) & mask)
    return (left << half) | right


def _scramble(values: np.ndarray) -> np.ndarray:
    """The 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
