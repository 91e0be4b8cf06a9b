"""Log-mel spectrograms: from sound, back to sound without a trained vocoder, and corrected.

The correction makes up for what a VAE blurs in them.
Letters: B batch, S samples, T mel frames, M mel bands, K = n_fft / 2 + 1 bins of the spectrum, F cells around
a cell.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf


class Exact(nn.Module):
    """A module whose buffers stay in their precision, whichever the model around it is brought to.

    The side lobes of a window that was rounded to bfloat16 lie at -50 dB, and the logarithm of a silent
    passage would show nothing but them.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Exact":
        """Apply `fn`, then give each buffer that changed precision its old values back."""
        # A rounded buffer would not come back exact: the old one is kept, and moved to the new device.
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            if self._buffers[name].dtype != buffer.dtype:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        return self


@contextmanager
def in_float32() -> Iterator[None]:
    """Make new tensors float32 inside the block.

    Loading a model in another precision builds it in that precision.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


LINEAR = 200 / 3  # Hz in a mel below the break of Slaney's scale
BREAK = 1000.0  # Hz; from here on the scale is logarithmic
STEP = math.log(6.4) / 27  # by which a mel above the break raises the logarithm of a frequency


def slaney_bank(num_freqs: int, num_bands: int, f_min: float, f_max: float, sampling_rate: int) -> Tensor:
    """Return the weights of triangular bands that are even on Slaney's mel scale, each of area one.

    The scale is that of M. Slaney, Auditory Toolbox, 1998. The numbers are torchaudio's (`melscale_fbanks`),
    to the bit: its native part may not load, and every model that takes or makes sound is built with these
    weights.

    Args:
        num_freqs: frequencies of the spectrum, from 0 Hz to half the sampling rate.
        num_bands: number of bands.
        f_min: lower end of the first band in Hz.
        f_max: upper end of the last band in Hz.
        sampling_rate: samples per second.

    Returns:
        The weights (num_freqs, num_bands), float32.
    """
    low = _mel(f_min)
    high = _mel(f_max)
    mels = torch.linspace(low, high, num_bands + 2)
    edges = LINEAR * mels
    above = mels >= BREAK / LINEAR
    edges[above] = BREAK * torch.exp(STEP * (mels[above] - BREAK / LINEAR))
    freqs = torch.linspace(0, sampling_rate // 2, num_freqs)
    distance = edges[None] - freqs[:, None]  # (num_freqs, num_bands + 2)
    width = edges[1:] - edges[:-1]
    rising = -distance[:, :-2] / width[:-1]
    falling = distance[:, 2:] / width[1:]
    area = 2.0 / (edges[2:] - edges[:-2])
    return torch.minimum(rising, falling).clamp(min=0) * area


def _mel(frequency: float) -> float:
    """Return the mel, on Slaney's scale, of a frequency in Hz."""
    if frequency < BREAK:
        return frequency / LINEAR
    return BREAK / LINEAR + math.log(frequency / BREAK) / STEP


class LogMel(Exact):
    """Turns a waveform (B, S) into the natural logarithm of its mel magnitude spectrogram (B, T, M).

    T is S // hop_length, and magnitudes below 1e-5 count as 1e-5. It is the magnitude, not the power, with a
    periodic Hann window, reflect padding, and bands of area one on Slaney's scale.

    Args:
        sampling_rate: samples per second.
        n_fft: samples of a window.
        hop_length: samples from one mel frame to the next.
        num_bands: M, number of mel bands.
        f_min: lower end of the first band in Hz.
        f_max: upper end of the last band in Hz.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 160,
        num_bands: int = 64,
        f_min: float = 0.0,
        f_max: float = 8000.0,
    ):
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.sampling_rate = sampling_rate
        # The buffers are derived, not loaded: they must be real and exact even where the model itself is
        # built on the meta device or in another precision.
        with torch.device("cpu"), in_float32():
            bank = slaney_bank(n_fft // 2 + 1, num_bands, f_min, f_max, sampling_rate)
            window = torch.hann_window(n_fft)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-mel (B, T, M) of waveforms (B, S)."""
        spectrum = torch.stft(
            waveform.float(),
            self.n_fft,
            self.hop_length,
            window=self.window.float(),
            center=True,
            return_complex=True,
        )
        # (B, T, n_fft/2+1)
        magnitude = spectrum.abs().transpose(1, 2)[:, : waveform.shape[-1] // self.hop_length]
        return (magnitude @ self.bank.float()).clamp_min(1e-5).log()


class MelCorrection(nn.Module):
    """Brings a log-mel (B, T, M) that a VAE has decoded nearer to what the VAE was given.

    A VAE errs in the logarithm, where half-way from silence to a note is still silence, so attacks come late.
    The correction adds to each cell a linear function of the cells around it. Each band has its own weights,
    for `frames` x `bands` cells and a constant. They come from least squares in closed form, in which a cell
    counts as much as it is loud. They start as NaN, so that a correction that was never fitted is noticed.

    Args:
        num_bands: M, number of mel bands.
        frames: mel frames around a cell that are looked at, an odd number.
        bands: mel bands around a cell that are looked at, an odd number.
    """

    def __init__(self, num_bands: int, frames: int, bands: int):
        super().__init__()
        assert frames % 2 and bands % 2, (
            f"odd numbers of cells, so that one is in the middle, not {frames} x {bands}"
        )
        self.frames = frames
        self.bands = bands
        self.register_buffer("weight", torch.full((num_bands, frames * bands + 1), torch.nan))

    def forward(self, mel: Tensor) -> Tensor:
        """Return the corrected log-mel (B, T, M)."""
        out = mel.float()
        for weight, cell in zip(self.weight.float().unbind(1), self.around(out)):
            out = out + weight * cell
        return out.to(mel.dtype)

    def around(self, mel: Tensor) -> Iterator[Tensor]:
        """Yield the F cells around every cell, each as (B, T, M), and last a tensor of ones.

        They are shifted copies of the log-mel, whose edges are repeated.
        """
        time = self.frames // 2
        frequency = self.bands // 2
        padded = nnf.pad(mel[:, None], (frequency, frequency, time, time), mode="replicate")[:, 0]
        for k in range(self.frames):
            for j in range(self.bands):
                yield padded[:, k : k + mel.shape[1], j : j + mel.shape[2]]
        yield torch.ones_like(mel)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]], ridge: float = 1e-3, floor: float = 1e-3) -> None:
        """Set the weights by least squares over pairs of log-mels.

        Args:
            pairs: log-mels (B, T, M), each as the VAE gives it and as it should be.
            ridge: strength of the regularisation, relative to the mean square of a cell.
            floor: added to the amplitude by which a cell counts, so that silence counts a little, too.
        """
        gram = 0.0
        moment = 0.0
        for given, wanted in pairs:
            given = given.double()
            wanted = wanted.double()
            cells = _by_band(torch.stack(list(self.around(given)), dim=-1))  # (M, B T, F)
            loudness = _by_band(torch.maximum(given, wanted).exp() + floor)  # (M, B T)
            weighted = cells * loudness[..., None]
            gram = gram + weighted.mT @ cells
            moment = moment + (weighted * _by_band(wanted - given)[..., None]).sum(1)
        scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        self.weight.copy_(torch.linalg.solve(gram + ridge * scale * eye, moment))


def _by_band(x: Tensor) -> Tensor:
    """Put bands first and frames of all sounds in one row, from (B, T, M, ...) to (M, B T, ...)."""
    return x.movedim(2, 0).flatten(1, 2)


class GriffinLim(Exact):
    """Turns a log-mel (B, T, M) into a waveform (B, T * hop_length) without a trained part.

    It is deterministic, and a sound does not depend on its batch.

    Phases start from spectral peaks that are followed from frame to frame (single pass spectrogram inversion,
    Beauregard et al., IEEE DSP 2015) and are then iterated (Griffin and Lim, 1984; fast variant, Perraudin et
    al., 2013). If they started at random, a steady partial would remain in pieces that beat against each
    other, and each beat sounds like an onset.

    Magnitudes are never fixed. At each iteration those of the sound so far take one multiplicative step (Lee
    and Seung, NIPS 2000) towards the bands, which hold less detail than magnitudes do.

    Args:
        log_mel: the spectrogram that is turned back.
        num_iterations: iterations of the phases.
        num_updates: multiplicative steps of the first magnitudes.
        momentum: that of the fast variant; 0 is none.
    """

    def __init__(
        self, log_mel: LogMel, num_iterations: int = 32, num_updates: int = 40, momentum: float = 0.99
    ):
        super().__init__()
        self.n_fft = log_mel.n_fft
        self.hop_length = log_mel.hop_length
        self.num_iterations = num_iterations
        self.num_updates = num_updates
        self.momentum = momentum
        self.register_buffer("bank", log_mel.bank.clone(), persistent=False)  # (K, M)
        self.register_buffer("window", log_mel.window.clone(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """Return the waveforms (B, T * hop_length) of a log-mel (B, T, M)."""
        return torch.stack([self.invert(one.exp(), mel.shape[1] * self.hop_length) for one in mel.float()])

    def invert(self, bands: Tensor, length: int) -> Tensor:
        """Return the waveform (length,) of one sound, given the amplitudes of its bands (T, M)."""
        bands = torch.cat([bands, bands[-1:]])  # centred frames are one more than there are hops
        magnitude = self.unmel(bands)
        spectrum = torch.polar(magnitude, peak_phases(magnitude, self.n_fft, self.hop_length))
        before = torch.zeros_like(spectrum)
        for _ in range(self.num_iterations):
            consistent = self._stft(self.istft(spectrum, length))
            ahead = consistent - self.momentum / (1 + self.momentum) * before
            magnitude = self._towards(bands, consistent.abs().T).T
            spectrum = magnitude * ahead / ahead.abs().clamp_min(1e-16)
            before = consistent
        return self.istft(spectrum, length)

    def unmel(self, bands: Tensor) -> Tensor:
        """Find magnitudes (..., K, T), none negative, that give the amplitudes of the bands (..., T, M)."""
        magnitude = bands @ self.bank.float().T
        for _ in range(self.num_updates):
            magnitude = self._towards(bands, magnitude)
        return magnitude.mT

    def _towards(self, bands: Tensor, magnitude: Tensor) -> Tensor:
        """Take one multiplicative step with magnitudes (..., T, K) towards the bands (..., T, M).

        What lies in no band becomes 0.
        """
        bank = self.bank.float()
        ratio = bands / (magnitude @ bank).clamp_min(1e-9)
        return magnitude * (ratio @ bank.T) / bank.sum(1).clamp_min(1e-8)

    def _stft(self, waveform: Tensor) -> Tensor:
        """Return the complex spectrum (K, T) of a waveform."""
        return torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            window=self.window.float(),
            center=True,
            return_complex=True,
        )

    def istft(self, spectrum: Tensor, length: int) -> Tensor:
        """Return the waveforms (..., length) of complex spectra (..., K, T)."""
        return torch.istft(spectrum, self.n_fft, self.hop_length, window=self.window.float(), length=length)


def peak_phases(magnitude: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Find phases under which each spectral peak goes on, from frame to frame, at its own frequency.

    A bin belongs to the nearest peak, and neighbours differ by pi, as they do in the main lobe of a centred
    window.

    Args:
        magnitude: magnitudes (..., K, T) of spectra.
        n_fft: samples of a window.
        hop_length: samples from one frame to the next.

    Returns:
        The phases (..., K, T) in radians.
    """
    level = magnitude.mT.clamp_min(1e-12).log()  # (..., T, K)
    left = level[..., :-2]
    mid = level[..., 1:-1]
    right = level[..., 2:]
    is_peak = nnf.pad((mid > left) & (mid >= right), (1, 1))
    bend = (2 * mid - left - right).clamp_min(1e-9)
    # A parabola through a peak and its neighbours tells its frequency more finely than the bins do.
    shift = nnf.pad(((right - left) / (2 * bend)).clamp(-0.5, 0.5), (1, 1))  # in bins
    bins = torch.arange(level.shape[-1], device=level.device)
    owner = _nearest(is_peak.flatten(0, -2)).unflatten(0, is_peak.shape[:-1])
    advance = 2 * torch.pi * hop_length / n_fft * (owner + shift.gather(-1, owner))
    turn = (torch.pi * (bins - owner)).unbind(-2)
    rows = [turn[0]]
    for peak, step, alternation in zip(owner.unbind(-2)[1:], advance.unbind(-2)[1:], turn[1:]):
        rows.append(((rows[-1].gather(-1, peak) + step) % (2 * torch.pi)) + alternation)
    return torch.stack(rows, dim=-1)


def _nearest(marked: Tensor) -> Tensor:
    """Return the position (T, K) of the nearest marked place in each row of a bool tensor (T, K).

    Of two equally near places it is the lower one; in a row without any it is 0.
    """
    last = marked.shape[1] - 1
    places = torch.arange(last + 1, device=marked.device).expand(marked.shape)
    below = torch.where(marked, places, -2 * last - 2).cummax(1).values
    above = torch.where(marked, places, 3 * last + 3).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(places - below <= above - places, below, above)
    return torch.where(marked.any(1, keepdim=True), nearest, 0)
