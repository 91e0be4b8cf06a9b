"""The temporal-change loss: where a latent changes, and that predicting it teaches an encoder when things
happen in the partner.
"""

import pytest
import torch

from codi import pretrained
from codi.joint.encoders import EnvironmentEncoders
from codi.models.denoisers import UNetDenoiser
from codi.types import InputError, Modality
from tests.training.test_contrast import LATENTS
from training.config import Config
from training.stages import open_stage
from training.stages.joint import JointOptions
from training.stages.temporal_change import TemporalChangeDecoder, WithTemporalChange, changes

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
    """Clips in which a light goes on at a random frame, sounds that begin with it; what is left of the error
    lies far below ignorance.
    """
    torch.manual_seed(0)
    encoder = EnvironmentEncoders(LATENTS, dim=32, num_layers=1, num_heads=2).by_modality()[VIDEO]
    temporal_change = TemporalChangeDecoder({AUDIO: 10.0}, dim=32, context_dim=4, num_layers=1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *temporal_change.parameters()], lr=5e-3)
    for _ in range(150):
        start = torch.randint(1, 7, (32,))
        clips = (torch.arange(8) >= start[:, None]).float()[:, None, :, None, None].expand(-1, 2, -1, 4, 4)
        sounds = (
            (torch.arange(20) / 10.0 >= start[:, None] / 4.0).float()[:, None, :, None].expand(-1, 2, -1, 2)
        )
        loss = temporal_change(AUDIO, sounds, encoder(clips, torch.zeros(32)), torch.zeros(32, 1, 4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


def test_alone_it_needs_its_weight():
    with pytest.raises(InputError, match="only_temporal_change"):
        JointOptions(pairs={"audio+video": 1.0}, only_temporal_change=True)


SIZES = dict(
    in_channels=2, block_out_channels=(8, 16), attention_levels=(1,), context_dim=4, norm_num_groups=4
)
TOKENS = dict(grid=(1, 2), dim=16, num_layers=1, num_heads=2)


def test_a_denoiser_learns_when_its_own_latent_changes_and_answers_as_before():
    """Latents that change once; the decoder is a layer beside the denoiser, so what trains is the denoiser's
    own transformer.
    """
    torch.manual_seed(0)
    denoiser = UNetDenoiser(**SIZES, time_axis=2, latent_rate=10.0, frame_transformer=TOKENS)
    module = WithTemporalChange(denoiser, steps=2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(60):
        start = torch.randint(2, 18, (32,))
        x_0 = (torch.arange(20) >= start[:, None]).float()[:, None, :, None].expand(-1, 2, -1, 4)
        answer = module(x_0 + 0.1 * torch.randn(x_0.shape), torch.full((32,), 10), torch.zeros(32, 1, 4))
        loss = module.temporal_change_loss(x_0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert answer.shape == x_0.shape and module.tokens.shape == (32, 10, 16)
    assert loss < 0.3
    with torch.no_grad():
        given = (x_0, torch.full((32,), 10), torch.zeros(32, 1, 4))
        assert torch.equal(module(*given), denoiser(*given))


def test_a_denoiser_without_tokens_in_time_has_no_temporal_change_loss(tmp_path):
    model = pretrained.resolve(None)
    options = {"modality": "image", "prompts": {"text": 1.0}, "temporal_change": 0.1, "continue_from": True}
    config = Config(
        stage="denoise", model=model, samples=1, batch_size=1, lr=1e-3, output=tmp_path, options=options
    )
    with pytest.raises(InputError, match="temporal_change is 0.1: expected 0, or sound or a clip"):
        open_stage(config).build()
