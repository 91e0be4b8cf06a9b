"""Small media files of kinds that are easily read wrongly, each with what a player shows or a listener hears.

A frame is on show until the next one comes, the first one from the start of the file on, and the last one
stays. Sound and picture keep the times that their container gives them, and share one zero.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image, ImageCms

SIDE, FPS, COUNT = 64, 8, 16  # of the model that the cases are read for
RATE = 16_000
TICK = Fraction(1, 1000)


@dataclass(frozen=True)
class Clip:
    """A clip.

    Attributes:
        make: writes it.
        grey: the grey level of the frame on show at k / 8 s.
        tolerance: by how much a level may be off.
        quarters: the grey levels of top left, top right, bottom left and bottom right of the first frame.
        size: width and height as shown.
        sound: seconds at which its sound sets in; None for a clip without.
        colour: RGB of the first frame's corner.
        decord: whether decord reads it too, where it is installed.
    """

    make: Callable[[Path], Path]
    grey: Sequence[int] | None = None
    tolerance: float = 5
    quarters: Sequence[int] | None = None
    size: tuple[int, int] | None = None
    sound: float | None = None
    colour: tuple[int, int, int] | None = None
    decord: bool = False


@dataclass(frozen=True)
class Sound:
    """A recording.

    Attributes:
        make: writes it.
        begins: seconds at which its first tone begins.
        levels: peak amplitudes at seconds.
        seconds: its length; None for one that is not looked at.
        early: by how many seconds the tone may be early or late.
    """

    make: Callable[[Path], Path]
    begins: float | None = None
    levels: dict[float, float] = field(default_factory=dict)
    seconds: float | None = None
    early: float = 0.003


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        make: writes it.
        pixels: RGB at (x, y).
        size: width and height as shown.
        tolerance: by how much a number may be off.
    """

    make: Callable[[Path], Path]
    pixels: dict[tuple[int, int], tuple[int, int, int]]
    size: tuple[int, int] | None = None
    tolerance: int = 2


def grey(level: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def on_show(levels: Sequence[int], times: Sequence[float], count: int = COUNT) -> list[int]:
    """The levels of the frames on show at k / 8 s, whose own times are counted from the first."""
    last = [max(j for j, time in enumerate(times) if time - times[0] <= k / FPS + 1e-4) for k in range(count)]
    return [int(levels[j]) for j in last]


# Clips -----------------------------------------------------------------


def film(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[float] | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    layout: str = "rgb24",
    rate: int = FPS,
    aspect: Fraction | None = None,
    base: Fraction | None = TICK,
    shift: int = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Write pictures at times; `shift` frames at the start are hidden by an edit list, or lie before zero."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pix_fmt
        if base is not None and times is not None:
            stream.codec_context.time_base = base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        packets = []
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=layout)
            if times is not None:
                frame.pts, frame.time_base = round(times[k] / base), base
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode(None)]:
            hidden = round(Fraction(shift, rate) / packet.time_base)
            packet.pts, packet.dts = packet.pts - hidden, packet.dts - hidden
            out.mux(packet)
    return path


QUICK = {"preset": "ultrafast"}
EVEN = [10 + 10 * k for k in range(COUNT)]
HELD_LEVELS, HELD_TIMES = [0, 60, 120, 180], [0.0, 0.9, 1.0, 1.4]
B_FRAMES = {"bf": "3", "x264-params": "scenecut=0"}
SKEW_TIMES = [0.0, 0.21, 0.26, 0.7, 0.71, 1.3]
SKEW_LEVELS = [10, 50, 90, 130, 170, 210]


def animated(path: Path, lasts: Sequence[int], levels: Sequence[int], **options: object) -> Path:
    """An animated picture whose frames last so many milliseconds, shown once where its format can say so."""
    once = {} if path.suffix == ".gif" else {"loop": 1}
    first, *rest = [Image.new("RGB", (SIDE, SIDE), (level,) * 3) for level in levels]
    first.save(path, save_all=True, append_images=rest, duration=list(lasts), **once, **options)
    return path


def animation(name: str, lasts: Sequence[int], **options: object) -> Clip:
    """The case of an animated picture; a duration of 0 counts as a tenth of a second."""
    levels = [20 + 50 * k for k in range(len(lasts))]
    times = np.cumsum([0, *[(last or 100) / 1000 for last in lasts[:-1]]])
    return Clip(lambda folder: animated(folder / name, lasts, levels, **options), on_show(levels, times))


def corner() -> np.ndarray:
    """White in the top left quarter, grey in the top right one, black below."""
    picture = grey(0)
    picture[:32, :32], picture[:32, 32:] = 255, 128
    return picture


POSITIONS = {  # the numbers a, b, c, d of a display matrix -> the levels of the quarters that are shown
    (1, 0, 0, 1): [255, 128, 0, 0],
    (-1, 0, 0, 1): [128, 255, 0, 0],
    (1, 0, 0, -1): [0, 0, 255, 128],
    (-1, 0, 0, -1): [0, 0, 128, 255],
    (0, 1, 1, 0): [255, 0, 128, 0],
    (0, 1, -1, 0): [0, 255, 0, 128],
    (0, -1, 1, 0): [128, 0, 255, 0],
    (0, -1, -1, 0): [0, 128, 0, 255],
}


def with_matrix(path: Path, numbers: tuple[int, ...], picture: np.ndarray | None = None) -> Path:
    """A clip whose display matrix says how its camera was held."""
    raw = bytearray(film(path, [corner() if picture is None else picture] * 4).read_bytes())
    a, b, c, d = (number << 16 for number in numbers)
    place = raw.index(b"tkhd") + 44
    raw[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(raw)
    return path


def without_end(path: Path, seconds: float) -> Path:
    """A clip of which an edit list leaves the beginning."""
    raw = bytearray(film(path, [grey(level) for level in EVEN], options={"bf": "0"} | QUICK).read_bytes())
    place = raw.index(b"elst") + 12
    raw[place : place + 4] = struct.pack(">I", round(1000 * seconds))
    path.write_bytes(raw)
    return path


def late_and_cut(path: Path) -> Path:
    """A clip whose edit list begins with half a second of nothing, and then leaves 1.5 s from 0.25 s on."""
    raw = film(path, [grey(level) for level in EVEN], options={"bf": "0"} | QUICK).read_bytes()
    with av.open(str(path)) as container:
        first = round(Fraction(1, 4) / container.streams.video[0].time_base)
    place = raw.index(b"elst") - 4
    size = int.from_bytes(raw[place : place + 4], "big")
    edits = struct.pack(">IIiIIiI", 2, 500, -1, 1 << 16, 1500, first, 1 << 16)
    changed = full(b"elst", 0, edits)
    raw = bytearray(raw[:place] + changed + raw[place + size :])
    for kind in (b"moov", b"trak", b"edts"):
        start = raw.index(kind) - 4
        longer = int.from_bytes(raw[start : start + 4], "big") + len(changed) - size
        raw[start : start + 4] = struct.pack(">I", longer)
    path.write_bytes(raw)
    return path


def without_key_flags(path: Path) -> Path:
    """A clip whose index calls no frame a key frame."""
    raw = bytearray(film(path, [grey(level) for level in EVEN], options={"bf": "0"}).read_bytes())
    place = raw.index(b"stss") + 8
    raw[place : place + 4] = bytes(4)
    path.write_bytes(raw)
    return path


def rgba(red: int, opacity: int) -> np.ndarray:
    picture = np.zeros((SIDE, SIDE, 4), np.uint8)
    picture[..., 0], picture[..., 3] = red, 255
    picture[:32, :32] = (red, 0, 0, opacity)
    return picture


def two_pictures(path: Path) -> Path:
    """Two streams of pictures, of which the second is the default one."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=FPS, options=QUICK) for _ in range(2)]
        for stream in streams:
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for stream, level in zip(streams, (40, 200)):
            for _ in range(4):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(grey(level), format="rgb24")))
            out.mux(stream.encode(None))
    return path


def tone(seconds: float, begins: float, rate: int, level: float = 0.5) -> np.ndarray:
    """Silence, then a tone of 440 Hz, float32 (samples,)."""
    times = np.arange(round(seconds * rate)) / rate
    return np.where(times >= begins, level * np.cos(2 * np.pi * 440 * (times - begins)), 0).astype(np.float32)


def film_with_sound(
    path: Path,
    *,
    codec: str = "aac",
    rate: int = 48_000,
    late_picture: float = 0.0,
    late_sound: float = 0.0,
    gap: float = 0.0,
    pictures: str = "libx264",
    container: dict[str, str] | None = None,
) -> Path:
    """A picture that turns white after a second, and a tone that begins a second after its sound does.

    With a gap the sound stops for so many seconds half a second after it began.
    """
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(pictures, rate=FPS, options={"bf": "0"} if pictures == "libx264" else {})
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", TICK
        sound = out.add_stream(codec, rate=rate, layout="mono")
        for k in range(COUNT):
            frame = av.VideoFrame.from_ndarray(grey(255 * (k >= FPS)), format="rgb24")
            frame.pts, frame.time_base = 125 * k + round(1000 * late_picture), TICK
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        wave = tone(2, 1, rate)
        parts = [(0.0, wave)] if not gap else [(0.0, wave[: rate // 2]), (0.5 + gap, wave[rate // 2 :])]
        for begins, part in parts:
            size = 1024 if gap else len(part)
            for k in range(0, len(part), size):
                frame = av.AudioFrame.from_ndarray(part[None, k : k + size], format="fltp", layout="mono")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = k + round((begins + late_sound) * rate)
                for piece in av.AudioResampler(sound.codec_context.format.name, "mono", rate).resample(frame):
                    out.mux(sound.encode(piece))
        out.mux(sound.encode(None))
    return path


FLASH = [0] * 8 + [255] * 8
LATER = [0] * 12 + [255] * 4  # half a second later
CLIPS = {
    "uneven.mp4": Clip(
        lambda f: film(f / "uneven.mp4", [grey(v) for v in SKEW_LEVELS], SKEW_TIMES, options=QUICK),
        on_show(SKEW_LEVELS, SKEW_TIMES),
        decord=True,
    ),
    "uneven.mkv": Clip(
        lambda f: film(f / "uneven.mkv", [grey(v) for v in SKEW_LEVELS], SKEW_TIMES, options=QUICK),
        on_show(SKEW_LEVELS, SKEW_TIMES),
        decord=True,
    ),
    "held.webm": Clip(
        lambda f: film(
            f / "held.webm", [grey(v) for v in HELD_LEVELS], HELD_TIMES, codec="libvpx-vp9", rate=1000
        ),
        on_show(HELD_LEVELS, HELD_TIMES),
        decord=True,
    ),
    "screen.mkv": Clip(
        lambda f: film(
            f / "screen.mkv",
            [grey(8 * k) for k in range(30)] + [grey(250)],
            [k / 30 for k in range(30)] + [30.0],
            options=QUICK,
        ),
        on_show([8 * k for k in range(30)], [k / 30 for k in range(30)]),
        decord=True,
    ),
    "recorder.webm": Clip(
        lambda f: film(
            f / "recorder.webm",
            [grey(8 * k) for k in range(30)],
            [k * 0.02 for k in range(30)],
            codec="libvpx",
            rate=1000,
        ),
        on_show([8 * k for k in range(30)], [k * 0.02 for k in range(30)]),
        8,
        decord=True,
    ),
    "a.gif": animation("a.gif", [1000, 100, 100, 800]),
    "b.gif": animation("b.gif", [130, 370, 500]),
    "c.gif": animation("c.gif", [0, 0, 700]),
    "a.png": animation("a.png", [300, 100, 600, 50]),
    "b.png": animation("b.png", [40, 1000, 200]),
    "c.png": animation("c.png", [0, 0, 700]),
    "a.webp": animation("a.webp", [300, 100, 600, 50], lossless=True),
    "b.webp": animation("b.webp", [1000, 20, 200], lossless=True),
    "a.avif": animation("a.avif", [300, 100, 600, 1100], quality=95),
    "left out.avi": Clip(
        lambda f: film(
            f / "left out.avi",
            [grey(30 * k) for k in (1, 2, 5, 7)],
            [0, 1 / 8, 5 / 8, 6 / 8],
            codec="mpeg4",
            base=Fraction(1, 8),
        ),
        on_show([30, 60, 150, 210], [0, 1 / 8, 5 / 8, 6 / 8]),
    ),
    "left out mjpeg.avi": Clip(
        lambda f: film(
            f / "left out mjpeg.avi",
            [grey(30 * k) for k in (1, 2, 5)],
            [0, 2 / 8, 9 / 8],
            codec="mjpeg",
            pix_fmt="yuvj420p",
            base=Fraction(1, 8),
        ),
        on_show([30, 60, 150], [0, 2 / 8, 9 / 8]),
    ),
    "b-frames.avi": Clip(lambda f: film(f / "b-frames.avi", [grey(v) for v in EVEN], options=B_FRAMES), EVEN),
    "b-frames mpeg4.avi": Clip(
        lambda f: film(f / "b-frames mpeg4.avi", [grey(v) for v in EVEN], codec="mpeg4", options={"bf": "2"}),
        EVEN,
        8,
    ),
    "b-frames.mp4": Clip(
        lambda f: film(f / "b-frames.mp4", [grey(v) for v in EVEN], options=B_FRAMES), EVEN, decord=True
    ),
    "b-frames.ts": Clip(lambda f: film(f / "b-frames.ts", [grey(v) for v in EVEN], options=B_FRAMES), EVEN),
    "trimmed.mp4": Clip(
        lambda f: film(
            f / "trimmed.mp4", [grey(v) for v in EVEN], shift=5, options={"bf": "0", "g": "99"} | QUICK
        ),
        EVEN[5:] + [EVEN[-1]] * 5,
    ),
    "trimmed b-frames.mov": Clip(
        lambda f: film(
            f / "trimmed b-frames.mov", [grey(v) for v in EVEN], shift=3, options={"g": "99"} | B_FRAMES
        ),
        EVEN[3:] + [EVEN[-1]] * 3,
    ),
    "end cut off.mp4": Clip(lambda f: without_end(f / "end cut off.mp4", 1.0), EVEN[:8] + [EVEN[7]] * 8),
    "no key flags.mp4": Clip(lambda f: without_key_flags(f / "no key flags.mp4"), EVEN),
    "late first frame.mkv": Clip(
        lambda f: film(
            f / "late first frame.mkv", [grey(v) for v in EVEN[:6]], [2 + k / 8 for k in range(6)]
        ),
        EVEN[:6] + [EVEN[5]] * 10,
    ),
    "fragments.mp4": Clip(
        lambda f: film(
            f / "fragments.mp4",
            [grey(v) for v in EVEN],
            container={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
            options={"g": "4"} | QUICK,
        ),
        EVEN,
    ),
    "wide.mp4": Clip(lambda f: film(f / "wide.mp4", [corner()] * 4, aspect=Fraction(2, 1)), size=(128, 64)),
    "wide.mkv": Clip(lambda f: film(f / "wide.mkv", [corner()] * 4, aspect=Fraction(3, 2)), size=(96, 64)),
    "high.mp4": Clip(lambda f: film(f / "high.mp4", [corner()] * 4, aspect=Fraction(1, 2)), size=(64, 128)),
    "alpha.mov": Clip(
        lambda f: film(f / "alpha.mov", [rgba(200, 0)] * 4, codec="png", pix_fmt="rgba", layout="rgba"),
        colour=(255, 255, 255),
    ),
    "half.mov": Clip(
        lambda f: film(f / "half.mov", [rgba(200, 128)] * 4, codec="qtrle", pix_fmt="argb", layout="rgba"),
        colour=(227, 127, 127),
    ),
    "alpha.webm": Clip(
        lambda f: film(
            f / "alpha.webm", [rgba(200, 0)] * 4, codec="libvpx-vp9", pix_fmt="yuva420p", layout="rgba"
        ),
        colour=(255, 255, 255),
    ),
    "clear.webp": Clip(lambda f: animated_rgba(f / "clear.webp"), colour=(255, 255, 255)),
    "clear.png": Clip(lambda f: animated_rgba(f / "clear.png"), colour=(255, 255, 255)),
    "late and cut.mp4": Clip(lambda f: late_and_cut(f / "late and cut.mp4"), EVEN[2:14] + [EVEN[13]] * 4),
    "two pictures.mkv": Clip(lambda f: two_pictures(f / "two pictures.mkv"), [200] * COUNT),
    "aac.mp4": Clip(lambda f: film_with_sound(f / "aac.mp4"), FLASH, sound=1.0),
    "aac fragments.mp4": Clip(
        lambda f: film_with_sound(
            f / "aac fragments.mp4", container={"movflags": "frag_keyframe+delay_moov+default_base_moof"}
        ),
        FLASH,
        sound=1.0,
    ),
    "aac.mkv": Clip(lambda f: film_with_sound(f / "aac.mkv"), FLASH, sound=1.0),
    "opus.webm": Clip(
        lambda f: film_with_sound(f / "opus.webm", codec="libopus", pictures="libvpx"), FLASH, sound=1.0
    ),
    "mp3.mkv": Clip(lambda f: film_with_sound(f / "mp3.mkv", codec="libmp3lame"), FLASH, sound=1.0),
    "pcm.mov": Clip(lambda f: film_with_sound(f / "pcm.mov", codec="pcm_s16le"), FLASH, sound=1.0),
    "late sound.mp4": Clip(lambda f: film_with_sound(f / "late sound.mp4", late_sound=0.5), FLASH, sound=1.5),
    "late sound.mkv": Clip(
        lambda f: film_with_sound(f / "late sound.mkv", codec="pcm_s16le", late_sound=0.25), FLASH, sound=1.25
    ),
    "late picture.mp4": Clip(
        lambda f: film_with_sound(f / "late picture.mp4", late_picture=0.5), LATER, sound=1.0
    ),
    "late picture.mkv": Clip(
        lambda f: film_with_sound(f / "late picture.mkv", codec="flac", late_picture=0.5), LATER, sound=1.0
    ),
    "both late.mkv": Clip(
        lambda f: film_with_sound(f / "both late.mkv", codec="flac", late_picture=3.5, late_sound=3),
        LATER,
        sound=1.0,
    ),
    "gap.mkv": Clip(lambda f: film_with_sound(f / "gap.mkv", codec="pcm_s16le", gap=0.25), FLASH, sound=1.25),
    "gap.mp4": Clip(lambda f: film_with_sound(f / "gap.mp4", codec="aac", gap=0.5), FLASH, sound=1.5),
    "sound.avi": Clip(
        lambda f: film_with_sound(f / "sound.avi", codec="pcm_s16le", pictures="mpeg4"), FLASH, sound=1.0
    ),
    **{
        f"matrix {k}.mp4": Clip(
            lambda f, k=k, numbers=numbers: with_matrix(f / f"matrix {k}.mp4", numbers), quarters=quarters
        )
        for k, (numbers, quarters) in enumerate(POSITIONS.items())
    },
}


def animated_rgba(path: Path) -> Path:
    first, second = [Image.fromarray(rgba(red, 0), "RGBA") for red in (200, 100)]
    first.save(path, save_all=True, append_images=[second], duration=[300, 300], lossless=True)
    return path


# Sounds ----------------------------------------------------------------


def recorded(path: Path, codec: str, rate: int = 48_000, container: str | None = None) -> Path:
    """A tone that begins after a second, alone in a file, with whatever its encoder adds before it."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(2, 1, rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in av.AudioResampler(stream.codec_context.format.name, "mono", rate).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path


def channels(path: Path, gains: dict[int, float], count: int, **options: str) -> Path:
    """A steady level in some channels of several."""
    wave = np.zeros((RATE, count), np.float32)
    for channel, gain in gains.items():
        wave[:, channel] = gain
    soundfile.write(path, wave, RATE, **options)
    return path


def chained(path: Path, subtype: str, rates: tuple[int, int] = (48_000, 48_000)) -> Path:
    """Two recordings one behind the other, as internet radio sends them: a tone, then a softer one."""
    content = b""
    for rate, wave in zip(rates, (tone(1, 0.5, rates[0]), tone(1, 0, rates[1], 0.2))):
        part = io.BytesIO()
        soundfile.write(part, wave, rate, format="OGG", subtype=subtype)
        content += part.getvalue()
    path.write_bytes(content)
    return path


def written(path: Path) -> Path:
    """A tone that begins after a second, in a format that libsndfile knows by the suffix."""
    soundfile.write(path, tone(2, 1, RATE), RATE)
    return path


def with_cover(path: Path) -> Path:
    """A recording with the picture of its album, which is no clip."""
    picture = io.BytesIO()
    Image.fromarray(grey(200)).save(picture, "JPEG")
    plain = recorded(path.with_name("plain.mp3"), "libmp3lame").read_bytes()
    plain = plain[10 + int.from_bytes(bytes(plain[6:10]), "big") :] if plain[:3] == b"ID3" else plain
    body = b"\0image/jpeg\0\3\0" + picture.getvalue()
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + plain)
    return path


def two_sounds(path: Path) -> Path:
    """Two recordings in one file, of which the second is the default one."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("flac", rate=RATE, layout="mono") for _ in range(2)]
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for stream, level in zip(streams, (0.1, 0.4)):
            samples = (tone(1, 0, RATE, level) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def one_behind_the_other(path: Path) -> Path:
    """Two mp3 files, each with its tags, in one."""
    path.write_bytes(recorded(path.with_name("part.mp3"), "libmp3lame").read_bytes() * 2)
    return path


HALF = 2**-0.5
SOUNDS = {
    "priming.m4a": Sound(lambda f: recorded(f / "priming.m4a", "aac", container="ipod"), 1.0),
    "priming.mp3": Sound(lambda f: recorded(f / "priming.mp3", "libmp3lame"), 1.0, seconds=2.0),
    "two files.mp3": Sound(
        lambda f: one_behind_the_other(f / "two files.mp3"), 1.0, {0.5: 0.0, 1.5: 0.48, 3.5: 0.48}
    ),
    "tone.au": Sound(lambda f: written(f / "tone.au"), 1.0, seconds=2.0),
    "tone.w64": Sound(lambda f: written(f / "tone.w64"), 1.0, seconds=2.0),
    "pre-skip.opus": Sound(lambda f: recorded(f / "pre-skip.opus", "libopus"), 1.0, seconds=2.0),
    "pre-skip.ogg": Sound(lambda f: recorded(f / "pre-skip.ogg", "libopus"), 1.0, seconds=2.0),
    "pre-skip.mka": Sound(lambda f: recorded(f / "pre-skip.mka", "libopus", container="matroska"), 1.0),
    "chain.ogg": Sound(
        lambda f: chained(f / "chain.ogg", "VORBIS"), 0.5, {0.7: 0.5, 1.2: 0.2, 1.8: 0.2}, 2.0
    ),
    "chain.opus": Sound(lambda f: chained(f / "chain.opus", "OPUS"), 0.5, {0.7: 0.5, 1.5: 0.2}, 2.0),
    "chain of rates.ogg": Sound(
        lambda f: chained(f / "chain of rates.ogg", "VORBIS", (48_000, 44_100)), 0.5, {1.5: 0.2}, 2.0
    ),
    "stereo.wav": Sound(lambda f: channels(f / "stereo.wav", {0: 0.6}, 2), levels={0.5: 0.3}),
    "front.wav": Sound(lambda f: channels(f / "front.wav", {0: 0.6}, 6), levels={0.5: 0.3}),
    "centre.wav": Sound(lambda f: channels(f / "centre.wav", {2: 0.6}, 6), levels={0.5: 0.6 * HALF}),
    "centre.flac": Sound(lambda f: channels(f / "centre.flac", {2: 0.6}, 6), levels={0.5: 0.6 * HALF}),
    "low.flac": Sound(lambda f: channels(f / "low.flac", {3: 0.6, 0: 0.02}, 6), levels={0.5: 0.01}),
    "behind.wav": Sound(
        lambda f: channels(f / "behind.wav", {4: 0.6}, 6, format="WAVEX"), levels={0.5: 0.3 * HALF}
    ),
    "quad.wav": Sound(lambda f: channels(f / "quad.wav", {1: 0.6, 3: 0.2}, 4), levels={0.5: 0.3 + 0.1}),
    "side.flac": Sound(lambda f: channels(f / "side.flac", {6: 0.6}, 8), levels={0.5: 0.3 * HALF}),
    "array.wav": Sound(
        lambda f: channels(f / "array.wav", {k: 0.5 for k in range(8)}, 16), levels={0.5: 0.25}
    ),
    "cover.mp3": Sound(lambda f: with_cover(f / "cover.mp3"), 1.0, seconds=2.0),
    "two sounds.mka": Sound(lambda f: two_sounds(f / "two sounds.mka"), levels={0.5: 0.4}),
}
# Sounds and pictures that are refused in one line: integers that were saved as floats, numbers that are none.
LOUD = {
    "16 bits.wav": (lambda f: loud(f / "16 bits.wav", 16384.0), "floats up to"),
    "8 bits.wav": (lambda f: loud(f / "8 bits.wav", 127.0), "floats up to"),
    "24 bits.aiff": (lambda f: loud(f / "24 bits.aiff", 8e6), "floats up to"),
    "loud.mkv": (lambda f: loud_container(f / "loud.mkv"), "floats up to"),
    "nan.wav": (lambda f: loud(f / "nan.wav", float("nan")), "NaN"),
}


def loud(path: Path, peak: float) -> Path:
    soundfile.write(path, peak * tone(1, 0, RATE, 1), RATE, subtype="FLOAT")
    return path


def loud_container(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(30000 * tone(1, 0, RATE)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


# Pictures --------------------------------------------------------------


def shot(mode: str = "RGB") -> Image.Image:
    """60 x 40, the left half light."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :30] = 250
    return Image.fromarray(picture).convert(mode)


def turned(path: Path, orientation: int) -> Path:
    image = shot()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def deep(path: Path, value: float, dtype: type, shape: tuple[int, ...] = (16, 16)) -> Path:
    Image.fromarray(np.full(shape, value, dtype)).save(path)
    return path


def deep_colour(path: Path, values: tuple[int, int, int]) -> Path:
    """A png of 16 bits in each of three channels, which Pillow cannot write."""
    import zlib

    line = b"\0" + struct.pack(">3H", *values) * 16
    chunks = [(b"IHDR", struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(line * 16))]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in [*chunks, (b"IEND", b"")]:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)
    return path


def profile(gamma: float, primaries: Sequence[tuple[float, float, float]]) -> bytes:
    """An ICC profile of three primaries in XYZ under D50 and a gamma: a matrix and three curves."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    white = (0.9642, 1.0, 0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    name = b"made for a test\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    text += bytes(-len(text) % 4)
    tags = [(b"desc", text), (b"wtpt", xyz(white)), (b"cprt", b"text\0\0\0\0none\0\0\0\0")]
    tags += [(name, xyz(values)) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags:
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, white))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


P3_PRIMARIES = [(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)]
ADOBE_PRIMARIES = [(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)]
SRGB_PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)]
P3, ADOBE = profile(2.2, P3_PRIMARIES), profile(2.2, ADOBE_PRIMARIES)


def in_srgb(colour: tuple[int, int, int], primaries: Sequence[tuple[float, float, float]]) -> tuple[int, ...]:
    """A colour of such a profile in sRGB, by the formulas of the two."""
    light = np.array(primaries).T @ (np.array(colour) / 255) ** 2.2
    linear = np.clip(np.linalg.solve(np.array(SRGB_PRIMARIES).T, light), 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return tuple(np.round(255 * coded).astype(int).tolist())


def with_profile(
    path: Path, icc: bytes, colour: tuple[int, ...], mode: str = "RGB", **options: object
) -> Path:
    Image.new(mode, (16, 16), colour).save(path, icc_profile=icc, **options)
    return path


def palette(path: Path) -> Path:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(path)
    return path


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def full(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def coded(picture: np.ndarray, folder: Path) -> tuple[bytes, bytes]:
    """The hvcC box of a picture and its HEVC bytes."""
    path = film(
        folder / "coded.mp4",
        [picture],
        [0.0],
        codec="libx265",
        pix_fmt="yuv444p",
        options={"x265-params": "log-level=none:crf=4:bframes=0:keyint=1"},
        container={"movflags": "+faststart"},
    )
    raw = path.read_bytes()
    place = raw.index(b"hvcC") - 4
    hvcc = raw[place : place + int.from_bytes(raw[place : place + 4], "big")]
    with av.open(str(path)) as container:
        return hvcc, bytes(next(p for p in container.demux(video=0) if p.size))


def heic(
    path: Path, tiles: list[np.ndarray], columns: int = 0, size: tuple[int, int] = (0, 0), turn: bytes = b""
) -> Path:
    """A HEIC picture: one HEVC picture, or a grid of several as telephones write it.

    Args:
        path: the file.
        tiles: the pictures, row by row.
        columns: how many tiles stand side by side; 0 for a single picture.
        size: width and height of the whole.
        turn: boxes of properties (irot, imir) of the whole.
    """
    parts = [coded(tile, path.parent) for tile in tiles]
    height, width = tiles[0].shape[:2]
    size = size if columns else (width, height)
    whole = len(tiles) + 1 if columns else 1
    turns = [turn[k : k + 9] for k in range(0, len(turn), 9)]
    properties = [parts[0][0], full(b"ispe", 0, struct.pack(">II", width, height))]
    properties += [full(b"ispe", 0, struct.pack(">II", *size)), *turns]
    kinds = [b"hvc1"] * len(tiles) + ([b"grid"] if columns else [])
    infe = [full(b"infe", 2, struct.pack(">HH", k + 1, 0) + kind + b"\0") for k, kind in enumerate(kinds)]
    used = [(1, 2)] * len(tiles) + ([(3,)] if columns else [])
    used[whole - 1] = (*used[whole - 1], *range(4, 4 + len(turns)))
    ipma = b"".join(
        struct.pack(">HB", k + 1, len(found)) + bytes(0x80 | number for number in found)
        for k, found in enumerate(used)
    )
    rows = len(tiles) // columns if columns else 0
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *size) if columns else b""
    bodies = [body for _, body in parts]
    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    members = range(1, len(tiles) + 1)
    refs = box(b"dimg", struct.pack(f">HH{len(tiles)}H", whole, len(tiles), *members))

    def meta(start: int) -> bytes:
        iloc, offset = b"", start
        for k, body in enumerate(bodies):
            iloc += struct.pack(">HHHHII", k + 1, 0, 0, 1, offset, len(body))
            offset += len(body)
        if columns:
            iloc += struct.pack(">HHHHII", whole, 1, 0, 1, 0, len(grid))
        return full(
            b"meta",
            0,
            full(b"hdlr", 0, bytes(4) + b"pict" + bytes(13)),
            full(b"pitm", 0, struct.pack(">H", whole)),
            full(b"iinf", 0, struct.pack(">H", len(infe)), *infe),
            *([full(b"iref", 0, refs)] if columns else []),
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, struct.pack(">I", len(used)), ipma)),
            *([box(b"idat", grid)] if columns else []),
            full(b"iloc", 1, struct.pack(">BBH", 0x44, 0, len(bodies) + bool(columns)), iloc),
        )

    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", *bodies))
    return path


def irot(quarters: int) -> bytes:
    """A turn by so many quarters, against the clock."""
    return box(b"irot", bytes([quarters]))


def imir(axis: int) -> bytes:
    """A mirror: 0 exchanges top and bottom, 1 left and right."""
    return box(b"imir", bytes([axis]))


def clear_grey(path: Path, clear: int) -> Path:
    """A picture in a grey of 16 bits, that is 100 of 255, in which one grey is transparent."""
    Image.fromarray(np.full((16, 16), 100 << 8, np.uint16)).save(path)
    raw = path.read_bytes()
    body = b"tRNS" + struct.pack(">H", clear)
    place = raw.index(b"IDAT") - 4
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(raw[:place] + chunk + raw[place:])
    return path


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


CORNERS = [(8, 8), (56, 8), (8, 56), (56, 56)]
LEFT, RIGHT = (250, 250, 250), (0, 0, 0)
TURNED = {  # the tag of EXIF -> the size, what stands at the middle of the left or upper half
    1: ((60, 40), {(15, 20): LEFT, (45, 20): RIGHT}),
    2: ((60, 40), {(15, 20): RIGHT, (45, 20): LEFT}),
    3: ((60, 40), {(15, 20): RIGHT, (45, 20): LEFT}),
    6: ((40, 60), {(20, 15): LEFT, (20, 45): RIGHT}),
    8: ((40, 60), {(20, 15): RIGHT, (20, 45): LEFT}),
}
GREY = {(8, 8): (128, 128, 128)}
PICTURES = {
    **{
        f"exif {tag}.{suffix}": Picture(
            lambda f, tag=tag, suffix=suffix: turned(f / f"exif {tag}.{suffix}", tag), pixels, size, 6
        )
        for tag, (size, pixels) in TURNED.items()
        for suffix in ("jpg", "png", "webp", "tiff", "avif")
    },
    "16.png": Picture(lambda f: deep(f / "16.png", 128 << 8, np.uint16), GREY),
    "16.tiff": Picture(lambda f: deep(f / "16.tiff", 128 * 257, np.uint16), GREY),
    "16 dark.tiff": Picture(lambda f: deep(f / "16 dark.tiff", 200, np.uint16), {(8, 8): (0, 0, 0)}),
    "16 clear.png": Picture(lambda f: clear_grey(f / "16 clear.png", 100 << 8), {(8, 8): (255,) * 3}),
    "16 not clear.png": Picture(lambda f: clear_grey(f / "16 not clear.png", 7), {(8, 8): (100,) * 3}),
    "no exif.png": Picture(
        lambda f: saved(f / "no exif.png", Image.new("RGB", (16, 16), (9, 99, 200)), exif=b"Exif\0\0rubbish"),
        {(8, 8): (9, 99, 200)},
    ),
    "16 colour.png": Picture(
        lambda f: deep_colour(f / "16 colour.png", (128 << 8, 200 << 8, 10 << 8)), {(8, 8): (128, 200, 10)}
    ),
    "int of 8.tiff": Picture(lambda f: deep(f / "int of 8.tiff", 128, np.int32), GREY),
    "int of 16.tiff": Picture(lambda f: deep(f / "int of 16.tiff", 128 << 8, np.int32), GREY),
    "int of 32.tiff": Picture(lambda f: deep(f / "int of 32.tiff", 1 << 30, np.int32), GREY),
    "float.tiff": Picture(lambda f: deep(f / "float.tiff", 0.5, np.float32), GREY),
    "float of 8.tiff": Picture(lambda f: deep(f / "float of 8.tiff", 128.0, np.float32), GREY),
    "float of 16.tiff": Picture(lambda f: deep(f / "float of 16.tiff", 32896.0, np.float32), GREY),
    "p3.png": Picture(
        lambda f: with_profile(f / "p3.png", P3, (100, 200, 120)),
        {(8, 8): in_srgb((100, 200, 120), P3_PRIMARIES)},
        tolerance=3,
    ),
    "p3.jpg": Picture(
        lambda f: with_profile(f / "p3.jpg", P3, (250, 40, 30), quality=95),
        {(8, 8): in_srgb((250, 40, 30), P3_PRIMARIES)},
        tolerance=8,
    ),
    "adobe.tiff": Picture(
        lambda f: with_profile(f / "adobe.tiff", ADOBE, (120, 200, 120)),
        {(8, 8): in_srgb((120, 200, 120), ADOBE_PRIMARIES)},
        tolerance=3,
    ),
    "adobe.webp": Picture(
        lambda f: with_profile(f / "adobe.webp", ADOBE, (120, 100, 200), lossless=True),
        {(8, 8): in_srgb((120, 100, 200), ADOBE_PRIMARIES)},
        tolerance=3,
    ),
    "adobe clear.png": Picture(
        lambda f: with_profile(f / "adobe clear.png", ADOBE, (120, 200, 120, 255), "RGBA"),
        {(8, 8): in_srgb((120, 200, 120), ADOBE_PRIMARIES)},
        tolerance=3,
    ),
    "srgb.png": Picture(
        lambda f: with_profile(
            f / "srgb.png", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), (120, 200, 7)
        ),
        {(8, 8): (120, 200, 7)},
        tolerance=0,
    ),
    "not its profile.png": Picture(
        lambda f: with_profile(f / "not its profile.png", P3[:200], (120, 200, 7)), {(8, 8): (120, 200, 7)}
    ),
    "1.png": Picture(lambda f: saved(f / "1.png", shot("1")), {(15, 20): (255,) * 3, (45, 20): (0,) * 3}),
    "p.png": Picture(lambda f: palette(f / "p.png"), {(8, 8): (10, 200, 30)}),
    "p.webp": Picture(
        lambda f: saved(f / "p.webp", shot("P"), lossless=True), {(15, 20): (250,) * 3}, tolerance=6
    ),
    "clear.png": Picture(
        lambda f: saved(f / "clear.png", Image.new("RGBA", (16, 16), (200, 0, 0, 128))),
        {(8, 8): (227, 127, 127)},
    ),
    "clear.webp": Picture(
        lambda f: saved(f / "clear.webp", Image.new("RGBA", (16, 16), (200, 0, 0, 0)), lossless=True),
        {(8, 8): (255,) * 3},
    ),
    "clear grey.png": Picture(
        lambda f: saved(f / "clear grey.png", Image.new("LA", (16, 16), (100, 0))), {(8, 8): (255,) * 3}
    ),
    "clear.avif": Picture(
        lambda f: saved(f / "clear.avif", Image.new("RGBA", (16, 16), (200, 0, 0, 0))), {(8, 8): (255,) * 3}
    ),
    **{
        f"{name}.heic": Picture(
            lambda f, name=name, turn=turn: heic(f / f"{name}.heic", [corner()], turn=turn),
            dict(zip(CORNERS, ((level,) * 3 for level in levels))),
            (SIDE, SIDE),
            4,
        )
        for name, turn, levels in (
            ("upright", b"", [255, 128, 0, 0]),
            ("turned", irot(1), [128, 0, 255, 0]),
            ("turned back", irot(3), [0, 255, 0, 128]),
            ("mirrored", imir(1), [128, 255, 0, 0]),
            ("flipped", imir(0), [0, 0, 255, 128]),
        )
    },
    "grid.heic": Picture(
        lambda f: heic(f / "grid.heic", [grey(v) for v in (250, 128, 30, 0, 60, 90)], 3, (150, 100)),
        {
            (8, 8): (250,) * 3,
            (100, 8): (128,) * 3,
            (140, 8): (30,) * 3,
            (8, 90): (0,) * 3,
            (140, 90): (90,) * 3,
        },
        (150, 100),
        4,
    ),
    "grid turned.heic": Picture(
        lambda f: heic(f / "grid turned.heic", [grey(v) for v in (250, 128)], 2, (100, 64), irot(3)),
        {(30, 8): (250,) * 3, (30, 90): (128,) * 3},
        (64, 100),
        4,
    ),
    "cmyk.jpg": Picture(
        lambda f: saved(f / "cmyk.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=95),
        {(8, 8): (0, 255, 255)},
        tolerance=4,
    ),
    "cmyk.tiff": Picture(
        lambda f: saved(f / "cmyk.tiff", Image.new("CMYK", (16, 16), (0, 255, 0, 128))),
        {(8, 8): (127, 0, 127)},
    ),
}
