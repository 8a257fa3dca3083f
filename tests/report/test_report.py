"""Reports: rows from manifests, latencies apart by source, written whole or not at all, read back strictly."""

import json
import shutil
from dataclasses import replace

import pytest
from bundle_builders import make_bundle

from edgelung._codec import to_json
from edgelung.bundle import LatencyRecord, LayerCounts, open_bundle
from edgelung.converters.evaluation import METRICS, Difference, Interval, OperatingPoint
from edgelung.converters.report import (
    EvaluationRecord,
    Published,
    Report,
    ReportRow,
    read_report,
    rows_of_manifest,
    write_report,
)
from edgelung.converters.report.markdown import render_markdown
from edgelung.converters.report.plots import PLOTS
from edgelung.errors import ConversionError, InputError

ESTIMATED = LatencyRecord(31_600.0, 31_600.0, 1, (29_300.0, 37_200.0), "estimated", "rk3588s")
MEASURED = LatencyRecord(30_500.0, 30_500.0, 1, (30_100.0, 30_900.0), "measured", "rk3588s")
HOST = LatencyRecord(88_800.0, 88_800.0, 1, (80_000.0, 99_000.0), "host", "host")
PUBLISHED = Published("made up, measured on a made-up board", 12.5, 56.25, 7.75, 0.625, 0.375)


def point(threshold=0.5, shift=0.0, differs=False):
    metrics = {name: Interval(0.5 + shift, 0.4 + shift, 0.6 + shift) for name in METRICS}
    difference = {name: Difference(shift, shift - 0.01, shift + 0.01) for name in METRICS} if differs else {}
    return OperatingPoint(threshold, metrics, difference)


def row(name, latency=ESTIMATED, **more):
    layers = LayerCounts(18, 18, 0, 0, 0)
    return ReportRow(name, "rk3588s", "int8", 1000, 123.45, 678.9, layers, latency, "0" * 64, True, **more)


def full_report():
    evaluated = EvaluationRecord("simulator", "slices 1:9", 60, 9, point())
    other = replace(evaluated, own=point(0.5, -0.125, True), matched=point(0.75, 0.05, True))
    third = replace(other, matched=None, unmatched="no threshold keeps to it")
    rows = (
        row("original", evaluation=evaluated, published=PUBLISHED),
        row("small", MEASURED, evaluation=other),
        row("smaller", HOST, evaluation=third),
    )
    return Report("Made up", rows, ("60 nodules.",), ("Nothing of this is real.",))


def tables(text):
    """Cells by heading of every table in a Markdown text."""
    found, lines = [], text.splitlines()
    for index, line in enumerate(lines):
        if line.startswith("| ---"):
            heads = [cell.strip() for cell in lines[index - 1].strip("|").split("|")]
            body = []
            for row_line in lines[index + 1 :]:
                if not row_line.startswith("|"):
                    break
                body.append([cell.strip() for cell in row_line.strip("|").split("|")])
            found.append((heads, body))
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder in which the full report was written."""
    folder = tmp_path_factory.mktemp("written")
    write_report(folder / "report", full_report())
    return folder


@pytest.fixture
def copied(written, tmp_path):
    """The same to be changed."""
    return shutil.copytree(written, tmp_path / "copied") / "report"


def test_a_report_comes_back_as_it_was(written):
    assert read_report(written / "report") == full_report()
    assert {path.name for path in (written / "report").iterdir()} == {"report.json", "report.md", *PLOTS}
    assert [path.name for path in written.iterdir()] == ["report"]


def test_latencies_of_different_sources_share_no_column():
    heads, body = tables(render_markdown(full_report(), ()))[0]
    columns = {head: [line[index] for line in body] for index, head in enumerate(heads)}
    assert columns["ms, estimated for rk3588s"] == ["31.6 (29.3 .. 37.2)", "-", "-"]
    assert columns["ms, measured on rk3588s"] == ["-", "30.5 (30.1 .. 30.9)", "-"]
    assert columns["ms, on the converting computer"] == ["-", "-", "88.8 (80.0 .. 99.0)"]
    assert columns["ms, measured there"] == ["7.8", "-", "-"]


def test_published_columns_stand_beside_and_name_their_source():
    text = render_markdown(full_report(), ())
    assert "Published: made up, measured on a made-up board." in text
    heads, body = tables(text)[0]
    assert body[0][heads.index("published: weight memory KiB")] == "12.50"
    assert tables(text)[1][1][0][-2:] == ["0.625", "0.375"]


def test_differences_that_are_clear_are_marked_and_others_not():
    report = full_report()
    unclear = replace(report.rows[1].evaluation, own=point(0.5, 0.001, True))
    rows = (report.rows[0], report.rows[1], replace(report.rows[2], evaluation=unclear))
    heads, body = tables(render_markdown(replace(report, rows=rows), ()))[2]
    assert heads == ["variant", *METRICS]
    assert [(line[0], "*" in line[1]) for line in body] == [("small", True), ("smaller", False)]


def test_what_could_not_be_matched_says_why():
    assert "* smaller: no threshold keeps to it" in render_markdown(full_report(), ())


def test_without_evaluation_there_are_sizes_and_latencies_alone(tmp_path):
    write_report(tmp_path, Report("Sizes", (row("only"),)))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "size.png", "latency.png"}
    assert "Nodules" not in (tmp_path / "report.md").read_text()


def test_a_new_report_takes_the_place_of_the_old_one_and_its_pictures(copied):
    (copied / "mine.txt").write_text("stays")
    write_report(copied, Report("Sizes", (row("only"),)))
    assert read_report(copied).title == "Sizes"
    assert not (copied / "pareto.png").exists()
    assert (copied / "mine.txt").read_text() == "stays"


def test_a_failure_while_drawing_leaves_the_old_report_whole(copied, monkeypatch):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    def full_disk(report, work):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgelung.converters.report.files.draw_plots", full_disk)
    with pytest.raises(ConversionError, match="could not be written \\(No space left on device\\)"):
        write_report(copied, Report("Sizes", (row("only"),)))
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == ["report"]


def test_rows_come_from_the_manifest(tmp_path):
    with open_bundle(make_bundle(tmp_path / "b")) as bundle:
        (made,) = rows_of_manifest("plain", bundle.manifest, bundle.sha256)
        (record,) = bundle.manifest.networks.values()
        (artefact,) = record.artefacts
    assert (made.name, made.target, made.precision) == ("plain", artefact.target, artefact.precision)
    assert (made.weight_memory_kib, made.model_size_kib) == (artefact.weight_memory_kib, artefact.model_size_kib)
    assert (made.latency, made.layers, made.parameters) == (artefact.latency, artefact.layers, record.parameters)
    assert made.bundle_sha256 == bundle.sha256


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.pop("rows"), "missing key 'rows'"),
        (lambda data: data.update(rows=[]), "a report has rows"),
        (lambda data: data.update(rows=data["rows"] + data["rows"][:1]), "same name and target"),
        (lambda data: data.update(extra=1), "unknown key 'extra'"),
        (lambda data: data.update(format_version=2), "format version 2"),
        (lambda data: data["rows"][0].update(name="a | b"), "meaning in Markdown"),
        (lambda data: data["rows"][0].update(name="<script>"), "meaning in Markdown"),
        (lambda data: data["rows"][0]["latency"].update(source="guessed"), "is not one of"),
        (lambda data: data["rows"][0]["evaluation"]["own"]["metrics"][METRICS[0]].update(low=2.0), "interval"),
        (lambda data: data["rows"][0]["evaluation"]["own"]["metrics"].pop(METRICS[1]), "pixel precision"),
    ],
)
def test_a_file_that_is_no_report_is_refused_with_the_reason(tmp_path, change, reason):
    data = json.loads(json.dumps(to_json(full_report())))
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="is no report") as refused:
        read_report(tmp_path)
    assert reason in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b'{"title": NaN}', b"[" * 100_000])
def test_junk_is_refused(tmp_path, content):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(InputError, match="is no report"):
        read_report(tmp_path)


def test_no_report_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_report(tmp_path)


def test_latencies_of_different_sources_share_no_panel():
    figure = PLOTS["latency.png"](full_report().rows)
    panels = {axes.get_title(): [bar.get_width() for bar in axes.patches] for axes in figure.axes}
    assert panels == {
        "ms, estimated for rk3588s": [31.6],
        "ms, measured on rk3588s": [30.5],
        "ms, on the converting computer": [88.8],
        "ms, as published": [7.75],
    }


def test_the_pareto_plot_holds_evaluated_variants_with_an_estimate():
    rows = full_report().rows
    figure = PLOTS["pareto.png"](rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["original"]
    assert PLOTS["pareto.png"](rows[1:]) is None
    assert PLOTS["pareto.png"]((row("not evaluated"),)) is None


def test_published_sizes_are_marked_on_the_bar_they_belong_to():
    rows = full_report().rows
    figure = PLOTS["size.png"]((rows[1], rows[0]))
    marks = [axes.lines[-1].get_xydata().tolist() for axes in figure.axes]
    assert marks == [[[12.5, 1.0]], [[56.25, 1.0]]]
