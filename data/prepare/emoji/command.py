"""Unpacked packages of emoji, instruments and voices -> manifests of pictures, clips, sounds and speech.

    python -m data.prepare emoji PACKAGES -o OUT

docs/emoji.md says which packages, and how to get them. The same command again goes on where it was
interrupted.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.types import InputError

if TYPE_CHECKING:
    from data.prepare.emoji.items import Item, Made

PARTS = ("pictures", "clips", "sounds", "speech", "moving")
ANIMATIONS = tuple(f"@lobehub/fluent-emoji-anim-{number}" for number in (1, 2, 3, 4))
SETTINGS, LICENCES, LEFT_OUT = "settings.json", "LICENCES.md", "left_out.{part}.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command, without loading anything heavy."""
    parser.add_argument("packages", type=Path, help="the folder below which the packages are unpacked")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="FOLDER", help="the set to make")
    parser.add_argument(
        "--parts", default=",".join(PARTS), metavar="NAMES", help=f"some of {', '.join(PARTS)} (all)"
    )
    parser.add_argument("--size", type=int, default=64, help="side of pictures and clips in pixels (64)")
    parser.add_argument("--rate", type=int, default=16000, help="sampling rate of sounds in Hz (16000)")
    parser.add_argument("--fps", type=int, default=16, help="frames per second of clips (16)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of sounds (2)")
    parser.add_argument(
        "--languages",
        default="de,es,fr,it",
        metavar="CODES",
        help="of names spoken beside English (de,es,fr,it)",
    )
    parser.add_argument(
        "--voices", default="espeak-ng,flite", metavar="PROGRAMS", help="what speaks (espeak-ng,flite)"
    )


def run(options: argparse.Namespace) -> str:
    """Make the set and return a line for each manifest."""
    counts = prepare(options)
    return "\n".join(
        f"{options.out / f'{side}.{part}.jsonl'}: {count} rows" for (side, part), count in counts.items()
    )


def prepare(options: argparse.Namespace) -> dict[tuple[str, str], int]:
    """Make every file that is missing, write the manifests, and return how many rows each has.

    Args:
        options: what `add_arguments` adds.

    Returns:
        By (side, part), the number of rows.

    Raises:
        InputError: for what the options name that cannot be used, before anything is made.
    """
    _check(options)
    parts = _listed(options.parts, PARTS, "--parts")
    work = Preparation(options, parts)
    _begin(options)
    made: dict[str, list[Made]] = {}
    for part in parts:
        made[part] = getattr(work, part)()
    return _write(options.out, made, work)


class Preparation:
    """What all parts share: packages, names, styles and programs, each looked for once.

    Args:
        options: what `add_arguments` adds.
        parts: the parts that are asked for; all that they need is looked for here, so that a package that is
            missing is named before anything is made.
    """

    def __init__(self, options: argparse.Namespace, parts: Iterable[str]) -> None:
        from data.prepare.emoji.drawings import CLIP_ART, STYLES, Drawings
        from data.prepare.emoji.names import read_names
        from data.prepare.emoji.packages import Packages
        from data.prepare.emoji.speech import LANGUAGES

        self.options = options
        self.left_out: dict[str, dict[str, str]] = {}
        self._pictures: list[Made] | None = None
        packages = Packages(options.packages)
        wanted = set(parts)
        self.languages: list[str] = []
        if "speech" in wanted and options.languages:
            self.languages = _listed(options.languages, tuple(LANGUAGES), "--languages")
        self.names_package = packages.find("emojibase-data")
        self.names = read_names(self.names_package, self.languages)
        self.drawings: list[Drawings] = []
        if wanted & {"pictures", "speech", "moving"}:
            self.drawings = [Drawings(style, packages) for style in STYLES]
            self.clip_art = packages.find(CLIP_ART)
        if "clips" in wanted:
            self.animations = [packages.find(name) for name in ANIMATIONS]
        if wanted & {"sounds", "moving"}:
            self.font = packages.find("fluid-soundfont-gm")
            _ = self.player
        if "sounds" in wanted:
            self.samples = packages.find("supersonic-scsynth-samples")
        if "speech" in wanted:
            self.speakers = self._speakers()

    @cached_property
    def player(self) -> Any:
        """Return what plays notes."""
        from data.prepare.emoji.synthesiser import Synthesiser

        path = self.font.folder / "usr" / "share" / "sounds" / "sf2" / "FluidR3_GM.sf2"
        return Synthesiser(path, self.options.rate)

    def pictures(self) -> "list[Made]":
        """Return the pictures: every style, then clip art. Speech and moving pictures need them, too."""
        from data.prepare.emoji import alike
        from data.prepare.emoji.drawings import clip_art_items, picture_items

        if self._pictures is None:
            size = self.options.size
            items = [*picture_items(self.names, self.drawings, size), *clip_art_items(self.clip_art, size)]
            made = self._make(items, "pictures")
            self._pictures = self._apart(made, "pictures", alike.picture_vector, alike.NEAR_PICTURES)
        return self._pictures

    def clips(self) -> "list[Made]":
        """Return the animations."""
        from data.prepare.emoji import alike
        from data.prepare.emoji.animations import clip_items

        items = list(clip_items(self.names, self.animations, self.options.size, self.options.fps))
        return self._apart(self._make(items, "clips"), "clips", alike.clip_vector, alike.NEAR_PICTURES)

    def sounds(self) -> "list[Made]":
        """Return the sounds: instruments, percussion, samples."""
        from data.prepare.emoji import alike, sounds

        rate, seconds = self.options.rate, self.options.seconds
        items = [
            *sounds.instrument_items(self.player, self.font, rate, seconds),
            *sounds.percussion_items(self.player, self.font, rate, seconds),
            *sounds.sample_items(self.samples, rate, seconds),
        ]
        return self._apart(self._make(items, "sounds"), "sounds", alike.sound_vector, alike.NEAR_SOUNDS)

    def speech(self) -> "list[Made]":
        """Return the spoken names, some of them beside a picture."""
        from data.prepare.emoji.speech import speech_items

        shown: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for one in self.pictures():
            facts = one.item.facts
            if "key" in facts:
                place = (facts["key"], facts["family"])
                shown.setdefault(place, (one.item.file, one.item.side, facts["style"], one.item.sources[0]))
        options = self.options
        items = speech_items(self.names, self.speakers, self.languages, options.rate, options.seconds, shown)
        return self._make(list(items), "speech")

    def moving(self) -> "list[Made]":
        """Return the pictures that move with sounds."""
        from data.prepare.emoji.moving import moving_items

        options = self.options
        kept = {one.item.id: one.item.file for one in self.pictures()}
        geometry = (options.size, options.fps, options.rate, options.seconds)
        items = moving_items(self.names, self.drawings, self.player, self.font, geometry, kept)
        return self._make(list(items), "moving")

    def _make(self, items: "list[Item]", part: str) -> "list[Made]":
        from data.prepare.emoji.items import make_all

        left = self.left_out[part] = {}
        return make_all(items, self.options.out, part, left.__setitem__)

    def _apart(self, made: "list[Made]", part: str, describe: Any, near: float) -> "list[Made]":
        from data.prepare.emoji.alike import drop_alike

        return drop_alike(made, self.options.out, describe, near, self.left_out[part].__setitem__)

    def _speakers(self) -> dict[str, Any]:
        """Return the programs that speak, by their names."""
        from data.prepare.emoji.speech import Espeak, Flite

        found: dict[str, Any] = {}
        for program in _listed(self.options.voices, ("espeak-ng", "flite"), "--voices"):
            found[program] = Flite(self.options.packages) if program == "flite" else Espeak()
        return found


def _check(options: argparse.Namespace) -> None:
    """Raise InputError for sizes and rates that are none."""
    for name, least, most in (("size", 16, 512), ("rate", 8000, 48000), ("fps", 4, 60), ("seconds", 0.5, 30)):
        value = getattr(options, name)
        if not least <= value <= most:
            raise InputError(f"--{name} is {value}: expected a number from {least} to {most}")
    if options.size % 2:
        raise InputError(f"--size is {options.size}: expected an even number, which clips need")


def _listed(text: str, known: tuple[str, ...], option: str) -> list[str]:
    """Return the names of a list, in the order in which they are known."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in asked if name not in known]
    if wrong or not asked:
        raise InputError(f"{option} {text!r}: expected some of {', '.join(known)}")
    return [name for name in known if name in asked]


def _begin(options: argparse.Namespace) -> None:
    """Write down how the set is made, or check that what is there was made in the same way."""
    from codi.io import check_folder, save_json
    from data.prepare.emoji.packages import read_json

    asked = {
        name: getattr(options, name) for name in ("size", "rate", "fps", "seconds", "languages", "voices")
    }
    path = check_folder(options.out) / SETTINGS
    if path.is_file():
        found = read_json(path)
        for name, value in asked.items():
            if found.get(name) != value:
                raise InputError(
                    f"{options.out} was begun with --{name} {found.get(name)}, not {value}: name another "
                    "folder"
                )
    else:
        save_json(path, asked)


def _write(out: Path, made: "Mapping[str, list[Made]]", work: Preparation) -> dict[tuple[str, str], int]:
    """Write the manifests of each part and what was left out of it, then those of all that is there."""
    from codi.io import save_text
    from data.manifest import write_manifest
    from data.prepare.emoji.split import SIDES

    counts = {}
    for part, samples in made.items():
        for side in SIDES:
            rows = [one.row for one in samples if one.item.side.side == side]
            counts[side, part] = write_manifest(out / f"{side}.{part}.jsonl", rows)
        left = work.left_out.get(part, {})
        lines = [json.dumps({"id": identity, "why": why}) + "\n" for identity, why in left.items()]
        save_text(out / LEFT_OUT.format(part=part), "".join(lines))
    rows_of = {side: list(_rows(out, side)) for side in SIDES}
    _check_sides(rows_of)
    for side, rows in rows_of.items():
        write_manifest(out / f"{side}.jsonl", rows)
    save_text(out / LICENCES, _licences([row for rows in rows_of.values() for row in rows], work))
    return counts


def _rows(out: Path, side: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of all parts of one side that this run or one before it wrote."""
    for part in PARTS:
        path = out / f"{side}.{part}.jsonl"
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)


def _check_sides(rows_of: Mapping[str, list[dict[str, Any]]]) -> None:
    """Assert that no file is on two sides: what is tested was not trained on."""
    sides: dict[str, str] = {}
    for side, rows in rows_of.items():
        for row in rows:
            for digest in row["sha256"].values():
                assert sides.setdefault(digest, side) == side, f"{row['id']} is on two sides of the split"


def _licences(rows: list[dict[str, Any]], work: Preparation) -> str:
    """Return the page that goes wherever the set goes: Twemoji's licence asks for it."""
    counts = Counter(tuple(source.values()) for row in rows for source in row["info"]["sources"])
    counts[tuple(work.names_package.fact().values())] = len(rows)
    lines = ["# Sources and licences", "", "| package | version | licence | samples |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(source)} | {count} |" for source, count in sorted(counts.items())]
    lines += [
        "",
        "Twemoji: copyright Twitter, Inc and other contributors, graphics under CC-BY-4.0. Changed: ",
    ]
    lines[-1] += "rendered small, on white, some of them set in motion."
    return "\n".join(lines) + "\n"
