"""What a sound autoencoder makes of pairs of shape and colour that it never heard, beside those that it
knows.

    python benchmarks/round_trip.py codi/assets/tiny/audio_autoencoder runs/tiny/audio_autoencoder

L1 is of log-mel spectrograms, before Griffin-Lim; shares are of sounds whose attribute the world's probe
reads as it was. Both at once is what a listener calls the right sound.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from codi.metrics.agreement import agreement
from codi.models.autoencoders import AudioAutoencoder
from codi.types import Modality
from codi.world import ATTRIBUTES, READERS, render_sounds, sample_scenes

BATCH = 32


@torch.no_grad()
def round_trips(
    autoencoder: AudioAutoencoder, sounds: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """L1 (B,) of the spectrograms and the sounds (B, S) that come back."""
    for batch in sounds.split(BATCH):
        latent = autoencoder.encode(batch)
        error = autoencoder.reconstruct(autoencoder.scaling.denormalise(latent)) - autoencoder.log_mel(batch)
        yield error.abs().mean((1, 2)), autoencoder.decode(latent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="audio_autoencoder folders")
    parser.add_argument("--scenes", type=int, default=96, help="of either kind (default 96)")
    parser.add_argument("--seed", type=int, default=77)
    args = parser.parse_args()
    for folder in args.folders:
        autoencoder = AudioAutoencoder.from_pretrained(folder).eval()
        print(folder)
        for held_out in (True, False):
            scenes = sample_scenes(args.scenes, args.seed, held_out)
            errors, sounds = zip(*round_trips(autoencoder, render_sounds(scenes)))
            read = [reading.facts for reading in READERS[Modality.AUDIO](torch.cat(sounds))]
            right = agreement(read, [scene.facts for scene in scenes], list(ATTRIBUTES))
            right["shape and colour"] = np.logical_and(right["shape"], right["colour"])
            shares = ", ".join(f"{name} {100 * np.mean(rows):.0f} %" for name, rows in right.items())
            print(
                f"    {'held-out' if held_out else 'other'} pairs: L1 {torch.cat(errors).mean():.2f}, "
                f"{shares}"
            )


if __name__ == "__main__":
    main()
