"""The released autoencoders' and towers' numbers from our modules."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from codi.convert import parts
from codi.convert.tables import load
from codi.models import released
from codi.models.released.autoencoders import bert_tokenizer, gpt2_tokenizer, join_pieces, needed
from codi.models.released.sentences import drop_repetitions, strip_ends, tidy_spaces
from codi.models.released.towers import fit
from codi.types import InputError
from tests.convert.pack import assert_close, component

TAP = 5e-4  # the logarithm of near-silence amplifies rounding
STATIC = 1e-3  # a clip whose frames are equal divides rounding noise by the floor of the normalisation


@torch.no_grad()
def test_image_autoencoder():
    part = component("07_autokl")
    t = part.tensors
    model = released.ReleasedImageAutoencoder(
        **parts.image_autoencoder_config(part.meta["config"], part.meta["vision_scale_factor"])
    )
    table = parts.image_autoencoder_table(model)
    load(model.eval(), table, part.weights())
    posterior = model.posterior(t["in/image"])
    assert_close(posterior.parameters, t["out/moments"])
    assert_close(posterior.mean, t["out/mean"])
    assert_close(posterior.logvar, t["out/logvar"])
    assert_close(posterior.std, t["out/std"])
    scale = part.meta["vision_scale_factor"]
    assert_close(model.encode(t["in/image"]), scale * t["out/mean"])
    clip = t["in/video"].transpose(1, 2)  # pack: (b, c, f, h, w)
    assert_close(model.encode(clip), scale * t["out/video_moments"].chunk(2, dim=1)[0])
    assert_close(
        model.posterior(clip.flatten(0, 1)).parameters, t["out/video_moments"].transpose(1, 2).flatten(0, 1)
    )
    assert_close(model.reconstruct(t["in/z"]), t["out/decoded"])
    assert_close(model.reconstruct(0.2 * t["in/z"] / scale), t["out/decoded_scaled"])
    video = model.reconstruct(t["in/z_video"].transpose(1, 2).flatten(0, 1))
    assert_close(video, t["out/video_decoded"].transpose(1, 2).flatten(0, 1))
    assert table.reverse(model.state_dict()).keys() == part.meta["keys"].keys()


@pytest.fixture(scope="module")
def audio():
    part = component("08_audioldm")
    meta = part.meta
    frames = int(meta["time_seconds"] * 102.4)
    config = parts.audio_autoencoder_config(
        meta["config"],
        meta["vocoder_config"],
        meta["stft"],
        meta["audio_scale_factor"],
        num_samples=frames * meta["stft"]["hop_length"],
    )
    model = released.ReleasedAudioAutoencoder(**config)
    return part, load(model.eval(), parts.audio_autoencoder_table(model), part.weights())


@torch.no_grad()
def test_audio_autoencoder(audio):
    part, model = audio
    t = part.tensors
    assert_close(model.log_mel.bank.T, t["tap/mel_basis"])
    check_fit(model, t["in/waveform"], t["tap/normalised_waveform"])
    mel = model.log_mel(model.fit(t["in/waveform"]))
    assert_close(mel[:, None], t["out/log_mel"])
    assert_close(model.posterior(mel).parameters, t["out/moments"])
    assert_close(
        model.encode(t["in/waveform"]), part.meta["audio_scale_factor"] * t["out/moments"].chunk(2, dim=1)[0]
    )
    assert_close(model.reconstruct(t["in/z"])[:, None], t["out/mel_decoded"])
    assert_close(model.vocode(t["in/mel_for_vocoder"][:, 0])[:, None], t["out/waveform"])


def check_fit(model, waveform, normalised):
    """A sound shorter than the model's length is padded with silence, a longer one is cut; its level is of
    all of it.
    """
    fitted = model.fit(waveform)
    length = min(fitted.shape[1], normalised.shape[1])
    assert fitted.shape[1] == model.config.num_samples and not fitted[:, length:].any()
    assert_close(fitted[:, :length], normalised[:, :length], TAP)


@pytest.mark.parametrize("times", [1, 2, 3])
@torch.no_grad()
def test_sounds_of_other_lengths_are_compared_too(audio, times):
    """Packs differ in length: one sound after itself has the same mean and peak."""
    part, model = audio
    waveform, normalised = part.tensors["in/waveform"], part.tensors["tap/normalised_waveform"]
    check_fit(model, waveform.repeat(1, times), normalised.repeat(1, times))
    with pytest.raises(AssertionError):
        check_fit(model, waveform.repeat(1, times), 1.01 * normalised.repeat(1, times))


@torch.no_grad()
def test_runaway_latents_are_clipped(audio):
    _, model = audio
    latent = torch.zeros(1, model.vae.config.latent_channels, 2, model.latent_shape[2])
    latent[0, 0] = 500.0
    clipped = model.scaling.denormalise(latent.clamp(-10, 10))
    assert torch.equal(model.decode_mel(latent), model.reconstruct(clipped))
    latent[0, 0] = 99.0
    assert torch.equal(model.decode_mel(latent), model.reconstruct(model.scaling.denormalise(latent)))


@pytest.fixture(scope="module")
def text():
    part = component("09_optimus")
    model = released.ReleasedTextAutoencoder(
        **parts.text_autoencoder_config(
            part.meta["config"], part.meta["text_scale_factor"], decoding="greedy"
        )
    )
    return part, load(model.eval(), parts.text_autoencoder_table(model), part.weights())


@torch.no_grad()
def test_text_autoencoder(text):
    part, model = text
    t = part.tensors
    bert = model.encoder(input_ids=t["in/bert_ids"], attention_mask=(t["in/bert_ids"] > 0).long())
    assert_close(bert.last_hidden_state, t["out/bert_hidden"])
    assert_close(bert.pooler_output, t["out/pooled"])
    mean, log_variance = model.posterior_of_ids(t["in/bert_ids"])
    assert_close(mean, t["out/mu"])
    assert_close(log_variance, t["out/logvar"])
    assert_close(model.scaling.normalise(mean), t["out/latent"])  # times the released factor
    assert_close(model.memory(t["in/z"]), t["tap/latent_memory"])
    assert_close(model.latent_embedding(t["in/z"]), t["tap/latent_emb"])
    assert_close(model.logits(t["in/z"], t["in/gpt_ids"]), t["out/logits"])
    prefixes = [name for name in t if name.startswith("out/logits_prefix")]
    assert prefixes
    for name in prefixes:
        rows, length, _ = t[name].shape
        assert_close(model.logits(t["in/z"][:rows], t["in/gpt_ids"][:rows, :length]), t[name])


def test_text_decoding_is_exact(text):
    part, model = text
    greedy = part.meta["greedy_sequences"]
    model.register_to_config(max_length=greedy["max_length"])
    assert model.generate(part.tensors["in/z"], greedy["bos"], greedy["eos"]) == greedy["ids"]
    other = greedy["other_eos"]
    assert model.generate(part.tensors["in/z"], greedy["bos"], other["eos"]) == other["ids"]


def test_drawn_text_depends_on_its_latent_alone(text):
    part, model = text
    model.register_to_config(decoding="multinomial")
    z, ends = (
        part.tensors["in/z"],
        (part.meta["greedy_sequences"]["bos"], part.meta["greedy_sequences"]["eos"]),
    )
    rows = model.generate(z, *ends)
    assert rows == [model.generate(row[None], *ends)[0] for row in z] and len(
        {tuple(row) for row in rows}
    ) == len(rows)
    model.register_to_config(decoding="greedy")


def test_sentences_are_exact():
    meta = component("09_optimus").meta
    for case in meta["post_processing_cases"]:
        assert drop_repetitions(case["text"]) == case["out"], case
    for case in meta["detokenizer_cases"]:
        assert strip_ends(case["raw"]) == case["after_strip_first_last"], case
    assert (
        tidy_spaces(" <BOS> a picture of a cat , that 's fine . <EOS>")
        == " <BOS> a picture of a cat, that's fine. <EOS>"
    )
    assert tidy_spaces("they do not !") == "they don't!"


WORDS = os.environ.get("CODI_TOKENIZERS")


@pytest.mark.skipif(not WORDS, reason="CODI_TOKENIZERS names no folder with bert/ and gpt2/tokenizer.json")
def test_released_vocabularies_are_exact():
    meta, of = (
        component("09_optimus").meta,
        lambda name: (Path(WORDS) / name / "tokenizer.json").read_text(encoding="utf-8"),
    )
    bert, gpt2 = bert_tokenizer(of("bert")), gpt2_tokenizer(of("gpt2"))
    for case in meta["tokenizer_cases"]:
        assert bert(case["text"].lower()).input_ids == case["bert_ids"], case
    for case in meta["detokenizer_cases"]:
        assert tidy_spaces(join_pieces(gpt2, case["ids"])) == case["raw"], case


def test_pieces_of_one_character_are_joined_before_they_are_read():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*alphabet, "<|endoftext|>"])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    gpt2 = gpt2_tokenizer(tokenizer.to_str())
    ids = gpt2(" naïve café").input_ids
    assert len(ids) == len(" naïve café".encode())
    assert join_pieces(gpt2, [gpt2.bos_token_id, *ids, gpt2.eos_token_id]) == " <BOS> naïve café <EOS>"
    assert (
        join_pieces(gpt2, [*ids[:2], gpt2.unk_token_id, gpt2.pad_token_id, *ids[:2]])
        == " n<|endoftext|> <PAD> n"
    )


def test_missing_vocabulary_is_said():
    with pytest.raises(InputError, match="--tokenizers"):
        needed(None, "gpt2")


@pytest.fixture(scope="module")
def clip():
    part = component("10_clip")
    words, sight = (
        parts.text_tower_config(part.meta["config"]),
        parts.vision_tower_config(part.meta["config"]),
    )
    text, vision = released.ReleasedTextTower(**words).eval(), released.ReleasedVisionTower(**sight).eval()
    weights = part.weights()
    return (
        part,
        load(text, parts.text_tower_table(text), weights),
        load(vision, parts.vision_tower_table(vision), weights),
    )


@torch.no_grad()
def test_clip_text(clip):
    part, text, _ = clip
    assert_close(
        text.bridge(text.features_of_ids(part.tensors["in/text_ids"]))[:, None],
        part.tensors["out/text_embed"],
    )


@torch.no_grad()
def test_clip_pixels_are_exact(clip):
    part, _, vision = clip
    t = part.tensors
    assert torch.equal(vision.whole_pixels(t["in/image"]), t["tap/image_after_truncation"].to(torch.uint8))
    assert_close(vision.pixel_values(t["in/image"]), t["tap/pixel_values_image"], 1e-6)
    assert_close(
        vision.pixel_values(unit(t["in/video_uint8"]).transpose(1, 2)), t["tap/pixel_values_video"], 1e-6
    )
    pixels = full_size(vision, part.meta).pixel_values(unit(t["in/square_uint8"]))
    kept = t["tap/pixels_224_stride4"]
    stride = pixels.shape[-1] // kept.shape[-1]
    assert_close(pixels[..., ::stride, ::stride], kept, 1e-6)


def full_size(vision, meta):
    """A tower that sees as many pixels as the released one; what is behind them is of no interest."""
    config = dict(vision.config.vision_config) | dict(image_size=meta["preprocessing"]["full_size"])
    with torch.device("meta"):
        return released.ReleasedVisionTower(vision_config=config)


@torch.no_grad()
def test_clip_vision(clip):
    part, _, vision = clip
    t = part.tensors
    assert_close(vision.embed(t["in/image"])[:, None], t["out/image_embed"])
    video = unit(t["in/video_uint8"]).transpose(1, 2)
    assert_close(vision.embed(video)[:, None], t["out/video_embed"])
    assert_close(vision.embed(video[:, :1])[:, None], t["out/one_frame_video_embed"])
    size = vision.image_size
    assert_close(vision.embed(torch.zeros(1, 3, size, size))[:, None], t["out/uncond_image_embed"])
    still = torch.zeros(1, video.shape[1], 3, size, size)
    assert_close(vision.embed(still)[:, None], t["out/uncond_video_embed"], STATIC)


def test_fit_is_a_square_of_the_middle():
    from PIL import Image

    assert fit(Image.new("RGB", (300, 100)), 24).size == (24, 24)


def unit(pixels):
    return pixels.float() / 255 * 2 - 1


@torch.no_grad()
def test_clap():
    part = component("11_clap")
    t = part.tensors
    model = released.ReleasedAudioTower(**parts.audio_tower_config(part.meta["config"])).eval()
    load(model, parts.audio_tower_table(model), part.weights())
    wave = t["in/waveform"][:, 0]
    start, levels = t["tap/waveform_48k_first2000"], t["tap/log_mel_db"]
    assert_close(model.fit(wave)[: len(start), : start.shape[1]], start)
    assert_close(model.decibels(model.fit(wave))[: len(levels), None], levels, TAP)
    assert_close(model.embed(wave)[:, None], t["out/embed"])
    assert_close(model.embed(torch.zeros(1, wave.shape[1]))[:, None], t["out/uncond_embed"])
