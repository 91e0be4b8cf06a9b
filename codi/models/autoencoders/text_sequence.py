"""The autoencoder of sentences whose latent is a sequence: as many vectors as a caption may need.

One vector (`codi.models.autoencoders.text`) holds the few facts of a small world, and not what a sentence of
thousands of words says, word by word. Here a latent has K vectors, each of which stands for the next few
tokens of the sentence, as a picture's latent has a vector for each patch. An encoder that reads the whole
sentence writes them; the decoder reads all of them as memory, and at every token the vector in whose span the
token lies.

Letters: B batch, L tokens, Z channels of the latent, K its positions, P tokens of one position (its span), D
hidden width, N layers.
"""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2LMHeadModel

from codi.models.autoencoders.scaling import LatentScaling
from codi.models.autoencoders.text import TextAutoencoder
from codi.types import InputError
from codi.vocabulary import has_pieces, load_tokenizer


class TextSequenceAutoencoder(TextAutoencoder):
    """Turns sentences into normalised latents (B, Z, K), and back.

    The sequence of a sentence is its tokens, <eos>, and <pad> up to K times P tokens. Positions behind a
    short sentence say that nothing follows.

    Args:
        encoder_config: arguments of BertConfig; vocabulary size and special ids come from the tokenizer.
        decoder_config: arguments of GPT2Config, likewise.
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
        _check_positions("encoder_config: max_position_embeddings", encoder, positions)
        _check_positions("decoder_config: n_positions", decoder, positions + 1)
        self.encoder = BertModel(BertConfig(**encoder), add_pooling_layer=False)
        self.posterior_head = nn.Linear(
            self.span * self.encoder.config.hidden_size, 2 * latent_dim, bias=False
        )
        self.decoder = GPT2LMHeadModel(GPT2Config(**decoder))
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
        ids, mask = ids[:, 1:], mask[:, 1:]  # without <bos>: token j lies in the span of position j // P
        missing = self.num_positions - ids.shape[1]
        ids = nn.functional.pad(ids, (0, missing), value=self.tokenizer.pad_token_id)
        return self.posterior_of_ids(ids, nn.functional.pad(mask, (0, missing)))

    def posterior_of_ids(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `posterior` returns, of token ids (B, K*P) and their mask (B, K*P)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, K*P, D)
        spans = hidden.unflatten(1, (self.config.latent_length, self.span)).flatten(2)  # (B, K, P*D)
        mean, log_variance = self.posterior_head(spans).transpose(1, 2).chunk(2, dim=1)
        return mean, log_variance

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
        """
        spans = self.latent_embedding(latent.transpose(1, 2))  # (B, K, P*n_embd)
        by_token = spans.unflatten(2, (self.span, -1)).flatten(1, 2)  # (B, K*P, n_embd)
        return self.decoder.transformer.wte(ids) + by_token[:, position - 1 : position - 1 + ids.shape[1]]


def _check_positions(name: str, values: dict[str, Any], least: int) -> None:
    """Raise `InputError` unless a transformer has positions for all tokens; `name` ends in the key."""
    found = values[name.rpartition(" ")[2]]
    if found < least:
        raise InputError(f"{name} is {found}: expected {least} or more, one for each token; or leave it out")
