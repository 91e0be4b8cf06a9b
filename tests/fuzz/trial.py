"""Try cases one after another in processes of their own, and say what became of each."""

import multiprocessing
import os
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from codi.types import InputError

RESULTS, REFUSALS, CRASHES, HANGS, TRACEBACKS = "results", "refusals", "crashes", "hangs", "tracebacks"
KINDS = (RESULTS, REFUSALS, CRASHES, HANGS, TRACEBACKS)
BAD = (CRASHES, HANGS, TRACEBACKS)
LONGEST = 2000  # letters of a refusal
_FORK = multiprocessing.get_context("fork")

Case = Callable[[int], "Counter[str] | None"]


class Wrong(Exception):
    """Raised by a case that finds something wrong that is neither an error nor a refusal."""


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        number: the case.
        counts: how often each of `KINDS` came.
        reason: what is wrong, empty if nothing is.
        memory: the most memory that the process took until then, in bytes.
    """

    number: int
    counts: Counter[str]
    reason: str = ""
    memory: int = 0

    @property
    def bad(self) -> bool:
        """Whether there is something to mend."""
        return any(self.counts[kind] for kind in BAD)


@dataclass
class Summary:
    """The outcomes of all cases of a part."""

    counts: Counter[str] = field(default_factory=Counter)
    cases: int = 0
    memory: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one more case."""
        self.cases += 1
        self.counts += outcome.counts
        self.memory = max(self.memory, outcome.memory)


def judged(case: Case, number: int) -> Outcome:
    """Run a case in this process, and say what became of it."""
    try:
        counts = case(number)
        return Outcome(number, Counter({RESULTS: 1}) if counts is None else counts)
    except InputError as error:
        said = str(error)
        if "\n" in said or len(said) > LONGEST:
            return Outcome(number, Counter({TRACEBACKS: 1}), f"not one line: {said[:200]!r}")
        return Outcome(number, Counter({REFUSALS: 1}))
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        reason = f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:300]}"
        return Outcome(number, Counter({TRACEBACKS: 1}), reason)


def tried(case: Case, numbers: Iterable[int], seconds: float, memory: int) -> Iterator[Outcome]:
    """Yield what becomes of every case, each in a process that can be lost.

    Args:
        case: what is tried with a number; it returns counts, or None for one result.
        numbers: the numbers of the cases.
        seconds: how long a case may take.
        memory: how many bytes the process may take beyond what it begins with.

    Yields:
        One outcome for each number.
    """
    left = list(numbers)
    while left:
        answers, sender = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_serve, args=(case, left, memory, sender))
        process.start()
        sender.close()
        for number in list(left):
            outcome = _answer(answers, process, number, seconds)
            left.remove(number)
            yield outcome
            if not process.is_alive() or outcome.counts[HANGS] or outcome.counts[CRASHES]:
                break
        if process.is_alive() and left:
            process.kill()
        process.join()


def _answer(answers, process, number: int, seconds: float) -> Outcome:
    """Return the outcome that a process sends, or what its silence means."""
    if not answers.poll(seconds):
        process.kill()
        process.join()
        return Outcome(number, Counter({HANGS: 1}), f"no answer in {seconds:g} s")
    try:
        return answers.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome(number, Counter({CRASHES: 1}), reason)


def _serve(case: Case, numbers: list[int], memory: int, sender) -> None:
    """Run cases and send what became of them; what they print goes nowhere."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, resource.RLIM_INFINITY))
    for number in numbers:
        outcome = judged(case, number)
        outcome.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sender.send(outcome)
    sender.close()
    os._exit(0)
