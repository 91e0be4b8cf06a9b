"""Draw one medium as a small picture of a given width.

A picture is scaled, a clip is a strip of its frames, a sound its waveform above its spectrogram (low
frequencies at the bottom), and a text is set in lines. Letters: F frames, H height, W width, S samples, T
columns of time, K bins of frequency.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codi import io
from codi.modalities import ModalityKind, kind_of

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SECONDS = 60.0  # of a recording or a clip that is shown
FRAMES = 8  # of a clip that are shown, evenly spread
PER_ROW = 4
WAVE, SPECTRUM = 0.18, 0.34  # heights of the two views of a sound, in parts of the width
WINDOW = 512  # samples
FLOOR = 70.0  # decibels below the loudest at which the spectrogram is black
INK, PAPER, SOUND = "#1d2433", "#ffffff", "#3b5bdb"
GAP = 3  # pixels between frames


def tile(path: str | Path, width: int) -> "Image.Image":
    """Return a medium in a file as a picture.

    Args:
        path: a picture, recording, clip or text.
        width: of the picture, in pixels.

    Returns:
        The picture; its height depends on what is shown.

    Raises:
        InputError: if the file cannot be read.
    """
    kind = kind_of(io.probe(path))
    return _drawer(kind)(path, width)


def is_heard(path: str | Path) -> bool:
    """Return whether a file is a sound alone, of which nothing is seen unless it is drawn."""
    return _drawer(kind_of(io.probe(path))) is _sound


def poster(path: str | Path) -> "Image.Image":
    """Return the frame of a clip that stands for it before it plays, a third of the way in."""
    from PIL import Image

    frames = io.load_video(path, SECONDS, sound=False).frames
    return Image.fromarray(frames[len(frames) // 3].permute(1, 2, 0).contiguous().numpy())


def _drawer(kind: ModalityKind) -> Callable[[Any, int], "Image.Image"]:
    """Return what draws media of a kind."""
    if kind.in_words:
        return _text
    if kind.rate_field is None:
        return _picture
    return _clip if kind.spatial else _sound


@cache
def font(size: int, style: str = "") -> "ImageFont.FreeTypeFont":
    """Return the font of the sheets, which matplotlib brings, in a size in pixels; style "Bold" or such."""
    import matplotlib
    from PIL import ImageFont

    name = f"DejaVuSans{'-' if style else ''}{style}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def wrapped(text: str, width: int, face: "ImageFont.FreeTypeFont") -> list[str]:
    """Return a text in lines that are at most `width` pixels wide; a longer word is broken.

    Args:
        text: the text.
        width: of a line.
        face: the font in which it is set.

    Returns:
        The lines, at least one.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if face.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def _picture(path: Any, width: int) -> "Image.Image":
    """Return a picture in the width of the tile, its pixels kept apart where they are enlarged."""
    from PIL import Image

    return _scaled(Image.fromarray(io.load_image(path).permute(1, 2, 0).contiguous().numpy()), width)


def _scaled(picture: "Image.Image", width: int) -> "Image.Image":
    """Return a picture in another width; small ones stay sharp."""
    from PIL import Image

    height = max(1, round(picture.height * width / picture.width))
    way = Image.Resampling.NEAREST if picture.width * 2 <= width else Image.Resampling.LANCZOS
    return picture.resize((width, height), way)


def _clip(path: Any, width: int) -> "Image.Image":
    """Return frames of a clip, evenly spread, in rows."""
    from PIL import Image

    frames = io.load_video(path, SECONDS, sound=False).frames  # (F, 3, H, W)
    count = min(FRAMES, len(frames))
    places = np.linspace(0, len(frames) - 1, count).round().astype(int)
    columns = min(PER_ROW, count)
    side = (width - GAP * (columns - 1)) // columns
    shown = [_scaled(Image.fromarray(frames[k].permute(1, 2, 0).contiguous().numpy()), side) for k in places]
    step = shown[0].height + GAP
    strip = Image.new("RGB", (width, step * -(-count // columns) - GAP), PAPER)
    for k, frame in enumerate(shown):
        strip.paste(frame, (k % columns * (side + GAP), k // columns * step))
    return strip


def _sound(path: Any, width: int) -> "Image.Image":
    """Return the waveform of a sound above its spectrogram."""
    from PIL import Image

    wave, _ = io.load_audio(path, SECONDS)
    samples = wave.numpy().astype(np.float64)
    wave_height, spectrum_height = round(width * WAVE), round(width * SPECTRUM)
    both = Image.new("RGB", (width, wave_height + spectrum_height + GAP), PAPER)
    both.paste(_waveform(samples, width, wave_height), (0, 0))
    both.paste(_spectrogram(samples, width, spectrum_height), (0, wave_height + GAP))
    return both


def _waveform(samples: np.ndarray, width: int, height: int) -> "Image.Image":
    """Return the least and the greatest sample (S,) of every column as a line."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), "#f1f3fa")
    draw = ImageDraw.Draw(picture)
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    for column, (low, high) in enumerate(zip(edges, edges[1:])):
        part = samples[low : max(high, low + 1)].clip(-1, 1)
        if len(part):
            top, bottom = ((1 - value) / 2 * (height - 1) for value in (part.max(), part.min()))
            draw.line([(column, top), (column, max(bottom, top + 1))], fill=SOUND)
    return picture


def _spectrogram(samples: np.ndarray, width: int, height: int) -> "Image.Image":
    """Return the loudness (K, T) of a sound (S,) in decibels, in colours."""
    import matplotlib
    from PIL import Image

    padded = np.pad(samples, (WINDOW // 2, WINDOW // 2 + max(0, WINDOW - len(samples))))
    hop = max(1, (len(padded) - WINDOW) // width)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop] * np.hanning(WINDOW)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)).T + 1e-4)  # (K, T)
    # as ears do, low frequencies are told apart more finely
    places = np.expm1(np.linspace(0, np.log1p(len(level) / 12), height)) * 12
    level = level[places.round().astype(int).clip(0, len(level) - 1)]
    shade = ((level - level.max() + FLOOR) / FLOOR).clip(0, 1)
    pixels = (matplotlib.colormaps["magma"](shade[::-1])[..., :3] * 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def _text(path: Any, width: int) -> "Image.Image":
    """Return the beginning of a text in lines."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return set_text(file.read(600).strip() or "(empty)", width)


def set_text(text: str, width: int) -> "Image.Image":
    """Return a text in lines.

    Args:
        text: the text.
        width: of the picture, in pixels.

    Returns:
        The picture, transparent around the letters.
    """
    from PIL import Image, ImageDraw

    size = max(11, round(width / 15))
    face = font(size, "Oblique")
    lines = wrapped(text, width - 8, face)
    picture = Image.new("RGBA", (width, len(lines) * (size + 5) + 6), (255, 255, 255, 0))
    draw = ImageDraw.Draw(picture)
    for k, line in enumerate(lines):
        draw.text((4, 2 + k * (size + 5)), line, font=face, fill=INK)
    return picture
