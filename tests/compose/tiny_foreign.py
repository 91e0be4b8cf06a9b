"""Twelve pipelines of other people's latent diffusion models, as classes of diffusers, tiny and untrained.

Every one consists of the classes that the published model consists of, with its own scheduler and the
settings that make it differ from the others (prediction type, offsets, packed tokens, a causal autoencoder,
class labels in place of tokens, ...), at sizes at which it is built and run within a second on one CPU core.
Weights are drawn from fixed seeds. Layers that begin at zero are drawn as well, because what reaches such a
layer would leave no trace in the output.

    folder("sd15")                                    the folder of one, built when it is first asked for
    python -m tests.compose.tiny_foreign OUT [names]  the same from a shell

Pictures have 32 x 32 pixels, the vocabulary of the tokenizers is that of codi's world.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import string
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from torch import nn

from codi.world.caption import WORDS

# What a call of each pipeline needs in order to stay tiny; names and values as the pipeline takes them.
SIZES: dict[str, dict[str, Any]] = {
    "sd15": dict(height=32, width=32),
    "sd21": dict(height=32, width=32),
    "sdxl": dict(height=32, width=32),
    "sd3": dict(height=32, width=32),
    "flux": dict(height=32, width=32),
    "animatediff": dict(height=32, width=32, num_frames=6),
    "modelscope": dict(height=32, width=32, num_frames=6),
    "ltx": dict(height=32, width=32, num_frames=9, frame_rate=8),
    "wan": dict(height=32, width=32, num_frames=9),
    "audioldm": dict(audio_length_in_s=0.64),
    "audioldm2": dict(audio_length_in_s=0.64, max_new_tokens=8),
    "stable_audio": dict(audio_end_in_s=1.28),
}
NAMES = tuple(SIZES)
NEEDS = {"stable_audio": "torchsde"}  # libraries that diffusers does not install, by pipeline

BUILDERS: dict[str, Callable[[], Any]] = {}
VOCABULARY_SIZE = 96
_root: Path | None = None  # where folders are built; a temporary place of this process until it is set
_own_root: tempfile.TemporaryDirectory | None = None


# Folders ----------------------------------------------------------------


def folder(name: str) -> Path:
    """Return the folder of a pipeline, which is built if it is not there yet.

    Several processes may share one place (see `use`): each builds beside it and moves the result there at
    once, so that nobody reads half a folder. The one that comes second takes what is there.
    """
    if reason := missing(name):
        raise ModuleNotFoundError(reason)
    place = _place() / name
    if not place.is_dir():
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as beside:
            built = Path(beside) / name
            save(name, built)
            try:
                built.rename(place)
            except OSError:  # another process was faster
                if not place.is_dir():
                    raise
    return place


def use(root: Path) -> None:
    """Build folders in `root` from now on."""
    global _root
    _root = root


def _place() -> Path:
    global _own_root
    if _root is not None:
        return _root
    if _own_root is None:
        _own_root = tempfile.TemporaryDirectory(prefix="tiny-foreign-")  # removed when the process ends
    return Path(_own_root.name)


def missing(name: str) -> str | None:
    """Return why a pipeline cannot be built here, or None if it can."""
    library = NEEDS.get(name)
    if library is None or importlib.util.find_spec(library) is not None:
        return None
    return f"{name} needs {library}, which is not installed"


def each(*names: str) -> list[Any]:
    """Return parameters of a test, one for each pipeline; those that cannot be built here are skipped."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(missing(name)), reason=str(missing(name))))
        for name in names or NAMES
    ]


def build(name: str) -> Any:
    """Return a pipeline with all weights drawn, none of them zero."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = BUILDERS[name]()
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                _fill_zeros(part.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(name: str, place: Path) -> None:
    """Build a pipeline and save it as a folder of safetensors."""
    pipe = build(name)
    with quiet():
        pipe.save_pretrained(place, safe_serialization=True)


def _fill_zeros(part: nn.Module) -> None:
    """Draw the parameters that were initialised to zero, from a seed of their own."""
    torch.manual_seed(1)
    for parameter in part.parameters():
        if parameter.ndim and not parameter.any():
            nn.init.normal_(parameter, std=0.05)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings, which are about full-size models."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    both = (diffusers_logging, transformers_logging)
    levels = [module.get_verbosity() for module in both]
    bars = [module.is_progress_bar_enabled() for module in both]
    for module in both:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, level, bar in zip(both, levels, bars, strict=True):
            module.set_verbosity(level)
            if bar:
                module.enable_progress_bar()


# Parts that several have ------------------------------------------------

SPECIAL = {
    "clip": ["<|endoftext|>", "<|startoftext|>"],
    "t5": ["<pad>", "</s>", "<unk>"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>"],
}
FRAMES = {
    "clip": "<|startoftext|> $A <|endoftext|>",
    "t5": "$A </s>",
    "roberta": "<s> $A </s>",
}
TOKENS = {
    "clip": dict(
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        unk_token="<|endoftext|>",
    ),
    "t5": dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>"),
    "roberta": dict(pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"),
}
OTHER_WORDS = "a the that is and there it something thing moves of with sound blurry bad quality ,".split()


def words(kind: str = "clip", length: int = 77) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that frames a sentence as CLIP, T5 or RoBERTa do."""
    known = {
        word
        for values in WORDS.values()
        for phrases in values.values()
        for p in phrases
        for word in p.split()
    }
    special = SPECIAL[kind]
    vocabulary = {word: k for k, word in enumerate([*special, *sorted(known | set(OTHER_WORDS))])}
    assert len(vocabulary) <= VOCABULARY_SIZE, f"{len(vocabulary)} words: the text encoders have too few"
    tokens = TOKENS[kind]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=tokens["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    frame = FRAMES[kind]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        frame, special_tokens=[(word, vocabulary[word]) for word in frame.split() if word != "$A"]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **tokens)


def clip_text(projection: bool = False) -> nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
        projection_dim=32,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config)


def t5(width: int = 32, **settings: Any) -> nn.Module:
    shape = dict(d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=VOCABULARY_SIZE, **{**shape, **settings})
    )


def vocoder() -> nn.Module:
    """Return a vocoder from spectrograms of 8 bands to 16 kHz, 160 samples per column."""
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16000,
        upsample_initial_channel=16,
        upsample_rates=[10, 16],
        upsample_kernel_sizes=[20, 32],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    return transformers.SpeechT5HifiGan(config)


def autoencoder(channels: int = 3, latent: int = 4, factor: float = 0.18215, **settings: Any) -> nn.Module:
    """Return an AutoencoderKL that halves the sides once."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent,
        norm_num_groups=8,
        scaling_factor=factor,
        sample_size=64,
        **settings,
    )


UNET: dict[str, Any] = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=8,
    norm_num_groups=8,
)


def unet(**settings: Any) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{**UNET, **settings})


# Noise schedules as published with Stable Diffusion and AudioLDM
STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
AUDIO = {**STABLE, "beta_start": 0.0015, "beta_end": 0.0195}


def ddim(**settings: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{"clip_sample": False, **settings})


def flow(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


# Pipelines --------------------------------------------------------------


def builder(build: Callable[[], Any]) -> Callable[[], Any]:
    BUILDERS[build.__name__] = build
    return build


def stable_diffusion(scheduler: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(),
        tokenizer=words(),
        unet=unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@builder
def sd15() -> Any:
    from diffusers import PNDMScheduler

    return stable_diffusion(
        PNDMScheduler(**STABLE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    )


@builder
def sd21() -> Any:
    return stable_diffusion(
        ddim(**STABLE, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")
    )


@builder
def sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    network = unet(
        cross_attention_dim=64,  # the two text encoders beside each other
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,  # pooled text and six sizes
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(factor=0.13025),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projection=True),
        tokenizer=words(),
        tokenizer_2=words(),
        unet=network,
        scheduler=EulerDiscreteScheduler(**STABLE, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


@builder
def sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    network = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
    )
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=flow(shift=3.0),
        vae=autoencoder(factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(projection=True),
        tokenizer=words(),
        text_encoder_2=clip_text(projection=True),
        tokenizer_2=words(),
        text_encoder_3=t5(),
        tokenizer_3=words("t5"),
    )


@builder
def flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,  # 4 channels of 2 x 2 patches
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    return FluxPipeline(
        scheduler=flow(use_dynamic_shifting=True, shift=3.0),
        vae=autoencoder(factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(),
        tokenizer=words(),
        text_encoder_2=t5(),
        tokenizer_2=words("t5", 64),
        transformer=network,
    )


@builder
def animatediff() -> Any:
    from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel

    motion = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=4,
        motion_max_seq_length=16,
    )
    return AnimateDiffPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(),
        tokenizer=words(),
        unet=UNetMotionModel.from_unet2d(unet(), motion),
        motion_adapter=None,
        scheduler=ddim(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="linear",
            steps_offset=1,
            timestep_spacing="linspace",
        ),
    )


@builder
def modelscope() -> Any:
    from diffusers import TextToVideoSDPipeline, UNet3DConditionModel

    blocks = dict(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )
    return TextToVideoSDPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(),
        tokenizer=words(),
        unet=UNet3DConditionModel(**{**UNET, **blocks}),
        scheduler=ddim(**STABLE),
    )


@builder
def ltx() -> Any:
    from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

    network = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=4,
        caption_channels=16,
    )
    vae = AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    return LTXPipeline(
        transformer=network,
        vae=vae,
        scheduler=flow(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
        text_encoder=t5(width=16),
        tokenizer=words("t5", 128),
    )


@builder
def wan() -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    network = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    config = transformers.UMT5Config(
        vocab_size=VOCABULARY_SIZE, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return WanPipeline(
        tokenizer=words("t5", 64),
        text_encoder=transformers.UMT5EncoderModel(config),
        transformer=network,
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
    )


@builder
def audioldm() -> Any:
    from diffusers import AudioLDMPipeline

    network = unet(
        in_channels=8,
        out_channels=8,
        cross_attention_dim=(32, 64),
        class_embed_type="simple_projection",  # the prompt comes as a class, not as tokens
        projection_class_embeddings_input_dim=32,
        class_embeddings_concat=True,
        sample_size=128,
    )
    config = transformers.ClapTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return AudioLDMPipeline(
        vae=autoencoder(channels=1, latent=8, factor=0.9),
        text_encoder=transformers.ClapTextModelWithProjection(config),
        tokenizer=words("roberta"),
        unet=network,
        scheduler=ddim(**AUDIO, set_alpha_to_one=False, steps_offset=1),
        vocoder=vocoder(),
    )


def clap() -> nn.Module:
    text = dict(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        pad_token_id=1,
    )
    sound = dict(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        patch_embeds_hidden_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        projection_dim=16,
    )
    return transformers.ClapModel(
        transformers.ClapConfig(text_config=text, audio_config=sound, projection_dim=16)
    )


def letters() -> tuple[Any, Any]:
    """Return tokenizers of single letters: AudioLDM2 names the classes RobertaTokenizer and T5Tokenizer."""
    known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *string.ascii_lowercase, ",", "."]
    roberta = transformers.RobertaTokenizer(
        vocab={character: k for k, character in enumerate(known)}, merges=[], model_max_length=77
    )
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return roberta, transformers.T5Tokenizer(
        vocab=[*special, *((letter, -3.0) for letter in string.ascii_lowercase)],
        extra_ids=0,
        model_max_length=77,
    )


@builder
def audioldm2() -> Any:
    from diffusers import AudioLDM2Pipeline, AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel

    network = AudioLDM2UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, 16, 32), (None, 16, 32)),
        attention_head_dim=8,
    )
    language = transformers.GPT2Config(
        n_embd=16, n_head=2, n_layer=2, vocab_size=VOCABULARY_SIZE, n_ctx=99, n_positions=99
    )
    roberta, sentence_piece = letters()
    return AudioLDM2Pipeline(
        vae=autoencoder(channels=1, latent=8, factor=0.9),
        text_encoder=clap(),
        text_encoder_2=t5(d_ff=37, num_heads=4),
        # the spelling of the third name is that of diffusers
        projection_model=AudioLDM2ProjectionModel(
            text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
        ),
        language_model=transformers.GPT2LMHeadModel(language),
        tokenizer=roberta,
        tokenizer_2=sentence_piece,
        feature_extractor=transformers.ClapFeatureExtractor(
            feature_size=64, hop_length=160, sampling_rate=16000
        ),
        unet=network,
        scheduler=ddim(**AUDIO, set_alpha_to_one=False, steps_offset=1),
        vocoder=vocoder(),
    )


@builder
def stable_audio() -> Any:
    from diffusers import (
        AutoencoderOobleck,
        CosineDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )

    network = StableAudioDiTModel(
        sample_size=64,
        in_channels=8,
        out_channels=8,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=32,
        cross_attention_input_dim=16,
    )
    vae = AutoencoderOobleck(  # 64 samples of two channels for each column of the latent
        encoder_hidden_size=16,
        downsampling_ratios=[2, 4, 8],
        decoder_channels=8,
        decoder_input_channels=8,
        audio_channels=2,
        channel_multiples=[1, 2, 4],
        sampling_rate=1600,
    )
    return StableAudioPipeline(
        vae=vae,
        text_encoder=t5(width=16),
        projection_model=StableAudioProjectionModel(
            text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=32
        ),
        tokenizer=words("t5", 16),
        transformer=network,
        scheduler=CosineDPMSolverMultistepScheduler(
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
            sigma_min=0.3,
            sigma_max=500,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder that the pipelines are saved in")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(NAMES)} (default: all)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    use(args.out)
    for name in args.names or NAMES:
        with contextlib.redirect_stdout(sys.stderr):  # where libraries write when they are imported
            found = missing(name) or folder(name)
        print(found)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()


def without_weights(sources: dict[str, Path], place: Path) -> dict[str, Path]:
    """Copy everything but the weights of pipelines, each into a folder of its name, and return these."""
    copies = {}
    for name, folder in sources.items():
        copies[name] = place / name
        shutil.copytree(folder, copies[name], ignore=shutil.ignore_patterns("*.safetensors"))
    return copies
