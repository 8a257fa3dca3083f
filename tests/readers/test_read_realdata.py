"""Real series against SimpleITK."""

import numpy as np
import pytest
import SimpleITK
from series_builders import assert_same, itk_series

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series

pytestmark = pytest.mark.realdata


def linked(folder, files):
    """A folder with links to some files."""
    for path in files:
        (folder / path.name).symlink_to(path)
    return folder


def test_a_whole_chest(realdata):
    folder = realdata / "ct" / "c3n-00247"
    volume = read_series(folder)
    assert volume.shape == (99, 512, 512) and volume.hu.dtype == np.int16
    reference = itk_series(folder)
    assert_same(volume, SimpleITK.Cast(reference, SimpleITK.sitkInt16))
    assert volume.obliquity_degrees() == 0


@pytest.mark.parametrize(("pattern", "depth"), [("ct-3slice-*.dcm", 3), ("padding-minus2048-*.dcm", 2)])
def test_short_series(realdata, tmp_path, pattern, depth):
    folder = linked(tmp_path, (realdata / "ct" / "edge").glob(pattern))
    volume = read_series(folder)
    assert volume.shape == (depth, 512, 512)
    assert_same(volume, SimpleITK.Cast(itk_series(folder), SimpleITK.sitkInt16))


def test_padding_is_kept(realdata, tmp_path):
    folder = linked(tmp_path, (realdata / "ct" / "edge").glob("padding-minus2048-*.dcm"))
    assert read_series(folder).hu.min() == -2048


def test_a_nifti(realdata):
    path = realdata / "ct" / "edge" / "example_ct.nii.gz"
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


def test_a_folder_of_many_things_and_an_nrrd(realdata):
    with pytest.raises(InputError, match=r"2 series in one folder \(3, 2 files\)"):
        read_series(realdata / "ct" / "edge")
    with pytest.raises(InputError, match="not read") as caught:
        read_series(realdata / "ct" / "edge" / "ct-64.nrrd")
    assert "SimpleITK" in caught.value.hint
