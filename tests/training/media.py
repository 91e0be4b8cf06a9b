"""Real media files of the world, as a user would have them: pictures, silent clips, sounds and captions, each
sample under one name.
"""

from pathlib import Path

import torch

from codi.io import save_audio, save_image, save_video
from codi.world import caption, render_images, render_sounds, render_videos, sample_scenes


def make_pairs(folder: Path, count: int) -> None:
    """Rows that have nothing in common: `count` pictures with captions, as many sounds with captions, and as
    many clips with their sound and captions; each file is of a scene of its own.
    """
    folder.mkdir(parents=True)
    scenes = sample_scenes(3 * count, seed=7)
    seen, heard, moving = scenes[:count], scenes[count : 2 * count], scenes[2 * count :]
    for number, picture in enumerate(render_images(seen)):
        save_image(folder / f"scene-{number}.png", torch.as_tensor(picture))
    for number, sound in enumerate(render_sounds(heard)):
        save_audio(folder / f"sound-{number}.wav", torch.as_tensor(sound), 16000)
    for number, (clip, sound) in enumerate(zip(render_videos(moving), render_sounds(moving), strict=True)):
        path = folder / f"clip-{number}.mp4"
        save_video(path, torch.as_tensor(clip), 8.0, torch.as_tensor(sound), 16000)
    for name, some in (("scene", seen), ("sound", heard), ("clip", moving)):
        for number, scene in enumerate(some):
            text = f"{caption(scene)}\n{caption(scene, ('shape', 'colour'))}\n"
            (folder / f"{name}-{number}.txt").write_text(text, encoding="utf-8")


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
