"""Serve `codi vary FILE`: variations of a picture, a sound or a clip, and a sheet of them with their seeds.

A variation starts from the file, noised part of the way, and follows the words that the file's own record
holds or that are given. With `--by prompt` the file is a prompt instead, as in DALL-E 2 (arXiv 2204.06125,
section 3.1): what is made says the same and lies elsewhere.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from codi import provenance
from codi.modalities import kind_of
from codi.types import InputError

SAMPLES = 9
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
"""


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi vary` to the subcommands, without importing anything heavy, and return its parser."""
    parser = commands.add_parser(
        "vary",
        help="variations of a picture, a sound or a clip, on one sheet with their seeds",
        description="Makes variations of a media file, and a sheet of them with their seeds.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("file", metavar="FILE", help="a picture, recording or clip")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"(default {SAMPLES})")
    parser.add_argument(
        "--seed", default="0", metavar="N", help="of the first; 'random' draws it (default 0)"
    )
    parser.add_argument(
        "--by",
        choices=WAYS,
        default="start",
        help="whether it starts from the file, or has it as a prompt (default start)",
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
    from codi import io, records

    io.check_file(args.file)
    kind = io.probe(args.file).value
    if args.by == "prompt" and args.strength is not None:
        raise InputError("--strength beside --by prompt: nothing starts from the file; expected one of them")
    given = [f"--{kind}" if args.by == "prompt" else f"--start-{kind}", args.file, "--to", kind]
    if args.by == "start":
        given += ["--strength", args.strength or str(STRENGTH)]
    words = [] if args.by == "prompt" else records.words_of(args.file)
    for text in args.text or [f"{text}::{weight!r}" for text, weight in words]:
        given += ["--text", text]
    given += ["-o", args.out, "--samples", str(args.samples), "--seed", args.seed]
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
    from PIL import Image, ImageDraw

    folder = Path(folder)
    samples = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["samples"]
    rows = -(-len(samples) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(samples)) * TILE, rows * (TILE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, sample in enumerate(samples):
        left, top = k % COLUMNS * TILE, k // COLUMNS * (TILE + LINE)
        sheet.paste(_tile(folder / sample["files"][0]), (left, top))
        draw.text((left + 2, top + TILE + 2), f"{sample['files'][0]}  seed {sample['seed']}", fill="black")
    path = _free(folder)
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
