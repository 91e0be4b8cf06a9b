"""The stage of a new prompt tower, bridged through text alone (CoDi, section 3.2).

The tower meets no modality but its own and the frozen text tower, and is then understood by every denoiser.
The first towers of a model are trained by `training.stages.align`, whose objective this is.
"""

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from codi.protocols import PromptEncoder
from codi.types import InputError, Modality, ModalitySpec
from training.config import Config, expect, strict
from training.stages.align import AlignOptions, AlignStage, Contrast, load_text_tower
from training.stages.common import export_part
from training.stages.files import known_geometry

FOLDER = "towers"  # below the model folder, one folder per run


@dataclass(frozen=True, kw_only=True)
class TowerOptions(AlignOptions):
    """Options of the stage: those of the align stages, and the tower's class.

    Attributes:
        tower: "module:Class" of a diffusers ModelMixin, built with the arguments in `part`;
            docs/fine-tuning.md says what it must have.
    """

    tower: str


class TowerStage(AlignStage):
    """The stage that trains a tower beside the model's own."""

    identity = ("modality", "tower")

    def __init__(self, config: Config):
        own = strict(TowerOptions, config.options, where="options")
        shared = {field.name: getattr(own, field.name) for field in dataclasses.fields(AlignOptions)}
        expect(not own.continue_from, "continue_from", True, "false: this tower is new")
        # the align stage reads its own options strictly, so `tower` must not be among them
        super().__init__(dataclasses.replace(config, options=shared))
        self.config = config
        self.named = own.tower
        self.makes_text = False

    def build(self) -> Contrast:
        """Return the new tower and the learned temperature.

        Returns:
            Both in one module.

        Raises:
            InputError: for a class that is no tower, or one with another width than the model's prompt space.
        """
        self.text = load_text_tower(self.config.model)
        cls = find_class(self.named)
        if not issubclass(cls, PromptEncoder) or not issubclass(cls, ModelMixin):
            raise InputError(
                f"options: tower {self.named} is no prompt encoder: expected a class that inherits from "
                "diffusers.ModelMixin and codi.protocols.PromptEncoder; see docs/fine-tuning.md"
            )
        try:
            new = cls(**self.config.part)
        except TypeError as error:
            raise InputError(f"part: {self.named} cannot be built from it ({error})") from None
        members = {"dim", self.kind.bridge} - set(dir(new))  # what its own `__init__` has to set
        if members:
            raise InputError(
                f"options: tower {self.named} has no {min(members)}: see docs/fine-tuning.md for what a "
                "tower must have"
            )
        if new.dim != self.text.dim:
            raise InputError(
                f"part: the tower gives tokens of width {new.dim}: this model's prompt space has "
                f"{self.text.dim}"
            )
        return Contrast({"tower": new})

    def geometry(self) -> dict[Modality, ModalitySpec]:
        """Return the geometry of the raw media, as the model has it."""
        return {m: spec for m, spec in known_geometry(self.config.model).items() if m == self.modality}

    def tower(self, module: Contrast) -> nn.Module:
        """Return the new tower."""
        return module.towers["tower"]

    @classmethod
    def builds(cls, config: Config) -> tuple[str, ...]:
        """Return no names: none of the model's own parts is built."""
        return ()

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the folder towers/<run> of the new tower."""
        return (f"{FOLDER}/{config.output.name}",)

    def export(self, module: Contrast, folder: Path) -> None:
        """Measure the bridge's mean, then write the tower to towers/<run>/, beside the model's own."""
        self.validate(module, 4 * self.options.validation_scenes, measure=True)
        export_part(self.tower(module), folder / self.produces(self.config)[0])


def find_class(name: str) -> type:
    """Return the class that "module:Class" names. Raise `InputError` where there is none."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"options: tower is {name!r} ({error}): expected module:Class, such as "
            "codi.models.conditioning:AudioTower"
        ) from None
