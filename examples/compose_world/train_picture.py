"""Trains the picture model, a `StableDiffusionPipeline` (Rombach et al. 2022).

    python train_picture.py --vae out/picture_vae --out out/picture

Text encoder and network are trained together. The network predicts the noise (eps).
"""

from pathlib import Path

import torch
from card import write_card
from denoising import denoising_loss, draw, stored_latents
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from loop import arguments, save_folder, train
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from world_data import MAX_TOKENS, to_unit, training_scenes, words_tokenizer

from codi.world import render_images

_WIDTHS = (32, 96)
_TEXT = 64


def make(vae: AutoencoderKL) -> StableDiffusionPipeline:
    """Return a pipeline with a new network and text encoder."""
    tokenizer = words_tokenizer("clip")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT,
            intermediate_size=2 * _TEXT,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=_WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_TEXT,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main(argv: list[str] | None = None) -> None:
    """Train with what the command line asks for."""
    parser = arguments(__doc__, "out/picture", 12)
    parser.add_argument("--vae", type=Path, required=True, help="the folder of the autoencoder")
    asked = parser.parse_args(argv)
    torch.manual_seed(asked.seed)
    vae = AutoencoderKL.from_pretrained(asked.vae).requires_grad_(False).eval()
    pipe = make(vae)
    scenes = training_scenes(asked.scenes, asked.seed + 2)
    latents = stored_latents(
        asked.work / f"picture_latents_{asked.scenes}.npy",
        vae,
        scenes,
        lambda part: to_unit(render_images(part)),
    )

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x, ids, _ = draw(latents, scenes, pipe.tokenizer, asked.batch, generator)
        text = pipe.text_encoder(ids)[0]
        return denoising_loss(pipe.scheduler, x, lambda noisy, t: pipe.unet(noisy, t, text).sample, generator)

    def write(folder: Path) -> None:
        pipe.save_pretrained(folder, safe_serialization=True)
        write_card(folder, "picture", "text-to-image")

    train(
        asked,
        "picture",
        {"unet": pipe.unet, "text_encoder": pipe.text_encoder},
        loss,
        lambda: save_folder(write, asked.out),
    )


if __name__ == "__main__":
    main()
