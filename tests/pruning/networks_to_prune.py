"""Networks with couplings that a U-Net with concatenation does not have, and some that cannot be followed."""

import torch
from torch import nn


class Residual(nn.Module):
    """Conv, BatchNorm, ReLU twice, without biases, and an addition of the input by way of a 1x1 convolution."""

    def __init__(self, inside, outside):
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.straight = nn.Conv2d(inside, outside, 1)

    def forward(self, x):
        y = torch.relu(self.norm1(self.first(x)))
        return torch.relu(self.norm2(self.second(y)) + self.straight(x))


class ResidualUNet(nn.Module):
    """Residual blocks, bilinear upsampling and additive skips."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = Residual(3, 8), Residual(8, 16)
        self.reduce = nn.Conv2d(16, 8, 1)
        self.up1 = Residual(8, 8)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        skip = self.down1(x)
        low = self.down2(nn.functional.max_pool2d(skip, 2))
        raised = nn.functional.interpolate(self.reduce(low), scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.last(self.up1(raised + skip)))


class Mixing(nn.Module):
    """An operator between two convolutions that is given from outside."""

    def __init__(self, operator, reads=8):
        super().__init__()
        self.operator = operator
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.after = nn.Conv2d(reads, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.last(torch.relu(self.after(self.operator(self.before(x)))))


class DeadChannels(nn.Module):
    """Conv, ReLU, BatchNorm, average pooling and a concatenation, behind which a convolution reads everything.

    ``dead`` channels of the first convolution are below zero everywhere, so that they are their BatchNorm's shift.
    Their weights are the smallest, so that they go first.
    """

    def __init__(self, dead=4):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AvgPool2d(2)
        self.other = nn.Conv2d(3, 8, 2, stride=2)
        self.reader = nn.Conv2d(16, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 1)
        with torch.no_grad():
            self.first.weight[:dead] *= 1e-3
            self.reader.weight[:, 8 : 8 + dead] *= 1e-1
            self.first.bias[:dead] = -1.0
            self.norm.bias.copy_(torch.linspace(2, 5, 8))
            self.norm.running_mean.copy_(torch.linspace(-1, 1, 8))
            self.norm.weight[:dead] *= 1e-1

    def forward(self, x):
        pooled = self.pool(self.norm(torch.relu(self.first(x))))
        return self.last(torch.relu(self.reader(torch.cat([self.other(x), pooled], dim=1))))
