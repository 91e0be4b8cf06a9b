"""Autoencoders at tiny size: statistics of latents, layouts, and what a decoder is taught and writes."""

import math

import pytest
import torch
from torch.nn import functional

from codi.models.autoencoders import AudioAutoencoder, ImageAutoencoder, TextAutoencoder
from codi.models.autoencoders.audio import _fold, _unfold
from codi.models.autoencoders.mel import GriffinLim, LogMel, MelCorrection, slaney_bank
from codi.models.autoencoders.scaling import LatentScaling
from tests import tiny_pipeline
from tests.models.shared import assert_near, drawn

VAE = tiny_pipeline.VAE | dict(latent_channels=4)
MEL = dict(n_fft=256, hop_length=80, num_bands=16)
SENTENCES = ["a red ball", "blue cube bounces slowly at night", "sea"]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    found = {name: part.eval() for name, part in tiny_pipeline.autoencoders().items()}
    for part in found.values():
        part.scaling.mean.normal_()
        part.scaling.std.uniform_(0.5, 2.0)
    return found


@pytest.fixture(scope="module")
def text(parts):
    return parts["text_autoencoder"]


@pytest.fixture(scope="module")
def image(parts):
    return parts["image_autoencoder"]


@pytest.fixture(scope="module")
def audio(parts):
    return parts["audio_autoencoder"]


# Statistics ------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
def test_measured_latents_have_mean_zero_and_deviation_one(shape):
    scaling, latents = (
        LatentScaling(3),
        4 * drawn(50, 3, *shape) + torch.arange(3.0).view(3, *(1,) * len(shape)),
    )
    assert scaling.normalise(latents).isnan().all() and scaling.denormalise(latents).isnan().all()
    scaling.measure(latents)
    by_channel = scaling.normalise(latents).transpose(0, 1).flatten(1)
    assert_near(by_channel.mean(1), torch.zeros(3))
    assert_near(by_channel.std(1), torch.ones(3))
    assert_near(scaling.denormalise(scaling.normalise(latents)), latents)


def test_a_channel_that_never_changes_is_not_divided_by_zero():
    scaling = LatentScaling(2)
    scaling.measure(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert scaling.mean.tolist() == [2, 5] and scaling.std.tolist() == pytest.approx([math.sqrt(2), 1e-4])
    assert scaling.normalise(torch.tensor([[2.0, 5.0]])).tolist() == [[0, 0]]


def test_a_fixed_scale_is_one_factor_in_the_latents_own_precision():
    scaling, latents = LatentScaling(4, 0.18215), drawn(2, 4, 3, 3)
    assert_near(scaling.normalise(latents), 0.18215 * latents)
    assert (
        scaling.normalise(latents.double()).dtype
        is scaling.denormalise(latents.double()).dtype
        is torch.float64
    )
    assert set(scaling.state_dict()) == {"mean", "std"}


# Pictures and clips ----------------------------------------------------


@torch.no_grad()
def test_a_picture_is_its_patches_in_a_vae_and_normalised(image):
    pictures = drawn(2, 3, 32, 32).clamp(-1, 1)
    posterior = image.vae.encode(functional.pixel_unshuffle(pictures, 2)).latent_dist
    latents = image.encode(pictures)
    assert latents.shape[1:] == image.latent_shape == (4, 8, 8) and image.downsampling == 4
    assert_near(latents, image.scaling.normalise(posterior.mean))
    decoded = functional.pixel_shuffle(image.vae.decode(posterior.mean).sample, 2)
    assert_near(image.decode(latents), decoded.clamp(-1, 1))
    assert image.decode(latents * 1e3).abs().max() <= 1


@torch.no_grad()
def test_a_clip_is_its_frames(image):
    clip = drawn(2, 3, 3, 32, 48).clamp(-1, 1)  # another extent than the model's own
    latents = image.encode(clip)
    assert latents.shape == (2, 4, 3, 8, 12)
    assert_near(latents, torch.stack([image.encode(clip[:, f]) for f in range(3)], dim=2))
    frames = torch.stack([image.decode(latents[:, :, f]) for f in range(3)], dim=1)
    assert_near(image.decode(latents), frames)


@torch.no_grad()
def test_a_generator_draws_from_the_posterior(image, audio):
    for part, raw in ((image, drawn(1, 3, 32, 32)), (audio, drawn(1, 8000).clamp(-1, 1))):
        given = raw if part is image else part.log_mel(raw)
        posterior = part.posterior(given)
        seeded = lambda seed=0: torch.Generator().manual_seed(seed)
        noise = torch.randn(posterior.mean.shape, generator=seeded())
        expected = part.scaling.normalise(posterior.mean + posterior.std * noise)
        assert_near(part.encode(raw, seeded()), expected)
        assert torch.equal(part.encode(raw, seeded()), part.encode(raw, seeded()))
        assert not torch.allclose(part.encode(raw, seeded(1)), expected)


@torch.no_grad()
def test_patches_of_one_pixel_are_no_patches():
    plain = ImageAutoencoder(VAE, image_size=16)
    assert plain.downsampling == 2 and plain.latent_shape == (4, 8, 8)
    assert plain.vae.config.in_channels == plain.vae.config.out_channels == 3
    pictures = drawn(1, 3, 16, 16)
    assert_near(plain.posterior(pictures).mean, plain.vae.encode(pictures).latent_dist.mean)


@torch.no_grad()
def test_tiles_are_as_large_as_the_models_own_pictures(image):
    own, larger = drawn(1, 4, 8, 8), drawn(1, 4, 16, 16)
    whole = [image.decode(latents) for latents in (own, larger)]
    image.set_tiling(True)
    tiled = [image.decode(latents) for latents in (own, larger)]
    sizes = image.vae.tile_sample_min_size, image.vae.tile_latent_min_size
    image.set_tiling(False)
    assert sizes == (16, 8)  # the VAE sees 16 x 16 patches of a picture of 32 x 32 pixels
    assert torch.equal(tiled[0], whole[0]) and not torch.equal(tiled[1], whole[1])
    assert torch.equal(image.decode(larger), whole[1])


@torch.no_grad()
def test_slices_go_through_the_vae_one_at_a_time(image, audio):
    for part, raw in ((image, drawn(3, 3, 32, 32)), (audio, drawn(3, 8000).clamp(-1, 1))):
        batches = []
        hook = part.vae.encoder.register_forward_hook(
            lambda *call, batches=batches: batches.append(len(call[2]))
        )
        whole = part.encode(raw)
        part.set_slicing(True)
        sliced = part.encode(raw)
        part.set_slicing(False)
        hook.remove()
        assert batches == [3, 1, 1, 1]
        assert_near(sliced, whole)


# Sounds ----------------------------------------------------------------


@pytest.mark.parametrize("patch", [(1, 1), (2, 1), (1, 4), (2, 8)])
def test_cells_of_a_mel_are_folded_into_channels_and_back(patch):
    mel = drawn(2, 8, 16)
    cells = _fold(mel, patch)
    assert cells.shape == (2, patch[0] * patch[1], 8 // patch[0], 16 // patch[1])
    assert torch.equal(cells[:, -1, 0, 0], mel[:, patch[0] - 1, patch[1] - 1])
    assert torch.equal(_unfold(cells, patch), mel)


@torch.no_grad()
def test_a_sound_is_its_mel_in_a_vae_and_normalised(audio):
    sound = drawn(2, 8000).clamp(-1, 1)
    mel = audio.log_mel(sound)
    folded = mel.view(2, 100, 8, 2).permute(0, 3, 1, 2)
    latents = audio.encode(sound)
    assert_near(latents, audio.scaling.normalise(audio.vae.encode(folded).latent_dist.mean))
    # 100 mel frames and 16 bands; patches are two bands high, and the VAE halves once
    assert latents.shape[1:] == audio.latent_shape == (4, 50, 4)
    assert audio.latent_rate == 100 == 16000 / 80 / 2 and audio.sampling_rate == 16000
    decoded = audio.decode(latents)
    assert decoded.shape == (2, 8000) and decoded.abs().max() <= 1
    assert_near(decoded, audio.vocode(audio.decode_mel(latents)))
    assert audio.decode(latents * 100).abs().max() <= 1


@torch.no_grad()
def test_a_mel_is_brought_to_unit_scale_before_the_vae_and_back():
    torch.manual_seed(0)
    options = dict(vocoder_config=None, mel_config=MEL, num_samples=1600, scaling_factor=1.0)
    plain = AudioAutoencoder(VAE, **options).eval()
    scaled = AudioAutoencoder(VAE, **options, mel_mean=-4.0, mel_std=2.0).eval()
    scaled.vae.load_state_dict(plain.vae.state_dict())
    mel = plain.log_mel(drawn(1, 1600))
    assert_near(scaled.posterior(mel).mean, plain.posterior((mel + 4) / 2).mean)
    latents = drawn(1, 4, 10, 8)
    assert_near(scaled.reconstruct(latents), 2 * plain.reconstruct(latents) - 4)
    assert_near(scaled.denormalise_mel(scaled.normalise_mel(mel)), mel)
    assert isinstance(plain.vocoder, GriffinLim) and isinstance(plain.correction, torch.nn.Identity)


@torch.no_grad()
def test_a_correction_is_applied_to_what_was_decoded():
    torch.manual_seed(0)
    part = AudioAutoencoder(
        VAE, None, MEL, num_samples=1600, scaling_factor=2.0, correction_size=(3, 1)
    ).eval()
    latents = drawn(1, 4, 10, 8)
    assert part.decode_mel(latents).isnan().all()
    part.correction.weight.zero_()
    part.correction.weight[:, -1] = 0.5  # the constant
    assert_near(part.decode_mel(latents), part.reconstruct(latents / 2) + 0.5)


def test_a_correction_looks_at_an_odd_number_of_cells():
    with pytest.raises(AssertionError, match="odd numbers of cells, .* not 3 x 2"):
        MelCorrection(4, 3, 2)


def test_cells_around_one_are_shifted_copies_whose_edges_repeat():
    mel = torch.arange(12.0).view(1, 4, 3)
    cells = list(MelCorrection(3, 3, 1).around(mel))
    assert [cell[0, :, 0].tolist() for cell in cells] == [[0, 0, 3, 6], [0, 3, 6, 9], [3, 6, 9, 9], [1] * 4]
    cells = list(MelCorrection(3, 1, 3).around(mel))
    assert [cell[0, 0].tolist() for cell in cells] == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [1] * 3]


def test_twice_as_loud_is_a_constant_more_and_silence_is_the_floor():
    log_mel, sound = LogMel(**MEL), drawn(1, 4000)
    assert log_mel(sound).shape == (1, 50, 16) and log_mel(sound[:, :3999]).shape == (1, 49, 16)
    assert_near(log_mel(2 * sound), log_mel(sound) + math.log(2))
    assert_near(log_mel(torch.zeros(1, 800)), torch.full((1, 10, 16), math.log(1e-5)))


def test_a_tone_is_loudest_in_the_band_around_it():
    log_mel = LogMel(n_fft=1024, num_bands=32)
    middles = log_mel.bank.argmax(0) * 16000 / 1024
    for hz in (300.0, 1000.0, 4000.0):
        tone = torch.sin(2 * math.pi * hz * torch.arange(8000) / 16000)[None]
        loudest = log_mel(tone)[0, 10:-10].argmax(1)
        assert (middles[loudest] - hz).abs().max() <= middles.diff().max() / 2
        assert loudest.unique().numel() == 1


def test_bands_have_the_same_area_and_overlap_in_pairs():
    bank = slaney_bank(4097, 10, 100.0, 8000.0, 16000)
    assert (bank.sum(0) * 8000 / 4096).tolist() == pytest.approx([1.0] * 10, rel=1e-2)
    assert (bank > 0).sum(1).max() == 2 and bank.min() == 0
    freqs = torch.linspace(0, 8000, 4097)
    assert freqs[bank[:, 0] > 0].min() > 100 and freqs[bank[:, -1] > 0].max() < 8000


# Sentences -------------------------------------------------------------


@torch.no_grad()
def test_a_sentence_does_not_depend_on_those_beside_it(text):
    latents = text.encode(SENTENCES)
    assert latents.shape == (3, *text.latent_shape) == (3, 16)
    assert_near(latents, torch.cat([text.encode([sentence]) for sentence in SENTENCES]))
    assert text.decode(latents) == [text.decode(latent[None])[0] for latent in latents]
    assert_near(text.encode(["A RED BALL"]), latents[:1])


@torch.no_grad()
def test_a_sentence_is_drawn_from_its_posterior(text):
    mean, log_variance = text.posterior(SENTENCES)
    noise = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    expected = text.scaling.normalise(mean + noise * (log_variance / 2).exp())
    assert_near(text.encode(SENTENCES, torch.Generator().manual_seed(0)), expected)
    assert_near(text.encode(SENTENCES), text.scaling.normalise(mean))


@torch.no_grad()
def test_the_loss_of_a_token_is_its_cross_entropy_by_hand(text):
    latents = drawn(3, 16)
    tokenizer, expected = text.decoder_tokenizer, []
    for latent, sentence in zip(latents, SENTENCES):
        words = [tokenizer.get_vocab()[word] for word in sentence.split()]
        ids = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
        logits = text.logits(latent[None], torch.tensor([ids[:-1]]))[0].log_softmax(-1)
        expected.append(-sum(logits[i, token] for i, token in enumerate(ids[1:])) / (len(ids) - 1))
    assert_near(text.token_loss(latents, SENTENCES), torch.stack(expected))
    long = "a red blue ball cube bounces slowly at night"  # of nine words six are taken
    assert_near(
        text.token_loss(latents[:1], [long]), text.token_loss(latents[:1], [" ".join(long.split()[:6])])
    )


def test_a_token_sees_those_before_it_and_the_latent(text):
    latent, ids = drawn(1, 16).requires_grad_(), torch.tensor([[2, 5, 6, 7]])
    other = ids.clone()
    other[0, 2] = 9
    here, there = text.logits(latent, ids), text.logits(latent, other)
    assert torch.equal(here[:, :2], there[:, :2]) and not torch.allclose(here[:, 2:], there[:, 2:], atol=1e-3)
    for place in range(4):
        (gradient,) = torch.autograd.grad(here[0, place].square().sum(), latent, retain_graph=True)
        assert gradient.any()


@torch.no_grad()
def test_with_a_cache_the_same_is_written_as_without(text):
    latents, tokenizer = drawn(4, 16), text.decoder_tokenizer
    raw = text.scaling.denormalise(latents)
    ids = torch.full((4, 1), tokenizer.bos_token_id)
    for _ in range(text.config.max_length - 1):
        ids = torch.cat([ids, text.logits(raw, ids)[:, -1:].argmax(-1)], dim=1)
    expected = []
    for row in ids[:, 1:].tolist():
        end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        expected.append(tokenizer.decode(row[:end], skip_special_tokens=True))
    assert text.decode(latents) == expected


def test_a_decoder_learns_what_it_is_shown():
    torch.manual_seed(0)
    text = tiny_pipeline.autoencoders()["text_autoencoder"].train()
    optimizer = torch.optim.AdamW(text.parameters(), lr=5e-3)
    latents = torch.eye(3, 16)
    for _ in range(60):
        loss = text.token_loss(latents, SENTENCES).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # the sentences end where they were told to, by a token that is not written
    assert text.eval().decode(latents) == SENTENCES


@pytest.mark.parametrize("embed_latent", [True, False])
@torch.no_grad()
def test_a_latent_is_memory_and_if_wished_embedding(embed_latent):
    torch.manual_seed(0)
    shape = dict(tiny_pipeline.autoencoders()["text_autoencoder"].config)
    names = ("encoder_config", "decoder_config", "latent_dim", "tokenizer", "max_length")
    text = TextAutoencoder(**{name: shape[name] for name in names}, embed_latent=embed_latent).eval()
    assert (text.latent_embedding is not None) == embed_latent
    ids = torch.tensor([[2, 5, 6]])
    before = text.logits(drawn(1, 16), ids)
    text.memory.weight.zero_()
    without_memory = text.logits(drawn(1, 16), ids)
    assert not torch.allclose(before, without_memory, atol=1e-4)
    assert torch.equal(text.logits(drawn(1, 16, seed=1), ids), without_memory) != embed_latent


@torch.no_grad()
def test_saved_and_loaded_autoencoders_are_the_same(parts, tmp_path):
    raw = dict(
        text_autoencoder=SENTENCES,
        image_autoencoder=drawn(1, 3, 32, 32),
        audio_autoencoder=drawn(1, 8000).clamp(-1, 1),
    )
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
        again = type(part).from_pretrained(tmp_path / name).eval()
        latents = part.encode(raw[name])
        assert torch.equal(again.encode(raw[name]), latents)
        ours, theirs = part.decode(latents), again.decode(latents)
        assert ours == theirs if name == "text_autoencoder" else torch.equal(ours, theirs)
