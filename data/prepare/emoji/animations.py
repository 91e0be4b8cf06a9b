"""Animated drawings as clips: Fluent's animations, which come as animated WebP with transparency.

Letters: F frames.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch

from codi.io import save_video
from codi.io.animation import animation_frames
from codi.types import InputError
from data.prepare.emoji.drawings import captions_of, facts_of, square
from data.prepare.emoji.items import Item, LeftOut
from data.prepare.emoji.names import Emoji, key_of
from data.prepare.emoji.packages import Package
from data.prepare.emoji.split import side_of

WORDS, FAMILY = "animated", "fluent"  # what captions call them, and the family of styles that they belong to
STILL = 1.0  # of 255: the mean change between frames below which nothing moves


def clip_items(names: Mapping[str, Emoji], packages: list[Package], size: int, fps: int) -> Iterator[Item]:
    """Yield the animation of every emoji that has one of its own; variants of skin have none."""
    files: dict[str, tuple[Package, Path]] = {}
    for package in packages:
        for path in sorted((package.folder / "assets").glob("*.webp")):
            files.setdefault(key_of(path.stem), (package, path))
    for emoji in names.values():
        if emoji.key in files:
            package, path = files[emoji.key]
            yield Item(
                id=f"animated-{emoji.key}",
                file=f"clips/animated-{emoji.key}.mp4",
                make=partial(convert, path, size=size, fps=fps),
                captions=captions_of(emoji, WORDS),
                name=emoji.name,
                side=side_of(emoji.name, FAMILY),
                sources=(package,),
                facts={**facts_of(emoji), "style": WORDS, "family": FAMILY},
            )


def convert(drawn: Path, new: Path, size: int, fps: int) -> None:
    """Write one loop of an animation as a clip on white.

    Args:
        drawn: the animation.
        new: the clip.
        size: the side of its frames in pixels.
        fps: its frames per second; frame k shows what a browser has on show after k / fps seconds.

    Raises:
        LeftOut: if nothing in it moves, or it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(drawn) as image:
            shown = [(begins, lasts, square(frame, size)) for begins, lasts, frame in animation_frames(image)]
    except (OSError, ValueError, InputError) as error:
        raise LeftOut(f"cannot be read ({' '.join(str(error).split())[:120]})") from None
    seconds = sum(lasts for _, lasts, _ in shown)
    begins = torch.tensor([at for at, _, _ in shown], dtype=torch.float64)
    times = torch.arange(max(1, round(seconds * fps)), dtype=torch.float64) / fps
    index = torch.searchsorted(begins, times, right=True).sub(1).clamp(min=0)
    frames = torch.stack([picture for _, _, picture in shown])[index]
    if len(shown) < 2 or frames.float().diff(dim=0).abs().mean() * len(frames) < STILL:
        raise LeftOut("does not move")
    save_video(new, frames, fps)
