"""A hub whose models are folders here, and which counts what is downloaded; nothing leaves this machine."""

import fnmatch
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
from huggingface_hub import errors

from codi.tensor_files import read_header

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refusal(kind: type[Exception], status: int = 403) -> Exception:
    """An answer of the hub that is an error."""
    request = httpx2.Request("GET", "http://hub.invalid/api")
    return kind("refused", response=httpx2.Response(status, request=request))


class FakeHub:
    """Takes the place of `huggingface_hub` for as long as a test runs.

    Attributes:
        models: a folder for each hub id.
        refused: an error for each hub id that is refused.
        downloaded: the names of all files that were downloaded.
        headers: the names of the files whose headers alone were asked for.
        offline: whether there is no network.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.models: dict[str, Path] = {}
        self.refused: dict[str, Exception] = {}
        self.downloaded: list[str] = []
        self.headers: list[str] = []
        self.offline = False

    def install(self, monkeypatch: Any) -> "FakeHub":
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        return self

    def _ask(self, name: str, revision: str | None) -> Path:
        if self.offline:
            raise errors.OfflineModeIsEnabled("offline mode is enabled")
        if name in self.refused:
            raise self.refused[name]
        if name not in self.models:
            raise refusal(errors.RepositoryNotFoundError, 404)
        if revision not in (None, "main", "v1.1", COMMIT):
            raise refusal(errors.RevisionNotFoundError, 404)
        return self.models[name]

    def snapshot_download(self, name: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        place = self.cache / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
        if self.offline:
            if not place.is_dir():
                raise errors.LocalEntryNotFoundError("no snapshot of that revision in the cache")
            return str(place)
        source = self._ask(name, revision)
        for path in sorted(source.rglob("*")):
            file = path.relative_to(source).as_posix()
            wanted = path.is_file() and any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns)
            if wanted and not (place / file).exists():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place / file)
                self.downloaded.append(file)
        return str(place)

    def model_info(self, name: str, *, revision: str | None = None) -> Any:
        source = self._ask(name, revision)
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in names])

    def parse_safetensors_file_metadata(self, name: str, file: str, *, revision: str | None = None) -> Any:
        source = self._ask(name, revision)
        self.headers.append(file)
        return SimpleNamespace(
            tensors={
                tensor: SimpleNamespace(
                    dtype=entry.dtype, shape=list(entry.shape), data_offsets=(entry.begin, entry.end)
                )
                for tensor, entry in read_header(source / file).items()
            }
        )
