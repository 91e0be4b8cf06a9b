"""Find the files of a published model: in a folder, in the cache of the hub, or at the hub.

Nothing is believed of a name but its form: what is a folder here is taken as one, and what looks like
`owner/name` or `owner/name@revision` is looked up at the hub. A branch or a tag is resolved to its commit, by
which the same files are found again later. Code that lies beside a model is never fetched and never run.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.tensor_files import Entry, read_header
from codi.types import InputError

HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
LICENCES = ("LICENSE", "LICENCE", "COPYING")  # how the name of such a file begins
CARD = "README.md"
SMALL = (".json", ".txt", ".model")  # configurations, vocabularies, models of SentencePiece
STATING = (CARD, *(f"{name}*" for name in LICENCES))  # what states a licence
# What says what a model is, in folders at most one below its own.
DESCRIBING = [*STATING, *(f"*{suffix}" for suffix in SMALL)]


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a published model.

    Attributes:
        name: the folder, absolute, or the hub id, without its revision.
        revision: the commit at the hub; None for a folder.
        folder: where the files are here. Of a model at the hub those that describe it are there, and others
            once they have been fetched.
        names: the names of all files, with slashes and relative to the folder, those too that are only at
            the hub.
    """

    name: str
    revision: str | None
    folder: Path
    names: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision[:12]}"

    def inside(self, part: str) -> list[str]:
        """Return the names of the files in the folder of a part, without that of the folder."""
        start = f"{part}/"
        return [name[len(start) :] for name in self.names if name.startswith(start)]

    def fetch(self, names: Iterable[str]) -> None:
        """Download those files that are not here yet. Raises `InputError` if that fails."""
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing and self.revision is not None:
            download(self.name, self.revision, missing)
        missing = [name for name in missing if not (self.folder / name).is_file()]
        if missing:
            raise InputError(f"{self} lacks {missing[0]}: copy or download it again")

    def header(self, name: str) -> dict[str, Entry]:
        """Return an entry for every tensor of a safetensors file, by name; no tensor is read or fetched."""
        if self.revision is None or (self.folder / name).is_file():
            return read_header(self.folder / name)
        import huggingface_hub

        ask = huggingface_hub.HfApi().parse_safetensors_file_metadata
        found = _asked(self.name, self.revision, lambda: ask(self.name, name, revision=self.revision))
        return {
            tensor: Entry(
                dtype=info.dtype,
                shape=tuple(info.shape),
                begin=info.data_offsets[0],
                end=info.data_offsets[1],
            )
            for tensor, info in found.tensors.items()
        }


def find(source: str | Path) -> Files:
    """Return the files of a published model.

    Args:
        source: a folder, or a hub id with or without a revision: "owner/name@revision".

    Returns:
        Its files; those that describe a model at the hub have been downloaded.

    Raises:
        InputError: if there is no such folder and no such model at the hub, or if it cannot be had.
    """
    folder = Path(source).expanduser()
    try:
        if folder.is_dir():
            folder = folder.resolve()
            return Files(name=str(folder), revision=None, folder=folder, names=_names(folder))
        exists = folder.exists()
    except (OSError, ValueError) as error:  # such as a name that is too long, or one with a null byte
        raise InputError(f"{ascii(str(source))} is no name of a folder: {error}") from None
    match = HUB_ID.fullmatch(str(source))
    if exists or match is None or str(source).startswith((".", "/", "~")):
        raise InputError(
            f"no folder {source}: expected one that `save_pretrained` of diffusers wrote, or a hub id such "
            "as owner/name or owner/name@revision"
        )
    return _at_the_hub(match["id"], match["revision"])


def _at_the_hub(name: str, revision: str | None) -> Files:
    """Return the files of a model at the hub, or in its cache where the hub cannot be asked."""
    import huggingface_hub
    from huggingface_hub import errors

    describing = [*DESCRIBING, *(f"*/{pattern}" for pattern in DESCRIBING)]
    folder = download(name, revision, describing)
    commit = folder.name
    try:
        siblings = huggingface_hub.HfApi().model_info(name, revision=commit).siblings
        names = [sibling.rfilename for sibling in siblings or ()]
    except errors.HfHubHTTPError as error:
        raise InputError(f"the hub does not list the files of {name} ({error!s:.120}): try again") from error
    except Exception:  # without a network what is in the cache is all that can be had
        warnings.warn(f"the hub cannot be asked: {name} is taken from the cache as it is", stacklevel=2)
        names = list(_names(folder))
    return Files(name=name, revision=commit, folder=folder, names=tuple(sorted(names)))


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download the files of a model that match patterns, unless they are in the cache.

    Args:
        name: the hub id.
        revision: a branch, a tag or a commit; None for the main branch.
        patterns: names of files, with * for anything.

    Returns:
        The folder of the model in the cache, which is named after its commit.

    Raises:
        InputError: if they cannot be had.
    """
    import huggingface_hub

    def fetch() -> Path:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))

    return _asked(name, revision, fetch)


def _asked(name: str, revision: str | None, ask: Callable[[], Any]) -> Any:
    """Return what the hub answers. Raises `InputError` that says what to do about what it refuses."""
    from huggingface_hub import errors

    try:
        return ask()
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name} is gated: accept its terms on the model's page at the hub, then `hf auth login` with a "
            "token that may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{name} has no revision {revision!r}: expected one of its branches, tags or commits"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"the hub knows no model {name}, or keeps it private: check its name, or `hf auth login` with a "
            "token that may read it"
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"{name!r} is no hub id: expected owner/name or owner/name@revision") from error
    except Exception as error:  # without a network, at a limit of requests, on a full disk
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{name} is not in the cache and cannot be had from the hub ({reason}): check the network, or "
            "download it elsewhere and name its folder"
        ) from error


def _names(folder: Path) -> tuple[str, ...]:
    """Return the names of the files in a folder and in the folders in it."""
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    return tuple(sorted(path.relative_to(folder).as_posix() for path in found))
