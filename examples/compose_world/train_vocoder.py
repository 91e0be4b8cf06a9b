"""Trains the vocoder that turns log-mels into sounds.

    python train_vocoder.py --vae out/sound_vae --out out/vocoder

The model is transformers' `SpeechT5HifiGan` (Kong et al. 2020) with 500 samples per mel frame. It learns
without a discriminator: from spectra of several resolutions (Yamamoto et al. 2020), and from a target whose
phases it can know, the same sound played by carriers at the multiples of the frame rate (`locked`). From
spectra alone it finds the loudest partials and then, for a long time, nothing else. Half of the mels it sees
are true ones, the others come from the autoencoder, because those are what it is given later.

Letters: B sounds, T mel frames, J steps, K carriers.
"""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from loop import arguments, save_folder, train
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig
from world_data import HOP, NUM_MELS, SAMPLING_RATE, log_mel, training_scenes

from codi.world import render_sounds

_WINDOWS = (256, 512, 1024, 2048)
_CROP = 32  # mel frames
_FLOOR = 1e-3  # amplitude below which differences are not heard
_STEP = 100  # samples between two amplitudes of a carrier


def make() -> SpeechT5HifiGan:
    """Return a new vocoder."""
    rates = [20, 25]
    assert math.prod(rates) == HOP
    config = SpeechT5HifiGanConfig(
        model_in_dim=NUM_MELS,
        sampling_rate=SAMPLING_RATE,
        upsample_initial_channel=128,
        upsample_rates=rates,
        upsample_kernel_sizes=[40, 51],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        normalize_before=False,
    )
    vocoder = SpeechT5HifiGan(config)
    for layer in [vocoder.conv_pre, *vocoder.upsampler]:  # the usual start of 0.01 is nearly silence
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return vocoder


def locked(waves: Tensor) -> Tensor:
    """Play sounds (B, samples) by carriers at the multiples of the frame rate, with fixed phases.

    Every frame begins at the same phase of every carrier, so that the result is a function of the
    amplitudes alone, which a mel knows, and a plain error between waves can be learned from. The spectrum's
    bins lie half a frame rate apart; every second one gives the amplitude of a carrier.
    """
    window = torch.hann_window(2 * HOP)
    spectrum = torch.stft(
        waves, 2 * HOP, _STEP, 2 * HOP, window, center=True, pad_mode="constant", return_complex=True
    )
    amplitude = (spectrum[:, ::2].abs() * (2 / window.sum())).transpose(1, 2)  # (B, J + 1, K)
    phase = 2 * math.pi * torch.rand(amplitude.shape[2], generator=torch.Generator().manual_seed(0))
    period = torch.fft.irfft(torch.polar(amplitude * (HOP / 2), phase.expand_as(amplitude)), n=HOP)
    at = torch.arange(period.shape[1])[:, None] * _STEP + torch.arange(_STEP)  # of every sample after a step
    here = period.gather(2, (at % HOP).expand(len(waves), -1, -1))[:, :-1]
    soon = period[:, 1:].gather(2, (at[:-1] % HOP).expand(len(waves), -1, -1))
    fade = torch.arange(_STEP) / _STEP
    return ((1 - fade) * here + fade * soon).flatten(1)[:, : waves.shape[1]]


def spectral_loss(heard: Tensor, true: Tensor) -> Tensor:
    """Compare sounds (B, samples): relative error of amplitudes and L1 of their logarithms."""
    total = torch.zeros(())
    for size in _WINDOWS:
        window = torch.hann_window(size)
        a, b = (
            torch.stft(x, size, size // 4, size, window, return_complex=True).abs() * (2 / window.sum())
            for x in (heard, true)
        )
        far = (a - b).square().sum((1, 2)).add(1e-9).sqrt() / b.square().sum((1, 2)).sqrt().add(1e-2)
        near = (torch.log(a + _FLOOR) - torch.log(b + _FLOOR)).abs().mean((1, 2))
        total = total + (far + near).mean() / len(_WINDOWS)
    return total


def wave_loss(heard: Tensor, target: Tensor) -> Tensor:
    """Compare complex spectra of sounds (B, samples), relative to the target's.

    Amplitudes are compressed to their square roots, so that quiet partials count too.
    """
    size = 1024
    window = torch.hann_window(size)
    rows = []
    for x in (heard, target):
        z = torch.view_as_real(torch.stft(x, size, size // 4, size, window, return_complex=True))
        z = z * (2 / window.sum())
        rows.append(z / (z.square().sum(-1, keepdim=True) + _FLOOR**2) ** 0.25)
    a, b = rows
    return ((a - b).square().sum((1, 2, 3)) / (b.square().sum((1, 2, 3)) + 1e-2)).mean()


def main(argv: list[str] | None = None) -> None:
    """Train with what the command line asks for."""
    parser = arguments(__doc__, "out/vocoder", 20)
    parser.add_argument("--vae", type=Path, required=True, help="the folder of the sounds' autoencoder")
    asked = parser.parse_args(argv)
    torch.manual_seed(asked.seed)
    vae = AutoencoderKL.from_pretrained(asked.vae).requires_grad_(False).eval()
    vocoder = make()

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seed, first = (int(torch.randint(n, (1,), generator=generator)) for n in (2**31 - 1, 64 - _CROP + 1))
        waves = render_sounds(training_scenes(asked.batch, seed))
        mel = log_mel(waves)
        half = asked.batch // 2
        latents = vae.encode(mel[:half, None]).latent_dist.sample(generator)
        mel[:half] = vae.decode(latents).sample[:, 0]
        heard = vocoder(mel[:, first : first + _CROP])
        now = slice(first * HOP, (first + _CROP) * HOP)
        wave = wave_loss(heard, locked(waves)[:, now])
        spectral = spectral_loss(heard, waves[:, now])
        return 2 * wave + spectral, {"wave": float(wave.detach()), "spectral": float(spectral.detach())}

    def save() -> None:
        save_folder(vocoder.save_pretrained, asked.out)

    train(asked, asked.out.name, {"vocoder": vocoder}, loss, save, save_minutes=3)


if __name__ == "__main__":
    main()
