"""Spec files: the example, and every way in which a file can be wrong."""

from pathlib import Path

import pytest

from edgelung._codec import to_json
from edgelung.converters.spec_file import read_spec
from edgelung.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network.toml"


def test_the_example():
    spec = read_spec(EXAMPLE)
    assert spec.input.tensor.shape == (1, 5, 256, 256)
    low, high = spec.input.intensity.clip_hu
    scale, offset = spec.input.intensity.scale, spec.input.intensity.offset
    assert low * scale + offset == pytest.approx(0) and high * scale + offset == pytest.approx(1)
    assert spec.output.quantity == "logit"
    assert to_json(spec.thresholds) == {"mask_probability": 0.5, "min_diameter_mm": 2.0}


def test_defaults_may_be_left_out(tmp_path):
    text = EXAMPLE.read_text()
    start, end = text.index("pad_hu"), text.index("# One tensor comes out")
    text = text[:start] + text[end : text.index("# From the output")]
    (tmp_path / "short.toml").write_text(text)
    assert read_spec(tmp_path / "short.toml") == read_spec(EXAMPLE)


@pytest.mark.parametrize(
    ("old", "new", "field", "reason"),
    [
        ('task = "nodule-segmentation"', "", "", "missing key 'task'"),
        ("nodule-segmentation", "x-ray", "task", "'x-ray' is not one of 'nodule-segmentation'"),
        ("[input.packing]", "[input.stacking]", "input", "unknown key 'stacking'"),
        ("before = 2", "before = 2.0", "input.packing.before", "expected int"),
        ("before = 2", "before = true", "input.packing.before", "expected int"),
        ("before = 2", "before = 1", "input", "4 packed slices do not fill 5 channels"),
        ("before = 2", "befor = 2", "input.packing", "unknown key 'befor'"),
        ("shape = [1, 5, 256, 256]", "shape = [1, 5, 256, 255]", "input", "multiple of align_px"),
        ("shape = [1, 5, 256, 256]", "shape = [2, 5, 256, 256]", "input.tensor", "N = 1"),
        ("shape = [1, 5, 256, 256]", 'shape = "1x5"', "input.tensor.shape", "expected a list"),
        ("shape = [1, 1, 256, 256]", "shape = [1, 2, 256, 256]", "", "output.tensor has 2 channels"),
        ("shape = [1, 1, 256, 256]", "shape = [1, 1, 128, 128]", "", "output.tensor has the plane"),
        ("clip_hu = [-1000.0, 400.0]", "clip_hu = [400, -1000]", "input.intensity", "must rise"),
        ("clip_hu = [-1000.0, 400.0]", "clip_hu = [nan, 0.0]", "input.intensity.clip_hu[0]", "finite"),
        ("scale = 0.0007142857142857143", "scale = 1" + "0" * 400, "input.intensity.scale", "finite"),
        ('# dtype = "float32"', 'dtype = "int8"', "", "input.tensor is int8"),
        ('name = "logit"', 'name = "ct"', "", "both called 'ct'"),
        ('quantity = "logit"', 'quantity = "mask"', "output.quantity", "not one of"),
        ("mask_probability = 0.5", "mask_probability = 50", "thresholds", "between 0 and 1"),
        ("min_diameter_mm = 2.0", "min_diameter_mm = -2.0", "thresholds", ">= 0"),
        ("min_diameter_mm = 2.0", "min_diameter_mm = 1979-05-27", "thresholds.min_diameter_mm", "expected float"),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path, old, new, field, reason):
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "spec.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=reason) as caught:
        read_spec(path)
    assert (caught.value.source, caught.value.field) == (str(path), field)
    assert "docs/own-network.md" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "missing key 'task'"),
        (b"task = ", "not valid TOML"),
        (b'{"task": "json"}', "not valid TOML"),
        (b"\xff\xfe\x00", "not valid TOML"),
        (b"a = " + b"[" * 50_000, "not valid TOML"),
        (b"# " + b"x" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_files_that_are_no_spec(tmp_path, content, reason):
    path = tmp_path / "spec.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_spec(path)
    assert caught.value.source == str(path)


def test_a_folder_is_no_spec(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_spec(tmp_path)
