"""Weights from a file, without running anything the file brings along.

A pickle can execute code, so files are only ever read with torch's weights-only unpickler or as safetensors. What
comes out is a flat state_dict of finite tensors, or an InputError that says what the file is instead and what to do.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from edgelung.errors import InputError

__all__ = ["LoadedState", "apply_state", "load_state_dict"]

CONTAINER_KEYS = ("model_state", "model_state_dict", "state_dict", "model")
MAX_FILE_BYTES = 2 * 2**30  # far above any network for these boards
MAX_ELEMENTS = 2**29  # a view can claim more elements than its file has bytes; 2 GiB of float32
SAVE_HINT = 'save the weights alone: torch.save(model.state_dict(), "weights.pt"), or as safetensors'


@dataclass(frozen=True, eq=False)
class LoadedState:
    """A state_dict and where it came from.

    Attributes:
        state: Finite dense tensors on the CPU, wrapper prefixes taken off, in the order of the file.
        source: The file as the user named it.
        sha256: Hash of the file's bytes, in hexadecimal.
        format: How it was stored.
        container: Key of the checkpoint dict it lay under; empty for a bare state_dict.
        stripped: Wrapper names that were taken off the keys: ``module`` (DataParallel, DDP), ``_orig_mod``
            (torch.compile).
    """

    state: dict[str, Tensor]
    source: str
    sha256: str
    format: Literal["torch", "safetensors"]
    container: str = ""
    stripped: tuple[str, ...] = ()


def load_state_dict(path: Path | str) -> LoadedState:
    """Read the weights of a checkpoint file.

    Args:
        path: A ``torch.save`` file with a bare state_dict or with one under ``model_state``, ``model_state_dict``,
            ``state_dict`` or ``model``; or a safetensors file.

    Raises:
        InputError: For everything else, for files that would need unpickling of arbitrary classes, and for weights
            that are not finite. Always names the file and the way out.
    """
    source, file = str(path), Path(path)
    sha256, head = _hash_file(file, source)
    if _is_safetensors(head):
        loaded, kind = _read_safetensors(file, source), "safetensors"
    else:
        _refuse_other_kinds(file, source, head)
        loaded, kind = _read_torch(file, source), "torch"
    container, raw = _find_state(loaded, source)
    state, stripped = _strip_wrappers(raw, source)
    _check_tensors(state, source)
    return LoadedState(state, source, sha256, "safetensors" if kind == "safetensors" else "torch", container, stripped)


def apply_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network, all or nothing.

    Args:
        model: Changed in place. Its dtype and device stay.
        state: One tensor for each of its parameters and buffers; only BatchNorm's batch counters may be absent.
        source: Where the weights came from, for messages.

    Raises:
        InputError: Naming the first keys that differ in shape, are missing, or belong to no layer.
    """
    own = model.state_dict()
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked") and key not in state}
    wanted = {key for key in own if key not in counters}
    differing = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and key in wanted and state[key].shape != own[key].shape
    ]
    missing = [key for key in own if key in wanted and key not in state]
    unexpected = [key for key in state if key not in own]
    found = (("wrong shape", differing), ("missing", missing), ("belonging to no layer", unexpected))
    problems = [f"{what}: {_first(keys)}" for what, keys in found if keys]
    if problems:
        hint = "the weights are of another network, or of one with other widths"
        raise InputError(
            f"the weights do not fit {type(model).__name__}; {'; '.join(problems)}", source=source, hint=hint
        )
    try:
        model.load_state_dict({**counters, **state}, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the weights cannot be applied: {_line(error)}", source=source, hint=SAVE_HINT) from error


def _hash_file(file: Path, source: str) -> tuple[str, bytes]:
    if file.is_dir():
        raise InputError("is a folder, not a checkpoint file", source=source, hint="name the file inside it")
    digest, head = hashlib.sha256(), b""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"is larger than {MAX_FILE_BYTES >> 30} GiB", source=source, hint=SAVE_HINT)
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                head = head or block[:16]
                digest.update(block)
    except FileNotFoundError:
        raise InputError("does not exist", source=source, hint="check the path of the checkpoint") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=source, hint="check path and rights") from error
    if not head:
        raise InputError("is empty", source=source, hint="copy or download the checkpoint again")
    return digest.hexdigest(), head


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of little-endian header length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_FILE_BYTES


def _read_safetensors(file: Path, source: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file, device="cpu")
    except Exception as error:  # SafetensorError and whatever a broken header provokes
        problem = f"is a damaged safetensors file: {_line(error)}"
        raise InputError(problem, source=source, hint="copy or download it again") from error
    return tensors


def _refuse_other_kinds(file: Path, source: str, head: bytes) -> None:
    """Name what is clearly something else, before torch words it worse."""
    if file.suffix == ".onnx":
        raise InputError("is an ONNX model, not a checkpoint", source=source, hint="give it as a ready ONNX model")
    if not head.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            altered = archive.testzip()  # torch itself does not compare the checksums
    except Exception as error:  # BadZipFile, and what else a damaged header provokes
        problem = f"is damaged or cut short: {_line(error)}"
        raise InputError(problem, source=source, hint="copy or download the checkpoint again") from error
    if altered:
        problem = f"is damaged: the checksum of {altered} is wrong"
        raise InputError(problem, source=source, hint="copy or download the checkpoint again")
    if "constants.pkl" in names:
        hint = 'torch.save(torch.jit.load("FILE").state_dict(), "weights.pt") saves its weights, if you trust the file'
        raise InputError("is a TorchScript archive (it holds code)", source=source, hint=hint)
    if "data.pkl" not in names:
        raise InputError("is a zip archive, but no torch checkpoint", source=source, hint=SAVE_HINT)


def _read_torch(file: Path, source: str) -> Any:
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle can raise anything; none of it may reach the user as it is
        refused = re.search(r"GLOBAL (\S+)|[Uu]nsupported class (\S+)", str(error))
        if refused is None:
            problem = f"is cut short or no torch checkpoint: {_line(error)}"
            raise InputError(problem, source=source, hint=f"copy or download it again, or {SAVE_HINT}") from error
        name = (refused[1] or refused[2]).strip("'\"`.,")
        problem = f"holds a pickled {name}, which could run code when opened; edgelung reads weights only"
        raise InputError(problem, source=source, hint=f"where the file was made, {SAVE_HINT}") from error


def _find_state(loaded: Any, source: str) -> tuple[str, dict[str, Tensor]]:
    container, state = "", loaded
    if isinstance(loaded, Mapping) and any(not isinstance(value, Tensor) for value in loaded.values()):
        inside = [key for key in CONTAINER_KEYS if isinstance(loaded.get(key), Mapping)]
        if len(inside) > 1:
            problem = f"holds several networks, under {' and '.join(inside)}"
            raise InputError(problem, source=source, hint=f"{SAVE_HINT}, of the one you mean")
        if inside:
            container, state = inside[0], loaded[inside[0]]
    if not isinstance(state, Mapping):
        raise InputError(f"holds a {type(state).__name__}, not a state_dict", source=source, hint=SAVE_HINT)
    if not state:
        problem = "holds an empty state_dict"
        raise InputError(problem, source=source, field=container, hint=f"was the network built? {SAVE_HINT}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            problem = f"{key!r} is a {type(value).__name__}, not a tensor"
            where = f"weights are looked for at the top or under {', '.join(CONTAINER_KEYS)}"
            raise InputError(problem, source=source, field=container, hint=f"{where}; {SAVE_HINT}")
    return container, dict(state)


def _strip_wrappers(state: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Keys as the bare network has them; torch.compile may wrap any submodule, DataParallel and DDP wrap the whole."""
    stripped: list[str] = []
    clean = {".".join(part for part in key.split(".") if part != "_orig_mod"): value for key, value in state.items()}
    if list(clean) != list(state):
        stripped.append("_orig_mod")
    while all(key.startswith("module.") for key in clean):
        clean = {key.removeprefix("module."): value for key, value in clean.items()}
        stripped.append("module")
    if len(clean) != len(state):
        raise InputError("holds keys that differ only by _orig_mod", source=source, hint=SAVE_HINT)
    return clean, tuple(stripped)


def _check_tensors(state: dict[str, Tensor], source: str) -> None:
    if sum(tensor.numel() for tensor in state.values()) > MAX_ELEMENTS:
        raise InputError(f"holds more than {MAX_ELEMENTS} values", source=source, hint="that is no network for a board")
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            problem = f"is not a dense real tensor ({tensor.dtype}, {tensor.layout})"
            raise InputError(problem, source=source, field=key, hint="give the float weights from before quantisation")
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise InputError(
                "holds NaN or infinity",
                source=source,
                field=key,
                hint="the training diverged; use an earlier checkpoint",
            )
        state[key] = tensor.detach()


def _first(items: list[str], count: int = 3) -> str:
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def _line(error: BaseException) -> str:
    """First line of an error's message, short enough to stand inside another."""
    text = (str(error).strip().splitlines() or [""])[0].strip()
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
