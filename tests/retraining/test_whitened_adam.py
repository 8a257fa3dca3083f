"""Adam in whitened coordinates: the same network, other steps, and where that pays."""

import copy

import numpy as np
import pytest
import torch
from converters.networks import answering_unet
from torch import nn

from edgelung.calibration import make_phantom
from edgelung.converters.models import UNetWidths
from edgelung.converters.passes import restructure
from edgelung.converters.retraining import whitened_adam
from edgelung.converters.retraining.whitened_adam import LARGEST, WhitenedAdam, read_moments


def correlated(seed, count=6):
    """Inputs whose channels hardly differ, one of them 100 times as large, none with a mean of 0."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 1, 24, 24, generator=generator)
    own = torch.randn(count, 4, 24, 24, generator=generator)
    sizes = torch.tensor([1.0, 100.0, 1.0, 0.1]).view(1, 4, 1, 1)
    return ((shared + 0.1 * own + 2) * sizes).split(1)


def student(seed=1):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2, stride=2))
    return model.eval()


@pytest.fixture(scope="module")
def restructured():
    """A U-Net without BatchNorms, and slabs of a phantom in HU."""
    phantom = make_phantom(5, shape=(16, 128, 128), spacing_mm=(2.5, 0.7, 0.7), nodules=4)
    slabs = [np.clip(phantom.volume.hu[first : first + 7], -1000, 1000) for first in range(0, 8, 2)]
    inputs = torch.from_numpy(np.stack(slabs).astype(np.float32))
    model = answering_unet(UNetWidths(7, ((4, 4), (8, 8)), ((4, 4, 4),)))
    return restructure(model, inputs[:1], border="shifts").model, inputs


def unlearnt(target, inputs, whitened, rate, steps=150):
    """Variance of a target that a disturbed copy leaves unexplained when it has been trained to give it."""
    torch.manual_seed(0)
    model = copy.deepcopy(target)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    optimizer = WhitenedAdam(model, read_moments(model, inputs.split(1)) if whitened else {}, rate)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, steps)
    losses = []
    for step in range(steps):
        crop = inputs[..., 16 * step % 64 :, 32:96][..., :64, :]
        with torch.no_grad():
            wanted = target(crop)
        loss = (model(crop) - wanted).square().mean() / wanted.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses[-10:]))


def test_it_goes_further_than_adam_at_any_rate(restructured):
    whitened = unlearnt(*restructured, whitened=True, rate=0.005)
    assert whitened < 0.5 * min(unlearnt(*restructured, whitened=False, rate=rate) for rate in (0.003, 0.01, 0.03))


def test_moments_are_those_of_what_is_read():
    model = nn.Sequential(nn.Conv2d(4, 3, 1)).eval()
    torch.nn.init.zeros_(model[0].weight)  # it answers nowhere more than elsewhere, so all places are as good
    inputs = correlated(0)
    moments = read_moments(model, inputs, samples=20_000)
    pixels = torch.cat([value[0].flatten(1).T for value in inputs]).double()
    rows = torch.cat([pixels, torch.ones(len(pixels), 1, dtype=torch.float64)], dim=1)
    assert list(moments) == ["0"] and float(moments["0"][4, 4]) == pytest.approx(1)
    torch.testing.assert_close(moments["0"], rows.T @ rows / len(rows), rtol=0.3, atol=0)
    torch.testing.assert_close(moments["0"], moments["0"].T)


def test_nothing_changes_until_there_is_a_gradient():
    inputs, model = correlated(0), student()
    before = [model(value).detach() for value in inputs]
    optimizer = WhitenedAdam(model, read_moments(model, inputs, samples=400), 0.1)
    optimizer.step()
    for value, expected in zip(inputs, before, strict=True):
        torch.testing.assert_close(model(value).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("floor", [True, False])
def test_channels_that_were_never_read_are_not_blown_up(floor, monkeypatch):
    """A ReLU that is 0 on all calibration inputs may answer to another one; its weights have to stay of a size."""
    if not floor:
        monkeypatch.setattr(whitened_adam, "QUIET", 1e-9)
    inputs, model = correlated(0), student()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = -1
    optimizer = WhitenedAdam(model, read_moments(model, inputs, samples=400), 0.005)
    largest = float(model[2].weight.detach().abs().max())
    (model(inputs[0]) - 5).square().mean().backward()
    model[2].weight.grad[2] = 1e-3  # as if something had been read there after all
    optimizer.step()
    grown = float(model[2].weight.detach().abs().max()) / largest
    assert (grown < 10) if floor else (grown > 1e5)


def test_gradients_are_forgotten_and_closures_are_called():
    inputs, model = correlated(0), student()
    optimizer = WhitenedAdam(model, read_moments(model, inputs, samples=100), 0.01)

    def closure():
        optimizer.zero_grad()
        loss = model(inputs[0]).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    assert model[0].weight.grad is not None
    optimizer.zero_grad()
    assert model[0].weight.grad is None


def test_frozen_and_large_layers_are_left_out():
    taps = LARGEST // 9
    model = nn.Sequential(nn.Conv2d(4, taps, 1), nn.Conv2d(taps, 1, 3)).eval()
    assert list(read_moments(model, correlated(0, 1), samples=50)) == ["0"]  # the second has one tap too many, its bias
    frozen = student().requires_grad_(False)
    moments = read_moments(frozen, correlated(0, 1), samples=50)
    with pytest.raises(ValueError, match="empty parameter list"):
        WhitenedAdam(frozen, moments, 0.01)
    frozen[2].requires_grad_(True)
    before = frozen[0].weight.clone()
    optimizer = WhitenedAdam(frozen, moments, 0.1)
    frozen(correlated(0)[0]).sum().backward()
    optimizer.step()
    assert torch.equal(frozen[0].weight, before)
