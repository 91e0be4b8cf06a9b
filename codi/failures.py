"""Let one bad job of a file fail alone, while the others are made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from codi.types import InputError, WriteError

OUT_OF_MEMORY = (
    "out of memory: make fewer or smaller at once (--samples, --batch, --height, --num-frames), or use "
    "--dtype bfloat16 or another --device"
)


class Failures:
    """The jobs of a run that cannot be made, each of which is reported when it is found out.

    Args:
        alone: whether a job fails alone. Otherwise its error is raised and ends the run.
        report: what is called with the message of a job that fails.
    """

    def __init__(self, alone: bool = False, report: Callable[[str], Any] = lambda message: None) -> None:
        self.alone = alone
        self.total = 0  # jobs that were asked for
        self._report = report
        self._origins: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []  # what a file says of them

    def __len__(self) -> int:
        return len(self._origins)

    @contextmanager
    def of(self, job: Any) -> Iterator[None]:
        """Let a job fail alone by an `InputError` that is raised inside, or for want of memory.

        What keeps all jobs from being written (`WriteError`) is no failure of one, and passes.

        Args:
            job: the job, or where there is none yet the origin that it would have.

        Yields:
            Nothing.

        Raises:
            InputError: the error, if jobs do not fail alone.
        """
        origin = job if isinstance(job, str) else job.origin
        try:
            yield
        except WriteError:
            raise
        except InputError as error:
            message = str(error) if str(error).startswith(origin) else f"{origin}{error}"
            if not self.alone:
                raise type(error)(message) from error
            self._add(job, message, refused=getattr(error, "refused", False))
        except (MemoryError, RuntimeError) as error:
            if not (self.alone and is_of_memory(error)):
                raise
            self._add(job, f"{origin}{OUT_OF_MEMORY}")

    def _add(self, job: Any, message: str, refused: bool = False) -> None:
        """Report the first error of a job."""
        origin = job if isinstance(job, str) else job.origin
        if origin not in self._origins:
            self._origins[origin] = message
            self.rows.append({"id": getattr(job, "id", None), "error": message, "refused": refused})
            self._report(message)

    def has(self, job: Any) -> bool:
        """Return whether a job has failed."""
        return self.alone and job.origin in self._origins

    def message(self, job: Any) -> str | None:
        """Return why a job has failed, beginning with its origin; None if it has not.

        For a job that could not be read there is its origin alone, which will do.
        """
        return self._origins.get(job if isinstance(job, str) else job.origin)

    def left(self, jobs: list[Any]) -> list[Any]:
        """Return the jobs that have not failed."""
        return [job for job in jobs if not self.has(job)]


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory did not suffice, whichever library raised it."""
    text = str(error).lower()
    short = "out of memory" in text or "allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short)
