"""This module turns media files into training data, in place of scenes of the world.

A run trains on files when its configuration has a section `data`, which `data.sources.open_source` reads. The
stage says which media it needs. Geometry comes from the model as far as that knows it, else from `geometry`
in the section.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from codi.modalities import component_names, geometries_in
from codi.types import InputError, Modality, ModalitySpec
from codi.vocabulary import closed_vocabulary
from data.batch import Batch
from data.captions import PLACE
from data.source import Source
from data.sources import open_source, read_geometry
from data.world import SceneSource
from training.config import VALIDATION, Config
from training.stages.common import say
from training.stages.rows import has_rows, held_out

# A finished vocabulary is checked on so many rows of each manifest, and may lack this share of their words.
CHECKED_ROWS = 300
MOST_UNKNOWN = 0.5


def open_media(
    config: Config,
    media: Iterable[Modality],
    known: Mapping[Modality, ModalitySpec] | None = None,
    *,
    seed: int,
    optional: Iterable[Modality] = (),
    **settings: Any,
) -> Any:
    """Return the source of `config.data`, with the media that a stage needs.

    Args:
        config: the run; its folder gets the list of bad samples.
        media: what a batch has.
        known: the geometry of the media, as far as the model has it.
        seed: the seed of the order and of all draws.
        optional: media that a row may lack, unless `data: {require: ...}` says otherwise. A row without one
            of the others has nothing to learn from.
        **settings: laid over the section `data`.

    Returns:
        The source.

    Raises:
        InputError: if the section asks for another geometry than the model's, lacks one that the model cannot
            know, or takes rows without a medium that the stage learns.
    """
    # each medium once: a stage may need one both as a latent and as a prompt
    media = list(dict.fromkeys(media))
    options = {**config.data, **settings}
    options.pop(VALIDATION, None)
    if "media" in options:
        raise InputError(
            f"data: media is {options['media']!r}: leave it out, the stage needs {', '.join(media)}"
        )
    needed = [m for m in media if m not in set(optional)]
    check_required(options.get("require"), needed)
    if options.get("require") is None:
        options["require"] = [m.value for m in needed]
    given = read_geometry(options.pop("geometry", {}))
    for modality, spec in (known or {}).items():
        asked = given.get(modality, spec)
        if (asked.raw_shape, asked.rate) != (spec.raw_shape, spec.rate):
            raise InputError(
                f"data: geometry of {modality} is {asked.raw_shape} at rate {asked.rate}: the model takes "
                f"{spec.raw_shape} at {spec.rate}"
            )
    all_specs = {**given, **(known or {})}
    specs = {m: spec for m, spec in all_specs.items() if m in media}
    named = {"media": [m.value for m in media]}
    return open_source(options | named, seed=seed, specs=specs, bad_list=config.output / "bad.jsonl")


def check_required(require: Any, needed: list[Modality]) -> None:
    """Raise `InputError` where `data: {require: ...}` leaves out a medium that a stage cannot do without.

    Args:
        require: the setting; None stands for all media.
        needed: the media that the stage cannot do without.
    """
    if not isinstance(require, (list, tuple)):
        return
    missing = [m.value for m in needed if m not in require]
    if missing:
        raise InputError(
            f"data: require is {list(require)!r}: leave it out, or add {', '.join(missing)}, which the stage "
            "has to have"
        )


class Renamed(Source):
    """A source whose batches go through `convert`."""

    def __init__(self, source: Source, convert: Callable[[Batch], dict[str, Any]]):
        self.source = source
        self.convert = convert
        self.infinite = source.infinite

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """Return the converted batch; "ids" stay in it, so that a bad sample can be named."""
        batch = self.source.fetch(indices)
        return self.convert(batch) | ({} if batch.ids is None else {"ids": batch.ids})

    @property
    def bad(self) -> int:
        """The number of bad samples met so far."""
        return self.source.bad

    def close(self) -> None:
        """End the decoding processes."""
        self.source.close()


def names_of_data(section: Mapping[str, Any]) -> list[str]:
    """Return what the section `data` names: its manifests and shards, and the world if that is used, too.

    Args:
        section: the section of a configuration; an empty one stands for the world alone.

    Returns:
        Paths and patterns as they are written, then "codi.world" where the world is alone or mixed in.
    """
    listed = [*section.get("manifests", []), *section.get("shards", [])]
    files = [str(item["path"] if isinstance(item, Mapping) else item) for item in listed]
    return files if files and section.get("world") is None else [*files, "codi.world"]


def world_or_files(
    config: Config,
    render: Callable[[list, list[np.random.Generator]], dict[str, Any]],
    media: Iterable[Modality],
    known: Mapping[Modality, ModalitySpec],
    convert: Callable[[Batch], dict[str, Any]],
    offset: int = 0,
    alike: int = 1,
) -> Any:
    """Return a source of batches of one form, from scenes of the world or from media files.

    Args:
        config: the run; its section `data` decides between the two.
        render: makes a batch of scenes and their random generators.
        media: what a batch of files has.
        known: the geometry of these media, as far as the model has it.
        convert: makes a batch of files into one as `render` makes.
        offset: added to the seed; another offset gives other draws.
        alike: how many scenes in a row look the same, as in `data.world.scene_at`; of no effect on files.

    Returns:
        The source.
    """
    if not config.data:
        return SceneSource(render, config.seed + offset, alike)
    return Renamed(open_media(config, media, known, seed=config.seed + offset), convert)


def known_geometry(
    model: Path, parts: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[Modality, ModalitySpec]:
    """Return the geometry of every medium as far as the parts in a model folder say it.

    Args:
        model: the model folder.
        parts: configurations of parts that are not there yet, by their names; empty ones say nothing.

    Returns:
        The raw shape and the rate of each medium that is known; latent shapes are left empty.
    """
    configs = {name: _shape(model / name) for name in component_names()}
    configs |= {name: part for name, part in (parts or {}).items() if part}
    return geometries_in(configs)


def _shape(part: Path) -> dict[str, Any]:
    file = part / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def templates_in(source: Any) -> Iterator[tuple[str, int]]:
    """Yield each template without the place of the caption, and how many rows it may be given."""
    for part in source.mixed:
        if not part.of_world:
            for template in part.captions.templates:
                yield template.replace(PLACE, " "), len(part.rows)


def captions_in(source: Any, most: int) -> Iterator[str]:
    """Yield the captions of some rows of each manifest, evenly spread; the world, if mixed in, yields none.

    Args:
        source: a source of media files.
        most: the greatest number of rows of one manifest.

    Yields:
        Each caption of these rows.
    """
    for part in source.mixed:
        if part.of_world:
            continue
        for number in range(0, len(part.rows), -(-len(part.rows) // most)):
            with suppress(InputError, OSError):  # a bad row, which another one replaces in training
                yield from part.rows[number].captions


def captions_of(config: Config, scenes: list[str]) -> list[str]:
    """Return what previews are prompted with.

    Args:
        config: the run.
        scenes: the captions where all samples are scenes of the world.

    Returns:
        On files as many captions of held-out rows, or of rows that train where none are held out, the first
        of each row; where no row has a caption, as many blank ones, which prompt with nothing.
    """
    if not config.data:
        return scenes
    section = config.data
    if VALIDATION in section:
        section = held_out(section)[0]
    if not has_rows(section, [Modality.TEXT]):
        return [""] * len(scenes)
    settings = {"captions": "first", "workers": 0, "augment": {}, "require": [Modality.TEXT.value]}
    with open_media(config.over(section), [Modality.TEXT], seed=config.seed, **settings) as source:
        return source.fetch(list(range(min(len(scenes), len(source)))))["text"]


def check_words(source: Any, readers: Iterable[Any], model: Path) -> None:
    """Print how many of the words in the captions finished text parts do not know.

    To such a part all unknown words are one and the same.

    Args:
        source: a source of media files.
        readers: the text parts.
        model: the model folder, for the message.

    Raises:
        InputError: if more than `MOST_UNKNOWN` of the words are unknown to one of the parts.
    """
    found = []
    for part in readers:
        sentences = [*captions_in(source, CHECKED_ROWS), *(words for words, _ in templates_in(source))]
        share, lacking = words_unknown_to(part.tokenizer, sentences)
        found.append((share, lacking, type(part).__name__))
    if not found:
        return
    share, lacking, name = max(found, key=lambda one: one[0])
    named = f" ({', '.join(list(dict.fromkeys(lacking))[:3])}, ...)" if lacking else ""
    finding = f"{share:.0%} of the words in the captions are unknown to the {name} in {model}{named}"
    if share > MOST_UNKNOWN:
        raise InputError(
            f"data: {finding}: expected captions in its words, or text parts made from these "
            "(docs/fine-tuning.md)"
        )
    say(finding)


def words_unknown_to(tokenizer: Any, sentences: Iterable[str]) -> tuple[float, list[str]]:
    """Return the share of the words of some sentences that a tokenizer cannot read, and these words.

    Args:
        tokenizer: a tokenizer of whole words; one of pieces of words reads them all.
        sentences: the sentences to look at.

    Returns:
        The share in [0, 1], and the words, sentence by sentence.
    """
    vocabulary = closed_vocabulary(tokenizer)
    if vocabulary is None:  # a converted part may have come without a tokenizer, too
        return 0.0, []
    readings = [vocabulary.read(sentence) for sentence in sentences]
    lacking: list[str] = []
    num_words = 0
    num_known = 0
    for reading in readings:
        lacking += reading.unread
        num_words += reading.num_words
        num_known += reading.num_known
    return (num_words - num_known) / max(1, num_words), lacking
