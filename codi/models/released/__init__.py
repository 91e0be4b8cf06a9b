"""What the released model does differently from ours around the denoisers, each as a small subclass of our
own part.
"""

from codi.models.released.autoencoders import (
    ReleasedAudioAutoencoder,
    ReleasedImageAutoencoder,
    ReleasedTextAutoencoder,
)
from codi.models.released.towers import ReleasedAudioTower, ReleasedTextTower, ReleasedVisionTower

__all__ = [
    "ReleasedAudioAutoencoder",
    "ReleasedAudioTower",
    "ReleasedImageAutoencoder",
    "ReleasedTextAutoencoder",
    "ReleasedTextTower",
    "ReleasedVisionTower",
]
