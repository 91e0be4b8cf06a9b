"""The autoencoder of sentences: a BERT encoder, one latent vector, and a GPT-2 decoder.

It follows Optimus (arXiv 2004.04092), which the paper uses. The decoder reads the latent z as memory and as
embedding: linear(z) is one extra past position in every layer, the same vector as key and as value, and
linear_emb(z) is added to every token's embedding.
Letters: B batch, L tokens, D hidden width, Z latent width, N layers.
"""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2LMHeadModel

from codi.models.autoencoders.scaling import LatentScaling
from codi.models.tokenizer_file import WithTokenizerFile
from codi.protocols import Autoencoder
from codi.vocabulary import has_pieces, load_tokenizer


class TextAutoencoder(ModelMixin, WithTokenizerFile, Autoencoder):
    """Turns sentences into normalised latents (B, Z), and back.

    Args:
        encoder_config: arguments of BertConfig; vocabulary size and special ids come from the tokenizer.
        decoder_config: arguments of GPT2Config, likewise.
        latent_dim: Z, the width of the latent.
        tokenizer: a `tokenizers` JSON string for the encoder, of whole words or of pieces of words.
        decoder_tokenizer: the same for the decoder; None: that of the encoder.
        max_length: most tokens that decoding produces, the first one included.
        embed_latent: whether linear_emb(z) is added to the embeddings besides the memory, as in Optimus.
        scaling_factor: the one released factor; None: per-channel statistics, measured in training.
    """

    table = "encoder.embeddings.word_embeddings.weight"
    table_config = "encoder_config"

    @register_to_config
    def __init__(
        self,
        encoder_config: dict[str, Any],
        decoder_config: dict[str, Any],
        latent_dim: int,
        tokenizer: str,
        decoder_tokenizer: str | None = None,
        max_length: int = 30,
        embed_latent: bool = True,
        scaling_factor: float | None = None,
    ):
        super().__init__()
        self.tokenizer = load_tokenizer(tokenizer)
        self.reads_pieces = has_pieces(decoder_tokenizer or tokenizer)
        self.decoder_tokenizer = (
            self.tokenizer if decoder_tokenizer is None else load_tokenizer(decoder_tokenizer)
        )
        self.encoder = BertModel(BertConfig(**{**self._encoder_vocabulary(), **encoder_config}))
        self.posterior_head = nn.Linear(self.encoder.config.hidden_size, 2 * latent_dim, bias=False)
        self.decoder = GPT2LMHeadModel(GPT2Config(**{**self._decoder_vocabulary(), **decoder_config}))
        shape = self.decoder.config
        self.memory = nn.Linear(latent_dim, shape.n_layer * shape.n_embd, bias=False)
        self.latent_embedding = nn.Linear(latent_dim, shape.n_embd, bias=False) if embed_latent else None
        self.scaling = LatentScaling(latent_dim, scaling_factor)

    def _encoder_vocabulary(self) -> dict[str, Any]:
        """Return the arguments of BertConfig that the tokenizer decides."""
        return {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}

    def _decoder_vocabulary(self) -> dict[str, Any]:
        """Return the arguments of GPT2Config that the tokenizer decides."""
        return {
            "vocab_size": len(self.decoder_tokenizer),
            "tie_word_embeddings": False,
            "bos_token_id": self.decoder_tokenizer.bos_token_id,
            "eos_token_id": self.decoder_tokenizer.eos_token_id,
            "pad_token_id": self.decoder_tokenizer.pad_token_id,
        }

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (Z,) of the latent of one sentence."""
        return (self.config.latent_dim,)

    @property
    def num_positions(self) -> int:
        """The number of tokens of the longest sentence, for a dry run."""
        return self.config.max_length

    def posterior(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of unnormalised latents, (B, *latent_shape) each."""
        tokens = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(self.device)
        return self.posterior_of_ids(tokens.input_ids, tokens.attention_mask)

    def posterior_of_ids(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `posterior` returns, of token ids (B, L) and their mask (B, L), 0 where nothing is."""
        pooled = self.encoder(input_ids=ids, attention_mask=mask).pooler_output
        mean, log_variance = self.posterior_head(pooled).chunk(2, dim=-1)
        return mean, log_variance

    @apply_forward_hook
    def encode(self, raw: list[str], generator: torch.Generator | None = None) -> Tensor:
        """Encode sentences into normalised latents.

        Args:
            raw: the sentences.
            generator: draws from the posterior; None takes its mean.

        Returns:
            The latents (B, *latent_shape).
        """
        mean, log_variance = self.posterior(raw)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            mean = mean + noise * (0.5 * log_variance).exp()
        return self.scaling.normalise(mean)

    def logits(self, latent: Tensor, ids: Tensor) -> Tensor:
        """Return the logits of the next tokens, given all tokens before them (teacher forcing).

        Args:
            latent: unnormalised latents (B, *latent_shape).
            ids: token ids (B, L).

        Returns:
            The logits (B, L, vocabulary).
        """
        return self._step(latent, ids, self._memory_cache(latent)).logits

    def token_loss(self, latent: Tensor, sentences: list[str]) -> Tensor:
        """Return the mean cross-entropy per token (B,) of sentences, given unnormalised latents."""
        ids, mask = self._targets(sentences)
        logits = self.logits(latent, ids[:, :-1]).transpose(1, 2)  # (B, vocabulary, L-1)
        losses = functional.cross_entropy(logits.float(), ids[:, 1:], reduction="none") * mask[:, 1:]
        return losses.sum(1) / mask[:, 1:].sum(1)

    @apply_forward_hook
    @torch.no_grad()
    def decode(self, latent: Tensor) -> list[str]:
        """Write the sentences of normalised latents (B, ...), with the likeliest token at each step.

        The whole batch is decoded at once, one token a step, with a key-value cache.
        """
        latent = self.scaling.denormalise(latent)
        cache = self._memory_cache(latent)
        tokenizer = self.decoder_tokenizer
        ids = torch.full((len(latent), 1), tokenizer.bos_token_id, device=latent.device)
        for _ in range(self.config.max_length - 1):
            logits = self._next(latent, ids[:, -1:], cache, position=ids.shape[1])
            ended = (ids == tokenizer.eos_token_id).any(1)
            following = logits.argmax(-1).masked_fill(ended, tokenizer.eos_token_id)
            ids = torch.cat([ids, following[:, None]], dim=1)
            if (ids == tokenizer.eos_token_id).any(1).all():
                break
        return [self._sentence(row) for row in ids.tolist()]

    def _next(self, latent: Tensor, ids: Tensor, cache: DynamicCache, position: int) -> Tensor:
        """Return the logits (B, vocabulary) of the token behind `ids`, which begin at `position`."""
        return self._step(latent, ids, cache, position).logits[:, -1]

    def _memory_cache(self, latent: Tensor) -> DynamicCache:
        """Return a key-value cache in which the latents (B, Z) are the one past position of every layer."""
        shape = self.decoder.config
        cache = DynamicCache()
        # (B, N, heads, 1, D/heads)
        memory = self.memory(latent).unflatten(1, (shape.n_layer, 1, shape.n_head, -1)).transpose(2, 3)
        for layer in range(shape.n_layer):
            cache.update(memory[:, layer], memory[:, layer], layer)
        return cache

    def _step(self, latent: Tensor, ids: Tensor, cache: DynamicCache, position: int = 1):
        """Run the decoder on `ids`, the first of which stands at `position` (0 is the memory)."""
        embeds = self._embed(latent, ids, position)
        positions = torch.arange(position, position + ids.shape[1], device=ids.device)[None]
        # The cache is passed by place, because its name depends on the version of transformers: `cache` since
        # 5.24, `past_key_values` before, which 5.40 no longer takes.
        return self.decoder(None, cache, inputs_embeds=embeds, position_ids=positions, use_cache=True)

    def _embed(self, latent: Tensor, ids: Tensor, position: int) -> Tensor:
        """Return the embeddings (B, L, n_embd) of `ids`, with that of the latent on top if there is one."""
        embeds = self.decoder.transformer.wte(ids)
        return embeds if self.latent_embedding is None else embeds + self.latent_embedding(latent)[:, None]

    def _targets(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Return decoder ids (B, L) of sentences, framed by <bos> and <eos>, and their mask (B, L)."""
        tokenizer = self.decoder_tokenizer
        longest = self.config.max_length - 2
        rows = []
        for pieces in tokenizer(sentences, add_special_tokens=False).input_ids:
            rows.append([tokenizer.bos_token_id, *pieces[:longest], tokenizer.eos_token_id])
        length = max(map(len, rows))
        ids = []
        mask = []
        for row in rows:
            padding = length - len(row)
            ids.append(row + [tokenizer.pad_token_id] * padding)
            mask.append([1.0] * len(row) + [0.0] * padding)
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _sentence(self, ids: list[int]) -> str:
        """Return the sentence that a row of decoder ids says, up to the first <eos>."""
        eos = self.decoder_tokenizer.eos_token_id
        ids = ids[1 : ids.index(eos)] if eos in ids else ids[1:]
        sentence = self.decoder_tokenizer.decode(ids, skip_special_tokens=True)
        return sentence if self.reads_pieces else sentence.strip()
