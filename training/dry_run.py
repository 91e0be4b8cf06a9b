"""One forward pass of what a stage trains, over tensors without numbers, in the shapes of a micro-batch: for
`training.plan`.

B samples of a micro-batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.models.codi import AUTOENCODERS
from codi.models.denoisers import TextDenoiser, UNetDenoiser
from codi.types import Modality
from training.config import Config
from training.stages.align import Contrast
from training.stages.joint_adapters import JointAdapters
from training.stages.latents import CLASSES
from training.stages.temporal_change import WithTemporalChange


def rehearse(stage: Any, module: nn.Module, config: Config, parts: Any, count: int) -> bool:
    """Runs the pass on B = `count` samples; False for a stage that is not known here. `parts` gives finished
    parts by folder.
    """
    kinds = {
        AudioAutoencoder: lambda: audio_autoencoder(module, count, config.stage == "vocoder"),
        ImageAutoencoder: lambda: module.reconstruct(module.posterior(empty(count, *picture(module))).mode()),
        TextAutoencoder: lambda: text_autoencoder(module, count),
        Contrast: lambda: contrast(stage, module, config, count),
        JointAdapters: lambda: attending(stage, module, count),
        NoisyLatentEncoders: lambda: noisy_latent_encoders(module, count),
        WithTemporalChange: lambda: denoiser(
            module.denoiser, latent(stage.modality, config, parts, module.denoiser), count
        ),
        (UNetDenoiser, TextDenoiser): lambda: denoiser(
            module, latent(stage.modality, config, parts, module), count
        ),
    }
    run = next((run for kind, run in kinds.items() if isinstance(module, kind)), None)
    if run is None:
        return False
    module.train()
    run()
    return True


def empty(*shape: int) -> Tensor:
    """A float tensor without numbers."""
    return torch.empty(shape, device="meta")


def ids(count: int, length: int) -> Tensor:
    """Token ids without values."""
    return torch.empty((count, length), dtype=torch.long, device="meta")


def picture(module: ImageAutoencoder) -> tuple[int, int, int]:
    return (3, module.config.image_size, module.config.image_size)


def audio_autoencoder(module: AudioAutoencoder, count: int, vocoder: bool) -> None:
    """Spectrograms through the VAE, or a cut of 40 frames through the vocoder."""
    frames, bands = module.config.num_samples // module.log_mel.hop_length, module.log_mel.bank.shape[1]
    if vocoder:
        module.vocode(empty(count, 40, bands))
    else:
        module.reconstruct(module.posterior(empty(count, frames, bands)).mode())


def text_autoencoder(module: TextAutoencoder, count: int) -> None:
    """Sentences of the greatest length, there and back."""
    length = module.config.max_length
    pooled = module.encoder(input_ids=ids(count, length)).pooler_output
    module.logits(module.posterior_head(pooled).chunk(2, dim=-1)[0], ids(count, length))


def contrast(stage: Any, module: Contrast, config: Config, count: int) -> None:
    """Captions and media through the towers that train."""
    if "text_tower" in module.towers:
        text = module.towers["text_tower"].text
        text(input_ids=ids(count, text.config.max_position_embeddings))
    tower = stage.tower(module)
    if stage.modality is Modality.AUDIO:
        samples = (
            (config.data.get("geometry") or {})
            .get("audio", {})
            .get("samples", 2 * tower.log_mel.sampling_rate)
        )
        shape = (count, 1, samples // tower.log_mel.hop_length, tower.log_mel.bank.shape[1])
        tower.audio(input_features=empty(*shape), is_longer=None)
        return
    frames = (
        (config.data.get("geometry") or {}).get("video", {}).get("frames", 16)
        if stage.modality is Modality.VIDEO
        else 1
    )
    side = tower.image_size
    tower.features(empty(count, frames, 3, side, side) if frames > 1 else empty(count, 3, side, side))


def latent(modality: Modality, config: Config, parts: Any, module: nn.Module) -> tuple[int, ...]:
    """Shape of one latent, by the autoencoder that makes it; a clip is as many frames as the
    denoiser says.
    """
    name = AUTOENCODERS[modality]
    shape = parts(CLASSES[name], config.model / name, "train it first").latent_shape
    return (shape[0], module.config.num_frames, *shape[1:]) if modality is Modality.VIDEO else shape


def denoiser(module: nn.Module, shape: tuple[int, ...], count: int, partners: Any = None) -> None:
    """One prediction, with one prompt token per sample."""
    module(
        empty(count, *shape),
        torch.empty(count, dtype=torch.long, device="meta"),
        empty(count, 1, module.config.context_dim),
        partners=partners,
    )


def attending(stage: Any, module: JointAdapters, count: int) -> None:
    """Every pair of the run: the denoisers that train, and what they attend to; a pair's share says how many
    samples it has.
    """
    encoders = module.environment_encoders.by_modality()
    for pair, share in stage.pairs.items():
        number = max(1, round(count * share))
        shapes = {m: encoders[m].latent_shape for m in pair}
        times = torch.empty(number, dtype=torch.long, device="meta")
        for modality in stage.attending[pair]:
            partner = stage.partner(pair, modality)
            environment = encoders[partner](empty(number, *shapes[partner]), times)
            denoiser(module.denoiser(modality), shapes[modality], number, environment)


def noisy_latent_encoders(module: NoisyLatentEncoders, count: int) -> None:
    """One token of every modality."""
    for tower in module.by_modality().values():
        times, context = (
            torch.empty(count, dtype=torch.long, device="meta"),
            empty(count, 1, module.config.context_dim),
        )
        tower(empty(count, *tower.trunk.latent_shape), times, context)
