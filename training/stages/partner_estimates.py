"""This module fuses the prompts of training samples with partner estimates, as sampling does.

A partner estimate is what a partner, drawn from the same prompt, seems to become at its noise level. A
denoiser that never met such prompts while it trained takes the least deviation for a statement: a picture
that knows no more than its colour would decide how things move in the sentence. Letters: B batch, L prompt
tokens, D width of the prompt space, R some rows of the batch.
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

# The share of partners at the denoiser's own noise level; the others have any lower one, as partners that
# started earlier.
IN_STEP = 0.5


def load_noisy_latent_encoders(model: Path) -> NoisyLatentEncoders:
    """Return the noisy-latent encoders of the model in the making, frozen."""
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
    """Return prompts fused with what a partner seems to become, as in sampling (`codi.joint.sampler`).

    Args:
        encoder: the partner's noisy-latent encoder.
        process: the noise process.
        context: the prompts, (B, L, D).
        eps: the noise that the partner's latents were made of, (B, ...); its estimate is the prior.
        x_t: the partner's noisy latents, (B, ...).
        t: their timesteps, (B,).
        weight: by how much partner estimates are amplified.
        clean: (B,) boolean, the samples whose partner is an input and clean: its estimate is certain and has
            no prior. None stands for no sample.

    Returns:
        The fused prompts, (B, L, D) in float32.
    """
    # in float32, since small differences are made several times as large
    with torch.autocast(x_t.device.type, enabled=False):
        context = context.float()
        eps = eps.float()
        x_t = x_t.float()
        estimate = encoder(x_t, t, context)
        prior = encoder(eps, torch.full_like(t, process.num_train_timesteps - 1), context)
        if clean is not None:  # an input has no prior (`PartnerEstimate`)
            prior = prior.masked_fill(clean[:, None], 0.0)
        return fuse_prompt(context, centred_estimate(context, estimate, prior), weight)


class PartnerEstimates:
    """A fuser of the prompts of a share of the samples with the estimate of a partner.

    In training it is the estimate of one partner, where sampling takes the mean of all. A prompt of a third
    medium stays as it is: training sees no more than two media of one sample.

    Args:
        modality: what is generated.
        shares: the share of the samples that get an estimate, by partner.
        encoders: the finished noisy-latent encoders.
        process: the noise process.
        weight: by how much partner estimates are amplified.
        rule: the pairs that training may see (`training.stages.pairs.rule_of`).
        option: the name of the option that holds the shares, for errors.
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
        self.modality = modality
        self.shares = {Modality.parse(name): share for name, share in shares.items()}
        for partner in self.shares:
            if not may_meet(modality, partner, rule):
                raise InputError(
                    f"options: {option} names {partner}: expected a modality that training sees together "
                    f"with {modality}"
                )
        self.encoders = encoders
        self.process = process
        self.weight = weight
        able = encoders.by_modality()
        expected = f"modalities with a noisy-latent encoder: {', '.join(map(str, able))}"
        expect(self.shares.keys() <= able.keys(), option, dict(shares), expected)

    @property
    def media(self) -> tuple[Modality, ...]:
        """The partners whose latents are cached; sentences are encoded as they come."""
        return tuple(m for m in self.shares if not in_words(m))

    def to(self, device: torch.device) -> None:
        """Move the noisy-latent encoders to `device`."""
        self.encoders.to(device)

    @torch.no_grad()
    def __call__(
        self,
        context: Tensor,
        t: Tensor,
        kinds: Sequence[Modality],
        latents: Callable[[Modality, Tensor], Tensor],
        generator: torch.Generator,
        available: Callable[[Modality], Tensor | None] = lambda partner: None,
    ) -> Tensor:
        """Return the prompts, fused in a share of the samples with the estimate of a partner.

        Args:
            context: the prompts, (B, L, D).
            t: the timesteps of what is generated, (B,).
            kinds: the kind of each prompt, B modalities.
            latents: a function of a partner and of row numbers (R,) that returns the partner's clean latents
                (R, ...).
            generator: the source of all draws.
            available: a function of a partner that says which samples have it, (B,) boolean; None for all.

        Returns:
            The prompts, (B, L, D). That of a sample without its partner stays as it is.
        """
        kind, kept, part = torch.rand((3, len(t)), generator=generator, device=t.device)
        levels = torch.where(kept < IN_STEP, t, (t * part).long())
        # without a prompt there is no estimate, as in the branch that guidance leads away from
        prompted = context.abs().amax((1, 2)) > 0
        context = context.clone()
        start = 0.0
        for partner, share in self.shares.items():
            of_pair = torch.tensor([prompt in (self.modality, partner) for prompt in kinds], device=t.device)
            chosen = prompted & of_pair & (kind >= start) & (kind < start + share)
            has = available(partner)
            rows = (chosen if has is None else chosen & has.to(chosen.device)).nonzero().flatten()
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
