"""What the three latent diffusion models share: captions of the batch, latents stored on disk, the loss."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from world_data import cached, tokens, training_caption

from codi.world import Scene

_LEAST_ALPHA_SQUARED = 0.02


@torch.no_grad()
def stored_latents(
    path: Path,
    vae: AutoencoderKL,
    scenes: Sequence[Scene],
    render: Callable[[list[Scene]], Tensor],
    chunk: int = 64,
) -> np.ndarray:
    """Return the scaled latents of all scenes; encode and store them first where there are none.

    Args:
        path: of the array.
        vae: its scaling factor is applied.
        scenes: B scenes.
        render: makes what the autoencoder sees, (b, ..., C, H, W), of a chunk of scenes.
        chunk: scenes at once.

    Returns:
        (B, ..., c, h, w) float16.
    """

    def make() -> np.ndarray:
        parts = []
        for at in range(0, len(scenes), chunk):
            x = render(list(scenes[at : at + chunk]))
            z = torch.cat([vae.encode(part).latent_dist.mean for part in x.flatten(0, -4).split(64)])
            parts.append((z * vae.config.scaling_factor).unflatten(0, x.shape[:-3]).half().numpy())
        return np.concatenate(parts)

    return cached(path, make)


def draw(
    latents: np.ndarray,
    scenes: Sequence[Scene],
    tokenizer: PreTrainedTokenizerFast,
    batch: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a batch.

    Returns:
        latents (B, ...), token ids (B, L) and their mask (B, L).
    """
    which = torch.randint(len(scenes), (batch,), generator=generator).tolist()
    rng = np.random.default_rng(int(torch.randint(2**31 - 1, (1,), generator=generator)))
    ids, mask = tokens(tokenizer, [training_caption(scenes[k], rng) for k in which])
    return torch.from_numpy(latents[which].astype(np.float32)), ids, mask


def denoising_loss(
    scheduler: Any, x: Tensor, predict: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the squared error of what the model is trained to predict, and its means by noise level.

    A network that predicts eps is judged as if it predicted v (Salimans and Ho 2022): its error is divided by
    alpha. Otherwise nearly all of the loss is about details, and what a caption decides is learned last.

    Args:
        scheduler: says what is predicted (`prediction_type`) and how much noise a step has.
        x: clean latents (B, ...).
        predict: the model, given noisy latents (B, ...) and steps (B,).
        generator: draws noise and steps; the steps of a batch are spread evenly.
    """
    num = scheduler.config.num_train_timesteps
    spread = (torch.randperm(len(x), generator=generator) + torch.rand(len(x), generator=generator)) / len(x)
    steps = (spread * num).long().clamp(max=num - 1)
    noise = torch.randn(x.shape, generator=generator)
    noisy = scheduler.add_noise(x, noise, steps)
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(x, noise, steps)
    errors = (predict(noisy, steps) - target).square().flatten(1).mean(1)
    if scheduler.config.prediction_type == "epsilon":
        errors = errors / scheduler.alphas_cumprod[steps].clamp(min=_LEAST_ALPHA_SQUARED)
    third = (3 * steps) // num
    by_level = {
        f"noise{k}": float(errors.detach()[third == k].mean()) for k in range(3) if (third == k).any()
    }
    return errors.mean(), by_level
