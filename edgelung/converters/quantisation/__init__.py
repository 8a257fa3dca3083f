"""Quantisation-aware training: int8 as a board computes it, in the training graph and in ONNX (docs/qat.md)."""

from edgelung.converters.quantisation.placement import prepare_qat
from edgelung.converters.quantisation.qdq_check import QdqCounts, check_qdq
from edgelung.converters.quantisation.qdq_export import export_qdq
from edgelung.converters.quantisation.ranges import calibrate, freeze_observers, to_exportable
from edgelung.converters.quantisation.rules import ONNXRUNTIME_RULES, RK3588_RULES, QuantisationRules

__all__ = [
    # what a board asks for
    "ONNXRUNTIME_RULES",
    "QuantisationRules",
    "RK3588_RULES",
    # training
    "calibrate",
    "freeze_observers",
    "prepare_qat",
    # export
    "QdqCounts",
    "check_qdq",
    "export_qdq",
    "to_exportable",
]
