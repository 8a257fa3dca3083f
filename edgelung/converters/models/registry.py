"""The networks edgelung knows by name: one row each.

A new network is one new module beside this one and one row here. Networks that live elsewhere need no row:
``--arch package.module:factory`` with a spec file does for them (docs/own-network.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from edgelung.converters.models.unet_luna import UNetLuna, UNetWidths
from edgelung.errors import InputError

__all__ = ["ModelEntry", "ModelGeometry", "get_model_entry", "model_names"]


@dataclass(frozen=True)
class ModelGeometry:
    """What the specs have to know of a built network.

    Attributes:
        in_slices: Slices that it sees.
        out_slices: Slices that it answers for.
        stride: Height and width must be multiples of this, in pixels.
        receptive_radius: How far an output pixel sees in the plane, in pixels.
    """

    in_slices: int
    out_slices: int
    stride: int
    receptive_radius: int


@dataclass(frozen=True)
class ModelEntry:
    """One network of the registry.

    Attributes:
        name: What the user calls it.
        summary: One line for listings.
        task: The task it was made for, a file of ``converters/tasks/``.
        build_from_state: A network with the widths that a state_dict asks for, weights not yet applied. Raises
            InputError, naming the key, when the state_dict belongs to another network.
        build_default: The unpruned network with fresh weights.
        geometry: Slices, stride and reach of a network that one of the two built.
    """

    name: str
    summary: str
    task: str
    build_from_state: Callable[[Mapping[str, Tensor]], nn.Module]
    build_default: Callable[[], nn.Module]
    geometry: Callable[[nn.Module], ModelGeometry]


def get_model_entry(name: str) -> ModelEntry:
    """The row of a network.

    Raises:
        InputError: For a name that is not in the table; says which are.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    hint = f"known: {', '.join(model_names())}; or describe your own with --arch package.module:factory and --spec"
    raise InputError(f"no network is called {name!r}", hint=hint)


def model_names() -> tuple[str, ...]:
    """Names of all networks of the registry."""
    return tuple(entry.name for entry in _ENTRIES)


def _unet_luna_geometry(model: nn.Module) -> ModelGeometry:
    if not isinstance(model, UNetLuna):
        raise TypeError(f"expected a UNetLuna, got {type(model).__name__}")
    widths = model.widths
    return ModelGeometry(widths.in_slices, widths.out_slices, widths.stride, widths.receptive_radius)


_ENTRIES = (
    ModelEntry(
        name="unet-luna",
        summary="2-D U-Net over 7 axial slices, trained on LUNA16; 118,271 parameters before pruning",
        task="nodule-segmentation",
        build_from_state=lambda state: UNetLuna(UNetWidths.from_state_dict(state)),
        build_default=UNetLuna,
        geometry=_unet_luna_geometry,
    ),
)
