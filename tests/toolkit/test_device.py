"""Measuring on an attached board: the real worker, with stand-ins for the toolkit, its adb and the board."""

import json
import socket
from dataclasses import replace

import numpy as np
import pytest
from npu_bundles import LAYERS, layer_rows, make_npu_bundle
from toolkit.fake_toolkit import BOARD_LOG, adb_of, ends_soon, is_alive, make_environment

from edgelung.boards import estimate, get_board
from edgelung.converters import device
from edgelung.converters.toolkit import DeviceJob, run_device_job
from edgelung.converters.toolkit.device_log import parse_performance
from edgelung.errors import BundleError, ConversionError, InputError, VerificationError

LIMIT_S = 60  # of jobs that are not meant to reach it


@pytest.fixture(autouse=True)
def adb_port(monkeypatch):
    """A port of our own for adb's server, so that no real one is met."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    return port


@pytest.fixture
def board_job(tmp_path):
    """A function: words for the board -> a job with one input of (1, 1, 2, 2)."""

    def make(*words, **fields):
        model = tmp_path / "a model.rknn"
        model.write_text(" ".join(words))
        np.save(tmp_path / "input.npy", np.full((1, 1, 2, 2), 1.5, np.float32))
        return DeviceJob(model, (tmp_path / "input.npy",), **fields)

    return make


def replacing(old, new):
    """A word that makes the board print something else."""
    return f"replace={json.dumps([old, new]).encode().hex()}"


def test_a_board_gives_times_memory_and_answers(fake, board_job, tmp_path):
    stages = []
    result = run_device_job(
        board_job(calls=4, warmup=2), fake, folder=tmp_path / "run", timeout_s=LIMIT_S, progress=stages.append
    )
    assert stages == ["import", "find the board", "measure operators", "measure memory", "measure calls", "done"]
    assert (result.device, result.memory_bytes) == ("B1", {"weight_memory": 2048, "total_memory": 4096})
    assert result.runtime == "RKNN VERSION: DRV: rknn_server: 2.3.2 DRV: rknnrt: 2.3.2"
    assert len(result.call_seconds) == 4
    assert result.performance.operator_us == 137
    np.testing.assert_array_equal(result.outputs[0], np.full((1, 1, 2, 2), 3))
    sessions = [json.loads(line) for line in (tmp_path / "run" / "sessions.jsonl").read_text().splitlines()]
    # One kind of debugging at a time, and none while calls are timed.
    assert sessions == [["rk3588", "B1", debug] for debug in ({"perf_debug": True}, {"eval_mem": True}, {})]


FAILURES = [
    (("nobody",), "toolkit find the board: no board is attached; see that"),
    (("two",), r"2 boards are attached \(B1, B2\): name one by its serial number"),
    (("stranger",), r"adb lists the board B1 as 'no permissions \(see udev\)'"),
    (("broken-adb",), "adb devices returned 1: error: cannot connect to daemon"),
    (("unreadable",), "toolkit measure operators: load_rknn returned -1"),
    (
        ("no-server",),
        "measure operators: RuntimeError: E init_runtime: The rknn_server .* rknn_server of the toolkit's",
    ),
    (("refused",), "toolkit measure operators: init_runtime returned -1"),
    (("gone",), "toolkit measure operators: it was ended by SIGABRT"),
    (("forgetful",), "toolkit measure memory: eval_memory returned None"),
    (("mute",), "toolkit measure calls: inference returned nothing"),
    ((replacing("Time(us)", "Time(ms)"),), "unknown headings of the table of layers"),
]


@pytest.mark.parametrize(("words", "line"), FAILURES)
def test_every_failure_is_one_line_that_names_stage_and_reason(fake, board_job, tmp_path, words, line):
    with pytest.raises(ConversionError, match=line) as caught:
        run_device_job(board_job(*words), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert "\n" not in str(caught.value)


def test_a_board_can_be_named(fake, board_job, tmp_path):
    job = board_job("two", device="B2", calls=1)
    assert run_device_job(job, fake, folder=tmp_path / "run", timeout_s=LIMIT_S).device == "B2"
    with pytest.raises(ConversionError, match="no board B3 is attached, but B1, B2"):
        run_device_job(board_job("two", device="B3"), fake, folder=tmp_path / "other", timeout_s=LIMIT_S)


def test_a_toolkit_without_adb_says_so(board_job, tmp_path):
    environment = make_environment(tmp_path / "2.3.2")
    adb_of(environment.folder).unlink()
    with pytest.raises(ConversionError, match=r"the toolkit's adb cannot be run \(No such file or directory: adb\)"):
        run_device_job(board_job(), environment, folder=tmp_path / "run", timeout_s=LIMIT_S)


def test_a_hang_ends_at_the_time_limit_and_adbs_server_with_it(fake, board_job, tmp_path):
    with pytest.raises(ConversionError, match="measure operators: it did not finish within 2 s"):
        run_device_job(board_job("serve", "hang"), fake, folder=tmp_path / "run", timeout_s=2)
    assert ends_soon(int((tmp_path / "run" / "server.pid").read_text()))


def test_an_adb_server_that_ran_before_is_left_alone(fake, board_job, tmp_path, adb_port):
    with socket.create_server(("127.0.0.1", adb_port)) as server:
        run_device_job(board_job(calls=1), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
        server.settimeout(0.1)
        client, _ = server.accept()  # the look whether it is there
        with client:
            assert client.recv(100) == b""
        with pytest.raises(TimeoutError):
            server.accept()


def test_adb_gets_the_keys_of_the_user_and_nothing_else(fake, board_job, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)
    for name, expected in (("with", str(tmp_path / "with" / ".android")), ("without", None)):
        home = tmp_path / name
        home.mkdir()
        if expected:
            (home / ".android").mkdir()
        monkeypatch.setenv("HOME", str(home))
        run_device_job(board_job(calls=1), fake, folder=home / "run", timeout_s=LIMIT_S)
        env = json.loads((home / "run" / "adb-env.json").read_text())
        assert env.get("ADB_VENDOR_KEYS") == expected
        assert env["HOME"] == str(home / "run" / "tmp")
        assert "SECRET" not in env


def test_a_port_that_is_none_is_refused(fake, board_job, tmp_path, monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "tcp:5037")
    with pytest.raises(InputError, match="ANDROID_ADB_SERVER_PORT: must be a port number"):
        run_device_job(board_job(), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)


def test_unsuitable_jobs_are_refused_before_anything_is_written(fake, board_job, tmp_path):
    job = board_job()
    np.save(job.inputs[0], np.zeros(3))
    with pytest.raises(InputError, match="must hold one float32 array"):
        run_device_job(job, fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    job.model.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        run_device_job(job, fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert not (tmp_path / "run").exists()
    for fields in ({"calls": 0}, {"warmup": -1}):
        with pytest.raises(ValueError, match="calls must be at least 1"):
            board_job(**fields)


def test_the_printed_table_is_read_whole():
    performance = parse_performance(BOARD_LOG.read_text())
    assert [layer.operator for layer in performance.layers] == [
        "InputOperator", "ConvSigmoid", "exDataConvert", "OutputOperator",
    ]  # fmt: skip
    assert performance.layers[1] == LAYERS[1]
    assert performance.layer_us == (4, 91, 30, 12)
    assert performance.clocks == {"CPU": ("1800000", "2400000"), "NPU": ("1000000000",), "DDR": ("Unknown",)}


(LINE,) = (line for line in BOARD_LOG.read_text().splitlines() if "ConvSigmoid" in line)
GARBAGE = [
    ("Network Layer Information Table", "Another Table", "printed 0 tables of layers"),
    ("Total Operator Elapsed", "Total Elapsed", "printed 0 totals of operator time"),
    ("(us): 137", "(us): 999", "the layers take 137 us, the total says 999 us"),
    (LINE, "", "row 2 of the table of layers is not as known: ''"),
    (LINE, LINE.replace("2    Conv", "7    Conv"), "row 2 of the table of layers is not as known"),
    (LINE, LINE.replace("  91  ", "  -91 "), "row 2 of the table of layers is not as known"),
    (LINE, LINE.replace("(1,1,3,3)", "(1,1,?,3)"), "row 2 of the table of layers is not as known"),
    (LINE, LINE.replace("100.0%/0.0%/0.0%", "a lot"), "row 2 of the table of layers is not as known"),
    ("-" * 222, "", "unknown headings"),
]


@pytest.mark.parametrize(("old", "new", "reason"), GARBAGE)
def test_what_is_no_such_table_is_an_error(old, new, reason):
    text = BOARD_LOG.read_text()
    assert old in text
    with pytest.raises(ConversionError, match=reason):
        parse_performance(text.replace(old, new))


@pytest.fixture
def measured(fake, tmp_path, monkeypatch):
    """A function: words for the board -> the reports of a bundle that is compiled for two boards."""
    monkeypatch.setattr(device, "find", lambda version: fake)
    monkeypatch.setattr(device, "TIMEOUT_S", LIMIT_S)

    def measure(*words):
        folder = tmp_path / "b"
        answer = folder / "golden" / "bright" / "output-0.npy"
        content = " ".join([f"answer={str(answer).encode().hex()}", *words]).encode()
        make_npu_bundle(folder, targets=("rk3588", "rk3588s"), content=content, table=layer_rows(), overwrite=True)
        return device.measure_on_device(folder, calls=2, warmup=0)

    return measure


def test_measured_layers_stand_beside_their_estimates(measured):
    reports = measured()
    assert [report.estimated.artefact.target for report in reports] == ["rk3588", "rk3588s"]
    for report in reports:
        estimates = {
            row.layer.operator: row for row in estimate(LAYERS, get_board(report.estimated.artefact.target)).layers
        }
        assert [row.measured_us for row in report.layers] == [4, 91, 30, 12]
        expected = [estimates.get(row.layer.operator) for row in report.layers]
        assert [row.estimated for row in report.layers] == expected
        assert expected[2] is None  # a layer that only the board has
        assert report.golden_max_abs == 0
        data = report.to_json()
        assert (data["source"], data["operator_us"], data["operator_us_per_output_slice"]) == ("measured", 137, 137)
        assert data["call_us"] > 0
        assert [row["measured_us"] for row in data["layers"]] == [4, 91, 30, 12]
        json.dumps(data, allow_nan=False)


def test_equal_files_are_measured_once(measured, monkeypatch):
    runs = []
    run = device.run_device_job
    monkeypatch.setattr(device, "run_device_job", lambda *args, **options: runs.append(1) or run(*args, **options))
    assert len(measured()) == 2
    assert len(runs) == 1


def test_a_board_that_computes_wrongly_gives_no_latency(measured, monkeypatch):
    results = []
    run = device.run_device_job
    monkeypatch.setattr(
        device, "run_device_job", lambda *args, **options: results.append(run(*args, **options)) or results[0]
    )
    measured()
    (right,) = results[0].outputs

    def answering(output):
        monkeypatch.setattr(device, "run_device_job", lambda *args, **options: replace(results[0], outputs=(output,)))
        return measured()

    for wrong in (right * 0.9, right + np.float32(0.1), np.zeros_like(right), right * np.float32("nan")):
        with pytest.raises(VerificationError, match="board B1: the largest difference from the golden output"):
            answering(wrong)
    with pytest.raises(ConversionError, match="the board gave outputs of"):
        answering(right[:, :, 1:])
    assert len(answering(right)) == 2


def test_a_bundle_without_compiled_networks_is_refused(tmp_path):
    make_npu_bundle(tmp_path / "b", targets=())
    with pytest.raises(BundleError, match="has no rknn artefact to measure on a board; convert with --target"):
        device.measure_on_device(tmp_path / "b")


def test_no_process_stays(fake, board_job, tmp_path):
    run_device_job(board_job("serve", calls=1), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    pid = int((tmp_path / "run" / "server.pid").read_text())
    assert ends_soon(pid)
    assert not is_alive(pid)
