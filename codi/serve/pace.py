"""Learn from jobs that were made how long jobs take, and how many samples are best made at once.

A batch is worth it where it takes less time for each sample than a smaller one: always on an accelerator, on
a processor for small outputs alone. That is not guessed but measured, for each kind of job by itself.
"""

import math
import threading
from dataclasses import dataclass, field

FIRST = 4  # samples that are tried at once of a kind of job of which nothing is known
WEIGHT = 0.3  # of the newest measurement in a mean
SECONDS = 5.0  # of a job, before any was made


@dataclass
class Pace:
    """What was measured.

    Attributes:
        seconds_per_job: mean of all jobs, as many as were made at once.
        by_size: for each kind of job, seconds per sample by the size of the batch as a power of two.
    """

    seconds_per_job: float | None = None
    by_size: dict[str, dict[int, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def rows(self, kind: str, most: int) -> int:
        """Return how many samples of a kind of job are to be made at once, at most `most`."""
        with self._lock:
            found = dict(self.by_size.get(kind, {}))
        if not found:
            return min(FIRST, most)
        best = min(found, key=lambda size: found[size])
        if best == max(found):
            best *= 2  # perhaps more are better still
        elif best == min(found):
            best = max(1, best // 2)
        return min(best, most)

    def took(self, kind: str, rows: int, jobs: int, seconds: float) -> None:
        """Note that a batch of so many samples of so many jobs took some seconds."""
        if rows < 1 or jobs < 1:
            return
        size = 2 ** round(math.log2(rows))
        with self._lock:
            self.seconds_per_job = _mean(self.seconds_per_job, seconds / jobs)
            sizes = self.by_size.setdefault(kind, {})
            sizes[size] = _mean(sizes.get(size), seconds / rows)

    def retry_after(self) -> float:
        """Return in how many seconds there should be room for one more job."""
        return float(max(1, math.ceil(self.seconds_per_job or SECONDS)))


def _mean(before: float | None, new: float) -> float:
    """Return a running mean."""
    return new if before is None else (1 - WEIGHT) * before + WEIGHT * new
