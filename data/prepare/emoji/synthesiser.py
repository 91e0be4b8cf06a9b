"""Notes -> sound, by the recorded instruments of a sound font.

Letters: T samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codi.types import InputError
from data.prepare.emoji.packages import library

GAIN = -6.0  # decibels, which keeps chords from clipping before they are brought to one loudness
STEP = 0.0025  # seconds between the times at which notes can begin
PERCUSSION_CHANNEL = 9
BANK = 128  # in which sound fonts keep percussion


@dataclass(frozen=True)
class Note:
    """One note.

    Attributes:
        begins: the second at which it is struck.
        lasts: the seconds for which it is held.
        pitch: its number in MIDI, 60 for the middle C; of percussion, which instrument.
        velocity: how hard it is struck, from 1 to 127.
    """

    begins: float
    lasts: float
    pitch: int
    velocity: int = 100


class Plays(Protocol):
    """The interface of what plays notes."""

    def play(self, program: int | None, notes: Sequence[Note], seconds: float) -> Tensor:
        """Return float32 (T,) of that many seconds; program None is percussion."""
        ...


class Synthesiser:
    """A sound font, played by TinySoundFont.

    Every sound is played by a synthesiser of its own, so that none depends on those before it.

    Args:
        path: the sound font.
        rate: the sampling rate in Hz.

    Raises:
        InputError: if the library is not installed, or the file is no sound font.
    """

    def __init__(self, path: Path, rate: int) -> None:
        self.rate = rate
        self._tiny = library("tinysoundfont", "playing notes", "--no-deps tinysoundfont")
        self._synth = self._tiny.Synth(samplerate=rate, gain=GAIN)
        try:
            self._font = self._synth.sfload(str(path))
        except Exception as error:  # whatever the library throws at a file that it cannot read
            raise InputError(f"{path} cannot be read as a sound font ({error}): unpack it again") from None

    def play(self, program: int | None, notes: Sequence[Note], seconds: float) -> Tensor:
        """Return what notes sound like on an instrument.

        Args:
            program: the number of the instrument in General MIDI, from 0; None for percussion.
            notes: in any order.
            seconds: the length of the sound, at which notes that still sound are cut off.

        Returns:
            Float32 (T,), at its natural loudness.
        """
        drums = program is None
        channel = PERCUSSION_CHANNEL if drums else 0
        self._synth.program_select(channel, self._font, BANK if drums else 0, program or 0, drums)
        changes = [(note.begins, 1, note) for note in notes]
        changes += [(note.begins + note.lasts, 0, note) for note in notes]  # at one time, ends before begins
        pieces = []
        done = 0
        for at, begins, note in sorted(changes, key=lambda change: change[:2]):
            until = min(round(at * self.rate), round(seconds * self.rate))
            pieces.append(self._generate(until - done))
            done = max(done, until)
            if begins:
                self._synth.noteon(channel, note.pitch, note.velocity)
            else:
                self._synth.noteoff(channel, note.pitch)
        pieces.append(self._generate(round(seconds * self.rate) - done))
        self._silence(channel)
        return torch.from_numpy(np.concatenate(pieces))

    def _generate(self, samples: int) -> np.ndarray:
        """Return the next samples (T,), the mean of both channels."""
        if samples <= 0:
            return np.zeros(0, np.float32)
        both = np.frombuffer(self._synth.generate(samples), dtype=np.float32)
        return both.reshape(-1, 2).mean(axis=1)

    def _silence(self, channel: int) -> None:
        """End all notes, so that the next sound begins from nothing."""
        self._synth.sounds_off(channel)
        for _ in range(20):
            if np.abs(self._generate(800)).max() == 0:
                return
