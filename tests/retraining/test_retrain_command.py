"""--prune and --qat: one call from a checkpoint to a bundle, and on from where it was interrupted."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from converters.networks import marking_unet

from edgelung.bundle import open_bundle
from edgelung.converters import Recipe, convert, verify
from edgelung.converters.loading import load_network
from edgelung.converters.models import UNetWidths
from edgelung.converters.pruning import scan_rows
from edgelung.converters.rehearsal import rehearse
from edgelung.converters.slabs import gather_slabs
from edgelung.converters.stages import restructure_network
from edgelung.converters.workspace import workspace_folder
from edgelung.errors import ConversionError, EdgelungError, InputError, VerificationError

CONVERT = importlib.import_module("edgelung.converters.convert")  # the name is the function's, too
PLANE = (128, 128)
WIDTHS = UNetWidths(7, ((4, 4), (8, 8)), ((4, 4, 4),))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrain")
    torch.save(marking_unet(WIDTHS).state_dict(), folder / "unet.pt")
    return Recipe(
        folder / "unet.pt",
        folder / "unet.bundle",
        plane=PLANE,
        prune=0.5,
        round_to=1,
        qat=True,
        preset="quick",
        calibration_slabs=4,
        verification_slabs=3,
        keep_failing=True,
    )


@pytest.fixture(scope="module")
def converted(recipe):
    return convert(recipe)


def test_a_pruned_int8_bundle_says_what_was_done(converted):
    stages = {stage.stage: stage.summary for stage in converted.manifest.provenance.stages}
    assert list(stages) == ["read", "tiles", "prune", "restructure", "recover", "qat", "onnx"]
    assert "least squares" in stages["prune"] and "phantoms" in stages["recover"]
    assert {cut.channels_out for cut in converted.layers} >= {(4, 2), (8, 4)}
    (artefact,) = converted.artefacts
    assert (artefact.target, artefact.precision) == ("onnxruntime", "int8")
    rows = {(row.metric, row.against): row for row in artefact.fidelity}
    assert rows["mask Dice", "retrained network before it was compiled"].value > 0.97
    assert rows["mean difference", "original network in float32"].limit is None
    assert rows["nodule recall", "inserted nodules"].limit is not None


def test_a_scan_tells_which_layers_bear_it(recipe, tmp_path):
    """Not what the network does with it: the conversion is the same, and so is its recipe."""
    stages = []
    scanned = convert(replace(recipe, scan=True, qat=False, output=tmp_path / "scanned.bundle"), stage=stages.append)
    plain = convert(replace(recipe, qat=False, output=tmp_path / "plain.bundle"))
    assert stages.index("scan the layers") < stages.index("prune")
    assert {one.group for one in scanned.scan} >= {"unet.down_path.0.block.0", "unet.up_path.0.up"}
    assert {one.ratio for one in scanned.scan} == {0.25, 0.5} and all(one.change > 0 for one in scanned.scan)
    _, rows = scan_rows(scanned.scan)
    assert float(rows[0][-1]) >= float(rows[-1][-1])
    assert plain.scan == () and golden_of(plain.output) == golden_of(scanned.output)
    assert plain.manifest.provenance.recipe == scanned.manifest.provenance.recipe


def test_the_recipe_in_the_bundle_tells_it_again(converted):
    assert "prune = 0.5" in converted.manifest.provenance.recipe
    assert "qat = true" in converted.manifest.provenance.recipe


def test_the_bundle_is_a_checkpoint_of_the_network_it_holds(converted, tmp_path):
    """Rebuilt from the shapes in it, without rounding; what it says is what the int8 artefact was rounded from."""
    again = convert(Recipe(converted.output, tmp_path / "again.bundle", plane=PLANE))
    assert again.manifest.networks["unet-luna"].parameters < converted.manifest.networks["unet-luna"].parameters + 40
    with open_bundle(converted.output) as one, open_bundle(again.output) as other:
        ((hu, logits),), ((same, found),) = one.golden("unet-luna"), other.golden("unet-luna")
    np.testing.assert_array_equal(hu, same)
    expected = 1 / (1 + np.exp(-logits))
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.95
    assert again.manifest.networks["unet-luna"].weights is None  # nothing was learnt that its checkpoint has not


def test_what_was_learnt_without_rounding_is_in_the_bundle_as_it_is(recipe, tmp_path):
    made = convert(replace(recipe, qat=False, output=tmp_path / "pruned.bundle"))
    again = convert(Recipe(made.output, tmp_path / "again.bundle", plane=PLANE))
    assert golden_of(made.output) == golden_of(again.output)


def test_a_bundle_is_no_checkpoint_of_another_network(recipe, converted, tmp_path):
    spec = tmp_path / "own.toml"
    spec.write_text(SPEC)
    own = Recipe(converted.output, tmp_path / "own.bundle", arch="os:getcwd", spec=spec)
    with pytest.raises(InputError, match="holds unet-luna, not os:getcwd"):
        convert(own)
    without = convert(Recipe(recipe.source, tmp_path / "plain.bundle", plane=PLANE))
    with pytest.raises(InputError, match="holds no weights"):
        convert(Recipe(without.output, tmp_path / "again.bundle", plane=PLANE))
    with pytest.raises(InputError, match="cannot be made of itself"):
        Recipe(converted.output, converted.output, overwrite=True)


@pytest.mark.parametrize("interrupted_at", ["train with int8", "export to ONNX"])
def test_an_interrupted_conversion_goes_on_and_gives_the_same(recipe, converted, interrupted_at):
    again = replace(recipe, output=recipe.output.with_name(f"again-{len(interrupted_at)}.bundle"))

    def interrupt(stage):
        if stage == interrupted_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(again, stage=interrupt)
    assert not again.output.exists() and workspace_folder(again.output).exists()
    stages, notes = [], []
    resumed = convert(replace(again, resume=True), stage=stages.append, note=notes.append)
    assert "recover" not in stages and any("resumed after: recover" in note for note in notes)
    assert not workspace_folder(again.output).exists()
    assert resumed.manifest.provenance.stages == converted.manifest.provenance.stages
    assert golden_of(again.output) == golden_of(recipe.output)


def test_no_error_after_the_training_loses_it(recipe, tmp_path, monkeypatch):
    """Whatever ends a conversion: what was learnt is there, and other ways of compiling it go on from there."""
    own = replace(recipe, output=tmp_path / "unet.bundle", keep_failing=False, epochs=1)
    disk_full, crash = OSError(28, "No space left on device"), ConversionError("toolkit", "it crashed")
    for number, (where, error) in enumerate(
        [
            ("export", VerificationError("mask Dice", 0.1, 0.9)),
            ("answer_with_original", RuntimeError("DefaultCPUAllocator: not enough memory")),
            ("ArtefactMaker", crash),
            ("_manifest", disk_full),
        ]
    ):
        stages = []

        def fail(*_args, error=error, **_options):
            raise error

        with monkeypatch.context() as broken, pytest.raises(EdgelungError) as caught:
            broken.setattr(CONVERT, where, fail)
            convert(replace(own, resume=number > 0), stage=stages.append)
        assert "finished and kept: recover, qat; go on with --resume, where --target" in str(caught.value)
        assert ("train with int8" in stages) is (number == 0)
        assert not own.output.exists() and workspace_folder(own.output).exists()
    stages = []
    done = convert(replace(own, resume=True, verification_slabs=2, keep_failing=True), stage=stages.append)
    assert not {"recover", "train with int8", "rehearse what comes after the training"} & set(stages)
    assert done.artefacts[0].fidelity[0].samples == 2 and not workspace_folder(own.output).exists()


def golden_of(path):
    with open_bundle(path) as bundle:
        ((_, output),) = bundle.golden("unet-luna")
        return np.asarray(output).tobytes()


def of_squashed(recipe, folder, monkeypatch, activation):
    """A recipe for a network with an activation of one's choice."""
    (folder / "squashed.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        f"    parts = nn.Conv2d(7, 4, 3, padding=1), nn.{activation}(), nn.Conv2d(4, 1, 1), nn.Sigmoid()\n"
        "    return nn.Sequential(*parts)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "squashed", raising=False)
    import squashed

    model = squashed.build()
    with torch.no_grad():
        model[2].weight.mul_(30)
    torch.save(model.state_dict(), folder / "own.pt")
    spec = folder / "own.toml"
    spec.write_text(SPEC)
    return replace(recipe, source=folder / "own.pt", arch="squashed:build", spec=spec, output=folder / "own.bundle")


def test_what_cannot_be_int8_is_refused_before_it_is_trained(recipe, tmp_path, monkeypatch):
    own, stages = of_squashed(recipe, tmp_path, monkeypatch, "SiLU"), []
    with pytest.raises(ConversionError, match=r"SiLU.*has no int8 form"):
        convert(own, stage=stages.append)
    assert "recover" not in stages and not own.output.exists()


@pytest.mark.parametrize("qat", [True, False])
@pytest.mark.parametrize("broken", ["export", "compile"])
def test_what_cannot_be_exported_or_compiled_is_refused_before_it_is_trained(
    recipe, tmp_path, monkeypatch, broken, qat
):
    own, stages = of_squashed(recipe, tmp_path, monkeypatch, "ReLU"), []
    own = replace(own, qat=qat, targets=("rk3588s",) if broken == "compile" else ("onnxruntime",))

    def fail(graph, *_args, **_options):
        assert graph.exists()
        raise ConversionError("toolkit", "no layer for it")

    def altered(path, run=verify.onnx_function):
        return lambda tensor: -run(path)(tensor)

    if broken == "compile":
        monkeypatch.setattr(CONVERT, "find", lambda version: object())
        monkeypatch.setattr("edgelung.converters.rehearsal.build_rknn", fail)
    for module in ("rehearsal", "verify") if broken == "export" else ():
        monkeypatch.setattr(f"edgelung.converters.{module}.onnx_function", altered)
    with pytest.raises(EdgelungError) as caught:
        convert(own, stage=stages.append)
    assert stages[-1] == "rehearse what comes after the training" and "--resume" not in str(caught.value)
    assert [path.name for path in tmp_path.glob("*.bundle*")] + [path.name for path in tmp_path.glob(".*")] == []


def test_a_rehearsal_keeps_nothing_and_passes_what_is_right(recipe, tmp_path, monkeypatch):
    own = of_squashed(recipe, tmp_path, monkeypatch, "ReLU")
    built = []
    monkeypatch.setattr("edgelung.converters.rehearsal.build_rknn", lambda *args, **options: built.append(options))
    for changes in ({"qat": True}, {"qat": False, "ptq": "mmse"}, {"qat": False, "precision": "fp16"}):
        asked = replace(own, targets=("rk3588s",), **changes)
        record = load_network(asked)
        slabs = gather_slabs(asked, record.spec)
        rehearse(asked, restructure_network(record, slabs.golden, asked.route), slabs, object())
    assert [options["algorithm"] for options in built] == [None, "normal", None]
    assert [len(options["fit"]) for options in built] == [0, 2, 0]
    assert not list(tmp_path.glob(".*"))


SPEC = (Path(__file__).parents[2] / "examples" / "own_network.toml").read_text()
for before, after in (
    ("[1, 5, 256, 256]", "[1, 7, 128, 128]"),
    ("[1, 1, 256, 256]", "[1, 1, 128, 128]"),
    ("before = 2", "before = 3"),
    ("after = 2", "after = 3"),
    ('quantity = "logit"', 'quantity = "probability"'),
):
    assert before in SPEC
    SPEC = SPEC.replace(before, after)
