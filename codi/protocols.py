"""Every contract between the parts of codi, as base classes with their defaults, shapes and capabilities.

What a part can do is stated by the attributes and methods here, and never found out by probing. Letters in
shapes: B batch, L tokens, D width; all of them are listed in `codi.types`.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codi.types import Modality, ModalitySpec


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The tokens that a denoiser attends to: those of all its partners, concatenated.

    Attributes:
        tokens: (B, L, D) the tokens.
        times: (B, L) seconds at the mid-point of each token's interval; NaN for a token without time.
    """

    tokens: Tensor
    times: Tensor

    @staticmethod
    def cat(parts: "list[Environment]") -> "Environment":
        """Concatenate the tokens of all `parts`, one part after another."""
        return Environment(
            tokens=torch.cat([part.tokens for part in parts], dim=1),
            times=torch.cat([part.times for part in parts], dim=1),
        )

    def during(self, seconds: Sequence[tuple[float, float]]) -> "Environment":
        """Return the tokens whose times lie within some intervals (begin, end) of seconds; maybe none."""
        kept = torch.zeros_like(self.times[0], dtype=torch.bool)
        for begin, end in seconds:
            kept |= (self.times[0] >= begin) & (self.times[0] < end)
        return Environment(tokens=self.tokens[:, kept], times=self.times[:, kept])

    def repeated(self, count: int) -> "Environment":
        """Return the environment with the whole batch repeated `count` times."""
        return Environment(tokens=self.tokens.repeat(count, 1, 1), times=self.times.repeat(count, 1))

    def to(self, dtype: torch.dtype) -> "Environment":
        """Return the environment with its tokens in another precision; times stay as they are."""
        return Environment(tokens=self.tokens.to(dtype), times=self.times)


class Autoencoder:
    """Turns raw media of one modality into normalised latents, and latents back into raw media.

    Latents have mean 0 and variance 1 over the training set, per channel. Raw pictures and frames are float
    in [-1, 1], (B, 3, H, W) or (B, F, 3, H, W); raw sound is float in [-1, 1], (B, samples); raw text is a
    `list[str]`.

    Attributes:
        any_length: whether it takes sounds of any length, which are then not filled up with silence.
    """

    any_length: bool = False

    @abstractmethod
    def encode(self, raw: Any, generator: torch.Generator | None = None) -> Tensor:
        """Encode raw media into latents.

        Args:
            raw: raw media as the class describes them.
            generator: the latent is drawn from the posterior by this generator; without one it is the
                posterior's mean.

        Returns:
            The latents (B, *latent_shape).
        """

    @abstractmethod
    def decode(self, latent: Tensor) -> Any:
        """Decode latents into raw media.

        Args:
            latent: (B, *latent_shape) normalised latents.

        Returns:
            Raw media as the class describes them.
        """

    def check_vocabulary(self) -> None:
        """Raise `InputError` if this part needs a vocabulary that it does not have."""


class PromptEncoder:
    """A prompt tower: turns raw media of one modality into tokens of the prompt space, one for each sample.

    A token is L2-normalised, and the space is the same for all modalities.

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
        """Embed raw media in the prompt space.

        Args:
            raw: raw media as `Autoencoder` describes them.

        Returns:
            One token of length one for each sample, (B, D).
        """

    def features(self, raw: Any) -> Tensor:
        """Return the features (B, D) of raw media before the bridge, which alignment with text trains.

        A tower that is used as it is and never trained has none: `NotImplementedError`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no features to be aligned")

    @property
    def reads_words(self) -> bool:
        """Whether it has what it takes to read sentences, if it is a text tower at all."""
        return False

    def check_vocabulary(self) -> None:
        """Raise `InputError` if this part needs a vocabulary that it does not have."""

    def trunk_shape(self, geometry: Mapping[str, Any], clips: bool = False) -> tuple[int, ...] | None:
        """Return the shape of one input of `trunk`, for a dry run.

        Args:
            geometry: what a training configuration says of the media (`ModalityKind.geometry_keys`).
            clips: whether these are clips, for a tower that takes pictures and clips.

        Returns:
            The shape without the batch; None where the cost of the tower is not known.
        """
        return None

    def trunk(self, inputs: Tensor) -> Tensor:
        """Return (B, D) of inputs (B, *trunk_shape): the part of `features` that costs."""
        return self.features(inputs)


class PromptBatch:
    """Prompts of a batch in a form that only one denoiser knows, in place of prompt tokens.

    Attributes:
        dtype: the precision in which the denoiser takes latents.
    """

    dtype: torch.dtype

    @staticmethod
    @abstractmethod
    def cat(prompts: Any) -> "PromptBatch":
        """Return the samples of several prompts of one denoiser, one prompt after another."""


class Control:
    """What a control adds to the features inside a denoiser, at each of its sites (`Denoiser.control_sites`).

    It was made for one output and its geometry, and serves every step.
    """

    @abstractmethod
    def residual(self, site: int, emb: Tensor) -> Tensor:
        """Return what is added to the features at a site.

        Args:
            site: the number of the site.
            emb: SiLU of the embedded timestep, (B, E).

        Returns:
            (B*F, C, H, W), with as many channels and of the extent that the features there have.
        """

    @abstractmethod
    def rows(self, rows: Tensor) -> "Control":
        """Return the control of some of the latents alone.

        Args:
            rows: (K,) which of the B latents.

        Returns:
            The same for K latents.
        """


@dataclass(frozen=True, kw_only=True)
class Weakening:
    """How a denoiser is made worse in a branch that guidance leads away from.

    Attributes:
        blocks: which of its blocks that have a transformer, counted from 0 in the order of execution; none
            for the one in the middle.
        perturbs_attention: whether self-attention becomes the identity there (arXiv 2403.17377); else the
            transformers of these blocks are passed over.
    """

    blocks: tuple[int, ...] = ()
    perturbs_attention: bool = False


class Denoiser:
    """The network that predicts the noise (or the velocity v) in a noisy latent of its modality.

    Attributes:
        conditions: the names of the conditions that `forward` takes (`codi.conditions`). One that names
            "known" takes `known` by keyword as well, a `codi.conditions.known.KnownLatent` with as many rows
            as there are latents, or None.
        batches_prompts: whether one call takes n prompts for each sample, and computes only once what comes
            before the first prompt. Then an environment has one row for each prompt that attends to it, and
            those prompts come first.
        null_first: whether branches that drop a condition come first in a batch of several, as in pipelines
            of diffusers. Rounding depends on the place in a batch.
        one_branch_per_call: whether each branch of guidance is a call of its own.
    """

    conditions: tuple[str, ...] = ("prompt", "partners")
    batches_prompts: bool = False
    null_first: bool = False
    one_branch_per_call: bool = False

    @property
    def num_transformers(self) -> int:
        """How many of its blocks have a transformer that a `Weakening` can name.

        A denoiser with none cannot be weakened, and its `forward` never gets `weakening`.
        """
        return 0

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call `forward`; a network inherits the `__call__` of `nn.Module` instead."""
        return self.forward(*inputs, **options)

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        prompt: Any,
        partners: Environment | None = None,
        rate: float | None = None,
        weakening: Weakening | None = None,
        control: Sequence[Control] = (),
    ) -> Tensor:
        """Predict the noise (or v) in a noisy latent.

        Args:
            x: (B, *latent_shape) noisy latent.
            t: (B,) diffusion timesteps.
            prompt: (B, L, D) prompt tokens, or what `precompute` made of them; n * B rows of tokens where the
                denoiser batches prompts.
            partners: the environment of the partners; None if the output is generated alone.
            rate: latent steps per second, where it differs from the one in the configuration.
            weakening: how the denoiser is made worse in this call; None for not at all.
            control: what steers it inside. It is given only to a denoiser that has sites for it.

        Returns:
            The prediction, of the shape of x; with n prompts for each sample its batch is n * B.
        """

    def precompute(self, prompt: Tensor, x: Tensor) -> Any:
        """Compute what does not depend on the timestep, once for a prompt and latents shaped like x.

        Args:
            prompt: (B, L, D) prompt tokens.
            x: (B, *latent_shape) a latent of the shape that `forward` will be called with.

        Returns:
            What `forward` takes as its `prompt`; by default the prompt tokens themselves.
        """
        return prompt

    def refit(self, prompt: Any, token: Tensor, fused: Tensor) -> Any:
        """Return a prompt that says as well what partner estimates add to it.

        Args:
            prompt: what `forward` takes for the prompt alone.
            token: (B, L, D) the prompt in the shared prompt space.
            fused: (B, L, D) the same, fused with what the partners seem to become
                (`codi.joint.partner_estimates`).

        Returns:
            What `forward` takes for the fused prompt; by default the fused tokens themselves.
        """
        return fused

    def combine(
        self,
        guidance: Any,
        answers: Mapping[frozenset[str], Tensor],
        weights: Mapping[frozenset[str], float],
        memory: dict[str, Any] | None = None,
    ) -> Tensor:
        """Return the guided answer (B, ...): by default as `codi.diffusion.guidance` states it.

        Args:
            guidance: the guidance of this output, a `codi.diffusion.guidance.Guidance`.
            answers: (B, ...) the answer in each branch, which is the set of the conditions that it drops.
            weights: the weight of each branch.
            memory: what the guider keeps from step to step of this output.

        Returns:
            (B, ...).
        """
        return guidance.combine(answers, weights, memory)

    def control_sites(self) -> tuple[tuple[int, int], ...]:
        """Return the places at which a control may add to its features, in the order of execution.

        Returns:
            For each site the number of channels, and how often space was halved before it; none by default,
            for a denoiser that takes no control.
        """
        return ()

    def joint_adapters(self) -> Mapping[str, nn.Module]:
        """Return the modules by which it attends to its partners, by their names in it; none by default."""
        return {}


class EnvironmentEncoder:
    """Turns a noisy latent into its environment: the tokens that its partners attend to.

    Attributes:
        dtype: the precision in which it takes latents; None stands for that of the prompts.
    """

    dtype: torch.dtype | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call `forward`; a network inherits the `__call__` of `nn.Module` instead."""
        return self.forward(*inputs, **options)

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, rate: float | None = None, cache: Any = None) -> Environment:
        """Encode a noisy latent into its environment.

        Args:
            x: (B, *latent_shape) noisy latent.
            t: (B,) its timestep.
            rate: latent steps per second, where it differs from the one in the configuration.
            cache: what `precompute` made for latents of this shape.

        Returns:
            The environment: tokens (B, L, D) and their times (B, L) in seconds.
        """

    def precompute(self, x: Tensor) -> Any:
        """Compute what is the same in all calls with latents shaped like x.

        Args:
            x: (B, *latent_shape) a latent of the shape that `forward` will be called with.

        Returns:
            What `forward` takes as its `cache`; None if nothing is the same.
        """
        return None


class NoisyLatentEncoder:
    """Estimates from a noisy latent and its prompt what the clean media will say.

    The estimate is a token of the prompt space, the shorter the less certain. This is the noised CLIP of
    GLIDE (arXiv 2112.10741, section 2.4).

    Attributes:
        dtype: the precision in which it takes latents and prompts; None stands for that of the prompts.
    """

    dtype: torch.dtype | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call `forward`; a network inherits the `__call__` of `nn.Module` instead."""
        return self.forward(*inputs, **options)

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, context: Tensor, rate: float | None = None) -> Tensor:
        """Estimate the prompt token of what a noisy latent is becoming.

        Args:
            x: (B, *latent_shape) noisy latent.
            t: (B,) its timestep.
            context: (B, L, D) the tokens of the prompt that it is generated from.
            rate: latent steps per second, where it differs from the one in the configuration.

        Returns:
            One token (B, D) for each sample, the shorter the less certain.
        """


class Upscaler:
    """Makes pictures larger: the second model of a cascade, which takes decoded pictures and frames."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """How many times larger a side becomes."""

    @property
    @abstractmethod
    def max_noise_aug_strength(self) -> float:
        """The most noise that it can be told of (noise-conditioning augmentation)."""

    @abstractmethod
    def upscale(
        self, small: Tensor, generator: torch.Generator, noise_aug_strength: float, num_inference_steps: int
    ) -> Tensor:
        """Make one picture, or the frames of one clip, larger, all from the same noise.

        Args:
            small: (B, 3, h, w) in [-1, 1].
            generator: the source of the noise, on the CPU.
            noise_aug_strength: the deviation of the noise that is put over `small` first, from 0 to
                `max_noise_aug_strength`.
            num_inference_steps: the steps of the sampler.

        Returns:
            (B, 3, factor h, factor w) in [-1, 1], float32.
        """


class ByModality:
    """A component that holds one network for each of several modalities, such as environment encoders."""

    @abstractmethod
    def by_modality(self) -> Mapping[Modality, Any]:
        """Return the networks by their modalities."""

    @abstractmethod
    def attends_to(self) -> Mapping[Modality, Collection[Modality]]:
        """Return, for each modality, the modalities that it attends to or is given estimates of."""
