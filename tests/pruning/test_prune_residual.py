"""Pruning the residual U-Net of the examples: additions go together, and a refusal is one line."""

import copy

import pytest
import torch
from quantisation.refused_networks import Around, Attention, LastAxisNorm
from quantisation.residual_networks import residual_unet
from torch import nn

from edgelung.converters.pruning import prune, shrink_to_state
from edgelung.converters.pruning.proof import CUT_LIMIT, cut_and_prove
from edgelung.errors import InputError, VerificationError


def example(size=16, seed=0):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("down", ["pool", "convolution"])
@pytest.mark.parametrize(("scope", "round_to"), [("layer", 1), ("layer", 4), ("global", 1)])
def test_every_addition_keeps_the_same_channels_on_both_sides(down, scope, round_to):
    model = residual_unet(down=down)
    pruned = prune(model, example(), ratio=0.5, scope=scope, round_to=round_to)
    net = pruned.model
    for block in (net.level0, net.level1, net.level2[0], net.up1, net.up0):
        assert block.shortcut[0].out_channels == block.second[0].out_channels
    identity = net.level2[1]
    assert identity.first[0].in_channels == identity.second[0].out_channels == net.level2[0].second[0].out_channels
    assert net.up0.first[0].in_channels == net.up1.second[0].out_channels + net.level0.second[0].out_channels
    assert pruned.cut_error < CUT_LIMIT and pruned.left == (("last", "has one channel"),)
    assert pruned.parameters_after < 0.5 * pruned.parameters_before
    with torch.no_grad():
        assert net(example(32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("down", ["pool", "convolution"])
def test_the_pruned_network_is_rebuilt_from_its_shapes(down):
    net = prune(residual_unet(down=down), example(), ratio=0.4).model
    again = shrink_to_state(residual_unet(down=down, seed=7), net.state_dict(), "pruned.pt")
    with torch.no_grad():
        assert torch.equal(again(example(32)), net(example(32)))


def test_a_channel_that_an_addition_still_needs_is_missed():
    """The control of the proof: the shortcut loses a channel that the block's other side keeps reading."""
    model = copy.deepcopy(residual_unet()).double().requires_grad_(True)
    x = example().double()
    _, error = cut_and_prove(model, x, {"level0.shortcut.0": [0, 3]}, None)
    assert error < CUT_LIMIT
    model.level0.register_forward_hook(lambda _module, _inputs, output: output + output.mean(dim=1, keepdim=True))
    with pytest.raises(VerificationError):
        cut_and_prove(model, x, {"level0.shortcut.0": [0, 3]}, None)


@pytest.mark.parametrize(
    ("middle", "kind"),
    [(lambda: nn.GroupNorm(4, 16), "GroupNorm"), (lambda: nn.InstanceNorm2d(16, affine=True), "InstanceNorm2d"),
     (LastAxisNorm, "LayerNorm")],
)  # fmt: skip
def test_channels_under_another_normalisation_stay_and_the_reason_is_told(middle, kind):
    pruned = prune(Around(middle()), example(), ratio=0.5)
    (name, reason) = pruned.left[0]
    assert name == "before" and f"{kind}, whose channels are not cut" in reason
    assert pruned.model.before.out_channels == 16 and pruned.model.after.out_channels == 8


@pytest.mark.parametrize(
    ("middle", "reads", "word"),
    [(lambda: nn.PixelShuffle(2), 4, "PixelShuffle"), (Attention, 16, "Softmax")],
)
def test_what_mixes_channels_is_left_whole_and_the_rest_is_pruned(middle, reads, word):
    pruned = prune(Around(middle(), reads), example(), ratio=0.5)
    assert word in dict(pruned.left)["before"] and "before" in pruned.describe_left()
    assert (pruned.model.before.out_channels, pruned.model.after.out_channels) == (16, 8)


def test_a_forward_that_fails_is_one_line():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("first\nsecond")

    with pytest.raises(InputError, match="does not run on an input of shape") as caught:
        prune(Around(Failing()), example(), ratio=0.5)
    assert "\n" not in str(caught.value)
