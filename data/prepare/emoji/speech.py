"""Names -> spoken words, by two programs: espeak-ng, and flite where it is there.

espeak-ng is under the GPL. It is run to make sounds, which its licence does not reach; nothing of it is in
the set, and nothing of it is in weights that are trained on the set. flite and its voices are under licences
of the BSD kind (Carnegie Mellon University).

Letters: T samples.
"""

import _ctypes
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from codi.io import fit_audio, load_audio
from codi.types import InputError
from data.prepare.emoji.items import Item, LeftOut
from data.prepare.emoji.names import Emoji
from data.prepare.emoji.packages import Package, library
from data.prepare.emoji.sounds import save_sound
from data.prepare.emoji.split import Side, choice_of, side_of, together

QUIET = 0.02  # of the loudest sample: what is below it at both ends is cut off
LONGEST = 28  # letters of a name that is spoken


@dataclass(frozen=True)
class Voice:
    """One voice.

    Attributes:
        program: "espeak-ng" or "flite".
        id: what the program calls it.
        words: what captions call it.
        language: the code of its language.
    """

    program: str
    id: str
    words: str
    language: str = "en"


ENGLISH = (
    Voice("espeak-ng", "en-us", "an American man"),
    Voice("espeak-ng", "en-us+f3", "an American woman"),
    Voice("espeak-ng", "en", "a British man"),
    Voice("espeak-ng", "en+f4", "a British woman"),
    Voice("espeak-ng", "en-gb-scotland", "a Scottish man"),
    Voice("espeak-ng", "en-us+whisper", "somebody who whispers"),
)
FLITE = (
    Voice("flite", "slt", "a woman called Slt"),
    Voice("flite", "rms", "a man called Rms"),
    Voice("flite", "awb", "a man called Awb"),
    Voice("flite", "kal16", "a man called Kal"),
)
# Languages by their codes: the voice of espeak-ng, and what captions call its speaker.
LANGUAGES = {
    "da": Voice("espeak-ng", "da", "a Danish voice", "da"),
    "de": Voice("espeak-ng", "de", "a German voice", "de"),
    "es": Voice("espeak-ng", "es", "a Spanish voice", "es"),
    "fr": Voice("espeak-ng", "fr", "a French voice", "fr"),
    "it": Voice("espeak-ng", "it", "an Italian voice", "it"),
    "nl": Voice("espeak-ng", "nl", "a Dutch voice", "nl"),
    "pl": Voice("espeak-ng", "pl", "a Polish voice", "pl"),
    "pt": Voice("espeak-ng", "pt", "a Portuguese voice", "pt"),
    "sv": Voice("espeak-ng", "sv", "a Swedish voice", "sv"),
}


class Espeak:
    """espeak-ng, loaded as a library.

    Raises:
        InputError: if espeakng-loader, which holds it, is not installed.
    """

    def __init__(self) -> None:
        loader = library("espeakng_loader", "speaking names")
        version = metadata.version("espeakng-loader")
        self.package = Package(name="espeakng-loader", version=version, licence=_MADE_BY_GPL, folder=Path())
        self._path = str(loader.get_library_path())
        self._data = str(loader.get_data_path())

    def say(self, text: str, voice: str) -> tuple[Tensor, int]:
        """Return what a text sounds like, float32 (T,), and its sampling rate in Hz.

        The library keeps the phases of its generators from one text to the next, and has no call that resets
        them: it is loaded anew for each text (5 ms), so that what is said depends on nothing said before.
        """
        pieces: list[np.ndarray] = []

        def take(samples: Any, count: int, events: Any) -> int:
            if samples and count > 0:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0  # asks for more

        form = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        callback = form(take)
        engine = ctypes.CDLL(self._path)
        try:
            rate = engine.espeak_Initialize(_SYNCHRONOUS, 0, self._data.encode(), 0)
            engine.espeak_SetSynthCallback(callback)
            if rate <= 0 or engine.espeak_SetVoiceByName(voice.encode()) != 0:
                raise InputError(
                    f"espeak-ng has no voice {voice!r} in {self._data}: install espeakng-loader again"
                )
            ctypes.CDLL(None).srand(1)  # noise in its consonants is drawn by the C library
            content = text.encode() + b"\0"
            engine.espeak_Synth(content, len(content), 0, _BY_CHARACTER, 0, _UTF_8, None, None)
            engine.espeak_Synchronize()
        finally:
            engine.espeak_Terminate()
            _ctypes.dlclose(engine._handle)
        wave = np.concatenate(pieces or [np.zeros(0, np.int16)])
        return torch.from_numpy(wave.astype(np.float32) / 32768), int(rate)


_SYNCHRONOUS, _BY_CHARACTER, _UTF_8 = 1, 1, 1  # constants of espeak-ng's speak_lib.h
_MADE_BY_GPL = "output of a program under GPL-3.0-or-later"
_MADE_BY_BSD = "output of a program under BSD-like terms"


class Flite:
    """flite, run as a program.

    Args:
        folder: the folder of packages; flite and libflite1 of Debian may be unpacked there.

    Raises:
        InputError: if it is neither installed nor there.
    """

    def __init__(self, folder: Path) -> None:
        unpacked = folder / "flite" / "usr" / "bin" / "flite"
        installed = shutil.which("flite")
        if not unpacked.is_file() and installed is None:
            raise InputError(
                f"no flite here or below {folder}: run `apt-get download flite libflite1` there and "
                "`dpkg-deb -x` for each into a folder of its name, or install it, or leave it out with "
                "--voices espeak-ng"
            )
        self._program = str(unpacked) if unpacked.is_file() else str(installed)
        libraries = sorted((folder / "libflite1" / "usr" / "lib").glob("*"))
        self._environment = dict(os.environ)
        if unpacked.is_file() and libraries:
            self._environment["LD_LIBRARY_PATH"] = str(libraries[0])
        self.package = Package(name="flite", version=self._version(), licence=_MADE_BY_BSD, folder=folder)

    def say(self, text: str, voice: str) -> tuple[Tensor, int]:
        """Return what a text sounds like, float32 (T,), and its sampling rate in Hz."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "said.wav"
            self._run("-voice", voice, "-t", text, "-o", str(path))
            return load_audio(path)

    def _version(self) -> str:
        said = self._run("--version").split()
        return next((word.removeprefix("flite-") for word in said if word.startswith("flite-")), "unknown")

    def _run(self, *options: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *options],
                env=self._environment,
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(
                f"{self._program} {options[0]} failed ({' '.join(str(error).split())[:160]}): install flite "
                "and libflite1 of one version"
            ) from None
        return done.stdout


def speech_items(
    names: Mapping[str, Emoji],
    speakers: Mapping[str, Any],
    languages: Sequence[str],
    rate: int,
    seconds: float,
    pictures: Mapping[tuple[str, str], tuple[str, Side, str, Package]],
) -> Iterator[Item]:
    """Yield the names of all emoji, spoken: in two English voices of espeak-ng, one of flite, two languages.

    Each is a sample by itself. The first voice is heard a second time beside a picture of what it says, where
    both are on the same side of the split.

    Args:
        names: the emoji.
        speakers: what speaks, `Espeak` and `Flite`, by the names of the programs.
        languages: codes of the languages beside English.
        rate: the sampling rate in Hz.
        seconds: the length of a sound; a name that takes longer is left out.
        pictures: by (key, family) the picture, its side, the words of its style, and its package.

    Yields:
        The samples.
    """
    for emoji in names.values():
        for number, (voice, text) in enumerate(_spoken(emoji, speakers, languages)):
            spoken = _speech(emoji, voice, text, speakers[voice.program], rate, seconds)
            yield spoken
            if number == 0:
                yield from _shown(emoji, voice, spoken, pictures)


def _spoken(
    emoji: Emoji, speakers: Mapping[str, Any], languages: Sequence[str]
) -> Iterator[tuple[Voice, str]]:
    """Yield the voices that say a name, with the name in their language."""
    if len(emoji.name) <= LONGEST and "espeak-ng" in speakers:
        first = choice_of(ENGLISH, "voice", emoji.key)
        yield first, emoji.name
        others = [voice for voice in ENGLISH if voice != first]
        yield choice_of(others, "second voice", emoji.key), emoji.name
    if len(emoji.name) <= LONGEST and "flite" in speakers:
        yield choice_of(FLITE, "flite", emoji.key), emoji.name
    known = [language for language in languages if language in emoji.labels and language in LANGUAGES]
    if "espeak-ng" not in speakers:
        return
    for _ in range(min(2, len(known))):
        language = choice_of(known, "language", str(len(known)), emoji.key)
        known.remove(language)
        if len(emoji.labels[language]) <= LONGEST:
            yield LANGUAGES[language], emoji.labels[language]


def _speech(emoji: Emoji, voice: Voice, text: str, speaker: Any, rate: int, seconds: float) -> Item:
    identity = f"{voice.program.partition('-')[0]}-{voice.id.replace('+', '-')}-{emoji.key}"
    captions = [f'{voice.words} says "{text}"', f'a voice says "{text}"']
    if voice.language != "en":
        captions.append(f"{voice.words} says the word for {emoji.name}")
    return Item(
        id=identity,
        file=f"speech/{identity}.flac",
        make=lambda path: _save(path, speaker, voice, text, rate, seconds),
        captions=tuple(captions),
        name=emoji.name,
        side=side_of(emoji.name, f"voice {voice.id}"),
        sources=(speaker.package,),
        facts={
            "key": emoji.key,
            "kind": "speech",
            "family": f"voice {voice.id}",
            "says": text,
            "language": voice.language,
        },
    )


def _shown(
    emoji: Emoji,
    voice: Voice,
    spoken: Item,
    pictures: Mapping[tuple[str, str], tuple[str, Side, str, Package]],
) -> Iterator[Item]:
    """Yield a spoken name beside a picture of what it names, if both are on one side."""
    families = [family for key, family in pictures if key == emoji.key]
    if not families:
        return
    file, side, style, package = pictures[emoji.key, choice_of(families, "shown", emoji.key)]
    common = together((spoken.side, side))
    if common is not None:
        yield Item(
            id=f"shown-{spoken.id}",
            file=spoken.file,
            make=spoken.make,
            captions=(f'{emoji.name}, {style}, and {voice.words} says "{emoji.name}"', emoji.name),
            name=emoji.name,
            side=common,
            sources=(*spoken.sources, package),
            beside=(file,),
            facts={**spoken.facts, "style": style},
        )


def _save(path: Path, speaker: Any, voice: Voice, text: str, rate: int, seconds: float) -> None:
    """Write a spoken text from where it begins to be heard; one that does not fit is `LeftOut`."""
    wave, own = speaker.say(text, voice.id)
    wave = trimmed(wave)
    if len(wave) > seconds * own:
        raise LeftOut(f"takes {len(wave) / own:.2f} s")
    save_sound(path, fit_audio(wave, own, rate, round(seconds * rate)), rate)


def trimmed(wave: Tensor) -> Tensor:
    """Return a sound (T,) without the silence at both ends, and 20 ms of it before the beginning at most."""
    if not len(wave):
        return wave
    loud = nnf.pad(wave.abs(), (0, 1)).gt(QUIET * float(wave.abs().max())).nonzero()[:, 0]
    return wave[int(loud[0]) : int(loud[-1]) + 1] if len(loud) else wave[:0]
