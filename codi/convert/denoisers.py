"""Tables between the released diffusers and our denoisers, with their environment encoders.

The released ones are `model.diffusion_model.unet_image`, `unet_text` and `unet_audio`. Both theirs and ours
are lists in the order of execution, so the tables walk our module and count the released indices along with
it. `connecters` is the released spelling.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from codi.convert.tables import LEADING, Row, Table, rename, same, trailing
from codi.models.denoisers.blocks import Block, Downsample
from codi.models.denoisers.temporal import RELEASED
from codi.models.denoisers.text import Remap, TextDenoiser
from codi.models.denoisers.unet import UNetDenoiser
from codi.models.released.environments import PooledEncoder

TIME = [("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2")]
RESIDUAL = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
]
DENSE = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "linear1", trailing(2)),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "linear2", trailing(2)),
    ("skip_connection", "shortcut", trailing(2)),
]
TRANSFORMER = [
    ("norm", "norm"),
    ("proj_in", "proj_in", trailing(2)),
    ("proj_out", "proj_out", trailing(2)),
    ("transformer_blocks.0.norm1", "block.norm1"),
    ("transformer_blocks.0.norm2", "block.norm2"),
    ("transformer_blocks.0.norm3", "block.norm3"),
    ("transformer_blocks.0.ff.net.0.proj", "block.ff.net.0.proj"),
    ("transformer_blocks.0.ff.net.2", "block.ff.net.2"),
    ("transformer_blocks.0.attn1.to_q", "block.attn1.to_q"),
    ("transformer_blocks.0.attn1.to_k", "block.attn1.to_k"),
    ("transformer_blocks.0.attn1.to_v", "block.attn1.to_v"),
    ("transformer_blocks.0.attn2.to_q", "block.attn2.to_q"),
    ("transformer_blocks.0.attn2.to_k", "block.attn2.to_k"),
    ("transformer_blocks.0.attn2.to_v", "block.attn2.to_v"),
    ("transformer_blocks.0.attn1.to_out.0", "block.attn1.to_out"),
    ("transformer_blocks.0.attn2.to_out.0", "block.attn2.to_out"),
]
TEMPORAL = [
    ("temporal_attn.to_q", "attention.to_q"),
    ("temporal_attn.to_kv", "attention.to_kv"),
    ("temporal_attn.to_out", "attention.to_out"),
    ("temporal_rel_pos_bias.net.0.0", "attention.relative_bias.net.0"),
    ("temporal_rel_pos_bias.net.1.0", "attention.relative_bias.net.2"),
    ("temporal_rel_pos_bias.net.2", "attention.relative_bias.net.4"),
    ("ff.proj_in.0", "feed_forward.proj_in", trailing(3)),
    ("ff.proj_out.1", "feed_forward.proj_out", trailing(3)),
    ("frameshiftblock.out_layers.0", "frame_shift.norm"),
    ("frameshiftblock.out_layers.2", "frame_shift.conv"),
]
TEMPORAL_TENSORS = [
    ("temporal_attn.pos_embeds", "attention.position", LEADING),
    ("temporal_attn.frame_rate_embeds", "attention.rate_embedding", LEADING),
    ("temporal_attn.norm.g", "attention.norm.gain"),
    ("ff.proj_out.0.g", "feed_forward.norm.gain", trailing(3)),
]


def unet_config(reference: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments of `UNetDenoiser` for those of the released `UNetModel2D`.

    Every switch is set to the released behaviour.

    Args:
        reference: the arguments of the released class.
        **more: further arguments of ours, which are added or replace others.

    Returns:
        The arguments of `UNetDenoiser`.
    """
    video = bool(reference.get("use_video_architecture", False))
    levels = len(reference["channel_mult"])
    config = common_config(reference)
    config["out_channels"] = reference["output_channels"]
    config["temporal_levels"] = tuple(range(levels)) if video else ()
    config["temporal"] = dict(RELEASED) if video else None
    return config | more


def text_config(reference: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments of `TextDenoiser` for those of the released `UNetModel0D`; `more` is added."""
    return common_config(reference) | dict(second_dim=tuple(reference["second_dim"])) | more


def common_config(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that our two kinds of denoiser share, from those of a released diffuser."""
    width = reference["model_channels"]
    return dict(
        in_channels=reference["input_channels"],
        block_out_channels=tuple(width * factor for factor in reference["channel_mult"]),
        layers_per_block=tuple(reference["num_noattn_blocks"]),
        attention_levels=levels_with(reference["with_attn"]),
        num_heads=reference["num_heads"],
        context_dim=reference["context_dim"],
        prompt="attention",
        env_dim=reference["connector_output_channel"],
        joint="pooled",
        joint_levels=levels_with(reference["with_connector"]),
        first_skip="middle",
    )


def levels_with(flags: Iterable[bool]) -> tuple[int, ...]:
    """Return the levels whose flag is set."""
    return tuple(level for level, flag in enumerate(flags) if flag)


def environment_config(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the environment encoder that belongs to a released diffuser."""
    width = reference["model_channels"]
    config = dict(
        in_channels=reference["input_channels"],
        emb_width=width,
        stem=width // 2,
        block_out_channels=tuple(width * factor for factor in reference["channel_mult_connector"]),
        layers_per_block=tuple(reference["num_noattn_blocks_connector"]),
        out_channels=reference["connector_output_channel"],
    )
    if "second_dim" in reference:
        config["second_dim"] = tuple(reference["second_dim_connector"])
    if reference.get("use_video_architecture", False):
        config["temporal"] = dict(RELEASED)
    return config


def denoiser_table(model: UNetDenoiser | TextDenoiser) -> Table:
    """Build the table of one denoiser with its joint attention; released names are those below the prefix."""
    text = isinstance(model, TextDenoiser)
    nested = not text and bool(model.config.temporal_levels)
    into, out = ("proj_in", "proj_out") if text else ("conv_in", "conv_out")
    names = [*TIME, ("input_blocks.0.0", into), ("out.0", "norm_out"), ("out.2", out)]
    rows = rename("", "", names)
    for i, layer in enumerate(model.down):
        rows += layer_rows(layer, f"input_blocks.{i + 1}.", f"down.{i}.", nested)
        rows += rename(f"input_block_connecters_in.{i + 1}.0.", f"down.{i}.joint.", TRANSFORMER)
    for i, layer in enumerate(model.up):
        rows += layer_rows(layer, f"output_blocks.{i}.", f"up.{i}.", nested)
        rows += rename(f"output_block_connecters_in.{i}.0.", f"up.{i}.joint.", TRANSFORMER)
    for i, place in enumerate(("0.", "2.")):
        rows += residual_rows(model.middle[i], f"middle_block.{place}", f"middle.{i}.", nested)
    rows += rename("middle_block.1.", "middle.0.attention.", TRANSFORMER)
    return Table.for_module(model, rows)


def layer_rows(layer: nn.Module, source: str, target: str, nested: bool) -> list[Row]:
    """Build the rows of one entry of the encoder or decoder.

    Args:
        layer: our module for it.
        source: the prefix of its released names.
        target: the prefix of our names.
        nested: whether residual blocks have temporal modules beside them, and both are one level deeper.

    Returns:
        The rows; those for modules that the layer lacks are sorted out by `Table.for_module`.
    """
    if isinstance(layer, Downsample):
        return rename(f"{source}0.", target, [("op", "conv")])
    if isinstance(layer, Remap):
        return rename(source, target, [("0", "linear")])
    assert isinstance(layer, Block), type(layer)
    rows = residual_rows(layer, f"{source}0.", target, nested)
    if layer.attention is not None:
        rows += rename(f"{source}1.", f"{target}attention.", TRANSFORMER)
    # the released upsampling comes behind the block and, where there is one, its transformer
    at = 1 if layer.attention is None else 2
    names = ("", "linear") if isinstance(layer.upsample, Remap) else (".conv", "conv")
    return rows + rename(f"{source}{at}", f"{target}upsample.", [names])


def residual_rows(layer: Block, source: str, target: str, nested: bool) -> list[Row]:
    """Build the rows of a residual block, and of the temporal module beside it if the block has one.

    Args:
        layer: our block.
        source: the prefix of the released names.
        target: the prefix of our names.
        nested: whether the model has temporal modules: then the block and the module are one level deeper.

    Returns:
        The rows.
    """
    block = f"{source}0." if nested else source
    names = DENSE if hasattr(layer.resnet, "linear1") else RESIDUAL
    rows = rename(block, f"{target}resnet.", names)
    if layer.temporal is not None:
        rows += rename(f"{source}1.", f"{target}temporal.", TEMPORAL)
        for released, ours, *op in TEMPORAL_TENSORS:
            rows.append(same(f"{source}1.{released}", f"{target}temporal.{ours}", *op))
    return rows


def environment_table(encoder: PooledEncoder) -> Table:
    """Build the table of one environment encoder.

    Its embedding of the timestep is a copy of the denoiser's, which is where the released files have it.
    """
    text = hasattr(encoder, "proj_in")
    into, out = ("proj_in", "proj_out") if text else ("conv_in", "conv_out")
    nested = any(getattr(layer, "temporal", None) is not None for layer in encoder.layers)
    last = len(encoder.layers) + 1
    rows = rename("", "", TIME)
    rows += rename("connecters_out.", "", [("0.0", into), (f"{last}.0", "norm_out"), (f"{last}.2", out)])
    for i, layer in enumerate(encoder.layers):
        rows += layer_rows(layer, f"connecters_out.{i + 1}.", f"layers.{i}.", nested)
    return Table.for_module(encoder, rows)
