"""The order of samples and every random draw, as pure functions of the seed and the number of samples seen.

Nothing here has state, so that a resumed run needs nothing but its count of samples.
"""

from collections.abc import Sequence

import numpy as np

_ROUNDS = 6


def sample_indices(seed: int, start: int, count: int, length: int, infinite: bool = False) -> list[int]:
    """Return the indices of the samples at positions start .. start + count - 1 of the run.

    A finite source is permuted anew in every epoch; an infinite one is counted through.

    Args:
        seed: chooses the permutations.
        start: the first position, which is the number of samples seen before.
        count: how many indices to return.
        length: the number of samples in the source.
        infinite: whether the source has a sample for every position, so that indices are the positions.

    Returns:
        `count` indices.
    """
    positions = range(start, start + count)
    return list(positions) if infinite else rows_of(positions, length, seed).tolist()


def permute(values: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the images of `values` under a permutation chosen by (seed, epoch), which takes no memory.

    The permutation is a Feistel network on the smallest even number of bits that holds `length`. A value that
    lands outside is sent through the network again until it is inside (cycle walking), which keeps the map
    one to one.

    Args:
        values: whole numbers in 0 .. length - 1, of any shape.
        length: the size of the set that is permuted.
        seed: chooses the permutation, together with `epoch`.
        epoch: the number of the pass.

    Returns:
        int64 in 0 .. length - 1, in the shape of `values`.
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
    """Return the rows of a table at `positions` counted over all passes, every pass in its own order.

    Args:
        positions: places in the run; position p is in pass p // length.
        length: the number of rows of the table.
        seed: chooses the order of every pass.
        weights: (length,) how often each row comes relative to the others. A row comes in every pass length *
            weight / sum(weights) times, rounded up or down (systematic sampling). None: every row once.

    Returns:
        int64 (len(positions),), row numbers in 0 .. length - 1.
    """
    epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), length)
    rows = np.empty_like(offsets)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = permute(offsets[here], length, seed, int(epoch))
        if weights is not None:
            # systematic sampling: one shift for all rows of a pass
            shift = np.random.default_rng((seed, int(epoch), 3)).random()
            bounds = np.cumsum(weights) * (length / np.sum(weights))
            rows[here] = np.searchsorted(bounds, rows[here] + shift, side="right").clip(max=length - 1)
    return rows


def draw_seed(seed: int, samples: int, chunk: int, stream: int = 0) -> int:
    """Return the seed (63 bits) of the random draws for one micro-batch.

    Args:
        seed: the seed of the run.
        samples: how many samples were seen before this step.
        chunk: the place of the micro-batch in the step.
        stream: tells several independent seeds for the same micro-batch apart.

    Returns:
        A whole number in 0 .. 2**63 - 1, as torch takes it.
    """
    state = np.random.SeedSequence([seed, samples, chunk, stream]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left = values >> half
    right = values & mask
    for key in keys:
        left, right = right, left ^ (_scramble(right + key) & mask)
    return (left << half) | right


def _scramble(values: np.ndarray) -> np.ndarray:
    """Return the values mixed by the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
