"""A model folder: saved and loaded it is the same model, and whatever is missing, altered or left over is
named.
"""

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.hub_utils import PushToHubMixin
from safetensors.torch import load_file, save_file

import codi.models.autoencoders
import codi.models.denoisers
import codi.models.released
from codi import pretrained
from codi.pipeline import CoDiPipeline
from codi.types import InputError, Modality
from tests.tiny_pipeline import pipeline

PART = "audio_denoiser"
FILE = f"{PART}/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def rewrite(folder, change, checksums=False):
    """Changes the tensors of one part in place; without `checksums` that file goes, as where none was ever
    written.
    """
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    if not checksums:
        (folder / pretrained.CHECKSUMS).unlink()


def load_error(folder, **options):
    with pytest.raises(InputError) as caught:
        CoDiPipeline.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saved_equals_loaded(pipe, saved):
    """Every tensor to the bit; what comes out nearly so, because kernels round by where in memory a tensor
    begins.
    """
    loaded = CoDiPipeline.from_pretrained(saved)
    for name, part in pipe.components.items():
        for key, value in part.state_dict().items() if isinstance(part, torch.nn.Module) else ():
            assert torch.equal(value, getattr(loaded, name).state_dict()[key]), f"{name}.{key}"
    call = dict(
        text="a red ball", outputs=list(Modality), num_inference_steps=2, seed=0, output_type="latent"
    )
    first, second = pipe(**call).latents, loaded(**call).latents
    assert all((first[m] - second[m]).abs().max() < 1e-4 for m in Modality)


def test_defaults_are_saved(pipe, tmp_path):
    defaults = {"guidance_scale": {"image": 2.0}, "sync_guidance_interval": [0.1, 0.5]}
    CoDiPipeline(**pipe.components, defaults=defaults).save_pretrained(tmp_path)
    assert dict(CoDiPipeline.from_pretrained(tmp_path).config.defaults) == defaults


def test_another_process_loads_it_too(saved):
    """The modules of the parts are not imported there yet."""
    code = (
        f"from codi import CoDiPipeline; p = CoDiPipeline.from_pretrained({str(saved)!r}); "
        "print(sorted(p.components))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vision_denoiser" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_parts_left_out_and_dtypes(saved, name):
    dtypes = {"default": torch.float32, "vision_denoiser": torch.bfloat16}
    pipe = CoDiPipeline.from_pretrained(saved, audio_tower=None, text_denoiser=None, **{name: dtypes})
    assert pipe.audio_tower is None and pipe.text_denoiser is None
    assert pipe.vision_denoiser.dtype == torch.bfloat16 and pipe.text_tower.dtype == torch.float32


def test_only_safetensors_are_read(saved):
    assert CoDiPipeline.from_pretrained(saved, use_safetensors=True) is not None
    assert "use_safetensors is False" in load_error(saved, use_safetensors=False)


def test_missing_tensor(folder):
    rewrite(folder, lambda tensors: tensors.pop("conv_in.bias"))
    assert "lacks the tensor 'conv_in.bias'" in load_error(folder)


def test_left_over_tensor(folder):
    rewrite(folder, lambda tensors: tensors.update(extra=torch.zeros(2)))
    assert "'extra'" in load_error(folder)


def test_tensor_of_another_shape(folder):
    rewrite(folder, lambda tensors: tensors.update({"conv_in.bias": torch.zeros(3)}))
    assert "conv_in.bias" in load_error(folder)


def test_altered_tensor(folder):
    rewrite(folder, lambda tensors: tensors["conv_in.bias"].add_(1e-6), checksums=True)
    assert "tensor 'conv_in.bias'" in load_error(folder) and "altered" in load_error(folder)
    assert CoDiPipeline.from_pretrained(folder, verify=False) is not None


def test_every_bit_is_seen(folder):
    data = bytearray((folder / FILE).read_bytes())
    data[-1] ^= 1
    (folder / FILE).write_bytes(data)
    assert "was altered" in load_error(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000, -10])
def test_file_cut_short(folder, keep):
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[:keep])
    assert FILE in load_error(folder)


def test_missing_files(folder):
    (folder / FILE).unlink()
    assert f"no weights in {PART}/" in load_error(folder)
    shutil.rmtree(folder / PART)
    assert f"lacks its part {PART}/" in load_error(folder)
    (folder / pretrained.INDEX).unlink()
    assert "no model folder" in load_error(folder)


def test_unknown_configuration_key(folder):
    path = folder / PART / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    assert "was altered" in load_error(folder)
    (folder / pretrained.CHECKSUMS).unlink()
    assert "'colour'" in load_error(folder)


def test_broken_configuration(folder):
    (folder / PART / "config.json").write_text("{")
    assert PART in load_error(folder)


def test_an_index_names_classes_of_ours_only(folder):
    path = folder / pretrained.INDEX
    index = json.loads(path.read_text())
    (folder / pretrained.CHECKSUMS).unlink()
    path.write_text(json.dumps(index | {PART: ["subprocess", "Popen"]}))
    assert "expected a network of codi or a scheduler of diffusers" in load_error(folder)
    path.write_text(json.dumps(index | {PART: ["codi.models.denoisers.unet", "Nothing"]}))
    assert "this codi lacks" in load_error(folder)
    path.write_text(json.dumps(index | {"safety_checker": ["codi.models.denoisers.unet", "UNetDenoiser"]}))
    assert "'safety_checker'" in load_error(folder)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "nowhere", "a/b/c"])
def test_names_that_are_no_folder(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no model folder" in load_error(source)


def test_a_file_is_no_model(folder):
    assert "no model folder" in load_error(folder / FILE)


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be had from the hub" in load_error("codi-tests/there-is-no-such-model")


def test_options_of_a_download_reach_it(saved, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda source, **options: asked.update(options) or str(saved)
    )
    CoDiPipeline.from_pretrained(
        "codi-tests/model", revision="v2", token="secret", cache_dir="there", local_files_only=True
    )
    expected = {"revision": "v2", "token": "secret", "cache_dir": "there", "local_files_only": True}
    assert {name: asked[name] for name in expected} == expected


def test_options_that_nobody_knows(saved):
    with pytest.raises(InputError, match="'verfy'"):
        CoDiPipeline.from_pretrained(saved, verfy=True)


def test_an_upload_has_its_checksums(pipe, tmp_path, monkeypatch):
    """diffusers uploads before `save_pretrained` returns."""
    uploaded = []
    monkeypatch.setattr(
        "diffusers.pipelines.pipeline_utils.create_repo",
        lambda name, **options: SimpleNamespace(repo_id=name),
    )
    card = SimpleNamespace(save=lambda path: None)
    monkeypatch.setattr(
        "diffusers.pipelines.pipeline_utils.load_or_create_model_card", lambda *args, **options: card
    )
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.populate_model_card", lambda card: card)
    monkeypatch.setattr(
        PushToHubMixin,
        "_upload_folder",
        lambda self, folder, *args, **options: uploaded.extend(Path(folder).iterdir()),
    )
    pipe.save_pretrained(str(tmp_path), push_to_hub=True)
    assert tmp_path / "checksums.json" in uploaded


# The card, and diffusers' own loader ------------------------------------


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_saved_folder_says_what_it_is(pipe, tmp_path):
    quick = CoDiPipeline(**pipe.components, defaults={"num_inference_steps": 3})
    quick.save_pretrained(tmp_path / "my-model")
    text = (tmp_path / "my-model" / "README.md").read_text()
    head = front_matter(text)
    assert (head["library_name"], head["pipeline_tag"], head["license"]) == (
        "diffusers",
        "any-to-any",
        "unknown",
    )
    assert {"codi", "image-generation", "diffusers:CoDiPipeline"} <= set(head["tags"])
    for part in (
        "# my-model",
        "| vision_denoiser | UNetDenoiser |",
        "3 x 32 x 32",
        "8 per second",
        "`num_inference_steps`: `3`",
    ):
        assert part in text
    assert "put together by hand" in text and str(tmp_path) not in text


def test_the_card_of_a_model_with_provenance_repeats_it(saved, folder, tmp_path):
    (folder / "provenance.json").write_text('{"license": "MIT", "data": ["codi.world"], "stages": {}}')
    CoDiPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    text = (tmp_path / "again" / "README.md").read_text()
    assert (
        front_matter(text)["license"] == "mit"
        and "data, as stated there: codi.world" in text
        and str(folder) not in text
    )


def test_the_code_on_the_card_runs(pipe, tmp_path, monkeypatch):
    quick = CoDiPipeline(**pipe.components, defaults={"num_inference_steps": 1})
    quick.save_pretrained(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "m" / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    exec(blocks[0], {})
    assert (tmp_path / "out" / "000.mp4").is_file()


def test_a_card_of_somebody_else_stays(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    ours = (tmp_path / "README.md").read_text()
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == ours
    for theirs in ("# My model\n", ours.replace("Defaults", "My defaults")):
        (tmp_path / "README.md").write_text(theirs)
        (tmp_path / "pipeline.py").write_text("# mine\n")
        pipe.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == theirs and (
            tmp_path / "pipeline.py"
        ).read_text() == "# mine\n"
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="README.md cannot be read"):
        pipe.save_pretrained(tmp_path)


PLACEHOLDER = "---\nlibrary_name: diffusers\n---\nThis model card has been automatically generated.\n"


@pytest.mark.parametrize(
    ("mine", "hub", "expected"),
    [
        (None, PLACEHOLDER, "# owner/name"),
        (None, "# Of the hub\n", "# Of the hub\n"),
        ("# Mine\n", PLACEHOLDER, "# Mine\n"),
    ],
    ids=["ours", "that of the hub", "mine"],
)
def test_an_upload_has_a_card(pipe, tmp_path, monkeypatch, mine, hub, expected):
    """diffusers writes its own over whatever is there before it uploads."""
    uploaded = []
    card = SimpleNamespace(save=lambda path: Path(path).write_text(hub))
    for module in ("diffusers.pipelines.pipeline_utils", "diffusers.utils.hub_utils"):
        monkeypatch.setattr(f"{module}.create_repo", lambda name, **options: SimpleNamespace(repo_id=name))
        monkeypatch.setattr(f"{module}.load_or_create_model_card", lambda *args, **options: card)
        monkeypatch.setattr(f"{module}.populate_model_card", lambda card: card)
    read = lambda self, folder, *args, **options: uploaded.append((Path(folder) / "README.md").read_text())
    monkeypatch.setattr(PushToHubMixin, "_upload_folder", read)
    if mine is not None:
        (tmp_path / "README.md").write_text(mine)
    pipe.save_pretrained(str(tmp_path), push_to_hub=True, repo_id="owner/name")
    if mine is None:
        pipe.push_to_hub("owner/name")
    assert uploaded and all(expected in text for text in uploaded)
    assert expected != "# owner/name" or all(
        front_matter(text)["pipeline_tag"] == "any-to-any" for text in uploaded
    )


def test_diffusers_own_loader_loads_a_saved_folder(saved, tmp_path):
    """In a fresh process that has imported nothing of ours, by a name, a folder and a file: the same bits as
    our own loader.
    """
    forms = ["pipeline", str(saved), str(saved / "pipeline.py")]
    code = f"""
from diffusers import DiffusionPipeline
options = dict(trust_remote_code=True)
load = lambda form: DiffusionPipeline.from_pretrained({str(saved)!r}, custom_pipeline=form, **options)
pipes = [load(form) for form in {forms!r}]
import torch
from codi import CoDiPipeline
ours = CoDiPipeline.from_pretrained({str(saved)!r})
call = dict(text="a red ball", outputs=["image", "audio"], seed=0)
call |= dict(num_inference_steps=2, output_type="latent")
other = ours(**call).latents
for pipe in pipes:
    one = pipe(**call).latents
    assert type(pipe) is CoDiPipeline and pipe.config.defaults == ours.config.defaults
    assert all(torch.equal(one[m], other[m]) for m in one)
"""
    environment = os.environ | {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]


def test_every_part_can_be_found_by_diffusers_own_loader():
    """It looks for `ModelMixin` beside a class, in the module that the index names."""
    for package in (codi.models, codi.models.autoencoders, codi.models.denoisers, codi.models.released):
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            module = importlib.import_module(found.name)
            here = [
                kind
                for kind in vars(module).values()
                if isinstance(kind, type) and kind.__module__ == found.name
            ]
            if any(issubclass(kind, ModelMixin) for kind in here):
                assert module.ModelMixin is ModelMixin, found.name


def test_pickles_are_not_written(pipe, tmp_path):
    with pytest.raises(InputError, match="safe_serialization"):
        pipe.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.iterdir())


# Saving again ----------------------------------------------------------

SMALL = {"max_shard_size": "20KB"}


def weights(model):
    return {
        f"{name}.{key}": value
        for name, part in model.components.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.state_dict().items()
    }


def check_same(folder, model, **options):
    """The folder loads, is this model, and lists every file of weights that is there."""
    found, expected = weights(CoDiPipeline.from_pretrained(folder, **options)), weights(model)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    listed = set(json.loads((folder / pretrained.CHECKSUMS).read_text()))
    files = [folder / pretrained.INDEX, *folder.glob("*/*.safetensors"), *folder.glob("*/*.json")]
    assert listed == {path.relative_to(folder).as_posix() for path in files}
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("second", [{}, SMALL, {"max_shard_size": "50KB"}])
@pytest.mark.parametrize("first", [{}, SMALL])
def test_saved_over_an_older_save_with_other_shards(tmp_path, first, second):
    pipeline(seed=1).save_pretrained(tmp_path, **first)
    newer = pipeline(seed=2)
    newer.save_pretrained(tmp_path, **second)
    check_same(tmp_path, newer)


@pytest.mark.parametrize("shards", [{}, SMALL])
def test_a_variant_of_the_same_model_stays(pipe, tmp_path, shards):
    """Other precisions of one model lie side by side; each save replaces its own."""
    half = CoDiPipeline(**{name: part for name, part in pipeline().to(torch.float16).components.items()})
    pipe.save_pretrained(tmp_path, **shards)
    half.save_pretrained(tmp_path, variant="fp16", **SMALL)
    half.save_pretrained(tmp_path, variant="fp16")
    check_same(tmp_path, pipe)
    loaded = CoDiPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert torch.equal(loaded.vision_denoiser.conv_in.weight, half.vision_denoiser.conv_in.weight)
    pipe.save_pretrained(tmp_path)
    assert CoDiPipeline.from_pretrained(tmp_path, variant="fp16") is not None
    check_same(tmp_path, pipe)


def test_a_variant_of_another_model_goes(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16", **SMALL)
    other = CoDiPipeline(**pipe.components)
    other.register_modules(vision_denoiser=wider())
    other.save_pretrained(tmp_path)
    check_same(tmp_path, other)
    assert not list((tmp_path / "vision_denoiser").glob("*fp16*")) and list(
        (tmp_path / "audio_denoiser").glob("*fp16*")
    )


def wider():
    from tests import tiny_pipeline

    torch.manual_seed(4)
    return tiny_pipeline.UNetDenoiser(
        **tiny_pipeline.JOINT, in_channels=4, block_out_channels=(32, 32), joint_levels=(1,)
    )


def test_saved_over_a_model_with_more_parts_and_in_another_precision(tmp_path):
    pipeline().save_pretrained(tmp_path, **SMALL)
    (tmp_path / "audio_denoiser" / "notes.md").write_text("mine")
    (tmp_path / "provenance.json").write_text("{}")
    few = CoDiPipeline(
        **{**pipeline().to(torch.bfloat16).components, "audio_denoiser": None, "noisy_latent_encoders": None}
    )
    few.save_pretrained(tmp_path)
    check_same(tmp_path, few, dtype=torch.bfloat16)
    # ours went, theirs stays
    assert [path.name for path in (tmp_path / "audio_denoiser").iterdir()] == ["notes.md"]
    assert not (tmp_path / "noisy_latent_encoders").exists() and (tmp_path / "provenance.json").exists()


def test_saved_over_the_folder_it_was_loaded_from(folder):
    loaded = CoDiPipeline.from_pretrained(folder)
    before = {name: value.clone() for name, value in weights(loaded).items()}
    with torch.no_grad():
        loaded.vision_denoiser.conv_in.bias.add_(1)
    loaded.save_pretrained(folder, **SMALL)
    check_same(folder, loaded)
    changed = [name for name, value in weights(loaded).items() if not torch.equal(value, before[name])]
    assert changed == ["vision_denoiser.conv_in.bias"]


def test_an_interrupted_save_leaves_the_older_model_whole(pipe, folder, monkeypatch):
    newer, calls = pipeline(seed=3), []
    plain = type(newer.vision_denoiser).save_pretrained

    def interrupted(self, *args, **options):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        plain(self, *args, **options)

    monkeypatch.setattr(type(newer.vision_denoiser), "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        newer.save_pretrained(folder)
    check_same(folder, pipe)
    (folder / ".saving-killed").mkdir()  # as a process that was killed leaves it
    monkeypatch.undo()
    newer.save_pretrained(folder)
    check_same(folder, newer)


def test_a_file_is_no_place_for_a_model(pipe, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError, match="cannot write into folder"):
        pipe.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("index", ["{", '{"../theirs": ["codi.models.denoisers.unet", "UNetDenoiser"]}'])
def test_what_an_index_names_outside_its_folder_stays(pipe, tmp_path, index):
    for folder in ("theirs", "model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    (tmp_path / "model" / pretrained.INDEX).write_text(index)
    pipe.save_pretrained(tmp_path / "model")
    check_same(tmp_path / "model", pipe)
    assert (tmp_path / "theirs" / "config.json").read_text() == "{}"
