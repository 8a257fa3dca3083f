"""A pruned network of any architecture from a fresh one and a state_dict."""

import pytest
import torch
from networks import probe
from networks_to_prune import Mixing, ResidualUNet
from torch import nn

from edgelung.converters.pruning import prune, shrink_to_state
from edgelung.errors import InputError


def x(size=16):
    return probe(3, size).float() / 1000


def pruned_state(model, **kind):
    pruned = prune(model, x(), ratio=0.5, **kind)
    return pruned.model, {key: value.clone() for key, value in pruned.model.state_dict().items()}


def depthwise():
    layers = (nn.Conv2d(3, 8, 1, bias=False), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8))
    return nn.Sequential(*layers, nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 1, 1, bias=False))


@pytest.mark.parametrize("factory", [ResidualUNet, depthwise, lambda: Mixing(torch.relu)])
def test_the_same_network_from_the_shapes(factory):
    model, state = pruned_state(factory())
    again = shrink_to_state(factory(), state, "pruned.pt")
    with torch.inference_mode():
        assert torch.equal(again(x(24)), model(x(24)))
    assert [getattr(m, "out_channels", 0) for m in again.modules()] == [
        getattr(m, "out_channels", 0) for m in model.modules()
    ]
    assert [getattr(m, "in_channels", 0) for m in again.modules()] == [
        getattr(m, "in_channels", 0) for m in model.modules()
    ]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda state: state.pop("last.weight"), "missing"),
        (lambda state: state.update(more=torch.zeros(1)), "no layer"),
        (lambda state: state.update({"last.weight": torch.zeros(1, 4, 3, 3)}), "no narrower"),
        (lambda state: state.update({"last.weight": torch.zeros(1, 400, 1, 1)}), "no narrower"),
    ],
)
def test_another_networks_weights_are_refused(spoil, word):
    _, state = pruned_state(ResidualUNet())
    spoil(state)
    with pytest.raises(InputError, match=word):
        shrink_to_state(ResidualUNet(), state, "pruned.pt")
