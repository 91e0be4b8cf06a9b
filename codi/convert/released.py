"""The released model as parts: which of our components comes from which file, under which prefix.

A geometry says how large the components are: it is a dict from the released component's name to its arguments
in the released words; `FULL` is that of the released weights. Its facts are those of the released
configuration files, as listed in docs/released-weights.md.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from codi.convert import denoisers, parts
from codi.convert.tables import Row, Table
from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.models.released import (
    ReleasedAudioAutoencoder,
    ReleasedAudioTower,
    ReleasedImageAutoencoder,
    ReleasedTextAutoencoder,
    ReleasedTextTower,
    ReleasedVisionTower,
)
from codi.models.released.environments import PooledEnvironmentEncoders

Geometry = Mapping[str, Any]
SLOTS = {
    "encoders": "CoDi_encoders.pth",
    "text": "CoDi_text_diffuser.pth",
    "audio": "CoDi_audio_diffuser_m.pth",
    "video": "CoDi_video_diffuser_8frames.pth",
}
UNETS = {"text": "unet_text", "audio": "unet_audio", "video": "unet_image"}
KINDS = {"text": "text", "audio": "audio", "video": "vision"}

_UNET = dict(
    with_attn=[True, True, True, False],
    with_connector=[True, True, True, False],
    num_noattn_blocks=[2, 2, 2, 2],
    num_heads=8,
    context_dim=768,
    channel_mult=[1, 2, 4, 4],
    channel_mult_connector=[1, 2, 4],
    num_noattn_blocks_connector=[1, 1, 1],
    connector_output_channel=1280,
)
_VAE = dict(double_z=True, num_res_blocks=2, attn_resolutions=[], resolution=256)
FULL: Geometry = dict(
    unet_image=_UNET
    | dict(input_channels=4, output_channels=4, model_channels=320, use_video_architecture=True),
    unet_text=_UNET
    | dict(
        input_channels=768,
        output_channels=768,
        model_channels=320,
        second_dim=[4] * 4,
        second_dim_connector=[4] * 3,
    ),
    unet_audio=_UNET | dict(input_channels=8, output_channels=8, model_channels=192),
    autokl=dict(ddconfig=_VAE | dict(z_channels=4, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4])),
    audioldm=dict(ddconfig=_VAE | dict(z_channels=8, in_channels=1, out_ch=1, ch=128, ch_mult=[1, 2, 4])),
    vocoder=dict(
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        upsample_initial_channel=1024,
        resblock_kernel_sizes=[3, 7, 11],
        resblock_dilation_sizes=[[1, 3, 5]] * 3,
        num_mels=64,
        sampling_rate=16000,
        hop_size=160,
    ),
    stft=dict(
        filter_length=1024,
        hop_length=160,
        win_length=1024,
        n_mel_channels=64,
        sampling_rate=16000,
        mel_fmin=0,
        mel_fmax=8000,
    ),
    optimus=dict(
        encoder=dict(
            hidden_size=768,
            intermediate_size=3072,
            max_position_embeddings=512,
            num_attention_heads=12,
            num_hidden_layers=12,
            vocab_size=28996,
            type_vocab_size=2,
            layer_norm_eps=1e-12,
            hidden_act="gelu",
        ),
        decoder=dict(
            n_embd=768, n_head=12, n_layer=12, n_positions=1024, vocab_size=50260, layer_norm_epsilon=1e-5
        ),
        latent_size=768,
    ),
    clip=dict(
        projection_dim=768,
        text_config=dict(
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            num_hidden_layers=12,
            vocab_size=49408,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
        ),
        vision_config=dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_attention_heads=16,
            num_hidden_layers=24,
            image_size=224,
            patch_size=14,
            hidden_act="quick_gelu",
        ),
    ),
    clap=dict(
        model_config=dict(
            audio_cfg=dict(
                clip_samples=480000,
                mel_bins=64,
                sample_rate=48000,
                window_size=1024,
                hop_size=480,
                fmin=50,
                fmax=14000,
            )
        ),
        htsat=dict(
            spec_size=256,
            patch_size=4,
            patch_stride=[4, 4],
            embed_dim=256,
            depths=[2, 2, 12, 2],
            num_heads=[4, 8, 16, 32],
            window_size=8,
            mlp_ratio=4.0,
            qkv_bias=True,
        ),
        joint_embed_shape=768,
        mlp_act="relu",
        enable_fusion=False,
    ),
)
WORDS = ("clip", "bert", "gpt2")  # tokenizers, by the names of the folders that hold their tokenizer.json


def vocabulary(name: str, geometry: Geometry) -> tuple[int, str]:
    """Return how many tokens the tokenizer of one of `WORDS` has, and the name of the model that it is from.

    Three tokens that the released code adds to those of gpt2 are not counted.
    """
    optimus = geometry["optimus"]
    return {
        "clip": (geometry["clip"]["text_config"]["vocab_size"], "clip-vit-large-patch14"),
        "bert": (optimus["encoder"]["vocab_size"], "bert-base-cased"),
        "gpt2": (optimus["decoder"]["vocab_size"] - 3, "gpt2"),
    }[name]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of our components, as it is made from released weights.

    Attributes:
        name: its name in the pipeline.
        build: makes the component with its arguments.
        table: makes the table of a component, with full released names.
    """

    name: str
    build: Callable[[], nn.Module]
    table: Callable[[nn.Module], Table]

    def on_meta(self) -> tuple[nn.Module, Table]:
        """Build the component without memory, and return it with its table."""
        with torch.device("meta"):
            module = self.build()
        return module, self.table(module)


def prefixed(table: Table, source: str, target: str = "") -> Table:
    """Return the table with `source` before every released name and `target` before each of ours."""
    rows = []
    for row in table.rows:
        targets = tuple(target + name for name in row.targets)
        rows.append(replace(row, source=source + row.source, targets=targets))
    constants = {target + name: value for name, value in table.constants.items()}
    tied = {target + name: target + twin for name, twin in table.tied.items()}
    return Table(rows=tuple(rows), constants=constants, tied=tied)


def listed(
    slots: Mapping[str, set[str]], geometry: Geometry = FULL, words: Mapping[str, str] | None = None
) -> dict[str, list[Part]]:
    """Return our components for the files that are there.

    A diffuser file without connecters (those of June 2023) gives a denoiser that cannot attend to others.

    Args:
        slots: the names of the tensors in each file, by slot.
        geometry: the sizes of the released components.
        words: tokenizers as JSON by name, see `WORDS`.

    Returns:
        The components by the slot that they come from. The environment encoders come last, under
        "environment_encoders", made from all diffuser files that have some.
    """
    found = {}
    with_environments = []
    for slot, names in slots.items():
        if slot == "encoders":
            found[slot] = encoder_parts(geometry, words or {})
            continue
        found[slot] = [denoiser_part(slot, names, geometry)]
        if any(".connecters_out." in name for name in names):
            with_environments.append(slot)
    if with_environments:
        found["environment_encoders"] = [environments_part(with_environments, geometry)]
    return found


def encoder_parts(geometry: Geometry, words: Mapping[str, str]) -> list[Part]:
    """Return the autoencoders and towers, which come from the file of encoders."""
    image = parts.image_autoencoder_config(geometry["autokl"])
    audio = parts.audio_autoencoder_config(geometry["audioldm"], geometry["vocoder"], geometry["stft"])
    text = parts.text_autoencoder_config(
        geometry["optimus"], tokenizer=words.get("bert"), decoder_tokenizer=words.get("gpt2")
    )
    clip_text = parts.text_tower_config(geometry["clip"], tokenizer=words.get("clip"))
    clip_vision = parts.vision_tower_config(geometry["clip"])
    clap_audio = parts.audio_tower_config(geometry["clap"])
    return [
        part("image_autoencoder", "autokl.", ReleasedImageAutoencoder, image, parts.image_autoencoder_table),
        part(
            "audio_autoencoder", "audioldm.", ReleasedAudioAutoencoder, audio, parts.audio_autoencoder_table
        ),
        part("text_autoencoder", "optimus.", ReleasedTextAutoencoder, text, parts.text_autoencoder_table),
        part("text_tower", "clip.", ReleasedTextTower, clip_text, parts.text_tower_table),
        part("vision_tower", "clip.", ReleasedVisionTower, clip_vision, parts.vision_tower_table),
        part("audio_tower", "clap.", ReleasedAudioTower, clap_audio, parts.audio_tower_table),
    ]


def part(
    name: str, prefix: str, kind: type, config: Mapping[str, Any], table: Callable[[Any], Table]
) -> Part:
    """Return a component whose released names all begin with `prefix`.

    Args:
        name: its name in the pipeline.
        prefix: the beginning of its released names.
        kind: its class.
        config: the arguments of the class.
        table: makes the table of a component, with released names below the prefix.

    Returns:
        The component.
    """
    return Part(name=name, build=lambda: kind(**config), table=lambda module: prefixed(table(module), prefix))


def denoiser_part(slot: str, names: set[str], geometry: Geometry) -> Part:
    """Return the denoiser in one of the three diffuser files.

    Args:
        slot: the slot of the file.
        names: the names of its tensors; without connecters among them the denoiser has no joint attention.
        geometry: the sizes of the released components.

    Returns:
        The denoiser as a part.
    """
    reference = geometry[UNETS[slot]]
    alone = {}
    if not any(".input_block_connecters_in." in name for name in names):
        alone = dict(env_dim=None, joint_levels=())
    if slot == "text":
        kind = TextDenoiser
        config = denoisers.text_config(reference, **alone)
    else:
        kind = UNetDenoiser
        audio = slot == "audio"
        timing = dict(time_axis=2, latent_rate=25.0) if audio else dict(latent_rate=4.0, num_frames=8)
        config = denoisers.unet_config(reference, **timing, **alone)
    return part(f"{KINDS[slot]}_denoiser", prefix_of(slot), kind, config, denoisers.denoiser_table)


def environments_part(slots: list[str], geometry: Geometry) -> Part:
    """Return the environment encoders of those diffuser files that hold one, as a single part."""
    configs = {KINDS[slot]: denoisers.environment_config(geometry[UNETS[slot]]) for slot in slots}

    def table(module: PooledEnvironmentEncoders) -> Table:
        rows: list[Row] = []
        for slot in slots:
            encoder = denoisers.environment_table(module.encoders[KINDS[slot]])
            rows += prefixed(encoder, prefix_of(slot), f"encoders.{KINDS[slot]}.").rows
        return Table(rows=tuple(rows), constants={}, tied={})

    return Part(name="environment_encoders", build=lambda: PooledEnvironmentEncoders(**configs), table=table)


def prefix_of(slot: str) -> str:
    """Return the beginning of all names in a diffuser file."""
    return f"model.diffusion_model.{UNETS[slot]}."


# What is in the files and in no part -----------------------------------

KEPT = [
    (r"(betas|alphas_cumprod(_prev)?|(sqrt|log)_\w+|posterior_\w+)", "noise schedule, derived"),
    (r"audioldm\.fn_STFT\..+", "Fourier and mel bases, derived"),
    (r"optimus\.decoder\.transformer\.h\.\d+\.attn\.(bias|masked_bias)", "causal mask, derived"),
    (r"optimus\.decoder\.lm_head\.weight", "the token embedding again (tied)"),
    (
        r"clip\.model\.(text|vision)_model\.embeddings\.position_ids"
        r"|optimus\.encoder\.embeddings\.position_ids",
        "counting, derived",
    ),
    (r"clip\.model\.logit_scale", "temperature of the contrastive loss, only for training"),
    (
        r"clip\..+\.temporal_attn\.(pos_embeds|frame_rate_embeds)",
        "not used: the released code passes no frame rate to CLIP",
    ),
    (
        r"clap\..+\.(num_batches_tracked|relative_position_index|attn_mask)",
        "counters and window tables, derived",
    ),
    (
        r"clap\.model\.audio_branch\.(spectrogram_extractor|logmel_extractor)\..+",
        "Fourier and mel bases, derived",
    ),
    (
        r"clap\.model\.(audio_transform|audio_branch\.head|audio_branch\.tscam_conv)\..+",
        "classifier, without effect on the embedding",
    ),
]


def why_kept(name: str) -> str | None:
    """Return why a released tensor is in none of our parts; None for a tensor that nobody knows."""
    for pattern, reason in KEPT:
        if re.fullmatch(pattern, name):
            return reason
    return None
