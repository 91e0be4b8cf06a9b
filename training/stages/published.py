"""The published models of a run: found, opened, and the source of their latents; and the export of our parts.

Letters: B batch.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codi.compose.environment import describe_latent
from codi.compose.folder import add_parts, is_composed, read
from codi.compose.foreign import ForeignModel, Prepared
from codi.types import InputError, Modality
from training.config import Config, expect
from training.stages import Source
from training.stages.common import export_part, load_part, note_part, planning, say
from training.stages.foreign import ForeignEncoding, foreign_model, opened, scene_latents
from training.stages.latents import Joined


def check_sources(sources: Mapping[str, Path], calls: Mapping[str, Any], sides: Collection[str]) -> None:
    """Raise `InputError` unless there is a source for all that trains, and no call of anything else.

    Args:
        sources: the option `sources`; empty for those of a composed model.
        calls: the option `calls`.
        sides: the names of the modalities that train.
    """
    missing = {*sides} - {*sources} if sources else set()
    expect(not missing, "sources", sorted(sources), f"a folder for {', '.join(sorted(missing))} too")
    strangers = {*calls} - {*sides}
    expect(not strangers, "calls", sorted(calls), f"some of {', '.join(sorted(sides))}")


def find_sources(
    config: Config,
    modalities: Sequence[Modality],
    sources: Mapping[str, Path],
    calls: Mapping[str, dict[str, Any]],
) -> dict[Modality, tuple[Path, dict[str, Any]]]:
    """Find the published pipelines of a run.

    Args:
        config: the run.
        modalities: those that are needed.
        sources: the option `sources`, the folder of each by name; empty for those of the model folder, which
            is then a composed model.
        calls: the option `calls`, arguments of every call by name, laid over those of a composed model.

    Returns:
        The folder of each, and the arguments of every call of it.

    Raises:
        InputError: if no folders are named and the model folder is no composed model that has them.
    """
    if sources:
        return {m: (Path(sources[m.value]), dict(calls.get(m.value, {}))) for m in modalities}
    composed = read(config.model)
    found = {}
    for modality in modalities:
        if modality.value not in composed.references:
            raise InputError(
                f"{config.model} makes no {modality}: expected a composed model of all that trains, or "
                "options.sources"
            )
        reference = composed.references[modality.value]
        # a plan reads no weights, and so does not compare them with their digests
        place = Path(reference.source) if planning() else reference.verify(composed.folder)
        found[modality] = (place, {**reference.call, **calls.get(modality.value, {})})
    return found


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published models of a run, opened.

    Attributes:
        config: the run.
        sources: the folder of each.
        models: the models, frozen.
        prepared: one call of each, as its pipeline prepares it.
    """

    config: Config
    sources: dict[Modality, Path]
    models: dict[Modality, ForeignModel]
    prepared: dict[Modality, Prepared]

    @classmethod
    def open(
        cls,
        config: Config,
        modalities: Sequence[Modality],
        sources: Mapping[str, Path],
        calls: Mapping[str, dict[str, Any]],
    ) -> "Published":
        """Load the published models, and let each of their pipelines prepare one call.

        Args:
            config: the run.
            modalities: as in `find_sources`.
            sources: as in `find_sources`.
            calls: as in `find_sources`.

        Returns:
            The models.

        Raises:
            InputError: for a source that is not there, cannot be loaded or makes something else.
        """
        found = find_sources(config, modalities, sources, calls)
        models, prepared = {}, {}
        for modality, (source, call) in found.items():
            model = foreign_model(source, call)
            if model.modality is not modality:
                raise InputError(f"options: sources: {source} makes {model.modality}: expected {modality}")
            models[modality] = model
            note_part(source, model.network)
            prepared[modality] = opened(model)
        places = {modality: source for modality, (source, _) in found.items()}
        return cls(config=config, sources=places, models=models, prepared=prepared)

    def to(self, device: torch.device) -> None:
        """Move the published models to `device`."""
        for model in self.models.values():
            model.pipeline.to(device)

    def latents(self, own: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the arguments of an encoder of the latents of each model, by the names of modalities.

        Args:
            own: what is laid over those of single modalities.

        Returns:
            The arguments (`codi.compose.environment.describe_latent`).
        """
        names = [m.value for m in self.prepared]
        expect({*own} <= {*names}, "part: latents", sorted(own), f"some of {', '.join(names)}")
        return {
            m.value: {**describe_latent(prepared.start, prepared.grid), **own.get(m.value, {})}
            for m, prepared in self.prepared.items()
        }

    def encoding(self, media: Sequence[Modality], readers: Sequence[Any] = ()) -> ForeignEncoding:
        """Return what is needed of media files that have these media and captions.

        Args:
            media: the media.
            readers: text parts of codi that read the captions, whose words they have to know.

        Returns:
            The latents and captions.
        """
        return ForeignEncoding(
            self.config,
            tuple(media),
            known={m: self.models[m].spec() for m in media},
            readers=tuple(readers),
            models=self.models,
            sources={m: self.sources[m] for m in media},
        )

    def data(
        self, media: Sequence[Modality], scenes: int, device: torch.device, readers: Sequence[Any] = ()
    ) -> Source:
        """Return a source of the latents of some media of the same samples, with what captions need.

        Args:
            media: the media.
            scenes: the number of scenes in the caches, where the run has no media files.
            device: where media files are encoded.
            readers: as in `encoding`.

        Returns:
            The source, of media files where the run has any, else of cached scenes.
        """
        if self.config.data:
            return self.encoding(media, readers).open(device, say)
        seed = self.config.seed
        caches = []
        for m in media:
            caches.append(scene_latents(self.config.model, self.sources[m], self.models[m], scenes, seed))
        return Joined(caches)


def continued(fresh: Any, folder: Path) -> Any:
    """Return a new part with the weights of the one in a folder.

    Args:
        fresh: the new part.
        folder: the folder of a part of the same class.

    Returns:
        `fresh`.

    Raises:
        InputError: if the part in the folder was built with other arguments.
    """
    found = load_part(type(fresh), folder, "train without continue_from first")
    ours, theirs = fresh.state_dict(), found.state_dict()
    if {key: x.shape for key, x in ours.items()} != {key: x.shape for key, x in theirs.items()}:
        raise InputError(
            f"options: continue_from: {folder} was built with other arguments: expected the same `part`"
        )
    fresh.load_state_dict(theirs)
    return fresh


def export_parts(parts: Mapping[str, nn.Module], folder: Path) -> None:
    """Write parts that were trained, and nothing of the published models; a composed model then names them.

    Args:
        parts: the parts by name, in float32.
        folder: the model folder.
    """
    if is_composed(folder):
        add_parts(folder, {name: copy.deepcopy(part).half() for name, part in parts.items()})
        return
    for name, part in parts.items():
        export_part(part, folder / name)
