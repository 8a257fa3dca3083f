"""A pruned network of one's own, with all that people put into one, goes on from its bundle by the same --arch."""

import numpy as np
import pytest
import torch
from own_spec import own_spec
from torch import nn

from edgelung.bundle import open_bundle
from edgelung.calibration import phantom_slabs
from edgelung.converters import Recipe, convert
from edgelung.spec import SlicePacking

MODULE = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.second, self.last = nn.LazyConv2d(8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("factor", torch.tensor([1]))
        self.register_buffer("unread", torch.arange(8))
        self.aside = nn.Conv2d(8, 1, 1)  # deep supervision, in training only

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))) * self.gamma)
        return self.last(x) * self.factor


def build():
    return nn.DataParallel(Network())
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_for_retraining.py").write_text(MODULE)
    (tmp_path / "own.toml").write_text(own_spec(halo_px=16, align_px=4))
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_for_retraining

    torch.manual_seed(0)
    network = own_for_retraining.build()
    inputs = [slab.hu for slab in phantom_slabs(SlicePacking(1, 1, 1), 2, seed=3, plane=(64, 64)).slabs]
    seen = torch.stack([(torch.as_tensor(hu).clamp(-1000, 400) + 1000) / 1400 for hu in inputs]).float()
    with torch.no_grad():
        network.module.factor += 1  # the checkpoint's, not the factory's
        values = network(seen)
        network.module.last.weight *= 3 / values.std()
        network.module.last.bias.copy_((network.module.last.bias - values.quantile(0.9)) * 3 / values.std() / 2)
    assert isinstance(network.module.second, nn.Conv2d)
    torch.save(network.state_dict(), tmp_path / "own.pt")
    return {"arch": "own_for_retraining:build", "spec": tmp_path / "own.toml", "keep_failing": True}


def test_it_goes_on_from_its_bundle(own, tmp_path):
    few = {"calibration_slabs": 2, "verification_slabs": 2}
    pruning = {"prune": 0.5, "round_to": 1, "preset": "quick", "epochs": 1}
    made = convert(Recipe(tmp_path / "own.pt", tmp_path / "one.bundle", **own, **few, **pruning))
    again = convert(Recipe(made.output, tmp_path / "two.bundle", **own, **few))
    with open_bundle(made.output) as one, open_bundle(again.output) as other:
        ((hu, expected),), ((same, found),) = one.golden("network"), other.golden("network")
    np.testing.assert_array_equal(hu, same)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    read = again.manifest.provenance.stages[0].summary
    assert "from a safetensors checkpoint" in read and "DataParallel taken off the network" in read
