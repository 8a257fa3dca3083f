"""Lists of LUNA16 as people have them: read when they are clear, and refused by name and line when they are not."""

import pytest

from edgelung.converters.datasets.luna16_lists import name_lines, read_annotations, read_candidates
from edgelung.errors import InputError

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"
UIDS = {"2.25.1", "2.25.2"}


def rows_of(tmp_path, content, read=read_annotations):
    notes = []
    path = tmp_path / "annotations.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, UIDS, notes.append), notes


CLEAR = {
    "as it is": f"{HEADER}\n2.25.1,1,-2,3.5,6\n",
    "CRLF": f"{HEADER}\r\n2.25.1,1,-2,3.5,6\r\n",
    "byte order mark": f"\ufeff{HEADER}\n2.25.1,1,-2,3.5,6\n",
    "other case": "SeriesUID,CoordX,COORDY,coordz,Diameter_MM\n2.25.1,1,-2,3.5,6\n",
    "other order": "diameter_mm,coordZ,coordX,coordY,seriesuid\n6,3.5,1,-2,2.25.1\n",
    "further columns": f"{HEADER},malignant,votes\n2.25.1,1,-2,3.5,6,True,\"[4, 2]\"\n",
    "spaces": "seriesuid, coordX, coordY, coordZ, diameter_mm\n 2.25.1 , 1 , -2 , 3.5 , 6 \n",
    "quotes": '"seriesuid","coordX","coordY","coordZ","diameter_mm"\n"2.25.1","1","-2","3.5","6"\n',
    "empty lines": f"{HEADER}\n2.25.1,1,-2,3.5,6\n\n,,,,\n",
    "no line end": f"{HEADER}\n2.25.1,1,-2,3.5,6",
}  # fmt: skip


@pytest.mark.parametrize("form", CLEAR)
def test_a_clear_list_is_read_in_any_form(tmp_path, form):
    (row,), notes = rows_of(tmp_path, CLEAR[form])
    assert (row.uid, row.point_lps_mm, row.number, row.line) == ("2.25.1", (1.0, -2.0, 3.5), 6.0, 2)
    assert notes == []


REFUSED = {
    "semicolons": (
        HEADER.replace(",", ";") + "\n2.25.1;1;2;3;4\n",
        "separated by semicolons, not commas.*decimal points",
    ),
    "tabs": (HEADER.replace(",", "\t") + "\n", "separated by tabs"),
    "UTF-16": (HEADER.encode("utf-16"), "is no list in CSV .it is UTF-16.*UTF-8"),
    "not text": (b"\x80\x81", "is no list in CSV"),
    "empty": ("", "has the columns"),
    "no header": ("2.25.1,1,2,3,4\n", "begins without its header, seriesuid,coordX"),
    "other names": ("seriesuid,x,y,z,diameter\n", "has the columns"),
    "a column twice": (f"{HEADER},coordX\n", "has the columns"),
    "NaN": (f"{HEADER}\n2.25.1,1,2,3,4\n2.25.1,1,nan,3,4\n", "line 3: is no series with four numbers"),
    "infinity": (f"{HEADER}\n2.25.1,1,2,3,inf\n", "line 2"),
    "short": (f"{HEADER}\n2.25.1,1,2\n", "line 2"),
    "long": (f"{HEADER}\n2.25.1,1,2,3,4,5\n", "line 2"),
    "decimal commas": (f"{HEADER}\n2.25.1,1,5,2,5,3,5,4\n", "line 2"),
    "words": (f"{HEADER}\n2.25.1,left,2,3,4\n", "line 2"),
    "no series": (f"{HEADER}\n,1,2,3,4\n", "line 2"),
    "the excluded list": (
        f"{HEADER}\n2.25.1,1,2,3,4\n2.25.1,1,2,3,-1\n2.25.9,4,5,6,-1\n",
        r"2 of 3 nodules have a diameter of no nodule \(-1 to -1 mm; lines 3 and 4\); annotations_excluded.csv has -1",
    ),
    "zero": (f"{HEADER}\n2.25.1,1,2,3,0\n", r"1 of 1 nodules .*0 to 0 mm; line 2.*remove these rows"),
    "micrometers": (f"{HEADER}\n2.25.1,1,2,3,5000\n", "diameter of no nodule.*diameters are 0.5 to 200 mm"),
    "other names of series": (f"{HEADER}\nscan-1,1,2,3,4\nscan-2,1,2,3,4\n", "none of its 2 rows is of a scan"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_an_unclear_list_is_refused_by_what_is_wrong(tmp_path, form):
    content, reason = REFUSED[form]
    with pytest.raises(InputError, match=reason) as caught:
        rows_of(tmp_path, content)
    assert caught.value.source.endswith("annotations.csv")
    assert "2.25" not in caught.value.problem
    assert "\n" not in str(caught.value)


def test_rows_of_absent_scans_and_repeated_rows_are_counted(tmp_path):
    content = f"{HEADER}\n2.25.1,1,2,3,4\n2.25.7,1,2,3,4\n2.25.1,1,2,3,4\n2.25.1,1,2,3,5\n2.25.1,1,2,3,4.0\n"
    rows, notes = rows_of(tmp_path, content)
    assert [row.line for row in rows] == [2, 5]
    assert notes == [
        "annotations.csv: 1 of 5 rows are of scans that are not here",
        "annotations.csv: 2 of 4 rows repeat an earlier one (lines 4 and 6); used once",
    ]


def test_candidates_have_two_classes(tmp_path):
    header = "seriesuid,coordX,coordY,coordZ,class\n"
    rows, notes = rows_of(tmp_path, f"{header}2.25.1,1,2,3,0\n2.25.1,1,2,4,1\n2.25.2,1,2,3,0.0\n", read_candidates)
    assert [row.line for row in rows] == [2, 4] and notes == []
    with pytest.raises(InputError, match="line 3: the class is 2, not 0 or 1"):
        rows_of(tmp_path, f"{header}2.25.1,1,2,3,0\n2.25.1,1,2,4,2\n", read_candidates)
    assert rows_of(tmp_path, f"{header}2.25.9,1,2,3,0\n", read_candidates)[0] == []


def test_few_lines_are_all_named():
    assert name_lines([4]) == "line 4"
    assert name_lines([4, 17, 30]) == "lines 4, 17 and 30"
    assert name_lines(range(2, 3000)) == "lines 2, 3, 4, 5, 6 and 2,993 more"
