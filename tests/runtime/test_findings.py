"""Findings: by hand, against digitised spheres and ellipsoids, and against the slow way of measuring."""

import itertools
import math

import numpy as np
import pytest
from bundle_builders import axial_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelung.runtime.components import ComponentBuilder
from edgelung.runtime.findings import measure_findings
from edgelung.volume import CtVolume


def components_of(probability, threshold=0.5):
    builder = ComponentBuilder(probability.shape[1:])
    for values in np.asarray(probability, dtype=np.float32):
        builder.add_slice(values, threshold)
    return builder.finish()


def findings_of(probability, spacing_mm=(1.5, 0.7, 0.7), **options):
    volume = axial_volume(np.zeros(np.shape(probability), dtype=np.int16), spacing_mm=spacing_mm)
    return measure_findings(components_of(probability), volume, **options)


def oblique(shape, spacing_mm, angles=(0.15, -0.1, 0.12)):
    """A volume tilted about all three axes, seen axially."""
    a, b, c = angles
    about_x = [[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]]
    about_y = [[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]]
    about_z = [[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]]
    direction = np.array(about_z) @ about_y @ about_x @ np.eye(3)[:, ::-1]
    return CtVolume(np.zeros(shape, dtype=np.int16), spacing_mm, (-40.0, 25.0, -300.0), direction)


def ellipsoid(volume, center_lps_mm, semi_axes_mm):
    """Voxels whose centres lie within an ellipsoid along the volume's (depth, height, width) axes."""
    offset = volume.index_to_lps_mm(np.moveaxis(np.indices(volume.shape), 0, -1)) - np.asarray(center_lps_mm)
    return ((offset @ volume.direction / np.asarray(semi_axes_mm)) ** 2).sum(axis=-1) <= 1


def slow_longest_axial_mm(mask, spacing_hw):
    """Largest distance between edge middles of any two pixels of one slice."""
    longest = 0.0
    for plane in mask:
        pixels = np.argwhere(plane)
        edges = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
        points = (pixels[:, np.newaxis] + edges).reshape(-1, 2) * spacing_hw
        if len(points):
            longest = max(longest, np.linalg.norm(points[:, np.newaxis] - points, axis=-1).max())
    return longest


def test_by_hand():
    """Two voxels side by side along the width, and one alone, in a volume with three different spacings."""
    probability = np.zeros((4, 5, 6), dtype=np.float32)
    probability[1, 2, 3:5] = 0.75, 0.625
    probability[3, 0, 0] = 0.875
    alone, pair = findings_of(probability, spacing_mm=(2.0, 0.5, 0.25), label="nodule")
    assert (alone.id, alone.component, alone.confidence, alone.voxels) == (1, 1, 0.875, 1)
    assert (pair.id, pair.component, pair.confidence, pair.voxels) == (2, 0, 0.75, 2)
    assert pair.label == "nodule"
    assert pair.center_index == (1.0, 2.0, 3.5)
    assert pair.center_lps_mm == pytest.approx((-50 + 3.5 * 0.25, -60 + 2 * 0.5, -70 + 2.0))
    assert pair.volume_mm3 == 0.5
    assert pair.diameter_mm == pytest.approx((6 * 0.5 / math.pi) ** (1 / 3))
    assert pair.longest_axial_mm == pytest.approx(math.hypot(0.5, 0.25))  # upper edge of one to lower edge of the other
    assert pair.bounding_box == ((1, 2), (2, 3), (3, 5))
    assert alone.longest_axial_mm == 0.5  # the larger spacing of the pixel
    assert alone.bounding_box == ((3, 4), (0, 1), (0, 1))


@pytest.mark.parametrize(
    ("pixels", "spacing_hw", "longest"),
    [
        ([(0, 0)], (0.7, 0.7), 0.7),
        ([(0, 0)], (0.5, 0.9), 0.9),
        ([(0, 0), (0, 1), (0, 2), (0, 3)], (0.7, 0.7), 2.8),
        ([(0, 0), (1, 0), (2, 0)], (0.5, 0.9), 1.5),
        ([(0, 0), (1, 1)], (1.0, 1.0), math.hypot(2, 1)),  # left edge of one to right edge of the other
        ([(0, 0), (0, 1), (1, 0), (1, 1)], (1.0, 1.0), math.hypot(2, 1)),
    ],
)
def test_longest_axial_by_hand(pixels, spacing_hw, longest):
    probability = np.zeros((3, 6, 6))
    for row, column in pixels:
        probability[1, row + 1, column + 1] = 1
    (finding,) = findings_of(probability, spacing_mm=(2.0, *spacing_hw))
    assert finding.longest_axial_mm == pytest.approx(longest)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    density=st.sampled_from([0.1, 0.3, 0.6]),
    spacing_hw=st.sampled_from([(0.7, 0.7), (0.5, 1.1), (1.2, 0.3)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_longest_axial_as_the_slow_way(shape, density, spacing_hw, seed):
    probability = np.random.default_rng(seed).random(shape) < density
    components = components_of(probability)
    volume = axial_volume(np.zeros(shape, dtype=np.int16), spacing_mm=(1.0, *spacing_hw))
    for finding in measure_findings(components, volume):
        mask = components.mask_of(finding.component)
        assert finding.longest_axial_mm == pytest.approx(slow_longest_axial_mm(mask, spacing_hw))


def test_the_slow_way_would_notice_swapped_spacings_and_another_outline():
    mask = np.zeros((2, 6, 6), dtype=bool)
    mask[0, 1:3, 1:6] = True
    (finding,) = findings_of(mask, spacing_mm=(1.0, 0.5, 1.1))
    assert finding.longest_axial_mm == pytest.approx(slow_longest_axial_mm(mask, (0.5, 1.1)))
    assert finding.longest_axial_mm != pytest.approx(slow_longest_axial_mm(mask, (1.1, 0.5)))
    assert finding.longest_axial_mm != pytest.approx(math.hypot(0.5, 4 * 1.1))  # between pixel centres
    assert finding.longest_axial_mm != pytest.approx(math.hypot(2 * 0.5, 5 * 1.1))  # between pixel corners


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 0.7), (1.5, 0.7, 0.7), (2.5, 0.6, 0.8)])
@pytest.mark.parametrize("semi_axes_mm", [(8.0, 8.0, 8.0), (5.0, 9.0, 7.0)])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.15, -0.1, 0.12)])
def test_ellipsoids_have_their_place_and_size(spacing_mm, semi_axes_mm, angles):
    volume = oblique(tuple(int(26 / spacing) for spacing in spacing_mm), spacing_mm, angles)
    center = volume.index_to_lps_mm([side / 2 - 0.3 for side in volume.shape])
    (finding,) = measure_findings(components_of(ellipsoid(volume, center, semi_axes_mm)), volume)
    assert finding.center_lps_mm == pytest.approx(tuple(center), abs=0.15)
    assert finding.diameter_mm == pytest.approx(2 * np.prod(semi_axes_mm) ** (1 / 3), rel=0.02)
    assert finding.longest_axial_mm == pytest.approx(2 * max(semi_axes_mm[1:]), abs=2 * max(spacing_mm[1:]))
    assert finding.volume_mm3 == pytest.approx(finding.voxels * np.prod(spacing_mm))
    assert volume.index_to_lps_mm(finding.center_index) == pytest.approx(finding.center_lps_mm)
    # what the tolerances would notice: a shift of one voxel, swapped axes, a scale of 5 %
    shifted = volume.index_to_lps_mm(np.add(finding.center_index, (0, 1, 0)))
    assert tuple(shifted) != pytest.approx(tuple(center), abs=0.15)
    assert tuple(center[::-1]) != pytest.approx(finding.center_lps_mm, abs=0.15)
    assert finding.diameter_mm * 1.05 != pytest.approx(2 * np.prod(semi_axes_mm) ** (1 / 3), rel=0.02)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_a_finding_stays_in_place_however_the_series_is_stored(order, signs):
    direction = np.eye(3)[:, list(order)] * np.array(signs, dtype=float)
    stored = CtVolume(np.zeros((8, 9, 10), dtype=np.int16), (1.5, 0.8, 0.6), (10.0, -20.0, 30.0), direction)
    marked = np.zeros(stored.shape, dtype=np.int16)
    marked[2:5, 6, 1:3] = 1
    truth = stored.index_to_lps_mm((3, 6, 1.5))
    axial = CtVolume(marked, stored.spacing_mm, stored.origin_mm, direction).to_axial()
    (finding,) = measure_findings(components_of(axial.hu), axial)
    assert finding.center_lps_mm == pytest.approx(tuple(truth))
    assert finding.volume_mm3 == pytest.approx(6 * 1.5 * 0.8 * 0.6)


def test_order_is_by_confidence_then_from_inferior_to_superior():
    probability = np.zeros((7, 3, 3), dtype=np.float32)
    probability[[0, 2, 4, 6], 1, 1] = 0.6, 0.9, 0.6, 0.9
    findings = findings_of(probability)
    assert [finding.id for finding in findings] == [1, 2, 3, 4]
    assert [finding.bounding_box[0][0] for finding in findings] == [2, 6, 0, 4]


def test_small_components_are_left_out_and_ids_have_no_gaps():
    probability = np.zeros((5, 9, 9), dtype=np.float32)
    probability[0, 0, 0] = 1.0
    probability[2:4, 4:6, 4:6] = 0.8
    one = (6 / math.pi) ** (1 / 3)
    sizes = {
        limit: [f.id for f in findings_of(probability, (1, 1, 1), min_diameter_mm=limit)]
        for limit in (0, one * 1.01, 9)
    }
    assert sizes == {0: [1, 2], one * 1.01: [1], 9: []}
    assert len(findings_of(probability, (1, 1, 1), min_diameter_mm=one * 0.9999)) == 2


def test_nothing_found_is_an_empty_tuple():
    assert findings_of(np.zeros((3, 4, 5))) == ()


def test_a_component_as_large_as_the_volume_is_measured_quickly():
    shape = (40, 256, 256)
    (finding,) = findings_of(np.ones(shape), spacing_mm=(1.0, 0.7, 0.7))
    assert finding.longest_axial_mm == pytest.approx(0.7 * math.hypot(256, 255))
    assert finding.center_index == (19.5, 127.5, 127.5)


def test_components_of_another_series_are_refused():
    volume = axial_volume(np.zeros((3, 4, 6), dtype=np.int16))
    with pytest.raises(ValueError, match="do not belong"):
        measure_findings(components_of(np.ones((3, 4, 5))), volume)


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="min_diameter_mm"):
        findings_of(np.ones((3, 4, 5)), min_diameter_mm=limit)
