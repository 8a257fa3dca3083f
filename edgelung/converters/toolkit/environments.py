"""Where the vendor toolkits live: one virtual environment per version, each with a state file that says it is whole.

rknn-toolkit2 wants older numpy, onnx and protobuf than edgelung, so it never shares an environment with it.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelung._codec import from_json, to_json
from edgelung.errors import ConversionError, InputError

__all__ = [
    "DEFAULT_VERSION",
    "VERSIONS",
    "ToolkitEnvironment",
    "find",
    "installed",
    "remove",
]

VERSIONS = ("2.3.2", "2.5.0")
DEFAULT_VERSION = "2.3.2"  # the published figures were made with it
STAGE = "toolkit"
STATE_FORMAT = 1
_STATE_FILE = "edgelung-toolkit.json"
_STATE_LIMIT = 1 << 16


@dataclass(frozen=True)
class _State:
    """What the state file holds."""

    format: int
    toolkit: str
    python: str
    torch: str
    torch_from: str


@dataclass(frozen=True)
class ToolkitEnvironment:
    """One installed toolkit.

    Attributes:
        version: Of rknn-toolkit2.
        folder: The virtual environment.
        python_version: Of its interpreter.
        torch: Version of the torch that it was checked with.
        torch_from: The folder outside of the environment which that torch comes from; empty when it has its own.
    """

    version: str
    folder: Path
    python_version: str
    torch: str
    torch_from: str

    @property
    def python(self) -> Path:
        """The interpreter that runs the worker."""
        return self.folder / "bin" / "python"

    @property
    def problem(self) -> str:
        """Why it cannot be used any more; empty when it can."""
        if not self.python.exists():
            return "the Python it was made with is gone"
        if self.torch_from:
            now = torch_version(self.torch_from)
            if now != self.torch:
                found = f"torch {now}" if now else "no torch"
                return f"it was made to work with torch {self.torch}, now there is {found} in {self.torch_from}"
        return ""

    def check(self) -> None:
        """Raise what stands against using it.

        Raises:
            ConversionError: With the command that helps.
        """
        if self.problem:
            raise ConversionError(
                STAGE, f"rknn-toolkit2 {self.version}: {self.problem}", hint=install_hint(self.version)
            )


def find(version: str | None = None) -> ToolkitEnvironment:
    """The installed toolkit of a version, ready for use.

    Args:
        version: One of :data:`VERSIONS`; :data:`DEFAULT_VERSION` when None.

    Raises:
        InputError: If there is no such version.
        ConversionError: If it is not installed or cannot be used any more; the hint is the command that helps.
    """
    version = known_version(version or DEFAULT_VERSION)
    environment = read_state(version)
    if environment is None:
        raise ConversionError(STAGE, f"rknn-toolkit2 {version} is not installed", hint=install_hint(version))
    environment.check()
    return environment


def installed() -> tuple[ToolkitEnvironment, ...]:
    """Every toolkit whose installation was completed, usable or not (see ``problem``), in the order of VERSIONS."""
    found = (read_state(version) for version in VERSIONS)
    return tuple(environment for environment in found if environment is not None)


def remove(version: str, *, report: Callable[[str], None] = lambda text: None) -> Path:
    """Delete the environment of a version, a half-made one too; returns the folder that is gone.

    Raises:
        InputError: If there is no such version or nothing of it is here.
        ConversionError: If it cannot be deleted.
    """
    folder = environment_folder(known_version(version))
    if not folder.exists():
        raise InputError(f"rknn-toolkit2 {version} is not installed", hint="edgelung toolkit list")
    with locked(version, report):
        clear(folder)
    return folder


def known_version(version: str) -> str:
    """``version`` itself.

    Raises:
        InputError: If it is none of VERSIONS.
    """
    if version not in VERSIONS:
        raise InputError(f"there is no toolkit {version!r}", hint=f"known versions: {', '.join(VERSIONS)}")
    return version


def install_hint(version: str) -> str:
    """The command that makes the environment of ``version``."""
    return f"edgelung toolkit install {version}"


def data_folder() -> Path:
    """$EDGELUNG_HOME, else $XDG_DATA_HOME/edgelung, else ~/.local/share/edgelung; absolute."""
    own, shared = os.environ.get("EDGELUNG_HOME"), os.environ.get("XDG_DATA_HOME")
    if own:
        return Path(own).expanduser().absolute()
    return (Path(shared).expanduser().absolute() if shared else Path.home() / ".local" / "share") / "edgelung"


def environment_folder(version: str) -> Path:
    """Where the environment of ``version`` is, or would be."""
    return data_folder() / "toolkits" / version


def torch_version(site_packages: str) -> str:
    """Version of the torch in a site-packages folder, without importing it; empty when there is none."""
    for distribution in importlib.metadata.distributions(name="torch", path=[site_packages]):
        return distribution.version
    return ""


def read_state(version: str) -> ToolkitEnvironment | None:
    """The environment of ``version``; None when it is absent, half made or its state file is damaged."""
    folder = environment_folder(version)
    try:
        with (folder / _STATE_FILE).open("rb") as file:
            state = from_json(_State, json.loads(file.read(_STATE_LIMIT)))
    except (OSError, ValueError, RecursionError):
        return None
    if (state.format, state.toolkit) != (STATE_FORMAT, version):
        return None
    return ToolkitEnvironment(version, folder, state.python, state.torch, state.torch_from)


def write_state(environment: ToolkitEnvironment) -> None:
    """Mark an environment as whole: the last step of an installation.

    Raises:
        OSError: If it cannot be written.
    """
    state = _State(
        STATE_FORMAT, environment.version, environment.python_version, environment.torch, environment.torch_from
    )
    partial = environment.folder / f"{_STATE_FILE}.partial"
    with partial.open("w") as file:
        json.dump(to_json(state), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(environment.folder / _STATE_FILE)


def clear(folder: Path) -> None:
    """Delete an environment; the state file goes first, so that an interruption leaves nothing that looks whole.

    Raises:
        ConversionError: If something in it cannot be deleted.
    """
    try:
        (folder / _STATE_FILE).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise ConversionError(STAGE, f"cannot delete {folder} ({error.strerror})") from None


@contextmanager
def locked(version: str, report: Callable[[str], None]) -> Iterator[None]:
    """Keep every other process from changing the environment of ``version``; wait for one that does already.

    The kernel frees the lock with its process, however that ends; the empty lock file stays.

    Raises:
        ConversionError: If the folder of the toolkits cannot be written.
    """
    folder = environment_folder(version).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".{version}.lock").open("ab")
    except OSError as error:
        hint = "set EDGELUNG_HOME to a folder that can be written"
        raise ConversionError(STAGE, f"cannot write in {folder} ({error.strerror})", hint=hint) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process is changing the toolkit {version}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
