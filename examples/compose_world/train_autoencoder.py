"""Trains the autoencoder of the pictures and clips, or that of the sounds.

    python train_autoencoder.py picture --out out/picture_vae
    python train_autoencoder.py sound --out out/sound_vae

Both are diffusers' `AutoencoderKL`. Pictures of 64 x 64 become latents of 8 x 8 with 4 channels; log-mels of
64 frames and 32 bands become latents of 16 x 8 with 8 channels, so that a column is as long as a frame of the
clips. The loss is the L1 and the squared error,
and a little of the Kullback-Leibler divergence (Rombach et al. 2022, section 3.1).
"""

import numpy as np
import torch
from diffusers import AutoencoderKL
from loop import arguments, save_folder, train
from torch import Tensor
from world_data import log_mel, to_unit, training_scenes

from codi.world import render_frames, render_sounds

SHAPES = {
    "picture": {"channels": 3, "widths": (16, 32, 64, 64), "latents": 4, "kl": 5e-4},
    "sound": {"channels": 1, "widths": (16, 32, 64), "latents": 8, "kl": 3e-4},
}


def make(kind: str) -> AutoencoderKL:
    """Return a new autoencoder."""
    shape = SHAPES[kind]
    depth = len(shape["widths"])
    vae = AutoencoderKL(
        in_channels=shape["channels"],
        out_channels=shape["channels"],
        block_out_channels=shape["widths"],
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        latent_channels=shape["latents"],
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
    )
    # Posteriors begin narrow; at the usual start nothing but noise reaches the decoder, and learning is slow.
    torch.nn.init.constant_(vae.quant_conv.bias[shape["latents"] :], -6.0)
    return vae


def batch_of(kind: str, num: int, seed: int) -> Tensor:
    """Render what the autoencoder sees: single frames of clips at any time, or log-mels, (B, C, H, W)."""
    scenes = training_scenes(num, seed)
    if kind == "picture":
        times = np.random.default_rng(seed).uniform(0, 2, size=(num, 1))
        return to_unit(render_frames(scenes, times, 64)[:, 0])
    return log_mel(render_sounds(scenes))[:, None]


@torch.no_grad()
def set_scale(vae: AutoencoderKL, kind: str) -> None:
    """Measure the factor that gives latents a standard deviation of 1 and write it into the configuration."""
    latents = vae.encode(batch_of(kind, 256, 2**31)).latent_dist.sample()
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))


def main(argv: list[str] | None = None) -> None:
    """Train with what the command line asks for."""
    parser = arguments(__doc__, "out/autoencoder", 10)
    parser.add_argument("kind", choices=SHAPES)
    asked = parser.parse_args(argv)
    torch.manual_seed(asked.seed)
    vae = make(asked.kind)
    weight = SHAPES[asked.kind]["kl"]

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        x = batch_of(asked.kind, asked.batch, seed)
        posterior = vae.encode(x).latent_dist
        z = posterior.sample(generator)
        error = vae.decode(z).sample - x
        divergence = posterior.kl().mean() / z[0].numel()  # per number of the latent
        value = error.abs().mean() + 5 * error.square().mean() + weight * divergence
        rms = error.detach().square().mean().sqrt()
        return value, {"rms": float(rms), "kl": float(divergence.detach())}

    def save() -> None:
        set_scale(vae, asked.kind)
        save_folder(vae.save_pretrained, asked.out)

    train(asked, asked.out.name, {"vae": vae}, loss, save, save_minutes=3)


if __name__ == "__main__":
    main()
