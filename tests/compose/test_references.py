"""A reference says what a published pipeline is, and finds out when it is another one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from torch import nn

from codi.compose import references
from codi.compose.families import FAMILIES
from codi.compose.geometry import agree, geometry_of, lasting
from codi.compose.licences import Licence, licence_in, most_restrictive_first
from codi.compose.originals import Original
from codi.compose.references import Reference, digest
from codi.types import InputError
from tests.compose import tiny_foreign
from tests.compose.fake_hub import COMMIT, FakeHub, refusal
from tests.compose.tiny_foreign import SIZES, folder

MAKES = {
    name: FAMILIES[kind].modality.value
    for name, kind in {
        "sd15": "StableDiffusionPipeline",
        "sd21": "StableDiffusionPipeline",
        "sdxl": "StableDiffusionXLPipeline",
        "sd3": "StableDiffusion3Pipeline",
        "flux": "FluxPipeline",
        "animatediff": "AnimateDiffPipeline",
        "modelscope": "TextToVideoSDPipeline",
        "ltx": "LTXPipeline",
        "wan": "WanPipeline",
        "audioldm": "AudioLDMPipeline",
        "audioldm2": "AudioLDM2Pipeline",
        "stable_audio": "StableAudioPipeline",
    }.items()
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copied(tmp_path):
    """Copies a tiny pipeline, which may then be damaged."""

    def copy(name: str = "sd15", to: str = "source") -> Path:
        return Path(shutil.copytree(folder(name), tmp_path / to))

    return copy


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path / "cache").install(monkeypatch)
    hub.models["owner/pictures"] = folder("sd15")
    return hub


def index_of(place: Path, **changes) -> None:
    path = place / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def error(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What it says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_a_reference_says_what_the_pipeline_is(name, tmp_path):
    from diffusers import DiffusionPipeline

    reference = Reference.read(MAKES[name], folder(name), SIZES[name])
    with tiny_foreign.quiet():
        pipe = DiffusionPipeline.from_pretrained(folder(name))
    networks = {key: part for key, part in pipe.components.items() if isinstance(part, nn.Module)}
    assert reference.kind == type(pipe).__name__ and reference.scheduler == type(pipe.scheduler).__name__
    assert {key: part.kind for key, part in reference.parts.items()} == {
        key: type(part).__name__ for key, part in networks.items()
    }
    for key, part in networks.items():
        stored = sum(tensor.numel() for tensor in part.state_dict().values())
        tied = stored - sum(parameter.numel() for parameter in part.parameters())
        assert stored - max(tied, 0) <= reference.parts[key].parameters <= stored
    assert Reference.from_json(MAKES[name], json.loads(json.dumps(reference.to_json()))) == reference
    assert reference.verify(tmp_path) == folder(name).resolve()
    assert len(json.dumps(reference.to_json())) < 10_000


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_the_grid_and_the_length_are_those_of_the_pipeline(name):
    from diffusers import DiffusionPipeline

    from codi.compose.foreign import ForeignModel

    with tiny_foreign.quiet():
        pipe = DiffusionPipeline.from_pretrained(folder(name))
        grid = (
            ForeignModel(pipeline=pipe, call=SIZES[name]).prepare(["a red ball"], num_inference_steps=2).grid
        )
    found = Reference.read(MAKES[name], folder(name), SIZES[name]).geometry
    assert found.grid == tuple(grid.shape)
    assert (found.seconds is None) == (grid.duration is None)
    if found.seconds is not None and found.frame:
        assert found.seconds == pytest.approx(grid.duration)
    elif found.seconds is not None:  # a sound is cut to the length that was asked for
        assert found.seconds <= grid.duration + 1e-6


def test_without_sizes_they_are_those_of_the_pipeline():
    assert Reference.read("image", folder("sd15")).geometry.grid == (1, 16, 16)
    assert Reference.read("image", folder("flux")).geometry.grid == (1, 64, 64)  # of 2 x 2
    ltx = Reference.read("video", folder("ltx")).geometry
    assert ltx.grid == (41, 128, 176) and ltx.seconds == pytest.approx(161 / 25)
    mel = Reference.read("audio", folder("audioldm")).geometry
    assert mel.grid == (128, 4, 1) and mel.seconds == pytest.approx(2.56)


def test_every_family_has_a_rule_of_its_geometry():
    for kind, family in FAMILIES.items():
        rule = family.rule
        sizes = FAMILIES[kind].sizes.values()
        assert (rule.length is None) == (rule.seconds is None)
        assert rule.length is None or rule.length in sizes


def test_what_a_denoiser_predicts():
    predicted = {
        name: Reference.read(MAKES[name], folder(name)).prediction for name in ("sd15", "sd21", "sd3", "wan")
    }
    assert predicted == {"sd15": "epsilon", "sd21": "v_prediction", "sd3": "flow", "wan": "flow"}


# What has changed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        WEIGHTS,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "model_index.json",
    ],
)
def test_a_changed_byte_is_found_and_its_file_named(copied, file, tmp_path):
    place = copied()
    reference = Reference.read("image", place)
    for where in (0.02, 0.51, 0.97):
        path = place / file
        before = path.read_bytes()
        flip(path, int(where * len(before)))
        message = error(reference.verify, tmp_path)
        assert message.startswith(f"image: {file} of {place} changed since it was composed")
        path.write_bytes(before)
    reference.verify(tmp_path)


def test_a_large_file_is_found_to_have_changed_without_reading_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "READ_IN_FULL", 1 << 12)
    monkeypatch.setattr(references, "SAMPLE", 1 << 6)
    path = tmp_path / "large.safetensors"
    state = {"a": torch.randn(64, 64), "b": torch.randn(64, 64)}
    save_file(state, path)
    before, size = digest(path), path.stat().st_size
    seen = 0
    for place in range(0, size, 97):
        data = path.read_bytes()
        flip(path, place)
        try:
            seen += digest(path) != before
        except InputError:  # the header is damaged
            seen += 1
        path.write_bytes(data)
    assert digest(path) == before and 0.05 < seen / (size / 97) < 0.5
    flip(path, size - 1)
    assert digest(path) != before
    save_file({"a": state["a"], "c": state["b"]}, path)  # the same bytes under another name
    assert digest(path) != before
    save_file({"a": state["a"], "b": state["b"].reshape(32, 128)}, path)
    assert digest(path) != before


def test_a_missing_file_and_a_missing_folder_are_named(copied, tmp_path):
    place = copied()
    reference = Reference.read("image", place)
    (place / "vae" / "config.json").unlink()
    assert f"image: {place} lacks vae/config.json" in error(reference.verify, tmp_path)
    shutil.rmtree(place)
    message = error(reference.verify, tmp_path)
    assert message.startswith(f"image: no folder {place}") and "compose the model again" in message


def test_a_reference_may_not_lead_out_of_its_folder():
    value = Reference.read("image", folder("sd15")).to_json()
    assert "inside its folder" in error(Reference.from_json, "image", {**value, "place": "../other"})
    assert "inside its folder" in error(
        Reference.from_json, "image", {**value, "files": {"/etc/passwd": "0"}}
    )
    assert "no reference" in error(Reference.from_json, "image", {**value, "call": 3})
    assert "no reference" in error(Reference.from_json, "image", {"source": "x"})


# What cannot be composed --------------------------------------------------------------------------------


def test_a_class_that_is_not_in_the_table(copied):
    place = copied()
    index_of(place, _class_name="StableCascadePipeline")
    message = error(Reference.read, "image", place)
    assert "StableCascadePipeline cannot be composed" in message and "StableDiffusionPipeline" in message


def test_code_that_comes_with_a_model_is_refused(copied):
    place = copied()
    index_of(place, _class_name=["pipeline", "MyPipeline"])
    assert "code that comes with a model is not run" in error(Reference.read, "image", place)
    index_of(place, _class_name="StableDiffusionPipeline", unet=["my_unet", "MyUNet"])
    message = error(Reference.read, "image", place)
    assert "part unet" in message and "my_unet.MyUNet" in message
    index_of(place, unet=["diffusers", "os.system"])
    assert "expected a class of diffusers" in error(Reference.read, "image", place)
    index_of(place, unet="UNet")
    Original.read("image", copied(to="other"))


def test_a_folder_that_is_no_pipeline(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no pipeline of diffusers: it has no model_index.json" in error(
        Reference.read, "image", tmp_path / "empty"
    )
    assert "but is a UNet2DConditionModel" in error(Reference.read, "image", folder("sd15") / "unet")
    (tmp_path / "empty" / "v1-5.safetensors").touch()
    assert "from_single_file" in error(Reference.read, "image", tmp_path / "empty")
    assert "no folder" in error(Reference.read, "image", tmp_path / "nowhere")
    assert "no folder" in error(Reference.read, "image", "nowhere")
    assert "no folder" in error(Reference.read, "image", "a\0b")


def test_what_makes_something_else():
    message = error(Reference.read, "audio", folder("sd15"))
    assert message.startswith("audio: ") and "makes image: name it as --image" in message


def test_pickles_are_not_read(copied):
    place = copied()
    (place / WEIGHTS).rename(place / "unet" / "diffusion_pytorch_model.bin")
    message = error(Reference.read, "image", place)
    assert "weights of unet/ as pickles only (diffusion_pytorch_model.bin)" in message
    assert "save_pretrained(FOLDER)" in message
    (place / "unet" / "diffusion_pytorch_model.bin").unlink()
    assert "has no weights in unet/" in error(Reference.read, "image", place)


def test_a_part_that_is_missing_or_damaged(copied):
    place = copied()
    (place / "vae" / "config.json").unlink()
    assert "lacks vae/config.json" in error(Reference.read, "image", place)
    shutil.rmtree(place / "vae")
    assert "lacks its part vae/" in error(Reference.read, "image", place)
    place = copied(to="cut")
    data = (place / WEIGHTS).read_bytes()
    (place / WEIGHTS).write_bytes(data[:-8])
    assert "where its header promises" in error(Reference.read, "image", place)


def test_a_part_may_not_lead_out_of_the_folder(copied, tmp_path):
    place = copied()
    (tmp_path / "elsewhere.json").write_text("{}")
    (place / "unet" / "config.json").unlink()
    (place / "unet" / "config.json").symlink_to(tmp_path / "elsewhere.json")
    assert "leads out of the model folder" in error(Reference.read, "image", place)


def test_a_second_denoiser_is_refused(copied):
    place = copied("wan")
    shutil.copytree(place / "transformer", place / "transformer_2")
    index_of(place, transformer_2=["diffusers", "WanTransformer3DModel"])
    message = error(Reference.read, "video", place)
    assert "second denoiser" in message and "cannot be composed" in message


# Variants and several files -----------------------------------------------------------------------------


def as_variant(place: Path, part: str, variant: str, keep: bool = False) -> None:
    """Stores the weights of a part in half precision under the name of a variant."""
    (path,) = (place / part).glob("*.safetensors")
    halves = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(
        halves, path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors")), {"format": "pt"}
    )
    if not keep:
        path.unlink()


def test_plain_weights_are_taken_unless_a_variant_is_named(copied):
    place = copied()
    for part in ("unet", "vae"):
        as_variant(place, part, "fp16", keep=True)
    plain = Reference.read("image", place)
    assert plain.variant is None and WEIGHTS in plain.files
    named = Reference.read("image", place, variant="fp16")
    assert named.variant == "fp16" and WEIGHTS not in named.files
    assert WEIGHTS.replace(".safe", ".fp16.safe") in named.files
    assert named.parts["unet"].bytes * 2 == plain.parts["unet"].bytes
    assert named.parts["text_encoder"] == plain.parts["text_encoder"]  # which has no such variant
    assert "no variant 'bf16': expected one of its own (fp16)" in error(
        Reference.read, "image", place, variant="bf16"
    )


def test_the_only_variant_is_found_and_named_and_loads(copied):
    from diffusers import DiffusionPipeline

    place = copied()
    for part in ("unet", "vae", "text_encoder"):
        as_variant(place, part, "fp16")
    reference = Reference.read("image", place)
    assert reference.variant == "fp16" and reference.parts["unet"].dtypes == ("F16",)
    with tiny_foreign.quiet():
        pipe = DiffusionPipeline.from_pretrained(place, variant=reference.variant)
    assert sum(p.numel() for p in pipe.unet.parameters()) == reference.parts["unet"].parameters


def test_weights_in_several_files(copied):
    place = copied()
    whole = Reference.read("image", place)
    with tiny_foreign.quiet():
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(place / "unet")
        (place / WEIGHTS).unlink()
        unet.save_pretrained(place / "unet", max_shard_size="1MB")
    reference = Reference.read("image", place)
    shards = [name for name in reference.files if name.startswith("unet/") and name.endswith(".safetensors")]
    assert len(shards) > 1 and "unet/diffusion_pytorch_model.safetensors.index.json" in reference.files
    assert reference.parts == whole.parts
    (place / shards[-1]).unlink()
    message = error(Reference.read, "image", place)
    assert f"has {len(shards) - 1} of {len(shards)} files of weights in unet/" in message


# Licences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"README.md": "---\nlicense: creativeml-openrail-m\ntags:\n- a\n---\n# x"}, "creativeml-openrail-m"),
        (
            {"README.md": "---\nlicense: other\nlicense_name: stabilityai-ai-community\n---\n"},
            "stabilityai-ai-community",
        ),
        ({"README.md": "# no head", "LICENSE": "Apache License\n   Version 2.0, January 2004"}, "apache-2.0"),
        (
            {"LICENSE.md": "Copyright\n\nFLUX.1 [dev] Non-Commercial License"},
            "flux-1-dev-non-commercial-license",
        ),
        ({"LICENSE.txt": "something of our own"}, "other"),
        ({"README.md": "---\n: [\n---\n"}, "not stated"),
        ({}, "not stated"),
    ],
)
def test_a_licence_is_read_from_the_card_or_from_its_own_file(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    licence = licence_in(tmp_path)
    assert licence.id == expected
    assert licence.stated_in == (None if expected == "not stated" else [*files][-1])


def test_licences_are_ordered_by_how_much_they_restrict():
    ids = "cc-by-nc-4.0 stabilityai-ai-community openrail++ cc-by-sa-4.0 cc-by-4.0 apache-2.0 cc0-1.0"
    expected = [Licence(id=name) for name in ("not stated", *ids.split())]
    assert most_restrictive_first([*reversed(expected), *expected]) == expected
    assert Licence(id="somebodys-own-licence").level == Licence(id="not stated").level
    assert Licence(id="mit").asks == "its notices to be kept" and "unknown" in Licence(id="other").asks


# The hub ------------------------------------------------------------------------------------------------


def test_a_model_at_the_hub_is_pinned_to_its_commit(hub, tmp_path):
    reference = Reference.read("image", "owner/pictures@v1.1")
    assert (reference.source, reference.revision) == ("owner/pictures", COMMIT)
    assert reference.files == Reference.read("image", folder("sd15")).files
    assert WEIGHTS in hub.downloaded
    hub.downloaded.clear()
    hub.offline = True  # from now on the cache suffices
    assert (reference.verify(tmp_path) / WEIGHTS).is_file() and not hub.downloaded
    flip(reference.folder(tmp_path) / WEIGHTS, 5000)
    assert f"image: {WEIGHTS} of owner/pictures@{COMMIT[:12]} changed" in error(reference.verify, tmp_path)


def test_a_first_look_downloads_no_weights(hub):
    original = Original.read("image", "owner/pictures", fetch=False)
    assert hub.downloaded and not any(name.endswith(".safetensors") for name in hub.downloaded)
    assert WEIGHTS in hub.headers
    here = Original.read("image", folder("sd15"))
    assert {name: part.parameters for name, part in original.parts.items()} == {
        name: part.parameters for name, part in here.parts.items()
    }


def test_what_the_hub_refuses_is_said_in_one_line(hub):
    hub.refused["owner/gated"] = refusal(errors.GatedRepoError)
    message = error(Reference.read, "image", "owner/gated")
    assert message.startswith("image: owner/gated is gated") and "hf auth login" in message
    assert "the hub knows no model owner/nothing" in error(Reference.read, "image", "owner/nothing")
    assert "has no revision 'v9'" in error(Reference.read, "image", "owner/pictures@v9")
    assert "no folder" in error(Reference.read, "image", "a/b/c")
    hub.offline = True
    message = error(Reference.read, "image", "owner/pictures")
    assert "not in the cache and cannot be had from the hub" in message and "check the network" in message


def test_without_a_network_the_cache_suffices(hub):
    online = Reference.read("image", "owner/pictures")
    hub.offline = True
    with pytest.warns(UserWarning, match="owner/pictures is taken from the cache as it is"):
        assert Reference.read("image", "owner/pictures") == online


# Lengths ------------------------------------------------------------------------------------------------


def originals(**named: str) -> dict[str, Original]:
    return {modality: Original.read(modality, folder(name)) for modality, name in named.items()}


def seconds_of(found: dict[str, Original], calls: dict) -> dict[str, float | None]:
    return {modality: geometry_of(original, calls[modality]).seconds for modality, original in found.items()}


def test_sounds_follow_clips():
    found = originals(image="sd15", video="ltx", audio="audioldm")
    calls = agree(found, {"video": {"num_frames": 9, "frame_rate": 8}})
    assert calls["video"] == {"num_frames": 9, "frame_rate": 8} and calls["image"] == {}
    assert calls["audio"] == {"audio_length_in_s": 1.125}


def test_the_shortest_of_the_models_own_lengths_is_taken():
    found = originals(video="animatediff", audio="audioldm")  # 2 s and 2.56 s
    assert seconds_of(found, agree(found, {})) == {"video": 2.0, "audio": 2.0}
    found = originals(video="wan", audio="audioldm")  # 81 frames at 16 per second and 2.56 s
    calls = agree(found, {})
    assert calls["video"]["num_frames"] == 41 and seconds_of(found, calls) == {
        "video": 41 / 16,
        "audio": 41 / 16,
    }


@pytest.mark.parametrize("name", ["animatediff", "modelscope", "ltx", "wan"])
def test_clips_come_in_the_steps_of_their_autoencoder(name):
    original = Original.read("video", folder(name))
    for seconds in (0.01, 0.5, 1.0, 1.7):
        call = lasting(original, {}, seconds)
        geometry = geometry_of(original, call)
        step = round(geometry.step / geometry.frame)
        assert (call["num_frames"] - 1) % step == 0 and call["num_frames"] >= 1
        assert abs(geometry.seconds - seconds) <= max(geometry.step / 2, geometry.frame) + 1e-9


def test_seconds_set_both():
    found = originals(video="modelscope", audio="audioldm2")
    calls = agree(found, {}, seconds=1.0)
    assert calls == {"video": {"num_frames": 8}, "audio": {"audio_length_in_s": 1.0}}
    found = originals(video="ltx", audio="audioldm")  # at 25 frames per second, 1 + 4 k of them
    calls = agree(found, {}, seconds=2.5)
    assert calls == {"video": {"num_frames": 61}, "audio": {"audio_length_in_s": 61 / 25}}
    assert agree(originals(image="sd15"), {}, seconds=3.0) == {"image": {}}
    assert agree(originals(audio="audioldm"), {}, seconds=3.0) == {"audio": {"audio_length_in_s": 3.0}}


def test_lengths_that_cannot_meet_are_said_in_one_line():
    found = originals(video="modelscope", audio="audioldm")
    calls = {"video": {"num_frames": 16}, "audio": {"audio_length_in_s": 5.0}}
    message = error(agree, found, calls)
    assert "audio of 5 s" in message and "video of 2 s" in message and "cannot meet" in message
    message = error(agree, found, {"video": {"num_frames": 16}}, 4.0)
    assert "cannot last 4 s as --seconds asks" in message
    message = error(agree, originals(video="animatediff", audio="audioldm"), {}, 5.0)
    assert message.startswith("video: ") and "makes at most 2 s, and 5 s are needed" in message


@pytest.mark.parametrize("name", tiny_foreign.each("stable_audio"))
def test_a_sound_that_cannot_be_that_long(name):
    found = originals(video="modelscope", audio=name)
    message = error(agree, found, {"video": {"num_frames": 40}})
    assert message.startswith("audio: ") and "makes at most 2.56 s, and 5 s are needed" in message


def test_sizes_that_leave_nothing():
    with pytest.raises(InputError, match="expected larger sizes"):
        geometry_of(Original.read("image", folder("sd15")), {"height": 1})
