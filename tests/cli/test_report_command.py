"""``edgelung report``: bundles side by side."""

import json

import pytest
from bundle_builders import make_bundle
from click.testing import CliRunner

from edgelung.cli.main import edgelung
from edgelung.errors import BundleError, InputError


def report(*words):
    done = CliRunner().invoke(edgelung, ["report", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_bundles_are_put_side_by_side(tmp_path):
    bundles = [make_bundle(tmp_path / f"{name}.bundle") for name in ("original", "small")]
    output = report(*bundles, "--output", tmp_path / "report", "--json")
    rows = json.loads(output)["rows"]
    assert [row["name"] for row in rows] == ["original", "small"]
    assert json.loads((tmp_path / "report" / "report.json").read_text())["rows"] == rows
    assert "small" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "size.png").stat().st_size > 1000
    assert "2 compiled networks of 2 bundles" in report(*bundles, "--output", tmp_path / "report")


def test_what_cannot_be_compared_is_one_line(tmp_path):
    bundle = make_bundle(tmp_path / "one.bundle")
    with pytest.raises(InputError, match="same name"):
        report(bundle, bundle, "--output", tmp_path / "report")
    with pytest.raises(InputError, match="another name"):
        report(bundle.rename(tmp_path / "a|b.bundle"), "--output", tmp_path / "report")
    with pytest.raises(BundleError):
        report(tmp_path / "none.bundle", "--output", tmp_path / "report")
    assert not (tmp_path / "report").exists()
