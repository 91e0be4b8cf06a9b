"""Make the row of a manifest from what a data set says of a sample, if its file is there."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi.io import sha256_of
from codi.modalities import kind_of
from codi.rows import modality_of_suffix
from codi.types import InputError, Modality
from data.manifest import relative


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample of a data set.

    Attributes:
        id: the name of the sample.
        names: what its file may be called, without suffix, the likeliest first; with folders (a/b) where the
            name alone may be another's.
        whole: names of the recording that the sample is a cut of. A file found under one of them gets `start`
            and `end`, unless it is so short that it must be the cut itself.
        captions: none, one, or several that say the same.
        start: the second of the recording where the cut begins; None for its beginning.
        end: the second where the cut ends; None for the end of the recording.
        info: facts for people, which no program reads: where the sample comes from, its licence.
    """

    id: str
    names: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


class MediaFolder:
    """The media files below a folder, found by name.

    Args:
        folder: the folder, which is searched with all folders below it.

    Raises:
        InputError: if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(
                f"no such folder: {folder}. Name the one that holds the downloaded files with --media."
            )
        self.folder = folder
        self._files: dict[str, list[str]] = {}
        known = modality_of_suffix()
        for place, _, names in os.walk(folder, followlinks=False):
            for name in names:
                stem, _, suffix = name.rpartition(".")
                if suffix.lower() in known and not stem.startswith("._"):  # what a Mac notes of a file
                    self._files.setdefault(stem, []).append(
                        os.path.relpath(os.path.join(place, name), folder)
                    )

    def __len__(self) -> int:
        return sum(map(len, self._files.values()))

    def find(self, name: str) -> Path | None:
        """Return the file of that name, the first by path of several; folders in the name must match."""
        parent, _, stem = name.rpartition("/")
        files = []
        for file in self._files.get(stem, []):
            folder = f"/{Path(file).parent.as_posix()}"
            if not parent or folder.endswith(f"/{parent}"):
                files.append(file)
        return self.folder / min(files) if files else None


def to_row(item: Item, media: MediaFolder, manifest: Path, digest: bool) -> dict[str, Any] | None:
    """Return the row of a manifest for a sample, or None if its file is missing.

    Args:
        item: the sample.
        media: where its file is looked for.
        manifest: the path of the manifest, to which paths in the row are relative.
        digest: whether to read the file for its sha256.

    Returns:
        Plain values under the keys of `codi.rows.KEYS`.
    """
    path = next(filter(None, map(media.find, item.names)), None)
    whole = False
    if path is None:
        path = next(filter(None, map(media.find, item.whole)), None)
        whole = path is not None and not _is_cut(path, item)
    if path is None:
        return None
    modality = _modality(path)
    row: dict[str, Any] = {"id": item.id, modality.value: relative(path, manifest)}
    if len(item.captions) == 1:
        row["caption"] = item.captions[0]
    elif item.captions:
        row["captions"] = list(item.captions)
    if digest:
        row["sha256"] = {modality.value: sha256_of(path)}
    if whole and item.start is not None:
        row["start"] = item.start
    if whole and item.end is not None:
        row["end"] = item.end
    if item.info:
        row["info"] = dict(item.info)
    return row


def _is_cut(path: Path, item: Item) -> bool:
    """Return whether a file named like a whole recording is the cut itself, being no longer than it."""
    from codi.io.media_file import MediaFile

    if not item.start or item.end is None:
        return False
    try:
        length = kind_of(_modality(path)).seconds_in(MediaFile(path, str(path))) or 0.0
    except InputError:
        return False  # the file is damaged, which training will report
    return 0 < length <= item.end - item.start + 1


def _modality(path: Path) -> Modality:
    """Return the modality of a file by its suffix, which is a known one."""
    return modality_of_suffix()[path.suffix.lower().lstrip(".")]


def youtube(identity: str, start: float | None = None, end: float | None = None) -> tuple[str, ...]:
    """Return the names under which a cut of a YouTube video is usually kept; times are in seconds."""
    cuts: list[str] = []
    if start is not None:
        for form in (f"{start:g}", f"{int(start)}", f"{start:.3f}", f"{int(start * 1000)}"):
            cuts += [f"{identity}_{form}", f"Y{identity}_{form}"]
            if end is not None:
                last = {f"{start:g}": f"{end:g}", f"{start:.3f}": f"{end:.3f}"}.get(form, f"{int(end)}")
                cuts += [f"{identity}_{form}_{last}"]
    return tuple(dict.fromkeys(cuts))


def merged(items: Iterator[Item]) -> Iterator[Item]:
    """Yield one item for all items with the same id, with the captions and names of all."""
    by_id: dict[str, Item] = {}
    for item in items:
        before = by_id.get(item.id)
        captions = (
            item.captions if before is None else tuple(dict.fromkeys((*before.captions, *item.captions)))
        )
        names = item.names if before is None else tuple(dict.fromkeys((*before.names, *item.names)))
        by_id[item.id] = Item(**{**item.__dict__, "captions": captions, "names": names})
    yield from by_id.values()
