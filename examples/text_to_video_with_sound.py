"""Makes a clip and its sound from a sentence, together: what is seen to bounce is heard at that moment.

    python examples/text_to_video_with_sound.py --out out/

Writes out/000.mp4 (with its sound) and out/000.wav, and prints their lengths and the seed.
"""

import argparse

from codi import CoDiPipeline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--text", default="a green star bounces quickly in the snow")
parser.add_argument("--out", default="out/")
parser.add_argument("--steps", type=int, help="steps of denoising (default: the model's own)")
asked = parser.parse_args()

pipe = CoDiPipeline.from_pretrained()  # the model inside the package; or a folder, or a hub id
out = pipe(text=asked.text, outputs=["video", "audio"], num_inference_steps=asked.steps, seed=0)
out.save(asked.out)

[clip], [sound] = out.videos, out.audios
print(f"a clip of {len(clip) / out.fps:.1f} s, a sound of {sound.shape[-1] / out.sampling_rate:.1f} s")
print(f"made with seed {out.seeds[0]}")
