"""Prompts fused with partner estimates: what a partner, drawn from the same prompt, seems to become at its
noise level.

A denoiser that never met such prompts while it trained takes the least deviation for a statement: a picture
that knows no more than its colour would decide how things move in the sentence. B batch, L prompt tokens,
D width of the shared space.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from codi.diffusion import NoiseProcess
from codi.joint.noisy_latent_encoder import NoisyLatentEncoder, NoisyLatentEncoders
from codi.joint.partner_estimates import centred_estimate, fuse_prompt
from codi.modalities import in_words
from codi.types import InputError, Modality
from training.config import expect
from training.stages.common import load_part
from training.stages.pairs import Rule, may_meet

IN_STEP = 0.5  # of the partners are at the denoiser's own noise level, the others anywhere further on


def load_noisy_latent_encoders(model: Path) -> NoisyLatentEncoders:
    """Those of the model in the making."""
    return load_part(NoisyLatentEncoders, model / "noisy_latent_encoders", "run noisy_latent_encoders first")


@torch.no_grad()
def estimated_prompt(
    encoder: NoisyLatentEncoder,
    process: NoiseProcess,
    context: Tensor,
    eps: Tensor,
    x_t: Tensor,
    t: Tensor,
    weight: float,
    clean: Tensor | None = None,
) -> Tensor:
    """The prompt (B, L, D) with what a partner seems to become: x_t (B, ...) at t (B,), made of the noise
    `eps`; samples that are `clean` (B,) are inputs, whose estimate is certain. As in sampling
    (`codi.joint.sampler`).
    """
    with torch.autocast(x_t.device.type, enabled=False):  # small differences are made several times as large
        context, eps, x_t = context.float(), eps.float(), x_t.float()
        estimate = encoder(x_t, t, context)
        prior = encoder(eps, torch.full_like(t, process.num_train_timesteps - 1), context)
        if clean is not None:  # an input has no prior (`PartnerEstimate`)
            prior = prior.masked_fill(clean[:, None], 0.0)
        return fuse_prompt(context, centred_estimate(context, estimate, prior), weight)


class PartnerEstimates:
    """Fuses the prompts of a share of the samples with the estimate of a partner: of one in training, where
    sampling takes the mean of all. A prompt of a third medium stays as it is: training sees no more than two
    media of one sample.

    shares  of the samples that get an estimate, by partner
    rule    the pairs that training may see
    option  its name, for errors
    """

    def __init__(
        self,
        modality: Modality,
        shares: Mapping[str, float],
        encoders: NoisyLatentEncoders,
        process: NoiseProcess,
        weight: float,
        rule: Rule,
        option: str = "partner_estimates",
    ):
        self.modality, self.shares = modality, {Modality.parse(name): share for name, share in shares.items()}
        for partner in self.shares:
            if not may_meet(modality, partner, rule):
                raise InputError(
                    f"options: {option} names {partner}: expected a modality that training sees together "
                    f"with {modality}"
                )
        self.encoders, self.process, self.weight = encoders, process, weight
        missing = [m for m in self.shares if m not in encoders.by_modality()]
        expect(
            not missing,
            option,
            dict(shares),
            f"modalities with a noisy-latent encoder: {', '.join(map(str, encoders.by_modality()))}",
        )

    @property
    def media(self) -> tuple[Modality, ...]:
        """Partners whose latents are cached; sentences are encoded as they come."""
        return tuple(m for m in self.shares if not in_words(m))

    def to(self, device: torch.device) -> None:
        self.encoders.to(device)

    @torch.no_grad()
    def __call__(
        self,
        context: Tensor,
        t: Tensor,
        kinds: Sequence[Modality],
        latents: Callable[[Modality, Tensor], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Prompts (B, L, D) of these kinds (B) of samples at t (B,); `latents` gives a partner's clean
        latents (R, ...) of some of the samples (R,).
        """
        kind, kept, part = torch.rand((3, len(t)), generator=generator, device=t.device)
        levels = torch.where(kept < IN_STEP, t, (t * part).long())
        # without a prompt there is no estimate, as in the branch that guidance leads away from
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
            x_t = self.process.add_noise(x_0, eps, levels[rows])
            encoder = self.encoders.by_modality()[partner]
            context[rows] = estimated_prompt(
                encoder, self.process, context[rows], eps, x_t, levels[rows], self.weight
            )
        return context
