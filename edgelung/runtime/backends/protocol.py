"""What an engine is to the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgelung.errors import BackendError
from edgelung.spec import TensorSpec

__all__ = ["Session", "SessionOptions", "check_input", "check_output"]


@dataclass(frozen=True)
class SessionOptions:
    """How to open a session.

    Attributes:
        threads: CPU threads of one run; 0 leaves the choice to the engine.
        core: Which NPU core a session is bound to; engines without cores ignore it.
    """

    threads: int = 0
    core: int = 0


class Session(Protocol):
    """One compiled network, opened, for one caller at a time."""

    @property
    def engine(self) -> str:
        """Name of the engine in the backend table."""
        ...

    def run(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run once.

        Args:
            tensor: In exactly the shape of the network's input, C-contiguous float32.

        Returns:
            A new array in exactly the shape of the network's output.

        Raises:
            BackendError: When the input does not fit or the engine fails.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds. A closed session cannot run again; closing twice is harmless."""
        ...


def check_input(engine: str, tensor: npt.NDArray[np.float32], spec: TensorSpec) -> None:
    """Refuse an input that does not have the compiled shape; engines themselves do not all check."""
    if tensor.dtype != np.float32 or tensor.shape != spec.shape:
        raise BackendError(engine, "run", f"input is {tensor.dtype}{tensor.shape}, not float32{spec.shape}")


def check_output(engine: str, tensor: npt.NDArray[np.float32], spec: TensorSpec) -> npt.NDArray[np.float32]:
    """Refuse an output of another shape or with values that are no numbers."""
    if tensor.dtype != np.float32 or tensor.shape != spec.shape:
        raise BackendError(engine, "run", f"output is {tensor.dtype}{tensor.shape}, not float32{spec.shape}")
    if not np.isfinite(tensor).all():
        raise BackendError(engine, "run", "output holds NaN or infinite values")
    return tensor
