"""Estimates of a bundle's compiled networks, and layer tables that are none."""

import json

import pytest
from bundle_builders import make_bundle, network_input
from npu_bundles import LAYERS, layer_rows, make_npu_bundle

from edgelung.boards import estimate, get_board
from edgelung.bundle import open_bundle
from edgelung.errors import BundleError
from edgelung.runtime import estimate_bundle


def test_an_estimate_is_what_the_board_makes_of_the_layer_table(tmp_path):
    path = make_npu_bundle(tmp_path / "b", targets=("rk3588", "rk3588s"), table=layer_rows())
    rows = estimate_bundle(path)
    assert [(row.network, row.artefact.target) for row in rows] == [("bright", "rk3588"), ("bright", "rk3588s")]
    assert [row.estimate for row in rows] == [estimate(LAYERS, get_board(name)) for name in ("rk3588", "rk3588s")]
    one, other = (row.estimate.interval_us for row in rows)
    assert one != other  # the boards differ, so a mix-up would show
    with open_bundle(path) as bundle:
        assert estimate_bundle(bundle) == rows
        assert bundle.path(rows[0].artefact).exists()  # it stays open


def test_the_estimate_is_made_anew_not_read_from_the_manifest(tmp_path):
    (row,) = estimate_bundle(make_npu_bundle(tmp_path / "b", table=layer_rows()))
    assert row.artefact.latency.us_per_run == 900
    assert row.estimate.us_per_run != 900


def test_the_latency_is_shared_among_the_slices_of_a_run(tmp_path):
    path = make_npu_bundle(tmp_path / "b", table=layer_rows(), spec=network_input((1, 4, 1)))
    (row,) = estimate_bundle(path)
    data = row.to_json()
    assert (data["slices_per_run"], data["us"]) == (4, row.estimate.us_per_run / 4)
    assert data["interval_us_per_run"][0] == pytest.approx(4 * data["interval_us"][0])
    assert sum(layer["share"] for layer in data["layers"]) == pytest.approx(1)
    assert [layer["layer"]["operator"] for layer in data["layers"]] == [layer.operator for layer in LAYERS]
    assert (data["source"], data["board"]) == ("estimated", "rk3588s")
    assert json.dumps(data, allow_nan=False)


def test_without_compiled_networks_or_tables_there_is_no_figure(tmp_path):
    assert estimate_bundle(make_bundle(tmp_path / "plain")) == ()
    (row,) = estimate_bundle(make_npu_bundle(tmp_path / "b"))
    assert row.estimate is None
    assert row.to_json()["layers"] is None


def changed(row=1, **fields):
    """The layer table with other fields in one row."""
    rows = layer_rows()
    rows[row].update(fields)
    return rows


HOSTILE = {
    "no JSON": (b"\xff\xfe", "Expecting value"),
    "not a list": ({"layers": []}, "is not a list of layers"),
    "no layers": ([], "there are no layers"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "not a number": (b'[{"index": NaN}]', "NaN is not a JSON number"),
    "twice": (b'[{"index": 1, "index": 2}]', "same key twice"),
    "unknown key": (changed(colour="red"), "layer 2: unknown key 'colour'"),
    "missing key": ([{"index": 1}], "layer 1: missing key"),
    "wrong type": (changed(npu_cycles="9"), "layer 2.npu_cycles: expected int"),
    "order": (layer_rows(LAYERS[::-1]), "layer 1 has the index 3"),
    "no weight": (changed(input_shapes=[[1, 1, 64, 64]]), "has no weight shape"),
    "negative": (changed(npu_cycles=-1), r"a number that is not in 0\.\."),
    "huge axis": (changed(output_shape=[1, 10**400, 1, 1]), r"a number that is not in 0\.\."),
    "huge traffic": (changed(traffic_kib=1e300), r"a number that is not in 0\.\."),
    "many axes": (changed(output_shape=[1] * 9), "more than 8 axes"),
    "terminal codes": (changed(operator="\x1b[2J"), "no plain text"),
    "line end": (changed(name="a\nb"), "no plain text"),
    "long name": (changed(name="a" * 1000), "no plain text"),
    "odd digits": (changed(dtype="INT²"), "no plain text"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_layer_table_is_refused_with_its_name(tmp_path, case):
    content, reason = HOSTILE[case]
    with pytest.raises(BundleError, match=reason) as caught:
        estimate_bundle(make_npu_bundle(tmp_path / "b", table=content))
    assert "networks/bright/rk3588s-fp16.layers.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_larger_than_any_network_is_not_read(tmp_path):
    path = make_npu_bundle(tmp_path / "b", table=b" " * ((8 << 20) + 1))
    with pytest.raises(BundleError, match="a layer table has at most"):
        estimate_bundle(path)


@pytest.mark.parametrize(("target", "reason"), [("onnxruntime", "has no NPU"), ("rk9999", "unknown target")])
def test_a_target_that_is_no_board_is_refused(tmp_path, target, reason):
    with pytest.raises(BundleError, match=reason):
        estimate_bundle(make_npu_bundle(tmp_path / "b", targets=(target,), table=layer_rows()))
