"""The exported graph: quantised throughout, computed alike by onnxruntime, and mistakes that the check must find."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from quantisation.small_networks import SIZE, batches, float_unet, unet_spec

from edgelung.converters.quantisation import (
    ONNXRUNTIME_RULES,
    RK3588_RULES,
    calibrate,
    check_qdq,
    export_qdq,
    freeze_observers,
    prepare_qat,
    to_exportable,
)
from edgelung.converters.targets.unsigned import write_unsigned
from edgelung.converters.verify import onnx_function
from edgelung.errors import ConversionError, InputError


@pytest.fixture(scope="module")
def network():
    prepared = prepare_qat(float_unet(), RK3588_RULES)
    calibrate(prepared, batches())
    freeze_observers(prepared)
    return prepared.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    return export_qdq(network, unet_spec(), tmp_path_factory.mktemp("qdq") / "unet.onnx", RK3588_RULES)


def test_the_file_is_quantised_throughout(exported):
    counts = check_qdq(exported.path, RK3588_RULES)
    assert counts.operators == {"Conv": 7, "Relu": 6, "ConvTranspose": 1, "AveragePool": 1, "Concat": 1}
    assert exported.opset == 13
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(exported.path).graph.initializer}
    for suffix, kind in (("weight_int8", onnx.TensorProto.INT8), ("bias_int32", onnx.TensorProto.INT32)):
        assert sum(name.endswith(suffix) and dtype == kind for name, dtype in stored.items()) == 8
    assert not any(name.endswith((".weight", ".bias")) for name in stored)


def test_the_same_network_gives_the_same_bytes(network, exported, tmp_path):
    again = export_qdq(network, unet_spec(), tmp_path / "again.onnx", RK3588_RULES)
    assert again.sha256 == exported.sha256


@pytest.fixture(scope="module")
def on_host(exported, tmp_path_factory):
    """The same network in the form that bundles hold for onnxruntime."""
    return write_unsigned(onnx.load(exported.path), tmp_path_factory.mktemp("host") / "unet.onnx")


@pytest.mark.parametrize("optimised", [False, True])
def test_onnxruntime_computes_what_torch_does(network, on_host, optimised):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(on_host.path), settings)
    step, _ = network.get_submodule("activation_rounding.unet_last").parameters_now()
    off = []
    for x in batches(2, seed=9):
        with torch.no_grad():
            expected = to_exportable(network)(x[:1]).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: x[:1].numpy()})
        off.append(np.rint((found - expected) / step))
        assert expected.std() > 5 * step  # there is something to compare
    steps = np.abs(np.concatenate(off))
    assert steps.max() <= 2 and (steps > 0).mean() < 0.01


def kernels(path, folder):
    """Operators that onnxruntime makes of a graph."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), settings)
    kinds = [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]
    return {kind: kinds.count(kind) for kind in kinds if "Conv" in kind or kind.startswith("QLinear")}


def test_convolutions_are_integer_kernels_in_onnxruntime(on_host, tmp_path):
    # The seventh writes a ReLU into a range that goes below 0, for the concatenation: that stays float.
    others = {"QLinearAveragePool": 1, "QLinearConcat": 1, "ConvTranspose": 1}
    assert kernels(on_host.path, tmp_path) == {"QLinearConv": 6, "FusedConv": 1, **others}
    prepared = prepare_qat(float_unet(), ONNXRUNTIME_RULES)
    calibrate(prepared, batches())
    file = export_qdq(prepared, unet_spec(), tmp_path / "host.onnx", ONNXRUNTIME_RULES)
    unsigned = write_unsigned(onnx.load(file.path), tmp_path / "unsigned.onnx")
    assert kernels(unsigned.path, tmp_path) == {"QLinearConv": 7, **others}
    with pytest.raises(ConversionError, match=r"Concat .*do not have one range"):
        check_qdq(file.path, RK3588_RULES)


def edited(exported, tmp_path, change):
    model = onnx.load(exported.path)
    change(model.graph)
    del model.graph.value_info[:]
    path = tmp_path / "edited.onnx"
    onnx.save(model, path)
    return path


def find(graph, kind):
    return next(node for node in graph.node if node.op_type == kind)


def maker(graph, name):
    return next(node for node in graph.node if name in node.output)


def constant(graph, name):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def weight_of(graph, kind):
    return maker(graph, find(graph, kind).input[1])


def wrong_axis(graph):
    dequantise = weight_of(graph, "ConvTranspose")
    count = constant(graph, dequantise.input[0]).dims[0]
    for name, array in (("s", np.full(count, 0.01, np.float32)), ("z", np.zeros(count, np.int8))):
        graph.initializer.append(numpy_helper.from_array(array, name))
    dequantise.input[1], dequantise.input[2] = "s", "z"
    next(attribute for attribute in dequantise.attribute if attribute.name == "axis").i = 0


def one_scale(graph):
    dequantise = weight_of(graph, "Conv")
    for name, array in (("s", np.array(0.01, np.float32)), ("z", np.array(0, np.int8))):
        graph.initializer.append(numpy_helper.from_array(array, name))
    dequantise.input[1], dequantise.input[2] = "s", "z"


def float_weight(graph):
    conv = find(graph, "ConvTranspose")
    shape = constant(graph, weight_of(graph, "ConvTranspose").input[0]).dims
    graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), "w"))
    conv.input[1] = "w"


def unshared(graph):
    """One branch of the concatenation gets a range of its own."""
    dequantise = maker(graph, find(graph, "Concat").input[0])
    quantise = maker(graph, dequantise.input[0])
    graph.initializer.append(numpy_helper.from_array(np.array(0.123, np.float32), "other"))
    dequantise.input[1] = quantise.input[1] = "other"


def unshared_pool(graph):
    pooled = find(graph, "AveragePool").output[0]
    quantise = next(node for node in graph.node if pooled in node.input)
    dequantise = next(node for node in graph.node if quantise.output[0] in node.input)
    graph.initializer.append(numpy_helper.from_array(np.array(0.123, np.float32), "other"))
    dequantise.input[1] = quantise.input[1] = "other"


def rescaled(graph):
    """Written in one step, read in another: the pair of operators would be a factor."""
    dequantise = maker(graph, find(graph, "AveragePool").input[0])
    graph.initializer.append(numpy_helper.from_array(np.array(0.123, np.float32), "other"))
    dequantise.input[1] = "other"


def skipped_output(graph):
    """The pooled map goes on in float."""
    pooled = find(graph, "AveragePool").output[0]
    quantise = next(node for node in graph.node if pooled in node.input)
    dequantise = next(node for node in graph.node if quantise.output[0] in node.input)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == dequantise.output[0]:
                node.input[place] = pooled
    graph.node.remove(quantise)
    graph.node.remove(dequantise)


def float_input(graph):
    first = find(graph, "QuantizeLinear")
    dequantise = next(node for node in graph.node if first.output[0] in node.input)
    conv = next(node for node in graph.node if dequantise.output[0] in node.input)
    conv.input[0] = graph.input[0].name
    graph.node.remove(dequantise)
    graph.node.remove(first)


def unsigned(graph):
    first = find(graph, "QuantizeLinear")
    dequantise = next(node for node in graph.node if first.output[0] in node.input)
    graph.initializer.append(numpy_helper.from_array(np.array(128, np.uint8), "u"))
    first.input[2] = dequantise.input[2] = "u"


def float_island(graph):
    last = graph.node[-1]
    last.output[0], name = "before", last.output[0]
    graph.node.append(helper.make_node("Sigmoid", ["before"], [name], name="island"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_axis, r"ConvTranspose .*weight is quantised along axis 0, its output channels are on axis 1"),
        (one_scale, r"Conv .*weight is quantised along axis -1"),
        (float_weight, r"ConvTranspose .*its weight is not quantised"),
        (unshared, r"Concat .*do not have one range"),
        (unshared_pool, r"AveragePool .*do not have one range"),
        (rescaled, r"AveragePool .*an input is not quantised"),
        (skipped_output, r"AveragePool .*its output is not quantised"),
        (float_input, r"Conv .*an input is not quantised"),
        (unsigned, r"Conv .*an input is not quantised per tensor in int8"),
        (float_island, r"Sigmoid island: the rules know no Sigmoid"),
    ],
)
def test_mistakes_are_found_and_named(exported, tmp_path, change, reason):
    with pytest.raises(ConversionError, match=reason):
        check_qdq(edited(exported, tmp_path, change), RK3588_RULES)


def test_an_unchanged_copy_is_accepted(exported, tmp_path):
    check_qdq(edited(exported, tmp_path, lambda graph: None), RK3588_RULES)


def test_a_hostile_file_is_an_input_error(tmp_path):
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"\x08\x07junk" * 100)
    with pytest.raises(InputError):
        check_qdq(path, RK3588_RULES)


def test_a_weight_rounded_along_the_wrong_axis_leaves_no_file(network, tmp_path):
    wrong = copy.deepcopy(network)
    up = wrong.get_submodule("unet.up_path.0.up")
    up.bias, up.weight_rounding.axis = None, 0
    with pytest.raises(ConversionError, match=r"ConvTranspose .*along axis 0"):
        export_qdq(wrong, unet_spec(), tmp_path / "wrong.onnx", RK3588_RULES)
    assert list(tmp_path.iterdir()) == []


def test_a_float_network_leaves_no_file(tmp_path):
    with pytest.raises(ConversionError, match="not quantised"):
        export_qdq(float_unet(), unet_spec(), tmp_path / "float.onnx", RK3588_RULES)
    assert list(tmp_path.iterdir()) == []


def test_the_file_answers_in_its_own_shape(exported):
    x = batches(1)[0][:1].numpy()
    assert onnx_function(exported.path)(x).shape == (1, 1, SIZE, SIZE)
