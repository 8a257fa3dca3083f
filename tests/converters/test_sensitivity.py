"""A layer that int8 hurts is found, by making one that it must hurt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgelung.converters import Recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.sensitivity import choose_float_tensors, measure_sensitivity
from edgelung.converters.slabs import gather_slabs
from edgelung.converters.stages import export
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.verify import torch_function
from edgelung.errors import ConversionError


class Chain(nn.Module):
    """Four convolutions; the third one's output has a channel a thousand times larger than those that matter."""

    def __init__(self, factor=1000.0):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(7, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 1, 1)
        with torch.no_grad():
            self.first.weight.mul_(0.01)
            self.third.weight[0].mul_(factor)
            self.third.bias[0] = 10 * factor
            self.last.weight[:, 0] = 0
            self.last.weight.mul_(4)

    def forward(self, slices):
        x = torch.relu(self.first(slices))
        x = torch.relu(self.second(x))
        x = torch.relu(self.third(x))
        return torch.sigmoid(self.last(x))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    spec = nodule_segmentation_spec(96, 96)
    recipe = Recipe(Path("m.pt"), Path("b"), ptq="normal", calibration_slabs=2, verification_slabs=2)
    slabs = gather_slabs(recipe, spec)
    model = Chain().eval()
    reference = torch_function(model)
    record = ConversionRecord("n", "chain", spec, reference, "probability", "0" * 64, "none", 0, model=model)
    record, graph = export(record, slabs.golden, work / "float32.onnx")
    return graph.path, record, slabs, work


def test_the_layer_with_the_wide_range_comes_first(prepared):
    said = []
    layers = measure_sensitivity(*prepared, tick=said.append)
    assert len(layers) == len(said) == 4
    assert "third" in layers[0].node or "last" in layers[0].node  # both sides of the wide tensor
    assert layers[0].relative_rms > 5 * layers[-1].relative_rms
    assert [layer.relative_rms for layer in layers] == sorted((x.relative_rms for x in layers), reverse=True)
    assert {len(layer.tensors) for layer in layers} == {1, 2}  # the last convolution has no Relu to bring along
    assert not list(prepared[3].glob("alone*"))


def test_a_quarter_stays_float(prepared):
    layers = measure_sensitivity(*prepared)
    assert choose_float_tensors(*prepared) == layers[0].tensors


def test_a_graph_without_convolutions_is_refused(prepared, tmp_path):
    _, record, slabs, work = prepared

    class Flat(nn.Module):
        def forward(self, slices):
            return torch.sigmoid(slices[:, :1])

    flat = ConversionRecord(
        "n", "flat", record.spec, torch_function(Flat()), "probability", "0" * 64, "none", 0, model=Flat()
    )
    flat, graph = export(flat, np.asarray(slabs.golden) / 1000, tmp_path / "flat.onnx")
    with pytest.raises(ConversionError, match="no convolution"):
        measure_sensitivity(graph.path, flat, slabs, work)
