"""A stand-in for the package rknnlite that replays how it was seen to behave.

Seen with the real wheels 2.3.0, 2.3.2 and 2.5.0 on an emulated board with a stub of librknnrt.so: errors are return
codes and None; a junk file loads; versions are not compared; a wrong number of channels reaches the library; a run
that fails is ignored, so that the outputs of the run before come back. What the real library and NPU do is not in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

CORE_MASKS = (0, 1, 2, 4, 3, 7, 0xFFFF)
DTYPES = ("int8", "uint8", "int16", "float16", "float32")


@dataclass
class FakeNpu:
    """One board with one network, and what goes wrong on it.

    Attributes:
        network: NHWC float32 -> list of outputs.
        api: Version of the runtime library.
        init_code: What `rknn_init` returns; anything but 0 makes init_runtime return -1.
        inputs_code: What `rknn_inputs_set` returns; anything but 0 makes inference return None.
        run_code: What `rknn_run` returns; rknnlite ignores it.
        outputs_code: What `rknn_outputs_get` returns; anything but 0 makes inference return None.
        calls: What was called on all objects, in order, with the arguments that matter.
        open: Contexts that were neither released nor failed to open.
    """

    network: Callable[[np.ndarray], list[np.ndarray]]
    api: str = "2.3.2 (429f97ae6b@2025-04-09T09:09:27)"
    init_code: int = 0
    inputs_code: int = 0
    run_code: int = 0
    outputs_code: int = 0
    calls: list[tuple[str, Any]] = field(default_factory=list)
    open: int = 0

    def install(self, monkeypatch) -> None:
        """Make `from rknnlite.api import RKNNLite` give a class of this board."""
        npu = self

        class RKNNLite(_RKNNLite):
            def __init__(self, verbose=False, verbose_file=None):
                super().__init__(npu)

        package, api = ModuleType("rknnlite"), ModuleType("rknnlite.api")
        package.__spec__ = ModuleSpec("rknnlite", None, is_package=True)
        package.__path__ = []
        api.RKNNLite = RKNNLite
        package.api = api
        monkeypatch.setitem(sys.modules, "rknnlite", package)
        monkeypatch.setitem(sys.modules, "rknnlite.api", api)


class _RKNNLite:
    NPU_CORE_AUTO, NPU_CORE_0, NPU_CORE_1, NPU_CORE_2, NPU_CORE_0_1, NPU_CORE_0_1_2, NPU_CORE_ALL = CORE_MASKS

    def __init__(self, npu: FakeNpu) -> None:
        self._npu = npu
        self._data: bytes | None = None
        self._ready = False
        self._last: list[np.ndarray] | None = None

    def load_rknn(self, path):
        self._npu.calls.append(("load_rknn", path))
        if not Path(path).exists():
            return self._error("Invalid RKNN model path", -1)
        try:
            self._data = Path(path).read_bytes()  # and no more: what is in it does not matter yet
        except OSError:
            return self._error("Catch exception when loading RKNN model", -1)
        return 0

    def init_runtime(self, target=None, device_id=None, async_mode=False, core_mask=0):
        self._npu.calls.append(("init_runtime", core_mask))
        if self._data is None:
            return self._error("Model is not loaded yet, this interface should be called after load_rknn!", -1)
        if self._npu.init_code:
            return self._error("RKNN init failed.", -1)
        if core_mask not in CORE_MASKS:
            return self._error("Catch exception when set npu core mode.", -1)
        self._ready = True
        self._npu.open += 1
        return 0

    def inference(self, inputs, data_type=None, data_format=None, inputs_pass_through=None, get_frame_id=False):
        if not self._ready:
            return self._error("Runtime environment is not inited, please call init_runtime to init it first!", None)
        arrays = inputs if isinstance(inputs, list) else [inputs]
        if any(str(array.dtype) not in DTYPES for array in arrays):
            return self._error("Unsupport inputs[0].dtype", None)
        if data_format == "nchw":
            self._error(
                "The input[0] need NHWC data format, but NCHW set, the data format and data buffer will be", None
            )
            arrays = [array.transpose(0, 2, 3, 1) for array in arrays]
        self._npu.calls.append(("inference", tuple(array.shape for array in arrays)))
        if self._npu.inputs_code:
            return self._error("Set inputs failed.", None)
        if self._npu.run_code == 0 or self._last is None:
            self._last = self._npu.network(np.array(arrays[0], dtype=np.float32))
        if self._npu.outputs_code:
            return self._error("Get outputs failed", None)
        return [output.copy() for output in self._last]

    def get_sdk_version(self):
        if not self._ready:
            return self._error("Runtime environment is not inited, please call init_runtime to init it first!", None)
        line = "=" * 46
        return f"{line}\nRKNN VERSION:\n  API: {self._npu.api}\n  DRV: 0.9.8\n{line}\n"

    def release(self):
        self._npu.calls.append(("release", None))
        self._npu.open -= self._ready
        self._ready = False

    @staticmethod
    def _error(line, answer):
        sys.stderr.write(f"E {line}\n")
        return answer
