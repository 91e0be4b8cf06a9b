"""Starts, parts to keep and keyframes of composed models, with the schedulers and layouts of their own."""

import pytest
import torch
from diffusers import DiffusionPipeline

from codi.compose.foreign import ForeignModel
from codi.compose.grid import Grid, Layout, causal_seconds, even_seconds
from codi.compose.pipeline import ComposedPipeline
from codi.types import InputError, Modality
from tests.compose import tiny_foreign

IMAGE, AUDIO, VIDEO = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
NAMES = {IMAGE: "sd15", VIDEO: "animatediff", AUDIO: "audioldm"}
QUICK = dict(seed=0, num_inference_steps=4, output_type="pt")


def composed(names) -> ComposedPipeline:
    models = {}
    for modality, name in names.items():
        pipeline = DiffusionPipeline.from_pretrained(str(tiny_foreign.folder(name)))
        models[modality] = ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)
    pipe = ComposedPipeline(models)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return composed(NAMES)


def source(pipe, modality):
    draw = torch.Generator().manual_seed(1)
    shape = pipe.models[modality].spec().raw_shape
    if len(shape) == 1:
        return torch.rand(shape, generator=draw) - 0.5
    return torch.randint(0, 255, shape, dtype=torch.uint8, generator=draw)


def test_at_strength_1_it_is_what_its_pipeline_makes_to_the_bit(pipe):
    outputs = ["image", "video", "audio"]
    start = {name: source(pipe, Modality(name)) for name in outputs}
    plain = pipe("a ball", outputs=outputs, **QUICK)
    given = pipe("a ball", outputs=outputs, start=start, strength=1.0, **QUICK)
    for name in outputs:
        assert torch.equal(plain.of(name)[0], given.of(name)[0])


def test_at_strength_0_it_is_the_round_trip(pipe):
    picture = source(pipe, IMAGE)
    out = pipe("a ball", outputs="image", start={"image": picture}, strength=0.0, **QUICK)
    model = pipe.models[IMAGE]
    latent = model.encode(picture[None].float() / 127.5 - 1)
    expected = model.decode(latent)[0].clamp(-1, 1)
    assert (out.images[0].float() / 127.5 - 1 - expected).abs().max() < 0.02


def test_with_the_words_of_the_source_as_prompt_the_source_comes_back(pipe):
    """Guidance of 1: what is added to the answer is just what it loses.

    Not of the clip model: in few evenly spaced steps DDIM goes to other levels than its timesteps say.
    """
    outputs = ["image", "audio"]
    start = {name: source(pipe, Modality(name)) for name in outputs}
    asked = dict(outputs=outputs, start=start, seed=0, num_inference_steps=4, output_type="latent")

    def made(strength, **more):
        return pipe("a ball", strength=strength, guidance_scale=1.0, **asked, **more)

    trip, same, other = made(0.0), made(0.8, source_prompt="a ball"), made(0.8, source_prompt="a cat")
    for name in outputs:
        exact, back, far = (each.latents[Modality(name)] for each in (trip, same, other))
        assert (back - exact).abs().mean() < 0.04  # the last level is not quite clean
        assert not torch.equal(far, back)


KEPT = {IMAGE: (0, 0, 0.5, 1), VIDEO: [0, 1, 2], AUDIO: (0, 0.3)}


def check_kept(out, given, modality, spec):
    made = out.of(modality)[0]
    if modality is IMAGE:
        assert torch.equal(made[..., :16], given[..., :16]) and not torch.equal(made, given)
    elif modality is VIDEO:
        assert torch.equal(made[:3], given[:3]) and not torch.equal(made[3:], given[3 : len(made)])
    else:
        count = int(0.3 * spec.rate)
        assert torch.equal(made.flatten()[:count], given[:count])
        assert not torch.equal(made.flatten()[count * 2 :], given[count * 2 : made.numel()])


def test_what_is_kept_comes_back_to_the_bit_beside_others(pipe):
    outputs = ["image", "video", "audio"]
    start = {name: source(pipe, Modality(name)) for name in outputs}
    keep = {m.value: regions for m, regions in KEPT.items()}
    out = pipe("a ball", outputs=outputs, start=start, keep=keep, resample_steps=2, **QUICK)
    for modality in KEPT:
        check_kept(out, start[modality.value], modality, pipe.models[modality].spec())


@pytest.mark.parametrize("name", ["sd3", "flux", "ltx", "wan", "stable_audio"])
def test_every_layout_and_schedule_takes_a_start_and_a_part_to_keep(name):
    if reason := tiny_foreign.missing(name):
        pytest.skip(reason)
    pipeline = DiffusionPipeline.from_pretrained(str(tiny_foreign.folder(name)))
    model = ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)
    one = ComposedPipeline({model.modality: model})
    one.set_progress_bar_config(disable=True)
    given = {model.modality.value: source(one, model.modality)}
    plain = one("a ball", outputs=[model.modality], **QUICK).of(model.modality)[0]
    again = one("a ball", outputs=[model.modality], start=given, strength=1.0, **QUICK).of(model.modality)[0]
    assert torch.equal(plain, again)
    half = one("a ball", outputs=[model.modality], start=given, strength=0.5, **QUICK).of(model.modality)[0]
    assert not torch.equal(plain, half)
    keep = {model.modality.value: KEPT[model.modality]}
    out = one("a ball", outputs=[model.modality], start=given, keep=keep, resample_steps=2, **QUICK)
    made = out.of(model.modality)[0]
    if model.modality is AUDIO:
        made = made.reshape(-1, made.shape[-1])[0]
        out.audios[0] = made
    check_kept(out, given[model.modality.value], model.modality, model.spec())


def test_a_whole_output_that_is_kept_comes_back(pipe):
    clip = source(pipe, VIDEO)
    with pytest.warns(UserWarning, match="everything of video is kept"):
        out = pipe("a ball", outputs=["video", "audio"], start={"video": clip}, keep={"video": True}, **QUICK)
    assert torch.equal(out.videos[0], clip) and out.audios[0].isfinite().all()


def test_what_a_composed_model_does_not_make_has_no_start(pipe):
    with pytest.raises(InputError, match="audio is given a start.*but is not made"):
        pipe("a ball", outputs="image", start={"audio": torch.zeros(100)}, **QUICK)


def test_edges_of_even_and_of_causal_grids():
    even = Grid(layout=Layout.CLIP, shape=(4, 2, 2), seconds=even_seconds(4, 8.0), duration=0.5)
    assert even.edges(8.0) == [0, 1, 2, 3, 4]
    causal = Grid(layout=Layout.CLIP, shape=(3, 2, 2), seconds=causal_seconds(3, 4, 8.0), duration=9 / 8)
    assert causal.edges(8.0) == [0, 1, 5, 9]
    assert Grid(layout=Layout.PICTURE, shape=(1, 2, 2)).edges(None) is None


def test_a_latent_of_another_length_is_cut_or_goes_on():
    grid = Grid(layout=Layout.SPECTROGRAM, shape=(4, 2, 1), seconds=even_seconds(4, 8.0), duration=0.5)
    like = torch.zeros(1, 3, 4, 2)
    x = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 3, 5, 2)
    assert grid.fitted(x, like)[0, 0, :, 0].tolist() == [0, 1, 2, 3]
    assert grid.fitted(x[:, :, :3], like)[0, 0, :, 0].tolist() == [0, 1, 2, 2]
