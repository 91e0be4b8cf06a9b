"""Serve `codi upscale FILE...`: pictures and clips larger, by the super-resolution stage of a model.

The sound of a clip is copied as it is.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from codi.border import parse_upscale
from codi.modalities import kind_of
from codi.types import DTYPES, InputError, Modality
from codi.version import __version__

FRAMES = 16  # of a clip that are made larger at once

_EXAMPLES = """examples:
  codi upscale out/000.png -o large/
  codi upscale clip.mp4 --factor 4:noise_aug_strength=0.1 -o large/
"""


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `codi upscale` to the subcommands, without importing anything heavy, and return its parser."""
    parser = commands.add_parser(
        "upscale",
        help="pictures and clips larger, by a second model",
        description="Makes pictures and clips larger; the sound of a clip stays as it is.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture or a clip")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument(
        "--factor", default="4", metavar="X", help="as --upscale of `codi generate` (default 4)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the details (default 0)")
    parser.add_argument("--model", metavar="NAME", help="as in `codi generate`")
    parser.add_argument("--device", default="auto", metavar="NAME", help="as in `codi generate`")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="as in `codi generate`")
    return parser


def run(args: argparse.Namespace, show: Callable[[Path], None]) -> int:
    """Check what was asked, load the part that makes pictures larger, and write each file larger.

    Args:
        args: the options of `codi upscale`.
        show: is told of every file that was written.

    Returns:
        The exit code.

    Raises:
        InputError: for files that are no pictures or clips, for files of one name, for a file that is there
            already, and for a model that cannot make them larger.
    """
    from codi import io

    asked = parse_upscale(args.factor, "--factor")
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}: expected a whole number from 0")
    found = {path: _checked(path) for path in args.files}
    places = _places(found, io.check_folder(args.out))
    import torch

    from codi.pretrained import pick_device
    from codi.upscaling import Upscale

    upscale = Upscale.parse(asked)
    assert upscale is not None
    with contextlib.redirect_stdout(sys.stderr):
        part = _part(args.model, getattr(torch, args.dtype), next(iter(found.values())))
        for modality in dict.fromkeys(found.values()):
            upscale.check_part(modality, part)
        part = part.to(pick_device(args.device))
    for path, place in places.items():
        comment = f"made {upscale.factor} times larger by codi {__version__}, seed {args.seed}"
        larger = _Larger(upscale, part, found[path], args.seed)
        show(larger.write(path, place, comment))
    return 0


def _checked(path: str) -> Modality:
    """Return whether a file is a picture or a clip. Raises `InputError` for any other."""
    from codi import io

    io.check_file(path)
    modality = io.probe(path)
    if not kind_of(modality).spatial:
        raise InputError(f"{path} is a file of {modality}: expected a picture or a clip")
    return modality


def _places(found: dict[str, Modality], folder: Path) -> dict[str, Path]:
    """Return the file that each file becomes, in a folder. Raises `InputError` for a name that is taken."""
    places: dict[str, Path] = {}
    for path, modality in found.items():
        place = kind_of(modality).path(folder / Path(path).stem)
        if place.exists() or place in places.values():
            raise InputError(f"{place} is there already, or was named twice: expected another folder")
        places[path] = place
    return places


def _part(model: str | None, dtype: Any, modality: Modality) -> Any:
    """Return the part of a model that makes a modality larger; None for a model without one."""
    from codi import pretrained

    folder = pretrained.resolve(model)
    name = kind_of(modality).upscaler
    index = {part: kind for part, kind in pretrained.read_index(folder).items() if part == name}
    pretrained.check_files(folder, index)
    return pretrained.load_parts(folder, index, dtype).get(name)


class _Larger:
    """Makes files of one modality larger, all details from one seed."""

    def __init__(self, upscale: Any, part: Any, modality: Modality, seed: int) -> None:
        self.upscale, self.part, self.modality, self.seed = upscale, part, modality, seed

    def write(self, path: str, place: Path, comment: str) -> Path:
        """Write a file larger, and return its path."""
        from codi import io

        if kind_of(self.modality).rate_field is None:
            return io.save_image(place, self._made(io.load_image(path)), comment)
        clip = io.load_video(path, sound=False)
        return io.save_reframed(place, self._pieces(clip.frames), clip.fps, path, comment)

    def _pieces(self, frames: Any) -> Iterator[Any]:
        """Yield the frames larger; all have the same noise, so pieces are what the whole would be."""
        for piece in frames.split(FRAMES):
            yield self._made(piece)

    def _made(self, pixels: Any) -> Any:
        """Return pixels uint8 (..., 3, H, W) larger, uint8."""
        from codi import io

        height, width = pixels.shape[-2:]
        factor = self.upscale.factor
        io.check_pixels(width * factor, height * factor, "what is to be made")
        raw = io.to_unit(pixels).to(self.part.device)
        return io.from_unit(self.upscale.one(self.modality, raw, self.seed, self.part)).cpu()
