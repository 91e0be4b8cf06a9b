"""Trains the vocoder that turns log-mels into sounds.

    python train_vocoder.py --vae out/sound_vae --out out/vocoder

The model is transformers' `SpeechT5HifiGan` (Kong et al. 2020) with 500 samples per mel frame. It learns from
spectra of several resolutions (Yamamoto et al. 2020), without a discriminator. Half of the mels it sees are
true ones, the others come from the autoencoder, because those are what it is given later.
"""

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


def make() -> SpeechT5HifiGan:
    """Return a new vocoder."""
    config = SpeechT5HifiGanConfig(
        model_in_dim=NUM_MELS,
        sampling_rate=SAMPLING_RATE,
        upsample_initial_channel=128,
        upsample_rates=[10, 10, 5],
        upsample_kernel_sizes=[20, 20, 11],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    assert HOP == 10 * 10 * 5
    vocoder = SpeechT5HifiGan(config)
    for layer in [vocoder.conv_pre, *vocoder.upsampler]:  # the usual start of 0.01 is nearly silence
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return vocoder


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


def main(argv: list[str] | None = None) -> None:
    """Train with what the command line asks for."""
    parser = arguments(__doc__, "out/vocoder", 15)
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
        true = waves[:, first * HOP : (first + _CROP) * HOP]
        spectral = spectral_loss(heard, true)
        mels = (log_mel(heard) - log_mel(true)).abs().mean()
        return spectral + mels, {"spectral": float(spectral.detach()), "mel": float(mels.detach())}

    def save() -> None:
        save_folder(vocoder.save_pretrained, asked.out)

    train(asked, asked.out.name, {"vocoder": vocoder}, loss, save, save_minutes=3)


if __name__ == "__main__":
    main()
