"""The two public LUNA16 checkpoints on slices of a real CT, borders included."""

import numpy as np
import pytest
import torch

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.converters.passes import RK3588_INT8, measure_difference, restructure
from edgelung.runtime import read_series

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def corner(request):
    """(1, 7, 160, 160) float32 clipped HU: a part of the plane with the right lung in it."""
    hu = read_series(request.getfixturevalue("realdata") / "ct" / "c3n-00247").to_axial().hu
    return torch.from_numpy(np.clip(hu[np.newaxis, 48:55, 200:360, 20:180], -1000, 1000).astype(np.float32))


@pytest.fixture(scope="module", params=["a", "b"])
def model(request):
    loaded = load_state_dict(request.getfixturevalue("realdata") / "models" / f"unet-luna-{request.param}.state")
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"room": RK3588_INT8, "otherwise": "keep"}], ids=["all", "room"])
def test_restructured_is_as_near_to_float64_as_the_original_in_float32(model, corner, options):
    result = restructure(model, corner, **options)
    assert result.exactness == "exact" and result.difference.relative < 1e-12 and result.rounded.relative < 1e-5
    ending = torch.nn.Sequential(result.model, torch.nn.Sigmoid())
    ours = measure_difference(model, ending, corner, dtype=torch.float32)
    theirs = measure_difference(model, model, corner, dtype=torch.float32)
    assert 0 < ours.max_abs < 2 * theirs.max_abs < 1e-3


def test_interior_is_visibly_wrong_at_the_border_until_it_is_trained(model, corner):
    result = restructure(model, corner, border="interior", training_follows=True)
    assert result.exactness == "interior" and 0 < result.difference.ring_px <= model.widths.receptive_radius
    ending = torch.nn.Sequential(result.model, torch.nn.Sigmoid())
    assert measure_difference(model, ending, corner, limit=1e-3).max_abs > 0.1
