"""Media files as training data: what stages make of `data.sources.open_source`, in place of scenes of the
world.

A run trains on files when its configuration has a section `data`. Which media it needs the stage says;
geometry comes from the model as far as that knows it, else from `data: {geometry: ...}`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from codi.modalities import component_names, kinds
from codi.types import InputError, Modality, ModalitySpec
from codi.vocabulary import closed_vocabulary, word_tokenizer
from codi.world.caption import all_words
from data.batch import Batch
from data.source import Source
from data.sources import open_source, read_geometry
from data.world import SceneSource
from training.config import Config
from training.stages.common import planning, say

MAX_WORDS, MAX_ROWS = 30_000, 200_000  # of a vocabulary made from captions, and of the rows looked at for it
# of each manifest, and of the words in them: what a finished vocabulary may lack
CHECKED_ROWS, MOST_UNKNOWN = 300, 0.5


def open_media(
    config: Config,
    media: Iterable[Modality],
    known: Mapping[Modality, ModalitySpec] | None = None,
    *,
    seed: int,
    optional: Iterable[Modality] = (),
    **settings: Any,
) -> Any:
    """The source of `config.data` with these media; `known` is their geometry as the model has it, `settings`
    are laid over the section.

    optional  media that a row may lack if `data: {require: ...}` says so; without the others there is nothing
              to learn from a row

    Raises `InputError` when the section asks for another geometry than the model's, lacks one that the model
    cannot know, or takes rows without a medium that the stage learns.
    """
    media = list(dict.fromkeys(media))
    options = {**config.data, **settings}
    if "media" in options:
        raise InputError(
            f"data: media is {options['media']!r}: leave it out, the stage needs {', '.join(media)}"
        )
    check_required(options.get("require"), [m for m in media if m not in set(optional)])
    given = read_geometry(options.pop("geometry", {}))
    for modality, spec in (known or {}).items():
        asked = given.get(modality, spec)
        if (asked.raw_shape, asked.rate) != (spec.raw_shape, spec.rate):
            raise InputError(
                f"data: geometry of {modality} is {asked.raw_shape} at rate {asked.rate}: the model takes "
                f"{spec.raw_shape} at {spec.rate}"
            )
    specs = {m: spec for m, spec in {**given, **(known or {})}.items() if m in media}
    named = {"media": [m.value for m in media]}
    return open_source(options | named, seed=seed, specs=specs, bad_list=config.output / "bad.jsonl")


def check_required(require: Any, needed: list[Modality]) -> None:
    """Raises `InputError` where `data: {require: ...}` leaves out a medium that a stage cannot do without."""
    if isinstance(require, (list, tuple)) and (missing := [m.value for m in needed if m not in require]):
        raise InputError(
            f"data: require is {list(require)!r}: leave it out, or add {', '.join(missing)}, which the stage "
            "has to have"
        )


class Renamed(Source):
    """A source whose batches go through `convert`."""

    def __init__(self, source: Source, convert: Callable[[Batch], dict[str, Any]]):
        self.source, self.convert = source, convert
        self.infinite = source.infinite

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """The converted batch; "ids" stay, so that a bad sample can be named."""
        batch = self.source.fetch(indices)
        return self.convert(batch) | ({} if batch.ids is None else {"ids": batch.ids})

    @property
    def bad(self) -> int:
        """Bad samples met so far."""
        return self.source.bad

    def close(self) -> None:
        """Ends the decoding processes."""
        self.source.close()


def names_of_data(section: Mapping[str, Any]) -> list[str]:
    """What the section `data` of a configuration names: manifests and shards, and the world where it is alone
    or mixed in.
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
    """Batches of one form, from scenes by `render` or from files by `convert`; `offset` to the seed gives
    other draws.
    """
    if not config.data:
        return SceneSource(render, config.seed + offset, alike)
    return Renamed(open_media(config, media, known, seed=config.seed + offset), convert)


def known_geometry(
    model: Path, parts: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[Modality, ModalitySpec]:
    """Return the geometry of every medium as far as the parts in a model folder say it.

    Args:
        model: the folder of the model.
        parts: configurations of parts that are not there yet, by their names; empty ones say nothing.
    """
    configs = {name: _shape(model / name) for name in component_names()}
    configs |= {name: part for name, part in (parts or {}).items() if part}
    found = {kind.modality: kind.geometry_in(configs) for kind in kinds()}
    return {modality: spec for modality, spec in found.items() if spec is not None}


def _shape(part: Path) -> dict[str, Any]:
    file = part / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def tokenizer_of(config: Config) -> str:
    """JSON of a word-level tokenizer over what training can say: the words of the world, or the commonest of
    the captions. A plan does not read these: `part` says how many there are.
    """
    return word_tokenizer(caption_words(config) if config.data and not planning() else all_words())


def caption_words(config: Config) -> list[str]:
    """The `MAX_WORDS` commonest words and marks of the captions, in at most `MAX_ROWS` rows of each manifest,
    evenly spread.
    """
    source = open_media(config, [Modality.TEXT], seed=config.seed, require=["text"])
    counts: Counter[str] = Counter()
    if any(part.of_world for part in source.mixed):
        counts.update(all_words())
    for sentence in captions_in(source, MAX_ROWS):
        counts.update(re.findall(r"\w+|[^\w\s]+", sentence.lower()))
    source.close()
    return [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_WORDS]]


def captions_in(source: Any, most: int) -> Iterator[str]:
    """The captions in at most so many rows of each manifest, evenly spread; nothing of the world, should it
    be mixed in.
    """
    for part in (part for part in source.mixed if not part.of_world):
        for number in range(0, len(part.rows), -(-len(part.rows) // most)):
            with suppress(InputError, OSError):  # a bad row, which another one replaces in training
                yield from part.rows[number].captions


def check_words(source: Any, readers: Iterable[Any], model: Path) -> None:
    """Says how many of the words in the captions finished text parts do not know: all these are one and the
    same to them.

    Raises `InputError` where it is most of them.
    """
    found = [
        (words_unknown_to(part.tokenizer, captions_in(source, CHECKED_ROWS)), type(part).__name__)
        for part in readers
    ]
    if not found:
        return
    (share, lacking), name = max(found, key=lambda one: one[0][0])
    named = f" ({', '.join(list(dict.fromkeys(lacking))[:3])}, ...)" if lacking else ""
    finding = f"{share:.0%} of the words in the captions are unknown to the {name} in {model}{named}"
    if share > MOST_UNKNOWN:
        raise InputError(
            f"data: {finding}: expected captions in its words, or text parts made from these "
            "(docs/fine-tuning.md)"
        )
    say(finding)


def words_unknown_to(tokenizer: Any, sentences: Iterable[str]) -> tuple[float, list[str]]:
    """The share of the words of some sentences that a tokenizer cannot read, and these words. One of pieces
    reads them all.
    """
    vocabulary = closed_vocabulary(tokenizer)
    if vocabulary is None:  # a converted part may have come without a tokenizer, too
        return 0.0, []
    readings = [vocabulary.read(sentence) for sentence in sentences]
    lacking = [word for reading in readings for word in reading.unread]
    num_lacking = sum(reading.num_words - reading.num_known for reading in readings)
    return num_lacking / max(1, sum(reading.num_words for reading in readings)), lacking
