"""Data sets of sounds with captions, labels or tags."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from codi.types import InputError
from data.prepare.find import Item, merged, youtube
from data.prepare.tables import first, read_lines, read_table, seconds

AUDIOCAPS_SECONDS = 10.0


def audiocaps(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the sounds of AudioCaps: csv with audiocap_id, youtube_id, start_time, caption.

    Clips are 10 s long. The captions of one clip come together. Files are named by the video and the second
    (ID_START), by the video (ID, YID), or by audiocap_id.

    Args:
        metadata: the tables.
        labels: not used.

    Returns:
        An iterator over one item for each clip.
    """

    def items() -> Iterator[Item]:
        for table in metadata:
            for where, row in read_table(table, (("youtube_id",), ("start_time",), ("caption",))):
                identity = first(row, "youtube_id")
                start = seconds(row["start_time"], where)
                end = start + AUDIOCAPS_SECONDS
                names = (*youtube(identity, start, end), f"Y{identity}", first(row, "audiocap_id"))
                yield Item(
                    id=f"{identity}_{start:g}",
                    names=tuple(filter(None, names)),
                    whole=(identity,),
                    captions=tuple(filter(None, [first(row, "caption")])),
                    start=start,
                    end=end,
                )

    return merged(items())


def audioset(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the sounds of AudioSet from its segment tables; their files are recordings or clips.

    The columns are YTID, start_seconds, end_seconds, positive_labels, after three lines of remarks.

    Args:
        metadata: the tables.
        labels: class_labels_indices.csv (index, mid, display_name): a caption then is the names of the
            labels. Without it there are no captions.

    Yields:
        One item for each segment.
    """
    names = {}
    if labels is not None:
        for _, row in read_table(labels, (("mid",), ("display_name",))):
            names[row["mid"]] = first(row, "display_name")
    for table in metadata:
        for where, line in read_lines(table):
            if not line.strip() or line.startswith("#"):
                continue
            fields = next(csv.reader([line], skipinitialspace=True))
            if len(fields) != 4:
                raise InputError(
                    f"{where} has {len(fields)} columns: expected YTID, start_seconds, end_seconds, "
                    "positive_labels"
                )
            identity = fields[0]
            start = seconds(fields[1], where)
            end = seconds(fields[2], where)
            marks = fields[3].split(",")
            for mark in marks:
                if names and mark not in names:
                    raise InputError(
                        f"{where}: label {mark!r} is not in {labels}: is it the table of the same release?"
                    )
            caption = ", ".join(names[mark].lower() for mark in marks) if names else ""
            yield Item(
                id=f"{identity}_{start:g}",
                names=(*youtube(identity, start, end), f"Y{identity}"),
                whole=(identity,),
                captions=(caption,) if caption else (),
                start=start,
                end=end,
                info={"labels": marks},
            )


def freesound(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the sounds of Freesound from what its API or an export gives, as csv, json or jsonl.

    The columns are id, name, description, tags, license, username. Lists of the WavCaps kind (id, caption)
    are read, too. Where there is no caption, the first sentence of the description is one, otherwise name and
    tags are. Files are named by the id, alone or as ID__USER__NAME.

    Args:
        metadata: the tables.
        labels: not used.

    Yields:
        One item for each sound.
    """
    for table in metadata:
        for _, row in read_table(table, (("id",),)):
            identity = first(row, "id")
            caption = first(row, "caption") or _first_sentence(first(row, "description")) or _tagged(row)
            user = first(row, "username")
            name = first(row, "name")
            slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\.\w{2,4}$", "", name.lower())).strip("-")
            info = {key: first(row, key) for key in ("license", "username", "href", "url") if first(row, key)}
            names = (
                identity,
                f"{identity}__{user.lower()}__{slug}",
                re.sub(r"\.\w{2,4}$", "", first(row, "file_name")),
            )
            yield Item(
                id=identity,
                names=tuple(filter(None, names)),
                captions=(caption,) if caption else (),
                info=info,
            )


def bbc(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the BBC Sound Effects from the archive's csv (location, description, secs, category).

    Files are named by location.

    Args:
        metadata: the tables.
        labels: not used.

    Yields:
        One item for each sound.
    """
    for table in metadata:
        for _, row in read_table(table, (("location",), ("description",))):
            name = first(row, "location").rpartition(".")[0] or first(row, "location")
            info = {key: first(row, key) for key in ("category", "CDName") if first(row, key)}
            yield Item(
                id=name, names=(name,), captions=tuple(filter(None, [first(row, "description")])), info=info
            )


def _first_sentence(text: str) -> str:
    """Return a text up to its first full stop, without mark-up and addresses.

    It returns "" if that leaves less than two words or more than 40.
    """
    text = re.sub(r"https?://\S+", "", re.sub(r"<[^>]*>", " ", text))
    sentence = " ".join(re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0].split())
    return sentence if 2 <= len(sentence.split()) <= 40 else ""


def _tagged(row: dict) -> str:
    """Return the name and the tags of a sound as one caption."""
    tags = row.get("tags") or ""
    words = tags if isinstance(tags, list) else re.split(r"[,;|\s]+", str(tags))
    name = re.sub(r"\.\w{2,4}$", "", first(row, "name")).replace("_", " ").replace("-", " ")
    named = [" ".join(name.split())]
    named += [word.strip().replace("-", " ") for word in words]
    return ", ".join(filter(None, named))
