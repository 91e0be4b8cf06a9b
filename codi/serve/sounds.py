"""Turn a sound that was made here into the formats that clients ask for.

Media of others are read in `codi.io` alone, in a process of its own; these are ours, and nothing heavier is
needed for them than what writes them.
"""

import io
from math import gcd
from pathlib import Path

from codi.libraries import load

PCM = "pcm"  # samples alone
PCM_RATE = 24_000  # Hz, which OpenAI's pcm has
TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", PCM: "audio/pcm"}


def sound_as(path: Path, form: str) -> bytes:
    """Return a wav file in another format.

    Args:
        path: the wav file.
        form: one of `TYPES`; pcm is 16 bit, mono, at `PCM_RATE`, the lower byte first.

    Returns:
        The bytes of the file, or of the samples.

    Raises:
        InputError: where the library that writes sounds is missing.
    """
    if path.suffix == f".{form}":
        return path.read_bytes()
    soundfile = load("soundfile", "a sound in another format")
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if form == PCM:
        from scipy.signal import resample_poly

        common = gcd(PCM_RATE, rate)
        wave = resample_poly(wave.mean(axis=1), PCM_RATE // common, rate // common)
        return (wave.clip(-1, 1) * 32767).round().astype("<i2").tobytes()
    encoded = io.BytesIO()
    with soundfile.SoundFile(encoded, "w", rate, wave.shape[1], format=form.upper()) as file:
        file.write(wave)
    return encoded.getvalue()
