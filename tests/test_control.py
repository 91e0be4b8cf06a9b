"""Controls steer what is made: untrained branches change no bit, trained ones do, alone and together, when
they are asked to; and whatever cannot be a control is refused in one line.
"""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from codi import io
from codi.cli import main
from codi.controls import KINDS, ControlMap
from codi.controls.asked import parse, typed
from codi.controls.curves import loudness, pitch
from codi.diffusion import NoiseProcess
from codi.models.control import ControlBranch, branch_for
from codi.models.denoisers.experts import join
from codi.records import read_record
from codi.types import InputError, Modality
from tests.tiny_pipeline import pipeline, scheduler

IMAGE, AUDIO, VIDEO = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
QUICK = dict(text="a red ball", num_inference_steps=2, seed=0, output_type="latent", start_offset=0)
PLACES = {
    IMAGE: ("sketch", "layout"),
    VIDEO: ("beats", "sketch", "layout"),
    AUDIO: ("beats", "melody", "loudness"),
}


def add_branches(pipe, drawn=True):
    """A branch for every kind of every output, with weights that are drawn, or as they start."""
    torch.manual_seed(1)
    for output, kinds in PLACES.items():
        target = pipe.control_target(output)
        for name in kinds:
            kind = KINDS[name]
            branch = branch_for(
                pipe.model.denoisers[output],
                output=str(output),
                kind=name,
                channels=kind.channels(target),
                timed=kind.timed,
                width=8,
            )
            for parameter in branch.parameters() if drawn else ():
                nn.init.normal_(parameter, std=0.1)
            pipe.add_control(branch.eval())


@pytest.fixture(scope="module")
def pipe():
    made = pipeline()
    add_branches(made)
    return made


def latents(pipe, outputs, **arguments):
    return pipe(**{**QUICK, "outputs": outputs, **arguments}).latents


def same(one, other):
    return all(torch.equal(one[m], other[m]) for m in one)


def error(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def drawing(size=(32, 32)):
    page = Image.new("RGB", size, "white")
    ImageDraw.Draw(page).ellipse([8, 8, size[0] - 8, size[1] - 8], outline="black", width=2)
    return page


BOX = [{"box": [0.2, 0.2, 0.6, 0.8], "words": "a red ball"}]


# What it does ----------------------------------------------------------


def test_an_untrained_branch_changes_no_bit_and_a_trained_one_both_outputs(pipe):
    fresh = pipeline()
    plain = latents(fresh, ["video", "audio"])
    add_branches(fresh, drawn=False)
    control = {"beats": [0.1, 0.3], "audio": {"melody": "0:A4"}, "video": {"sketch": [drawing()] * 4}}
    assert same(latents(fresh, ["video", "audio"], control=control), plain)
    steered = latents(pipe, ["video", "audio"], control={"beats": [0.1, 0.3]})
    assert not torch.equal(steered[VIDEO], plain[VIDEO]) and not torch.equal(steered[AUDIO], plain[AUDIO])


def test_weight_and_interval(pipe):
    plain = latents(pipe, "image")
    sketch = lambda **how: latents(pipe, "image", control={"sketch": {"value": drawing(), **how}})
    whole = sketch()
    assert same(sketch(weight=0), plain) and not same(whole, plain)
    halves = [sketch(interval=part) for part in ((0, 0.5), (0.5, 1))]
    assert not any(same(half, other) for half in halves for other in (plain, whole))
    assert not same(sketch(weight=0.5), whole)
    both = latents(pipe, "image", control={"sketch": drawing(), "layout": BOX})
    alone = latents(pipe, "image", control={"layout": BOX})
    assert not same(both, whole) and not same(both, alone)


def test_rows_of_their_own(pipe):
    given = [[0.1, 0.2], [0.3]]
    control = {"audio": {"beats": pipe.render_control("beats", "audio", given)}}
    together = latents(pipe, "audio", control=control, num_samples=2)[AUDIO]
    for row, beats in enumerate(given):
        alone = latents(pipe, "audio", control={"beats": beats}, seed=row)[AUDIO]
        assert torch.allclose(together[row], alone[0], atol=1e-4)
    assert "has 2 rows: expected 1 or 3" in error(latents, pipe, "audio", control=control, num_samples=3)


@pytest.mark.parametrize("rows", [1, 3])
def test_controls_reach_experts_on_both_sides_of_their_boundary(rows):
    """Each latent gets the control of its own row, whichever expert it goes to; so a branch can train."""
    clean, noisy = pipeline().vision_denoiser, pipeline(seed=1).vision_denoiser
    both = join(clean, noisy, 0.0, NoiseProcess.from_scheduler(scheduler()))
    pipe = pipeline()
    add_branches(pipe)
    branch = pipe._control_branches[(VIDEO, "beats")]
    beats = [KINDS["beats"].render(given, pipe.control_target(VIDEO)) for given in ([0.1], [0.3], [0.2, 0.4])]
    control = branch.steering(torch.cat(beats[:rows]), (4, 8, 8))
    x = torch.randn(3, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t, prompt = torch.tensor([999, 3, 990]), torch.ones(3, 1, 32)
    with torch.no_grad():
        mixed = both(x, t, prompt, control=[control])
        for row, expert in enumerate((noisy, clean, noisy)):
            whole = expert(x, t, prompt, control=[control])
            torch.testing.assert_close(mixed[row], whole[row], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(mixed, both(x, t, prompt), atol=1e-3)


def test_every_weight_of_a_branch_learns_and_none_of_the_denoiser():
    pipe = pipeline()
    denoiser = pipe.vision_denoiser.requires_grad_(False)
    branch = branch_for(denoiser, output="video", kind="beats", channels=15, timed=True, width=8)
    beats = KINDS["beats"].render([0.1, 0.3], pipe.control_target(VIDEO)).expand(2, -1, -1)
    optimizer = torch.optim.SGD(branch.parameters(), lr=1.0)
    for _ in range(2):  # what lies before ends that are zero learns from the second step on
        optimizer.zero_grad()
        control = branch.steering(beats, (4, 8, 8))
        t, prompt = torch.tensor([3, 900]), torch.ones(2, 1, 32)
        x = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        denoiser(x, t, prompt, control=[control]).square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in branch.parameters())
    assert all(p.grad is None for p in denoiser.parameters())


def test_a_branch_is_saved_with_its_model_and_loaded_beside_it(pipe, tmp_path):
    control = {"beats": [0.1, 0.3]}
    before = latents(pipe, "audio", control=control)
    pipe.save_pretrained(tmp_path / "model")
    again = type(pipe).from_pretrained(tmp_path / "model")
    again.set_progress_bar_config(disable=True)
    assert set(again.controls) == set(pipe.controls)
    assert same(latents(again, "audio", control=control), before)
    again.unload_controls()
    assert "it has none" in error(latents, again, "audio", control=control)
    folder = tmp_path / "model" / "controls" / "audio_beats"
    assert again.load_control(folder) == "beats of audio"
    assert same(latents(again, "audio", control=control), before)


def test_a_branch_of_another_model_is_refused(pipe, tmp_path):
    branch = pipe._branch((AUDIO, "beats"))
    values = {name: value for name, value in branch.config.items() if not name.startswith("_")}
    values |= {"probes": {"conv_in": 9.0, "conv_out": 9.0}, "base": "elsewhere"}
    ControlBranch(**values).save_pretrained(tmp_path / "a")
    assert "trained on the model 'elsewhere'" in error(pipe.load_control, tmp_path / "a")
    ControlBranch(**(values | {"sites": [[8, 0]]})).save_pretrained(tmp_path / "b")
    assert "has another shape" in error(pipe.load_control, tmp_path / "b")
    assert "no control at" in error(pipe.load_control, tmp_path / "c")


# Bad input -------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "control", "expected"),
    [
        ("image", {"video": {"beats": [0.1]}}, "control beats names video, which is not made"),
        ("image", {"beats": [0.1]}, "this model has no control beats of image: it has"),
        ("audio", {"beats": [0.1, 0.9]}, "names 0.9 s, and the output lasts 0.5 s"),
        ("audio", {"beats": []}, "expected the seconds of at least one beat"),
        ("audio", {"beats": [0.1, 0.1]}, "names 0.1 s twice"),
        ("audio", {"beats": [0.1], "audio": {"beats": [0.1]}}, "control beats of audio comes twice"),
        (
            ["audio", "video"],
            {"audio": {"beats": [0.1]}, "video": {"beats": [0.2]}},
            "control beats of audio and of video contradict each other",
        ),
        ("audio", {"beat": [0.1]}, "control names 'beat': expected some of layout, sketch, beats"),
        ("audio", [0.1], "control has the entry 0.1"),
        ("audio", 3, "control is a int: expected a dict"),
        ("audio", {"audio": [0.1]}, "control of audio is [0.1]: expected a dict"),
        ("audio", {"beats": {"value": [0.1], "weight": -1}}, "has the weight -1"),
        (
            "audio",
            {"beats": {"value": [0.1], "interval": (0.5, 0.2)}},
            "interval of control beats is [0.5, 0.2]",
        ),
        ("audio", {"melody": "0:H9"}, "control melody is"),
        ("audio", {"melody": [[0, 440], [0, 220]]}, "names 0 s twice"),
        ("audio", {"melody": [[0, 440], [0.7, 220]]}, "names 0.7 s"),
        ("audio", {"loudness": [[0, 3]]}, "control loudness is [[0, 3]]: expected decibels"),
        ("audio", {"melody": "nowhere.wav"}, "nowhere.wav"),
        ("image", {"sketch": Image.new("RGB", (40, 20), "white")}, "has lines on 0.0% of it"),
        ("image", {"sketch": 3}, "expected a drawing"),
        ("image", {"layout": [{"box": [0.5, 0, 0.2, 1], "words": "a"}]}, "has the box [0.5, 0, 0.2, 1]"),
        ("image", {"layout": [{"box": [0, 0, 1, 1], "words": " "}]}, "has the words ' '"),
        ("image", {"layout": [{**BOX[0], "seconds": [0, 1]}]}, "has seconds for a picture"),
        ("video", {"layout": [{**BOX[0], "seconds": [0, 9]}]}, "names 9 s, and the clip lasts 0.5 s"),
        ("image", {"sketch": ControlMap(map=torch.zeros(1, 3, 8, 8))}, "is a map (1, 3, 8, 8): expected"),
    ],
)
def test_what_cannot_be_a_control_is_refused(pipe, outputs, control, expected):
    assert expected in error(latents, pipe, outputs, control=control)


def test_a_drawing_of_another_shape_is_fitted(pipe):
    wide = latents(pipe, "image", control={"sketch": drawing((64, 32))})
    inverted = Image.fromarray(255 - np.asarray(drawing((64, 32))))
    assert same(latents(pipe, "image", control={"sketch": inverted}), wide)


# Values and maps -------------------------------------------------------


def test_what_is_typed_is_what_python_says():
    one = typed("video.beats=0.9,0.3::0.5@0-0.6").described()
    (other,) = parse(
        {"video": {"beats": {"value": np.array([0.3, 0.9]), "weight": 0.5, "interval": (0, 0.6)}}}
    )
    assert one == other.described() and parse([one])[0].described() == one
    assert typed("melody=0:A4,0.5:C5,1:0").value == [[0, 440], [0.5, pytest.approx(523.25, abs=0.01)], [1, 0]]
    assert typed("layout=0.2,0.2,0.6,0.8 a red ball").value == BOX
    assert "expected KIND=VALUE" in error(typed, "beats")


def test_beats_lie_where_they_are_said(pipe):
    target = pipe.control_target(AUDIO)
    (drawn,) = KINDS["beats"].render([0.105, 0.3], target)
    parts = drawn[:8].T.flatten()  # 8 of each step of 10 ms
    assert parts.nonzero()[:, 0].tolist()[:2] == [83, 84] and parts.sum() == pytest.approx(2)
    assert drawn[8:11, 10].max() < drawn[8:11, 11].max() and drawn[-1].eq(1).all()


def test_a_layout_paints_later_boxes_over_earlier_ones(pipe):
    target = pipe.control_target(VIDEO)
    first = {"box": [0, 0, 1, 1], "words": "a red ball"}
    over = {"box": [0, 0, 0.5, 1], "words": "a blue cube", "seconds": [0, 0.25]}
    drawn = KINDS["layout"].render(KINDS["layout"].parse([first, over]), target)[0, -32:]  # (D, F, h, w)
    red, blue = target.embed(["a red ball", "a blue cube"]).detach()
    assert torch.allclose(drawn[:, 0, 4, 0], blue, atol=1e-5)
    for frame, column in ((0, 7), (2, 0), (3, 7)):
        assert torch.allclose(drawn[:, frame, 4, column], red, atol=1e-5)


def test_a_map_of_labels_is_read(pipe, tmp_path):
    grey = np.zeros((32, 32), dtype=np.uint8)
    grey[:, 16:] = 7
    Image.fromarray(grey).save(tmp_path / "labels.png")
    given = {"map": str(tmp_path / "labels.png"), "words": {"7": "a red ball"}}
    target = pipe.control_target(IMAGE)
    drawn = KINDS["layout"].render(KINDS["layout"].parse(given), target)[0, -32:]
    assert not drawn[:, :, 0].any() and torch.allclose(drawn[:, 3, 7], target.embed(["a red ball"])[0])
    wrong = KINDS["layout"].parse({**given, "words": {"9": "a red ball"}})
    assert "the label 9, which is not in its map" in error(KINDS["layout"].render, wrong, target)


def test_pitch_and_loudness_of_plain_tones():
    seconds = torch.arange(16000) / 16000
    for hz in (110.0, 440.0, 2489.0):
        tone = 0.5 * torch.sin(2 * torch.pi * hz * seconds)
        found = pitch(tone, 16000.0)[3:-4]
        assert (12 * (found / hz).log2()).abs().max() < 0.5
        assert loudness(tone, 16000.0)[5] == pytest.approx(-9.03, abs=0.1)
    assert not pitch(torch.zeros(16000), 16000.0).any() and loudness(torch.zeros(16000), 16000.0).max() == -60


# Command line, jobs, records -------------------------------------------


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    made = tmp_path_factory.mktemp("model") / "tiny"
    pipe.save_pretrained(made)
    return made


def run(folder, out, *words):
    code = main(["generate", "--model", str(folder), "-o", str(out), "--steps", "2", "--quiet", *words])
    return code


def test_the_command_jobs_and_from_make_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawing().save("page.png")
    prompt = ["--text", "a red ball", "--to", "image"]
    assert run(folder, "a", *prompt, "--control", "sketch=page.png::0.8@0-0.9") == 0
    assert run(folder, "plain", *prompt) == 0
    made = io.load_image("a/000.png")
    assert not torch.equal(made, io.load_image("plain/000.png"))
    (control,) = json.loads((tmp_path / "a" / "manifest.json").read_text())["resolved"]["control"]
    assert control["output"] == "image" and control["weight"] == 0.8 and control["interval"] == [0, 0.9]
    assert read_record("a/000.png").model["controls"][0]["path"].endswith("image_sketch")
    assert run(folder, "b", "--from", "a/000.png") == 0
    assert torch.equal(io.load_image("b/000.png"), made)
    line = {"id": "x", "text": "a red ball", "to": "image", "control": {"image": {"sketch": "page.png"}}}
    line["control"]["image"]["sketch"] = {"value": "page.png", "weight": 0.8, "interval": [0, 0.9]}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    assert run(folder, "c", "--jobs", "jobs.jsonl") == 0
    assert torch.equal(io.load_image("c/x.png"), made)
    with warnings.catch_warnings(record=True):
        assert run(folder, "d", *prompt, "--control", "beats=0.1") == 2


def test_info_lists_controls(folder, capsys):
    assert main(["info", str(folder)]) == 0
    assert "control beats of audio" in capsys.readouterr().out
