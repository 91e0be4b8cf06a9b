"""The released autoencoders: Stable Diffusion's KL-f8, AudioLDM's mel VAE with its vocoder, Optimus.

They are our own parts with the released geometry; what is here is what the released code does around them.
Letters: B batch, S samples, T mel frames, M mel bands, C channels, t m latent positions, L tokens, Z latent
width.
"""

import zlib
from functools import partial
from itertools import groupby
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from codi.models.autoencoders.audio import AudioAutoencoder
from codi.models.autoencoders.image import ImageAutoencoder
from codi.models.autoencoders.scaling import LatentScaling
from codi.models.autoencoders.text import TextAutoencoder
from codi.models.released.sentences import drop_repetitions, strip_ends, tidy_spaces
from codi.types import InputError

ReleasedImageAutoencoder = ImageAutoencoder  # KL-f8 is ours with patch_size 1 and one factor


class ReleasedAudioAutoencoder(AudioAutoencoder):
    """AudioLDM's mel VAE and HiFi-GAN as released.

    Each waveform is centred and brought to half of full scale first, a runaway latent is clipped, and the
    vocoder's first stages each give one sample more than the rates say. Arguments are those of
    `AudioAutoencoder`.
    """

    def fit(self, waveform: Tensor) -> Tensor:
        """Bring waveforms (B, any) to (B, num_samples), mean zero and peak one half.

        What is too long is cut; what is too short is padded with silence.
        """
        centred = waveform - waveform.mean(dim=-1, keepdim=True)
        scaled = 0.5 * centred / (centred.abs().amax(dim=-1, keepdim=True) + 1e-8)
        return functional.pad(scaled, (0, self.config.num_samples - scaled.shape[-1]))

    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode sounds into normalised latents.

        Args:
            raw: waveforms (B, S) of any length.
            generator: draws from the posterior; None takes its mean.

        Returns:
            The latents (B, C, t, m).
        """
        return super().encode(self.fit(raw), generator)

    def decode_mel(self, latent: Tensor) -> Tensor:
        """Decode normalised latents (B, C, t, m) into a log-mel (B, T, M).

        A batch in which any value is beyond 100 is clipped to +-10.
        """
        return super().decode_mel(latent.clamp(-10, 10) if latent.abs().max() > 100 else latent)


class ReleasedTextAutoencoder(TextAutoencoder):
    """Optimus as released.

    Sentences are put into lower case for a cased vocabulary; of what is written, one word is dropped at
    either end, and repetitions are removed.

    Args:
        encoder_config: arguments of BertConfig.
        decoder_config: arguments of GPT2Config.
        latent_dim: Z, the width of the latent.
        tokenizer: a `tokenizers` JSON string of bert-base-cased; the checkpoint has none. None: sentences
            cannot be encoded.
        decoder_tokenizer: the same of gpt2. None: sentences cannot be written.
        max_length: most tokens that decoding produces, <BOS> and <EOS> included.
        embed_latent: without effect; the released decoder always adds the latent to the embeddings.
        scaling_factor: the one released factor; None: per-channel statistics, measured in training.
        decoding: "multinomial" as released, at temperature 1, each sentence from a random stream seeded by
            its latent (so that a latent always gives the same sentence); "greedy" takes the likeliest token.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: dict[str, Any],
        decoder_config: dict[str, Any],
        latent_dim: int,
        tokenizer: str | None = None,
        decoder_tokenizer: str | None = None,
        max_length: int = 30,
        embed_latent: bool = True,
        scaling_factor: float | None = 4.3108,
        decoding: str = "multinomial",
    ):
        ModelMixin.__init__(self)
        self.tokenizer = bert_tokenizer(tokenizer)
        self.decoder_tokenizer = gpt2_tokenizer(decoder_tokenizer)
        self.encoder = BertModel(BertConfig(**encoder_config))
        self.posterior_head = nn.Linear(self.encoder.config.hidden_size, 2 * latent_dim, bias=False)
        self.decoder = GPT2LMHeadModel(GPT2Config(**decoder_config))
        shape = self.decoder.config
        self.memory = nn.Linear(latent_dim, shape.n_layer * shape.n_embd, bias=False)
        self.latent_embedding = nn.Linear(latent_dim, shape.n_embd, bias=False)
        self.scaling = LatentScaling(latent_dim, scaling_factor)

    def posterior(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of unnormalised latents, (B, Z) each."""
        longest = min(512, self.encoder.config.max_position_embeddings)
        tokens = needed(self.tokenizer, "bert-base-cased")(
            [sentence.lower() for sentence in sentences],
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        return self.posterior_of_ids(tokens.input_ids.to(self.device))

    def posterior_of_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `posterior` for token ids (B, L), which are 0 where padded."""
        pooled = self.encoder(input_ids=ids, attention_mask=(ids > 0).long()).pooler_output
        mean, log_variance = self.posterior_head(pooled).chunk(2, dim=-1)
        return mean, log_variance

    def check_vocabulary(self) -> None:
        """Raise `InputError` if sentences cannot be written."""
        needed(self.decoder_tokenizer, "gpt2")

    @apply_forward_hook
    @torch.no_grad()
    def decode(self, latent: Tensor) -> list[str]:
        """Write the sentences of normalised latents (B, Z)."""
        tokenizer = needed(self.decoder_tokenizer, "gpt2")
        rows = self.generate(self.scaling.denormalise(latent), tokenizer.bos_token_id, tokenizer.eos_token_id)
        sentences = []
        for row in rows:
            text = tidy_spaces(join_pieces(tokenizer, row))
            sentences.append(drop_repetitions(strip_ends(text)))
        return sentences

    @torch.no_grad()
    def generate(self, latent: Tensor, bos: int, eos: int) -> list[list[int]]:
        """Write the token ids of sentences.

        Args:
            latent: unnormalised latents (B, Z).
            bos: id of <BOS>.
            eos: id of <EOS>.

        Returns:
            The ids of each sentence, <BOS> and <EOS> included; at `max_length` the last becomes <EOS>.
        """
        cache = self._memory_cache(latent)
        streams = [stream(row) for row in latent]
        ids = torch.full((len(latent), 1), bos, device=latent.device)
        while ids.shape[1] < self.config.max_length and not (ids[:, 1:] == eos).any(1).all():
            logits = self._step(latent, ids[:, -1:], cache, position=ids.shape[1]).logits[:, -1]
            ids = torch.cat([ids, self.choose(logits, streams)[:, None]], dim=1)
        rows = ids.tolist()
        if ids.shape[1] == self.config.max_length:
            rows = [[*row[:-1], eos] for row in rows]
        return [row[: row.index(eos, 1) + 1] for row in rows]

    def choose(self, logits: Tensor, streams: list[torch.Generator]) -> Tensor:
        """Choose the next token (B,) of every row by its logits (B, vocabulary), as `decoding` says."""
        if self.config.decoding == "greedy":
            return logits.argmax(-1)
        drawn = []
        for row, generator in zip(logits.float().softmax(-1).cpu(), streams, strict=True):
            drawn.append(torch.multinomial(row, 1, generator=generator))
        return torch.cat(drawn).to(logits.device)


def stream(latent: Tensor) -> torch.Generator:
    """Return a random stream that depends on one latent (Z,) only."""
    return torch.Generator().manual_seed(zlib.crc32(latent.detach().float().cpu().numpy().tobytes()))


def bert_tokenizer(serialised: str | None) -> PreTrainedTokenizerFast | None:
    """Return the tokenizer bert-base-cased from its `tokenizers` JSON; None gives None."""
    names = dict(
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    return from_json(serialised, **names)


def gpt2_tokenizer(serialised: str | None) -> PreTrainedTokenizerFast | None:
    """Return the tokenizer gpt2 from its `tokenizers` JSON; None gives None.

    The three tokens that Optimus adds stand at the end of the vocabulary.
    """
    tokenizer = from_json(serialised, unk_token="<|endoftext|>")
    if tokenizer is not None:
        # One by one, because their order decides their ids.
        for name in ("pad", "bos", "eos"):
            tokenizer.add_special_tokens({f"{name}_token": f"<{name.upper()}>"})
    return tokenizer


def join_pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Return the text of token ids.

    Pieces between added tokens are read together, because one character may be several of them.
    """
    added = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    read = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    text = ""
    for alone, group in groupby(ids, key=lambda i: i in added):
        if alone:
            text += "".join(f" {read([i])}" for i in group)
        else:
            text += read(list(group))
    return text


def from_json(serialised: str | None, **names: str) -> PreTrainedTokenizerFast | None:
    """Return a tokenizer with these special tokens from its `tokenizers` JSON; None gives None."""
    from tokenizers import Tokenizer

    if serialised is None:
        return None
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(serialised), **names)


def needed(tokenizer: PreTrainedTokenizerFast | None, name: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer, or raise an `InputError` that says what to do where the conversion had none."""
    if tokenizer is None:
        raise InputError(
            f"this model was converted without the vocabulary of {name}: convert again with --tokenizers "
            "FOLDER"
        )
    return tokenizer
