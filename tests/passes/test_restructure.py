"""Restructured networks against their originals, whole planes with their borders, in float64 and float32."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import PRUNED, SHALLOW, probe, unet
from torch import nn

from edgelung.converters.models import UNetWidths
from edgelung.converters.passes import (
    RK3588_FP16,
    RK3588_INT8,
    ChannelRoom,
    measure_difference,
    restructure,
    split_sigmoid,
)
from edgelung.converters.targets.onnxruntime import export_onnx
from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec
from edgelung.converters.verify import verify_onnx
from edgelung.errors import ConversionError, InputError

INTERIOR = {"border": "interior", "training_follows": True}


def batchnorms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("widths", [None, PRUNED, SHALLOW], ids=["standard", "pruned", "shallow"])
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_is_exact_up_to_the_border(widths, seed):
    model = unet(seed, widths)
    x = probe(model.widths.in_slices, 48)
    result = restructure(model, x)
    assert (result.exactness, result.output, result.left) == ("exact", "logit", ())
    assert sorted((*result.folded, *result.convolutions)) == sorted(batchnorms(model))
    assert batchnorms(result.model) == [] and result.convolutions == ("input_batchnorm",)
    logits, _ = split_sigmoid(model.double())
    assert measure_difference(logits, result.model, probe(model.widths.in_slices, 44, seed=9)).relative < 1e-5
    assert result.difference.relative < 1e-12 and result.difference.wrong_pixels == 0
    assert result.rounded.relative < 1e-5 and result.rounded.wrong_pixels == 0


width = st.integers(1, 12)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.data())
def test_exact_at_any_width_sign_and_variance(data):
    depth = data.draw(st.integers(1, 3))
    down = tuple(data.draw(st.tuples(width, width)) for _ in range(depth))
    up = tuple(data.draw(st.tuples(width, width, width)) for _ in range(depth - 1))
    widths = UNetWidths(data.draw(st.integers(1, 5)), down, up)
    model = unet(data.draw(st.integers(0, 999)), widths, negative=data.draw(st.sampled_from([0, 0.5, 1])), zero=0.2)
    x = probe(widths.in_slices, 4 * widths.stride)
    try:
        result = restructure(model.double(), x)
    except InputError as error:  # a network that died of its weights proves nothing
        assert "same everywhere" in str(error)
        return
    assert result.difference.relative < 1e-11


@pytest.mark.parametrize("room", [None, RK3588_INT8])
def test_interior_is_wrong_at_the_border_and_only_there(room):
    model = unet(3)
    result = restructure(model, probe(size=128), room=room, **INTERIOR)
    assert result.exactness == "interior" and batchnorms(result.model) == []
    difference = result.difference
    assert 0 < difference.ring_px <= model.widths.receptive_radius and difference.leaves_interior
    assert difference.relative > 1e-3 and difference.wrong_pixels > 1000  # the negative control of the exact mode
    assert "within" in result.describe() and "px of the border" in result.describe()


def test_interior_needs_training_and_a_probe_with_an_interior():
    with pytest.raises(InputError, match="must be trained"):
        restructure(unet(), probe(), border="interior")
    with pytest.raises(ConversionError, match="border everywhere"):
        restructure(unet(), probe(size=32), **INTERIOR)


def test_room_decides_where_constants_go():
    model = unet()
    kept = restructure(model, probe(), room=RK3588_INT8, otherwise="keep")
    assert kept.constants == ("unet.down_path.0.block.0", "unet.up_path.1.conv_block.block.0")  # 16 of 32
    assert dict(kept.left).keys() == set(batchnorms(kept.model)) and len(kept.left) == 8
    assert "cost more" in dict(kept.left)["unet.down_path.1.block.2"]
    assert "no convolution before it" in dict(kept.left)["input_batchnorm"]
    assert "transposed" in dict(kept.left)["unet.down_path.2.block.5"]
    assert restructure(model, probe(), room=RK3588_FP16, otherwise="keep").constants == ()
    roomy = UNetWidths(7, ((15, 15), (30, 31), (63, 50)), ((30, 24, 31), (8, 15, 11)))
    pruned = restructure(unet(0, roomy), probe(), room=RK3588_INT8, otherwise="keep")
    assert [name for name, _ in pruned.left] == ["input_batchnorm"]


def test_a_tensor_that_is_pooled_or_concatenated_needs_room_in_memory():
    # 16 channels fill a memory block of 16; behind the pooling they would move twice as many bytes.
    kept = restructure(unet(), probe(), room=ChannelRoom(memory=16, compute=32), otherwise="keep")
    assert "unet.down_path.0.block.5" in dict(kept.left)
    roomier = restructure(unet(), probe(), room=ChannelRoom(memory=1000, compute=32), otherwise="keep")
    assert "unet.down_path.0.block.5" in roomier.folded


def test_the_original_is_left_alone_and_the_result_is_the_same_every_time():
    model = unet(5).train()
    before = copy.deepcopy(model.state_dict())
    first, second = (restructure(model, probe(size=32)) for _ in range(2))
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert first.model.code == second.model.code
    states = first.model.state_dict(), second.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert {tensor.dtype for tensor in states[0].values()} == {torch.float32}


@pytest.mark.parametrize("options", [{}, INTERIOR], ids=["exact", "interior"])
def test_the_exported_graph_holds_five_kinds_of_operators(tmp_path, options):
    result = restructure(unet(), probe(), **options)
    spec = nodule_segmentation_spec(96, 96)
    report = export_onnx(result.model, spec, tmp_path / "unet.onnx", opset=13)
    assert set(report.file.operators) == {"Conv", "Relu", "ConvTranspose", "AveragePool", "Concat"}
    assert report.file.operators["Conv"] == (12 if result.convolutions else 11) and report.warnings == ()
    verify_onnx(result.model, report.file.path, [probe().float().numpy()], limit=1e-2, relative_limit=1e-5)


def test_what_cannot_be_proven_or_followed_is_refused():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConversionError, match=r"cannot be followed.*--no-restructure"):
        restructure(nn.Sequential(nn.Conv2d(1, 1, 1), Choosing()), probe(1))
    with pytest.raises(InputError, match="cannot run on a probe"):
        restructure(unet(), probe(5))
    with pytest.raises(InputError, match="same everywhere"):
        restructure(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), torch.zeros(1, 1, 8, 8))
    mixed = unet()
    mixed.unet.last.half()
    with pytest.raises(InputError, match="one float dtype"):
        restructure(mixed, probe())
