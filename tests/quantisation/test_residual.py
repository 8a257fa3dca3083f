"""A residual U-Net under quantisation-aware training: where it rounds, and what engines make of its file."""

import importlib.util
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from quantisation.residual_networks import EXAMPLES, PLANE, residual_spec, residual_unet
from torch import nn

from edgelung.converters.architecture import load_factory
from edgelung.converters.passes import restructure
from edgelung.converters.quantisation import (
    ONNXRUNTIME_RULES,
    RK3588_RULES,
    calibrate,
    check_qdq,
    export_qdq,
    fake_quantise,
    freeze_observers,
    prepare_qat,
    to_exportable,
)
from edgelung.converters.quantisation.fake_quantise import FakeQuantise, weight_scales
from edgelung.converters.spec_file import read_spec
from edgelung.errors import ConversionError


def inputs(count, seed=0, size=PLANE):
    """(1, 3, size, size) float32 in 0..1 each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, 3, size, size, generator=generator) for _ in range(count)]


def prepared(down="pool", rules=RK3588_RULES):
    plain = restructure(residual_unet(down=down), inputs(1, size=32)[0]).model
    network = prepare_qat(plain, rules)
    calibrate(network, inputs(2))
    freeze_observers(network)
    return network.eval()


@pytest.fixture(scope="module", params=["pool", "convolution"])
def network(request):
    return prepared(request.param)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    return export_qdq(network, residual_spec(), tmp_path_factory.mktemp("qdq") / "residual.onnx", RK3588_RULES)


def unrounded(network):
    return {name for name, module in network.named_modules() if isinstance(module, FakeQuantise) and not module.rounds}


def test_the_first_convolution_that_an_addition_reads_is_not_rounded(network):
    blocks = {"level0": "shortcut_0", "level1": "shortcut_0", "level2_0": "shortcut_0", "level2_1": "second_0"}
    blocks |= {"up1": "shortcut_0", "up0": "shortcut_0"}
    assert unrounded(network) == {f"activation_rounding.{block}_{name}" for block, name in blocks.items()}
    assert unrounded(prepared(rules=ONNXRUNTIME_RULES)) == set()


def test_resizing_keeps_the_range_that_concatenation_joins(network):
    ranges = [
        (node.args[0].name, str(node.target))
        for node in network.graph.nodes
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), FakeQuantise)
    ]
    own = dict(ranges)
    assert own["upsample"] == own["cat"] == own["level2_1_relu_1"]
    assert own["upsample_1"] == own["cat_1"] == own["up1_relu_1"]
    assert own["cat"] != own["cat_1"]


def test_the_file_is_quantised_throughout(network, exported):
    counts = check_qdq(exported.path, RK3588_RULES).operators
    assert (counts["Add"], counts["Resize"], counts["Concat"]) == (6, 2, 2)
    assert counts.get("MaxPool", 0) == (2 if counts["Conv"] == 18 else 0)
    assert unrounded(network)  # the export left the network as it was


def powers_of_two(monkeypatch):
    """Let all steps be powers of two: sums of products are exact in float32, in whichever order a processor adds."""

    def power(step):
        return 2.0 ** math.ceil(math.log2(step))

    def weights(weight, axis, limits):
        return torch.exp2(torch.ceil(torch.log2(weight_scales(weight, axis, limits))))

    monkeypatch.setattr(fake_quantise, "exact_step", power)
    monkeypatch.setattr(fake_quantise, "weight_scales", weights)


@pytest.mark.parametrize("down", ["pool", "convolution"])
def test_an_engine_that_takes_the_file_by_its_word_rounds_sums_once_more(down, monkeypatch, tmp_path):
    powers_of_two(monkeypatch)
    network = prepared(down)
    exported = export_qdq(network, residual_spec(), tmp_path / "residual.onnx", RK3588_RULES)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(exported.path), settings)
    step, _ = network.get_submodule("activation_rounding.last").parameters_now()
    as_board, as_file = to_exportable(network), to_exportable(network)
    for module in as_file.modules():
        if isinstance(module, FakeQuantise):
            module.rounds = True
    (x,) = inputs(1, seed=9)
    (found,) = session.run(None, {"ct": x.numpy()})
    with torch.no_grad():
        word, board = (np.rint((found - side(x).numpy()) / step) for side in (as_file, as_board))
    assert (word != 0).mean() == 0
    assert (board != 0).mean() > 0.1 and abs(board).max() < 20  # the control: it is seen, and it is rounding


def test_a_resized_map_with_a_range_of_its_own_is_found(exported, tmp_path):
    model = onnx.load(exported.path)
    graph = model.graph
    resized = next(node for node in graph.node if node.op_type == "Resize").output[0]
    quantise = next(node for node in graph.node if resized in node.input)
    dequantise = next(node for node in graph.node if quantise.output[0] in node.input)
    graph.initializer.append(numpy_helper.from_array(np.array(0.123, np.float32), "other"))
    quantise.input[1] = dequantise.input[1] = "other"
    del graph.value_info[:]
    onnx.save(model, tmp_path / "edited.onnx")
    with pytest.raises(ConversionError, match=r"Resize .*do not have one range"):
        check_qdq(tmp_path / "edited.onnx", RK3588_RULES)


def test_training_goes_through_what_is_not_rounded():
    network = prepare_qat(restructure(residual_unet(width=4), inputs(1, size=32)[0]).model, RK3588_RULES)
    calibrate(network, inputs(2, size=32))
    network.train()
    seen = network.get_submodule("activation_rounding.level0_shortcut_0").batches.clone()
    network(inputs(1, seed=3, size=32)[0]).square().mean().backward()
    shortcut = network.get_submodule("level0.shortcut.0")
    assert isinstance(shortcut, nn.Conv2d) and float(shortcut.weight.grad.abs().sum()) > 0
    assert network.get_submodule("activation_rounding.level0_shortcut_0").batches == seen + 1


def test_the_other_example_is_taken_as_well():
    found = importlib.util.spec_from_file_location("own_network_of_the_examples", EXAMPLES / "own_network.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    x = torch.rand(1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    network = prepare_qat(restructure(module.build(), x).model, RK3588_RULES)
    calibrate(network, [x])
    assert len(unrounded(network)) == 5


@pytest.mark.parametrize("factory", ["build", "build_strided"])
def test_the_examples_spec_suits_both_factories(factory, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    spec = read_spec("residual_unet.toml")
    torch.manual_seed(0)
    model = load_factory(f"residual_unet:{factory}")().eval()
    seen = 0
    for pixel in (128, 129, 130, 131):  # places within the stride
        x = torch.rand(spec.input.tensor.shape, requires_grad=True)
        answer = model(x)
        assert tuple(answer.shape) == spec.output.tensor.shape
        answer[0, 0, pixel, pixel].backward()
        (rows,) = np.nonzero(x.grad.abs().sum((0, 1, 3)).numpy())
        seen = max(seen, pixel - rows[0], rows[-1] - pixel)
    assert 20 < seen < spec.input.in_plane.halo_px
