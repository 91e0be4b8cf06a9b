"""Group normalisation and a layout for convolutions, each in the memory format that is quick on a CPU.

Letters: B batch, C channels, H W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with the same numbers and the same names of parameters, but quick on a CPU.

    On a CPU the channels-last kernel vectorises within a group: with few channels per group it is 10 to 50
    times slower than copying to the plain layout and back (64 channels in 32 groups at 8 x 8: 10 ms against
    0.6 ms).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, ...), in the plain layout where the channels-last kernel would be slow."""
        slow = (
            x.device.type == "cpu"
            and x.ndim == 4
            and self.num_channels < 16 * self.num_groups
            and not x.is_contiguous()
        )
        if not slow:
            return super().forward(x)
        y = F.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return y.contiguous(memory_format=torch.channels_last)


def for_conv(x: Tensor) -> Tensor:
    """Return x (B, C, H, W) in the layout in which a CPU convolves it fastest.

    For few positions and many channels, most of the time of a convolution goes into bringing its weights into
    order, and the channels-last kernel takes twice as long (1280 channels, 2 x 4 x 4 positions: 34 ms against
    18; 16 x 8 x 8: 311 against 246; no difference from 16 x 16 on).
    """
    few = x.shape[0] * x.shape[2] * x.shape[3] <= 1024 and x.shape[1] >= 512
    return x.contiguous() if few and x.device.type == "cpu" and x.dtype == torch.float32 else x
