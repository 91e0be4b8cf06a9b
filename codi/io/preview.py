"""Show what is still being made: small pictures, clips as animated pictures, sounds as spectrograms.

What is written here is looked at for half a second. So it is small, and made in milliseconds.

Letters: F frames, H height, W width.
"""

import io
from typing import Any

import torch
from torch import Tensor

from codi.io.fit import from_unit
from codi.io.sheet import spectrogram

SIDE = 256  # pixels of the longer side of a picture
CLIP_SIDE = 128  # of a clip
FRAMES = 16  # of a clip at most
SPECTROGRAM = 256  # pixels from left to right
QUALITY = 75
LOWEST = 20
MAX_BYTES = 64 << 10


def small_clip(frames: Tensor, seconds: float | None = None) -> tuple[str, bytes]:
    """Return a few small frames as one picture that moves.

    Args:
        frames: floats (F, 3, H, W) in [-1, 1]; a single frame is a picture.
        seconds: how long the clip lasts.

    Returns:
        The MIME type and the bytes of the file, at most `MAX_BYTES`.
    """
    from PIL import Image

    count = len(frames)
    chosen = torch.linspace(0, count - 1, min(count, FRAMES)).round().long()
    pixels = from_unit(frames[chosen.to(frames.device)].float()).cpu().permute(0, 2, 3, 1).contiguous()
    pictures = [Image.fromarray(frame.numpy()) for frame in pixels]
    options: dict[str, Any] = {}
    if len(pictures) > 1:
        duration = round(1000 * (seconds or 1.0) / len(pictures))
        options = {"save_all": True, "append_images": pictures[1:], "duration": duration, "loop": 0}
    return "image/webp", _fitting(pictures, options, SIDE if len(pictures) == 1 else CLIP_SIDE)


def _fitting(pictures: list[Any], options: dict[str, Any], side: int) -> bytes:
    """Return pictures as WebP, the smaller and coarser the more is needed to stay below `MAX_BYTES`."""
    quality = QUALITY
    while True:
        small = [_shrunk(picture, side) for picture in pictures]
        if len(small) > 1:
            options = {**options, "append_images": small[1:]}
        file = io.BytesIO()
        small[0].save(file, format="WEBP", quality=quality, method=0, **options)
        if file.tell() <= MAX_BYTES or side < 16:
            return file.getvalue()
        side, quality = side * 3 // 4, max(LOWEST, quality - 20)


def _shrunk(picture: Any, side: int) -> Any:
    """Return a picture whose longer side has at most so many pixels."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def small_spectrogram(wave: Tensor) -> tuple[str, bytes]:
    """Return the spectrogram of a sound (samples,) in [-1, 1] as a small PNG: MIME type and bytes."""
    file = io.BytesIO()
    spectrogram(wave.detach().float().cpu(), SPECTROGRAM).convert("L").save(file, format="PNG")
    return "image/png", file.getvalue()
