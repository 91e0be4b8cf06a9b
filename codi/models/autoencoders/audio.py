"""The autoencoder of sounds: a log-mel spectrogram, AutoencoderKL on it, and a vocoder.

The vocoder, which turns spectrograms into waveforms, is a HiFi-GAN or a phase-seeded network, or Griffin-Lim
where none was trained.
Front end and geometry follow AudioLDM (arXiv 2301.12503), as the paper does. The released model has `patch`
(1, 1) and the one factor 0.9228.
Letters: B batch, C channels, S samples, T mel frames, M mel bands, t m latent positions.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from transformers.models.speecht5.configuration_speecht5 import SpeechT5HifiGanConfig
from transformers.models.speecht5.modeling_speecht5 import SpeechT5HifiGan

from codi.models.autoencoders.mel import GriffinLim, LogMel, MelCorrection
from codi.models.autoencoders.phase_seeded import PhaseSeededVocoder
from codi.models.autoencoders.scaling import LatentScaling
from codi.protocols import Autoencoder


class AudioAutoencoder(ModelMixin, ConfigMixin, Autoencoder):
    """Turns sound (B, S) in [-1, 1] into normalised latents (B, C, t, m), and back.

    Args:
        vae_config: constructor arguments of AutoencoderKL; its channels in and out are the patch's area.
        vocoder_config: arguments of SpeechT5HifiGanConfig; None: no HiFi-GAN, so Griffin-Lim, until a vocoder
            stage has trained another.
        mel_config: arguments of `LogMel`.
        num_samples: samples of one sound, as the model makes it unasked.
        patch: (time, frequency) cells that are folded into channels in front of the VAE.
        mel_mean: taken off the log-mel before the VAE.
        mel_std: what the log-mel is then divided by, which brings it near unit scale.
        scaling_factor: the one released factor; None: per-channel statistics, measured in training.
        correction_size: (frames, bands) of the cells from which `MelCorrection` makes up for what the VAE
            blurs; None: nothing is corrected.
        phase_seeded_config: arguments of `PhaseSeededVocoder`, which then is the vocoder; None: it is not.
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
        correction_size: tuple[int, int] | None = None,
        phase_seeded_config: dict[str, Any] | None = None,
    ):
        super().__init__()
        assert vocoder_config is None or phase_seeded_config is None, (
            "vocoder_config and phase_seeded_config: expected one vocoder, not two"
        )
        channels = patch[0] * patch[1]
        self.log_mel = LogMel(**mel_config)
        self.vae = AutoencoderKL(**{"in_channels": channels, "out_channels": channels, **vae_config})
        if vocoder_config is not None:
            self.vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**vocoder_config))
        elif phase_seeded_config is not None:
            self.vocoder = PhaseSeededVocoder(self.log_mel, **phase_seeded_config)
        else:
            self.vocoder = GriffinLim(self.log_mel)
        self.scaling = LatentScaling(self.vae.config.latent_channels, scaling_factor)
        self.correction = (
            MelCorrection(self.log_mel.bank.shape[1], *correction_size) if correction_size else nn.Identity()
        )

    @property
    def sampling_rate(self) -> int:
        """The sampling rate in Hz."""
        return self.log_mel.sampling_rate

    @property
    def _halvings(self) -> int:
        """The factor by which the VAE makes each side shorter."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, t, m) of the latent of one sound."""
        frames = self.config.num_samples // self.log_mel.hop_length
        bands = self.log_mel.bank.shape[1]
        time, frequency = self.config.patch
        return (
            self.vae.config.latent_channels,
            frames // (time * self._halvings),
            bands // (frequency * self._halvings),
        )

    @property
    def latent_rate(self) -> float:
        """The number of latent columns per second."""
        return self.sampling_rate / (self.log_mel.hop_length * self.config.patch[0] * self._halvings)

    def posterior(self, mel: Tensor):
        """Return the diagonal Gaussian over unnormalised latents (B, C, t, m) of a log-mel (B, T, M)."""
        return self.vae.encode(_fold(self.normalise_mel(mel), self.config.patch)).latent_dist

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Decode unnormalised latents (B, C, t, m) into a log-mel (B, T, M)."""
        return self.denormalise_mel(_unfold(self.vae.decode(latent).sample, self.config.patch))

    def normalise_mel(self, mel: Tensor) -> Tensor:
        """Bring a log-mel to about unit scale."""
        return (mel - self.config.mel_mean) / self.config.mel_std

    def denormalise_mel(self, mel: Tensor) -> Tensor:
        """Undo `normalise_mel`."""
        return mel * self.config.mel_std + self.config.mel_mean

    def set_slicing(self, enabled: bool) -> None:
        """Set whether spectrograms pass through the VAE one at a time, which takes less memory."""
        self.vae.use_slicing = enabled

    @apply_forward_hook
    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode sounds into normalised latents.

        Args:
            raw: waveforms (B, S) in [-1, 1].
            generator: draws from the posterior; None takes its mean.

        Returns:
            The latents (B, C, t, m).
        """
        posterior = self.posterior(self.log_mel(raw).to(self.dtype))
        return self.scaling.normalise(posterior.mode() if generator is None else posterior.sample(generator))

    def decode_mel(self, latent: Tensor) -> Tensor:
        """Decode normalised latents (B, C, t, m) into a log-mel (B, T, M), with any correction applied."""
        return self.correction(self.reconstruct(self.scaling.denormalise(latent)))

    @apply_forward_hook
    def decode(self, latent: Tensor) -> Tensor:
        """Decode normalised latents (B, C, t, m) into waveforms (B, S) in [-1, 1].

        Phases that are found from magnitudes amplify differences in the last bit, and the size of a batch may
        change that bit. With Griffin-Lim and the phase-seeded vocoder, sounds are therefore decoded one by
        one.
        """
        finds_phases = isinstance(self.vocoder, (GriffinLim, PhaseSeededVocoder))
        parts = latent.split(1 if finds_phases else len(latent))
        return torch.cat([self.vocode(self.decode_mel(part)) for part in parts]).clamp(-1, 1)

    def vocode(self, mel: Tensor) -> Tensor:
        """Turn a log-mel (B, T, M) into waveforms (B, T * hop_length)."""
        return self.vocoder(mel).reshape(mel.shape[0], -1)


def _fold(mel: Tensor, patch: tuple[int, int]) -> Tensor:
    """Fold patches of pt x pf cells into channels, from (B, T, M) to (B, pt pf, T/pt, M/pf)."""
    time, frequency = patch
    cells = mel.unflatten(2, (-1, frequency)).unflatten(1, (-1, time))  # (B, T/pt, pt, M/pf, pf)
    return cells.permute(0, 2, 4, 1, 3).flatten(1, 2)


def _unfold(cells: Tensor, patch: tuple[int, int]) -> Tensor:
    """Undo `_fold`."""
    mel = cells.unflatten(1, patch).permute(0, 3, 1, 4, 2)  # (B, T/pt, pt, M/pf, pf)
    return mel.flatten(3, 4).flatten(1, 2)
