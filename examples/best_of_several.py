"""Draws several candidates for each sample and keeps the best, as the model's own prompt towers judge them.

    python examples/best_of_several.py --candidates 4 --out out/

"A star" leaves colour, place and motion open, and the shape is what may go wrong. Writes the one that is
kept, a clip with its sound, and prints the scores by which it was chosen and the seed that makes it again
without the others.
"""

import argparse

from codi import CoDiPipeline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--text", default="a star")
parser.add_argument("--candidates", type=int, default=4)
parser.add_argument("--out", default="out/")
parser.add_argument("--steps", type=int, help="steps of denoising (default: the model's own)")
asked = parser.parse_args()

pipe = CoDiPipeline.from_pretrained()
out = pipe(
    text=asked.text,
    outputs=["video", "audio"],
    candidates=asked.candidates,
    num_inference_steps=asked.steps,
    seed=0,
)
out.save(asked.out)
for seed, scores in zip(out.selection[0]["seeds"], out.selection[0]["scores"]):
    print(f"seed {seed}: {scores}", "<- kept" if seed == out.seeds[0] else "")
