"""Trains the sound model, an `AudioLDMPipeline` (Liu et al. 2023).

    python train_sound.py --vae out/sound_vae --vocoder out/vocoder --out out/sound

The prompt reaches the network as one normalised vector (its class embedding). The text encoder first learns
to read captions, then it is trained together with the network, which predicts v (Salimans and Ho 2022).
"""

from pathlib import Path

import torch
from card import write_card
from denoising import denoising_loss, draw, stored_latents
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from loop import arguments, save_folder, train
from reading import learn_to_read
from torch import Tensor
from torch.nn import functional as nnf
from train_vocoder import make as new_vocoder
from transformers import ClapTextConfig, ClapTextModelWithProjection, SpeechT5HifiGan
from world_data import MAX_TOKENS, log_mel, training_scenes, words_tokenizer

from codi.world import render_sounds

_WIDTHS = (48, 96)
_TEXT = 64


def make(vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> AudioLDMPipeline:
    """Return a pipeline with a new network and text encoder."""
    tokenizer = words_tokenizer("roberta")
    text_encoder = ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT,
            intermediate_size=2 * _TEXT,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=_TEXT,
            max_position_embeddings=MAX_TOKENS + 2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=_WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_WIDTHS,
        attention_head_dim=4,
        norm_num_groups=8,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=_TEXT,
        class_embeddings_concat=True,
    )
    with torch.no_grad():  # numbers of a normalised vector are small, those of the step's embedding are not
        unet.class_embedding.weight.mul_(_TEXT**0.5)
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    return AudioLDMPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        vocoder=vocoder,
    )


def main(argv: list[str] | None = None) -> None:
    """Train with what the command line asks for."""
    parser = arguments(__doc__, "out/sound", 30)
    parser.add_argument("--vae", type=Path, required=True, help="the folder of the autoencoder")
    parser.add_argument("--vocoder", type=Path, help="its folder; without, a new one that only makes noise")
    parser.add_argument(
        "--text-steps", type=int, default=1000, help="steps of reading (default: %(default)s)"
    )
    asked = parser.parse_args(argv)
    torch.manual_seed(asked.seed)
    vae = AutoencoderKL.from_pretrained(asked.vae).requires_grad_(False).eval()
    vocoder = SpeechT5HifiGan.from_pretrained(asked.vocoder) if asked.vocoder else new_vocoder()
    pipe = make(vae, vocoder.requires_grad_(False).eval())
    if not (asked.work / "sound.training.pt").exists():
        right = learn_to_read(pipe.text_encoder, pipe.tokenizer, asked.text_steps)
        print(f"sound: the text encoder reads {right:.3f} of the facts", flush=True)
    scenes = training_scenes(asked.scenes, asked.seed + 1)
    latents = stored_latents(
        asked.work / f"sound_latents_{asked.scenes}.npy",
        vae,
        scenes,
        lambda part: log_mel(render_sounds(part))[:, None],
    )

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x, ids, mask = draw(latents, scenes, pipe.tokenizer, asked.batch, generator)
        text = nnf.normalize(pipe.text_encoder(ids, attention_mask=mask).text_embeds, dim=-1)

        def predict(noisy: Tensor, steps: Tensor) -> Tensor:
            return pipe.unet(noisy, steps, encoder_hidden_states=None, class_labels=text).sample

        return denoising_loss(pipe.scheduler, x, predict, generator)

    def write(folder: Path) -> None:
        pipe.save_pretrained(folder, safe_serialization=True)
        write_card(folder, "sound", "text-to-audio")

    train(
        asked,
        "sound",
        {"unet": pipe.unet, "text_encoder": pipe.text_encoder},
        loss,
        lambda: save_folder(write, asked.out),
    )


if __name__ == "__main__":
    main()
