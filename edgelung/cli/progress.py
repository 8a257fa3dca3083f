"""Progress with the time left or spent, on standard error."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

__all__ = ["StatusLine", "progress_bar", "status_line"]

REDRAW_S = 0.2


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is moved by calling it with (done, total), and shown from the first call on.

    So what is refused before anything moves is one line. Where standard error is no terminal, the label alone is shown.
    """
    with ExitStack() as stack:
        bars: list[Any] = []

        def move(done: int, total: int) -> None:
            if not bars:
                bar = click.progressbar(length=total, label=label, show_pos=True, file=sys.stderr)
                bars.append(stack.enter_context(bar))
            bars[0].length = total
            bars[0].update(done - bars[0].pos)

        yield move


class StatusLine:
    """Stages of a long command, one line each; on a terminal the last line tells what goes on and for how long."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._drawn = 0.0
        self._name = ""

    def stage(self, name: str) -> None:
        """A stage begins."""
        self.clear()
        self._name = name
        self._start = time.monotonic()
        click.echo(f"... {name}", err=True)

    def note(self, text: str) -> None:
        """Something a user should know; stays."""
        self.clear()
        click.echo(f"    {text}", err=True)

    def tick(self, text: str) -> None:
        """Something goes on; drawn over, and only on a terminal."""
        now = time.monotonic()
        if not self._terminal or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        width = shutil.get_terminal_size().columns - 1
        line = f"    {now - self._start:.0f} s  {text}"[:width]
        click.echo(f"\r{line:<{width}}", nl=False, err=True)

    def clear(self) -> None:
        """Take away what :meth:`tick` drew."""
        if self._drawn:
            click.echo(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r", nl=False, err=True)
            self._drawn = 0.0


@contextmanager
def status_line() -> Iterator[StatusLine]:
    """A status line that leaves a clean terminal, whatever happens."""
    status = StatusLine()
    try:
        yield status
    finally:
        status.clear()
