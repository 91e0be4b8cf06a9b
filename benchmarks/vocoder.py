"""Print what an audio autoencoder and its vocoder leave of a sound, as an independent classifier hears it.

    python benchmarks/vocoder.py [FOLDER ...] [--scenes 48]

A folder is an `audio_autoencoder`; without any it is that of the model inside the package. The classifier is
trained here, for a minute or two, on true sounds of the world alone, and knows nothing of templates: unlike
the world's probe it notices when the texture of a noise is lost. Beside its shares for place, timbre and
pitch stand the onset F1 within 50 ms as the probe reads them, the multi-resolution STFT distance to the true
sound (less is better) and the seconds that one sound takes.
"""

import argparse
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.metrics.onsets import onset_f1
from codi.metrics.spectra import multi_resolution_distance
from codi.models.autoencoders import AudioAutoencoder
from codi.models.autoencoders.mel import GriffinLim
from codi.world import ATTRIBUTES, Scene, events, read_sounds, render_sounds, sample_scenes

HEARD = {"place": "place", "timbre": "shape", "pitch": "colour"}
BATCH = 32
SIZE, HOP = 512, 256  # samples of the classifier's window and of its hop


class Listener(nn.Module):
    """Hears place, timbre and pitch in waveforms (B, S): convolutions on the logarithm of the spectrum."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        # frequencies are told apart where they are, times are pooled
        width = 2 * widths[-1] * -(-(SIZE // 2 + 1) // 8)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(ATTRIBUTES[a])) for name, a in HEARD.items()})

    def forward(self, sounds: Tensor) -> dict[str, Tensor]:
        """Return the logits of every attribute, (B, values)."""
        window = torch.hann_window(SIZE, device=sounds.device)
        magnitude = torch.stft(sounds, SIZE, HOP, window=window, return_complex=True).abs()
        features = self.layers(((magnitude + 1e-2).log()[:, None] + 2) / 2)  # (B, C, K, T)
        pooled = torch.cat([features.mean(3), features.amax(3)], dim=1).flatten(1)
        return {name: head(pooled) for name, head in self.heads.items()}


def labels(scenes: list[Scene], name: str) -> Tensor:
    """Return the positions (B,) of the scenes' values of what is heard."""
    return torch.tensor([ATTRIBUTES[HEARD[name]].index(getattr(scene, HEARD[name])) for scene in scenes])


def trained(num_steps: int, seed: int) -> Listener:
    """Return a classifier that was trained on true sounds of scenes of every kind, held-out pairs too."""
    torch.manual_seed(seed)
    listener = Listener()
    optimizer = torch.optim.AdamW(listener.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=num_steps)
    for step in range(num_steps):
        scenes = sample_scenes(BATCH, seed + 1 + step, held_out=None)
        logits = listener(render_sounds(scenes))
        loss = sum(functional.cross_entropy(logits[name], labels(scenes, name)) for name in HEARD)
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()
        schedule.step()
    return listener.eval()


@torch.no_grad()
def line(listener: Listener, scenes: list[Scene], made: Callable[[Tensor], Tensor]) -> str:
    """Return what is heard of sounds that are made from the true ones."""
    true = render_sounds(scenes)
    began = time.perf_counter()
    sounds = made(true)
    seconds = (time.perf_counter() - began) / len(scenes)
    logits = listener(sounds)
    said = []
    for name in HEARD:
        right = (logits[name].argmax(1) == labels(scenes, name)).float().mean()
        said.append(f"{name} {100 * right:5.1f}")
    starts = [np.array([t for t, _ in events(scene)]) for scene in scenes]
    score = onset_f1([reading.events for reading in read_sounds(sounds)], starts, 0.05)
    distance = multi_resolution_distance(sounds, true).mean()
    return f"{'  '.join(said)}  onset F1 {score.f1:.3f}  STFT {distance:.3f}  {seconds:.3f} s"


def ways(part: AudioAutoencoder) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the ways from true sounds to sounds, by what they are."""
    plain = GriffinLim(part.log_mel)
    found = {"autoencoder, Griffin-Lim": lambda true: plain(part.decode_mel(part.encode(true)))}
    if not isinstance(part.vocoder, GriffinLim):
        found["autoencoder, its vocoder"] = lambda true: part.decode(part.encode(true))
        found["true log-mel, its vocoder"] = lambda true: part.vocode(part.log_mel(true))
    return found


def main() -> None:
    """Train the classifier, and print a line for each way from a sound to a sound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="audio_autoencoder folders")
    parser.add_argument("--scenes", type=int, default=48, help="unseen scenes (default 48)")
    parser.add_argument("--steps", type=int, default=400, help="of the classifier's training (default 400)")
    parser.add_argument("--seed", type=int, default=777)
    args = parser.parse_args()
    embedded = Path(str(resources.files("codi"))) / "assets" / "tiny" / "audio_autoencoder"
    listener = trained(args.steps, args.seed)
    scenes = sample_scenes(args.scenes, args.seed, held_out=None)
    print(f"{'true sounds':44} {line(listener, scenes, lambda true: true)}", flush=True)
    for folder in args.folders or [embedded]:
        print(folder)
        for name, way in ways(AudioAutoencoder.from_pretrained(folder).eval()).items():
            print(f"    {name:40} {line(listener, scenes, way)}", flush=True)


if __name__ == "__main__":
    main()
