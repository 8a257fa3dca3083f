"""What a refused pickle holds, and how its weights are saved alone; its instructions are listed, never followed."""

from __future__ import annotations

import itertools
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Final

from edgelung.converters.checkpoint.wording import SAVE_HINT

__all__ = ["describe_pickle"]

MAX_STEPS: Final = 2**20
_PICKLES_BEFORE: Final = 3  # magic number, protocol and system, in torch's old files
_WEIGHT_KEYS: Final = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
_PLAIN: Final = ("numpy", "pathlib", "datetime", "argparse", "omegaconf", "collections", "builtins", "_codecs")
_LAZY: Final = "torch.nn.parameter.Uninitialized"
_DICTS: Final = ("EMPTY_DICT", "MARK", "DICT")
_LEAD: Final = ("PROTO", "FRAME")


def describe_pickle(file: Path, name: str) -> tuple[str, str]:
    """The reason why a pickle with a class is refused, and the way out.

    Args:
        file: A torch.save file that the weights-only unpickler refused.
        name: The class it stumbled over.
    """
    if name.startswith(_LAZY):
        problem = "holds a lazy layer that was never run, so that it has no weights"
        return problem, "run the network once before saving it, or leave the layer out"
    danger = "which could run code when opened; edgelung reads weights only"
    whole, key = _look(file)
    if whole and not name.startswith(_PLAIN):
        hint = 'where its code is: torch.save(torch.load("FILE", weights_only=False).state_dict(), "weights.pt")'
        return f"is a whole pickled network, a {name}, {danger}", f"{hint}, if you trust the file"
    problem = f"holds a pickled {name}, {danger}"
    if key:
        hint = f'torch.save(torch.load("FILE", weights_only=False)["{key}"], "weights.pt")'
        return problem, f"where that class is installed: {hint} saves the weights alone, if you trust the file"
    return problem, f"where the file was made, {SAVE_HINT}"


def _look(file: Path) -> tuple[bool, str]:
    """Whether the file is one object instead of a dict, and the key under which a dict has its weights, if it has."""
    try:
        steps = _instructions(file)
    except Exception:  # a damaged file can raise anything
        return False, ""
    first = next((step for step in steps if step[0] not in _LEAD), ("", None))
    whole = first[0] == "GLOBAL" and first[1] not in ("collections OrderedDict", "collections defaultdict")
    dicts = {
        value
        for (code, value), after in zip(steps, itertools.pairwise(steps[1:]), strict=False)
        if code == "BINUNICODE" and _opens_state(after)
    }
    return whole, next((key for key in _WEIGHT_KEYS if key in dicts), "")


def _instructions(file: Path) -> list[tuple[str, object]]:
    """The instructions of the pickle that a torch file is made of, at most the first ``MAX_STEPS``."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            (member,) = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            with archive.open(member) as stream:
                return _listed(stream)
    with file.open("rb") as stream:
        for _ in range(_PICKLES_BEFORE):
            _listed(stream)
        return _listed(stream)


def _listed(stream: IO[bytes]) -> list[tuple[str, object]]:
    return [(code.name, value) for code, value, _ in itertools.islice(pickletools.genops(stream), MAX_STEPS)]


def _opens_state(after: tuple[tuple[str, object], tuple[str, object]]) -> bool:
    """Whether what follows a key is a dict; a memo instruction may lie between."""
    step = after[1] if after[0][0] in ("BINPUT", "LONG_BINPUT", "MEMOIZE") else after[0]
    return step[0] in _DICTS or step == ("GLOBAL", "collections OrderedDict")
