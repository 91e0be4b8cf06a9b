"""Data sets of clips: clips with captions, or lists of cuts with sound."""

import csv
from collections.abc import Iterator
from pathlib import Path

from codi.rows import parse_json
from codi.types import InputError
from data.prepare.find import Item, youtube
from data.prepare.tables import first, read_lines, read_table, seconds


def webvid(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the clips of WebVid: csv with videoid, name (the caption), page_dir, contentUrl.

    Files are at PAGE_DIR/VIDEOID.mp4.

    Args:
        metadata: the tables.
        labels: not used.

    Yields:
        One item for each clip.
    """
    for table in metadata:
        for _, row in read_table(table, (("videoid",), ("name",))):
            identity = first(row, "videoid")
            page = first(row, "page_dir").strip("/")
            names = (f"{page}/{identity}", identity) if page else (identity,)
            yield Item(id=identity, names=names, captions=tuple(filter(None, [first(row, "name")])))


def hdvila(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the clips of HD-VILA-100M: jsonl with video_id and clip, a list of {clip_id, span: [from, to]}.

    Files are cut clips named by clip_id, or whole videos named by video_id. The list has no captions; a
    `caption` or `text` of a clip is taken where someone has added one.

    Args:
        metadata: the tables.
        labels: not used.

    Yields:
        One item for each cut.
    """
    for table in metadata:
        for where, row in read_table(table, (("video_id",), ("clip",))):
            if not isinstance(row["clip"], list):
                raise InputError(f"{where}: clip is {row['clip']!r}: expected a list of cuts")
            for cut in row["clip"]:
                if not isinstance(cut, dict) or "clip_id" not in cut or len(cut.get("span") or ()) != 2:
                    raise InputError(f"{where}: cut {cut!r}: expected clip_id and span, [from, to]")
                name = str(cut["clip_id"]).removesuffix(".mp4")
                yield Item(
                    id=name,
                    names=(f"{row['video_id']}/{name}", name),
                    whole=(str(row["video_id"]),),
                    captions=tuple(filter(None, [first(cut, "caption", "text")])),
                    start=seconds(cut["span"][0], where),
                    end=seconds(cut["span"][1], where),
                )


def acav(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the clips of ACAV100M: csv without a header, with shard, file name, video, "[from, to]".

    Files are cut clips named by file name, or whole videos named by the video's id.

    Args:
        metadata: the tables.
        labels: not used.

    Yields:
        One item for each cut.
    """
    for table in metadata:
        for where, line in read_lines(table):
            if not line.strip() or line.startswith("#"):
                continue
            fields = next(csv.reader([line], skipinitialspace=True))
            try:
                shard, name, identity, segment = fields
                start, end = parse_json(segment)
            except (ValueError, TypeError):
                raise InputError(
                    f'{where} is {line.strip()!r}: expected shard, file name, video, "[from, to]"'
                ) from None
            stem = name.rpartition(".")[0] or name
            start = seconds(start, where)
            end = seconds(end, where)
            names = (f"{shard}/{stem}", stem, *youtube(identity, start, end))
            yield Item(id=stem, names=names, whole=(identity,), start=start, end=end)
