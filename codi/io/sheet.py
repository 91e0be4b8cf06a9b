"""Draw a contact sheet: the frames of a clip or a picture, and a sound as waveform and spectrogram.

Letters: F frames, H height, W width, T columns of time, K bins of frequency.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 8  # frames side by side
TILE = 96  # pixels of a frame's longer side
HEIGHT = 96  # pixels of the waveform, and of the spectrogram
FLOOR = 80.0  # decibels below the loudest at which the spectrogram is black
WINDOW = 512  # samples


def contact_sheet(frames: Tensor | None, wave: Tensor | None) -> "Image.Image":
    """Return one picture of all that a model is given.

    Args:
        frames: uint8 (F, 3, H, W), or None.
        wave: float (samples,) in [-1, 1], or None.

    Returns:
        The frames in rows, then the waveform, then the spectrogram, low frequencies at the bottom.
    """
    from PIL import Image

    width = COLUMNS * TILE
    rows = [] if frames is None else _tiled(frames)
    if wave is not None:
        rows += [_waveform(wave, width), spectrogram(wave, width)]
    sheet = Image.new("RGB", (width, max(1, sum(row.height for row in rows))), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _tiled(frames: Tensor) -> list["Image.Image"]:
    """Return rows of small frames."""
    from PIL import Image

    rows = []
    for begin in range(0, len(frames), COLUMNS):
        row = Image.new("RGB", (COLUMNS * TILE, TILE), "white")
        for k, frame in enumerate(frames[begin : begin + COLUMNS]):
            tile = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
            scale = TILE / max(tile.size)
            tile = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))))
            row.paste(tile, (k * TILE, 0))
        rows.append(row)
    return rows


def _waveform(wave: Tensor, width: int) -> "Image.Image":
    """Return the least and the greatest sample of every column as a vertical line."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    edges = np.linspace(0, len(wave), width + 1).astype(int)
    for column, (low, high) in enumerate(zip(edges, edges[1:])):
        part = wave[low : max(high, low + 1)].clamp(-1, 1)
        if len(part):
            top, bottom = ((1 - value.item()) / 2 * (HEIGHT - 1) for value in (part.max(), part.min()))
            draw.line([(column, top), (column, bottom)], fill="black")
    return picture


def spectrogram(wave: Tensor, width: int) -> "Image.Image":
    """Return the loudness (K, T) of a sound (samples,) in decibels, as a picture in grey."""
    from PIL import Image

    padded = torch.nn.functional.pad(wave.float(), (0, max(0, WINDOW - len(wave))))
    hop = max(1, len(padded) // width)
    window = torch.hann_window(WINDOW)
    loudness = torch.stft(padded, WINDOW, hop, window=window, return_complex=True).abs().clamp(min=1e-8)
    decibels = 20 * loudness.log10()
    grey = ((decibels - decibels.max() + FLOOR) / FLOOR).clamp(0, 1) * 255
    picture = Image.fromarray(grey.flip(0).to(torch.uint8).numpy())
    return picture.resize((width, HEIGHT)).convert("RGB")
