"""A network as its factory gave it, brought to what every stage expects: no wrappers, float32, on the CPU."""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from edgelung.errors import InputError

__all__ = ["copy_network", "materialize", "to_plain"]

_FIELD: Final = "--arch"
_INT8: Final = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.quantization.fake_quantize")
_FLOATS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def to_plain(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network inside its wrappers, in eval mode, in float32 on the CPU; changed in place.

    Returns:
        The network, and in words what was done to it.

    Raises:
        InputError: For a network without memory, in int8, or of complex numbers.
    """
    model, gone = _without_wrappers(model)
    changes = [f"{', '.join(gone)} taken off the network"] if gone else []
    tensors = [(name, value) for name, value in _tensors(model) if not is_lazy(value)]
    for name, value in tensors:
        if value.is_meta:
            problem = f"the network is built without its values ({name} is on the device meta)"
            raise InputError(problem, field=_FIELD, hint="build it outside of torch.device('meta')")
        if value.is_inference():
            problem = f"the network is built under torch.inference_mode, so that {name} cannot be changed"
            raise InputError(problem, field=_FIELD, hint="build it outside")
        if value.is_complex() or (value.is_floating_point() and value.dtype not in _FLOATS):
            raise InputError(f"{name} is {value.dtype}, not a float", field=_FIELD, hint="build the network in float32")
    quantized = next((name for name, part in model.named_modules() if type(part).__module__.startswith(_INT8)), None)
    if quantized is not None:
        problem = f"the factory gives a network that torch.ao quantizes ({quantized})"
        raise InputError(problem, field=_FIELD, hint="build the float network; --qat or --ptq make it int8")
    devices = sorted({str(value.device) for _, value in tensors} - {"cpu"})
    if devices:
        changes.append(f"moved from {', '.join(devices)} to the CPU")
    dtypes = sorted({_name(value) for _, value in tensors if value.is_floating_point()} - {"float32"})
    if dtypes:
        changes.append(f"layers of {', '.join(dtypes)} computed in float32")
    return model.to("cpu").float().eval(), tuple(changes)


def materialize(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Give lazy layers their weights, by one run on an input of zeros; changed in place.

    Args:
        model: In eval mode.
        shape: Of the input, (1, slices, height, width).

    Returns:
        Whether there were lazy layers.

    Raises:
        InputError: When the network does not run on that input, or a lazy layer is not reached.
    """
    if not any(is_lazy(value) for _, value in _tensors(model)):
        return False
    try:
        with torch.no_grad():
            model(torch.zeros(shape))
    except Exception as error:  # whatever the user's forward raises
        told = (str(error).strip().splitlines() or [""])[0][:200]
        problem = f"the network has lazy layers and does not run on {tuple(shape)}: {type(error).__name__}: {told}"
        raise InputError(
            problem, field=_FIELD, hint="the shape is that of --spec; or build it without lazy layers"
        ) from error
    left = [name for name, value in _tensors(model) if is_lazy(value)]
    if left:
        problem = f"the lazy layer {left[0].rpartition('.')[0]} is not reached by forward, so it has no shape"
        raise InputError(problem, field=_FIELD, hint="leave it out of the network, or give it its channels")
    return True


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        InputError: When the network cannot be copied, which every stage needs.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a hook's computed tensor, an open file, a lock
        told = (str(error).strip().splitlines() or [""])[0][:200]
        problem = f"the network cannot be copied: {type(error).__name__}: {told}"
        hint = "it must hold layers, tensors and plain values only, and compute no weight in a hook of its own"
        raise InputError(problem, field=_FIELD, hint=hint) from error


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _without_wrappers(model: nn.Module) -> tuple[nn.Module, list[str]]:
    gone: dict[str, None] = {}
    model = _inside(model, gone)
    for part in model.modules():
        part._compiled_call_impl = None  # module.compile() leaves this
        for name, child in list(part.named_children()):
            setattr(part, name, _inside(child, gone))
    return model, list(gone)


def _inside(model: nn.Module, gone: dict[str, None]) -> nn.Module:
    while True:
        name = type(model).__name__
        if name == "OptimizedModule" and isinstance(model._modules.get("_orig_mod"), nn.Module):
            name, inner = "torch.compile", model.get_submodule("_orig_mod")
        elif isinstance(model, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
            inner = model.module
        else:
            return model
        gone[name] = None
        model = inner
