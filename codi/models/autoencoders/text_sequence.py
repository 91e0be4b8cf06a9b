"""The autoencoder of sentences whose latent is a sequence: as many vectors as a caption may need.

One vector (`codi.models.autoencoders.text`) holds the few facts of a small world, and not what a sentence of
thousands of words says, word by word. Here a latent has K vectors, each of which stands for the next few
tokens of the sentence, as a picture's latent has a vector for each patch. An encoder that reads the whole
sentence writes them; the decoder reads all of them as memory, and at every token the vector in whose span the
token lies. One table of embeddings serves for reading, writing and scoring tokens (arXiv 1608.05859): what
the latent says of one token is said of all in the same way, so that rare ones come back as well.

Letters: B batch, L tokens, Z channels of the latent, K its positions, P tokens of one position (its span), D
hidden width, N layers.
"""

import math
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2Model

from codi.models.autoencoders.scaling import LatentScaling
from codi.models.autoencoders.text import TextAutoencoder
from codi.types import InputError
from codi.vocabulary import has_pieces, load_tokenizer

# The deviation of the posterior before training. At one, where zeros would leave it, noise drowns what the
# decoder should learn to read.
FIRST_DEVIATION = 0.1


class TextSequenceAutoencoder(TextAutoencoder):
    """Turns sentences into normalised latents (B, Z, K), and back.

    The sequence of a sentence is its tokens and <eos>; the positions behind it are all alike.

    Args:
        encoder_config: arguments of BertConfig; vocabulary size and special ids come from the tokenizer.
        decoder_config: arguments of GPT2Config, likewise; its width is that of the encoder.
        latent_dim: Z, the channels of the latent.
        latent_length: K, its positions.
        tokenizer: a `tokenizers` JSON string, of whole words or of pieces of words.
        max_length: most tokens that decoding produces, the first one included; P is as many of them as K
            positions need.
        scaling_factor: one factor for all latents; None: per-channel statistics, measured in training.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: dict[str, Any],
        decoder_config: dict[str, Any],
        latent_dim: int,
        latent_length: int,
        tokenizer: str,
        max_length: int = 48,
        scaling_factor: float | None = None,
    ):
        ModelMixin.__init__(self)
        if not 1 <= latent_length < max_length:
            raise InputError(
                f"latent_length is {latent_length}: expected 1 to {max_length - 1}, the tokens of a sentence "
                f"of max_length {max_length}"
            )
        self.tokenizer = self.decoder_tokenizer = load_tokenizer(tokenizer)
        self.reads_pieces = has_pieces(tokenizer)
        self.span = -(-(max_length - 1) // latent_length)
        positions = self.num_positions
        encoder = {"max_position_embeddings": positions, **self._encoder_vocabulary(), **encoder_config}
        # position 0 of the decoder is that of its memory
        decoder = {"n_positions": positions + 1, **self._decoder_vocabulary(), **decoder_config}
        _check_widths(encoder, decoder)
        _check_positions("encoder_config: max_position_embeddings", encoder, positions)
        _check_positions("decoder_config: n_positions", decoder, positions + 1)
        self.encoder = BertModel(BertConfig(**encoder), add_pooling_layer=False)
        self.posterior_head = nn.Linear(self.span * self.encoder.config.hidden_size, 2 * latent_dim)
        nn.init.zeros_(self.posterior_head.bias)
        nn.init.constant_(self.posterior_head.bias[latent_dim:], 2 * math.log(FIRST_DEVIATION))
        self.decoder = GPT2Model(GPT2Config(**decoder))
        self.decoder.wte = nn.Identity()  # in its place stands the encoder's table
        shape = self.decoder.config
        self.memory = nn.Linear(latent_dim, shape.n_layer * shape.n_embd, bias=False)
        # attention could not tell the positions of its memory apart by their contents alone
        self.memory_positions = nn.Parameter(torch.randn(latent_length, shape.n_layer * shape.n_embd) * 0.02)
        self.latent_embedding = nn.Linear(latent_dim, self.span * shape.n_embd, bias=False)
        self.scaling = LatentScaling(latent_dim, scaling_factor)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """The shape (Z, K) of the latent of one sentence."""
        return self.config.latent_dim, self.config.latent_length

    @property
    def num_positions(self) -> int:
        """K times P, the number of tokens that all positions of a latent stand for."""
        return self.config.latent_length * self.span

    def posterior(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of unnormalised latents, (B, Z, K) each."""
        ids, mask = self._targets(sentences)
        return self.posterior_of_ids(ids[:, 1:], mask[:, 1:])  # without <bos>: token j lies in span j // P

    def posterior_of_ids(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `posterior` returns, of token ids (B, L) and their mask (B, L), 0 where nothing is."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, D)
        if mask is not None:
            hidden = hidden * mask[..., None].to(hidden)
        hidden = functional.pad(hidden, (0, 0, 0, self.num_positions - hidden.shape[1]))
        spans = hidden.unflatten(1, (self.config.latent_length, self.span)).flatten(2)  # (B, K, P*D)
        mean, log_variance = self.posterior_head(spans).transpose(1, 2).chunk(2, dim=1)
        return mean, log_variance

    def logits(self, latent: Tensor, ids: Tensor) -> Tensor:
        """Return the logits of the next tokens, given all tokens before them (teacher forcing).

        Args:
            latent: unnormalised latents (B, Z, K).
            ids: token ids (B, L).

        Returns:
            The logits (B, L, vocabulary).
        """
        return self._scores(self._step(latent, ids, self._memory_cache(latent)).last_hidden_state)

    def token_loss(self, latent: Tensor, sentences: list[str]) -> Tensor:
        """Return the mean cross-entropy per token (B,) of sentences, given unnormalised latents."""
        ids, mask = self._targets(sentences)
        hidden = self._step(latent, ids[:, :-1], self._memory_cache(latent)).last_hidden_state
        there = mask[:, 1:].bool()
        # most of a batch is padding, and scores of all pieces are the dearest part of a step
        scores = self._scores(hidden[there]).float()
        losses = torch.zeros_like(mask[:, 1:]).masked_scatter(
            there, functional.cross_entropy(scores, ids[:, 1:][there], reduction="none")
        )
        return losses.sum(1) / mask[:, 1:].sum(1)

    def _scores(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., vocabulary) of hidden states (..., D)."""
        return functional.linear(hidden, self.encoder.embeddings.word_embeddings.weight)

    def _next(self, latent: Tensor, ids: Tensor, cache: DynamicCache, position: int) -> Tensor:
        """Return the logits (B, vocabulary) of the token behind `ids`, which begin at `position`."""
        return self._scores(self._step(latent, ids, cache, position).last_hidden_state[:, -1])

    def _memory_cache(self, latent: Tensor) -> DynamicCache:
        """Return a key-value cache in which the latents (B, Z, K) are K past positions of every layer."""
        shape = self.decoder.config
        cache = DynamicCache()
        memory = self.memory(latent.transpose(1, 2)) + self.memory_positions  # (B, K, N*D)
        by_layer = memory.unflatten(2, (shape.n_layer, shape.n_head, -1)).permute(2, 0, 3, 1, 4)
        for layer, heads in enumerate(by_layer):  # (B, heads, K, D/heads)
            cache.update(heads, heads, layer)
        return cache

    def _embed(self, latent: Tensor, ids: Tensor, position: int) -> Tensor:
        """Return the embeddings (B, L, n_embd) of `ids`, each with the latent where its successor lies.

        Args:
            latent: unnormalised latents (B, Z, K).
            ids: token ids (B, L), the first of which stands at `position`.
            position: 1 for <bos>, whose successor is the first token of the sentence.

        Returns:
            (B, L, n_embd).
        """
        spans = self.latent_embedding(latent.transpose(1, 2))  # (B, K, P*n_embd)
        by_token = spans.unflatten(2, (self.span, -1)).flatten(1, 2)  # (B, K*P, n_embd)
        said = self.encoder.embeddings.word_embeddings(ids)
        return said + by_token[:, position - 1 : position - 1 + ids.shape[1]]


def _check_widths(encoder: dict[str, Any], decoder: dict[str, Any]) -> None:
    """Raise `InputError` unless encoder and decoder have one width, that of their common table."""
    wide = BertConfig(**encoder).hidden_size, GPT2Config(**decoder).n_embd
    if wide[0] != wide[1]:
        raise InputError(
            f"decoder_config: n_embd is {wide[1]}: expected {wide[0]}, the hidden_size of encoder_config, "
            "since both use one table of embeddings"
        )


def _check_positions(name: str, values: dict[str, Any], least: int) -> None:
    """Raise `InputError` unless a transformer has positions for all tokens; `name` ends in the key."""
    found = values[name.rpartition(" ")[2]]
    if found < least:
        raise InputError(f"{name} is {found}: expected {least} or more, one for each token; or leave it out")
