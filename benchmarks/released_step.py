"""What one denoising step of the released geometry costs, in a unit that survives a noisy machine.

    python benchmarks/released_step.py --job image --dtype float32
    python benchmarks/released_step.py --job joint --dtype bfloat16

Seconds per step x the float32 matrix-product rate measured in the same minute = equivalent TFLOP per step. A step is one
guided step: one sample, prompted and unprompted, 256 x 256 pictures, 8 frames, 10.24 s of sound. Weights are random; no
number depends on their values. Also printed: peak memory of the process.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from codi.convert import denoisers
from codi.convert.released import FULL, UNETS
from codi.models.denoisers import UNetDenoiser
from codi.models.joint_pooled import MapEncoder

JOBS = {"image": ["image"], "audio": ["audio"], "video": ["video"], "joint": ["video", "audio"]}
LATENTS = {"image": (4, 32, 32), "video": (4, 8, 32, 32), "audio": (8, 256, 16)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(kind: str, dtype: torch.dtype, width: int | None) -> tuple[nn.Module, nn.Module]:
    """A denoiser and its environment encoder of the released geometry (or `width` channels wide), with random weights."""
    reference = dict(FULL[UNETS["audio" if kind == "audio" else "video"]])
    reference["model_channels"] = width or reference["model_channels"]
    with torch.device("meta"):
        parts = UNetDenoiser(**denoisers.unet_config(reference)), MapEncoder(**denoisers.environment_config(reference))
    return tuple(fill(part.to(dtype).to_empty(device="cpu")).eval() for part in parts)


def fill(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.data.normal_(std=fan**-0.5, generator=generator) if parameter.ndim > 1 else parameter.data.fill_(0.1)
    return module


def matmul_rate(size: int = 2048, repeats: int = 4) -> float:
    """float32 FLOP per second of a matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / best(lambda: a @ b, repeats)


def best(run: Callable[[], object], repeats: int) -> float:
    """The shortest of some timings, in seconds, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def step(parts: dict[str, tuple[nn.Module, nn.Module]], latents: dict[str, Tensor], t: Tensor, contexts: Tensor) -> None:
    """Environments once, then each denoiser for both halves of the guidance."""
    joint = len(parts) > 1
    heard = {kind: encoder(latents[kind], t) if joint else None for kind, (_, encoder) in parts.items()}
    for kind, (denoiser, _) in parts.items():
        denoiser(latents[kind], t, contexts, env=heard[kind])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeats", type=int, default=2, help="steps timed; the shortest counts")
    parser.add_argument("--width", type=int, help="channels of the first level, for a quick try (a multiple of 32)")
    args = parser.parse_args()
    dtype = DTYPES[args.dtype]
    parts = {kind: build(kind, dtype, args.width) for kind in JOBS[args.job]}
    latents = {kind: torch.randn(1, *LATENTS[kind], dtype=dtype) for kind in parts}
    t, contexts = torch.tensor([500]), torch.randn(2, 1, FULL["unet_image"]["context_dim"], dtype=dtype)
    before = matmul_rate()
    seconds = best(lambda: step(parts, latents, t, contexts), args.repeats)
    rate = (before + matmul_rate()) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.job} {args.dtype} {torch.get_num_threads()} threads: {seconds:.2f} s a step x {rate / 1e9:.0f} GFLOP/s = "
          f"{seconds * rate / 1e12:.2f} TFLOP; peak {peak:.1f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
