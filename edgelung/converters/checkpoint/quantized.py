"""State_dicts of torch.ao's quantization, named as what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from edgelung.converters.checkpoint.wording import shown
from edgelung.errors import InputError

__all__ = ["refuse_quantized"]

_OBSERVER: Final = re.compile(r"(^|\.)(activation_post_process(_\d+)?|weight_fake_quant|bias_fake_quant)\.")
_PACKED: Final = re.compile(r"(^|\.)_packed_params(\.|$)|\.weight_qscheme$")
_QAT: Final = "edgelung trains int8 itself: convert the float weights with --qat"


def is_observer(key: str) -> bool:
    """Whether a key belongs to an observer or a fake quantizer of torch.ao."""
    return _OBSERVER.search(key) is not None


def _norm_of(observer: str) -> str:
    """Where the convolution of a fake quantizer has its BatchNorm when torch.ao has fused the two."""
    return f"{observer.rpartition('weight_fake_quant.')[0]}bn.running_mean"


def first_converted(state: Mapping[Any, Any]) -> str:
    """The first key by which a state_dict is one of an int8 network of torch.ao; empty for every other."""
    for key, value in state.items():
        if isinstance(key, str) and (_PACKED.search(key) or (isinstance(value, Tensor) and value.is_quantized)):
            return key
    return ""


def refuse_quantized(state: Mapping[Any, Any], container: str, source: str, *, only_fitting: bool) -> None:
    """Refuse the weights of a network that torch.ao converted to int8, and those of a network with observers.

    Float weights of a network with observers keep their names and meaning, so they are taken when the user asks for the
    network's own tensors alone; not so where BatchNorms were fused into convolutions.

    Args:
        state: What may be a state_dict.
        container: Where it lies in the checkpoint.
        source: The file, for messages.
        only_fitting: The user asked for the network's own tensors alone.

    Raises:
        InputError: Naming a key by which it is known.
    """
    keys = [key for key in state if isinstance(key, str)]
    converted = first_converted(state)
    if converted:
        problem = f"is a network that torch.ao converted to int8 ({shown(converted)}); its float weights are gone"
        raise InputError(problem, source=source, hint=f"give those from before; {_QAT}")
    observers = [key for key in keys if is_observer(key)]
    if not observers:
        return
    problem = f"is a network with observers of torch.ao ({shown(observers[0])}; {len(observers)} such tensors)"
    if any(_OBSERVER.search(key) and _norm_of(key) in state for key in keys):
        problem += ", its BatchNorms fused into convolutions, where the float network has other names for them"
        raise InputError(problem, source=source, hint=f"give the float weights from before prepare_qat; {_QAT}")
    if not only_fitting:
        hint = f"--weights {shown(container)}. takes its float weights, which keep their names, and leaves the rest out"
        raise InputError(problem, source=source, hint=f"{hint}; add --qat for int8")
