"""The world: a small universe that can be rendered in every modality and read back from every modality.

Scenes are drawn with `sample_scenes`, shown with the `render_*` functions and `caption`, and read back with
`read_*`.
"""

from collections.abc import Callable
from typing import Any

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
RENDERERS: dict[Modality, Callable[[list[Scene]], Any]] = {
    Modality.IMAGE: render_images,
    Modality.AUDIO: render_sounds,
    Modality.VIDEO: render_videos,
}
READERS: dict[Modality, Callable[[Any], list[Reading]]] = {
    Modality.TEXT: read_texts,
    Modality.IMAGE: read_images,
    Modality.AUDIO: read_sounds,
    Modality.VIDEO: read_videos,
}


def add_view(
    modality: Modality,
    *,
    visible: tuple[str, ...],
    read: Callable[[Any], list[Reading]],
    render: Callable[[list[Scene]], Any] | None = None,
) -> None:
    """Let the world be seen in a further modality, so that `codi bench` measures it like the others.

    Args:
        modality: a registered modality.
        visible: the attributes of a scene that it can show, some of `ATTRIBUTES`.
        read: reads a batch of its media, one `Reading` for each.
        render: makes a batch of its media of scenes; None for one that can be an output alone.
    """
    VISIBLE[modality] = visible
    READERS[modality] = read
    if render is not None:
        RENDERERS[modality] = render


def remove_view(modality: Modality) -> None:
    """Undo `add_view`."""
    for table in (VISIBLE, READERS, RENDERERS):
        table.pop(modality, None)


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
    "add_view",
    "caption",
    "events",
    "is_held_out",
    "parse",
    "remove_view",
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
