"""The residual U-Net of the examples without BatchNorm: every one folds backwards, exactly."""

import pytest
import torch
from quantisation.refused_networks import Around, Call, by_values, upsample
from quantisation.residual_networks import residual_unet
from torch import nn

from edgelung.converters.passes import measure_difference, restructure, split_sigmoid
from edgelung.errors import ConversionError


def probe(size=48, seed=0):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("down", ["pool", "convolution"])
def test_every_batchnorm_folds_backwards_and_the_border_is_exact(down):
    model = residual_unet(down=down)
    result = restructure(model, probe())
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sorted(result.folded) == sorted(norms)
    assert (result.exactness, result.output) == ("exact", "logit")
    assert (result.constants, result.convolutions, result.left) == ((), (), ())
    assert result.difference.relative < 1e-12 and result.difference.wrong_pixels == 0


def test_another_network_is_not_taken_for_it():
    logits, _ = split_sigmoid(residual_unet().double())
    result = restructure(residual_unet(), probe())
    with torch.no_grad():
        result.model.get_submodule("level0.shortcut.0").bias[0] += 0.1
    assert measure_difference(logits, result.model, probe(seed=3)).wrong_pixels > 0


@pytest.mark.parametrize("middle", [upsample, lambda: upsample(align_corners=True), lambda: upsample(mode="nearest")])
def test_a_batchnorm_before_resizing_folds_into_the_next_convolution(middle):
    model = Around(nn.Sequential(nn.BatchNorm2d(16), middle())).eval()
    with torch.no_grad():
        model.middle[0].running_mean.uniform_(-1, 1)
        model.middle[0].bias.uniform_(-1, 1)
    result = restructure(model, probe())
    assert (result.folded, result.constants) == (("middle.0",), ("before",))
    assert result.difference.relative < 1e-12


def test_a_choice_by_values_is_refused_in_one_line():
    with pytest.raises(ConversionError, match=r"cannot be followed: TraceError: .*--no-restructure") as caught:
        restructure(Around(Call(by_values)), probe())
    assert caught.value.stage == "restructure" and "\n" not in str(caught.value)
