"""The released prompt towers: CLIP ViT-L/14 with temporal modules in its vision layers, and CLAP's HTSAT.

They are our own towers with the released geometry; what is here is how the released code prepares pixels and
sound.
Letters: B batch, F frames, L tokens, S samples, T mel frames, M mel bands, W tower width, D width of the
shared space.
"""

from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from codi.libraries import load
from codi.models.conditioning import AudioTower, Bridge, TextTower, VisionTower
from codi.models.denoisers.temporal import TemporalModule
from codi.models.released.autoencoders import from_json, needed
from codi.types import Modality, ModalitySpec

# What CLIP's pictures are normalised by, and the switches of the released temporal module in its layers.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
LAYER = dict(norm="frames", positions=False, relative_bias=True, feed_forward="inner_norm", out_bias=False)


class ReleasedTextTower(TextTower):
    """CLIP's text transformer: causal, no padding mask, pooled at the first place of the largest token id.

    Args:
        text_config: arguments of CLIPTextConfig.
        tokenizer: a `tokenizers` JSON string of clip-vit-large-patch14; the checkpoint has none. None: token
            ids only (see `check_vocabulary`).
    """

    @register_to_config
    def __init__(self, text_config: dict[str, Any], tokenizer: str | None = None):
        ModelMixin.__init__(self)
        self.tokenizer: PreTrainedTokenizerFast | None = from_json(
            tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>"
        )
        # In CLIP's code, 2 as the id of the end means that the largest id is pooled.
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**text_config, eos_token_id=2))
        self.bridge = Bridge(self.text.config.projection_dim)

    def check_vocabulary(self) -> None:
        """Raise `InputError` if sentences cannot be read."""
        needed(self.tokenizer, "clip-vit-large-patch14")

    def features(self, raw: list[str]) -> Tensor:
        """Return the features (B, D) of sentences, before the bridge."""
        limit = self.text.config.max_position_embeddings
        tokens = needed(self.tokenizer, "clip-vit-large-patch14")(
            raw, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        )
        return self.features_of_ids(tokens.input_ids.to(self.device))

    def features_of_ids(self, ids: Tensor) -> Tensor:
        """Return the same as `features` for token ids (B, L)."""
        return self.text(input_ids=ids).text_embeds


class TemporalLayer(TemporalModule):
    """The released temporal module of one vision layer, on tokens (B, F, L, W).

    Arguments are those of `TemporalModule`.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, F, L, W) that were mixed over frames."""
        return self.mix(tokens)


class ReleasedVisionTower(VisionTower):
    """CLIP's vision transformer with the released temporal modules in every layer.

    They normalise over frames (see `codi.models.denoisers.temporal`).

    Args:
        vision_config: arguments of CLIPVisionConfig.
        truncate: whether pixels become whole numbers by truncation after a float round trip, as released,
            which darkens about a tenth of them by one level; False rounds them.
        picture_size: pixels along a side that a picture prompt is brought to first.
        video_size: the same of a clip.
        num_frames: how many frames of a clip are looked at.
        rate: how many of them per second.
    """

    @register_to_config
    def __init__(
        self,
        vision_config: dict[str, Any],
        truncate: bool = True,
        picture_size: int = 512,
        video_size: int = 256,
        num_frames: int = 4,
        rate: float = 1.0,
    ):
        # The constructor inside `register_to_config` is called, so that its arguments do not become part of
        # this class's configuration.
        VisionTower.__init__.__wrapped__(self, vision_config)
        shape = self.vision.config
        heads = shape.num_attention_heads
        width = shape.hidden_size
        self.temporal = nn.ModuleList(
            TemporalLayer(width, num_heads=heads, **LAYER) for _ in range(shape.num_hidden_layers)
        )

    @property
    def prompt_specs(self) -> dict[Modality, ModalitySpec]:
        """The geometry that prompts are brought to, which is not that of what is made."""
        image = self.config.picture_size
        video = self.config.video_size
        clip = (self.config.num_frames, 3, video, video)
        return {
            Modality.IMAGE: ModalitySpec(raw_shape=(3, image, image), latent_shape=()),
            Modality.VIDEO: ModalitySpec(raw_shape=clip, latent_shape=(), rate=self.config.rate),
        }

    def whole_pixels(self, raw: Tensor) -> Tensor:
        """Return pixels in [-1, 1] as the whole numbers 0..255 (uint8) that the tower sees."""
        levels = (raw + 1) / 2 * 255
        return (levels if self.config.truncate else levels.round()).clamp(0, 255).to(torch.uint8)

    def pixel_values(self, raw: Tensor) -> Tensor:
        """Return pictures as CLIP expects them: at its own size, and normalised.

        Args:
            raw: (..., 3, H, W) in [-1, 1].

        Returns:
            (..., 3, s, s), where s is the side of the tower's pictures.
        """
        flat = self.whole_pixels(raw.float()).flatten(0, -4).permute(0, 2, 3, 1).cpu().numpy()
        fitted = []
        for image in flat:
            fitted.append(np.asarray(fit(Image.fromarray(image), self.image_size)))
        values = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).to(raw.device).float() / 255
        mean = torch.tensor(PIXEL_MEAN, device=raw.device)[:, None, None]
        std = torch.tensor(PIXEL_STD, device=raw.device)[:, None, None]
        return ((values - mean) / std).to(raw.dtype).unflatten(0, raw.shape[:-3])

    def features(self, raw: Tensor) -> Tensor:
        """Return the features of pictures or clips, before the bridge.

        Args:
            raw: pictures (B, 3, H, W) or clips (B, F, 3, H, W) in [-1, 1], of any size.

        Returns:
            The features (B, D).
        """
        return super().features(self.pixel_values(raw))


def fit(image: Image.Image, side: int) -> Image.Image:
    """Bring a picture's shortest edge to `side` pixels, and return the middle square.

    It is resized by bicubic interpolation; the longer edge is rounded down.
    """
    width, height = image.size
    short = min(width, height)
    width = int(side * width / short)
    height = int(side * height / short)
    left = (width - side) // 2
    top = (height - side) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


class ReleasedAudioTower(AudioTower):
    """CLAP's audio transformer on ten seconds of sound at 48 kHz.

    Shorter sound is repeated and padded with silence; of longer sound the middle is taken (the released code
    takes a random piece).

    Args:
        audio_config: arguments of ClapAudioConfig.
        mel_config: arguments of `LogMel`.
        sampling_rate: samples per second of the sounds that come in.
        num_samples: samples that the tower takes, at its own rate.
        longest: the most seconds of a prompt that are read.
    """

    any_length = True  # a sound is not filled up with silence before it is repeated

    @register_to_config
    def __init__(
        self,
        audio_config: dict[str, Any],
        mel_config: dict[str, Any],
        sampling_rate: int = 16000,
        num_samples: int = 480000,
        longest: float = 10.24,
    ):
        AudioTower.__init__.__wrapped__(self, audio_config, mel_config)

    @property
    def prompt_specs(self) -> dict[Modality, ModalitySpec]:
        """The geometry that prompts are brought to: the longest sound that is read."""
        rate = self.config.sampling_rate
        return {
            Modality.AUDIO: ModalitySpec(
                raw_shape=(round(self.config.longest * rate),), latent_shape=(), rate=rate
            )
        }

    def fit(self, waveform: Tensor) -> Tensor:
        """Bring waveforms (B, S) at `sampling_rate` to (B, num_samples) at the tower's own rate."""
        resample = load("torchaudio.functional", "the released tower of sounds").resample
        waveform = resample(waveform, self.config.sampling_rate, self.config.mel_config["sampling_rate"])
        wanted = self.config.num_samples
        extra = waveform.shape[-1] - wanted
        if extra > 0:
            return waveform[:, extra // 2 : extra // 2 + wanted]
        repeated = waveform.repeat(1, wanted // waveform.shape[-1])
        return functional.pad(repeated, (0, wanted - repeated.shape[-1]))

    def decibels(self, waveform: Tensor) -> Tensor:
        """Return the mel power in dB, (B, T, M), of waveforms (B, num_samples)."""
        mel = self.log_mel
        window = mel.window.to(waveform.device, torch.float32)
        bank = mel.bank.to(waveform.device, torch.float32)
        spectrum = torch.stft(
            waveform.float(), mel.n_fft, mel.hop_length, window=window, center=True, return_complex=True
        )
        return 10 * (spectrum.abs().square().transpose(1, 2) @ bank).clamp_min(1e-10).log10()

    def features(self, raw: Tensor) -> Tensor:
        """Return the features (B, D) of waveforms (B, S) in [-1, 1], before the bridge."""
        levels = self.decibels(self.fit(raw.float())).to(self.dtype)
        return self.audio(input_features=levels[:, None], is_longer=None).audio_embeds
