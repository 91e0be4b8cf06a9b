"""Model folders, LoRA and word files that were damaged, or made to do harm: one line names what is wrong."""

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi import cli, pretrained, settings
from codi.adapters.files import LORA_FILE, WORDS_FILE, read_lora, read_words, save_lora, save_words
from codi.models import lora, words
from codi.pipeline import CoDiPipeline
from codi.tensor_files import parse_json, read_header, read_json
from codi.types import InputError
from tests import tiny_pipeline

PART = "audio_denoiser"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model, a LoRA and a word."""
    folder = tmp_path_factory.mktemp("made")
    pipe = tiny_pipeline.pipeline()
    pipe.save_pretrained(folder / "model")
    denoiser = pipe.text_denoiser
    lora.add_lora(denoiser, lora.find_layers(denoiser, lora.ATTENTION, False), rank=2, alpha=4)
    save_lora(folder, {"text_denoiser": denoiser}, rank=2, alpha=4, base="tiny", targets=lora.ATTENTION)
    words.add_words(pipe.text_tower, {"<gizmo>": torch.randn(2, 32)})
    save_words(folder, pipe.text_tower, base="tiny")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved / "model", tmp_path / "model")


def line(call, *arguments, **options):
    """The error of a call, which has to be one line that can be printed."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000 and text.encode()
    return text


def load(folder, **options):
    return CoDiPipeline.from_pretrained(folder, **options)


def load_one(folder, name=PART):
    """Loads one part alone, after the checks of the folder."""
    index = {name: pretrained.read_index(folder)[name]}
    pretrained.check_files(folder, index)
    return pretrained.load_parts(folder, index, torch.float32)[name]


def change(path, **values):
    """Changes keys of a JSON file; the folder's checksums go with their reason."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))
    sums = path.parent / pretrained.CHECKSUMS
    (sums if sums.exists() else path.parent.parent / pretrained.CHECKSUMS).unlink(missing_ok=True)


# Checksums and values of configurations ---------------------------------


@pytest.mark.parametrize(
    "name", [f"{PART}/config.json", "scheduler/scheduler_config.json", pretrained.INDEX], ids=str
)
def test_a_configuration_that_was_altered_is_named(folder, name):
    text = (folder / name).read_text()
    index = pretrained.read_index(folder)
    (folder / name).write_text("\r\n" + text)  # other line ends say the same
    pretrained.check_files(folder, index)
    (folder / name).write_text(json.dumps(json.loads(text) | {"_odd": 1}))
    assert f"{name} was altered" in line(load, folder)
    pretrained.check_files(folder, index, verify=False)
    known = json.loads((folder / pretrained.CHECKSUMS).read_text())
    (folder / pretrained.CHECKSUMS).write_text(json.dumps({n: d for n, d in known.items() if n != name}))
    assert f"{name} is not listed" in line(load, folder)


def test_a_folder_whose_checksums_are_of_tensors_alone_loads(folder):
    known = json.loads((folder / pretrained.CHECKSUMS).read_text())
    before = pretrained.fingerprint(folder)
    tensors = {name: digests for name, digests in known.items() if isinstance(digests, dict)}
    (folder / pretrained.CHECKSUMS).write_text(json.dumps(tensors))
    (folder / PART / "config.json").write_text((folder / PART / "config.json").read_text() + " ")
    assert load_one(folder) is not None and pretrained.fingerprint(folder) == before


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a/x.safetensors": {"t": 5}}', "[" * 10**6, "{"])
def test_checksums_that_are_none(folder, content):
    (folder / pretrained.CHECKSUMS).write_text(content)
    assert pretrained.CHECKSUMS in line(load, folder)


DEEP = json.loads('{"a":' * 70 + "1" + "}" * 70)


@pytest.mark.parametrize(
    "values",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": 2.5},
        {"num_inference_steps": True},
        {"guidance_scale": float("nan")},
        {"guidance_scale": {"image": -1}},
        {"guidance_scale": {"smell": 1}},
        {"guidance_scale": "3"},
        {"sync_guidance_scale": [1]},
        {"guidance_interval": [0.5, 0.2]},
        {"sync_guidance_interval": "all"},
        {"guidance_rescale": 2},
        {"timestep_shift": 0},
        {"timestep_shift": float("inf")},
        {"caption_prior": "smell"},
        {"auxiliary_caption": ["text"]},
        {"normalise_prompts": 1},
        {"partner_estimate_weight": -1},
        {"start_offset": {"audio": 4}},
        {"null_prompt": "noise"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_default_that_no_call_could_have(folder, values):
    change(folder / pretrained.INDEX, defaults=values)
    found = line(pretrained.read_defaults, folder)
    assert next(iter(values)) in found and pretrained.INDEX in found
    assert next(iter(values)) in line(settings.check_defaults, values)


@pytest.mark.parametrize("defaults", [5, "x", [1], DEEP], ids=["number", "text", "list", "deep"])
def test_defaults_that_are_no_settings(folder, defaults):
    change(folder / pretrained.INDEX, defaults=defaults)
    assert pretrained.INDEX in line(load, folder)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        (PART, {"latent_rate": float("nan")}, "latent_rate nan: expected a finite number"),
        (PART, {"latent_rate": -5.0}, "latent_rate -5.0: expected a number above 0"),
        (PART, {"in_channels": "4"}, "in_channels '4': expected int"),
        (PART, {"in_channels": 0}, "in_channels 0"),
        (PART, {"in_channels": 10**9}, "in_channels 1000000000: expected at most"),
        (PART, {"block_out_channels": 16}, "block_out_channels 16: expected"),
        (PART, {"block_out_channels": []}, PART),
        (PART, {"layers_per_block": 10**6}, "layers_per_block 1000000: expected 0 to 1024"),
        (PART, {"joint": "closely"}, PART),
        ("audio_autoencoder", {"mel_std": 0}, "mel_std 0"),
        ("text_tower", {"text_config": {"num_hidden_layers": 10**8}}, "text_config.num_hidden_layers"),
        ("text_tower", {"text_config": {"hidden_size": float("inf")}}, "text_config.hidden_size inf"),
        ("text_tower", {"text_config": 5}, "text_config 5: expected"),
        ("text_tower", {"tokenizer": "{"}, "text_tower"),
        ("vision_tower", {"max_frames": -1}, "vision_tower"),
        ("environment_encoders", {"latents": {"smell": {}}}, "environment_encoders"),
        ("environment_encoders", {"dim": True}, "dim True: expected int"),
        (PART, {"colour": 1}, "'colour', which UNetDenoiser does not know"),
    ],
    ids=str,
)
def test_a_setting_of_a_part_that_cannot_be_used(folder, name, values, expected):
    change(folder / name / "config.json", **values)
    assert expected in line(load_one, folder, name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"beta_end": 7}, "beta_end 7: expected 0 to 1"),
        ({"beta_schedule": "steep"}, "scheduler"),
        ({"trained_betas": [0.5, float("nan")]}, "trained_betas nan"),
        ({"trained_betas": [0.5, 3.0]}, "noise levels that are not from 0 to 1"),
        ({"prediction_type": 5}, "prediction_type 5: expected"),
        ({"colour": 1}, "'colour', which DPMSolverMultistepScheduler does not know"),
    ],
    ids=str,
)
def test_a_setting_of_the_scheduler_that_cannot_be_used(folder, values, expected):
    change(folder / "scheduler" / "scheduler_config.json", **values)
    assert expected in line(load_one, folder, "scheduler")


def test_a_scheduler_that_was_made_from_another_loads(folder):
    """It keeps the settings of the other."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config = folder / "scheduler" / "scheduler_config.json"
    assert "solver_order" in json.loads(config.read_text())
    change(config, _class_name="DDIMScheduler")
    change(folder / pretrained.INDEX, scheduler=["diffusers", "DDIMScheduler"])
    assert type(load_one(folder, "scheduler")) is DDIMScheduler


# Classes and places -----------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        ["subprocess", "Popen"],
        ["codi.cli", "main"],
        ["codi.pipeline", "CoDiPipeline"],
        ["codi.models.denoisers.unet", "nn"],
        ["codi.models.denoisers.unet", "ModelMixin"],
        ["codi.models.denoisers.unet.os", "system"],
        ["codi.models.denoisers..unet", "UNetDenoiser"],
        ["codi.models.conditioning", "TextTower"],
        ["codi.models.conditioning", "__name__"],
        ["diffusers", "AutoencoderKL"],
        ["diffusers", "StableDiffusionPipeline"],
        ["diffusers", "DDIMScheduler"],
        ["diffusers.utils.hub_utils", "FakeScheduler"],
        ["diffusers", "NoSuchScheduler"],
        ["transformers", "CLIPTextModel"],
        ["torch.nn", "Linear"],
        ["", ""],
    ],
    ids=".".join,
)
def test_a_class_that_a_part_may_not_have(folder, kind):
    change(folder / pretrained.INDEX, **{PART: kind})
    found = line(load_one, folder)
    assert PART in found and ".".join(kind) in found


def test_a_part_that_the_caller_passes_in_may_be_of_any_class(folder):
    change(folder / pretrained.INDEX, **{PART: ["subprocess", "Popen"]})
    given = tiny_pipeline.denoisers()[PART]
    assert load(folder, **{PART: given}).audio_denoiser is given


@pytest.mark.parametrize(
    "value", [5, "x", ["a"], ["a", 5], [["a"], "b"], {"a": 1}, [None, "a"], None, []], ids=str
)
def test_an_entry_of_the_index_that_is_no_part(folder, value):
    change(folder / pretrained.INDEX, **{PART: value})
    assert f"has {PART} " in line(load, folder)


@pytest.mark.parametrize("name", ["../other", "/etc", "a/b", "..", "", "\ud800", "text_tower "], ids=repr)
def test_a_name_of_a_part_that_leads_elsewhere(folder, name):
    change(folder / pretrained.INDEX, **{name: ["codi.models.conditioning", "TextTower"]})
    assert pretrained.INDEX in line(load, folder)
    assert pretrained.INDEX in line(pretrained.read_index, folder)


@pytest.mark.parametrize(
    "what", [PART, f"{PART}/config.json", f"{PART}/{WEIGHTS}", pretrained.INDEX, pretrained.CHECKSUMS]
)
def test_a_link_that_leads_out_of_the_folder(folder, tmp_path, what):
    shutil.move(folder / what, tmp_path / "elsewhere")
    (folder / what).symlink_to(tmp_path / "elsewhere")
    assert "leads out of the model folder" in line(load, folder)


def test_links_that_stay_inside_are_followed(folder, tmp_path):
    (folder / PART).rename(folder / "kept")
    (folder / PART).symlink_to("kept")
    assert load_one(folder) is not None
    (tmp_path / "linked").symlink_to(folder)
    assert load_one(tmp_path / "linked") is not None
    (folder / PART).unlink()
    (folder / PART).symlink_to(PART)  # a link to itself
    assert PART in line(load_one, folder)


def test_the_cache_of_the_hub_is_made_of_links(folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        place = snapshot / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    assert load_one(snapshot) is not None


# Weights ----------------------------------------------------------------


def packed(header, data=b"\0" * 8):
    """A safetensors file with that header, which may be bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(**changed):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed}


HEADERS = {
    "empty": b"",
    "cut length": b"\x05\0",
    "huge length": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": packed(b"hello"),
    "a list": packed([1]),
    "deep": packed(b"[" * 200_000),
    "deep, closed": packed(b'{"a":' * 300 + b"1" + b"}" * 300),
    "not UTF-8": packed(b'{"\xff": 1}'),
    "a lone surrogate": packed(b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
    "twice": packed(b'{"x": 1, "x": 2}'),
    "unknown type": packed(one(dtype="F33")),
    "type of another kind": packed(one(dtype=["F32"])),
    "shape beyond": packed(one(shape=[3])),
    "huge shape": packed(one(shape=[2**62, 2**62])),
    "negative shape": packed(one(shape=[-1, -2])),
    "shape of texts": packed(one(shape=["2"])),
    "shape of truths": packed(one(shape=[True, 2])),
    "offsets beyond": packed(one(shape=[4], data_offsets=[0, 16])),
    "offsets backwards": packed(one(data_offsets=[8, 0])),
    "offsets of fractions": packed(one(data_offsets=[0.0, 8.0])),
    "three offsets": packed(one(data_offsets=[0, 4, 8])),
    "no offsets": packed({"x": {"dtype": "F32", "shape": [2]}}),
    "more than tensors": packed(one(more=1)),
    "a gap": packed({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
    "an overlap": packed(one() | {"y": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
    "bytes left": packed(one(), b"\0" * 12),
    "bytes missing": packed(one(), b"\0" * 4),
    "metadata of numbers": packed(one() | {"__metadata__": {"a": 1}}),
    "metadata that is none": packed(one() | {"__metadata__": 5}),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_damaged_header(saved, folder, content, tmp_path):
    (folder / pretrained.CHECKSUMS).unlink()
    path = folder / PART / WEIGHTS
    path.write_bytes(content)
    assert str(path) in line(read_header, path)
    assert str(path) in line(load_one, folder)
    for name, read in ((LORA_FILE, read_lora), (WORDS_FILE, read_words)):
        (tmp_path / name).write_bytes(content)
        assert name in line(read, tmp_path)


def test_no_flipped_byte_of_a_header_is_a_traceback(saved, tmp_path):
    """It is refused in one line, or says the same of other names."""
    for name, read in ((LORA_FILE, read_lora), (WORDS_FILE, read_words)):
        content = (saved / name).read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        step = max(1, length // 60)
        for at in (*range(8), *range(8, length, step)):
            for flip in (1, 128):
                (tmp_path / name).write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
                try:
                    read(tmp_path)
                except InputError as error:
                    assert "\n" not in str(error)


def test_what_is_no_file_is_no_weights(folder):
    path = folder / PART / WEIGHTS
    path.unlink()
    path.mkdir()
    assert WEIGHTS in line(load_one, folder)
    path.rmdir()
    os.mkfifo(path)
    assert WEIGHTS in line(load_one, folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(folder, number):
    path = folder / PART / WEIGHTS
    tensors = load_file(path)
    tensors["conv_in.weight"].view(-1)[5] = number
    save_file(tensors, path, metadata={"format": "pt"})
    pretrained.write_checksums(folder)
    found = line(load_one, folder)
    assert "'conv_in.weight'" in found and f"part {PART}" in found and "not finite" in found


def test_weights_that_are_too_large_for_a_precision(folder):
    path = folder / PART / WEIGHTS
    tensors = load_file(path)
    tensors["conv_in.bias"][0] = 1e6
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / pretrained.CHECKSUMS).unlink()
    assert load_one(folder) is not None
    index = {PART: pretrained.read_index(folder)[PART]}
    assert "not finite as float16" in line(pretrained.load_parts, folder, index, torch.float16)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda index, part: (part / sorted(set(index["weight_map"].values()))[1]).unlink(), "not beside it"),
        (
            lambda index, part: index["weight_map"].update({"conv_in.bias": "../../x.safetensors"}),
            "not beside it",
        ),
        (lambda index, part: index["weight_map"].update({"conv_in.bias": 5}), "not beside it"),
        (
            lambda index, part: index["weight_map"].update(
                {"more": next(iter(index["weight_map"].values()))}
            ),
            "'more'",
        ),
        (lambda index, part: index.pop("weight_map"), "has no weight_map"),
        (lambda index, part: index.update(weight_map=[1]), "has no weight_map"),
    ],
    ids=["a shard is gone", "a shard elsewhere", "a number", "a tensor", "no map", "a list"],
)
def test_an_index_that_does_not_agree_with_its_files(folder, harm, expected):
    part = load_one(folder)
    (folder / PART / WEIGHTS).unlink()
    part.save_pretrained(folder / PART, max_shard_size="20KB")
    (folder / pretrained.CHECKSUMS).unlink()
    [path] = (folder / PART).glob("*.index.json")
    index = json.loads(path.read_text())
    harm(index, folder / PART)
    path.write_text(json.dumps(index))
    assert expected in line(load_one, folder)


def test_the_command_says_it_in_one_line(folder, tmp_path, capsys):
    change(folder / pretrained.INDEX, **{PART: ["os", "system"]})
    arguments = ["generate", "--model", str(folder), "--text", "a red ball", "--to", "image"]
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("codi: error: part audio_denoiser of the model")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


# LoRA and words ----------------------------------------------------------


def reheaded(source, place, name, tensors=None, **values):
    """A copy of an adapter with another header."""
    from safetensors import safe_open

    with safe_open(source / name, framework="pt") as file:
        header = file.metadata() | values
    save_file(tensors or load_file(source / name), place / name, metadata=header)
    return place


@pytest.mark.parametrize(
    "values",
    [
        {"rank": "two"},
        {"rank": "9" * 5000},
        {"rank": "0"},
        {"alpha": "nan"},
        {"alpha": "1e400"},
        {"probes": "["},
        {"probes": "[" * 100_000},
        {"probes": "[]"},
        {"probes": '{"text_denoiser": []}'},
        {"probes": '{"text_denoiser": {"x": 1}}'},
        {"probes": '{"text_denoiser": 5}'},
    ],
    ids=lambda values: str(values)[:40],
)
def test_a_header_of_a_lora_that_cannot_be_used(saved, tmp_path, values):
    assert "is no LoRA of codi" in line(read_lora, reheaded(saved, tmp_path, LORA_FILE, **values))


@pytest.mark.parametrize("value", ["NaN", '"1"', "true", "null", "[1]", "Infinity"])
def test_a_probe_that_is_no_number(saved, tmp_path, value):
    probes = {"text_denoiser": dict.fromkeys(read_lora(saved).probes["text_denoiser"], 0.5)}
    text = json.dumps(probes).replace("0.5", value)
    assert "probes hold" in line(read_lora, reheaded(saved, tmp_path, LORA_FILE, probes=text))


@pytest.mark.parametrize(
    "values",
    [
        {"words": '"<gizmo>"'},
        {"words": '{"<gizmo>": 1}'},
        {"words": "[5]"},
        {"words": "[]"},
        {"words": '["<gizmo>", "<gizmo>"]'},
        {"words": "[" * 100_000},
        {"probes": '{"text_tower": ["token_embedding"]}'},
        {"probes": "{}"},
    ],
    ids=lambda values: str(values)[:40],
)
def test_a_header_of_words_that_cannot_be_used(saved, tmp_path, values):
    assert "is no file of words of codi" in line(read_words, reheaded(saved, tmp_path, WORDS_FILE, **values))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_an_adapter_of_whole_numbers(saved, tmp_path, dtype):
    for name, read in ((LORA_FILE, read_lora), (WORDS_FILE, read_words)):
        tensors = {key: tensor.to(dtype) for key, tensor in load_file(saved / name).items()}
        assert "expected floating-point numbers" in line(read, reheaded(saved, tmp_path, name, tensors))


def test_json_is_read_with_care(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff")
    assert "is not JSON" in line(read_json, tmp_path / "a.json")
    (tmp_path / "a.json").write_text("9" * 5000)
    assert "is not JSON" in line(read_json, tmp_path / "a.json")
    assert "cannot read" in line(read_json, tmp_path / "b.json")
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in line(read_json, tmp_path / "pipe")
    assert parse_json('{"a": [1, {"b": -Infinity}]}') == {"a": [1, {"b": float("-inf")}]}


@pytest.mark.parametrize("name", ["x" * 20_000, "x-" * 10_000])
@pytest.mark.parametrize("file", ["model_index.json", f"{PART}/config.json"])
def test_a_name_of_many_letters_is_cut_in_the_line(folder, file, name):
    (folder / "checksums.json").unlink()
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(values | {name: ["diffusers", name]}))
    assert file.rpartition("/")[2] in line(load, folder)
    if file == "model_index.json":
        (folder / file).write_text(json.dumps(values | {"defaults": {name: 1}}))
        assert "unknown default" in line(load, folder)
