"""Connected components from slices: the same as scipy.ndimage.label on the whole mask, for every connectivity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from edgelung.errors import InputError
from edgelung.runtime.components import ComponentBuilder
from edgelung.runtime.run_graph import roots_of

THRESHOLD = 0.5
RANK = {6: 1, 18: 2, 26: 3}
EVERY = pytest.mark.parametrize("connectivity", [6, 18, 26])
AXES = {"depth": (0, 1, 2), "height": (1, 0, 2), "width": (1, 2, 0)}


def build(probability, connectivity=26, threshold=THRESHOLD, **options):
    """Components of a (depth, height, width) volume, given slice by slice."""
    builder = ComponentBuilder(probability.shape[1:], connectivity, **options)
    for values in probability:
        builder.add_slice(values, threshold)
    return builder.finish()


def probabilities(mask, seed=0):
    """float32 values on the right side of the threshold, with the threshold itself among those that count."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, np.nextafter(THRESHOLD, 0), mask.shape)
    return np.where(mask, np.round(rng.uniform(THRESHOLD, 1, mask.shape), 1), np.minimum(low, 0.4999)).astype(
        np.float32
    )


def dense(components):
    """Label volume as scipy numbers it: component + 1, 0 outside."""
    labels = np.zeros(components.shape, dtype=np.int64)
    for component in range(len(components)):
        low, high = components.box[component]
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        labels[inside][components.mask_of(component)] = component + 1
    return labels


def check(components, probability, connectivity):
    """Everything that Components says, against scipy on the whole volume."""
    mask = probability >= np.float32(THRESHOLD)
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, RANK[connectivity]))
    numbers = np.arange(1, count + 1)
    assert len(components) == count
    np.testing.assert_array_equal(components.voxels, ndimage.sum(mask, labels, numbers))
    np.testing.assert_array_equal(components.peak, ndimage.maximum(probability, labels, numbers))
    if count:
        centers = np.array(ndimage.center_of_mass(mask, labels, numbers))
        np.testing.assert_allclose(components.index_sum / components.voxels[:, np.newaxis], centers, atol=1e-9)
        boxes = [
            [[axis.start for axis in found], [axis.stop for axis in found]] for found in ndimage.find_objects(labels)
        ]
        np.testing.assert_array_equal(components.box, boxes)
    np.testing.assert_array_equal(dense(components), labels)


@EVERY
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 11)),
    density=st.sampled_from([0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_masks_as_scipy(connectivity, shape, density, seed):
    probability = probabilities(np.random.default_rng(seed).random(shape) < density, seed)
    check(build(probability, connectivity), probability, connectivity)


@EVERY
def test_a_larger_mask_near_the_percolation_threshold(connectivity):
    """Where components are largest and most tangled: mergers chain over many slices."""
    density = {6: 0.31, 18: 0.137, 26: 0.097}[connectivity]
    probability = probabilities(np.random.default_rng(7).random((30, 60, 50)) < density)
    check(build(probability, connectivity), probability, connectivity)


def comb(axis):
    """Teeth that join only at the far end of an axis, as late as can be."""
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[:, :, ::2] = True
    mask[:8, 1::2] = False
    mask[8] = True
    return mask.transpose(AXES[axis])


def snake():
    """One path through every second row and slice, its turns at alternating ends."""
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[::2, ::2] = True
    for depth in range(0, 9, 2):
        for turn, row in enumerate(range(1, 9, 2)):
            mask[depth, row, -1 if turn % 2 == 0 else 0] = True
    for turn, depth in enumerate(range(1, 9, 2)):
        mask[depth, -1 if turn % 2 == 0 else 0, 0] = True
    return mask


def single(*points, shape=(5, 6, 7)):
    mask = np.zeros(shape, dtype=bool)
    for point in points:
        mask[point] = True
    return mask


SHAPES = {
    "empty": np.zeros((3, 4, 5), dtype=bool),
    "full": np.ones((3, 4, 5), dtype=bool),
    "one voxel volume": np.ones((1, 1, 1), dtype=bool),
    "first voxel": single((0, 0, 0)),
    "last voxel": single((4, 5, 6)),
    "corners": single(*[(d, h, w) for d in (0, 4) for h in (0, 5) for w in (0, 6)]),
    "comb along depth": comb("depth"),
    "comb along height": comb("height"),
    "comb along width": comb("width"),
    "comb upside down": comb("depth")[::-1],
    "snake": snake(),
    "snake of slices": snake().transpose(2, 0, 1),
    "checkerboard": np.indices((5, 6, 7)).sum(axis=0) % 2 == 0,
    "pillars": np.indices((5, 6, 7))[1:].sum(axis=0) % 2 == 0,
    "an empty slice between": np.repeat([[[True]], [[False]], [[True]]], 3, axis=2),
    "one column": np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool).reshape(1, 7, 1),
    "one row": np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool).reshape(1, 1, 7),
    "one voxel per slice": np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool).reshape(7, 1, 1),
}


@EVERY
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_as_scipy(name, connectivity):
    probability = probabilities(SHAPES[name])
    check(build(probability, connectivity), probability, connectivity)


@pytest.mark.parametrize(
    ("offset", "joined_by"),
    [((0, 0, 1), {6, 18, 26}), ((0, 1, 0), {6, 18, 26}), ((1, 0, 0), {6, 18, 26})]
    + [((0, 1, 1), {18, 26}), ((0, 1, -1), {18, 26}), ((1, 0, 1), {18, 26}), ((1, 0, -1), {18, 26})]
    + [((1, 1, 0), {18, 26}), ((1, -1, 0), {18, 26})]
    + [((1, s, t), {26}) for s in (1, -1) for t in (1, -1)]
    + [((0, 0, 2), set()), ((0, 2, 0), set()), ((2, 0, 0), set()), ((1, 2, 0), set()), ((1, 0, -2), set())],
)
@EVERY
def test_two_voxels_by_their_offset(offset, joined_by, connectivity):
    mask = single((2, 3, 3), tuple(np.add((2, 3, 3), offset)), shape=(5, 7, 7))
    assert len(build(probabilities(mask), connectivity)) == (1 if connectivity in joined_by else 2)


@EVERY
@pytest.mark.parametrize("other", [(0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0)])
def test_the_end_of_a_row_does_not_touch_the_start_of_the_next(other, connectivity):
    assert len(build(probabilities(single((0, 0, 6), other)), connectivity)) == 2


def test_the_numbering_survives_late_mergers():
    """The first and the third voxel meet two slices on; the second keeps its place between the two of them."""
    mask = np.zeros((3, 3, 5), dtype=bool)
    mask[0, 1, 2] = True
    mask[:, 1, [0, 4]] = True
    mask[2, 0] = True
    components = build(probabilities(mask), 6)
    assert components.voxels.tolist() == [3 + 3 + 5, 1]
    assert components.runs_of(0)[:2].tolist() == [[0, 1, 0, 0], [0, 1, 4, 4]]


def test_runs_by_component_and_by_slice_tell_the_same():
    probability = probabilities(np.random.default_rng(3).random((6, 12, 14)) < 0.2)
    components = build(probability)
    by_component = set()
    for component in range(len(components)):
        runs = components.runs_of(component).tolist()
        assert runs == sorted(runs)
        by_component |= {(component, *run) for run in runs}
        counts = components.mask_of(component).sum(axis=(1, 2))
        np.testing.assert_array_equal(components.voxels_by_slice(component), counts)
    by_slice = {
        (component, depth, row, first, last)
        for depth in range(6)
        for component, row, first, last in components.slice_runs(depth).tolist()
    }
    assert by_slice == by_component
    assert (np.diff(components.slice_runs(2)[:, 0]) >= 0).all()


def test_big_indices_are_summed_exactly():
    probability = np.ones((3, 2, 32767), dtype=np.float32)
    components = build(probability)
    sums = [int(indices.sum(dtype=np.int64)) for indices in np.indices(probability.shape, dtype=np.int64)]
    assert components.index_sum.tolist() == [sums]
    assert components.mask_of(0).all()


def test_what_the_checks_would_notice():
    """The comparison above fails when a voxel, the numbering, or a statistic is wrong."""
    probability = probabilities(np.random.default_rng(5).random((5, 8, 9)) < 0.15)
    components = build(probability, 18)
    check(components, probability, 18)
    for wrong in (probability[::-1], probability[:, :, ::-1], np.roll(probability, 1, axis=2), probability * 0):
        with pytest.raises(AssertionError):
            check(components, wrong, 18)
    for name in ("voxels", "index_sum", "peak", "box"):
        spoilt = build(probability, 18)
        object.__setattr__(spoilt, name, getattr(spoilt, name)[::-1])
        with pytest.raises(AssertionError):
            check(spoilt, probability, 18)
    with pytest.raises(AssertionError):
        check(build(probability, 6), probability, 26)


def test_components_are_read_only():
    components = build(probabilities(SHAPES["full"]))
    for name in ("runs", "offsets", "voxels", "index_sum", "peak", "box"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(components, name)[...] = 0


def test_a_slice_may_be_reused_by_the_caller():
    buffer = np.zeros((4, 5), dtype=np.float32)
    builder = ComponentBuilder((4, 5))
    for column in range(3):
        buffer[:] = 0
        buffer[1, column] = 0.9
        builder.add_slice(buffer, THRESHOLD)
    assert builder.finish().voxels.tolist() == [3]


@given(data=st.data())
def test_roots_are_the_smallest_reachable_nodes(data):
    nodes = data.draw(st.integers(1, 12))
    edges = data.draw(st.lists(st.tuples(*[st.integers(0, nodes - 1)] * 2), max_size=20))
    reach = np.eye(nodes, dtype=bool)
    for a, b in edges:
        reach[a, b] = reach[b, a] = True
    for _ in range(nodes):
        reach = reach @ reach
    a, b = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    np.testing.assert_array_equal(roots_of(nodes, a, b), reach.argmax(axis=1))


@pytest.mark.parametrize("where", [(0, 0), (3, 4)])
def test_nan_is_a_failure_and_not_an_empty_slice(where):
    values = np.zeros((4, 5), dtype=np.float32)
    values[where] = np.nan
    builder = ComponentBuilder((4, 5))
    builder.add_slice(np.zeros((4, 5), dtype=np.float32), THRESHOLD)
    with pytest.raises(ValueError, match="slice 1 holds NaN"):
        builder.add_slice(values, THRESHOLD)


def test_noise_beyond_the_limit_is_refused_with_the_way_out():
    noise = (np.indices((8, 8)).sum(axis=0) % 2).astype(np.float32)
    builder = ComponentBuilder((8, 8), max_runs=64)
    builder.add_slice(noise, THRESHOLD)
    builder.add_slice(noise, THRESHOLD)
    with pytest.raises(InputError, match=r"more than 64 runs.*raise the threshold"):
        builder.add_slice(noise, THRESHOLD)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (((4, 5), 8), "6, 18 or 26"),
        (((0, 5),), "sides of 1..32767"),
        (((4, 40000),), "sides of 1..32767"),
    ],
)
def test_what_is_no_volume_is_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        ComponentBuilder(*arguments)


@pytest.mark.parametrize(
    ("values", "threshold", "reason"),
    [
        (np.zeros((5, 4), dtype=np.float32), 0.5, "a slice is"),
        (np.zeros((1, 4, 5), dtype=np.float32), 0.5, "a slice is"),
        (np.zeros((4, 5), dtype=np.uint8), 0.5, "floats"),
        (np.zeros((4, 5), dtype=np.float32), float("nan"), "threshold is NaN"),
    ],
)
def test_what_is_no_slice_is_refused(values, threshold, reason):
    with pytest.raises(ValueError, match=reason):
        ComponentBuilder((4, 5)).add_slice(values, threshold)


def test_no_slice_at_all_is_not_nothing_found():
    with pytest.raises(ValueError, match="no slice"):
        ComponentBuilder((4, 5)).finish()


def test_a_builder_serves_one_volume():
    builder = ComponentBuilder((4, 5))
    builder.add_slice(np.zeros((4, 5), dtype=np.float32), THRESHOLD)
    assert len(builder.finish()) == 0
    with pytest.raises(ValueError, match="before"):
        builder.finish()
    with pytest.raises(ValueError, match="before"):
        builder.add_slice(np.zeros((4, 5), dtype=np.float32), THRESHOLD)


@pytest.mark.parametrize("call", [lambda c: c.runs_of(1), lambda c: c.mask_of(-1), lambda c: c.slice_runs(3)])
def test_asking_for_what_is_not_there(call):
    with pytest.raises(ValueError, match="is not one of"):
        call(build(probabilities(SHAPES["full"])))
