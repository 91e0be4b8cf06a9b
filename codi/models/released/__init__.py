"""The parts around the denoisers in which the released model differs from ours.

Each is a small subclass of our own part.
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
