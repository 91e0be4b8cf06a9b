"""The world: a small universe that can be rendered in every modality and read back from every modality.

Scenes are drawn with `sample_scenes`, shown with the `render_*` functions and `caption`, and read back with
`read_*`.
"""

from codi.types import Modality
from codi.world.caption import caption, parse
from codi.world.listen import read_sounds
from codi.world.look import read_images, read_videos
from codi.world.motion import events
from codi.world.picture import render_frames, render_images, render_videos
from codi.world.reading import Reading, read_texts
from codi.world.scene import (
    ATTRIBUTES,
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    TEMPOS,
    VISIBLE,
    Scene,
    is_held_out,
    sample_scene,
    sample_scenes,
)
from codi.world.sound import render_sounds

# How a scene becomes each medium, and how each medium is read back. Text has no renderer here, because
# `caption` takes more than scenes.
RENDERERS = {Modality.IMAGE: render_images, Modality.AUDIO: render_sounds, Modality.VIDEO: render_videos}
READERS = {
    Modality.TEXT: read_texts,
    Modality.IMAGE: read_images,
    Modality.AUDIO: read_sounds,
    Modality.VIDEO: read_videos,
}

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "MOTIONS",
    "PLACES",
    "READERS",
    "RENDERERS",
    "SHAPES",
    "TEMPOS",
    "VISIBLE",
    "Reading",
    "Scene",
    "caption",
    "events",
    "is_held_out",
    "parse",
    "render_frames",
    "read_images",
    "read_sounds",
    "read_texts",
    "read_videos",
    "render_images",
    "render_sounds",
    "render_videos",
    "sample_scene",
    "sample_scenes",
]
