"""Networks for tests of conversions."""

import torch

from edgelung.converters.models import UNetLuna


def answering_unet(widths=None):
    """A U-Net with random weights and BatchNorm statistics, strong enough to answer to a phantom."""
    torch.manual_seed(3)
    model = UNetLuna(widths)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.input_batchnorm.running_mean.fill_(-600)
    model.input_batchnorm.running_var.fill_(400.0**2)
    model.unet.last.weight.data.mul_(30)
    return model.eval()
