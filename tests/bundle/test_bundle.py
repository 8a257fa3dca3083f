"""A bundle is complete or absent, and opens only when nothing in it was altered."""

import errno
import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest
from bundle_builders import make_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelung.bundle import BundleWriter, describe, is_bundle, open_bundle
from edgelung.errors import BundleError

MODEL = "networks/bright/onnxruntime-fp32.onnx"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("pristine") / "unet.bundle")


@pytest.fixture
def bundle(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "copy.bundle")


def edit_manifest(bundle, change):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_folder_and_a_zip_open_alike(bundle, tmp_path):
    packed = make_bundle(tmp_path / "unet.zip")
    with open_bundle(bundle) as folder, open_bundle(packed) as archive:
        assert folder.manifest == archive.manifest
        assert folder.sha256 == archive.sha256
        for record in folder.manifest.files():
            assert folder.path(record).read_bytes() == archive.path(record).read_bytes()
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(packed).infolist())
    assert zipfile.ZipFile(packed).namelist()[-1] == "manifest.json"


def test_what_is_loaded_is_the_private_copy(bundle):
    with open_bundle(bundle) as opened:
        record = opened.artefact("bright", "onnxruntime")
        before = opened.path(record).read_bytes()
        (bundle / MODEL).write_bytes(b"swapped after the check")
        assert opened.path(record).read_bytes() == before
        private = opened.path(record)
    assert not private.exists()


def test_equal_bundles_are_equal_bytes(tmp_path):
    assert make_bundle(tmp_path / "a.zip").read_bytes() == make_bundle(tmp_path / "b.zip").read_bytes()


DAMAGE = {
    "altered": (lambda b: (b / MODEL).write_bytes(b"\0" * (b / MODEL).stat().st_size), "was altered"),
    "truncated": (lambda b: (b / MODEL).write_bytes((b / MODEL).read_bytes()[:-1]), "bytes, not"),
    "missing file": (lambda b: (b / MODEL).unlink(), f"{MODEL} is missing"),
    "extra file": (lambda b: (b / "extra.py").write_text("boo"), "extra.py is not in the manifest"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "has no manifest.json"),
    "manifest no JSON": (lambda b: (b / "manifest.json").write_text("{"), "not valid JSON"),
    "a link": (lambda b: ((b / MODEL).unlink(), (b / MODEL).symlink_to("/etc/passwd")), "not a plain file"),
    "newer": (lambda b: edit_manifest(b, lambda d: d.update(format_version=2)), "newer than version 1"),
    "older": (lambda b: edit_manifest(b, lambda d: d.update(format_version=0)), "unknown format version"),
    "foreign": (lambda b: edit_manifest(b, lambda d: d.update(format="zip")), "not that of an edgelung bundle"),
    "unknown key": (lambda b: edit_manifest(b, lambda d: d.update(script="x")), "unknown key 'script'"),
    "outside path": (
        lambda b: edit_manifest(b, lambda d: d["networks"]["bright"]["artefacts"][0].update(file="../../etc/passwd")),
        "not a plain path",
    ),
    "no portable artefact": (
        lambda b: edit_manifest(b, lambda d: d["networks"]["bright"].update(artefacts=[])),
        "needs an onnxruntime artefact",
    ),
    "a recipe with escapes": (
        lambda b: edit_manifest(b, lambda d: d["provenance"].update(recipe='model = "\x1b[2J"\n')),
        "the recipe holds control characters",
    ),
    "half a character in the recipe": (
        lambda b: edit_manifest(b, lambda d: d["provenance"].update(recipe="\ud800")),
        "the recipe holds control characters",
    ),
    "an endless recipe": (
        lambda b: edit_manifest(b, lambda d: d["provenance"].update(recipe="#" * 65537)),
        "the recipe is longer than 65536 characters",
    ),
    "a recipe that is no text": (
        lambda b: edit_manifest(b, lambda d: d["provenance"].update(recipe={"prune": 0.5})),
        "provenance.recipe: expected str, got an object",
    ),
    "nan": (
        lambda b: edit_manifest(b, lambda d: d["pipeline"]["thresholds"].update(min_diameter_mm=float("nan"))),
        "NaN is not a JSON number",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_bundle_is_refused_with_its_reason(bundle, damage, reason):
    damage(bundle)
    with pytest.raises(BundleError, match=reason) as caught:
        open_bundle(bundle)
    assert str(bundle) in str(caught.value)


def test_a_board_that_no_artefact_was_made_for_is_refused(bundle):
    def for_rk3576(data):
        artefacts = data["networks"]["bright"]["artefacts"]
        artefacts[0].update(platforms=["rk3576"])

    edit_manifest(bundle, for_rk3576)
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match="no onnxruntime artefact for rk3588"):
        opened.artefact("bright", "onnxruntime", "rk3588")


@pytest.mark.parametrize("kind", ["missing", "text", "packed zip"])
def test_what_is_no_bundle_is_refused(tmp_path, pristine, kind):
    path = tmp_path / "thing.zip"
    if kind == "text":
        path.write_text("hello")
    if kind == "packed zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(pristine / "manifest.json", "manifest.json")
    with pytest.raises(BundleError):
        open_bundle(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damaged_byte_of_a_zip_is_noticed_or_harmless(pristine_zip, tmp_path, data):
    content = bytearray(pristine_zip.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content)
    with open_bundle(pristine_zip) as good:
        try:
            opened = open_bundle(damaged)
        except BundleError:
            return
        with opened:  # zip headers hold bytes without meaning, such as time stamps
            assert opened.manifest == good.manifest
            for record in good.manifest.files():
                assert opened.path(record).read_bytes() == good.path(record).read_bytes()


@pytest.fixture(scope="module")
def pristine_zip(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("zip") / "unet.zip")


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), BundleWriter(tmp_path / "b") as writer:
        writer.add_array("golden/x.npy", np.zeros(3))
        raise KeyboardInterrupt
    assert leftovers(tmp_path) == []


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    with pytest.raises(BundleError, match="No space left"), BundleWriter(tmp_path / "b"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(tmp_path) == []


def test_overwriting_is_asked_for_and_never_hits_a_folder_that_is_no_bundle(tmp_path):
    target = make_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="--overwrite"):
        make_bundle(target)
    make_bundle(target, overwrite=True)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle"):
        make_bundle(mine, overwrite=True)
    assert leftovers(tmp_path) == ["b", "thesis"]


def test_a_zip_that_is_no_bundle_is_not_overwritten(tmp_path):
    path = tmp_path / "weights.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    assert not is_bundle(path) and not is_bundle(tmp_path) and not is_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match="is no bundle"):
        BundleWriter(path, overwrite=True)


def test_weights_are_a_file_like_any_other(bundle):
    content = b"weights"
    record = {"file": "networks/weights.safetensors", "sha256": hashlib.sha256(content).hexdigest(), "size": 7}
    edit_manifest(bundle, lambda data: next(iter(data["networks"].values())).update(weights=record))
    with pytest.raises(BundleError, match=r"weights\.safetensors is missing"):
        open_bundle(bundle)
    (bundle / record["file"]).write_bytes(content)
    with open_bundle(bundle) as opened:
        (network,) = opened.manifest.networks.values()
        assert opened.path(network.weights).read_bytes() == content
    (bundle / record["file"]).write_bytes(b"WEIGHTS")
    with pytest.raises(BundleError, match="altered"):
        open_bundle(bundle)


def test_a_manifest_that_forgets_a_file_is_not_written(tmp_path, pristine):
    with open_bundle(pristine) as opened:
        manifest = opened.manifest
    with pytest.raises(BundleError, match="disagree"), BundleWriter(tmp_path / "b") as writer:
        writer.finish(manifest)
    assert leftovers(tmp_path) == []


def test_a_recipe_is_kept_as_it_is_and_bundles_without_one_still_open(bundle):
    with open_bundle(bundle) as opened:
        assert opened.manifest.provenance.recipe is None
        assert "recipe" not in describe(opened)["provenance"]
    text = '# made by hand\nfuture_option = "é😀"\n'
    edit_manifest(bundle, lambda data: data["provenance"].update(recipe=text))
    with open_bundle(bundle) as opened:
        assert opened.manifest.provenance.recipe == text


def test_the_description_lists_every_artefact_with_its_network(pristine):
    with open_bundle(pristine) as opened:
        (artefact,) = describe(opened)["artefacts"]
    assert {"network", "target", "precision", "file", "sha256", "size"} <= set(artefact)
    assert artefact["network"] == "bright"


def test_a_golden_array_that_is_none_is_refused(tmp_path):
    """Found by mutation: numpy parses the header as Python text, and its tokenizer's errors are no ValueError."""
    target = make_bundle(tmp_path / "b")
    manifest = json.loads((target / "manifest.json").read_text())
    (network,) = manifest["networks"].values()
    record = network["golden"][0]["input"]
    content = (target / record["file"]).read_bytes().replace(b"(3, 64, 64)", b"(3, 64, 64 ")
    (target / record["file"]).write_bytes(content)
    record.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    (target / "manifest.json").write_text(json.dumps(manifest))
    with open_bundle(target) as bundle, pytest.raises(BundleError, match=r"input-0\.npy is not a plain \.npy array"):
        bundle.golden("bright")


@pytest.mark.parametrize("text", ["\u2028", "a\x1b[2J", "two\nlines"])
def test_texts_that_a_terminal_would_act_on_are_refused(tmp_path, text):
    target = make_bundle(tmp_path / "b")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["provenance"]["stages"] = [{"stage": "read", "summary": text}]
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="control characters"):
        open_bundle(target)


def test_a_zip_whose_local_names_are_damaged_is_refused(tmp_path):
    """Found by mutation: the directory is whole, and the name before the data is no UTF-8 although it says so."""
    target = make_bundle(tmp_path / "b.zip")
    content = bytearray(target.read_bytes())
    with zipfile.ZipFile(target) as archive:
        start = archive.getinfo("manifest.json").header_offset
    content[start + 7] |= 0x08  # general purpose bit 11: the name is UTF-8
    content[start + 30] = 0xFF
    target.write_bytes(content)
    with pytest.raises(BundleError, match="the zip file is damaged"):
        open_bundle(target)
