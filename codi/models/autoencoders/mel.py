"""Log-mel spectrograms: from sound, back to sound without a trained vocoder, and the correction of what a VAE
blurs in them.

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
    """Its buffers stay in their precision, whichever the model around it is brought to: the side lobes of a
    window that was rounded to bfloat16 lie at -50 dB, and where a sound is silent, a logarithm shows nothing
    else.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Exact":
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            if self._buffers[name].dtype != buffer.dtype:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        return self


@contextmanager
def in_float32() -> Iterator[None]:
    """Inside, new tensors are float32: loading a model in another precision builds it in that."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


LINEAR = 200 / 3  # Hz in a mel below the break of Slaney's scale
BREAK = 1000.0  # Hz; from here on the scale is logarithmic
STEP = math.log(6.4) / 27  # of the logarithm of a frequency, in a mel above the break


def slaney_bank(num_freqs: int, num_bands: int, f_min: float, f_max: float, sampling_rate: int) -> Tensor:
    """Returns the weights (num_freqs, num_bands), float32, of triangular bands that are even on Slaney's mel
    scale, each of area one.

    M. Slaney, Auditory Toolbox, 1998. The numbers are torchaudio's (`melscale_fbanks`), to the bit: its
    native part may not load, and every model that hears is built with these weights.
    """
    low, high = (_mel(f) for f in (f_min, f_max))
    mels = torch.linspace(low, high, num_bands + 2)
    edges = LINEAR * mels
    above = mels >= BREAK / LINEAR
    edges[above] = BREAK * torch.exp(STEP * (mels[above] - BREAK / LINEAR))
    freqs = torch.linspace(0, sampling_rate // 2, num_freqs)
    distance = edges[None] - freqs[:, None]  # (num_freqs, num_bands + 2)
    width = edges[1:] - edges[:-1]
    rising, falling = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    area = 2.0 / (edges[2:] - edges[:-2])
    return torch.minimum(rising, falling).clamp(min=0) * area


def _mel(frequency: float) -> float:
    """Slaney's mel of a frequency in Hz."""
    if frequency < BREAK:
        return frequency / LINEAR
    return BREAK / LINEAR + math.log(frequency / BREAK) / STEP


class LogMel(Exact):
    """Waveform (B, S) -> natural log of the mel magnitude spectrogram (B, T, M), T = S // hop, floor 1e-5.

    Magnitude (no power), periodic Hann window, reflect padding, Slaney scale and area norm.
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
        self.n_fft, self.hop_length, self.sampling_rate = n_fft, hop_length, sampling_rate
        # Derived, not loaded: real and exact even where the model itself is built on the meta device or in
        # another precision.
        with torch.device("cpu"), in_float32():
            bank = slaney_bank(n_fft // 2 + 1, num_bands, f_min, f_max, sampling_rate)
            window = torch.hann_window(n_fft)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
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
    """Log-mel (B, T, M) as a VAE gives it -> nearer to what it was given: to each cell a linear function of
    the cells around it is added.

    A VAE errs in the logarithm, where half-way from silence to a note is still silence: attacks come late.
    Each band has its own weights: `frames` x `bands` cells and a constant, in closed form by least squares in
    which a cell counts as much as it is loud. They start as NaN, so that forgetting `fit` is loud.
    """

    def __init__(self, num_bands: int, frames: int, bands: int):
        super().__init__()
        assert frames % 2 and bands % 2, (
            f"odd numbers of cells, so that one is in the middle, not {frames} x {bands}"
        )
        self.frames, self.bands = frames, bands
        self.register_buffer("weight", torch.full((num_bands, frames * bands + 1), torch.nan))

    def forward(self, mel: Tensor) -> Tensor:
        out = mel.float()
        for weight, cell in zip(self.weight.float().unbind(1), self.around(out)):
            out = out + weight * cell
        return out.to(mel.dtype)

    def around(self, mel: Tensor) -> Iterator[Tensor]:
        """The F cells around every cell, each (B, T, M): shifted copies, edges repeated, and ones."""
        time, frequency = self.frames // 2, self.bands // 2
        padded = nnf.pad(mel[:, None], (frequency, frequency, time, time), mode="replicate")[:, 0]
        for k in range(self.frames):
            for j in range(self.bands):
                yield padded[:, k : k + mel.shape[1], j : j + mel.shape[2]]
        yield torch.ones_like(mel)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]], ridge: float = 1e-3, floor: float = 1e-3) -> None:
        """Sets the weights from pairs (as the VAE gives it, as it should be) of log-mels; amplitudes below
        `floor` count as `floor`.
        """
        gram, moment = 0.0, 0.0
        for given, wanted in pairs:
            given, wanted = given.double(), wanted.double()
            cells = _by_band(torch.stack(list(self.around(given)), dim=-1))  # (M, B T, F)
            loudness = _by_band(torch.maximum(given, wanted).exp() + floor)  # (M, B T)
            weighted = cells * loudness[..., None]
            gram = gram + weighted.mT @ cells
            moment = moment + (weighted * _by_band(wanted - given)[..., None]).sum(1)
        scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        self.weight.copy_(torch.linalg.solve(gram + ridge * scale * eye, moment))


def _by_band(x: Tensor) -> Tensor:
    """(B, T, M, ...) -> (M, B T, ...)."""
    return x.movedim(2, 0).flatten(1, 2)


class GriffinLim(Exact):
    """Log-mel (B, T, M) -> waveform (B, T * hop) without a trained part. Deterministic; a sound does not
    depend on its batch.

    Phases start from spectral peaks that are followed from frame to frame (single pass spectrogram inversion,
    Beauregard et al., IEEE DSP 2015) and are iterated (Griffin and Lim, 1984; fast variant, Perraudin et al.,
    2013): from random ones a steady partial stays in pieces that beat against each other, and each beat
    sounds like an onset. Magnitudes are never fixed: at each iteration those of the sound so far take one
    multiplicative step (Lee and Seung, NIPS 2000) towards the bands, which say less than they do.
    """

    def __init__(
        self, log_mel: LogMel, num_iterations: int = 32, num_updates: int = 40, momentum: float = 0.99
    ):
        super().__init__()
        self.n_fft, self.hop_length = log_mel.n_fft, log_mel.hop_length
        self.num_iterations, self.num_updates, self.momentum = num_iterations, num_updates, momentum
        self.register_buffer("bank", log_mel.bank.clone(), persistent=False)  # (K, M)
        self.register_buffer("window", log_mel.window.clone(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        return torch.stack([self.invert(one.exp(), mel.shape[1] * self.hop_length) for one in mel.float()])

    def invert(self, bands: Tensor, length: int) -> Tensor:
        """Amplitudes of one sound's bands (T, M) -> waveform (length,)."""
        bands = torch.cat([bands, bands[-1:]])  # centred frames are one more than there are hops
        magnitude = self.unmel(bands)
        spectrum = torch.polar(magnitude, peak_phases(magnitude, self.n_fft, self.hop_length))
        before = torch.zeros_like(spectrum)
        for _ in range(self.num_iterations):
            consistent = self._stft(self._istft(spectrum, length))
            ahead = consistent - self.momentum / (1 + self.momentum) * before
            magnitude = self._towards(bands, consistent.abs().T).T
            spectrum, before = magnitude * ahead / ahead.abs().clamp_min(1e-16), consistent
        return self._istft(spectrum, length)

    def unmel(self, bands: Tensor) -> Tensor:
        """Non-negative magnitudes (K, T) that give the amplitudes of the bands (T, M)."""
        magnitude = bands @ self.bank.float().T
        for _ in range(self.num_updates):
            magnitude = self._towards(bands, magnitude)
        return magnitude.T

    def _towards(self, bands: Tensor, magnitude: Tensor) -> Tensor:
        """Magnitudes (T, K) after one multiplicative step towards the bands (T, M); what lies in no band
        becomes 0.
        """
        bank = self.bank.float()
        ratio = bands / (magnitude @ bank).clamp_min(1e-9)
        return magnitude * (ratio @ bank.T) / bank.sum(1).clamp_min(1e-8)

    def _stft(self, waveform: Tensor) -> Tensor:
        return torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            window=self.window.float(),
            center=True,
            return_complex=True,
        )

    def _istft(self, spectrum: Tensor, length: int) -> Tensor:
        return torch.istft(spectrum, self.n_fft, self.hop_length, window=self.window.float(), length=length)


def peak_phases(magnitude: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Phases (K, T) under which each spectral peak of (K, T) goes on, from frame to frame, at its own
    frequency.

    A bin belongs to the nearest peak, and neighbours differ by pi, as they do in the main lobe of a centred
    window.
    """
    level = magnitude.T.clamp_min(1e-12).log()  # (T, K)
    left, mid, right = level[:, :-2], level[:, 1:-1], level[:, 2:]
    is_peak = nnf.pad((mid > left) & (mid >= right), (1, 1))
    bend = (2 * mid - left - right).clamp_min(1e-9)
    shift = nnf.pad(((right - left) / (2 * bend)).clamp(-0.5, 0.5), (1, 1))  # of the parabola's top, in bins
    bins = torch.arange(level.shape[1], device=level.device)
    owner = _nearest(is_peak)
    advance = 2 * torch.pi * hop_length / n_fft * (owner + shift.gather(1, owner))
    turn = torch.pi * (bins - owner)
    rows = [turn[0]]
    for peak, step, alternation in zip(owner[1:], advance[1:], turn[1:]):
        rows.append(((rows[-1][peak] + step) % (2 * torch.pi)) + alternation)
    return torch.stack(rows, dim=1)


def _nearest(marked: Tensor) -> Tensor:
    """Position (T, K) of the nearest marked place of each row of bool (T, K); of two equally near ones the
    lower; 0 in a row without.
    """
    last = marked.shape[1] - 1
    places = torch.arange(last + 1, device=marked.device).expand(marked.shape)
    below = torch.where(marked, places, -2 * last - 2).cummax(1).values
    above = torch.where(marked, places, 3 * last + 3).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(places - below <= above - places, below, above)
    return torch.where(marked.any(1, keepdim=True), nearest, 0)
