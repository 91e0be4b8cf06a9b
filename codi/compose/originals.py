"""Read what a published pipeline consists of, before any class of it is imported and any weight is loaded.

A pipeline is a folder as `save_pretrained` of diffusers writes it: model_index.json, which names the class of
the pipeline and those of its parts, and one folder for each part. Only pipelines of the classes in
`codi.compose.families` are taken, whose parts are classes of diffusers and transformers alone, and whose
weights are safetensors: neither a class that comes with a model nor a pickle is ever read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.compose.hub import SMALL, Files, find
from codi.compose.licences import Licence, licence_in
from codi.tensor_files import Entry, read_json
from codi.types import InputError, Modality, blame

INDEX = "model_index.json"
# Where classes of parts may come from. Those after the first two are modules of diffusers itself, in which
# some pipelines keep parts that no other has.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "stable_audio", "audioldm2")
WITHOUT_WEIGHTS = re.compile(
    r"\w*(Tokenizer(Fast)?|TokenizersBackend|Scheduler|Processor(Fast)?|FeatureExtractor)"
)
WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)"
    r"(\.(?P<variant>\w+))?(-(?P<shard>\d+)-of-(?P<shards>\d+))?(\.(?P<late>\w+))?\.safetensors"
)
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# The configuration of each kind of part, of which it has one.
CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a published pipeline, such as its denoiser.

    Attributes:
        library: where its class comes from: diffusers, transformers, or a module of diffusers.
        kind: the name of its class.
        config: its configuration.
        files: its small files: configurations, vocabularies.
        weights: its files of weights, of the variant that is taken; empty for a part that has none.
        tensors: what the headers of these files say of each tensor.
    """

    library: str
    kind: str
    config: Mapping[str, Any]
    files: tuple[str, ...]
    weights: tuple[str, ...]
    tensors: Mapping[str, Entry]

    @property
    def parameters(self) -> int:
        """How many numbers it has, those included that are not trained."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())

    @property
    def bytes(self) -> int:
        """How large its weights are on the disk."""
        return sum(entry.end - entry.begin for entry in self.tensors.values())

    @property
    def dtypes(self) -> list[str]:
        """The types of its tensors, by the names in their files."""
        return sorted({entry.dtype for entry in self.tensors.values()})


@dataclass(frozen=True, kw_only=True)
class Original:
    """A published pipeline, as its files describe it.

    Attributes:
        files: where it is.
        kind: the class of the pipeline.
        variant: the variant of its weights, such as "fp16"; None for the plain ones.
        parts: its parts by name, without those that it leaves out.
        licence: what it states of its licence.
    """

    files: Files
    kind: str
    variant: str | None
    parts: Mapping[str, Part]
    licence: Licence

    @property
    def config(self) -> dict[str, Mapping[str, Any]]:
        """The configuration of each part."""
        return {name: part.config for name, part in self.parts.items()}

    @property
    def names(self) -> list[str]:
        """The names of all files that the pipeline needs, relative to its folder."""
        found = [INDEX]
        for name, part in self.parts.items():
            found += [f"{name}/{file}" for file in (*part.files, *part.weights)]
        return found

    @classmethod
    def read(
        cls, modality: str, source: str | Path, variant: str | None = None, fetch: bool = True
    ) -> "Original":
        """Read what a pipeline consists of.

        Args:
            modality: what it is to make.
            source: a folder, or a hub id with or without a revision: "owner/name@revision".
            variant: the variant of its weights; None for the plain ones, and for the only variant where a
                part has no plain ones.
            fetch: whether the weights of a model at the hub are downloaded; without them everything is known
                but their bytes.

        Returns:
            The pipeline.

        Raises:
            InputError: whose message begins with the modality, for whatever is no pipeline that can be
                composed.
        """
        from codi.compose.families import family_of  # brings torch along, which `codi info` does without

        with blame(f"{modality}: "):
            files = find(source)
            original = _read(files, variant)
            family = family_of(original.kind)
            if family.modality is not Modality.parse(modality):
                raise InputError(
                    f"{files} is a {original.kind}, which makes {family.modality}: name it as "
                    f"--{family.modality}"
                )
            for part, why in family.refused.items():
                if part in original.parts:
                    raise InputError(f"{files} {why}: such a pipeline cannot be composed")
        if fetch:
            original.fetch(modality)
        return original

    def fetch(self, modality: str) -> None:
        """Download those files that are only at the hub. Raises `InputError` if that fails."""
        with blame(f"{modality}: "):
            self.files.fetch(self.names)


def _read(files: Files, variant: str | None) -> Original:
    """Return a pipeline; raise `InputError` for what is none, or one that is not taken."""
    from codi.compose.families import family_of
    from codi.folder_checks import check_inside

    if INDEX not in files:
        raise InputError(_no_pipeline(files))
    check_inside(files.folder, files.folder / INDEX)
    index = read_json(files.folder / INDEX)
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        raise InputError(
            f"{files} names {kind!r:.80} as its class: expected the name of a pipeline of diffusers, since "
            "code that comes with a model is not run"
        )
    with blame(f"{files}: "):
        family_of(kind)
    classes = {name: pair for name, value in index.items() if (pair := _class_of(files, name, value))}
    weights = {
        name: _weight_files(files, name) for name, pair in classes.items() if _has_weights(files, name, pair)
    }
    chosen = _choose_variant(files, weights, variant)
    parts = {}
    for name, (library, part_kind) in classes.items():
        found = weights.get(name, {})
        own = found.get(chosen, found.get(None, ())) if found else ()
        parts[name] = _part(files, name, library, part_kind, own)
    return Original(files=files, kind=kind, variant=chosen, parts=parts, licence=licence_in(files.folder))


def _no_pipeline(files: Files) -> str:
    """Return the message for a model that has no model_index.json, with advice where it is something else."""
    what = f"{files} is no pipeline of diffusers: it has no {INDEX}"
    if "config.json" in files:
        kind = read_json(files.folder / "config.json").get("_class_name", "network")
        return (
            f"{what}, but is a {kind!s:.60}; build the pipeline that it is part of and name the folder that "
            "its save_pretrained writes"
        )
    checkpoints = [name for name in files.names if name.endswith((".safetensors", ".ckpt"))]
    if checkpoints:
        return (
            f"{what}, but has {checkpoints[0]:.60}; load that by `from_single_file` of its pipeline and name "
            "the folder that its save_pretrained writes"
        )
    return f"{what}; name the folder that save_pretrained of a pipeline writes"


def _class_of(files: Files, name: str, value: Any) -> tuple[str, str] | None:
    """Return the library and the class of a part; None for a setting, and for a part that is left out."""
    if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
        return None
    if len(value) != 2 or not all(isinstance(item, str) for item in value) or not name.isidentifier():
        raise InputError(f"{files} has {name:.60} {value!r:.80}: expected [library, class] of a part")
    library, kind = value
    if library not in LIBRARIES or not kind.isidentifier():
        raise InputError(
            f"part {name:.60} of {files} is a {library:.60}.{kind:.60}: expected a class of diffusers or "
            "transformers, since code that comes with a model is not run"
        )
    return library, kind


def _has_weights(files: Files, name: str, pair: tuple[str, str]) -> bool:
    """Return whether a part is a network, and check that it is there at all."""
    inside = files.inside(name)
    if not inside:
        raise InputError(f"{files} lacks its part {name}/: copy or download it again")
    if WITHOUT_WEIGHTS.fullmatch(pair[1]):
        return False
    if "config.json" not in inside:
        raise InputError(f"{files} lacks {name}/config.json: copy or download it again")
    return True


def _weight_files(files: Files, part: str) -> dict[str | None, tuple[str, ...]]:
    """Return the safetensors files of a part by their variant, where all files of a variant are there."""
    inside = files.inside(part)
    found: dict[str | None, dict[int, list[str]]] = {}
    for name in inside:
        match = WEIGHTS.fullmatch(name)
        if match:
            variant = match["variant"] or match["late"]
            found.setdefault(variant, {}).setdefault(int(match["shards"] or 1), []).append(name)
    whole = {}
    for variant, sets in found.items():
        complete = [names for count, names in sorted(sets.items()) if len(names) == count]
        if not complete:
            count, names = next(iter(sets.items()))
            raise InputError(
                f"{files} has {len(names)} of {count} files of weights in {part}/: download it again"
            )
        whole[variant] = tuple(
            sorted(complete[0])
        )  # where there are one file and several, libraries read the one
    if not whole:
        pickles = [name for name in inside if name.endswith(PICKLES)]
        raise InputError(_no_weights(files, part, pickles))
    return whole


def _no_weights(files: Files, part: str, pickles: list[str]) -> str:
    """Return the message for a part without safetensors."""
    if not pickles:
        return f"{files} has no weights in {part}/: expected .safetensors; copy or download it again"
    return (
        f"{files} has the weights of {part}/ as pickles only ({pickles[0]:.60}), which can run any code: "
        f"name a revision with safetensors, or write them yourself where you trust it, by DiffusionPipeline."
        f"from_pretrained('{files.name}', use_safetensors=False).save_pretrained(FOLDER), and name FOLDER"
    )


def _choose_variant(
    files: Files, weights: Mapping[str, Mapping[str | None, Any]], wanted: str | None
) -> str | None:
    """Return the variant of weights to take: the wanted one, else the plain ones, else the only one.

    As in diffusers a part that has no weights of a variant gives its plain ones.
    """
    variants = {variant for found in weights.values() for variant in found if variant is not None}
    if wanted is not None and wanted not in variants:
        there = ", ".join(sorted(variants)) or "none but the plain weights"
        raise InputError(f"{files} has no variant {wanted!r}: expected one of its own ({there})")
    if wanted is None and all(None in found for found in weights.values()):
        return None
    usable = [
        variant
        for variant in sorted(variants if wanted is None else {wanted})
        if all(variant in found or None in found for found in weights.values())
    ]
    if not usable:
        part = next(name for name, found in weights.items() if wanted not in found and None not in found)
        raise InputError(
            f"{files} has no complete set of weights: {part}/ has {', '.join(map(str, weights[part]))} only"
        )
    # a half precision variant is what published models mean by one; others are training's
    return "fp16" if "fp16" in usable else usable[0]


def _part(files: Files, name: str, library: str, kind: str, weights: tuple[str, ...]) -> Part:
    """Return one part, from its configuration and the headers of its weights."""
    from codi.folder_checks import check_inside

    inside = files.inside(name)
    small = tuple(file for file in inside if file.endswith(SMALL))
    for file in (*small, *weights):
        check_inside(files.folder, files.folder / name / file)
    config = next((file for file in CONFIGS if file in small), None)
    tensors: dict[str, Entry] = {}
    for file in weights:
        tensors |= files.header(f"{name}/{file}")
    return Part(
        library=library,
        kind=kind,
        config={} if config is None else read_json(files.folder / name / config),
        files=small,
        weights=weights,
        tensors=tensors,
    )
