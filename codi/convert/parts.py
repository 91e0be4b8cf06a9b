"""Tables between the released autoencoders and towers and ours.

The released ones are `autokl`, `audioldm`, `optimus`, `clip` and `clap`; ours are modules of diffusers and
transformers, configured. The tables say what the released code called their parts. Configurations are given
in the released words, and tables are for names below the released prefix.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from codi.convert.tables import BETWEEN, Row, Table, rename, same, split, trailing
from codi.models.released import (
    ReleasedAudioAutoencoder,
    ReleasedAudioTower,
    ReleasedImageAutoencoder,
    ReleasedTextAutoencoder,
    ReleasedTextTower,
    ReleasedVisionTower,
)
from codi.models.released.towers import TemporalLayer

RESIDUAL = [
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
]
ATTENTION = [
    ("norm", "group_norm"),
    ("q", "to_q", trailing(2)),
    ("k", "to_k", trailing(2)),
    ("v", "to_v", trailing(2)),
    ("proj_out", "to_out.0", trailing(2)),
]
CLIP_LAYER = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "layer_norm1",
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
]
BERT_LAYER = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
]
GPT2_LAYER = ["ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
SWIN_BLOCK = [
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
]

# Variational autoencoders ----------------------------------------------


def vae_config(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of diffusers' `AutoencoderKL` for LDM's `ddconfig`."""
    shape = reference["ddconfig"]
    widths = [shape["ch"] * m for m in shape["ch_mult"]]
    assert not shape["attn_resolutions"], (
        f"attention inside the levels is not supported: attn_resolutions {shape['attn_resolutions']}"
    )
    return dict(
        in_channels=shape["in_channels"],
        out_channels=shape["out_ch"],
        latent_channels=shape["z_channels"],
        block_out_channels=widths,
        layers_per_block=shape["num_res_blocks"],
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        sample_size=shape["resolution"],
    )


def vae_rows(vae: AutoencoderKL, target: str = "vae.") -> list[Row]:
    """Build the rows of LDM's autoencoder, whose decoder counts levels from the finest."""
    levels = len(vae.config.block_out_channels)
    depth = vae.config.layers_per_block
    ends = [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")]
    rows = rename("", target, [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")])
    for side in ("encoder", "decoder"):
        rows += rename(f"{side}.", f"{target}{side}.", ends)
        for i in (0, 1):
            rows += rename(f"{side}.mid.block_{i + 1}.", f"{target}{side}.mid_block.resnets.{i}.", RESIDUAL)
        rows += rename(f"{side}.mid.attn_1.", f"{target}{side}.mid_block.attentions.0.", ATTENTION)
    for level in range(levels):
        down = f"{target}encoder.down_blocks.{level}."
        up = f"{target}decoder.up_blocks.{levels - 1 - level}."
        for i in range(depth + 1):
            rows += rename(f"encoder.down.{level}.block.{i}.", f"{down}resnets.{i}.", RESIDUAL)
            rows += rename(f"decoder.up.{level}.block.{i}.", f"{up}resnets.{i}.", RESIDUAL)
        rows += rename(f"encoder.down.{level}.", down, [("downsample.conv", "downsamplers.0.conv")])
        rows += rename(f"decoder.up.{level}.", up, [("upsample.conv", "upsamplers.0.conv")])
    return rows


def image_autoencoder_config(
    reference: Mapping[str, Any], scaling_factor: float = 0.18215, **more: Any
) -> dict[str, Any]:
    """Return the arguments of `ReleasedImageAutoencoder`.

    Args:
        reference: the arguments of the released `autokl`.
        scaling_factor: the released factor between latents and normalised ones (normalised = latent *
            factor).
        **more: further arguments of ours, which are added or replace others.

    Returns:
        The arguments.
    """
    return dict(vae_config=vae_config(reference), image_size=256, scaling_factor=scaling_factor) | more


def image_autoencoder_table(model: ReleasedImageAutoencoder) -> Table:
    """Build the table of the image autoencoder, the released `autokl`."""
    return Table.for_module(model, vae_rows(model.vae), scaling(model))


def audio_autoencoder_config(
    reference: Mapping[str, Any],
    vocoder: Mapping[str, Any],
    stft: Mapping[str, Any],
    scaling_factor: float = 0.9228,
    **more: Any,
) -> dict[str, Any]:
    """Return the arguments of `ReleasedAudioAutoencoder`.

    Args:
        reference: the arguments of the released `audioldm`.
        vocoder: those of its vocoder.
        stft: those of its mel spectrogram.
        scaling_factor: the released factor between latents and normalised ones (normalised = latent *
            factor).
        **more: further arguments of ours, which are added or replace others.

    Returns:
        The arguments.
    """
    vocoder_config = dict(
        model_in_dim=vocoder["num_mels"],
        sampling_rate=vocoder["sampling_rate"],
        upsample_initial_channel=vocoder["upsample_initial_channel"],
        upsample_rates=vocoder["upsample_rates"],
        upsample_kernel_sizes=vocoder["upsample_kernel_sizes"],
        resblock_kernel_sizes=vocoder["resblock_kernel_sizes"],
        resblock_dilation_sizes=vocoder["resblock_dilation_sizes"],
        leaky_relu_slope=0.1,
        normalize_before=False,
    )
    mel_config = dict(
        sampling_rate=stft["sampling_rate"],
        n_fft=stft["filter_length"],
        hop_length=stft["hop_length"],
        num_bands=stft["n_mel_channels"],
        f_min=float(stft["mel_fmin"]),
        f_max=float(stft["mel_fmax"]),
    )
    config = dict(
        vae_config=vae_config(reference),
        vocoder_config=vocoder_config,
        mel_config=mel_config,
        num_samples=1024 * stft["hop_length"],
        scaling_factor=scaling_factor,
    )
    return config | more


def audio_autoencoder_table(model: ReleasedAudioAutoencoder) -> Table:
    """Build the table of the audio autoencoder and its vocoder, the released `audioldm`."""
    rows = vae_rows(model.vae)
    rows += rename("vocoder.", "vocoder.", both("conv_pre", "conv_post"))
    for i in range(len(model.vocoder.upsampler)):
        rows += rename("vocoder.", "vocoder.", [(f"ups.{i}", f"upsampler.{i}")])
    for i, block in enumerate(model.vocoder.resblocks):
        name = f"vocoder.resblocks.{i}."
        for j in range(len(block.convs1)):
            rows += rename(name, name, both(f"convs1.{j}", f"convs2.{j}"))
    bands = model.vocoder.config.model_in_dim
    constants = scaling(model)
    constants["vocoder.mean"] = torch.zeros(bands)
    constants["vocoder.scale"] = torch.ones(bands)
    return Table.for_module(model, rows, constants)


# Optimus ---------------------------------------------------------------


def text_autoencoder_config(
    reference: Mapping[str, Any], scaling_factor: float = 4.3108, **more: Any
) -> dict[str, Any]:
    """Return the arguments of `ReleasedTextAutoencoder`.

    Args:
        reference: the arguments of the released `optimus`.
        scaling_factor: the factor between latents and normalised ones (normalised = latent * factor).
        **more: further arguments of ours, which are added or replace others.

    Returns:
        The arguments.
    """
    bert = (
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "type_vocab_size",
        "layer_norm_eps",
        "hidden_act",
    )
    gpt2 = ("n_embd", "n_head", "n_layer", "n_positions", "vocab_size", "layer_norm_epsilon")
    vocabulary = reference["decoder"]["vocab_size"]
    # the released code appends these three to the tokens of gpt2
    special = dict(
        pad_token_id=vocabulary - 3,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        tie_word_embeddings=False,
    )
    config = dict(
        encoder_config={name: reference["encoder"][name] for name in bert},
        decoder_config={name: reference["decoder"][name] for name in gpt2} | special,
        latent_dim=reference["latent_size"],
        scaling_factor=scaling_factor,
    )
    return config | more


def text_autoencoder_table(model: ReleasedTextAutoencoder) -> Table:
    """Build the table of the text autoencoder, the released `optimus`.

    `decoder.lm_head` is tied to the token embedding on both sides.
    """
    rows = rename("encoder.", "encoder.", both("embeddings.LayerNorm", "pooler.dense"))
    for kind in ("word", "position", "token_type"):
        rows += rename("encoder.", "encoder.", both(f"embeddings.{kind}_embeddings"))
    for i in range(model.encoder.config.num_hidden_layers):
        rows += rename(f"encoder.encoder.layer.{i}.", f"encoder.encoder.layer.{i}.", both(*BERT_LAYER))
    rows += rename("", "", [("encoder.linear", "posterior_head")])
    rows += rename("decoder.transformer.", "decoder.transformer.", both("wpe", "ln_f"))
    for i in range(model.decoder.config.n_layer):
        rows += rename(f"decoder.transformer.h.{i}.", f"decoder.transformer.h.{i}.", both(*GPT2_LAYER))
    rows += rename("decoder.transformer.", "", [("linear", "memory"), ("linear_emb", "latent_embedding")])
    rows += rename("decoder.transformer.", "decoder.transformer.", both("wte"))
    tied = {"decoder.lm_head.weight": "decoder.transformer.wte.weight"}
    return Table.for_module(model, rows, scaling(model), tied)


# CLIP and CLAP ---------------------------------------------------------


def text_tower_config(reference: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments of `ReleasedTextTower` for those of the released `clip`; `more` is added."""
    text_config = dict(reference["text_config"]) | dict(projection_dim=reference["projection_dim"])
    return dict(text_config=text_config) | more


def vision_tower_config(reference: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments of `ReleasedVisionTower` for those of the released `clip`; `more` is added."""
    vision_config = dict(reference["vision_config"]) | dict(projection_dim=reference["projection_dim"])
    return dict(vision_config=vision_config) | more


def text_tower_table(model: ReleasedTextTower) -> Table:
    """Build the table of the text tower, the text half of the released `clip`."""
    rows = rename(
        "model.text_model.",
        "text.text_model.",
        both("embeddings.token_embedding", "embeddings.position_embedding", "final_layer_norm"),
    )
    rows += rename("model.", "text.", both("text_projection"))
    for i in range(model.text.config.num_hidden_layers):
        layer = f"text_model.encoder.layers.{i}."
        rows += rename(f"model.{layer}", f"text.{layer}", both(*CLIP_LAYER))
    return Table.for_module(model, rows, center(model))


def vision_tower_table(model: ReleasedVisionTower) -> Table:
    """Build the table of the vision tower, the vision half of the released `clip`.

    Its temporal modules are included.
    """
    source = "model.vision_model."
    target = "vision.vision_model."
    rows = [same(f"{source}embeddings.class_embedding", f"{target}embeddings.class_embedding")]
    rows += rename(source, target, both("embeddings.patch_embedding", "embeddings.position_embedding"))
    rows += rename(source, target, both("pre_layrnorm", "post_layernorm"))
    rows += rename("model.", "vision.", both("visual_projection"))
    for i, layer in enumerate(model.temporal):
        rows += rename(f"{source}encoder.layers.{i}.", f"{target}encoder.layers.{i}.", both(*CLIP_LAYER))
        rows += temporal_rows(layer, f"{source}encoder.layers.{i}.temporal_self_attn.", f"temporal.{i}.")
    return Table.for_module(model, rows, center(model))


def temporal_rows(layer: TemporalLayer, source: str, target: str) -> list[Row]:
    """Build the rows of the temporal module of a vision layer.

    One-dimensional convolutions of width 1 are linear layers here.
    """
    bias = [("0.0", "0"), ("1.0", "2"), ("2", "4")]
    feed_forward = [("proj_in.0", "proj_in", trailing(1)), ("proj_out.1", "proj_out", trailing(1))]
    rows = rename(f"{source}temporal_attn.", f"{target}attention.", both("to_q", "to_kv", "to_out"))
    rows += rename(f"{source}temporal_rel_pos_bias.net.", f"{target}attention.relative_bias.net.", bias)
    rows += rename(f"{source}ff.", f"{target}feed_forward.", feed_forward)
    rows.append(same(f"{source}temporal_attn.norm.g", f"{target}attention.norm.gain"))
    return [*rows, same(f"{source}ff.proj_out.0.g", f"{target}feed_forward.norm.gain", BETWEEN)]


def audio_tower_config(reference: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments of `ReleasedAudioTower` for those of the released `clap`; `more` is added."""
    audio = reference["model_config"]["audio_cfg"]
    swin = reference["htsat"]
    audio_config = dict(
        window_size=swin["window_size"],
        num_mel_bins=audio["mel_bins"],
        spec_size=swin["spec_size"],
        patch_size=swin["patch_size"],
        patch_stride=swin["patch_stride"],
        patch_embeds_hidden_size=swin["embed_dim"],
        depths=swin["depths"],
        num_attention_heads=swin["num_heads"],
        mlp_ratio=swin["mlp_ratio"],
        qkv_bias=swin["qkv_bias"],
        hidden_size=swin["embed_dim"] * 2 ** (len(swin["depths"]) - 1),
        num_hidden_layers=len(swin["depths"]),
        projection_dim=reference["joint_embed_shape"],
        projection_hidden_act=reference["mlp_act"],
        enable_fusion=reference["enable_fusion"],
    )
    mel_config = dict(
        sampling_rate=audio["sample_rate"],
        n_fft=audio["window_size"],
        hop_length=audio["hop_size"],
        num_bands=audio["mel_bins"],
        f_min=float(audio["fmin"]),
        f_max=float(audio["fmax"]),
    )
    config = dict(audio_config=audio_config, mel_config=mel_config, num_samples=audio["clip_samples"])
    return config | more


def audio_tower_table(model: ReleasedAudioTower) -> Table:
    """Build the table of the audio tower, the audio branch of the released `clap`."""
    source = "model.audio_branch."
    target = "audio.audio_model.audio_encoder."
    rows = rename(source, target, [("bn0", "batch_norm")])
    rows += rename(source, target, both("norm", "patch_embed.proj", "patch_embed.norm"))
    rows.append(same(f"{source}bn0.running_mean", f"{target}batch_norm.running_mean"))
    rows.append(same(f"{source}bn0.running_var", f"{target}batch_norm.running_var"))
    rows += rename("model.audio_projection.", "audio.audio_projection.", [("0", "linear1"), ("2", "linear2")])
    for i, depth in enumerate(model.config.audio_config["depths"]):
        layer = f"layers.{i}."
        downsample = f"{layer}downsample."
        rows += rename(f"{source}{downsample}", f"{target}{downsample}", both("reduction", "norm"))
        for j in range(depth):
            rows += swin_rows(f"{source}{layer}blocks.{j}.", f"{target}{layer}blocks.{j}.")
    constants = {f"{target}batch_norm.num_batches_tracked": torch.tensor(0)}
    for name in model.state_dict():
        if name.endswith("relative_position_index"):
            constants[name] = window_index(model)
    return Table.for_module(model, rows, constants | center(model))


def swin_rows(source: str, target: str) -> list[Row]:
    """Build the rows of one Swin block, whose query, key and value are stacked in the released weights."""
    rows = rename(source, target, SWIN_BLOCK)
    table = "relative_position_bias_table"
    rows.append(same(f"{source}attn.{table}", f"{target}attention.self.{table}"))
    for kind in ("weight", "bias"):
        targets = tuple(f"{target}attention.self.{x}.{kind}" for x in ("query", "key", "value"))
        rows.append(Row(source=f"{source}attn.qkv.{kind}", targets=targets, op=split(3)))
    return rows


def window_index(model: ReleasedAudioTower) -> torch.Tensor:
    """Return Swin's table index for every pair of places in a window, (n, n) for n places."""
    side = model.config.audio_config["window_size"]
    place = torch.arange(side * side)
    row = place // side
    column = place % side
    return (row[:, None] - row[None] + side - 1) * (2 * side - 1) + column[:, None] - column[None] + side - 1


# Small things ----------------------------------------------------------


def both(*names: str) -> list[tuple[str, str]]:
    """Return pairs of names for modules that are called the same on both sides."""
    return [(name, name) for name in names]


def scaling(model: Any) -> dict[str, torch.Tensor]:
    """Return the statistics of the latent that do what the released scaling factor does."""
    size = model.state_dict()["scaling.mean"].shape
    return {
        "scaling.mean": torch.zeros(size),
        "scaling.std": torch.full(size, 1 / model.config.scaling_factor),
    }


def center(model: Any) -> dict[str, torch.Tensor]:
    """Return centres of zero for a tower: the released towers have no modality gap to close."""
    return {name: torch.zeros(model.dim) for name in model.state_dict() if name.endswith("bridge.center")}
