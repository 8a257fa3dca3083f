"""From a checkpoint to a bundle that gives the original's probabilities."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from converters.networks import answering_unet

from edgelung.bundle import open_bundle
from edgelung.calibration import make_phantom
from edgelung.calibration.metaimage_writer import write_metaimage
from edgelung.converters import Recipe, convert
from edgelung.converters.fidelity import FidelityLimits
from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.converters.route import Route
from edgelung.errors import BundleError, ConversionError, InputError, VerificationError
from edgelung.runtime import CTPipeline, CtVolume

EXAMPLES = Path(__file__).parents[2] / "examples"
PLANE = (128, 128)


@pytest.fixture(scope="module")
def network():
    return answering_unet(UNetWidths(7, ((6, 5), (7, 9), (8, 10)), ((9, 6, 7), (5, 4, 6))))


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
    assert stages == [
        "read the network",
        "choose slices",
        "export to ONNX",
        "run the original",
        "make and verify: onnxruntime",
        "write the bundle",
    ]
    return target


def test_the_bundle_gives_the_probabilities_of_the_torch_network(bundle, network):
    hu = np.random.default_rng(1).integers(-1300, 1300, size=(9, *PLANE)).astype(np.int16)
    volume = CtVolume(hu, (1.25, 0.7, 0.7), (0, 0, 0), np.eye(3)[:, ::-1])
    with CTPipeline.load(bundle) as pipeline:
        ours = np.stack(list(pipeline.iter_probabilities(volume, allow_implausible=True)))
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
    assert [stage["stage"] for stage in manifest["provenance"]["stages"]] == ["read", "tiles", "onnx"]
    assert {row["metric"] for row in network["artefacts"][0]["fidelity"]} == {
        "largest difference",
        "mean difference",
        "difference relative to spread",
        "mask recall",
        "mask precision",
        "mask Dice",
    }
    (artefact,) = network["artefacts"]
    assert artefact["latency"]["source"] == "host" and artefact["latency"]["us"] > 0
    assert artefact["layers"]["total"] == artefact["layers"]["cpu"] > 10
    assert artefact["weight_memory_kib"] == pytest.approx(4 * network["parameters"] / 1024, rel=0.2)
    assert str(checkpoint.parent) not in text
    assert checkpoint.name not in text


def test_equal_recipes_give_equal_bundles(bundle, checkpoint, tmp_path):
    convert(Recipe(checkpoint, tmp_path / "again.bundle", plane=PLANE))
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (bundle, tmp_path / "again.bundle")]
    latencies = [manifest["networks"]["unet-luna"]["artefacts"][0].pop("latency") for manifest in manifests]
    assert manifests[0] == manifests[1]  # all hashes included
    assert latencies[0]["slices_per_run"] == latencies[1]["slices_per_run"] == 1


def test_int8_for_onnxruntime_is_restructured_fitted_to_phantoms_and_verified(checkpoint, tmp_path):
    notes = []
    recipe = Recipe(checkpoint, tmp_path / "q.bundle", plane=PLANE, ptq="normal", calibration_slabs=2)
    (artefact,) = convert(recipe, note=notes.append).artefacts
    assert (artefact.precision, artefact.target, artefact.verified) == ("int8", "onnxruntime", True)
    assert artefact.layers.convert > 10
    assert any("give real CTs with --data" in note for note in notes)
    with CTPipeline.load(tmp_path / "q.bundle") as pipeline:
        manifest = pipeline.bundle.manifest
        assert pipeline.check_golden() <= artefact.golden_tolerance
    assert manifest.networks["unet-luna"].output.quantity == "logit"
    calibration = manifest.provenance.calibration
    assert (calibration.kind, calibration.slabs, calibration.holdout) == ("phantom", 2, None)
    assert [stage.stage for stage in manifest.provenance.stages] == ["read", "tiles", "restructure", "onnx"]


def test_an_artefact_below_its_limits_is_refused_or_kept_and_marked(checkpoint, tmp_path, monkeypatch):
    strict = FidelityLimits(None, 1e-9, 1.0, 1.0, 1.0)
    monkeypatch.setattr("edgelung.converters.stages.LIMITS", {"int8": strict})
    recipe = Recipe(checkpoint, tmp_path / "q.bundle", plane=PLANE, ptq="normal", calibration_slabs=2)
    with pytest.raises(VerificationError, match=r"onnxruntime int8.*--keep-failing"):
        convert(recipe)
    assert list(tmp_path.iterdir()) == []
    (artefact,) = convert(replace(recipe, keep_failing=True)).artefacts
    assert not artefact.verified
    assert any(not row.kept for row in artefact.fidelity)


def test_held_out_slices_are_verified_on_and_recorded(checkpoint, tmp_path):
    made = make_phantom(5, shape=(40, *PLANE), spacing_mm=(3.0, 2.6, 2.6), nodules=8)
    series = tmp_path / "series" / "scan.mhd"
    series.parent.mkdir()
    write_metaimage(series, made.volume)
    options = {"plane": PLANE, "ptq": "normal", "calibration_slabs": 2, "verification_slabs": 3}
    recipe = Recipe(checkpoint, tmp_path / "q.bundle", data=series, holdout=(12, 24), keep_failing=True, **options)
    notes = []
    result = convert(recipe, note=notes.append)
    assert notes[:2] == ["network: weights under model_state", "data: one CT series"]
    assert notes[2].startswith("tiles: mask Dice 1.0000")
    (artefact,) = result.artefacts
    assert {row.data for row in artefact.fidelity} == {"held-out slabs"}
    assert {row.samples for row in artefact.fidelity} == {3}
    calibration = result.manifest.provenance.calibration
    assert (calibration.kind, calibration.holdout, calibration.gap) == ("series", (12, 24), 7)
    assert "scan" not in (tmp_path / "q.bundle" / "manifest.json").read_text()


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
name = "input"
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
name = "output"
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
        ({"targets": ("onnxruntime", "onnxruntime")}, "each target once"),
        ({"targets": ("rk3399",)}, "unknown target"),
        ({"precision": "fp16", "ptq": "normal"}, "two routes"),
        ({"precision": "fp32", "targets": ("rk3588s",)}, "does not compute in float32"),
        ({"precision": "fp16"}, "computes in float32 on a CPU.*choose --precision fp32"),
        ({"precision": "fp16", "targets": ("rk3588s", "onnxruntime")}, "leave --target onnxruntime out"),
        ({"ptq": "mmse"}, "one of the RK3588 toolkit"),
        ({"toolkit": "2.3.2"}, "no target that needs it"),
        ({"holdout": (3, 9)}, "add --data"),
        ({"data": Path("d"), "holdout": (9, 3)}, "no range of slices"),
        ({"calibration_slabs": 0}, "at least one slab"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        Recipe(**{"source": Path("m.pt"), "output": Path("b"), **options})


@pytest.mark.parametrize(
    ("options", "route", "restructures"),
    [
        ({}, Route("fp32"), False),
        ({"ptq": "normal"}, Route("int8", "normal"), True),
        ({"targets": ("rk3588",)}, Route("int8", "normal"), True),
        ({"targets": ("rk3588",), "restructure": False}, Route("int8", "normal"), False),
        ({"targets": ("rk3588", "rk3588s"), "precision": "fp16"}, Route("fp16"), True),
        ({"targets": ("rk3588s",), "ptq": "hybrid"}, Route("int8", "hybrid"), True),
    ],
)
def test_each_recipe_has_one_route(options, route, restructures):
    recipe = Recipe(Path("m.pt"), Path("b"), **options)
    assert (recipe.route, recipe.restructures) == (route, restructures)


def test_an_npu_target_without_the_toolkit_stops_at_once_with_the_command_to_run(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELUNG_HOME", str(tmp_path / "empty"))
    stages = []
    with pytest.raises(ConversionError, match=r"edgelung toolkit install 2\.3\.2"):
        convert(Recipe(checkpoint, tmp_path / "b", targets=("rk3588s",)), stage=stages.append)
    assert stages == [] and list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_any_work(checkpoint, bundle):
    stages = []
    with pytest.raises(BundleError, match="--overwrite"):
        convert(Recipe(checkpoint, bundle, plane=PLANE), stage=stages.append)
    assert stages == []


def test_nothing_is_left_when_verification_fails(checkpoint, tmp_path, monkeypatch):
    module = sys.modules["edgelung.converters.stages"]

    def export_another(model, spec, path):
        changed = UNetLuna(model.widths)
        changed.load_state_dict({key: value * 1.01 for key, value in model.state_dict().items()})
        return original(changed, spec, path)

    original = module.export_onnx
    monkeypatch.setattr(module, "export_onnx", export_another)
    with pytest.raises(VerificationError):
        convert(Recipe(checkpoint, tmp_path / "b", plane=PLANE))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported_leaves_nothing(checkpoint, tmp_path):
    with pytest.raises((ConversionError, InputError)):
        convert(Recipe(checkpoint, tmp_path / "b", plane=(130, 130)))
    assert list(tmp_path.iterdir()) == []
