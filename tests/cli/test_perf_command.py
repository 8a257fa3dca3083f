"""``edgelung perf``: host figures and estimates in tables of their own, and --device."""

import json

import pytest
from bundle_builders import make_bundle
from click.testing import CliRunner
from npu_bundles import LAYERS, layer_rows, make_npu_bundle
from toolkit.fake_toolkit import make_environment

from edgelung.boards import estimate, get_board
from edgelung.cli.perf import perf
from edgelung.converters import device
from edgelung.errors import BackendUnavailableError, BundleError, ConversionError


def run(*words):
    """The command in this process; errors of edgelung come out as they are."""
    done = CliRunner().invoke(perf, list(map(str, words)), catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def bundle(tmp_path):
    return make_npu_bundle(tmp_path / "b", targets=("rk3588", "rk3588s"), table=layer_rows())


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A bundle for a stand-in board that answers with the golden output."""
    fake = make_environment(tmp_path / "2.3.2")
    monkeypatch.setattr(device, "find", lambda version: fake)
    folder = tmp_path / "b"
    answer = str(folder / "golden" / "bright" / "output-0.npy").encode().hex()
    return make_npu_bundle(folder, content=f"answer={answer}".encode(), table=layer_rows())


def blocks(text):
    """The tables and paragraphs of an output."""
    return [block.splitlines() for block in text.split("\n\n")]


def test_host_figures_and_estimates_never_share_a_table(bundle):
    text = run(bundle, "--frames", 2).output
    assert "The networks for rk3588, rk3588s were not run here; onnxruntime ran another form of them." in text
    host = [block for block in blocks(text) if "median ms" in "".join(block)]
    estimated = [block for block in blocks(text) if "estimated us" in "".join(block)]
    assert len(host) == 1
    assert len(estimated) == 2
    assert not any("estimated" in line for line in host[0])
    for block, name in zip(estimated, ("rk3588", "rk3588s"), strict=True):
        assert block[0] == f"bright, fp16: estimated for {name}, not measured"
        assert not any("median" in line or "host" in line for line in block)
        assert sum("ConvSigmoid" in line for line in block) == 1
    us = estimate(LAYERS, get_board("rk3588s")).us_per_run
    assert f"per output slice: {us:.0f} us, between" in text


def test_flags_are_explained_below_the_table(bundle):
    text = run(bundle, "--frames", 1).output
    assert "[1] measured on other boards only" in text or "[1] a convolution of this shape was not measured" in text
    row = next(line for line in text.splitlines() if "ConvSigmoid" in line)
    assert row.endswith("]")


def test_json_keeps_its_keys_and_gains_the_estimates(bundle, tmp_path):
    data = json.loads(CliRunner().invoke(perf, [str(bundle), "--frames", "1", "--json"]).stdout)
    assert {"source", "board", "backend", "stages", "frames_per_second", "golden_max_abs"} <= set(data)
    assert data["source"] == "host"
    assert [(row["target"], row["source"], len(row["layers"])) for row in data["estimates"]] == [
        ("rk3588", "estimated", 3), ("rk3588s", "estimated", 3),
    ]  # fmt: skip
    plain = make_bundle(tmp_path / "plain")
    assert json.loads(CliRunner().invoke(perf, [str(plain), "--frames", "1", "--json"]).stdout)["estimates"] == []


def test_no_table_no_estimate_and_it_is_said(tmp_path):
    text = run(make_npu_bundle(tmp_path / "b"), "--frames", 1).output
    assert "bright, fp16: no estimate for rk3588s, the bundle has no layer table of it" in text
    assert "estimated us" not in text


def test_a_damaged_table_stops_before_anything_is_measured(tmp_path):
    with pytest.raises(BundleError, match="is not a list of layers"):
        run(make_npu_bundle(tmp_path / "b", table={}), "--frames", 1)


def test_an_npu_that_was_measured_is_not_estimated(bundle, monkeypatch):
    with pytest.raises(BackendUnavailableError):
        run(bundle, "--frames", 1, "--backend", "rknn")  # the negative control: there is no NPU here
    from edgelung import runtime

    measure = runtime.measure_latency

    def on_a_board(*args, **options):
        report = measure(*args, **options)
        object.__setattr__(report, "backend", "rknn")
        return report

    monkeypatch.setattr(runtime, "measure_latency", on_a_board)
    text = run(bundle, "--frames", 1).output
    assert "median ms" in text
    assert "estimated" not in text


def test_a_board_is_measured_beside_the_estimates(board):
    text = run(board, "--device", "--frames", 2, "--warmup", 0).output
    assert "bright, fp16, for rk3588s: measured on the board B1" in text
    assert "measured us  estimated us" in text
    row = next(line for line in text.splitlines() if "exDataConvert" in line)
    assert row.split()[-2:] == ["30", "-"]
    estimated = f"{estimate(LAYERS, get_board('rk3588s')).us_per_run:.0f}"
    assert "measured operators us  measured call us  estimated operators us" in text
    totals = [line.split() for line in text.splitlines() if line.startswith("per ")]
    assert [line[:2] for line in totals] == [["per", "run"], ["per", "output"]]
    assert [(line[-3], line[-1]) for line in totals] == [("137", estimated)] * 2
    assert "median of 2" in text
    assert "NPU clocks: 1000000000 Hz" in text
    assert "weight memory 2.0 KiB" in text
    assert "host" not in text


def test_a_board_is_measured_as_json(board):
    data = json.loads(CliRunner().invoke(perf, [str(board), "--device", "B1", "--frames", "2", "--json"]).stdout)
    (artefact,) = data["artefacts"]
    assert (data["source"], artefact["device"], artefact["operator_us"]) == ("measured", "B1", 137)
    with pytest.raises(ConversionError, match="no board B7 is attached, but B1"):
        run(board, "--device", "B7")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--device", "B1", "--backend", "rknn"), "with --device the toolkit chooses"),
        (("--device", "B1", "--threads", 2), "with --device the toolkit chooses"),
        (("--toolkit", "2.5.0"), "--toolkit goes with --device"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(bundle, words, reason):
    done = run(bundle, *words)
    assert done.exit_code == 2
    assert reason in done.output


def test_help_says_what_is_unproven():
    text = " ".join(run("--help").output.split())
    assert "tested over a stand-in for the toolkit, and is unproven on hardware" in text
