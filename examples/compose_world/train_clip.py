"""Trains the clip model, an `AnimateDiffPipeline` (Guo et al. 2023), from a picture model.

    python train_clip.py --picture out/picture --out out/clip

Autoencoder, text encoder and the spatial layers begin as those of the picture model, the motion layers are
new. Unlike AnimateDiff, all of it is trained on, but the autoencoder: so small a picture model has to learn
poses that its own pictures never show. The network predicts v (Salimans and Ho 2022).
"""

from pathlib import Path

import torch
from card import write_card
from denoising import denoising_loss, draw, stored_latents
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNetMotionModel,
)
from loop import arguments, save_folder, train
from torch import Tensor
from world_data import NUM_FRAMES, to_unit, training_scenes

from codi.world import render_videos


def make(picture: StableDiffusionPipeline) -> AnimateDiffPipeline:
    """Return a pipeline with new motion layers between the layers of a picture model."""
    motion = MotionAdapter(
        block_out_channels=picture.unet.config.block_out_channels,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=4,
        motion_max_seq_length=NUM_FRAMES,
    )
    for name, parameter in motion.named_parameters():
        if ".proj_out." in name:  # silent at first, so that training begins with the picture model
            torch.nn.init.zeros_(parameter)
    unet = UNetMotionModel.from_unet2d(picture.unet, motion)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="linspace",
        prediction_type="v_prediction",
    )
    return AnimateDiffPipeline(
        vae=picture.vae,
        text_encoder=picture.text_encoder,
        tokenizer=picture.tokenizer,
        unet=unet,
        motion_adapter=None,
        scheduler=scheduler,
    )


def main(argv: list[str] | None = None) -> None:
    """Train with what the command line asks for."""
    parser = arguments(__doc__, "out/clip", 40)
    parser.add_argument("--picture", type=Path, required=True, help="the folder of the picture model")
    asked = parser.parse_args(argv)
    torch.manual_seed(asked.seed)
    pipe = make(StableDiffusionPipeline.from_pretrained(asked.picture))
    pipe.vae.requires_grad_(False).eval()
    pipe.unet.requires_grad_(True).train()
    pipe.text_encoder.requires_grad_(True).train()
    scenes = training_scenes(asked.scenes, asked.seed + 3)
    latents = stored_latents(
        asked.work / f"clip_latents_{asked.scenes}.npy",
        pipe.vae,
        scenes,
        lambda part: to_unit(render_videos(part)),
    )

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x, ids, _ = draw(latents, scenes, pipe.tokenizer, asked.batch, generator)
        text = pipe.text_encoder(ids)[0].repeat_interleave(NUM_FRAMES, dim=0)
        x = x.transpose(1, 2)  # (B, c, F, h, w)
        return denoising_loss(pipe.scheduler, x, lambda noisy, t: pipe.unet(noisy, t, text).sample, generator)

    def write(folder: Path) -> None:
        pipe.save_pretrained(folder, safe_serialization=True)
        write_card(folder, "clip", "text-to-video")

    train(
        asked,
        "clip",
        {"unet": pipe.unet, "text_encoder": pipe.text_encoder},
        loss,
        lambda: save_folder(write, asked.out),
    )


if __name__ == "__main__":
    main()
