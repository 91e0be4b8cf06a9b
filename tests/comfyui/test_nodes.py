"""Every node and every example graph runs end to end on the embedded model, by ComfyUI's own rules."""

import ast
import json
import re
import sys
import tomllib

import numpy as np
import pytest
import torch

import comfyui
from codi import InputError, io, read_record
from codi.controls import KINDS
from codi.diffusion.guiders import GUIDERS
from codi.types import DTYPES, EMBEDDED, Modality
from comfyui import base, edit, generate, load, media, options, prompt, running
from tests.comfyui import graphs
from tests.comfyui.executor import Executor, InvalidGraph
from tests.comfyui.graphs import EXAMPLES, FOLDER, GRAPHS, example, graph
from tests.comfyui.stand_ins import InterruptProcessingException, LatentPreviewMethod, State, core_nodes

NAMES = ["retake_of_half_a_second", "sound_for_a_clip", "text_to_clip_with_sound"]


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory, patch):
    """The stand-ins, with a folder for files; for all tests, since the executor keeps what it made."""
    root = tmp_path_factory.mktemp("comfyui")
    (root / "input").mkdir()
    state = State(root)
    state.install(patch)
    return state


@pytest.fixture(scope="module")
def executor(place):
    nodes = {**comfyui.NODE_CLASS_MAPPINGS, **core_nodes(place.folders)}
    return Executor(nodes, place.throw_exception_if_processing_interrupted)


@pytest.fixture(autouse=True)
def fresh(place):
    place.interrupted = False
    place.bars.clear()
    place.args.preview_method = LatentPreviewMethod.NoPreviews


def output(place, name):
    return place.folders.root / "output" / name


# The graphs ------------------------------------------------------------


def test_text_to_clip_with_sound(executor, place):
    shown = executor.run(example("text_to_clip_with_sound"))
    clip = io.load_video(output(place, "codi/clip_with_sound_00001_.mp4"))
    assert clip.frames.shape == (16, 3, 64, 64) and clip.audio is not None
    assert shown["5"]["images"][0]["filename"] == "clip_with_sound_00001_.mp4" and shown["5"]["animated"]
    assert shown["5"]["audio"][0] == {
        "filename": "clip_with_sound_00001_.wav",
        "subfolder": "codi",
        "type": "output",
    }
    saved = io.load_video(output(place, "video/codi_00001_.mp4"))
    assert saved.frames.shape == clip.frames.shape and saved.audio is not None
    record = read_record(output(place, "codi/clip_with_sound_00001_.mp4"))
    asked = record.arguments()
    assert asked["seed"] == [0] and asked["outputs"] == ["audio", "video"]
    assert asked["text"][0].value == "a green star bounces quickly in the snow"
    assert asked["negative_text"][0].value == "at night"


def test_a_saved_file_can_be_made_again_from_its_record(executor, place):
    executor.run(example("text_to_clip_with_sound"))
    record = read_record(output(place, "codi/clip_with_sound_00001_.wav"))
    pipe = executor.values(example("text_to_clip_with_sound"), "1")[0]
    again = pipe(**record.arguments(), output_type="pt")
    first = executor.values(example("text_to_clip_with_sound"), "4")[0]
    assert torch.equal(again.audios[0], first.audios[0])


def test_sound_for_a_clip(executor, place):
    made = graph(load=graphs.LOAD, words=graphs.words(), made=graphs.generate("video", prompt="#words"))
    made["save"] = {"class_type": "CoDiSave", "inputs": {"result": ["made", 0], "filename_prefix": "clip"}}
    executor.run(made)
    output(place, "clip_00001_.mp4").rename(place.folders.root / "input" / "clip.mp4")
    executor.run(example("sound_for_a_clip"))
    dubbed = io.load_video(output(place, "video/codi_dubbed_00001_.mp4"))
    assert dubbed.frames.shape == (16, 3, 64, 64) and dubbed.audio is not None
    record = read_record(output(place, "codi/sound_for_clip_00001_.wav"))
    assert record.resolved["partners"] == ["video"]  # the sound keeps time with the clip


def test_a_retake_changes_half_a_second_and_nothing_else(executor, place):
    executor.run(example("retake_of_half_a_second"))
    import soundfile

    first, rate = soundfile.read(output(place, "codi/take_00001_.wav"))
    second, _ = soundfile.read(output(place, "codi/retake_00001_.wav"))
    changed = np.flatnonzero(first != second) / rate
    assert 0.75 <= changed.min() < 0.76 and 1.24 < changed.max() < 1.25


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_an_example_say_the_same(name):
    """By what the page does when it queues a graph: widgets in the order of the node, links by their ids."""
    page = json.loads((EXAMPLES / f"{name}.json").read_text())
    asked = json.loads((EXAMPLES / "api" / f"{name}.json").read_text())
    links = {each[0]: [str(each[1]), each[2]] for each in page["links"]}
    found = {}
    for node in page["nodes"]:
        values = list(node["widgets_values"]) if "widgets_values" in node else []
        inputs = {}
        for each in node["inputs"]:
            if each.get("widget", {}).get("name") == "upload":  # a button, which is not sent
                assert values.pop(0) == "image"
            elif "widget" in each:
                inputs[each["name"]] = values.pop(0)
                if each["name"] == "seed":
                    assert values.pop(0) == "fixed"
            if each.get("link") is not None:
                inputs[each["name"]] = links[each["link"]]
        found[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    assert found == {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in asked.items()
    }


def test_every_example_is_tested():
    assert sorted(path.stem for path in EXAMPLES.glob("*.json")) == NAMES
    assert sorted(path.stem for path in (EXAMPLES / "api").glob("*.json")) == NAMES


def test_every_node_is_in_a_graph_or_tested_alone():
    used = {node["class_type"] for made in GRAPHS.values() for node in made.values()}
    used |= {node["class_type"] for name in NAMES for node in example(name).values()}
    assert set(comfyui.NODE_CLASS_MAPPINGS) - used == {"CoDiInpaint", "CoDiControl"}  # below


# Sockets ---------------------------------------------------------------


def test_prompts_of_every_kind_combine(executor, place):
    made = GRAPHS["every_prompt"]
    shown = executor.run(made)
    record = json.loads(executor.values(made, "record")[0])
    rows = [(row["as"], row["weight"]) for row in record["inputs"]]
    assert rows == [("text", 0.5), ("image", 1.0), ("audio", 1.0), ("video", 0.5)]
    assert [row["text"] for row in record["negatives"]] == ["at night"]
    assert record["resolved"]["guidance_scale"] == {"text": 3.0, "image": 3.0}
    assert shown["record"]["text"] == executor.values(made, "record")
    assert shown["save"]["text"] == executor.values(made, "made", 4)


def test_several_samples_are_batches_of_tensors_and_lists_of_the_rest(executor, place):
    made = GRAPHS["samples"]
    executor.run(made)
    result, image, audio, video, text = (executor.values(made, "made", k) for k in range(5))
    assert len(result) == len(image) == len(audio) == 1 and len(video) == len(text) == 2
    assert image[0].shape == (2, 64, 64, 3) and image[0].dtype == torch.float32
    assert 0 <= image[0].min() and image[0].max() <= 1
    assert audio[0]["waveform"].shape == (2, 1, 32000) and audio[0]["sample_rate"] == 16000
    parts = video[1].get_components()
    assert parts.images.shape == (16, 64, 64, 3) and parts.frame_rate == 8
    assert torch.equal(parts.audio["waveform"][0], audio[0]["waveform"][1])  # each clip has its own sound
    assert executor.ran.count("film") == 2 and output(place, "video/two_00002_.mp4").is_file()
    files = executor.values(made, "save")
    assert len(files) == 8 and all("samples_0000" in file for file in files)
    assert np.array_equal(
        np.asarray(io.load_image(output(place, "codi/samples_00002_.png"))),
        (image[0][1] * 255).round().byte().movedim(-1, 0),
    )


def test_settings_reach_the_pipeline(executor, place):
    made = GRAPHS["settings"]
    executor.run(made)
    record = executor.values(made, "made")[0].record(0)
    settings = record["resolved"]
    scales = settings["guidance_scale"]
    assert scales["audio"] == 4.0 and scales["video"] == 2.0  # that of one output goes before the node's
    assert settings["sync_guidance_scale"]["video"] == 1.5 and settings["start_offset"]["video"] == 0.5
    assert settings["guidance_rescale"] == 0.5 and settings["guidance_interval"] == [0.0, 0.9]
    assert settings["audio_length_in_s"] == 1.0 and settings["num_frames"] == 8
    assert record["regions"][0]["box"] == [0.0, 0.0, 0.5, 1.0]
    assert record["regions"][0]["interval"] == [0.0, 0.5]


def test_edits_start_keep_and_place_frames(executor, place):
    made = GRAPHS["edits"]
    executor.run(made)
    first, second = (executor.values(made, key)[0] for key in ("first", "made"))
    record = second.record(0)
    assert record["resolved"]["strength"] == {"image": 0.5, "audio": 1.0, "video": 1.0}
    assert record["resolved"]["keep"] == {
        "audio": [[0.0, 0.5], [1.0, 2.0]],
        "video": [[0.0, 0.5], [1.0, 2.0]],
    }
    assert torch.equal(first.audios[0][:8000], second.audios[0][:8000])
    same = [bool((a == b).all()) for a, b in zip(first.videos[0], second.videos[0])]
    assert same[:4] == [True] * 4 and same[8:] == [True] * 8 and not any(same[4:6])
    assert torch.equal(second.videos[0][6], first.images[0])
    around = executor.values(made, "around")[0].images[0]
    assert not torch.equal(around, first.images[0])


def test_a_clip_and_its_sound_go_on(executor, place):
    made = GRAPHS["continue"]
    executor.run(made)
    clip, audio = executor.values(made, "longer", 0)[0], executor.values(made, "longer", 1)[0]
    parts = clip.get_components()
    assert parts.images.shape[0] == 24 and audio["waveform"].shape == (1, 1, 48000)
    given = executor.values(made, "first", 1)
    assert given is not None
    before = executor.values(made, "first", 3)[0].get_components().images
    assert torch.equal(parts.images[:16], before)
    assert place.bars[-1][0] == place.bars[-1][1]


def test_inpainting_makes_what_is_white_anew(executor, place):
    made = graph(
        load=graphs.LOAD, words=graphs.words(), first=graphs.generate("image", "video", prompt="#words")
    )
    made["save"] = {"class_type": "CoDiSave", "inputs": {"result": ["first", 0], "filename_prefix": "in"}}
    executor.run(made)
    pipe, first = executor.values(made, "load")[0], executor.values(made, "first")[0]
    image, video = executor.values(made, "first", 1)[0], executor.values(made, "first", 3)[0]
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    (settings,) = edit.Inpaint().run(mask, 1.0, image=image, video=video)
    out = made_by(pipe, settings, make_image=True, make_video=True)
    assert torch.equal(out.images[0][..., :28], first.images[0][..., :28])
    assert not torch.equal(out.images[0][..., 36:], first.images[0][..., 36:])
    assert torch.equal(out.videos[0][..., :28], first.videos[0][..., :28])
    per_frame = mask.expand(16, 64, 64).clone()
    per_frame[:8] = 0
    (settings,) = edit.Inpaint().run(per_frame, 1.0, video=video)
    out = made_by(pipe, settings, make_video=True)
    assert torch.equal(out.videos[0][:8], first.videos[0][:8])
    with pytest.raises(InputError, match="the mask is a batch of 3: expected one, or one for each of the 16"):
        edit.Inpaint().run(torch.zeros(3, 64, 64), 1.0, video=video)
    with pytest.raises(InputError, match="nothing is connected to start from"):
        edit.Inpaint().run(mask, 1.0)


def made_by(pipe, settings=None, **more):
    call = {**graphs.OFF, **dict(seed=1, steps=2, guidance_scale=0.0, samples=1), **more}
    return generate.Generate().run(pipe, **call, settings=settings)[0]


def test_a_control_reaches_the_model_which_says_that_it_has_no_branch(executor):
    pipe = loaded(executor)
    (settings,) = options.Control().run(**{**graphs.CONTROL, "output": "video", "weight": 0.5})
    assert settings == {
        "control": [
            {"kind": "beats", "value": "0.3,0.9", "weight": 0.5, "interval": (0.0, 1.0), "output": "video"}
        ]
    }
    with pytest.raises(InputError, match="this model has no control beats of video"):
        made_by(pipe, settings, make_video=True)
    drawing = torch.zeros(1, 8, 8, 3)
    (settings,) = options.Control().run(**{**graphs.CONTROL, "kind": "sketch"}, image=drawing)
    assert settings["control"][0]["value"].shape == (8, 8, 3)
    sound = {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000}
    (settings,) = options.Control().run(**{**graphs.CONTROL, "kind": "melody"}, audio=sound)
    with pytest.raises(InputError, match="this model has no control melody of audio"):
        made_by(pipe, settings, make_audio=True)


def loaded(executor):
    made = graph(load=graphs.LOAD, record=("CoDiRecord", {"result": "#made"}), made=graphs.generate("image"))
    made["save"] = {"class_type": "CoDiSave", "inputs": {"result": ["made", 0], "filename_prefix": "any"}}
    executor.run(made)
    return executor.values(made, "load")[0]


def test_regions_take_a_mask():
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    (prompts,) = prompt.TextPrompt().run("a blue star", 1.0)
    (settings,) = options.Region().run(prompts, **graphs.REGION, mask=mask)
    (region,) = settings["regions"]
    assert region["mask"].shape == (64, 64) and "box" not in region and "interval" not in region


def test_pictures_of_a_batch_share_the_weight_of_their_prompt():
    (prompts,) = prompt.ImagePrompt().run(torch.zeros(4, 8, 8, 3), 2.0)
    assert [weight for _, _, weight in prompts] == [0.5] * 4
    with pytest.raises(InputError, match="the start is a batch of 4 pictures: expected one"):
        edit.StartFrom().run(0.5, image=torch.zeros(4, 8, 8, 3))


def test_pictures_a_little_outside_their_range_are_taken():
    (made,) = media.pictures(torch.tensor([[[[-0.01, 0.5, 1.01]]]]))
    assert made.min() == 0 and made.max() == 1


# Progress, stopping, errors --------------------------------------------


def test_the_bar_moves_with_every_step(executor, place):
    made_by(loaded(executor), make_image=True, steps=3)
    assert [bar[:2] for bar in place.bars][-3:] == [(1, 3), (2, 3), (3, 3)] and place.bars[-1][2] is None


def test_previews_come_where_comfyui_was_started_with_them(executor, place):
    pipe = loaded(executor)
    place.args.preview_method = LatentPreviewMethod.Auto
    place.bars.clear()
    made_by(pipe, make_image=True)
    form, picture, largest = place.bars[0][2]
    assert (form, picture.size, largest) == ("JPEG", (64, 64), 512)
    place.bars.clear()
    made_by(pipe, make_video=True)
    assert place.bars[0][2][1].size == (64, 64)
    place.bars.clear()
    made_by(pipe, make_audio=True)
    assert place.bars and all(bar[2] is None for bar in place.bars)


def test_previews_show_what_a_picture_becomes_without_its_noise(executor, place):
    pipe = loaded(executor)
    place.args.preview_method = LatentPreviewMethod.Auto
    bar, clean, noisy = running.Progress(), [], []

    def step(pipe, step, timestep, tensors):
        clean.append(io.from_unit(pipe.decode_preview(tensors["clean_latents"])["image"][0]))
        noisy.append(io.from_unit(pipe.decode_latents(tensors["latents"])["image"][0]))
        return bar.step(pipe, step, timestep, tensors)

    call = {"text": "a red ball", "outputs": "image", "num_inference_steps": 3}
    pipe(**call, callback_on_step_end=step, callback_on_step_end_tensor_inputs=["latents", "clean_latents"])
    shown = torch.from_numpy(np.array(place.bars[0][2][1])).movedim(-1, 0)
    assert torch.equal(shown, clean[0]) and not torch.equal(shown, noisy[0])
    assert bar.followed["callback_on_step_end_tensor_inputs"] == ["clean_latents"]


def test_stopping_acts_within_a_step(executor, place, monkeypatch):
    pipe = loaded(executor)
    place.bars.clear()

    def press(value, total, preview=None, node_id=None):
        place.bars.append((value, total, preview))
        place.interrupted = value == 2

    monkeypatch.setattr("tests.comfyui.stand_ins.ProgressBar.hook", staticmethod(press))
    with pytest.raises(InterruptProcessingException):
        made_by(pipe, make_image=True, steps=9)
    assert [bar[0] for bar in place.bars] == [1, 2]
    place.interrupted = True
    with pytest.raises(InterruptProcessingException):  # pressed while the model was loading
        made_by(pipe, make_image=True)
    assert made_by(pipe, make_image=True).images  # and the next one runs


def test_what_was_not_made_blocks_those_who_want_it_and_says_why(executor):
    made = example("text_to_clip_with_sound")
    made["4"]["inputs"]["make_video"] = False
    executor.run(made)
    assert executor.blocked == ["no video was made: switch make_video on in CoDi Generate"]
    assert "6" not in executor.ran and "5" in executor.ran


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"4": {"make_video": False, "make_audio": False}}, "nothing is to be made: expected make_text"),
        ({"2": {"text": "zebra"}}, "this model can read nothing in 'zebra'"),
        ({"2": {"weight": 0.0}}, "the weights of the prompts sum to zero"),
        ({"1": {"model": "no/such model"}}, "model 'no/such model' is no folder here"),
        ({"1": {"lora": "no-such-folder"}}, "no-such-folder"),
    ],
)
def test_a_mistake_is_one_line(executor, change, says):
    made = example("text_to_clip_with_sound")
    for key, inputs in change.items():
        made[key]["inputs"].update(inputs)
    with pytest.raises(InputError) as caught:
        executor.run(made)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"4": {"prompt": ["1", 0]}}, r"received_type\(CODI_MODEL\) mismatch input_type\(CODI_PROMPT\)"),
        ({"4": {"seed": -1}}, "Value -1 smaller than min of 0: seed"),
        ({"1": {"dtype": "int8"}}, "Value not in list: dtype"),
    ],
)
def test_graphs_that_comfyui_refuses_are_refused_before_anything_runs(executor, change, says):
    made = example("text_to_clip_with_sound")
    for key, inputs in change.items():
        made[key]["inputs"].update(inputs)
    with pytest.raises(InvalidGraph, match=says):
        executor.run(made)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (dict(begin=1.0, end=1.0), "the retake goes from 1 to 1 s: expected an end behind the begin"),
        (dict(begin=3.0, end=4.0), "the retake of audio begins at 3 s, and it lasts 2 s"),
    ],
)
def test_a_retake_that_cannot_be_is_one_line(executor, times, says):
    made = example("retake_of_half_a_second")
    made["5"]["inputs"].update(times)
    with pytest.raises(InputError, match=says):
        executor.run(made)


def test_files_are_written_below_the_output_folder_only(executor):
    made = example("text_to_clip_with_sound")
    made["5"]["inputs"]["filename_prefix"] = "../outside/clip"
    with pytest.raises(Exception, match="outside the output folder"):
        executor.run(made)


def test_a_note_of_codi_is_a_line_of_the_log(executor, caplog):
    (prompts,) = prompt.TextPrompt().run("a red zebra", 1.0)
    pipe = loaded(executor)
    generate.Generate().run(
        pipe,
        **{**graphs.OFF, "make_image": True},
        seed=0,
        steps=2,
        guidance_scale=0.0,
        samples=1,
        prompt=prompts,
    )
    assert [r.getMessage() for r in caplog.records if "cannot read 'zebra'" in r.getMessage()]


# The model -------------------------------------------------------------


def test_a_model_is_found_below_comfyuis_models_and_loaded_anew_when_it_changes(place, executor):
    pipe = loaded(executor)
    folder = place.folders.root / "models" / "codi" / "mine"
    pipe.save_pretrained(folder)
    before = load.LoadModel.IS_CHANGED("mine")
    (own,) = load.LoadModel().run("mine", "cpu", "bfloat16")
    assert own.text_denoiser.dtype == torch.bfloat16 and own.model_name == "mine"
    assert load.LoadModel.IS_CHANGED("mine") == before
    (folder / "README.md").write_text("another")
    assert load.LoadModel.IS_CHANGED("mine") != before
    assert load.LoadModel.IS_CHANGED(EMBEDDED) == EMBEDDED


def test_a_model_that_was_loaded_in_inference_mode_can_follow_gradients(executor):
    pipe = loaded(executor)
    assert not any(weight.is_inference() for weight in pipe.image_autoencoder.parameters())
    with torch.inference_mode():
        settings = {"classifier_guidance": {"name": "prompt", "scale": 1.0}}
        (prompts,) = prompt.TextPrompt().run("a red ball", 1.0)
        call = {**graphs.OFF, "make_image": True}
        made = generate.Generate().run(
            pipe, **call, seed=0, steps=2, guidance_scale=0.0, samples=1, prompt=prompts, settings=settings
        )
    assert made[0].images


def test_without_codi_the_nodes_say_how_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "codi", None)
    with pytest.raises(
        RuntimeError, match="codi is not installed for the Python that runs ComfyUI"
    ) as caught:
        load.LoadModel().run("codi-tiny", "cpu", "float32")
    assert "\n" not in str(caught.value)


# What ComfyUI and its registry expect ----------------------------------


def test_choices_are_those_of_codi():
    assert set(options.GUIDERS) - {"own"} == set(GUIDERS)
    assert set(options.CONTROLS) == set(KINDS)
    assert load.DTYPES == DTYPES and load.EMBEDDED == EMBEDDED
    assert set(base.OUTPUTS) == {
        m.value for m in (Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO)
    }


@pytest.mark.parametrize("name", comfyui.NODE_CLASS_MAPPINGS)
def test_nodes_have_what_comfyui_asks_for(name):
    kind = comfyui.NODE_CLASS_MAPPINGS[name]
    assert comfyui.NODE_DISPLAY_NAME_MAPPINGS[name] and kind.DESCRIPTION.endswith(".")
    sockets = kind.INPUT_TYPES()
    for each, (type_, detail) in {**sockets["required"], **sockets["optional"]}.items():
        assert detail["tooltip"], f"{each} of {name} says nothing of itself"
        assert isinstance(type_, list) or re.fullmatch("[A-Z_]+", type_)
        if isinstance(type_, list):
            assert detail["default"] in type_
    assert len(kind.RETURN_NAMES) == len(kind.RETURN_TYPES)
    arguments = kind.run.__code__.co_varnames[1 : kind.run.__code__.co_argcount]
    assert set(arguments) == set(sockets["required"]) | set(sockets["optional"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_neither_codi_nor_comfyui_is_imported_before_a_node_runs(path):
    """So that ComfyUI starts as quickly as without the nodes, and a node says what is missing."""
    allowed = {"collections", "contextlib", "fractions", "json", "logging", "pathlib", "time", "torch"}
    allowed |= {"typing", "warnings"}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] in allowed


def test_the_registry_finds_what_it_asks_for():
    facts = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    project, comfy = facts["project"], facts["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,99}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and project["description"]
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(comfy)
    needs = [
        line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert needs == [] == project["dependencies"]  # `codi` on the registry of Python is somebody else's


def test_the_guide_names_every_node():
    guide = (FOLDER.parent / "docs" / "comfyui.md").read_text(encoding="utf-8")
    missing = [name for name in comfyui.NODE_DISPLAY_NAME_MAPPINGS.values() if f"**{name}**" not in guide]
    assert not missing, f"docs/comfyui.md lacks {missing}"
