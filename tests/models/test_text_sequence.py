"""Latents of sentences that are sequences: the autoencoder that makes them, the denoiser and the encoders
that read them, and the file in which a part keeps its pieces of words.
"""

import json

import pytest
import torch

from codi import pretrained
from codi.joint.encoders import EnvironmentEncoders
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.models.autoencoders import TextSequenceAutoencoder
from codi.models.conditioning import TextTower
from codi.models.denoisers import TextSequenceDenoiser, TextSequenceExperts
from codi.models.denoisers.experts import join, split
from codi.models.lora import ATTENTION, find_layers
from codi.models.words import add_words, known_vectors, remove_words
from codi.protocols import Environment, Weakening
from codi.types import InputError, Modality
from codi.vocabulary import piece_tokenizer, word_tokenizer
from tests.models.shared import assert_near, drawn
from tests.tiny_pipeline import TRANSFORMER, scheduler

CAPTIONS = ["a red ball", "It's Bob’s café 😀", "日本 und Zürich", "two  spaces, and an end "]
LATENT = (4, 5)  # channels, positions
MODULES = "codi.models.autoencoders.text_sequence"


def autoencoder(tokenizer: str | None = None, **changed) -> TextSequenceAutoencoder:
    torch.manual_seed(0)
    encoder = dict(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    decoder = dict(n_embd=32, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    shape = dict(latent_dim=LATENT[0], latent_length=LATENT[1], max_length=40)
    part = TextSequenceAutoencoder(
        encoder, decoder, tokenizer=tokenizer or piece_tokenizer(CAPTIONS, 300), **shape | changed
    ).eval()
    part.scaling.measure(drawn(64, *part.latent_shape))
    return part


def denoiser(**changed) -> TextSequenceDenoiser:
    torch.manual_seed(0)
    shape = dict(in_channels=4, length=5, width=16, context_dim=8, norm_num_groups=4, prompt_embedding=True)
    joint = dict(env_dim=8, joint_levels=(0, 1), joint_heads=2)
    part = TextSequenceDenoiser(**shape | joint | changed).eval()
    for parameter in part.parameters():  # as if it were trained
        if not parameter.abs().max():
            torch.nn.init.normal_(parameter, std=0.1)
    return part


# The autoencoder -------------------------------------------------------


@torch.no_grad()
def test_a_sentence_does_not_depend_on_those_beside_it():
    text = autoencoder()
    latents = text.encode(CAPTIONS)
    assert latents.shape == (4, *text.latent_shape) == (4, *LATENT) and text.span == 8
    assert_near(latents, torch.cat([text.encode([caption]) for caption in CAPTIONS]))
    assert text.decode(latents) == [text.decode(latent[None])[0] for latent in latents]


@torch.no_grad()
def test_what_is_written_is_the_likeliest_token_at_each_step():
    text = autoencoder()
    latents = drawn(3, *LATENT)
    raw = text.scaling.denormalise(latents)
    ids = torch.full((3, 1), text.tokenizer.bos_token_id)
    for _ in range(text.config.max_length - 1):
        ids = torch.cat([ids, text.logits(raw, ids)[:, -1:].argmax(-1)], dim=1)
    assert text.decode(latents) == [text._sentence(row) for row in ids.tolist()]


def test_a_token_sees_those_before_it_and_every_position_of_the_latent():
    text = autoencoder()
    latent, ids = drawn(1, *LATENT).requires_grad_(), torch.tensor([[2, 5, 6, 7]])
    other = ids.clone()
    other[0, 2] = 9
    here, there = text.logits(latent, ids), text.logits(latent, other)
    assert torch.equal(here[:, :2], there[:, :2]) and not torch.allclose(here[:, 2:], there[:, 2:], atol=1e-4)
    (gradient,) = torch.autograd.grad(here[0, 0].square().sum(), latent)
    assert gradient.abs().sum(1).all()


def test_sentences_that_were_learned_come_back_exactly():
    text = autoencoder().train()
    optimizer = torch.optim.AdamW(text.parameters(), lr=1e-2)
    for _ in range(50):
        latent, _ = text.posterior(CAPTIONS)
        loss = text.token_loss(latent, CAPTIONS).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert text.eval().decode(text.encode(CAPTIONS)) == CAPTIONS


def test_whole_words_may_have_sequences_as_well():
    text = autoencoder(word_tokenizer(["a", "red", "ball"]))
    assert text.encode(["A red ball"]).shape == (1, *LATENT) and not text.reads_pieces


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (dict(latent_length=40), "latent_length is 40: expected 1 to 39, the tokens of a sentence"),
        (dict(latent_length=0), "latent_length is 0"),
    ],
)
def test_lengths_that_cannot_be_are_named(changed, expected):
    with pytest.raises(InputError, match=expected):
        autoencoder(**changed)


@pytest.mark.parametrize(
    ("encoder", "decoder", "expected"),
    [
        (dict(max_position_embeddings=16), {}, "max_position_embeddings is 16: expected 40 or more"),
        ({}, dict(n_positions=40), "n_positions is 40: expected 41 or more"),
        (dict(hidden_size=32), dict(n_embd=64), "n_embd is 64: expected 32, the hidden_size"),
    ],
)
def test_transformers_that_do_not_fit_are_named(encoder, decoder, expected):
    with pytest.raises(InputError, match=expected):
        TextSequenceAutoencoder(encoder, decoder, 4, 5, word_tokenizer(["a"]), max_length=40)


# The file of pieces ----------------------------------------------------


def tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(dict(TRANSFORMER, max_position_embeddings=16), piece_tokenizer(CAPTIONS, 300)).eval()


@pytest.mark.parametrize(
    ("make", "module"), [(autoencoder, MODULES), (tower, "codi.models.conditioning")], ids=["text", "tower"]
)
@torch.no_grad()
def test_a_part_keeps_its_pieces_in_a_file_beside_its_configuration(tmp_path, make, module):
    from transformers import PreTrainedTokenizerFast

    part = make()
    part.save_pretrained(tmp_path / "part")
    assert json.loads((tmp_path / "part" / "config.json").read_text())["tokenizer"] == "tokenizer.json"
    again = pretrained.load_part(tmp_path / "part", module, type(part).__name__, torch.float32)
    run = (lambda p: p.embed(CAPTIONS)) if make is tower else (lambda p: p.encode(CAPTIONS))
    assert torch.equal(run(part), run(again)) and again.config.tokenizer == part.config.tokenizer
    # any other library reads it, too
    other = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "part" / "tokenizer.json"))
    assert other(CAPTIONS).input_ids == part.tokenizer(CAPTIONS).input_ids


def without(path):
    path.unlink()


def damaged(path):
    path.write_text(path.read_text()[:100])


def of_others(path):
    path.write_text(piece_tokenizer(CAPTIONS, 280))


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (without, "lacks tokenizer.json, which holds the pieces of words"),
        (damaged, "tokenizer.json holds no tokenizer of pieces"),
        (of_others, "has 280 pieces: expected those of the weights beside it, which are made for 300"),
    ],
)
def test_a_file_of_pieces_that_does_not_fit_is_one_line(tmp_path, harm, expected):
    tower().save_pretrained(tmp_path / "part")
    harm(tmp_path / "part" / "tokenizer.json")
    with pytest.raises(InputError, match=expected) as error:
        pretrained.load_part(tmp_path / "part", "codi.models.conditioning", "TextTower", torch.float32)
    assert "\n" not in str(error.value)


def test_a_tower_of_pieces_reads_any_word_and_says_what_is_too_long():
    reading = tower().read("Zürich 😀 xyzzy")
    assert (reading.num_words, reading.num_known, reading.unread) == (3, 3, ())
    assert tower().read("a red ball " * 20).unread[0].startswith("ball a red")


@torch.no_grad()
def test_a_tower_of_pieces_learns_new_words():
    text = tower()
    before = text.embed(CAPTIONS)
    assert known_vectors(text, "ball").shape == (1, text.text.config.hidden_size)
    add_words(text, {"<orb>": drawn(1, text.text.config.hidden_size)})
    learned = text.embed(["a <orb> ball"])
    assert_near(text.embed(["a <ORB> ball"]), learned)
    assert not torch.allclose(text.embed(["a red ball"]), learned, atol=1e-3)
    assert_near(text.embed(CAPTIONS), before)
    remove_words(text)
    assert torch.equal(text.embed(CAPTIONS), before)


# The denoiser ----------------------------------------------------------


@torch.no_grad()
def test_a_denoiser_of_sequences_keeps_the_contract():
    model, x, t = denoiser(), drawn(2, *LATENT), torch.tensor([3, 700])
    prompt = drawn(4, 1, 8, seed=1)
    whole = model(x, t, prompt)
    assert whole.shape == (4, *LATENT)
    assert_near(whole[2:], model(x, t, prompt[2:]))
    assert torch.equal(whole, model(x, t, model.precompute(prompt, x)))
    assert model.num_transformers == 6 and len(model.joint_adapters()) == 6
    assert not torch.allclose(
        model(x, t, prompt[:2], weakening=Weakening(perturbs_attention=True)), whole[:2], atol=1e-4
    )
    assert set(ATTENTION) & {name.rpartition(".")[2] for name in find_layers(model, ATTENTION, joint=False)}
    assert find_layers(model, ATTENTION, joint=True)


@torch.no_grad()
def test_only_samples_that_attend_hear_their_partners():
    model, x, t, prompt = denoiser(), drawn(2, *LATENT), torch.tensor([3, 700]), drawn(2, 1, 8, seed=1)
    env = Environment(tokens=drawn(1, 6, 8), times=torch.full((1, 6), torch.nan))
    alone, heard = model(x, t, prompt), model(x, t, prompt, env)
    assert_near(heard[1], alone[1])
    assert not torch.allclose(heard[0], alone[0], atol=1e-4)
    fresh = TextSequenceDenoiser(**{k: v for k, v in model.config.items() if not k.startswith("_")}).eval()
    assert torch.equal(fresh(x, t, prompt, env), fresh(x, t, prompt))  # before training


def test_every_position_decides_on_every_other():
    x = drawn(1, *LATENT).requires_grad_()
    out = denoiser()(x, torch.tensor([9]), drawn(1, 1, 8))
    (gradient,) = torch.autograd.grad(out[0, :, 0].square().sum(), x)
    assert gradient[0].abs().sum(0).all()


@torch.no_grad()
def test_two_experts_on_sequences_are_a_denoiser(tmp_path):
    from codi.diffusion import NoiseProcess

    model, x, prompt = denoiser(), drawn(2, *LATENT), drawn(2, 1, 8)
    clean, noisy = split(model)
    pair = join(clean, noisy, 0.0, NoiseProcess.from_scheduler(scheduler())).eval()
    pair.save_pretrained(tmp_path / "pair")
    again = TextSequenceExperts.from_pretrained(tmp_path / "pair").eval()
    t = torch.tensor([900, 900])
    assert torch.equal(again(x, t, prompt), model(x, t, prompt))


# Encoders --------------------------------------------------------------


@torch.no_grad()
def test_encoders_tell_the_positions_of_a_sequence_apart():
    latents = {"text": dict(latent_shape=list(LATENT), latent_rate=None, tokens_per_step=1)}
    torch.manual_seed(0)
    encoders = EnvironmentEncoders(latents, dim=16, num_layers=1, num_heads=2).eval()
    x, t = drawn(2, *LATENT), torch.tensor([3, 700])
    env = encoders.by_modality()[Modality.TEXT](x, t)
    assert env.tokens.shape == (2, LATENT[1] + 1, 16) and env.times.isnan().all()
    noisy = NoisyLatentEncoders(latents, context_dim=8, dim=16, num_layers=1, num_heads=2).eval()
    encoder = noisy.by_modality()[Modality.TEXT]
    torch.nn.init.normal_(encoder.out.weight)
    estimate, turned = encoder(x, t, drawn(2, 1, 8)), encoder(x.flip(2), t, drawn(2, 1, 8))
    assert estimate.shape == (2, 8) and not torch.allclose(estimate, turned, atol=1e-4)
