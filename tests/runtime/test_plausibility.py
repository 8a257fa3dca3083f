"""Numbers that are not Hounsfield units are refused before anything runs, and CTs of every kind are not."""

from dataclasses import replace

import numpy as np
import pytest
from bundle_builders import axial_volume, make_bundle

from edgelung.calibration import make_phantom
from edgelung.errors import InputError
from edgelung.runtime import CTPipeline, read_series
from edgelung.runtime.plausibility import SAMPLES, SLICE_SAMPLES, SLICES, _sample, check_finite, check_hounsfield


@pytest.fixture(scope="module")
def chest():
    """A phantom's HU, int16 in -1024..; with bones, and with noise in the air around it."""
    return make_phantom(0, shape=(16, 96, 96), spacing_mm=(2.5, 3.75, 3.75)).volume.hu


def noise(hu, deviation):
    return np.random.default_rng(0).normal(0, deviation, hu.shape)


def outside_circle(hu):
    rows, columns = np.mgrid[: hu.shape[1], : hu.shape[2]]
    middle = hu.shape[1] / 2
    return (rows - middle) ** 2 + (columns - middle) ** 2 > middle**2


def padded(value, **spread):
    return lambda hu: np.where(outside_circle(hu), value + noise(hu, spread.get("spread", 0)), hu)


def wide(hu):
    """A field of view of three times the size, air around."""
    return np.pad(hu, ((0, 0), (96, 96), (96, 96)), constant_values=-1000)


def white(hu):
    """Consolidated lungs."""
    return np.where((hu < -500) & (hu > -960), 30 + noise(hu, 15), hu)


def metal(hu):
    hu = hu.copy()
    hu[:, 45:50, 45:52] = 30000
    return hu


def with_empty_end(hu):
    return np.concatenate([hu, np.full_like(hu[1:], -1024)])


CTS = {
    "as it is": lambda hu: hu,
    "three slices": lambda hu: hu[:3],
    "one slice": lambda hu: hu[4:5],
    "padding -2000": padded(-2000),
    "padding -2048": padded(-2048),
    "padding -3024": padded(-3024),
    "lossy padding": padded(-2000, spread=4),
    "two paddings": lambda hu: np.where(hu < -1010, -3024, padded(-2048)(hu)),
    "padding 0": padded(0),
    "clipped to -1000..400": lambda hu: hu.clip(-1000, 400),
    "clipped to a lung window": lambda hu: hu.clip(-1350, 150),
    "wide field of view": wide,
    "body alone": lambda hu: hu[:, 24:72, 16:80],
    "one lung alone": lambda hu: hu[:, 36:60, 19:44],
    "low dose": lambda hu: hu + noise(hu, 200),
    "emphysema": lambda hu: np.where((hu < -700) & (hu > -950), -980, hu),
    "white lungs": white,
    "metal": metal,
    "contrast": lambda hu: np.where(hu > 60, hu + 150, hu),
    "an empty end": with_empty_end,
    "float64": lambda hu: hu.astype(np.float64),
    "float16": lambda hu: hu.astype(np.float16),
    "int64": lambda hu: hu.astype(np.int64),
}


@pytest.mark.parametrize("kind", CTS)
def test_a_ct_is_taken_whatever_it_shows(chest, kind):
    assert check_hounsfield(axial_volume(CTS[kind](chest))) == ""


def window(low, high, top):
    return lambda hu: (hu.clip(low, high) - low) / (high - low) * top


def standardized(hu):
    return (hu - hu.mean()) / hu.std()


def one_of(slice_, value):
    def change(hu):
        hu = hu.astype(np.int32)
        hu[slice_] = value(hu[slice_])
        return hu

    return change


NOT_HU = {
    "intercept missing, unsigned": (
        lambda hu: (hu + 1024).astype(np.uint16),
        r"lie in 0\.\.\d{4}, none is air",
        "subtract 1024",
    ),
    "intercept missing, padded": (lambda hu: padded(-2000)(hu + 1024), "none is air", "subtract 1024"),
    "intercept twice": (lambda hu: hu - 1024, "of them below -1500.*applied twice", "add 1024"),
    "8 bits": (lambda hu: window(-1000, 400, 255)(hu).astype(np.uint8), "8-bit picture", "windowed to 0..255"),
    "0..255 in floats": (window(-160, 240, 255.0), "8-bit picture", "before it was windowed"),
    "0..1": (window(-1000, 400, 1.0), "scaled to 0..1", "before it was scaled"),
    "-1..1": (lambda hu: window(-1000, 400, 2.0)(hu) - 1, "scaled to -1..1", "before it was scaled"),
    "thousands": (lambda hu: hu / 1000, "in thousands", "multiply by 1000"),
    "standardized": (standardized, "none is air.*mean 0", "before it was standardized"),
    "a mask": (lambda hu: (hu > -500).astype(np.uint8), "lie in 0..1, none is air.*a mask", "the CT and not its mask"),
    "labels": (lambda hu: np.digitize(hu, [-900, -500, 0, 200]), "a mask or labels", "the CT"),
    "zeros": (lambda hu: hu * 0, "every voxel is 0: nothing was measured", "export the series again"),
    "air alone": (lambda hu: hu * 0 - 1000, "every voxel is -1000", "export the series again"),
    "padding alone": (lambda hu: hu * 0 - 2000, "every voxel is -2000", "export the series again"),
    "ten times": (lambda hu: hu * 10, r"-10240\.\.\d{4}, .* below -1500", "divide by 10"),
    "a tenth": (lambda hu: hu / 10, "none is air.*ten times too small", "multiply by 10"),
    "twice": (lambda hu: hu * 2, "below -1500", "air is -1000"),
    "soft tissue window": (lambda hu: hu.clip(-160, 240), "none is air.*cuts off all below -160", "clipped"),
    "no tissue": (lambda hu: hu.clip(-1024, -400), "none is soft tissue.*cuts off all above -400", "clipped"),
    "negated": (lambda hu: -hu, "sign is inverted", "multiply by -1"),
    "unsigned by mistake": (lambda hu: hu.astype(np.uint16), "stored as unsigned", "signed 16-bit"),
    "other byte order": (lambda hu: hu.byteswap(), "below -1500", "air is -1000"),
    "window as -1000..1000": (lambda hu: window(-1000, 400, 2000)(hu) - 1000, "from 250 to 600", "air is -1000"),
    "no CT": (lambda hu: np.random.default_rng(0).gamma(2, 300, hu.shape), "none is air", "give a CT"),
    "an empty slice": (
        one_of(5, lambda hu: hu * 0),
        "1 of 16 slices hold one value.*slice 5 of 0..15 holds 0",
        "again",
    ),
    "empty slices of several values": (
        lambda hu: np.broadcast_to(-np.arange(16)[:, None, None] * 10 - 700, hu.shape),
        "16 of 16 slices hold one value throughout",
        "export",
    ),
    "two paddings alone": (lambda hu: np.where(hu > -950, -2000, -3024), "all of it padding", "give a CT"),
    "intercept missing, clipped": (
        lambda hu: np.concatenate([hu.clip(-1000) + 1024, np.full_like(hu, 24)]),
        "none is air",
        "subtract 1024",
    ),
    "one slice of 16": (one_of(slice(1, 16), lambda hu: hu * 0 - 2000), "15 of 16 slices hold one value", "again"),
    "a slice of another unit": (one_of(5, lambda hu: hu + 1500), "1 of 16 slices differ .*slice 5 has", "rescale"),
    "half of another unit": (one_of(slice(8, 16), lambda hu: hu + 1100), "8 of 16 slices differ", "rescale"),
}


@pytest.mark.parametrize("kind", NOT_HU)
def test_other_numbers_are_refused_with_what_they_are_and_the_way_out(chest, kind):
    change, seen, way_out = NOT_HU[kind]
    with pytest.raises(InputError, match=seen) as caught:
        check_hounsfield(axial_volume(change(chest)), "scan.nii")
    assert caught.value.source == "scan.nii"
    assert way_out in caught.value.hint
    assert "\n" not in str(caught.value)


def test_nothing_is_said_of_a_cause_that_nothing_speaks_for(chest):
    with pytest.raises(InputError) as caught:
        check_hounsfield(axial_volume(np.random.default_rng(0).gamma(2, 300, chest.shape)))
    assert "likely" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "NaN, the first in slice 3 of 0..15; write -1024"),
        (np.inf, "infinite, the first in slice 3"),
        (-np.inf, "infinite"),
        (1e30, "no CT number, beyond 100,000, the first in slice 3"),
        (np.finfo(np.float32).min, "no CT number"),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_numbers_that_are_none_are_counted_and_placed(chest, value, reason, order):
    hu = chest.astype(np.float32)
    hu[3, 10, 10] = hu[7, :2, 0] = value
    stored = np.ascontiguousarray(hu.transpose(order)).transpose(np.argsort(order))
    with pytest.raises(InputError, match=f"3 of 147,456 voxels are {reason}"):
        check_finite(axial_volume(stored))
    with pytest.raises(InputError, match="3 of "):
        check_hounsfield(axial_volume(hu), allow=True)  # a network's answer to them is no answer
    hu[:12] = value
    with pytest.raises(InputError, match="give a CT in Hounsfield units"):
        check_finite(axial_volume(hu))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5000), (3, 2, 2), (40, 512, 512), (3000, 40, 40), (1, 4096, 4096)])
def test_the_sample_is_bounded_and_reaches_all_slices(shape):
    sample = _sample(np.broadcast_to(np.int16(7), shape))
    assert sample.size <= max(SAMPLES, SLICES * SLICE_SAMPLES) and sample.dtype == np.float32
    assert len(sample) == shape[0] if shape[0] <= SLICES else len(sample) > SLICES // 2
    check = pytest.raises(InputError, match="every voxel is 7")
    with check:
        check_hounsfield(axial_volume(np.broadcast_to(np.int16(7), shape)))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    with CTPipeline.load(make_bundle(tmp_path_factory.mktemp("bundle") / "unet.bundle")) as pipeline:
        yield pipeline


def test_a_pipeline_refuses_files_and_volumes_before_it_runs(pipeline, chest, tmp_path, monkeypatch):
    class Idle:
        def run(self, tensor):
            pytest.fail("ran")

    wrong = axial_volume((chest + 1024).astype(np.uint16))
    np.savez(tmp_path / "scan.npz", hu=wrong.hu, spacing_mm=np.array(wrong.spacing_mm))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_session", Idle())
        for series in (wrong, tmp_path / "scan.npz"):
            with pytest.raises(InputError, match=r"subtract 1024.*--allow-implausible"):
                pipeline(series)
        with pytest.raises(InputError, match="none is air"):
            next(pipeline.iter_probabilities(wrong))
        with pytest.raises(InputError, match=r"1 of .* NaN, the first in slice 2"):
            hu = chest.astype(np.float32)
            hu[2, 3, 4] = np.nan
            pipeline(axial_volume(hu), allow_implausible=True)
    assert pipeline(axial_volume(chest)).implausible == ""


def test_what_was_allowed_is_in_the_result(pipeline, chest):
    wrong = axial_volume(chest + 1024)
    result = pipeline(wrong, allow_implausible=True)
    assert "none is air" in result.implausible
    assert result.to_json("x")["implausible"] == result.implausible
    assert len(list(pipeline.iter_probabilities(wrong, allow_implausible=True))) == 16


@pytest.mark.realdata
def test_real_cts_are_taken(realdata):
    series = [realdata / "ct" / "c3n-00247"]
    series += [path for path in (realdata / "ct" / "edge").iterdir() if path.name.endswith((".dcm", ".nii.gz"))]
    for path in series:
        axial = read_series(path).to_axial()
        assert check_hounsfield(axial) == "", path.name
        for index in range(0, axial.shape[0], 10):
            assert check_hounsfield(replace(axial, hu=axial.hu[index : index + 1])) == "", (path.name, index)
