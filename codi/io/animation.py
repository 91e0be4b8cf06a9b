"""Read animated pictures that FFmpeg cannot read as they are meant: WebP, and AVIF with transparency.

Pillow puts their frames together. GIF and APNG are read by FFmpeg like every other clip. How often any of
them repeats stands here as well.
"""

import math
from collections.abc import Iterator
from typing import Any

from codi.io.gates import SEQUENCES
from codi.io.media_file import MediaFile

STILL = 0.1  # seconds that a frame lasts whose duration is stated as 0, as browsers have it


def is_animation(source: MediaFile) -> bool:
    """Return whether a file is an animated picture of those kinds."""
    head = source.head(32)
    webp = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
    return webp or (head[4:8] == b"ftyp" and head[8:12] in SEQUENCES and head[8:12] == b"avis")


def open_animation(source: MediaFile) -> Any:
    """Return the animation as an image of Pillow, which is to be closed."""
    from PIL import Image

    return Image.open(source.handle(), formats=("WEBP", "AVIF"))


def animation_frames(image: Any) -> Iterator[tuple[float, float, Any]]:
    """Yield (second at which it begins, seconds that it lasts, image) of every frame of an animation."""
    begins = 0.0
    for number in range(image.n_frames):
        image.seek(number)
        image.load()
        lasts = float(image.info.get("duration") or 0) / 1000 or STILL
        yield begins, lasts, image.copy()
        begins += lasts


def animation_seconds(source: MediaFile) -> float | None:
    """Return how long an animation lasts; None for a file that is none of these kinds."""
    if not is_animation(source):
        return None
    with open_animation(source) as image:
        return sum(lasts for _, lasts, _ in animation_frames(image))


def repeats_of(source: MediaFile) -> tuple[float, float] | None:
    """Return the seconds of one pass of an animated picture, and how often browsers show it.

    A count of 0 in the file stands for no end, and so does that an AVIF has none. A GIF without a count is
    shown once, and one with a count of n once more than n times.

    Args:
        source: the file.

    Returns:
        Seconds and passes, which may be infinite; None for a file that is no animated picture.
    """
    head = source.head(8)
    if not (is_animation(source) or head[:4] == b"GIF8" or head == b"\x89PNG\r\n\x1a\n"):
        return None
    from PIL import Image

    with Image.open(source.handle(), formats=("GIF", "PNG", "WEBP", "AVIF")) as image:
        if not getattr(image, "is_animated", False):
            return None
        count, is_gif = image.info.get("loop"), image.format == "GIF"
        endless = count == 0 or (count is None and image.format == "AVIF")
    lasts = animation_seconds(source) or _seconds_of_packets(source)
    if lasts <= 0:
        return None
    return lasts, math.inf if endless else (count or 0) + 1 if is_gif else max(1, count or 1)


def _seconds_of_packets(source: MediaFile) -> float:
    """Return how long a GIF or APNG lasts, without decoding it."""
    with source.container() as container:
        stream = container.streams.video[0]
        ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.size]
        return float(max(ends, default=0) * stream.time_base)
