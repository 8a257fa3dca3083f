"""What the original says is judged by its spec before anything is made of it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgelung.converters.original import ask_original, judge_quantity
from edgelung.converters.record import ConversionRecord
from edgelung.converters.slabs import Slabs
from edgelung.converters.spec_file import NetworkSpec
from edgelung.converters.stages import export
from edgelung.converters.targets.onnxruntime import graph_of
from edgelung.converters.targets.output_range import output_range
from edgelung.converters.verify import torch_function
from edgelung.errors import ConversionError, InputError
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, NetworkOutput, SlicePacking, TensorSpec

PLANE = (16, 24)


def spec(quantity="logit"):
    return NetworkSpec(
        "nodule-segmentation",
        NetworkInput(
            TensorSpec("ct", (1, 3, *PLANE)),
            IntensityRule((-1000.0, 400.0), 1 / 1400, 1 / 1.4),
            SlicePacking(1, 1, 1),
            InPlaneRule(halo_px=4),
        ),
        NetworkOutput(TensorSpec("out", (1, 1, *PLANE)), quantity),
    )


class Ends(nn.Module):
    """A convolution of two channels, what a test makes of them, and what it remembers."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.mul_(20)
            self.conv.bias.zero_()
        self.end, self.seen = end, None

    def forward(self, x):
        y = self.conv(x - 0.5)
        return self.end(self, y[:, :1], y[:, 1:])


def slabs(count=2):
    random = np.random.default_rng(0)
    inputs = tuple(random.random((1, 3, *PLANE), dtype=np.float32) for _ in range(count))
    return Slabs(np.zeros((3, *PLANE), np.int16), inputs[0], inputs, (), "slabs", "", False)


def record(end, quantity="logit"):
    model = Ends(end).eval()
    return ConversionRecord("n", "own", spec(quantity), torch_function(model), quantity, "", "torch", 1, model=model)


BOTH, PROBABILITY, LOGIT, NEITHER = ("probability", "logit"), ("probability",), ("logit",), ()


@pytest.mark.parametrize(
    ("end", "right"),
    [
        (lambda net, a, b: a, LOGIT),
        (lambda net, a, b: b - a, LOGIT),
        (lambda net, a, b: a.clamp(-10, 10), LOGIT),
        (lambda net, a, b: F.leaky_relu(a), LOGIT),
        (lambda net, a, b: torch.sigmoid(a), PROBABILITY),
        (lambda net, a, b: a.sigmoid().squeeze().reshape(a.shape), PROBABILITY),
        (lambda net, a, b: nn.Sequential(nn.Sigmoid(), nn.Identity(), nn.Dropout(0.5)).eval()(a), PROBABILITY),
        (lambda net, a, b: 1 - torch.sigmoid(a), PROBABILITY),
        (lambda net, a, b: torch.cat([a, b], 1).softmax(1)[:, 1:], PROBABILITY),
        (lambda net, a, b: F.hardsigmoid(a), PROBABILITY),
        (lambda net, a, b: a.clamp(0, 1), PROBABILITY),
        (lambda net, a, b: (torch.tanh(a) + 1) / 2, PROBABILITY),
        (lambda net, a, b: F.interpolate(F.avg_pool2d(a.sigmoid(), 2), scale_factor=2, mode="bilinear"), PROBABILITY),
        (lambda net, a, b: torch.maximum(a.sigmoid(), b.sigmoid()), PROBABILITY),
        (lambda net, a, b: torch.tanh(a), NEITHER),
        (lambda net, a, b: torch.relu(a), NEITHER),
        (lambda net, a, b: F.relu6(a), NEITHER),
        (lambda net, a, b: F.logsigmoid(a), NEITHER),
        (lambda net, a, b: torch.cat([a, b], 1).log_softmax(1)[:, 1:], NEITHER),
        (lambda net, a, b: 2 * a.sigmoid(), NEITHER),
    ],
)
def test_the_unit_is_the_one_of_the_spec_or_refused(end, right):
    for quantity in BOTH:
        notes = []
        if quantity in right:
            assert len(ask_original(record(end, quantity), slabs(), notes.append)) == 2
            assert notes == []
            continue
        with pytest.raises(InputError, match=r"output.quantity: the network gives .* \(it ends in \w+\)") as caught:
            ask_original(record(end, quantity), slabs(), notes.append)
        assert caught.value.field == "output.quantity" and caught.value.hint


def test_what_nothing_proves_is_told():
    notes = []
    low = lambda net, a, b: 0.3 + 0.001 * a  # noqa: E731
    ask_original(record(low, "probability"), slabs(), notes.append)
    ask_original(record(low, "logit"), slabs(), notes.append)
    ask_original(record(lambda net, a, b: a.sigmoid().sigmoid(), "probability"), slabs(), notes.append)
    first, second, third = notes
    assert "are taken for probabilities, though it ends in Add" in first
    assert "are these logits?" in second and "a sigmoid applied twice" in third


def test_a_value_that_is_not_finite_is_no_output():
    bounds = output_range(graph_of(Ends(lambda net, a, b: a).eval(), spec())[0])
    with pytest.raises(ConversionError, match="NaN or infinity"):
        judge_quantity((np.full((1, 1, *PLANE), np.nan, np.float32),), bounds, "logit")


def left_out_at_times(net, a, b):
    return a + b if torch.rand(1) > 0.5 else a


def remembering(net, a, b):
    net.seen, before = a, net.seen
    return a if before is None else a + before


@pytest.mark.parametrize(
    "end",
    [
        lambda net, a, b: F.dropout(a, 0.3),
        lambda net, a, b: F.dropout2d(torch.cat([a, b], 1), 0.5)[:, :1],
        lambda net, a, b: a + 0.1 * torch.randn_like(a),
        lambda net, a, b: a + float(np.random.rand()),
        left_out_at_times,
        remembering,
    ],
)
def test_another_answer_each_time_is_refused(end):
    with pytest.raises(ConversionError, match=r"another answer to the same input.*training=self.training"):
        ask_original(record(end), slabs())


def test_an_operator_without_an_onnx_form_is_named_in_one_line(capfd):
    with pytest.raises(
        ConversionError, match=r"^export: torch's aten::median has no ONNX form in opset 17; "
    ) as caught:
        ask_original(record(lambda net, a, b: a - a.median()), slabs())
    assert "\n" not in str(caught.value) and "graph(" not in "".join(capfd.readouterr())


def by_values(net, a, b):
    return a if a[..., :8].mean() > a[..., 8:].mean() else b


def by_shape(net, a, b):
    return a if a.shape[-1] % 2 else b


def test_a_choice_by_values_is_refused_and_one_by_the_shape_is_told(tmp_path):
    data, notes = slabs(), []
    with pytest.raises(ConversionError, match=r"became fixed in the graph: .* \(test_original.py:\d+\); .*torch.where"):
        export(record(by_values), data.golden, tmp_path / "a.onnx", others=data.verify, note=notes.append)
    export(record(by_shape), data.golden, tmp_path / "b.onnx", others=data.verify, note=notes.append)
    (note,) = notes
    assert "torch froze what it saw once" in note and "test_original.py:" in note


def test_an_input_that_is_changed_in_place_stays_the_same_for_others():
    slab = slabs(1).golden - 0.5
    before = slab.copy()
    torch_function(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 1, 1)).eval())(slab)
    assert np.array_equal(slab, before)


@pytest.mark.parametrize(
    "pad",
    [
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.CircularPad2d(1),
        nn.ZeroPad2d(1),
        nn.ConstantPad2d(1, 0.5),
        "reflect",
        "replicate",
        "circular",
    ],
)
def test_every_padding_is_exported(tmp_path, pad):
    if isinstance(pad, str):
        layers = nn.Conv2d(3, 1, 3, padding=1, padding_mode=pad)
    else:
        layers = nn.Sequential(pad, nn.Conv2d(3, 1, 3))
    model = layers.eval()
    slab = slabs(1).golden
    own = ConversionRecord("n", "own", spec(), torch_function(model), "logit", "", "torch", 1, model=model)
    _, file = export(own, slab, tmp_path / "padded.onnx")
    assert set(file.operators) <= {"Pad", "Conv", "Slice", "Concat", "Constant"}
