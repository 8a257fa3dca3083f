"""A public LUNA16 checkpoint on a real CT: torch, onnxruntime and the vendor's simulator mark the same pixels."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.converters.passes import RK3588_INT8, restructure
from edgelung.converters.quantisation import (
    RK3588_RULES,
    calibrate,
    export_qdq,
    fake_quantise,
    freeze_observers,
    prepare_qat,
    to_exportable,
)
from edgelung.converters.targets.rknn import build_rknn, count_layers
from edgelung.converters.targets.unsigned import write_unsigned
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.toolkit import find
from edgelung.errors import ConversionError
from edgelung.runtime import read_series

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
STARTS = np.linspace(5, 88, 8).astype(int)
HELD_OUT = (20, 50)


@pytest.fixture(scope="module")
def network(request):
    loaded = load_state_dict(request.getfixturevalue("realdata") / "models" / "unet-luna-a.state")
    entry = get_model_entry("unet-luna")
    model = entry.build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    spec = nodule_segmentation_spec(512, 512, geometry=entry.geometry(model))
    return model.eval(), replace(spec, output=replace(spec.output, quantity="logit"))


@pytest.fixture(scope="module")
def slabs(request):
    """Start -> (1, 7, 512, 512) float32 clipped HU."""
    hu = read_series(request.getfixturevalue("realdata") / "ct" / "c3n-00247").to_axial().hu
    clipped = np.clip(hu, -1000, 1000).astype(np.float32)
    starts = (*STARTS, *HELD_OUT)
    return {int(start): torch.from_numpy(clipped[np.newaxis, start : start + 7].copy()) for start in starts}


def prepared(network, slabs):
    """The network in int8 as torch has it, not trained, and its logits on the held-out slabs."""
    probe = slabs[50][:, :, 200:360, 20:180]
    plain = restructure(network, probe, border="interior", training_follows=True, room=RK3588_INT8).model
    qat = prepare_qat(plain, RK3588_RULES)
    calibrate(qat, [slabs[int(start)] for start in STARTS])
    freeze_observers(qat)
    with torch.no_grad():
        fixed = to_exportable(qat)
        return qat, [fixed(slabs[start]).numpy() for start in HELD_OUT]


def run(path, slabs):
    """Logits by onnxruntime, of the form that bundles hold for it."""
    host = write_unsigned(onnx.load(path), path.with_name("host.onnx"))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(host.path), settings)
    return [session.run(None, {"input": slabs[start].numpy()})[0] for start in HELD_OUT]


def dice(one, other):
    ours, theirs = (np.concatenate([logits.ravel() >= 0 for logits in side]) for side in (one, other))
    return 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))


def test_torch_onnxruntime_and_the_simulator_mark_the_same_pixels(network, slabs, tmp_path):
    model, spec = network
    qat, expected = prepared(model, slabs)
    file = export_qdq(qat, spec, tmp_path / "int8.onnx", RK3588_RULES)
    assert sum(int(np.count_nonzero(logits >= 0)) for logits in expected) > 1000
    assert dice(run(file.path, slabs), expected) > 0.999
    try:
        environment = find()
    except ConversionError as error:
        pytest.skip(str(error))
    inputs = [slabs[start].numpy() for start in HELD_OUT]
    build = build_rknn(file.path, environment, folder=tmp_path / "build", algorithm=None, simulate=inputs)
    counts = count_layers(build.layers)
    assert (counts.npu, counts.cpu, counts.float16, counts.convert) == (counts.total, 0, 0, 0)
    assert {layer.dtype for layer in build.layers if layer.target == "NPU"} == {"INT8"}
    assert dice(build.outputs, expected) > 0.999


def test_with_the_steps_as_they_come_the_engines_part(network, slabs, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_quantise, "exact_step", lambda step: float(np.float32(step)))
    qat, expected = prepared(network[0], slabs)
    file = export_qdq(qat, network[1], tmp_path / "int8.onnx", RK3588_RULES)
    assert 0.9 < dice(run(file.path, slabs), expected) < 0.99
