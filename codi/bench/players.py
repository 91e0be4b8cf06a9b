"""Write the samples that a benchmark keeps as files, and a page on which they are looked at and played."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from codi import io
from codi.bench.models import FPS, SAMPLING_RATE
from codi.bench.runs import Media, Run, prompts_of
from codi.io import check_folder
from codi.types import Modality
from codi.world import Scene

FOLDER, PAGE = "samples", "samples.html"


def write(folder: Path, samples: list[tuple[Run, Scene, Media, int]]) -> str:
    """Write what runs were given and what they made, and the page.

    Args:
        folder: the folder of the report.
        samples: for each sample the run, the scene, the media of the run, and the position of the sample
            among them.

    Returns:
        The name of the page.
    """
    from codi.sheets import page
    from codi.sheets.sheet import Sheet

    place = check_folder(folder / FOLDER)
    rows, cells = [], []
    for run, scene, media, index in samples:
        name = f"{run.name.replace('->', '-to-')}-{index}"
        given = {m: batch[0] for m, batch in prompts_of(run, [scene])}
        made = {m: media[m][index] for m in run.outputs}
        rows.append(f"{run.name}, sample {index + 1}")
        cells.append([_files(place / f"{name}-given", given), _files(place / f"{name}-made", made)])
    columns = ("given", "generated")
    sheet = Sheet(title="Samples", corner=("cell", "media"), columns=columns, rows=rows, cells=cells)
    io.save_text(folder / PAGE, page.page("Samples of the benchmark", [page.sheet_table(sheet, folder)]))
    return PAGE


def _files(stem: Path, media: Mapping[Modality, Any]) -> list[Path]:
    """Write media of one sample under a name, and return the paths; a clip gets the sound beside it."""
    found = []
    for modality, save in _SAVE.items():
        if modality in media:
            found.append(save(stem, media))
    return found


def _image(stem: Path, media: Mapping[Modality, Any]) -> Path:
    return io.save_image(stem.with_name(f"{stem.name}.png"), torch.as_tensor(media[Modality.IMAGE]))


def _clip(stem: Path, media: Mapping[Modality, Any]) -> Path:
    path, frames = stem.with_name(f"{stem.name}.mp4"), torch.as_tensor(media[Modality.VIDEO])
    sound = media.get(Modality.AUDIO)
    if sound is None:
        return io.save_video(path, frames, FPS)
    return io.save_video(path, frames, FPS, torch.as_tensor(sound), SAMPLING_RATE)


def _sound(stem: Path, media: Mapping[Modality, Any]) -> Path:
    sound = torch.as_tensor(media[Modality.AUDIO])
    return io.save_audio(stem.with_name(f"{stem.name}.wav"), sound, SAMPLING_RATE)


def _text(stem: Path, media: Mapping[Modality, Any]) -> Path:
    return io.save_text(stem.with_name(f"{stem.name}.txt"), f"{media[Modality.TEXT]}\n")


_SAVE: dict[Modality, Callable[[Path, Mapping[Modality, Any]], Path]] = {
    Modality.IMAGE: _image,
    Modality.VIDEO: _clip,
    Modality.AUDIO: _sound,
    Modality.TEXT: _text,
}
