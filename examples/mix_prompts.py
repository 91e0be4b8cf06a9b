"""Combines prompts of several kinds, with weights: a picture, a sentence and a sound.

    python examples/mix_prompts.py --out out/

Makes a picture and a sound to be prompts, then mixes them. What one prompt leaves open another may name: the
picture has no motion, and the sentence says nothing else. Where prompts contradict each other, weights
decide. Writes 000.png, 001.wav and a picture with its caption for each mixture into out/, and prints the
captions.
"""

import argparse

from codi import CoDiPipeline, Prompt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="out/")
parser.add_argument("--steps", type=int, help="steps of denoising (default: the model's own)")
asked = parser.parse_args()

pipe = CoDiPipeline.from_pretrained()
pipe.set_progress_bar_config(disable=True)
settings = {"num_inference_steps": asked.steps, "seed": 0}
ball = pipe(text="a yellow ball in the snow", outputs="image", **settings)
star = pipe(text="a blue star blinks quickly at night", outputs="audio", **settings)
ball.save(asked.out)
star.save(asked.out)
picture, sound = ball.images[0], (star.audios[0], star.sampling_rate)

mixtures = {
    "the picture, and how it moves": {"image": picture, "text": "swings slowly"},
    "more of the picture": {"image": Prompt(picture, weight=0.8), "audio": Prompt(sound, weight=0.2)},
    "more of the sound": {"image": Prompt(picture, weight=0.2), "audio": Prompt(sound, weight=0.8)},
}
for name, prompts in mixtures.items():
    out = pipe(**prompts, outputs=["image", "text"], **settings)
    out.save(asked.out)
    print(f"{name}: {out.texts[0]}")
