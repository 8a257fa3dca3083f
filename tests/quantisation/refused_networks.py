"""Networks with operators that have no int8 form, to see how the refusals read."""

import torch
from torch import nn
from torch.nn import functional


class Around(nn.Module):
    """Conv, ReLU, what is given, Conv, ReLU, Conv: (N, 3, height, width) -> (N, 1, ...)."""

    def __init__(self, middle, reads=16):
        super().__init__()
        self.before, self.middle = nn.Conv2d(3, 16, 3, padding=1), middle
        self.after, self.last = nn.Conv2d(reads, 16, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, x):
        return self.last(torch.relu(self.after(self.middle(torch.relu(self.before(x))))))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Attention(nn.Module):
    """Attention over all pixels, written with the shape of its input."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(16, 16, 1) for _ in range(3))

    def forward(self, x):
        count, channels, height, width = x.shape
        query, key, value = (part(x).flatten(2) for part in (self.query, self.key, self.value))
        mixed = value @ torch.softmax(query.transpose(1, 2) @ key / 4, dim=-1).transpose(1, 2)
        return x + mixed.view(count, channels, height, width)


class LastAxisNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OneConvolutionResidual(nn.Module):
    """An addition to a convolution of what it reads."""

    def __init__(self, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, groups=groups)

    def forward(self, x):
        return torch.relu(x + self.conv(x))


class PadToSkip(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(16, 16, 2, stride=2)

    def forward(self, x):
        raised = self.up(self.pool(x))
        rows = x.size(2) - raised.size(2)
        return functional.pad(raised, [0, 0, rows // 2, rows - rows // 2]) + x


def by_values(x):
    return x * 2 if x.mean() > 0 else x


def upsample(**options):
    return nn.Upsample(**{"scale_factor": 2, "mode": "bilinear", **options})


def to_skip(x):
    return functional.interpolate(functional.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")


def resized(**options):
    return Call(lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", **options))


class Own(nn.Module):
    """A number for each channel that is no layer's weight."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(16, 1, 1) + 0.5)

    def forward(self, x):
        return x * self.gamma


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(torch.relu(self.conv(x))))


def halves_of(x):
    first, second = x[:, :8], x[:, 8:]
    return torch.maximum(first, second)


def gated(x):
    return x * torch.sigmoid(x)


def shuffled(x):
    count, channels, height, width = x.shape
    return x.view(count, 4, channels // 4, height, width).transpose(1, 2).reshape(count, channels, height, width)


def padded(mode):
    return nn.Conv2d(16, 16, 3, padding=1, padding_mode=mode)


# What stands in the middle -> a part of the reason, a part of the way out.
REFUSED = {
    "GroupNorm": (lambda: nn.GroupNorm(4, 16), r"middle \(GroupNorm\)", "BatchNorm2d"),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(16), r"middle \(InstanceNorm2d\)", "BatchNorm2d"),
    "LayerNorm": (LastAxisNorm, r"middle.norm \(LayerNorm\)", "BatchNorm2d"),
    "SiLU": (nn.SiLU, r"middle \(SiLU\)", "ReLU"),
    "leaky_relu": (lambda: Call(functional.leaky_relu), r"leaky_relu \(leaky_relu\)", "ReLU"),
    "PixelShuffle": (lambda: nn.PixelShuffle(1), r"middle \(PixelShuffle\)", "ConvTranspose2d"),
    "attention": (Attention, r"matmul \(matmul\)", "without attention"),
    "values": (lambda: Call(by_values), "cannot be followed: TraceError", "--ptq"),
    "padding": (PadToSkip, r"pad \(pad\)", "stride divides"),
    "zero padding": (lambda: nn.ZeroPad2d(1), r"middle \(ZeroPad2d\) has no int8 form", "pad with zeros"),
    "reflected": (lambda: nn.ReflectionPad2d(1), r"middle \(ReflectionPad2d\) has no int8 form", "pad with zeros"),
    "a constant around": (lambda: nn.ConstantPad2d(1, 0.5), r"middle \(ConstantPad2d\)", "pad with zeros"),
    "padding_mode reflect": (lambda: padded("reflect"), "has padding_mode='reflect', which has no int8", '"zeros"'),
    "padding_mode circular": (lambda: padded("circular"), "has padding_mode='circular', which has no int8", "--ptq"),
    "pool": (lambda: nn.AdaptiveAvgPool2d(8), r"AdaptiveAvgPool2d", "nn.AvgPool2d"),
    "mean": (lambda: Call(lambda x: x.mean((2, 3), keepdim=True)), r"mean \(mean\) behind before", "whole factor"),
    "chunk": (lambda: Call(lambda x: x.chunk(2, 1)[0]), r"chunk \(chunk\) behind before", "for each part"),
    "split in two": (lambda: Call(lambda x: x.split(8, 1)[0]), r"split \(split\) behind before", "for each part"),
    "slices": (lambda: Call(halves_of), r"getitem \(slice\) behind before", "for each part"),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(4), r"middle \(ChannelShuffle\)", "1x1 convolution"),
    "shuffled": (lambda: Call(shuffled), r"\(getattr\)", "sizes as numbers"),
    "flipped": (lambda: Call(lambda x: x.flip(1)), r"flip \(flip\) behind before", "1x1 convolution"),
    "a number": (lambda: Call(lambda x: x * 0.5), r"mul \(mul\) behind before", "weights of a convolution"),
    "negative": (lambda: Call(lambda x: 1 - x), r"sub \(sub\) behind before", "bias"),
    "scale of a channel": (Own, r"middle.gamma \(Parameter\) has no int8 form", "weights of the convolution before it"),
    "a constant tensor": (lambda: Call(lambda x: x + torch.ones(1)), r"\(Tensor\) has no int8 form", "into its bias"),
    "gate": (lambda: Call(gated), r"sigmoid \(sigmoid\) behind before", "without this one"),
    "layer called twice": (Shared, r"middle.conv \(Conv2d\) is called in several places", "a layer of its own"),
    "transposed in groups": (lambda: nn.ConvTranspose2d(16, 16, 2, 2, groups=4), "transposed .* in groups", "groups=1"),
    "Linear": (lambda: nn.Linear(16, 16), r"middle \(Linear\)", "kernel_size=1"),
    "Hardtanh": (nn.Hardtanh, r"middle \(Hardtanh\)", "ReLU"),
    "PReLU": (lambda: nn.PReLU(16), r"middle \(PReLU\)", "ReLU"),
    "clamp": (lambda: Call(lambda x: x.clamp(0, 6)), r"clamp \(clamp\) behind before", "ReLU"),
    "statistics of each input": (lambda: nn.BatchNorm2d(16, track_running_stats=False), "BatchNorm2d", "running stat"),
    "dropout that is always on": (lambda: Call(lambda x: functional.dropout(x, 0.3)), r"dropout \(dropout\)", "layer"),
    "mean without padding": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), "CPU", "count_include_pad=True"),
    "divisor": (lambda: Call(lambda x: functional.avg_pool2d(x, 2, divisor_override=3)), "divisor", "convolution"),
    "aligned": (lambda: upsample(align_corners=True), "align_corners=True, which runs on the CPU", "False"),
    "antialias": (lambda: resized(antialias=True), "antialias=True", "False"),
    "recomputed": (lambda: resized(recompute_scale_factor=True), "recompute_scale_factor", "leave it out"),
    "broken factor": (lambda: upsample(scale_factor=1.5), "factor 1.5, which is no whole number", "scale_factor=2"),
    "two factors": (lambda: upsample(scale_factor=(2, 3)), r"factor \(2.0, 3.0\), at which .* apart", "scale_factor=2"),
    "size": (lambda: upsample(scale_factor=None, size=(16, 16)), "a size, not a factor", "scale_factor=2"),
    "size of a skip": (lambda: Call(to_skip), r"interpolate .* a size, not a factor", "scale_factor=2"),
    "bicubic": (lambda: upsample(mode="bicubic"), "resizes by 'bicubic'", "bilinear"),
    "nearest-exact": (lambda: upsample(mode="nearest-exact"), "operator set", 'mode="nearest"'),
    "own input": (OneConvolutionResidual, r"adds to middle.conv \(Conv2d\) what that reads", "ReLU behind"),
    "own input, depthwise": (lambda: OneConvolutionResidual(16), "what that reads", "ReLU behind"),
    "constant": (lambda: Call(lambda x: x + 1), r"add \(add\)", "bias"),
    "twice": (lambda: Call(lambda x: x.add(x, alpha=2)), r"add \(add\)", "two different tensors"),
    "rows": (lambda: Call(lambda x: torch.cat([x, x], dim=2)), r"cat \(cat\)", "dim=1"),
}  # fmt: skip
