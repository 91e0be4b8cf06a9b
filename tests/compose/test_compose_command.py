"""`codi compose` and `codi info` of what it wrote, as a stranger types them; one line for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors

from codi import CoDiPipeline, cli, doctor, pretrained
from codi.compose import check
from codi.compose.folder import Composed, add_parts, is_composed, read, verify_text
from codi.types import InputError, Modality
from tests import tiny_pipeline
from tests.compose.fake_hub import COMMIT, FakeHub, refusal
from tests.compose.tiny_foreign import folder

ROOT = Path(__file__).parents[2]
CLIP = [f"--set=video.{size}" for size in ("num_frames=9", "frame_rate=8", "height=32", "width=32")]
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path / "cache").install(monkeypatch)
    hub.models["owner/pictures"] = folder("sd15")
    return hub


@pytest.fixture
def copied(tmp_path):
    def copy(name: str = "sd15", to: str = "source") -> Path:
        return Path(shutil.copytree(folder(name), tmp_path / to))

    return copy


def three(**others) -> list[str]:
    """The options that name three tiny models."""
    sources = {"image": folder("sd15"), "video": folder("ltx"), "audio": folder("audioldm"), **others}
    return [word for modality, source in sources.items() for word in (f"--{modality}", str(source))] + CLIP


def compose(*words) -> int:
    return cli.main(["compose", *map(str, words)])


def refused(capsys, out: Path | None, *words) -> str:
    """The line of a mistake; nothing was written."""
    before = None if out is None or not out.exists() else sorted(out.rglob("*"))
    place = () if out is None else ("-o", out)
    assert compose(*words, *place) == 2
    captured = capsys.readouterr()
    assert not captured.out
    errors_ = [line for line in captured.err.splitlines() if line.startswith("codi: error: ")]
    assert len(errors_) == 1 and captured.err.splitlines()[-1] == errors_[0]
    if out is not None:
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
    return errors_[0].removeprefix("codi: error: ")


# Composing ----------------------------------------------------------------------------------------------


def test_a_composed_folder_is_small_and_says_all_of_it(tmp_path, capsys):
    out, words = tmp_path / "deep" / "my-codi", three()
    capsys.readouterr()
    assert compose(*words, "-o", out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n" and "lengths meet" in captured.err
    assert sum(path.stat().st_size for path in out.rglob("*")) < 100_000
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model_index.json"]
    composed = read(out)
    assert isinstance(composed, Composed) and set(composed.references) == {"image", "video", "audio"}
    assert composed.references["audio"].call == {"audio_length_in_s": 1.125}
    assert composed.references["video"].geometry.grid == (3, 8, 8)
    assert composed.verify()["image"] == folder("sd15").resolve()
    assert composed.text is None and composed.parts == {}


def test_a_process_of_its_own_writes_the_path_alone_to_stdout(tmp_path):
    out = str(tmp_path / "my-codi")
    command = [sys.executable, "-m", "codi.cli", "compose", "--image", str(folder("sd15")), "-o", out]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == f"{out}\n"
    code = (
        "import sys; from codi.compose.folder import is_composed; "
        f"print(is_composed({out!r}), is_composed({str(folder('sd15'))!r}), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False", "False"]


def test_the_options_are_those_of_the_registry():
    parser = cli.build_parser()
    args = parser.parse_args(["compose", *(word for m in Modality for word in (f"--{m}", "x"))])
    assert all(getattr(args, m) == "x" for m in Modality)


def test_a_dry_run_says_what_would_be_composed_and_fetches_no_weights(hub, tmp_path, capsys):
    words = three(image="owner/pictures@v1.1")
    assert compose(*words, "--dry-run", "--dtype", "float16", "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert not any(name.endswith(".safetensors") for name in hub.downloaded)
    assert f"image: owner/pictures@{COMMIT[:12]}" in said
    assert "StableDiffusionPipeline, 980.1 k parameters, 3.9 MB on the disk" in said
    assert "PNDMScheduler, predicts epsilon; latent 1 x 16 x 16" in said
    assert "latent 3 x 8 x 8, 1.125 s" in said and "lengths meet: " in said
    assert "memory for the weights in float16: 4.4 MB with all of them loaded" in said
    assert "on the device where parts are offloaded" in said
    assert "licence: not stated for " in said and "counts as the most restrictive" in said


def test_a_model_of_the_hub(hub, tmp_path, capsys):
    out = tmp_path / "my-codi"
    assert compose("--image", "owner/pictures@main", "-o", out) == 0
    reference = read(out).references["image"]
    assert (reference.source, reference.revision) == ("owner/pictures", COMMIT)
    hub.offline = True
    read(out).verify()
    assert "- owner/pictures" in (out / "README.md").read_text().replace('"', "")


def test_a_composed_model_at_the_hub_is_known_by_its_index(hub, tmp_path, capsys):
    """Nothing of it is fetched that it does not need, and its sources after it; copies come from itself."""
    named, copies = tmp_path / "named", tmp_path / "copies"
    assert compose("--image", "owner/pictures", "-o", named) == 0
    assert compose("--image", "owner/pictures", "-o", copies, "--copy") == 0
    for name, place in (("owner/named", named), ("owner/copies", copies)):
        (place / "unused.safetensors").write_bytes(bytes(1000))
        hub.models[name] = place
    shutil.rmtree(hub.cache)
    hub.downloaded.clear()
    capsys.readouterr()
    assert cli.main(["info", "owner/named"]) == 0
    assert "image: owner/pictures@" in capsys.readouterr().out
    assert hub.downloaded == ["model_index.json"]
    assert list(CoDiPipeline.from_pretrained("owner/named").models) == [Modality.IMAGE]
    assert WEIGHTS in hub.downloaded[1:]
    del hub.models["owner/pictures"]
    shutil.rmtree(hub.cache)
    hub.downloaded.clear()
    assert list(CoDiPipeline.from_pretrained("owner/copies").models) == [Modality.IMAGE]
    assert hub.downloaded[0] == "model_index.json" and f"sources/image/{WEIGHTS}" in hub.downloaded
    assert "unused.safetensors" not in hub.downloaded


def test_the_check_runs_each_model_beside_its_own_pipeline(tmp_path, capsys, monkeypatch):
    words = three()
    assert compose(*words, "-o", tmp_path / "out", "--check") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "difference " in line]
    assert len(lines) == 3 and all(float(line.split("difference ")[1]) <= 1e-6 for line in lines)
    monkeypatch.setattr(check, "EXACT", -1.0)
    assert compose(*words, "-o", tmp_path / "out", "--check") == 1
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"


def test_copies_make_it_self_contained(copied, tmp_path, capsys):
    source = copied()
    (source / "LICENSE").write_text("MIT License")
    (source / "unet" / "notes.md").write_text("not needed")
    (source / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not needed")
    out = tmp_path / "my-codi"
    assert compose("--image", source, "--copy", "-o", out) == 0
    shutil.rmtree(source)
    moved = Path(shutil.move(out, tmp_path / "elsewhere"))
    composed = read(moved)
    assert composed.verify() == {"image": moved / "sources" / "image"}
    copy = moved / "sources" / "image"
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert names == {"LICENSE", *composed.references["image"].files}
    data = bytearray((moved / "sources" / "image" / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (moved / "sources" / "image" / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match=f"image: {WEIGHTS} of .* changed since it was composed"):
        composed.verify()


def test_composing_again_replaces_and_leaves_nothing_of_the_copies(copied, tmp_path):
    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "--copy", "-o", out) == 0
    assert compose("--image", folder("sd21"), "-o", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model_index.json"]
    assert read(out).references["image"].prediction == "v_prediction"


def test_words_of_the_model_inside_the_package(tmp_path):
    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "--text", "codi-tiny", "-o", out) == 0
    text = read(out).text
    assert text.source == "codi-tiny" and text.fingerprint == pretrained.fingerprint(pretrained.resolve())
    assert verify_text(text) == pretrained.resolve()
    index = json.loads((out / "model_index.json").read_text())
    index["text"]["fingerprint"] = "another"
    (out / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="text: the weights of codi-tiny changed"):
        verify_text(read(out).text)


def test_the_licence_of_the_text_model_is_among_the_licences(hub, tmp_path, capsys):
    """Also where its weights come from the hub: what states a licence is fetched beside them."""
    hub.models["owner/words"] = pretrained.resolve()
    out = tmp_path / "my-codi"
    words = ("--image", folder("sd15"), "--text", "owner/words")
    capsys.readouterr()
    assert compose(*words, "--dry-run") == 0
    assert "licence: mit for text, as README.md says: asks its notices" in capsys.readouterr().out
    assert compose(*words, "-o", out) == 0
    assert 'license_name: "not stated, mit"' in (out / "README.md").read_text()
    capsys.readouterr()
    assert cli.main(["info", str(out)]) == 0
    assert "  mit for text, as README.md says: " in capsys.readouterr().out


def test_a_text_model_without_a_licence_is_said_to_have_none(tmp_path, capsys):
    place = tmp_path / "words"
    shutil.copytree(
        pretrained.resolve(), place, ignore=shutil.ignore_patterns("README.md"), copy_function=os.link
    )
    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "--text", place, "-o", out) == 0
    assert "licence: not stated for image, text: counts as the most restrictive" in capsys.readouterr().err
    index = json.loads((out / "model_index.json").read_text())
    del index["text"]["license"]  # as folders were written before
    (out / "model_index.json").write_text(json.dumps(index))
    assert read(out).text.licence.id == "not stated"


# Parts of its own ---------------------------------------------------------------------------------------


def test_trained_parts_are_added_and_stay_for_the_same_models_only(tmp_path, capsys):
    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "-o", out) == 0
    parts = {"environment_encoders": tiny_pipeline.environment_encoders()}
    composed = add_parts(out, parts)
    assert composed.parts == {"environment_encoders": ("codi.joint.encoders", "EnvironmentEncoders")}
    assert pretrained.read_index(out) == composed.parts
    assert "environment_encoders: EnvironmentEncoders" in (out / "README.md").read_text()
    assert compose("--image", folder("sd15"), "--set", "image.height=64", "-o", out) == 0
    assert read(out).parts == composed.parts and read(out).references["image"].call == {"height": 64}
    other = folder("sd21")
    capsys.readouterr()
    message = refused(capsys, out, "--image", other)
    assert "has environment_encoders/, which was trained for other models" in message
    with pytest.raises(InputError, match="'unet' is no part of a composed model"):
        add_parts(out, {"unet": parts["environment_encoders"]})


def test_a_card_of_somebody_else_stays(tmp_path):
    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "-o", out) == 0
    (out / "README.md").write_text("my own words")
    assert compose("--image", folder("sd15"), "-o", out) == 0
    assert (out / "README.md").read_text() == "my own words"


# What it is ---------------------------------------------------------------------------------------------


def test_info_says_what_it_is(copied, tmp_path, capsys):
    stated = {"sd15": "creativeml-openrail-m", "ltx": "apache-2.0", "audioldm": "cc-by-nc-sa-4.0"}
    places = {}
    for name, licence in stated.items():
        places[name] = copied(name, name)
        (places[name] / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    out = tmp_path / "my-codi"
    words = three(image=places["sd15"], video=places["ltx"], audio=places["audioldm"])
    assert compose(*words, "-o", out) == 0
    for place in places.values():  # what a model is can be told without its sources
        shutil.rmtree(place)
    capsys.readouterr()
    assert cli.main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.count("silent: not trained") == 3
    assert f"video: {places['ltx']}" in said and "FlowMatchEulerDiscreteScheduler, predicts flow" in said
    found = [said.index(licence) for licence in ("cc-by-nc-sa-4.0", "creativeml-openrail-m", "apache-2.0")]
    assert found == sorted(found)
    assert cli.main(["info", "--json", str(out)]) == 0
    model = json.loads(capsys.readouterr().out)
    assert [entry["license"] for entry in model["licenses"]] == list(
        ("cc-by-nc-sa-4.0", "creativeml-openrail-m", "apache-2.0")
    )
    assert model["models"]["image"]["parts"]["unet"] == 792_964 and not model["models"]["image"]["attends"]
    assert model["parameters"] == sum(found["parameters"] for found in model["models"].values())


def test_info_says_where_adapters_sit_and_all_of_it_loads(tmp_path, capsys):
    from codi.compose import loading
    from codi.compose.environment import ForeignEnvironmentEncoders
    from codi.compose.joint_adapters import ForeignJointAdapters

    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "--audio", folder("audioldm"), "-o", out) == 0
    networks = {"image": {"sites": {"mid_block": 64}}}
    adapters = ForeignJointAdapters(networks, env_dim=16, num_heads=2, width=16, hidden=16)
    latents = {"audio": {"channels": 8, "timed": True, "bands": 4}}
    encoders = ForeignEnvironmentEncoders(latents, dim=16, num_layers=1, num_heads=2)
    composed = add_parts(out, {"joint_adapters": adapters, "environment_encoders": encoders})
    loaded = loading.load_parts(composed, torch.float32)
    for name, part in {"joint_adapters": adapters, "environment_encoders": encoders}.items():
        assert all(
            torch.equal(loaded[name].state_dict()[key], value) for key, value in part.state_dict().items()
        )
    models = loading.load_models(composed, {"default": torch.float32, "audio": torch.float16})
    assert models[Modality.IMAGE].network.dtype is torch.float32
    assert models[Modality.AUDIO].network.dtype is torch.float16
    assert models[Modality.AUDIO].name == str(folder("audioldm").resolve())
    capsys.readouterr()
    assert cli.main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert "attends to the others at mid_block" in said and said.count("silent: not trained") == 1
    assert "joint_adapters: ForeignJointAdapters" in said


def test_a_model_that_cannot_be_loaded_is_named(copied, tmp_path, monkeypatch):
    from codi.compose import loading

    place = copied()
    config = json.loads((place / "unet" / "config.json").read_text())
    (place / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [16, 32]}))
    assert compose("--image", place, "-o", tmp_path / "out") == 0
    with pytest.raises(InputError) as caught:
        loading.load_model(read(tmp_path / "out"), "image", torch.float32)
    assert str(caught.value).startswith(f"image: {place} cannot be loaded: ")


# Mistakes -----------------------------------------------------------------------------------------------


def test_mistakes_in_what_is_typed(tmp_path, capsys):
    out = tmp_path / "out"
    image = ("--image", folder("sd15"))
    assert "nothing to compose: expected at least one of --image ID" in refused(capsys, out)
    assert "no folder to write into" in refused(capsys, None, *image)
    assert "--seconds is -1" in refused(capsys, out, *image, "--seconds=-1")
    assert "expected KIND.NAME=VALUE" in refused(capsys, out, *image, "--set", "height=3")
    assert "KIND is one of image" in refused(capsys, out, *image, "--set", "video.height=3")
    assert "takes no such argument" in refused(capsys, out, *image, "--set", "image.hight=512")
    assert "takes no such argument" in refused(capsys, out, *image, "--set", "image.prompt=x")
    assert "expected a whole number" in refused(capsys, out, *image, "--set", "image.height=32.5")
    assert "expected a number above 0" in refused(capsys, out, *image, "--set", "image.height=wide")
    assert "no variant 'fp16'" in refused(capsys, out, *image, "--variant", "fp16")
    assert "--dtype" in refused(capsys, out, *image, "--dtype", "int3")
    assert "text: no model folder nowhere" in refused(capsys, out, *image, "--text", "nowhere")


def test_models_that_cannot_be_composed(copied, tmp_path, capsys):
    out = tmp_path / "out"
    place = copied()
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps({**index, "_class_name": "KandinskyPipeline"}))
    assert "KandinskyPipeline cannot be composed" in refused(capsys, out, "--image", place)
    assert "is no pipeline of diffusers" in refused(capsys, out, "--image", folder("sd15") / "vae")
    assert "no folder nowhere" in refused(capsys, out, "--image", "nowhere")
    assert "name it as --image" in refused(capsys, out, "--audio", folder("sd15"))
    (place / "model_index.json").write_text(json.dumps(index))
    (place / WEIGHTS).rename(place / "unet" / "diffusion_pytorch_model.bin")
    assert "pickles only" in refused(capsys, out, "--image", place)


def test_what_the_hub_refuses(hub, tmp_path, capsys):
    out = tmp_path / "out"
    hub.refused["owner/gated"] = refusal(errors.GatedRepoError)
    message = refused(capsys, out, "--image", "owner/gated")
    assert "accept its terms on the model's page" in message and "`hf auth login`" in message
    assert "no model owner/none" in refused(capsys, out, "--image", "owner/none")
    hub.offline = True
    assert "check the network" in refused(capsys, out, "--image", "owner/pictures")


def test_lengths_that_cannot_meet(tmp_path, capsys):
    words = three()
    message = refused(capsys, tmp_path / "out", *words, "--set", "audio.audio_length_in_s=4")
    assert "audio of 4 s" in message and "video of 1.125 s" in message and "cannot meet" in message
    assert "cannot last 3 s" in refused(capsys, tmp_path / "out", *words, "--seconds", "3")
    words = ("--video", folder("animatediff"), "--audio", folder("audioldm"))
    assert "makes at most 2 s" in refused(capsys, tmp_path / "out", *words, "--seconds", "3")


def test_too_little_memory_is_said_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 3_000_000)
    words = ("--image", folder("sd15"))
    message = refused(capsys, tmp_path / "out", *words, "--check")
    assert "takes 3.9 MB in float32, and 3.0 MB of memory are free" in message
    assert compose(*words, "--check", "--dtype", "bfloat16", "--dry-run") == 0
    assert compose(*words, "-o", tmp_path / "out") == 0  # which loads nothing


def test_too_little_disk_for_copies(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "are free in" in refused(capsys, tmp_path / "a" / "b", "--image", folder("sd15"), "--copy")
    assert not (tmp_path / "a").exists()


def test_a_folder_of_somebody_else_is_not_touched(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    words = ("--image", folder("sd15"))
    assert "holds something else" in refused(capsys, tmp_path / "photos", *words)
    assert "is a file" in refused(capsys, tmp_path / "photos" / "a.txt", *words)
    assert compose(*words, "-o", tmp_path / "photos") == 2


def test_a_write_that_fails_leaves_what_was_there(tmp_path, capsys, monkeypatch):
    from codi import io

    def full(path, value):
        raise OSError(28, "No space left on device")

    out = tmp_path / "a" / "my-codi"
    with monkeypatch.context() as patched:
        patched.setattr(io, "save_json", full)
        message = refused(capsys, out, "--image", folder("sd15"))
        assert "No space left on device" in message and not (tmp_path / "a").exists()
    assert compose("--image", folder("sd15"), "--copy", "-o", out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(io, "save_json", full)
        refused(capsys, out, "--image", folder("sd21"), "--copy")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda index: index.pop("composed"), "is no composed model"),
        (lambda index: index.update(composed={}), "is no composed model"),
        (lambda index: index["composed"].update(smell={}), "unknown modality 'smell'"),
        (lambda index: index["composed"]["image"].pop("files"), "no reference to a pipeline"),
        (lambda index: index["composed"]["image"].update(place="../../etc"), "inside its folder"),
        (lambda index: index.update(defaults=3), "expected an object"),
        (lambda index: index.update(text="codi-tiny"), "expected its source and fingerprint"),
        (lambda index: index.update(unet=["a", "b"]), "unknown key 'unet'"),
        (lambda index: index.update(joint_adapters=["a", "b"]), "joint_adapters/ is missing"),
        (lambda index: index.update(joint_adapters=3), "expected [module, class]"),
    ],
)
def test_an_index_that_says_what_cannot_be(tmp_path, capsys, change, expected):
    out = tmp_path / "my-codi"
    assert compose("--image", folder("sd15"), "-o", out) == 0
    index = json.loads((out / "model_index.json").read_text())
    change(index)
    (out / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        read(out)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_is_composed_is_false_for_anything_else(tmp_path):
    assert not any(map(is_composed, (tmp_path, folder("sd15"), pretrained.resolve(), "owner/name")))
