"""Say what a media file holds, and what is done to it when it is read, in plain values.

`facts` reads headers and the times of packets; it decodes no more than one frame.
"""

from pathlib import Path
from typing import Any

import numpy as np

from codi.io.animation import animation_frames, is_animation, open_animation
from codi.io.clip_header import even_rate, frame_times, gate
from codi.io.display import display_of, has_opacity, stretched
from codi.io.gates import IMAGE_FORMATS, check_file, names_heif, picture_stream, probe, sound_stream
from codi.io.media_file import MediaFile, decoding, duration_of, start_of, zero_of
from codi.io.pictures import UPRIGHT, orientation_of
from codi.io.sandbox import sandboxed
from codi.io.sounds import is_mixed
from codi.types import Modality

TURNED = {  # (rows become columns, left and right are exchanged, top and bottom are) -> in words
    (False, False, False): "",
    (False, True, False): "mirrored",
    (False, False, True): "mirrored upside down",
    (False, True, True): "turned by 180 degrees",
    (True, False, False): "turned by 90 degrees and mirrored",
    (True, True, False): "turned by 90 degrees clockwise",
    (True, False, True): "turned by 90 degrees anticlockwise",
    (True, True, True): "turned by 90 degrees the other way and mirrored",
}


@sandboxed(lambda path: 0)
def facts(path: str | Path) -> dict[str, Any]:
    """Return what a file holds and what is done to it when it is read.

    Args:
        path: the file.

    Returns:
        Plain values: `file`, `bytes`, `kind`, `format`; under `image`, `video` and `audio` what is known of
        each that it holds; and `notes`, what is done to it, in words.

    Raises:
        InputError: if the file cannot be read, or holds no modality that codi can read.
    """
    check_file(path)
    kind = probe(path)
    source = MediaFile(Path(path), str(path))
    known: dict[str, Any] = {"file": str(path), "bytes": source.size(), "kind": str(kind), "notes": []}
    with decoding(source):
        if kind is Modality.IMAGE:
            _add_picture(source, known)
        elif is_animation(source):
            _add_animation(source, known)
        elif kind is not Modality.TEXT:
            _add_streams(source, known)
    return known


def _add_picture(source: MediaFile, known: dict[str, Any]) -> None:
    """Add what is known of a picture."""
    from PIL import Image

    try:
        with Image.open(source.handle(), formats=IMAGE_FORMATS) as image:
            tag = orientation_of(image)
            width, height = image.size
            sideways = tag >= 5 and image.format != "TIFF"  # Pillow turns a tiff when it opens it
            known["format"] = image.format
            known["image"] = {
                "width": height if sideways else width,
                "height": width if sideways else height,
                "mode": image.mode,
                "opacity": image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info,
                "profile": bool(image.info.get("icc_profile")),
            }
    except Image.UnidentifiedImageError:
        if not names_heif(source.head(64)):
            raise
        from codi.io.heif import read_heif

        pixels = read_heif(source)
        known["format"], tag = "HEIF", UPRIGHT
        known["image"] = {"width": pixels.shape[2], "height": pixels.shape[1], "mode": "RGB"}
        known["image"] |= {"opacity": False, "profile": False}
    notes = known["notes"]
    if tag != UPRIGHT:
        notes.append(f"turned as its EXIF data say (orientation {tag})")
    if known["image"]["profile"]:
        notes.append("brought from its colour profile to sRGB")
    if known["image"]["opacity"]:
        notes.append("shown on white")
    if known["image"]["mode"] in ("I", "F") or known["image"]["mode"].startswith("I;16"):
        notes.append("scaled to 8 bits")


def _add_animation(source: MediaFile, known: dict[str, Any]) -> None:
    """Add what is known of an animated picture that Pillow reads."""
    with open_animation(source) as image:
        times = [(begins, lasts) for begins, lasts, _ in animation_frames(image)]
        known["format"] = image.format
        known["video"] = {
            "codec": image.format.lower(),
            "width": image.size[0],
            "height": image.size[1],
            "start": 0.0,
            "opacity": "A" in image.mode,
        }
    known["video"] |= _timing(source, sum(times[-1]))
    _note_video(known)


def _add_streams(source: MediaFile, known: dict[str, Any]) -> None:
    """Add what is known of the picture and the sound of a clip or recording."""
    with source.container() as container:
        known["format"] = container.format.name
        zero = zero_of(container)
        known["zero"] = zero
        picture, sound = picture_stream(container), sound_stream(container)
        if picture is not None:
            known["video"] = _picture_facts(container, picture, zero, known["notes"])
        if sound is not None:
            known["audio"] = _sound_facts(container, sound, zero, known["notes"])
        others = len(container.streams.video) + len(container.streams.audio)
        others -= (picture is not None) + (sound is not None)
        if others:
            known["notes"].append(f"{others} further streams of pictures or sound are left out")
    if "video" in known:
        known["video"] |= _timing(source, known["video"].pop("seconds"))
        _note_video(known)


def _note_video(known: dict[str, Any]) -> None:
    """Add to the notes what is done to every kind of clip."""
    if known["video"]["opacity"]:
        known["notes"].append("shown on white")
    if known["video"]["uneven"]:
        known["notes"].append("its frames come unevenly: each is shown until the next one comes")


def _picture_facts(container: Any, stream: Any, zero: float, notes: list[str]) -> dict[str, Any]:
    """Return what is known of a stream of pictures, and add to the notes what is done to it."""
    known = {
        "codec": stream.codec_context.codec.canonical_name,
        "start": max(0.0, (start_of(stream) or 0.0) - zero),
        "stated_fps": float(stream.average_rate or stream.guessed_rate or 0),
        "seconds": duration_of(container, stream),
    }
    frame = next(container.decode(stream))
    display = display_of(frame, stream)
    width, height = stretched(frame.width, frame.height, display.aspect)
    known["width"], known["height"] = (height, width) if display.transposed else (width, height)
    known["opacity"] = has_opacity(frame.format)
    turned = TURNED[display.transposed, display.mirrored, display.flipped]
    if turned:
        notes.append(turned)
    if display.aspect != 1:
        notes.append(f"stretched, since its pixels are {display.aspect:.4g} times as wide as high")
    if known["start"]:
        notes.append(f"its first frame, due at {known['start']:.3f} s, is shown from the beginning")
    return known


def _sound_facts(container: Any, stream: Any, zero: float, notes: list[str]) -> dict[str, Any]:
    """Return what is known of a stream of sound, and add to the notes what is done to it."""
    layout = stream.codec_context.layout
    known = {
        "codec": stream.codec_context.codec.canonical_name,
        "start": max(0.0, (start_of(stream) or 0.0) - zero),
        "rate": stream.rate,
        "channels": layout.nb_channels,
        "layout": layout.name,
        "seconds": duration_of(container, stream),
    }
    if is_mixed(layout):
        notes.append(f"{layout.name} is mixed down to two channels, of which the mean is taken")
    elif layout.nb_channels > 1:
        notes.append(f"the mean of {layout.nb_channels} channels is taken")
    if known["start"]:
        notes.append(f"{known['start']:.3f} s of silence come before its sound")
    return known


def _timing(source: MediaFile, seconds: float) -> dict[str, Any]:
    """Return how many frames a clip has, how they come, and the rate at which they are all shown."""
    header = gate(source, 1)
    gaps = np.diff(frame_times(source, header))
    uneven = len(gaps) > 0 and bool(gaps.max() > 1.5 * gaps.min() + header.tick)
    return {
        "frames": len(gaps) + 1,
        "seconds": seconds,
        "uneven": uneven,
        "fps": even_rate(source, header),
    }
