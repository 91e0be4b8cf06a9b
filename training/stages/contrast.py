"""The contrast between the environments of two modalities that run in time (CoDi, section 3.4).

The wrong partners of a clip are other clips, and the clip itself moved in time, so that environments must say
not only what happens, but when. Letters: N clips, S segments, T latent steps, D width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.diffusion.losses import timed_nce
from codi.protocols import Environment
from codi.types import Modality


class TimedContrast(nn.Module):
    """Projections of environment tokens, segment by segment, and the learned temperature of their contrast.

    They train with the encoders and are then left behind.

    Args:
        modalities: all those of the pairs that are contrasted.
        dim: the width D of an environment token.
        segment: the length of a segment in seconds.
        shifts: by how many segments a clip is moved against itself, each both ways.
        alike: the correlation of a clip's own latent with the same latent moved, at and above which the clip
            repeats itself; such a move is no negative.
    """

    def __init__(
        self,
        modalities: list[Modality],
        dim: int,
        segment: float = 0.125,
        shifts: tuple[int, ...] = (2, 3, 4, 5),
        alike: float = 0.8,
    ):
        super().__init__()
        self.segment = segment
        self.alike = alike
        self.shifts = tuple(sign * shift for shift in shifts for sign in (-1, 1))
        self.heads = nn.ModuleDict({m.value: nn.Linear(dim, 64) for m in modalities})
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self, pair: tuple[Modality, Modality], environments: tuple[Environment, Environment], clean: Tensor
    ) -> Tensor:
        """Return the loss of every clip, (N,).

        Args:
            pair: the two modalities.
            environments: their environments of the same N clips.
            clean: a clean latent (N, T, features) of either side, by which repetition is judged.

        Returns:
            The symmetric contrastive loss (`codi.diffusion.losses.timed_nce`).
        """
        first, second = map(self.segments, pair, environments)
        # the two modalities may last differently: only what both have is compared
        count = min(first.shape[1], second.shape[1])
        allowed = ~repeats(clean, count, self.shifts, self.alike)
        log_scale = self.log_scale.clamp(max=math.log(50.0))
        return timed_nce(first[:, :count], second[:, :count], log_scale, self.shifts, allowed)

    def segments(self, modality: Modality, env: Environment) -> Tensor:
        """Return the mean of the tokens within each segment, projected and of length one.

        Args:
            modality: what the environment is of.
            env: the environment; its tokens without time are left out.

        Returns:
            (N, S, 64).
        """
        times = env.times[0]  # the same for all clips of a batch
        timed = times.isfinite()
        place = (times[timed] / self.segment).long()
        size = int(place[-1]) + 1
        share = functional.one_hot(place, size).to(env.tokens.dtype)
        means = torch.einsum("nld,ls->nsd", env.tokens[:, timed], share / share.sum(0).clamp(min=1))
        return functional.normalize(self.heads[modality.value](means), dim=-1)


def repeats(x: Tensor, count: int, shifts: tuple[int, ...], alike: float) -> Tensor:
    """Return where sequences, moved in time, are like themselves.

    Args:
        x: the sequences, (N, T, features).
        count: the number of equal parts that each sequence is pooled to.
        shifts: by how many parts a sequence is moved.
        alike: the correlation at and above which a moved sequence is like itself. It is of what changes along
            time.

    Returns:
        (N, len(shifts)) boolean.
    """
    parts = functional.adaptive_avg_pool1d(x.transpose(1, 2), count)
    # with its mean over time, a still background alone would make a sequence like itself
    parts = parts - parts.mean(dim=2, keepdim=True)
    found = [parts.new_zeros(len(parts), 0, dtype=torch.bool)]
    for shift in shifts:
        first = parts[..., max(0, -shift) : count - max(0, shift)]
        second = parts[..., max(0, shift) : count + min(0, shift)]
        found.append(functional.cosine_similarity(first.flatten(1), second.flatten(1))[:, None] >= alike)
    return torch.cat(found, dim=1)
