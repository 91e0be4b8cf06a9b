"""Serve `codi inspect`, which says what a media file is, and writes out what a model will receive of it.

frames/000.png ...   the picture, or the frames of a clip, in the model's size and at its rate
sound.wav            the sound, at the model's rate and length
sheet.png            all of it on one sheet, the sound as waveform and spectrogram
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from codi.types import InputError, Modality, ModalitySpec

_EXAMPLES = """examples:
  codi inspect clip.mp4                            what it is: streams, times, what is done to it
  codi inspect clip.mp4 --as video -o seen/        the frames that a model is given
  codi inspect clip.mp4 --as audio -o heard/ --json
"""


def add_command(commands: Any) -> None:
    """Add `codi inspect` to the subcommands, without importing anything heavy."""
    parser = commands.add_parser(
        "inspect",
        help="what a media file is, and what a model will receive of it",
        description="Says what a media file is, and writes out what a model will receive of it.",
    )
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("file", metavar="FILE", help="a picture, recording or clip")
    parser.add_argument("--as", dest="modality", metavar="KIND", help="image, audio or video: as that prompt")
    parser.add_argument("-o", "--out", metavar="FOLDER", help="where to write what a model receives")
    parser.add_argument(
        "--model", metavar="MODEL", help="folder or hub id (default: the model inside the package)"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run `codi inspect`, print the facts, and return the exit code."""
    known = inspect(args.file, args.modality, args.out, args.model)
    print(json.dumps(known, indent=2) if args.json else "\n".join(in_words(known)))
    return 0


def inspect(
    path: str | Path,
    modality: str | Modality | None = None,
    folder: str | Path | None = None,
    model: str | Path | None = None,
) -> dict[str, Any]:
    """Say what a media file is, and write out what a model will receive of it as a prompt.

    Args:
        path: the file.
        modality: as which prompt it is read; None only says what the file is.
        folder: where what a model receives is written; files of the same names there are replaced, but
            never the file itself.
        model: a folder or hub id; None for the model inside the package.

    Returns:
        The facts of `codi.io.facts`; with a modality also `received`: `shape`, `rate`, and in `notes` what
        was left out; with a folder `written`, the paths.

    Raises:
        InputError: if the file cannot be read as that prompt, the model says nothing of such prompts, a
            folder is named without a modality, or the file would be replaced by what is written.
    """
    from codi import io
    from codi.modalities import kind_of

    if modality is None and folder is not None:
        raise InputError(f"nothing to write into {folder}: say with --as how the file is to be read")
    known = io.facts(path)
    if modality is None:
        return known
    wanted = Modality.parse(modality)
    kind = kind_of(wanted)
    if kind.in_words:
        raise InputError(f"{path} as {wanted}: expected --as image, audio or video")
    specs = _geometries(model)
    if wanted not in specs:
        raise InputError(
            f"{model or 'the model'} says nothing of {wanted}: choose another model, or another kind"
        )
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        value = kind.prepare(str(path), specs[wanted])
    known["received"] = {
        "as": str(wanted),
        "shape": list(value.shape),
        "rate": specs[wanted].rate,
        "notes": [str(note.message) for note in notes],
    }
    if folder is not None:
        _keep(Path(path), Path(folder), value)
        carried = _carried(path, wanted, specs, known)
        known["written"] = [str(path) for path in _write(Path(folder), value, specs[wanted], carried)]
    return known


def _geometries(model: str | Path | None) -> dict[Modality, ModalitySpec]:
    """Return the geometry of every modality that the configurations of a model state."""
    from codi import pretrained
    from codi.modalities import geometries_in

    folder = pretrained.resolve(model)
    configs = {}
    for name in pretrained.read_index(folder):
        config = folder / name / "config.json"
        if config.is_file():
            configs[name] = json.loads(config.read_text(encoding="utf-8"))
    return geometries_in(configs)


def _carried(
    path: str | Path, wanted: Modality, specs: dict[Modality, ModalitySpec], known: dict[str, Any]
) -> tuple[Any, Any] | None:
    """Return the sound that a file has beside the medium that is wanted, and its geometry; None without."""
    from codi.modalities import kind_of

    for name in kind_of(wanted).carries:
        modality = Modality.parse(name)
        if modality in specs and name in known:
            try:
                return kind_of(modality).prepare(str(path), specs[modality]), specs[modality]
            except InputError as error:  # a clip whose sound says nothing is shown without it
                known["notes"].append(str(error))
    return None


def _keep(path: Path, folder: Path, value: Any) -> None:
    """Raise `InputError` if a file has the place of what is to be written of it."""
    names = [f"frames/{k:03d}.png" for k in range(len(value) if value.ndim == 4 else 1)]
    for name in (*names, "sound.wav", "sheet.png"):
        if (folder / name).exists() and (folder / name).samefile(path):
            raise InputError(f"{path} would be overwritten by what is made ({name}): name another folder")


def _write(folder: Path, value: Any, spec: ModalitySpec, carried: tuple[Any, Any] | None) -> list[Path]:
    """Write what a model receives and return the paths: a sound of one axis, a picture of three, a clip."""
    from codi import io
    from codi.io.sheet import contact_sheet

    folder = io.check_folder(folder)
    written: list[Path] = []
    frames = None
    if value.ndim > 1:
        frames = io.from_unit(value if value.ndim == 4 else value[None])
        place = io.check_folder(folder / "frames")
        written += [io.save_image(place / f"{k:03d}.png", frame) for k, frame in enumerate(frames)]
    sound = (value, spec) if value.ndim == 1 else carried
    if sound is not None:
        written.append(io.save_audio(folder / "sound.wav", sound[0], round(sound[1].timed[0])))
    sheet = contact_sheet(frames, None if sound is None else sound[0])
    with io.atomic(folder / "sheet.png") as temporary:
        sheet.save(temporary, "PNG")
    return [*written, folder / "sheet.png"]


def in_words(known: dict[str, Any]) -> list[str]:
    """Return facts as lines for people."""
    lines = [f"{known['file']}: {known['kind']}, {known.get('format', 'text')}, {known['bytes']} bytes"]
    for part in ("image", "video", "audio", "received"):
        if part in known:
            said = [f"{key} {_value(value)}" for key, value in known[part].items() if key != "notes"]
            lines.append(f"  {part}: {', '.join(said)}")
    lines += [f"  {note}" for note in known["notes"]]
    lines += [f"  {note}" for note in known.get("received", {}).get("notes", ())]
    return lines + [f"  -> {path}" for path in known.get("written", ())]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)
