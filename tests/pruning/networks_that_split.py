"""Networks whose channels are counted by their own forward, or pass through what a trace takes for something else."""

import torch
from torch import nn
from torch.nn import functional


class Between(nn.Module):
    """Conv of 16 channels, ReLU, what is given, Conv, Conv: (N, 3, height, width) -> (N, 1, ...)."""

    def __init__(self, middle, reads):
        super().__init__()
        self.before, self.middle = nn.Conv2d(3, 16, 3, padding=1), middle
        self.after, self.last = nn.Conv2d(reads, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.last(torch.relu(self.after(self.middle(torch.relu(self.before(x))))))


class Call(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def conv(reads=16, makes=16):
    return nn.Conv2d(reads, makes, 3, padding=1)


def halves(split):
    """Two convolutions, each of one half of the channels."""
    return Call(lambda m, x: m.a(split(x)[0]) + m.b(split(x)[1]), a=conv(8), b=conv(8))


def gate(m, x):
    first, second = x.chunk(2, 1)
    return first * torch.sigmoid(second)


def swap(m, x):
    first, second = x.chunk(2, 1)
    return torch.cat([second, first], 1)


def dense(m, x):
    parts = list(x.chunk(2, 1))
    parts.append(m.a(parts[-1]))
    return torch.cat(parts, 1)


# Name -> what stands in the middle, channels that are read behind it, the layers that are left whole, their operator.
LEFT_WHOLE = {
    "chunk": (lambda: halves(lambda x: x.chunk(2, 1)), 16, {"before"}, "Split"),
    "split": (lambda: halves(lambda x: x.split(8, 1)), 16, {"before"}, "Split"),
    "slices": (lambda: halves(lambda x: (x[:, :8], x[:, 8:])), 16, {"before"}, "Slice"),
    "maxout": (lambda: Call(lambda m, x: torch.maximum(x[:, :8], x[:, 8:])), 8, {"before"}, "Maximum"),
    "gated halves": (lambda: Call(gate), 8, {"before"}, "Split"),
    "swapped halves": (lambda: Call(swap), 16, {"before"}, "Split"),
    "halves grown": (lambda: Call(dense, a=conv(8, 8)), 24, {"before", "middle.a"}, "Split"),
    "shuffled": (lambda: nn.ChannelShuffle(4), 16, {"before"}, "ChannelShuffle"),
    "one map for all": (lambda: Call(lambda m, x: x * torch.sigmoid(m.g(x)), g=conv(16, 1)), 16, {"before"}, "Mul"),
    "flipped": (lambda: Call(lambda m, x: x.flip(1)), 16, {"before"}, "Flip"),
    "chosen": (lambda: Call(lambda m, x: x[:, [3, 1, 2]]), 3, {"before"}, "Index"),
    "summed": (lambda: Call(lambda m, x: x.sum(1, keepdim=True)), 1, {"before"}, "Sum"),
    "InstanceNorm": (
        lambda: nn.Sequential(conv(), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(inplace=True)), 16,
        {"middle.0"}, "InstanceNorm2d",
    ),
}  # fmt: skip


def prelu_and_branch(m, x):
    first = m.p(x)
    return torch.cat([first, m.q(m.a(first))], 1)


def joined(activation):
    """A branch behind an activation, joined with another activation of it: MONAI's U-Net in small."""
    return Call(prelu_and_branch, a=conv(), p=activation(), q=activation())


# Name -> what stands in the middle, channels that are read behind it: pruned throughout.
PRUNED = {
    "one PReLU": (lambda: joined(nn.PReLU), 32),
    "a PReLU per channel": (lambda: joined(lambda: nn.PReLU(16)), 32),
    "a slope of its own": (
        lambda: Call(
            lambda m, x: torch.cat([x, functional.prelu(m.a(x), m.slope.weight)], 1), a=conv(), slope=nn.PReLU()
        ),
        32,
    ),
    "used again in place": (
        lambda: Call(lambda m, x: m.b(m.relu(x)) + x, b=conv(), relu=nn.ReLU(inplace=True)), 16,
    ),
    "channels weighed": (
        lambda: Call(lambda m, x: x * torch.sigmoid(m.a(x.mean((2, 3), keepdim=True))), a=nn.Conv2d(16, 16, 1)), 16,
    ),
    "LeakyReLU": (lambda: joined(lambda: nn.LeakyReLU(0.1, inplace=False)), 32),
}  # fmt: skip


class NeedsTen(nn.Module):
    """Bears half of either side, and not half of both."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = conv(3, 8), conv(3, 8), nn.Conv2d(16, 1, 1)

    def forward(self, x):
        both = torch.cat([self.a(x), self.b(x)], 1)
        if both.shape[1] < 10:
            raise RuntimeError("fewer than ten")
        return self.last(both)
