"""Sound: log-mel spectrogram, AutoencoderKL on it, and a HiFi-GAN vocoder (or Griffin-Lim) back to the waveform.

Front end and geometry follow AudioLDM (arXiv 2301.12503), as the paper does. Released model: `patch` (1, 1), one factor 0.9228.
Letters: B batch, C channels, S samples, T mel frames, M mel bands, t m latent positions.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers.models.speecht5.configuration_speecht5 import SpeechT5HifiGanConfig
from transformers.models.speecht5.modeling_speecht5 import SpeechT5HifiGan

from codi.models.autoencoders.scaling import LatentScaling


class LogMel(nn.Module):
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
        from torchaudio.functional import melscale_fbanks

        self.n_fft, self.hop_length, self.sampling_rate = n_fft, hop_length, sampling_rate
        with torch.device("cpu"):  # derived, not loaded: real even where the model itself is built on the meta device
            bank = melscale_fbanks(n_fft // 2 + 1, f_min, f_max, num_bands, sampling_rate, norm="slaney", mel_scale="slaney")
            window = torch.hann_window(n_fft)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(waveform.float(), self.n_fft, self.hop_length, window=self.window.float(), center=True, return_complex=True)
        magnitude = spectrum.abs().transpose(1, 2)[:, : waveform.shape[-1] // self.hop_length]  # (B, T, n_fft/2+1)
        return (magnitude @ self.bank.float()).clamp_min(1e-5).log()


class GriffinLim(nn.Module):
    """Log-mel (B, T, M) -> waveform (B, T * hop) without a trained part: least-squares spectrum, then iterated phases
    (Griffin and Lim, 1984; fast variant, Perraudin et al., 2013). Deterministic."""

    def __init__(self, log_mel: LogMel, num_iterations: int = 32):
        super().__init__()
        self.n_fft, self.hop_length, self.num_iterations = log_mel.n_fft, log_mel.hop_length, num_iterations
        self.register_buffer("inverse_bank", torch.linalg.pinv(log_mel.bank), persistent=False)  # (M, n_fft/2+1)
        self.register_buffer("window", log_mel.window.clone(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        magnitude = (mel.float().exp() @ self.inverse_bank.float()).clamp_min(0).transpose(1, 2)
        magnitude = torch.cat([magnitude, magnitude[..., -1:]], dim=-1)  # centred frames: one more than there are hops
        with torch.random.fork_rng([mel.device] if mel.is_cuda else []):
            return torch.stack([self.invert(one, mel.shape[1] * self.hop_length) for one in magnitude])

    def invert(self, magnitude: Tensor, length: int) -> Tensor:
        """One spectrogram (n_fft/2+1, T) -> waveform (length,), from the same random phases whatever the batch."""
        from torchaudio.functional import griffinlim

        torch.manual_seed(0)
        return griffinlim(
            magnitude,
            self.window.float(),
            self.n_fft,
            self.hop_length,
            self.n_fft,
            power=1.0,
            n_iter=self.num_iterations,
            momentum=0.99,
            length=length,
            rand_init=True,
        )


class AudioAutoencoder(ModelMixin, ConfigMixin):
    """Sound in [-1, 1] <-> normalised latents (B, C, t, m).

    vae_config      constructor arguments of AutoencoderKL; its channels in and out are the patch's area
    vocoder_config  arguments of SpeechT5HifiGanConfig; None: Griffin-Lim, until the vocoder stage has trained one
    mel_config      arguments of `LogMel`
    num_samples     samples of one clip
    patch           (time, frequency) cells folded into channels in front of the VAE
    mel_mean, mel_std  constants that bring the log-mel near unit scale before the VAE
    scaling_factor  the one released factor; None: per-channel statistics, measured in training
    """

    @register_to_config
    def __init__(
        self,
        vae_config: dict[str, Any],
        vocoder_config: dict[str, Any] | None,
        mel_config: dict[str, Any],
        num_samples: int,
        patch: tuple[int, int] = (1, 1),
        mel_mean: float = 0.0,
        mel_std: float = 1.0,
        scaling_factor: float | None = None,
    ):
        super().__init__()
        channels = patch[0] * patch[1]
        self.log_mel = LogMel(**mel_config)
        self.vae = AutoencoderKL(**{"in_channels": channels, "out_channels": channels, **vae_config})
        trained = vocoder_config is not None
        self.vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**vocoder_config)) if trained else GriffinLim(self.log_mel)
        self.scaling = LatentScaling(self.vae.config.latent_channels, scaling_factor)

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        return self.log_mel.sampling_rate

    @property
    def _halvings(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, t, m) of one clip."""
        frames, bands = self.config.num_samples // self.log_mel.hop_length, self.log_mel.bank.shape[1]
        time, frequency = self.config.patch
        return (self.vae.config.latent_channels, frames // (time * self._halvings), bands // (frequency * self._halvings))

    @property
    def latent_rate(self) -> float:
        """Latent columns per second."""
        return self.sampling_rate / (self.log_mel.hop_length * self.config.patch[0] * self._halvings)

    def posterior(self, mel: Tensor):
        """Log-mel (B, T, M) -> diagonal Gaussian over unnormalised latents."""
        return self.vae.encode(_fold(self.normalise_mel(mel), self.config.patch)).latent_dist

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Unnormalised latents (B, C, t, m) -> log-mel (B, T, M)."""
        return self.denormalise_mel(_unfold(self.vae.decode(latent).sample, self.config.patch))

    def normalise_mel(self, mel: Tensor) -> Tensor:
        """Log-mel to about unit scale."""
        return (mel - self.config.mel_mean) / self.config.mel_std

    def denormalise_mel(self, mel: Tensor) -> Tensor:
        """The inverse of `normalise_mel`."""
        return mel * self.config.mel_std + self.config.mel_mean

    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Waveform (B, S) -> (B, C, t, m)."""
        posterior = self.posterior(self.log_mel(raw).to(self.dtype))
        return self.scaling.normalise(posterior.mode() if generator is None else posterior.sample(generator))

    def decode_mel(self, latent: Tensor) -> Tensor:
        """(B, C, t, m) -> log-mel (B, T, M)."""
        return self.reconstruct(self.scaling.denormalise(latent))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, t, m) -> waveform (B, S) in [-1, 1]."""
        return self.vocode(self.decode_mel(latent)).clamp(-1, 1)

    def vocode(self, mel: Tensor) -> Tensor:
        """Log-mel (B, T, M) -> waveform (B, T * hop)."""
        return self.vocoder(mel).reshape(mel.shape[0], -1)


def _fold(mel: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B, T, M) -> (B, pt pf, T/pt, M/pf)."""
    time, frequency = patch
    cells = mel.unflatten(2, (-1, frequency)).unflatten(1, (-1, time))  # (B, T/pt, pt, M/pf, pf)
    return cells.permute(0, 2, 4, 1, 3).flatten(1, 2)


def _unfold(cells: Tensor, patch: tuple[int, int]) -> Tensor:
    """The inverse of `_fold`."""
    mel = cells.unflatten(1, patch).permute(0, 3, 1, 4, 2)  # (B, T/pt, pt, M/pf, pf)
    return mel.flatten(3, 4).flatten(1, 2)
