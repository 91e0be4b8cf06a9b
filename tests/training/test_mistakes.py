"""Mistakes in a configuration's sections and in the parts that a stage starts from are one clear line, before
anything is trained.
"""

import shutil
from pathlib import Path

import pytest
import torch

from codi import pretrained
from codi.models.conditioning import AudioTower, TextTower
from codi.types import InputError, Modality
from data.world import PAIRS
from training.config import load_config, strict
from training.plan import HardwareSpec, plan
from training.stages import open_stage
from training.stages.align import AlignOptions
from training.stages.autoencoder import AutoencoderOptions, SoundOptions
from training.stages.building import build_module, check_sections
from training.stages.common import load_part
from training.stages.denoise import DenoiseOptions
from training.stages.joint import JointOptions
from training.stages.latents import latents_of
from training.stages.noisy_latent import NoisyLatentOptions
from training.stages.prompts import check_prompts

CONFIGS = Path(__file__).parents[2] / "configs" / "world"
EMBEDDED = pretrained.resolve()


def build(name, *overrides):
    config = load_config(CONFIGS / f"{name}.yaml", overrides=[f"model={EMBEDDED}", *overrides])
    return build_module(open_stage(config), config.part)


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("autoencoder_image", "part.chanels=3", "part: unknown key 'chanels': ImageAutoencoder has no such"),
        (
            "autoencoder_image",
            "part.vae_config.chanels=3",
            "part: unknown key 'chanels': AutoencoderKL has no such",
        ),
        (
            "autoencoder_image",
            "part={}",
            "part: missing 'vae_config' and 'image_size', which ImageAutoencoder needs",
        ),
        (
            "autoencoder_text",
            "part.encoder_config.hidden_sise=3",
            "part.encoder_config: unknown key 'hidden_sise': did you mean 'hidden_size'",
        ),
        (
            "autoencoder_text",
            "part.latent_dim=many",
            "part: nothing can be built from these values .TypeError in ",
        ),
        ("vocoder", "part.chanels=3", "part.vocoder_config: unknown key 'chanels'"),
        (
            "vocoder",
            "options.continue_from=true",
            "continue_from is True: expected false: .* has no vocoder yet",
        ),
        ("vocoder", "options.kl_weight=0.1", "options: unknown key 'kl_weight'"),
        (
            "align_image",
            "part.vision_towr={}",
            "part: unknown key 'vision_towr': did you mean 'vision_tower'",
        ),
        (
            "align_image",
            "part.vision_tower.vision_config.layers=2",
            "part.vision_tower.vision_config: unknown key 'layers'",
        ),
        ("align_audio", "part={}", "part: missing audio_tower"),
        ("denoise_image", "part.norm_num_groups=7", "part: nothing can be built .*must be divisible"),
        (
            "denoise_image",
            "part.in_channels=3",
            "part: in_channels is 3: expected 8, the channels of the autoencoder's latents",
        ),
        (
            "denoise_audio",
            "part.context_dim=64",
            "part: context_dim is 64: expected 128, the width of the towers",
        ),
        (
            "joint_audio",
            "options.attending={audio+video: [image]}",
            "attending of audio.video is .*: expected one of its two",
        ),
        ("joint_audio", "options.contrast=0.1", "contrast is 0.1: expected 0 where one side attends"),
        ("joint_audio", "part.chanels=3", "part: unknown key 'chanels': EnvironmentEncoders has no such"),
        ("joint_video", "options.joint_config={smell: 1}", "unknown key 'smell'"),
    ],
)
def test_what_nothing_can_be_built_from_is_named(name, override, words):
    with pytest.raises(InputError, match=words):
        build(name, override)


@pytest.mark.parametrize(
    "path",
    sorted(CONFIGS.glob("denoise_*.yaml")) + sorted(CONFIGS.glob("lora_*.yaml")),
    ids=lambda path: path.stem,
)
def test_configurations_keep_to_the_pairs_that_training_may_see(path):
    options = load_config(path).options
    if "modality" in options:
        check_prompts(Modality.parse(options["modality"]), options["prompts"], PAIRS)


@pytest.mark.parametrize("name", ["autoencoder_image", "autoencoder_audio", "autoencoder_text"])
def test_what_goes_on_from_a_finished_autoencoder_needs_no_part(name):
    settings = [f"model={EMBEDDED}", "part={}", "options.continue_from=true"]
    stage = open_stage(load_config(CONFIGS / f"{name}.yaml", overrides=settings))
    module, batch = stage.build(), stage.data().fetch([0, 1])
    assert stage.loss(module, batch, torch.Generator().manual_seed(0))[0].requires_grad
    assert {modality: len(spec.raw_shape) for modality, spec in stage.geometry().items()} in (
        {"image": 3},
        {"audio": 1},
        {},
    )


def test_pictures_are_as_large_as_the_tower_has_them():
    left_out = [
        "part.vision_tower.vision_config.image_size=null",
        "part.vision_tower.vision_config.patch_size=32",
    ]
    config = load_config(CONFIGS / "align_image.yaml", overrides=left_out)
    del config.part["vision_tower"]["vision_config"]["image_size"]
    stage = open_stage(config)
    stage.build()
    assert stage.geometry()[Modality.IMAGE].raw_shape == (3, 224, 224)


def test_names_that_transformers_knows_by_another_are_known():
    check_sections({"decoder_config": {"hidden_size": 32, "n_layer": 1}, "other": 3}, "part")


def test_a_dry_run_names_them_too():
    path = CONFIGS / "denoise_image.yaml"
    with pytest.raises(InputError, match="part: unknown key 'chanels'"):
        plan(load_config(path, overrides=["part.chanels=3"]), path.parent, HardwareSpec())


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (DenoiseOptions, {"prompts": {}}, "prompts is {}: expected shares"),
        (DenoiseOptions, {"prompts": {"text": -1}}, "none below 0"),
        (DenoiseOptions, {"prompts": {"text": "much"}}, "prompts: text is 'much': expected a finite number"),
        (
            DenoiseOptions,
            {"prompts": {"text": 1}, "timestep_shift": 0},
            "timestep_shift is 0.0: expected more than 0",
        ),
        (DenoiseOptions, {"prompts": {"text": 1}, "prompt_dropout": 2}, "prompt_dropout is 2.0"),
        (DenoiseOptions, {"prompts": {"text": 1}, "prompt_interpolation": 2}, "prompt_interpolation is 2.0"),
        (
            DenoiseOptions,
            {"prompts": {"text": 1}, "partner_estimates": {"text": 1.5}},
            "partner_estimates is .*together no more than 1",
        ),
        (
            DenoiseOptions,
            {"prompts": {"text": 1}, "picture_partner_estimates": {"text": 0.5}},
            "picture_partner_estimates is .*: expected nothing where",
        ),
        (AlignOptions, {"alike": 0}, "alike is 0: expected 1 or more"),
        (AutoencoderOptions, {"statistics_samples": 0}, "statistics_samples is 0"),
        (SoundOptions, {"tones": 1.5}, "tones is 1.5: expected 0 to 1"),
        (AutoencoderOptions, {"least_noise": 0.5}, "least_noise is 0.5: expected 0 to latent_noise"),
        (JointOptions, {"pairs": {"audio+video": "half"}}, "pairs: audio.video is 'half'"),
        (JointOptions, {"pairs": {"audio+video": -1.0}}, "shares above 0"),
        (JointOptions, {"pairs": {"audio+video": 1.0}, "clean": -0.1}, "none below 0"),
        (NoisyLatentOptions, {"timestep_shift": {"smell": 1.0}}, "smell"),
    ],
)
def test_options_that_cannot_be_are_named(kind, values, words):
    needed = (
        {}
        if kind in (AutoencoderOptions, SoundOptions, JointOptions, NoisyLatentOptions)
        else {"modality": "image"}
    )
    with pytest.raises(InputError, match=words):
        strict(kind, needed | values, where="options")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("options.scenes=0", "scenes is 0: expected 1 or more"),
        (
            "options.prompts={audio: 1.0}",
            "prompts names audio: expected a modality that training sees together with image",
        ),
    ],
)
def test_scenes_that_cannot_be_trained_on_are_refused(override, words):
    config = load_config(CONFIGS / "denoise_image.yaml", overrides=[f"model={EMBEDDED}", override])
    with pytest.raises(InputError, match=words):
        open_stage(config).data()


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("denoise_text", ("options.partner_estimates={}",)),
        (
            "noisy_latent_encoders",
            ("part.latents={text: {latent_shape: [64], latent_rate: null, tokens_per_step: 4}}",),
        ),
    ],
)
def test_where_nothing_is_cached_scenes_come_as_they_are(name, overrides):
    only_text = [f"model={EMBEDDED}", "options.prompts={text: 1.0}", *overrides]
    config = load_config(CONFIGS / f"{name}.yaml", overrides=only_text)
    stage = open_stage(config)
    module, batch = stage.build(), stage.data().fetch([3, 4])
    assert (
        len(batch["scenes"]) == 2
        and stage.loss(module, batch, torch.Generator().manual_seed(0))[0].isfinite()
    )


def test_a_cache_of_scenes_that_was_altered_is_made_again(tmp_path):
    shutil.copytree(EMBEDDED / "image_autoencoder", tmp_path / "model" / "image_autoencoder")
    encoded = latents_of(tmp_path / "model", Modality.IMAGE, 4, 0).fetch([0, 1, 2, 3])["image"]
    (shard,) = tmp_path.glob("model-cache/*/*.safetensors")
    good = shard.read_bytes()
    shard.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    again = latents_of(tmp_path / "model", Modality.IMAGE, 4, 0).fetch([0, 1, 2, 3])["image"]
    assert encoded.equal(again) and shard.read_bytes() == good


def cut(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "text_tower"),
        (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "text_tower"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (
            lambda folder: shutil.copy(
                EMBEDDED / "audio_tower" / "diffusion_pytorch_model.safetensors", folder
            ),
            "text_tower",
        ),
        (lambda folder: shutil.rmtree(folder), "text_tower is missing: run align_image first"),
    ],
)
def test_a_part_that_is_damaged_or_of_another_model_is_not_trained_on(tmp_path, harm, words):
    folder = Path(shutil.copytree(EMBEDDED / "text_tower", tmp_path / "text_tower"))
    assert isinstance(load_part(TextTower, folder, "run align_image first"), TextTower)
    harm(folder)
    with pytest.raises(InputError, match=words):
        load_part(TextTower, folder, "run align_image first")
    with pytest.raises(InputError):
        load_part(AudioTower, folder, "run align_audio first")
