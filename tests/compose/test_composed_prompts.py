"""The benchmark of prompts of frozen models measures clip models where it is asked to."""

import re

import pytest
import torch

from benchmarks import composed_prompts as benchmark
from codi import CoDiPipeline
from codi.compose.foreign import ForeignModel
from codi.compose.prompt_translators import PromptTranslators, find_contexts
from codi.types import Modality
from codi.world import RENDERERS, VISIBLE, sample_scenes
from tests.compose import tiny_foreign

VIDEO = Modality.VIDEO
CALL = [f"{name}={value}" for name, value in tiny_foreign.SIZES["animatediff"].items()]


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """The folder of untrained translators for the tiny clip model."""
    model: ForeignModel = benchmark.load(str(tiny_foreign.folder("animatediff")), benchmark.parse_call(CALL))
    prompt = benchmark.native(model, ["a red ball in the snow", "a blue star at night"])
    contexts, masks = find_contexts([prompt], model.name)
    dim = CoDiPipeline.from_pretrained().model.context_dim
    found = PromptTranslators(dim, {"video": contexts}, {"video": masks}, hidden=32)
    found.of(VIDEO).measure(prompt)
    place = tmp_path_factory.mktemp("translators")
    found.save_pretrained(place)
    return place


def test_clip_models_are_read_over_few_scenes_by_the_readers_of_the_world(translators, capsys):
    folder = str(tiny_foreign.folder("animatediff"))
    asked = ["--clips", folder, "--clip-call", *CALL, "--clip-scenes", "2", "--steps", "1"]
    with tiny_foreign.quiet():
        benchmark.main([*asked, "--translators", str(translators)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("video", "  "))]
    assert lines[0] == f"video {folder}"
    errors = [line for line in lines if line.startswith("  error")]
    read = [line for line in lines if line.startswith("  agreement")]
    assert len(errors) == len(read) >= 3
    for line in read:
        number = r"\d\.\d+"
        assert re.search(rf" {number}   own text {number}   ratio \S+   another's {number}   ", line)
    of_video = next(line for line in read if line.split()[1] == "video")
    assert all(re.search(rf"\b{name} \d\.\d\d", of_video) for name in VISIBLE[VIDEO])


def test_true_clips_are_read_right_fact_by_fact():
    scenes = sample_scenes(4, 3)
    clips = RENDERERS[VIDEO](scenes).float() / 127.5 - 1
    names = VISIBLE[VIDEO]
    found = benchmark.agreement(VIDEO, clips, scenes, names)
    assert list(found) == list(names) and benchmark.mean(found) > 0.9
    other = benchmark.agreement(VIDEO, torch.roll(clips, 1, 0), scenes, names)
    assert benchmark.mean(other) < benchmark.mean(found)


@pytest.mark.parametrize("options", [[], ["--clips", "clip", "--clip-scenes", "0"]])
def test_nothing_to_measure_is_one_line(options, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*options, "--translators", "nowhere"])
    assert "expected" in capsys.readouterr().err
