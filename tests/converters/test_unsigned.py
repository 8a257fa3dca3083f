"""int8 that no processor gets wrong: what an x86 kernel without VNNI does to signed weights, and to unsigned ones.

The kernel is emulated after Intel's description of ``vpmaddubsw``, so that these tests say the same on every machine.
"""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import nn

from edgelung.converters.models import ModelGeometry
from edgelung.converters.targets.onnx_int8 import _Reader, quantise_onnx
from edgelung.converters.targets.onnxruntime import export_onnx
from edgelung.converters.targets.unsigned import (
    largest_pair_sum,
    make_unsigned,
    overflowing_operators,
    write_unsigned,
)
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.errors import ConversionError

PLANE = 24


def cbr(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(16, 32, 3, padding=1)

    def forward(self, x):
        y = self.a(x)
        return torch.maximum(y[:, :16], y[:, 16:])


def depthwise():
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU())


def inputs(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.random((1, 3, PLANE, PLANE), dtype=np.float32) for _ in range(count)]


@pytest.fixture(scope="module", params=[Maxout, depthwise])
def float_file(request, tmp_path_factory):
    """A network of many positive activations, whose logits spread around 0."""
    torch.manual_seed(0)
    model = nn.Sequential(cbr(3, 16), request.param(), cbr(16, 16), nn.Conv2d(16, 1, 1)).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):  # weights of one sign add up, as in trained networks that people brought
                layer.weight.add_(layer.weight.abs().mean())
        logits = model(torch.from_numpy(inputs(1, seed=5)[0]))
        model[-1].weight.mul_(3 / logits.std())
        model[-1].bias.copy_((model[-1].bias - logits.median()) * 3 / logits.std())
    spec = nodule_segmentation_spec(PLANE, PLANE, ModelGeometry(3, 1, stride=1, receptive_radius=4))
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export_onnx(model, spec, path)
    return path


@pytest.fixture(scope="module")
def signed_file(float_file):
    """What onnxruntime's quantiser makes of it: int8 weights."""
    path = float_file.with_name("signed.onnx")
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    reader = _Reader("input", inputs(3))
    quantize_static(str(float_file), str(path), reader, quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return path


@pytest.fixture(scope="module")
def unsigned_file(float_file):
    path = float_file.with_name("unsigned.onnx")
    quantise_onnx(float_file, "input", inputs(3), path)
    return path


def run(path, tensor, optimised=True):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), settings).run(None, {"input": tensor})[0]


def windows(x, kernel):
    """Rows that a padded convolution of stride 1 reads: (height * width, C, kh, kw)."""
    reach = kernel // 2
    padded = np.pad(x[0], ((0, 0), (reach, reach), (reach, reach)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    return view.transpose(1, 2, 0, 3, 4).reshape(-1, x.shape[1], kernel, kernel)


def without_vnni(path, tensor):
    """The output of a QDQ file on an x86 processor without VNNI: pairs of products are added in 16 bits if signed."""
    model = onnx.load(path)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    values = {**constants, "input": tensor}
    for node in model.graph.node:
        read = [makers.get(name) for name in node.input[:2]]
        if node.op_type == "Conv" and all(maker is not None and maker.op_type == "DequantizeLinear" for maker in read):
            values[node.output[0]] = convolve(node, *([values[name] for name in maker.input] for maker in read), values)
        else:
            results = ReferenceEvaluator(node).run(None, {name: values[name] for name in node.input if name})
            values.update(zip(node.output, results, strict=True))
    return values["output"]


def convolve(node, activation, weight, values):
    (q, scale, zero), (w, w_scale, w_zero) = activation, weight
    signed_weight = w.dtype == np.int8
    shift = 128 if q.dtype == np.int8 else 0  # onnxruntime makes activations unsigned itself
    q, zero = q.astype(np.int64) + shift, int(zero) + shift
    group = next((item.i for item in node.attribute if item.name == "group"), 1)
    integers, zeros = w.astype(np.int64), np.broadcast_to(w_zero, len(w)).astype(np.int64)
    centred = q - zero
    exact = np.stack([
        np.einsum("nckl,ckl->n", windows(centred, w.shape[2])[:, slice_of(row, w, group)], integers[row] - zeros[row])
        for row in range(len(w))
    ])  # fmt: skip
    if signed_weight and group == 1:  # the depthwise kernel widens first
        rows = windows(q, w.shape[2])
        exact = exact + np.stack([lost_in_16_bits(rows, integers[row]) for row in range(len(w))])
    bias = values[node.input[2]] if len(node.input) > 2 else 0.0
    result = exact * (np.float64(scale) * np.broadcast_to(w_scale, len(w))[:, None]) + np.reshape(bias, (-1, 1))
    return result.reshape(1, len(w), *q.shape[2:]).astype(np.float32)


def slice_of(row, w, group):
    first = row // (len(w) // group) * w.shape[1]
    return slice(first, first + w.shape[1])


def lost_in_16_bits(rows, weight):
    """What saturation takes from each sum; channels lie next to each other, as in a kernel for NHWC."""
    products = (rows * weight).transpose(0, 2, 3, 1).reshape(len(rows), -1)
    pairs = np.pad(products, ((0, 0), (0, products.shape[1] % 2))).reshape(len(rows), -1, 2).sum(axis=2)
    return (np.clip(pairs, -(2**15), 2**15 - 1) - pairs).sum(axis=1)


def test_signed_weights_are_found_out_and_unsigned_ones_are_not(signed_file, unsigned_file):
    found = overflowing_operators(onnx.load(signed_file))
    assert len(found) >= 2 and all(row.startswith("Conv ") and "add up to" in row for row in found)
    assert overflowing_operators(onnx.load(unsigned_file)) == ()
    kinds = {tensor.data_type for tensor in onnx.load(unsigned_file).graph.initializer}
    assert TensorProto.INT8 not in kinds and TensorProto.UINT8 in kinds


def test_without_vnni_the_signed_file_is_wrong_and_the_unsigned_one_is_right(signed_file, unsigned_file):
    (tensor,) = inputs(1, seed=7)
    said = run(signed_file, tensor, optimised=False)
    assert np.abs(without_vnni(unsigned_file, tensor) - said).mean() < 0.02 * said.std()
    assert np.abs(without_vnni(signed_file, tensor) - said).mean() > 0.2 * said.std()


def test_the_two_files_hold_the_same_numbers(signed_file, unsigned_file):
    (tensor,) = inputs(1, seed=7)
    assert np.array_equal(run(signed_file, tensor, optimised=False), run(unsigned_file, tensor, optimised=False))


def test_this_processor_computes_what_the_unsigned_file_says(unsigned_file):
    (tensor,) = inputs(1, seed=7)
    said, found = run(unsigned_file, tensor, optimised=False), run(unsigned_file, tensor)
    assert np.abs(found - said).mean() < 0.02 * said.std()


UNDER_VALGRIND = """
import sys, numpy as np, onnxruntime
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path)
    np.save(path + ".npy", session.run(None, {"input": np.load(sys.argv[1])})[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind, a processor without VNNI, is not installed")
def test_onnxruntime_itself_without_vnni(signed_file, unsigned_file, tmp_path):
    """The real kernels: valgrind offers AVX2 and no VNNI, whatever the machine has."""
    (tensor,) = inputs(1, seed=7)
    np.save(tmp_path / "ct.npy", tensor)
    command = ["valgrind", "--tool=none", "-q", sys.executable, "-c", UNDER_VALGRIND, str(tmp_path / "ct.npy")]
    subprocess.run([*command, str(signed_file), str(unsigned_file)], check=True, capture_output=True, timeout=300)
    signed, unsigned = (np.load(f"{path}.npy") for path in (signed_file, unsigned_file))
    said = run(signed_file, tensor, optimised=False)
    assert np.abs(unsigned - said).mean() < 0.02 * said.std()
    assert np.abs(signed - said).mean() > 0.2 * said.std()


@pytest.mark.parametrize(
    ("weight", "axis", "expected"),
    [
        ([[64, 64, 1]], 0, (0, 128)),
        ([[64, 65, 1]], 0, (0, 129)),
        ([[127, -127, -2]], 0, (-129, 127)),
        ([[127], [127]], 0, (0, 127)),  # one tap an output channel: nothing to add
        ([[127, 100]], 1, (0, 127)),  # a transposed convolution: columns are output channels
        ([[-128, -128]], 0, (-256, 0)),
    ],
)
def test_the_largest_pair(weight, axis, expected):
    assert largest_pair_sum(np.array(weight, np.int8), axis) == expected


def one_operator(kind="Conv", *, weight=((100, 100),), zero_point=True, transposed=False):
    """``ct`` (1, C, 4, 4) or (1, C) through one quantised operator."""
    weight = np.array(weight, np.int8)
    shape, weight = (
        ([1, weight.shape[1], 4, 4], weight[..., None, None]) if "Conv" in kind else ([1, len(weight)], weight)
    )
    points = ["z"] if zero_point else []
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", *points], ["wd"]),
        helper.make_node(kind, ["d", "wd"], ["y"], **({"transB": 1} if transposed else {})),
    ]
    tensors = [("w", weight), ("s", np.float32(0.01)), ("z", np.int8(0))]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(weight), *shape[2:]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors],
        value_info=[helper.make_tensor_value_info("q", TensorProto.INT8, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Gemm"])
@pytest.mark.parametrize("zero_point", [True, False])
def test_every_operator_with_integer_kernels_is_looked_at_and_keeps_its_numbers(kind, zero_point):
    model = one_operator(kind, weight=((100, 100), (100, 100)), zero_point=zero_point)
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    tensor = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    before = run_bytes(model, tensor)
    assert overflowing_operators(model)[0].startswith(kind)
    make_unsigned(model)
    onnx.checker.check_model(model, full_check=True)
    assert overflowing_operators(model) == ()
    assert np.array_equal(run_bytes(model, tensor), before)


def run_bytes(model, tensor):
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), settings).run(None, {"input": tensor})[0]


def test_small_weights_cannot_overflow_even_when_signed():
    assert overflowing_operators(one_operator(weight=((64, 64),))) == ()
    assert overflowing_operators(one_operator("Gemm", weight=((64, 65), (0, 0)), transposed=True)) != ()
    assert overflowing_operators(one_operator("Gemm", weight=((64, 65), (0, 0)))) == ()


def test_an_operator_that_computes_on_integers_itself_is_refused(tmp_path):
    model = one_operator()
    model.graph.node.append(helper.make_node("ConvInteger", ["q", "w"], ["z_out"]))
    with pytest.raises(ConversionError, match=r"ConvInteger .*computes on integers itself"):
        write_unsigned(model, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
