"""Write how a result was made, as its files and the manifest say it, and read that back.

A record is one JSON object. That of a file has

- `record`: the number of this form, `FORM`
- `codi`: the version that wrote it
- `outputs`: what was made
- `regions`: if there are any, prompts for parts of what was made (`codi.regions`), each with its `inputs`
- `inputs`: prompts, words in full and files by name and sha256, each with its weight; `negatives` likewise
- `sources`: the media that outputs were given of themselves, each with its `use`: "start", "keep" for a
  mask, or "keyframe" with the frame as `at`
- `seed`: that of this sample
- `batch`: where the sample stood in its batch, as `row` of `rows`, on which rounding depends
- `resolved`: every setting of the call, the model's own values included
- `model`: its name, digest of the weights, dtype, device, scheduler, and LoRAs and words by sha256
- `versions`: those of the libraries
- `filter`: of a file that the user's filter changed, its name, the sha256 of its code, and what it `changed`
- `continued`: of a file that `codi continue` made of several windows, how; `resolved` is that of the first

A manifest, and the record of a job, have `samples` with a seed and a batch each in place of the two, and what
was asked for as `settings`. A record is data: what is read is checked against the tables at the end of this
file, and nothing that they do not name is used.
"""

import json
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from codi import renamed
from codi.modalities import kind_of
from codi.types import DTYPES, SIZES, InputError, Modality
from codi.version import __version__

FORM = 1
# whose versions may change what comes out
LIBRARIES = ("torch", "torchaudio", "diffusers", "transformers", "av", "soundfile", "pillow", "numpy")
MOST_SAMPLES = 100_000
MAX_BYTES = 64 << 20  # of a manifest that is read
PER_OUTPUT = ("guidance_scale", "sync_guidance_scale", "start_offset")
OWN_SCALE = "cfg++"  # the guider whose scale stands as the guidance scale
WORDS = "text"  # the key of a prompt of words in a record


# Writing ---------------------------------------------------------------


def described(
    items: Mapping[Modality, Sequence[Any]],
    negatives: Mapping[Modality, Sequence[Any]],
    embeds: Any = None,
    away: Any = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the prompts of a call as a record has them.

    Args:
        items: prompts by modality.
        negatives: prompts to steer away from, by modality.
        embeds: prompts in the form of tokens (B, 1, D), or None.
        away: the same of negative prompts.

    Returns:
        `inputs` and, if there are any, `negatives`, a dict for each prompt. What came from memory is named,
        not held.
    """
    rows = {"inputs": _rows(items, embeds)}
    refused = _rows(negatives, away)
    return rows | ({"negatives": refused} if refused else {})


def _rows(items: Mapping[Modality, Sequence[Any]], embeds: Any) -> list[dict[str, Any]]:
    """Return one row for each prompt, and one for prompts in the form of tokens."""
    found = [_row(m, prompt.value, prompt.weight) for m in Modality for prompt in items.get(m, ())]
    if embeds is not None:
        found.append({"as": "embeds", "weight": 1.0, "from": f"tokens {tuple(embeds.shape)}"})
    return found


def _row(modality: Modality, value: Any, weight: float) -> dict[str, Any]:
    """Return one prompt as a record has it."""
    from codi import io

    if kind_of(modality).in_words:
        what = {"text": str(value)}
    elif isinstance(value, (str, Path)):
        what = io.describe(value)
    else:
        what = {"from": f"memory ({type(value).__name__})"}
    return {"as": modality.value, "weight": float(weight), **what}


def described_mask(value: Any) -> dict[str, Any]:
    """Return a mask as a record has it: a file by name and sha256; what came from memory is named."""
    from codi import io

    if isinstance(value, (str, Path)):
        return io.describe(value)
    return {"from": f"memory ({type(value).__name__})"}


def described_starts(*given: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Return what goes on, by what it is, as a record has it."""
    rows = []
    for media in given:
        for name, value in media.items():
            row = {"as": Modality.parse(name).value, "use": "start"}
            rows.append(row | described_mask(value))
    return rows


def scheduler(part: Any) -> dict[str, Any]:
    """Return the class of a scheduler and its settings."""
    config = {key: value for key, value in dict(part.config).items() if not key.startswith("_")}
    # JSON knows no infinity, which becomes a text
    plain = json.loads(json.dumps(config, default=str, sort_keys=True), parse_constant=str)
    return {"class": type(part).__name__, "config": plain}


def versions() -> dict[str, str | None]:
    """Return the versions of what makes a result."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def head() -> dict[str, Any]:
    """Return what every record begins with."""
    return {"record": FORM, "codi": __version__, "versions": versions()}


def to_text(record: Mapping[str, Any]) -> str:
    """Return a record as JSON in ASCII, which every container keeps as it is."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False, default=str)


# Reading ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a file says of how it was made; it was checked, so that every value has the type that it should.

    Attributes:
        source: the file that it was read from.
        codi: the version that wrote it.
        outputs: what was made.
        inputs: a dict for each prompt: the modality (`as`), `weight`, and `text`, `path` and `sha256`, or
            `from`.
        negatives: the same of negative prompts.
        sources: the same, without a weight, of what outputs were given of themselves, with `use` and `at`.
        regions: a dict for each region: its `inputs`, `weight`, and where and when it counts.
        samples: a dict for each sample: its `seed`, and as `batch` where it stood in its batch (`row`,
            `rows`), or None.
        resolved: every setting of the call, by the names of `RESOLVED`.
        model: what is known of the model, by the names of `MODEL`.
        versions: versions of libraries.
        id: the id of the job; None for a record that is not of a job.
        asked: what was asked for, as the manifest says it; nothing follows from it.
        continued: how it was continued, if it was; nothing follows from it.
        filter: which filter changed what of it, if one did; nothing follows from it.
    """

    source: str
    codi: str
    outputs: tuple[Modality, ...]
    inputs: tuple[dict[str, Any], ...]
    negatives: tuple[dict[str, Any], ...]
    samples: tuple[dict[str, Any], ...]
    resolved: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, Any]
    sources: tuple[dict[str, Any], ...] = ()
    regions: tuple[dict[str, Any], ...] = ()
    id: str | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    continued: dict[str, Any] = field(default_factory=dict)
    filter: dict[str, Any] = field(default_factory=dict)

    def check_single(self) -> None:
        """Raise `InputError` if it was made by more than one call."""
        if self.continued:
            raise InputError(
                f"{self.source} was made by codi continue, window by window, and not by one call: run that "
                "command again on what it continued, which its record names"
            )

    def edits(self) -> dict[str, Any]:
        """Return the arguments of a pipeline that say what outputs are given of themselves (`codi.edits`).

        Raises `InputError` for media that the record only names, and for files that are gone.
        """
        if not self.sources:
            return {}
        found: dict[str, Any] = {"start": {}, "keyframes": {}}
        found["keep"] = {name: list(regions) for name, regions in self.resolved.get("keep", {}).items()}
        for row in self.sources:
            value = row[WORDS] if WORDS in row else check_input(self.source, row)
            if row["use"] == "start":
                found["start"][row["as"]] = value
            elif row["use"] == "keep":
                found["keep"].setdefault(row["as"], []).append(value)
            else:
                found["keyframes"].setdefault(row["as"], {})[row["at"]] = value
        found["canvas"] = self.resolved.get("canvas", {})
        strengths = self.resolved.get("strength", {})
        found["strength"] = {name: value for name, value in strengths.items() if name in found["start"]}
        found["source_prompt"] = self.resolved.get("source_prompt", {})
        if found["keep"] or found["keyframes"] or found["canvas"]:
            found["resample_steps"] = self.resolved.get("resample_steps")
        return {name: value for name, value in found.items() if value not in ({}, None)}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments with which a pipeline makes it again, one sample at a time or all together.

        Raises `InputError` for prompts that the record only names, and for files that are gone; a file that
        has changed is a note.
        """
        self.check_single()
        prompts: dict[str, list[Any]] = {}
        for sign, rows in (("", self.inputs), ("negative_", self.negatives)):
            for row in rows:
                prompts.setdefault(sign + row["as"], []).append(_prompt(self.source, row))
        if self.regions:
            prompts["regions"] = [self._region(row) for row in self.regions]
        seeds = [sample["seed"] for sample in self.samples]
        sync = [Modality.parse(name) for name in self.resolved["partners"]]
        return {
            **prompts,
            "outputs": [m.value for m in self.outputs],
            "num_samples": len(seeds),
            "seed": seeds,
            "sync": sync or False,
            **self.settings(),
            **self.edits(),
        }

    def _region(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a region as a pipeline takes it."""
        region = {key: value for key, value in row.items() if key not in ("inputs", "mask")}
        for entry in row["inputs"]:
            region.setdefault(entry["as"], []).append(_prompt(self.source, entry))
        if "mask" in row:
            region["mask"] = Path(check_mask(self.source, row["mask"]))
        return region

    def settings(self) -> dict[str, Any]:
        """Return the resolved settings as arguments of a pipeline, besides prompts, seeds and `sync`."""
        names = ["num_inference_steps", "guidance_interval", "sync_guidance_interval", "guidance_rescale"]
        names += ["auxiliary_caption", "lengths", *(["control"] if "control" in self.resolved else [])]
        found = {name: self.resolved[name] for name in names}
        if "guider" in self.resolved:
            found["guider"] = self.per_output("guider")
        found["classifier_guidance"] = self.classifier_guidance(self.outputs)
        found["upscale"] = self.resolved.get("upscale")
        for name in PER_OUTPUT:
            found[name] = self.per_output(name)
        for name in SIZES:
            if name in self.resolved:
                found[name] = self.resolved[name]
        return found

    @property
    def own_scales(self) -> list[str]:
        """The outputs whose guider has a scale of its own, which stands as their guidance scale."""
        guiders = self.resolved.get("guider", {})
        return [name for name, guider in guiders.items() if guider["name"] == OWN_SCALE]

    def classifier_guidance(self, outputs: Sequence[Modality]) -> dict[str, Any] | None:
        """Return the classifier guidance of those of its outputs that are among `outputs`; None for none.

        Raises `InputError` for a function that came from Python, which the record only names.
        """
        found = self.resolved.get("classifier_guidance")
        if found is None:
            return None
        if found["name"] is None:
            raise InputError(
                f"{self.source} was made with a function from {found.get('from')} as classifier_guidance, "
                "which only Python can give again"
            )
        kept = [name for name in found["outputs"] if name in outputs]
        scale = {name: found["scale"][name] for name in kept}
        return {**found, "outputs": kept, "scale": scale} if kept else None

    def per_output(self, name: str) -> Any:
        """Return a setting as one number, where it holds for all that was made, or as one for each output.

        A number for all holds for an auxiliary, too; nothing else can give that one its own.
        """
        values = self.resolved[name]
        first = next(iter(values.values()))
        if all(value == first for value in values.values()):
            return first
        return {key: value for key, value in values.items() if key in self.outputs}


def _prompt(source: str, row: dict[str, Any]) -> Any:
    """Return a prompt of a record as a pipeline takes it."""
    from codi.prompts import Prompt

    return Prompt(row[WORDS] if WORDS in row else Path(check_input(source, row)), weight=row["weight"])


def check_held(source: str, row: Mapping[str, Any]) -> None:
    """Raise `InputError` for a prompt that the record only names."""
    if row["as"] == "embeds":
        raise InputError(
            f"{source} was made from {row.get('from', 'tokens')} (prompt_embeds), which only Python can give "
            "again"
        )
    if WORDS not in row and "path" not in row:
        given = row.get("from", "memory")
        raise InputError(
            f"the {row['as']} {row.get('use', 'prompt')} of {source} came from {given}, not from a file: "
            f"give it with {_option(row)} FILE"
        )


def check_input(source: str, row: Mapping[str, Any]) -> str:
    """Return the path of a prompt's file.

    Raises `InputError` if there is none, and warns if it holds something else by now.
    """
    check_held(source, row)
    return _check_there(source, row, _option(row))


def check_mask(source: str, row: Mapping[str, Any]) -> str:
    """Return the path of a region's mask.

    Raises `InputError` if there is none, and warns if it holds something else by now.
    """
    if "path" not in row:
        raise InputError(
            f"a mask of {source} came from {row.get('from', 'memory')}, not from a file: give the regions "
            "again with --region"
        )
    return _check_there(source, row, "--region")


def _check_there(source: str, row: Mapping[str, Any], option: str) -> str:
    """Return the path of a file, which must be there; `option` gives another."""
    import warnings

    from codi import io

    path = row["path"]
    if not Path(path).is_file():
        raise InputError(
            f"{source} was made from {path}, which is not there (relative names start at {Path.cwd()}): "
            f"bring it back, or give another with {option}"
        )
    if io.describe(path)["sha256"] != row["sha256"]:
        warnings.warn(f"{path} has changed since {source} was made from it", stacklevel=3)
    return path


def _option(row: Mapping[str, Any]) -> str:
    """Return the option of the command line by which such a medium is given."""
    kind = str(row["as"]).replace("_", "-")
    return {"start": f"--start-{kind}", "keep": "--keep", "keyframe": "--keyframe"}.get(
        row.get("use", ""), f"--{kind}"
    )


def read_record(path: str | Path) -> Record:
    """Return the record of a picture, recording, clip or job, or of a manifest of one run.

    Raises `InputError` for a file without one, a record of a newer codi, or one that holds what no record
    may.
    """
    found = read_records(path)
    if len(found) != 1:
        raise InputError(
            f"{path} lists {len(found)} jobs: expected the record of one of them, such as {found[0].id}.json"
        )
    return found[0]


def words_of(path: str | Path) -> list[tuple[str, float]]:
    """Return the sentences that a file was made from, with their weights; none where no record says it."""
    from codi import io

    try:
        record = _checked(str(path), _load(path, io.carried_text))
    except InputError:
        return []
    return [(row["text"], row["weight"]) for row in record.inputs if row.get("text") is not None]


def _present_names(row: dict[str, Any], source: Any) -> dict[str, Any]:
    """Return a record under the present names of its settings, whichever version wrote it."""
    found = dict(row)
    if isinstance(row.get("resolved"), dict):
        found["resolved"] = renamed.rename(row["resolved"], renamed.SETTINGS, str(source))
    model = row.get("model")
    if isinstance(model, dict) and isinstance(model.get("own"), dict):
        own = renamed.rename(model["own"], renamed.SETTINGS, str(source))
        found["model"] = {**model, "own": own}
    if isinstance(row.get("settings"), dict):
        found["settings"] = renamed.rename(row["settings"], renamed.SETTINGS | renamed.SHORT, str(source))
    return found


def read_records(path: str | Path) -> list[Record]:
    """Return the record of a file as `read_record` does, or those of all jobs that a manifest lists."""
    row = _load(path)
    if "jobs" not in row:
        return [_checked(str(path), row)]
    names = row["jobs"]
    if not isinstance(names, list) or not names or len(names) > MOST_SAMPLES:
        raise InputError(f"{path} is no record of codi's: its jobs are no list of names")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,130}\.json", name):
            raise InputError(
                f"{path} is no record of codi's: {json.dumps(name)[:80]} is no name of a job's record"
            )
    found = []
    for name in names:
        each = Path(path).parent / name
        found.append(_checked(str(each), _load(each)))
    return found


def parse(source: str, row: dict[str, Any]) -> Record:
    """Return the record that a JSON object is, checked like one that a file carries.

    Args:
        source: where it is from, for messages.
        row: the object.

    Returns:
        The record.

    Raises:
        InputError: for a record of a newer codi, or one that holds what no record may.
    """
    return _checked(source, row)


def differences(record: Record) -> list[str]:
    """Return by what of this installation a record made again may differ, in lines that begin with "was"."""
    found = []
    if record.codi != __version__:
        found.append(f"was made by codi {record.codi}, this is {__version__}")
    for name, version in versions().items():
        if name in record.versions and record.versions[name] != version:
            found.append(f"was made with {name} {record.versions[name]}, here is {version}")
    return found


def _load(path: str | Path, read: Callable[[str | Path], str | None] | None = None) -> dict[str, Any]:
    """Return the JSON object that a file is, or carries; `read` reads what it carries."""
    from codi import io

    io.check_file(path)
    with open(path, "rb") as file:
        plain = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        if plain:
            if Path(path).stat().st_size > MAX_BYTES:
                raise InputError(
                    f"{path} has more than {MAX_BYTES >> 20} MB: expected a manifest or a record of codi's"
                )
            file.seek(0)
            text: Any = file.read()
    if not plain:
        text = (read or io.read_text)(path)
    if text is None:
        raise InputError(
            f"{path} carries no record of how it was made: expected a png, wav or mp4 as codi writes them, "
            "or a manifest.json; that of a text is in the manifest beside it"
        )
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        row = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the record of {path} is damaged ({' '.join(str(error).split())[:80]}): expected what codi wrote"
        ) from None
    if not isinstance(row, dict):
        raise InputError(
            f"the record of {path} is a {type(row).__name__}: expected an object as codi writes it"
        )
    return row


def _no_constant(name: str) -> None:
    """Refuse a number that JSON does not have: NaN or infinity."""
    raise ValueError(f"{name} is no number")


def _checked(source: str, row: dict[str, Any]) -> Record:
    """Return a record whose every value is what it should be, or raise an `InputError` of one line."""
    form = row.get("record")
    if form is None:
        raise InputError(
            f"{source} holds no record of codi's (it has no key 'record'); manifests of codi 0.1 before "
            "records had none"
        )
    if isinstance(form, int) and not isinstance(form, bool) and form > FORM:
        raise InputError(
            f"{source} was made by a newer codi ({str(row.get('codi'))[:20]}): this one is {__version__}; "
            "install that one"
        )
    try:
        return _parse(source, row)
    except _Wrong as error:
        raise InputError(f"the record of {source} cannot be used: {error}") from None


class _Wrong(ValueError):
    """Raised for what is wrong with a record."""


def _parse(source: str, row: dict[str, Any]) -> Record:
    """Return the record in a JSON object, or raise `_Wrong` for the first value that cannot be used."""
    _only("record", row, TOP)
    _need(row["record"] == FORM, "record", row["record"], f"{FORM}")
    if "samples" in row:
        entries = row["samples"]
        fine = isinstance(entries, list) and 0 < len(entries) <= MOST_SAMPLES
        _need(fine, "samples", entries, "a list of samples")
    else:
        entries = [{key: row[key] for key in ("seed", "batch") if key in row}]
    samples = tuple(map(_sample, entries))
    outputs = row.get("outputs")
    _need(_is_names(outputs) and outputs, "outputs", outputs, "a list of text, image, audio, video")
    row = _present_names(row, source)
    settings = _fields("resolved", row.get("resolved"), RESOLVED, OPTIONAL)
    for name in (*PER_OUTPUT, *({"guider"} & settings.keys())):
        lacking = [m for m in outputs if m not in settings[name]]
        _need(not lacking, name, settings[name], f"a number for each of {', '.join(outputs)}")
    inputs = _prompts(row, "inputs")
    partners = settings["partners"]
    _need(set(partners) <= {entry["as"] for entry in inputs}, "partners", partners, "inputs")
    return Record(
        source=source,
        codi=str(row.get("codi"))[:40],
        outputs=tuple(dict.fromkeys(map(Modality, outputs))),
        inputs=inputs,
        negatives=_prompts(row, "negatives"),
        regions=_regions(row),
        samples=samples,
        resolved=settings,
        model=_fields("model", row.get("model"), MODEL, MODEL),
        versions=_texts(row.get("versions")),
        sources=_sources(row),
        id=Path(source).stem if "request" in row else None,
        asked=row["settings"] if isinstance(row.get("settings"), dict) else {},
        continued=row["continued"] if isinstance(row.get("continued"), dict) else {},
        filter=row["filter"] if isinstance(row.get("filter"), dict) else {},
    )


def _sample(entry: Any) -> dict[str, Any]:
    """Return the seed of a sample and where it stood in its batch."""
    _need(isinstance(entry, dict), "sample", entry, "an object")
    _only("sample", entry, ("seed", "batch", "files", "sha256", "seconds", "selection", "filter"))
    seed = entry.get("seed")
    place = entry.get("batch")
    _need(_is_whole(seed, 0, 2**63 - 1), "seed", seed, "a whole number from 0")
    if place is not None:
        fine = isinstance(place, dict) and set(place) == {"row", "rows"} and _is_whole(place["rows"], 1, 4096)
        _need(fine and _is_whole(place["row"], 0, place["rows"] - 1), "batch", place, "a row of some rows")
    return {"seed": seed, "batch": place}


def _prompts(row: dict[str, Any], key: str) -> tuple[dict[str, Any], ...]:
    """Return the rows of prompts under a key, each of which has what a prompt of its kind needs."""
    rows = row.get(key, [])
    _need(isinstance(rows, list) and len(rows) <= 10_000, key, rows, "a list of prompts")
    for entry in rows:
        _need(isinstance(entry, dict), key, entry, "objects")
        _only(key, entry, ("as", "weight", "text", "path", "kind", "bytes", "sha256", "from"))
        kind = entry.get("as")
        weight = entry.get("weight")
        words = entry.get("text")
        path = entry.get("path")
        digest = entry.get("sha256")
        _need(_is_name(kind) or kind == "embeds", f"{key}: as", kind, "text, image, audio or video")
        _need(_is_number(weight, 0), f"{key}: weight", weight, "a number of at least 0")
        if kind in Modality and kind_of(kind).in_words:
            _need(isinstance(words, str) and words.strip() != "", f"{key}: text", words, "words")
        else:
            _need(words is None, f"{key}: text", words, f"none for {kind}")
            fine = path is None or (isinstance(path, str) and 0 < len(path) <= 4096 and "\0" not in path)
            _need(fine, f"{key}: path", path, "the name of a file")
            _need(path is None or isinstance(digest, str), f"{key}: sha256", digest, "a digest")
    return tuple(rows)


def _sources(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the rows of what outputs were given of themselves, checked like prompts."""
    rows = row.get("sources", [])
    _need(isinstance(rows, list) and len(rows) <= 10_000, "sources", rows, "a list of media")
    bare = []
    for entry in rows:
        _need(isinstance(entry, dict), "sources", entry, "objects")
        _need(entry.get("as") in row["outputs"], "sources: as", entry.get("as"), "one of the outputs")
        _need(entry.get("use") in USES, "sources: use", entry.get("use"), " or ".join(USES))
        framed = entry["use"] == "keyframe"
        at = entry.get("at", -1)
        _need(_is_whole(at, 0, 2**31) if framed else at == -1, "sources: at", at, "a frame of a keyframe")
        plain = {key: value for key, value in entry.items() if key not in ("use", "at")}
        if entry["use"] == "start":
            bare.append({**plain, "weight": 1.0})
        else:
            bare.append({**plain, "as": Modality.IMAGE.value, "weight": 1.0})
    _prompts({"sources": bare}, "sources")
    return tuple(rows)


def _regions(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the regions of a record, each of which has prompts and what bounds it."""
    rows = row.get("regions", [])
    _need(isinstance(rows, list) and len(rows) <= 1000, "regions", rows, "a list of regions")
    for entry in rows:
        found = _fields("region", entry, REGION, OPTIONAL_OF_REGION)
        inputs = _prompts(found, "inputs")
        named = inputs and all(_is_name(prompt["as"]) for prompt in inputs)
        _need(named, "region: inputs", found["inputs"], "prompts")
        bounded = {"box", "mask", "interval"} & set(found)
        _need(bounded, "region", found, "a box, a mask or an interval")
    return tuple(rows)


def _is_numbers(value: Any, *counts: int) -> bool:
    """Return whether it is a list of so many numbers of at least 0."""
    return isinstance(value, list) and len(value) in counts and all(_is_number(n, 0) for n in value)


def _is_mask(value: Any) -> bool:
    """Return whether it is a file by name and sha256, or says what it came from."""
    if not isinstance(value, dict) or not set(value) <= {"path", "kind", "bytes", "sha256", "from"}:
        return False
    path, digest = value.get("path"), value.get("sha256")
    return path is None or (
        isinstance(path, str) and path != "" and _is_text(path) and isinstance(digest, str)
    )


def _fields(
    where: str, row: Any, known: Mapping[str, Callable[[Any], bool]], optional: Mapping[str, Any]
) -> dict[str, Any]:
    """Return values that pass a table of checks: all of them are there but optional ones, and no others."""
    _need(isinstance(row, dict), where, row, "an object")
    _only(where, row, known)
    for name, check in known.items():
        if name in row:
            _need(check(row[name]), f"{where}: {name}", row[name], "another kind of value")
        elif name not in optional:
            raise _Wrong(f"{where} lacks {name}")
    return dict(row)


def _only(where: str, row: Mapping[str, Any], known: Any) -> None:
    """Raise `_Wrong` for a key that is not known."""
    if unknown := [key for key in row if key not in known]:
        raise _Wrong(f"{where} has the key {str(unknown[0])[:60]!r}, which codi {__version__} does not know")


def _need(fine: Any, name: str, value: Any, expected: str) -> None:
    """Raise `_Wrong` for a value that is not fine."""
    if not fine:
        raise _Wrong(f"{name} is {json.dumps(value, default=str)[:80]}: expected {expected}")


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any, least: float = -math.inf, most: float = 2**53) -> bool:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fine and abs(value) < 2**63 and math.isfinite(value) and least <= value <= most


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value in Modality


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(_is_name(name) for name in value)


def _is_scales(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(_is_name(key) and _is_number(number, 0) for key, number in value.items())


def _is_options(value: Any) -> bool:
    """Return whether it is a name with options, each a number, a text, or a list or a dict of these."""
    if not isinstance(value, dict) or len(value) > 20 or "name" not in value:
        return False
    for option in value.values():
        inner = list(option.values()) if isinstance(option, dict) else option
        members = inner if isinstance(inner, list) else [inner]
        if len(members) > 100 or not all(_is_text(one) or _is_number(one) for one in members):
            return False
    return _is_text(value["name"])


def _is_guiders(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(_is_name, value)):
        return False
    return all(_is_options(guider) and guider["name"] is not None for guider in value.values())


def _is_classifier(value: Any) -> bool:
    if not _is_options(value) or set(value) != {"name", "from", "outputs", "scale", "interval"}:
        return False
    named = _is_names(value["outputs"]) and _is_scales(value["scale"])
    return named and set(value["outputs"]) == set(value["scale"]) and _is_interval(value["interval"])


def _is_upscale(value: Any) -> bool:
    """Return whether it says how much larger pictures were made, and how (`codi.upscaling`)."""
    if not isinstance(value, dict) or set(value) != {"factor", "noise_aug_strength", "num_inference_steps"}:
        return False
    whole = _is_whole(value["factor"], 2, 16) and _is_whole(value["num_inference_steps"], 1, 1000)
    return whole and _is_number(value["noise_aug_strength"], 0)


def _is_steps(value: Any) -> bool:
    """Return whether it is a number of steps, for all outputs or for each."""
    counts = list(value.values()) if isinstance(value, dict) and all(map(_is_name, value)) else [value]
    return bool(counts) and all(_is_whole(count, 1, 1_000_000) for count in counts)


def _is_interval(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    first, last = value
    return _is_number(first, 0, 1) and _is_number(last, 0, 1) and first <= last


def _is_regions(value: Any) -> bool:
    """Return whether it is a list of regions for each output."""
    if not isinstance(value, dict) or not all(map(_is_name, value)):
        return False
    for regions in value.values():
        if not isinstance(regions, list) or not 0 < len(regions) <= 10_000:
            return False
        for region in regions:  # everything, a frame, or seconds or a box
            if not (region is True or _is_whole(region, -(2**31), 2**31) or _is_numbers(region, 2, 4)):
                return False
    return True


def _is_boxes(value: Any) -> bool:
    """Return whether it is a box for each output."""
    fine = isinstance(value, dict) and all(map(_is_name, value))
    return fine and all(_is_numbers(box, 4) for box in value.values())


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 4096 and "\0" not in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_files(value: Any) -> bool:
    """Return whether it is a list of adapters."""
    return isinstance(value, list) and len(value) <= 100 and all(map(_is_adapter, value))


def _is_adapter(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"path", "sha256", "scale", "token"}:
        return False
    for key in ("path", "sha256"):
        if not isinstance(value.get(key), str) or not _is_text(value[key]):
            return False
    return "scale" not in value or _is_number(value["scale"])


def _is_controls(value: Any) -> bool:
    """Return whether it is a list of controls; `codi.controls` checks what they say when it is used."""
    if not isinstance(value, list) or len(value) > 100:
        return False
    return all(isinstance(each, dict) and {"output", "kind", "value"} <= set(each) for each in value)


def _texts(value: Any) -> dict[str, Any]:
    """Return versions by name, those that are texts."""
    if not isinstance(value, dict):
        return {}
    found = {}
    for key, text in value.items():
        if isinstance(text, str) and len(text) < 100:
            found[str(key)[:40]] = text
    return found


# the keys of a record
TOP = (
    "record",
    "codi",
    "versions",
    "model",
    "inputs",
    "negatives",
    "sources",
    "regions",
    "outputs",
    "resolved",
    "settings",
    "continued",
    "filter",
    "seed",
    "seeds",
    "batch",
    "samples",
    "selection",
    "timings",
    "request",
)
# the settings of a call, and what each may be
RESOLVED: dict[str, Callable[[Any], bool]] = {
    "num_inference_steps": lambda value: _is_steps(value),
    "captions": lambda value: isinstance(value, list) and all(map(_is_text, value)),  # drawn first
    "guidance_scale": _is_scales,
    "sync_guidance_scale": _is_scales,
    "guidance_interval": _is_interval,
    "sync_guidance_interval": _is_interval,
    "guidance_rescale": lambda value: _is_number(value, 0, 1),
    "guider": _is_guiders,
    "classifier_guidance": _is_classifier,
    "upscale": _is_upscale,
    "start_offset": _is_scales,
    "auxiliary_caption": lambda value: isinstance(value, bool),
    "auxiliary": _is_names,
    "sync": lambda value: isinstance(value, bool) or _is_names(value),
    "partners": _is_names,
    "candidates": lambda value: _is_whole(value, 1, 1_000_000),
    "lengths": lambda value: value in ("agree", "free"),
    "height": lambda value: _is_whole(value, 1, 2**31),
    "width": lambda value: _is_whole(value, 1, 2**31),
    "num_frames": lambda value: _is_whole(value, 1, 2**31),
    "fps": lambda value: _is_number(value, 0),
    "audio_length_in_s": lambda value: _is_number(value, 0),
    "strength": lambda value: _is_scales(value) and all(number <= 1 for number in value.values()),
    "keep": _is_regions,
    "canvas": _is_boxes,
    "resample_steps": lambda value: _is_whole(value, 1, 1000),
    "source_prompt": lambda value: _is_object(value) and all(map(_is_text, value.values())),
    "control": _is_controls,
}
# where outputs were given something of themselves
EDITS = ("strength", "keep", "canvas", "resample_steps", "source_prompt")
USES = ("start", "keep", "keyframe")  # of media that outputs were given of themselves
# settings that a call may lack: a picture has no frames
OPTIONAL = (*SIZES, "auxiliary", "captions", "guider", "classifier_guidance", "upscale", *EDITS, "control")
# what a record says of a region, and what each may be
REGION: dict[str, Callable[[Any], bool]] = {
    "inputs": lambda value: isinstance(value, list),
    "weight": lambda value: _is_number(value, 0),
    "box": lambda value: _is_numbers(value, 4),
    "interval": lambda value: _is_numbers(value, 2),
    "mask": _is_mask,
    "feather": lambda value: _is_number(value, 0, 1),
    "fade": lambda value: _is_number(value, 0),
    "outputs": lambda value: _is_names(value),
}
OPTIONAL_OF_REGION = ("box", "interval", "mask", "feather", "fade", "outputs")
# what a record says of a model, and what each may be
MODEL: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "weights": _is_text,
    "dtype": lambda value: value is None or value in DTYPES,
    "device": _is_text,
    "scheduler": _is_text,  # as the command line named it, if it did
    "scheduler_config": _is_object,
    "own": _is_object,
    "composed": _is_object,  # the published models that it is composed of
    "parts": _is_object,  # digests of what it has beside them
    "loras": _is_files,
    "words": _is_files,
    "controls": _is_files,  # the branches of the controls that were used
}
