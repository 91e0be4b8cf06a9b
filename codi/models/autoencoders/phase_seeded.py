"""A vocoder that starts from magnitudes and phases found without training, and learns what to change in them.

A network that sees nothing but a log-mel gives the same wave to every frame of a steady tone, so it can only
play multiples of the frame rate. Here the phases of spectral peaks, followed from frame to frame
(`codi.models.autoencoders.mel.peak_phases`), are part of the input, and the network turns them. The blocks
are ConvNeXt's (arXiv 2201.03545), and the output is an inverse short-time Fourier transform, as in Vocos
(arXiv 2306.00814).

Letters: B batch, S samples, T mel frames, M mel bands, K = n_fft / 2 + 1 bins of the spectrum, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codi.models.autoencoders.mel import GriffinLim, LogMel, peak_phases

FLOOR = 1e-5  # magnitudes below count as this
LOUDEST = 8.0  # logarithm of the largest magnitude that is made: a full-scale sine of n_fft 1024 has 5.5
CENTRE, SPREAD = -5.0, 2.5  # about the mean and the deviation of a log-mel, by which inputs are normalised


class ConvNextBlock(nn.Module):
    """Mixes neighbouring frames channel by channel, then the channels of each frame; a residual block.

    Args:
        width: W, the number of channels.
        expansion: how many times as wide its hidden layer is.
        kernel_size: frames that the convolution sees, an odd number.
        dilation: frames from one of them to the next.
        scale: the first value of the factor by which each channel of the branch is multiplied.
    """

    def __init__(self, width: int, expansion: int, kernel_size: int, dilation: int, scale: float):
        super().__init__()
        reach = dilation * (kernel_size // 2)
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=reach, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, W) of (B, T, W)."""
        hidden = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.narrow(nn.functional.gelu(self.widen(hidden)))


class PhaseSeededVocoder(nn.Module):
    """Turns a log-mel (B, T, M) into waveforms (B, T * hop_length).

    It starts as the inversion whose magnitudes and phases it is given: the last layer, which gives their
    changes, begins at zero. It is deterministic. Seeds are found in float32. Which bin is a peak may hang on
    the last bit, and that on the size of the batch.

    Args:
        log_mel: the spectrogram that is turned back.
        width: W, channels of the network.
        dilations: that of each block.
        expansion: how many times as wide the hidden layer of a block is.
        kernel_size: frames that the convolution of a block sees, an odd number.
        num_updates: steps by which the seeds' magnitudes are found. More take time and are hardly better.
    """

    def __init__(
        self,
        log_mel: LogMel,
        width: int = 160,
        dilations: Sequence[int] = (1, 2, 1, 2, 1),
        expansion: int = 3,
        kernel_size: int = 7,
        num_updates: int = 10,
    ):
        super().__init__()
        assert kernel_size % 2, f"an odd kernel_size, so that one frame is in the middle, not {kernel_size}"
        self.inversion = GriffinLim(log_mel, num_iterations=0, num_updates=num_updates)
        num_bins, num_bands = log_mel.get_buffer("bank").shape
        self.num_inputs = 3 * num_bins + num_bands
        self.embed = nn.Linear(self.num_inputs, width)
        self.blocks = nn.ModuleList(
            ConvNextBlock(width, expansion, kernel_size, dilation, scale=1 / len(dilations))
            for dilation in dilations
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * num_bins)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, mel: Tensor) -> Tensor:
        """Return the waveforms (B, T * hop_length) of a log-mel (B, T, M)."""
        length = mel.shape[1] * self.inversion.hop_length
        mel = torch.cat([mel, mel[:, -1:]], dim=1).float()  # centred frames are one more than there are hops
        level, phase = self.seeds(mel)
        inputs = [_normalised(level), phase.cos(), phase.sin(), _normalised(mel)]
        louder, turn = self.changes(torch.cat(inputs, dim=2)).chunk(2, dim=2)
        magnitude = (level + louder).clamp(max=LOUDEST).exp()
        spectrum = torch.polar(magnitude, phase + turn).transpose(1, 2)  # (B, K, T)
        return self.inversion.istft(spectrum, length)

    @torch.no_grad()
    def seeds(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Find from what the network starts.

        Args:
            mel: log-mels, (B, T, M) float32.

        Returns:
            The log-magnitudes and the phases in radians, (B, T, K) each.
        """
        magnitude = self.inversion.unmel(mel.exp())  # (B, K, T)
        phase = peak_phases(magnitude, self.inversion.n_fft, self.inversion.hop_length)
        return magnitude.clamp_min(FLOOR).log().mT, phase.mT

    def changes(self, inputs: Tensor) -> Tensor:
        """Return what is added to log-magnitudes and phases, (B, T, 2 K), for inputs (B, T, 3 K + M)."""
        x = self.embed(inputs.to(self.embed.weight.dtype))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).float()


def _normalised(level: Tensor) -> Tensor:
    """Bring logarithms of magnitudes to about unit scale."""
    return (level - CENTRE) / SPREAD
