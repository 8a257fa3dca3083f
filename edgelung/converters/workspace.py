"""Finished stages of a conversion, kept beside its output until the bundle is there, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor

from edgelung import __version__
from edgelung._codec import from_json, parse_json, to_json
from edgelung.converters.durable import PARTIAL, hold_folder, read_plain, remove_held, replace_file
from edgelung.converters.recipe import Recipe
from edgelung.converters.recipe_file import learning_options
from edgelung.errors import ConversionError, EdgelungError, InputError

__all__ = ["Workspace", "open_workspace", "workspace_folder"]

FORMAT: Final = 1
MAX_STAGE_BYTES: Final = 1 << 32  # no network for a board is larger
MAX_INDEX_BYTES: Final = 1 << 20
_INDEX, _ENDING = "stages.json", ".safetensors"
_STAGE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HASHED = ("checkpoint", "data set", "spec")
_MAY_CHANGE = "where --target, --ptq, --toolkit, --verification-slabs and --keep-failing may be other ones"
_START_ANEW = (
    f"repeat it with the options it had ({_MAY_CHANGE.removeprefix('where ')}), or leave out --resume to start anew"
)


@dataclass(frozen=True)
class _Stage:
    """One finished stage: its name, and what its file must be."""

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _STAGE.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a stage")

    @property
    def file(self) -> str:
        return f"{self.name}{_ENDING}"


@dataclass(frozen=True)
class _Index:
    """What the folder holds, in the order in which it was made, and for which conversion."""

    key: dict[str, str]
    stages: tuple[_Stage, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format} instead of {FORMAT}")
        if not all(text.isprintable() for pair in self.key.items() for text in pair):
            raise ValueError("the key holds control characters")  # differences are printed


class Workspace:
    """Weights after each finished stage; made by :func:`open_workspace`.

    A stage that cannot be read is forgotten together with all that were finished after it.
    """

    def __init__(self, folder: Path, index: _Index, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._index = index
        self._note = note

    @property
    def finished(self) -> tuple[str, ...]:
        """Names of the stages that :meth:`load` has, in the order in which they were saved."""
        return tuple(stage.name for stage in self._index.stages)

    def load(self, stage: str) -> dict[str, Tensor] | None:
        """What :meth:`save` was given for a stage, on the CPU; None when it has to be done (again)."""
        if stage not in self.finished:
            return None
        position = self.finished.index(stage)
        try:
            return _read_stage(self._folder, self._index.stages[position])
        except (OSError, ValueError) as error:
            self._note(f"the kept result of {stage} cannot be used ({error}); it is made again")
            self._write_index(self._index.stages[:position])
            return None

    def save(self, stage: str, state: Mapping[str, Tensor]) -> None:
        """Keep what a stage made: all of it or, when interrupted, nothing.

        Args:
            stage: Its name: lower-case letters, digits and '-'.
            state: Name -> tensor, any dtype, shape and device; a state_dict as a rule.

        When it cannot be written a note says so and the conversion goes on: what was learnt is still in memory.
        """
        # safetensors refuses tensors that share memory, as tied weights do: each is written whole
        whole = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()
        }
        content = safetensors.torch.save(whole)
        made = _Stage(stage, _hash(content), len(content))
        earlier = tuple(kept for kept in self._index.stages if kept.name != stage)
        try:
            replace_file(self._folder / made.file, content)
            self._write_index((*earlier, made))
        except OSError as error:
            self._note(f"the result of {stage} cannot be kept for --resume ({error.strerror}); the conversion goes on")

    def _write_index(self, stages: tuple[_Stage, ...]) -> None:
        index = replace(self._index, stages=stages)
        replace_file(self._folder / _INDEX, json.dumps(to_json(index), indent=2).encode())
        self._index = index


def workspace_folder(output: Path) -> Path:
    """Where the stages of a conversion to ``output`` are kept."""
    return output.parent / f".{output.name}.edgelung-work"


@contextmanager
def open_workspace(
    recipe: Recipe, source_sha256: str, data_identity: str, note: Callable[[str], None] | None = None
) -> Iterator[Workspace]:
    """The workspace of a conversion, for as long as it runs.

    It is removed when the block is left without an error or nothing was saved in it. Otherwise it stays, the error
    says so, and a conversion with ``recipe.resume`` finds it again; without ``resume`` what an earlier one left is
    removed.

    Args:
        recipe: What is asked for.
        source_sha256: Hash of the checkpoint.
        data_identity: Anything that is equal for equal data and differs for other data; only its hash is written.
        note: Called with what a user should know.

    Raises:
        InputError: When a conversion to the same output runs, when the one to resume was another one, or when the
            folder cannot be used.
        ConversionError: In place of an error that is none of edgelung's, when something was saved.
    """
    remark = note or (lambda text: None)
    folder = workspace_folder(recipe.output)
    key = _key(recipe, source_sha256, data_identity)
    busy = InputError("another conversion writes it", source=recipe.output, hint="wait, or choose another --output")
    with hold_folder(folder, busy):
        index = _resumed(folder, key, remark) if recipe.resume else _Index(key)
        workspace = Workspace(folder, index, remark)
        if workspace.finished:
            remark(f"resumed after: {', '.join(workspace.finished)}")
        elif _empty(folder):
            remark("what an interrupted conversion left was removed")
        try:
            yield workspace
        except BaseException as error:
            if not workspace.finished:
                _remove(folder)
                raise
            kept = f"finished and kept: {', '.join(workspace.finished)}; go on with --resume"
            if not isinstance(error, Exception):
                remark(kept)
                raise
            told = error if isinstance(error, EdgelungError) else _as_error(error)
            told.hint = "; ".join(filter(None, (told.hint, f"{kept}, {_MAY_CHANGE}")))
            raise told from (None if told is error else error)
        _remove(folder)


def _as_error(error: Exception) -> ConversionError:
    """One line for what nobody raised on purpose."""
    if isinstance(error, OSError):
        return ConversionError(
            "write", f"a file cannot be written or read ({error.strerror or error})", hint="make room"
        )
    text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ConversionError("convert", f"stopped by an error that edgelung does not know ({text})")


def _key(recipe: Recipe, source_sha256: str, data_identity: str) -> dict[str, str]:
    """Everything that shapes what is learnt, by the name under which a difference is reported."""
    options = {name.replace("_", "-"): json.dumps(value) for name, value in learning_options(recipe).items()}
    spec = _hash(recipe.spec.read_bytes()) if recipe.spec else ""
    data = _hash(data_identity.encode())
    versions = {"edgelung": __version__, "torch": str(torch.__version__)}
    return {**options, "checkpoint": source_sha256, "data set": data, "spec": spec, **versions}


def _resumed(folder: Path, key: dict[str, str], note: Callable[[str], None]) -> _Index:
    """The index of what is there, if it belongs to this conversion."""
    path = folder / _INDEX
    if not path.exists():
        return _Index(key)
    try:
        index = from_json(_Index, parse_json(read_plain(path, MAX_INDEX_BYTES)), _INDEX)
    except (OSError, ValueError) as error:
        note(f"what an interrupted conversion left cannot be used ({error}); it is started anew")
        return _Index(key)
    if index.key != key:
        names = [name for name in {**index.key, **key} if index.key.get(name) != key.get(name)]
        differences = ", ".join(_difference(name, index.key.get(name), key.get(name)) for name in names)
        raise InputError(f"the interrupted conversion had {differences}", field="resume", hint=_START_ANEW)
    return index


def _difference(name: str, before: str | None, now: str | None) -> str:
    if name in _HASHED:
        return f"another {name}"
    return f"{name} {before or 'unset'} instead of {now or 'unset'}"


def _read_stage(folder: Path, stage: _Stage) -> dict[str, Tensor]:
    content = read_plain(folder / stage.file, MAX_STAGE_BYTES)
    if len(content) != stage.size or _hash(content) != stage.sha256:
        raise ValueError("it was cut short or altered")
    try:
        state: dict[str, Tensor] = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from None
    return state


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _empty(folder: Path) -> bool:
    """Remove what a workspace writes, and nothing else; says whether there was anything."""
    ours = [path for path in folder.iterdir() if _is_ours(path.name.removesuffix(PARTIAL))]
    for path in ours:
        path.unlink()
    return bool(ours)


def _is_ours(name: str) -> bool:
    return name == _INDEX or (name.endswith(_ENDING) and _STAGE.fullmatch(name.removesuffix(_ENDING)) is not None)


def _remove(folder: Path) -> None:
    _empty(folder)
    remove_held(folder)
