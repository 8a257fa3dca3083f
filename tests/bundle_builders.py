"""Small bundles for tests, built with onnx alone: a network that finds what is brighter than -300 HU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgelung.bundle import (
    Artefact,
    BundleWriter,
    Golden,
    LatencyRecord,
    LayerCounts,
    Manifest,
    NetworkRecord,
    PipelineRecord,
    Provenance,
)
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, NetworkOutput, SlicePacking, TensorSpec
from edgelung.volume import CtVolume

AXIAL = np.eye(3)[:, ::-1]


def axial_volume(hu, spacing_mm=(1.5, 0.7, 0.7), origin_mm=(-50.0, -60.0, -70.0)) -> CtVolume:
    """Depth to superior, height to posterior, width to the left."""
    return CtVolume(np.asarray(hu), spacing_mm, origin_mm, AXIAL)


def network_input(slices=(1, 1, 1), plane=(64, 64), **rule) -> NetworkInput:
    """Input of the test network: (before, outputs, after) slices of a plane."""
    packing = SlicePacking(*slices)
    return NetworkInput(
        TensorSpec("slices", (1, packing.slices, *plane)),
        IntensityRule((-1000.0, 1000.0), scale=0.01, offset=0.5),
        packing,
        InPlaneRule(**{"halo_px": 8, "align_px": 4, **rule}),
    )


def bright_model(spec: NetworkInput, quantity: str) -> onnx.ModelProto:
    """3x3 mean of each answered slice, as logit of `mean HU > -300`."""
    packing = spec.packing
    weight = np.zeros((packing.outputs, packing.slices, 3, 3), dtype=np.float32)
    for output in range(packing.outputs):
        weight[output, packing.before + output] = 1 / 9 / spec.intensity.scale * 0.02
    bias = np.full(packing.outputs, 0.02 * 300 - 0.02 * spec.intensity.offset / spec.intensity.scale, dtype=np.float32)
    nodes = [helper.make_node("Conv", ["slices", "w", "b"], ["logit"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    if quantity == "probability":
        nodes.append(helper.make_node("Sigmoid", ["logit"], ["probability"]))
    shape = [1, packing.outputs, *spec.tensor.plane]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, spec.tensor.shape)],
        [helper.make_tensor_value_info(quantity, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bright_output(stack: np.ndarray, spec: NetworkInput, quantity: str = "probability") -> np.ndarray:
    """What the test network answers to (slices, height, width) HU, in numpy."""
    values = np.clip(stack, *spec.intensity.clip_hu).astype(np.float64) * spec.intensity.scale + spec.intensity.offset
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    height, width = stack.shape[1:]
    mean = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    first = spec.packing.before
    mean = mean[first : first + spec.packing.outputs]
    logit = 0.02 * ((mean - spec.intensity.offset) / spec.intensity.scale + 300)
    return (1 / (1 + np.exp(-logit)) if quantity == "probability" else logit).astype(np.float32)


def make_bundle(path: Path, spec: NetworkInput | None = None, *, quantity="probability", overwrite=False) -> Path:
    """Write a complete bundle with the test network `bright`."""
    spec = spec or network_input()
    random = np.random.default_rng(1)
    stack = random.integers(-1100, 300, size=(spec.packing.slices, *spec.tensor.plane)).astype(np.int16)
    with BundleWriter(path, overwrite=overwrite) as writer:
        name = "networks/bright/onnxruntime-fp32.onnx"
        writer.stage_file(name).write_bytes(bright_model(spec, quantity).SerializeToString())
        model = writer.add_staged(name)
        golden = Golden(
            writer.add_array("golden/bright/input-0.npy", stack),
            writer.add_array("golden/bright/output-0.npy", bright_output(stack, spec, quantity)[np.newaxis]),
            origin="seeded noise",
        )
        writer.finish(_manifest(spec, quantity, model, golden))
    return path


def npu_record(file, target="rk3588", layers=2):
    """The manifest's record of an .rknn file: all but ``file``, ``sha256`` and ``size`` made up."""
    return {
        **file,
        "target": target,
        "engine": "rknn",
        "platforms": ["rk3588"],
        "precision": "fp16",
        "golden_tolerance": 0.01,
        "weight_memory_kib": 0.1,
        "model_size_kib": file["size"] / 1024,
        "layers": {"total": layers, "npu": layers, "cpu": 0, "float16": layers, "convert": 0},
        "latency": {
            "us": 900.0,
            "us_per_run": 900.0,
            "slices_per_run": 1,
            "interval_us": [800.0, 1000.0],
            "source": "estimated",
            "board": target,
        },
    }


def _manifest(spec, quantity, model, golden) -> Manifest:
    artefact = Artefact(
        model.file,
        model.sha256,
        model.size,
        target="onnxruntime",
        engine="onnxruntime",
        platforms=("any",),
        precision="fp32",
        golden_tolerance=1e-4,
        weight_memory_kib=28 * 4 / 1024,
        model_size_kib=model.size / 1024,
        layers=LayerCounts(total=2, npu=0, cpu=2, float16=0, convert=0),
        latency=LatencyRecord(
            900.0, 900.0 * spec.packing.outputs, spec.packing.outputs, (800.0, 1000.0), "host", "host"
        ),
    )
    output = NetworkOutput(TensorSpec(quantity, (1, spec.packing.outputs, *spec.tensor.plane)), quantity)
    network = NetworkRecord("nodule-segmentation", "bright", 28, spec, output, (artefact,), (golden,))
    thresholds = {"mask_probability": 0.5, "min_diameter_mm": 2.0}
    pipeline = PipelineRecord("ct-nodule-segmentation", {"segmentation": "bright"}, thresholds)
    return Manifest({"bright": network}, pipeline, Provenance("0" * 64, "built in a test"), {"edgelung": "test"})
