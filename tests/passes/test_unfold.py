"""What a restructured network learnt, back in the layers of the network it was made of."""

import copy
import sys

import pytest
import torch
from passes.networks import PRUNED, SHALLOW, probe, randomise, unet
from torch import nn

from edgelung.converters.passes import measure_difference, restructure, unfold
from edgelung.errors import ConversionError, VerificationError


class Plain(nn.Module):
    """Convolutions without biases, a BatchNorm in front, one behind an addition."""

    def __init__(self):
        super().__init__()
        self.front = nn.BatchNorm2d(3)
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.sum_norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 1, 1)

    def forward(self, value):
        value = torch.relu(self.norm(self.one(self.front(value))))
        return self.last(torch.relu(self.sum_norm(value + self.two(value))))


def plain():
    return randomise(Plain(), 1)


def learnt(model, size, border="shifts", output="probability"):
    """The restructured network with other weights than it was made with."""
    made = restructure(model, size, border=border, output=output)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("widths", [None, PRUNED])
def test_a_unet_computes_what_its_restructured_form_learnt(widths):
    model = unet(0, widths)
    made = learnt(model, probe())
    back = unfold(model, made.model, probe())
    with torch.no_grad():
        found, expected = back(probe().float()), torch.sigmoid(made.model(probe().float()))
        assert float((found - expected).abs().max()) < 1e-3
        assert float((model(probe().float()) - expected).abs().max()) > 0.1
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(a.shape == b.shape for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))


def test_it_is_the_same_when_it_is_restructured_again():
    model = unet(1, SHALLOW)
    made = learnt(model, probe(3))
    again = restructure(unfold(model, made.model, probe(3)), probe(3))
    assert measure_difference(made.model, again.model, probe(3)).relative < 1e-6


def test_biases_and_depthwise_convolutions_find_a_place():
    model = plain()
    made = learnt(model, probe(3), output="logit")
    assert made.convolutions  # a BatchNorm that nothing could take up
    back = unfold(model, made.model, probe(3))
    assert measure_difference(made.model, back, probe(3)).relative < 1e-6
    assert back.one.bias is not None and model.one.bias is None


def test_a_constant_channel_has_no_place():
    model = unet(0, PRUNED)
    made = restructure(model, probe())
    assert made.constants
    with pytest.raises(ConversionError, match="other shapes than in the network"):
        unfold(model, made.model, probe())


def test_a_layer_that_the_network_has_not_is_named():
    model = unet(0, PRUNED)
    made = learnt(model, probe())
    other = copy.deepcopy(model)
    del other.unet.last
    with pytest.raises(ConversionError, match=r"unet\.last is no layer of the network"):
        unfold(other, made.model, probe())


def test_what_computes_something_else_is_not_given(monkeypatch):
    """Negative control: a BatchNorm that still scales is seen."""
    module = sys.modules["edgelung.converters.passes.unfold"]  # in the package the function hides it
    model = unet(0, PRUNED)
    made = learnt(model, probe())
    monkeypatch.setattr(module, "_let_through", lambda norm: None)
    with pytest.raises(VerificationError, match="weights put back"):
        unfold(model, made.model, probe())
