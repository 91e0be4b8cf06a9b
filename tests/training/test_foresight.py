"""Foresight: where a latent changes, and that telling it teaches an encoder when things happen in the partner."""

import pytest
import torch

from codi.models.joint import EnvironmentEncoders
from codi.types import InputError, Modality
from tests.training.test_contrast import LATENTS
from training.stages.foresight import Foresight, changes
from training.stages.joint import JointOptions

AUDIO, VIDEO = Modality.AUDIO, Modality.VIDEO


def test_a_step_is_the_one_change_whatever_the_size_of_the_latent():
    x = torch.zeros(2, 3, 10, 4)
    x[0, :, 6:], x[1, :, 2:] = 1.0, 5.0
    found = changes(x)
    assert found.shape == (2, 9) and found.argmax(1).tolist() == [5, 1]
    torch.testing.assert_close(found.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(2))
    assert changes(torch.ones(1, 3, 10, 4)).abs().max() == 0  # nothing happens


def test_it_teaches_an_encoder_when_things_happen_in_a_clip():
    """Clips in which a light goes on at a random frame, sounds that begin with it; what is left of the error lies far below ignorance."""
    torch.manual_seed(0)
    encoder = EnvironmentEncoders(LATENTS, dim=32, num_layers=1, num_heads=2).by_modality()[VIDEO]
    foresight = Foresight({AUDIO: 10.0}, dim=32, context_dim=4, num_layers=1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *foresight.parameters()], lr=5e-3)
    for _ in range(150):
        start = torch.randint(1, 7, (32,))
        clips = (torch.arange(8) >= start[:, None]).float()[:, None, :, None, None].expand(-1, 2, -1, 4, 4)
        sounds = (torch.arange(20) / 10.0 >= start[:, None] / 4.0).float()[:, None, :, None].expand(-1, 2, -1, 2)
        loss = foresight(AUDIO, sounds, encoder(clips, torch.zeros(32)), torch.zeros(32, 1, 4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


def test_alone_it_needs_its_weight():
    with pytest.raises(InputError, match="only_foresight"):
        JointOptions(pairs={"audio+video": 1.0}, only_foresight=True)
