"""Makes a sound for a picture, though the model never saw the two as a pair: text is the bridge between them.

    python examples/picture_to_sound.py --image photo.png --out out/

Without --image it first makes a picture, and keeps it as out/000.png. Writes the sound beside it, and prints
what the model says of the picture and of the sound. Shape, colour and place agree; a picture leaves open how
things move.
"""

import argparse

from codi import CoDiPipeline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--image", help="a png, jpg, webp or gif")
parser.add_argument("--out", default="out/")
parser.add_argument("--steps", type=int, help="steps of denoising (default: the model's own)")
asked = parser.parse_args()

pipe = CoDiPipeline.from_pretrained()
pipe.set_progress_bar_config(disable=True)
settings = {"num_inference_steps": asked.steps, "seed": 0}
image = asked.image
if image is None:
    made = pipe(text="a blue star at night", outputs="image", **settings)
    made.save(asked.out)
    image = made.images[0]

out = pipe(image=image, outputs="audio", **settings)
out.save(asked.out)  # numbers go on: 001.wav where 000.png is

sound = (out.audios[0], out.sampling_rate)
print("the picture:", pipe(image=image, outputs="text", **settings).texts[0])
print("its sound:  ", pipe(audio=sound, outputs="text", **settings).texts[0])
