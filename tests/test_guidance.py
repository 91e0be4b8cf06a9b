"""Guiders and classifier guidance from Python, command line, job files and records, and their mistakes."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from codi import cli
from codi.diffusion.guiders import GUIDERS, parse_guider
from codi.jobs import from_arguments
from codi.models.denoisers.experts import join
from codi.pipeline import CoDiPipeline, named_scheduler
from codi.records import read_record
from codi.types import InputError, Modality
from tests.tiny_pipeline import pipeline, saved

ROOT = Path(__file__).parent.parent
IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
QUICK = dict(text="a ball", outputs=["image", "audio"], num_inference_steps=3, seed=0, output_type="latent")
STEPS = ("--steps", "2", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("model"))


def made(pipe, **options):
    return pipe(**{**QUICK, **options})


def same(a, b):
    return all(torch.equal(a.latents[m], b.latents[m]) for m in a.latents)


def error(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# From Python -----------------------------------------------------------


def test_the_plain_guider_is_the_default_to_the_bit(pipe):
    plain = made(pipe)
    for options in ({"guider": "cfg"}, {"guider": {"image": "cfg"}}, {"classifier_guidance": None}):
        assert same(plain, made(pipe, **options))
    assert plain.settings["guider"]["image"] == {"name": "cfg", "interval": [0.0, 1.0], "rescale": None}
    assert "classifier_guidance" not in plain.settings


@pytest.mark.parametrize("name", ["apg", "zero-star", "skip-layer", "perturbed-attention"])
def test_every_guider_acts_on_the_output_that_it_is_for(pipe, name):
    always = {"branch_interval": (0.0, 1.0)} if "-" in name and name != "zero-star" else {}
    alone = dict(outputs="image", guidance_scale=4.0)
    assert not same(made(pipe, **alone), made(pipe, **alone, guider={"name": name, **always}))
    out = made(pipe, guider={"image": {"name": name, **always}})
    assert out.settings["guider"]["image"]["name"] == name
    assert out.settings["guider"]["audio"]["name"] == "cfg"


def test_cfg_plus_plus_needs_a_first_order_and_has_a_scale_of_its_own(pipe):
    alone = dict(outputs="image", guider="cfg++")
    said = error(made, pipe, **alone)
    assert "stated for steps of first order, and DPMSolverMultistepScheduler takes others for image" in said
    other = CoDiPipeline.from_pipe(pipe)
    other.scheduler = named_scheduler("ddim", pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    out = made(other, **alone)
    assert out.settings["guidance_scale"] == {"image": 0.6}
    assert same(out, made(other, **alone, guidance_scale=0.6))
    assert not same(out, made(other, outputs="image"))
    said = error(made, other, **alone, guidance_scale=3.0)
    assert "guidance_scale of image is 3, and the guider cfg++ has a scale of its own (0.6)" in said


def test_a_callback_that_switches_guidance_off_switches_off_a_guider_with_its_own_scale(pipe):
    other = CoDiPipeline.from_pipe(pipe)
    other.scheduler = named_scheduler("ddim", pipe.scheduler)
    other.set_progress_bar_config(disable=True)

    def cut(p, step, timestep, tensors):
        p._guidance_scale = 0.0
        return {}

    alone = dict(outputs="image", guider={"name": "cfg++", "strength": 1.0})
    first = {"name": "cfg++", "strength": 1.0, "interval": (0.0, 0.3)}
    assert same(made(other, **alone, callback_on_step_end=cut), made(other, **{**alone, "guider": first}))


def test_classifier_guidance_by_name_and_by_function(pipe):
    plain = made(pipe)
    for value in ("prompt", {"name": "agreement", "scale": 5.0}):
        assert not same(plain, made(pipe, classifier_guidance=value))
    assert same(plain, made(pipe, classifier_guidance={"name": "prompt", "scale": 0}))
    seen = set()

    def brighter(latents, prompts):
        seen.update((str(name), name in prompts) for name in latents)
        return latents[IMAGE].flatten(1).mean(1) * 100

    alone = dict(outputs="image", num_inference_steps=6)
    value = {"name": brighter, "outputs": "image"}
    steered = made(pipe, **alone, classifier_guidance=value)
    assert steered.latents[IMAGE].mean() > made(pipe, **alone).latents[IMAGE].mean()
    assert seen == {("image", True)}
    assert steered.settings["classifier_guidance"]["from"] == "memory (brighter)"
    assert not steered.latents[IMAGE].requires_grad


def test_gradients_are_there_for_the_function_alone(pipe):
    seen = []
    hook = pipe.vision_denoiser.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    made(pipe, outputs="image", classifier_guidance="prompt")
    hook.remove()
    assert seen and not any(seen)


def test_experts_are_a_denoiser_like_any_other(pipe, tmp_path):
    both = join(pipe.vision_denoiser, pipe.vision_denoiser, 0.0, pipe._process)
    pair = CoDiPipeline.from_pipe(pipe, vision_denoiser=both)
    pair.set_progress_bar_config(disable=True)
    assert same(made(pipe), made(pair))
    pair.save_pretrained(tmp_path)
    again = CoDiPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.vision_denoiser).__name__ == "UNetExperts" and same(made(again), made(pair))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guider": "agp"}, "guider 'agp': expected one of cfg, apg, zero-star, cfg++"),
        ({"guider": {"video": "apg"}}, "guider names video, which is no output"),
        ({"guider": {"name": "zero-star", "zero_steps": 1}}, "image is no flow matching (v_prediction)"),
        ({"guider": {"name": "skip-layer", "blocks": [9]}}, "names 9, and what makes image has"),
        ({"classifier_guidance": "agreement", "outputs": "image"}, "is between outputs, and image alone"),
        ({"classifier_guidance": "prompt", "text": None}, "leads towards a prompt"),
    ],
)
def test_mistakes_are_one_line(pipe, options, words):
    assert words in error(made, pipe, **options)


# The page --------------------------------------------------------------


def test_the_page_runs(monkeypatch):
    """Every block of Python, in order, with the embedded model at two steps; every command is understood."""
    page = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8")
    load = CoDiPipeline.from_pretrained

    def quick():
        found = load()
        found.register_to_config(defaults={**found.config.defaults, "num_inference_steps": 2})
        found.set_progress_bar_config(disable=True)
        return found

    monkeypatch.setattr(CoDiPipeline, "from_pretrained", quick)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "docs/guidance.md", "exec"), names)
    assert "pipe" in names and "dark" in names
    lines = [line for line in page.splitlines() if line.startswith("codi generate")]
    assert len(lines) == 5
    for line in lines:
        job = from_arguments(cli.build_parser().parse_args(shlex.split(line)[1:]))
        guiders = job.guider or {}
        for guider in [guiders] if "name" in guiders else guiders.values():
            parse_guider(guider)


def test_every_guider_has_a_line_in_the_page():
    page = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8")
    for name, kind in GUIDERS.items():
        [line] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        named = {field.name for field in fields(kind)} - {"interval", "rescale"}
        assert name in ("cfg", "perturbed-attention") or all(f"`{option}`" in line for option in named)


# Command line, job files and records ------------------------------------


def run(out: Path, *arguments: str) -> None:
    assert cli.main(["generate", "-o", str(out), *arguments]) == 0


def test_files_are_made_again_to_the_bit(model, tmp_path):
    asked = ("--text", "a ball", "--to", "image,audio", "--model", model, *STEPS)
    guider = "image=apg:eta=0.2:interval=0.0-0.8,audio=zero-star"
    classifier = "prompt:scale=0.4:outputs=image+audio:interval=0-0.9"
    run(tmp_path / "a", *asked, "--guider", guider, "--classifier-guidance", classifier)
    run(tmp_path / "plain", *asked)
    record = read_record(tmp_path / "a" / "000.png").resolved
    assert record["guider"]["image"]["eta"] == 0.2 and record["guider"]["audio"]["name"] == "zero-star"
    assert record["guider"]["image"]["interval"] == [0.0, 0.8]
    assert record["classifier_guidance"]["scale"] == {"image": 0.4, "audio": 0.4}
    run(tmp_path / "b", "--from", str(tmp_path / "a" / "000.png"), "--quiet")
    for name in ("000.png", "000.wav"):
        first = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == first != (tmp_path / "plain" / name).read_bytes()
    arguments = read_record(tmp_path / "a" / "000.png").arguments()
    assert arguments["classifier_guidance"]["name"] == "prompt" and "guider" in arguments
    run(
        tmp_path / "c",
        "--from",
        str(tmp_path / "a" / "000.png"),
        "--quiet",
        "--guider",
        "cfg",
        "--to",
        "image",
    )
    other = read_record(tmp_path / "c" / "000.png").resolved
    assert other["guider"]["image"]["name"] == "cfg"
    assert other["classifier_guidance"]["outputs"] == ["image"]


def test_a_scale_of_a_guider_comes_back_and_goes_with_it(model, tmp_path):
    asked = ("--text", "a ball", "--to", "image", "--model", model, "--scheduler", "ddim", *STEPS)
    run(tmp_path / "a", *asked, "--guider", "cfg++:strength=0.4")
    source = str(tmp_path / "a" / "000.png")
    run(tmp_path / "b", "--from", source, "--quiet")
    assert (tmp_path / "b" / "000.png").read_bytes() == Path(source).read_bytes()
    run(tmp_path / "c", "--from", source, "--quiet", "--guider", "cfg")
    assert read_record(tmp_path / "c" / "000.png").resolved["guidance_scale"] == {"image": 3.0}


def test_lines_of_jobs_name_guiders(model, tmp_path):
    rows = [
        {"id": "a", "text": "a ball", "to": "image", "guider": {"name": "apg", "eta": 0.1}},
        {"id": "b", "text": "a ball", "to": "image", "classifier_guidance": {"name": "prompt", "scale": 0.3}},
        {"id": "c", "text": "a ball", "to": "image", "guider": {"image": "zero-star"}},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "a", "--jobs", str(tmp_path / "jobs.jsonl"), "--model", model, *STEPS)
    found = [read_record(tmp_path / "a" / f"{row['id']}.png").resolved for row in rows]
    assert [each["guider"]["image"]["name"] for each in found] == ["apg", "cfg", "zero-star"]
    assert [each.get("classifier_guidance", {}).get("name") for each in found] == [None, "prompt", None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--guider", "agp"), "guider 'agp': expected one of cfg"),
        (("--guider", "apg:eta"), "--guider is 'apg:eta': expected a name with options"),
        (("--guider", "apg:eta=1:eta=0"), "--guider has eta twice"),
        (("--guider", "movie=apg"), "movie"),
        (("--guider", "apg:etaa=1"), "the guider apg has no option 'etaa'"),
        (("--guider", "audio=apg"), "guider names audio, which is no output"),
        (("--classifier-guidance", "promt"), "classifier_guidance 'promt'"),
        (("--classifier-guidance", "prompt:scale=x"), "scale of classifier_guidance is 'x'"),
    ],
)
def test_mistakes_of_the_command_line_are_one_line(model, tmp_path, capsys, arguments, words):
    asked = ("generate", "-o", str(tmp_path), "--text", "a", "--to", "image", "--model", model, *STEPS)
    assert cli.main([*asked, *arguments]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("codi: error")]
    assert words in line


def test_what_only_python_can_give_is_refused_from_a_record(model, tmp_path, capsys):
    pipe = CoDiPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)

    def small(latents, prompts):
        return -latents[IMAGE].square().flatten(1).sum(1)

    call = dict(text="a ball", outputs="image", num_inference_steps=2, seed=0, classifier_guidance=small)
    pipe(**call).save(tmp_path)
    assert (
        cli.main(["generate", "--from", str(tmp_path / "000.png"), "-o", str(tmp_path / "b"), "--quiet"]) == 2
    )
    assert "was made with a function from memory (small) as classifier_guidance" in capsys.readouterr().err
