"""A pipeline that takes LoRA and learned words in, and gives them up again."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codi.adapters.files import TABLE, TOWER, Lora, check_base, check_scale, read_lora, read_words
from codi.models import lora, words
from codi.types import InputError


class AdapterMixin:
    """What `CoDiPipeline` can do with LoRA and learned words; names as in diffusers. Base weights are never touched.

    Adapters belong to the parts: pipelines of the same parts (`from_pipe`) have the same ones, with the same scales.
    """

    @property
    def _loras(self) -> dict[str, float]:
        """Name -> scale of every LoRA in a part, in the order of loading; one put there by other means counts fully."""
        loaded: dict[str, float] = {}
        for part in self._adapted():
            loaded |= {name: part.lora_scales.get(name, 1.0) for name in part.peft_config}
        return loaded

    def load_lora_weights(self, source: str | Path, *, adapter_name: str | None = None, scale: float = 1.0, any_base: bool = False) -> str:
        """Adds the LoRA in a folder or file to what is active; returns its name, by default that of its folder.

        any_base: also for other weights than those it was trained on, as long as layers and shapes fit.
        Raises `InputError` for a LoRA of another model, naming what differs.
        """
        lora.need_peft()
        found = read_lora(source)
        name = adapter_name or _free_name(found.path.parent.name, self._loras)
        if name in self._loras or "." in name:
            raise InputError(
                f"LoRA name {name!r}: expected one without dots that is not in use (in use: {', '.join(self._loras) or 'none'})"
            )
        check_scale(name, scale)
        for part, tensors in found.parts.items():
            self._check_lora(found, part, tensors, any_base)
        for part, tensors in found.parts.items():
            settings = {"r": found.rank, "lora_alpha": found.alpha, "target_modules": lora.layers_of(tensors)}
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are meant
                getattr(self, part).load_lora_adapter(dict(tensors), prefix=None, adapter_name=name, metadata=settings)
        self._apply_loras({name: scale})
        return name

    def set_adapters(self, adapter_names: str | list[str], adapter_weights: float | list[float] | None = None) -> None:
        """Makes these LoRAs active with these scales (1 without), and no others."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        scales = list(adapter_weights) if isinstance(adapter_weights, (list, tuple)) else [adapter_weights] * len(names)
        if len(scales) != len(names):
            raise InputError(f"{len(names)} LoRA names and {len(scales)} scales: expected one for each")
        for name, scale in zip(names, scales):
            _known(name, self._loras)
            check_scale(name, 1.0 if scale is None else scale)
        chosen = {name: 1.0 if scale is None else float(scale) for name, scale in zip(names, scales)}
        self._apply_loras({name: chosen.get(name, 0.0) for name in self._loras})

    def get_active_adapters(self) -> list[str]:
        """Names of the LoRAs that act."""
        return [name for name, scale in self._loras.items() if scale]

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Takes these LoRAs away."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for name in names:
            _known(name, self._loras)
        for part in self._adapted():
            if set(part.peft_config) <= set(names):
                part.unload_lora()
            else:
                part.delete_adapters([name for name in names if name in part.peft_config])
            part.lora_scales = {name: scale for name, scale in part.lora_scales.items() if name not in names}
        self._apply_loras({})

    def unload_lora_weights(self) -> None:
        """Takes all LoRAs away; what is left is the model as it was, to the bit."""
        for part in self._adapted():
            part.unload_lora()
            part.lora_scales = {}

    def load_textual_inversion(self, source: str | Path, *, token: str | None = None, any_base: bool = False) -> list[str]:
        """Teaches the text tower the words in a folder or file, and returns them; `token` is another name for the word, if it is one."""
        learned, base, probes = read_words(source)
        tower = getattr(self, TOWER)
        if tower is None:
            raise InputError(f"learned words need a text tower, which this model lacks: {source} cannot be used")
        if token is not None and len(learned) != 1:
            raise InputError(f"{source} holds {len(learned)} words: another name can be given to a single one only")
        if token is not None:
            learned = dict(zip([token], learned.values()))
        width = tower.text.config.hidden_size
        fits = all(rows.ndim == 2 and rows.shape[1] == width for rows in learned.values())
        if fits and not any_base:  # where it does not fit, `add_words` says so
            table = tower.text.get_input_embeddings()
            found = {TABLE: lora.probe(getattr(table, "table", table).weight)}
            check_base(str(source), base, probes[TOWER], found, TOWER)
        words.add_words(tower, learned)
        return list(learned)

    def unload_textual_inversion(self) -> None:
        """Takes all learned words away."""
        if getattr(self, TOWER) is not None:
            words.remove_words(getattr(self, TOWER))

    def check_unadapted(self) -> None:
        """Raises `InputError` while a LoRA or learned words are loaded: a model folder holds a model."""
        if self._loras:
            raise InputError(f"LoRA {next(iter(self._loras))!r} is loaded: call unload_lora_weights() before save_pretrained()")
        if isinstance(getattr(getattr(self, TOWER), "tokenizer", None), words.Wordbook):
            raise InputError("learned words are loaded: call unload_textual_inversion() before save_pretrained()")

    def _adapted(self) -> list[lora.Skeleton]:
        """The parts with a LoRA."""
        denoisers = [part for part in self.components.values() if isinstance(part, lora.Skeleton)]
        return [part for part in denoisers if getattr(part, "peft_config", None)]

    def _apply_loras(self, changed: Mapping[str, float]) -> None:
        """Gives LoRAs these scales, the others keep theirs; one of scale 0 is left out of the sum, to change no bit."""
        scales = self._loras | dict(changed)
        for part in self._adapted():
            part.lora_scales = {name: scales[name] for name in part.peft_config}
            active = {name: scale for name, scale in part.lora_scales.items() if scale}
            if active:
                part.enable_lora()
                part.set_adapters(list(active), list(active.values()))
            else:
                part.disable_lora()

    def _check_lora(self, found: Lora, part: str, tensors: Mapping[str, Tensor], any_base: bool) -> None:
        denoiser = self.components.get(part)
        if not isinstance(denoiser, lora.Skeleton):
            raise InputError(f"{found.path} adapts the part {part!r} of the model {found.base!r}, which this model lacks")
        if reason := lora.misfit(denoiser, tensors, found.rank):
            raise InputError(f"{found.path} was trained on the model {found.base!r} and does not fit the {part} of this one: {reason}")
        if not any_base:
            here = {layer: lora.probe(lora.base_layer(denoiser, layer).weight) for layer in found.probes[part]}
            check_base(str(found.path), found.base, found.probes[part], here, part)


def _free_name(wanted: str, taken: Mapping[str, Any]) -> str:
    name = wanted.replace(".", "-") or "lora"
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)


def _known(name: str, loaded: Mapping[str, Any]) -> None:
    if name not in loaded:
        raise InputError(f"no LoRA named {name!r} is loaded: expected one of {', '.join(loaded) or 'none'}")
