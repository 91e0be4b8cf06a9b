"""Prompts for parts of outputs: where they count, what they leave, their records, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from codi import cli, jobs, regions
from codi.conditions.regional import RegionalPrompt, shares_of
from codi.diffusion import Guidance, NoiseProcess, copy_schedulers, draw_noise
from codi.joint.sampler import JointSampler
from codi.pipeline import Prompt
from codi.records import read_record
from codi.types import InputError, Modality
from tests.diffusion.toy import (
    MEAN,
    PAIR,
    GaussianDenoiser,
    LatentEnvironment,
    Reader,
    Recorder,
    context,
    scheduler,
)
from tests.tiny_pipeline import pipeline, saved

AUDIO, VIDEO = PAIR
QUICK = dict(num_inference_steps=2, seed=0, output_type="latent")
STEPS = ("--steps", "2", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


def latent(pipe, output, **given):
    return pipe(outputs=output, **QUICK, **given).latents[Modality(output)]


# In the loop -----------------------------------------------------------


def halves(batch=2, size=2000, left=1.0, right=-1.0):
    """The prompts of both halves of a latent of `size` numbers, and nothing of the whole."""
    shares = torch.zeros(2, size)
    shares[0, : size // 2], shares[1, size // 2 :] = 1, 1
    return RegionalPrompt(prompts=(context(batch, left), context(batch, right)), shares=shares, apart=0.7)


def sampler(**options):
    source = scheduler("dpm")
    process = NoiseProcess.from_scheduler(source)
    return JointSampler(
        denoisers={m: GaussianDenoiser(process, options.get("rho", 0.0)) for m in PAIR},
        schedulers=copy_schedulers(source, PAIR, 25),
        contexts={m: context(2) for m in PAIR},
        **{name: value for name, value in options.items() if name != "rho"},
    )


def noise(size=2000):
    return {m: draw_noise((size,), range(2), m)[0] for m in PAIR}


def test_each_half_follows_its_own_prompt_and_other_outputs_their_own():
    out = sampler(regions={AUDIO: halves()}).sample(noise())
    assert out[AUDIO][:, :1000].mean() == pytest.approx(MEAN + 1, abs=0.03)
    assert out[AUDIO][:, 1000:].mean() == pytest.approx(MEAN - 1, abs=0.03)
    assert out[VIDEO].mean() == pytest.approx(MEAN, abs=0.03)


def test_regions_are_guided_away_from_the_same_negative_prompt():
    """Of a Gaussian, guidance by w from the mean n leads to the mean n + w (prompt - n)."""
    guided = sampler(
        regions={AUDIO: halves()},
        null_contexts={m: context(2, 0.5) for m in PAIR},
        guidance={m: Guidance(scales={"prompt": 2.0}) for m in PAIR},
    )
    out = guided.sample(noise())
    assert out[AUDIO][:, :1000].mean() == pytest.approx(MEAN + 0.5 + 2 * 0.5, abs=0.06)
    assert out[AUDIO][:, 1000:].mean() == pytest.approx(MEAN + 0.5 - 2 * 1.5, abs=0.06)
    assert out[VIDEO].mean() == pytest.approx(MEAN + 0.5 - 2 * 0.5, abs=0.06)


def test_every_region_attends_to_the_partners():
    process = NoiseProcess.from_scheduler(scheduler("dpm"))
    joint = sampler(
        rho=0.8,
        regions={AUDIO: halves(left=0.0, right=0.0)},
        environment_encoders={m: LatentEnvironment(process) for m in PAIR},
    )
    rows = []
    joint.denoisers[AUDIO] = Recorder(
        joint.denoisers[AUDIO], partners=lambda env: rows.append(len(env.tokens))
    )
    out = joint.sample(noise())
    assert set(rows) == {2, 4}  # one prompt of two samples, or both
    both = torch.stack([out[AUDIO].flatten(), out[VIDEO].flatten()])
    assert torch.corrcoef(both)[0, 1].item() == pytest.approx(0.8, abs=0.05)


def test_partners_are_told_of_the_regions_of_an_output():
    """Its encoder reads it with what its regions say, each by its share, and not with a prompt that counts
    nowhere.
    """
    said = []
    joint = sampler(
        regions={AUDIO: halves(left=1.0, right=3.0)},
        noisy_latent_encoders={AUDIO: Reader(lambda x, t, c, rate: said.append(c) or c[:, 0])},
    )
    joint.sample(noise())
    assert said and all(torch.equal(c, context(2, 2.0)) for c in said)


def test_what_regions_say_is_as_long_as_their_prompts():
    whole, one = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
    shares = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    mean = RegionalPrompt(prompts=(one,), shares=shares).mean(whole)
    torch.testing.assert_close(mean, torch.full((1, 1, 2), 3 / 2**0.5))
    assert RegionalPrompt(prompts=(one,), shares=shares[:1] * 2).mean(whole) is not whole


def test_shares_sum_to_one_and_overlaps_go_by_weight():
    left = torch.tensor([1.0, 1.0, 0.5, 0.0]).view(1, 1, 4)
    middle = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 4)
    shares = shares_of([left, middle], [1.0, 3.0])[:, 0, 0]
    torch.testing.assert_close(shares.sum(0), torch.ones(4))
    torch.testing.assert_close(shares[1], torch.tensor([1.0, 0.25, 0.5, 0.0]))
    torch.testing.assert_close(shares[2], torch.tensor([0.0, 0.75, 0.0, 0.0]))
    everywhere = shares_of([torch.ones(1, 1, 4)], [2.0])
    assert len(everywhere) == 1 and bool((everywhere == 1).all())  # nothing is left for the whole


# Through a pipeline ----------------------------------------------------


@pytest.mark.parametrize("output", ["image", "audio", "video"])
def test_a_region_of_everything_is_a_prompt_of_the_whole(pipe, output):
    bounds = {"audio": {"interval": (0, 0.5)}}.get(output, {"box": (0, 0, 1, 1)})
    plain = latent(pipe, output, text="a red ball")
    region = {"text": "a red ball", **bounds}
    assert torch.equal(latent(pipe, output, text="at night", regions=[region]), plain)


@pytest.mark.parametrize("guider", ["apg", "zero-star", "skip-layer", "perturbed-attention"])
def test_regions_of_one_prompt_are_that_prompt_under_every_guider(pipe, guider):
    given = dict(guider=guider, guidance_scale=3.0)
    plain = latent(pipe, "image", text="a red ball", **given)
    halves = [{"text": "a red ball", "box": box} for box in ((0, 0, 0.5, 1), (0.5, 0, 1, 1))]
    both = latent(pipe, "image", text="at night", regions=halves, **given)
    torch.testing.assert_close(both, plain, atol=1e-3, rtol=1e-3)
    other = [halves[0], {**halves[1], "text": "a sea"}]
    assert not torch.allclose(
        latent(pipe, "image", text="at night", regions=other, **given), plain, atol=1e-2
    )


def test_what_is_kept_stays_beside_regions_and_the_rest_follows_them(pipe):
    source = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = dict(
        text="at night",
        outputs="image",
        start={"image": source},
        keep={"image": (0, 0, 0.5, 1)},
        seed=0,
        num_inference_steps=3,
        output_type="pt",
    )
    regions = [[{"text": words, "box": (0.5, 0, 1, 1)}] for words in ("a red ball", "a sea")]
    one, other = (pipe(**given, regions=parts).images[0] for parts in regions)
    assert torch.equal(one[..., :16], source[..., :16]) and torch.equal(other[..., :16], source[..., :16])
    assert not torch.equal(one[..., 16:], other[..., 16:])
    everywhere = pipe(**{**given, "text": "a sea"}).images[0]
    plain = pipe(**given, regions=[{"text": "a sea", "box": (0, 0, 1, 1)}]).images[0]
    assert torch.equal(plain, everywhere)


def test_a_region_changes_its_part_most_and_the_order_of_regions_nothing(pipe):
    """The tiny network looks around by few cells, so that the far side hardly changes."""
    left = {"text": "a blue cube", "box": (0, 0, 0.5, 1)}
    right = {"text": "a sea", "box": (0.5, 0, 1, 1)}
    plain = latent(pipe, "image", text="a red ball")
    one = latent(pipe, "image", text="a red ball", regions=[left])
    changed = (one - plain).abs().mean(dim=(0, 1, 2))
    assert changed[:4].mean() > 2 * changed[4:].mean()
    both = latent(pipe, "image", text="a red ball", regions=[left, right])
    swapped = latent(pipe, "image", text="a red ball", regions=[right, left])
    torch.testing.assert_close(both, swapped, atol=1e-4, rtol=1e-4)


def test_an_interval_counts_in_clip_and_sound_and_a_box_in_the_clip_alone(pipe):
    given = dict(text="a red ball", outputs=["video", "audio", "image"], auxiliary_caption=False, sync=False)
    when = pipe.resolve(
        given=["text"], outputs=given["outputs"], regions=[{"text": "a sea", "interval": (0, 0.25)}]
    )
    assert set(when.regions.by_output) == {AUDIO, VIDEO}
    box = {"text": "a sea", "box": (0, 0, 0.5, 1), "interval": (0, 0.25)}
    where = pipe.resolve(given=["text"], outputs=given["outputs"], regions=[box])
    assert set(where.regions.by_output) == {AUDIO, VIDEO, Modality.IMAGE}
    alone = pipe.resolve(given=["text"], outputs=given["outputs"], regions=[{**box, "outputs": ["video"]}])
    assert set(alone.regions.by_output) == {VIDEO}


def test_regions_alone_are_guided_and_a_mask_is_the_box_that_it_shows(pipe):
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    box = latent(pipe, "image", regions=[{"text": "a red ball", "box": (0, 0, 0.5, 1)}])
    masked = latent(pipe, "image", regions=[{"text": "a red ball", "mask": mask}])
    assert torch.equal(box, masked)
    weak = latent(pipe, "image", regions=[{"text": "a red ball", "mask": mask}], guidance_scale=1.0)
    assert not torch.allclose(box, weak)


def test_each_sample_of_a_batch_is_what_it_is_alone(pipe):
    region = [{"text": ["a red ball", Prompt("a sea", 0.5)], "interval": (0, 0.25), "fade": 0.1}]
    two = latent(pipe, "audio", text="at night", regions=region, num_samples=2)
    one = pipe(text="at night", outputs="audio", regions=region, **{**QUICK, "seed": 1}).latents[AUDIO]
    torch.testing.assert_close(two[1:], one, atol=1e-4, rtol=1e-4)


# Command line, jobs, records -------------------------------------------


def test_command_line_job_and_record_make_the_same_file(tmp_path, capsys):
    model = saved(tmp_path / "model")
    Image.new("L", (20, 20), 255).save(tmp_path / "mask.png")
    typed = f"a red ball::0.7 @ box=0,0,0.5,1 feather=0.2 weight=2 'mask={tmp_path}/mask.png' to=image"
    asked = ["generate", "--model", model, *STEPS]
    command = ["--text", "at night", "--to", "image", "--region", typed]
    assert cli.main([*asked, *command, "-o", str(tmp_path / "a")]) == 0
    first = tmp_path / "a" / "000.png"
    region = {
        "text": "a red ball::0.7",
        "box": [0, 0, 0.5, 1],
        "feather": 0.2,
        "weight": 2,
        "mask": "mask.png",
    }
    line = {"id": "x", "text": "at night", "to": "image", "regions": [region]}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    assert cli.main([*asked, "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path / "b")]) == 0
    pixels = Image.open(first).tobytes()
    assert Image.open(tmp_path / "b" / "x.png").tobytes() == pixels
    record = read_record(first)
    [row] = record.regions
    assert row["box"] == [0, 0, 0.5, 1] and row["inputs"][0]["weight"] == 0.7 and row["outputs"] == ["image"]
    for source in (first, tmp_path / "b" / "x.json"):
        out = tmp_path / f"again-{source.stem}"
        assert (
            cli.main(["generate", "--from", str(source), "--device", "cpu", "--quiet", "-o", str(out)]) == 0
        )
        [again] = out.glob("*.png")
        assert Image.open(again).tobytes() == pixels
        assert read_record(again).regions[0]["mask"]["sha256"] == row["mask"]["sha256"]
    arguments = record.arguments()
    assert arguments["regions"][0]["text"] == [Prompt("a red ball", 0.7)]
    other = ["--region", "a sea @ box=0,0,0.5,1", "-o", str(tmp_path / "c"), "--device", "cpu", "--quiet"]
    assert cli.main(["generate", "--from", str(first), *other]) == 0
    assert Image.open(tmp_path / "c" / "000.png").tobytes() != pixels
    capsys.readouterr()
    assert cli.main([*asked, "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == ""  # finished: nothing is made again
    (tmp_path / "mask.png").unlink()
    assert cli.main(["generate", "--from", str(first), "--quiet", "-o", str(tmp_path / "d")]) == 2
    assert "mask.png, which is not there" in capsys.readouterr().err


def test_a_region_as_typed():
    assert jobs.parse_region("a ball @ the sea @ interval=0,1.5 fade=0.1 to=video,audio") == {
        "text": [{"value": "a ball @ the sea", "weight": 1.0}],
        "interval": [0.0, 1.5],
        "fade": 0.1,
        "outputs": "video,audio",
    }
    assert jobs.parse_region("@ image=b.png box=0,0,1,1")["image"] == [{"value": "b.png", "weight": 1.0}]


# What is refused -------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("a red ball", "says not where"),
        ("a red ball @ box=0,0,1", "4 numbers"),
        ("a red ball @ interval=soon", "2 numbers"),
        ("a red ball @ where=left", "expected some of box"),
        ("a red ball @ box=0,0,1,1 box=0,0,1,1", "box twice"),
        ("a red ball @ 'mask=a", "quote"),
        ("a red ball @ mask=http://a.org/b.png", "no network"),
    ],
)
def test_what_is_no_region_as_typed_is_one_line(typed, message):
    with pytest.raises(InputError, match=message) as error:
        jobs.parse_region(typed)
    assert "\n" not in str(error.value)


BALL = {"text": "a red ball"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "a red ball"}, "regions is a dict"),
        (["a red ball"], "a region is a str"),
        ([{"box": (0, 0, 1, 1)}], "no prompt"),
        ([BALL], "'a red ball' is not bounded"),
        ([{**BALL, "where": "left"}], "the key 'where'"),
        ([{**BALL, "box": (0.5, 0, 1.5, 1)}], "from 0 to 1"),
        ([{**BALL, "interval": (1, 1)}], "which is empty"),
        ([{**BALL, "box": (0, 0, 1, 1), "weight": 0}], "weight of .* is 0"),
        ([{**BALL, "box": (0, 0, 1, 1), "weight": "much"}], "weight of .* is 'much'"),
        ([{**BALL, "box": (0, 0, 1, 1), "outputs": "smell"}], "unknown modality"),
        ([{**BALL, "box": (0, 0, 1, 1), "outputs": []}], "expected names"),
        ([{**BALL, "mask": 3}], "height x width"),
        ([{**BALL, "mask": "nowhere.png"}], "nowhere.png"),
    ],
)
def test_what_is_no_region_is_one_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        regions.read(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("outputs", "region", "message"),
    [
        ("image", {"interval": (0, 1)}, "bounds nothing that is made .image."),
        ("audio", {"box": (0, 0, 1, 1)}, "bounds nothing that is made .audio."),
        ("text", {"box": (0, 0, 1, 1)}, "bounds nothing"),
        ("image", {"box": (0, 0, 1, 1), "outputs": ["video"]}, "is for video, which is not made"),
        ("image,audio", {"box": (0, 0, 1, 1), "outputs": ["audio"]}, "nothing that it bounds"),
        ("audio", {"interval": (0, 3)}, "beyond the end: expected seconds within 0.5"),
        ("image", {"mask": torch.ones(8, 16)}, "in image is 8 x 16"),
    ],
)
def test_a_region_that_no_output_has_is_one_line(pipe, outputs, region, message):
    with pytest.raises(InputError, match=message) as error:
        pipe.resolve(given=[], outputs=outputs.split(","), regions=[{**BALL, **region}])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": [0, 0, 1]}, "box"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"as": "embeds", "weight": 1.0}]}, "inputs"),
        ({"smell": 1}, "smell"),
        ({"mask": {"path": "a.png"}}, "mask"),
    ],
)
def test_a_record_with_a_damaged_region_is_one_line(pipe, tmp_path, change, message):
    out = pipe(
        text="a", outputs="image", num_inference_steps=1, seed=0, regions=[{**BALL, "box": (0, 0, 1, 1)}]
    )
    record = out.record(0)
    record["regions"][0].update(change)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record, default=str))
    with pytest.raises(InputError, match=message):
        read_record(path)


# The benchmark ---------------------------------------------------------


@pytest.mark.parametrize("name", ["place", "box", "sound"])
def test_the_benchmark_reads_the_truth_right_and_the_other_scene_wrong(name):
    """Measures are of the part that they name: with the two scenes exchanged none of the parts is right."""
    from benchmarks import regions as benchmark
    from codi import world

    task = benchmark.TASKS[name]
    first = world.sample_scenes(3, seed=1)
    last = [benchmark.other(scene, task.differs, np.random.default_rng(0)) for scene in first]
    truth = {}
    for modality in task.outputs:
        rendered = [world.RENDERERS[modality](scenes) for scenes in (first, last)]
        truth[modality] = task.join(modality, *rendered)
    measure = {"place": "place, both", "box": "shape and colour", "sound": "audio colour, both"}[name]
    assert all(task.judge(truth, first, last)[measure])
    if task.differs:
        assert not any(task.judge(truth, last, first)[measure])
