"""Channels that cannot be cut are left as they are, named; the rest of the network is pruned."""

import pytest
import torch
from networks_that_split import LEFT_WHOLE, PRUNED, Between, Call, NeedsTen
from torch import nn

from edgelung.converters.pruning import prune, scan_sensitivity
from edgelung.errors import ConversionError, InputError

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network(middle, reads):
    torch.manual_seed(0)
    return Between(middle(), reads)


@pytest.mark.parametrize("ratio", [0.25, 0.6])
@pytest.mark.parametrize("name", LEFT_WHOLE)
def test_what_cannot_be_followed_is_left_whole_and_told(name, ratio):
    middle, reads, whole, operator = LEFT_WHOLE[name]
    original = network(middle, reads)
    pruned = prune(original, X, ratio=ratio, calibration=[X])
    before = {layer.name: layer.channels_out for layer in pruned.layers}
    assert {layer for layer, (was, now) in before.items() if was == now} - {"last", "middle.g"} == whole
    note = pruned.describe_left()
    assert operator in note and "\n" not in note and all(layer in note for layer in whole)
    assert "last" not in note  # nobody needs to be told that the output stays


@pytest.mark.parametrize("name", PRUNED)
def test_what_can_be_followed_is_pruned_throughout(name):
    middle, reads = PRUNED[name]
    pruned = prune(network(middle, reads), X, ratio=0.25, calibration=[X])
    assert pruned.describe_left() == "" and pruned.cut_error < 1e-9
    assert all(now < was for was, now in (layer.channels_out for layer in pruned.layers) if was > 1)


def test_activations_work_in_place_again_afterwards():
    middle, reads, _, _ = LEFT_WHOLE["InstanceNorm"]
    assert prune(network(middle, reads), X, ratio=0.25).model.middle[2].inplace


def test_what_fits_alone_and_not_together_is_cut_as_far_as_it_goes():
    pruned = prune(NeedsTen(), X, ratio=0.5, calibration=[X])
    assert (pruned.model.a.out_channels, pruned.model.b.out_channels) == (4, 8)
    assert pruned.describe_left().startswith("b: its channels cannot be followed")


def test_a_scan_leaves_out_what_cannot_be_cut():
    middle, reads, _, _ = LEFT_WHOLE["chunk"]
    found = scan_sensitivity(network(middle, reads), X, lambda model: 0.0, [0.3])
    assert {one.group for one in found} == {"middle.a", "after"}


def test_only_where_nothing_at_all_can_go_it_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Softmax(1), nn.Conv2d(16, 1, 1))
    with pytest.raises(ConversionError, match=r"no channels can go \(0: its channels .*Softmax") as caught:
        prune(model, X, ratio=0.5)
    assert caught.value.hint == "convert it without --prune"


def test_a_network_that_answers_otherwise_each_time_is_told_as_that():
    with pytest.raises(ConversionError, match="answers otherwise each time") as caught:
        prune(Between(Call(lambda m, x: nn.functional.dropout(x, 0.3)), 16), X, ratio=0.5)
    assert "dropout" in caught.value.hint


def test_a_wrong_name_is_told_with_names_that_are_near():
    with pytest.raises(InputError, match="no layer is called 'befor'") as caught:
        prune(Between(nn.Identity(), 16), X, ratio=0.5, keep=("befor",))
    assert "before" in caught.value.hint and "model." not in caught.value.hint
