"""A pruned checkpoint goes through the conversion like any other; the public one prunes to the published size."""

import numpy as np
import pytest
import torch
from converters.networks import answering_unet

from edgelung.converters import Recipe, convert
from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.converters.pruning import prune
from edgelung.runtime import CTPipeline, CtVolume, read_series

PLANE = (128, 128)


@pytest.fixture(scope="module")
def pruned():
    """A random network that answers to a phantom, pruned by half."""
    model = answering_unet()
    return prune(model, torch.empty(1, 7, 32, 32).uniform_(-1000, 1000), ratio=0.5, round_to=4).model


@pytest.mark.slow
def test_the_bundle_of_a_pruned_checkpoint_gives_its_probabilities(pruned, tmp_path):
    torch.save({"model_state": pruned.state_dict()}, tmp_path / "pruned.pt")
    convert(Recipe(tmp_path / "pruned.pt", tmp_path / "pruned.bundle", plane=PLANE))
    hu = np.random.default_rng(1).integers(-1000, 1000, size=(7, *PLANE)).astype(np.int16)
    with CTPipeline.load(tmp_path / "pruned.bundle") as pipeline:
        volume = CtVolume(hu, (1.25, 0.7, 0.7), (0, 0, 0), np.eye(3)[:, ::-1])
        ours = np.stack(list(pipeline.iter_probabilities(volume, allow_implausible=True)))[3]
    with torch.inference_mode():
        theirs = pruned(torch.from_numpy(hu[np.newaxis].astype(np.float32))).numpy()[0, 0]
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_the_public_checkpoints_on_a_real_ct(realdata, name):
    loaded = load_state_dict(realdata / "models" / f"unet-luna-{name}.state")
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    hu = read_series(realdata / "ct" / "c3n-00247").to_axial().hu
    corner = torch.from_numpy(np.clip(hu[np.newaxis, 48:55, 200:296, 20:116], -1000, 1000).astype(np.float32))
    pruned = prune(model, corner, ratio=0.5, calibration=[corner])
    assert pruned.parameters_after == 30_087
    assert pruned.cut_error < 1e-12
    assert pruned.model.widths.down == ((8, 8), (16, 16), (32, 32))
