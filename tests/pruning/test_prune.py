"""Pruning whole networks: what goes, what stays, and what the result computes."""

import copy

import pytest
import torch
from networks import probe, unet
from networks_to_prune import DeadChannels, Mixing, ResidualUNet
from torch import nn

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.converters.pruning import IMPORTANCES, prune
from edgelung.errors import ConversionError, InputError


def example(channels=3, size=16):
    return probe(channels, size).float() / 1000


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("round_to", "parameters"), [(1, 30_087), (8, 30_087), (16, 39_279)])
def test_the_u_net_at_half_its_channels(round_to, parameters):
    pruned = prune(unet(), probe(size=16).float(), ratio=0.5, round_to=round_to)
    assert (pruned.parameters_before, pruned.parameters_after) == (118_271, parameters)
    assert pruned.left == (("unet.last", "has one channel"),)
    assert pruned.model.widths.in_slices == 7
    widths = [width for block in (*pruned.model.widths.down, *pruned.model.widths.up) for width in block]
    assert all(width % round_to == 0 for width in widths)
    assert pruned.cut_error < 1e-9
    assert f"118271 -> {parameters}" in pruned.describe()


def test_the_original_is_left_and_the_result_is_always_the_same():
    model = unet()
    model.train()
    before = state_of(model)
    first, second = (prune(model, probe(size=16).float(), ratio=0.3) for _ in range(2))
    assert same(before, state_of(model))
    assert model.training and not first.model.training
    assert same(state_of(first.model), state_of(second.model))
    assert first.dropped == second.dropped


def test_the_pruned_u_net_is_rebuilt_from_a_file(tmp_path):
    pruned = prune(unet(), probe(size=16).float(), ratio=0.4, round_to=3)
    torch.save(pruned.model.state_dict(), tmp_path / "pruned.pt")
    state = load_state_dict(tmp_path / "pruned.pt").state
    again = UNetLuna(UNetWidths.from_state_dict(state)).eval()
    apply_state(again, state, "pruned.pt")
    assert again.widths == pruned.model.widths
    with torch.inference_mode():
        x = probe(size=32).float()
        assert torch.equal(again(x), pruned.model(x))


def test_nothing_goes_at_ratio_zero():
    model = unet()
    pruned = prune(model, probe(size=16).float(), ratio=0.0)
    assert same(state_of(model), state_of(pruned.model))
    assert {layer.verdict("INT8") for layer in pruned.layers} == {"neither"}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_measure_prunes_additive_skips_together(importance, scope):
    model = ResidualUNet()
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
    pruned = prune(model, example(), ratio=0.5, importance=importance, scope=scope, calibration=[example()])
    net = pruned.model
    assert net.down1.second.out_channels == net.down1.straight.out_channels == net.reduce.out_channels
    assert pruned.parameters_after < pruned.parameters_before
    assert net.last.out_channels == 1 and net.down1.first.in_channels == 3
    with torch.inference_mode():
        assert net(example(size=32)).shape == (1, 1, 32, 32)


def test_global_and_per_layer_take_the_same_share_from_other_places():
    model = unet()
    with torch.no_grad():  # the first block of the bottom matters little
        model.unet.down_path[2].block[0].weight *= 1e-3
    whole = prune(model, probe(size=16).float(), ratio=0.3, scope="global", importance="l2")
    layers = prune(model, probe(size=16).float(), ratio=0.3, importance="l2")
    gone = [sum(len(indices) for indices in pruned.dropped.values()) for pruned in (whole, layers)]
    assert abs(gone[0] - gone[1]) <= len(layers.dropped)
    assert whole.dropped != layers.dropped


def test_kept_layers_keep_their_channels():
    pruned = prune(unet(), probe(size=16).float(), ratio=0.5, keep=("unet.down_path.1", "unet.up_path.0.up"))
    assert pruned.model.widths.down == ((8, 8), (32, 32), (32, 32))
    assert pruned.model.widths.up[0] == (32, 16, 16)
    assert ("unet.up_path.0.up", "kept as asked (unet.up_path.0.up)") in pruned.left


def test_layers_without_a_batchnorm_are_left_by_bn_scale():
    pruned = prune(unet(), probe(size=16).float(), ratio=0.5, importance="bn_scale")
    assert ("unet.up_path.1.up", "bn_scale measures nothing in it") in pruned.left
    assert pruned.model.widths.up[1][0] == 16


def prune_dead(*, calibrated, settled=False):
    """A network with four dead channels, pruned of just those."""
    torch.manual_seed(3)
    model = DeadChannels().eval().double()
    if settled:  # statistics that know of the dead channels, as after training
        model.norm.running_mean[:4] = 0
    x = example(size=32).double()
    pruned = prune(model, x, ratio=0.5, keep=("other", "reader"), calibration=[x] if calibrated else [])
    assert pruned.dropped == {"first": (0, 1, 2, 3)}
    return model, pruned


def errors(model, pruned):
    """(interior, whole plane) largest differences over the largest value, on another input of another size."""
    other = probe(3, 48, seed=9) / 1000
    with torch.inference_mode():
        expected, found = model(other), pruned.model(other)
    error = (expected - found).abs() / expected.abs().max()
    return float(error[..., 1:-1, 1:-1].max()), float(error.max())


def test_a_dead_channels_constant_is_not_lost():
    model, pruned = prune_dead(calibrated=True)
    interior, whole = errors(model, pruned)
    assert pruned.constants == "measured"
    assert interior < 1e-12
    assert whole > 1e-4  # zero padding hid the constant in the ring: known, and left to recovery


def test_without_its_constant_a_dead_channel_is_missed():
    model, pruned = prune_dead(calibrated=True)
    pruned.model.reader.bias.data.copy_(model.reader.bias)
    assert errors(model, pruned)[0] > 1e-2


@pytest.mark.parametrize("settled", [True, False])
def test_without_data_the_constants_are_as_good_as_the_statistics(settled):
    model, pruned = prune_dead(calibrated=False, settled=settled)
    assert pruned.constants == "statistics"
    assert (errors(model, pruned)[0] < 1e-12) is settled


def test_frozen_weights_stay_frozen_and_half_precision_stays():
    model = ResidualUNet()
    model.last.weight.requires_grad_(False)
    net = prune(model, example(), ratio=0.5).model
    assert not net.last.weight.requires_grad and net.down1.first.weight.requires_grad
    double = prune(copy.deepcopy(model).double(), example(), ratio=0.5).model
    assert double.last.weight.dtype == torch.float64


def test_depthwise_goes_along_and_groups_stay():
    depthwise = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1)
    )
    assert prune(depthwise, example(), ratio=0.5).model[2].groups == 4
    grouped = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1)
    )
    pruned = prune(grouped, example(), ratio=0.5)
    assert pruned.model[2].out_channels == 8 and pruned.model[3].out_channels == 2
    assert ("0", "2 is a convolution with 2 groups") in pruned.left


@pytest.mark.parametrize(
    ("operator", "reads", "word"),
    [
        (lambda x: torch.softmax(x, dim=1), 8, "Softmax"),
        (lambda x: x + x.mean(dim=1, keepdim=True), 8, "Mean"),
        (lambda x: nn.functional.pixel_shuffle(x, 2), 2, "PixelShuffle"),
        (lambda x: x + torch.ones(1, 8, 1, 1), 8, "Add"),
    ],
)
def test_what_mixes_channels_is_left_whole_by_name(operator, reads, word):
    pruned = prune(Mixing(operator, reads), example(), ratio=0.5)
    assert (pruned.model.before.out_channels, pruned.model.after.out_channels) == (8, 2)
    note = pruned.describe_left()
    assert note.startswith("before: its channels cannot be followed to their readers (through: ") and word in note


def test_a_network_that_cannot_be_traced_is_refused():
    with pytest.raises(InputError, match="does not run on an input of shape"):
        prune(unet(), torch.zeros(1, 5, 16, 16), ratio=0.5)


def test_a_network_with_nothing_to_choose_from_is_refused():
    with pytest.raises(ConversionError, match=r"no channels can go \(0: gives the network's output\)"):
        prune(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid()), example(), ratio=0.5)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("ratio", {"ratio": 1.0}),
        ("ratio", {"ratio": float("nan")}),
        ("round_to", {"ratio": 0.5, "round_to": 0}),
        ("importance", {"ratio": 0.5, "importance": "magic"}),
        ("importance", {"ratio": 0.5, "importance": "variance"}),
        ("scope", {"ratio": 0.5, "scope": "city"}),
        ("calibration", {"ratio": 0.5, "calibration": [torch.zeros(1, 2, 16, 16)]}),
        ("plane", {"ratio": 0.5, "plane": (15, 16)}),
        ("keep", {"ratio": 0.5, "keep": ("unet.nowhere",)}),
    ],
)
def test_wrong_arguments_are_named(field, arguments):
    with pytest.raises(InputError) as caught:
        prune(ResidualUNet(), example(), **arguments)
    assert caught.value.field == field
