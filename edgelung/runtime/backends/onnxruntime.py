"""onnxruntime on the CPU: the engine that is everywhere."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from edgelung.bundle import Bundle
from edgelung.errors import BackendError
from edgelung.runtime.backends.protocol import SessionOptions, check_input, check_output

__all__ = ["OnnxRuntimeSession", "lacking"]

ENGINE = "onnxruntime"
PROVIDER = "CPUExecutionProvider"  # without fallback: it would try the same again, and print that


def lacking() -> str:
    """What is missing here to use the engine; empty when nothing is."""
    return "" if find_spec("onnxruntime") else "the package onnxruntime is not installed"


class OnnxRuntimeSession:
    """A network as an onnxruntime InferenceSession."""

    engine = ENGINE

    def __init__(self, bundle: Bundle, network: str, options: SessionOptions) -> None:
        import onnxruntime

        record = bundle.manifest.networks[network]
        self._input = record.input.tensor
        self._output = record.output.tensor
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors reach us as exceptions
        path = bundle.path(bundle.artefact(network, ENGINE))
        try:
            self._session = onnxruntime.InferenceSession(path, settings, providers=[PROVIDER], enable_fallback=0)
        except Exception as error:  # the engine's errors share no public base class
            raise BackendError(ENGINE, "open", _first_line(error)) from None
        self._check_graph()

    def run(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See Session.run."""
        if self._session is None:
            raise BackendError(ENGINE, "run", "the session is closed")
        check_input(ENGINE, tensor, self._input)
        try:
            (output,) = self._session.run([self._output.name], {self._input.name: tensor})
        except Exception as error:
            raise BackendError(ENGINE, "run", _first_line(error)) from None
        return check_output(ENGINE, output, self._output)

    def close(self) -> None:
        """See Session.close."""
        self._session = None

    def _check_graph(self) -> None:
        sides = (
            ("input", self._session.get_inputs(), self._input),
            ("output", self._session.get_outputs(), self._output),
        )
        for side, nodes, spec in sides:
            found = {node.name: tuple(node.shape) for node in nodes}
            if found != {spec.name: spec.shape}:
                raise BackendError(ENGINE, "open", f"the graph's {side} is {found}, not {spec.name} {spec.shape}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
