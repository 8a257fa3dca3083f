"""A child process that cannot outlive its caller's patience: own process group, time limit, everything in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["Ended", "run_logged"]

_POLL_S = 0.1  # how late an end, a new line or the time limit is noticed
_BLOCK = 1 << 16  # bytes; also how much of a line without an end is kept
# Runs the command in its place, after telling the kernel to end it together with this process (prctl's 1 is
# PR_SET_PDEATHSIG of linux/prctl.h, which survives exec); the check is for a caller that was gone before that.
_BOUND = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the caller is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
_LINE_END = re.compile(rb"[\r\n]")  # progress bars draw over their line with a carriage return


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal's number when a signal ended it; None when the time limit did.
        seconds: Wall-clock time from its start.
    """

    code: int | None
    seconds: float

    def in_words(self) -> str:
        """``it exited with code 1``, ``it was ended by SIGABRT``, ``it did not finish within 60 s``."""
        if self.code is None:
            return f"it did not finish within {self.seconds:.0f} s"
        if self.code >= 0:
            return f"it exited with code {self.code}"
        try:
            return f"it was ended by {signal.Signals(-self.code).name}"
        except ValueError:
            return f"it was ended by signal {-self.code}"


def run_logged(
    command: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    log: Path,
    timeout_s: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Ended:
    """Run a command in a session of its own until it ends, and then end whatever it started.

    Whatever ends this call, an exception in ``on_line`` and Ctrl-C included, leaves no process of the group behind.
    When this process itself is killed, the kernel ends the command.

    Args:
        command: Path of the program, and its arguments; no shell is involved.
        folder: Its working directory.
        env: Its whole environment.
        log: File for everything it writes to standard output and standard error; replaced.
        timeout_s: Wall-clock limit in seconds.
        on_line: Called in this process with every complete line that it writes, soon after; a progress bar's states are
            lines too.

    Raises:
        OSError: If the log cannot be written.
    """
    start = time.monotonic()
    bound = [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *command]
    with log.open("wb") as sink, log.open("rb") as source:
        process = subprocess.Popen(
            bound, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        lines = _Lines(source, on_line)
        timed_out = False
        try:
            while not _has_ended(process.pid):
                if timeout_s is not None and time.monotonic() - start > timeout_s:
                    timed_out = True
                    break
                time.sleep(_POLL_S)
                lines.offer()
            lines.offer()
        finally:
            # The group is ended before its leader is reaped, so that its number cannot belong to somebody else yet.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(None if timed_out else process.returncode, time.monotonic() - start)


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class _Lines:
    """Offers the complete lines of a growing file, each once."""

    def __init__(self, source: BinaryIO, on_line: Callable[[str], None] | None) -> None:
        self._source = source
        self._on_line = on_line
        self._rest = b""

    def offer(self) -> None:
        if self._on_line is None:
            return
        while block := self._source.read(_BLOCK):
            *lines, self._rest = _LINE_END.split(self._rest + block)
            self._rest = self._rest[-_BLOCK:]
            for line in lines:
                self._on_line(line.decode(errors="replace"))
