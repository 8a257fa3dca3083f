"""Networks for tests of conversions."""

import torch

from edgelung.calibration import make_phantom
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


@torch.no_grad()
def marking_unet(widths):
    """The same, but it marks a twentieth of a phantom, with logits that spread like those of a trained network."""
    model, found = answering_unet(widths), []
    last = model.unet.last
    hook = last.register_forward_hook(lambda _layer, _inputs, logits: found.append(logits))
    phantom = make_phantom(1, shape=(7, 128, 128), spacing_mm=(2.5, 0.7, 0.7), nodules=2)
    model(torch.from_numpy(phantom.volume.hu.clip(-1000, 1000)).float()[None])
    hook.remove()
    scale = 4 / found[0].std()
    last.weight.mul_(scale)
    last.bias.copy_(scale * (last.bias - found[0].quantile(0.95)))
    return model
