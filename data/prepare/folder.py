"""`python -m data.prepare folder FOLDER --out train.jsonl`: files of one's own, made into a manifest.

Files under one name are one sample: dog.jpg, dog.wav, dog.mp4, and its captions in dog.txt, one a line. A
sample need not have all of them, and folders below FOLDER are searched too. A second file of a kind (dog.png
beside dog.jpg) becomes a sample of its own with the same captions. Clips are opened to see whether they have
a sound, which then needs no file of its own.
"""

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from codi.modalities import kind_of
from codi.rows import bits_of, modality_of_suffix, parse_row
from codi.types import InputError, Modality
from data.prepare.outputs import check_new, place_of

WORDS = "txt"  # the ending of captions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    endings = ", ".join([*modality_of_suffix(), WORDS])
    parser.add_argument("folder", type=Path, help=f"the files; these endings are read: {endings}")
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="FILE.jsonl", help="the manifest to write"
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        metavar="FILE.jsonl",
        help="a manifest for samples that are kept from training",
    )
    parser.add_argument(
        "--share", type=float, default=0.05, help="with --held-out: the share of samples in it (default 0.05)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace manifests that are there")
    parser.add_argument("--no-sha256", action="store_true", help="do not read every file for its digest")


def run(options: argparse.Namespace) -> str:
    """Write the manifests and return a line for each."""
    return "\n".join(prepare(options))


def prepare(options: argparse.Namespace) -> list[str]:
    """Write the manifests.

    Args:
        options: what `add_arguments` adds.

    Returns:
        A line for each manifest that says what is in it.

    Raises:
        InputError: if the folder holds nothing that is read, captions are damaged, or a manifest cannot be
            written.
    """
    from tqdm import tqdm

    from data.manifest import write_manifest

    _check(options)
    samples = find_samples(options.folder)
    if not samples:
        endings = ", ".join([*modality_of_suffix(), WORDS])
        raise InputError(f"{options.folder} holds nothing that is read: expected files that end in {endings}")
    kept_back = held_out_of(samples, options.share) if options.held_out else set()
    parts = {options.out: [name for name in samples if name not in kept_back]}
    if options.held_out:
        parts[options.held_out] = [name for name in samples if name in kept_back]
    tables: dict[Path, list[dict[str, Any]]] = {}
    with tqdm(total=len(samples), unit=" samples", disable=None) as bar:
        for manifest, names in parts.items():
            tables[manifest] = []
            for name in names:
                tables[manifest] += rows_of(name, samples[name], manifest, not options.no_sha256)
                bar.update()
    # both are complete before either is written
    for manifest, rows in tables.items():
        write_manifest(manifest, rows)
    return [f"{manifest}: {in_words(rows, manifest)}" for manifest, rows in tables.items()]


def _check(options: argparse.Namespace) -> None:
    """Raise InputError for options that cannot be used."""
    if not options.folder.is_dir():
        raise InputError(f"no such folder: {options.folder}. Name the one that holds the files.")
    if not 0 < options.share < 1:
        raise InputError(f"--share is {options.share:g}: expected a share between 0 and 1, such as 0.05")
    manifests = [options.out, *([options.held_out] if options.held_out else [])]
    if len({path.resolve() for path in manifests}) < len(manifests):
        raise InputError(f"{options.out} is to hold both parts: expected two names")
    check_new(manifests, options.overwrite)


def find_samples(folder: Path) -> dict[str, list[Path]]:
    """Return the files of every sample.

    Args:
        folder: the folder, which is searched with all folders below it; hidden files are passed over.

    Returns:
        By name (the path in `folder` without the ending, with slashes) the media and captions, in order.
    """
    known = {*modality_of_suffix(), WORDS}
    found: dict[str, list[Path]] = {}
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower().lstrip(".") in known:
                found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return dict(sorted(found.items()))


def held_out_of(names: Iterable[str], share: float) -> set[str]:
    """Return the samples that are kept from training.

    A sample is chosen by its name alone, so that it stays where it is when others are added or taken away;
    where nothing is chosen so, the one that is nearest to it.

    Args:
        names: the names of all samples.
        share: about which share of them is chosen.

    Returns:
        Their names, one at least where there are two samples or more.
    """
    places = {name: place_of(name) for name in names}
    chosen = {name for name, place in places.items() if place < share}
    if not chosen and len(places) > 1:
        chosen = {min(places, key=lambda name: places[name])}
    return chosen


def rows_of(name: str, files: list[Path], manifest: Path, digest: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a sample: one, and one more for each further file of a kind.

    Args:
        name: the name of the sample.
        files: its media and captions.
        manifest: the manifest, to which paths are relative.
        digest: whether to read the files for their sha256.

    Yields:
        Plain values under the keys of `codi.rows.row_keys`.

    Raises:
        InputError: for captions that are no text.
    """
    known = modality_of_suffix()
    captions: list[str] = []
    for path in files:
        if path.suffix.lower().lstrip(".") == WORDS:
            captions += read_captions(path)
    rows: list[tuple[str, dict[Modality, Path]]] = [(name, {})]
    for path in files:
        modality = known.get(path.suffix.lower().lstrip("."))
        if modality is None:
            continue
        if modality in rows[0][1]:
            rows.append((f"{name}{path.suffix}", {modality: path}))
        else:
            rows[0][1][modality] = path
    for identity, media in rows:
        if media or captions:
            row = _row(identity, media, captions, manifest, digest)
            parse_row(row, manifest.parent, f"{name} of the folder")
            yield row


def read_captions(path: Path) -> list[str]:
    """Return the lines of a file of captions that are not blank. Raises `InputError` unless it is UTF-8."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"cannot read the captions in {path} ({error}): save them in UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def _row(
    identity: str, media: dict[Modality, Path], captions: list[str], manifest: Path, digest: bool
) -> dict[str, Any]:
    """Return the row of one sample."""
    from codi.io import sha256_of
    from data.manifest import relative

    row: dict[str, Any] = {"id": identity}
    for modality, path in media.items():
        row[modality.value] = relative(path, manifest)
    if captions:
        row["captions"] = captions
    if digest and media:
        row["sha256"] = {modality.value: sha256_of(path) for modality, path in media.items()}
    if any(_lacks(modality, path) for modality, path in media.items()):
        row["silent"] = True
    return row


def _lacks(modality: Modality, path: Path) -> bool:
    """Return whether a file lacks what its kind may carry besides, as a silent clip lacks a sound."""
    from codi.io.media_file import MediaFile

    kind = kind_of(modality)
    if not kind.carries:
        return False
    try:
        return not kind.carried_in(MediaFile(path, str(path)))
    except InputError:
        return False  # the file is damaged, which training will report


def in_words(rows: list[dict[str, Any]], manifest: Path) -> str:
    """Return how many rows there are, with captions and with each medium."""
    has = [parse_row(row, manifest.parent, str(manifest)).has for row in rows]
    counts = []
    for modality in Modality:
        number = sum((each & bits_of([modality])) != 0 for each in has)
        if number:
            counts.append(f"{modality} {number}")
    return f"{len(rows)} rows: {', '.join(counts)}" if counts else "no rows"
