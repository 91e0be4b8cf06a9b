"""Text parts made from captions in pieces of words, with latents that are sequences: autoencoder, the same
with noise, denoiser and noisy-latent encoder, at the smallest size.
"""

import json
from pathlib import Path

import pytest
import torch

from codi.models.autoencoders import TextSequenceAutoencoder
from codi.models.conditioning import TextTower
from codi.models.denoisers import TextSequenceDenoiser
from codi.types import InputError
from codi.vocabulary import load_tokenizer, piece_tokenizer
from tests.tiny_pipeline import DIM, TRANSFORMER
from training.config import Config
from training.plan import HardwareSpec, plan
from training.stages import open_stage
from training.stages.common import load_part
from training.stages.tokenizers import TokenizerOptions, tokenizer_of

CAPTIONS = ["It's Bob’s café 😀", "ein rotes Haus", "two red houses", "日本 und Zürich"]
PART = {
    "latent_dim": 4,
    "latent_length": 5,
    "max_length": 40,
    "encoder_config": dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
    "decoder_config": dict(n_embd=32, n_layer=1, n_head=2),
}
PIECES = {"kind": "bpe", "size": 300}
DENOISER = {
    "in_channels": 4,
    "length": 5,
    "width": 16,
    "num_levels": 1,
    "context_dim": DIM,
    "norm_num_groups": 4,
}


def run(place: Path, stage: str, part=None, **options) -> Config:
    return Config(
        stage=stage,
        model=place / "model",
        output=place / stage,
        samples=4,
        batch_size=4,
        lr=1e-3,
        part=part or {},
        options=options,
        data={"manifests": [str(place / "captions.jsonl")]},
    )


def train(config: Config):
    """One step of a stage, and its export."""
    stage = open_stage(config)
    module = stage.build()
    stage.to(torch.device("cpu"))
    source = stage.data()
    loss, _ = stage.loss(module, source.fetch([0, 1, 2, 3]), torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None and p.grad.any() for p in module.parameters())
    stage.export(module, config.model)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder with a text tower of pieces, and a manifest of captions alone."""
    folder = tmp_path_factory.mktemp("pieces")
    rows = "".join(json.dumps({"caption": caption}) + "\n" for caption in CAPTIONS)
    (folder / "captions.jsonl").write_text(rows, encoding="utf-8")
    tower = TextTower(dict(TRANSFORMER, max_position_embeddings=40), piece_tokenizer(CAPTIONS, 300))
    tower.save_pretrained(folder / "model" / "text_tower")
    train(run(folder, "autoencoder_text", PART, tokenizer=PIECES, statistics_samples=4))
    return folder


def test_the_autoencoder_has_pieces_and_sequences(place):
    text = load_part(component("autoencoder"), place / "model" / "text_autoencoder", "")
    assert isinstance(text, TextSequenceAutoencoder) and text.latent_shape == (4, 5)
    assert (place / "model" / "text_autoencoder" / "tokenizer.json").is_file()
    for caption in (*CAPTIONS, "  Ünseen <eos> \n"):
        ids = text.tokenizer(caption, add_special_tokens=False).input_ids
        assert text.tokenizer.decode(ids) == caption


def component(name: str) -> type:
    from codi.modalities import component_class

    return component_class(f"text_{name}")


def test_it_goes_on_under_noise_and_keeps_its_pieces(place):
    before = (place / "model" / "text_autoencoder" / "tokenizer.json").read_bytes()
    noised = dict(continue_from=True, latent_noise=0.6, least_noise=0.0, statistics_samples=4)
    train(run(place, "autoencoder_text", **noised))
    assert (place / "model" / "text_autoencoder" / "tokenizer.json").read_bytes() == before


def test_denoiser_and_encoders_read_sequences(place):
    shares = dict(prompts={"text": 1.0}, preview_captions=["a red house"])
    module = train(run(place, "denoise", DENOISER, modality="text", **shares))
    assert isinstance(module, TextSequenceDenoiser)
    again = load_part(component("denoiser"), place / "model" / "text_denoiser", "")
    assert isinstance(again, TextSequenceDenoiser) and again.config.length == 5
    latents = {"text": dict(latent_shape=[4, 5], latent_rate=None, tokens_per_step=1)}
    encoders = dict(latents=latents, context_dim=DIM, dim=16, num_layers=1, num_heads=2)
    train(run(place, "noisy_latent", encoders, prompts={"text": 1.0}))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"length": 6}, "length is 6: expected 5, the positions of the autoencoder's latents"),
        ({"in_channels": 5}, "in_channels is 5: expected 4, the channels"),
    ],
)
def test_a_denoiser_of_another_geometry_is_named(place, changed, expected):
    config = run(place, "denoise", DENOISER | changed, modality="text", prompts={"text": 1.0})
    with pytest.raises(InputError, match=expected):
        open_stage(config).build()


def test_the_same_captions_give_the_same_tokenizer(place):
    config = run(place, "autoencoder_text", PART)
    options = TokenizerOptions(kind="bpe", size=300)
    first = tokenizer_of(config, options)
    (place / "captions.jsonl").write_text(
        "".join(json.dumps({"caption": caption}) + "\n" for caption in reversed(CAPTIONS)), encoding="utf-8"
    )
    assert tokenizer_of(config, options) == first and len(load_tokenizer(first)) == 300
    words = load_tokenizer(tokenizer_of(config, TokenizerOptions(size=3)))
    assert len(words) == 7 and "red" not in words.get_vocab()


def test_a_plan_reads_no_captions(place):
    config = run(place, "autoencoder_text", PART, tokenizer={"kind": "bpe", "size": 5000})
    said = plan(config, place, HardwareSpec())
    assert "GFLOP forward" in said and not (place / "autoencoder_text" / "bad.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(tokenizer={"kind": "bpe", "size": 100}), "tokenizer: size is 100: expected 260 or more"),
        (dict(tokenizer={"kind": "unigram"}), "tokenizer: kind is 'unigram': expected one of words, bpe"),
        (dict(tokenizer=PIECES, continue_from=True), "this run makes no text part anew"),
    ],
)
def test_options_that_cannot_be_are_named(place, options, expected):
    with pytest.raises(InputError, match=expected):
        open_stage(run(place, "autoencoder_text", PART, **options))


def test_pieces_of_the_world_are_refused(place):
    import dataclasses

    config = dataclasses.replace(run(place, "autoencoder_text", PART, tokenizer=PIECES), data={})
    with pytest.raises(InputError, match="pieces are learned from the captions in a section `data`"):
        open_stage(config)
