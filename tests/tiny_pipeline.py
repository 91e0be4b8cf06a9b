"""A whole pipeline of the real classes, small and untrained: 32 x 32 pictures, clips of 4 frames, half a
second of sound.
"""

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import nn

from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.models.conditioning import AudioTower, TextTower, VisionTower
from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.pipeline import CoDiPipeline
from codi.vocabulary import word_tokenizer

DIM, ENV = 32, 16
WORDS = "a red blue ball cube bounces slowly at night sea".split()
VAE = dict(
    block_out_channels=[16, 16],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    layers_per_block=1,
    norm_num_groups=8,
)
TRANSFORMER = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=DIM
)
JOINT = dict(context_dim=DIM, norm_num_groups=8, num_heads=2, env_dim=ENV, joint_heads=2)
MEL = dict(n_fft=256, hop_length=80, num_bands=16)


def autoencoders() -> dict[str, nn.Module]:
    text = TextAutoencoder(
        encoder_config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
        decoder_config=dict(n_embd=32, n_layer=1, n_head=2, n_positions=32, tie_word_embeddings=False),
        latent_dim=16,
        tokenizer=word_tokenizer(WORDS),
        max_length=8,
    )
    image = ImageAutoencoder(dict(VAE, latent_channels=4), image_size=32, patch_size=2)
    vocoder = dict(
        model_in_dim=16,
        sampling_rate=16000,
        upsample_initial_channel=32,
        upsample_rates=[5, 4, 4],
        upsample_kernel_sizes=[11, 8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    audio = AudioAutoencoder(dict(VAE, latent_channels=4), vocoder, MEL, num_samples=8000, patch=(1, 2))
    for part in (text, image, audio):
        part.scaling.mean.zero_()
        part.scaling.std.fill_(1.0)
    return {"text_autoencoder": text, "image_autoencoder": image, "audio_autoencoder": audio}


def towers() -> dict[str, nn.Module]:
    audio = dict(
        num_mel_bins=16,
        spec_size=64,
        patch_size=4,
        patch_stride=[4, 4],
        window_size=4,
        patch_embeds_hidden_size=8,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        hidden_size=16,
        projection_dim=DIM,
        enable_fusion=False,
        num_classes=1,
    )
    return {
        "text_tower": TextTower(dict(TRANSFORMER, max_position_embeddings=16), word_tokenizer(WORDS)),
        "vision_tower": VisionTower(dict(TRANSFORMER, image_size=32, patch_size=8), max_frames=4),
        "audio_tower": AudioTower(audio, MEL),
    }


def denoisers() -> dict[str, nn.Module]:
    shared = dict(JOINT, in_channels=4, block_out_channels=(16, 16), joint_levels=(1,))
    return {
        "text_denoiser": TextDenoiser(
            **JOINT, in_channels=16, block_out_channels=(16, 16), second_dim=(4, 4), joint_levels=(1,)
        ),
        "vision_denoiser": UNetDenoiser(
            **shared,
            temporal_levels=(1,),
            temporal=dict(num_heads=2, max_frames=4),
            latent_rate=8.0,
            num_frames=4,
        ),
        "audio_denoiser": UNetDenoiser(**shared, time_axis=2, latent_rate=100.0),
    }


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    )


def pipeline(seed: int = 0) -> CoDiPipeline:
    """Every weight is drawn, the zero-initialised ones too: an untrained model would say nothing and hear
    nothing.
    """
    torch.manual_seed(seed)
    parts = (
        autoencoders()
        | towers()
        | denoisers()
        | {"environment_encoders": environment_encoders(), "noisy_latent_encoders": noisy_latent_encoders()}
    )
    for part in parts.values():
        part.eval()
        for parameter in part.parameters():
            if parameter.numel() and parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.05)
    pipe = CoDiPipeline(scheduler=scheduler(), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved(folder) -> str:
    """Saves the whole pipeline into a folder, and returns its path as a person types it."""
    pipeline().save_pretrained(folder)
    return str(folder)


LATENTS = {
    "text": dict(latent_shape=[16], latent_rate=None, tokens_per_step=1),
    "image": dict(latent_shape=[4, 8, 8], latent_rate=None, tokens_per_step=2),
    "audio": dict(latent_shape=[4, 50, 4], latent_rate=100.0, tokens_per_step=1),
    "video": dict(latent_shape=[4, 4, 8, 8], latent_rate=8.0, tokens_per_step=1),
}


def environment_encoders() -> nn.Module:
    from codi.joint.encoders import EnvironmentEncoders

    return EnvironmentEncoders(LATENTS, dim=ENV, num_layers=1, num_heads=2)


def noisy_latent_encoders() -> nn.Module:
    from codi.joint.noisy_latent_encoder import NoisyLatentEncoders

    return NoisyLatentEncoders(LATENTS, context_dim=DIM, dim=ENV, num_layers=1, num_heads=2)


def upscaler(seed: int = 0) -> nn.Module:
    """An upscaler with drawn weights, 4 times as large."""
    from codi.models.upscaler import ImageUpscaler

    torch.manual_seed(seed)
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)
    sizes = dict(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4, add_attention=False)
    return ImageUpscaler({**blocks, **sizes}).eval()
