"""Least squares for the weights of a pruned network."""

import copy

import pytest
import torch
from torch import nn

from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.converters.pruning import prune, reconstruct
from edgelung.errors import ConversionError

WIDTHS = UNetWidths(3, ((8, 8), (12, 12)), ((8, 8, 8),))


def network(seed=0):
    torch.manual_seed(seed)
    model = UNetLuna(WIDTHS)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name != "unet.last":  # half of the channels are nearly the other half
            half = len(module.weight) // 2
            with torch.no_grad():
                module.weight[half:] = 0.8 * module.weight[:half] + 0.02 * torch.randn_like(module.weight[:half])
                module.bias[half:] = 0.8 * module.bias[:half]
    with torch.no_grad():
        model.unet.last.weight.mul_(100)
    return model.eval()


def inputs(count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 3, 48, 48, generator=generator).cumsum(-1).cumsum(-2) / 20 for _ in range(count)]


def error(original, found, values):
    with torch.no_grad():
        return sum(float((original(value) - found(value)).square().mean()) for value in values)


def test_a_pruned_network_comes_nearer_on_inputs_it_was_not_fitted_to():
    original, unseen = network(), inputs(2, seed=9)
    pruned = prune(original, inputs(1)[0], ratio=0.5, calibration=inputs())
    before = error(original, pruned.model, unseen)
    done = []
    fits = reconstruct(
        original, pruned.model, pruned.kept, inputs(), samples=2000, tick=lambda now, total: done.append(now)
    )
    assert fits[0].name == "unet.down_path.0.block.0" and len(done) == len(fits) == 8
    assert all(fit.after <= fit.before for fit in fits)
    assert error(original, pruned.model, unseen) < 0.5 * before


def test_channels_that_repeat_others_are_lost_without_a_trace():
    """The last of four channels are the first again: what is left can give all that was there."""
    torch.manual_seed(2)
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)).eval()
    with torch.no_grad():
        original[0].weight[4:] = original[0].weight[:4]
        original[0].bias[4:] = original[0].bias[:4]
        shares = torch.tensor([10.0, 10, 10, 10, 0.1, 0.1, 0.1, 0.1])  # so that the copies are the small ones, and go
        original[0].weight *= shares.view(-1, 1, 1, 1)
        original[0].bias *= shares
        original[2].weight *= 10
    pruned = prune(original, inputs(1)[0], ratio=0.5, calibration=inputs())
    assert pruned.kept["0"] == (0, 1, 2, 3)
    assert error(original, pruned.model, inputs()) > 1e-4
    reconstruct(original, pruned.model, pruned.kept, inputs(), samples=2000)
    assert error(original, pruned.model, inputs(2, seed=9)) < 1e-6


def test_transposed_convolutions_are_fitted_phase_by_phase():
    torch.manual_seed(3)
    original = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ConvTranspose2d(6, 4, 2, stride=2)).eval()
    changed = copy.deepcopy(original)
    with torch.no_grad():
        changed[1].weight.normal_()
        changed[1].bias.zero_()
    kept = {"0": range(6), "1": range(4)}
    (_, fit) = reconstruct(original, changed, kept, inputs(), samples=3000)
    assert fit.before > 0.5 and fit.after < 1e-3
    torch.testing.assert_close(changed[1].weight, original[1].weight, rtol=0.05, atol=0.02)


def test_layers_that_cannot_be_fitted_stay():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1))
    before = copy.deepcopy(model.state_dict())
    assert reconstruct(model.eval(), model, {"0": range(6), "1": range(2)}, inputs()) == ()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_inputs_nothing_is_fitted():
    with pytest.raises(ConversionError, match="no inputs"):
        reconstruct(network(), network(), {}, [])


def test_kept_channels_are_those_whose_weights_stayed():
    original = network()
    pruned = prune(original, inputs(1)[0], ratio=0.5)
    first = "unet.down_path.0.block.0"
    kept = list(pruned.kept[first])
    assert set(range(8)) - set(kept) == set(pruned.dropped[first])
    rows = original.get_submodule(first).weight[kept]
    assert torch.equal(pruned.model.get_submodule(first).weight, rows)
    up = "unet.up_path.0.up"
    assert len(pruned.kept[up]) == pruned.model.get_submodule(up).out_channels
