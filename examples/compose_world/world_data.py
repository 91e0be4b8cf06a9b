"""Data of the world for the latent diffusion models of this example: media, captions, words and log-mels.

Only `codi.world` is used here: it renders scenes and writes captions. Nothing in this folder knows the models
of `codi`. Pairs of shape and colour that the world holds out are never shown in training.

Letters: B samples, F frames, S pixels a side, T mel frames, M mel bands, L tokens.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers
import torch
from torch import Tensor
from torch.nn import functional as nnf
from transformers import PreTrainedTokenizerFast
from transformers.audio_utils import mel_filter_bank

from codi.world import ATTRIBUTES, Scene, caption, sample_scenes
from codi.world.caption import all_words

NUM_FRAMES = 16
FPS = 8
SAMPLING_RATE = 16000
NUM_SAMPLES = 32000
MAX_TOKENS = 24  # the longest caption has 19 words and marks
# A vocoder made of convolutions answers a steady note with a wave that repeats in every mel frame, so it can
# only play multiples of the frame rate. At 32 frames per second they lie closer together than any two notes.
HOP = 500
WINDOW = 1024
NUM_MELS = 32
_MEL_FLOOR = 1e-3
_MEL_CENTRE = -4.0  # natural logarithm of a mel amplitude
_MEL_SPREAD = 3.0


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array stored at `path`, mapped into memory; make and store it first if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npy")
        np.save(unfinished, make())
        os.replace(unfinished, path)
    return np.load(path, mmap_mode="r")


def training_scenes(num: int, seed: int) -> list[Scene]:
    """Draw scenes whose pair of shape and colour may be trained on."""
    return sample_scenes(num, seed, held_out=False)


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Write a caption of all facts or of some, with random words.

    One in ten is empty, so that the model also learns what it is like without a prompt (classifier-free
    guidance).
    """
    kind = rng.random()
    if kind < 0.1:
        return ""
    named = list(ATTRIBUTES)
    if kind > 0.6:
        named = [name for name in named if rng.random() < 0.6]
    return caption(scene, named, rng)


def words_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the words that captions can hold.

    Args:
        kind: "clip" or "roberta": whose marks of beginning, end and padding to use.
    """
    specials = {"clip": ["<|endoftext|>", "<|startoftext|>"], "roberta": ["<s>", "<pad>", "</s>", "<unk>"]}[
        kind
    ]
    begin, end, pad, unknown = {
        "clip": ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
        "roberta": ("<s>", "</s>", "<pad>", "<unk>"),
    }[kind]
    further = {"of", "with", "sound", "blurry", "bad", "quality"}  # what prompts without a scene may say
    vocabulary = {word: i for i, word in enumerate([*specials, *sorted(further.union(all_words()))])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        unk_token=unknown,
        model_max_length=MAX_TOKENS,
    )


def tokens(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return the token ids and the mask of texts, two (B, L)."""
    out = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return out.input_ids, out.attention_mask


def to_unit(pictures: Tensor) -> Tensor:
    """Turn uint8 into [-1, 1], as autoencoders want it."""
    return pictures.float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> Tensor:
    """Turn [-1, 1] into uint8."""
    return (pictures.float() * 127.5 + 127.5).round().clamp(0, 255).byte()


@cache
def _filters() -> Tensor:
    bank = mel_filter_bank(
        num_frequency_bins=WINDOW // 2 + 1,
        num_mel_filters=NUM_MELS,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm=None,
        mel_scale="slaney",
    )
    return torch.from_numpy(bank).float()


def log_mel(waves: Tensor) -> Tensor:
    """Return the log-mel spectrogram of sounds (B, samples), scaled to about [-1, 2]: (B, T, M).

    Frame k has its middle at (k + 1/2) HOP samples.
    """
    edge = (WINDOW - HOP) // 2
    padded = nnf.pad(waves[:, None], (edge, edge), mode="reflect")[:, 0]
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(padded, WINDOW, HOP, WINDOW, window, center=False, return_complex=True)
    amplitude = spectrum.abs().transpose(1, 2) * (2 / window.sum())
    return (torch.log(amplitude @ _filters() + _MEL_FLOOR) - _MEL_CENTRE) / _MEL_SPREAD
