"""A probe that reads sounds back into facts.

It looks at magnitudes only, so that phases made by a vocoder do not matter. The place is what sounds all the
time; the note (shape and colour together) is the best of 48 templates; onsets are rises of the note's
partials; the rhythm of the onsets tells motion and tempo.

Letters: B sounds, T spectrogram frames, K frequency bins, M notes, N onsets, L frames of a template.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from codi.types import InputError
from codi.world.reading import Reading, fit_rhythm, named, trust_onsets
from codi.world.scene import COLOURS, PLACES
from codi.world.sound import note_bank

_CHUNK = 32
_SPECTRUM = (0.064, 0.010)  # window and hop in seconds, for notes and places
_RISE = (0.032, 0.005)  # window and hop in seconds, for onsets
_LAG = 2  # rises are taken over 2 * _LAG hops
_HOLD = 0.8  # of its amplitude any note keeps over the lag of a rise
_END = 10  # frames at the end; their windows reach beyond it, where the sound seems to stop
_BEFORE = 4  # template frames before the onset
_AFTER = 22  # template frames after the onset; notes are at least 23 hops apart
_APART = 0.10  # seconds: no two onsets are closer
_MAX_ONSETS = 10
_LEAST_RISE = 0.16  # the least height of an onset, relative to the highest
_SILENT = 0.01  # amplitude below which nothing counts as a note
_TEMPLATE_LEAD = 0.2  # seconds of silence before the note of a template

# Amplitude that a place's sound must reach to be heard: about a third of what the renderer gives.
_AUDIBLE = {"night": 0.009, "grass": 0.002, "sand": 0.012}


def _amplitudes(waves: Tensor, sampling_rate: int, window: float, hop: float) -> tuple[Tensor, Tensor]:
    """Return an amplitude spectrogram (B, T, K) and the frequencies of its bins in Hz, (K,).

    A sine of amplitude a has a peak of a. `window` and `hop` are in seconds.
    """
    size = round(window * sampling_rate)
    step = round(hop * sampling_rate)
    hann = torch.hann_window(size)
    spectrum = torch.stft(
        waves, size, step, size, hann, center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.abs().transpose(1, 2) * (2 / hann.sum()), torch.fft.rfftfreq(size, 1 / sampling_rate)


def _band(hz: Tensor, low: float, high: float) -> Tensor:
    return (hz >= low) & (hz <= high)


def _read_place(amplitude: Tensor, hz: Tensor) -> Tensor:
    """Return the table position (B,) of the ambience in amplitudes (B, T, K)."""
    levels = {
        "night": amplitude[:, :, _band(hz, 7000, 7400)].square().sum(2).sqrt().quantile(0.6, dim=1),
        "grass": amplitude[:, ::2, _band(hz, 2050, 2950)].median(2).values.median(1).values,
        "sand": amplitude[:, :, _band(hz, 45, 80)].amax(2).quantile(0.6, dim=1),
    }
    ratios = []
    for place in PLACES:
        if place in levels:
            ratios.append(levels[place] / _AUDIBLE[place])
        else:
            ratios.append(torch.ones(len(amplitude)))
    return torch.stack(ratios, 1).argmax(1)


def _clean(amplitude: Tensor, hz: Tensor) -> Tensor:
    """Return amplitudes (B, T, K) without what belongs to no note.

    That is what is out of range, crickets, and the level of steady noise in every 500 Hz.
    """
    power = amplitude.square()
    width = max(8, int(500 / float(hz[1])))
    for k in range(0, len(hz), width):
        part = power[:, :, k : k + width]
        part -= 2.0 * part[:, ::4].median(2, keepdim=True).values.median(1, keepdim=True).values
    heard = _band(hz, 98, 7600) & ~_band(hz, 7120, 7280)
    return (power.clamp_min_(0) * heard).sqrt_()


@dataclass(frozen=True, kw_only=True)
class _Templates:
    """What one note of every shape and colour looks like to the probe.

    Attributes:
        patches: (M, L * K) unit vectors of root amplitudes around the onset.
        mean: (M, K) unit vectors, the root amplitudes averaged over time.
        comb: (M, K') weights of the bins in which the note rises, K' those of the short windows for onsets.
        rise: (M,) the height of the rise at amplitude 1.
        delay: (M,) seconds from the onset to the highest rise.
    """

    patches: Tensor
    mean: Tensor
    comb: Tensor
    rise: Tensor
    delay: Tensor


@cache
def _templates(sampling_rate: int) -> _Templates:
    """Measure the templates on rendered notes, shapes outside, colours inside."""
    notes = nnf.pad(
        note_bank(sampling_rate, round(0.5 * sampling_rate)), (round(_TEMPLATE_LEAD * sampling_rate), 0)
    )
    amplitude, hz = _amplitudes(notes, sampling_rate, *_SPECTRUM)
    onset = round(_TEMPLATE_LEAD / _SPECTRUM[1])
    patches = _clean(amplitude, hz)[:, onset - _BEFORE : onset + _AFTER].sqrt()
    quick, hz = _amplitudes(notes, sampling_rate, *_RISE)
    quick = _clean(quick, hz)
    comb = nnf.normalize(quick.amax(1), dim=1)
    rise = _rises(quick, comb)
    peak = rise.argmax(1)
    time, height = _refine(rise, peak[:, None])
    return _Templates(
        patches=nnf.normalize(patches.flatten(1), dim=1),
        mean=nnf.normalize(patches.mean(1), dim=1),
        comb=comb,
        rise=height[:, 0],
        delay=time[:, 0] - _TEMPLATE_LEAD,
    )


def _rises(amplitude: Tensor, comb: Tensor) -> Tensor:
    """Return how much the bins of `comb` (B, K) change around each frame of amplitudes (B, T, K): (B, T).

    A new note may cancel what is left of the last one, so a fall that is steeper than a note's decay counts
    too.
    """
    padded = nnf.pad(amplitude, (0, 0, _LAG, _LAG))
    later = padded[:, 2 * _LAG :]
    before = padded[:, : -2 * _LAG]
    change = torch.where(later > before, later - before, (_HOLD * before - later).clamp_min_(0))
    change[:, -_END:] = 0
    return torch.bmm(change, comb[:, :, None])[:, :, 0]


def _refine(curve: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the seconds and the height of a parabola through each peak (B, N) of rises (B, T)."""
    at = peaks.clamp(1, curve.shape[1] - 2)
    left, mid, right = (curve.gather(1, at + k) for k in (-1, 0, 1))
    bend = (2 * mid - left - right).clamp_min(1e-9)
    shift = ((right - left) / (2 * bend)).clamp(-0.5, 0.5)
    return (at + shift) * _RISE[1], mid + 0.25 * (right - left) * shift


def _onsets(quick: Tensor, note: Tensor, templates: _Templates) -> tuple[Tensor, Tensor]:
    """Return times and amplitudes of a note's onsets, two (B, N), the strongest first.

    Where an onset is absent its time is inf and its amplitude 0.
    """
    curve = _rises(quick, templates.comb[note])
    reach = round(_APART / _RISE[1])
    highest = nnf.max_pool1d(curve[:, None], 2 * reach + 1, 1, reach)[:, 0]
    least = (_LEAST_RISE * curve.amax(1, keepdim=True)).clamp_min(_SILENT)
    height, peaks = torch.where((curve == highest) & (curve >= least), curve, 0.0).topk(_MAX_ONSETS, dim=1)
    times, heights = _refine(curve, peaks)
    absent = height <= 0
    times = (times - templates.delay[note, None]).clamp_min(0).masked_fill(absent, torch.inf)
    return times, (heights / templates.rise[note, None]).masked_fill(absent, 0.0)


def _around(clean: Tensor, times: Tensor, weights: Tensor) -> Tensor:
    """Return root amplitudes (B, L, K) around the onsets (B, N), averaged by weight."""
    frame = (times.nan_to_num(posinf=0.0) / _SPECTRUM[1]).round().long()[:, :, None] + torch.arange(
        -_BEFORE, _AFTER
    )
    padded = nnf.pad(clean, (0, 0, _BEFORE, _AFTER))
    frame = (frame + _BEFORE).clamp(0, padded.shape[1] - 1)
    out = torch.zeros(len(clean), frame.shape[2], clean.shape[2])
    for b, n in torch.nonzero(weights > 0).tolist():
        out[b] += weights[b, n] * padded[b, frame[b, n]]
    return out.sqrt_()


def _listen(waves: Tensor, sampling_rate: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return place (B,), note (B,), and times and amplitudes (B, N) of the onsets of sounds."""
    templates = _templates(sampling_rate)
    amplitude, hz = _amplitudes(waves, sampling_rate, *_SPECTRUM)
    place = _read_place(amplitude, hz)
    clean = _clean(amplitude, hz)
    quick = _clean(*_amplitudes(waves, sampling_rate, *_RISE))
    note = (clean.sqrt().mean(1) @ templates.mean.T).argmax(1)
    for _ in range(2):  # better onsets give a better note, and a better note gives better onsets
        times, amplitudes = _onsets(quick, note, templates)
        patch = nnf.normalize(_around(clean, times, amplitudes).flatten(1), dim=1)
        note = (patch @ templates.patches.T).argmax(1)
    return place, note, *_onsets(quick, note, templates)


def _sound_reading(place: int, note: int, motion: int, tempo: int, events: np.ndarray) -> Reading:
    """Return one sound's reading from positions in the tables and onset times in any order."""
    if not len(events):
        return Reading(facts=named(place=place))
    shape, colour = divmod(note, len(COLOURS))
    facts = named(shape=shape, colour=colour, place=place, motion=motion, tempo=tempo)
    return Reading(facts=facts, events=np.sort(events))


@torch.no_grad()
def read_sounds(sounds: Tensor, sampling_rate: int = 16000) -> list[Reading]:
    """Return all facts and the onsets of each sound.

    Args:
        sounds: (B, samples) float in [-1, 1].
        sampling_rate: in Hz, 16000 or more.

    Returns:
        a reading per sound; without onsets it has the place alone.

    Raises:
        InputError: the sounds have another type, shape or rate.
    """
    if sounds.ndim != 2 or not sounds.is_floating_point():
        raise InputError(f"expected float (B, samples), got {sounds.dtype} {tuple(sounds.shape)}")
    if sampling_rate < 16000:
        raise InputError(f"expected sound at 16000 Hz or more, got {sampling_rate}: resample first")
    out = []
    for part in sounds.float().cpu().nan_to_num().split(_CHUNK):
        place, note, times, amplitudes = _listen(part, sampling_rate)
        times = times.double().numpy()
        amplitudes = amplitudes.double().numpy()
        motion, tempo, expected = fit_rhythm(times, amplitudes)
        events = [t[k] for t, k in zip(times, trust_onsets(times, amplitudes, expected))]
        columns = (place.tolist(), note.tolist(), motion.tolist(), tempo.tolist(), events)
        out += [_sound_reading(*row) for row in zip(*columns)]
    return out
