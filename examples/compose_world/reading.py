"""Teaches a text encoder to read before a denoiser depends on it, as published models have theirs from CLAP.

The encoder's normalised vector has to tell every fact that a caption names, or that it names none.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import ClapTextModelWithProjection, PreTrainedTokenizerFast
from world_data import tokens, training_caption, training_scenes

from codi.world import ATTRIBUTES, parse

_SHARPNESS = 10.0  # of the heads; the vector itself has length 1


def _answers(texts: list[str]) -> Tensor:
    """Return the position of every named fact in its table, (B, facts); one beyond its end for none."""
    rows = []
    for facts in map(parse, texts):
        rows.append([len(v) if facts[n] is None else v.index(facts[n]) for n, v in ATTRIBUTES.items()])
    return torch.tensor(rows)


def learn_to_read(
    encoder: ClapTextModelWithProjection, tokenizer: PreTrainedTokenizerFast, steps: int, batch: int = 64
) -> float:
    """Train the encoder in place on captions alone.

    Returns:
        the share of facts it read in the last steps.
    """
    width = encoder.config.projection_dim
    heads = nn.ModuleList([nn.Linear(width, len(values) + 1) for values in ATTRIBUTES.values()])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], 2e-3)
    rng = np.random.default_rng(0)
    right = 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        texts = [training_caption(s, rng) for s in training_scenes(batch, step)]
        ids, mask = tokens(tokenizer, texts)
        vector = _SHARPNESS * nnf.normalize(encoder(ids, attention_mask=mask).text_embeds, dim=-1)
        guesses, answers = [head(vector) for head in heads], _answers(texts)
        loss = sum(nnf.cross_entropy(g, answers[:, k]) for k, g in enumerate(guesses))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = np.mean([float((g.argmax(1) == answers[:, k]).float().mean()) for k, g in enumerate(guesses)])
        right += 0.05 * (float(now) - right)
    return right
