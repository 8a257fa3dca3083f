"""A factory's network and a checkpoint come together in plain layers, or one line says why not."""

import copy
import re
import threading

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, parametrize, prune

from edgelung.converters.checkpoint import LoadedState
from edgelung.converters.own_network import build_own_network
from edgelung.errors import InputError
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, SlicePacking, TensorSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature"),
]
SHAPE = (1, 3, 8, 8)
SPEC = NetworkInput(
    TensorSpec("ct", SHAPE),
    IntensityRule((-1000.0, 400.0), 1 / 1400, 1 / 1.4),
    SlicePacking(1, 1, 1),
    InPlaneRule(halo_px=0),
)


class Network(nn.Module):
    def __init__(self, middle=None):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.middle = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) if middle is None else middle

    def forward(self, x):
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Noisy(nn.Module):
    def forward(self, weight):
        return weight + torch.rand_like(weight)


def with_middle(change):
    def build():
        network = Network()
        change(network.middle[0])
        return network

    return build


COMPUTED = {
    "weight_norm": with_middle(parametrizations.weight_norm),
    "weight_norm, old": with_middle(nn.utils.weight_norm),
    "spectral_norm": with_middle(parametrizations.spectral_norm),
    "spectral_norm, old": with_middle(nn.utils.spectral_norm),
    "orthogonal": with_middle(parametrizations.orthogonal),
    "own": with_middle(lambda layer: parametrize.register_parametrization(layer, "weight", Doubled())),
    "own, of the bias": with_middle(lambda layer: parametrize.register_parametrization(layer, "bias", Doubled())),
    "mask": with_middle(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "two masks": with_middle(lambda layer: [prune.l1_unstructured(layer, "weight", 0.5) for _ in range(2)]),
    "transposed": lambda: Network(nn.utils.weight_norm(nn.ConvTranspose2d(4, 4, 3, padding=1), dim=1)),
    "wrapped": lambda: nn.DataParallel(with_middle(nn.utils.weight_norm)()),
}
TWINS = (("weight_norm", "weight_norm, old"), ("spectral_norm", "spectral_norm, old"))


def trained(factory):
    """A network after a step of training, as spectral_norm asks for, and what it says in eval mode."""
    torch.manual_seed(0)
    network = factory().train()
    with torch.no_grad():
        network(torch.rand(2, *SHAPE[1:]))
        return network.eval(), network(values())


def values():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


def loaded(state):
    return LoadedState({key: value.detach().clone() for key, value in state.items()}, "w.pt", "", "torch")


def built(factory, state):
    network, changes = build_own_network(factory, loaded(state), SPEC)
    plain = fx.symbolic_trace(copy.deepcopy(network))
    assert all(parameter.is_leaf for parameter in plain.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert "parametrizations" not in " ".join(network.state_dict())
    with torch.no_grad():
        return plain(values()), changes, network


@pytest.mark.parametrize("case", COMPUTED)
def test_computed_weights_become_ordinary_ones_of_the_same_network(case):
    network, expected = trained(COMPUTED[case])
    answer, changes, plain = built(COMPUTED[case], network.state_dict())
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-6)
    assert "made ordinary weights" in changes[-1] and "proven equal" in changes[-1]
    again, changes, _ = built(COMPUTED[case], plain.state_dict())  # what a bundle would hold
    assert torch.equal(again, answer) and not any("ordinary" in change for change in changes)


@pytest.mark.parametrize(("new", "old"), [*TWINS, *(pair[::-1] for pair in TWINS)])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_of_one_form_fit_the_other(new, old, prefix):
    network, expected = trained(COMPUTED[new])
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.testing.assert_close(built(COMPUTED[old], state)[0], expected, atol=1e-6, rtol=1e-6)


def test_weights_that_are_drawn_each_time_are_refused_by_name():
    factory = with_middle(lambda layer: parametrize.register_parametrization(layer, "weight", Noisy()))
    with pytest.raises(InputError, match=r"middle\.0\.weight \(Noisy\)"):
        built(factory, factory().state_dict())


def test_a_weight_of_a_hook_of_ones_own_is_refused():
    def doubled(layer):
        layer.raw = nn.Parameter(layer._parameters.pop("weight").detach())
        layer.weight = 2 * layer.raw
        layer.register_forward_pre_hook(lambda module, inputs: setattr(module, "weight", 2 * module.raw))

    factory = with_middle(doubled)
    with pytest.raises(InputError, match=r"cannot be copied.*compute no weight in a hook"):
        built(factory, factory().state_dict())


def lazy():
    layers = (nn.LazyConvTranspose2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(4, 1))
    return Network(nn.Sequential(*layers))


def test_lazy_layers_get_their_shapes_from_the_spec():
    network, expected = trained(lazy)
    answer, changes, plain = built(lazy, network.state_dict())
    assert torch.equal(answer, expected) and "lazy layers got their shapes" in changes[0]
    assert type(plain.middle[0]) is nn.ConvTranspose2d and plain.middle[0].in_channels == 4


def test_lazy_layers_that_get_no_shape_are_named():
    def unreached():
        network = Network()
        network.more = nn.LazyConv2d(3, 3)
        return network

    with pytest.raises(InputError, match="the lazy layer more is not reached by forward"):
        built(unreached, Network().state_dict())
    with pytest.raises(InputError, match=r"lazy layers and does not run on \(1, 3, 8, 8\): RuntimeError"):
        built(lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(3, 1, 1)), {})


def inner_wrappers():
    network = Network()
    network.first, network.middle = torch.compile(network.first), nn.DataParallel(network.middle)
    return network


def compiled_in_place():
    network = Network()
    network.compile()
    return network


WRAPPED = {
    "DataParallel": (lambda: nn.DataParallel(Network()), "DataParallel taken off the network"),
    "compiled": (lambda: torch.compile(Network()), r"torch\.compile taken off the network"),
    "compiled in place": (compiled_in_place, ""),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(Network()), "AveragedModel taken off"),
    "inside": (inner_wrappers, r"torch\.compile, DataParallel taken off|DataParallel, torch\.compile taken off"),
    "half": (lambda: Network().half(), "layers of float16 computed in float32"),
    "double": (lambda: Network().double(), "layers of float64 computed in float32"),
    "training": (lambda: Network().train(), ""),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_networks_in_wrappers_and_of_other_types(case):
    factory, said = WRAPPED[case]
    network, expected = trained(Network)
    for state in (network.state_dict(), nn.DataParallel(network).state_dict()):
        answer, changes, plain = built(factory, state)
        assert torch.equal(answer, expected)
        assert type(plain) is Network and not plain.training and plain.first.weight.dtype == torch.float32
        assert re.search(said, "; ".join(changes))


def on_meta():
    with torch.device("meta"):
        return Network()


def in_inference_mode():
    with torch.inference_mode():
        return Network()


def with_a_lock():
    network = Network()
    network.lock = threading.Lock()
    return network


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (on_meta, r"without its values \(first\.weight is on the device meta\)"),
        (in_inference_mode, r"under torch\.inference_mode"),
        (with_a_lock, "cannot be copied: TypeError"),
        (lambda: Network().to(torch.complex64), "is torch.complex64, not a float"),
    ],
)
def test_networks_that_cannot_be_used(factory, reason):
    with pytest.raises(InputError, match=reason) as caught:
        build_own_network(factory, loaded(Network().state_dict()), SPEC)
    assert caught.value.field == "--arch" and caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_width_are_converted_and_that_is_said(dtype):
    network, expected = trained(Network)
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in network.state_dict().items()
    }
    answer, changes, _ = built(Network, state)
    torch.testing.assert_close(answer, expected, atol=0.05, rtol=0.05)
    assert changes == (f"{str(dtype).removeprefix('torch.')} weights converted to float32",)
