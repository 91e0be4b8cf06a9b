"""Log-mel spectrograms as the vocoders of published models take them.

No pipeline says which spectrogram its autoencoder was trained on. That of AudioLDM (arXiv 2301.12503) is the
default; a model that was trained on another is composed with these settings beside the arguments of its
calls, as `mel`.

Letters: B batch, T mel frames, M mel bands.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from codi.types import InputError


@dataclass(frozen=True, kw_only=True)
class MelSettings:
    """How a sound becomes a log-mel spectrogram.

    Attributes:
        window: samples of the Hann window.
        low: the lowest frequency in Hz.
        high: the highest frequency in Hz.
        slaney_area: whether bands are triangles of area one, or of height one.
        amplitude: whether magnitudes are brought to the amplitude of a sine, by 2 / (sum of the window).
        floor: the least magnitude.
        add_floor: whether the floor is added to magnitudes, or lower ones are raised to it.
        frame_middle: whether frame k has its middle at (k + 1/2) hops, or at k hops.
        mean: what is subtracted from the natural logarithm.
        std: by what it is then divided.
    """

    window: int = 1024
    low: float = 0.0
    high: float = 8000.0
    slaney_area: bool = True
    amplitude: bool = False
    floor: float = 1e-5
    add_floor: bool = False
    frame_middle: bool = False
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, value: Any) -> "MelSettings":
        """Return the settings that a mapping names; those that it leaves out are AudioLDM's.

        Args:
            value: settings by name, or None.

        Returns:
            The settings.

        Raises:
            InputError: for a name that there is not, and a value of another kind.
        """
        given = {} if value is None else value
        known = {item.name: type(item.default) for item in fields(cls)}
        if not isinstance(given, Mapping) or not set(given) <= set(known):
            raise InputError(f"mel is {value!r:.80}: expected an object with some of {', '.join(known)}")
        for name, number in given.items():
            kinds = (int, float) if known[name] is float else (known[name],)
            if not isinstance(number, kinds) or isinstance(number, bool) != (known[name] is bool):
                raise InputError(f"mel.{name} is {number!r:.40}: expected a {known[name].__name__}")
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)

    def __call__(self, waves: Tensor, rate: int, hop: int, bands: int) -> Tensor:
        """Return the log-mel spectrograms (B, T, M) of sounds (B, samples).

        Args:
            waves: the sounds, in [-1, 1].
            rate: samples per second.
            hop: samples from one frame to the next; T is samples // hop.
            bands: M.

        Returns:
            (B, T, M) in float32.
        """
        window = torch.hann_window(self.window, device=waves.device)
        edge = (self.window - hop) // 2 if self.frame_middle else self.window // 2
        padded = functional.pad(waves[:, None].float(), (edge, edge), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded, self.window, hop, self.window, window, center=False, return_complex=True
        )
        magnitude = spectrum.abs().transpose(1, 2)[:, : waves.shape[-1] // hop]
        if self.amplitude:
            magnitude = magnitude * (2 / window.sum())
        mel = magnitude @ self._bank(rate, bands).to(magnitude)
        mel = mel + self.floor if self.add_floor else mel.clamp_min(self.floor)
        return (mel.log() - self.mean) / self.std

    @property
    def silence(self) -> float:
        """What silence is in such a spectrogram."""
        return float((torch.tensor(self.floor).log() - self.mean) / self.std)

    def _bank(self, rate: int, bands: int) -> Tensor:
        """Return the weights of the bands, (window // 2 + 1, M)."""
        bank = mel_filter_bank(
            num_frequency_bins=self.window // 2 + 1,
            num_mel_filters=bands,
            min_frequency=self.low,
            max_frequency=self.high,
            sampling_rate=rate,
            norm="slaney" if self.slaney_area else None,
            mel_scale="slaney",
        )
        return torch.from_numpy(bank).float()
