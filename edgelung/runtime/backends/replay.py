"""Replays golden outputs: an engine for tests of everything around an engine."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from edgelung.bundle import Bundle
from edgelung.errors import BackendError
from edgelung.runtime.backends.protocol import SessionOptions, check_input
from edgelung.runtime.preprocess import prepare_stack

__all__ = ["ReplaySession", "lacking"]

ENGINE = "replay"


def lacking() -> str:
    """Nothing: it needs only the bundle."""
    return ""


class ReplaySession:
    """Answers a golden input with its golden output, and fails on every other input."""

    engine = ENGINE

    def __init__(self, bundle: Bundle, network: str, options: SessionOptions) -> None:
        record = bundle.manifest.networks[network]
        self._input = record.input.tensor
        self._answers: dict[bytes, npt.NDArray[np.float32]] = {
            _key(prepare_stack(stack, record.input)): output for stack, output in bundle.golden(network)
        }
        self._closed = False

    def run(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See Session.run."""
        if self._closed:
            raise BackendError(ENGINE, "run", "the session is closed")
        check_input(ENGINE, tensor, self._input)
        if (key := _key(tensor)) not in self._answers:
            raise BackendError(ENGINE, "run", "this is no golden input of the bundle")
        return np.array(self._answers[key])

    def close(self) -> None:
        """See Session.close."""
        self._closed = True


def _key(tensor: npt.NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).digest()
