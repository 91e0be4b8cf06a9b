"""Instruments, percussion, effects and recorded samples, as sounds of one length.

Letters: T samples.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from codi.io import fit_audio, load_audio, save_audio
from codi.types import InputError
from data.prepare.emoji.general_midi import FIRST_EFFECT, PERCUSSION, PROGRAMS
from data.prepare.emoji.items import Item, LeftOut
from data.prepare.emoji.packages import Package
from data.prepare.emoji.split import Side, number_of, side_of
from data.prepare.emoji.synthesiser import Note, Plays

PEAK = 0.8  # to which every sound is brought
SILENT = 1e-3  # the loudest sample below which a sound is none
# How a tune is played: what captions call it, and (beginning, length) in shares of the sound, with semitones.
TUNES: dict[str, tuple[tuple[float, float, int], ...]] = {
    "one long note": ((0.0, 0.85, 0),),
    "three rising notes": ((0.0, 0.25, 0), (0.275, 0.25, 4), (0.55, 0.35, 7)),
    "three falling notes": ((0.0, 0.25, 7), (0.275, 0.25, 4), (0.55, 0.35, 0)),
    "a chord": ((0.0, 0.8, 0), (0.0, 0.8, 4), (0.0, 0.8, 7)),
    "a fast trill": tuple((0.06 * k, 0.055, 2 * (k % 2)) for k in range(15)),
}
PITCHES = {"very low": 40, "low": 48, "middle": 57, "high": 66, "very high": 75}
EFFECT_PITCHES = (48, 55, 60, 67, 72)
BEATS: dict[str, tuple[float, ...]] = {
    "once": (0.0,),
    "twice": (0.0, 0.4),
    "slowly": (0.0, 0.25, 0.5, 0.75),
    "fast": tuple(0.1 * k for k in range(10)),
    "in a gallop": (0.0, 0.125, 0.25, 0.5, 0.625, 0.75),
}
# What the beginnings of file names of samples stand for; nothing for those that name no sound.
SAMPLES = {
    "ambi": "ambient",
    "arovane": "",
    "bass": "bass",
    "bd": "bass drum",
    "drum": "drum",
    "elec": "electronic",
    "glitch": "glitch",
    "guit": "guitar",
    "hat": "hi-hat",
    "loop": "loop of",
    "mehackit": "",
    "misc": "",
    "perc": "percussion",
    "ride": "ride cymbal",
    "sn": "snare drum",
    "tabla": "tabla",
    "tbd": "",
    "vinyl": "vinyl record",
}


def instrument_items(player: Plays, package: Package, rate: int, seconds: float) -> Iterator[Item]:
    """Yield every instrument with several tunes at several pitches, and every effect at several pitches."""
    for program, name in enumerate(PROGRAMS):
        if program >= FIRST_EFFECT:
            yield from _effect(player, package, program, rate, seconds)
            continue
        for height, base in PITCHES.items():
            for number, (tune, plan) in enumerate(TUNES.items()):
                identity = f"program{program:03d}-{base}-{number}"
                pitch = base + int(5 * number_of("pitch", identity)) - 2
                velocity = 70 + int(50 * number_of("velocity", identity))
                notes = [
                    Note(begins * seconds, lasts * seconds, pitch + more, velocity)
                    for begins, lasts, more in plan
                ]
                captions = (f"{name}, {tune}, {height}", name, f"{tune} on {a(name)}")
                yield _item(
                    identity,
                    played(player, program, notes, seconds, rate),
                    captions,
                    name,
                    f"{tune}, {height}",
                    package,
                    pitches=sorted({note.pitch for note in notes}),
                )


def _effect(player: Plays, package: Package, program: int, rate: int, seconds: float) -> Iterator[Item]:
    """Yield one effect at several pitches."""
    name = PROGRAMS[program]
    for pitch in EFFECT_PITCHES:
        notes = [Note(0.0, 0.9 * seconds, pitch)]
        yield _item(
            f"program{program:03d}-{pitch}",
            played(player, program, notes, seconds, rate),
            (name, f"the sound of {a(name)}"),
            name,
            f"pitch {pitch}",
            package,
            pitches=[pitch],
        )


def percussion_items(player: Plays, package: Package, rate: int, seconds: float) -> Iterator[Item]:
    """Yield every instrument of percussion, with several rhythms at several strengths."""
    for key, name in PERCUSSION.items():
        for number, (rhythm, beats) in enumerate(BEATS.items()):
            for strength, velocity in (("softly", 60), ("hard", 115)):
                notes = [Note(beat * seconds, 0.09 * seconds, key, velocity) for beat in beats]
                yield _item(
                    f"percussion{key}-{number}-{strength}",
                    played(player, None, notes, seconds, rate),
                    (f"{name}, {rhythm}, {strength}", name, f"{a(name)} struck {rhythm}"),
                    name,
                    f"{rhythm}, {strength}",
                    package,
                    events=[note.begins for note in notes],
                )


def sample_items(package: Package, rate: int, seconds: float) -> Iterator[Item]:
    """Yield the recorded samples of Sonic Pi; of long ones the beginning."""
    for path in sorted((package.folder / "samples").glob("*.flac")):
        beginning, _, rest = path.stem.partition("_")
        words = f"{SAMPLES.get(beginning, beginning)} {re.sub('[0-9_]+', ' ', rest)}"
        name = " ".join(words.split()) or path.stem
        yield Item(
            id=f"sample-{path.stem}",
            file=f"sounds/sample-{path.stem}.flac",
            make=_copied(path, rate, seconds),
            captions=(name, f"the sound of {name}"),
            name=name,
            side=side_of(name, None),
            sources=(package,),
            facts={"kind": "sample", "family": "sample"},
        )


def played(
    player: Plays, program: int | None, notes: list[Note], seconds: float, rate: int
) -> Callable[[Path], object]:
    """Return a function that plays notes into a file."""
    return lambda path: save_sound(path, player.play(program, notes, seconds), rate)


def _copied(recorded: Path, rate: int, seconds: float) -> Callable[[Path], object]:
    """Return a function that writes the beginning of a recording to a file."""
    return lambda path: save_sound(path, _read(recorded, rate, seconds), rate)


def _item(
    identity: str,
    make: Callable[[Path], object],
    captions: tuple[str, ...],
    name: str,
    played: str,
    package: Package,
    **facts: Any,
) -> Item:
    """Return a sound of the sound font; whole instruments are not held out, ways of playing them are."""
    return Item(
        id=identity,
        file=f"sounds/{identity}.flac",
        make=make,
        captions=captions,
        name=name,
        side=sound_side(name, played),
        sources=(package,),
        facts={"kind": "instrument", "family": played, **facts},
    )


def sound_side(name: str, played: str) -> Side:
    """Return the side of an instrument that is played in some way."""
    return side_of(name, played, names=False)


def levelled(wave: Tensor) -> Tensor:
    """Return a sound (T,) at the loudness that all have; one that is silent is `LeftOut`."""
    peak = float(wave.abs().max()) if len(wave) else 0.0
    if peak < SILENT:
        raise LeftOut("is silent")
    return wave * (PEAK / peak)


def save_sound(path: Path, wave: Tensor, rate: int) -> Path:
    """Write a sound (T,) as `levelled` gives it."""
    return save_audio(path, levelled(wave), rate)


def _read(path: Path, rate: int, seconds: float) -> Tensor:
    """Return the beginning of a recording; a shorter one is followed by silence."""
    try:
        wave, own = load_audio(path, seconds)
    except InputError as error:
        raise LeftOut(str(error)) from None
    return fit_audio(wave, own, rate, round(seconds * rate))


def a(name: str) -> str:
    """Return a name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
