"""What a network eats and gives, and the TOML file in which a user says so for a network of their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from edgelung._codec import from_json
from edgelung.errors import InputError
from edgelung.spec import NetworkInput, NetworkOutput

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["NODULE_SEGMENTATION", "NetworkSpec", "SegmentationThresholds", "read_spec"]

NODULE_SEGMENTATION: Final = "nodule-segmentation"
MAX_FILE_BYTES = 1 << 20
HINT = "docs/own-network.md explains every key, examples/own_network.toml is a full example"


@dataclass(frozen=True)
class SegmentationThresholds:
    """From a probability map to candidates.

    Attributes:
        mask_probability: A pixel at or above this belongs to the mask, 0..1 exclusive.
        min_diameter_mm: Smaller components are dropped.
    """

    mask_probability: float = 0.5
    min_diameter_mm: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability must lie between 0 and 1, got {self.mask_probability}")
        if self.min_diameter_mm < 0:
            raise ValueError(f"min_diameter_mm must be >= 0, got {self.min_diameter_mm}")


@dataclass(frozen=True)
class NetworkSpec:
    """Everything about a network that its weights do not say.

    Attributes:
        task: What it is for.
        input: From CT to its input tensor.
        output: What it gives.
        thresholds: What is made of its output.

    Raises:
        ValueError: If input and output do not belong together.
    """

    task: Literal["nodule-segmentation"]
    input: NetworkInput
    output: NetworkOutput
    thresholds: SegmentationThresholds = field(default_factory=SegmentationThresholds)

    def __post_init__(self) -> None:
        given, answered = self.input.tensor, self.output.tensor
        outputs = self.input.packing.outputs
        if answered.channels != outputs:
            raise ValueError(f"output.tensor has {answered.channels} channels, input.packing.outputs says {outputs}")
        if answered.plane != given.plane:
            raise ValueError(f"output.tensor has the plane {answered.plane}, input.tensor has {given.plane}")
        if given.name == answered.name:
            raise ValueError(f"input.tensor and output.tensor are both called {given.name!r}")
        for name, tensor in (("input", given), ("output", answered)):
            if tensor.dtype != "float32":
                raise ValueError(
                    f"{name}.tensor is {tensor.dtype}; a network is described in float32, as it was trained"
                )


def read_spec(path: Path | str) -> NetworkSpec:
    """Read the spec of a network from a TOML file.

    Args:
        path: The file; see docs/own-network.md.

    Raises:
        InputError: Naming the file and the path of the key that does not fit.
    """
    data = _read_toml(Path(path), str(path))
    try:
        return from_json(NetworkSpec, data)
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        key = where.removeprefix(NetworkSpec.__name__).removeprefix(".")
        raise InputError(problem or where, source=path, field=key, hint=HINT) from None


def _read_toml(file: Path, source: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError("does not exist", source=source, hint=HINT) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=source, hint=HINT) from error
    if len(raw) > MAX_FILE_BYTES:
        raise InputError("is larger than 1 MiB, so it is no spec file", source=source, hint=HINT)
    try:
        document: dict[str, Any] = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"is not valid TOML: {error}", source=source, hint=HINT) from None
    return document
