"""LUNA16 folders: read as they are, split by scan, and labelled by growing masks from annotations."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundle_builders import axial_volume

from edgelung.calibration import segment_lungs, write_luna16
from edgelung.converters.datasets import Annotation, LunaScan, grow_masks, label_scan, read_luna16, split_scans
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.volume import CtVolume

SHAPE, SPACING_MM = (40, 128, 128), (2.0, 2.6, 2.6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("luna") / "phantoms"
    write_luna16(folder, scans=3, seed=6, shape=SHAPE, spacing_mm=SPACING_MM)
    return folder


def test_every_scan_has_its_nodules_and_look_alikes(root):
    scans = read_luna16(root)
    assert [scan.uid for scan in scans] == sorted(path.stem for path in root.glob("subset?/*.mhd"))
    with (root / "annotations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(len(scan.nodules) for scan in scans) == len(rows) > 0
    for scan in scans:
        mine = [row for row in rows if row["seriesuid"] == scan.uid]
        assert [n.diameter_mm for n in scan.nodules] == [float(row["diameter_mm"]) for row in mine]
        assert [n.center_lps_mm[2] for n in scan.nodules] == [float(row["coordZ"]) for row in mine]
        assert len(scan.look_alikes_lps_mm) > 10


def test_a_part_of_the_subsets_is_enough(root, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(root, part)
    shutil.rmtree(part / "subset1")
    assert len(read_luna16(part)) == 2


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("annotations.csv", None, "No such file"),
        ("annotations.csv", "seriesuid,coordX,coordY,coordZ\n", "has the columns"),
        ("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\nx,1,2,nan,4\n", "line 2"),
        ("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\nx,1,2\n", "line 2"),
        ("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\nx,1,2,3,4,5\n", "line 2"),
        ("candidates.csv", "seriesuid,coordX,coordY,coordZ,class\nx,1,2,3,solid\n", "line 2"),
        ("candidates.csv", b"\xff\xfe\x00", "is no list in CSV"),
    ],
)
def test_lists_that_cannot_be_read_are_named(root, tmp_path, file, content, reason):
    shutil.copytree(root, tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=reason) as caught:
        read_luna16(tmp_path / "copy")
    assert file in caught.value.source


def test_a_folder_that_is_no_luna16_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no subset.*edgelung phantom"):
        read_luna16(tmp_path)


def named(count):
    return [LunaScan(f"scan-{index}", Path(), (), ()) for index in range(count)]


def test_the_split_is_about_ten_to_one_and_by_scan():
    training, validation = split_scans(named(880))
    assert 50 < len(validation) < 110
    assert not {s.uid for s in training} & {s.uid for s in validation}
    assert len(training) + len(validation) == 880


def test_a_scan_keeps_its_side_when_others_are_added():
    small, large = (split_scans(named(count))[1] for count in (200, 880))
    assert {s.uid for s in small} <= {s.uid for s in large}


@pytest.mark.parametrize("count", [2, 3, 7])
def test_of_few_scans_both_sides_get_some(count):
    training, validation = split_scans(named(count))
    assert training and validation
    with pytest.raises(InputError, match="at least two"):
        split_scans(named(1))


def ball(center_index=(20, 30, 34), diameter_mm=12.0, hu=20, background=-850):
    """A volume with one ball; returns it with the annotation and the exact mask."""
    volume = axial_volume(np.full((40, 60, 70), background, dtype=np.int16))
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    center = volume.index_to_lps_mm(center_index)
    inside = np.linalg.norm(volume.index_to_lps_mm(index) - center, axis=-1) <= diameter_mm / 2
    volume.hu[inside] = hu
    return volume, Annotation(tuple(center), diameter_mm), inside


@pytest.mark.parametrize("hu", [20, -600])
def test_a_ball_in_lung_is_found_whole(hu):
    volume, nodule, inside = ball(hu=hu)
    assert np.array_equal(grow_masks(volume, [nodule]), inside)


def test_what_is_less_dense_than_the_threshold_is_not_nodule():
    volume, nodule, _ = ball(hu=-750)
    assert not grow_masks(volume, [nodule]).any()
    assert grow_masks(volume, [nodule], threshold_hu=-800).any()


def test_at_the_pleura_the_box_ends_where_the_lung_begins():
    volume, nodule, inside = ball(center_index=(20, 30, 8))
    volume.hu[:, :, :4] = 40  # chest wall
    grown = grow_masks(volume, [nodule])
    assert grown[inside].mean() > 0.9
    assert (grown & ~inside).sum() < 0.5 * inside.sum()


def test_in_the_middle_of_tissue_the_box_ends_at_the_diameter():
    volume, nodule, _ = ball(background=40)
    grown = grow_masks(volume, [nodule])
    low, high = np.argwhere(grown).min(axis=0), np.argwhere(grown).max(axis=0)
    assert ((high - low + 1) * volume.spacing_mm <= 2 * nodule.diameter_mm + 2 * np.array(volume.spacing_mm)).all()


def test_orientation_does_not_matter_and_centres_outside_are_left_out():
    volume, nodule, inside = ball()
    corner = volume.index_to_lps_mm((0, volume.shape[1] - 1, 0))
    flip = volume.direction.copy()
    flip[:, 1] *= -1
    turned = CtVolume(volume.hu[:, ::-1], volume.spacing_mm, tuple(corner), flip)
    assert np.array_equal(grow_masks(turned, [nodule])[:, ::-1], inside)
    assert not grow_masks(volume, [Annotation((900.0, 0.0, 0.0), 8.0)]).any()


def test_grown_masks_of_phantoms_are_near_the_exact_ones(root):
    both = elsewhere = grown_total = exact_total = 0
    for scan in read_luna16(root):
        exact = read_series(root / "masks" / f"{scan.uid}.mhd").hu > 0
        grown = label_scan(scan).mask
        both += (grown & exact).sum()
        elsewhere += (np.roll(grown, 4, axis=1) & exact).sum()
        grown_total, exact_total = grown_total + grown.sum(), exact_total + exact.sum()
    assert 2 * both / (grown_total + exact_total) > 0.6  # of voxels as coarse as these, many are half nodule
    assert 2 * elsewhere / (grown_total + exact_total) < 0.3


def test_a_labelled_scan_has_points_of_both_kinds(root):
    scan = next(scan for scan in read_luna16(root) if scan.nodules)
    labelled = label_scan(scan)
    assert labelled.mask[tuple(labelled.positives.T)].all()
    assert not labelled.mask[tuple(labelled.negatives.T)].any()
    without = label_scan(LunaScan(scan.uid, scan.path, scan.nodules, ()), seed=1)
    assert 390 < len(without.negatives) <= 400  # 200 in the lungs, and as many anywhere, but for those in a nodule
    lungs = segment_lungs(read_series(scan.path).to_axial())
    assert lungs[tuple(without.negatives[:200].T)].all()
    assert 0.02 < lungs[tuple(without.negatives[200:].T)].mean() < 0.6
    again = label_scan(LunaScan(scan.uid, scan.path, scan.nodules, ()), seed=1)
    assert np.array_equal(without.negatives, again.negatives)
