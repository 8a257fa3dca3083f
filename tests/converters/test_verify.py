"""Agreement of outputs: what is equal passes, and what only looks alike does not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from edgelung.converters.verify import (
    FP32_LIMIT,
    FP32_RELATIVE_LIMIT,
    Agreement,
    compare_outputs,
    onnx_function,
    verify_onnx,
)
from edgelung.errors import BackendError, ConversionError, InputError, VerificationError


def masks(seed=0):
    """Sparse probability maps, as a segmentation network gives them: mostly 0, a nodule or two near 1."""
    noise = np.random.default_rng(seed)
    maps = noise.random((3, 1, 4, 32, 32)) * 0.01
    for index, (slice_, row) in enumerate(((0, 5), (2, 20), (3, 11))):
        maps[index, 0, slice_, row : row + 5, 8:13] = 0.9
    return list(maps.astype(np.float32))


def logits():
    return [np.random.default_rng(1).normal(-5, 20, (1, 4, 32, 32)).astype(np.float32)]


def test_the_numbers_by_hand():
    agreement = compare_outputs([np.array([0.0, 1.0])], [np.array([0.1, 0.9])])
    assert agreement == Agreement(pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.5), 1)


def test_equal_outputs_agree_and_rounding_is_let_pass():
    reference = masks()
    assert compare_outputs(reference, reference).max_abs == 0
    noise = np.random.default_rng(2)
    rounded = [output + noise.normal(0, 1e-7, output.shape) for output in reference]
    compare_outputs(reference, rounded).require(1e-5)


WRONG = {
    "scaled": lambda x: [1.02 * output for output in x],
    "shifted": lambda x: [output + 0.01 for output in x],
    "zeroed": lambda x: [np.zeros_like(output) for output in x],
    "constant": lambda x: [np.full_like(output, np.mean(x)) for output in x],
    "one of many zeroed": lambda x: [np.zeros_like(x[0]), *x[1:]],
    "slices permuted": lambda x: [output[:, [1, 0, 3, 2]] for output in x],
    "mirrored": lambda x: [output[..., ::-1] for output in x],
    "moved by a pixel": lambda x: [np.roll(output, 1, axis=-1) for output in x],
    "inverted": lambda x: [1 - output for output in x],
}


@pytest.mark.parametrize("reference", [masks(), logits(), [x * 0.02 for x in masks()]], ids=["mask", "logit", "faint"])
@pytest.mark.parametrize("case", WRONG)
def test_what_only_looks_alike_does_not_pass(case, reference):
    agreement = compare_outputs(reference, WRONG[case](reference))
    with pytest.raises(VerificationError):
        agreement.require(FP32_LIMIT, FP32_RELATIVE_LIMIT)
    assert max(agreement.max_abs, agreement.relative_rms) >= 0.0099


def test_a_zeroed_output_fails_even_with_a_generous_limit():
    faint = [output * 0.02 for output in masks()]  # never above 0.02, so the absolute difference alone would pass
    agreement = compare_outputs(faint, WRONG["zeroed"](faint))
    assert agreement.max_abs < 0.05 and agreement.relative_rms >= 1
    with pytest.raises(VerificationError, match="relative to spread"):
        agreement.require(0.05)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_reference_without_spread_proves_nothing(value):
    flat = [np.full((1, 1, 8, 8), value)]
    with pytest.raises(VerificationError, match=r"spread of the reference.*with a nodule"):
        compare_outputs(flat, flat)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_never_agree(side, value):
    outputs = [masks(), masks()]
    outputs[side][1][0, 0, 0, 0] = value
    with pytest.raises(VerificationError, match="NaN or infinite"):
        compare_outputs(*outputs)


@pytest.mark.parametrize("candidate", [masks()[:2], [x[:, :, :16] for x in masks()], [x[0] for x in masks()]])
def test_shapes_are_never_broadcast(candidate):
    with pytest.raises(ConversionError, match="have the shapes"):
        compare_outputs(masks(), candidate)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(InputError, match="no outputs"):
        compare_outputs([], [])
    with pytest.raises(InputError, match="no inputs"):
        verify_onnx(lambda x: x, "unused.onnx", [])


def scaling_onnx(path, factor, inputs=1):
    """An ONNX file that multiplies its input."""
    names = [f"x{i}" for i in range(inputs)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])
    weight = helper.make_tensor("f", TensorProto.FLOAT, [1], [factor])
    graph = helper.make_graph([helper.make_node("Mul", ["x0", "f"], ["y"])], "g", values, [output], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Doubling(nn.Module):
    """Doubles in eval mode only; tells whether training mode was left alone."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.dropout(x * self.weight)


INPUTS = [np.random.default_rng(3).normal(size=(1, 2, 4, 4)).astype(np.float32) for _ in range(2)]


def test_a_network_against_its_file(tmp_path):
    path = scaling_onnx(tmp_path / "right.onnx", 2.0)
    model = Doubling().train()
    agreement = verify_onnx(model, path, INPUTS)
    assert agreement.max_abs < 1e-6 and agreement.samples == 2
    assert model.training and model.dropout.training
    assert verify_onnx(onnx_function(path), path, INPUTS).max_abs == 0
    with pytest.raises(VerificationError, match="largest difference"):
        verify_onnx(model, scaling_onnx(tmp_path / "wrong.onnx", 2.04), INPUTS)


def test_engine_and_network_failures_are_errors_of_ours(tmp_path):
    path = scaling_onnx(tmp_path / "right.onnx", 2.0)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(BackendError, match="open failed"):
        onnx_function(tmp_path / "broken.onnx")
    with pytest.raises(BackendError, match="open failed"):
        onnx_function(tmp_path / "missing.onnx")
    with pytest.raises(BackendError, match="2 inputs and 1 outputs"):
        onnx_function(scaling_onnx(tmp_path / "two.onnx", 2.0, inputs=2))
    with pytest.raises(BackendError, match="run failed"):
        onnx_function(path)(np.zeros((1, 3, 4, 4), dtype=np.float32))
    with pytest.raises(ConversionError, match="original network fails"):
        verify_onnx(nn.Conv2d(9, 1, 1), path, INPUTS)
