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


class Scaled(nn.Module):
    """Channels times numbers that a module holds itself."""

    def __init__(self, shape):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(shape) + 0.5)
        self.others = nn.ParameterList([torch.rand(shape) + 0.5])

    def forward(self, x):
        return x * self.gamma.reshape(1, -1, 1, 1) * self.others[0].reshape(1, -1, 1, 1)


def scaled(*shape):
    return lambda: Mixing(Scaled(shape))


@pytest.mark.parametrize(
    "factory",
    [ResidualUNet, depthwise, lambda: Mixing(torch.relu), scaled(8), scaled(8, 1, 1), scaled(1, 8, 1, 1)],
)
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


def test_a_modules_own_tensors_are_made_narrower_too_and_never_wider():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", torch.zeros(1, 8, 1, 1))
            self.norm = nn.InstanceNorm2d(8, affine=True)

    narrow = {"shift": torch.ones(1, 5, 1, 1), "norm.weight": torch.ones(5), "norm.bias": torch.ones(5)}
    again = shrink_to_state(Table(), narrow, "pruned.pt")
    assert torch.equal(again.shift, narrow["shift"]) and again.norm.num_features == 5
    for shape in ((1, 9, 1, 1), (8, 1, 1), (1, 8, 1)):
        with pytest.raises(InputError, match="wrong shape: shift"):
            shrink_to_state(Table(), {**narrow, "shift": torch.ones(shape)}, "pruned.pt")


def test_norms_over_groups_are_not_made_narrower():
    with pytest.raises(InputError, match="wrong shape: weight"):
        shrink_to_state(nn.GroupNorm(2, 8), {"weight": torch.ones(4), "bias": torch.ones(4)}, "pruned.pt")
