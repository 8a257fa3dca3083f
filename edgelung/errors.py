"""Every error edgelung raises on purpose, under one root.

A message says what is wrong in the user's terms; ``hint`` says the way out. ``str(error)`` joins both in one line.
``exit_code`` is what the command line returns, one number per kind, so that scripts can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BundleError",
    "ConversionError",
    "EdgelungError",
    "InputError",
    "UnsupportedOperatorError",
    "VerificationError",
]


MAX_MESSAGE = 2000  # characters; what libraries say may hold a whole file


def one_line(text: str) -> str:
    """The text in one printable line of bounded length; what terminals would act on is a space."""
    line = text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]} ..."


class EdgelungError(Exception):
    """Root of all edgelung errors.

    Args:
        message: What is wrong.
        hint: What the user can do about it; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(one_line(message))
        self.message = one_line(message)
        self.hint = one_line(hint)

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses have keyword-only arguments; errors must still cross process borders whole.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[EdgelungError], args: tuple[Any, ...], state: dict[str, Any]) -> EdgelungError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(EdgelungError):
    """A file or value the user gave cannot be used.

    Args:
        problem: What is wrong with it.
        source: The file (its name as the user gave it), if it came from one.
        field: The header field, option or key concerned.
        hint: The way out.
    """

    exit_code = 3

    def __init__(self, problem: str, *, source: object = "", field: str = "", hint: str = "") -> None:
        self.problem = problem
        self.source = str(source)
        self.field = field
        super().__init__(": ".join(part for part in (self.source, field, problem) if part), hint=hint)


class BundleError(EdgelungError):
    """A bundle is incomplete, altered, too new, or not made for this board."""

    exit_code = 4

    def __init__(self, problem: str, *, source: object = "", hint: str = "") -> None:
        self.problem = problem
        self.source = str(source)
        super().__init__(f"{source}: {problem}" if self.source else problem, hint=hint)


class BackendUnavailableError(EdgelungError):
    """No inference engine can be used.

    Args:
        lacking: For each engine that was considered, what it lacks here.
    """

    exit_code = 5

    def __init__(self, lacking: Mapping[str, str], *, hint: str = "") -> None:
        self.lacking = dict(lacking)
        reasons = "; ".join(f"{engine}: {reason}" for engine, reason in self.lacking.items())
        super().__init__(f"no usable inference engine ({reasons})", hint=hint)


class BackendError(EdgelungError):
    """An engine failed in a call.

    Args:
        engine: Which engine.
        call: Which of its calls.
        code: Its return code or message.
    """

    exit_code = 6

    def __init__(self, engine: str, call: str, code: object, *, hint: str = "") -> None:
        self.engine = engine
        self.call = call
        self.code = code
        super().__init__(f"{engine}: {call} failed: {code}", hint=hint)


class UnsupportedOperatorError(EdgelungError):
    """A network holds operators that a board cannot run.

    Args:
        nodes: The operators, as the user can find them in the network.
        board: The board.
    """

    exit_code = 7

    def __init__(self, nodes: Sequence[str], board: str, *, hint: str = "") -> None:
        self.nodes = tuple(nodes)
        self.board = board
        super().__init__(f"{board} cannot run: {', '.join(self.nodes)}", hint=hint)


class ConversionError(EdgelungError):
    """A stage of a conversion failed.

    Args:
        stage: Which stage.
        reason: Why.
    """

    exit_code = 8

    def __init__(self, stage: str, reason: str, *, hint: str = "") -> None:
        self.stage = stage
        self.reason = reason
        super().__init__(f"{stage}: {reason}", hint=hint)


class VerificationError(EdgelungError):
    """A converted network does not agree with the original.

    Args:
        metric: What was compared.
        measured: The value found.
        limit: The value it had to keep.
    """

    exit_code = 9

    def __init__(self, metric: str, measured: float, limit: float, *, hint: str = "") -> None:
        self.metric = metric
        self.measured = measured
        self.limit = limit
        super().__init__(f"{metric} is {measured:.6g}, the limit is {limit:.6g}", hint=hint)
