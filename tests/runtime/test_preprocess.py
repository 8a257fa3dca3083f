"""Intensity, packing, padding and tiles against the plain way of doing each."""

import numpy as np
import pytest
from bundle_builders import axial_volume, bright_output, network_input
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelung.errors import InputError
from edgelung.runtime.plane import plan_plane
from edgelung.runtime.preprocess import SlicePacker, apply_intensity, check_geometry, prepare_stack
from edgelung.spec import InPlaneRule, IntensityRule

RULE = InPlaneRule(halo_px=8, align_px=4)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "uint16", "float32", "float64", ">i2"])
def test_intensity_clips_scales_and_shifts_any_number_type(dtype):
    hu = np.array([0, 40, 100, 120]).astype(dtype)
    result = apply_intensity(hu, IntensityRule((10.0, 100.0), scale=2.0, offset=-1.0))
    assert result.dtype == np.float32
    assert result.tolist() == [19.0, 79.0, 199.0, 199.0]


def test_padding_of_minus_2048_is_clipped_and_nan_is_not_hidden():
    rule = IntensityRule((-1000.0, 1000.0))
    assert apply_intensity(np.int16([-2048]), rule) == -1000.0
    assert np.isnan(apply_intensity(np.float32([np.nan]), rule))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    halo=st.integers(0, 24),
    align=st.sampled_from([1, 2, 4, 8]),
)
def test_tiles_cover_every_pixel_once_and_keep_off_inner_borders(height, width, halo, align):
    rule = InPlaneRule(halo_px=halo, align_px=align, max_tiles=10_000)
    plan = plan_plane((height, width), (64, 64), rule)
    seen = np.zeros(plan.padded, dtype=int)
    for tile in plan.tiles:
        assert (tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start) == (64, 64)
        for part, keep, end in (
            (tile.rows, tile.keep_rows, plan.padded[0]),
            (tile.columns, tile.keep_columns, plan.padded[1]),
        ):
            assert part.start % align == 0
            assert 0 <= part.start <= keep.start < keep.stop <= part.stop <= end
            assert keep.start - part.start >= halo or part.start == 0
            assert part.stop - keep.stop >= halo or part.stop == end
        seen[tile.keep_rows, tile.keep_columns] += 1
    assert (seen == 1).all()
    marked = np.zeros(plan.padded)
    plan.inner(marked)[...] = 1
    assert marked.sum() == height * width


def test_too_many_tiles_are_refused_with_the_way_out():
    with pytest.raises(InputError, match="need 25 tiles of 64x64, the bundle's rule allows 16; resample"):
        plan_plane((250, 250), (64, 64), RULE)


@settings(deadline=None)
@given(
    depth=st.integers(1, 40),
    before=st.integers(0, 4),
    outputs=st.integers(1, 4),
    after=st.integers(0, 4),
    size=st.sampled_from([(16, 16), (9, 13), (16, 30)]),
)
def test_windows_are_the_clamped_neighbours_of_every_run(depth, before, outputs, after, size):
    spec = network_input((before, outputs, after), plane=(16, 16), halo_px=2)
    hu = np.random.default_rng(depth).integers(-1200, 1200, size=(depth, *size)).astype(np.int16)
    plan = plan_plane(size, (16, 16), spec.in_plane)
    packer = SlicePacker(axial_volume(hu), spec, plan)
    for first in range(0, depth, outputs):
        wanted = np.clip(np.arange(first - before, first + outputs + after), 0, depth - 1)
        window = packer.window(first)
        assert np.array_equal(plan.inner(window), prepare_stack(hu[wanted], spec)[0])
        plan.inner(window.copy())[...] = 0
    border = window.copy()
    plan.inner(border)[...] = apply_intensity(np.float32(-1000), spec.intensity)
    assert (border == apply_intensity(np.float32(-1000), spec.intensity)).all()


def test_stitched_tiles_equal_the_network_on_the_whole_slice():
    spec = network_input((1, 1, 1), plane=(64, 64))
    hu = np.random.default_rng(3).integers(-1000, 300, size=(3, 152, 100)).astype(np.int16)
    plan = plan_plane(hu.shape[1:], (64, 64), spec.in_plane)
    whole = bright_output(hu, spec)[0]
    stitched, careless = np.empty_like(whole), np.empty_like(whole)
    for tile in plan.tiles:
        output = bright_output(hu[:, tile.rows, tile.columns], spec)
        stitched[tile.keep_rows, tile.keep_columns] = tile.kept(output)[0]
        careless[tile.rows, tile.columns] = output[0]
    np.testing.assert_allclose(stitched, whole, atol=1e-6)
    assert np.abs(careless - whole).max() > 0.01  # without the halo, tile borders would show


@pytest.mark.parametrize(
    ("spacing_mm", "field"),
    [((9.0, 0.7, 0.7), "slice spacing"), ((1.0, 3.0, 0.7), "pixel spacing"), ((1.0, 0.7, 0.1), "pixel spacing")],
)
def test_spacing_outside_of_the_rule_is_refused(spacing_mm, field):
    volume = axial_volume(np.zeros((2, 4, 4), np.int16), spacing_mm=spacing_mm)
    with pytest.raises(InputError, match="outside of") as caught:
        check_geometry(volume, RULE, "scan.mhd")
    assert caught.value.field == field
    assert str(caught.value).startswith("scan.mhd: ")


def test_spacing_at_the_limit_but_for_header_digits_is_accepted():
    check_geometry(axial_volume(np.zeros((2, 4, 4), np.int16), spacing_mm=(5.00001, 1.20001, 0.3)), RULE)
