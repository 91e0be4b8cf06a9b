"""A modality that codi does not bring: event times, registered from this file, from words and back to words.

Its autoencoder and its prompt tower are made up here, as somebody else's would be; its denoiser, environment
encoder and noisy-latent encoder are codi's own classes.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from codi import CoDiPipeline, cli, modalities, outputs, world
from codi.joint.encoders import EnvironmentEncoders
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.models.denoisers import TextDenoiser
from codi.prompts import collect
from codi.types import InputError, Modality
from tests import tiny_pipeline
from tests.event_parts import EventAutoencoder, EventTower
from tests.event_times import RATE, STEPS, WIDTH, EventTimes

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def event_times():
    """The modality, registered while the tests of this file run and forgotten afterwards."""
    with modalities.registered(EventTimes()) as modality:
        yield modality


@pytest.fixture(scope="module")
def pipe(event_times):
    base = tiny_pipeline.pipeline()
    torch.manual_seed(1)
    latents = tiny_pipeline.LATENTS | {
        "event_times": dict(latent_shape=[WIDTH], latent_rate=None, tokens_per_step=1)
    }
    shared = dict(dim=tiny_pipeline.ENV, num_layers=1, num_heads=2)
    parts = {
        "event_times_autoencoder": EventAutoencoder(),
        "event_times_tower": EventTower(),
        "event_times_denoiser": TextDenoiser(
            **tiny_pipeline.JOINT,
            in_channels=WIDTH,
            block_out_channels=(16, 16),
            second_dim=(4, 4),
            joint_levels=(1,),
        ),
        "environment_encoders": EnvironmentEncoders(latents, **shared),
        "noisy_latent_encoders": NoisyLatentEncoders(latents, context_dim=tiny_pipeline.DIM, **shared),
    }
    for part in parts.values():
        part.eval()
        for parameter in part.parameters():
            if parameter.numel() and parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.05)
    made = CoDiPipeline(**base.components | parts)
    made.set_progress_bar_config(disable=True)
    return made


def make(pipe, **call):
    return pipe(**dict(num_inference_steps=2, seed=0) | call)


def test_it_is_known_everywhere_by_its_name(pipe, event_times):
    assert Modality.parse("event_times") is event_times and list(Modality)[-1] is event_times
    model = pipe.model
    for parts in (model.towers, model.denoisers, model.autoencoders, model.environment_encoders):
        assert event_times in parts
    assert model.specs[event_times].latent_shape == (WIDTH,)
    assert event_times in model.attended([Modality.TEXT])


def test_from_words_to_it_and_back_to_words(pipe, tmp_path):
    made = make(pipe, text="a red ball", outputs="event_times")
    [seconds] = made.of("event_times")
    assert made.event_times == [seconds] and made.to_tuple() == ([seconds],) and made.made == ["event_times"]
    assert seconds == sorted(seconds) and all(0 <= second < STEPS / RATE for second in seconds)
    [path] = made.save(tmp_path)
    assert path == tmp_path / "000.json" and json.loads(path.read_text()) == seconds
    told = make(pipe, event_times=path, outputs="text")
    assert told.texts == make(pipe, event_times=seconds, outputs="text").texts
    context = pipe.encode_prompt
    other = [second + 0.5 for second in seconds[:1]]
    assert not torch.equal(*(context(prompts(given)) for given in (seconds, other)))


def prompts(seconds):
    return collect({Modality("event_times"): seconds})


def test_it_is_made_together_with_others_that_attend_to_it(pipe, event_times):
    call = dict(text="a red ball", outputs=["event_times", "image"], output_type="latent")
    both = make(pipe, **call).latents
    alone = make(pipe, **call | {"outputs": ["image"]}).latents
    assert set(both) == {event_times, Modality.IMAGE}
    assert not torch.equal(both[Modality.IMAGE], alone[Modality.IMAGE])  # it hears the event times
    again = make(pipe, **call).latents
    assert all(torch.equal(both[m], again[m]) for m in both)
    one = make(pipe, **call | {"negative_event_times": [0.5], "guidance_scale": {"event_times": 4}}).latents
    assert not torch.equal(one[event_times], both[event_times])


def test_what_it_cannot_take_is_said_in_one_line(pipe):
    with pytest.raises(InputError, match="expected a list of seconds"):
        make(pipe, event_times=[{"at": 0.5}], outputs="text")
    with pytest.raises(InputError, match="no such file: soon"):
        make(pipe, event_times=["soon"], outputs="text")
    with pytest.raises(InputError, match="unknown argument 'event_tims': did you mean event_times"):
        make(pipe, event_tims=[0.5], outputs="text")
    with pytest.raises(InputError, match="this model takes no event_times prompt"):
        make(tiny_pipeline.pipeline(), event_times=[0.5], outputs="text")


def test_it_is_saved_and_loaded_with_the_model(pipe, event_times, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = CoDiPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    call = dict(text="a red ball", outputs=["event_times", "text"], output_type="latent")
    first, second = make(pipe, **call).latents, make(loaded, **call).latents
    assert all(torch.allclose(first[m], second[m], atol=1e-5) for m in first)


def test_the_command_makes_it_and_takes_it(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    common = ["--model", str(tmp_path / "model"), "--steps", "2", "--device", "cpu", "--quiet", "-o"]
    assert (
        cli.main(["generate", "--text", "a red ball", "--to", "event_times", *common, str(tmp_path / "a")])
        == 0
    )
    made = tmp_path / "a" / "000.json"
    assert all(isinstance(second, float) for second in json.loads(made.read_text()))
    assert (
        cli.main(["generate", "--event-times", str(made), "--to", "text", *common, str(tmp_path / "b")]) == 0
    )
    assert (tmp_path / "b" / "000.txt").is_file()
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["inputs"][0]["as"] == "event_times"
    assert (
        cli.main(["generate", "--event-times", "none.json", "--to", "text", *common, str(tmp_path / "c")])
        == 2
    )
    assert "no such file: none.json" in capsys.readouterr().err
    assert not (tmp_path / "c").exists() or not list((tmp_path / "c").iterdir())


def test_it_is_one_object_in_every_process(event_times):
    assert copy.deepcopy({event_times: [event_times]}) == {event_times: [event_times]}
    assert copy.copy(event_times) is event_times is copy.deepcopy(event_times)
    assert pickle.loads(pickle.dumps(event_times)) is event_times
    code = (
        "import pickle, sys; from codi.types import Modality; m = pickle.loads(sys.stdin.buffer.read()); "
        "print(m is Modality('event_times'), m.name, repr(m))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(event_times),
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert told.stdout.decode().split(" ", 2) == [
        "True",
        "EVENT_TIMES",
        "<Modality.EVENT_TIMES: 'event_times'>\n",
    ]


@pytest.mark.parametrize(
    "name", ["", "Depth", "depth map", "seed", "negative_depth", "class", "1d", 3, None, "x" * 41]
)
def test_names_that_cannot_be(name):
    before = list(Modality)
    with pytest.raises(InputError, match="modality name"):
        Modality.register(name)
    assert list(Modality) == before


def test_registering_twice_is_the_same_and_another_kind_is_refused(event_times):
    assert modalities.register(EventTimes()) is event_times

    class Other(EventTimes):
        """Something else by the same name."""

    with pytest.raises(InputError, match="registered as EventTimes: expected another name for Other"):
        modalities.register(Other())


@pytest.mark.parametrize("field", ["images", "seeds", "sampling_rate"])
def test_a_field_that_outputs_have_already_is_refused(field):
    before = list(Modality)
    kind = type("Depth", (EventTimes,), {"name": "depth", "field": field})
    with pytest.raises(InputError, match=f"has the field '{field}', which outputs have already"):
        modalities.register(kind())
    assert list(Modality) == before


def test_the_four_are_as_before():
    assert [m.value for m in list(Modality)[:4]] == ["text", "image", "audio", "video"]
    assert Modality("video") is Modality.VIDEO is Modality["VIDEO"] is Modality.parse(" Video ")
    assert f"{Modality.TEXT} {Modality.TEXT!r} {json.dumps([Modality.TEXT])}" == (
        "text <Modality.TEXT: 'text'> [\"text\"]"
    )
    assert {"audio": 3}[Modality.AUDIO] == 3 and hash(Modality.AUDIO) == hash("audio")
    assert "text" in Modality and "smell" not in Modality and 3 not in Modality
    with pytest.raises(ValueError, match="'smell' is not a valid Modality"):
        Modality("smell")
    assert dict(outputs.FIELDS)[Modality.VIDEO] == "videos"


def install(folder, **entries):
    """Puts what pip notes of an installed package into a folder: its entry points."""
    about = folder / "brings_modalities-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brings-modalities\nVersion: 1.0\n")
    lines = [f"{name} = {place}" for name, place in entries.items()]
    (about / "entry_points.txt").write_text("\n".join(["[codi.modalities]", *lines]) + "\n")


def test_an_installed_package_brings_it_to_the_commands(tmp_path):
    install(tmp_path, event_times="tests.event_times:EventTimes")
    command = [sys.executable, "-m", "codi.cli", "generate", "--help"]
    path = f"{tmp_path}:{ROOT}"
    helped = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    assert "--event-times" in helped.stdout and not helped.stderr


def test_a_package_that_cannot_be_used_is_left_out_with_a_line(tmp_path, monkeypatch):
    install(tmp_path, a="tests.nowhere:Kind", b="tests.event_times:Broken", c="tests.event_times:STEPS")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(Modality)
    notes = modalities.load_plugins()
    assert [note.split(" is left out: ")[0] for note in notes] == [
        "modality a of tests.nowhere:Kind",
        "modality b of tests.event_times:Broken",
        "modality c of tests.event_times:STEPS",
    ]
    assert "No module named 'tests.nowhere'" in notes[0] and "abstract" in notes[1]
    assert list(Modality) == before


def test_the_benchmark_measures_it_where_the_world_can_be_seen_in_it(pipe, event_times, tmp_path):
    def read(media):
        return [
            world.Reading(
                facts=dict.fromkeys(world.ATTRIBUTES) | {"tempo": "fast" if len(seconds) > 3 else "slow"},
                events=seconds,
            )
            for seconds in media
        ]

    def render(scenes):
        return [[second for second, _ in world.events(scene)] for scene in scenes]

    pipe.save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--scenes", "2", "--steps", "2", "--device", "cpu"]
    cells = ["--cells", "text->event_times,event_times->text"]
    world.add_view(event_times, visible=("tempo",), read=read, render=render)
    try:
        assert cli.main(["bench", *options, *cells, "--out", str(tmp_path / "report")]) == 0
    finally:
        world.remove_view(event_times)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [cell["cell"] for cell in report["cells"]] == ["text->event_times", "event_times->text"]
    assert "event_times" in (tmp_path / "report" / "report.md").read_text()
    assert event_times not in world.READERS
