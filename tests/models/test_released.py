"""What belongs to the released classes alone: sentences, environments of one token, how prompts come in."""

import pytest
import torch
from PIL import Image

from codi.models.released import ReleasedAudioAutoencoder, ReleasedAudioTower, ReleasedVisionTower
from codi.models.released.autoencoders import stream
from codi.models.released.environments import MapEncoder, PooledEnvironmentEncoders, VectorEncoder
from codi.models.released.sentences import (
    GLUE,
    drop_repeated,
    drop_repetitions,
    join,
    split_punctuation,
    strip_ends,
    tidy_spaces,
)
from codi.models.released.towers import PIXEL_MEAN, PIXEL_STD, fit
from codi.types import InputError, Modality
from tests import tiny_pipeline
from tests.models.shared import assert_near, depends_on, drawn, wake

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
LEVELS = dict(
    emb_width=8,
    stem=8,
    block_out_channels=(8, 16),
    layers_per_block=(1, 2),
    out_channels=6,
    norm_num_groups=4,
)
VECTOR = dict(LEVELS, in_channels=12, second_dim=(4, 2))
MAP = dict(LEVELS, in_channels=4)
CLIPS = dict(MAP, temporal=dict(num_heads=2, relative_bias=True))
VISION = dict(tiny_pipeline.TRANSFORMER, image_size=16, patch_size=8)


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    made = PooledEnvironmentEncoders(text=VECTOR, vision=CLIPS, audio=MAP)
    return wake(made.eval())


# Environments ----------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "shape"), [(TEXT, (12,)), (IMAGE, (4, 8, 8)), (VIDEO, (4, 3, 8, 8)), (AUDIO, (4, 10, 6))]
)
@torch.no_grad()
def test_an_environment_is_one_unit_token_without_time(encoders, modality, shape):
    encoder, x, t = encoders.by_modality()[modality], drawn(2, *shape), torch.tensor([3, 700])
    env = encoder(x, t)
    assert env.tokens.shape == (2, 1, 6) and env.times.shape == (2, 1) and env.times.isnan().all()
    assert_near(env.tokens.norm(dim=-1), torch.ones(2, 1))
    assert_near(encoder(x[1:], t[1:]).tokens, env.tokens[1:])
    assert torch.equal(encoder(x, t, rate=99.0, cache=encoder.precompute(x)).tokens, env.tokens)
    assert not torch.allclose(encoder(x, t.flip(0)).tokens, env.tokens, atol=1e-3)


def test_every_frame_and_position_is_in_the_token(encoders):
    encoder, clip, t = encoders.by_modality()[VIDEO], drawn(2, 4, 3, 4, 4), torch.tensor([3, 700])
    first = lambda x: encoder(x, t).tokens[:1]
    assert depends_on(first, clip, axis=2) == [0, 1, 2] and depends_on(first, clip, axis=0) == [0]
    assert depends_on(first, clip, axis=3) == [0, 1, 2, 3]
    biases = [cache.bias is not None for cache in encoder.precompute(clip)]
    assert biases == [True, False, True, True]  # of blocks, not of what lies between levels
    assert not any(cache.bias is not None for cache in encoder.precompute(clip[:, :, 0]))


@pytest.mark.parametrize("kind", [MapEncoder, VectorEncoder])
def test_levels_lead_to_one_another(kind):
    encoder = kind(**(MAP if kind is MapEncoder else VECTOR))
    names = [type(layer).__name__ for layer in encoder.layers]
    assert names == ["Block", "Downsample" if kind is MapEncoder else "Remap", "Block", "Block"]
    with pytest.raises(ValueError, match="zip"):
        kind(**(MAP if kind is MapEncoder else VECTOR) | dict(layers_per_block=(1,)))


def test_who_attends_to_whom_is_a_switch(encoders):
    assert encoders.attends_to() == {m: {m} for m in Modality}
    exchanged = PooledEnvironmentEncoders(text=VECTOR, audio=MAP, environment="exchanged")
    assert exchanged.attends_to() == {TEXT: {AUDIO}, AUDIO: {TEXT}}
    assert encoders.by_modality()[IMAGE] is encoders.by_modality()[VIDEO]
    assert PooledEnvironmentEncoders().by_modality() == {}
    with pytest.raises(InputError, match="environment is 'crossed': expected own .* or exchanged"):
        PooledEnvironmentEncoders(environment="crossed")


# Sentences -------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("cat", ["cat"]),
        ("(cat),", ["(", GLUE, "cat", GLUE, ")", GLUE, ","]),
        ("...", [".", GLUE, ".", GLUE, "."]),
        ("it's", ["it's"]),
        ("[{a}]", ["[", GLUE, "{", GLUE, "a", GLUE, "}", GLUE, "]"]),
    ],
)
def test_marks_around_a_word_are_split_off_and_joined_again(word, parts):
    assert split_punctuation(word) == parts and join(parts) == word


def test_phrases_that_repeat_are_dropped_until_none_is_left():
    assert drop_repeated(list("abababc"), 2) == list("abc")
    assert drop_repeated(list("aaaa"), 1) == ["a"] and drop_repeated(list("abcab"), 2) == list("abcab")
    assert drop_repetitions("a a red red ball") == "a red ball"
    assert drop_repetitions("a red ball a red ball on a red ball") == "a red ball on a red ball"
    assert drop_repetitions("") == "" and drop_repetitions("one") == "one"


def test_spaces_and_ends():
    assert tidy_spaces("we do not know , i 'm sure it 's fine ?") == "we don't know, i'm sure it's fine?"
    assert tidy_spaces("they 've n't 're .") == "they'vEn't're.".lower()
    assert strip_ends("<BOS> a  ball <EOS>") == "a ball" and strip_ends("one two") == strip_ends("") == ""


def test_a_random_stream_depends_on_its_latent_alone():
    a, b = drawn(2, 8)
    draw = lambda latent: torch.rand(4, generator=stream(latent))
    assert torch.equal(draw(a), draw(a.clone().requires_grad_())) and torch.equal(draw(a), draw(a.double()))
    assert not torch.equal(draw(a), draw(b))


# Pixels and sounds -----------------------------------------------------


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 16), (16, 16)])
def test_the_middle_square_of_a_picture_is_taken(size):
    pixels = torch.zeros(size[1], size[0], 3, dtype=torch.uint8)
    middle = min(size) // 2
    left, top = (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
    pixels[top + middle :, left : left + min(size)] = 200
    fitted = torch.tensor(list(fit(Image.fromarray(pixels.numpy()), 8).tobytes())).view(8, 8, 3)
    # Half of it is dark and half light; at its edges the resizing mixes in what lies beyond.
    assert fitted[0].max() == 0 and fitted[-1, 1:-1].min() > 195


def test_levels_are_truncated_as_released_or_rounded():
    raw = torch.tensor([-1.0, -0.001, 0.5, 1.0, 2.0]).view(1, 1, 1, 5)
    levels = lambda **options: ReleasedVisionTower(VISION, **options).whole_pixels(raw).flatten().tolist()
    assert levels() == [0, 127, 191, 255, 255] and levels(truncate=False) == [0, 127, 191, 255, 255]
    raw = torch.tensor([0.49, -0.3]).view(1, 1, 1, 2)  # 189.975 and 89.25
    assert levels() == [189, 89] and levels(truncate=False) == [190, 89]


def test_pixels_are_normalised_by_clips_mean_and_deviation():
    tower = ReleasedVisionTower(VISION)
    values = tower.pixel_values(torch.ones(2, 3, 3, 20, 30))
    assert values.shape == (2, 3, 3, 16, 16)
    expected = torch.tensor([(1 - mean) / std for mean, std in zip(PIXEL_MEAN, PIXEL_STD)])
    assert_near(values, expected[:, None, None].expand_as(values))


def test_prompts_come_in_a_geometry_of_their_own():
    specs = ReleasedVisionTower(VISION, picture_size=24, video_size=20, num_frames=3, rate=2.0).prompt_specs
    assert specs[IMAGE].raw_shape == (3, 24, 24) and specs[VIDEO].raw_shape == (3, 3, 20, 20)
    assert specs[VIDEO].duration == 1.5
    tower = audio_tower(sampling_rate=8000, longest=2.0)
    assert tower.prompt_specs[AUDIO].raw_shape == (16000,) and tower.any_length


def audio_tower(**options):
    shape = dict(tiny_pipeline.towers()["audio_tower"].config)
    mel = dict(shape["mel_config"], sampling_rate=16000)
    return ReleasedAudioTower(shape["audio_config"], mel, **dict(num_samples=1000) | options)


@pytest.mark.parametrize(("length", "copies"), [(300, 3), (500, 2), (1000, 1)])
def test_a_short_sound_is_repeated_and_padded(length, copies):
    sound = drawn(2, length)
    fitted = audio_tower().fit(sound)
    assert fitted.shape == (2, 1000)
    assert torch.equal(fitted[:, : copies * length], sound.repeat(1, copies))
    assert not fitted[:, copies * length :].any()


def test_of_a_long_sound_the_middle_is_taken_at_the_towers_own_rate():
    sound = drawn(1, 1301)
    assert torch.equal(audio_tower().fit(sound), sound[:, 150:1150])
    slow = torch.sin(torch.arange(1000) / 40)[None]
    resampled = audio_tower(sampling_rate=8000, num_samples=2000).fit(slow)
    assert (resampled[:, 200:1800:2] - slow[:, 100:900]).abs().max() < 0.01


def test_levels_of_a_sound_are_in_decibels():
    tower, sound = audio_tower(), drawn(1, 1000)
    levels = tower.decibels(sound)
    assert_near(tower.decibels(10 * sound), levels + 20)
    assert_near(tower.decibels(torch.zeros(1, 1000)), torch.full_like(levels, -100.0))


def test_a_sound_is_centred_and_brought_to_half_of_full_scale():
    config = dict(tiny_pipeline.autoencoders()["audio_autoencoder"].config)
    names = ("vae_config", "vocoder_config", "mel_config", "patch")
    part = ReleasedAudioAutoencoder(
        **{name: config[name] for name in names}, num_samples=1600, scaling_factor=1.0
    )
    sound = 0.1 * drawn(2, 1000) + 0.3
    fitted = part.fit(sound)
    assert fitted.shape == (2, 1600) and not fitted[:, 1000:].any()
    assert_near(fitted.abs().amax(1), torch.tensor([0.5, 0.5]))
    assert fitted[:, :1000].mean(1).abs().max() < 1e-6
    assert_near(part.fit(3 * sound - 1), fitted)
    assert torch.equal(part.encode(sound), super(ReleasedAudioAutoencoder, part).encode(fitted))
