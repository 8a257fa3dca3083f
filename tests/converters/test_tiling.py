"""Tiles against whole slices: what a network's answer depends on, measured on the network itself."""

import numpy as np
import pytest
import torch
from own_spec import own_spec
from torch import nn

from edgelung.converters import Recipe, convert
from edgelung.converters.tiling import measure_tiling, require_tiling
from edgelung.errors import InputError
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, SlicePacking, TensorSpec

PLANE = 64


def conv(inputs=4, outputs=4, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Parts(nn.Module):
    """A stem, what is given, and a last convolution."""

    def __init__(self, middle):
        super().__init__()
        self.stem, self.middle, self.last = conv(3), middle, conv(4, 1, 1)

    def forward(self, x):
        return self.last(self.middle(torch.relu(self.stem(x))))


class PositionMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Parameter(torch.randn(1, 4, PLANE, PLANE))

    def forward(self, x):
        return x + self.map


class Excitation(nn.Module):
    """Squeeze-and-excitation: every channel is scaled by what the whole plane holds."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(4, 4, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.weights(100 * x)  # 100: strongly, as trained ones do


class Attention(nn.Module):
    def forward(self, x):
        pixels = x.flatten(2).transpose(1, 2)
        return torch.softmax(pixels @ pixels.transpose(1, 2), -1).bmm(pixels).transpose(1, 2).reshape(x.shape)


def pooled(stride):
    return nn.Sequential(nn.MaxPool2d(stride), conv(), nn.Upsample(scale_factor=stride))


def spec(halo=8, align=4, tiles=16):
    rule = InPlaneRule(halo_px=halo, align_px=align, max_tiles=tiles)
    return NetworkInput(
        TensorSpec("input", (1, 3, PLANE, PLANE)), IntensityRule((-1000.0, 1000.0)), SlicePacking(1, 1, 1), rule
    )


def measured(middle, network_input):
    torch.manual_seed(0)
    model = Parts(middle).eval()
    tensor = np.random.default_rng(0).random((1, 3, PLANE, PLANE), dtype=np.float32)

    def run(value):
        with torch.no_grad():
            return model(torch.from_numpy(value)).numpy()

    return measure_tiling(run, network_input, tensor, float(run(tensor).mean()))


@pytest.mark.parametrize(
    ("middle", "reach"),
    [(conv(), 2), (conv(kernel=9), 5), (nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()), 2)],
    ids=["conv", "wide", "batchnorm"],
)
def test_a_local_network_answers_alike_wherever_it_looks(middle, reach):
    found = measured(middle, spec())
    assert found.agrees and found.relative_rms < 1e-6 and found.dice == 1
    assert found.reach_px == reach and found.shifts == 4
    require_tiling(found, spec().in_plane, (PLANE, PLANE))


@pytest.mark.parametrize(
    "middle",
    [nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), Excitation(), Attention(), PositionMap()],
    ids=lambda module: type(module).__name__,
)
def test_a_network_that_sees_the_whole_plane_is_refused_where_tiles_are_allowed(middle):
    found = measured(middle, spec())
    assert not found.agrees and found.reach_px is None
    with pytest.raises(
        InputError, match=r"in_plane\.max_tiles: tiles of 64x64 get other .*InstanceNorm.*max_tiles = 1"
    ):
        require_tiling(found, spec().in_plane, (PLANE, PLANE))
    require_tiling(found, spec(tiles=1).in_plane, (PLANE, PLANE))


def test_a_halo_below_the_reach_is_refused_with_the_one_that_is_needed():
    found = measured(conv(kernel=21), spec(halo=4))
    with pytest.raises(InputError, match=r"in_plane\.halo_px: .*sees further; set halo_px = 11"):
        require_tiling(found, spec(halo=4).in_plane, (PLANE, PLANE))
    assert measured(conv(kernel=21), spec(halo=11)).agrees


def test_an_alignment_that_is_not_the_stride_is_found_out():
    assert measured(pooled(4), spec(halo=16)).agrees
    assert not measured(pooled(4), spec(halo=16, align=1)).agrees  # shifted by 13 pixels


def test_without_room_nothing_is_claimed():
    found = measured(conv(), spec(halo=30))
    assert found.shifts == 0 and "no room" in found.describe()


OWN = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(first, nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 1, 1))
"""


def test_conversion_measures_it_says_so_and_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole_plane.py").write_text(OWN)
    (tmp_path / "many.toml").write_text(own_spec(96, max_tiles=16))
    (tmp_path / "one.toml").write_text(own_spec(96, max_tiles=1))
    monkeypatch.syspath_prepend(tmp_path)
    from whole_plane import build

    torch.save(build().state_dict(), tmp_path / "whole_plane.pt")

    def recipe(name):
        source, arch = tmp_path / "whole_plane.pt", "whole_plane:build"
        return Recipe(source, tmp_path / f"{name}.bundle", arch=arch, spec=tmp_path / f"{name}.toml")

    with pytest.raises(InputError, match=r"in_plane\.max_tiles"):
        convert(recipe("many"))
    assert not (tmp_path / "many.bundle").exists()
    notes = []
    made = convert(recipe("one"), note=notes.append)
    assert any(note.startswith("tiles: mask Dice") and "nowhere exactly" in note for note in notes)
    assert any(stage.stage == "tiles" for stage in made.manifest.provenance.stages)
