"""Load and save the branches by which controls steer outputs, and let a pipeline use them.

A branch is a folder as diffusers writes it, config.json and float16 safetensors. A model folder may hold some
below `FOLDER`: they are found by their configurations, and their weights are read when a call first needs
them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi import pretrained
from codi.adapters.files import check_base
from codi.conditions.control import Steered, Steering
from codi.controls import ControlMap, Target, find_kind
from codi.controls.asked import ControlInput
from codi.models import lora
from codi.models.control import ControlBranch
from codi.tensor_files import read_json
from codi.types import InputError, Modality, ModalitySpec, listed

FOLDER = "controls"  # below a model folder, one folder for each branch
WEIGHTS = "diffusion_pytorch_model.safetensors"
PROBED = ("conv_in", "conv_out")  # layers whose probes say which denoiser a branch was trained beside

Place = tuple[Modality, str]  # the output, and the kind of control


def probes_of(denoiser: nn.Module) -> dict[str, float]:
    """Return the probes of a denoiser, by which a branch knows it again."""
    layers: dict[str, Any] = {layer: lora.base_layer(denoiser, layer) for layer in PROBED}
    return {name: lora.probe(layer.weight) for name, layer in layers.items()}


def read_place(folder: Path) -> Place:
    """Return which output and kind of control a branch is for; raise `InputError` for what is no branch."""
    if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(
            f"no control at {folder}: expected a folder with config.json and {WEIGHTS}, as the stage "
            "`control` writes it"
        )
    config = read_json(folder / "config.json", "copy it again, or train it again")
    if config.get("_class_name") != ControlBranch.__name__:
        raise InputError(f"{folder} holds no control, but {str(config.get('_class_name'))[:60]}")
    return Modality.parse(config.get("output", "")), find_kind(config.get("kind")).name


def folders_in(model: Path) -> list[Path]:
    """Return the folders of the branches that a model folder holds."""
    return sorted(path.parent for path in (model / FOLDER).glob("*/config.json"))


class ControlMixin:
    """The part of a pipeline that has branches for controls, by output and kind."""

    _control_folders: dict[Place, Path]
    _control_branches: dict[Place, ControlBranch]

    def _init_controls(self) -> None:
        self._control_folders = {}
        self._control_branches = {}

    def _find_controls(self, model: Path) -> None:
        """Note the branches that a model folder holds."""
        for folder in folders_in(model):
            self._control_folders[read_place(folder)] = folder

    @property
    def controls(self) -> tuple[Place, ...]:
        """The output and the kind of every control that there is a branch for."""
        return tuple(dict.fromkeys([*self._control_folders, *self._control_branches]))

    def load_control(self, source: str | Path) -> str:
        """Add the branch in a folder; it takes the place of another for the same output and kind.

        Args:
            source: the folder.

        Returns:
            What it is, such as "beats of audio".

        Raises:
            InputError: for a folder without a branch, or with one that was trained beside another denoiser.
        """
        folder = Path(source).expanduser()
        place = read_place(folder)
        self._control_branches[place] = self._load_branch(place, folder)
        self._control_folders[place] = folder
        return f"{place[1]} of {place[0]}"

    def add_control(self, branch: ControlBranch) -> None:
        """Add a branch that is in memory, such as one in training; calls with it have no file to record."""
        config: Any = branch.config
        place = (Modality.parse(config.output), config.kind)
        self._control_folders.pop(place, None)
        self._control_branches[place] = branch

    def unload_controls(self) -> None:
        """Take all branches away, those of the model folder too."""
        self._init_controls()

    def save_controls(self, folder: Path) -> None:
        """Write all branches into a model folder."""
        for place in self.controls:
            output, kind = place
            self._branch(place).save_pretrained(folder / FOLDER / f"{output}_{kind}")

    def render_control(
        self,
        kind: str,
        output: str | Modality,
        values: Sequence[Any],
        specs: Mapping[Modality, ModalitySpec] | None = None,
    ) -> ControlMap:
        """Return a control that differs between samples, for the argument `control` of a call.

        Args:
            kind: the kind of control.
            output: what it steers.
            values: what a user gives, one value for each sample.
            specs: the geometry in which it is made; None for the model's own.

        Returns:
            The control, with a row for each sample.
        """
        reader = find_kind(kind)
        target = self.control_target(Modality.parse(output), specs)
        return ControlMap(map=torch.cat([reader.render(reader.parse(value), target) for value in values]))

    @property
    def _model_parts(self) -> Any:
        """The parts of the model by modality (`codi.models.codi.CoDiModel`)."""
        return self.model  # type: ignore[attr-defined]

    def control_target(
        self, output: Modality, specs: Mapping[Modality, ModalitySpec] | None = None
    ) -> Target:
        """Return an output as a kind of control sees it, in the model's own geometry or in another."""
        model = self._model_parts
        words = next((tower for tower in model.towers.values() if tower.reads_words), None)
        embed = None if words is None else words.embed
        return Target(
            modality=output, spec=(specs or model.specs)[output], dim=model.context_dim, embed=embed
        )

    def describe_controls(self, used: Sequence[ControlInput]) -> dict[str, list[dict[str, str]]]:
        """Return the files of the branches that were used, for a record; nothing where there are none."""
        from codi import io

        files = []
        for place in dict.fromkeys((each.output, each.kind) for each in used):
            folder = self._control_folders.get(place)  # type: ignore[arg-type]
            if folder is not None:
                files.append({"path": str(folder), "sha256": io.sha256_of(folder / WEIGHTS)})
        return {"controls": files} if files else {}

    def _steered(
        self,
        used: Sequence[ControlInput],
        specs: Mapping[Modality, ModalitySpec],
        num_samples: int,
        candidates: int,
    ) -> dict[Modality, Steered]:
        """Return what steers each output; a control of weight 0 is left out, so that it changes no bit."""
        found: dict[Modality, list[Steering]] = {}
        for each in used:
            if each.weight == 0:
                continue
            assert each.output is not None
            target = self.control_target(each.output, specs)
            branch = self._branch((each.output, each.kind))
            drawn = _rows(self._rendered(each, target), each, num_samples, candidates)
            control = branch.steering(drawn.to(branch.device, branch.dtype), target.grid, each.weight)
            found.setdefault(each.output, []).append(Steering(control=control, interval=each.interval))
        return {output: Steered(controls=steering) for output, steering in found.items()}

    def _rendered(self, each: ControlInput, target: Target) -> Tensor:
        """Return the map of a control, and check that its branch can read it."""
        kind = find_kind(each.kind)
        known = isinstance(each.value, ControlMap)
        drawn = each.value.map if known else kind.render(each.value, target)
        config: Any = self._branch((target.modality, each.kind)).config
        expected = config.channels
        extent = (target.steps,) if kind.timed else target.grid
        if drawn.shape[1] != expected or tuple(drawn.shape[2:]) != extent:
            raise InputError(
                f"control {each.kind} of {target.modality} is a map {tuple(drawn.shape)}: expected "
                f"{(1, expected, *extent)}, with one row or one for each sample"
            )
        return drawn.float()

    def _branch(self, place: Place) -> ControlBranch:
        """Return a branch where its denoiser is and in its precision; it is read if it was not yet."""
        if place not in self._control_branches:
            self._control_branches[place] = self._load_branch(place, self._control_folders[place])
        denoiser = self._model_parts.denoisers[place[0]]
        # `to` of nn.Module: diffusers' own has notes to give of nothing here
        device = self._execution_device  # type: ignore[attr-defined]
        return nn.Module.to(self._control_branches[place], device, denoiser.dtype)

    def _load_branch(self, place: Place, folder: Path) -> ControlBranch:
        """Read a branch, and check that it was trained beside the denoiser of this model."""
        output, _ = place
        denoiser = self._model_parts.denoisers.get(output)
        if denoiser is None:
            raise InputError(
                f"{folder} is for {output}, which this model cannot make: it makes "
                f"{listed(self._model_parts.denoisers)}"
            )
        branch = pretrained.load_part(folder, ControlBranch.__module__, ControlBranch.__name__, torch.float32)
        sites = [list(site) for site in denoiser.control_sites()]
        if sites != [list(site) for site in branch.config.sites]:
            raise InputError(
                f"{folder} was trained beside the model {branch.config.base!r}, whose denoiser of {output} "
                "has another shape than this one: load that model, or train it for this one"
            )
        if branch.config.probes:
            found = probes_of(denoiser)
            check_base(str(folder), branch.config.base, branch.config.probes, found, f"{output} denoiser")
        return branch.requires_grad_(False)


def _rows(drawn: Tensor, each: ControlInput, num_samples: int, candidates: int) -> Tensor:
    """Return a map with one row, or with as many as there are candidates of all samples."""
    if len(drawn) not in (1, num_samples):
        raise InputError(
            f"control {each.kind} of {each.output} has {len(drawn)} rows: expected 1 or {num_samples}, one "
            "for each sample"
        )
    return drawn if len(drawn) == 1 else drawn.repeat_interleave(candidates, 0)
