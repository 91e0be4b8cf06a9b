"""Tar shards in the layout of WebDataset: members `KEY.EXTENSION`, one key per sample, its members in a row.

A shard is only ever read in place, by the offsets of its members: nothing is unpacked, nothing is executed,
and no name written in a shard is used as a path. A member that is no plain file, points outside, is too large
or cut short is one `InputError` that names the shard and the member.

    jpg jpeg png webp | wav flac mp3 ogg | mp4 webm gif apng   the media
    txt                                               the caption, UTF-8
    json                                              of its keys: caption, captions or parts, start, end,
                                                      sha256 (an object by medium)

Other members are left alone and counted in `Shards.ignored`; what a Mac adds when it packs (`._000.jpg`) is
passed over. N is the number of samples.
"""

import contextlib
import glob
import hashlib
import io
import os
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from codi.io import atomic
from codi.modalities import kind_of
from codi.rows import (
    CAPTION_KEYS,
    Ref,
    Row,
    media_bits,
    modality_of_suffix,
    parse_json,
    read_captions,
    read_digests,
    read_parts,
    read_window,
)
from codi.types import InputError, Modality

MAX_MEMBER = 2 << 30  # bytes
MAX_TEXT = 1 << 20
BLOCK = tarfile.BLOCKSIZE
WORDS = ("txt", "json")  # members that say something of a sample; of their suffixes no medium can be


def member_kinds() -> dict[str, str]:
    """Return what a member is by its suffix: the name of a modality, "txt" or "json"."""
    media = {suffix: modality.value for suffix, modality in modality_of_suffix().items()}
    return media | {name: name for name in WORDS}


class Shards:
    """The samples of several shards, by number, in the order of the sorted paths and of each shard.

    Attributes:
        paths: the shards.
        has: (N,) uint16, bit mask of the media of each sample (`codi.rows.bits_of`).
        weights: (N,) ones.
        ignored: how many members are of none of the kinds above.

    Args:
        paths: one tar, a pattern such as "shards/*.tar", or several of both.
        max_member: the most bytes that one member may have.

    Raises:
        InputError: if there is no such shard, or whatever is wrong with one.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path], max_member: int = MAX_MEMBER) -> None:
        self.paths = find_shards(paths)
        self.ignored = 0
        self._kind_of = member_kinds()
        self._codes = [*dict.fromkeys(self._kind_of.values())]  # what a member is, as one byte
        self._sizes = [path.stat().st_size for path in self.paths]
        self._first: list[int] = []  # number of the first sample of each shard
        self._starts = array("q")  # first member of each sample
        self._offsets, self._lengths, self._kinds = array("q"), array("q"), array("B")
        self._keys: list[str] = []
        has, digest = array("H"), hashlib.sha256()
        for path in self.paths:
            self._first.append(len(has))
            for key, members in _samples(path, max_member):
                digest.update(repr((key, members)).encode())
                has.extend(self._add(key, members))
        if not has:
            raise InputError(
                f"no sample in {', '.join(map(str, self.paths[:3]))}: expected members such as 000.jpg and "
                "000.txt"
            )
        self.has, self.weights = np.array(has, dtype=np.uint16), np.ones(len(has))
        self._digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.has)

    def __getitem__(self, index: int) -> Row:
        """Return the row of a sample, or raise InputError where its words cannot be read."""
        path = self.paths[int(np.searchsorted(self._first, index, side="right")) - 1]
        stop = self._starts[index + 1] if index + 1 < len(self) else len(self._offsets)
        members = {
            self._codes[self._kinds[m]]: (self._offsets[m], self._lengths[m])
            for m in range(self._starts[index], stop)
        }
        where = f"{path}: sample {self._keys[index]!r}"
        values = self._words(path, members, where)
        digests = read_digests(values["sha256"], where) if isinstance(values.get("sha256"), Mapping) else {}
        media = {
            Modality(name): Ref(path=path, offset=o, size=n, sha256=digests.get(Modality(name)))
            for name, (o, n) in members.items()
            if name not in WORDS
        }
        start, end = read_window(values, where)
        return Row(
            id=f"{path.stem}/{self._keys[index]}",
            media=media,
            captions=read_captions(values, where),
            parts=read_parts(values, where),
            start=start,
            end=end,
        )

    @property
    def label(self) -> str:
        """The name of the shards in messages: the path of the first."""
        return str(self.paths[0])

    @property
    def identity(self) -> dict[str, Any]:
        """Return plain JSON that tells these shards from others.

        It covers names, sizes, keys and offsets, but not the bytes themselves.
        """
        shards = [[path.name, size] for path, size in zip(self.paths, self._sizes)]
        return {"shards": shards, "samples": len(self), "index": self._digest}

    def _add(self, key: str, members: dict[str, tuple[int, int]]) -> Iterator[int]:
        """Keep the members of a sample, and yield the bit mask of its media, or nothing where it has none."""
        kinds = self._kind_of
        known = {kinds[suffix]: place for suffix, place in members.items() if suffix in kinds}
        self.ignored += sum(suffix not in kinds for suffix in members)
        if not known:
            return
        self._keys.append(key)
        self._starts.append(len(self._offsets))
        for kind, (offset, length) in known.items():
            self._offsets.append(offset)
            self._lengths.append(length)
            self._kinds.append(self._codes.index(kind))
        media = [Modality(name) for name in known if name not in WORDS]
        yield media_bits(media, any(name in known for name in WORDS))

    def _words(self, path: Path, members: Mapping[Any, tuple[int, int]], where: str) -> dict[str, Any]:
        """Return what `json` and `txt` say of a sample; the caption is that of `txt` where both have one."""
        values: Any = {}
        if "json" in members:
            try:
                values = parse_json(_read_text(path, *members["json"], where))
            except ValueError as error:
                raise (
                    error
                    if isinstance(error, InputError)
                    else InputError(f"{where}: its json is none ({error})")
                ) from None
            if not isinstance(values, dict):
                raise InputError(f"{where}: its json holds {type(values).__name__}: expected an object")
            values = {name: value for name, value in values.items() if value is not None}
            if not isinstance(values.get("parts"), list):  # a key of somebody else's
                values.pop("parts", None)
        if "txt" in members:
            values = {name: value for name, value in values.items() if name not in CAPTION_KEYS}
            text = _read_text(path, *members["txt"], where).strip()
            values |= {"caption": text} if text else {}
        return values


def find_shards(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the tars that names and patterns stand for, sorted within each pattern."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: list[Path] = []
    for item in map(str, given):
        matches = sorted(glob.glob(item)) if glob.has_magic(item) and not os.path.exists(item) else [item]
        if not matches or not os.path.isfile(matches[0]):
            raise InputError(
                f"no such shard: {item}. Check the name or the pattern; relative names start at {Path.cwd()}."
            )
        found += map(Path, matches)
    return found


def _samples(path: Path, max_member: int) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yield (key, {suffix: (offset, size)}) of every sample of a shard."""
    seen: set[str] = set()
    key, members, kinds = None, {}, member_kinds()
    for name, offset, size in _members(path, max_member):
        if is_of_a_mac(name):
            continue
        stem, suffix = split_name(name)
        if stem != key:
            if members:
                yield key, members
            if stem in seen:
                raise InputError(
                    f"{path}: the members of {stem!r} are not beside each other: expected all members of a "
                    "key together"
                )
            seen.add(stem)
            key, members = stem, {}
        kind = kinds.get(suffix, suffix)
        if any(kinds.get(other, other) == kind for other in members):
            raise InputError(f"{path}: sample {stem!r} has two members of the kind .{suffix}: expected one")
        members[suffix] = (offset, size)
    if members:
        yield key, members


def is_of_a_mac(name: str) -> bool:
    """Return whether a member holds nothing but what a Mac notes of another one beside it."""
    *folders, last = PurePosixPath(name).parts or ("",)
    return last.startswith("._") or last == ".DS_Store" or "__MACOSX" in folders


def split_name(name: str) -> tuple[str, str]:
    """Return ("a/b", "seg.png") for "a/b.seg.png": the suffix begins at the first dot of the last part."""
    folder, _, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _members(path: Path, max_member: int) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset, size) of every plain file in a tar."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            before = -1
            while (member := tar.next()) is not None:
                tar.members = []  # tarfile would keep every member in memory
                if member.offset <= before or member.size < 0 or member.offset_data + member.size > size:
                    raise InputError(
                        f"{path}: member {member.name!r} lies outside the file: the shard is damaged or cut "
                        "short"
                    )
                before = member.offset
                _check_member(path, member, max_member)
                if member.isreg():
                    yield member.name, member.offset_data, member.size
            _check_end(path, stream, tar.offset, size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is no tar, damaged or cut short ({error}): copy or download it again; unpack .gz first"
        ) from None


def _check_member(path: Path, member: tarfile.TarInfo, max_member: int) -> None:
    """Raise InputError for a member that points outside, is no plain file, or is too large."""
    parts = PurePosixPath(member.name).parts
    if (
        member.name.startswith("/")
        or "\\" in member.name
        or ".." in parts
        or "\0" in member.name
        or not member.name
    ):
        raise InputError(
            f"{path}: member {member.name!r} points outside the shard: such a shard is not to be trusted"
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise InputError(
            f"{path}: member {member.name!r} is a link, a device or sparse: expected plain files only"
        )
    if member.size > max_member:
        raise InputError(
            f"{path}: member {member.name!r} has {member.size} bytes: at most {max_member} are accepted"
        )


def _check_end(path: Path, stream: Any, offset: int, size: int) -> None:
    """Raise InputError unless the tar has its end mark, a block of zeros, at `offset`.

    A tar that was cut between two members has none, nor does one with a damaged header.
    """
    stream.seek(offset)
    if offset + BLOCK > size or any(stream.read(BLOCK)):
        raise InputError(
            f"{path} is cut short or damaged at byte {offset}: it has no end mark there; copy or download it "
            "again"
        )


def _read_text(path: Path, offset: int, size: int, where: str) -> str:
    """Return the text of a member, or raise InputError where it is too long or not in UTF-8."""
    if size > MAX_TEXT:
        raise InputError(f"{where}: {size} bytes of text: at most {MAX_TEXT} are accepted")
    with path.open("rb") as stream:
        stream.seek(offset)
        raw = stream.read(size)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")  # editors of Windows add both
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not in UTF-8 (byte {raw[error.start]:#04x} at {error.start}): save its words in "
            "UTF-8"
        ) from None


def write_shards(
    folder: str | Path, samples: Iterable[Mapping[str, Any]], *, per_shard: int = 1000, prefix: str = "shard"
) -> list[Path]:
    """Write samples into `folder`/PREFIX-000000.tar and so on; the same samples give the same bytes.

    Args:
        folder: where the shards go; it is made if need be.
        samples: mappings such as {"key": "a7", "jpg": bytes or Path, "txt": str, "json": str}.
        per_shard: how many samples a shard holds.
        prefix: how the names of the shards begin.

    Returns:
        The paths of the shards.
    """
    folder, paths, rest = Path(folder), [], iter(samples)
    folder.mkdir(parents=True, exist_ok=True)
    sample = next(rest, None)
    while sample is not None:
        path = folder / f"{prefix}-{len(paths):06d}.tar"
        with atomic(path) as temporary:
            with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                for _ in range(per_shard):
                    _add_sample(tar, sample)
                    if (sample := next(rest, None)) is None:
                        break
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        paths.append(path)
    return paths


def _add_sample(tar: tarfile.TarFile, sample: Mapping[str, Any]) -> None:
    """Add the members of a sample to a tar."""
    key = sample["key"]
    if (
        not key
        or "." in key.rpartition("/")[2]
        or ".." in PurePosixPath(key).parts
        or key.startswith("/")
        or "\\" in key
    ):
        raise InputError(f"{key!r} cannot be the key of a sample: expected a name without dots")
    for suffix, content in sample.items():
        if suffix == "key":
            continue
        member = tarfile.TarInfo(f"{key}.{suffix}")
        with contextlib.ExitStack() as stack:
            if isinstance(content, Path):
                stream, member.size = stack.enter_context(content.open("rb")), content.stat().st_size
            else:
                raw = content.encode() if isinstance(content, str) else content
                stream, member.size = io.BytesIO(raw), len(raw)
            tar.addfile(member, stream)


def pack(
    rows: Iterable[Row], folder: str | Path, *, per_shard: int = 1000, prefix: str = "shard"
) -> list[Path]:
    """Write the rows of a manifest, with their files, as shards; weights are not kept.

    Args:
        rows: the rows; the keys of the samples are their numbers.
        folder: where the shards go; it is made if need be.
        per_shard: how many samples a shard holds.
        prefix: how the names of the shards begin.

    Returns:
        The paths of the shards.
    """
    import json

    def sample(number: int, row: Row) -> dict[str, Any]:
        words = {"parts": list(row.parts)} if row.parts else {"captions": list(row.captions)}
        values = {**words, "start": row.start, "end": row.end, "id": row.id}
        values["sha256"] = {str(m): ref.sha256 for m, ref in row.media.items() if ref.sha256}
        files = {_suffix(ref.path, m): ref.path for m, ref in row.media.items()}
        return {
            "key": f"{number:09d}",
            **files,
            "json": json.dumps({k: v for k, v in values.items() if v}, ensure_ascii=False),
        }

    return write_shards(
        folder, (sample(number, row) for number, row in enumerate(rows)), per_shard=per_shard, prefix=prefix
    )


def _suffix(path: Path, modality: Modality) -> str:
    """Return the suffix of a file, or raise InputError where a shard has none such for its modality."""
    suffix = path.suffix.lower().lstrip(".")
    suffixes = kind_of(modality).data_suffixes
    if suffix not in suffixes:
        raise InputError(
            f"{path} cannot go into a shard as {modality}: expected a name that ends in {', '.join(suffixes)}"
        )
    return suffix
