"""Fine-tuning of the embedded model: whole, by LoRA, by a new word, by a new tower. What is frozen stays so
to the bit.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codi import CoDiPipeline, pretrained
from codi.adapters.files import LORA_FILE, WORDS_FILE, read_lora
from codi.io import from_unit, save_image
from codi.models.conditioning import AudioTower
from codi.prompts import collect
from codi.types import InputError, Modality
from codi.world import COLOURS, SHAPES
from training.config import load_config
from training.main import main
from training.stages import open_stage

CONFIGS = Path(__file__).parents[2] / "configs" / "world"
FEW = "{image: 0.1, text: 0.9}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of the embedded model, to train beside and into."""
    return Path(shutil.copytree(pretrained.resolve(), tmp_path_factory.mktemp("fine") / "tiny"))


def settings(model, name, *overrides):
    return [f"model={model}", f"output={model.parent}/runs/{name}", *overrides]


def stage_of(model, name, *overrides):
    config = load_config(CONFIGS / f"{name}.yaml", small=True, overrides=settings(model, name, *overrides))
    return open_stage(config)


def train(model, name, *overrides, run=None):
    words = [word for override in settings(model, run or name, *overrides) for word in ("--set", override)]
    return main(["--config", str(CONFIGS / f"{name}.yaml"), "--small", *words])


def weights(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.glob("*/*.safetensors"))}


def loss_of(stage, module, batch):
    return stage.loss(module, batch, torch.Generator().manual_seed(0))[0]


def learn(stage, module, batches, lr):
    """Steps of Adam with the same noise in each."""
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for batch in batches:
        optimizer.zero_grad()
        loss_of(stage, module, batch).backward()
        optimizer.step()


# The whole denoiser ----------------------------------------------------


def test_training_goes_on_from_finished_weights(model, tmp_path):
    mine = Path(
        shutil.copytree(model, tmp_path / "mine", ignore=shutil.ignore_patterns("loras", "words", "towers"))
    )
    small = ("options.preview_captions=[a red ball]", "options.scenes=16", f"options.prompts={FEW}")
    go_on, anew = (
        stage_of(mine, "denoise_image", *small, f"options.continue_from={on}") for on in ("true", "false")
    )
    batch = go_on.data().fetch(list(range(16)))
    torch.manual_seed(0)
    assert loss_of(go_on, go_on.build(), batch) < 0.5 * loss_of(anew, anew.build(), batch)

    before = load_file(mine / "vision_denoiser" / "diffusion_pytorch_model.safetensors")
    assert (
        train(mine, "denoise_image", *small, "options.continue_from=true", "lr=1e-4", "warmup=0", "ema=0")
        == 0
    )
    after = load_file(mine / "vision_denoiser" / "diffusion_pytorch_model.safetensors")
    moved = sum((after[n].float() - before[n].float()).square().sum() for n in before) ** 0.5
    assert 0 < moved < 0.05 * sum(before[n].float().square().sum() for n in before) ** 0.5
    others = {name: data for name, data in weights(model).items() if name.parts[0] != "vision_denoiser"}
    assert {
        name: data for name, data in weights(mine).items() if name.parts[0] != "vision_denoiser"
    } == others


# LoRA ------------------------------------------------------------------


SHORT = (
    "options.scenes=16",
    f"options.prompts={FEW}",
    "batch_size=8",
    "lr_schedule=constant",
    "warmup=0",
    "checkpoint_every=8",
)


@pytest.fixture(scope="module")
def whole(model):
    """A short LoRA run without interruption; the model's weights before it."""
    before = weights(model)
    assert train(model, "lora_image", *SHORT, "samples=32", run="whole") == 0
    return before


def test_a_lora_run_changes_nothing_but_its_own_file_and_resumes_to_the_bit(model, whole):
    assert train(model, "lora_image", *SHORT, "samples=16", run="halves") == 0
    assert train(model, "lora_image", *SHORT, "samples=32", run="halves") == 0
    one, other = (load_file(model / "loras" / run / LORA_FILE) for run in ("whole", "halves"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert any(tensor.any() for name, tensor in one.items() if "lora_B" in name)
    assert weights(model) == whole and (model / "loras" / "whole" / LORA_FILE).stat().st_size < 1 << 20
    saved = next((model.parent / "runs" / "whole" / "checkpoints").glob("step-*/weights.safetensors"))
    assert all("lora_" in name for name in load_file(saved))
    assert read_lora(model / "loras" / "whole").base == "tiny"


def test_the_embedded_pipeline_takes_what_was_trained_on_a_copy_of_it(model, whole):
    pipe = CoDiPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    call = dict(text="a red ball", outputs="image", seed=0, num_inference_steps=2, output_type="latent")
    alone = pipe(**call).latents[Modality.IMAGE]
    pipe.load_lora_weights(model / "loras" / "whole")
    assert not torch.equal(pipe(**call).latents[Modality.IMAGE], alone)
    pipe.unload_lora_weights()
    assert torch.equal(pipe(**call).latents[Modality.IMAGE], alone)


def test_a_lora_learns_while_its_denoiser_stays(model):
    stage = stage_of(model, "lora_text", f"options.prompts={FEW}", "part.rank=4")
    torch.manual_seed(0)
    module = stage.build()
    frozen = {name: p.clone() for name, p in stage.base.named_parameters() if "lora_" not in name}
    batch = stage.data().fetch(list(range(8)))
    start = loss_of(stage, module, batch).item()
    untouched = stage.inner.build()
    assert start == loss_of(stage.inner, untouched, batch).item()
    learn(stage, module, [batch] * 30, lr=1e-2)
    assert loss_of(stage, module, batch).item() < 0.9 * start
    assert all(torch.equal(p, frozen[name]) for name, p in stage.base.named_parameters() if name in frozen)
    assert {id(p) for p in module.parameters()} == {id(p) for p in stage.base.parameters() if p.requires_grad}


def test_a_lora_of_the_joint_attention_trains_that_alone(model, tmp_path):
    stage = stage_of(model, "lora_joint")
    module = stage.build()
    assert set(module) == {"audio_denoiser", "vision_denoiser"} and all(
        "/joint/" in name for name, _ in module.named_parameters()
    )
    batch = stage.data().fetch([0, 1, 2, 3])
    loss_of(stage, module, batch).backward()
    # what only latents with time attend with
    untouched = {name for name, p in module.named_parameters() if p.grad is None}
    assert all("/frame_mixer/" in name for name in untouched)
    kept = {name: p.grad.clone() for name, p in module.named_parameters() if name not in untouched}
    assert any(grad.any() for grad in kept.values()) and all(
        p.grad is None for p in stage.base.environment_encoders.parameters()
    )
    module.enable_gradient_checkpointing()
    module.zero_grad()
    loss_of(stage, module, batch).backward()
    assert all(
        torch.allclose(p.grad, kept[name], atol=1e-5) for name, p in module.named_parameters() if name in kept
    )
    stage.export(module, tmp_path)
    assert set(read_lora(tmp_path / "loras" / "lora_joint").parts) == set(module)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("part.rank=0", "rank of 1"),
        ("part.target_modules=[to_x]", "no layers named to_x"),
        ("compile=true", "compile"),
        ("part.channels=3", "unknown key 'channels'"),
    ],
)
def test_wrong_settings_of_a_lora_are_named(model, override, expected):
    with pytest.raises(InputError, match=expected):
        stage_of(model, "lora_text", override).build()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lora_audio", "temporal_change is 0.1: expected 0"), ("lora_joint", "temporal_change changes")],
)
def test_a_lora_does_not_train_the_temporal_change_layer(model, name, expected):
    with pytest.raises(InputError, match=expected):
        stage_of(model, name, "options.temporal_change=0.1").build()


def test_a_lora_goes_into_the_model_that_it_is_of(model, tmp_path):
    with pytest.raises(InputError, match="options: into changes what is finished here"):
        stage_of(model, "lora_joint", f"options.into={tmp_path}").build()


# A word ----------------------------------------------------------------


def test_a_word_comes_to_mean_what_its_pictures_show(model):
    """Of all captions "a <colour> <shape>", the nearest to the new word's is the one of its pictures."""
    stage = stage_of(model, "textual_inversion", "options.vectors=2")
    torch.manual_seed(0)
    module, source = stage.build(), stage.data()
    table = stage.tower.text.get_input_embeddings().table.weight.clone()
    before = stage.tower.embed(["a red ball"])
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    captions = stage.tower.embed([f"a {colour} {shape}" for colour, shape in pairs])
    learn(stage, module, [source.fetch(list(range(8 * k, 8 * k + 8))) for k in range(40)], lr=2e-2)
    nearest = (stage.tower.embed([f"a {stage.options.word}"]) @ captions.T).argmax().item()
    assert pairs[nearest] == ("purple", "star")
    assert torch.equal(stage.tower.embed(["a red ball"]), before)
    assert torch.equal(stage.tower.text.get_input_embeddings().table.weight, table)


def test_a_word_from_a_run_is_used_by_the_embedded_pipeline(model, tmp_path):
    before = weights(model)
    for number in range(2):
        save_image(tmp_path / f"{number}.png", from_unit(torch.rand(3, 80, 100) * 2 - 1))
    own = ("options.facts={}", f"options.images={tmp_path}", "options.word=sparkle")
    assert train(model, "textual_inversion", *own, run="sparkle") == 0 and weights(model) == before
    pipe = CoDiPipeline.from_pretrained()
    unknown = pipe.text_tower.embed(["a sparkle at night"])
    assert pipe.load_textual_inversion(model / "words" / "sparkle") == ["sparkle"]
    assert not torch.allclose(pipe.text_tower.embed(["a sparkle at night"]), unknown, atol=1e-3)
    assert (model / "words" / "sparkle" / WORDS_FILE).stat().st_size < 8192


def test_another_word_in_the_folder_of_a_finished_one_is_refused(model, capsys):
    assert train(model, "textual_inversion", "options.word=zonk", "samples=8", run="zonk") == 0
    assert train(model, "textual_inversion", "options.word=plim", "samples=8", run="zonk") == 2
    assert "belongs to another run (options.word was 'zonk', now 'plim')" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override, expected",
    [
        ("options.word=ball", "known to this model"),
        ("options.start=gizmo", "does not know the word 'gizmo'"),
        ("options.facts={shape: star, colour: pink}", "held out"),
        ("options.facts={tempo: slow}", "tempo: slow"),
        ("options.images=nowhere", "and not both"),
    ],
)
def test_wrong_settings_of_a_word_are_named(model, override, expected):
    with pytest.raises(InputError, match=expected):
        stage = stage_of(model, "textual_inversion", override)
        stage.build()
        stage.data()


# A tower ---------------------------------------------------------------


def test_a_second_audio_tower_stands_in_for_the_first(model):
    before = weights(model)
    assert train(model, "tower_audio", "options.validation_scenes=4") == 0 and weights(model) == before
    tower = AudioTower.from_pretrained(model / "towers" / "tower_audio")
    pipe, first = CoDiPipeline.from_pretrained(audio_tower=tower), CoDiPipeline.from_pretrained()
    sound = (torch.sin(torch.arange(32000) * 0.3), 16000)
    context, usual = (p.encode_prompt(collect({Modality.AUDIO: sound})) for p in (pipe, first))
    assert context.shape == usual.shape and not torch.allclose(context, usual, atol=1e-2)
    assert torch.allclose(
        context, pipe.mix_prompts([(Modality.AUDIO, tower.embed(sound[0][None]))], [1.0]), atol=1e-5
    )
    pipe.set_progress_bar_config(disable=True)
    assert pipe(audio=sound, outputs="image", seed=0, num_inference_steps=2).images[0].size == (64, 64)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("part.audio_config.projection_dim=64", "width 64"),
        ("options.tower=codi.nowhere:Tower", "expected module:Class"),
        ("options.tower=codi.models.autoencoders:AudioAutoencoder", "is no prompt encoder: expected a class"),
        ("options.modality=text", "modality is 'text'"),
    ],
)
def test_a_class_that_is_no_tower_is_refused(model, override, expected):
    with pytest.raises(InputError, match=expected):
        stage_of(model, "tower_audio", override).build()
