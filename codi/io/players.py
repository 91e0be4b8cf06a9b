"""Turn media into pieces of HTML that show and play them, without a network and without scripts.

A notebook keeps what it shows in its file, so every piece is bounded: pictures and frames are made smaller,
clips and sounds are cut, and `page` leaves out what would make it too large, and says so. All text is
escaped. Letters: F frames, H W height and width.
"""

import base64
import tempfile
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from codi.io.sheet import contact_sheet
from codi.io.write import save_audio, save_video

if TYPE_CHECKING:
    from PIL import Image

SIDE = 768  # the longest side of a picture in pixels
FRAME = 384  # the longest side of a frame
FRAMES = 240  # of a clip
SECONDS = 60.0  # of a sound
PLAIN = 1 << 20  # bytes of a wav or png, above which flac or jpeg is taken
LETTERS = 2000  # of a text
LARGEST = 8 << 20  # letters of a page
ROWS = 12  # of a page
SHOWN = 192  # the least width in which a picture is shown, in pixels of the page
WAVE = 320  # the width of a waveform


def picture(image: "Image.Image") -> str:
    """Return HTML that shows a picture.

    Args:
        image: the picture.

    Returns:
        An image element that holds the picture, at most `SIDE` pixels wide and high.
    """
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    width = max(SHOWN, min(small.width, 2 * SHOWN))
    return _image(small, width, f"picture, {image.width} by {image.height} pixels")


def clip(frames: Tensor, fps: float, wave: Tensor | None = None, rate: int | None = None) -> str:
    """Return HTML that plays a clip.

    Args:
        frames: uint8 (F, 3, H, W).
        fps: frames per second.
        wave: float (samples,), the sound that belongs to it; None for none.
        rate: its rate in Hz.

    Returns:
        A player with controls that holds at most `FRAMES` frames, and a note where there are more.
    """
    some = _small(frames[:FRAMES])
    seconds = len(some) / fps
    sound = None
    if wave is not None and rate is not None:
        sound = wave[..., : round(seconds * rate)]
    with tempfile.TemporaryDirectory(prefix="codi-") as folder:
        path = save_video(Path(folder) / "clip.mp4", some, fps, sound, None if sound is None else rate)
        content = path.read_bytes()
    width = max(SHOWN, min(frames.shape[-1], 2 * SHOWN))
    player = (
        f'<video controls loop playsinline width="{width}" aria-label="clip of {seconds:.3g} seconds" '
        f'src="{_data("video/mp4", content)}"></video>'
    )
    return player + _cut(len(frames) / fps, seconds)


def sound(wave: Tensor, rate: int) -> str:
    """Return HTML that shows a sound as waveform and spectrogram, and plays it.

    Args:
        wave: float (samples,) in [-1, 1].
        rate: its rate in Hz.

    Returns:
        A picture above a player, of at most `SECONDS`, and a note where the sound is longer.
    """
    some = wave[: round(SECONDS * rate)]
    seconds = len(some) / rate
    form = "wav" if 2 * len(some) <= PLAIN else "flac"
    with tempfile.TemporaryDirectory(prefix="codi-") as folder:
        content = save_audio(Path(folder) / f"sound.{form}", some, rate).read_bytes()
    shown = _image(contact_sheet(None, some), WAVE, "waveform above spectrogram")
    player = (
        f'<audio controls style="width:{WAVE}px" aria-label="sound of {seconds:.3g} seconds" '
        f'src="{_data(f"audio/{form}", content)}"></audio>'
    )
    return f"{shown}<br>{player}" + _cut(len(wave) / rate, seconds)


def words(text: str) -> str:
    """Return HTML that shows a text, escaped, and cut where it is long."""
    cut = text if len(text) <= LETTERS else text[:LETTERS] + " ..."
    return f'<div style="max-width:48em;white-space:pre-wrap;text-align:left">{escape(cut)}</div>'


def folded(title: str, text: str) -> str:
    """Return HTML that shows a text once its title is clicked."""
    return f'<details style="text-align:left"><summary>{escape(title)}</summary>{words(text)}</details>'


def page(rows: Iterable[tuple[str, Sequence[str]]], total: int) -> str:
    """Return pieces as one piece of HTML of at most `LARGEST` letters.

    Args:
        rows: for each row its title, and its pieces of HTML; only the first `ROWS` are asked for.
        total: how many rows there are.

    Returns:
        The rows below each other. What there is no room for is named.
    """
    found: list[str] = []
    room = LARGEST - 1000
    left_out = 0
    for title, pieces in islice(rows, ROWS):
        fitting = []
        for piece in pieces:
            if len(piece) > room:
                left_out += 1
                continue
            fitting.append(f"<div>{piece}</div>")
            room -= len(piece) + 100
        if fitting:
            found.append(
                f'<div style="margin:0.5em 0"><b>{escape(title)}</b><div style="display:flex;flex-wrap:wrap;'
                f'gap:1em;align-items:flex-start">{"".join(fitting)}</div></div>'
            )
            room -= len(title) + 300
    if left_out:
        found.append(f"<p>{left_out} media are too large to be shown here: save() writes all.</p>")
    if total > ROWS:
        found.append(f"<p>{total - ROWS} more samples are not shown here: save() writes all.</p>")
    return "".join(found)


def _cut(whole: float, shown: float) -> str:
    """Return a note where a medium was cut."""
    return f"<br><small>the first {shown:.3g} of {whole:.3g} s</small>" if whole > shown + 1e-6 else ""


def _small(frames: Tensor) -> Tensor:
    """Return frames (F, 3, H, W) of at most `FRAME` pixels."""
    frames = torch.as_tensor(frames).cpu()
    height, width = frames.shape[-2:]
    scale = FRAME / max(height, width)
    if scale >= 1:
        return frames
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(frames.float(), size, mode="area").round().to(torch.uint8)


def _image(image: "Image.Image", width: int, alt: str) -> str:
    """Return an image element that holds a picture."""
    content = BytesIO()
    image.save(content, "PNG")
    kind = "image/png"
    if content.tell() > PLAIN:
        content, kind = BytesIO(), "image/jpeg"
        image.save(content, "JPEG", quality=85)
    return f'<img width="{width}" alt="{escape(alt)}" src="{_data(kind, content.getvalue())}">'


def _data(kind: str, content: bytes) -> str:
    """Return an address that holds a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
