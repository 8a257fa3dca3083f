"""Test bundles with compiled networks and their layer tables."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bundle_builders import make_bundle, npu_record

from edgelung._codec import to_json
from edgelung.boards import LayerRecord

PLANE = (1, 1, 64, 64)
LAYERS = (
    LayerRecord(1, "InputOperator", "FLOAT16", "CPU", (), PLANE, 0, 0, 0, 0.0, "slices"),
    LayerRecord(2, "ConvSigmoid", "FLOAT16", "NPU", (PLANE, (1, 1, 3, 3), (1,)), PLANE, 6681, 36864, 36864, 26.0, "/a"),
    LayerRecord(3, "OutputOperator", "FLOAT16", "CPU", (PLANE,), (), 0, 0, 0, 0.0, "probability"),
)


def layer_rows(layers=LAYERS):
    """The layers as the file of a bundle holds them."""
    return to_json(list(layers))


def make_npu_bundle(folder: Path, *, targets=("rk3588s",), content=b"compiled", table=None, **options) -> Path:
    """A bundle whose network is also compiled for boards.

    Args:
        folder: Of the bundle.
        targets: Boards; one artefact each.
        content: Of the compiled files.
        table: Of the layer table: data for JSON, or bytes; None for no table.
        options: As for ``make_bundle``.
    """
    make_bundle(folder, **options)
    manifest = json.loads((folder / "manifest.json").read_text())
    (network,) = manifest["networks"].values()
    for target in targets:
        artefact = npu_record(_file(folder, f"networks/bright/{target}-fp16.rknn", content), target, layers=1)
        if table is not None:
            written = table if isinstance(table, bytes) else json.dumps(table).encode()
            artefact["layer_table"] = _file(folder, f"networks/bright/{target}-fp16.layers.json", written)
        network["artefacts"].append(artefact)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _file(folder: Path, name: str, content: bytes) -> dict:
    (folder / name).write_bytes(content)
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
