"""Prompt towers: text, pictures, clips and sound -> one unit token each in a shared space, bridged through
text (CoDi, section 3.2).

CLIP's text and vision transformers (the latter with temporal attention for video) and CLAP's audio
transformer, as in the paper. Letters: B batch, F frames, L tokens, P patches, W tower width, D width of the
shared space, S samples.
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
from codi.protocols import PromptEncoder
from codi.vocabulary import ClosedVocabulary, Reading, closed_vocabulary, load_tokenizer

# Fast tokenizers keep padding and truncation as a state, which two threads may not change at once.
_TOKENIZING = threading.Lock()


class Bridge(nn.Module):
    """Tower features -> unit token. Subtracting the modality's own mean closes the gap between the cones that
    contrastive towers leave their modalities in (Liang et al., arXiv 2203.02053); the mean is measured after
    alignment and kept with the weights.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, D) of length one."""
        return functional.normalize(
            functional.normalize(features, dim=-1) - self.center.to(features.dtype), dim=-1
        )

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Set the mean from uncentred features (N, D)."""
        self.center.copy_(functional.normalize(features.float(), dim=-1).mean(0))


class TextTower(ModelMixin, ConfigMixin, PromptEncoder):
    """Sentences -> tokens. `text_config` holds arguments of CLIPTextConfig, `tokenizer` a `tokenizers` JSON
    string.
    """

    # of a tokenizer that has only words; one of pieces takes sentences as they are
    vocabulary: ClosedVocabulary | None = None

    @register_to_config
    def __init__(self, text_config: dict[str, Any], tokenizer: str):
        super().__init__()
        self.tokenizer = load_tokenizer(tokenizer)
        self.vocabulary = closed_vocabulary(self.tokenizer)
        ids = {
            f"{name}_token_id": getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
        }
        self.text = CLIPTextModelWithProjection(
            CLIPTextConfig(**{"vocab_size": len(self.tokenizer), **ids, **text_config})
        )
        self.bridge = Bridge(self.text.config.projection_dim)

    @property
    def dim(self) -> int:
        """D."""
        return self.text.config.projection_dim

    @property
    def reads_words(self) -> bool:
        """Whether it has a tokenizer: a converted one may come without."""
        return self.tokenizer is not None

    def features(self, raw: list[str]) -> Tensor:
        """Sentences -> (B, D), before the bridge. What a closed vocabulary lacks changes nothing."""
        limit = self.text.config.max_position_embeddings
        if self.vocabulary is not None:
            raw = [self.vocabulary.normal(sentence) for sentence in raw]
        with _TOKENIZING:
            tokens = self.tokenizer(raw, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(self.device)
        return self.text(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds

    def read(self, sentence: str) -> Reading:
        """Returns what of a sentence is read: its vocabulary may lack words, and there is a
        longest sentence.
        """
        limit = self.text.config.max_position_embeddings
        if self.vocabulary is not None:
            return self.vocabulary.read(sentence, limit)
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # of a `codi.models.words.Wordbook`
        sentence = getattr(self.tokenizer, "expand", str)(sentence)
        with _TOKENIZING:
            tokens = tokenizer(sentence, return_offsets_mapping=True, verbose=False)
        beyond = sentence[tokens.offset_mapping[limit - 1][0] :] if len(tokens.input_ids) > limit else ""
        count = len(sentence.split())
        return Reading(num_words=count, num_known=count, num_read=count, unread=(beyond,) if beyond else ())

    @apply_forward_hook
    def embed(self, raw: list[str]) -> Tensor:
        """Sentences -> unit tokens (B, D)."""
        return self.bridge(self.features(raw))


class TemporalAttention(nn.Module):
    """Each token attends to its own place in the other frames: (B, F, L, W) -> the same, a residual that
    starts at zero.
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
        hidden = self.norm(tokens) + self.positions[: tokens.shape[1]]
        query, key, value = (
            self.to_qkv(hidden.transpose(1, 2))
            .unflatten(-1, (3, self.num_heads, -1))
            .movedim(-3, 0)
            .transpose(-2, -3)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)  # (B, L, heads, F, W/heads)
        return tokens + self.to_out(attended.transpose(-2, -3).flatten(-2)).transpose(1, 2)


class FrameSummary(nn.Module):
    """What a clip adds to the mean of its frames: attention pools each frame's patches, a small transformer
    reads the sequence.

    (B, F, L, W) -> (B, W), zero before training, so that a clip starts as the mean of its pictures.
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
        weights = self.query(tokens).softmax(dim=2)  # (B, F, L, heads)
        pooled = torch.einsum("bflh,bflw->bfhw", weights, tokens).flatten(2)
        return self.out(self.layers(self.mix(pooled) + self.positions[: tokens.shape[1]]).mean(1))


class VisionTower(ModelMixin, ConfigMixin, PromptEncoder):
    """Pictures and clips -> tokens.

    vision_config   arguments of CLIPVisionConfig
    max_frames      longest clip
    summary_layers  layers of `FrameSummary`; 0 leaves the paper's mean over frames alone
    """

    @register_to_config
    def __init__(self, vision_config: dict[str, Any], max_frames: int = 30, summary_layers: int = 0):
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_config))
        shape = self.vision.config
        width, heads = shape.hidden_size, shape.num_attention_heads
        self.temporal = nn.ModuleList(
            TemporalAttention(width, heads, max_frames) for _ in range(shape.num_hidden_layers)
        )
        self.summary = FrameSummary(width, heads, summary_layers, max_frames) if summary_layers else None
        self.bridge = Bridge(shape.projection_dim)
        self.video_bridge = Bridge(shape.projection_dim)

    @property
    def dim(self) -> int:
        """D."""
        return self.vision.config.projection_dim

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return self.vision.config.image_size

    def features(self, raw: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) or clips (B, F, 3, H, W) in [-1, 1], of any size -> (B, D), before the
        bridge.
        """
        clips = self.resize(raw if raw.ndim == 5 else raw[:, None]).to(self.dtype)
        model, num_frames = self.vision.vision_model, clips.shape[1]
        hidden = model.pre_layrnorm(model.embeddings(clips.flatten(0, 1)))  # (B F, 1 + P, W)
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
        """Clips (B, F, 3, H, W) at the tower's own size; those that have it are left as they are."""
        size = (self.image_size, self.image_size)
        if clips.shape[-2:] == size:
            return clips
        flat = functional.interpolate(clips.flatten(0, 1).float(), size, mode="bicubic", antialias=True)
        return flat.clamp(-1, 1).unflatten(0, clips.shape[:2])

    @apply_forward_hook
    def embed(self, raw: Tensor) -> Tensor:
        """Pictures or clips in [-1, 1] -> unit tokens (B, D)."""
        return (self.video_bridge if raw.ndim == 5 else self.bridge)(self.features(raw))


class AudioTower(ModelMixin, ConfigMixin, PromptEncoder):
    """Sound -> tokens. `audio_config` holds arguments of ClapAudioConfig, `mel_config` those of `LogMel`."""

    @register_to_config
    def __init__(self, audio_config: dict[str, Any], mel_config: dict[str, Any]):
        super().__init__()
        self.log_mel = LogMel(**mel_config)
        self.audio = ClapAudioModelWithProjection(ClapAudioConfig(**audio_config))
        # derived: no need to save it
        for layer in (m for m in self.audio.modules() if hasattr(m, "relative_position_index")):
            with torch.device("cpu"):
                layer.register_buffer(
                    "relative_position_index", layer.create_relative_position_index(), persistent=False
                )
        self.bridge = Bridge(self.audio.config.projection_dim)

    @property
    def dim(self) -> int:
        """D."""
        return self.audio.config.projection_dim

    def features(self, raw: Tensor) -> Tensor:
        """Waveforms (B, S) in [-1, 1] -> (B, D), before the bridge."""
        mel = self.log_mel(raw).to(self.dtype)
        return self.trunk(mel[:, None])

    def trunk(self, inputs: Tensor) -> Tensor:
        """Return (B, D) of log-mel spectrograms (B, 1, T, M)."""
        return self.audio(input_features=inputs, is_longer=None).audio_embeds

    def trunk_shape(self, geometry: Mapping[str, Any], clips: bool = False) -> tuple[int, ...]:
        """Return (1, T, M) of a sound of `geometry`, or of two seconds."""
        samples = geometry.get("samples", 2 * self.log_mel.sampling_rate)
        return (1, samples // self.log_mel.hop_length, self.log_mel.bank.shape[1])

    @apply_forward_hook
    def embed(self, raw: Tensor) -> Tensor:
        """Waveforms in [-1, 1] -> unit tokens (B, D)."""
        return self.bridge(self.features(raw))


def interpolate(tokens: list[Tensor], weights: list[float], normalise: bool = False) -> Tensor:
    """Weighted interpolation of prompts (CoDi, section 3.2): tokens (B, D) each -> context (B, 1, D).

    Weights are brought to sum one. `normalise` brings the result back to unit length; the released model does
    not. Of every component the terms are added up in the order of their values, so that the order of prompts
    changes nothing, to the bit.
    """
    total = math.fsum(weights)
    terms = torch.stack([token * (weight / total) for token, weight in zip(tokens, weights, strict=True)])
    mixed = terms.sort(dim=0).values.sum(0)
    return (functional.normalize(mixed, dim=-1) if normalise else mixed)[:, None]


def null_prompt(
    batch_size: int, dim: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """The context (B, 1, D) of no prompt at all: the one place that says what it is."""
    return torch.zeros(batch_size, 1, dim, device=device, dtype=dtype)
