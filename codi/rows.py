"""One row of a data set: which files, which words, and which seconds of them.

Manifests and shards both give rows of this kind.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codi.modalities import in_files, kind_of, kinds
from codi.types import InputError, Modality

CAPTION_KEYS = ("caption", "captions", "parts")  # of a row, which has one of them at most


def bit_of(modality: Modality) -> int:
    """Return the bit that stands for a modality in a mask, by its place in the order of registration."""
    return 1 << list(Modality).index(modality)


def bits_of(media: Iterable[Modality]) -> int:
    """Return the bit mask of several modalities."""
    return sum(map(bit_of, set(media)))


def row_keys() -> tuple[str, ...]:
    """Return the keys that a row of a manifest may have."""
    media = [modality.value for modality in in_files()]
    return (
        "id",
        *media,
        "caption",
        "captions",
        "parts",
        "sha256",
        "start",
        "end",
        "silent",
        "weight",
        "info",
    )


def modality_of_suffix() -> dict[str, Modality]:
    """Return which modality a file of a data set is, by what its name ends in, without the dot."""
    found: dict[str, Modality] = {}
    for kind in kinds():
        found |= dict.fromkeys(kind.data_suffixes, kind.modality)
    return found


@dataclass(frozen=True, kw_only=True)
class Ref:
    """The place of one medium: a whole file, or a stretch of bytes in a shard.

    Attributes:
        path: the file or the shard.
        offset: where the medium begins in the shard, in bytes; None for a whole file.
        size: the length of the medium in bytes; None for a whole file.
        sha256: its digest, 64 hexadecimal digits in lower case; None where it is not known.
    """

    path: Path
    offset: int | None = None
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample of a data set.

    Attributes:
        id: the name of the sample in messages.
        media: files by modality; the sound of a clip needs no file of its own.
        captions: none, one, or several that say the same.
        parts: the parts that its one caption is put together of, where the row lists them.
        start: the second of the recording or clip where the sample begins; None for the beginning of the
            file.
        end: the second where it ends; None for the end of the file.
        silent: whether the clip is known to have no sound, so that the row counts as without one.
        weight: how often the row comes, relative to the others of its manifest.
        info: further facts for people, such as origin and licence, which no program reads.
    """

    id: str
    media: Mapping[Modality, Ref]
    captions: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    silent: bool = False
    weight: float = 1.0
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has(self) -> int:
        """The bit mask (`bits_of`) of the media that the row may give.

        It counts the sound of every clip that is not `silent`; whether a clip has sound shows only when it is
        opened.
        """
        return media_bits(self.media, bool(self.captions), self.silent)


def media_bits(files: Iterable[Modality], text: bool, silent: bool = False) -> int:
    """Return the bit mask of the media that a row can give.

    Args:
        files: the modalities of which the row has files; a clip counts as a sound, too.
        text: whether the row has captions.
        silent: whether its clip is known to have no sound.

    Returns:
        A sum of `BITS`.
    """
    found = set(files)
    for modality in () if silent else list(found):
        found |= set(map(Modality, kind_of(modality).carries))
    if text:
        found |= {kind.modality for kind in kinds() if kind.in_words}
    return bits_of(found)


def draw_caption(captions: Sequence[str], seed: int, position: int) -> str:
    """Return one of the captions of a row, chosen by (seed, position); "" where there are none."""
    if len(captions) < 2:
        return captions[0] if captions else ""
    return captions[int(np.random.default_rng((seed, position, 1)).integers(len(captions)))]


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, in which no NaN and no key given twice is accepted.

    A text that is not JSON in this sense, or is nested too deeply, raises ValueError.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) != len(items):
            counts = Counter(name for name, _ in items)
            twice = next(name for name in counts if counts[name] > 1)
            raise ValueError(f"key {twice!r} is given twice")
        return values

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not a number that JSON knows")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_row(values: Any, folder: Path, where: str) -> Row:
    """Return the row that the plain values of a manifest describe.

    Args:
        values: an object with some of `KEYS`.
        folder: the folder that paths are relative to.
        where: the place of the row, with which messages begin; also its id where it names none.

    Returns:
        The row. Its files need not exist.

    Raises:
        InputError: if a key is unknown, a value cannot be used, or the row is empty.
    """
    keys = row_keys()
    files = in_files()
    if not isinstance(values, Mapping):
        raise InputError(
            f"{where} holds {type(values).__name__}: expected an object with some of {', '.join(keys)}"
        )
    values = {name: value for name, value in values.items() if value is not None}
    for name in values:
        if name not in keys:
            raise InputError(
                f"{where}: unknown key {name!r}: expected some of {', '.join(keys)}; what is for no program "
                "goes into info"
            )
    digests = read_digests(values.get("sha256", {}), where)
    media = {}
    for modality in files:
        if modality.value in values:
            path = folder / _text(values, modality.value, where)
            media[modality] = Ref(path=path, sha256=digests.pop(modality, None))
    if digests:
        raise InputError(f"{where}: sha256 of {', '.join(digests)}, which the row does not have")
    start, end = read_window(values, where)
    silent = values.get("silent", False)
    if not isinstance(silent, bool):
        raise InputError(f"{where}: silent is {silent!r}: expected true for a clip without sound, or false")
    row = Row(
        id=_text(values, "id", where) if "id" in values else where,
        media=media,
        captions=read_captions(values, where),
        parts=read_parts(values, where),
        start=start,
        end=end,
        silent=silent,
        weight=read_number(values, "weight", where) if "weight" in values else 1.0,
        info=values.get("info", {}),
    )
    if row.weight <= 0:
        raise InputError(
            f"{where}: weight is {row.weight:g}: expected more than 0; leave the row out instead"
        )
    if not row.has:
        raise InputError(f"{where} has nothing in it: expected one of caption, {', '.join(files)}")
    return row


def read_captions(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the captions under `caption` (one) or `captions` (a list), or the one that `parts` make.

    Two of these keys at once, or a caption that is no text, raise an `InputError` that begins with `where`.
    """
    keys = [name for name in CAPTION_KEYS if name in values]
    if len(keys) > 1:
        raise InputError(f"{where} has both {keys[0]} and {keys[1]}: expected one of them")
    if keys == ["parts"]:
        return (", ".join(read_parts(values, where)),)
    return _sentences([values["caption"]] if keys == ["caption"] else values.get("captions", []), where)


def read_parts(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the list of words under `parts`, which make one caption together; nothing where there is none.

    What is no list of words, or an empty one, raises an `InputError` that begins with `where`.
    """
    if "parts" not in values:
        return ()
    found = _sentences(values["parts"], where, "parts")
    if not found:
        raise InputError(f"{where}: parts are an empty list: expected words, or leave the key out")
    return found


def _sentences(given: Any, where: str, name: str = "captions") -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise InputError(f"{where}: {name} are {given!r}: expected words, in a list if there are several")
    for text in given:
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"{where}: caption {text!r} is damaged text: save it in UTF-8 again")
    return tuple(map(str.strip, given))


def read_window(values: Mapping[str, Any], where: str) -> tuple[float | None, float | None]:
    """Return `start` and `end` in seconds, None where they are not given.

    What is no number, or not 0 <= start < end, raises an `InputError` that begins with `where`.
    """
    start = read_number(values, "start", where) if "start" in values else None
    end = read_number(values, "end", where) if "end" in values else None
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise InputError(f"{where}: from {start} to {end} seconds: expected 0 <= start < end")
    return start, end


def read_number(values: Mapping[str, Any], name: str, where: str) -> float:
    """Return the number under a key that is given, or raise InputError unless it is a finite number."""
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise InputError(f"{where}: {name} is {value!r}: expected a finite number")
    return float(value)


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    """Return the text under a key that is given, or raise InputError unless it is text that is not blank."""
    value = values[name]
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{where}: {name} is {value!r}: expected text")
    return value


def read_digests(values: Any, where: str) -> dict[Modality, str]:
    """Return the sha256 digests of a row by modality, in lower case.

    A digest that is not 64 hexadecimal digits, or that belongs to no modality with files, raises an
    `InputError` that begins with `where`.
    """
    if not isinstance(values, Mapping):
        raise InputError(
            f'{where}: sha256 is {values!r}: expected an object such as {{"image": "64 hexadecimal digits"}}'
        )
    digests = {}
    files = [modality.value for modality in in_files()]
    for name, value in values.items():
        if value is None:
            continue
        if name not in files or not isinstance(value, str) or len(value) != 64 or not _is_hex(value):
            raise InputError(
                f"{where}: sha256 of {name} is {value!r}: expected 64 hexadecimal digits under "
                f"{', '.join(files)}"
            )
        digests[Modality(name)] = value.lower()
    return digests


def _is_hex(text: str) -> bool:
    return set(text) <= set("0123456789abcdefABCDEF")
