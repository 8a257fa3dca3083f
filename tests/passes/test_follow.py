"""The graph of a network is the network, or there is none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgelung.converters.passes import restructure
from edgelung.converters.passes.graph import trace
from edgelung.errors import ConversionError


class Block(nn.Module):
    """Two convolutions, and a ``forward`` that a test gives."""

    def __init__(self, body, train=None):
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, n, 3, padding=1) for n in (3, 3, 1))
        self.same, self.drop, self.relu = nn.Identity(), nn.Dropout(0.3), nn.ReLU(inplace=True)
        self.seen = None
        self.body = body

    def forward(self, x, mask=None):
        return self.last(self.body(self, self.first(x), mask))


def block(body):
    torch.manual_seed(0)
    return Block(body).eval()


def example():
    torch.manual_seed(1)
    return torch.rand(1, 3, 16, 24)


def added_to(net, x, _):
    skip = x
    x += 0.3 * net.second(x)
    return torch.relu(x) - skip


def multiplied(net, x, _):
    skip = x
    x *= net.second(x).sigmoid()
    return x - 0.5 * net.second(skip)


def by_method(net, x, _):
    skip = x
    x.add_(net.second(x)).clamp_(-1, 1)
    return net.second(x) + skip


def by_function(net, x, _):
    y = F.relu(x, inplace=True)
    return net.second(y) + torch.relu_(x)


def by_layer(net, x, _):
    y = net.relu(x)
    return net.second(y) + x


def behind_identity(net, x, _):
    skip = net.drop(net.same(x))
    x += net.second(x)
    return net.second(x) - skip


def sizes(net, x, _):
    height = old = x.shape[2]
    height += 2
    return F.interpolate(F.interpolate(x, (height, height)), (old, old))


def by_none(net, x, mask):
    return x if mask is None else x * mask


def by_kind(net, x, _):
    return x * 2 if isinstance(x, torch.Tensor) and torch.jit.isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize(
    "body", [added_to, multiplied, by_method, by_function, by_layer, behind_identity, sizes, by_none, by_kind]
)
def test_what_python_does_with_names_is_followed(body):
    model, x = block(body), example()
    network = trace(model, x)
    with torch.no_grad():
        assert torch.equal(network(x.clone()), model(x.clone()))
    assert "inplace = True" not in network.code and "_(" not in network.code.replace("getattr_1(", "")
    assert model.relu.inplace, "the network is left as it is"


def test_restructuring_keeps_the_map_that_was_added_to():
    model, x = block(added_to), example()
    with torch.no_grad():
        assert torch.allclose(restructure(model, x, output="logit").model(x), model(x.clone()), atol=1e-6)


def view_is_read(net, x, _):
    part = x[:, :1]
    x += net.second(x)
    return x * part


def part_is_changed(net, x, _):
    x[:, :1] = 0
    return x


def written_elsewhere(net, x, _):
    return torch.add(x, 1, out=net.second(x))


def by_values(net, x, _):
    return x if x.max() > 0 else -x


def by_shape(net, x, _):
    return x if x.shape[2] % 2 else -x


def by_type(net, x, _):
    return x * 2 if type(x) is torch.Tensor else x


def twice_as_wide_by_type(net, x, _):
    return F.conv2d(torch.cat([x, x], 1) if type(x) is torch.Tensor else x, torch.ones(3, 6, 1, 1).double())


def after_an_error(net, x, _):
    try:
        return x * 2 if x.max() > -9 else x
    except Exception:
        return x


def random(net, x, _):
    return F.dropout(x, 0.3)


def remembering(net, x, _):
    net.seen, before = x.detach(), net.seen
    return x if before is None else x + before


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (view_is_read, r"changes a map in place \(\+=, test_follow.py:\d+\), and a part of it"),
        (part_is_changed, r"writes into a part of a map \(x\[...\] = ..., test_follow.py:\d+\)"),
        (written_elsewhere, r"writes into a map that is there \(out=, add, test_follow.py:\d+\)"),
        (by_values, r"control flow, test_follow.py:\d+; its forward must not choose by the values or the shape"),
        (by_shape, r"control flow, test_follow.py:\d+; its forward must not choose by the values or the shape"),
        (by_type, r"torch.fx makes another network of it .*; its layer last reads something else"),
        (twice_as_wide_by_type, "torch.fx makes another network of it, which does not run"),
        (after_an_error, "torch.fx makes another network of it"),
        (random, "another answer to the same input each time"),
        (remembering, "another answer to the same input each time|cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_line(body, reason):
    with pytest.raises(ConversionError, match=reason):
        trace(block(body), example())


def test_hooks_on_layers_are_kept_and_those_on_the_network_are_refused():
    model, x = block(by_none), example()
    model.first.register_forward_hook(lambda layer, inputs, output: output * 2)
    with torch.no_grad():
        assert torch.equal(trace(model, x)(x), model(x))
    model.register_forward_hook(lambda layer, inputs, output: output * 2)
    with pytest.raises(ConversionError, match="hooks on the network itself are lost"):
        trace(model, x)


def test_a_network_that_stays_in_training_mode_is_named():
    class Stays(nn.Dropout):
        def train(self, mode=True):
            return self

    model = block(by_none)
    model.drop = Stays()
    with pytest.raises(ConversionError, match=r"drop stays in training mode after eval\(\)"):
        trace(model, example())


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_torchscript_layer_is_named():
    model = block(by_none)
    model.second = torch.jit.script(model.second)
    with pytest.raises(ConversionError, match="second is a TorchScript module"):
        trace(model, example())


def test_an_argument_that_keeps_its_default_is_no_input():
    placeholders = [node for node in trace(block(by_none), example()).graph.nodes if node.op == "placeholder"]
    assert [node.name for node in placeholders] == ["x"]
