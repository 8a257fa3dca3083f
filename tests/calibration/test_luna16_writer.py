"""The data set on disk: LUNA16's layout, read back by others, resumed, and never mixed up."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner

from edgelung.calibration import make_phantom, write_luna16
from edgelung.calibration.luna16_writer import scan_seed, series_uid
from edgelung.calibration.metaimage_writer import write_metaimage
from edgelung.calibration.pictures import montage
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.volume import CtVolume

RECIPE = {"seed": 4, "shape": (10, 72, 72), "spacing_mm": (2.5, 5.0, 5.0)}
SCANS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("luna") / "phantom"
    calls = []
    summary = write_luna16(folder, scans=SCANS, **RECIPE, progress=lambda *call: calls.append(call))
    return folder, summary, calls


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout(dataset):
    folder, summary, calls = dataset
    uids = [series_uid(RECIPE["seed"], index) for index in range(SCANS)]
    assert [row[0] for row in rows(folder / "seriesuids.csv")] == uids
    for index, uid in enumerate(uids):
        for name in (f"subset{index}/{uid}.mhd", f"subset{index}/{uid}.raw", f"masks/{uid}.mhd", f"masks/{uid}.zraw"):
            assert (folder / name).is_file()
        assert (folder / "pictures" / f"{uid}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.glob("subset*")) == [f"subset{index}" for index in range(10)]
    assert (summary.scans, summary.kept) == (SCANS, 0)
    assert calls == [(1, SCANS), (2, SCANS), (3, SCANS)]
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_names_are_uids():
    names = {series_uid(seed, index) for seed in range(5) for index in range(5)}
    assert len(names) == 25
    assert all(re.fullmatch(r"2\.25\.(0|[1-9]\d*)", name) and len(name) <= 64 for name in names)
    assert series_uid(1, 12) != series_uid(11, 2)


@pytest.mark.parametrize("index", range(SCANS))
def test_others_read_what_was_written(dataset, index):
    folder, _, _ = dataset
    uid = series_uid(RECIPE["seed"], index)
    made = make_phantom(scan_seed(RECIPE["seed"], index), shape=RECIPE["shape"], spacing_mm=RECIPE["spacing_mm"])
    image = SimpleITK.ReadImage(folder / f"subset{index}" / f"{uid}.mhd")
    mask = SimpleITK.ReadImage(folder / "masks" / f"{uid}.mhd")
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), made.volume.hu)
    assert np.array_equal(SimpleITK.GetArrayFromImage(mask).astype(bool), made.mask)
    assert mask.GetOrigin() == image.GetOrigin()
    corner = image.TransformIndexToPhysicalPoint((71, 0, 9))
    assert corner == pytest.approx(tuple(made.volume.index_to_lps_mm((9, 0, 71))))
    listed = [row for row in rows(folder / "annotations.csv")[1:] if row[0] == uid]
    assert [tuple(map(float, row[1:4])) for row in listed] == [n.center_lps_mm for n in made.nodules]
    for row in listed:
        column, line, depth = image.TransformPhysicalPointToIndex([float(value) for value in row[1:4]])
        near = made.mask[max(depth - 1, 0) : depth + 2, line - 1 : line + 2, column - 1 : column + 2]
        assert near.any()


def test_our_own_reader_agrees(dataset):
    folder, _, _ = dataset
    uid = series_uid(RECIPE["seed"], 0)
    volume = read_series(folder / "subset0" / f"{uid}.mhd")
    assert np.array_equal(
        volume.hu, make_phantom(scan_seed(4, 0), **{k: RECIPE[k] for k in ("shape", "spacing_mm")}).volume.hu
    )


def test_lists_have_luna16s_columns(dataset):
    folder, summary, _ = dataset
    annotations, candidates = rows(folder / "annotations.csv"), rows(folder / "candidates.csv")
    assert annotations[0] == ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    assert candidates[0] == ["seriesuid", "coordX", "coordY", "coordZ", "class"]
    classes = [row[4] for row in candidates[1:]]
    assert classes.count("1") == len(annotations) - 1 == summary.nodules
    assert classes.count("0") == summary.false_candidates > 20
    assert {tuple(row[:4]) for row in annotations[1:]} <= {tuple(row[:4]) for row in candidates[1:] if row[4] == "1"}


def test_an_oblique_volume_is_written_as_itk_reads_it(tmp_path):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    volume = CtVolume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), (2.5, 0.7, 0.6), (1.5, -2.5, 3.5), turn)
    write_metaimage(tmp_path / "v.mhd", volume)
    image = SimpleITK.ReadImage(tmp_path / "v.mhd")
    assert image.TransformIndexToPhysicalPoint((3, 2, 1)) == pytest.approx(tuple(volume.index_to_lps_mm((1, 2, 3))))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.hu)
    with pytest.raises(ValueError, match="float64"):
        write_metaimage(tmp_path / "w.mhd", dataclasses.replace(volume, hu=volume.hu.astype(float)))


def test_the_same_command_keeps_what_is_complete(dataset, tmp_path):
    folder = tmp_path / "again"
    first = write_luna16(folder, scans=2, **RECIPE)
    before = everything(folder)
    record = folder / "records" / f"{series_uid(4, 1)}.json"
    record.unlink()  # as if the second scan had been interrupted
    assert write_luna16(folder, scans=2, **RECIPE).kept == 1
    raw = folder / "subset0" / f"{series_uid(4, 0)}.raw"
    raw.write_bytes(raw.read_bytes()[:-2])
    assert write_luna16(folder, scans=2, **RECIPE).kept == 1
    assert everything(folder) == before
    more = write_luna16(folder, scans=3, **RECIPE)
    assert (more.kept, more.scans) == (2, 3)
    assert more.nodules >= first.nodules
    assert everything(folder) == everything(dataset[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"seed": 5}, "another recipe"), ({"shape": (8, 72, 72)}, "another recipe"), ({"scans": 2}, "holds 3 scans")],
)
def test_another_recipe_is_refused_in_the_same_folder(dataset, change, reason):
    before = everything(dataset[0])
    with pytest.raises(InputError, match=reason) as caught:
        write_luna16(dataset[0], **{"scans": SCANS, **RECIPE, **change})
    assert "--overwrite" in caught.value.hint
    assert everything(dataset[0]) == before


def test_overwriting_leaves_nothing_of_the_other_recipe(tmp_path):
    small = {"shape": (3, 40, 40), "spacing_mm": (2.5, 9.0, 9.0)}
    write_luna16(tmp_path / "d", scans=1, seed=1, **small)
    (tmp_path / "d" / "notes.txt").write_text("mine")
    write_luna16(tmp_path / "d", scans=1, seed=2, **small, overwrite=True)
    names = {path.stem for path in (tmp_path / "d").rglob("2.25.*")}
    assert names == {series_uid(2, 0)}
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "d" / "phantom.json").read_text())["seed"] == 2


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="no phantom data set"):
            write_luna16(tmp_path, scans=1, **RECIPE, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="0 scans"):
        write_luna16(tmp_path / "new", scans=0, **RECIPE)


def test_a_picture_shows_views_and_nodules():
    made = make_phantom(1, shape=(10, 96, 96), spacing_mm=(2.5, 3.7, 3.7), nodules=3)
    picture = montage(made)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    outline = (picture == (255, 176, 0)).all(axis=2)
    assert outline.sum() > 30
    empty = montage(make_phantom(1, shape=(2, 24, 24), spacing_mm=(2.5, 15.0, 15.0), nodules=0))
    assert not (empty == (255, 176, 0)).all(axis=2).any()


def test_the_command(tmp_path, monkeypatch):
    from edgelung.cli.phantom import phantom

    command = [str(tmp_path / "d"), "--scans", "1", "--seed", "2", "--shape", "3", "40", "40"]
    command += ["--spacing-mm", "2.5", "9", "9"]
    result = CliRunner().invoke(phantom, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "1 scans (0 kept from before)" in result.stdout
    result = CliRunner().invoke(phantom, [*command, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["kept"] == 1
    assert "Examples:" in CliRunner().invoke(phantom, ["--help"]).stdout
    assert CliRunner().invoke(phantom, [*command, "--shape", "0", "4", "4"]).exit_code == 2


def test_the_command_without_scipy_says_what_to_install(tmp_path, monkeypatch):
    import sys

    from edgelung.cli.phantom import phantom

    for name in [name for name in sys.modules if name.startswith(("edgelung.calibration", "scipy"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = CliRunner().invoke(phantom, [str(tmp_path / "d")])
    assert isinstance(result.exception, InputError)
    assert 'pip install "edgelung[convert]"' in str(result.exception)
