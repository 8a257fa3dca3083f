"""From a checkpoint to a bundle that gives the original's probabilities."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelung.bundle import open_bundle
from edgelung.converters import Recipe, convert
from edgelung.converters import convert as convert_door
from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.errors import BundleError, ConversionError, InputError, VerificationError
from edgelung.runtime import CTPipeline, CtVolume

EXAMPLES = Path(__file__).parents[2] / "examples"
PLANE = (128, 128)


@pytest.fixture(scope="module")
def network():
    """A small U-Net with random weights and BatchNorm statistics, strong enough to answer to a phantom."""
    torch.manual_seed(3)
    model = UNetLuna(UNetWidths(7, ((6, 5), (7, 9), (8, 10)), ((9, 6, 7), (5, 4, 6))))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.input_batchnorm.running_mean.fill_(-600)
    model.input_batchnorm.running_var.fill_(400.0**2)
    model.unet.last.weight.data.mul_(30)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "pruned.pt"
    torch.save({"model_state": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    target = tmp_path_factory.mktemp("bundle") / "unet.bundle"
    stages = []
    result = convert(Recipe(checkpoint, target, plane=PLANE), stage=stages.append)
    assert result.output == target
    assert stages == ["read the network", "export to ONNX", "verify against the original", "write the bundle"]
    return target


def test_the_bundle_gives_the_probabilities_of_the_torch_network(bundle, network):
    hu = np.random.default_rng(1).integers(-1300, 1300, size=(9, *PLANE)).astype(np.int16)
    volume = CtVolume(hu, (1.25, 0.7, 0.7), (0, 0, 0), np.eye(3)[:, ::-1])
    with CTPipeline.load(bundle) as pipeline:
        ours = np.stack(list(pipeline.iter_probabilities(volume)))
    clipped = np.clip(hu, -1000, 1000).astype(np.float32)
    stacks = np.stack([clipped[np.clip(np.arange(i - 3, i + 4), 0, 8)] for i in range(9)])
    with torch.inference_mode():
        theirs = network(torch.from_numpy(stacks)).numpy()[:, 0]
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert np.abs(ours[::-1] - theirs).max() > 1e-2  # slices in reverse order would be noticed


def test_the_manifest_tells_where_the_network_came_from_and_nothing_else(bundle, checkpoint):
    text = (bundle / "manifest.json").read_text()
    manifest = json.loads(text)
    network = manifest["networks"]["unet-luna"]
    assert network["input"]["intensity"] == {
        "clip_hu": [-1000.0, 1000.0],
        "scale": 1.0,
        "offset": 0.0,
        "normalisation_in_graph": True,
    }
    assert [stage["stage"] for stage in manifest["provenance"]["stages"]] == ["read", "onnx"]
    assert {row["metric"] for row in network["artefacts"][0]["fidelity"]} == {
        "largest difference",
        "difference relative to spread",
    }
    assert str(checkpoint.parent) not in text
    assert checkpoint.name not in text


def test_equal_recipes_give_equal_bundles(bundle, checkpoint, tmp_path):
    convert(Recipe(checkpoint, tmp_path / "again.bundle", plane=PLANE))
    with open_bundle(bundle) as one, open_bundle(tmp_path / "again.bundle") as other:
        assert one.sha256 == other.sha256


def test_a_ready_onnx_model_becomes_a_bundle_too(bundle, tmp_path):
    spec = tmp_path / "mine.toml"
    spec.write_text(SPEC)
    with open_bundle(bundle) as opened:
        ready = opened.path(opened.artefact("unet-luna", "onnxruntime"))
        (tmp_path / "mine.onnx").write_bytes(ready.read_bytes())
        parameters = opened.manifest.networks["unet-luna"].parameters
    convert(Recipe(tmp_path / "mine.onnx", tmp_path / "mine.zip", spec=spec))
    with open_bundle(tmp_path / "mine.zip") as opened:
        network = opened.manifest.networks["network"]
        assert network.architecture == "onnx"
        assert network.parameters >= parameters  # statistics of BatchNorm are initialisers as well


SPEC = """
task = "nodule-segmentation"
[input.tensor]
name = "slices"
shape = [1, 7, 128, 128]
[input.intensity]
clip_hu = [-1000, 1000]
[input.packing]
before = 3
outputs = 1
after = 3
[input.in_plane]
halo_px = 32
[output.tensor]
name = "probability"
shape = [1, 1, 128, 128]
"""


def test_a_network_of_ones_own_needs_a_factory_and_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    torch.manual_seed(0)
    from importlib import import_module

    monkeypatch.syspath_prepend(str(EXAMPLES))
    factory = import_module("own_network").build
    torch.save(factory().state_dict(), tmp_path / "own.pt")
    spec = tmp_path / "own.toml"
    spec.write_text((EXAMPLES / "own_network.toml").read_text())
    recipe = Recipe(tmp_path / "own.pt", tmp_path / "own.bundle", arch="own_network:build", spec=spec)
    assert convert(recipe).manifest.networks["network"].architecture == "own_network:build"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"source": Path("m.onnx")}, "a ready .onnx model needs a description"),
        ({"source": Path("m.onnx"), "arch": "a:b"}, "has its own architecture"),
        ({"source": Path("m.pt"), "arch": "a:b"}, "--arch needs a description"),
        ({"source": Path("m.pt"), "spec": Path("s.toml")}, "has a spec of its own"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        Recipe(output=Path("b"), **options)


def test_a_place_that_is_taken_is_refused_before_any_work(checkpoint, bundle):
    stages = []
    with pytest.raises(BundleError, match="--overwrite"):
        convert(Recipe(checkpoint, bundle, plane=PLANE), stage=stages.append)
    assert stages == []


def test_nothing_is_left_when_verification_fails(checkpoint, tmp_path, monkeypatch):
    module = sys.modules["edgelung.converters.convert"]

    def export_another(model, spec, path):
        changed = UNetLuna(model.widths)
        changed.load_state_dict({key: value * 1.01 for key, value in model.state_dict().items()})
        return original(changed, spec, path)

    original = module.export_onnx
    monkeypatch.setattr(module, "export_onnx", export_another)
    with pytest.raises(VerificationError):
        convert_door(Recipe(checkpoint, tmp_path / "b", plane=PLANE))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported_leaves_nothing(checkpoint, tmp_path):
    with pytest.raises((ConversionError, InputError)):
        convert(Recipe(checkpoint, tmp_path / "b", plane=(130, 130)))
    assert list(tmp_path.iterdir()) == []
