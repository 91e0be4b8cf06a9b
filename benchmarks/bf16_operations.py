"""Which operations of the released geometry gain from bf16 on this processor: CPU time of each in bf16 over
that in float32.

    python benchmarks/bf16_operations.py

One thread, so that CPU time hardly changes when the machine is busy; the best of some runs. Sizes are those
of a guided image step (320 to 1280 channels) and of a guided sound step (192 channels, 256 x 16 positions).
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Operation = Callable[..., Tensor]
FLAT, MAP = torch.contiguous_format, torch.channels_last  # how the denoisers hold tokens, and feature maps


def convolution(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x, kernel, padding=1)


# what is done, and to which shapes
CASES: dict[str, tuple[Operation, torch.memory_format, list[tuple[int, ...]]]] = {
    "matrix product, 1024": (torch.matmul, FLAT, [(1024, 1024)] * 2),
    "linear, 320 to 2560": (F.linear, FLAT, [(2048, 320), (2560, 320)]),
    "convolution, 320 x 32 x 32": (convolution, MAP, [(2, 320, 32, 32), (320, 320, 3, 3)]),
    "convolution, 1280 x 8 x 8": (convolution, MAP, [(2, 1280, 8, 8), (1280, 1280, 3, 3)]),
    "convolution, 192 x 256 x 16": (convolution, MAP, [(2, 192, 256, 16), (192, 192, 3, 3)]),
    "attention, 1024 positions": (F.scaled_dot_product_attention, FLAT, [(2, 8, 1024, 40)] * 3),
    "attention, 4096 positions": (F.scaled_dot_product_attention, FLAT, [(2, 8, 4096, 24)] * 3),
    "normalisation, 320 x 32 x 32": (lambda x: F.silu(F.group_norm(x, 32)), MAP, [(2, 320, 32, 32)]),
}


@torch.no_grad()
def ratio(name: str, repeats: int = 3) -> float:
    """CPU time of a case in bf16 over that in float32."""
    run, layout, shapes = CASES[name]
    given = [
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
        for shape in shapes
    ]
    return cpu_seconds(run, [x.bfloat16() for x in given], repeats) / cpu_seconds(run, given, repeats)


def cpu_seconds(run: Operation, given: list[Tensor], repeats: int) -> float:
    """The best of some runs, after one that does not count."""
    run(*given)
    found = []
    for _ in range(repeats):
        began = time.process_time()
        run(*given)
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each, of which the best counts (default 3)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in CASES:
        print(f"{name:30} {ratio(name, args.repeats):.2f}", flush=True)


if __name__ == "__main__":
    main()
