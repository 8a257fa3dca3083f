"""Small networks for the tests of quantisation: a U-Net as restructured, and one with an addition."""

from dataclasses import replace

import torch
from torch import nn

from edgelung.converters.models import UNetLuna, UNetWidths, get_model_entry
from edgelung.converters.passes import RK3588_INT8, restructure
from edgelung.converters.tasks import nodule_segmentation_spec

WIDTHS = UNetWidths(3, ((4, 6), (5, 7)), ((6, 3, 5),))
SIZE = 48


def batches(count=3, seed=0):
    """(2, 3, 48, 48) float32 HU each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 3, SIZE, SIZE, generator=generator) * 2000 - 1000 for _ in range(count)]


def float_unet(seed=0):
    """A U-Net without BatchNorm that gives logits."""
    torch.manual_seed(seed)
    model = UNetLuna(WIDTHS).eval()
    with torch.no_grad():
        model.input_batchnorm.running_var.fill_(400.0**2)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
    probe = torch.cat(batches(1))[:1].repeat(1, 1, 2, 2)
    return restructure(model, probe, border="interior", training_follows=True, room=RK3588_INT8).model


def unet_spec():
    """Spec of ``float_unet``."""
    spec = nodule_segmentation_spec(SIZE, SIZE, geometry=get_model_entry("unet-luna").geometry(UNetLuna(WIDTHS)))
    return replace(spec, output=replace(spec.output, quantity="logit"))


class Residual(nn.Module):
    """Three channels in, one out: an addition, a maximum, a dropout, and ReLUs of every spelling."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.drop, self.up = nn.MaxPool2d(2), nn.Dropout(0.5), nn.ConvTranspose2d(4, 1, 2, stride=2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = nn.functional.relu(x + self.third(self.second(x)))
        return self.up(self.drop(self.pool(x)))
