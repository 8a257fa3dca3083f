"""The NPU of a Rockchip board through rknnlite (the package rknn-toolkit-lite2).

rknnlite hardly ever raises: it returns -1 or None and writes the reason on stderr, which is left as it is. It opens
junk without complaint, compares neither the input's channels nor any versions, and goes on after a run that failed.
So everything that can be checked from outside is checked here; whether the numbers are right is what the bundle's
golden outputs are for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgelung.boards import detect_board
from edgelung.boards.rknn_file import RknnFile, RknnTensor, read_rknn
from edgelung.bundle import Bundle
from edgelung.errors import BackendError, BundleError
from edgelung.runtime.backends.protocol import SessionOptions, check_input, check_output
from edgelung.spec import TensorSpec

__all__ = ["RknnSession", "lacking"]

ENGINE = "rknn"

RUNTIME_LIBRARY = Path("/usr/lib/librknnrt.so")  # the one place where rknnlite looks (2.3.0, 2.3.2, 2.5.0)
# RKNN_ERR_* of rknn_api.h, as far as 2.3 and 2.5 agree.
_CODES = {
    -1: "FAIL",
    -2: "TIMEOUT",
    -3: "DEVICE_UNAVAILABLE",
    -4: "MALLOC_FAIL",
    -5: "PARAM_INVALID",
    -6: "MODEL_INVALID",
    -7: "CTX_INVALID",
    -8: "INPUT_INVALID",
    -9: "OUTPUT_INVALID",
    -10: "DEVICE_UNMATCH",
    -11: "INCOMPATIBLE_PRE_COMPILE_MODEL",
    -12: "INCOMPATIBLE_OPTIMIZATION_LEVEL_VERSION",
    -13: "TARGET_PLATFORM_UNMATCH",
}
_SEE_STDERR = "the lines that rknnlite wrote before this one have the reason"
_API_VERSION = re.compile(r"\bAPI: *(\d+(?:\.\d+)+)")
_VERSION = re.compile(r"\d+(?:\.\d+)+")


def lacking() -> str:
    """What is missing here to use the engine; empty when nothing is."""
    missing = []
    if detect_board().platform is None:
        missing.append("this is no board with a known NPU")
    if find_spec("rknnlite") is None:
        missing.append("the package rknn-toolkit-lite2 is not installed")
    if not RUNTIME_LIBRARY.exists():
        missing.append(f"the NPU's runtime library {RUNTIME_LIBRARY} is not there")
    return ", ".join(missing)


class RknnSession:
    """A network in a context of its own on one NPU core.

    Input is float32, whatever the network's arithmetic: the runtime library quantises it with the scale in the file.
    """

    engine = ENGINE

    def __init__(self, bundle: Bundle, network: str, options: SessionOptions) -> None:
        record = bundle.manifest.networks[network]
        self._input = record.input.tensor
        self._output = record.output.tensor
        board = detect_board()
        if not 0 <= options.core < board.npu_cores:
            raise BackendError(ENGINE, "open", f"{board.name} has {board.npu_cores} NPU cores, no core {options.core}")
        path = bundle.path(bundle.artefact(network, ENGINE, board.platform))
        try:
            file = read_rknn(path)
        except BundleError as error:
            raise BackendError(ENGINE, "open", error.message, hint=error.hint) from None
        _check_tensor("input", file.inputs, self._input)
        _check_tensor("output", file.outputs, self._output)
        # The library wants NHWC. rknnlite would transpose, too, with a new array and a warning at every call.
        batch, channels, height, width = self._input.shape
        self._nhwc = np.empty((batch, height, width, channels), dtype=np.float32)
        self._lite: Any = _start(path, file, options.core)

    def run(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See Session.run."""
        if self._lite is None:
            raise BackendError(ENGINE, "run", "the session is closed")
        check_input(ENGINE, tensor, self._input)
        for channel in range(self._nhwc.shape[-1]):  # half the time of one transposing copy
            self._nhwc[..., channel] = tensor[:, channel]
        outputs = _call("inference", self._lite.inference, inputs=[self._nhwc])
        if outputs is None:
            raise BackendError(ENGINE, "inference", "no outputs came back", hint=_SEE_STDERR)
        if len(outputs) != 1:
            raise BackendError(ENGINE, "inference", f"{len(outputs)} outputs came back, not 1")
        return check_output(ENGINE, np.asarray(outputs[0]), self._output)

    def close(self) -> None:
        """See Session.close."""
        lite, self._lite = self._lite, None
        if lite is not None:
            _call("release", lite.release)


def _start(path: Path, file: RknnFile, core: int) -> Any:
    """An RKNNLite with the network on its core; nothing stays behind when that fails."""
    lite = _call("RKNNLite", _lite_class(), verbose=False)
    try:
        _check_code("load_rknn", _call("load_rknn", lite.load_rknn, str(path)))
        # RKNNLite.NPU_CORE_0, _1, _2 are 1, 2, 4.
        _check_code("init_runtime", _call("init_runtime", lite.init_runtime, core_mask=1 << core))
        _check_versions(_call("get_sdk_version", lite.get_sdk_version), file.toolkit_version)
    except BaseException:
        with contextlib.suppress(Exception):  # the first failure is the one to tell
            lite.release()
        raise
    return lite


def _lite_class() -> Callable[..., Any]:
    try:
        from rknnlite.api import RKNNLite  # type: ignore[import-not-found, unused-ignore]  # there on boards only
    except (ImportError, OSError) as error:
        raise BackendError(ENGINE, "import", _first_line(error), hint="install rknn-toolkit-lite2 again") from None
    return cast(Callable[..., Any], RKNNLite)


def _call(name: str, function: Callable[..., Any], *arguments: object, **options: object) -> Any:
    try:
        return function(*arguments, **options)
    except Exception as error:  # rknnlite documents none; its errors share no base class
        raise BackendError(ENGINE, name, _first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_code(call: str, code: object) -> None:
    if code != 0:
        meaning = f" (RKNN_ERR_{_CODES[code]})" if isinstance(code, int) and code in _CODES else ""
        raise BackendError(ENGINE, call, f"{code}{meaning}", hint=_SEE_STDERR)


def _check_tensor(side: str, found: tuple[RknnTensor, ...], spec: TensorSpec) -> None:
    tensors = [(tensor.name, tensor.shape) for tensor in found]
    if tensors != [(spec.name, spec.shape)]:
        has = ", ".join(f"{name} {shape}" for name, shape in tensors)
        raise BackendError(ENGINE, "open", f"the network's {side} is {has}, not {spec.name} {spec.shape}")


def _check_versions(sdk: object, toolkit: str) -> None:
    """Refuse a runtime library that is older than the toolkit which made the file; it may misread it silently."""
    found = _API_VERSION.search(sdk) if isinstance(sdk, str) else None
    if found is None:
        raise BackendError(ENGINE, "get_sdk_version", f"no API version in {sdk!r}", hint=_SEE_STDERR)
    made = _VERSION.match(toolkit)
    if made is None:
        raise BackendError(ENGINE, "open", f"the file's toolkit version {toolkit!r} is no version")
    if _numbers(found[1]) < _numbers(made[0]):
        raise BackendError(
            ENGINE,
            "open",
            f"librknnrt {found[1]} is older than the toolkit {made[0]} that made the network",
            hint=f"install librknnrt {made[0]} or newer, or convert with toolkit {found[1]}",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
