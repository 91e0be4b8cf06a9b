"""Prompts as noised towers change them: what a partner, drawn from the same prompt, seems to become at its
noise level.

A denoiser that never met such prompts while it trained takes the least lean for an opinion: a picture that
knows no more than its colour would tell the sentence how things move. B batch, L prompt tokens, D width of
the shared space.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from codi.diffusion import NoiseProcess
from codi.joint.noisy_latent_encoder import NoisyLatentEncoder, NoisyLatentEncoders
from codi.joint.partner_estimates import centred_estimate, fuse_prompt
from codi.types import InputError, Modality
from data.world import PAIRS
from training.config import expect
from training.stages.common import load_part

IN_STEP = 0.5  # of the partners are at the listener's own noise level, the others anywhere further on


def load_noisy_latent_encoders(model: Path) -> NoisyLatentEncoders:
    """Those of the model in the making."""
    return load_part(NoisyLatentEncoders, model / "noisy_latent_encoders", "run noised_towers first")


@torch.no_grad()
def estimated_prompt(
    tower: NoisyLatentEncoder,
    process: NoiseProcess,
    context: Tensor,
    eps: Tensor,
    x_t: Tensor,
    t: Tensor,
    weight: float,
    clean: Tensor | None = None,
) -> Tensor:
    """The prompt (B, L, D) with what a partner seems to become: x_t (B, ...) at t (B,), made of the noise
    `eps`; samples that are `clean` (B,) are inputs and sure. As in sampling (`codi.joint.sampler`).
    """
    with torch.autocast(x_t.device.type, enabled=False):  # small differences are made several times as large
        context, eps, x_t = context.float(), eps.float(), x_t.float()
        partner_estimates = tower(x_t, t, context)
        expected = tower(eps, torch.full_like(t, process.num_train_timesteps - 1), context)
        if clean is not None:  # nothing is expected of an input (`PartnerEstimate`)
            expected = expected.masked_fill(clean[:, None], 0.0)
        return fuse_prompt(context, centred_estimate(context, partner_estimates, expected), weight)


class PartnerEstimates:
    """Changes the prompts of a share of the samples. In training one partner tells, in sampling the mean of
    all counts. Who is prompted by a third medium is told nothing: training sees no more than two of one
    sample.

    shares  of the samples that a partner tells of, by partner
    option  its name, for errors
    """

    def __init__(
        self,
        modality: Modality,
        shares: Mapping[str, float],
        towers: NoisyLatentEncoders,
        process: NoiseProcess,
        weight: float,
        option: str = "partner_estimates",
    ):
        self.modality, self.shares = modality, {Modality.parse(name): share for name, share in shares.items()}
        for partner in self.shares:
            if {modality, partner} not in PAIRS:
                raise InputError(
                    f"options: {option} names {partner}: expected a modality that training sees together "
                    f"with {modality}"
                )
        self.towers, self.process, self.weight = towers, process, weight
        missing = [m for m in self.shares if m not in towers.by_modality()]
        expect(
            not missing, option, dict(shares), f"modalities with a noised tower: {', '.join(towers.towers)}"
        )

    @property
    def media(self) -> tuple[Modality, ...]:
        """Partners whose latents are cached; sentences are encoded as they come."""
        return tuple(m for m in self.shares if m is not Modality.TEXT)

    def to(self, device: torch.device) -> None:
        self.towers.to(device)

    @torch.no_grad()
    def __call__(
        self,
        context: Tensor,
        t: Tensor,
        kinds: Sequence[Modality],
        latents: Callable[[Modality, Tensor], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Prompts (B, L, D) of these kinds (B) of listeners at t (B,); `latents` gives a partner's clean
        latents (R, ...) of some of the samples (R,).
        """
        kind, kept, part = torch.rand((3, len(t)), generator=generator, device=t.device)
        levels = torch.where(kept < IN_STEP, t, (t * part).long())
        # who has no prompt is told nothing, as in the branch that guidance leads away from
        prompted = context.abs().amax((1, 2)) > 0
        context, start = context.clone(), 0.0
        for partner, share in self.shares.items():
            of_pair = torch.tensor([prompt in (self.modality, partner) for prompt in kinds], device=t.device)
            rows = (prompted & of_pair & (kind >= start) & (kind < start + share)).nonzero().flatten()
            start += share
            if not len(rows):
                continue
            x_0 = latents(partner, rows)
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            x_t, tower = self.process.add_noise(x_0, eps, levels[rows]), self.towers.by_modality()[partner]
            context[rows] = estimated_prompt(
                tower, self.process, context[rows], eps, x_t, levels[rows], self.weight
            )
        return context
