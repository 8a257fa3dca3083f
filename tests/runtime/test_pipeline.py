"""CTPipeline end to end on a small network whose answers are known."""

import json
import pickle

import cv2
import numpy as np
import pytest
from bundle_builders import AXIAL, axial_volume, bright_output, make_bundle, network_input

from edgelung.bundle import open_bundle
from edgelung.errors import BackendError, BundleError, InputError
from edgelung.runtime import CTPipeline, CtVolume, measure_latency, prepare_output
from edgelung.runtime.result import series_name


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "unet.bundle")


@pytest.fixture(scope="module")
def pipeline(bundle):
    with CTPipeline.load(bundle) as pipeline:
        yield pipeline


def balls(shape=(24, 64, 64), centers=((8, 20, 30), (16, 40, 12)), radius_mm=(5.0, 3.0)):
    """A chest of -900 HU with balls of 50 HU; centres are (depth, height, width) indices."""
    hu = np.full(shape, -900, np.int16)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for center, radius in zip(centers, radius_mm, strict=True):
        hu[(((grid - center) * (1.5, 0.7, 0.7)) ** 2).sum(-1) < radius**2] = 50
    return axial_volume(hu)


def test_balls_are_found_where_they_are(pipeline):
    volume = balls()
    result = pipeline(volume)
    assert len(result.findings) == 2
    for index, radius in (((8, 20, 30), 5.0), ((16, 40, 12), 3.0)):
        center = volume.index_to_lps_mm(index)
        nearest = min(result.findings, key=lambda finding: np.linalg.norm(finding.center_lps_mm - center))
        assert nearest.center_lps_mm == pytest.approx(center, abs=0.05)
        assert nearest.diameter_mm == pytest.approx(2 * radius, rel=0.08)
        assert nearest.confidence > 0.99
    assert set(result.times) == {"prepare", "infer", "stitch", "components", "frame", "measure"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_the_storage_order_of_a_series_changes_nothing_in_millimetres(pipeline, order, flip):
    axial = balls()
    flips = tuple(slice(None, None, step) for step in flip)
    first = np.array([0 if step == 1 else size - 1 for step, size in zip(flip, axial.shape, strict=True)])
    stored = CtVolume(
        axial.hu[flips].transpose(order),
        tuple(axial.spacing_mm[axis] for axis in order),
        tuple(axial.index_to_lps_mm(first)),
        (AXIAL * np.array(flip))[:, list(order)],
    )
    expected = [finding.center_lps_mm for finding in pipeline(axial).findings]
    found = [finding.center_lps_mm for finding in pipeline(stored).findings]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (40, 50), (152, 100), (65, 30)])
def test_probabilities_are_those_of_the_network_on_whole_slices(pipeline, size):
    hu = np.random.default_rng(0).integers(-1000, 300, size=(5, *size)).astype(np.int16)
    probabilities = list(pipeline.iter_probabilities(axial_volume(hu)))
    assert len(probabilities) == 5
    spec = network_input()
    padded = [max(64, -(-side // 4) * 4) for side in size]
    top, left = (max(64 - side, 0) // 2 for side in size)
    padding = [(0, 0), (top, padded[0] - size[0] - top), (left, padded[1] - size[1] - left)]
    for index, probability in enumerate(probabilities):
        stack = hu[np.clip([index - 1, index, index + 1], 0, 4)]
        whole = bright_output(np.pad(stack, padding, constant_values=-1000), spec)[0]
        np.testing.assert_allclose(probability, whole[top : top + size[0], left : left + size[1]], atol=1e-5)


@pytest.mark.parametrize("slices", [(0, 1, 0), (2, 3, 2), (1, 4, 0)])
def test_a_network_may_answer_for_several_slices_per_run(tmp_path, slices):
    bundle = make_bundle(tmp_path / "b", network_input(slices))
    with CTPipeline.load(bundle) as pipeline:
        result = pipeline(balls())
        assert pipeline.slices_per_run == slices[1]
    assert len(result.findings) == 2
    assert result.times["frame"].calls == 24


def test_logits_give_the_findings_of_probabilities(tmp_path, pipeline):
    bundle = make_bundle(tmp_path / "b", quantity="logit")
    with CTPipeline.load(bundle) as logits:
        ours, theirs = logits(balls()), pipeline(balls())
        first = next(logits.iter_probabilities(balls()))
    assert 0 <= first.min() <= first.max() <= 1
    for one, other in zip(ours.findings, theirs.findings, strict=True):
        assert one.voxels == other.voxels
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


def test_nothing_found_is_a_result_and_a_failing_engine_is_an_error(bundle, pipeline, monkeypatch):
    empty = axial_volume(np.full((3, 64, 64), -900, np.int16))
    assert pipeline(empty, allow_implausible=True).findings == ()
    with CTPipeline.load(bundle) as failing:
        monkeypatch.setattr(failing, "_session", type("Failing", (), {"run": fail, "close": lambda self: None})())
        with pytest.raises(BackendError, match="run failed"):
            failing(balls())


def fail(session, tensor):
    raise BackendError("test", "run", -1)


def test_a_volume_the_bundle_is_not_meant_for_is_refused(pipeline):
    with pytest.raises(InputError, match="slice spacing: 12 mm is outside"):
        pipeline(axial_volume(np.zeros((3, 64, 64), np.int16), spacing_mm=(12, 0.7, 0.7)))
    with pytest.raises(InputError, match="the bundle's rule allows 16"):
        pipeline(axial_volume(np.tile(balls().hu, (1, 10, 10))))
    angle = np.radians(30)
    tilt = np.array([[0, 0, 1], [-np.sin(angle), np.cos(angle), 0], [np.cos(angle), np.sin(angle), 0]])
    with pytest.raises(InputError, match=r"tilted by 30\.0 degrees"):
        pipeline(CtVolume(np.zeros((3, 64, 64), np.int16), (1, 0.7, 0.7), (0, 0, 0), tilt))


def test_a_pipeline_pickles_as_its_bundle(pipeline):
    with pickle.loads(pickle.dumps(pipeline)) as again:  # noqa: S301 - our own bytes
        assert [f.center_lps_mm for f in again(balls()).findings] == [
            f.center_lps_mm for f in pipeline(balls()).findings
        ]


def test_memory_does_not_follow_the_length_of_the_series(pipeline):
    import tracemalloc

    def peak(depth):
        volume = axial_volume(np.full((depth, 64, 64), -900, np.int16))
        tracemalloc.start()
        pipeline(volume, allow_implausible=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)
    # Per-slice timings alone grow; a float32 slice has 16 KiB. From 400 slices on the look at the numbers has its most.
    assert peak(1200) < 1.2 * peak(400) + 800 * 200


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.update(kind="x-ray"), "holds a 'x-ray' pipeline"),
        (lambda p: p["networks"].update(extra="bright"), "exactly 'segmentation'"),
        (lambda p: p["thresholds"].pop("min_diameter_mm"), "must be exactly mask_probability, min_diameter_mm"),
        (lambda p: p["thresholds"].update(mask_probability=1.5), "between 0 and 1"),
        (lambda p: p["thresholds"].update(min_diameter_mm=-1.0), "not be negative"),
    ],
)
def test_a_pipeline_record_that_makes_no_sense_is_refused(tmp_path, change, reason):
    bundle = make_bundle(tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest["pipeline"])
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=reason):
        CTPipeline.load(bundle)


def test_saved_files_agree_and_hold_no_path(pipeline, tmp_path):
    result = pipeline(balls())
    folder = tmp_path / "Jane Doe" / "out"
    report = result.save(folder, series=tmp_path / "Jane Doe" / "DOE_JANE_1950.mhd")
    assert json.loads((folder / "findings.json").read_text()) == report
    rows = (folder / "findings.csv").read_text().splitlines()
    assert rows[0] == "seriesuid,coordX,coordY,coordZ,probability"
    assert [row.split(",")[0] for row in rows[1:]] == [report["series_id"]] * 2
    assert report["series_id"].startswith("series-")
    assert cv2.imread(str(folder / "overview.png")).size > 0
    assert cv2.imread(str(folder / "finding-001.png")).shape == (64, 64, 3)
    for name in ("findings.json", "findings.csv"):
        assert "doe" not in (folder / name).read_text().lower()


def test_a_result_never_mixes_with_an_earlier_one(pipeline, tmp_path):
    pipeline(balls()).save(tmp_path)
    with pytest.raises(InputError, match="holds findings already; add --overwrite"):
        prepare_output(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    prepare_output(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    pipeline(axial_volume(np.full((3, 64, 64), -900, np.int16)), allow_implausible=True).save(tmp_path)
    assert (tmp_path / "findings.csv").read_text() == "seriesuid,coordX,coordY,coordZ,probability\n"
    assert json.loads((tmp_path / "findings.json").read_text())["findings"] == []


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("1.3.6.1.4.1.14519.5.2.1.6279.6001.105756658031515062000744821260.mhd", True),
        ("2.25.329800735698586629295641978511506172918.mhd", True),
        ("1.2.840.113619.2.55.3.279709.mhd", False),
        ("DOE_JANE.nii.gz", False),
    ],
)
def test_only_public_names_are_taken_from_files(name, public):
    volume = axial_volume(np.zeros((2, 4, 4), np.int16))
    assert (series_name(volume, name) == name.removesuffix(".mhd")) is public
    assert series_name(volume, "a.nii") == series_name(volume, "b.nii") != series_name(balls(), "a.nii")


def test_perf_measures_this_host_and_says_so(bundle):
    seen = []
    report = measure_latency(bundle, frames=12, warmup=2, progress=lambda done, total: seen.append((done, total)))
    assert report.source == "host"
    assert report.stages["frame"].calls == 12
    parts = sum(report.stages[name].total_ms for name in ("prepare", "infer", "stitch", "components"))
    assert parts <= report.stages["frame"].total_ms
    assert report.frames_per_second == pytest.approx(1e3 * 12 / report.stages["frame"].total_ms)
    assert report.golden_max_abs < 1e-4
    assert seen[-1] == (14, 14)
    json.dumps(report.to_json())


def test_perf_fails_when_the_golden_output_is_not_reproduced(tmp_path):
    import hashlib
    import io

    from edgelung.errors import VerificationError

    bundle = make_bundle(tmp_path / "b")
    golden = bundle / "golden/bright/output-0.npy"
    buffer = io.BytesIO()
    np.save(buffer, np.load(golden) * np.float32(1.01))
    golden.write_bytes(buffer.getvalue())
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["networks"]["bright"]["golden"][0]["output"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="golden output"):
        measure_latency(bundle)


def test_golden_arrays_of_another_shape_are_refused(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text())
    golden = manifest["networks"]["bright"]["golden"][0]
    golden["input"], golden["output"] = golden["output"], golden["input"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with open_bundle(bundle) as opened, pytest.raises(BundleError, match="not int16"):
        opened.golden("bright")
