"""Networks with random statistics for the tests of the passes."""

import torch
from torch import nn

from edgelung.converters.models import UNetLuna, UNetWidths

PRUNED = UNetWidths(7, ((5, 9), (13, 6), (17, 11)), ((7, 10, 12), (3, 15, 8)))
SHALLOW = UNetWidths(3, ((4, 6), (5, 7)), ((6, 3, 5),), out_slices=2)


def randomise(model, seed, *, negative=0.3, zero=0.1):
    """Statistics and weights as unlike a fresh network's as they can be: gammas of both signs, near and at zero."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, count):
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.running_mean.copy_(uniform(-1, 2, count))
            module.running_var.copy_(10 ** uniform(-6, 1, count))
            if module.affine:
                sign = torch.where(uniform(0, 1, count) < negative, -1.0, 1.0)
                size = torch.where(uniform(0, 1, count) < zero, 1e-7, uniform(0.2, 2, count))
                module.weight.data.copy_(sign * size * torch.sqrt(module.running_var.double() + module.eps))
                module.bias.data.copy_(uniform(-2, 2, count))
    return model.eval()


def unet(seed=0, widths=None, **kind):
    """A UNetLuna whose input normalisation is that of HU."""
    model = UNetLuna(widths)
    randomise(model, seed, **kind)
    with torch.no_grad():
        norm = model.input_batchnorm
        norm.running_mean.sub_(560)
        norm.running_var.copy_(400.0**2 * (1 + 0.1 * torch.rand(norm.num_features)))
        norm.weight.copy_(torch.linspace(0.3, 2, norm.num_features))
    return model


def probe(channels=7, size=96, seed=0, count=1):
    """(count, channels, size, size) float64 HU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator, dtype=torch.float64) * 2000 - 1000
