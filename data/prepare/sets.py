"""The table of data sets by name: each is a function from (tables, labels) to items."""

from collections.abc import Callable, Iterator
from pathlib import Path

from data.prepare import clips, pictures, sounds
from data.prepare.find import Item

SETS: dict[str, Callable[[list[Path], Path | None], Iterator[Item]]] = {
    "laion": pictures.laion,
    "audiocaps": sounds.audiocaps,
    "audioset": sounds.audioset,
    "freesound": sounds.freesound,
    "bbc": sounds.bbc,
    "webvid": clips.webvid,
    "hdvila": clips.hdvila,
    "acav": clips.acav,
}
