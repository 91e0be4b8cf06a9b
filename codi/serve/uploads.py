"""Keep the files of jobs: what was uploaded, and what was made.

    DATA/inputs/ID/NAME     what was uploaded with a job, under the names that its request has
    DATA/results/ID*        what was made, with its record ID.json

No request can name any other file: a name in it is that of an upload, or `job:ID/NAME` for a file of an
earlier job of the same owner.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codi.job_files import with_files
from codi.serve.limits import Limits
from codi.types import InputError

EARLIER = "job:"  # begins a name that is a file of an earlier job
LONGEST = 120  # letters of a name
FORBIDDEN = set('/\\:*?"<>|')  # in names, somewhere


class Files:
    """The files of all jobs of one server.

    Args:
        data: the folder in which they lie.
        limits: how large uploads may be.

    Attributes:
        inputs: the folder of the uploads, in a folder for each job.
        results: the folder of the results.
        limits: as above.
    """

    def __init__(self, data: Path, limits: Limits) -> None:
        self.inputs = data / "inputs"
        self.results = data / "results"
        self.limits = limits
        for folder in (self.inputs, self.results):
            folder.mkdir(parents=True, exist_ok=True)

    def take(
        self,
        id_: str,
        request: Mapping[str, Any],
        uploads: Mapping[str, Path],
        earlier: Callable[[str, str], Path],
    ) -> dict[str, Any]:
        """Move uploads into the folder of a job, and return its request with the names that files have there.

        Args:
            id_: the job.
            request: what was asked.
            uploads: the uploaded files by their names in the request.
            earlier: returns the path of a file of an earlier job; it may raise `InputError`.

        Returns:
            The line of the job, whose names start at the folder of the job.

        Raises:
            InputError: for a name that is no upload, for an upload that nothing names, and for one that is
                too large.
        """
        folder = self.inputs / id_
        folder.mkdir()
        used = set()

        def placed(name: str) -> str:
            if name.startswith(EARLIER):
                return self._copied(folder, name, earlier)
            if name not in uploads:
                raise InputError(
                    f"{name[:LONGEST]!r} is no file of this request: expected the name of an uploaded part, "
                    f"or {EARLIER}ID/NAME for a file of an earlier job"
                )
            used.add(name)
            return name

        for name, path in uploads.items():
            check_name(name)
            self.limits.check_upload(name, path.stat().st_size)
        line = with_files(request, placed)
        if unused := [name for name in uploads if name not in used]:
            raise InputError(f"the upload {unused[0]!r} is named nowhere in the request: leave it out")
        for name, path in uploads.items():
            shutil.move(path, folder / name)
        return line

    def _copied(self, folder: Path, name: str, earlier: Callable[[str, str], Path]) -> str:
        """Put a file of an earlier job into the folder of a new one, and return its name there."""
        id_, _, file = name.removeprefix(EARLIER).partition("/")
        source = earlier(id_, file)
        target = folder / f"{id_}-{source.name}" if not source.name.startswith(id_) else folder / source.name
        if not target.exists():
            shutil.copyfile(source, target)
        return target.name

    def remove(self, id_: str) -> None:
        """Remove all files of a job."""
        shutil.rmtree(self.inputs / id_, ignore_errors=True)
        self.remove_results(id_)

    def remove_results(self, id_: str) -> None:
        """Remove what was made of a job."""
        for path in self.results.glob(f"{id_}*"):
            path.unlink(missing_ok=True)

    def tidy(self, known: set[str]) -> None:
        """Remove what a server left that was killed: files of jobs that nobody knows, and halves of files."""
        for path in self.inputs.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.results.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name[:LENGTH] not in known:
                path.unlink(missing_ok=True)

    def uploads(self, id_: str) -> list[str]:
        """Return the names of the uploads of a job."""
        return sorted(path.name for path in (self.inputs / id_).iterdir())

    def size(self, id_: str) -> int:
        """Return how many bytes the uploads of a job take."""
        folder = self.inputs / id_
        return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


LENGTH = 16  # letters of the id of a job


def check_name(name: str) -> None:
    """Raise `InputError` for a name that no uploaded part may have, since a file is named so."""
    fine = isinstance(name, str) and 0 < len(os.fsencode(name)) <= LONGEST and name.isprintable()
    if not fine or set(name) & FORBIDDEN or name[0] in ". -" or name[-1] in ". ":
        raise InputError(
            f"an upload is called {str(name)[:LONGEST]!r}: expected a name such as photo.png, at most "
            f"{LONGEST} letters, without folders"
        )
