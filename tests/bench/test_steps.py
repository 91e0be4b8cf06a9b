"""Several numbers of steps: what is parsed, distances known in closed form, and the rows of the table."""

import math

import pytest
import torch

from codi.bench.runs import SAMPLING_RATE, render
from codi.bench.steps import UNITS, Distances, compare, measures, media_distance, parse_steps
from codi.types import InputError, Modality
from codi.world import sample_scenes
from tests.bench.perfect import Perfect, bench_of

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
EMPTY = {"tasks": [], "cells": [], "summary": {"all": None}, "distances": {}}


class Paler(Perfect):
    """Gives pixels that are too dark by ten and sounds at half their volume."""

    def sample(self, run, scenes, seeds):
        media = super().sample(run, scenes, seeds)
        darker = {m: media[m].clamp(min=10) - 10 for m in media if m in (IMAGE, VIDEO)}
        return media | darker | {m: media[m] / 2 for m in media if m is AUDIO}


# Options ---------------------------------------------------------------


def test_numbers_of_steps_keep_their_order():
    assert parse_steps(None) == [] and parse_steps("25") == [25] and parse_steps(" 20, 4 ,6") == [20, 4, 6]


@pytest.mark.parametrize(
    "text, message",
    [
        ("4,x", "--steps '4,x': expected a whole number of at least 1, or several such as 4,6,10,20"),
        ("0", "--steps '0': expected a whole number"),
        ("4,6,4", "--steps '4,6,4' names 4 twice: name each once"),
    ],
)
def test_steps_that_cannot_be_are_named(text, message):
    with pytest.raises(InputError, match=message):
        parse_steps(text)


# Distances -------------------------------------------------------------


def test_distances_of_pixels_are_root_mean_squares():
    pictures = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    moved = pictures.clone()
    moved[0] += 6
    moved[1] -= 8
    assert media_distance(moved, pictures) == pytest.approx(math.sqrt((36 + 64) / 2))
    assert media_distance(pictures, moved) == media_distance(moved, pictures)
    # Differences below zero do not wrap around, as those of bytes would.
    assert media_distance(torch.zeros_like(pictures), pictures) == pytest.approx(100)


def test_distances_of_sounds_are_those_of_logarithmic_spectra():
    noise = 0.1 * torch.randn(2, SAMPLING_RATE, generator=torch.Generator().manual_seed(0))
    assert media_distance(noise, noise) == 0.0
    assert media_distance(-noise, noise) == pytest.approx(0.0, abs=1e-4)  # phases are not heard
    # Of a volume e times as high every logarithm is one more; quiet bands have a floor.
    assert media_distance(math.e * noise, noise) == pytest.approx(1.0, abs=0.02)


def test_a_model_is_compared_with_its_reference_once(tmp_path):
    reference = bench_of(tmp_path, Perfect())
    paler = bench_of(tmp_path / "paler", Paler())
    far = Distances(reference=reference, outputs=[TEXT, IMAGE, AUDIO], count=3, steps=50)
    found = far.score(paler)
    assert set(found["text"]) == {"seconds"} and found["image"]["reference"] == 50
    scenes = sample_scenes(3, seed=3)
    right, sounds = render(IMAGE, scenes), render(AUDIO, scenes)
    darker = right.clamp(min=10) - 10
    assert found["image"]["distance"] == media_distance(darker, right) > 5
    assert found["audio"]["distance"] == media_distance(sounds / 2, sounds) > 0
    assert all(line["seconds"] > 0 for line in found.values())
    made = paler.model.samples, reference.model.samples
    assert far.score(paler) == found and (paler.model.samples, reference.model.samples) == made
    other = far.score(bench_of(tmp_path / "other", Perfect()))
    assert other["image"]["distance"] == other["audio"]["distance"] == 0.0
    assert reference.model.samples == 2 * 3  # one picture and one sound of each scene, whoever is compared


def test_the_reference_itself_is_no_distance_away(tmp_path):
    bench = bench_of(tmp_path, Perfect())
    found = Distances(reference=bench, outputs=[IMAGE, VIDEO], count=2).score(bench)
    assert [line["distance"] for line in found.values()] == [0.0, 0.0]
    more = Distances(reference=bench, outputs=[IMAGE], count=3).score(bench)  # kept under a name of its own
    assert more["image"]["seconds"] != found["image"]["seconds"]


# The table -------------------------------------------------------------


def test_a_row_for_every_number_and_no_row_for_what_was_not_measured():
    assert measures(EMPTY) == []
    report = EMPTY | {
        "tasks": [{"task": "text->image", "measure": "shape", "value": 0.1}],
        "cells": [{"cell": "text->audio", "value": 0.2}],
        "summary": {
            "all": {"count": 2, "value": 0.3},
            "never_seen": {"count": 1, "value": 0.4},
            "seen": None,
        },
        "four": {"value": 0.5},
        "onsets": {"joint": {"f1": {"125 ms": 0.6, "62.5 ms": 0.61, "50 ms": 0.62}}, "ground truth": {}},
        "distances": {"text": {"seconds": 0.7}, "audio": {"distance": 0.8, "reference": 50, "seconds": 0.9}},
    }
    found = {m.name: (m.value, m.kind, m.falls) for m in measures(report)}
    assert found == {
        "text->image, shape": (0.1, "share", False),
        "cell text->audio": (0.2, "share", False),
        "macro mean of 2 cells, all": (0.3, "share", False),
        "macro mean of 1 cells, never seen": (0.4, "share", False),
        "onset F1 at 125 ms, joint": (0.6, "score", False),
        "onset F1 at 62.5 ms, joint": (0.61, "score", False),
        "onset F1 at 50 ms, joint": (0.62, "score", False),
        "all four outputs agree": (0.5, "share", False),
        f"audio from 50 steps ({UNITS[AUDIO]})": (0.8, "distance", True),
        "seconds for one text": (0.7, "seconds", True),
        "seconds for one audio": (0.9, "seconds", True),
    }


def test_drops_are_to_the_most_steps_in_the_direction_that_is_worse():
    def report(cell, distance, seconds):
        cells = [{"cell": "text->image", "value": cell}]
        found = {"image": {"distance": distance, "reference": 50, "seconds": seconds}}
        return EMPTY | {"cells": cells, "distances": found}

    reports = {10: report(0.9, 2.0, 1.0), 20: report(0.8, 1.0, 2.0), 4: report(0.5, 9.0, 0.4)}
    cell, distance, seconds = compare(reports)
    assert (cell["drop"], cell["drop_at"]) == (pytest.approx(0.3), 4)
    assert (distance["drop"], distance["drop_at"]) == (8.0, 4) and distance["less_is_better"]
    assert "drop" not in seconds and seconds["values"] == {10: 1.0, 20: 2.0, 4: 0.4}
