"""Show a decoded frame as a player does: upright, in the shape of its pixels, on white, in 8 bits of RGB.

A display matrix, which cameras write instead of turning what they record, has eight positions: four turns,
each mirrored or not.

Letters: H height, W width.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

ODDEST = 16  # times as wide as high, or the reverse, are the oddest pixels that are believed


@dataclass(frozen=True)
class Display:
    """What has to be done to a frame before it is shown, in this order.

    Attributes:
        width: its own width in pixels, before it is turned.
        height: its own height.
        aspect: how wide its pixels are for their height.
        opacity: whether it has opacity.
        transposed: whether rows become columns.
        mirrored: whether left and right are exchanged then.
        flipped: whether top and bottom are exchanged then.
        usual: whether its numbers are the usual ones: brightness and two colours, of 8 bits.
    """

    width: int
    height: int
    aspect: float = 1.0
    opacity: bool = False
    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False
    usual: bool = True

    @property
    def plain(self) -> bool:
        """Whether there is nothing to be done, so that any decoder shows the frame rightly."""
        odd = self.transposed or self.mirrored or self.flipped or self.opacity or not self.usual
        return not odd and self.aspect == 1

    def shape(self, size: int | None) -> tuple[int, int]:
        """Return width and height before turning, stretched, and shrunk to a shorter side of twice `size`."""
        width, height = stretched(self.width, self.height, self.aspect)
        scale = min(1.0, 2 * size / min(width, height)) if size else 1.0
        return max(1, round(width * scale)), max(1, round(height * scale))

    def pixels(self, frame: Any, size: int | None) -> np.ndarray:
        """Return a frame of PyAV as uint8 (H, W, 3)."""
        if self.opacity:
            rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
            colour, opacity = rgba[..., :3], rgba[..., 3:]
            picture = ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
            picture = self.resized(picture, size)
        else:
            # in one step: colours of a large frame would cost more than all the rest
            width, height = self.shape(size)
            way = "AREA" if width * height < frame.width * frame.height else "BICUBIC"
            picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=way)
        picture = picture.swapaxes(0, 1) if self.transposed else picture
        picture = picture[:, ::-1] if self.mirrored else picture
        return picture[::-1] if self.flipped else picture

    def resized(self, picture: np.ndarray, size: int | None) -> np.ndarray:
        """Return a picture (H, W, 3), stretched and shrunk, and not yet turned."""
        import av

        width, height = self.shape(size)
        if (height, width) == picture.shape[:2]:
            return picture
        smaller = width * height < picture.shape[0] * picture.shape[1]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        way = "AREA" if smaller else "BICUBIC"
        return frame.reformat(width=width, height=height, format="rgb24", interpolation=way).to_ndarray()


def display_of(frame: Any, stream: Any) -> Display:
    """Return what has to be done to a decoded frame of a stream."""
    transposed, mirrored, flipped = turn_of(_matrix(frame))
    return Display(
        frame.width,
        frame.height,
        aspect_of(stream),
        has_opacity(frame.format),
        transposed,
        mirrored,
        flipped,
        usual=_is_usual(frame.format),
    )


def has_opacity(layout: Any) -> bool:
    """Return whether a pixel format has opacity."""
    return layout.has_palette or any(component.is_alpha for component in layout.components)


def _is_usual(layout: Any) -> bool:
    """Return whether a pixel format is brightness and two colours of 8 bits, which all show alike."""
    return layout.name.startswith("yuv") and all(component.bits == 8 for component in layout.components)


def _matrix(frame: Any) -> tuple[int, ...] | None:
    """Return the nine numbers of the display matrix of a frame; None if it has none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    content = bytes(data)
    return struct.unpack("<9i", content[:36]) if len(content) >= 36 else None


def turn_of(matrix: tuple[int, ...] | None) -> tuple[bool, bool, bool]:
    """Return (rows become columns, left and right are exchanged, top and bottom are) for a display matrix.

    A point (x, y) of the frame is shown at (a x + c y, b x + d y), y downwards. Turns that are not quarters
    are rounded to the nearest.

    Args:
        matrix: a b u c d v x y w; None for no matrix.

    Returns:
        What is to be done, in this order.
    """
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def aspect_of(stream: Any) -> float:
    """Return how wide the pixels of a stream are for their height; 1 where it states nothing credible."""
    stated: Fraction | None = stream.sample_aspect_ratio
    if not stated or not 1 / ODDEST <= stated <= ODDEST:
        return 1.0
    return float(stated)


def stretched(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Return the size in square pixels; the shorter side of a pixel is stretched, so that nothing is lost."""
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)


def shown_size(stream: Any) -> tuple[int, int]:
    """Return width and height of a stream in square pixels, before it is turned."""
    return stretched(stream.width, stream.height, aspect_of(stream))
