"""The state_dicts in a checkpoint, and the one that is meant: the only one, or the one that the user names."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from edgelung.converters.checkpoint.quantized import first_converted
from edgelung.converters.checkpoint.wording import SAVE_HINT, shown
from edgelung.errors import InputError

__all__ = ["TOP", "choose_weights", "list_counts"]

TOP: Final = "."
MAX_DEPTH: Final = 8
MAX_PARTS: Final = 300_000  # of nested dicts and lists; a few references can make endless many
_SHOWN: Final = 8
# State that lies beside weights and has tensors of their shapes.
_NO_NETWORK: Final = re.compile(r"(^|_)(optim\w*|opt|(lr_?)?sched\w*|\w*scaler|exp_avg\w*|momentum_buffer\w*|rng\w*)$")


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One set of weights: its path in the checkpoint, and its tensors by name; a list of them has no names."""

    path: tuple[str, ...]
    tensors: Mapping[Any, Any] | list[Tensor]

    @property
    def name(self) -> str:
        return ".".join(self.path) or TOP

    @property
    def count(self) -> int:
        values = self.tensors if isinstance(self.tensors, list) else list(self.tensors.values())
        return sum(isinstance(value, Tensor) for value in values)


def choose_weights(loaded: Any, wanted: str | None, source: str) -> tuple[str, dict[str, Any]]:
    """The path to the weights in what a file holds, and what lies there.

    A dict holds weights when one of its values is a tensor with two axes or more; what optimizers keep is none.

    Args:
        loaded: The content of a file.
        wanted: As ``weights`` of ``load_state_dict``.
        source: The file, for messages.

    Raises:
        InputError: When there are none, or several and none was chosen, or none of that name.
    """
    found = _find(loaded)
    if wanted is not None:
        container, state = _named(found, wanted if wanted == TOP else wanted.removesuffix(TOP), source)
        alone = wanted.endswith(TOP)
        return container, {k: v for k, v in state.items() if isinstance(v, Tensor)} if alone else state
    if not found:
        raise _nothing(loaded, source)
    if len(found) > 1:
        named = [candidate for candidate in found if not isinstance(candidate.tensors, list)]
        problem = f"holds several sets of weights: {_list(found)}"
        raise InputError(problem, source=source, hint=f"choose one, for example --weights {shown(named[0].name)}")
    return _taken(found[0], source)


def list_counts(counts: Mapping[str, int]) -> str:
    """Names of sets of weights with their numbers of tensors."""
    listed = [f"{shown(name)} ({count} tensor{'s' * (count != 1)})" for name, count in counts.items()]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _find(loaded: Any) -> list[_Candidate]:
    parts = list(_walk(loaded))
    named = [_Candidate(path, value) for path, value in parts if isinstance(value, Mapping) and _has_weights(value)]
    if not named:  # a network of single numbers, say
        named = [_Candidate(path, value) for path, value in parts if isinstance(value, Mapping) and _all_tensors(value)]
    shapes = [{value.shape for value in one.tensors.values() if isinstance(value, Tensor)} for one in _mappings(named)]
    unnamed = [
        _Candidate(path, value)
        for path, value in parts
        if isinstance(value, list) and any({tensor.shape for tensor in value} <= own for own in shapes)
    ]
    return [*named, *unnamed] if named else []


def _mappings(named: list[_Candidate]) -> list[Any]:
    return [one for one in named if isinstance(one.tensors, Mapping)]


def _walk(loaded: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every dict, and every list of tensors, with its path; the outermost first."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    for _ in range(MAX_PARTS):
        if not waiting:
            return
        path, value = waiting.popleft()
        if isinstance(value, (list, tuple)) and _tensors_with_axes(value):
            yield path, list(value)
        if isinstance(value, Mapping):
            if "param_groups" in value:
                continue
            yield path, value
        if len(path) < MAX_DEPTH:
            waiting.extend(
                ((*path, str(key)), inner)
                for key, inner in _inner(value)
                if isinstance(inner, (Mapping, list, tuple)) and not _NO_NETWORK.search(str(key).lower())
            )
    raise InputError(f"holds more than {MAX_PARTS} dicts and lists", hint=SAVE_HINT)


def _inner(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value))


def _tensors_with_axes(value: list[Any] | tuple[Any, ...]) -> bool:
    return all(isinstance(item, Tensor) for item in value) and any(item.ndim > 1 for item in value)


def _has_weights(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(item, Tensor) and item.ndim > 1 for item in value.values()) or bool(first_converted(value))


def _all_tensors(value: Mapping[Any, Any]) -> bool:
    tensors = [item for item in value.values() if isinstance(item, Tensor)]
    return len(tensors) == len(value) and any(tensor.ndim for tensor in tensors)


def _named(found: list[_Candidate], wanted: str, source: str) -> tuple[str, dict[str, Any]]:
    exact = [candidate for candidate in found if candidate.name == wanted]
    below = [candidate for candidate in found if candidate.name.startswith(f"{wanted}.")]
    if exact or len(below) == 1:
        return _taken((exact or below)[0], source)
    begun = [part for candidate in found if (part := _below_prefix(candidate, wanted)) is not None]
    if len(begun) == 1:
        return begun[0]
    names = {candidate.name: candidate.count for candidate in below or ([] if begun else found)}
    names |= {name: len(state) for name, state in begun}
    if not names:
        problem = "holds no weights"
    elif below or begun:
        problem = f"holds several sets of weights called {shown(wanted)!r}: {list_counts(names)}"
    else:
        problem = f"holds no weights called {shown(wanted)!r}, but {list_counts(_with_prefixes(found))}"
    raise InputError(problem, source=source, field="weights", hint="name one of them with --weights")


def _below_prefix(candidate: _Candidate, wanted: str) -> tuple[str, dict[str, Any]] | None:
    """The tensors of a state_dict whose keys begin with a name, without it."""
    if isinstance(candidate.tensors, list):
        return None
    inside = wanted.removeprefix(f"{candidate.name}.")
    start = f"{inside}."
    part = {
        key[len(start) :]: value
        for key, value in candidate.tensors.items()
        if isinstance(key, str) and key.startswith(start)
    }
    return (".".join((*candidate.path, inside)), part) if part else None


def _with_prefixes(found: list[_Candidate]) -> dict[str, int]:
    """The sets of weights, and for a single one the names that its keys begin with."""
    names = {candidate.name: candidate.count for candidate in found}
    if len(found) == 1 and isinstance(found[0].tensors, Mapping):
        keys = [key for key in found[0].tensors if isinstance(key, str) and "." in key]
        firsts = [key.partition(".")[0] for key in keys]
        names |= {first: firsts.count(first) for first in firsts if len(set(firsts)) > 1}
    return names


def _taken(candidate: _Candidate, source: str) -> tuple[str, dict[str, Any]]:
    if isinstance(candidate.tensors, list):
        problem = f"is a list of {candidate.count} tensors without names, so nobody can say to which layers they belong"
        hint = f"copy them into the network where they were made, and {SAVE_HINT}"
        raise InputError(problem, source=source, field=shown(candidate.name), hint=hint)
    return ".".join(candidate.path), dict(candidate.tensors)


def _list(found: list[_Candidate]) -> str:
    return list_counts({candidate.name: candidate.count for candidate in found})


def _nothing(loaded: Any, source: str) -> InputError:
    if not isinstance(loaded, Mapping):
        return InputError(f"holds a {type(loaded).__name__}, not a state_dict", source=source, hint=SAVE_HINT)
    empty = [".".join(path) for path, value in _walk(loaded) if isinstance(value, Mapping) and not value]
    if not loaded or (empty and len(loaded) == 1):
        hint = f"was the network built? {SAVE_HINT}"
        return InputError("holds an empty state_dict", source=source, field=shown(empty[0]), hint=hint)
    problem = f"holds no weights: {', '.join(shown(key) for key in list(loaded)[:3])} are not tensors of a network"
    return InputError(problem, source=source, hint=SAVE_HINT)
