"""Tables between the released diffusers and our denoisers, with their environment encoders.

The released ones are `model.diffusion_model.unet_image`, `unet_text` and `unet_audio`. Both theirs and ours
are lists in the order of execution, so the tables walk our module and count the released indices along with
it. `connecters` is the released spelling.
"""

from collections.abc import Mapping
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
    *(
        (f"transformer_blocks.0.{name}", f"block.{name}")
        for name in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2")
    ),
    *((f"transformer_blocks.0.attn{i}.to_{x}", f"block.attn{i}.to_{x}") for i in (1, 2) for x in "qkv"),
    *((f"transformer_blocks.0.attn{i}.to_out.0", f"block.attn{i}.to_out") for i in (1, 2)),
]
TEMPORAL = [
    *((f"temporal_attn.{name}", f"attention.{name}") for name in ("to_q", "to_kv", "to_out")),
    *(
        (f"temporal_rel_pos_bias.net.{a}", f"attention.relative_bias.net.{b}")
        for a, b in (("0.0", 0), ("1.0", 2), ("2", 4))
    ),
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
    return (
        common_config(reference)
        | dict(
            out_channels=reference["output_channels"],
            temporal_levels=tuple(range(levels)) if video else (),
            temporal=dict(RELEASED) if video else None,
        )
        | more
    )


def text_config(reference: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments of `TextDenoiser` for those of the released `UNetModel0D`; `more` is added."""
    return common_config(reference) | dict(second_dim=tuple(reference["second_dim"])) | more


def common_config(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that our two kinds of denoiser share, from those of a released diffuser."""
    on = lambda name: tuple(i for i, flag in enumerate(reference[name]) if flag)
    return dict(
        in_channels=reference["input_channels"],
        block_out_channels=tuple(reference["model_channels"] * m for m in reference["channel_mult"]),
        layers_per_block=tuple(reference["num_noattn_blocks"]),
        attention_levels=on("with_attn"),
        num_heads=reference["num_heads"],
        context_dim=reference["context_dim"],
        prompt="attention",
        env_dim=reference["connector_output_channel"],
        joint="pooled",
        joint_levels=on("with_connector"),
        first_skip="middle",
    )


def environment_config(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the environment encoder that belongs to a released diffuser."""
    text, video = "second_dim" in reference, bool(reference.get("use_video_architecture", False))
    return dict(
        in_channels=reference["input_channels"],
        emb_width=reference["model_channels"],
        stem=reference["model_channels"] // 2,
        block_out_channels=tuple(
            reference["model_channels"] * m for m in reference["channel_mult_connector"]
        ),
        layers_per_block=tuple(reference["num_noattn_blocks_connector"]),
        out_channels=reference["connector_output_channel"],
        **(dict(second_dim=tuple(reference["second_dim_connector"])) if text else {}),
        **(dict(temporal=dict(RELEASED)) if video else {}),
    )


def denoiser_table(model: UNetDenoiser | TextDenoiser) -> Table:
    """Build the table of one denoiser with its joint attention; released names are those below the prefix."""
    text = isinstance(model, TextDenoiser)
    nested = not text and bool(model.config.temporal_levels)
    into, out = ("proj_in", "proj_out") if text else ("conv_in", "conv_out")
    rows = rename(
        "",
        "",
        [
            *TIME,
            ("input_blocks.0.0", into),
            ("out.0", "norm_out"),
            ("out.2", out),
        ],
    )
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
    return rows + rename(
        f"{source}{at}",
        f"{target}upsample.",
        [("", "linear") if isinstance(layer.upsample, Remap) else (".conv", "conv")],
    )


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
    rows = rename(
        f"{source}0." if nested else source,
        f"{target}resnet.",
        DENSE if hasattr(layer.resnet, "linear1") else RESIDUAL,
    )
    if layer.temporal is not None:
        rows += rename(f"{source}1.", f"{target}temporal.", TEMPORAL)
        rows += [same(f"{source}1.{a}", f"{target}temporal.{b}", *op) for a, b, *op in TEMPORAL_TENSORS]
    return rows


def environment_table(encoder: PooledEncoder) -> Table:
    """Build the table of one environment encoder.

    Its embedding of the timestep is a copy of the denoiser's, which is where the released files have it.
    """
    text, count = hasattr(encoder, "proj_in"), len(encoder.layers)
    into, out = ("proj_in", "proj_out") if text else ("conv_in", "conv_out")
    nested = any(getattr(layer, "temporal", None) is not None for layer in encoder.layers)
    rows = rename("", "", TIME)
    rows += rename(
        "connecters_out.", "", [("0.0", into), (f"{count + 1}.0", "norm_out"), (f"{count + 1}.2", out)]
    )
    for i, layer in enumerate(encoder.layers):
        rows += layer_rows(layer, f"connecters_out.{i + 1}.", f"layers.{i}.", nested)
    return Table.for_module(encoder, rows)
