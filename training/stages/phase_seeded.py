"""The stage that trains the phase-seeded vocoder, on log-mels as they are and as the autoencoder gives them.

Losses are spectral, at several resolutions (arXiv 1910.11480), and of the log-mel. It runs last of what makes
sound, and again whenever the autoencoder or its correction has changed: it learns to give back what that
autoencoder smooths away.

Letters: B batch, N samples of a cut, T mel frames, M mel bands.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codi.metrics.spectra import SIZES, spectral_distance
from training.config import expect
from training.dry_run import empty
from training.stages.autoencoder import VocoderOptions, VocoderStage


@dataclass(frozen=True, kw_only=True)
class PhaseSeededOptions(VocoderOptions):
    """Options of the stage.

    Attributes:
        latent_noise: the deviation of the Gaussian noise on the latents that the autoencoder decodes, in
            standard deviations of the latents.
        true_until: the share of the run in which all log-mels are those of the sounds themselves.
        decoded_from: the share of the run from which all log-mels are the autoencoder's; between the two, it
            is half of them.
        mel_weight: the weight of the L1 of log-mels.
        cut: the length of a cut, in mel frames; a sound that is not longer is taken whole.
    """

    latent_noise: float = 0.03
    true_until: float = 0.3
    decoded_from: float = 0.7
    mel_weight: float = 0.5
    cut: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = 0 <= self.true_until <= self.decoded_from <= 1
        expect(ordered, "true_until", self.true_until, "0 to decoded_from, which is at most 1")
        expect(self.mel_weight >= 0, "mel_weight", self.mel_weight, "0 or more")
        expect(self.cut >= 16, "cut", self.cut, "16 or more mel frames")


class PhaseSeededStage(VocoderStage):
    """The stage that trains `codi.models.autoencoders.phase_seeded.PhaseSeededVocoder`.

    The section `part` of its run holds the arguments of the vocoder.
    """

    options_class = PhaseSeededOptions
    section = "phase_seeded_config"

    def loss(
        self, module: Any, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch of sounds, and each of its terms for the log.

        The vocoder makes one cut, at a random place, of each sound.
        """
        sound = batch["sound"]
        mel = module.log_mel(sound)
        given = self.given(module, mel, generator)
        hop = module.log_mel.hop_length
        cut = min(self.options.cut, mel.shape[1])
        latest = mel.shape[1] - cut + 1
        start = int(torch.randint(0, latest, (1,), generator=generator, device=generator.device))
        spoken = module.vocode(given[:, start : start + cut])
        wanted = sound[:, start * hop : (start + cut) * hop]
        by_size = [spectral_distance(spoken, wanted, size).mean(1) for size in SIZES]
        convergence, log = torch.stack(by_size).mean(0)
        bands = functional.l1_loss(module.log_mel(spoken), module.log_mel(wanted))
        total = convergence + log + self.options.mel_weight * bands
        return total, {
            "convergence": convergence.detach(),
            "log_magnitude": log.detach(),
            "mel": bands.detach(),
        }

    @torch.no_grad()
    def given(self, module: Any, mel: Tensor, generator: torch.Generator) -> Tensor:
        """Return log-mels (B, T, M), a share of them as the autoencoder gives them, by the run's progress."""
        share = float(self.progress >= self.options.true_until) / 2
        if self.progress >= self.options.decoded_from:
            share = 1.0
        drawn = torch.rand(len(mel), generator=generator, device=mel.device)
        chosen = (drawn < share).nonzero()[:, 0]
        if not len(chosen):
            return mel
        latent = module.scaling.normalise(module.posterior(mel[chosen]).mode())
        noise = torch.randn(latent.shape, generator=generator, device=latent.device)
        decoded = module.decode_mel(latent + self.options.latent_noise * noise)
        return mel.index_copy(0, chosen, decoded)

    def dummy_batch(self, module: Any, count: int) -> dict[str, Tensor]:
        """Return what the network takes of cuts, (B, T, inputs)."""
        return {"inputs": empty(count, self.options.cut + 1, module.vocoder.num_inputs)}

    def dry_pass(self, module: Any, batch: dict[str, Tensor]) -> None:
        """Run the network of the vocoder."""
        module.vocoder.changes(batch["inputs"])
