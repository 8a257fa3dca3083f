"""What the stages of a conversion hand to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import fx, nn

from edgelung.bundle import StageRecord
from edgelung.converters.spec_file import NetworkSpec

__all__ = ["ConversionRecord"]


@dataclass(frozen=True, eq=False)
class ConversionRecord:
    """A network on its way, unchanged by the stages that read it; each stage returns a new record.

    Attributes:
        name: Of the network in the bundle.
        architecture: Registry name, factory, or ``onnx`` for a ready graph.
        spec: What it eats and gives.
        reference: The original network: float32 input tensor to float32 output tensor.
        reference_quantity: What that one gives, whatever ``spec`` says of the network as it is now.
        source_sha256: Of the file it came from.
        source_format: Container of that file.
        parameters: Trainable numbers in it.
        model: The network itself; None when a ready graph was given.
        rounding: The network with its fake-quantisation, to be exported as it rounds; None without QAT.
        graph: The ready graph; None when a checkpoint was given.
        graph_output: Name of the output that is taken of it; empty when it has one.
        stages: What was done so far, in words and without paths.
    """

    name: str
    architecture: str
    spec: NetworkSpec
    reference: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
    reference_quantity: Literal["probability", "logit"]
    source_sha256: str
    source_format: str
    parameters: int
    model: nn.Module | None = None
    rounding: fx.GraphModule | None = None
    graph: Path | None = None
    graph_output: str = ""
    stages: tuple[StageRecord, ...] = ()

    def after(self, stage: str, summary: str, **changes: Any) -> ConversionRecord:
        """The record after a stage, with what it did added to the provenance."""
        return replace(self, stages=(*self.stages, StageRecord(stage, summary)), **changes)
