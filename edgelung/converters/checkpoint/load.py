"""The weights of a checkpoint file: read, chosen and checked, under the keys that the file has."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import safetensors.torch
import torch
from torch import Tensor

from edgelung.converters.checkpoint.candidates import TOP, choose_weights
from edgelung.converters.checkpoint.file_kinds import HEAD_BYTES, is_safetensors, refuse_folder, refuse_other_kinds
from edgelung.converters.checkpoint.pickles import describe_pickle
from edgelung.converters.checkpoint.quantized import refuse_quantized
from edgelung.converters.checkpoint.tensors import check_tensors
from edgelung.converters.checkpoint.wording import SAVE_HINT, one_line
from edgelung.errors import InputError

__all__ = ["LoadedState", "load_state_dict"]

MAX_FILE_BYTES: Final = 2 * 2**30  # far above any network for these boards


@dataclass(frozen=True, eq=False)
class LoadedState:
    """A state_dict and where it came from.

    Attributes:
        state: Finite dense tensors on the CPU, under the keys of the file and in their order.
        source: The file as the user named it.
        sha256: Hash of the file's bytes, in hexadecimal.
        format: How it was stored.
        container: Path to the weights in the checkpoint, its parts joined by dots; empty for a bare state_dict.
        only_fitting: The user asked for the tensors of the network alone, whatever lies beside them.
    """

    state: dict[str, Tensor]
    source: str
    sha256: str
    format: Literal["torch", "safetensors"]
    container: str = ""
    only_fitting: bool = False


def load_state_dict(path: Path | str, weights: str | None = None) -> LoadedState:
    """Read the weights of a checkpoint file.

    Args:
        path: A ``torch.save`` file with a bare state_dict or with one somewhere inside a dict; or a safetensors file.
        weights: Which of several: a key of the checkpoint, keys joined by dots, or the common beginning of the keys
            of a state_dict. A dot at the end leaves out what lies there and is not the network's; a dot alone does so
            at the top of the file. None takes the only ones there are.

    Raises:
        InputError: For everything else, for several sets of weights when none was chosen, for files that would need
            unpickling of arbitrary classes, and for weights that are not finite or not of a float network. Always
            names the file and the way out.
    """
    source, file = str(path), Path(path)
    sha256, head = _hash_file(file, source)
    kind: Literal["torch", "safetensors"] = "safetensors" if is_safetensors(head) else "torch"
    if kind == "safetensors":
        loaded: Any = _read_safetensors(file, source)
    else:
        refuse_other_kinds(file, source, head)
        loaded = _read_torch(file, source)
    container, raw = choose_weights(loaded, weights, source)
    only_fitting = weights is not None and weights.endswith(TOP)
    refuse_quantized(raw, container, source, only_fitting=only_fitting)
    state = check_tensors(raw, container, source, without_observers=only_fitting)
    return LoadedState(state, source, sha256, kind, container, only_fitting)


def _hash_file(file: Path, source: str) -> tuple[str, bytes]:
    if file.is_dir():
        refuse_folder(file, source)
    digest, head = hashlib.sha256(), b""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"is larger than {MAX_FILE_BYTES >> 30} GiB", source=source, hint=SAVE_HINT)
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                head = head or block[:HEAD_BYTES]
                digest.update(block)
    except FileNotFoundError:
        raise InputError("does not exist", source=source, hint="check the path of the checkpoint") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=source, hint="check path and rights") from error
    if not head:
        raise InputError("is empty", source=source, hint="copy or download the checkpoint again")
    return digest.hexdigest(), head


def _read_safetensors(file: Path, source: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file, device="cpu")
    except Exception as error:  # SafetensorError and whatever a broken header provokes
        problem = f"is a damaged safetensors file: {one_line(error)}"
        raise InputError(problem, source=source, hint="copy or download it again") from error
    return tensors


def _read_torch(file: Path, source: str) -> Any:
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle can raise anything; none of it may reach the user as it is
        refused = re.search(r"GLOBAL (\S+)|[Uu]nsupported class (\S+)", str(error))
        if refused is None:
            told = re.search(r"WeightsUnpickler error: (.+)", str(error))
            problem = f"is cut short or no torch checkpoint: {one_line(told[1]) if told else one_line(error)}"
            raise InputError(problem, source=source, hint=f"copy or download it again, or {SAVE_HINT}") from error
        name = one_line((refused[1] or refused[2]).strip("'\"`.,"))
        problem, hint = describe_pickle(file, name)
        raise InputError(problem, source=source, hint=hint) from error
