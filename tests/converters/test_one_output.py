"""One map of a network that gives several, chosen once and kept by everything that is made of it."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, replace

import pytest
import torch
from own_spec import own_spec
from torch import nn

from edgelung.converters import Recipe, convert
from edgelung.converters.loading import load_network
from edgelung.converters.one_output import settle_output
from edgelung.converters.passes.graph import trace
from edgelung.converters.spec_file import NetworkSpec
from edgelung.errors import ConversionError, InputError
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, NetworkOutput, SlicePacking, TensorSpec

PLANE = (32, 32)
SPEC = NetworkSpec(
    "nodule-segmentation",
    NetworkInput(
        TensorSpec("ct", (1, 3, *PLANE)), IntensityRule((-1000.0, 400.0)), SlicePacking(1, 1, 1), InPlaneRule(halo_px=8)
    ),
    NetworkOutput(TensorSpec("out", (1, 1, *PLANE)), "logit"),
)
Pair = namedtuple("Pair", "seg aux")


@dataclass
class Answer:
    seg: torch.Tensor
    loss: None = None


class Gives(nn.Module):
    """Deep supervision: a map, and a coarser one that nothing of the first reads."""

    def __init__(self, wrap):
        super().__init__()
        self.first, self.head, self.aux = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 1, 1),
            nn.Conv2d(8, 1, 2, stride=2),
        )
        self.wrap = wrap

    def forward(self, x):
        x = torch.relu(self.first(x / 1000))
        return self.wrap(self.head(x), self.aux(x))


def network(wrap):
    torch.manual_seed(0)
    return Gives(wrap).eval()


def seen(model):
    torch.manual_seed(1)
    x = torch.rand(1, 3, *PLANE) * 1000
    with torch.no_grad():
        return x, model.head(torch.relu(model.first(x / 1000)))


@pytest.mark.parametrize(
    ("wrap", "key", "told"),
    [
        (lambda y, aux: [y], "", "takes 0 of the list of 1"),
        (lambda y, aux: {"out": y}, "", "takes out of the dict of 1"),
        (lambda y, aux: (y, None), "", "takes 0 of the tuple of 1"),
        (lambda y, aux: Answer(y), "", "takes seg of the Answer of 1"),
        (lambda y, aux: [y, aux], "0", "takes 0 of the list of 2"),
        (lambda y, aux: OrderedDict(out=y, aux=aux), "out", "takes out of the OrderedDict of 2"),
        (lambda y, aux: Pair(y, aux), "seg", "takes seg of the Pair of 2"),
        (lambda y, aux: {"out": {"seg": y, "aux": [aux]}}, "out.seg", "takes out.seg of the dict of 2"),
        (lambda y, aux: {1: aux, 2: y}, "2", "takes 2 of the dict of 2"),
    ],
)
def test_the_map_that_is_asked_for_is_what_the_network_gives(wrap, key, told):
    model = network(wrap)
    x, expected = seen(model)
    keys = list(model.state_dict())
    assert told in settle_output(model, SPEC, key)
    with torch.no_grad():
        assert torch.equal(model(x), expected) and torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(trace(model, x)(x), expected)
    assert list(model.state_dict()) == keys and isinstance(model, Gives)


@pytest.mark.parametrize(
    ("wrap", "key", "error", "reason"),
    [
        (
            lambda y, aux: (y, aux),
            "",
            InputError,
            r"a tuple of 2 maps: 0 \(1, 1, 32, 32\), 1 \(1, 1, 16, 16\); choose one with --output-key 0",
        ),
        (
            lambda y, aux: (y, aux),
            "2",
            InputError,
            r"output-key: the network gives no '2'; it gives 0 \(1, 1, 32, 32\)",
        ),
        (lambda y, aux: (y, aux), "1", InputError, r"the shape \(1, 1, 16, 16\), in the spec \(1, 1, 32, 32\)"),
        (lambda y, aux: y, "out", InputError, "gives one map, so 'out' chooses nothing"),
        (lambda y, aux: {"loss": 3.0}, "", ConversionError, "a dict without a tensor"),
        (lambda y, aux: None, "", ConversionError, "a NoneType without a tensor"),
        (lambda y, aux: y.double(), "", InputError, r"gives float64, in the spec float32; .*\.float\(\)"),
        (lambda y, aux: y > 0, "", InputError, "gives bool, in the spec float32"),
        (lambda y, aux: torch.complex(y, y), "", InputError, "gives complex64, in the spec float32; .*real map"),
        (lambda y, aux: y[:, 0], "", InputError, r"the shape \(1, 32, 32\), in the spec .*a channel for each"),
        (lambda y, aux: y[0, 0], "", InputError, r"the shape \(32, 32\), in the spec"),
        (lambda y, aux: y.view(3), "", ConversionError, r"does not run on the spec's input \(1, 3, 32, 32\)"),
    ],
)
def test_what_is_not_one_map_of_the_spec_is_refused(wrap, key, error, reason):
    with pytest.raises(error, match=reason):
        settle_output(network(wrap), SPEC, key)


OWN = """
import torch
from torch import nn

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.aux, self.head = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.body(x)
        return {"aux": [self.aux(x)], "out": self.head(y)}

def build():
    torch.manual_seed(3)
    return Heads()
"""


@pytest.fixture
def heads(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_heads.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(own_spec(halo_px=8))
    import own_heads

    torch.save(own_heads.build().state_dict(), tmp_path / "own.pt")
    return Recipe(
        tmp_path / "own.pt",
        tmp_path / "own.bundle",
        arch="own_heads:build",
        spec=tmp_path / "own.toml",
        output_key="out",
        verification_slabs=1,
        calibration_slabs=1,
    )


def test_a_pruned_network_keeps_its_other_heads_and_converts_again(heads):
    notes = []
    convert(replace(heads, prune=0.5, round_to=1, epochs=1, preset="quick", keep_failing=True), note=notes.append)
    assert any("takes out of the dict of 2" in note for note in notes)
    again = load_network(replace(heads, source=heads.output, output=heads.output.with_name("again.bundle")))
    assert again.model.head.in_channels == 8 and "aux.weight" in again.model.state_dict()
    assert again.reference(torch.zeros(1, 3, 64, 64).numpy()).shape == (1, 1, 64, 64)
