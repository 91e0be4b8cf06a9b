"""Every contract between the parts of codi: base classes with their defaults, shapes and capabilities.

What a part can do is asked of it by the attributes and methods here, never found out by probing.
Letters: see `codi.types`.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codi.types import Modality, ModalitySpec


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a denoiser attends to of its partners: the concatenated tokens of all the others.

    Attributes:
        tokens: (B, L, D) the tokens.
        times: (B, L) seconds at the mid-point of each token's interval; NaN for a token without time.
    """

    tokens: Tensor
    times: Tensor

    @staticmethod
    def cat(parts: "list[Environment]") -> "Environment":
        """Returns all tokens of `parts`, one part after another."""
        return Environment(
            tokens=torch.cat([part.tokens for part in parts], dim=1),
            times=torch.cat([part.times for part in parts], dim=1),
        )

    def repeated(self, count: int) -> "Environment":
        """Returns the batch `count` times, one after another."""
        return Environment(tokens=self.tokens.repeat(count, 1, 1), times=self.times.repeat(count, 1))

    def to(self, dtype: torch.dtype) -> "Environment":
        """Returns the environment with its tokens in another precision; times stay as they are."""
        return Environment(tokens=self.tokens.to(dtype), times=self.times)


class Autoencoder:
    """Raw media <-> normalised latents (zero mean, unit variance over the training set, per channel).

    Raw values: pictures and frames float in [-1, 1], (B, 3, H, W) or (B, F, 3, H, W); sound float in [-1, 1],
    (B, samples); text `list[str]`.

    Attributes:
        any_length: whether it takes sounds of any length, which are then not filled up with silence.
    """

    any_length: bool = False

    @abstractmethod
    def encode(self, raw: Any, generator: torch.Generator | None = None) -> Tensor:
        """Returns the latent (B, *latent_shape): the posterior's mean without a generator, else a draw from
        it.
        """

    @abstractmethod
    def decode(self, latent: Tensor) -> Any:
        """Returns raw media from a latent (B, *latent_shape)."""

    def check_vocabulary(self) -> None:
        """Raises `InputError` where words are missing that this part needs."""


class PromptEncoder:
    """A prompt tower: raw media of one modality -> one L2-normalised token in the shared prompt space.

    Attributes:
        dim: D, the width of the prompt space.
        any_length: whether it takes sounds of any length, which are then not filled up with silence.
        prompt_specs: the geometry in which its prompts come, by modality, where that is not the geometry of
            what the model makes.
        word_files: what words it was taught, for records (`codi.adapters`).
    """

    dim: int
    any_length: bool = False
    prompt_specs: Mapping[Modality, ModalitySpec] = {}
    word_files: tuple[dict[str, Any], ...] = ()

    @abstractmethod
    def embed(self, raw: Any) -> Tensor:
        """Return the tokens (B, D) of raw media as in `Autoencoder`: in training, bridged `features`."""

    def features(self, raw: Any) -> Tensor:
        """Return (B, D) of raw media before the bridge; what its alignment with text trains.

        Raises:
            NotImplementedError: for a tower that is used as it is and never trained.
        """
        raise NotImplementedError(f"{type(self).__name__} has no features to be aligned")

    @property
    def reads_words(self) -> bool:
        """Whether it has what it takes to read sentences, if it is a text tower at all."""
        return False

    def check_vocabulary(self) -> None:
        """Raise `InputError` where words are missing that this part needs."""

    def trunk_shape(self, geometry: Mapping[str, Any], clips: bool = False) -> tuple[int, ...] | None:
        """Return the shape of one input of `trunk`, for a dry run; None where its cost is not known.

        Args:
            geometry: what a training configuration says of the media (`ModalityKind.geometry_keys`).
            clips: whether these are clips, for a tower that takes pictures and clips.
        """
        return None

    def trunk(self, inputs: Tensor) -> Tensor:
        """Return (B, D) of inputs (B, *trunk_shape): the part of `features` that costs."""
        return self.features(inputs)


class Denoiser:
    """Predicts noise (or v) for a latent of its modality.

    Attributes:
        conditions: the names of the conditions that `forward` takes (`codi.conditions`).
        batches_prompts: whether one call takes n prompts for each sample, and computes once what comes
            before the first prompt; an environment then has a row for each prompt that attends to it, and
            those come first.
    """

    conditions: tuple[str, ...] = ("prompt", "partners")
    batches_prompts: bool = False

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Calls `forward`, as `nn.Module` does for networks, which have that one."""
        return self.forward(*inputs, **options)

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: Any,
        partners: Environment | None = None,
        rate: float | None = None,
    ) -> Tensor:
        """Returns the prediction, a tensor of the shape of x.

        Args:
            x: (B, *latent_shape) noisy latent.
            t: (B,) diffusion timesteps.
            prompt: (B, L, D) prompt tokens, or what `precompute` made of them.
            partners: the environment of the others, None when it generates alone.
            rate: latent steps per second, where it differs from the one in the configuration.
        """

    def precompute(self, prompt: Tensor, x: Tensor) -> Any:
        """Returns what does not depend on the timestep: made once for a prompt and latents shaped like x."""
        return prompt

    def joint_adapters(self) -> Mapping[str, nn.Module]:
        """Returns the modules by which it attends to its partners, by their names in it; none without any."""
        return {}


class EnvironmentEncoder:
    """A noisy latent -> the tokens that its partners attend to.

    Attributes:
        dtype: the precision in which it takes latents; None: that of the prompts.
    """

    dtype: torch.dtype | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Calls `forward`, as `nn.Module` does for networks, which have that one."""
        return self.forward(*inputs, **options)

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, rate: float | None = None, cache: Any = None) -> Environment:
        """Returns the environment of a latent.

        Args:
            x: (B, *latent_shape) noisy latent.
            t: (B,) its timestep.
            rate: as in `Denoiser`.
            cache: what `precompute` made for latents of this shape.
        """

    def precompute(self, x: Tensor) -> Any:
        """Returns what is the same in many calls with latents shaped like x; None where nothing is."""
        return None


class NoisyLatentEncoder:
    """A noisy latent and its prompt -> a token of the prompt space, the shorter the less certain (GLIDE's
    noised CLIP, arXiv 2112.10741, section 2.4).

    Attributes:
        dtype: the precision in which it takes latents and prompts; None: that of the prompts.
    """

    dtype: torch.dtype | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Calls `forward`, as `nn.Module` does for networks, which have that one."""
        return self.forward(*inputs, **options)

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, context: Tensor, rate: float | None = None) -> Tensor:
        """Returns the token (B, D) of what a latent seems to become.

        Args:
            x: (B, *latent_shape) noisy latent.
            t: (B,) its timestep.
            context: (B, L, D) the prompt tokens that it is made of.
            rate: as in `Denoiser`.
        """


class ByModality:
    """A component that holds one network for each of several modalities, such as environment encoders."""

    @abstractmethod
    def by_modality(self) -> Mapping[Modality, Any]:
        """Returns the networks under their modalities."""

    @abstractmethod
    def attends_to(self) -> Mapping[Modality, Collection[Modality]]:
        """Returns whom each modality attends to."""
