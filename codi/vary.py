"""Serve `codi vary FILE`: variations of a picture, a sound or a clip, and a sheet of them with their seeds.

A variation starts from the file, noised part of the way, and follows the words that the file's own record
holds or that are given. With `--by prompt` the file is a prompt instead, as in DALL-E 2 (arXiv 2204.06125,
section 3.1): what is made says the same and lies elsewhere. With `--blend` two files are prompts, and what is
made passes from one to the other (section 3.2).
"""

import argparse
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codi import provenance
from codi.modalities import kind_of
from codi.types import InputError

SAMPLES = 9
MOST_BLENDS = 1000
STRENGTH = 0.7
COLUMNS = 3
TILE = 192  # pixels of a tile's side
LINE = 16  # pixels of the line under it
SECONDS = 60.0  # of a recording or a clip that a tile shows
WAYS = ("start", "prompt")

_EXAMPLES = """examples:
  codi vary photo.png -o variations/                         nine, with sheet.png
  codi vary photo.png --strength 0.9 --text "a blue ball" -o variations/
  codi vary take.wav --by prompt --samples 4 -o variations/
  codi vary ball.png star.png --blend 5 -o between/          five, from the one to the other
"""


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi vary` to the subcommands, without importing anything heavy, and return its parser."""
    parser = commands.add_parser(
        "vary",
        help="variations of a picture, a sound or a clip, on one sheet with their seeds",
        description="Makes variations of a media file, and a sheet of them with their seeds.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a picture, recording or clip; with --blend two of a kind"
    )
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--samples", type=int, metavar="N", help=f"(default {SAMPLES})")
    parser.add_argument(
        "--blend", type=int, metavar="N", help="make so many that pass from the first file to the second"
    )
    parser.add_argument(
        "--seed", default="0", metavar="N", help="of the first; 'random' draws it (default 0)"
    )
    parser.add_argument(
        "--by",
        choices=WAYS,
        help="whether it starts from the file (default), or has it as a prompt",
    )
    parser.add_argument(
        "--strength", metavar="X", help=f"how far they leave the file, 0 to 1 (default {STRENGTH:g})"
    )
    parser.add_argument(
        "--text", action="append", default=[], metavar="WORDS", help="(default: what the file was made from)"
    )
    for option, what in (("--steps", "N"), ("--guidance", "X"), ("--model", "NAME"), ("--device", "NAME")):
        parser.add_argument(option, metavar=what, help="as in `codi generate`")
    provenance.add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def arguments(args: argparse.Namespace) -> list[str]:
    """Return the arguments of `codi generate` that make the variations.

    Args:
        args: the options of `codi vary`.

    Returns:
        The arguments, without the word `generate`.

    Raises:
        InputError: for a file that is no medium, and for a strength where nothing starts from the file.
    """
    from codi import records

    if len(args.files) != 1:
        raise InputError(f"{len(args.files)} files: expected one, or two and --blend")
    [file] = args.files
    kind = _kind(file)
    prompting = args.by == "prompt"
    if prompting and args.strength is not None:
        raise InputError("--strength beside --by prompt: nothing starts from the file; expected one of them")
    given = [f"--{kind}" if prompting else f"--start-{kind}", file, "--to", kind]
    if not prompting:
        given += ["--strength", args.strength or str(STRENGTH)]
    words = [] if prompting else records.words_of(file)
    for text in args.text or [f"{text}::{weight!r}" for text, weight in words]:
        given += ["--text", text]
    samples = SAMPLES if args.samples is None else args.samples
    return [*given, "-o", args.out, "--samples", str(samples), "--seed", args.seed, *_shared(args)]


def blend_arguments(args: argparse.Namespace, jobs: str) -> list[str]:
    """Return the arguments of `codi generate` that make what `blend_lines` says.

    Args:
        args: the options of `codi vary`.
        jobs: the path of the file that holds the lines.

    Returns:
        The arguments, without the word `generate`.
    """
    return ["--jobs", jobs, "-o", args.out, *_shared(args)]


def blend_lines(args: argparse.Namespace) -> list[str]:
    """Return the lines of jobs that pass from one file to another, all from one seed.

    Both are prompts, whose weights go from 1 and 0 to 0 and 1. A model that brings prompts back to length one
    passes the arc between their tokens, as a spherical interpolation does (arXiv 2204.06125, section 3.2).

    Args:
        args: the options of `codi vary`.

    Returns:
        One line for each step.

    Raises:
        InputError: for other than two files of one kind, and for options that do not go with a blend.
    """
    if len(args.files) != 2:
        raise InputError(f"--blend and {len(args.files)} files: expected two of a kind")
    if not 2 <= args.blend <= MOST_BLENDS:
        raise InputError(f"--blend is {args.blend}: expected a whole number from 2 to {MOST_BLENDS}")
    for name in ("by", "strength", "samples"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} beside --blend: both files are prompts; expected --blend alone")
    kinds = list(map(_kind, args.files))
    if kinds[0] != kinds[1]:
        raise InputError(f"{args.files[0]} is {kinds[0]} and {args.files[1]} is {kinds[1]}: expected a kind")
    places = [str(Path(file).resolve()) for file in args.files]
    seed = _seed(args.seed)
    lines = []
    for k in range(args.blend):
        part = k / (args.blend - 1)
        prompts = [{"value": path, "weight": w} for path, w in zip(places, (1 - part, part)) if w > 0]
        row = {"id": f"blend-{k:03d}", kinds[0]: prompts, "to": kinds[0], "seed": seed}
        lines.append(json.dumps(row | ({"text": args.text} if args.text else {})))
    return lines


def _seed(text: str) -> int:
    """Return the seed of a blend as it was typed, or one that is drawn where it is `random`."""
    if text.strip().lower() == "random":
        return secrets.randbits(31)
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--seed is {text!r:.60}: expected a whole number, or random") from None


def _kind(file: str) -> str:
    """Return the kind of a medium in a file. Raises `InputError` for a file that is none."""
    from codi import io

    io.check_file(file)
    return io.probe(file).value


def _shared(args: argparse.Namespace) -> list[str]:
    """Return the arguments of `codi generate` that variations and blends have alike."""
    given: list[str] = []
    for name in ("steps", "guidance", "model", "device"):
        if getattr(args, name) is not None:
            given += [f"--{name}", getattr(args, name)]
    return [*given, *provenance.arguments(args), *(["--quiet"] if args.quiet else [])]


def write_sheet(folder: str | Path) -> Path:
    """Draw what the newest manifest of a folder lists on one sheet, and return its path.

    Args:
        folder: the folder that `codi generate` has just written.

    Returns:
        sheet.png, or sheet-001.png and so on where there are sheets already.
    """
    folder = Path(folder)
    samples = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["samples"]
    files = [folder / sample["files"][0] for sample in samples]
    labels = [f"{sample['files'][0]}  seed {sample['seed']}" for sample in samples]
    return draw_sheet(folder, files, labels, COLUMNS)


def draw_sheet(folder: str | Path, files: Sequence[Path], labels: Sequence[str], columns: int) -> Path:
    """Draw files on one sheet, and return its path.

    Args:
        folder: where the sheet goes.
        files: pictures, sounds and clips.
        labels: the line under each.
        columns: how many stand in a row.

    Returns:
        sheet.png, or sheet-001.png and so on where there are sheets already.
    """
    from PIL import Image, ImageDraw

    rows = -(-len(files) // columns)
    sheet = Image.new("RGB", (min(columns, len(files)) * TILE, rows * (TILE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (file, label) in enumerate(zip(files, labels, strict=True)):
        left, top = k % columns * TILE, k // columns * (TILE + LINE)
        sheet.paste(_tile(file), (left, top))
        draw.text((left + 2, top + TILE + 2), label, fill="black")
    path = _free(Path(folder))
    sheet.save(path)
    return path


def _tile(path: Path) -> Any:
    """Return a medium as a picture of `TILE` pixels: a picture, a clip as its frames, a sound as it looks."""
    from PIL import Image

    from codi import io
    from codi.io.sheet import contact_sheet

    kind = kind_of(io.probe(path))
    if kind.rate_field is None:
        return _fitted(Image.fromarray(io.load_image(path).permute(1, 2, 0).contiguous().numpy()))
    if kind.spatial:
        return _fitted(contact_sheet(io.load_video(path, SECONDS, sound=False).frames, None))
    return _fitted(contact_sheet(None, io.load_audio(path, SECONDS)[0]))


def _fitted(picture: Any) -> Any:
    """Return a picture that fits a tile, on white."""
    from PIL import Image

    scale = TILE / max(picture.size)
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return tile


def _free(folder: Path) -> Path:
    """Return the path of a sheet that is not there yet."""
    number = 0
    path = folder / "sheet.png"
    while path.exists():
        number += 1
        path = folder / f"sheet-{number:03d}.png"
    return path
