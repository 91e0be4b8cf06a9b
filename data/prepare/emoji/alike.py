"""Which of several samples are the same, or so near that one is the other with other words.

Drawings of one thing are often drawings of another: a gender that a style does not show, a button without its
colour. What is held out must not equal what was trained on, so the first of each kind is kept, and the rest
is dropped before anything is split.

Letters: N samples, D numbers that stand for one.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as nnf

from codi.io import load_audio, load_image, load_video
from data.prepare.emoji.items import Made

PICTURE = 24  # pixels of the side of a picture that stands for it
FRAME = 12  # of each frame of a clip that stands for it
FRAMES = 6
BANDS, STEPS = 32, 48  # of the spectrogram that stands for a sound
FLOOR = 60.0  # decibels below the loudest at which a spectrogram ends
# Root mean square differences, of full scale 1, below which samples are the same.
NEAR_PICTURES, NEAR_SOUNDS = 0.02, 0.02
BLOCK = 1024


def drop_alike(
    made: Iterable[Made],
    out: Path,
    describe: Callable[[Path], np.ndarray],
    near: float,
    leave_out: Callable[[str, str], None],
) -> list[Made]:
    """Return the samples without those that are the same as one before them.

    Args:
        made: the samples, in an order that does not change.
        out: the folder that their files are relative to.
        describe: what stands for a file, (D,) in [0, 1].
        near: the root mean square difference below which two are the same.
        leave_out: is called with the id of each sample that is dropped, and which it equals.

    Returns:
        The samples that are kept, in their order.
    """
    listed = list(made)
    if not listed:
        return []
    vectors = np.stack([describe(out / one.item.file) for one in listed]).astype(np.float32)
    kept = []
    for index, first in enumerate(first_alike(vectors, near)):
        if first == index:
            kept.append(listed[index])
        else:
            leave_out(listed[index].item.id, f"equals {listed[first].item.id}")
    return kept


def first_alike(vectors: np.ndarray, near: float) -> list[int]:
    """Return for each vector the first one that it is the same as: itself where it is kept.

    Args:
        vectors: (N, D).
        near: the root mean square difference below which two are the same.

    Returns:
        N positions. A vector counts as the same as one that is kept, never as one that was dropped, so that a
        chain of small steps does not drop what is far from all that is kept.
    """
    squares = (vectors**2).sum(axis=1)
    first = list(range(len(vectors)))
    for start in range(0, len(vectors), BLOCK):
        stop = min(start + BLOCK, len(vectors))
        block = vectors[start:stop]
        distances = squares[start:stop, None] + squares[None, :stop] - 2 * block @ vectors[:stop].T
        # rounding of the product is far below this margin; what passes it is measured itself
        rows, columns = np.nonzero(distances < vectors.shape[1] * near**2 + 1e-2)
        for row, column in zip((rows + start).tolist(), columns.tolist()):
            if column >= row or first[row] != row or first[column] != column:
                continue
            if np.sqrt(np.mean((vectors[row] - vectors[column]) ** 2)) < near:
                first[row] = column
    return first


def picture_vector(path: Path) -> np.ndarray:
    """Return a small picture in place of a picture."""
    return _small(load_image(path)[None], PICTURE)


def clip_vector(path: Path) -> np.ndarray:
    """Return a few small frames in place of a clip."""
    frames = load_video(path).frames
    index = torch.linspace(0, len(frames) - 1, FRAMES).round().long()
    return _small(frames[index], FRAME)


def sound_vector(path: Path) -> np.ndarray:
    """Return a coarse spectrogram in place of a sound: bands evenly spaced in octaves, levels in decibels."""
    wave, rate = load_audio(path)
    size = 1024
    spectrum = (
        torch.stft(wave, size, size // 4, window=torch.hann_window(size), return_complex=True).abs() ** 2
    )
    edges = torch.logspace(np.log10(60), np.log10(rate / 2), BANDS + 1) * size / rate
    low = edges[:-1].floor().long()
    high = torch.maximum(low + 1, edges[1:].ceil().long())
    bands = torch.stack([spectrum[a:b].mean(0) for a, b in zip(low.tolist(), high.tolist())])
    level = 10 * torch.log10(bands / bands.max().clamp_min(1e-12) + 1e-12)
    level = nnf.adaptive_avg_pool1d((level / FLOOR + 1).clamp(0, 1)[None], STEPS)
    return level.flatten().numpy()


def _small(frames: torch.Tensor, side: int) -> np.ndarray:
    """Return uint8 frames (F, 3, H, W) at a small size as numbers in [0, 1], (F * 3 * side * side,)."""
    return nnf.adaptive_avg_pool2d(frames.float() / 255, side).flatten().numpy()
