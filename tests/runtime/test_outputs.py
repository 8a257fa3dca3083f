"""What leaves the board: JSON, LUNA16 CSV and pictures, checked on a volume with known nodules."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from bundle_builders import axial_volume

from edgelung.runtime.components import ComponentBuilder
from edgelung.runtime.findings import measure_findings
from edgelung.runtime.outputs import draw_finding, draw_overview, findings_to_json, write_json, write_luna16_csv
from edgelung.runtime.outputs.drawing import draw_brackets, draw_text, outline_of, resized, text_width, windowed

RED, AMBER = (255, 40, 40), (255, 190, 0)
BOXES = (  # (depth, height, width), probability
    ((slice(2, 5), slice(10, 14), slice(20, 25)), 0.9),
    ((slice(6, 8), slice(30, 31), slice(0, 2)), 0.8),
    ((slice(0, 1), slice(39, 40), slice(63, 64)), 0.7),
)


def searched(boxes=BOXES, shape=(9, 40, 64), spacing_mm=(1.5, 0.7, 0.7)):
    """(axial volume, components, findings) of bright boxes in air."""
    hu = np.full(shape, -1000, dtype=np.int16)
    probability = np.zeros(shape, dtype=np.float32)
    for inside, value in boxes:
        hu[inside] = 150
        probability[inside] = value
    builder = ComponentBuilder(shape[1:])
    for values in probability:
        builder.add_slice(values, 0.5)
    components = builder.finish()
    volume = axial_volume(hu, spacing_mm=spacing_mm)
    return volume, components, measure_findings(components, volume)


def where(image, colour):
    return (image == np.array(colour, dtype=np.uint8)).all(axis=-1)


def test_json_says_everything_with_units_and_survives_a_round_trip(tmp_path):
    volume, _, findings = searched()
    data = findings_to_json(findings, volume, series_id="series-1")
    write_json(tmp_path / "findings.json", data)
    assert json.loads((tmp_path / "findings.json").read_text()) == data
    assert (data["schema"], data["schema_version"], data["series_id"]) == ("edgelung.findings", 1, "series-1")
    assert data["geometry"]["shape_dhw"] == [9, 40, 64]
    assert data["geometry"]["spacing_dhw_mm"] == [1.5, 0.7, 0.7]
    assert [entry["id"] for entry in data["findings"]] == [1, 2, 3]
    first = data["findings"][0]
    assert first["center_index_dhw"] == [3.0, 11.5, 22.0]
    assert first["bounding_box_index_dhw"] == [[2, 5], [10, 14], [20, 25]]
    assert first["center_lps_mm"] == pytest.approx([-50 + 22 * 0.7, -60 + 11.5 * 0.7, -70 + 3 * 1.5])
    assert first["confidence"] == pytest.approx(0.9)
    assert set(first) == {
        *("id", "label", "confidence", "center_lps_mm", "center_index_dhw", "diameter_mm"),
        *("longest_axial_mm", "volume_mm3", "voxels", "bounding_box_index_dhw"),
    }


def test_the_geometry_in_json_leads_from_index_to_millimetres():
    volume, _, findings = searched()
    data = findings_to_json(findings, volume, series_id="a")
    geometry = data["geometry"]
    for entry in data["findings"]:
        scaled = np.array(geometry["spacing_dhw_mm"]) * entry["center_index_dhw"]
        lps_mm = np.array(geometry["origin_lps_mm"]) + np.array(geometry["direction_lps_by_dhw"]) @ scaled
        assert entry["center_lps_mm"] == pytest.approx(list(lps_mm))
        assert entry["center_lps_mm"] != pytest.approx(list(lps_mm[::-1]))


def test_luna16_csv_in_full_precision(tmp_path):
    _, _, findings = searched(spacing_mm=(1.5, 0.7001220703125, 0.7001220703125))
    write_luna16_csv(tmp_path / "findings.csv", "1.2.3", findings)
    with (tmp_path / "findings.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    for row, finding in zip(rows, findings, strict=True):
        assert row["seriesuid"] == "1.2.3"
        assert tuple(float(row[name]) for name in ("coordX", "coordY", "coordZ")) == finding.center_lps_mm
        assert float(row["probability"]) == finding.confidence


def test_nothing_found_is_said_in_every_form(tmp_path):
    volume, components, findings = searched(boxes=())
    write_luna16_csv(tmp_path / "findings.csv", "1.2.3", findings)
    assert (tmp_path / "findings.csv").read_text() == "seriesuid,coordX,coordY,coordZ,probability\n"
    assert findings_to_json(findings, volume, series_id="a")["findings"] == []
    overview = draw_overview(volume, findings, components)
    assert where(overview[:26], AMBER).any()
    assert not where(overview, RED).any()


@pytest.mark.parametrize("series_id", ["", "  ", "a\nb", "a\r"])
def test_a_series_has_a_name_of_one_line(tmp_path, series_id):
    volume, _, findings = searched()
    with pytest.raises(ValueError, match="name of one line"):
        write_luna16_csv(tmp_path / "findings.csv", series_id, findings)
    with pytest.raises(ValueError, match="name of one line"):
        findings_to_json(findings, volume, series_id=series_id)
    assert list(tmp_path.iterdir()) == []


def test_names_with_commas_are_quoted(tmp_path):
    _, _, findings = searched()
    write_luna16_csv(tmp_path / "findings.csv", 'a,"b"', findings)
    with (tmp_path / "findings.csv").open(newline="") as stream:
        assert [row["seriesuid"] for row in csv.DictReader(stream)] == ['a,"b"'] * 3


def test_numbers_that_json_lacks_are_refused_and_the_older_file_stays(tmp_path):
    volume, _, findings = searched()
    path = tmp_path / "findings.json"
    write_json(path, {"kept": True})
    broken = replace(findings[0], confidence=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, findings_to_json([broken], volume, series_id="a"))
    assert json.loads(path.read_text()) == {"kept": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["findings.json"]


def test_an_interrupted_csv_leaves_nothing(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_luna16_csv(tmp_path / "findings.csv", "a", searched()[2])
    assert list(tmp_path.iterdir()) == []


def test_window_by_hand():
    levels = windowed(np.array([[-3000, -1350, -600, 150, 3000]], dtype=np.int16), (-1350.0, 150.0))
    assert levels[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert (levels == levels[..., :1]).all()
    assert windowed(np.array([[np.nan, 0.0]]), (-1.0, 0.0))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(ValueError, match="rise"):
        windowed(np.zeros((1, 1)), (150.0, -1350.0))


def test_a_finding_is_outlined_on_its_largest_slice_and_stays_visible():
    volume, components, findings = searched()
    image = draw_finding(volume, components, findings[0])
    assert image.shape == (40, 64, 3)
    mask = np.zeros((40, 64), dtype=bool)
    mask[10:14, 20:25] = True
    np.testing.assert_array_equal(where(image, RED), outline_of(mask))
    np.testing.assert_array_equal(image[mask], windowed(volume.hu[2], (-1350.0, 150.0))[mask])
    assert where(image, AMBER)[4, 14]
    assert where(image, AMBER)[19, 30]


def test_the_largest_slice_is_shown():
    boxes = [((slice(3, 4), slice(5, 8), slice(5, 8)), 0.9), ((slice(4, 5), slice(5, 9), slice(5, 9)), 0.9)]
    volume, components, (finding,) = searched(boxes)
    assert where(draw_finding(volume, components, finding), RED).sum() == 16
    assert not np.array_equal(volume.hu[3], volume.hu[4])


def test_findings_at_the_border_are_drawn_as_far_as_there_is_a_slice():
    volume, components, findings = searched()
    assert where(draw_finding(volume, components, findings[1]), RED).sum() == 2 + 2 + 1
    assert where(draw_finding(volume, components, findings[2]), RED).sum() == 2


@pytest.mark.parametrize(
    ("row", "column", "joined"), [(0, 0, 0), (5, 5, 0), (4, 5, 5), (39, 63, 3)], ids=["empty", "dot", "wide", "corner"]
)
def test_outline_touches_the_mask_and_hides_nothing(row, column, joined):
    mask = np.zeros((40, 64), dtype=bool)
    if row:
        mask[row, column - joined : column + 1] = True
    line = outline_of(mask)
    assert not (line & mask).any()
    assert line.any() == mask.any()


@pytest.mark.parametrize("count", [1, 2, 6, 8])
def test_overview_has_a_column_for_each_of_the_first_six(count):
    boxes = [((slice(1, 3), slice(4 * i, 4 * i + 2), slice(7 * i, 7 * i + 3)), 0.9 - 0.02 * i) for i in range(count)]
    volume, components, findings = searched(boxes)
    image = draw_overview(volume, findings, components)
    shown = min(count, 6)
    assert image.shape[1] == 320 * shown + 4 * (shown - 1)
    for index in range(shown):
        column = image[:, 324 * index : 324 * index + 320]
        crop = column[26 + 320 + 4 : 26 + 2 * 320 + 4]
        assert where(column[:26], AMBER).any()  # its number
        assert where(column[26:346], AMBER).any()  # its brackets
        rows, columns = np.nonzero(where(crop, RED))
        assert rows.max() - rows.min() + 1 == 2 * 8 + 2  # two pixels, eight times magnified, and the line
        assert columns.max() - columns.min() + 1 == 3 * 8 + 2
        assert abs(rows.mean() - 160) <= 5
        assert abs(columns.mean() - 160) <= 5


def test_a_big_finding_is_magnified_less():
    boxes = [((slice(1, 3), slice(40, 140), slice(60, 130)), 0.9)]
    volume, components, findings = searched(boxes, shape=(4, 200, 260))
    crop = draw_overview(volume, findings, components)[350:670]
    rows, _ = np.nonzero(where(crop, RED))
    assert rows.max() - rows.min() + 1 == 102


@pytest.mark.parametrize("draw", [draw_finding, lambda v, c, f, **o: draw_overview(v, [f], c, **o)])
def test_the_window_and_not_the_series_decides_the_grey_levels(draw):
    volume, components, findings = searched()
    assert not np.array_equal(
        draw(volume, components, findings[0]), draw(volume, components, findings[0], window=(-1000.0, 1000.0))
    )


@pytest.mark.parametrize("draw", [draw_finding, lambda v, c, f: draw_overview(v, [f], c)])
def test_what_does_not_belong_together_is_refused(draw):
    volume, components, findings = searched()
    other, other_components, _ = searched(boxes=BOXES[:1], shape=(8, 40, 64))
    with pytest.raises(ValueError, match="do not belong"):
        draw(other, components, findings[0])
    for finding in (findings[2], findings[0]):
        wrong = replace(finding, component=(finding.component + 1) % 3)
        with pytest.raises(ValueError, match="was not measured"):
            draw(volume, components, wrong)
    with pytest.raises(ValueError, match="was not measured"):
        draw(other, other_components, replace(findings[0], component=7))


def test_resizing_keeps_means_and_does_not_alias():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    small = resized(stripes, (20, 20))
    assert small.shape == (20, 20, 3)
    assert np.abs(small[:, 1:-1].astype(int) - 100).max() <= 20
    assert np.abs(stripes[::3, ::3].astype(int) - 100).max() == 100  # a decimation without a filter would be seen
    constant = np.full((7, 9, 3), 77, dtype=np.uint8)
    assert (resized(constant, (31, 4)) == 77).all()
    assert np.array_equal(resized(stripes, (64, 64)), stripes)


def test_text_by_hand():
    image = np.zeros((7, 16, 3), dtype=np.uint8)
    draw_text(image, 1, 1, "17m", (9, 9, 9), scale=1)
    drawn = ["".join("#" if pixel else "." for pixel in row) for row in image[..., 0]]
    assert drawn == [
        "................",
        "..#..###.#.#....",
        ".##....#.###....",
        "..#....#.###....",
        "..#...#..#.#....",
        ".###..#..#.#....",
        "................",
    ]
    assert text_width("17m", 1) == 11
    assert text_width("", 3) == 0


def test_drawing_beyond_the_border_is_cut():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    draw_text(image, -2, 6, "88", (9, 9, 9), scale=2)
    draw_brackets(image, -3, -3, 4, 20, (9, 9, 9))
    assert image.any()
    assert image.shape == (8, 8, 3)
