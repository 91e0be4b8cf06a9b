"""Print how large what is trained for a composed model is, beside the frozen networks, at full size.

The networks are built on torch's meta device from the configurations that were published with them, so that
nothing is downloaded and no memory is needed:

    python benchmarks/composed_sizes.py [WORD ...]    only models whose names contain one of the words

Trained are joint adapters at the default blocks and the environment encoder of the model's latents. The share
is in bytes; both sides are counted in the same precision.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codi.compose.environment import ForeignEnvironmentEncoders, describe_latent
from codi.compose.grid import Grid, Layout, causal_seconds, even_seconds
from codi.compose.joint_adapters import ForeignJointAdapters, adapted_network
from codi.compose.streams import survey

LIMIT = 0.05  # of the bytes of the network that it is trained for

MODELS: dict[str, Callable[[], "Model"]] = {}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network, what it is called with, and the grid of its latent, which comes first."""

    network: nn.Module
    arguments: dict[str, Any]
    grid: Grid


def model(name: str) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    """Return a decorator that puts a function into the table of models."""

    def register(build: Callable[[], Model]) -> Callable[[], Model]:
        MODELS[name] = build
        return build

    return register


def zeros(*shape: int) -> Tensor:
    """Return a tensor without numbers, since all of this runs on the meta device."""
    return torch.zeros(shape)


def picture(height: int, width: int, layout: Layout = Layout.PICTURE) -> Grid:
    return Grid(layout=layout, shape=(1, height, width))


def timed(layout: Layout, shape: tuple[int, int, int], seconds: Tensor, duration: float) -> Grid:
    return Grid(layout=layout, shape=shape, seconds=seconds, duration=duration)


@model("Stable Diffusion 1.5, 512 x 512")
def sd15() -> Model:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    arguments = dict(sample=zeros(1, 4, 64, 64), encoder_hidden_states=zeros(1, 77, 768))
    return Model(network=network, arguments=arguments, grid=picture(64, 64))


@model("SDXL, 1024 x 1024")
def sdxl() -> Model:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=128,
        cross_attention_dim=2048,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    arguments = dict(
        sample=zeros(1, 4, 128, 128),
        encoder_hidden_states=zeros(1, 77, 2048),
        added_cond_kwargs=dict(text_embeds=zeros(1, 1280), time_ids=zeros(1, 6)),
    )
    return Model(network=network, arguments=arguments, grid=picture(128, 128))


@model("Stable Diffusion 3 medium, 1024 x 1024")
def sd3() -> Model:
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    )
    arguments = dict(
        hidden_states=zeros(1, 16, 128, 128),
        encoder_hidden_states=zeros(1, 333, 4096),
        pooled_projections=zeros(1, 2048),
    )
    return Model(network=network, arguments=arguments, grid=picture(128, 128))


@model("FLUX.1, 1024 x 1024")
def flux() -> Model:
    from diffusers import FluxTransformer2DModel

    arguments = dict(
        hidden_states=zeros(1, 4096, 64),
        encoder_hidden_states=zeros(1, 512, 4096),
        pooled_projections=zeros(1, 768),
        guidance=zeros(1),
        txt_ids=zeros(512, 3),
        img_ids=zeros(4096, 3),
    )
    network = FluxTransformer2DModel(guidance_embeds=True)
    return Model(network=network, arguments=arguments, grid=picture(64, 64, Layout.TOKENS))


@model("AnimateDiff, 16 frames, 512 x 512")
def animatediff() -> Model:
    from diffusers import UNetMotionModel

    network = UNetMotionModel(
        sample_size=64,
        cross_attention_dim=768,
        num_attention_heads=8,
        motion_num_attention_heads=8,
        use_motion_mid_block=True,
    )
    arguments = dict(sample=zeros(1, 4, 16, 64, 64), encoder_hidden_states=zeros(16, 77, 768))
    grid = timed(Layout.CLIP, (16, 64, 64), even_seconds(16, 8.0), 2.0)
    return Model(network=network, arguments=arguments, grid=grid)


@model("LTX-Video 2B, 97 frames, 512 x 704")
def ltx() -> Model:
    from diffusers import LTXVideoTransformer3DModel

    arguments = dict(
        hidden_states=zeros(1, 13 * 16 * 22, 128),
        encoder_hidden_states=zeros(1, 128, 4096),
        encoder_attention_mask=zeros(1, 128),
        num_frames=13,
        height=16,
        width=22,
    )
    grid = timed(Layout.TOKENS, (13, 16, 22), causal_seconds(13, 8, 24.0), 97 / 24)
    return Model(network=LTXVideoTransformer3DModel(), arguments=arguments, grid=grid)


@model("Wan 2.1 1.3B, 81 frames, 480 x 832")
def wan() -> Model:
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)
    arguments = dict(hidden_states=zeros(1, 16, 21, 60, 104), encoder_hidden_states=zeros(1, 512, 4096))
    grid = timed(Layout.CLIP, (21, 60, 104), causal_seconds(21, 4, 16.0), 81 / 16)
    return Model(network=network, arguments=arguments, grid=grid)


@model("AudioLDM, 10.24 s")
def audioldm() -> Model:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=128,
        in_channels=8,
        out_channels=8,
        block_out_channels=(128, 256, 384, 640),
        cross_attention_dim=[128, 256, 384, 640],
        attention_head_dim=32,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=512,
        class_embeddings_concat=True,
    )
    arguments = dict(sample=zeros(1, 8, 256, 16), encoder_hidden_states=None, class_labels=zeros(1, 512))
    grid = timed(Layout.SPECTROGRAM, (256, 16, 1), even_seconds(256, 25.0), 10.24)
    return Model(network=network, arguments=arguments, grid=grid)


@model("AudioLDM 2, 10.24 s")
def audioldm2() -> Model:
    from diffusers import AudioLDM2UNet2DConditionModel

    widths = (128, 256, 384, 640)
    network = AudioLDM2UNet2DConditionModel(
        sample_size=256,
        in_channels=8,
        out_channels=8,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
        up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
        cross_attention_dim=[[None, 768, 1024]] * 4,
        attention_head_dim=32,
        transformer_layers_per_block=1,
    )
    arguments = dict(
        sample=zeros(1, 8, 256, 16),
        encoder_hidden_states=zeros(1, 8, 768),
        encoder_hidden_states_1=zeros(1, 20, 1024),
    )
    grid = timed(Layout.SPECTROGRAM, (256, 16, 1), even_seconds(256, 25.0), 10.24)
    return Model(network=network, arguments=arguments, grid=grid)


@model("Stable Audio Open, 47 s")
def stable_audio() -> Model:
    from diffusers import StableAudioDiTModel

    arguments = dict(
        hidden_states=zeros(1, 64, 1024),
        encoder_hidden_states=zeros(1, 130, 768),
        global_hidden_states=zeros(1, 1, 1536),
        rotary_embedding=(zeros(1025, 32), zeros(1025, 32)),
    )
    rate = 44100 / 2048
    grid = timed(Layout.WAVE, (1024, 1, 1), even_seconds(1024, rate), 1024 / rate)
    return Model(network=StableAudioDiTModel(), arguments=arguments, grid=grid)


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def row(name: str, full: Model) -> str:
    """Return the line of one model."""
    blocks = survey(full.network, full.grid, {**full.arguments, "timestep": zeros(1)})
    network = adapted_network(blocks, full.grid)
    latent = describe_latent(next(iter(full.arguments.values())), full.grid)
    # what it makes does not matter for sizes: any name will do
    adapters = numbers(ForeignJointAdapters({"video": network}))
    encoder = numbers(ForeignEnvironmentEncoders({"video": latent}))
    frozen = numbers(full.network)
    share = (adapters + encoder) / frozen
    sites = list(network["sites"])
    verdict = "" if share <= LIMIT else f", more than {LIMIT:.0%}"
    return (
        f"{name:40} {frozen / 1e6:8.0f} M frozen, {len(sites)} of {len(blocks)} blocks ({sites[0]} .. "
        f"{sites[-1]}), adapters {adapters / 1e6:5.2f} M, encoder {encoder / 1e6:5.2f} M: "
        f"{share:.2%}{verdict}"
    )


def chosen(words: list[str]) -> Iterator[str]:
    for name in MODELS:
        if not words or any(word.lower() in name.lower() for word in words):
            yield name


def main() -> None:
    for name in chosen(sys.argv[1:]):
        with torch.device("meta"):
            print(row(name, MODELS[name]()), flush=True)


if __name__ == "__main__":
    main()
