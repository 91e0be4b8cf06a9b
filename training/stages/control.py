"""The stage of a control: a branch beside a finished denoiser, which learns what a control asks of it.

The objective, the prompts and the latents are those of the denoise stage; only what trains differs, and each
sample has the control that it follows: of the world what the scene says, of files what is computed from them.
Letters: B batch, K channels of a control's map.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi.adapters.controls import FOLDER, probes_of
from codi.controls import ControlMap, Target, find_kind
from codi.models.control import ControlBranch, branch_for
from codi.types import InputError, Modality
from data.batch import Batch
from training.config import Config, strict
from training.dry_run import empty, whole_numbers
from training.stages import Source, Stage
from training.stages.common import export_part
from training.stages.denoise import DenoiseStage
from training.stages.latents import EncodedSource, Encoding, as_unit
from training.stages.samples import make_pipeline, write_outputs

MAP = "control"  # the name of the maps in a batch


@dataclass(frozen=True, kw_only=True)
class ControlPart:
    """Arguments of a branch, the section `part` of its run.

    Attributes:
        width: the channels inside, a multiple of 4.
        num_layers: convolutions of each level.
        kernel_size: steps that a convolution along time sees.
    """

    width: int = 64
    num_layers: int = 2
    kernel_size: int = 5

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4 or self.num_layers < 0 or self.kernel_size % 2 == 0:
            raise InputError(
                f"part: width is {self.width}, num_layers {self.num_layers} and kernel_size "
                f"{self.kernel_size}: expected a width that 4 divides, 0 or more layers, an odd size"
            )


class ControlStage(Stage):
    """The stage that trains the branch of one kind of control for one output.

    Its options are those of the denoise stage, without what adds a loss, and `control`, the kind.
    """

    identity = (*DenoiseStage.identity, "control")

    def __init__(self, config: Config):
        options = dict(config.options)
        self.kind = find_kind(options.pop("control", None))
        for name in ("temporal_change", "pictures"):
            if options.get(name):
                raise InputError(
                    f"options: {name} is {options[name]!r}: expected 0, a control trains beside a finished "
                    "denoiser alone"
                )
        if config.compile:
            raise InputError("config: compile has no effect where only a control trains: leave it out")
        self.config = config
        self.part = strict(ControlPart, config.part, where="part")
        inner = dataclasses.replace(config, part={}, options={**options, "continue_from": True})
        self.inner = DenoiseStage(inner)

    @property
    def modality(self) -> Modality:
        """The output that is steered."""
        return self.inner.modality

    @classmethod
    def produces(cls, config: Config) -> tuple[str, ...]:
        """Return the folder controls/<output>_<kind> of the branch."""
        options = config.options
        return (f"{FOLDER}/{Modality.parse(str(options.get('modality')))}_{options.get('control')}",)

    def with_data(self, data: dict[str, Any]) -> Any:
        """Return this stage over other samples, as the stage inside is."""
        other: Any = super().with_data(data)
        other.inner = self.inner.with_data(data)
        return other

    def load(self) -> None:
        """Load the frozen parts of the denoise stage."""
        self.inner.load()

    def build(self) -> ControlBranch:
        """Build the branch beside the finished denoiser, which is frozen and stays outside of it.

        Returns:
            The branch, which adds nothing yet.

        Raises:
            InputError: where outputs of this kind cannot follow such a control.
        """
        self.base: Any = self.inner.build().requires_grad_(False).eval()
        spec: Any = self.inner.spec
        sites = self.base.control_sites()  # type: ignore[operator]
        if not self.kind.fits(spec) or not sites:
            raise InputError(
                f"options: control is {self.kind.name!r} of {self.modality}: expected one that "
                f"{'has time' if self.kind.timed else 'has pixels'}, and a denoiser that takes controls"
            )
        text = self.inner.prompts.text
        self.target = Target(modality=self.modality, spec=spec, dim=text.dim, embed=self.embed)
        return branch_for(
            self.base,
            output=self.modality.value,
            kind=self.kind.name,
            channels=self.kind.channels(self.target),
            timed=self.kind.timed,
            **dataclasses.asdict(self.part),
        )

    @torch.no_grad()
    def embed(self, sentences: list[str]) -> Tensor:
        """Return the tokens (n, D) of sentences by the frozen text tower, on the CPU."""
        return self.inner.prompts.text.embed(sentences).cpu()

    def to(self, device: torch.device) -> None:
        """Move the frozen parts to `device`."""
        self.inner.to(device)
        self.base.to(device)

    def data(self) -> Source:
        """Return a source of latents and prompt tokens with the control of each sample beside them.

        Files are decoded each time, because controls are computed from the media and not from latents.
        """
        if not self.config.data:
            return Controlled(self.inner.data(), self.of_scenes)
        (encoding,) = self.inner.encodings()
        encode = encoding.encoder(self.inner.device)
        return EncodedSource(encoding.files(), lambda batch: encode(batch) | {MAP: self.of_media(batch)})

    def encodings(self) -> list[Encoding]:
        """Return nothing: a cache holds no controls, and no media of which they could be computed."""
        return []

    @torch.no_grad()
    def of_scenes(self, batch: Batch) -> Tensor:
        """Return the maps (B, K, ...) that the scenes of a batch have."""
        assert batch.scenes is not None, "samples of the world have their scenes"
        return torch.cat([self.kind.of_scene(scene, self.target) for scene in batch.scenes])

    @torch.no_grad()
    def of_media(self, batch: Any) -> Tensor:
        """Return the maps (B, K, ...) that are computed from the media of a batch."""
        raws = batch[self.modality.value]
        return torch.cat([self.kind.of_media(as_unit(raw.cpu()), self.target) for raw in raws])

    def steered(self, module: Any, batch: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return the denoiser as it answers with the controls of a batch."""
        control = module.steering(batch[MAP], self.target.grid)
        return partial(_answer, self.base, control)

    def loss(
        self, module: nn.Module, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the denoising loss of the denoiser with the control."""
        steered: Any = self.steered(module, batch)
        return self.inner.loss(steered, batch, generator)

    def dummy_batch(self, module: nn.Module, count: int) -> dict[str, Tensor]:
        """Return latents, a prompt token of each, and maps."""
        extent = (self.target.steps,) if self.kind.timed else self.target.grid
        maps = empty(count, self.kind.channels(self.target), *extent)
        return self.inner.dummy_batch(self.base, count) | {MAP: maps}

    def dry_pass(self, module: nn.Module, batch: dict[str, Tensor]) -> None:
        """Run the branch and the denoiser once."""
        answer = self.steered(module, batch)
        answer(batch["latents"], whole_numbers(len(batch["latents"])), batch["prompts"])

    @torch.no_grad()
    def preview(self, module: Any, folder: Path) -> None:
        """Write samples that follow the captions and the controls of the first samples."""
        batch = self.data().fetch(list(range(len(self.inner.preview_captions()))))
        captions = batch.captions()
        pipe = make_pipeline(self.config.model, {self.modality: self.base})
        pipe.add_control(module)
        control = {self.modality: {self.kind.name: ControlMap(map=batch[MAP])}}
        write_outputs(pipe, [self.modality], captions, folder, not self.config.data, control=control)

    def export(self, module: Any, folder: Path) -> None:
        """Write controls/<output>_<kind> into the model folder: the branch, and by what it knows its base."""
        module.register_to_config(base=folder.resolve().name, probes=probes_of(self.base))
        export_part(module, folder / self.produces(self.config)[0])


def _answer(denoiser: nn.Module, control: Any, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Return the answer of a denoiser that one control steers."""
    return denoiser(x, t, context, control=[control])


class Controlled(Source):
    """A source whose samples have the control that they follow beside them.

    Args:
        source: the samples.
        render: makes the maps of a batch.
    """

    def __init__(self, source: Source, render: Callable[[Batch], Tensor]):
        self.source = source
        self.render = render

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: list[int]) -> Batch:
        """Return the batch with its maps under `MAP`."""
        batch = self.source.fetch(indices)
        return batch.with_named(**{MAP: self.render(batch)})

    @property
    def bad(self) -> int:  # type: ignore[override]
        """The number of bad samples met so far."""
        return self.source.bad

    def close(self) -> None:
        """End what the source has running."""
        self.source.close()
