"""Padding counts in no loss: what is left is what the content alone gives, computed by hand; and without
padding nothing changes.
"""

from types import SimpleNamespace

import pytest
import torch

from codi.diffusion.losses import denoising_loss
from codi.modalities import kind_of
from codi.types import Modality
from data.batch import Batch, content_of
from tests.tiny_pipeline import MEL, VAE
from training.config import Config
from training.stages import open_stage
from training.stages.autoencoder import AutoencoderStage
from training.stages.padding import content_mask, content_only, latent_mask
from training.stages.temporal_change import changes, transitions

PICTURES = {"image_size": 16, "patch_size": 2, "vae_config": dict(VAE, latent_channels=4)}
SOUNDS = {"num_samples": 8000, "patch": (1, 2), "mel_config": MEL, "vae_config": dict(VAE, latent_channels=4)}
HALF = ((0, 3), (4, 12), (0, 16))  # a picture twice as wide as high, in a square of 16


def stage_of(name: str, part: dict, tmp_path) -> tuple:
    torch.manual_seed(0)
    config = Config(
        stage=name, model=tmp_path, output=tmp_path, samples=2, batch_size=2, lr=1e-3, device="cpu", part=part
    )
    stage = open_stage(config)
    return stage, stage.build()


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_a_step_counts_where_any_of_it_is_content():
    content = content_of([((0, 500),), ((0, 8000),), ((0, 1),)], (8000,))
    latent = torch.zeros(3, 4, 10, 2)  # of 800 samples a step
    mask = content_mask(content, kind_of("audio").latent_axes, latent)
    assert mask.shape == latent.shape and mask[:, 0, :, 0].sum(1).tolist() == [1, 10, 1]
    assert torch.equal(mask, mask[:, :1, :, :1].expand(latent.shape))
    content = content_of([((0, 10), (0, 3), (5, 11), (0, 16))], (16, 3, 16, 16))
    (found,) = content_mask(content, kind_of("video").latent_axes, torch.zeros(1, 4, 16, 4, 4))
    assert found[0].any((1, 2)).tolist() == [True] * 10 + [False] * 6
    assert found[0, 0].int().tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]
    assert content_mask(content_of([None], (8000,)), (1,), latent[:1]) is None
    for length in (7, 999, 48_000):  # shares are float32: every step has its own place all the same
        content = content_of([((0, stop),) for stop in range(1, length, 1 + length // 50)], (length,))
        mask = content_mask(content, (0,), torch.zeros(len(content), length))
        assert mask.sum(1).tolist() == list(range(1, length, 1 + length // 50))


def test_what_is_padding_changes_no_denoising_loss():
    output, target = torch.randn(2, 3, 4, 10, 2, generator=draws()).unbind(0)
    named = {"audio": target, "audio_content": content_of([((0, 500),), None, ((0, 4000),)], (8000,))}
    batch = Batch(index=[0, 1, 2], named=named)
    mask = latent_mask(batch, Modality.AUDIO, target)
    by_hand = [
        (output[row, :, :steps] - target[row, :, :steps]).square().mean()
        for row, steps in enumerate((1, 10, 5))
    ]
    torch.testing.assert_close(denoising_loss(output, target, mask), torch.stack(by_hand))
    some = torch.tensor([2, 0])
    part = denoising_loss(output[some], target[some], latent_mask(batch, Modality.AUDIO, target[some], some))
    torch.testing.assert_close(part, torch.stack(by_hand)[some])
    whole = Batch(index=[0, 1, 2], named={"audio": target})
    assert latent_mask(whole, Modality.AUDIO, target) is None
    everything = torch.ones_like(target, dtype=torch.bool)
    torch.testing.assert_close(denoising_loss(output, target, everything), denoising_loss(output, target))


def test_changes_to_padding_are_none():
    x = torch.randn(1, 3, 12, 4, generator=draws())
    mask = torch.zeros(1, 3, 12, 4, dtype=torch.bool)
    mask[:, :, :7] = True
    counted = transitions(mask)
    assert counted.sum() == 6
    torch.testing.assert_close(changes(x, counted)[:, :6], changes(x[:, :, :7]))


def test_pictures_on_a_ground_train_an_autoencoder_by_their_own_pixels(tmp_path):
    stage, module = stage_of("autoencoder_image", PICTURES, tmp_path)
    frames = torch.randint(256, (2, 3, 16, 16), generator=draws(), dtype=torch.uint8)
    batch = {"frames": frames, "content": content_of([HALF, HALF], (3, 16, 16))}
    with torch.no_grad():
        loss, found = stage.loss(module, batch, draws())
        # the same by hand: of 16 rows those from 4 to 11, of 4 rows of the latent the inner two
        unit = frames / 127.5 - 1
        posterior, generator = module.posterior(unit), draws()
        own = (slice(None), slice(None), slice(1, 3))
        drawn = posterior.sample(generator)
        noise = torch.randn(drawn.shape, generator=generator)
        restored = module.reconstruct(drawn + 0.1 * drawn[own].std() * noise)
        error = (restored - unit)[:, :, 4:12]
        edges = [(error[..., k:] - error[..., :-k]).abs().mean() for k in (1, 2, 4, 8)]
        edges += [(error[..., k:, :] - error[..., :-k, :]).abs().mean() for k in (1, 2, 4)]
        edge = sum(edges) / 8 * 2  # of 8 rows no two are 8 apart
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar)[own].mean()
    torch.testing.assert_close(found["l1"], error.abs().mean())
    torch.testing.assert_close(found["edge"], edge)
    torch.testing.assert_close(found["kl"], kl)
    torch.testing.assert_close(loss, error.abs().mean() + edge + 1e-4 * kl)


@pytest.mark.parametrize(
    "name, part, entry, shape, content",
    [
        ("autoencoder_image", PICTURES, "frames", (3, 16, 16), HALF),
        ("autoencoder_audio", SOUNDS, "sound", (8000,), ((0, 2000),)),
    ],
)
def test_without_padding_nothing_changes_and_with_it_something_does(
    tmp_path, name, part, entry, shape, content
):
    stage, module = stage_of(name, part, tmp_path)
    media = torch.randint(256, (2, *shape), generator=draws(), dtype=torch.uint8)
    media = media if entry == "frames" else media / 127.5 - 1
    plain, whole, padded = (
        stage.loss(module, {entry: media, **content}, draws())[0]
        for content in (
            {},
            {"content": content_of([None, None], shape)},
            {"content": content_of([content, None], shape)},
        )
    )
    assert plain == whole != padded and padded.isfinite()


def test_short_sounds_train_an_autoencoder_by_their_own_frames(tmp_path):
    stage, module = stage_of("autoencoder_audio", SOUNDS, tmp_path)
    sound = 0.1 * torch.randn(2, 8000, generator=draws())
    batch = {"sound": sound, "content": content_of([((0, 4000),)] * 2, (8000,))}
    with torch.no_grad():
        _, found = stage.loss(module, batch, draws())
        mel = module.log_mel(sound)
        posterior, generator = module.posterior(mel), draws()
        drawn = posterior.sample(generator)
        half = drawn.shape[2] // 2
        noise = torch.randn(drawn.shape, generator=generator)
        restored = module.reconstruct(drawn + 0.1 * drawn[:, :, :half].std() * noise)
        error = (module.normalise_mel(restored) - module.normalise_mel(mel))[:, : mel.shape[1] // 2]
    torch.testing.assert_close(found["l1"], error.abs().mean())


def test_statistics_are_those_of_content():
    latents = torch.randn(2, 4, 6, 2, generator=draws())
    mask = content_mask(content_of([((0, 3),), None], (6,)), (1,), latents)
    kept = content_only(latents, mask)
    expected = torch.cat([latents[0, :, :3].flatten(1).T, latents[1].flatten(1).T])
    assert torch.equal(kept, expected) and content_only(latents, None) is latents


def test_statistics_are_measured_of_padded_batches_and_whole_ones_together():
    padded, whole = torch.randn(2, 2, 4, 6, 2, generator=draws()).unbind()
    contents = [content_of([((0, 3),), None], (6,)), None]

    class Two(AutoencoderStage):
        modality = Modality.AUDIO

        def data(self, offset=0):
            return SimpleNamespace(fetch=lambda places: places[0] // 64, close=lambda: None)

        def mean_latent(self, module, batch):
            return (padded, whole)[batch]

        def mask_of(self, batch, like, axes=None):
            return content_mask(contents[batch], (1,), like)

    stage = object.__new__(Two)
    stage.options = SimpleNamespace(statistics_samples=128)
    found = []
    stage.measure(SimpleNamespace(scaling=SimpleNamespace(measure=found.append)))
    known = [padded[0, :, :3], padded[1], *whole]
    assert torch.equal(found[0], torch.cat([each.flatten(1).T for each in known]))
