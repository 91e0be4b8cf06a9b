"""A CLIPModel and a ClapModel of transformers, tiny and with random weights, as folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from codi.vocabulary import word_tokenizer

WORDS = "a red blue ball cube bounces slowly at night sea".split()
TEXT = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)


def tokenizer() -> PreTrainedTokenizerFast:
    frame = dict(pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(word_tokenizer(WORDS)), **frame)


def clip(folder: Path) -> Path:
    """Saves a CLIPModel of 32 pixels and 16 tokens."""
    torch.manual_seed(0)
    words = tokenizer()
    text = dict(TEXT, vocab_size=len(words), max_position_embeddings=16, bos_token_id=2, eos_token_id=3)
    vision = dict(TEXT, image_size=32, patch_size=8)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    sizes = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def clap(folder: Path) -> Path:
    """Saves a ClapModel of one second at 16 kHz."""
    torch.manual_seed(0)
    words = tokenizer()
    text = dict(TEXT, vocab_size=len(words), max_position_embeddings=18, pad_token_id=0)
    audio = dict(
        num_mel_bins=16,
        spec_size=64,
        patch_size=4,
        patch_stride=[4, 4],
        window_size=4,
        patch_embeds_hidden_size=8,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        hidden_size=16,
        enable_fusion=False,
        num_classes=1,
    )
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12)).save_pretrained(folder)
    rate = dict(sampling_rate=16000, max_length_s=1, hop_length=160, fft_window_size=512, frequency_max=8000)
    ClapFeatureExtractor(feature_size=16, truncation="rand_trunc", **rate).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
