"""One's own network: a factory named ``package.module:factory``.

The module runs as any import does, so this is for the user's own code, never for something a file brings along.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgelung.errors import InputError

__all__ = ["load_factory"]

SHAPE_HINT = "write it as package.module:factory, where factory() returns the network as a torch.nn.Module"


def load_factory(name: str) -> Callable[[], nn.Module]:
    """Import the factory of a network.

    The module is looked for where Python looks, and after that in the current folder, so that ``my_network.py`` beside
    the user is found without being installed and can never hide an installed package. The current folder is on the
    path only while the module is imported and while the factory runs.

    Args:
        name: ``package.module:factory``. The factory is a function or class that is called without arguments; dotted
            names reach into classes (``networks:UNet.small``).

    Returns:
        A callable that builds the network. It raises InputError when the factory fails or returns something else.

    Raises:
        InputError: If there is no such module or factory, or importing it fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise InputError(f"{name!r} names no factory", field="--arch", hint=SHAPE_HINT)
    folder = Path.cwd()
    with _also_importing_from(folder):
        factory = _find(module_name, attribute, folder)
    if isinstance(factory, nn.Module):
        problem = f"{name} is a network ({type(factory).__name__}), not a function that builds one"
        raise InputError(problem, field="--arch", hint=SHAPE_HINT)
    if not callable(factory):
        raise InputError(
            f"{name} is a {type(factory).__name__}, not a function or class", field="--arch", hint=SHAPE_HINT
        )

    def build() -> nn.Module:
        with _also_importing_from(folder):
            try:
                model = factory()
            except (Exception, SystemExit) as error:
                told = (str(error).strip().splitlines() or [""])[0]
                problem = f"{name}() raised {type(error).__name__}: {told}"
                hint = "the factory is called without arguments and has to build the network with them all chosen"
                raise InputError(problem, field="--arch", hint=hint) from error
        return _checked(model, name)

    return build


def _checked(model: Any, name: str) -> nn.Module:
    """What a factory returned, unless it is no network, or none whose layers can be seen."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        problem, hint = f"{name}() returned the class {model.__name__}, not a network of it", "call it: return Net()"
    elif model is None:
        problem, hint = f"{name}() returned nothing", "end it with: return model"
    elif isinstance(model, (tuple, list)) and any(isinstance(part, nn.Module) for part in model):
        problem, hint = (
            f"{name}() returned a {type(model).__name__}",
            "return the network alone, without what is beside",
        )
    elif isinstance(model, torch.jit.ScriptModule):
        problem = f"{name}() returned a TorchScript module, whose layers cannot be changed"
        hint = "return the torch.nn.Module that it was made from"
    elif not isinstance(model, nn.Module):
        problem, hint = f"{name}() returned a {type(model).__name__}, not a torch.nn.Module", SHAPE_HINT
    else:
        return model
    raise InputError(problem, field="--arch", hint=hint)


def _find(module_name: str, attribute: str, folder: Path) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            problem = f"there is no module {missing!r}, neither installed nor in {folder}"
            raise InputError(
                problem, field="--arch", hint="run where the module lies, or install its package"
            ) from error
        told = (str(error).strip().splitlines() or [""])[0]
        problem = f"importing {module_name} raised {type(error).__name__}: {told}"
        raise InputError(problem, field="--arch", hint="the module has to import on its own") from error
    file = getattr(found, "__file__", None)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module_name} ({file}) has no {attribute!r}", field="--arch", hint=SHAPE_HINT)
        found = getattr(found, part)
    return found


@contextmanager
def _also_importing_from(folder: Path) -> Iterator[None]:
    """Have ``folder`` as the last place of the import path."""
    entry = str(folder)
    sys.path.append(entry)
    try:
        yield
    finally:
        for index in reversed(range(len(sys.path))):  # ours is the last one; leave an equal one of the user's
            if sys.path[index] == entry:
                del sys.path[index]
                break
