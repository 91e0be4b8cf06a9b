"""CoDiModel holds the parts of a model under their modalities. It holds them; it does not sample.

Letters: B batch, D width of the prompt space.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from codi.modalities import Attribute, kind_of
from codi.modalities import lengths as lasting
from codi.protocols import Autoencoder, Denoiser, PromptEncoder, Upscaler
from codi.types import SIZES, InputError, Modality, ModalitySpec, listed

# Which flat component serves which modality.
AUTOENCODERS = Attribute("autoencoder")
TOWERS = Attribute("tower")
DENOISERS = Attribute("denoiser")
UPSCALERS = Attribute("upscaler")


class CoDiModel:
    """The parts of a model, in dicts by modality.

    The dicts are filled from flat components. Those that serve one modality or several are named in
    `AUTOENCODERS`, `TOWERS` and `DENOISERS`; "environment_encoders" and "noisy_latent_encoders" each hold a
    network for every modality. A component may be missing; its modalities are then missing from the dict.

    Args:
        components: the components by their names; None stands for one that is missing.

    Attributes:
        autoencoders: the autoencoder of each modality.
        towers: the prompt tower of each modality.
        denoisers: the denoiser of each modality; pictures and clips may share one.
        upscalers: what makes decoded media of a modality larger, of those that have one.
        environment_encoders: the environment encoder of each modality.
        attends_to: for each modality, those whose environments its denoiser attends to.
        noisy_latent_encoders: the noisy-latent encoder of each modality.
        estimates_from: for each modality, those from which it receives partner estimates.
        specs: the geometry of each modality that the model can encode, as it makes it unasked.
        prompt_specs: the same for prompts: a tower may take them in another geometry.
    """

    def __init__(self, components: Mapping[str, Any]):
        self.autoencoders = _present(AUTOENCODERS, components, Autoencoder)
        self.towers = _present(TOWERS, components, PromptEncoder)
        denoisers = _present(DENOISERS, components, Denoiser)
        self.denoisers = {m: denoiser for m, denoiser in denoisers.items() if kind_of(m).serves(denoiser)}
        self.upscalers = _present(UPSCALERS, components, Upscaler)
        environment_encoders = components.get("environment_encoders")
        self.environment_encoders = _hooked_encoders(environment_encoders)
        self.attends_to = {} if environment_encoders is None else environment_encoders.attends_to()
        noisy_latent_encoders = components.get("noisy_latent_encoders")
        self.noisy_latent_encoders = _hooked_encoders(noisy_latent_encoders)
        self.estimates_from = {} if noisy_latent_encoders is None else noisy_latent_encoders.attends_to()
        self.specs = self._specs()
        self.prompt_specs = dict(self.specs)
        for m, tower in self.towers.items():
            own = tower.prompt_specs.get(m)
            if own is not None:
                self.prompt_specs[m] = own

    @property
    def context_dim(self) -> int:
        """The width D of the prompt space."""
        dims = {tower.dim for tower in self.towers.values()}
        dims |= {denoiser.config.context_dim for denoiser in self.denoisers.values()}
        assert len(dims) == 1, f"parts disagree about the width of the prompt space: {sorted(dims)}"
        return dims.pop()

    def check(
        self, given: Iterable[Modality], outputs: Sequence[Modality], partners: Iterable[Modality]
    ) -> None:
        """Check that these parts can take the prompts, make the outputs and keep time with the partners.

        Args:
            given: the modalities of the prompts.
            outputs: the modalities that are made.
            partners: the clean partners: modalities that were given and that the outputs keep time with.

        Raises:
            InputError: for the first modality that cannot be taken or made, and where a part lacks words that
                it needs.
        """
        for modality in outputs:
            if modality not in self.denoisers or modality not in self.autoencoders:
                able = listed(set(self.denoisers) & set(self.autoencoders))
                raise InputError(
                    f"this model cannot make {modality}: it makes {able}{self._lacking(modality)}"
                )
        for modality in given:
            if modality not in self.towers:
                raise InputError(f"this model takes no {modality} prompt: it takes {listed(self.towers)}")
        for modality in partners:
            if (
                modality in outputs
                or modality not in self.attended(outputs)
                or modality not in self.autoencoders
            ):
                raise InputError(
                    f"{modality} cannot be held in step: expected an input that is no output, and a model "
                    "that can hear it"
                )
        for modality in given:
            self.towers[modality].check_vocabulary()
        for modality in outputs:
            self.autoencoders[modality].check_vocabulary()

    def attended(self, outputs: Iterable[Modality]) -> set[Modality]:
        """Return the modalities whose environments some of the outputs attend to."""
        attended: set[Modality] = set()
        for output in outputs:
            attended.update(self.attends_to.get(output, ()))
        return attended & set(self.environment_encoders)

    def estimating(self, outputs: Iterable[Modality]) -> set[Modality]:
        """Return the modalities whose partner estimates reach some of the outputs."""
        estimating: set[Modality] = set()
        for output in outputs:
            estimating.update(self.estimates_from.get(output, ()))
        return estimating & set(self.noisy_latent_encoders)

    def _lacking(self, modality: Modality) -> str:
        """Name the denoiser or the autoencoder in brackets, where a modality lacks just one of the two."""
        denoises = modality in self.denoisers
        encodes = modality in self.autoencoders
        if denoises == encodes:
            return ""
        return f" (of {modality} it lacks the {'autoencoder' if denoises else 'denoiser'})"

    def sized(self, **sizes: float | None) -> dict[Modality, ModalitySpec]:
        """Return the geometry of every modality at other sizes than the model's own.

        Args:
            **sizes: sizes by name (`codi.types.SIZES`); None leaves the model's own.

        Returns:
            The geometry of each modality in `specs`.

        Raises:
            InputError: for a size that the parts cannot make.
        """
        assert set(sizes) <= set(SIZES), f"unknown sizes among {sorted(sizes)}"
        specs = {}
        for m, spec in self.specs.items():
            specs[m] = kind_of(m).resized(spec, sizes, self.autoencoders[m], self.denoisers.get(m))
        return specs

    def settle_sizes(
        self, sizes: Mapping[str, float | None], made: Sequence[Modality], lengths: str = "agree"
    ) -> tuple[dict[str, float | None], list[str]]:
        """Return the arguments of `sized` for what is made, and notes on what was cut.

        Args:
            sizes: the sizes that a call names; None for those that it leaves open.
            made: the modalities that are made.
            lengths: "agree": a clip and a sound that are made together last equally long (see
                `codi.modalities.lengths`); "free": each is as long as it is named.

        Returns:
            The sizes by name, and a sentence for each thing that was cut.

        Raises:
            InputError: for sizes that cannot be, or contradict each other.
        """
        if lengths not in lasting.LENGTHS:
            raise InputError(f"lengths is {lengths!r}: expected 'agree' or 'free'")
        seconds = sizes.get("audio_length_in_s")
        # True is an int in Python, and would pass for 1 s.
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf
        ):
            raise InputError(f"audio_length_in_s is {seconds!r}: expected a number above 0")
        # Each size by itself first, so that an error names the size that was given, not one derived from it.
        self.sized(**lasting.own_sizes(sizes, made))
        return lasting.agreed(sizes, made, self.specs, self.denoisers, lengths)

    def untrained(self, specs: Mapping[Modality, ModalitySpec], made: Iterable[Modality]) -> str | None:
        """Say in words how the geometry of what is made differs from what the model was trained at.

        Args:
            specs: the geometry of each modality in this call.
            made: the modalities that are made.

        Returns:
            One sentence that names both sides, or None where nothing differs.
        """
        here: dict[str, None] = {}  # words, each once and in order
        there: dict[str, None] = {}
        for modality in [m for m in Modality if m in made and m in specs]:
            in_words = kind_of(modality).size_in_words
            for now, trained in zip(in_words(specs[modality]), in_words(self.specs[modality])):
                if now != trained:
                    here[now] = None
                    there[trained] = None
        if not here:
            return None
        return f"made at {', '.join(here)}; this model was trained at {', '.join(there)}"

    def _specs(self) -> dict[Modality, ModalitySpec]:
        """Return the geometry of every modality whose parts tell it."""
        specs = {}
        for m, part in self.autoencoders.items():
            spec = kind_of(m).describe(part, self.denoisers.get(m))
            if spec is not None:
                specs[m] = spec
        return specs


class HookedEncoder:
    """One environment encoder or noisy-latent encoder of a component that holds several.

    When it is called, the hooks of the whole component (offloading) act first.

    Args:
        component: the component that holds the encoder, and whose hooks act.
        encoder: the network that is called.
    """

    def __init__(self, component: Any, encoder: Any):
        self.component = component
        self.encoder = encoder

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the encoder takes latents and prompts."""
        return self.component.dtype

    def precompute(self, x: Tensor) -> Any:
        """Return what is the same in many calls with latents shaped like x."""
        return _hooked(self.component, self.encoder.precompute, x)

    def __call__(self, *inputs: Tensor, **options: Any) -> Any:
        """Call the encoder's `forward` with these arguments, after the component's hooks."""
        return _hooked(self.component, self.encoder, *inputs, **options)


def _hooked_encoders(component: Any) -> dict[Modality, HookedEncoder]:
    """Return the encoders of a component by modality, none where it is missing."""
    if component is None:
        return {}
    return {m: HookedEncoder(component, encoder) for m, encoder in component.by_modality().items()}


@apply_forward_hook
def _hooked(component: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make a call after the hooks of its component, which diffusers looks for in the first argument."""
    return call(*args, **kwargs)


def _present(
    table: Mapping[Modality, str], components: Mapping[str, Any], contract: type
) -> dict[Modality, Any]:
    """Return the components that are there. Raises `InputError` for one that does not keep the contract."""
    found = {m: components[name] for m, name in table.items() if components.get(name) is not None}
    for modality, part in found.items():
        if not isinstance(part, contract):
            raise InputError(
                f"{table[modality]} is of class {type(part).__name__}: expected one that inherits from "
                f"codi.protocols.{contract.__name__}"
            )
    return found
