"""Open a training set from plain configuration: manifests, shards and the world, mixed by weight.

An example:

    media: [image, text]
    geometry: {image: {size: 64}}
    manifests: [{path: train.jsonl, weight: 3}]
    shards: [{path: "laion/*.tar", weight: 1}]
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from codi.io.fit import BLACK, FITS, Fit
from codi.io.frames import BACKENDS
from codi.modalities import kind_of, kinds
from codi.rows import bits_of
from codi.types import InputError, Modality, ModalitySpec
from data.captions import read_captions
from data.media import PADDINGS, Augment, Fitting, MediaSource, Rows
from data.mixture import Mixture
from data.workers import Decoder


@dataclass(frozen=True, kw_only=True)
class Options:
    """The configuration that `open_source` reads; every value is checked when it is made.

    Attributes:
        media: the modalities that a batch holds.
        geometry: sizes and rates by modality, see `read_geometry`.
        manifests: paths of manifests, or mappings {path, weight, fit}.
        shards: paths or patterns of tar shards, or mappings {path, weight}.
        fit: what is done with pixels of another aspect ratio, "crop", "pad" or "stretch", or a mapping of
            these by modality. A manifest or a shard may have its own, {path, weight, fit}.
        pad_colour: red, green and blue of what pads pixels, 0 to 255 each.
        padding: whether padding counts in losses, "ignored" or "learned", see `data.media.Fitting`.
        world: {weight, facts, full} to mix rendered scenes in, see `data.world.WorldSource`; None for none.
        require: media without which a row is left out; None for all of `media`.
        shuffle: whether every pass has its own order; false for the order of the rows.
        captions: which of several captions of a row is given, "random" or "first"; or a mapping {choose,
            templates, drop_parts}, see `data.captions.Captions`.
        backend: what decodes clips: "auto", "decord" or "av".
        verify: whether files are compared with the sha256 of their row, where it has one.
        check_files: whether every file that a manifest names must exist when it is opened.
        augment: random changes, the fields of `data.media.Augment`.
        workers: how many processes decode; 0 for none but the own one.
        timeout: seconds that one sample may take to decode.
        max_bad_in_a_row: how many bad samples without a good one between them stop the run.
        bad_list: a file to which bad samples are appended as JSON lines; None for no file.
    """

    media: list[str]
    geometry: dict[str, Any] = field(default_factory=dict)
    manifests: list[Any] = field(default_factory=list)
    shards: list[Any] = field(default_factory=list)
    world: dict[str, Any] | None = None
    require: list[str] | None = None
    shuffle: bool = True
    captions: Any = "random"
    fit: Any = "crop"
    pad_colour: list[int] = field(default_factory=lambda: list(BLACK))
    padding: str = "ignored"
    backend: str = "auto"
    verify: bool = True
    check_files: bool = True
    augment: dict[str, Any] = field(default_factory=dict)
    workers: int = 2
    timeout: float = 60.0
    max_bad_in_a_row: int = 100
    bad_list: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("media", "manifests", "shards"):
            _expect(isinstance(getattr(self, name), (list, tuple)), name, getattr(self, name), "a list")
        for name in ("geometry", "augment"):
            _expect(isinstance(getattr(self, name), Mapping), name, getattr(self, name), "a mapping")
        for name in ("shuffle", "verify", "check_files"):
            _expect(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        _expect(
            self.require is None or isinstance(self.require, (list, tuple)),
            "require",
            self.require,
            "a list of media, or null",
        )
        _expect(
            self.world is None or isinstance(self.world, Mapping), "world", self.world, "a mapping, or null"
        )
        _expect(self.padding in PADDINGS, "padding", self.padding, " or ".join(PADDINGS))
        _expect(_is_colour(self.pad_colour), "pad_colour", self.pad_colour, "three whole numbers, 0 to 255")
        _expect(self.backend in BACKENDS, "backend", self.backend, f"one of {', '.join(BACKENDS)}")
        _expect(_is_whole(self.workers, 0), "workers", self.workers, "a whole number, 0 or more")
        _expect(_is_number(self.timeout), "timeout", self.timeout, "seconds, more than 0")
        _expect(
            _is_whole(self.max_bad_in_a_row, 1),
            "max_bad_in_a_row",
            self.max_bad_in_a_row,
            "a whole number, 1 or more",
        )
        _expect(
            bool(self.manifests or self.shards or self.world is not None),
            "manifests",
            self.manifests,
            "a manifest, or shards",
        )


def open_source(
    options: Mapping[str, Any],
    *,
    seed: int,
    specs: Mapping[Modality, ModalitySpec] | None = None,
    bad_list: str | Path | None = None,
) -> MediaSource | Mixture:
    """Return the source that the options describe.

    Args:
        options: the fields of `Options`.
        seed: chooses the order of the samples and every random draw.
        specs: geometry from code, in place of `geometry` in the options.
        bad_list: where bad samples are listed, unless the options name a file.

    Returns:
        The source, which owns the processes that decode for it: `close` ends them.

    Raises:
        InputError: for whatever is wrong with the options, or with what they name.
    """
    chosen = _read(Options, options, "data")
    if specs is not None and chosen.geometry:
        raise InputError("data: geometry comes from the model here: leave it out of the configuration")
    specs = read_geometry(chosen.geometry) if specs is None else specs
    media = [Modality.parse(name) for name in chosen.media]
    decoder = Decoder(
        chosen.workers,
        timeout=chosen.timeout,
        max_bad_in_a_row=chosen.max_bad_in_a_row,
        bad_list=bad_list if chosen.bad_list is None else chosen.bad_list,
    )
    augment = _read(Augment, chosen.augment, "data: augment")
    _check_augment(augment)

    captions = read_captions(chosen.captions)
    fits = read_fits(chosen.fit)
    colour = (chosen.pad_colour[0], chosen.pad_colour[1], chosen.pad_colour[2])

    def source(rows: Rows, number: int, fit: Any) -> MediaSource:
        settings = {name: getattr(chosen, name) for name in ("require", "shuffle", "backend", "verify")}
        return MediaSource(
            rows,
            media,
            specs,
            seed=seed + number,
            decoder=decoder,
            augment=augment,
            captions=captions,
            fitting=Fitting(
                fits=fits if fit is None else read_fits(fit), colour=colour, padding=chosen.padding
            ),
            **settings,
        )

    return _mix(chosen, seed, media, source, decoder)


def read_geometry(geometry: Mapping[str, Any]) -> dict[Modality, ModalitySpec]:
    """Return specs from {image: {size}, video: {size, frames, fps}, audio: {samples, rate}}.

    Sizes are in pixels, of a square or [height, width], `fps` in frames per second, `rate` in Hz. Latent
    shapes are not known here and are left empty. An unknown or missing key, or a value that cannot be, raises
    `InputError`.
    """
    specs = {}
    _expect(isinstance(geometry, Mapping), "geometry", geometry, "a mapping such as {image: {size: 64}}")
    for name, values in geometry.items():
        modality = Modality.parse(name)
        keys = kind_of(modality).geometry_keys
        if not keys:
            raise InputError(f"data: geometry of {modality}: {modality} has none")
        if not isinstance(values, Mapping) or set(values) != set(keys):
            raise InputError(f"data: geometry of {modality} is {values!r}: expected {', '.join(keys)}")
        for key, value in values.items():
            whole = _is_number(value) if key in ("fps", "rate") else _is_whole(value, 1)
            sides = key == "size" and isinstance(value, (list, tuple)) and len(value) == 2
            _expect(
                whole or (sides and all(_is_whole(side, 1) for side in value)),
                f"geometry: {modality}: {key}",
                value,
                "a number above 0, whole unless it is a rate; a size may be [height, width]",
            )
        specs[modality] = kind_of(modality).geometry_of(values)
    return specs


def _mix(
    chosen: Options,
    seed: int,
    media: list[Modality],
    source: Callable[[Rows, int, Any], MediaSource],
    decoder: Decoder,
) -> MediaSource | Mixture:
    """Return the manifests, shards and the world as one mixture; a single source of files stays alone."""
    parts: list[tuple[Any, float]] = []
    for rows, weight, fit in _tables(chosen):
        parts.append((source(rows, len(parts), fit), weight))
    if chosen.world is not None:
        parts.append(_world(dict(chosen.world), media, seed + len(parts)))
    if len(parts) > 1:
        return Mixture(parts, seed=seed, decoder=decoder)
    only = parts[0][0]
    if isinstance(only, MediaSource):
        only.owns_decoder = True
        return only
    return Mixture(parts, seed=seed, decoder=decoder)


def count_rows(options: Mapping[str, Any], media: Iterable[Modality] = ()) -> int:
    """Return how many rows of the manifests and shards have some media.

    Args:
        options: the fields of `Options`; `media` may be missing.
        media: what a row must have, all of it; nothing counts all rows.

    Returns:
        The number of rows. The sound of every clip counts: whether a clip has one shows only when it is
        opened, unless its row says that it is silent.

    Raises:
        InputError: for whatever is wrong with the options, or with what they name.
    """
    needed = bits_of(media)
    count = 0
    for rows, _, _ in _tables(_read(Options, {"media": [], **options}, "data")):
        count += int(((rows.has & needed) == needed).sum())
    return count


def _tables(chosen: Options) -> list[tuple[Rows, float, Any]]:
    """Return the manifests and shards that the options name, each with its weight and its own fit or None."""
    from data.manifest import Manifest
    from data.shards import Shards, find_shards

    tables: list[tuple[Rows, float, Any]] = []
    for item in chosen.manifests:
        path, weight, fit = _entry(item, "manifests")
        tables.append((_open(Manifest, path, _stamps([Path(path)]), chosen.check_files), weight, fit))
    for item in chosen.shards:
        path, weight, fit = _entry(item, "shards")
        tables.append((_open(Shards, path, _stamps(find_shards(path))), weight, fit))
    return tables


@lru_cache(maxsize=256)
def _open(cls: type, path: str, stamps: tuple, *more: Any) -> Rows:
    """Return a table of rows; the same one again for a stage that opens it once for every pair.

    Args:
        cls: `Manifest` or `Shards`, which never change once they are open.
        path: what names it.
        stamps: size and time of change of its files: a table that was written again is read again.
        *more: further arguments of the class.

    Returns:
        The table.
    """
    return cls(path, *more)


def _stamps(paths: list[Path]) -> tuple:
    """Return the place, the size and the time of change of files; those that are missing have none."""
    found = []
    for path in paths:
        stat = path.stat() if path.is_file() else None
        found.append((str(path.resolve()), stat and (stat.st_size, stat.st_mtime_ns)))
    return tuple(found)


def _world(values: dict[str, Any], media: list[Modality], seed: int) -> tuple[Any, float]:
    """Return (source, weight) of the rendered scenes that the section `world` describes."""
    from codi.world import ATTRIBUTES
    from data.world import WorldSource

    weight = values.pop("weight", 1.0)
    _check_names(values, ("weight", "facts", "full"), "data: world")
    _expect(_is_number(weight), "world: weight", weight, "a number above 0")
    facts = values.get("facts", [])
    full = values.get("full", 0.5)
    known = isinstance(facts, list) and set(facts) <= set(ATTRIBUTES)
    _expect(known, "world: facts", facts, f"some of {', '.join(ATTRIBUTES)}")
    _expect(isinstance(full, (int, float)) and 0 <= full <= 1, "world: full", full, "a share in [0, 1]")
    return WorldSource(media, seed=seed, **values), float(weight)


def _entry(item: Any, name: str) -> tuple[str, float, Any]:
    """Return (path, weight, own fit or None) of one entry of a list of manifests or shards."""
    values = {"path": item} if isinstance(item, (str, Path)) else item
    _expect(
        isinstance(values, Mapping) and "path" in values,
        name,
        item,
        "a path, or a mapping with path and weight",
    )
    _check_names(values, ("path", "weight", "fit"), f"data: {name}")
    weight = values.get("weight", 1.0)
    _expect(_is_number(weight), f"{name}: weight", weight, "a number above 0")
    return str(values["path"]), float(weight), values.get("fit")


def read_fits(given: Any) -> dict[Modality, Fit]:
    """Return what is done with pixels of another aspect ratio, by modality.

    Args:
        given: "crop", "pad" or "stretch", or a mapping of these by modality.

    Returns:
        The way of every modality that has pixels, or of those that the mapping names.

    Raises:
        InputError: for another way, or a modality without pixels.
    """
    able = [kind.modality for kind in kinds() if kind.spatial]
    values = given if isinstance(given, Mapping) else dict.fromkeys(able, given)
    found = {}
    for name, fit in values.items():
        modality = Modality.parse(name)
        named = " or ".join(map(str, able))
        _expect(modality in able, "fit", given, f"a way for {named}: {modality} has no pixels")
        _expect(fit in FITS, "fit", given, f"one of {', '.join(FITS)}, or a mapping of these by {named}")
        found[modality] = fit
    return found


def _check_augment(augment: Augment) -> None:
    for name in ("flip", "window"):
        _expect(
            isinstance(getattr(augment, name), bool),
            f"augment: {name}",
            getattr(augment, name),
            "true or false",
        )


def _read(cls: type, values: Any, where: str) -> Any:
    """Return a dataclass from a mapping; an unknown key, or a missing one, raises InputError."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}: expected a mapping")
    fields = dataclasses.fields(cls)
    _check_names(values, [f.name for f in fields], where)
    missing = []
    for each in fields:
        required = each.default is each.default_factory is dataclasses.MISSING
        if required and each.name not in values:
            missing.append(each.name)
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}")
    return cls(**values)


def _check_names(values: Mapping[str, Any], known: Any, where: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise InputError(
                f"{where}: unknown key {name!r}: did you mean {near[0]!r}? (known: {', '.join(known)})"
            )


def _expect(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise InputError(f"data: {name} is {value!r}: expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_colour(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return False
    return all(_is_whole(part, 0) and part <= 255 for part in value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
