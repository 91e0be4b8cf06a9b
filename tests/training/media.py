"""Real media files of the world, as a user would have them: pictures, silent clips, sounds and captions, each
sample under one name.
"""

from pathlib import Path

import torch

from codi.io import save_audio, save_image, save_video
from codi.world import caption, render_images, render_sounds, render_videos, sample_scenes


def make_media(folder: Path, count: int) -> None:
    """`count` scenes as files; a caption file holds two captions."""
    folder.mkdir(parents=True)
    scenes = sample_scenes(count, seed=7)
    pictures, clips, sounds = render_images(scenes), render_videos(scenes), render_sounds(scenes)
    for number, scene in enumerate(scenes):
        save_image(folder / f"scene-{number}.png", torch.as_tensor(pictures[number]))
        save_video(folder / f"scene-{number}.mp4", torch.as_tensor(clips[number]), 8.0)
        save_audio(folder / f"scene-{number}.wav", torch.as_tensor(sounds[number]), 16000)
        text = f"{caption(scene)}\n{caption(scene, ('shape', 'colour'))}\n"
        (folder / f"scene-{number}.txt").write_text(text, encoding="utf-8")
