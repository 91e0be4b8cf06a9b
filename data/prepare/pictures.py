"""Data sets of pictures with captions from the web."""

from collections.abc import Iterator
from pathlib import Path

from data.prepare.find import Item
from data.prepare.tables import first, read_table


def laion(metadata: list[Path], labels: Path | None = None) -> Iterator[Item]:
    """Yield the pictures of LAION-400M and of tables like it.

    The tables are either those that img2dataset leaves beside its folders (columns key, caption, status,
    url), with pictures at FOLDER/KEY.jpg, or the published ones (SAMPLE_ID, URL, TEXT) with pictures named by
    SAMPLE_ID. Rows whose status says that they failed are passed over.

    Args:
        metadata: the tables.
        labels: not used.

    Yields:
        One item for each picture.
    """
    for table in metadata:
        for where, row in read_table(table, (("key", "SAMPLE_ID"), ("caption", "TEXT"))):
            if first(row, "status") in ("", "success"):
                key = first(row, "key", "SAMPLE_ID").removesuffix(".0")
                folders = (f"{key[:5]}/{key}",) if "key" in row and len(key) > 5 else ()
                caption = first(row, "caption", "TEXT")
                info = {}
                for name in ("url", "URL", "LICENSE", "license"):
                    if first(row, name):
                        info[name.lower()] = first(row, name)
                yield Item(
                    id=key or where,
                    names=(*folders, key) if key else (),
                    captions=(caption,) if caption else (),
                    info=info,
                )
