"""Whether experts by noise range pay: the loss by noise level of one denoiser and of two, at equal compute.

    python benchmarks/experts.py --model runs/tiny --out runs/experts
    python benchmarks/experts.py --model runs/tiny --out runs/experts --samples 32 --scenes 8 --small

From the same model folder, copied for each, one denoiser is trained on for N samples on all noise levels, and
two experts for N / 2 each on their own (configs/world/experts). Each step costs the same, so both have had
equal compute. Then the loss of the denoiser as it was, of the one and of the two is measured on the same
unseen scenes with the same noise, in equal bins of the schedule.
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from codi import world
from codi.diffusion import NoiseProcess
from codi.diffusion.losses import denoising_loss
from codi.modalities import component_class, kind_of
from codi.models.codi import DENOISERS
from codi.pipeline import CoDiPipeline
from codi.types import Modality
from codi.world import RENDERERS, sample_scenes
from training.main import main as train
from training.stages.common import load_part

ROOT = Path(__file__).parent.parent
CONFIGS = {
    "one": ("denoise_video.yaml",),
    "experts": ("experts/noisy.yaml", "experts/clean.yaml"),
}
SEED = 9_000_000  # far from those of training
BINS = 10
CLIP = Modality.VIDEO


def train_all(model: Path, out: Path, samples: int, small: bool) -> dict[str, Path]:
    """Train one denoiser and two experts from copies of a model folder, and return the folders by name."""
    folders = {"before": model}
    for name, configs in CONFIGS.items():
        folders[name] = out / name
        if not folders[name].is_dir():
            shutil.copytree(model, folders[name])
        for config in configs:
            settings = [f"model={folders[name]}", f"output={out / 'runs' / name / Path(config).stem}"]
            settings.append(f"samples={samples // len(configs)}")
            words = [word for setting in settings for word in ("--set", setting)]
            code = train(["--config", str(ROOT / "configs/world" / config), *words, *["--small"] * small])
            if code:
                raise SystemExit(code)
    return folders


@torch.no_grad()
def losses(denoiser: nn.Module, x_0: Tensor, context: Tensor, process: NoiseProcess, draws: int) -> Tensor:
    """Return the mean loss in each bin of the schedule, (BINS,)."""
    generator = torch.Generator().manual_seed(SEED)
    total = process.num_train_timesteps
    found = torch.zeros(BINS)
    for place in range(BINS):
        for _ in range(draws):
            share = (place + torch.rand(len(x_0), generator=generator)) / BINS
            t = (share * total).long().clamp(max=total - 1)
            eps = torch.randn(x_0.shape, generator=generator)
            output = denoiser(process.add_noise(x_0, eps, t), t, context)
            found[place] += denoising_loss(output, process.target(x_0, eps, t)).mean() / draws
    return found


def main() -> None:
    """Train, measure and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a finished model folder of the world")
    parser.add_argument("--out", type=Path, required=True, help="where copies and runs go")
    parser.add_argument("--samples", type=int, default=42_000, help="N, in all (default 42000)")
    parser.add_argument("--scenes", type=int, default=256, help="unseen scenes (default 256)")
    parser.add_argument("--draws", type=int, default=4, help="of noise, for each scene and bin (default 4)")
    parser.add_argument(
        "--small", action="store_true", help="the miniature of the runs, to see that they run"
    )
    args = parser.parse_args()
    folders = train_all(args.model, args.out, args.samples, args.small)
    pipe = CoDiPipeline.from_pretrained(args.model)
    process = NoiseProcess.from_scheduler(pipe.scheduler)
    scenes = sample_scenes(args.scenes, SEED)
    part = pipe.model.autoencoders[CLIP]
    with torch.no_grad():
        clips = RENDERERS[CLIP](scenes)
        raw = clips.float() / 127.5 - 1
        x_0 = torch.cat([part.encode(clip[None]) for clip in raw]).float()
        context = pipe.model.towers[Modality.TEXT].embed([world.caption(scene) for scene in scenes])[:, None]
    found = {}
    for name, folder in folders.items():
        name_of_part = DENOISERS[CLIP]
        denoiser = load_part(component_class(name_of_part), folder / name_of_part, "train it first")
        found[name] = losses(denoiser, x_0, context, process, args.draws)
    print(f"{kind_of(CLIP).name}: {args.samples} samples, {args.scenes} unseen scenes")
    print("| timesteps | log-SNR at the middle | " + " | ".join(found) + " | experts / one |")
    print("|---" * (len(found) + 3) + "|")
    for place in range(BINS):
        middle = torch.tensor([int((place + 0.5) / BINS * process.num_train_timesteps)])
        cells = [f"{rows[place]:.4f}" for rows in found.values()]
        ratio = float(found["experts"][place] / found["one"][place])
        span = f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}"
        print(f"| {span} | {float(process.log_snr(middle)):.1f} | " + " | ".join(cells) + f" | {ratio:.3f} |")
    means = [f"{rows.mean():.4f}" for rows in found.values()]
    ratio = float(found["experts"].mean() / found["one"].mean())
    print("| all | | " + " | ".join(means) + f" | {ratio:.3f} |")


if __name__ == "__main__":
    main()
