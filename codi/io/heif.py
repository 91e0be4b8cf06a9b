"""Read pictures in HEIF containers that Pillow does not open: HEIC, as telephones take them.

FFmpeg decodes the HEVC pictures in the file. A telephone's picture is a grid of such tiles, and how they lie
and how the whole is turned stands in boxes of the file, which are read here (ISO/IEC 23008-12). Opacity that
lies in a second picture is not read.

Letters: H height, W width.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi.io.display import display_of
from codi.io.gates import check_pixels, picture_stream
from codi.io.media_file import MediaFile
from codi.types import InputError

MAX_META = 16 << 20  # bytes of boxes that are read
MAX_TILES = 1 << 12


@dataclass
class Layout:
    """How the pictures of a HEIF file make one.

    Attributes:
        primary: the number of the item that is shown.
        kinds: the kind of every item ("hvc1", "grid").
        parts: the items of which an item is made, in order.
        places: (place, offset, length) of every item; place 0 is the file, 1 the box `idat`.
        stored: the content of the box `idat`.
        turns: the boxes by which the shown item is turned and mirrored, in order: (kind, number).
    """

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    parts: dict[int, list[int]] = field(default_factory=dict)
    places: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    stored: bytes = b""
    turns: list[tuple[bytes, int]] = field(default_factory=list)


def read_heif(source: MediaFile) -> Tensor:
    """Return the picture in a HEIF file, uint8 (3, H, W); errors of decoders pass through."""
    layout = read_layout(source)
    if layout.kinds.get(layout.primary) == b"grid":
        pixels = _turned(_tiled(source, layout), layout)
    else:
        pixels = _single(source)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()


def _single(source: MediaFile) -> np.ndarray:
    """Return the picture of a file that has one, (H, W, 3), turned as FFmpeg says."""
    with source.container() as container:
        stream = picture_stream(container)
        if stream is None:
            raise InputError(f"{source.name} holds no picture that can be decoded")
        check_pixels(stream.width, stream.height, source=source.name)
        frame = next(container.decode(stream))
        return display_of(frame, stream).pixels(frame, None)


def _tiled(source: MediaFile, layout: Layout) -> np.ndarray:
    """Return the picture of a grid of tiles, (H, W, 3), not yet turned."""
    rows, columns, width, height = _grid(source, layout)
    check_pixels(width, height, source=source.name)
    members = layout.parts.get(layout.primary, [])
    tiles: dict[int, np.ndarray] = {}
    with source.container() as container:
        streams = [stream for stream in container.streams.video if stream.id in members]
        for packet in container.demux(*streams):
            for frame in packet.decode():
                tiles.setdefault(packet.stream.id, frame.to_ndarray(format="rgb24"))
    if len(members) < rows * columns or not all(member in tiles for member in members):
        raise InputError(
            f"{source.name} is damaged: {len(tiles)} of its {rows * columns} tiles can be decoded; export it "
            "again"
        )
    lines = [
        np.concatenate([tiles[member] for member in members[row * columns : (row + 1) * columns]], axis=1)
        for row in range(rows)
    ]
    return np.concatenate(lines, axis=0)[:height, :width]


def _grid(source: MediaFile, layout: Layout) -> tuple[int, int, int, int]:
    """Return the rows and columns of the grid that is shown, and the width and height of the whole."""
    place, offset, length = layout.places[layout.primary]
    if place == 1:
        body = layout.stored[offset : offset + length]
    else:
        with source.stream() as stream:
            stream.seek(offset)
            body = stream.read(min(length, 64))
    rows, columns = body[2] + 1, body[3] + 1
    width, height = struct.unpack(">II" if body[1] & 1 else ">HH", body[4 : 12 if body[1] & 1 else 8])
    if rows * columns > MAX_TILES:
        raise InputError(f"{source.name} has {rows * columns} tiles: at most {MAX_TILES} are accepted")
    return rows, columns, width, height


def _turned(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    for kind, number in layout.turns:
        if kind == b"irot":
            pixels = np.rot90(pixels, number & 3)
        else:
            pixels = pixels[:, ::-1] if number & 1 else pixels[::-1]
    return pixels


# Boxes -----------------------------------------------------------------


def boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of every box."""
    place = 0
    while place + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        head = 8
        if size == 1 and place + 16 <= len(content):
            (size,), head = struct.unpack(">Q", content[place + 8 : place + 16]), 16
        size = size or len(content) - place
        if size < head:
            return
        yield kind, content[place + head : place + size]
        place += size


def read_layout(source: MediaFile) -> Layout:
    """Return how the pictures of a HEIF file make one; nothing of a file without such boxes."""
    layout = Layout()
    for kind, body in boxes(source.head(MAX_META)):
        if kind == b"meta":
            found = dict(boxes(body[4:]))
            _read_items(layout, found)
            _read_places(layout, found.get(b"iloc", b""))
            _read_turns(layout, dict(boxes(found.get(b"iprp", b""))))
            layout.stored = found.get(b"idat", b"")
            break
    return layout


class _Reader:
    """Reads numbers of a box, one after another."""

    def __init__(self, content: bytes, place: int = 0) -> None:
        self.content, self.place = content, place

    def number(self, size: int) -> int:
        """Return the next number, of so many bytes; 0 bytes are 0."""
        self.place += size
        return int.from_bytes(self.content[self.place - size : self.place], "big")


def _read_items(layout: Layout, found: dict[bytes, bytes]) -> None:
    """Read which item is shown, of what kind the items are, and of which items they are made."""
    pitm = found.get(b"pitm", b"")
    layout.primary = int.from_bytes(pitm[4:], "big")
    iinf = found.get(b"iinf", b"")
    for kind, body in boxes(iinf[6 if iinf[:1] == b"\0" else 8 :]):
        if kind == b"infe" and len(body) >= 12:
            wide = 4 if body[0] >= 3 else 2
            number = int.from_bytes(body[4 : 4 + wide], "big")
            layout.kinds[number] = body[6 + wide : 10 + wide]
    iref = found.get(b"iref", b"")
    wide = 4 if iref[:1] not in (b"", b"\0") else 2
    for kind, body in boxes(iref[4:]):
        if kind == b"dimg":
            reader = _Reader(body)
            whole, count = reader.number(wide), reader.number(2)
            layout.parts[whole] = [reader.number(wide) for _ in range(min(count, MAX_TILES))]


def _read_places(layout: Layout, iloc: bytes) -> None:
    """Read where the items lie; of one that lies in several pieces, the first."""
    if len(iloc) < 8:
        return
    version, sizes, bases = iloc[0], iloc[4], iloc[5]
    reader = _Reader(iloc, 6)
    wide = 4 if version >= 2 else 2
    for _ in range(min(reader.number(wide), 2 * MAX_TILES)):
        number = reader.number(wide)
        place = reader.number(2) & 15 if version else 0
        reader.number(2)  # another file, of which there is none
        base = reader.number(bases >> 4)
        for extent in range(min(reader.number(2), MAX_TILES)):
            reader.number(bases & 15 if version else 0)
            offset, length = reader.number(sizes >> 4), reader.number(sizes & 15)
            if extent == 0:
                layout.places[number] = (place, base + offset, length)


def _read_turns(layout: Layout, iprp: dict[bytes, bytes]) -> None:
    """Read how the shown item is turned and mirrored."""
    properties: list[Any] = [None, *boxes(iprp.get(b"ipco", b""))]
    ipma = iprp.get(b"ipma", b"")
    if len(ipma) < 8:
        return
    reader = _Reader(ipma, 4)
    for _ in range(min(reader.number(4), 2 * MAX_TILES)):
        number = reader.number(4 if ipma[0] else 2)
        wide = 2 if ipma[3] & 1 else 1
        for _ in range(reader.number(1)):
            index = reader.number(wide) & (0x7FFF if wide == 2 else 0x7F)
            kind, body = properties[index] if 0 < index < len(properties) else (b"", b"")
            if number == layout.primary and kind in (b"irot", b"imir"):
                layout.turns.append((kind, body[0] if body else 0))
