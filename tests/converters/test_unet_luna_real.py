"""The two public LUNA16 checkpoints on a real chest CT."""

import numpy as np
import pytest
import torch

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import UNetWidths, get_model_entry
from edgelung.converters.targets.onnxruntime import export_onnx
from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec
from edgelung.converters.verify import verify_onnx

pytestmark = pytest.mark.realdata

CENTRE = (50, 262, 80)  # deep in the right lung, 23 pixels from anything but air
SPACING_MM = (3.0, 0.5645, 0.5645)


@pytest.fixture(scope="module")
def hu(request):
    """(99, 512, 512) float32 Hounsfield units, from inferior to superior."""
    pydicom = pytest.importorskip("pydicom")
    realdata = request.getfixturevalue("realdata")
    files = [pydicom.dcmread(file) for file in (realdata / "ct" / "c3n-00247").glob("*.dcm")]
    files.sort(key=lambda file: file.ImagePositionPatient[2])
    return np.stack([file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept) for file in files])


@pytest.fixture(scope="module", params=["a", "b"])
def model(request):
    realdata = request.getfixturevalue("realdata")
    loaded = load_state_dict(realdata / "models" / f"unet-luna-{request.param}.state")
    assert (loaded.format, loaded.container) == ("torch", "model_state")
    assert UNetWidths.from_state_dict(loaded.state) == UNetWidths.standard()
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    return model.eval()


def with_ball(hu, diameter_mm=8.0, value=40.0):
    axes = np.ogrid[tuple(map(slice, hu.shape))]
    squares = [((axis - at) * step) ** 2 for axis, at, step in zip(axes, CENTRE, SPACING_MM, strict=True)]
    return np.where(sum(squares) < (diameter_mm / 2) ** 2, value, hu)


def packed(hu):
    depth = CENTRE[0]
    return np.clip(hu[None, depth - 3 : depth + 4], -1000, 1000).astype(np.float32)


def test_an_inserted_nodule_is_found_and_nothing_without_it(model, hu):
    _, row, column = CENTRE
    with torch.inference_mode():
        without, found = (model(torch.from_numpy(packed(volume)))[0, 0].numpy() for volume in (hu, with_ball(hu)))
    near = np.s_[row - 3 : row + 4, column - 3 : column + 4]
    assert found[near].min() > 0.5 and without[near].max() < 0.01
    mask, before = found > 0.5, without > 0.5
    assert 100 < np.count_nonzero(mask & ~before) < 300  # the ball covers 158 pixels of this slice
    assert np.count_nonzero(mask) < 0.03 * mask.size


def test_onnx_equals_torch_on_real_slices(model, hu, tmp_path):
    spec = nodule_segmentation_spec(512, 512, get_model_entry("unet-luna").geometry(model))
    report = export_onnx(model, spec, tmp_path / "unet.onnx")
    agreement = verify_onnx(model, report.file.path, [packed(hu), packed(with_ball(hu))])
    # float32 itself: torch is 0.5e-4 from float64 on this slice, at pixels where the sigmoid is steep
    assert agreement.max_abs < 2e-4 and agreement.mean_abs < 1e-6 and agreement.relative_rms < 2e-5
