"""CLIPModel and ClapModel of transformers as extractors.

Weights are read from safetensors alone, and no code that comes with a model is run.

Letters: N media, D width of the features.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from codi import io
from codi.bench.extracting import OPTION, Extractor
from codi.modalities import in_words
from codi.pretrained import pick_device, quietly
from codi.types import InputError, Modality

TEXT, IMAGE, AUDIO, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
FRAMES = 8  # of a clip, evenly spaced, that a model of pictures sees
FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")  # of a model at the hub


class _Pretrained(Extractor):
    """A model of transformers in a folder.

    Attributes:
        kind: what its configuration says that it is.
        reads: the modalities that it can read.

    Args:
        source: the folder, or a hub id.
        modalities: what it is to read.
        device: "auto", or a device of torch.
        dtype: the precision of its network.
    """

    kind: str
    reads: tuple[Modality, ...]

    def __init__(self, source: str, modalities: tuple[Modality, ...], device: str, dtype: str) -> None:
        self.name = f"{self.kind}:{source}"
        self.modalities = modalities
        if wrong := [str(m) for m in modalities if m not in self.reads]:
            raise InputError(
                f"{OPTION} {self.name} reads {', '.join(map(str, self.reads))}, not {', '.join(wrong)}"
            )
        self.device, self.dtype = pick_device(device), getattr(torch, dtype)
        self.folder = _folder_of(self.name, source)
        config = self.folder / "config.json"
        said = None
        with suppress(OSError, ValueError, AttributeError):
            said = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if said != self.kind:
            raise InputError(
                f"{OPTION} {self.name}: {config} says model_type {said!r:.60}: expected {self.kind!r}; other "
                "models come as module:function or file.py:function"
            )

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all weights and settings, with the precision."""
        digest = hashlib.sha256(f"{self.kind} {self.dtype}".encode())
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and any(path.match(pattern) for pattern in FILES):
                digest.update(f"{path.name} {io.sha256_of(path)}".encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Load the model."""
        _ = self._parts

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """The model, what prepares its media, and its tokenizer where it reads words."""
        try:
            with quietly():
                made, prepares, tokenizer = self._load()
        except InputError:
            raise
        except Exception as error:  # whatever transformers says of a folder that lacks something
            said = " ".join(str(error).split())[:160]
            raise InputError(
                f"{OPTION} {self.name} cannot be loaded ({type(error).__name__}: {said}): expected a folder "
                "with config.json, model.safetensors, preprocessor_config.json and a tokenizer"
            ) from None
        return made.to(self.device, self.dtype).eval(), prepares, tokenizer

    @abstractmethod
    def _load(self) -> tuple[Any, Any, Any]:
        """Load the model, what prepares its media, and its tokenizer where it reads words."""

    def _weights(self, cls: Any) -> Any:
        """Return a model of a class with all of its weights."""
        made, said = cls.from_pretrained(
            self.folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if lacking := sorted(said["missing_keys"]):
            raise InputError(
                f"{OPTION} {self.name} lacks {len(lacking)} weights, such as {lacking[0]}: expected a whole "
                f"{cls.__name__}"
            )
        return made

    def _tokenizer(self) -> Any:
        """Return the tokenizer, or None where words are not read."""
        if not any(map(in_words, self.modalities)):
            return None
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    def _words(self, texts: list[Any]) -> Any:
        """Return the features of sentences, of which what is too long is cut off."""
        model, _, tokenizer = self._parts
        config = model.config.text_config
        most = config.max_position_embeddings - self._reserved(config)
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
        inputs = {name: inputs[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return _pooled(model.get_text_features(**inputs))

    def _reserved(self, config: Any) -> int:
        """Return how many positions of the text encoder no token can have."""
        return 0

    @torch.no_grad()
    def embed(self, modality: Modality, media: list[Any]) -> Any:
        """Return the projected features (N, D), as the model gives them."""
        return self._ways[modality](media).float().cpu().numpy()

    @property
    @abstractmethod
    def _ways(self) -> dict[Modality, Callable[[list[Any]], Any]]:
        """What embeds each modality."""


class Clip(_Pretrained):
    """A CLIPModel."""

    kind = "clip"
    reads = (TEXT, IMAGE, VIDEO)

    def _load(self) -> tuple[Any, Any, Any]:
        from transformers import AutoImageProcessor, CLIPModel

        prepares = AutoImageProcessor.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
        return self._weights(CLIPModel), prepares, self._tokenizer()

    def rate(self, modality: Modality) -> str:
        """Return the size of pictures, and how many frames of a clip are read."""
        pixels = f"{self._parts[0].config.vision_config.image_size} pixels"
        return {TEXT: "as a sentence", IMAGE: pixels, VIDEO: f"{pixels}, mean of {FRAMES} frames"}[modality]

    @property
    def _ways(self) -> dict[Modality, Callable[[list[Any]], Any]]:
        return {TEXT: self._words, IMAGE: self._pictures, VIDEO: self._clips}

    def _pictures(self, pictures: list[Any]) -> Any:
        """Return the features of pictures."""
        model, prepares, _ = self._parts
        inputs = prepares(
            images=[picture.permute(1, 2, 0).numpy() for picture in pictures], return_tensors="pt"
        )
        return _pooled(model.get_image_features(inputs["pixel_values"].to(self.device, self.dtype)))

    def _clips(self, clips: list[Any]) -> Any:
        """Return for each clip the mean direction of its frames."""
        found = []
        for clip in clips:
            at = torch.linspace(0, len(clip.frames) - 1, FRAMES).round().long()
            frames = self._pictures(list(clip.frames[at]))
            found.append(torch.nn.functional.normalize(frames.float(), dim=-1).mean(0))
        return torch.stack(found)


class Clap(_Pretrained):
    """A ClapModel. Of a sound that is longer than the model reads, the beginning is taken."""

    kind = "clap"
    reads = (TEXT, AUDIO)

    def _load(self) -> tuple[Any, Any, Any]:
        from transformers import ClapFeatureExtractor, ClapModel

        prepares = ClapFeatureExtractor.from_pretrained(self.folder, local_files_only=True)
        return self._weights(ClapModel), prepares, self._tokenizer()

    def rate(self, modality: Modality) -> str:
        """Return the sampling rate, and how much of a sound is read."""
        prepares = self._parts[1]
        most = prepares.nb_max_samples / prepares.sampling_rate
        return {TEXT: "as a sentence", AUDIO: f"{prepares.sampling_rate} Hz, first {most:g} s"}[modality]

    @property
    def _ways(self) -> dict[Modality, Callable[[list[Any]], Any]]:
        return {TEXT: self._words, AUDIO: self._sounds}

    def _reserved(self, config: Any) -> int:
        """RoBERTa counts positions from the one after the number of the padding token."""
        return int(config.pad_token_id) + 1

    def _sounds(self, sounds: list[Any]) -> Any:
        """Return the features of sounds."""
        model, prepares, _ = self._parts
        rate = prepares.sampling_rate
        waves = []
        for wave, own in sounds:
            count = min(prepares.nb_max_samples, max(1, round(len(wave) * rate / own)))
            waves.append(io.fit_audio(wave, own, rate, count).numpy())
        inputs = prepares(waves, sampling_rate=rate, return_tensors="pt")
        features = inputs["input_features"].to(self.device, self.dtype)
        return _pooled(model.get_audio_features(features, is_longer=inputs["is_longer"].to(self.device)))


def _pooled(found: Any) -> Any:
    """Return the features themselves, which newer versions of transformers wrap."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def _folder_of(name: str, source: str) -> Path:
    """Return the folder of a model, which is downloaded if it is named by a hub id."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise InputError(f"{OPTION} {name}: no such folder: expected one, or a hub id such as 'owner/name'")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # offline, unknown, private: the hub has a class for each
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{OPTION} {name} is no folder here and cannot be had from the hub ({reason}): check its name"
        ) from None
