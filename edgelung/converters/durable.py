"""Files that survive a crash, in a folder that one process at a time holds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edgelung.errors import InputError

__all__ = ["LOCK_NAME", "PARTIAL", "hold_folder", "read_plain", "remove_held", "replace_file"]

LOCK_NAME: Final = "lock"
PARTIAL: Final = ".partial"  # ends the name of a file that was not finished


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step: after a crash it is the old one or the new one, whole.

    Raises:
        OSError: When it cannot be written.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def read_plain(path: Path, limit: int) -> bytes:
    """Content of a file that is no link and at most ``limit`` bytes long.

    Raises:
        ValueError: When it is missing, no plain file or larger.
        OSError: When it cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name} is missing or no plain file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return content


@contextmanager
def hold_folder(folder: Path, busy: InputError) -> Iterator[None]:
    """Hold a folder, made if it is not there, for this process alone; the lock ends with the process, however it ends.

    Args:
        folder: The folder.
        busy: Raised when another process holds it.

    Raises:
        InputError: When it is a link or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise InputError("is a link", source=folder, hint="remove it")
        lock = os.open(folder / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # whoever held it removed it just now
        raise busy from None
    except OSError as error:
        hint = "remove it, or choose another --output"
        raise InputError(f"cannot be used ({error.strerror})", source=folder, hint=hint) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        if not _is_at(lock, folder / LOCK_NAME):
            raise busy
        yield
    finally:
        os.close(lock)


def remove_held(folder: Path) -> None:
    """Remove a held folder that is empty but for its lock; one with anything else in it stays."""
    (folder / LOCK_NAME).unlink()
    with suppress(OSError):
        folder.rmdir()


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name: its folder may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
