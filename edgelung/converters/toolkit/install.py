"""Making a toolkit's environment: pinned packages beside the vendor's wheel, and the host's torch."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgelung.converters.toolkit.environments import (
    DEFAULT_VERSION,
    STAGE,
    ToolkitEnvironment,
    clear,
    environment_folder,
    install_hint,
    known_version,
    locked,
    read_state,
    torch_version,
    write_state,
)
from edgelung.converters.toolkit.log import NO_SPACE_SAID, complaints, read_log
from edgelung.converters.toolkit.process import run_logged
from edgelung.errors import ConversionError

__all__ = ["install"]

# The vendor's metadata asks for torch <= 2.4 and for GUI OpenCV, so its wheel is installed without dependencies. With
# these both toolkits import, build and simulate; every one has wheels for Python 3.10, 3.11 and 3.12.
PINS = (
    "numpy==1.26.4",  # the vendor asks for <= 1.26.4
    "onnx==1.18.0",  # onnx.mapping, which load_onnx needs, is gone in 1.19
    "protobuf==4.25.4",  # the vendor asks for <= 4.25.4
    "setuptools==79.0.1",  # pkg_resources is gone in 81
    "onnxruntime==1.23.2",
    "opencv-python-headless==4.11.0.86",
    "scipy==1.15.3",
    "psutil==7.2.2",
    "ruamel.yaml==0.19.1",
    "tqdm==4.70.1",
    "fast-histogram==0.14",
    # what these need
    "coloredlogs==15.0.1",
    "flatbuffers==25.12.19",
    "humanfriendly==10.0",
    "mpmath==1.3.0",
    "packaging==26.3",
    "sympy==1.14.0",
    "typing_extensions==4.16.0",
)
OWN_TORCH = "torch==2.13.0"  # the newest that was tried
_TORCH_LINK = "zz-edgelung-host-torch.pth"  # .pth files are read in the order of their names: the pins come first
_PIP_OPTIONS = ("--only-binary=:all:", "--progress-bar=off", "--no-color")
_PIP_LOG = "edgelung-install.log"
_PIP_HINT = (
    "the toolkits need Linux, Python 3.10 to 3.12 and a package index that pip reaches (PIP_INDEX_URL, PIP_FIND_LINKS "
    "and pip's other settings are honoured)"
)
_SPACE_HINT = "an environment takes 730 MB; EDGELUNG_HOME puts it on another disk"
_TORCH_HINT = 'pip install "edgelung[convert]", or edgelung toolkit install {version} --own-torch'
_SMOKE_LIMIT_S = 600  # an import of 2 s on an idle machine; a cold disk and a busy one may take minutes
_SMOKE = """
import json, platform, sys
import torch
from rknn.api import RKNN
RKNN(verbose=False).release()
with open(sys.argv[1], "w") as file:
    json.dump({"python": platform.python_version(), "torch": torch.__version__}, file)
"""


def install(
    version: str = DEFAULT_VERSION, *, own_torch: bool = False, report: Callable[[str], None] = lambda text: None
) -> ToolkitEnvironment:
    """Make the environment of a toolkit with pip, or keep the one that is there and works.

    A half-made or unusable environment is made anew. A second installation at the same time waits for the first.

    Args:
        version: One of VERSIONS.
        own_torch: Install torch into it instead of borrowing the one of this interpreter.
        report: Called with one line about each step.

    Raises:
        InputError: If there is no such version.
        ConversionError: If pip fails (with its last lines), there is no torch to borrow, or what was installed does
            not work. Nothing that could be taken for a toolkit is left.
    """
    folder = environment_folder(known_version(version))
    torch_from = "" if own_torch else _host_torch(version)
    with locked(version, report):
        present = read_state(version)
        if present is not None and not present.problem and bool(present.torch_from) != own_torch:
            report(f"rknn-toolkit2 {version} is already installed in {folder}")
            return present
        clear(folder)
        try:
            folder.mkdir(parents=True)
            environment = _make(ToolkitEnvironment(version, folder, "", "", torch_from), report)
            write_state(environment)
        except OSError as error:
            clear(folder)
            reason = f"cannot make {folder} ({error.strerror or error})"
            raise ConversionError(STAGE, reason, hint=_SPACE_HINT) from None
        except BaseException:
            clear(folder)
            raise
    report(f"rknn-toolkit2 {version} is installed in {folder}")
    return environment


def _host_torch(version: str) -> str:
    """The site-packages folder of this interpreter's torch."""
    found = importlib.util.find_spec("torch")
    folder = str(Path(found.origin).parents[1]) if found and found.origin else ""
    if not folder or not torch_version(folder):
        raise ConversionError(STAGE, "there is no torch here to borrow", hint=_TORCH_HINT.format(version=version))
    return folder


def _make(planned: ToolkitEnvironment, report: Callable[[str], None]) -> ToolkitEnvironment:
    """Everything but the state file."""
    report(f"making a virtual environment in {planned.folder}")
    _step([sys.executable, "-I", "-m", "venv", str(planned.folder)], planned, report, "venv", _PIP_HINT)
    report(f"installing {len(PINS)} pinned packages")
    _pip(planned, ["--no-deps", *PINS], report)
    report(f"installing rknn-toolkit2 {planned.version}")
    _pip(planned, ["--no-deps", f"rknn-toolkit2=={planned.version}"], report)
    if planned.torch_from:
        report(f"borrowing torch {torch_version(planned.torch_from)} from {planned.torch_from}")
        (site_packages,) = planned.folder.glob("lib/python3.*/site-packages")
        (site_packages / _TORCH_LINK).write_text(f"{planned.torch_from}\n")
    else:
        report(f"installing {OWN_TORCH}; without an index of CPU builds this is a download of several GB")
        _pip(planned, [OWN_TORCH, *PINS], report)
    report("trying it")
    return _tried(planned, report)


def _tried(made: ToolkitEnvironment, report: Callable[[str], None]) -> ToolkitEnvironment:
    """The environment with the versions found by importing everything in it."""
    answer = made.folder / "smoke.json"
    command = [str(made.python), "-I", "-c", _SMOKE, str(answer)]
    way_out = f"{install_hint(made.version)} --own-torch" if made.torch_from else _PIP_HINT
    _step(command, made, report, "the import of rknn.api", way_out, timeout_s=_SMOKE_LIMIT_S)
    versions = json.loads(answer.read_text())
    answer.unlink()
    # What the package metadata says is what is compared before each job; torch.__version__ can differ in its suffix.
    torch = torch_version(made.torch_from) if made.torch_from else versions["torch"]
    return replace(made, python_version=versions["python"], torch=torch)


def _pip(planned: ToolkitEnvironment, words: Sequence[str], report: Callable[[str], None]) -> None:
    command = [str(planned.python), "-I", "-m", "pip", "install", *_PIP_OPTIONS, *words]
    _step(command, planned, report, "pip", _PIP_HINT)


def _step(
    command: Sequence[str],
    planned: ToolkitEnvironment,
    report: Callable[[str], None],
    name: str,
    hint: str,
    timeout_s: float | None = None,
) -> None:
    log = planned.folder / _PIP_LOG

    def relay(line: str) -> None:
        if line.startswith(("Collecting", "Installing", "  Downloading")):
            report(f"{name}: {line.strip()}")

    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    ended = run_logged(command, folder=planned.folder, env=env, log=log, timeout_s=timeout_s, on_line=relay)
    if ended.code != 0:
        said = complaints(read_log(log)) or ended.in_words()
        if NO_SPACE_SAID in said:
            hint = _SPACE_HINT
        raise ConversionError(f"{STAGE} install", f"{name} failed: {said}", hint=hint)
