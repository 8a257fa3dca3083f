"""The ``Key = Value`` lines at the start of a MetaImage file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import shown

__all__ = ["MetaHeader", "read_header"]

MAX_HEADER_BYTES = 1 << 20  # ITK writes under 2 kB; DICOM fields copied into it make some 100 kB


class MetaHeader:
    """Header values with their types, each error naming the file and the field.

    Args:
        source: The header file.
        values: Field name to text, ElementDataFile among them.
    """

    def __init__(self, source: Path, values: dict[str, str]) -> None:
        self.source = source
        self._values = values

    def error(self, field: str, problem: str, hint: str) -> InputError:
        """An error about one field, with the value that the file has there."""
        value = f"{shown(self._values[field])}: " if field in self._values else ""
        return InputError(value + problem, source=self.source, field=field, hint=hint)

    def one_of(self, *names: str) -> str:
        """Which of several names for one thing the file uses; the first of them when it uses none.

        Raises:
            InputError: It uses two with different values.
        """
        used = [name for name in names if name in self._values]
        # ElementSize is the extent of a voxel, which may differ from the distance between voxels.
        if len({self._values[name] for name in used}) > 1 and "ElementSize" not in used:
            raise self.error(used[1], f"contradicts {used[0]}", f"remove {used[1]} or {used[0]}")
        return used[0] if used else names[0]

    def text(self, field: str, default: str | None = None) -> str:
        """The value of a field as it stands in the file."""
        value = self._values.get(field, default)
        if value is None:
            raise self.error(field, "is missing", "add it to the header, or export the series again")
        return value

    def flag(self, field: str) -> bool:
        """True or False; False when the field is absent."""
        text = self.text(field, "False").lower()
        if text not in ("true", "false", "1", "0"):
            raise self.error(field, "is neither True nor False", "correct the header")
        return text in ("true", "1")

    def floats(self, field: str, count: int, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """``count`` finite numbers."""
        if default is not None and field not in self._values:
            return tuple(default)
        try:
            numbers = tuple(float(word) for word in self.text(field).split())
        except ValueError:
            numbers = ()
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise self.error(field, _wanted(count, "finite number"), "correct the header, or export the series again")
        return numbers

    def integers(self, field: str, count: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """``count`` whole numbers."""
        if default is not None and field not in self._values:
            return tuple(default)
        try:
            # Longer words than any size can have would cost time (int() of many digits is quadratic).
            numbers = tuple(int(word) for word in self.text(field).split() if len(word) <= 20)
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise self.error(field, _wanted(count, "whole number"), "correct the header, or export the series again")
        return numbers


def _wanted(count: int, kind: str) -> str:
    return f"must be {count} {kind}{'s' if count > 1 else ''}"


def read_header(file: io.BufferedReader, source: Path) -> MetaHeader:
    """Read lines up to and with ElementDataFile; ``file`` then stands at the first byte after it.

    Raises:
        InputError: No MetaImage header, or one without an end.
    """
    values: dict[str, str] = {}
    left = MAX_HEADER_BYTES
    while "ElementDataFile" not in values:
        line = file.readline(left)
        left -= len(line)
        if not line or left <= 0:
            raise InputError(
                "the header ends without it",
                source=source,
                field="ElementDataFile",
                hint="check that this is a MetaImage file and that it is complete",
            )
        key, equals, value = line.decode("utf-8", errors="replace").partition("=")
        key, value = key.strip(), value.strip()
        if not equals and not key:
            continue
        if not equals or not key.isascii() or not key.isprintable():
            problem = f"line {len(values) + 1} of the header is not 'Key = Value'"
            raise InputError(problem, source=source, hint="check that this is a MetaImage file")
        if key in values:
            raise InputError("stands twice in the header", source=source, field=shown(key), hint="remove one of them")
        values[key] = value
    return MetaHeader(source, values)
