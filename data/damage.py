"""The damage that sounds, pictures and clips have suffered by the time somebody gives them as a prompt.

It is ordinary: a cheap recording, a telephone, noise, a screenshot, dim light. Every kind draws how strong it
is from a random generator, so that the same generator does the same. Numbers are those of equipment and
habits, and were not chosen by what a model bears.

Letters: B media, S samples, F frames, H height, W width.
"""

import io as memory
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from codi.io import fit_audio, fit_image, from_unit, to_unit
from codi.libraries import load
from codi.types import InputError

WORLD_RATE = 16000.0  # Hz of the world's sounds
TELEPHONE = (300.0, 3400.0)  # Hz that a telephone lets pass (ITU-T G.712)
SPEECH = (300.0, 2500.0)  # Hz of the babble of voices
BITRATE = 64_000  # of an mp3, in bits per second
JPEG_QUALITY = 30
MORE = 0.3  # the chance that what is damaged in training is damaged a second time, by another kind


def mp3(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Encode as an mp3 of `BITRATE` and decode again."""
    av = load("av", "damage by mp3")
    file = memory.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=rate, layout="mono")
        stream.bit_rate = BITRATE
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    file.seek(0)
    with av.open(file, "r") as heard:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in heard.decode(audio=0)])
    # the decoder leaves out what the encoder put before the sound; behind it, it may add or lack some
    return np.pad(decoded, (0, max(0, len(wave) - len(decoded))))[: len(wave)]


def mu_law(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Transmit at 8 kHz in 8 bits by the mu law (ITU-T G.711), as an old voice line does."""
    narrow = fit_audio(torch.from_numpy(wave), rate, 8000, -(-len(wave) * 8000 // rate)).clamp(-1, 1).numpy()
    companded = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
    heard = np.round(127.5 * companded) / 127.5
    expanded = np.sign(heard) * (256 ** np.abs(heard) - 1) / 255
    return fit_audio(torch.from_numpy(expanded), 8000, rate, len(wave)).numpy()


def telephone(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Let pass `TELEPHONE` alone, then transmit by the mu law."""
    return mu_law(_within(wave, TELEPHONE, rate), rate, rng)


def linear_resampling(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Bring to another rate and back by straight lines between samples, with no filter."""
    other = int(rng.choice([8000, 11025, 22050, 44100]))
    there = np.arange(0, len(wave), rate / other)
    played = np.interp(there, np.arange(len(wave)), wave)
    return np.interp(np.arange(len(wave)), there, played)


def gain(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Make softer or louder by up to 12 dB; what is too loud is clipped."""
    return wave * 10 ** (rng.uniform(-12, 12) / 20)


def echo(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Play in a room whose sound has fallen by 60 dB after 0.2 to 0.6 s."""
    from scipy import signal

    seconds = rng.uniform(0.2, 0.6)
    t = np.arange(int(seconds * rate)) / rate
    room = rng.standard_normal(len(t)) * 10 ** (-3 * t / seconds)
    heard = signal.fftconvolve(wave, room)[: len(wave)]
    share = 10 ** (rng.uniform(-9, -3) / 20)  # of the room's sound, relative to the direct one
    return wave + heard * share * _rms(wave) / max(_rms(heard), 1e-9)


def hum(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Add the hum of the mains, 50 or 60 Hz and overtones, 5 to 20 dB below the sound."""
    t = np.arange(len(wave)) / rate
    tone = np.zeros(len(wave))
    base = rng.choice([50.0, 60.0])
    for k in range(1, 6):
        tone += np.sin(2 * np.pi * (k * base * t + rng.random())) / k
    return _mixed(wave, tone, rng)


def noise(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Add white noise, 5 to 20 dB below the sound."""
    return _mixed(wave, rng.standard_normal(len(wave)), rng)


def speech_band_noise(wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
    """Add noise between the frequencies of `SPEECH`, 5 to 20 dB below the sound."""
    return _mixed(wave, _within(rng.standard_normal(len(wave)), SPEECH, rate), rng)


def _within(wave: np.ndarray, band: tuple[float, float], rate: int) -> np.ndarray:
    """Return the part of a sound that lies within a band in Hz."""
    from scipy import signal

    sections = signal.butter(2, band, "bandpass", fs=rate, output="sos")
    return signal.sosfilt(sections, wave).astype(np.float32)


def _mixed(wave: np.ndarray, other: np.ndarray, rng: Generator) -> np.ndarray:
    """Return a sound with another one added, 5 to 20 dB below it."""
    level = 10 ** (-rng.uniform(5, 20) / 20)
    return wave + other * level * max(_rms(wave), 1e-4) / max(_rms(other), 1e-9)


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def jpeg(frames: Tensor, rng: Generator) -> Tensor:
    """Encode as a jpeg of `JPEG_QUALITY` and decode again."""
    from PIL import Image

    decoded = []
    for frame in frames:
        file = memory.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=JPEG_QUALITY)
        decoded.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(decoded)


def blur(frames: Tensor, rng: Generator) -> Tensor:
    """Put out of focus: a Gaussian whose deviation is 1 to 2.5 % of the picture's height."""
    from scipy import ndimage

    deviation = rng.uniform(0.01, 0.025) * frames.shape[-2]
    return torch.from_numpy(ndimage.gaussian_filter(frames.numpy(), (0, 0, deviation, deviation)))


def dim(frames: Tensor, rng: Generator) -> Tensor:
    """Show by little light, 35 to 75 % of the brightness."""
    return _scaled(frames, rng.uniform(0.35, 0.75))


def bright(frames: Tensor, rng: Generator) -> Tensor:
    """Overexpose, 125 to 170 % of the brightness; what is too bright is clipped."""
    return _scaled(frames, rng.uniform(1.25, 1.7))


def tilt(frames: Tensor, rng: Generator) -> Tensor:
    """Turn by 2 to 5 degrees to one side; corners are filled up with what is nearest."""
    from scipy import ndimage

    angle = rng.uniform(2, 5) * rng.choice([-1, 1])
    turned = ndimage.rotate(frames.numpy(), angle, axes=(3, 2), reshape=False, order=1, mode="nearest")
    return torch.from_numpy(turned)


def screenshot(frames: Tensor, rng: Generator) -> Tensor:
    """Show in a window: smaller, on a light ground, below a dark bar."""
    height, width = frames.shape[-2:]
    share = rng.uniform(0.75, 0.9)
    inner = (round(share * height), round(share * width))
    small = torch.nn.functional.interpolate(frames.float(), inner, mode="bilinear", antialias=True)
    out = torch.full_like(frames, 240)
    bar = max(1, round(0.06 * height))
    out[..., :bar, :] = 60
    top = bar + (height - bar - inner[0]) // 2
    left = (width - inner[1]) // 2
    out[..., top : top + inner[0], left : left + inner[1]] = small.round().to(torch.uint8)
    return out


def aspect(frames: Tensor, rng: Generator) -> Tensor:
    """Stretch to 4:3 along one side, and cut the middle out as prompts are cut."""
    height, width = frames.shape[-2:]
    longer = (height, width * 4 // 3) if rng.random() < 0.5 else (height * 4 // 3, width)
    wide = torch.nn.functional.interpolate(frames.float(), longer, mode="bilinear")
    return from_unit(fit_image(wide.round().to(torch.uint8), (height, width)))


def colour_cast(frames: Tensor, rng: Generator) -> Tensor:
    """Show by warm or cold light: red and blue are 10 to 25 % stronger and weaker, or weaker and stronger."""
    cast = rng.uniform(0.1, 0.25) * rng.choice([-1, 1])
    gains = torch.tensor([1 + cast, 1.0, 1 - cast], dtype=torch.float32)
    return _scaled(frames, gains[:, None, None])


def _scaled(frames: Tensor, factor: float | Tensor) -> Tensor:
    """Return frames with their values multiplied, and clipped."""
    return (frames.float() * factor).round().clamp(0, 255).to(torch.uint8)


def lost_frames(frames: Tensor, rng: Generator) -> Tensor:
    """Lose a quarter of the frames; the one before stays on show."""
    shown = np.arange(len(frames))
    shown[1:][rng.random(len(frames) - 1) < 0.25] = -1
    return frames[np.maximum.accumulate(shown)]


SoundDamage = Callable[[np.ndarray, int, Generator], np.ndarray]
PictureDamage = Callable[[Tensor, Generator], Tensor]
_OF_SOUNDS = (mp3, telephone, mu_law, linear_resampling, gain, echo, hum, noise, speech_band_noise)
_OF_PICTURES = (jpeg, blur, dim, bright, tilt, screenshot, aspect, colour_cast)
SOUNDS: dict[str, SoundDamage] = {each.__name__: each for each in _OF_SOUNDS}
PICTURES: dict[str, PictureDamage] = {each.__name__: each for each in _OF_PICTURES}
CLIPS: dict[str, PictureDamage] = PICTURES | {lost_frames.__name__: lost_frames}
KINDS = tuple(SOUNDS | CLIPS)


def kinds_of(medium: Tensor) -> tuple[str, ...]:
    """Return the kinds of damage that befall a sound (S,), a picture (3, H, W) or a clip (F, 3, H, W)."""
    tables: dict[int, Mapping[str, object]] = {1: SOUNDS, 3: PICTURES, 4: CLIPS}
    assert medium.ndim in tables, f"a sound, a picture or a clip, not {tuple(medium.shape)}"
    return tuple(tables[medium.ndim])


def damage(medium: Tensor, kind: str, rng: Generator, rate: float | None = None) -> Tensor:
    """Return one medium with one kind of damage.

    Args:
        medium: a sound (S,) in [-1, 1], a picture (3, H, W) or a clip (F, 3, H, W); pixels are uint8, or
            float in [-1, 1].
        kind: one of `kinds_of`.
        rng: draws how strong it is.
        rate: the sampling rate of a sound in Hz; None for `WORLD_RATE`.

    Returns:
        The damaged medium, of the same shape and type.

    Raises:
        InputError: for a kind that does not befall such a medium.
    """
    able = kinds_of(medium)
    if kind not in able:
        raise InputError(f"damage {kind!r} is none of such media: expected one of {', '.join(able)}")
    if medium.ndim == 1:
        wave = SOUNDS[kind](medium.float().numpy(), round(rate or WORLD_RATE), rng)
        return torch.from_numpy(np.asarray(wave, dtype=np.float32)).clamp(-1, 1).to(medium.dtype)
    pixels = medium if medium.dtype == torch.uint8 else from_unit(medium)
    frames = pixels if medium.ndim == 4 else pixels[None]
    changed = CLIPS[kind](frames, rng)
    changed = changed if medium.ndim == 4 else changed[0]
    return changed if medium.dtype == torch.uint8 else to_unit(changed).to(medium.dtype)


def damage_some(
    media: Tensor,
    share: float,
    generator: torch.Generator,
    kinds: Sequence[str] = (),
    rate: float | None = None,
) -> Tensor:
    """Return media of which a share are damaged, some of these twice.

    Args:
        media: sounds (B, S), pictures (B, 3, H, W) or clips (B, F, 3, H, W), as `damage` takes them.
        share: the chance of each to be damaged.
        generator: the source of all draws.
        kinds: the kinds that are drawn from; those that do not befall such media are passed over. Empty for
            all of them.
        rate: the sampling rate of sounds in Hz; None for `WORLD_RATE`.

    Returns:
        The media, (B, ...), on the device that they came on; with a share of 0 the same tensor.

    Raises:
        InputError: if none of the kinds befalls such media.
    """
    if not share:
        return media
    known = kinds_of(media[0])
    able = [kind for kind in known if not kinds or kind in kinds]
    if not able:
        raise InputError(
            f"damage {', '.join(kinds)} is none of such media: expected some of {', '.join(known)}"
        )
    device = generator.device
    seeds = torch.randint(2**62, (len(media),), generator=generator, device=device).tolist()
    rows = []
    for medium, seed in zip(media.cpu(), seeds):
        rng = np.random.default_rng(seed)
        if rng.random() < share:
            count = 1 + (rng.random() < MORE and len(able) > 1)
            for kind in rng.choice(able, count, replace=False):
                medium = damage(medium, str(kind), rng, rate)
        rows.append(medium)
    return torch.stack(rows).to(media.device)
