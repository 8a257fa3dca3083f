"""ONNX export and adoption: what is in the file, what is not, and what is refused."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from edgelung.converters.architecture import load_factory
from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.converters.spec_file import read_spec
from edgelung.converters.targets.onnxruntime import adopt_onnx, export_onnx
from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec
from edgelung.converters.verify import onnx_function, verify_onnx
from edgelung.errors import ConversionError, InputError

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEC = nodule_segmentation_spec(64, 64)


def network(seed=0, widths=None):
    """A network none of whose tensors is equal to another one, as after training."""
    torch.manual_seed(seed)
    model = UNetLuna(widths)
    for tensor in (*model.parameters(), *(buffer for buffer in model.buffers() if buffer.ndim)):
        tensor.data.add_(0.01 * torch.rand_like(tensor))
    model.unet.last.weight.data.mul_(10)  # probabilities that spread over 0..1
    return model


def slices(count=2):
    return [np.random.default_rng(i).uniform(-1, 1, (1, 7, 64, 64)).astype(np.float32) for i in range(count)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "unet.onnx"
    return export_onnx(network(), SPEC, path)


def test_the_file_computes_the_network(exported):
    assert verify_onnx(network(), exported.file.path, slices(), limit=1e-5).samples == 2


def test_the_report_tells_what_is_in_the_file(exported):
    model = onnx.load(exported.file.path)
    assert exported.file.opset == model.opset_import[0].version == 17
    assert exported.file.size_bytes == exported.file.path.stat().st_size
    assert exported.file.operators["Conv"] == 11 and exported.file.operators["ConvTranspose"] == 2
    assert sum(exported.file.operators.values()) == len(model.graph.node)
    assert exported.warnings == ()
    statistics = sum(buffer.numel() for buffer in network().buffers() if buffer.ndim)
    assert exported.file.parameters == 118_271 + statistics


@pytest.mark.parametrize("opset", [13, 19])
def test_every_opset_of_the_range_computes_the_network(tmp_path, opset):
    report = export_onnx(network(), SPEC, tmp_path / "unet.onnx", opset=opset)
    assert report.file.opset == opset
    verify_onnx(network(), report.file.path, slices(1), limit=1e-5)


@pytest.mark.parametrize("opset", [12, 20, 0])
def test_other_opsets_are_refused(tmp_path, opset):
    with pytest.raises(InputError, match=r"not one of 13\.\.19"):
        export_onnx(network(), SPEC, tmp_path / "unet.onnx", opset=opset)


def test_the_same_network_gives_the_same_bytes_in_another_process(exported, tmp_path):
    script = """
import sys
from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import UNetLuna
from edgelung.converters.targets.onnxruntime import export_onnx
from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec
model = UNetLuna()
apply_state(model, load_state_dict(sys.argv[1]).state, sys.argv[1])
sys.stdout.write(export_onnx(model, nodule_segmentation_spec(64, 64), sys.argv[2]).file.sha256)
"""
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    command = [sys.executable, "-c", script, str(tmp_path / "weights.pt"), str(tmp_path / "again.onnx")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == exported.file.sha256
    assert export_onnx(network(1), SPEC, tmp_path / "other.onnx").file.sha256 != exported.file.sha256


def test_the_file_tells_nothing_of_the_machine(exported):
    raw = exported.file.path.read_bytes()
    for trace in (b".py", b"torch", b"site-packages", str(Path.home()).encode(), str(Path.cwd()).encode(), b"onnxsim"):
        assert trace not in raw
    model = onnx.load_model_from_string(raw)
    assert model.producer_name == "edgelung" and not model.metadata_props and not model.doc_string


def test_the_network_is_left_as_it_was_and_nothing_is_said(tmp_path, capfd):
    model = network().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(model, SPEC, tmp_path / "unet.onnx")
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


class Choosing(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x[:, 3:4] if float(x.sum()) > 0 else x[:, :1])


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of slices")


def test_choices_that_depend_on_the_data_are_reported(tmp_path):
    report = export_onnx(Choosing(), SPEC, tmp_path / "choosing.onnx")
    assert any("Python" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Failing(), "cannot be traced: RuntimeError: out of slices"),
        (nn.Conv2d(8, 1, 1), "cannot be traced"),
        (nn.Conv2d(7, 2, 1), r"output has the shape \(1, 2, 64, 64\), in the spec \(1, 1, 64, 64\)"),
        (nn.Conv2d(7, 1, 3), r"output has the shape \(1, 1, 62, 62\)"),
        (nn.Conv2d(7, 1, 1).half(), "cannot be traced"),
        (nn.LSTM(64, 64), "cannot be traced|outputs"),
    ],
)
def test_networks_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, model, reason):
    with pytest.raises(ConversionError, match=reason) as caught:
        export_onnx(model, SPEC, tmp_path / "unet.onnx")
    assert caught.value.stage == "export" and caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path):
    with pytest.raises(ConversionError, match="cannot be written"):
        export_onnx(network(), SPEC, tmp_path / "missing" / "unet.onnx")


def test_the_example_of_an_own_network(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    spec = read_spec("own_network.toml")
    torch.manual_seed(0)
    model = load_factory("own_network:build")()
    report = export_onnx(model, spec, tmp_path / "own.onnx")
    assert "Resize" in report.file.operators and "BatchNormalization" not in report.file.operators
    inputs = [np.random.default_rng(0).random(spec.input.tensor.shape, dtype=np.float32)]
    verify_onnx(model, report.file.path, inputs, limit=1e-5)
    model.eval()  # BatchNorm of a training network sees everything
    x = torch.randn(spec.input.tensor.shape, requires_grad=True)
    model(x)[0, 0, 128, 128].backward()
    seen = np.flatnonzero(x.grad.abs().sum((0, 1, 3)).numpy())
    assert max(128 - seen[0], seen[-1] - 128) < spec.input.in_plane.halo_px


# Adoption


def ready(tmp_path, change=None, name="ready.onnx"):
    """A user's ONNX file, as torch or another tool may have written it."""
    path = tmp_path / name
    export_onnx(network(widths=UNetWidths.standard(7, 2, 2)), SPEC, path)
    model = onnx.load(path)
    model.producer_name, model.doc_string = "pytorch", "/home/someone/train.py"
    if change:
        change(model)
    onnx.save(model, path)
    return path


def test_a_ready_model_is_taken_over(tmp_path):
    def add_identity(model):
        model.graph.node[0].input[0] = "same"
        model.graph.node.insert(0, helper.make_node("Identity", ["input"], ["same"], doc_string="at /home/someone"))

    source = ready(tmp_path, add_identity)
    before = source.read_bytes()
    report = adopt_onnx(source, SPEC, tmp_path / "adopted.onnx")
    assert report.removed_nodes == 1 and "Identity" not in report.file.operators
    assert verify_onnx(onnx_function(source), report.file.path, slices(), limit=1e-5).samples == 2
    assert b"someone" not in report.file.path.read_bytes() and source.read_bytes() == before


def dynamic(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../../etc/passwd")


def second_output(model):
    model.graph.output.append(
        helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [1, 7, 64, 64])
    )


def custom_operator(model):
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[0].domain = "com.example"


def unsorted_nodes(model):
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("change", "spec", "reason"),
    [
        (
            None,
            nodule_segmentation_spec(128, 64),
            r"input has the shape \(1, 7, 64, 64\), in the spec \(1, 7, 128, 64\)",
        ),
        (
            None,
            replace(SPEC, input=replace(SPEC.input, tensor=replace(SPEC.input.tensor, name="ct"))),
            "called 'input'",
        ),
        (dynamic, SPEC, r"input has the shape \('batch', 7, 64, 64\).*overwrite-input-shape"),
        (second_output, SPEC, "2 outputs"),
        (external, SPEC, "weights in other files.*onnx.save"),
        (custom_operator, SPEC, "outside the ONNX standard.*com.example"),
        (unsorted_nodes, SPEC, "not a valid ONNX model"),
        (lambda m: setattr(m.opset_import[0], "version", 11), SPEC, r"opset 11, not 13\.\.19"),
        (lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"), SPEC, "not a valid ONNX model"),
    ],
)
def test_ready_models_that_are_refused(tmp_path, change, spec, reason):
    source = ready(tmp_path, change)
    with pytest.raises(InputError, match=reason) as caught:
        adopt_onnx(source, spec, tmp_path / "adopted.onnx")
    assert caught.value.source == str(source) and caught.value.hint
    assert not (tmp_path / "adopted.onnx").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "no ONNX model"),
        (b"hello, I am text", "no ONNX model"),
        (bytes(500), "no ONNX model"),
    ],
)
def test_files_that_are_no_onnx_model(tmp_path, content, reason):
    source = tmp_path / "model.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        adopt_onnx(source, SPEC, tmp_path / "adopted.onnx")


def test_a_truncated_model_and_a_folder(tmp_path):
    source = ready(tmp_path)
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cut short|not a valid"):
        adopt_onnx(source, SPEC, tmp_path / "adopted.onnx")
    with pytest.raises(InputError, match="is a folder"):
        adopt_onnx(tmp_path, SPEC, tmp_path / "adopted.onnx")


def test_a_large_file_is_not_even_read(tmp_path):
    source = tmp_path / "large.onnx"
    with source.open("wb") as stream:
        stream.truncate(2**29 + 1)
    with pytest.raises(InputError, match="larger than 512 MiB"):
        adopt_onnx(source, SPEC, tmp_path / "adopted.onnx")


def test_one_of_several_outputs_is_taken_by_its_name(tmp_path):
    source = ready(tmp_path, second_output)
    report = adopt_onnx(source, SPEC, tmp_path / "one.onnx", output="output")
    assert verify_onnx(onnx_function(source, "output"), report.file.path, slices(), limit=1e-5).samples == 2
    with pytest.raises(InputError, match=r"output-key: gives no 'aux'; it gives output \(1, 1, 64, 64\), "):
        adopt_onnx(source, SPEC, tmp_path / "none.onnx", output="aux")


def test_a_quantised_model_is_named_as_what_it_is(tmp_path):
    def quantise(model):
        graph = model.graph
        for name, kind, value in (("scale", TensorProto.FLOAT, 0.1), ("zero", TensorProto.INT8, 0)):
            graph.initializer.append(helper.make_tensor(name, kind, [], [value]))
        first = graph.node[0].input[0]
        graph.node[0].input[0] = "rounded"
        graph.node.insert(0, helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["rounded"]))
        graph.node.insert(0, helper.make_node("QuantizeLinear", [first, "scale", "zero"], ["integers"]))

    source = ready(tmp_path, quantise)
    with pytest.raises(InputError, match=r"quantised already \(DequantizeLinear, QuantizeLinear\).*give the float32"):
        adopt_onnx(source, SPEC, tmp_path / "adopted.onnx")


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.UINT8, "uint8")]
)
def test_another_dtype_has_its_own_name(tmp_path, kind, name):
    def cast(model):
        graph = model.graph
        first = graph.input[0]
        first.type.tensor_type.elem_type = kind
        graph.node[0].input[0] = "cast"
        graph.node.insert(0, helper.make_node("Cast", [first.name], ["cast"], to=TensorProto.FLOAT))

    with pytest.raises(InputError, match=rf"its input is {name}, in the spec float32"):
        adopt_onnx(ready(tmp_path, cast), SPEC, tmp_path / "adopted.onnx")


def test_an_output_whose_shape_torch_left_open_follows_from_the_graph(tmp_path):
    def open_axes(model):
        for axis in model.graph.output[0].type.tensor_type.shape.dim:
            axis.dim_param = "Convout_dim_0"

    assert adopt_onnx(ready(tmp_path, open_axes), SPEC, tmp_path / "adopted.onnx").file.operators


class Unsupported(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(7, 4, 3, padding=1), function

    def forward(self, x):
        return self.function(self.conv(x))[:, :1]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda x: nn.functional.channel_shuffle(x, 2),
            "aten::channel_shuffle has no ONNX form in opset 17; write it as",
        ),
        (lambda x: torch.fft.fft2(x).real, "aten::fft_fft2 has no ONNX form.*Fourier"),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, 7), "no ONNX form of adaptive_avg_pool2d.*divides the plane"),
        (lambda x: torch.searchsorted(torch.arange(3.0), x).float(), "aten::searchsorted has no ONNX form"),
    ],
)
def test_one_line_names_the_operator_and_no_graph_is_printed(tmp_path, capfd, function, reason):
    with pytest.raises(ConversionError, match=reason) as caught:
        export_onnx(Unsupported(function), SPEC, tmp_path / "none.onnx")
    assert "\n" not in str(caught.value) and "graph(" not in "".join(capfd.readouterr())
