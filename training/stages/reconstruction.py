"""This module measures how well autoencoders give held-out samples back.

Beside pictures and sounds stands what a linear autoencoder with as many numbers would reach: the principal
component analysis of patches (Karhunen-Loeve transform of blocks). As an autoencoder whose latent is
(D, h, w) turns every patch of the picture into D numbers, so does this, with the D directions in which
patches differ most. Letters: N pictures, C channels, H height, W width, D numbers of a patch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from codi.io import to_unit
from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder

PATCHES = 65_536  # patches that are enough to fit the directions


class PatchPCA:
    """The linear autoencoder of patches, fitted on pictures or spectrograms.

    Args:
        pictures: (N, C, H, W) float.
        latent_shape: (D, h, w), where h divides H and w divides W.
    """

    def __init__(self, pictures: Tensor, latent_shape: tuple[int, ...]) -> None:
        numbers, rows, columns = latent_shape
        self.patch = (pictures.shape[-2] // rows, pictures.shape[-1] // columns)
        patches = self._cut(pictures.double())
        self.mean = patches.mean(0)
        # the directions of greatest variance come first; there may be fewer than D in a patch
        _, _, directions = torch.linalg.svd((patches - self.mean).T @ (patches - self.mean))
        self.directions = directions[:numbers]

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Return pictures (N, C, H, W) as D numbers for each patch give them back."""
        patches = self._cut(pictures.double()) - self.mean
        restored = patches @ self.directions.T @ self.directions + self.mean
        shape = pictures.shape
        height, width = self.patch
        grid = (shape[0], shape[2] // height, shape[3] // width, shape[1], height, width)
        return restored.view(grid).permute(0, 3, 1, 4, 2, 5).reshape(shape).to(pictures)

    def _cut(self, pictures: Tensor) -> Tensor:
        """Return the patches (patches of all pictures, C * height * width) of pictures."""
        height, width = self.patch
        cut = pictures.unfold(2, height, height).unfold(3, width, width)  # (N, C, h, w, height, width)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)


def num_pictures(latent_shape: tuple[int, ...]) -> int:
    """Return how many pictures have patches enough to fit a `PatchPCA`, at least 16 and at most 1024."""
    _, rows, columns = latent_shape
    return max(16, min(1024, PATCHES // (rows * columns)))


def psnr(squared_error: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in [-1, 1], from their squared errors."""
    # the range is 2, so the peak is 4 where it is squared
    return float(10 * torch.log10(4 / squared_error.double().mean()))


class Scorer:
    """The measurements of the autoencoder stages.

    Args:
        training: returns pictures or sounds that train, at most so many, to fit the linear autoencoder on.
    """

    def __init__(self, training: Callable[[int], Tensor]) -> None:
        self.training = training
        self._linear: PatchPCA | None = None

    def linear(self, latent_shape: tuple[int, ...], prepare: Callable[[Tensor], Tensor]) -> PatchPCA:
        """Return the linear autoencoder, fitted the first time.

        Args:
            latent_shape: (D, h, w) of the autoencoder beside which it stands.
            prepare: makes (N, C, H, W) of pictures or sounds that train.

        Returns:
            The linear autoencoder.
        """
        if self._linear is None:
            self._linear = PatchPCA(prepare(self.training(num_pictures(latent_shape))), latent_shape)
        return self._linear

    @torch.no_grad()
    def pictures(self, module: ImageAutoencoder, batches: Sequence[Tensor]) -> dict[str, float]:
        """Return the PSNR in dB of the mean squared error over all pixels.

        Args:
            module: the autoencoder.
            batches: held-out pictures, uint8 (N, 3, H, W).

        Returns:
            "psnr", and "psnr_pca" of the linear autoencoder.
        """
        linear = self.linear(module.latent_shape, to_unit)
        errors: dict[str, list[Tensor]] = {"psnr": [], "psnr_pca": []}
        for batch in batches:
            frames = to_unit(batch)
            restored = module.reconstruct(module.posterior(frames.to(module.device)).mode()).cpu()
            errors["psnr"].append((restored - frames).square().flatten())
            errors["psnr_pca"].append((linear.reconstruct(frames) - frames).square().flatten())
        return {name: psnr(torch.cat(found)) for name, found in errors.items()}

    @torch.no_grad()
    def sounds(self, module: AudioAutoencoder, batches: Sequence[Tensor]) -> dict[str, float]:
        """Return the L1 of log-mels in nats.

        Args:
            module: the autoencoder.
            batches: held-out sounds, (N, samples).

        Returns:
            "log_mel_l1", and "log_mel_l1_pca" of the linear autoencoder.
        """

        def spectrograms(sounds: Tensor) -> Tensor:
            return module.log_mel(sounds.to(module.device)).cpu()[:, None]

        linear = self.linear(module.latent_shape, spectrograms)
        errors: dict[str, list[Tensor]] = {"log_mel_l1": [], "log_mel_l1_pca": []}
        for batch in batches:
            mel = module.log_mel(batch.to(module.device))
            restored = module.reconstruct(module.posterior(mel).mode())
            errors["log_mel_l1"].append((restored - mel).abs().flatten().cpu())
            own = mel.cpu()[:, None]
            errors["log_mel_l1_pca"].append((linear.reconstruct(own) - own).abs().flatten())
        return {name: float(torch.cat(found).mean()) for name, found in errors.items()}

    @torch.no_grad()
    def vocoded(self, module: AudioAutoencoder, batches: Sequence[Tensor]) -> dict[str, float]:
        """Return the L1 between the log-mels of held-out sounds and of what the vocoder makes of them."""
        errors = []
        for batch in batches:
            mel = module.log_mel(batch.to(module.device))
            errors.append((module.log_mel(module.vocode(mel)) - mel).abs().flatten())
        return {"log_mel_l1": float(torch.cat(errors).mean())}

    def sentences(self, module: TextAutoencoder, batches: Sequence[list[str]]) -> dict[str, float]:
        """Return the share of held-out sentences that come back word for word, as "exact".

        A sentence with a word that the autoencoder does not know, or with more words than it writes, counts
        as not restored.
        """
        tokenizer = module.decoder_tokenizer
        hits = []
        for batch in batches:
            # as the tokenizer writes them, in which words that it does not know stay marked
            for ids, restored in zip(
                tokenizer(batch, add_special_tokens=False).input_ids, round_trip(module, batch), strict=True
            ):
                hits.append(restored == str(tokenizer.decode(ids, skip_special_tokens=False)).strip())
        return {"exact": sum(hits) / len(hits)}


@torch.no_grad()
def round_trip(module: TextAutoencoder, sentences: list[str]) -> list[str]:
    """Return what an autoencoder in training makes of sentences."""
    # statistics are set at export alone, and `decode` needs some: with these it changes no latent
    scaling: Any = module.scaling
    own = {name: x.clone() for name, x in scaling.state_dict().items()}
    scaling.mean.zero_()
    scaling.std.fill_(1.0)
    restored = module.decode(module.posterior(sentences)[0])
    scaling.load_state_dict(own)
    return restored
