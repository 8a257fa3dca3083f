"""Each rewriting on the smallest network that needs it, what stays and why, and mistakes that the proof must catch."""

import importlib
import math
from dataclasses import replace

import pytest
import torch
from networks import probe, randomise, unet
from torch import nn

from edgelung.converters.passes import Difference, measure_difference, restructure, split_sigmoid, threshold_to_logit
from edgelung.converters.passes.affine import affine_of
from edgelung.errors import ConversionError, InputError, VerificationError


def conv(ins, outs, size=3, **options):
    return nn.Conv2d(ins, outs, size, **{"padding": size // 2, **options})


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.norm, self.last = conv(3, 4), nn.ReLU(), nn.BatchNorm2d(4), conv(4, 2)

    def forward(self, x):
        y = self.norm(self.relu(self.first(x)))
        return self.last(y + y.mean())


class Twice(nn.Module):
    """One tensor reaches one convolution on two ways: as it is, and pooled."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.pool, self.last = conv(3, 4), nn.BatchNorm2d(4), nn.AvgPool2d(2), conv(8, 2)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x):
        y = self.norm(self.first(x).relu())
        return self.last(torch.cat((y, self.up(self.pool(y))), 1))


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = conv(3, 3), nn.BatchNorm2d(3), conv(3, 2)

    def forward(self, x):
        return self.last(self.norm(self.first(self.norm(x))))


class AsFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = conv(3, 2)

    def forward(self, x):
        return self.last(nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3)))


def net(*layers, seed=0, **kind):
    return randomise(nn.Sequential(*layers), seed, **kind).double()


def after_relu(*tail, **kind):
    return net(conv(3, 4), nn.ReLU(), nn.BatchNorm2d(4), *tail, **kind)


def unit_probe(seed=0):
    return probe(3, 24, seed) / 1000


CASES = {
    "backwards": (net(conv(3, 4), nn.BatchNorm2d(4)), ("1",), (), ()),
    "backwards, groups": (net(conv(3, 6, groups=3, bias=False), nn.BatchNorm2d(6), conv(6, 2)), ("1",), (), ()),
    "backwards, transposed groups": (
        net(conv(3, 4), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)),
        ("2",),
        (),
        (),
    ),
    "1x1": (after_relu(conv(4, 2, 1)), ("2",), (), ()),
    "1x1, groups": (after_relu(conv(4, 6, 1, groups=2, bias=False)), ("2",), (), ()),
    "no padding": (after_relu(conv(4, 2, padding=0, stride=2)), ("2",), (), ()),
    "valid": (after_relu(conv(4, 2, padding="valid")), ("2",), (), ()),
    "reflect": (after_relu(conv(4, 2, padding_mode="reflect")), ("2",), (), ()),
    "zeros": (after_relu(conv(4, 2)), ("2",), ("0",), ()),
    "same, dilated": (after_relu(conv(4, 2, padding="same", dilation=2)), ("2",), ("0",), ()),
    "zeros, groups": (after_relu(conv(4, 2, groups=2)), (), (), ("2",)),
    "transposed, overlapping": (after_relu(nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)), ("2",), ("0",), ()),
    "average pooling": (after_relu(nn.AvgPool2d(2), conv(4, 2)), ("2",), ("0",), ()),
    "padded average pooling": (after_relu(nn.AvgPool2d(3, 1, 1), conv(4, 2)), (), (), ("2",)),
    "maximum, rising": (after_relu(nn.MaxPool2d(2), conv(4, 2), negative=0), ("2",), ("0",), ()),
    "maximum, falling": (after_relu(nn.MaxPool2d(2), conv(4, 2), negative=1), (), (), ("2",)),
    "upsampling": (after_relu(nn.Upsample(scale_factor=2, mode="bilinear"), conv(4, 2)), ("2",), ("0",), ()),
    "leaky": (net(conv(3, 4), nn.LeakyReLU(), nn.BatchNorm2d(4), conv(4, 2)), ("2",), ("0",), ()),
    "saturating": (net(conv(3, 4), nn.ReLU6(), nn.BatchNorm2d(4), conv(4, 2)), (), (), ("2",)),
    "another activation behind": (after_relu(nn.Tanh(), conv(4, 2)), (), (), ("2",)),
    "at the end": (after_relu(), (), (), ("2",)),
    "at the start": (net(nn.BatchNorm2d(3), conv(3, 2)), (), (), ("0",)),
    "at the start, 1x1": (net(nn.BatchNorm2d(3), conv(3, 2, 1)), ("0",), (), ()),
    "without weights": (after_relu(conv(4, 4), nn.BatchNorm2d(4, affine=False)), ("2", "4"), ("0",), ()),
    "two ways": (randomise(Twice(), 0).double(), ("norm",), ("first",), ()),
    "residual": (randomise(Residual(), 0).double(), (), (), ("norm",)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_way_is_exact_and_taken_where_it_can_be(case):
    model, folded, constants, convolutions = CASES[case]
    result = restructure(model, unit_probe(), output="logit")
    assert (result.folded, result.constants, result.convolutions) == (folded, constants, convolutions)
    assert result.left == () and result.exactness == "exact"
    assert measure_difference(model, result.model, unit_probe(seed=5)).relative < 1e-13


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(conv(3, 3), nn.ReLU(), nn.BatchNorm2d(3, track_running_stats=False)), "no running statistics"),
        (SharedNorm(), "several places"),
        (AsFunction(), "called as a function"),
    ],
)
def test_what_stays_says_why(model, reason):
    result = restructure(model.eval().double(), unit_probe(), output="logit")
    ((_, told),) = dict(result.left).items() if result.left else ((None, ""),)
    assert reason in told and reason in result.describe()


def test_a_relu_that_others_use_keeps_its_scale():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last, self.other = conv(3, 4), nn.BatchNorm2d(4), conv(4, 2), conv(4, 2)

        def forward(self, x):
            y = torch.relu(self.first(x))
            return self.last(self.norm(y)) + self.other(y)

    model = randomise(Branching(), 0).double()
    result = restructure(model, unit_probe(), output="logit")
    assert result.convolutions == ("norm",)  # a constant channel would reach the other convolution as well
    assert torch.equal(result.model.first.weight, model.first.weight)


def test_channels_have_unit_spread_once_their_scale_has_moved_back():
    model = unet(2, negative=0.5, zero=0)
    result = restructure(model, probe())
    norm = model.unet.down_path[0].block[2]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    moved = result.model.get_submodule("unet.down_path.0.block.0").weight[:16]
    weight = model.unet.down_path[0].block[0].weight * scale.abs().view(-1, 1, 1, 1)
    torch.testing.assert_close(moved, weight)


def mistaken(change):
    return lambda bn: change(affine_of(bn), bn)


MISTAKES = {
    "sign of the shift": lambda a, bn: replace(a, shift=-a.shift),
    "no shift": lambda a, bn: replace(a, shift=torch.zeros_like(a.shift)),
    "no scale": lambda a, bn: replace(a, scale=torch.ones_like(a.scale)),
    "size of the scale only": lambda a, bn: replace(a, scale=a.scale.abs()),
    "no eps": lambda a, bn: replace(a, scale=a.scale * torch.sqrt((bn.running_var + bn.eps) / bn.running_var)),
    "channels exchanged": lambda a, bn: replace(a, shift=a.shift.flip(0)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("case", ["backwards", "1x1", "zeros", "average pooling", "at the start"])
def test_a_mistake_in_the_algebra_is_caught(monkeypatch, mistake, case):
    module = importlib.import_module("edgelung.converters.passes.restructure")
    monkeypatch.setattr(module, "affine_of", mistaken(MISTAKES[mistake]))
    with pytest.raises(VerificationError, match="relative difference after restructuring"):
        restructure(CASES[case][0], unit_probe(), output="logit")


def test_the_sigmoid_leaves_and_the_threshold_follows():
    model = unet(1).double()
    network, to_logit = split_sigmoid(model)
    x = probe(size=32)
    with torch.no_grad():
        probability, logit = model(x), network(x)
    torch.testing.assert_close(torch.sigmoid(logit), probability)
    for threshold in (0.01, 0.3, 0.5, 0.97):
        at = to_logit(threshold)
        assert at == pytest.approx(math.log(threshold / (1 - threshold)), abs=1e-12)
        assert torch.equal(logit >= at, probability >= threshold)
    assert to_logit(0.5) == 0.0 and not any(isinstance(module, nn.Sigmoid) for module in network.modules())


@pytest.mark.parametrize("last", [torch.sigmoid, nn.functional.sigmoid, lambda x: x.sigmoid()])
def test_a_sigmoid_is_found_in_every_spelling(last):
    class Spelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 2)

        def forward(self, x):
            return last(self.conv(x))

    assert "sigmoid" not in split_sigmoid(Spelled())[0].code


def test_a_network_without_a_sigmoid_keeps_its_end():
    model = net(conv(3, 2))
    with pytest.raises(ConversionError, match="does not end in a sigmoid"):
        split_sigmoid(model)
    assert restructure(model, unit_probe()).left == (("output", "does not end in a sigmoid"),)
    assert restructure(model, unit_probe(), output="logit").left == ()


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, math.nan])
def test_no_logit_for_what_is_no_probability(threshold):
    with pytest.raises(InputError, match="no threshold"):
        threshold_to_logit(threshold)


class Spoiled(nn.Module):
    def __init__(self, model, spoil):
        super().__init__()
        self.model, self.spoil = model, spoil

    def forward(self, x):
        return self.spoil(self.model(x).clone())


def at(y, row, column, value):
    y[..., row, column] += value
    return y


@pytest.mark.parametrize(
    ("spoil", "ring"),
    [
        (lambda y: y * (1 + 1e-6), 12),
        (lambda y: y + 1e-3, 12),
        (lambda y: y * 0, 12),
        (lambda y: y * math.nan, 12),
        (lambda y: at(y, 0, 10, 1.0), 1),
        (lambda y: at(y, 10, 21, 1.0), 3),
        (lambda y: at(y, 11, 12, -1.0), 12),
    ],
)
def test_the_proof_sees_what_is_wrong_and_where(spoil, ring):
    model = CASES["zeros"][0]
    assert measure_difference(model, model, unit_probe()) == Difference(0.0, 0.0, 1152, 0, 0, 12, 1e-9)
    difference = measure_difference(model, Spoiled(model, spoil), unit_probe())
    assert difference.relative > 1e-9 and difference.wrong_pixels > 0 and difference.ring_px == ring
    assert difference.leaves_interior == (ring < 12)
