"""Where a dropped channel's constant goes, for each kind of reader."""

import pytest
import torch
from torch import nn

from edgelung.converters.pruning import prune


def dead_network(*readers):
    """Conv, ReLU, BatchNorm with eight channels, four of them 0 before the BatchNorm, then the readers."""
    torch.manual_seed(1)
    made = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), *readers).double().eval()
    with torch.no_grad():
        made[0].bias[:4] = -100
        made[2].bias.copy_(torch.linspace(2, 5, 8))
        made[2].running_mean.copy_(torch.linspace(-1, 1, 8))
    return made


def pruned_of_dead(model):
    """The network without its dead channels, and both outputs on an input that nothing was measured on."""
    x = torch.rand(2, 1, 2, 16, 16, dtype=torch.float64)
    names = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    pruned = prune(model, x[0], ratio=0.5, importance="variance", keep=names[1:], calibration=[x[0]])
    assert pruned.dropped == {"0": (0, 1, 2, 3)}  # they vary by nothing
    with torch.inference_mode():
        return pruned.model, model(x[1]), pruned.model(x[1])


@pytest.mark.parametrize(
    ("readers", "where"),
    [
        ((nn.Conv2d(8, 5, 3), nn.Conv2d(5, 1, 1)), "bias"),
        ((nn.Conv2d(8, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 1, 1)), "running mean"),
        ((nn.Conv2d(8, 5, 3, bias=False), nn.ReLU(), nn.Conv2d(5, 1, 1)), "new bias"),
        ((nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Conv2d(8, 5, 3), nn.Conv2d(5, 1, 1)), "bias"),
        ((nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 5, 3), nn.Conv2d(5, 1, 1)), "bias"),
        ((nn.ConvTranspose2d(8, 5, 1), nn.Conv2d(5, 1, 1)), "bias"),
        ((nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), "bias"),
    ],
)
def test_a_constant_goes_into_the_reader_exactly(readers, where):
    model = dead_network(*readers)
    before = model.state_dict()
    cut, expected, found = pruned_of_dead(model)
    assert float((expected - found).abs().max()) < 1e-12 * float(expected.abs().max())
    if where == "running mean":
        assert cut[3].bias is None and not torch.equal(cut[4].running_mean, before["4.running_mean"])
    elif where == "new bias":
        assert cut[3].bias is not None and "3.bias" not in before


def test_a_transposed_convolution_with_stride_gets_the_mean_over_its_phases():
    model = dead_network(nn.ConvTranspose2d(8, 5, 2, stride=2), nn.Conv2d(5, 1, 1))
    _, expected, found = pruned_of_dead(model)
    error = found - expected
    size = float(expected.abs().max())
    assert float(error.abs().max()) > 1e-3 * size  # each phase is off by another amount
    assert float(nn.functional.avg_pool2d(error, 2).abs().max()) < 1e-12 * size  # and all four together by nothing
