"""Estimate what it costs to train the joint parts of a composed model at full size: hours and memory.

Nothing is run: networks are built on torch's meta device from the configurations that were published with
them, and operations and saved activations are counted there.

    python benchmarks/composed_costs.py [--samples 100000] [--tflops 60 200]

A sample is one clip with its sound; both sides learn to attend to the other. Of each network one pass
forward is counted, one backward for the activations alone, because frozen weights need no gradient, and one
more forward where gradient checkpointing computes activations again. Latents and prompts are taken from a
cache, so that no autoencoder and no text encoder is in memory.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from composed_sizes import MODELS, Model, numbers
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

PAIRS = {
    "SD 1.5 + AnimateDiff + AudioLDM 2": ("Stable Diffusion 1.5", "AnimateDiff", "AudioLDM 2"),
    "SD 3 + LTX + Stable Audio": ("Stable Diffusion 3", "LTX", "Stable Audio"),
}
HALF = 2  # bytes of a number in float16 or bfloat16
OPTIMISER = 16  # bytes of a trained number: itself, its gradient and two moments, in float32
TRAINED = 0.009  # of the frozen numbers, about the largest share that benchmarks/composed_sizes.py prints
PASSES = 3  # forward, backward for activations, forward again


def counted(full: Model) -> tuple[float, float]:
    """Return the operations of one forward pass, and the bytes that it saves under checkpointing."""
    network = full.network.to("meta").train().requires_grad_(False)
    given = {**full.arguments, "timestep": torch.zeros(1)}
    arguments = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), given)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(**arguments)
    if getattr(network, "_supports_gradient_checkpointing", False):
        network.enable_gradient_checkpointing()
    latent = next(name for name, value in arguments.items() if isinstance(value, Tensor))
    arguments[latent] = arguments[latent].requires_grad_(True)  # adapters before the first block need it
    own = {id(parameter) for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if id(x) not in own:
            saved[id(x)] = x.numel() * HALF
            held.append(x)  # so that no other tensor gets its id
        return x

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network(**arguments)
    return float(counter.get_total_flops()), float(sum(saved.values()))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the estimate for each combination."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument(
        "--tflops", type=float, nargs="+", default=[60.0, 200.0], help="sustained, per device"
    )
    args = parser.parse_args(argv)
    for title, names in PAIRS.items():
        print(title)
        flops = weights = activations = 0.0
        for name in names:
            key = next(full for full in MODELS if full.startswith(name))
            with torch.device("meta"):
                full = MODELS[key]()
                operations, saved = counted(full)
            size = numbers(full.network)
            forward = f"{operations / 1e12:.2f} T operations forward, {saved / 2**30:.2f} GiB saved"
            print(f"  {key}: {size / 1e6:.0f} M, {forward}", flush=True)
            flops += PASSES * operations
            weights += size * (HALF + TRAINED * OPTIMISER)
            activations += saved
        held = f"weights, adapters and optimiser {weights / 2**30:.1f} GiB"
        print(f"  {held}; activations {activations / 2**30:.1f} GiB a sample")
        for speed in args.tflops:
            hours = args.samples * flops / (speed * 1e12) / 3600
            print(f"  {args.samples} samples at {speed:.0f} T operations a second: {hours:.1f} hours")


if __name__ == "__main__":
    main()
