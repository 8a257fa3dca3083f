"""The vendor's own package, for every version that is installed: what it builds, simulates and how it fails."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from edgelung.converters.toolkit import VERSIONS, Quantisation, ToolkitJob, find, run_job
from edgelung.errors import ConversionError

pytestmark = pytest.mark.slow

LIMIT_S = 300
SHAPE = (1, 3, 40, 64)  # three different axes: a wrong layout cannot pass


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, image):
        return self.head(torch.relu(self.body(torch.relu(self.stem(image)))))


class Volumetric(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
        self.pool, self.last = nn.MaxPool3d(2), nn.Conv3d(8, 16, 3, padding=1)

    def forward(self, volume):
        return self.last(self.pool(torch.relu(self.second(torch.relu(self.first(volume))))))


@pytest.fixture(scope="module", params=VERSIONS)
def environment(request):
    try:
        return find(request.param)
    except ConversionError as error:
        pytest.skip(str(error))


def exported(model, shape, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(model.eval(), (torch.zeros(shape),), str(path), opset_version=17, dynamo=False)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The ONNX file of a small network and four samples for it."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    model = exported(Small(), SHAPE, folder / "small.onnx")
    rng = np.random.default_rng(0)
    samples = tuple((folder / f"{number}.npy",) for number in range(4))
    for (file,) in samples:
        np.save(file, rng.normal(size=SHAPE).astype(np.float32))
    return model, samples


def relative_rms(result, model, samples):
    """How far the simulator's answers are from onnxruntime's, in units of their spread."""
    session = onnxruntime.InferenceSession(str(model))
    name = session.get_inputs()[0].name
    wanted = np.stack([session.run(None, {name: np.load(file)})[0] for (file,) in samples])
    found = np.stack([outputs[0] for outputs in result.outputs])
    assert found.shape == wanted.shape
    return np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std()


QUANTISED = {"int8": {}, "kl": {"algorithm": "kl_divergence"}}


@pytest.mark.parametrize("route", ["fp16", "int8", "kl"])
def test_a_small_network_is_compiled_and_simulated(environment, small, tmp_path, route):
    model, samples = small
    quantise = None if route == "fp16" else Quantisation(samples, **QUANTISED[route])
    job = ToolkitJob(model, quantise, samples)
    result = run_job(job, environment, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert {layer.dtype for layer in result.layers} == {"FLOAT16" if route == "fp16" else "INT8"}
    assert result.versions["rknn-toolkit2"] == environment.version
    assert result.weight_memory_kib > 0
    # fp16 has 11 bits, int8 8: half a step of a range of about 6 spreads is 6 / 256 / 2 a layer.
    limit = 0.002 if route == "fp16" else 0.05
    distance = relative_rms(result, model, samples)
    assert distance < limit
    scaled = 1.1 * np.stack([outputs[0] for outputs in result.outputs])
    assert np.sqrt(np.mean((scaled - scaled / 1.1) ** 2)) / scaled.std() > limit  # what the limit would catch


class Samples(CalibrationDataReader):
    def __init__(self, samples, name):
        self.rows = iter([{name: np.load(file)} for (file,) in samples])

    def get_next(self):
        return next(self.rows, None)


def test_a_graph_with_its_own_quantisation_keeps_it(environment, small, tmp_path):
    model, samples = small
    name = onnx.load(model).graph.input[0].name
    quantised = tmp_path / "qdq.onnx"
    quantize_static(
        model, quantised, Samples(samples, name), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    job = ToolkitJob(quantised, simulate=samples)
    result = run_job(job, environment, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert {layer.dtype for layer in result.layers if "Conv" in layer.operator} == {"INT8"}
    assert relative_rms(result, model, samples) < 0.05


def test_layers_that_stay_float_are_float_in_the_table(environment, small, tmp_path):
    model, samples = small
    names = [output for node in onnx.load(model).graph.node for output in node.output]
    quantise = Quantisation(samples, float_tensors=tuple(name for name in names if "body" in name or name == names[-2]))
    result = run_job(ToolkitJob(model, quantise, samples), environment, folder=tmp_path / "run", timeout_s=LIMIT_S)
    by_name = {layer.name: layer.dtype for layer in result.layers}
    assert by_name["/body/Conv"] == "FLOAT16"
    assert by_name["/stem/Conv"] == by_name["/head/Conv"] == "INT8"
    unknown = Quantisation(samples, float_tensors=("nowhere",))
    with pytest.raises(ConversionError, match=r"toolkit build: .*nowhere"):
        run_job(ToolkitJob(model, unknown), environment, folder=tmp_path / "unknown", timeout_s=LIMIT_S)


def test_volumetric_convolutions_abort_the_worker_and_are_named(environment, tmp_path):
    model = exported(Volumetric(), (1, 1, 16, 32, 32), tmp_path / "volumetric.onnx")
    with pytest.raises(
        ConversionError, match=r"toolkit build: it was ended by SIGABRT: .*'/first/Conv', '/second/Conv'"
    ):
        run_job(ToolkitJob(model), environment, folder=tmp_path / "run", timeout_s=LIMIT_S)


def test_an_unknown_operator_is_refused_by_name(environment, small, tmp_path):
    model = onnx.load(small[0])
    model.graph.node[-1].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "unknown.onnx")
    with pytest.raises(ConversionError, match=r"toolkit build: .*Frobnicate"):
        run_job(ToolkitJob(tmp_path / "unknown.onnx"), environment, folder=tmp_path / "run", timeout_s=LIMIT_S)


def test_a_file_that_is_no_onnx_is_refused(environment, tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"hello" * 100)
    with pytest.raises(ConversionError, match=r"toolkit load: .*Error parsing message"):
        run_job(ToolkitJob(tmp_path / "junk.onnx"), environment, folder=tmp_path / "run", timeout_s=LIMIT_S)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("route", "weights_kib", "size_kib"),
    # "Weight memory" and "model size" of the published report: 236.81 and 1005.18, 125.44 and 561.83 (the latter of
    # slightly other tensors). The file grows by 64 bytes when tensor names get longer.
    [("fp16", 236.8125, 1005.2), ("int8", 125.9375, 561.9)],
)
def test_the_published_sizes_come_out(realdata, tmp_path, route, weights_kib, size_kib):
    from edgelung.converters.checkpoint import apply_state, load_state_dict
    from edgelung.converters.models import get_model_entry
    from edgelung.converters.targets.onnxruntime import export_onnx
    from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec

    try:
        environment = find("2.3.2")
    except ConversionError as error:
        pytest.skip(str(error))
    loaded = load_state_dict(realdata / "models" / "unet-luna-a.state")
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    export_onnx(model.eval(), nodule_segmentation_spec(), tmp_path / "unet.onnx")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(-1000, 1000, (1, 7, 512, 512)).astype(np.float32))
    quantise = Quantisation(((tmp_path / "a.npy",),)) if route == "int8" else None
    job = ToolkitJob(tmp_path / "unet.onnx", quantise)
    result = run_job(job, environment, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert result.weight_memory_kib == pytest.approx(weights_kib, abs=0.001)
    assert result.model_size_kib == pytest.approx(size_kib, abs=0.15)
    assert {layer.target for layer in result.layers[1:-1]} == {"NPU"}
