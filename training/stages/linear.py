"""This module measures what a linear autoencoder with as many numbers would reach, as a line to compare with.

It is the principal component analysis of patches (Karhunen-Loeve transform of blocks): as an autoencoder
whose latent is (D, h, w) turns every patch of the picture into D numbers, so does this, with the D directions
in which patches differ most. Letters: N pictures, C channels, H height, W width, D numbers of a patch.
"""

import torch
from torch import Tensor

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
