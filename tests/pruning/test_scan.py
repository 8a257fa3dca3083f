"""The sensitivity scan against networks of which the answer is known."""

import pytest
import torch
from networks import probe, unet
from networks_to_prune import Mixing

from edgelung.converters.pruning import scan_sensitivity
from edgelung.errors import InputError


def test_each_group_is_judged_alone():
    x, seen = probe(size=16).float(), []
    model = unet()

    def parameters(network):
        return float(sum(p.numel() for p in network.parameters()))

    found = scan_sensitivity(
        model, x, parameters, [0.5, 0.25], keep=("unet.up_path",), tick=lambda done, of, name: seen.append((done, of))
    )
    assert [(one.group, one.ratio) for one in found[:2]] == [("unet.down_path.0.block.0", r) for r in (0.25, 0.5)]
    assert len(found) == 12 and seen == [(done, 12) for done in range(12)]
    assert all(one.change == one.value - 118_271 < 0 for one in found)
    assert found[0].channels == (16, 12)


def test_the_layer_that_matters_shows():
    model = Mixing(torch.relu).eval()
    x = probe(3, 16).float() / 1000
    with torch.no_grad():
        model.before.weight[:4] *= 1e-3
        model.after.weight[:, :4] = 0  # half of what comes before reaches nobody
        expected = model(x)

    def error(network):
        with torch.no_grad():
            return float((network(x) - expected).abs().max())

    found = {one.group: one.change for one in scan_sensitivity(model, x, error, [0.5])}
    assert found["before"] < 1e-6 < 1e-3 < found["after"]


def test_ratios_that_round_to_the_same_are_judged_once():
    found = scan_sensitivity(Mixing(torch.relu), probe(3, 16), lambda network: 0.0, [0.3, 0.5, 0.1], round_to=4)
    assert [(one.group, one.ratio, one.channels) for one in found] == [("before", 0.5, (8, 4))]


def test_no_ratio_is_refused():
    with pytest.raises(InputError, match="ratios"):
        scan_sensitivity(Mixing(torch.relu), probe(3, 16), lambda network: 0.0, [])
