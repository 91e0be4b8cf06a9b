"""ControlBranch: a small network beside a frozen denoiser that turns a control into what its features lack.

It is a T2I-Adapter (arXiv 2302.08453), which reads the control alone and so costs once per call and not
once per step, with two things of ControlNet (arXiv 2302.05543): its ends start at zero, so that untrained
it changes no bit, and it reaches the middle and the decoder too. What depends on the noise is a factor for
each channel, made from the embedded timestep.

Letters: B batch, K channels of the control, S steps along time, F frames, C channels, H W, W width of the
branch, E width of the embedded timestep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config

# diffusers' own loader looks for it beside a class
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from torch import Tensor, nn

from codi.layers import repeated, zeroed
from codi.models.denoisers.unet import GridPosition, fold_frames
from codi.protocols import Control


class ControlBranch(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The branch of one kind of control for one output.

    Args:
        output: the name of the modality that it steers.
        kind: the name of the kind of control (`codi.controls`).
        channels: K, the channels of the control's map.
        timed: whether the map is a signal along time (B, K, S), and not one over space.
        sites: channels and level of each site of the denoiser (`Denoiser.control_sites`).
        emb_dim: E, the width of the denoiser's embedded timestep.
        width: W, the channels inside, a multiple of 4.
        num_layers: convolutions of each level.
        kernel_size: steps that a convolution along time sees.
        base: the name of the model that it was trained beside.
        probes: probes of that model's denoiser by layer (`codi.models.lora.probe`), by which it is known
            again.
    """

    @register_to_config
    def __init__(
        self,
        output: str,
        kind: str,
        channels: int,
        timed: bool,
        sites: Sequence[Sequence[int]],
        emb_dim: int,
        width: int = 64,
        num_layers: int = 2,
        kernel_size: int = 5,
        base: str = "",
        probes: dict | None = None,
    ):
        super().__init__()
        first: nn.Module
        second: nn.Module
        if timed:
            padding = kernel_size // 2
            first = nn.Conv1d(channels, width, kernel_size, padding=padding)
            second = nn.Conv1d(width, width, kernel_size, padding=padding)
        else:
            first, second = nn.Conv2d(channels, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.stem = nn.Sequential(first, nn.SiLU(), second)
        self.position = GridPosition(width)
        depth = 1 + max(level for _, level in sites)
        self.levels = nn.ModuleList(Layers(width, num_layers) for _ in range(depth))
        self.ends = nn.ModuleList(zeroed(nn.Conv2d(width, count, 1)) for count, _ in sites)
        self.gains = nn.ModuleList(zeroed(nn.Linear(emb_dim, count)) for count, _ in sites)

    def forward(self, control: Tensor, grid: Sequence[int]) -> tuple[Tensor, ...]:
        """Return what is added at each site but for the factor that depends on the noise.

        Args:
            control: the map, (B, K, S) where it is timed, else (B, K, H, W) or (B, K, F, H, W).
            grid: the extent of the latent, (H, W), (F, H, W) or (T, M).

        Returns:
            For each site (B*F, C, H, W).
        """
        config: Any = self.config
        h = self.spread(self.stem(control), grid) if config.timed else self.stem(fold_frames(control))
        h = h + self.position(h)
        maps = []
        for number, layers in enumerate(self.levels):
            # an odd extent n becomes (n + 1) / 2, as in the denoiser
            h = layers(F.avg_pool2d(h, 2, ceil_mode=True) if number else h)
            maps.append(h)
        return tuple(end(maps[level]) for end, (_, level) in zip(self.ends, config.sites))

    def spread(self, h: Tensor, grid: Sequence[int]) -> Tensor:
        """Spread a signal (B, W, S) over the grid of the latent: (B*F, W, H, W), or (B, W, T, M)."""
        assert h.shape[2] == grid[0], f"a control of {h.shape[2]} steps for a latent of {tuple(grid)}"
        whole = h.reshape(*h.shape, *[1] * (len(grid) - 1)).expand(*h.shape, *grid[1:])
        return fold_frames(whole)

    def steering(self, control: Tensor, grid: Sequence[int], weight: float = 1.0) -> "BranchControl":
        """Return the control as a denoiser takes it.

        Args:
            control: the map, as in `forward`.
            grid: the extent of the latent.
            weight: by how much what is added counts.

        Returns:
            The control, for every step of a call.
        """
        return BranchControl(branch=self, features=self(control, grid), batch=len(control), weight=weight)

    def gained(self, site: int, y: Tensor, emb: Tensor) -> Tensor:
        """Return y (B, F, C, H, W) at a site, with the factors that emb (B, E) gives its channels."""
        gain: Any = self.gains[site]
        return y * (1 + gain(emb))[:, None, :, None, None]


class Layers(nn.Module):
    """Residual 3x3 convolutions of one level, over a map (N, W, H, W).

    Args:
        width: the channels.
        count: the number of convolutions.
    """

    def __init__(self, width: int, count: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(count))

    def forward(self, h: Tensor) -> Tensor:
        """Return a map of the shape of h."""
        for conv in self.convs:
            h = h + conv(F.silu(h))
        return h


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchControl(Control):
    """A control that a branch has read.

    Attributes:
        branch: the branch.
        features: what it adds at each site, (B*F, C, H, W).
        batch: B, one or as many as there are samples.
        weight: by how much that counts.
    """

    branch: ControlBranch
    features: tuple[Tensor, ...]
    batch: int
    weight: float = 1.0

    def residual(self, site: int, emb: Tensor) -> Tensor:
        """Return what is added at a site for embedded timesteps emb (B, E), with their factors."""
        y = self.features[site].unflatten(0, (self.batch, -1))
        if self.batch > 1:
            y = repeated(y, len(emb))
        y = self.branch.gained(site, y, emb)
        return (y if self.weight == 1 else self.weight * y).flatten(0, 1)

    def rows(self, rows: Tensor) -> "BranchControl":
        """Return the control of some of the latents; one that is the same for all of them is so for these."""
        if self.batch == 1:
            return self
        features = tuple(y.unflatten(0, (self.batch, -1))[rows].flatten(0, 1) for y in self.features)
        return replace(self, features=features, batch=len(rows))


def branch_for(
    denoiser: Any, *, output: str, kind: str, channels: int, timed: bool, **options: Any
) -> ControlBranch:
    """Return a new branch for a denoiser, which adds nothing yet.

    Args:
        denoiser: the denoiser; it must have sites for a control.
        output: the modality that it steers.
        kind: the kind of control.
        channels: the channels of the control's map.
        timed: whether the map is a signal along time.
        **options: further arguments of `ControlBranch`.

    Returns:
        The branch.
    """
    return ControlBranch(
        output=output,
        kind=kind,
        channels=channels,
        timed=timed,
        sites=[list(site) for site in denoiser.control_sites()],
        emb_dim=denoiser.emb_dim,
        **options,
    )
