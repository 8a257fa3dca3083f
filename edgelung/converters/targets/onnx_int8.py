"""int8 for onnxruntime: post-training quantisation with explicit QuantizeLinear and DequantizeLinear operators."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgelung.converters.targets._onnx_file import OnnxFile, parse
from edgelung.converters.targets.unsigned import write_unsigned
from edgelung.errors import ConversionError

__all__ = ["quantise_onnx"]

STAGE = "quantise"
Array = npt.NDArray[np.float32]


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, name: str, inputs: Sequence[Array]) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter([{name: tensor} for tensor in inputs])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantise_onnx(
    source: Path, input_name: str, fit: Sequence[Array], target: Path, *, only: Sequence[str] = ()
) -> OnnxFile:
    """Quantise a float ONNX file to int8: weights per channel, activations with one range from their extremes.

    The 8-bit numbers are stored unsigned, so that the file computes the same on every processor.

    Args:
        source: Float ONNX file.
        input_name: Of its one input.
        fit: Inputs to find ranges on.
        target: The file to write.
        only: Names of the operators to quantise; empty for all that can be.

    Raises:
        ConversionError: When onnxruntime cannot.
    """
    raw = target.with_suffix(".raw.onnx")
    quiet = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing that export has done
    try:
        quantize_static(
            str(source),
            str(raw),
            _Reader(input_name, fit),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=list(only) or None,
            extra_options={"CalibMovingAverage": False},
        )
        model = parse(raw.read_bytes())
    except Exception as error:  # whatever its quantiser raises
        raise ConversionError(STAGE, f"onnxruntime cannot quantise: {type(error).__name__}: {error}") from error
    finally:
        logging.getLogger().setLevel(quiet)
        raw.unlink(missing_ok=True)
    if model is None:
        raise ConversionError(STAGE, "onnxruntime wrote an ONNX file that cannot be read back")
    return write_unsigned(model, target)
