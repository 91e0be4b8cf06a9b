"""Names of earlier versions: a model folder, a record, a call, job lines and a training configuration with
them are read as before, and each says so once.
"""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi import CoDiPipeline, pretrained, renamed
from tests import tiny_pipeline
from training.config import load_config

OLD_PARTS = {present: old for old, present in renamed.PARTS.items()}
OLD_CLASSES = {present: old for old, present in renamed.CLASSES.items()}


@pytest.fixture(autouse=True)
def nothing_was_noted(monkeypatch):
    monkeypatch.setattr(renamed, "_noted", set())


def inverse(values, table):
    back = {present: old for old, present in table.items()}
    return {
        back.get(name, name): inverse(value, table) if isinstance(value, dict) else value
        for name, value in values.items()
    }


def as_an_earlier_version_saved(folder):
    """Gives a saved model its former names in every place."""
    index = json.loads((folder / pretrained.INDEX).read_text())
    for present, old in OLD_PARTS.items():
        (folder / present).rename(folder / old)
        index[old] = list(OLD_CLASSES[tuple(index.pop(present))])
    index["defaults"] = inverse(index["defaults"], renamed.SETTINGS)
    (folder / pretrained.INDEX).write_text(json.dumps(index))
    for config in folder.glob("*/config.json"):
        config.write_text(json.dumps(inverse(json.loads(config.read_text()), renamed.CONFIG)))
    for weights in folder.glob("*/*.safetensors"):
        state = load_file(weights)
        save_file(
            {n.replace(".frame_mixer.", ".whole."): t for n, t in state.items()}, weights, {"format": "pt"}
        )
    pretrained.write_checksums(folder)


def test_an_old_model_folder_makes_the_same_and_says_so_once(tmp_path):
    pipe = tiny_pipeline.pipeline()
    pipe.register_to_config(defaults={"start_offset": {"video": 1.0}, "partner_estimate_weight": 2.0})
    pipe.save_pretrained(tmp_path / "model")
    call = dict(
        text="a red ball", outputs=["audio", "video"], seed=3, num_inference_steps=2, output_type="latent"
    )
    before = CoDiPipeline.from_pretrained(tmp_path / "model")(**call).latents
    as_an_earlier_version_saved(tmp_path / "model")
    with pytest.warns(UserWarning, match="names of an earlier version") as notes:
        loaded = CoDiPipeline.from_pretrained(tmp_path / "model")
    said = [str(note.message).split(" has names")[0] for note in notes]
    assert len(said) == len(set(said))
    assert loaded.config.defaults == pipe.config.defaults
    assert all(torch.equal(before[m], z) for m, z in loaded(**call).latents.items())


def test_the_embedded_model_has_present_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CoDiPipeline.from_pretrained()


def test_arguments_of_a_call():
    pipe, made = (
        tiny_pipeline.pipeline(),
        dict(text="a ball", outputs=["audio", "video"], seed=0, output_type="latent"),
    )
    made |= dict(num_inference_steps=2)
    now = pipe(**made, start_offset={"video": 1.0}, auxiliary_caption=False).latents
    with pytest.warns(UserWarning, match="this call has names of an earlier version, such as 'delay'"):
        then = pipe(**made, delay={"video": 1.0}, lead=False).latents
    assert all(torch.equal(z, then[m]) for m, z in now.items())


def test_a_training_configuration(tmp_path):
    present = "configs/world/denoise_text.yaml"
    text = open(present).read()
    old = text.replace("partner_estimates:", "told:")
    assert old != text
    (tmp_path / "old.yaml").write_text(old)
    with pytest.warns(UserWarning, match="such as 'told', now 'partner_estimates'"):
        found = load_config(tmp_path / "old.yaml")
    assert found.options == load_config(present).options


def test_stages(tmp_path):
    shutil.copy("configs/world/noisy_latent_encoders.yaml", tmp_path / "old.yaml")
    path = tmp_path / "old.yaml"
    path.write_text(path.read_text().replace("stage: noisy_latent", "stage: noised"))
    with pytest.warns(UserWarning, match="'noised', now 'noisy_latent'"):
        assert load_config(path).stage == "noisy_latent"
