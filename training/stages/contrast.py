"""Contrast between the environments of two modalities that run in time (CoDi, section 3.4), with a clip moved
in time as its own rival.

N clips, S segments, D width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from codi.diffusion.losses import timed_nce
from codi.protocols import Environment
from codi.types import Modality


class TimedContrast(nn.Module):
    """Projections of environment tokens, segment by segment, and the learned temperature. They train and are
    then left behind.

    dim      width of an environment token
    segment  seconds of a segment
    shifts   of a clip against itself, in segments, both ways
    alike    a clip whose own latent is at least so like itself when moved repeats itself; such a move is no
             negative
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
        self.segment, self.alike = segment, alike
        self.shifts = tuple(sign * shift for shift in shifts for sign in (-1, 1))
        self.heads = nn.ModuleDict({m.value: nn.Linear(dim, 64) for m in modalities})
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self, pair: tuple[Modality, Modality], environments: tuple[Environment, Environment], clean: Tensor
    ) -> Tensor:
        """The loss of every clip, (N,); `clean` (N, steps, features) is a latent of either side by which
        repetition is judged.
        """
        sides = [self.segments(m, env) for m, env in zip(pair, environments)]
        count = min(side.shape[1] for side in sides)
        allowed = ~repeats(clean, count, self.shifts, self.alike)
        return timed_nce(
            sides[0][:, :count],
            sides[1][:, :count],
            self.log_scale.clamp(max=math.log(50.0)),
            self.shifts,
            allowed,
        )

    def segments(self, modality: Modality, env: Environment) -> Tensor:
        """Mean of the tokens within each segment, projected, of length one: (N, S, 64). Tokens without time
        are left out.
        """
        times = env.times[0]
        timed = times.isfinite()
        place = (times[timed] / self.segment).long()
        size = int(place[-1]) + 1
        share = functional.one_hot(place, size).to(env.tokens.dtype)
        means = torch.einsum("nld,ls->nsd", env.tokens[:, timed], share / share.sum(0).clamp(min=1))
        return functional.normalize(self.heads[modality.value](means), dim=-1)


def repeats(x: Tensor, count: int, shifts: tuple[int, ...], alike: float) -> Tensor:
    """Where a sequence (N, T, F), moved by `shifts` of its `count` equal parts, is like itself: (N,
    len(shifts)) boolean.

    Likeness is the correlation of what changes along time.
    """
    parts = functional.adaptive_avg_pool1d(x.transpose(1, 2), count)
    parts = parts - parts.mean(dim=2, keepdim=True)
    found = [parts.new_zeros(len(parts), 0, dtype=torch.bool)]
    for shift in shifts:
        first, second = (
            parts[..., max(0, -shift) : count - max(0, shift)],
            parts[..., max(0, shift) : count + min(0, shift)],
        )
        found.append(functional.cosine_similarity(first.flatten(1), second.flatten(1))[:, None] >= alike)
    return torch.cat(found, dim=1)
