"""Keys of a checkpoint brought to the names that a network has for the same tensors.

Wrappers leave names in front of keys, or between their parts: ``module`` (DataParallel, DDP), ``_orig_mod``
(torch.compile), ``model`` or ``net`` (a LightningModule). A network may have been wrapped where it was saved, where it
is built, or in both places. So a name is only taken off, or added, when then all keys fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from edgelung.converters.checkpoint.candidates import TOP, list_counts
from edgelung.converters.checkpoint.load import LoadedState
from edgelung.converters.checkpoint.wording import SAVE_HINT, first_few, shown
from edgelung.errors import InputError

__all__ = ["MatchedState", "match_keys", "missing_keys"]

_WRAPPERS: tuple[str, ...] = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_AVERAGE_COUNT: Final = "n_averaged"
_COUNTERS: Final = ("num_batches_tracked", _AVERAGE_COUNT)
_MOST_PREFIXES: Final = 4
_DEEPEST: Final = 8


@dataclass(frozen=True, eq=False)
class MatchedState:
    """Weights under a network's own names, as far as they could be matched.

    Attributes:
        state: The tensors.
        changes: What was done to the keys, in words.
        form: Which of the network's forms has these keys.
        fits: Whether the keys are now those of the network.
    """

    state: dict[str, Tensor]
    changes: tuple[str, ...] = ()
    form: int = 0
    fits: bool = True


def match_keys(loaded: LoadedState, *forms: Collection[str], by_first_name: bool = False) -> MatchedState:
    """Find the one naming under which the weights are those of a network.

    Args:
        loaded: Weights as they were read.
        forms: The keys that the network has; several when its state_dict may be written in several ways.
        by_first_name: The network is known by the first parts of its keys alone (its depth is told by the weights).

    Returns:
        The weights in the first form that fits; as they are, and ``fits`` False, when none does.

    Raises:
        InputError: When several parts of the weights are the network, when other tensors lie beside the network's,
            or when keys differ by a wrapper's name alone.
    """
    state = loaded.state
    rules = [_FirstNames(own) if by_first_name else _Names(own) for own in forms]
    for form, rule in enumerate(rules):
        matched = _only_fitting(state, rule) if loaded.only_fitting else _match(state, rule)
        if matched is not None:
            return replace(matched, form=form)
    for rule in rules:
        if not loaded.only_fitting:
            _refuse_parts(loaded, rule)
    if len({_bare(key) for key in state}) != len(state):
        raise InputError("holds keys that differ only by a wrapper's name", source=loaded.source, hint=SAVE_HINT)
    return MatchedState(state, fits=False)


def missing_keys(own: Collection[str], found: Collection[str]) -> list[str]:
    """Keys of a network that are not in a state_dict and have to be; BatchNorm's counters need not."""
    return [key for key in own if key not in found and key.rpartition(".")[2] not in _COUNTERS]


class _Names:
    """The keys of a network, by their names without wrappers."""

    def __init__(self, own: Collection[str]) -> None:
        self.own = frozenset(own)
        bare = {_bare(key): key for key in own}
        self._by_bare = bare if len(bare) == len(self.own) else {key: key for key in own}

    def fit(self, keys: Collection[str]) -> bool:
        """Whether keys as they are are the network's."""
        return not missing_keys(self.own, keys) and all(_known(key, self.own) for key in keys)

    def fit_bare(self, keys: Collection[str]) -> bool:
        """Whether keys without wrappers are the network's without wrappers."""
        return self.complete(keys) and all(self.has(key) for key in keys)

    def has(self, key: str) -> bool:
        """Whether the network has a key without wrappers."""
        return _known(key, self._by_bare)

    def complete(self, keys: Collection[str]) -> bool:
        """Whether keys without wrappers are all that the network needs, and maybe more."""
        return not missing_keys(self._by_bare, keys)

    def least(self) -> int:
        """How many tensors the network needs at least."""
        return len(missing_keys(self.own, ()))

    def to_own(self, key: str) -> str:
        """The network's name of a key without wrappers."""
        if key not in self._by_bare:
            return f"{self._by_bare[_weight_of(key)].removesuffix('weight')}bias"
        return self._by_bare[key]

    def prefixes(self) -> list[str]:
        """What all keys of the network without wrappers begin with."""
        return list(_common_prefixes(self._by_bare))


class _FirstNames(_Names):
    """A network known by the first parts of its keys."""

    def fit(self, keys: Collection[str]) -> bool:
        return self.complete(keys) and all(self.has(key) for key in keys)

    def has(self, key: str) -> bool:
        return key.partition(".")[0] in self._firsts(self.own)

    def complete(self, keys: Collection[str]) -> bool:
        return self._firsts(self.own) <= self._firsts(keys)

    def least(self) -> int:
        return len(self._firsts(self.own))

    def to_own(self, key: str) -> str:
        return key

    @staticmethod
    def _firsts(keys: Collection[str]) -> set[str]:
        return {key.partition(".")[0] for key in keys}


def _known(key: str, own: Collection[str]) -> bool:
    """Whether a key is among a network's; a pruned layer may have got a bias that it had not."""
    return key in own or (key.rpartition(".")[2] == "bias" and _weight_of(key) in own)


def _weight_of(key: str) -> str:
    return f"{key.removesuffix('bias')}weight"


def _match(state: Mapping[str, Tensor], rule: _Names) -> MatchedState | None:
    if rule.fit(state):
        return MatchedState(dict(state))
    changes: list[str] = []
    count = state.get(_AVERAGE_COUNT)
    if count is not None and count.ndim == 0 and _AVERAGE_COUNT not in rule.own:
        state = {key: tensor for key, tensor in state.items() if key != _AVERAGE_COUNT}
        changes.append(f"weights averaged over {int(count)} steps; their counter {_AVERAGE_COUNT} was left out")
        if rule.fit(state):
            return MatchedState(dict(state), tuple(changes))
    bare = {_bare(key): tensor for key, tensor in state.items()}
    if len(bare) != len(state):
        return None
    for off in ("", *_common_prefixes(bare)):
        names = {key.removeprefix(off): key for key in bare}
        for on in ("", *rule.prefixes()):
            if rule.fit_bare([on + name for name in names]):
                changes += _tell(state, bare, off, on, rule)
                return MatchedState({rule.to_own(on + name): bare[key] for name, key in names.items()}, tuple(changes))
    return None


def _tell(state: Mapping[str, Tensor], bare: Mapping[str, Tensor], off: str, on: str, rule: _Names) -> list[str]:
    """What was taken off the keys, and what was put in front."""
    wrapped = {part for key in state for part in key.split(".")} & set(_WRAPPERS)
    kept = {part for key in rule.own for part in key.split(".")} & set(_WRAPPERS)
    gone = [name for name in _WRAPPERS if name in wrapped - kept]
    gone += [off.rstrip(".")] if off and off != on else []
    come = [name for name in _WRAPPERS if name in kept - wrapped]
    come += [on.rstrip(".")] if on and off != on else []
    words = [f"{' and '.join(gone)} taken off the keys"] if gone else []
    words += [f"{' and '.join(come)} put into the keys"] if come else []
    return words or ["names of wrappers in the keys moved to where the network has them"] * (list(bare) != list(state))


def _only_fitting(state: Mapping[str, Tensor], rule: _Names) -> MatchedState | None:
    """The network's tensors, without what lies beside them."""
    taken = {rule.to_own(_bare(key)): tensor for key, tensor in state.items() if rule.has(_bare(key))}
    left = [key for key in state if not rule.has(_bare(key))]
    changes = (f"left out: {first_few(left)}",) if left else ()
    return MatchedState(taken, changes) if rule.fit(taken) else None


def _refuse_parts(loaded: LoadedState, rule: _Names) -> None:
    """Refuse weights with the network's in a part of them, naming the parts."""
    state = loaded.state
    start = f"{loaded.container}." if loaded.container else ""
    parts: dict[str, int] = {}
    for prefix, part in _below_prefixes(state).items():
        inside = any(outer in parts for outer in _beginnings(prefix))
        if not inside and rule.least() <= len(part) and _match(part, rule) is not None:
            parts[prefix] = len(part)
    beside = [key for key in state if not any(prefix in parts for prefix in _beginnings(key))]
    top = [key for key in beside if rule.has(_bare(key))]
    names = {start + prefix: count for prefix, count in parts.items()}
    if rule.complete({_bare(key) for key in top}):
        names = {start or TOP: len(top), **names}
        beside = [key for key in beside if key not in top]
    if not names:
        return
    first, count = next(iter(names.items()))
    if len(names) > 1:
        problem, hint = f"holds several networks of these keys: {list_counts(names)}", "choose one, for example"
        raise InputError(problem, source=loaded.source, hint=f"{hint} --weights {shown(first)}")
    problem = f"holds tensors beside the network's, belonging to no layer: {first_few(beside)}"
    hint = f"--weights {shown(first)} takes the {count} of the network and leaves the others out"
    raise InputError(problem, source=loaded.source, hint=hint)


def _below_prefixes(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """For every beginning of a key, the shortest first, what lies below it."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        for prefix in _beginnings(key):
            found.setdefault(prefix, {})[key[len(prefix) + 1 :]] = value
    return dict(sorted(found.items(), key=lambda item: item[0].count(".")))


def _beginnings(key: str) -> list[str]:
    parts = key.split(".", _DEEPEST)
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _common_prefixes(keys: Collection[str]) -> Iterator[str]:
    """What all keys begin with, part by part: ``a.``, ``a.b.`` and so on."""
    split = [key.split(".")[:-1] for key in keys]
    common = ""
    for parts, _ in zip(zip(*split, strict=False), range(_MOST_PREFIXES), strict=False):
        if len(set(parts)) != 1:
            return
        common += f"{parts[0]}."
        yield common


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)
