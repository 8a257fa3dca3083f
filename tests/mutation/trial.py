"""One mutated input, opened, and what came of it."""

from __future__ import annotations

import time
import tracemalloc
import warnings
from dataclasses import dataclass
from pathlib import Path

from mutation.subjects import SUBJECTS, Subject

from edgelung.errors import EdgelungError

SECONDS = 5.0
TIMES_MEMORY = 2.0
SLACK_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What opening a file gave.

    Attributes:
        result: ``read``, or the name of the EdgelungError, or ``escape``.
        message: Of the error.
        seconds: How long it took.
        peak_bytes: Largest memory of Python and numpy meanwhile.
    """

    result: str
    message: str
    seconds: float
    peak_bytes: int

    def fault(self, allowed_bytes: int) -> str:
        """What is wrong with it; empty when nothing is."""
        if self.result == "escape":
            return f"escape: {self.message}"
        if not self.message.isprintable():
            return f"not one printable line: {self.message!r}"
        if self.seconds > SECONDS:
            return f"{self.seconds:.1f} s"
        if self.peak_bytes > allowed_bytes:
            return f"{self.peak_bytes} bytes of memory, allowed are {allowed_bytes}"
        return ""


def attempt(subject: Subject, path: Path) -> Outcome:
    """Open a file and look at time and memory; ``tracemalloc`` has to run."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.perf_counter()
    result, message = "read", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            subject.open(path)
        except EdgelungError as error:
            result, message = type(error).__name__, str(error)
        except Exception as error:
            result, message = "escape", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    return Outcome(result, message, seconds, tracemalloc.get_traced_memory()[1] - before)


def allowed_bytes(kind: str, folder: Path) -> int:
    """Twice what the good file takes, opened a second time, when all modules are loaded; at least 1 MiB more than it.

    The test files are small, so that many can be tried: what an error itself takes would count for much.
    """
    subject = SUBJECTS[kind]
    path = subject.write(folder)
    outcomes = [attempt(subject, path) for _ in range(2)]
    if outcomes[1].result != "read":
        raise ValueError(f"the good {kind} is not read: {outcomes[1].message}")
    peak = outcomes[1].peak_bytes
    return max(int(TIMES_MEMORY * peak), peak + SLACK_BYTES)
