"""Let a pipeline load, scale, fuse and unload LoRA and learned words."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from codi.adapters.files import (
    LORA_FILE,
    TABLE,
    TOWER,
    WORDS_FILE,
    Lora,
    check_base,
    check_scale,
    named_file,
    read_lora,
    read_words,
)
from codi.adapters.given import sha256_of
from codi.border import plain
from codi.models import lora, words
from codi.types import InputError


class AdapterMixin:
    """The part of a pipeline that handles LoRA and learned words, with the names of diffusers.

    Weights of the model itself are changed by `fuse_lora` alone. Adapters belong to the parts: pipelines of
    the same parts (`from_pipe`) have the same adapters, with the same scales.
    """

    @property
    def _loras(self) -> dict[str, float]:
        """The scale of every LoRA by its name, in the order of loading.

        A LoRA that was put into a part by other means counts fully.
        """
        loaded: dict[str, float] = {}
        for part in self._adapted().values():
            loaded |= {name: part.lora_scales.get(name, 1.0) for name in part.peft_config}
        return loaded

    @property
    def _fused(self) -> dict[str, lora.Skeleton]:
        """The parts to whose weights LoRAs were added, by their names."""
        return {name: part for name, part in self._denoisers().items() if part.lora_fused is not None}

    def load_lora_weights(
        self,
        source: str | Path,
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        scale: float = 1.0,
        any_base: bool = False,
    ) -> str:
        """Add the LoRA in a folder or a file to those that are active.

        Args:
            source: the folder or file.
            adapter_name: the name of the LoRA; None for the name of its folder, or of its file where
                `weight_name` gives that.
            weight_name: the name of the file in the folder, where it is not the usual one.
            subfolder: the folder below `source` in which the file is, if any.
            scale: how much the LoRA counts.
            any_base: whether it may be used with other weights than those on which it was trained, as long as
                layers and shapes fit.

        Returns:
            The name of the LoRA.

        Raises:
            InputError: for a LoRA of another model, naming what differs; for a name that is in use; and while
                a LoRA is fused.
        """
        lora.need_peft()
        self._check_unfused("another LoRA is loaded")
        found = read_lora(named_file(source, LORA_FILE, weight_name, subfolder))
        usual = found.path.parent.name if weight_name is None else Path(weight_name).stem
        name = adapter_name or _free_name(usual, self._loras)
        if name in self._loras or "." in name:
            raise InputError(
                f"LoRA name {name!r}: expected one without dots that is not in use (in use: "
                f"{', '.join(self._loras) or 'none'})"
            )
        check_scale(name, scale)
        for part, tensors in found.parts.items():
            self._check_lora(found, part, tensors, any_base)
        for part, tensors in found.parts.items():
            settings = {"r": found.rank, "lora_alpha": found.alpha, "target_modules": lora.layers_of(tensors)}
            with warnings.catch_warnings():
                # Several LoRAs in one part are what is wanted here.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                getattr(self, part).load_lora_adapter(
                    dict(tensors), prefix=None, adapter_name=name, metadata=settings
                )
        file = {"path": str(found.path), "sha256": sha256_of(found.path)}
        for part in (getattr(self, part) for part in found.parts):
            part.lora_files = {**part.lora_files, name: file}
        self._apply_loras({name: float(scale)})
        return name

    def set_adapters(
        self, adapter_names: str | list[str], adapter_weights: float | list[float] | None = None
    ) -> None:
        """Make the named LoRAs active with these scales, and no others.

        Args:
            adapter_names: names of LoRAs that are loaded.
            adapter_weights: one scale for all of them, or a list with one for each; None, also in the list,
                for 1. A scale is one number for all of a LoRA.

        Raises:
            InputError: for unknown names, wrong scales, and while a LoRA is fused.
        """
        self._check_unfused("scales change")
        adapter_weights = plain(adapter_weights)
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        scales = (
            list(adapter_weights)
            if isinstance(adapter_weights, (list, tuple))
            else [adapter_weights] * len(names)
        )
        if len(scales) != len(names):
            raise InputError(f"{len(names)} LoRA names and {len(scales)} scales: expected one for each")
        for name, scale in zip(names, scales):
            _known(name, self._loras)
            check_scale(name, 1.0 if scale is None else scale)
        chosen = {name: 1.0 if scale is None else float(scale) for name, scale in zip(names, scales)}
        self._apply_loras({name: chosen.get(name, 0.0) for name in self._loras}, act=True)

    def get_active_adapters(self) -> list[str]:
        """Return the names of the LoRAs that are active."""
        acting = {name for part in self._adapted().values() if part.lora_acts for name in part.peft_config}
        return [name for name, scale in self._loras.items() if scale and name in acting]

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Return the names of the loaded LoRAs, active or not, by the parts of the model that they adapt."""
        return {name: list(part.peft_config) for name, part in self._adapted().items()}

    def disable_lora(self) -> None:
        """Set all LoRAs aside, also those that are loaded later, until `enable_lora` or `set_adapters`.

        Their scales are kept. While a LoRA is fused this raises `InputError`.
        """
        self._check_unfused("it is set aside")
        self._apply_loras(act=False)

    def enable_lora(self) -> None:
        """Let the LoRAs that `disable_lora` set aside act again, with the scales that they had.

        While a LoRA is fused this raises `InputError`.
        """
        self._check_unfused("it is enabled")
        self._apply_loras(act=True)

    def fuse_lora(
        self,
        components: str | list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = True,
        adapter_names: str | list[str] | None = None,
    ) -> None:
        """Add LoRAs to the weights of the model, so that they cost nothing more.

        `unfuse_lora` gives back the original weights to the bit, from copies that stay on the CPU until then.
        `unload_lora_weights` keeps the sum as the model and lets go of the copies, and `save_pretrained` then
        writes it.

        Args:
            components: names of the parts whose weights change; None for all that are adapted.
            lora_scale: a factor by which the scale of every LoRA that is fused is multiplied.
            safe_fusing: as in diffusers; here weights that are not finite are refused whatever it says.
            adapter_names: names of the LoRAs to fuse; None for all that are active. Others that are active go
                on beside the model.

        Raises:
            InputError: where no LoRA is active, a named one is not, a sum is not finite, or LoRAs are fused
                already. Weights are then as they were.
        """
        self._check_unfused("more are fused")
        check_scale("to fuse", lora_scale)
        names = self.get_active_adapters() if adapter_names is None else _as_list(adapter_names)
        for name in names:
            _known(name, self._loras)
        if asleep := [name for name in names if name not in self.get_active_adapters()]:
            raise InputError(
                f"LoRA {asleep[0]!r} is not active: call set_adapters() with its scale before fuse_lora()"
            )
        if not names:
            raise InputError(
                "no LoRA is active: expected load_lora_weights() or set_adapters() before fuse_lora()"
            )
        try:
            for part in self._parts(components, self._adapted()):
                part.lora_fused, part.lora_fused_names = (
                    lora.fuse(part, names, float(lora_scale)),
                    tuple(names),
                )
        except InputError:
            # Either all parts are fused or none: those before the one that failed are taken back.
            for part in self._fused.values():
                self._unfuse(part)
            raise
        self._apply_loras()

    def unfuse_lora(self, components: str | list[str] | None = None) -> None:
        """Take fused LoRAs out of the weights again, which then are to the bit what they were before.

        The LoRAs act beside the model as before. Where none is fused this raises `InputError`.

        Args:
            components: names of the parts whose weights change; None for all with a fused LoRA.
        """
        if not self._fused:
            raise InputError(
                "no LoRA is fused: after unload_lora_weights() what was fused is the model; load the model "
                "again"
            )
        for part in self._parts(components, self._fused):
            self._unfuse(part)
        self._apply_loras()

    def _unfuse(self, part: lora.Skeleton) -> None:
        lora.unfuse(part, part.lora_fused)
        part.lora_fused, part.lora_fused_names = None, ()

    @property
    def fused_loras(self) -> set[str]:
        """The names of the LoRAs that are fused and can be unfused."""
        return {name for part in self._fused.values() for name in part.lora_fused_names}

    @property
    def num_fused_loras(self) -> int:
        """The number of LoRAs that are fused and can be unfused."""
        return len(self.fused_loras)

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Take the named LoRAs away.

        Unknown names, and any while a LoRA is fused, raise `InputError`.
        """
        self._check_unfused("it is deleted")
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for name in names:
            _known(name, self._loras)
        for part in self._adapted().values():
            if set(part.peft_config) <= set(names):
                part.unload_lora()
            else:
                part.delete_adapters([name for name in names if name in part.peft_config])
            part.lora_scales = {name: scale for name, scale in part.lora_scales.items() if name not in names}
            part.lora_files = {name: file for name, file in part.lora_files.items() if name not in names}
        self._apply_loras()

    def unload_lora_weights(self) -> None:
        """Take all LoRAs away.

        What is left is the model as it was, to the bit; only LoRAs that are fused stay for good.
        """
        for part in self._adapted().values():
            part.unload_lora()
        for part in self._denoisers().values():
            part.lora_scales, part.lora_files, part.lora_acts = {}, {}, True
            part.lora_fused, part.lora_fused_names = None, ()

    def load_textual_inversion(
        self,
        source: str | Path,
        token: str | None = None,
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        any_base: bool = False,
    ) -> list[str]:
        """Teach the text tower the words in a folder or a file.

        Args:
            source: the folder or file.
            token: another name for the word, if there is only one.
            weight_name: the name of the file in the folder, where it is not the usual one.
            subfolder: the folder below `source` in which the file is, if any.
            any_base: whether words may be used that were learned for another table of words of the same
                width.

        Returns:
            The words, by the names under which prompts may use them.

        Raises:
            InputError: for words of another model, a model without a text tower, and `token` for several
                words.
        """
        path = named_file(source, WORDS_FILE, weight_name, subfolder)
        learned, base, probes = read_words(path)
        tower = getattr(self, TOWER)
        if tower is None:
            raise InputError(
                f"learned words need a text tower, which this model lacks: {source} cannot be used"
            )
        if token is not None and len(learned) != 1:
            raise InputError(
                f"{source} holds {len(learned)} words: another name can be given to a single one only"
            )
        if token is not None:
            learned = dict(zip([token], learned.values()))
        width = tower.text.config.hidden_size
        fits = all(rows.ndim == 2 and rows.shape[1] == width for rows in learned.values())
        if fits and not any_base:  # where it does not fit, `add_words` says so
            table = tower.text.get_input_embeddings()
            found = {TABLE: lora.probe(getattr(table, "table", table).weight)}
            check_base(str(source), base, probes[TOWER], found, TOWER)
        words.add_words(tower, learned)
        row = {"path": str(path), "sha256": sha256_of(path)} | ({} if token is None else {"token": token})
        tower.word_files = (*tower.word_files, row)
        return list(learned)

    def unload_textual_inversion(self) -> None:
        """Take all learned words away."""
        if getattr(self, TOWER) is not None:
            words.remove_words(getattr(self, TOWER))
            getattr(self, TOWER).word_files = ()

    def describe_adapters(self) -> dict[str, list[dict[str, Any]]]:
        """Return the files of the LoRAs that are active and of the learned words, for a record.

        Without a LoRA, or without learned words, their key is left out.
        """
        files: dict[str, Mapping[str, str]] = {}
        for part in self._adapted().values():
            files |= part.lora_files
        acting = set(self.get_active_adapters())
        loras = [
            {**files.get(name, {}), "scale": scale} for name, scale in self._loras.items() if name in acting
        ]
        tower = getattr(self, TOWER)
        learned = [] if tower is None else list(tower.word_files)
        return ({"loras": loras} if loras else {}) | ({"words": learned} if learned else {})

    def check_unadapted(self) -> None:
        """Raise `InputError` while a LoRA or learned words are loaded.

        A model folder holds a model, and no adapters.
        """
        self._check_unfused("it is saved, or unload_lora_weights() to save what was fused")
        if self._loras:
            raise InputError(
                f"LoRA {next(iter(self._loras))!r} is loaded: call unload_lora_weights() before "
                "save_pretrained()"
            )
        tower = getattr(self, TOWER)
        if tower is not None and tower.word_files:
            raise InputError(
                "learned words are loaded: call unload_textual_inversion() before save_pretrained()"
            )

    def _denoisers(self) -> dict[str, lora.Skeleton]:
        """Return the parts that can be adapted, by their names."""
        return {name: part for name, part in self.components.items() if isinstance(part, lora.Skeleton)}

    def _adapted(self) -> dict[str, lora.Skeleton]:
        """Return the parts with a LoRA, by their names."""
        return {name: part for name, part in self._denoisers().items() if getattr(part, "peft_config", None)}

    def _check_unfused(self, what: str) -> None:
        """Raise `InputError` while a LoRA is fused; `what` is for what it has to be unfused first."""
        if self._fused:
            raise InputError(
                f"LoRA {' and '.join(sorted(self.fused_loras))} is fused: call unfuse_lora() before {what}"
            )

    def _parts(
        self, components: str | list[str] | None, there: Mapping[str, lora.Skeleton]
    ) -> list[lora.Skeleton]:
        """Return the named parts, or for None all that are there."""
        parts = list(there) if components is None else _as_list(components)
        if missing := [part for part in parts if part not in there]:
            raise InputError(
                f"components names {missing[0]!r}, which has no such LoRA: expected some of "
                f"{', '.join(there)}"
            )
        return [there[part] for part in parts]

    def _apply_loras(
        self, changed: Mapping[str, float] = MappingProxyType({}), act: bool | None = None
    ) -> None:
        """Give LoRAs the scales in `changed`, and make those that act the active adapters of their parts.

        Other LoRAs keep their scales. `act` False sets all of them aside, True lets them act again, and None
        leaves that as it is. A LoRA of scale 0 is left out of the sum, so that it changes no bit, and so is
        one that is fused.
        """
        if act is not None:
            for part in self._denoisers().values():
                part.lora_acts = act
        scales = self._loras | dict(changed)
        for part in self._adapted().values():
            part.lora_scales = {name: scales[name] for name in part.peft_config}
            acting = part.lora_scales.items() if part.lora_acts else ()
            active = {name: scale for name, scale in acting if scale and name not in part.lora_fused_names}
            if active:
                part.enable_lora()
                part.set_adapters(list(active), list(active.values()))
            else:
                part.disable_lora()

    def _check_lora(self, found: Lora, part: str, tensors: Mapping[str, Tensor], any_base: bool) -> None:
        """Raise `InputError` unless a LoRA fits a part in its layers, shapes and probes."""
        denoiser = self.components.get(part)
        if not isinstance(denoiser, lora.Skeleton):
            raise InputError(
                f"{found.path} adapts the part {part!r} of the model {found.base!r}, which this model lacks"
            )
        if reason := lora.misfit(denoiser, tensors, found.rank):
            raise InputError(
                f"{found.path} was trained on the model {found.base!r} and does not fit the {part} of this "
                f"one: {reason}"
            )
        if not any_base:
            here = {
                layer: lora.probe(lora.base_layer(denoiser, layer).weight) for layer in found.probes[part]
            }
            check_base(str(found.path), found.base, found.probes[part], here, part)


def _as_list(names: str | list[str]) -> list[str]:
    """Return names as a list, each of them once."""
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _free_name(wanted: str, taken: Mapping[str, Any]) -> str:
    name = wanted.replace(".", "-") or "lora"
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)


def _known(name: str, loaded: Mapping[str, Any]) -> None:
    if name not in loaded:
        raise InputError(f"no LoRA named {name!r} is loaded: expected one of {', '.join(loaded) or 'none'}")
