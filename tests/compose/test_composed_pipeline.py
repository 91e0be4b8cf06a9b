"""A composed pipeline makes what its models make alone, and lets them attend to each other."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DiffusionPipeline

from codi import CoDiPipeline
from codi.cli import main
from codi.compose import folder as folders
from codi.compose import records
from codi.compose.check import latents_of_pipeline
from codi.compose.decoupled_attention import DecoupledAttentions, find_sites
from codi.compose.environment import ForeignEnvironmentEncoders, describe_latent
from codi.compose.foreign import ForeignDenoiser, ForeignModel
from codi.compose.joint_adapters import ForeignJointAdapters, adapted_network
from codi.compose.pipeline import ComposedPipeline
from codi.compose.prompt_translators import PromptTranslators, find_contexts
from codi.compose.references import Reference
from codi.types import InputError, Modality
from tests.compose import tiny_foreign

IMAGE, AUDIO, VIDEO, TEXT = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO, Modality.TEXT
NAMES = {IMAGE: "sd15", VIDEO: "animatediff", AUDIO: "audioldm"}
STEPS = {"image": 3, "video": 4, "audio": 5}


def models(names=None) -> dict[Modality, ForeignModel]:
    found = {}
    for modality, name in (names or NAMES).items():
        pipeline = DiffusionPipeline.from_pretrained(str(tiny_foreign.folder(name)))
        found[modality] = ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)
    return found


@pytest.fixture(scope="module")
def foreign():
    return models()


@pytest.fixture(scope="module")
def tiny():
    return CoDiPipeline.from_pretrained()


def joint_parts(foreign):
    """Untrained environment encoders and joint adapters of some models."""
    latents, networks = {}, {}
    for modality, model in foreign.items():
        prepared = model.prepare(["a ball"])
        denoiser = ForeignDenoiser(model, model.form(prepared.null is not None, prepared.call))
        latents[modality.value] = describe_latent(prepared.start, prepared.grid)
        networks[modality.value] = adapted_network(denoiser.blocks(prepared), prepared.grid)
    torch.manual_seed(0)
    encoders = ForeignEnvironmentEncoders(latents, dim=32, num_layers=1)
    adapters = ForeignJointAdapters(networks, env_dim=32, num_heads=4, width=32, hidden=16, num_layers=0)
    return encoders.eval(), adapters.eval()


def push(part):
    """Give layers that begin at zero something to say."""
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def own(model, text, seed, steps, scale, **more):
    call = model._arguments(
        model.call_for(),
        prompt=[text],
        num_inference_steps=steps,
        guidance_scale=scale,
        generator=[torch.Generator().manual_seed(seed)],
        **more,
    )
    return latents_of_pipeline(model, **call)


@pytest.mark.parametrize("modality", NAMES)
def test_an_output_by_itself_is_what_its_own_pipeline_makes(foreign, modality):
    pipe = ComposedPipeline(foreign)
    made = pipe(
        text="a red ball",
        outputs=[modality],
        num_inference_steps=3,
        guidance_scale=4.0,
        seed=7,
        output_type="latent",
    )
    assert torch.equal(made.latents[modality], own(foreign[modality], "a red ball", 7, 3, 4.0))


def test_untrained_joint_generation_equals_each_alone_to_the_bit():
    foreign = models()
    encoders, adapters = joint_parts(foreign)
    alone = ComposedPipeline(foreign)
    asked = dict(text="a red ball", num_inference_steps=STEPS, seed=7, output_type="latent", lengths="free")
    single = {
        m: alone(**{**asked, "outputs": [m], "num_inference_steps": STEPS[m.value]}).latents[m] for m in NAMES
    }
    pipe = ComposedPipeline(foreign, environment_encoders=encoders, joint_adapters=adapters)
    together = pipe(**asked, outputs=list(NAMES)).latents
    assert all(torch.equal(together[m], single[m]) for m in NAMES)
    push(adapters)
    changed = pipe(**asked, outputs=list(NAMES)).latents
    assert all(not torch.equal(changed[m], single[m]) for m in NAMES)
    # nobody to attend to: as alone
    one = pipe(**{**asked, "outputs": [IMAGE], "num_inference_steps": 3}).latents[IMAGE]
    assert torch.equal(one, single[IMAGE])


def test_a_clip_that_is_given_stands_in_the_loop():
    foreign = models({m: NAMES[m] for m in (VIDEO, AUDIO)})
    encoders, adapters = joint_parts(foreign)
    push(adapters)
    pipe = ComposedPipeline(foreign, environment_encoders=encoders, joint_adapters=adapters)
    assert pipe.takes == [TEXT, AUDIO, VIDEO]
    clips = [
        torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
        for k in (1, 2)
    ]
    asked = dict(outputs=["audio"], num_inference_steps=3, seed=7, output_type="latent", text="a ball")
    first, second = (pipe(video=(clip, 8.0), **asked) for clip in clips)
    assert first.settings["partners"] == ["video"]
    assert not torch.equal(first.latents[AUDIO], second.latents[AUDIO])
    with pytest.raises(InputError, match="nothing would come of the video"):
        pipe(video=(clips[0], 8.0), sync=False, **asked)


def test_every_output_has_a_sentence_steps_and_guidance_of_its_own(foreign):
    pipe = ComposedPipeline(foreign)
    made = pipe(
        text={"image": "a red ball", "audio": "a blue star"},
        outputs=["image", "audio"],
        num_inference_steps={"image": 3, "audio": 5},
        guidance_scale={"image": 4.0, "audio": 2.0},
        seed=7,
        output_type="latent",
    )
    assert torch.equal(made.latents[IMAGE], own(foreign[IMAGE], "a red ball", 7, 3, 4.0))
    assert torch.equal(made.latents[AUDIO], own(foreign[AUDIO], "a blue star", 7, 5, 2.0))
    assert made.settings["num_inference_steps"] == {"image": 3, "audio": 5}
    with pytest.raises(InputError, match="text names video, which is no output"):
        pipe(text={"video": "a ball"}, outputs=["image"])


def test_sentences_that_combine_lie_between_each_of_them(foreign):
    pipe = ComposedPipeline({IMAGE: foreign[IMAGE]})
    asked = dict(outputs=["image"], num_inference_steps=2, seed=7, output_type="latent")
    from codi import Prompt

    both = pipe(text=[Prompt("a red ball", 1.0), Prompt("a blue star", 0.0)], **asked).latents[IMAGE]
    assert torch.equal(both, pipe(text="a red ball", **asked).latents[IMAGE])
    half = pipe(text=["a red ball", "a blue star"], **asked).latents[IMAGE]
    assert not torch.equal(half, both)


def test_a_sound_lasts_as_long_as_its_clip(foreign):
    pipe = ComposedPipeline(foreign)
    made = pipe(text="a ball", outputs=["video", "audio"], num_inference_steps=2, seed=1, output_type="pt")
    assert made.videos[0].shape == (6, 3, 32, 32) and made.fps == 8.0
    assert len(made.audios[0]) == round(6 / 8 * made.sampling_rate)
    free = pipe(text="a ball", outputs=["video", "audio"], num_inference_steps=2, seed=1, lengths="free")
    assert len(free.audios[0]) == round(0.64 * free.sampling_rate)
    half = pipe(
        text="a ball", outputs=["video", "audio"], num_inference_steps=2, seed=1, audio_length_in_s=0.5
    )
    assert len(half.videos[0]) == 4 and len(half.audios[0]) == 8000


def test_samples_do_not_depend_on_the_size_of_the_batch_beyond_rounding(foreign):
    pipe = ComposedPipeline({AUDIO: foreign[AUDIO]})
    asked = dict(text="a ball", outputs=["audio"], num_inference_steps=3, output_type="latent")
    both = pipe(num_samples=2, seed=[4, 9], **asked).latents[AUDIO]
    assert torch.allclose(both[1:], pipe(seed=9, **asked).latents[AUDIO], atol=1e-4)


def test_pictures_as_prompts_are_translated(foreign, tiny):
    model = foreign[IMAGE]
    prepared = model.prepare(["a red ball", "a blue star", "a green box in the snow"])
    contexts, masks = find_contexts([prepared.prompt])
    translators = PromptTranslators(tiny.model.context_dim, {"image": contexts}, {"image": masks}, hidden=32)
    translators.of(IMAGE).measure(prepared.prompt)
    pipe = ComposedPipeline({IMAGE: model}, text_model=tiny, translators=translators.eval())
    assert set(pipe.takes) == {TEXT, IMAGE, AUDIO, VIDEO}
    asked = dict(outputs=["image"], num_inference_steps=2, seed=7, output_type="latent")
    red, blue = (torch.full((3, 64, 64), 0.0), torch.zeros(3, 64, 64))
    red[0], blue[2] = 1.0, 1.0
    made = [pipe(image=picture, **asked).latents[IMAGE] for picture in (red, blue)]
    assert not torch.equal(*made)
    # a sentence alone is not translated
    plain = pipe(text="a red ball", **asked).latents[IMAGE]
    assert torch.equal(plain, own(model, "a red ball", 7, 2, model.guidance_scale()))


def test_a_text_and_a_picture_at_once_reach_a_frozen_network(tiny):
    """The text by its own encoders, the picture by decoupled attention, whose untrained answer is nothing."""
    foreign = models({IMAGE: "sd15", AUDIO: "audioldm"})
    torch.manual_seed(0)
    attention = DecoupledAttentions(tiny.model.context_dim, {"image": find_sites(foreign[IMAGE])}).eval()
    plain = ComposedPipeline(foreign)
    asked = dict(text="a ball", outputs=["image"], num_inference_steps=2, seed=7, output_type="latent")
    red, blue = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    red[0], blue[2] = 1.0, 1.0
    alone = plain(**asked).latents[IMAGE]
    with pytest.raises(InputError, match="ip_adapter_scale is 0.6, and no output here has decoupled"):
        plain(ip_adapter_scale=0.6, **asked)
    pipe = ComposedPipeline(foreign, text_model=tiny, decoupled_attention=attention)
    assert set(pipe.takes) == {TEXT, IMAGE, AUDIO, VIDEO} and "decoupled_attention" in pipe.components

    def made(**changed):
        return pipe(**{**asked, **changed}).latents[IMAGE]

    assert torch.equal(made(image=red, ip_adapter_scale={"image": 0.6}), alone)
    push(attention)
    found = made(image=red, ip_adapter_scale={"image": 0.6})
    assert torch.equal(made(image=red, ip_adapter_scale=0.6), found) and not torch.equal(found, alone)
    assert torch.equal(made(image=red, ip_adapter_scale=0), alone) and torch.equal(made(), alone)
    assert not torch.equal(made(image=blue, ip_adapter_scale=0.6), found)
    assert not torch.equal(made(image=red, ip_adapter_scale=0.6, text="a blue star"), found)
    assert torch.equal(made(image=red), made(image=red, ip_adapter_scale=1.0))  # nothing translates it
    with pytest.raises(InputError, match="no translator of prompts for audio"):
        made(image=red, outputs=["audio"])
    with pytest.raises(InputError, match="acts on prompts that are no sentences"):
        made(ip_adapter_scale=0.6)
    for wrong in (-1, "much", float("nan"), True):
        with pytest.raises(InputError, match="ip_adapter_scale of image is"):
            made(image=red, ip_adapter_scale={"image": wrong})
    with pytest.raises(InputError, match="ip_adapter_scale names audio: expected some of image"):
        made(image=red, ip_adapter_scale={"audio": 1})


def test_text_is_made_beside_the_models(foreign, tiny):
    pipe = ComposedPipeline({IMAGE: foreign[IMAGE]}, text_model=tiny)
    assert pipe.makes == [TEXT, IMAGE]
    made = pipe(text="a red ball", outputs=["text", "image"], num_inference_steps=4, seed=2)
    assert "red" in made.texts[0] and made.images[0].size == (32, 32)


def test_a_caption_may_be_drawn_first(foreign, tiny):
    pipe = ComposedPipeline(
        {m: foreign[m] for m in (IMAGE, AUDIO)}, text_model=tiny, defaults={"auxiliary_caption": "text"}
    )
    asked = dict(outputs=["image", "audio"], num_inference_steps=2, output_type="latent")
    made = pipe(text="a ball", seed=3, **asked)
    (caption,) = made.settings["captions"]
    assert "ball" in caption and len(caption.split()) > 3
    scale = foreign[AUDIO].guidance_scale()
    assert torch.equal(made.latents[AUDIO], own(foreign[AUDIO], caption, 3, 2, scale))
    # a caption that is asked for is the one that the others are made from, and as it is by itself
    told = {**asked, "outputs": ["text", "audio"], "num_inference_steps": {"text": 4, "audio": 2}}
    both = pipe(text="a ball", seed=3, **told)
    (caption,) = both.settings["captions"]
    assert torch.equal(both.latents[AUDIO], own(foreign[AUDIO], caption, 3, 2, scale))
    beside = pipe(text="a ball", seed=3, auxiliary_caption=False, **told)
    assert torch.allclose(both.latents[TEXT], beside.latents[TEXT], atol=1e-4)
    assert not torch.equal(both.latents[AUDIO], beside.latents[AUDIO])
    plain = pipe(text="a ball", seed=3, auxiliary_caption=False, **asked)
    assert torch.equal(plain.latents[AUDIO], own(foreign[AUDIO], "a ball", 3, 2, scale))


@pytest.mark.parametrize(
    "asked, message",
    [
        (dict(text="a ball", outputs=["text"]), "cannot make text: it makes image, audio, video"),
        (dict(image=torch.zeros(3, 8, 8), outputs=["audio"]), "takes no image prompt: it takes text"),
        (dict(text="a ball", outputs=["image"], fps=8), "fps is 8, but no video is made"),
        (
            dict(text="a ball", outputs=["image"], num_inference_steps={"audio": 3}),
            "names audio, which is no",
        ),
        (dict(text="a ball", outputs=["image"], num_inference_steps=0), "num_inference_steps of image is 0"),
        (dict(text="a ball", outputs=["image"], output_type="jpg"), "output_type is 'jpg'"),
        (dict(text="a ball", outputs=[]), "outputs names nothing"),
        (dict(text="a ball", outputs=["image"], num_inference_step=5), "num_inference_step"),
        (dict(text="a ball", outputs=["image"], ip_adapter_image=1), "sd15 has no IP-Adapter"),
        (dict(text="a ball", outputs=["video"], fps=0), "fps is 0: expected a number above 0"),
        (dict(text="a ball", outputs=["image"], height="512"), "height is '512': expected a whole number"),
        (dict(text="a ball", outputs=["image"], height=-8), "height is -8"),
        (dict(text="a ball", outputs=["video"], num_frames=2.5), "num_frames is 2.5"),
        (dict(text=5, outputs=["image"]), "a text prompt is a int: expected words"),
        (dict(text="a", outputs=["image"], partner_latents={IMAGE: torch.zeros(1)}), "partner_latents names"),
        (
            dict(text="a", outputs=["image"], negative_text="b", guidance_scale=1),
            "negative prompts act through guidance",
        ),
    ],
)
def test_what_it_cannot_do_is_one_line(foreign, asked, message):
    with pytest.raises(InputError, match=message):
        ComposedPipeline(foreign)(**asked)


def test_names_of_diffusers_are_understood(foreign):
    pipe = ComposedPipeline({IMAGE: foreign[IMAGE]})
    asked = dict(outputs=["image"], num_inference_steps=2, seed=7, output_type="latent")
    ours = pipe(text="a ball", negative_text="a star", **asked).latents[IMAGE]
    theirs = pipe(prompt="a ball", negative_prompt="a star", **asked).latents[IMAGE]
    assert torch.equal(ours, theirs)


def test_a_negative_for_one_output_leaves_the_others_alone(foreign):
    pipe = ComposedPipeline(foreign)
    asked = dict(
        text="a ball", outputs=["image", "audio"], num_inference_steps=2, seed=7, output_type="latent"
    )
    plain = pipe(**asked).latents
    made = pipe(negative_text={"audio": "a star"}, **asked).latents
    assert torch.equal(plain[IMAGE], made[IMAGE]) and not torch.equal(plain[AUDIO], made[AUDIO])
    assert torch.equal(pipe(negative_text={"audio": None}, **asked).latents[AUDIO], plain[AUDIO])


def test_sentences_for_single_outputs_are_named_in_records_and_not_replayed(foreign, tmp_path):
    pipe = ComposedPipeline({IMAGE: foreign[IMAGE]}, name="somewhere/my-codi")
    out = pipe(text={"image": "a ball"}, outputs=["image"], num_inference_steps=2, seed=7)
    assert out.model == "my-codi" and out.record(0)["model"]["name"] == "somewhere/my-codi"
    (path,) = out.save(tmp_path)
    from codi import read_record

    with pytest.raises(InputError, match="sentences for single outputs"):
        read_record(path).arguments()


def test_calls_of_several_threads_do_not_disturb_each_other(foreign):
    pipe = ComposedPipeline({IMAGE: foreign[IMAGE]})
    asked = dict(text="a ball", outputs=["image"], num_inference_steps=4, output_type="latent")
    wanted = [pipe(seed=seed, **asked).latents[IMAGE] for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda seed: pipe(seed=seed, **asked).latents[IMAGE], range(3)))
    assert all(map(torch.equal, wanted, made))
    assert "forward" not in foreign[IMAGE].network.__dict__


def test_a_call_leaves_the_global_generator_alone(foreign):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ComposedPipeline(foreign)(text="a ball", outputs=["video", "audio"], num_inference_steps=2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_callbacks_see_and_change_the_latents_and_can_stop(foreign):
    pipe = ComposedPipeline(foreign)
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, sorted(m.value for m in tensors["latents"])))
        pipe._interrupt = step == 1
        return {}

    pipe(
        text="a ball",
        outputs=["image", "audio"],
        num_inference_steps=4,
        seed=1,
        callback_on_step_end=callback,
    )
    assert seen == [(0, ["audio", "image"]), (1, ["audio", "image"])]


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """The folder of a composed model with untrained joint parts."""
    place = tmp_path_factory.mktemp("composed") / "my-codi"
    references = [
        Reference.read(m.value, tiny_foreign.folder(name), tiny_foreign.SIZES[name])
        for m, name in NAMES.items()
    ]
    encoders, adapters = joint_parts(models())
    parts = {"environment_encoders": encoders, "joint_adapters": adapters}
    folders.write(place, references, parts=parts)
    return place


def test_a_folder_loads_by_from_pretrained(composed):
    pipe = CoDiPipeline.from_pretrained(composed)
    assert isinstance(pipe, ComposedPipeline) and set(pipe.models) == set(NAMES)
    assert pipe.attends_to()[AUDIO] == {IMAGE, VIDEO}
    made = pipe(text="a ball", outputs=["audio"], num_inference_steps=2, seed=5, output_type="latent")
    model = pipe.models[AUDIO]
    assert torch.equal(made.latents[AUDIO], own(model, "a ball", 5, 2, model.guidance_scale()))
    with pytest.raises(InputError, match="takes no other text_denoiser"):
        CoDiPipeline.from_pretrained(composed, text_denoiser=torch.nn.Linear(1, 1))


def test_a_record_notices_that_a_trained_part_changed(composed, tmp_path, capsys):
    place, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(composed, place)
    asked = ["--text", "a ball", "--to", "image", "--steps", "1", "--seed", "4"]
    assert main(["generate", "--model", str(place), *asked, "-o", str(out)]) == 0
    model = json.loads((out / "manifest.json").read_text())["model"]
    assert sorted(model["parts"]) == ["environment_encoders", "joint_adapters"]
    capsys.readouterr()

    def noted(name):
        assert main(["generate", "--from", str(out / "000.png"), "-o", str(tmp_path / name)]) == 0
        return "was made with other weights than those of" in capsys.readouterr().err

    assert not noted("same")
    _, adapters = joint_parts(models())
    push(adapters)
    folders.add_parts(place, {"joint_adapters": adapters})
    assert noted("changed")


def test_a_fingerprint_is_of_every_part_and_of_the_text_model(composed):
    read = folders.read(composed)
    parts = records.describe_parts(read)
    published = {m: records.describe_reference(reference) for m, reference in read.references.items()}
    whole = records.fingerprint(published, parts)
    assert whole not in (None, records.fingerprint(published, {}))
    for name in parts:
        assert records.fingerprint(published, parts | {name: "another"}) != whole
    text = folders.TextSource(source="codi-tiny", fingerprint="f", licence=None)
    assert records.describe_parts(dataclasses.replace(read, text=text)) == {"text": "f", **parts}
    assert records.fingerprint({}, {}) is None


def test_the_command_makes_files_and_makes_them_again(composed, tmp_path, capsys):
    out, again = tmp_path / "out", tmp_path / "again"
    asked = ["--text", "a red ball", "--to", "image,audio", "--steps", "image=3,audio=2", "--seed", "4"]
    assert main(["generate", "--model", str(composed), *asked, "-o", str(out), "--quiet"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["000.png", "000.wav", "manifest.json"]
    record = json.loads((out / "manifest.json").read_text())
    assert record["resolved"]["num_inference_steps"] == {"image": 3, "audio": 2}
    assert record["model"]["composed"]["image"]["class"] == "StableDiffusionPipeline"
    assert main(["generate", "--from", str(out / "000.png"), "-o", str(again), "--quiet"]) == 0
    for name in ("000.png", "000.wav"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
    capsys.readouterr()
    bad = ["generate", "--model", str(composed), "--text", "a", "--to", "image", "--scheduler", "ddim"]
    assert main([*bad, "-o", str(tmp_path / "bad")]) == 2
    assert "a composed model has no scheduler of its own" in capsys.readouterr().err
