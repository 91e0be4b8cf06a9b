"""Prompt towers: each turns raw media of one modality into one unit token of a shared space.

The space is bridged through text (CoDi, section 3.2). As in the paper, the towers are CLIP's text and vision
transformers, the latter with temporal attention for video, and CLAP's audio transformer.
Letters: B batch, F frames, L tokens, P patches, W tower width, D width of the shared space, S samples.
"""

import math
import threading
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from codi.models.autoencoders.audio import LogMel
from codi.models.tokenizer_file import WithTokenizerFile
from codi.protocols import PromptEncoder
from codi.vocabulary import ClosedVocabulary, Reading, closed_vocabulary, load_tokenizer

# Fast tokenizers keep padding and truncation as a state, which two threads must not change at once.
_TOKENIZING = threading.Lock()
MOST_GAIN = 100.0  # by which a sound is amplified before its tower: what is fainter is taken for silence


class Bridge(nn.Module):
    """The last step of a tower: it centres features and brings them to length one.

    Subtracting the modality's own mean closes the gap between the cones that contrastive towers leave their
    modalities in (Liang et al., arXiv 2203.02053). The mean is measured after alignment and kept with the
    weights.

    Args:
        dim: the width D of the features.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """Return the unit tokens (B, D) of features (B, D)."""
        return functional.normalize(
            functional.normalize(features, dim=-1) - self.center.to(features.dtype), dim=-1
        )

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Set the mean from features (N, D) that are not centred."""
        self.center.copy_(functional.normalize(features.float(), dim=-1).mean(0))


class TextTower(ModelMixin, WithTokenizerFile, PromptEncoder):
    """The prompt tower of sentences: CLIP's text transformer and a bridge.

    Args:
        text_config: arguments of CLIPTextConfig.
        tokenizer: a `tokenizers` JSON string, of whole words or of pieces of words.
    """

    table = "text.text_model.embeddings.token_embedding.weight"
    table_config = "text_config"

    # Set where the tokenizer knows whole words only; one that knows pieces of words takes any sentence.
    vocabulary: ClosedVocabulary | None = None

    @register_to_config
    def __init__(self, text_config: dict[str, Any], tokenizer: str):
        super().__init__()
        self.tokenizer = load_tokenizer(tokenizer)
        self.vocabulary = closed_vocabulary(self.tokenizer)
        vocabulary = {
            "vocab_size": len(self.tokenizer),
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**{**vocabulary, **text_config}))
        self.bridge = Bridge(self.text.config.projection_dim)

    @property
    def dim(self) -> int:
        """The width D of the shared space."""
        return self.text.config.projection_dim

    @property
    def reads_words(self) -> bool:
        """Whether it has a tokenizer: a converted one may come without."""
        return self.tokenizer is not None

    def features(self, raw: list[str]) -> Tensor:
        """Return the features (B, D) of sentences, before the bridge.

        Words that a closed vocabulary lacks change nothing.
        """
        limit = self.text.config.max_position_embeddings
        if self.vocabulary is not None:
            raw = [self.vocabulary.normal(sentence) for sentence in raw]
        with _TOKENIZING:
            tokens = self.tokenizer(raw, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(self.device)
        return self.text(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds

    def read(self, sentence: str) -> Reading:
        """Return a report of what the tower reads of a sentence.

        Words may be missing from the vocabulary, and what lies beyond the longest sentence is not read.
        """
        limit = self.text.config.max_position_embeddings
        if self.vocabulary is not None:
            return self.vocabulary.read(sentence, limit)
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # of a `codi.models.words.Wordbook`
        sentence = getattr(self.tokenizer, "expand", str)(sentence)
        with _TOKENIZING:
            tokens = tokenizer(sentence, return_offsets_mapping=True, verbose=False)
        beyond = ""
        if len(tokens.input_ids) > limit:
            beyond = sentence[tokens.offset_mapping[limit - 1][0] :].strip()
        # A tokenizer of pieces knows every word; only the length can be too much.
        count = len(sentence.split())
        return Reading(num_words=count, num_known=count, num_read=count, unread=(beyond,) if beyond else ())

    @apply_forward_hook
    def embed(self, raw: list[str]) -> Tensor:
        """Return the unit tokens (B, D) of sentences."""
        return self.bridge(self.features(raw))


class TemporalAttention(nn.Module):
    """Attention of each token to its own place in the other frames, from (B, F, L, W) to the same.

    The result is added to the tokens. The last layer starts at zero, so that nothing is added before
    training.

    Args:
        width: the tower width W.
        num_heads: heads of the attention.
        max_frames: frames of the longest clip.
    """

    def __init__(self, width: int, num_heads: int, max_frames: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.randn(max_frames, 1, width) * 0.02)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, F, L, W) with their attention to the other frames added."""
        hidden = self.norm(tokens) + self.positions[: tokens.shape[1]]
        stacked = self.to_qkv(hidden.transpose(1, 2)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = stacked.movedim(-3, 0).transpose(-2, -3)
        attended = functional.scaled_dot_product_attention(query, key, value)  # (B, L, heads, F, W/heads)
        return tokens + self.to_out(attended.transpose(-2, -3).flatten(-2)).transpose(1, 2)


class FrameSummary(nn.Module):
    """A correction to the mean of a clip's frames, from (B, F, L, W) to (B, W).

    Attention pools the tokens of each frame into one, and a small transformer reads the sequence of frames.
    The result is zero before training, so that a clip starts as the mean of its pictures.

    Args:
        width: the tower width W.
        num_heads: heads of the transformer, and of the pooling.
        num_layers: layers of the transformer.
        max_frames: frames of the longest clip.
    """

    def __init__(self, width: int, num_heads: int, num_layers: int, max_frames: int):
        super().__init__()
        self.query = nn.Linear(width, num_heads)
        self.mix = nn.Linear(num_heads * width, width)
        self.positions = nn.Parameter(torch.randn(max_frames, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the correction (B, W) for clips whose tokens are (B, F, L, W)."""
        weights = self.query(tokens).softmax(dim=2)  # (B, F, L, heads)
        pooled = torch.einsum("bflh,bflw->bfhw", weights, tokens).flatten(2)
        return self.out(self.layers(self.mix(pooled) + self.positions[: tokens.shape[1]]).mean(1))


class VisionTower(ModelMixin, ConfigMixin, PromptEncoder):
    """The prompt tower of pictures and clips: CLIP's vision transformer and a bridge for each of the two.

    Args:
        vision_config: arguments of CLIPVisionConfig.
        max_frames: frames of the longest clip.
        summary_layers: layers of the `FrameSummary`; 0 leaves the paper's mean over frames alone.
    """

    @register_to_config
    def __init__(self, vision_config: dict[str, Any], max_frames: int = 30, summary_layers: int = 0):
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_config))
        shape = self.vision.config
        width = shape.hidden_size
        heads = shape.num_attention_heads
        self.temporal = nn.ModuleList(
            TemporalAttention(width, heads, max_frames) for _ in range(shape.num_hidden_layers)
        )
        self.summary = FrameSummary(width, heads, summary_layers, max_frames) if summary_layers else None
        self.bridge = Bridge(shape.projection_dim)
        self.video_bridge = Bridge(shape.projection_dim)

    @property
    def dim(self) -> int:
        """The width D of the shared space."""
        return self.vision.config.projection_dim

    @property
    def image_size(self) -> int:
        """The side of a picture in pixels."""
        return self.vision.config.image_size

    def features(self, raw: Tensor) -> Tensor:
        """Return the features of pictures or clips, before the bridge.

        Args:
            raw: pictures (B, 3, H, W) or clips (B, F, 3, H, W) in [-1, 1], of any size.

        Returns:
            The features (B, D).
        """
        clips = self.resize(raw if raw.ndim == 5 else raw[:, None]).to(self.dtype)
        model = self.vision.vision_model
        num_frames = clips.shape[1]
        hidden = model.pre_layrnorm(model.embeddings(clips.flatten(0, 1)))  # (B F, 1 + P, W)
        # Each layer of CLIP is taken apart, because temporal attention stands between its two halves.
        for layer, temporal in zip(model.encoder.layers, self.temporal):
            hidden = hidden + layer.self_attn(layer.layer_norm1(hidden))[0]
            if num_frames > 1:
                hidden = temporal(hidden.unflatten(0, (-1, num_frames))).flatten(0, 1)
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        frames = hidden.unflatten(0, (-1, num_frames))
        pooled = frames[:, :, 0].mean(1)
        if num_frames > 1 and self.summary is not None:
            pooled = pooled + self.summary(frames)
        return self.vision.visual_projection(model.post_layernorm(pooled))

    def trunk_shape(self, geometry: Mapping[str, Any], clips: bool = False) -> tuple[int, ...]:
        """Return (3, H, W) of a picture in its own size, (F, 3, H, W) of a clip."""
        picture = (3, self.image_size, self.image_size)
        num_frames = geometry.get("frames", 16) if clips else 1
        return picture if num_frames == 1 else (num_frames, *picture)

    def resize(self, clips: Tensor) -> Tensor:
        """Return clips (B, F, 3, H, W) at the tower's own size; those that have it are left as they are."""
        size = (self.image_size, self.image_size)
        if clips.shape[-2:] == size:
            return clips
        flat = functional.interpolate(clips.flatten(0, 1).float(), size, mode="bicubic", antialias=True)
        return flat.clamp(-1, 1).unflatten(0, clips.shape[:2])

    @apply_forward_hook
    def embed(self, raw: Tensor) -> Tensor:
        """Return the unit tokens of pictures or clips.

        Args:
            raw: pictures (B, 3, H, W) or clips (B, F, 3, H, W) in [-1, 1], of any size.

        Returns:
            The tokens (B, D).
        """
        return (self.video_bridge if raw.ndim == 5 else self.bridge)(self.features(raw))


class AudioTower(ModelMixin, ConfigMixin, PromptEncoder):
    """The prompt tower of sounds: a log-mel spectrogram, CLAP's audio transformer and a bridge.

    Args:
        audio_config: arguments of ClapAudioConfig.
        mel_config: arguments of `LogMel`.
        peak: the largest absolute value to which every sound is brought, so that loudness says nothing; None
            leaves sounds as loud as they are. None is amplified by more than `MOST_GAIN`, and silence stays.
    """

    @register_to_config
    def __init__(self, audio_config: dict[str, Any], mel_config: dict[str, Any], peak: float | None = None):
        super().__init__()
        self.log_mel = LogMel(**mel_config)
        self.audio = ClapAudioModelWithProjection(ClapAudioConfig(**audio_config))
        # The index follows from the configuration, so it is not saved. It is made on the CPU, so that it is
        # real even where the model itself is built on the meta device.
        for layer in self.audio.modules():
            if hasattr(layer, "relative_position_index"):
                with torch.device("cpu"):
                    index = layer.create_relative_position_index()
                    layer.register_buffer("relative_position_index", index, persistent=False)
        self.bridge = Bridge(self.audio.config.projection_dim)

    @property
    def dim(self) -> int:
        """The width D of the shared space."""
        return self.audio.config.projection_dim

    def features(self, raw: Tensor) -> Tensor:
        """Return the features (B, D) of waveforms (B, S) in [-1, 1], before the bridge."""
        mel = self.log_mel(self.levelled(raw)).to(self.dtype)
        return self.trunk(mel[:, None])

    def levelled(self, raw: Tensor) -> Tensor:
        """Return waveforms (B, S) brought to `peak`, if the tower has one."""
        peak = self.config.peak
        if peak is None:
            return raw
        loudest = raw.abs().amax(dim=-1, keepdim=True)
        return raw * (peak / loudest.clamp_min(peak / MOST_GAIN))

    def trunk(self, inputs: Tensor) -> Tensor:
        """Return (B, D) of log-mel spectrograms (B, 1, T, M)."""
        return self.audio(input_features=inputs, is_longer=None).audio_embeds

    def trunk_shape(self, geometry: Mapping[str, Any], clips: bool = False) -> tuple[int, ...]:
        """Return (1, T, M) of a sound of `geometry`, or of two seconds."""
        samples = geometry.get("samples", 2 * self.log_mel.sampling_rate)
        return (1, samples // self.log_mel.hop_length, self.log_mel.bank.shape[1])

    @apply_forward_hook
    def embed(self, raw: Tensor) -> Tensor:
        """Return the unit tokens (B, D) of waveforms (B, S) in [-1, 1]."""
        return self.bridge(self.features(raw))


def interpolate(tokens: list[Tensor], weights: list[float], normalise: bool = False) -> Tensor:
    """Interpolate several prompts by their weights (CoDi, section 3.2).

    The terms of every component are added up in the order of their values, so that the order of prompts
    changes nothing, to the bit.

    Args:
        tokens: the prompts, (B, D) each.
        weights: one for each prompt; they are brought to sum one.
        normalise: whether the result is brought back to unit length; the released model does not do that.

    Returns:
        The context (B, 1, D).
    """
    # `fsum` rounds once: this sum, too, is the same in any order.
    total = math.fsum(weights)
    terms = torch.stack([token * (weight / total) for token, weight in zip(tokens, weights, strict=True)])
    mixed = terms.sort(dim=0).values.sum(0)
    return (functional.normalize(mixed, dim=-1) if normalise else mixed)[:, None]


def null_prompt(
    batch_size: int, dim: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the context (B, 1, D) of no prompt at all; this is the one place that says what it is."""
    return torch.zeros(batch_size, 1, dim, device=device, dtype=dtype)
