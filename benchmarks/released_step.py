"""What one denoising step of the released geometry costs, in a unit that survives a noisy machine.

    python benchmarks/released_step.py --job image --dtype float32
    python benchmarks/released_step.py --job joint --dtype bfloat16

    python benchmarks/released_step.py --job joint --dtype float16 --device cuda

Jobs: image, audio, video, and joint (video and audio that hear themselves, as released). A step is what the
sampling loop does: one sample, prompted and unprompted, 256 x 256 pixels, 8 frames, 10.24 s of sound. Weights
and latents are drawn; no number depends on them.

Each step is timed between two measurements of the float32 matrix product: seconds x FLOP per second =
equivalent TFLOP. The median of `--repeats` steps is printed, the spread, and the peak memory of the process,
so run one job per process. On a GPU the seconds are what counts, and the peak is what torch took of its
memory.

    python benchmarks/released_step.py --job image --work

counts the work of a step instead of timing it: the products and convolutions in it, and the attention beside
them.
"""

import argparse
import ctypes
import json
import resource
import statistics
import time
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from codi.convert import denoisers
from codi.convert.released import FULL, UNETS
from codi.diffusion import Guidance, copy_schedulers
from codi.diffusion.released import ReleasedDDIMScheduler
from codi.joint.sampler import JointSampler
from codi.models.denoisers import UNetDenoiser
from codi.models.released.environments import MapEncoder
from codi.types import Modality

JOBS = {name: [Modality(name)] for name in ("image", "audio", "video")} | {
    "joint": [Modality.VIDEO, Modality.AUDIO]
}
LATENTS = {Modality.IMAGE: (4, 32, 32), Modality.VIDEO: (4, 8, 32, 32), Modality.AUDIO: (8, 256, 16)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
MALLOC = {-4: 0, -1: 2**31 - 1, -2: 256 << 20}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def keep_memory() -> bool:
    """Tells glibc to keep large blocks rather than to fetch them anew, zeroed, for every tensor; false where
    there is no glibc.
    """
    try:
        return all(ctypes.CDLL("libc.so.6").mallopt(option, value) for option, value in MALLOC.items())
    except (OSError, AttributeError):
        return False


def build(
    modality: Modality, dtype: torch.dtype, width: int | None, device: str
) -> tuple[nn.Module, nn.Module]:
    """A denoiser and its environment encoder of the released geometry (or `width` channels wide), with drawn
    weights.
    """
    reference = dict(FULL[UNETS["audio" if modality is Modality.AUDIO else "video"]])
    reference["model_channels"] = width or reference["model_channels"]
    with torch.device("meta"):
        parts = (
            UNetDenoiser(**denoisers.unet_config(reference)),
            MapEncoder(**denoisers.environment_config(reference)),
        )
    # diffusers' own `to` warns of parts it would keep, of which there are none
    cast = (nn.Module.to(part, dtype) for part in parts)
    return tuple(drawn(part.to_empty(device=device)).eval() for part in cast)


def drawn(module: nn.Module) -> nn.Module:
    """The module with weights that keep the scale of what passes through."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(0)
    for parameter in module.parameters():
        bound = (3 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data.uniform_(-bound, bound, generator=generator)
    return module


def sampler(
    job: str, dtype: torch.dtype, width: int | None, device: str = "cpu"
) -> tuple[JointSampler, dict[Modality, Tensor]]:
    """The sampling loop of a job, and the noise that it starts from."""
    parts, generator = (
        {m: build(m, dtype, width, device) for m in JOBS[job]},
        torch.Generator().manual_seed(1),
    )
    prompt, null = torch.randn(2, 1, 1, FULL["unet_image"]["context_dim"], generator=generator).to(
        device, dtype
    )
    loop = JointSampler(
        denoisers={m: denoiser for m, (denoiser, _) in parts.items()},
        environment_encoders={m: encoder for m, (_, encoder) in parts.items()},
        attends_to={m: {m} for m in parts},
        schedulers=copy_schedulers(ReleasedDDIMScheduler(), parts, 50, device),
        contexts={m: prompt for m in parts},
        null_contexts={m: null for m in parts},
        guidance={m: Guidance(scales={"prompt": 7.5}) for m in parts},
    )
    return loop, {m: torch.randn(1, *LATENTS[m], generator=generator).to(device) for m in parts}


def matmul_rate(device: torch.device, size: int = 2048, repeats: int = 3) -> float:
    """float32 FLOP per second of a matrix product; the best of some."""
    a, b = torch.randn(2, size, size, device=device)
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b) for _ in range(repeats))


def timed(run) -> float:
    """Seconds, until a GPU has answered too."""
    wait_for_device()
    start = time.perf_counter()
    run()
    wait_for_device()
    return time.perf_counter() - start


def wait_for_device() -> None:
    """Until what was sent to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(loop: JointSampler, latents: dict[Modality, Tensor], repeats: int) -> list[tuple[float, float]]:
    """(seconds, FLOP per second beside it) of some steps, after one that does not count: it prepares the
    prompts.
    """
    loop.step(0, latents)
    device = next(iter(latents.values())).device
    found, before = [], matmul_rate(device)
    for index in range(1, repeats + 1):
        seconds = timed(partial(loop.step, index, latents))
        after = matmul_rate(device)
        found.append((seconds, (before + after) / 2))
        before = after
    return found


def peak_memory(device: str) -> float:
    """GiB, of this process, or of what torch took on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def work(loop: JointSampler, latents: dict[Modality, Tensor]) -> dict[str, float]:
    """TFLOP of products and convolutions in one step, and of attention beside them, after one step that does
    not count.
    """
    loop.step(0, latents)
    with FlopCounterMode(display=False, custom_mapping={ATTENTION: attention_work}) as counter:
        loop.step(1, latents)
    attention = counter.get_flop_counts()["Global"].get(ATTENTION, 0)
    return {
        "work_tflop": round((counter.get_total_flops() - attention) / 1e12, 6),
        "attention_tflop": round(attention / 1e12, 6),
    }


def attention_work(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *args, **kwargs
) -> int:
    """Of an attention on a CPU, which torch does not count, from the shapes of what comes in."""
    return sdpa_flop_count(query, key, value)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="steps timed (default 3)")
    parser.add_argument("--threads", type=int, help="of torch (default: as many as cores)")
    parser.add_argument(
        "--width", type=int, help="channels of the first level, for a quick try (a multiple of 64)"
    )
    parser.add_argument("--work", action="store_true", help="count the work of a step instead of timing it")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    kept = keep_memory()
    if args.work:
        # on the CPU, whose attention it counts
        found = {"job": args.job, **work(*sampler(args.job, DTYPES[args.dtype], args.width))}
        line = (
            "{job}: {work_tflop:.2f} TFLOP of products and convolutions in a step, {attention_tflop:.2f} of "
            "attention"
        )
        print(json.dumps(found) if args.json else line.format(**found))
        return
    found = measure(*sampler(args.job, DTYPES[args.dtype], args.width, args.device), args.repeats)
    costs = [seconds * rate / 1e12 for seconds, rate in found]
    result = {
        "job": args.job,
        "dtype": args.dtype,
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "threads": torch.get_num_threads(),
        "seconds": round(statistics.median(seconds for seconds, _ in found), 5),
        "matmul_gflops": round(statistics.median(rate for _, rate in found) / 1e9, 1),
        "equivalent_tflop": round(statistics.median(costs), 3),
        "lowest": round(min(costs), 3),
        "highest": round(max(costs), 3),
        "peak_gib": round(peak_memory(args.device), 2),
        "memory_kept": kept,
    }
    line = (
        "{job} {dtype}, {device}, {threads} threads: {seconds:.3g} s a step x {matmul_gflops:.0f} GFLOP/s = "
        "{equivalent_tflop:.2f} TFLOP ({lowest:.2f} to {highest:.2f}); peak {peak_gib:.1f} GiB"
    )
    print(json.dumps(result) if args.json else line.format(**result))


if __name__ == "__main__":
    main()
