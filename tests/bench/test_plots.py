"""Pictures of a report hold the numbers that they were given, where the axes say."""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from codi.bench import plots
from codi.bench.runs import Run, parse_cell, render
from codi.types import Modality
from codi.world import Scene, caption, events

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
SCENE = Scene(
    shape="box", colour="cyan", place="snow", motion="blink", tempo="slow", start=0.25, x=0.5, seed=1
)
TIMES = [seconds for seconds, _ in events(SCENE)]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, which are closed as soon as they are written."""
    kept, close = [], plots.plt.close

    def keep(figure):
        kept.append(figure)
        close(figure)

    monkeypatch.setattr(plots.plt, "close", keep)
    return kept


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def marks(axes):
    """The vertical lines of a panel: (colour, whether it is dotted) -> seconds."""
    found = {}
    for lines in axes.collections:
        colour, dotted = tuple(lines.get_color()[0]), lines.get_linestyle()[0][1] is not None
        found[colour, dotted] = [float(segment[0, 0]) for segment in lines.get_segments()]
    return found


def test_the_map_of_cells_has_every_score_in_its_row_and_column(tmp_path, figures):
    cells = [
        {"inputs": ["text", "audio"], "outputs": ["image"], "value": 0.5, "seen": False},
        {"inputs": ["text"], "outputs": ["text", "image"], "value": 0.25, "seen": True},
        {"inputs": ["text"], "outputs": ["image"], "value": 0.987, "seen": True},
    ]
    assert plots.cell_map(cells, tmp_path / "cells.png") == "cells.png" and is_png(tmp_path / "cells.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["text", "text+audio"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["image", "text+image"]
    grid = np.asarray(axes.images[0].get_array().filled(np.nan))
    assert np.array_equal(grid, [[0.987, 0.25], [0.5, np.nan]], equal_nan=True)
    said = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert said == {(0, 1): "50·", (1, 0): "25", (0, 0): "99"}
    assert figures[0].number not in plots.plt.get_fignums()


def test_curves_are_in_milliseconds_and_bars_are_events_of_a_sample(tmp_path, figures):
    lines = {"joint": {"curve": [0.1, 0.5]}, "floor": {"curve": [0.0, 0.2]}}
    plots.onset_curves(lines, (0.01, 0.125), tmp_path / "a.png")
    drawn = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert [list(line.get_xdata()) for line in drawn.values()] == [[10.0, 125.0]] * 2
    assert list(drawn["floor"].get_ydata()) == [0.0, 0.2]
    assert drawn["joint"].get_linewidth() > drawn["floor"].get_linewidth()
    names = ("joint", "independent", "ground truth through autoencoders")
    offsets = {name: {"offsets": [0.005, 0.0049, -0.1], "samples": 2} for name in names}
    offsets["independent"]["offsets"] = []
    plots.offset_histogram(offsets, tmp_path / "b.png")
    outlines = {patch.get_label(): patch.get_xy() for patch in figures[1].axes[0].patches}
    bars = {name: {round(x): y for x, y in outline if y > 0} for name, outline in outlines.items()}
    # Two matched events of two samples lie in the bin from 0 to 10 ms, and one in that from -100 ms.
    assert bars["joint"] == {0: 1.0, 10: 1.0, -100: 0.5, -90: 0.5} and not bars["independent"]
    assert is_png(tmp_path / "a.png") and is_png(tmp_path / "b.png")


def test_a_sine_is_bright_at_its_pitch_and_its_panel_is_in_seconds_and_kilohertz():
    figure, axes = plots.plt.subplots()
    t = np.arange(16000) / 16000
    plots._spectrogram(axes, torch.from_numpy(np.sin(2 * np.pi * 3000 * t)).float())
    level = np.asarray(axes.images[0].get_array())
    assert level.shape == (257, 126) and (level[:, 5:-5].argmax(0) == 96).all()  # 3000 Hz of 31.25 Hz a bin
    assert list(axes.images[0].get_extent()) == [0, 1.0, 0, 8.0]
    assert axes.get_xlim() == (0, 2.0) and axes.images[0].get_clim()[0] == pytest.approx(level.max() - 70)
    plots.plt.close(figure)


def test_frames_stand_side_by_side_over_their_seconds():
    figure, axes = plots.plt.subplots()
    clip = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    plots._filmstrip(axes, clip)
    picture = np.asarray(axes.images[0].get_array())
    assert picture.shape == (2, 8, 3) and picture[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert list(axes.images[0].get_extent()) == [0, 0.5, 0, 1]  # four frames at eight a second
    plots._image(axes, torch.stack([torch.full((2, 2), k, dtype=torch.uint8) for k in range(3)]))
    assert np.asarray(axes.images[1].get_array())[0, 0].tolist() == [0, 1, 2]
    plots.plt.close(figure)


def test_events_are_marked_in_both_panels_full_where_they_were_read(tmp_path, figures):
    scenes = [SCENE, SCENE]
    media = {m: render(m, scenes) for m in (VIDEO, AUDIO)}
    media[AUDIO] = torch.roll(media[AUDIO], 1600, 1)
    plots.strips(media, [caption(scene) for scene in scenes], tmp_path / "strips.png")
    assert is_png(tmp_path / "strips.png") and len(figures[0].axes) == 6
    film, sound, gap = figures[0].axes[:3]
    assert film.get_title(loc="left") == caption(SCENE) and not gap.axison
    red, white = to_rgba("red"), to_rgba("white")
    for panel, own in ((film, red), (sound, white)):
        found = marks(panel)
        assert set(found) == {(red, own is white), (white, own is red)}
        (seen,) = (seconds for (colour, _), seconds in found.items() if colour == red)
        (heard,) = (seconds for (colour, _), seconds in found.items() if colour == white)
        assert seen == pytest.approx(TIMES, abs=0.03) and heard == pytest.approx(
            [t + 0.1 for t in TIMES], abs=0.03
        )


def test_a_contact_sheet_has_given_media_left_and_generated_ones_right(tmp_path, figures):
    samples = []
    for cell in ("text+image->audio+video", "video->text"):
        run = parse_cell(cell)
        samples.append((run, SCENE, {m: render(m, [SCENE, SCENE]) for m in run.outputs}, 1))
    plots.contact_sheet(samples, tmp_path / "sheet.png")
    (figure,) = figures
    assert is_png(tmp_path / "sheet.png") and math.isclose(figure.get_figwidth(), 13)
    rows = figure.subfigs
    assert [row.get_suptitle() for row in rows] == ["text+image->audio+video", "video->text"]
    left, right = rows[0].subfigs
    assert left.axes[0].texts[0].get_text() == caption(SCENE) and len(left.axes[1].images) == 1
    film, sound = right.axes  # the clip stands above the sound, and both have the events of either
    assert film.get_position().y0 > sound.get_position().y0
    assert [np.ndim(axes.images[0].get_array()) for axes in (film, sound)] == [3, 2]
    assert len(film.collections) == len(sound.collections) == 2
    clip, words = rows[1].subfigs
    assert len(clip.axes[0].collections) == 1 and words.axes[0].texts[0].get_text() == caption(SCENE)


def test_long_sentences_are_wrapped():
    figure, axes = plots.plt.subplots()
    plots._text(axes, "word " * 40)
    lines = axes.texts[0].get_text().split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= 80 and not axes.axison
    plots.plt.close(figure)


def test_subsets_are_ordered_by_size_and_then_as_modalities_are():
    runs = [
        Run(inputs=i, outputs=(TEXT,)) for i in ((VIDEO,), (AUDIO, VIDEO), (TEXT, VIDEO), (TEXT,), (VIDEO,))
    ]
    cells = [{"inputs": [m.value for m in run.inputs], "outputs": ["text"]} for run in runs]
    assert plots._subsets(cells, "inputs") == [("text",), ("video",), ("text", "video"), ("audio", "video")]
    assert plots._subsets(cells, "outputs") == [("text",)]
