"""Draw the charts of a report and a contact sheet of its samples, without a display.

Letters: B batch, F frames, H W height and width in pixels, S samples of a sound, T columns of a spectrogram.
"""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from codi.bench.runs import Media, Run, read, render
from codi.io import atomic
from codi.types import Modality
from codi.world import Scene

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

_SPAN = 2.0  # seconds across the sheet
_RATE = 16000  # of the world's sounds, Hz
_FPS = 8.0  # of the world's clips
_WINDOW = 512  # of the spectrograms, samples
_HOP = 128  # of the spectrograms, samples
# Colours of events, by the medium they were read from.
_MARKS = {Modality.VIDEO: "red", Modality.AUDIO: "white"}
_HEIGHT = {Modality.TEXT: 0.3, Modality.IMAGE: 1.1, Modality.AUDIO: 0.7, Modality.VIDEO: 0.44}  # inches
_OTHER_HEIGHT = 0.3  # inches, of a modality that codi does not bring
_TITLE = 0.3  # inches


def save(figure: Figure, path: Path) -> str:
    """Write a figure as png, close it, and return its file name."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path.name


def cell_map(cells: list[dict[str, Any]], path: Path) -> str:
    """Draw a heat map of agreement, with inputs downwards and outputs across.

    Cells that training never showed carry a dot; cells that were not run stay white.

    Args:
        cells: the cells of the report.
        path: where the picture goes.

    Returns:
        The name of the file.
    """
    rows = _subsets(cells, "inputs")
    columns = _subsets(cells, "outputs")
    grid = np.full((len(rows), len(columns)), np.nan)
    figure, axes = plt.subplots(figsize=(2.5 + 0.55 * len(columns), 2 + 0.36 * len(rows)))
    for cell in cells:
        i = rows.index(tuple(cell["inputs"]))
        j = columns.index(tuple(cell["outputs"]))
        grid[i, j] = cell["value"]
        label = f"{100 * cell['value']:.0f}" + ("" if cell["seen"] else "·")
        colour = "white" if cell["value"] < 0.6 else "black"
        axes.text(j, i, label, ha="center", va="center", fontsize=7, color=colour)
    picture = axes.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), ["+".join(n) for n in columns], rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), ["+".join(n) for n in rows], fontsize=7)
    axes.set(xlabel="generated", ylabel="given", title="Attribute agreement, % (· never seen in training)")
    figure.colorbar(picture, ax=axes, fraction=0.04)
    return save(figure, path)


def _subsets(cells: list[dict[str, Any]], side: str) -> list[tuple[str, ...]]:
    """Return the subsets that occur on one side of the cells, small ones first."""
    order = [m.value for m in Modality]

    def place(names: tuple[str, ...]) -> tuple[int, list[int]]:
        return len(names), [order.index(name) for name in names]

    return sorted({tuple(cell[side]) for cell in cells}, key=place)


def onset_curves(lines: dict[str, Any], tolerances: tuple[float, ...], path: Path) -> str:
    """Draw F1 over tolerance for every line of the onset table.

    Args:
        lines: the lines by name.
        tolerances: the tolerances of the curves in seconds.
        path: where the picture goes.

    Returns:
        The name of the file.
    """
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for k, (name, line) in enumerate(lines.items()):
        axes.plot(
            np.array(tolerances) * 1000,
            line["curve"],
            label=name,
            linewidth=2.5 if name == "joint" else 1.2,
            color=f"C{k % 10}",
            linestyle="-" if k < 10 else "--",
        )
    axes.set(xlabel="tolerance, ms", ylabel="onset F1, video against sound", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return save(figure, path)


def offset_histogram(lines: dict[str, Any], path: Path) -> str:
    """Draw a histogram of the offsets of matched events, sound minus picture.

    Args:
        lines: the lines of the onset table by name.
        path: where the picture goes.

    Returns:
        The name of the file.
    """
    figure, axes = plt.subplots(figsize=(6.5, 3.5))
    bins = np.linspace(-250, 250, 51)
    for name in ("joint", "independent", "ground truth through autoencoders"):
        offsets = np.array(lines[name]["offsets"]) * 1000
        weights = np.full(len(offsets), 1 / lines[name]["samples"])
        axes.hist(offsets, bins=bins, weights=weights, histtype="step", linewidth=1.6, label=name)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="sound minus picture, ms", ylabel="matched events per sample")
    axes.legend(fontsize=8)
    return save(figure, path)


def strips(media: Media, captions: list[str], path: Path) -> str:
    """Draw the frames of each sample directly above its spectrogram.

    The events that were read from either medium are marked on both.

    Args:
        media: clips (B, F, 3, H, W) and sounds (B, S) of the same samples.
        captions: the caption of each sample.
        path: where the picture goes.

    Returns:
        The name of the file.
    """
    count = len(media[Modality.VIDEO])
    heights = [1.0, 1.6, 0.7] * count  # inches: frames, spectrogram, a gap
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(15, sum(heights)), gridspec_kw={"height_ratios": heights, "hspace": 0.02}
    )
    for k in range(count):
        sample = {m: media[m][k] for m in (Modality.VIDEO, Modality.AUDIO)}
        panels = dict(zip(sample, axes[3 * k : 3 * k + 2]))
        for m, ax in panels.items():
            _PANELS[m](ax, sample[m])
        _mark(panels, sample)
        panels[Modality.VIDEO].set(xticks=[], yticks=[])
        panels[Modality.VIDEO].set_title(captions[k], fontsize=9, loc="left")
        panels[Modality.AUDIO].set(xlabel="s", ylabel="kHz")
        axes[3 * k + 2].axis("off")
    return save(figure, path)


def contact_sheet(samples: list[tuple[Run, Scene, Media, int]], path: Path) -> str:
    """Draw one row for each sample, with its inputs on the left and its outputs on the right.

    Args:
        samples: for each sample the run, the scene, the media of the run, and the position of the sample
            among them.
        path: where the picture goes.

    Returns:
        The name of the file.
    """
    heights = []
    for run, *_ in samples:
        heights.append(max(_stack_height(run.inputs), _stack_height(run.outputs)) + _TITLE)
    figure = plt.figure(figsize=(13, sum(heights)))
    rows = figure.subfigures(len(samples), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, height, (run, scene, media, index) in zip(rows, heights, samples):
        row.suptitle(
            run.name, fontsize=9, fontweight="bold", x=0.012, ha="left", va="top", y=1 - 0.05 / height
        )
        left, right = row.subfigures(1, 2, wspace=0.02)
        _stack(left, {m: render(m, [scene])[0] for m in run.inputs}, height)
        _stack(right, {m: media[m][index] for m in run.outputs}, height)
    return save(figure, path)


def _stack_height(modalities: Iterable[Modality]) -> float:
    """Return the inches that the media of one side take."""
    return sum(_HEIGHT.get(m, _OTHER_HEIGHT) for m in modalities)


def _stack(figure: Figure, media: dict[Modality, Any], height: float) -> None:
    """Draw the media of one side from the top downwards, each with the events of both timed media.

    The clip stands directly above the sound, so that both share one axis of time.
    """
    order = [m for m in (Modality.TEXT, Modality.IMAGE, Modality.VIDEO, Modality.AUDIO) if m in media]
    order += [m for m in media if m not in order]
    panels = {}
    top = height - _TITLE
    for m in order:
        own = _HEIGHT.get(m, _OTHER_HEIGHT)
        top -= own
        place = (0.02, (top + 0.03) / height, 0.96, (own - 0.05) / height)
        ax = figure.add_axes(place, xticks=[], yticks=[])
        _PANELS.get(m, _text)(ax, media[m])
        panels[m] = ax
    _mark(panels, media)


def _mark(panels: dict[Modality, Axes], media: dict[Modality, Any]) -> None:
    """Draw the events read from each medium into every panel with a time axis.

    Lines are full in the panel of the medium they were read from, and dotted in the other.
    """
    timed = [m for m in panels if m in _MARKS]
    for source in timed:
        events = read(source, _batch(media[source]))[0].events
        for m in timed:
            low, high = panels[m].get_ylim()
            style = "-" if source is m else ":"
            panels[m].vlines(events, low, high, color=_MARKS[source], linewidth=1.3, linestyle=style)


def _batch(item: Any) -> Any:
    """Return an item as a batch of one, for a probe."""
    import torch

    return torch.as_tensor(np.asarray(item))[None]


def _text(ax: Axes, text: Any) -> None:
    """Draw a sentence, wrapped, into a panel."""
    ax.axis("off")
    wrapped = textwrap.fill(str(text), 80)
    ax.text(0.0, 0.5, wrapped, fontsize=9, va="center", family="serif", transform=ax.transAxes)


def _image(ax: Axes, image: Any) -> None:
    """Draw an image (3, H, W) into a panel."""
    ax.imshow(np.asarray(image).transpose(1, 2, 0), interpolation="nearest")
    ax.set_anchor("W")


def _filmstrip(ax: Axes, frames: Any) -> None:
    """Draw the frames of a clip (F, 3, H, W) side by side, over seconds."""
    frames = np.asarray(frames).transpose(0, 2, 3, 1)  # (F, H, W, 3)
    strip = np.concatenate(list(frames), axis=1)
    ax.imshow(strip, extent=(0, len(frames) / _FPS, 0, 1), aspect="auto", interpolation="nearest")
    ax.set(xlim=(0, _SPAN), ylim=(0, 1))


def _spectrogram(ax: Axes, wave: Any) -> None:
    """Draw the spectrogram of a sound (S,) in dB, over seconds and kHz."""
    wave = np.asarray(wave, dtype=np.float64)
    padded = np.pad(wave, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)).T + 1e-3)  # (bins, T), dB
    extent = (0, len(wave) / _RATE, 0, _RATE / 2000)
    ax.imshow(level, origin="lower", aspect="auto", cmap="magma", extent=extent, vmin=level.max() - 70)
    ax.set(xlim=(0, _SPAN), ylim=(0, _RATE / 2000))


_PANELS = {
    Modality.TEXT: _text,
    Modality.IMAGE: _image,
    Modality.AUDIO: _spectrogram,
    Modality.VIDEO: _filmstrip,
}
