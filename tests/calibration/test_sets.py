"""Calibration sets: what is chosen, what is kept out, what is told about it, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from edgelung.calibration import (
    Holdout,
    choose_held_out,
    choose_slabs,
    describe_data,
    make_phantom,
    phantom_slabs,
    read_ct,
    segment_lungs,
    write_luna16,
)
from edgelung.calibration.holdout import GAP_SLICES
from edgelung.calibration.metaimage_writer import write_metaimage
from edgelung.calibration.picking import BINS_HU, pick_spread
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.spec import SlicePacking

SEVEN = SlicePacking(3, 1, 3)
PACKINGS = [SEVEN, SlicePacking(3, 4, 3), SlicePacking(0, 1, 0), SlicePacking(2, 3, 5)]
HOLDOUT = Holdout(22, 34)


@pytest.fixture(scope="module")
def volume():
    return make_phantom(3, shape=(56, 96, 96), spacing_mm=(3.5, 3.5, 3.5)).volume


@pytest.fixture(scope="module")
def luna16(tmp_path_factory):
    root = tmp_path_factory.mktemp("luna16")
    write_luna16(root, scans=3, seed=1, shape=(24, 64, 64), spacing_mm=(5.0, 5.0, 5.0))
    return root


def seen(slab, packing):
    """Indices of all slices of a slab, context included."""
    return set(range(slab.first - packing.before, slab.first + packing.outputs + packing.after))


def places(chosen):
    return [(slab.series, slab.first) for slab in chosen.slabs]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_is_fitted_sees_the_block_or_its_gap(volume, packing, seed):
    fitted = choose_slabs([volume], packing, 5, seed=seed, holdout=HOLDOUT)
    held = choose_held_out([volume], packing, 3, holdout=HOLDOUT)
    guarded = set(range(HOLDOUT.low - GAP_SLICES, HOLDOUT.high + GAP_SLICES))
    for slab in fitted.slabs:
        assert not seen(slab, packing) & guarded
    for slab in held.slabs:
        assert seen(slab, packing) <= set(range(HOLDOUT.low, HOLDOUT.high))
    for slab in (*fitted.slabs, *held.slabs):
        start = slab.first - packing.before
        assert slab.hu.shape == (packing.slices, 96, 96) and slab.hu.dtype == volume.hu.dtype
        assert np.array_equal(slab.hu, volume.hu[start : start + packing.slices])
    without = [choose_slabs([volume], packing, 5, seed=other) for other in range(8)]
    assert any(seen(slab, packing) & guarded for chosen in without for slab in chosen.slabs)  # the test can fail


def test_slabs_go_through_the_lungs_and_over_their_depth(volume):
    areas = segment_lungs(volume).sum(axis=(1, 2))
    chosen = choose_slabs([volume], SEVEN, 8, seed=0)
    firsts = [slab.first for slab in chosen.slabs]
    assert firsts == sorted(set(firsts)) and len(firsts) == 8
    assert all(areas[first] >= 0.1 * areas.max() for first in firsts)
    inside = [first for first in range(3, 53) if areas[first] >= 0.1 * areas.max()]
    for layer in np.array_split(inside, 8):
        assert sum(first in layer for first in firsts) == 1


def test_of_the_places_of_a_layer_the_rarest_intensities_are_taken(volume):
    hu = np.full((40, 16, 16), -900, dtype=np.int16)
    hu[30] = 300  # one slice of bone among lung
    odd = replace(volume, hu=hu)
    for seed in range(10):
        taken = pick_spread(odd, [5, 6, 29, 30], SlicePacking(0, 1, 0), 2, np.random.default_rng(seed))
        assert taken[0] in (5, 6) and taken[1] == 30
    assert BINS_HU[0] == -1000 and BINS_HU[-1] == 1000


def test_equal_seeds_give_equal_slabs_and_others_others(volume):
    sets = [choose_slabs([volume], SEVEN, 6, seed=seed, salt=b"salt") for seed in (1, 1, 2, 3, 4)]
    assert places(sets[0]) == places(sets[1]) and sets[0].provenance == sets[1].provenance
    assert len({tuple(places(chosen)) for chosen in sets[1:]}) > 1


def test_a_flipped_series_gives_the_same_slabs(volume):
    flip = replace(
        volume,
        hu=volume.hu[::-1].copy(),
        origin_mm=tuple(volume.index_to_lps_mm((volume.shape[0] - 1, 0, 0))),
        direction=volume.direction * [-1, 1, 1],
    )
    first, second = (choose_slabs([item], SEVEN, 4, seed=5, holdout=HOLDOUT, salt=b"s") for item in (volume, flip))
    assert places(first) == places(second) and first.provenance == second.provenance
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(first.slabs, second.slabs, strict=True))


def test_luna16_is_told_apart_and_its_masks_are_no_cts(luna16):
    source = describe_data(luna16)
    assert source.kind == "luna16" and len(source.series) == 3
    assert source.words == "phantoms in LUNA16's layout: 3 CTs in 3 subsets"
    assert all(path.parent.name.startswith("subset") for path in source.series)
    (luna16 / "phantom.json").rename(luna16 / "moved")
    try:
        assert describe_data(luna16).words == "LUNA16: 3 CTs in 3 subsets"
    finally:
        (luna16 / "moved").rename(luna16 / "phantom.json")


def test_slabs_are_dealt_out_to_all_series(luna16):
    told = []
    chosen = choose_slabs(describe_data(luna16), SEVEN, 7, seed=0, progress=lambda *state: told.append(state))
    counts = np.bincount([slab.series for slab in chosen.slabs], minlength=3)
    assert sorted(counts) == [2, 2, 3] and told[-1] == (7, 7) and len(told) == 3
    two = choose_slabs(describe_data(luna16), SEVEN, 2, seed=0)
    assert len({slab.series for slab in two.slabs}) == 2 and two.provenance.series_used == 2


def test_the_provenance_counts_and_names_nobody(luna16):
    source = describe_data(luna16)
    provenance = choose_slabs(source, SEVEN, 6, seed=9).provenance
    assert (provenance.kind, provenance.series_given, provenance.series_used) == ("luna16", 3, 3)
    assert (provenance.slabs, provenance.slices, provenance.seed, provenance.holdout) == (6, 7, 9, None)
    assert not provenance.is_phantom and provenance.purpose == "fitting"
    text = json.dumps(provenance.as_dict())
    for path in source.series:
        assert path.stem not in text and str(path.parent) not in text
    assert "2.25." not in text and len(provenance.salt) == 32


def test_hashes_depend_on_voxels_and_salt(volume):
    def hashes(item, salt):
        return choose_slabs([item], SEVEN, 2, seed=0, salt=salt).provenance.hashes

    changed = volume.hu.copy()
    changed[0, 0, 0] += 1
    other = replace(volume, hu=changed)
    assert hashes(volume, b"a") == hashes(replace(volume, hu=volume.hu.astype(np.float32)), b"a")
    assert len({hashes(volume, b"a"), hashes(volume, b"b"), hashes(other, b"a")}) == 3
    random = [choose_slabs([volume], SEVEN, 2, seed=0).provenance for _ in range(2)]
    assert random[0].salt != random[1].salt and random[0].hashes != random[1].hashes


def test_without_data_the_phantom_serves_and_says_so():
    first, second, other = (phantom_slabs(SEVEN, 2, seed=seed, plane=(32, 32), salt=b"s") for seed in (0, 0, 1))
    assert first.provenance.is_phantom and first.provenance.kind == "phantom"
    assert first.slabs[0].hu.shape == (7, 32, 32) and first.provenance == second.provenance
    assert first.provenance.hashes != other.provenance.hashes


def test_a_series_without_lungs_is_passed_over_and_counted(volume):
    empty = replace(volume, hu=np.zeros_like(volume.hu))
    chosen = choose_slabs([empty, volume, empty], SEVEN, 5, seed=0)
    assert {slab.series for slab in chosen.slabs} == {1}
    assert (chosen.provenance.series_used, chosen.provenance.series_given) == (1, 3)
    assert chosen.provenance.series_unsuitable <= 2
    with pytest.raises(InputError, match="every voxel is 0"):
        choose_slabs([empty], SEVEN, 1, seed=0)
    with pytest.raises(InputError, match=r"only 0 of 1 slabs.*2 of 2 series were passed over, such as every"):
        choose_slabs([empty, empty], SEVEN, 1, seed=0)
    solid = replace(volume, hu=np.where(segment_lungs(volume), 30, volume.hu).astype(np.int16))
    with pytest.raises(InputError, match="no lungs"):
        choose_slabs([solid], SEVEN, 1, seed=0)


def test_what_is_not_in_hounsfield_units_is_named_by_its_file(volume, tmp_path):
    write_metaimage(tmp_path / "a.mhd", replace(volume, hu=volume.hu + 1024))
    source = describe_data(tmp_path / "a.mhd")
    for choose in (
        lambda: choose_slabs(source, SEVEN, 1, seed=0),
        lambda: choose_held_out(source, SEVEN, 1, holdout=HOLDOUT),
        lambda: read_ct(tmp_path / "a.mhd"),
    ):
        with pytest.raises(InputError, match=r"a\.mhd: values lie in .* none is air.*subtract 1024") as caught:
            choose()
        assert "--allow" not in str(caught.value)  # there is no such word on the host
    hu = volume.hu.astype(np.float32)
    hu[20, 4, 5] = np.nan
    with pytest.raises(InputError, match="1 of 516,096 voxels are NaN, the first in slice 20 of 0"):
        choose_slabs([volume, replace(volume, hu=hu)], SEVEN, 40, seed=0)


@pytest.mark.parametrize(
    ("count", "holdout", "reason"),
    [
        (60, None, r"only \d+ of 60 slabs of 7 slices have room in the lungs; ask for fewer"),
        (0, None, "0 slabs are no calibration set"),
        (1, Holdout(50, 57), r"50:57 reaches beyond the series, which has slices 0 to 55; give a block within 0:56"),
        (1, Holdout(0, 56), "only 0 of 1 slabs .* beside the held-out block and its gap"),
        (1, Holdout(8, 46), "only 0 of 1 slabs"),
        (20, HOLDOUT, "beside the held-out block"),
    ],
)
def test_impossible_choices_are_refused(volume, count, holdout, reason):
    with pytest.raises(InputError, match=reason):
        choose_slabs([volume], SEVEN, count, seed=0, holdout=holdout)


def test_a_holdout_of_several_series_is_refused(volume, luna16):
    for data in ([volume, volume], describe_data(luna16)):
        with pytest.raises(InputError, match="not clear which one's slices"):
            choose_slabs(data, SEVEN, 2, seed=0, holdout=Holdout(2, 9))
        with pytest.raises(InputError, match="cannot be held out"):
            choose_held_out(data, SEVEN, 2, holdout=Holdout(2, 9))
    with pytest.raises(InputError, match="no volumes"):
        choose_slabs([], SEVEN, 1, seed=0)


def test_held_out_slabs_are_spread_and_must_fit(volume):
    held = choose_held_out([volume], SEVEN, 3, holdout=HOLDOUT)
    assert [slab.first for slab in held.slabs] == [25, 27, 30] and held.provenance.purpose == "verification"
    assert held.provenance.holdout == (22, 34) and held.provenance.gap == GAP_SLICES
    assert len(choose_held_out([volume], SEVEN, 50, holdout=HOLDOUT).slabs) == 6  # all there are
    with pytest.raises(InputError, match="too short for a slab of 7 slices; hold out at least 7"):
        choose_held_out([volume], SEVEN, 1, holdout=Holdout(20, 26))
    with pytest.raises(InputError, match="reaches beyond"):
        choose_held_out([volume], SEVEN, 1, holdout=Holdout(40, 90))


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "a:b", "-1:4", "1:2:3", "1.0:3", "9:9", "9:4", "1:9999999"])
def test_a_block_that_is_worded_differently_is_refused(text):
    with pytest.raises(InputError, match="is no block of slices; give LOW:HIGH"):
        Holdout.parse(text)


def test_a_block_is_parsed():
    assert Holdout.parse(" 40:60 ") == Holdout(40, 60)


def test_kinds_of_data(tmp_path, volume):
    small = replace(volume, hu=volume.hu[20:28, ::4, ::4].copy())
    for name in ("a/1.mha", "a/b/2.mha", "a/.hidden/3.mha", "c/deep/er/4.mha"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_metaimage(tmp_path / name, small)
    (tmp_path / "notes.txt").write_text("no CT")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    source = describe_data(tmp_path)
    assert (source.kind, source.words) == ("folder", "a folder of 3 CT series")
    assert [path.name for path in source.series] == ["1.mha", "2.mha", "4.mha"]
    assert describe_data(tmp_path / "a" / "1.mha").kind == "series"
    assert read_series(source.series[0]).shape == small.shape


def test_a_folder_of_slices_is_one_series_and_a_mixed_one_is_refused(tmp_path, volume):
    folder = tmp_path / "series"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.dcm").write_bytes(bytes(128) + b"DICM")
    assert describe_data(folder).series == (folder,)
    assert describe_data(tmp_path).words == "a folder of 1 CT series"
    write_metaimage(folder / "volume.mha", replace(volume, hu=volume.hu[:2].copy()))
    with pytest.raises(InputError, match="DICOM slices and other series beside them"):
        describe_data(folder)


def test_paths_without_a_series_are_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    for path, reason in ((tmp_path, "holds no CT series"), (tmp_path / "readme.txt", "is no CT series"),
                         (tmp_path / "absent", "no such file or folder")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            describe_data(path)


def test_a_damaged_series_is_an_error_that_names_it(tmp_path):
    (tmp_path / "broken.mha").write_bytes(b"ObjectType = Image\n")
    with pytest.raises(InputError, match=r"broken\.mha"):
        choose_slabs(describe_data(tmp_path), SEVEN, 1, seed=0)


@pytest.mark.realdata
def test_a_real_ct(realdata):
    source = describe_data(realdata / "ct" / "c3n-00247")
    assert source.kind == "series"
    block = Holdout(45, 60)
    fitted = choose_slabs(source, SEVEN, 12, seed=0, holdout=block)
    held = choose_held_out(source, SEVEN, 4, holdout=block)
    assert len(fitted.slabs) == 12 and len(held.slabs) == 4
    guarded = set(range(45 - GAP_SLICES, 60 + GAP_SLICES))
    assert not any(seen(slab, SEVEN) & guarded for slab in fitted.slabs)
    assert "C3N" not in json.dumps(fitted.provenance.as_dict()).upper()
