"""What a bundle's NPU artefacts are estimated to take, from the layer tables in the bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from edgelung._codec import from_json, parse_json, to_json
from edgelung.boards import LatencyEstimate, LayerRecord, estimate, get_board
from edgelung.bundle import Artefact, Bundle, FileRecord, open_bundle
from edgelung.errors import BundleError, InputError

__all__ = ["ArtefactEstimate", "estimate_bundle"]

# Bounds of what a bundle may make this process read and print, far beyond any network of the NPU.
_MAX_TABLE_BYTES = 8 << 20  # a row takes 0.5 KB
_MAX_NUMBER = 2**40
_MAX_RANK = 8
_MAX_NAME = 300
_HINT = "make the bundle again with edgelung-convert"


@dataclass(frozen=True)
class ArtefactEstimate:
    """The estimated latency of one compiled network.

    Attributes:
        network: Its name in the manifest.
        artefact: What was compiled.
        slices_per_run: Output slices of one run.
        estimate: Of one run on the artefact's board; None when the bundle has no layer table of it.
    """

    network: str
    artefact: Artefact
    slices_per_run: int
    estimate: LatencyEstimate | None

    def to_json(self) -> dict[str, Any]:
        """Plain data: the total, the interval, the latency per output slice, and every layer with its share."""
        named = {"network": self.network, "target": self.artefact.target, "precision": self.artefact.precision}
        if self.estimate is None:
            return {**named, "source": "estimated", "layers": None}
        total = self.estimate.us_per_run
        rows = [{**to_json(row), "share": row.us / total} for row in self.estimate.layers]
        latency = to_json(self.estimate.per_output_slice(self.slices_per_run))
        return {**named, "board": self.estimate.board, **latency, "interval_us_per_run": self.estimate.interval_us,
                "layers": rows}  # fmt: skip


def estimate_bundle(bundle: Bundle | str | os.PathLike[str]) -> tuple[ArtefactEstimate, ...]:
    """Estimate every artefact of the rknn engine, with the board profile of its target.

    Args:
        bundle: A folder, a zip file, or a bundle that is open (and stays open).

    Returns:
        One estimate per artefact, in the manifest's order; none for a bundle without such artefacts.

    Raises:
        BundleError: When the bundle cannot be opened, a target is no board with an NPU, or a layer table is not one.
    """
    with nullcontext(bundle) if isinstance(bundle, Bundle) else open_bundle(bundle) as opened:
        return tuple(
            _estimate(opened, name, artefact, network.input.packing.outputs)
            for name, network in opened.manifest.networks.items()
            for artefact in network.artefacts
            if artefact.engine == "rknn"
        )


def _estimate(bundle: Bundle, network: str, artefact: Artefact, slices_per_run: int) -> ArtefactEstimate:
    record = artefact.layer_table
    if record is None:
        return ArtefactEstimate(network, artefact, slices_per_run, None)
    with _refused(bundle, record):
        layers = _read_layers(bundle, record)
        estimated = estimate(layers, get_board(artefact.target))
    return ArtefactEstimate(network, artefact, slices_per_run, estimated)


@contextmanager
def _refused(bundle: Bundle, record: FileRecord) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError, InputError) as error:
        reason = error.message if isinstance(error, InputError) else str(error)
        raise BundleError(f"{record.file}: {reason}", source=bundle.source, hint=_HINT) from None


def _read_layers(bundle: Bundle, record: FileRecord) -> tuple[LayerRecord, ...]:
    if record.size > _MAX_TABLE_BYTES:
        raise ValueError(f"has {record.size} bytes, a layer table has at most {_MAX_TABLE_BYTES}")
    content = bundle.path(record).read_bytes()
    data = parse_json(content)
    if not isinstance(data, list):
        raise ValueError("is not a list of layers")
    layers = tuple(from_json(LayerRecord, row, where=f"layer {place}") for place, row in enumerate(data, start=1))
    for place, layer in enumerate(layers, start=1):
        _check(layer, place)
    return layers


def _check(layer: LayerRecord, place: int) -> None:
    """Refuse what no compiler writes, and what arithmetic or a terminal could stumble over."""
    if layer.index != place:
        raise ValueError(f"layer {place} has the index {layer.index}")
    for text in (layer.operator, layer.dtype, layer.target, layer.name):
        if len(text) > _MAX_NAME or not (text.isascii() and text.isprintable()):
            raise ValueError(f"layer {place} has a name that is no plain text")
    shapes = (*layer.input_shapes, layer.output_shape)
    if any(len(shape) > _MAX_RANK for shape in shapes):
        raise ValueError(f"layer {place} has a shape of more than {_MAX_RANK} axes")
    axes = (axis for shape in shapes for axis in shape)
    numbers = (*axes, layer.ddr_cycles, layer.npu_cycles, layer.total_cycles, layer.traffic_kib)
    if not all(0 <= number <= _MAX_NUMBER for number in numbers):
        raise ValueError(f"layer {place} has a number that is not in 0..{_MAX_NUMBER}")
