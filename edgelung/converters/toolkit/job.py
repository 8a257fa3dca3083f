"""What the toolkit is asked to do, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgelung.boards.layers import LayerRecord
from edgelung.converters.toolkit.device_log import DevicePerformance
from edgelung.errors import InputError

__all__ = [
    "DeviceJob",
    "DeviceResult",
    "Quantisation",
    "Samples",
    "ToolkitJob",
    "ToolkitResult",
    "check_inputs",
    "check_samples",
]

Samples = tuple[tuple[Path, ...], ...]


@dataclass(frozen=True)
class Quantisation:
    """Post-training quantisation to int8, weights per channel.

    Attributes:
        samples: Calibration inputs: for each sample one .npy file per network input, float32, shaped as the network
            takes it (NCHW), not normalised further.
        algorithm: How activation ranges are found: the extremes, the least Kullback-Leibler divergence, or the least
            mean square error.
        float_tensors: Outputs of the operators that stay float16, as the ONNX graph names them. An operator that the
            compiler fuses into another one is listed beside it: Conv and Relu make one float layer together, Relu alone
            makes a float layer between two conversions. One that the toolkit folds away is refused by name.

    Raises:
        ValueError: If there are no samples.
    """

    samples: Samples
    algorithm: Literal["normal", "kl_divergence", "mmse"] = "normal"
    float_tensors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("quantisation needs calibration samples")


@dataclass(frozen=True)
class ToolkitJob:
    """What the toolkit is to do: load, build and export one network, then simulate it on given inputs.

    The network eats what it eats: no mean, no scale, no reordering of channels is added.

    Attributes:
        model: ONNX file, static shapes, opset 13..19.
        quantise: None compiles the graph as it is: a float graph to float16, a graph with QuantizeLinear and
            DequantizeLinear to the int8 it describes.
        simulate: Inputs for the simulator, as ``Quantisation.samples``; none by default.
    """

    model: Path
    quantise: Quantisation | None = None
    simulate: Samples = ()


@dataclass(frozen=True)
class ToolkitResult:
    """What a job made.

    Attributes:
        rknn: The compiled network.
        log: Everything the toolkit said.
        layers: The compiler's layer table, input and output operators included.
        weight_memory_kib: "Total Weight Memory Size", in KiB.
        internal_memory_kib: "Total Internal Memory Size", in KiB.
        model_size_kib: Size of ``rknn`` in KiB.
        outputs: The simulator's answers, float32 as the network gives them: for each sample of ``simulate`` one
            read-only array per output.
        seconds: Wall-clock time of ``import``, ``load``, ``build``, ``export``, ``simulate`` and, with the start of
            Python, ``total``.
        sample_seconds: Of each simulated sample; the first one prepares the simulator as well.
        versions: Of rknn-toolkit2, numpy, onnx, torch and python in the toolkit's environment.
        peak_memory_kib: Largest resident memory of the worker, in KiB.
    """

    rknn: Path
    log: Path
    layers: tuple[LayerRecord, ...]
    weight_memory_kib: float
    internal_memory_kib: float
    model_size_kib: float
    outputs: tuple[tuple[npt.NDArray[np.float32], ...], ...]
    seconds: dict[str, float]
    sample_seconds: tuple[float, ...]
    versions: dict[str, str]
    peak_memory_kib: int


@dataclass(frozen=True)
class DeviceJob:
    """What the toolkit is to measure on a board that is attached to this machine.

    Attributes:
        model: .rknn file.
        inputs: One .npy file per network input, float32, as ``Quantisation.samples``.
        device: Serial number of the board, as ``adb devices`` lists it; None for the only one.
        calls: Timed calls of the network, at least 1.
        warmup: Calls before those.

    Raises:
        ValueError: If there is no call to time, or a negative number of calls before.
    """

    model: Path
    inputs: tuple[Path, ...]
    device: str | None = None
    calls: int = 30
    warmup: int = 3

    def __post_init__(self) -> None:
        if self.calls < 1 or self.warmup < 0:
            raise ValueError(f"calls must be at least 1 and warmup at least 0, got {self.calls} and {self.warmup}")


@dataclass(frozen=True)
class DeviceResult:
    """What a board did.

    Attributes:
        device: Serial number of the board.
        runtime: Versions of the runtime and the driver on the board, as it tells them, in one line.
        performance: What ``eval_perf`` told.
        memory_bytes: Memory that the network takes on the board, by kind.
        call_seconds: Wall-clock time of each timed call on this machine, the way over the cable included.
        outputs: The board's answers to the last call, float32 as the network gives them.
        log: Everything the toolkit said.
        versions: As in ``ToolkitResult``.
    """

    device: str
    runtime: str
    performance: DevicePerformance
    memory_bytes: dict[str, int]
    call_seconds: tuple[float, ...]
    outputs: tuple[npt.NDArray[np.float32], ...]
    log: Path
    versions: dict[str, str]


def check_inputs(job: DeviceJob) -> None:
    """Look at the headers of all inputs of a job.

    Raises:
        InputError: If there is no model, or an input is no float32 .npy file.
    """
    if not job.model.is_file():
        raise InputError("there is no such file", source=job.model)
    for file in job.inputs:
        _shape(file)


def check_samples(job: ToolkitJob) -> None:
    """Look at the headers of all inputs of a job.

    Raises:
        InputError: If there is no model, an input is no float32 .npy file, or two samples have different shapes.
    """
    if not job.model.is_file():
        raise InputError("there is no such file", source=job.model)
    kinds: dict[tuple[Any, ...], Path] = {}
    for sample in (*(job.quantise.samples if job.quantise else ()), *job.simulate):
        if not sample:
            raise InputError("a sample without a file", source=job.model)
        kinds.setdefault(tuple(_shape(file) for file in sample), sample[0])
    if len(kinds) > 1:
        one, other, *_ = kinds
        raise InputError(f"has {other}, other samples have {one}", source=kinds[other], field="shape")


def _shape(file: Path) -> tuple[int, ...]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"is no .npy file ({error})", source=file) from None
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise InputError("must hold one float32 array", source=file)
    return tuple(array.shape)
