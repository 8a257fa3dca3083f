"""Slices of a conversion: what is verified on is never fitted to, and slabs reach the network as on the board."""

from pathlib import Path

import numpy as np
import pytest
from bundle_builders import AXIAL

from edgelung.calibration import make_phantom
from edgelung.calibration.metaimage_writer import write_metaimage
from edgelung.converters import Recipe
from edgelung.converters.slabs import gather_slabs
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.errors import InputError
from edgelung.runtime.preprocess import prepare_stack
from edgelung.volume import CtVolume

SPEC = nodule_segmentation_spec(128, 128)


def recipe(**options):
    fields = {"calibration_slabs": 3, "verification_slabs": 2, **options}
    return Recipe(Path("m.pt"), Path("b"), **fields)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A phantom on disk whose slices tell their number: HU of the first pixel is -900 + index."""
    made = make_phantom(2, shape=(44, 128, 128), spacing_mm=(3.0, 2.6, 2.6), nodules=4)
    hu = made.volume.hu.copy()
    hu[:, 0, 0] = -900 + np.arange(44)
    path = tmp_path_factory.mktemp("series") / "scan.mhd"
    write_metaimage(path, CtVolume(hu, made.volume.spacing_mm, made.volume.origin_mm, AXIAL))
    return path


def numbers(tensors):
    return [tuple((tensor[0, :, 0, 0] + 900).astype(int)) for tensor in tensors]


def test_without_data_everything_is_phantom_and_nothing_is_used_twice():
    slabs = gather_slabs(recipe(ptq="normal"), SPEC)
    assert slabs.verify_words == "phantom slabs with nodules"
    assert slabs.fitted.provenance.is_phantom
    assert len(slabs.fit) == 3 and len(slabs.verify) == 2
    shape = SPEC.input.tensor.shape
    assert {tensor.shape for tensor in (*slabs.fit, *slabs.verify, slabs.golden)} == {shape}
    assert not any(np.array_equal(one, other) for one in slabs.fit for other in slabs.verify)
    np.testing.assert_array_equal(slabs.golden, prepare_stack(slabs.golden_hu, SPEC.input))
    np.testing.assert_array_equal(slabs.golden, slabs.verify[0])


def test_floating_point_fits_nothing():
    slabs = gather_slabs(recipe(), SPEC)
    assert slabs.fit == () and slabs.fitted is None


def test_held_out_slices_and_the_gap_around_them_are_not_fitted_to(numbered):
    slabs = gather_slabs(recipe(ptq="normal", data=numbered, holdout=(14, 24)), SPEC)
    assert slabs.verify_words == "held-out slabs"
    verified, fitted = numbers(slabs.verify), numbers(slabs.fit)
    assert all(min(slab) >= 14 and max(slab) < 24 for slab in verified)
    assert all(max(slab) < 14 - 7 or min(slab) >= 24 + 7 for slab in fitted)
    assert all(np.diff(slab).tolist() == [1] * 6 for slab in (*verified, *fitted))
    assert slabs.golden_hu[0, 0, 0] != -900  # the golden slab is a phantom's, not the series'


def test_with_data_and_no_block_phantoms_are_verified_on(numbered):
    slabs = gather_slabs(recipe(ptq="normal", data=numbered), SPEC)
    assert slabs.verify_words == "phantom slabs with nodules"
    assert slabs.fitted.provenance.kind == "series"


def test_a_larger_plane_comes_in_the_tiles_of_the_runtime(numbered):
    small = nodule_segmentation_spec(96, 96)
    slabs = gather_slabs(recipe(ptq="normal", data=numbered, calibration_slabs=1), small)
    assert len(slabs.fit) == 4
    assert {tensor.shape for tensor in slabs.fit} == {(1, 7, 96, 96)}


def test_a_block_beyond_the_series_is_refused(numbered):
    with pytest.raises(InputError, match="reaches beyond the series"):
        gather_slabs(recipe(ptq="normal", data=numbered, holdout=(40, 60)), SPEC)
