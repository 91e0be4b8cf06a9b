"""Print how far a sample alone is from itself in a batch, and what making samples one by one costs.

    python benchmarks/alone.py                     # four samples of a call with three outputs, embedded model
    python benchmarks/alone.py --samples 16 --steps 20

Noise is drawn for each sample from its own seed, so that only rounding differs: matrix products and
convolutions add up in another order for a batch of another size. Griffin-Lim, which makes the embedded
model's sounds of spectrograms, amplifies that.
"""

import argparse
import time
import warnings

import torch

from codi import CoDiPipeline

CALL = {"text": "a red ball bounces slowly at night", "outputs": ["image", "audio", "video"]}


def main() -> None:
    """Measure, and print one line for each quantity."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    pipe = CoDiPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    call = CALL | {"num_inference_steps": args.steps}
    pipe(**call, num_samples=1)  # warms up

    began = time.perf_counter()
    batch = pipe(**call, num_samples=args.samples, seed=0, output_type="pt")
    together = time.perf_counter() - began
    latents = pipe(**call, num_samples=args.samples, seed=0, output_type="latent").latents

    began = time.perf_counter()
    single = [pipe(**call, num_samples=1, seed=k, output_type="pt") for k in range(args.samples)]
    one_by_one = time.perf_counter() - began
    alone = [pipe(**call, num_samples=1, seed=k, output_type="latent").latents for k in range(args.samples)]

    for modality, rows in latents.items():
        apart = max((alone[k][modality][0] - rows[k]).abs().max().item() for k in range(args.samples))
        print(f"latents of {modality}: at most {apart:.1e} apart")
    for field, unit in (
        ("images", "levels of 255"),
        ("videos", "levels of 255"),
        ("audios", "of full scale"),
    ):
        pairs = [(getattr(one, field)[0], getattr(batch, field)[k]) for k, one in enumerate(single)]
        apart = max((one.float() - other.float()).abs().max().item() for one, other in pairs)
        print(f"{field}: at most {apart:.2g} {unit} apart")
    print(f"{args.samples} samples: {together:.2f} s in a batch, {one_by_one:.2f} s one by one")


if __name__ == "__main__":
    with torch.no_grad():
        main()
