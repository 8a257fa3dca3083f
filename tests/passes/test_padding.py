"""Networks that are trained so that every BatchNorm can be folded."""

import copy

import pytest
import torch
from passes.networks import PRUNED, SHALLOW, probe, unet

from edgelung.converters.passes import measure_difference, restructure
from edgelung.converters.passes.graph import trace
from edgelung.converters.passes.padding import pad_with_shifts


@pytest.mark.parametrize("widths", [None, PRUNED])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_batchnorm_is_folded_exactly_from_the_network_with_shifts(widths, seed):
    model = unet(seed, widths).double()
    made = restructure(model, probe(), border="shifts")
    assert made.exactness == "shifts" and not made.left and not made.constants and not made.convolutions
    assert made.difference.relative < 1e-12
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in made.model.modules())


def test_outputs_for_several_slices_are_folded_too():
    made = restructure(unet(3, SHALLOW).double(), probe(3), border="shifts")
    assert made.difference.relative < 1e-12 and made.model(probe(3)).shape[1] == 2


def test_what_is_proven_is_not_the_network_with_zeros():
    """Negative control: against the original the difference is large, in a ring and behind transposed convolutions."""
    model = unet(0).double()
    made = restructure(model, probe(), border="shifts")
    plain = restructure(model, probe(), border="exact", otherwise="keep")
    assert measure_difference(plain.model, made.model, probe()).relative > 1e-3


def test_training_the_changed_network_trains_the_layers_that_were_there():
    model = unet(0).double()
    names = restructure(model, probe(), border="shifts").interior
    network = trace(model)
    pad_with_shifts(network, names)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    network(probe()).square().mean().backward()
    optimizer.step()
    learnt, state = copy.deepcopy(model), network.state_dict()
    learnt.load_state_dict({name: state[name] for name in learnt.state_dict()})
    assert any(not torch.equal(one, other) for one, other in zip(learnt.parameters(), model.parameters(), strict=True))
    made = restructure(learnt, probe(), border="shifts")
    with torch.no_grad():
        expected, found = network.eval()(probe()), torch.sigmoid(made.model(probe()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
