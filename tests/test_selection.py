"""Best of several: the judges tell what fits from what does not, and the choice follows them."""

import dataclasses

import numpy as np
import pytest
import torch

from codi import selection
from codi.modalities import onsets
from codi.types import InputError, Modality
from codi.world import events, render_sounds, render_videos, sample_scenes

FRAME = 1 / 8


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(24, seed=3)


@pytest.fixture(scope="module")
def seen(scenes):
    return [onsets.video_onsets(clip.float() / 127.5 - 1, 8.0) for clip in render_videos(scenes)]


@pytest.fixture(scope="module")
def heard(scenes):
    return [onsets.sound_onsets(wave, 16000) for wave in render_sounds(scenes)]


def agreement(found, scenes):
    true = [torch.tensor([t for t, _ in events(scene)]) for scene in scenes]
    return np.mean([selection.timing(a, b, FRAME) for a, b in zip(found, true, strict=True)])


def test_detectors_find_the_events_of_the_world(scenes, seen, heard):
    """Neither was made for it; the events of another scene agree by chance in about 0.44."""
    assert agreement(heard, scenes) > 0.85 and agreement(seen, scenes) > 0.7
    assert max(agreement(found[1:] + found[:1], scenes) for found in (heard, seen)) < 0.55


def test_the_sound_of_a_clip_is_told_from_one_that_starts_elsewhere(scenes, seen, heard):
    later = [
        dataclasses.replace(scene, start=scene.start + (0.17 if scene.start < 0.33 else -0.17))
        for scene in scenes
    ]
    wrong = [onsets.sound_onsets(wave, 16000) for wave in render_sounds(later)]
    fits = lambda sounds: np.array([selection.timing(a, b, FRAME) for a, b in zip(seen, sounds, strict=True)])
    assert (fits(heard) > fits(wrong)).mean() > 0.9


def test_clicks_and_jumps_are_found_where_they_are():
    wave, clip = torch.zeros(16000), torch.zeros(12, 3, 32, 32)
    for at in (4000, 10000):
        wave[at : at + 300] = 0.5 * torch.sin(torch.arange(300) * 0.5)
    clip[3:7, :, 8:16, 8:16] = 1.0  # appears before frame 3, goes before frame 7
    assert (onsets.sound_onsets(wave, 16000) - torch.tensor([0.25, 0.625])).abs().max() < 0.02
    assert (onsets.video_onsets(clip, 8.0) * 8 - torch.tensor([2.5, 6.5])).abs().max() <= 0.5
    assert len(onsets.sound_onsets(torch.zeros(16000), 16000)) == len(onsets.video_onsets(clip * 0, 8.0)) == 0
    assert len(onsets.video_onsets(clip[:2], 8.0)) == 0


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([0.5, 1.0], [0.5, 1.0], 1.0),
        ([0.5, 1.0], [0.6, 1.1], 0.5),  # everywhere at the edge of the tolerance
        ([0.5, 1.0], [0.8], 0.0),
        ([0.5, 1.0], [1.0], 2 / 3),
        ([0.5], [0.45, 0.5], 2 * 0.75 / 3),  # one to one
        ([], [], 0.0),
    ],
)
def test_timing(first, second, expected):
    a, b = torch.tensor(first), torch.tensor(second)
    assert selection.timing(a, b, 0.1) == pytest.approx(expected, abs=1e-5) == selection.timing(b, a, 0.1)


def test_agreement_is_the_mean_over_pairs():
    axes = torch.eye(4)
    tokens = {Modality.TEXT: axes[[0, 0]], Modality.IMAGE: axes[[0, 1]], Modality.AUDIO: axes[[0, 0]]}
    assert selection.mutual_agreement(tokens).tolist() == pytest.approx([1.0, 1 / 3])
    assert selection.prompt_agreement(tokens, 5 * axes[[0, 0]]).tolist() == pytest.approx([1.0, 2 / 3])


def test_a_clean_partner_is_shared_by_the_candidates_of_its_sample():
    at = lambda *times: torch.tensor(times)
    found = {Modality.VIDEO: [at(0.5), at(1.0)], Modality.AUDIO: [at(0.5), at(1.0), at(1.0), at(0.5)]}
    assert selection.onset_agreement(found, 0.1).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_candidates_have_seeds_of_their_own():
    seeds = selection.candidate_seeds([5, 6], 4)
    assert (
        seeds[0] == 5 and seeds[4] == 6 and len(set(seeds)) == 8 and all(0 <= seed < 2**53 for seed in seeds)
    )
    assert selection.candidate_seeds([6], 4) == seeds[4:] and selection.candidate_seeds([5, 6], 1) == [5, 6]


def test_the_choice_weighs_what_stands_out():
    measures = {
        "prompt": torch.tensor([0.80, 0.81, 0.80, 0.5, 0.5, 0.9]),
        "onsets": torch.tensor([0.1, 0.1, 0.9, 0.5, 0.5, 0.5]),
    }
    records = selection.choose(measures, list(range(6)), 3)
    assert [record["kept"] for record in records] == [2, 2] and records[1]["seeds"] == [3, 4, 5]
    assert (
        records[0]["scores"][2]["onsets"] == pytest.approx(0.9)
        and records[0]["scores"][1]["total"] < records[0]["scores"][2]["total"]
    )
    same = selection.choose({"mutual": torch.full((3,), 0.7)}, [7, 8, 9], 3)
    assert same[0]["kept"] == 0


def test_what_cannot_be_told_apart_is_refused():
    towers = {Modality.IMAGE: None, Modality.TEXT: None}
    assert selection.available(towers, [Modality.IMAGE], [], True) == ["prompt"]
    assert selection.available(towers, [Modality.IMAGE, Modality.TEXT], [], False) == ["mutual"]
    assert selection.available(towers, [Modality.AUDIO], [Modality.VIDEO], False) == ["onsets"]
    for outputs in ([Modality.IMAGE], [Modality.AUDIO, Modality.IMAGE]):
        with pytest.raises(InputError, match="told apart"):
            selection.available(towers, outputs, [], False)
