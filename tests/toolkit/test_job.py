"""Jobs through the real worker, in a process of its own, with a stand-in for the vendor's package."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from toolkit.fake_toolkit import ends_soon

from edgelung.converters.toolkit import Quantisation, run_job
from edgelung.errors import ConversionError, InputError

LIMIT_S = 60  # of jobs that are not meant to reach it


def test_a_job_gives_the_network_its_layers_and_the_simulators_answers(fake, job, samples, tmp_path):
    stages = []
    result = run_job(job(simulate=samples), fake, folder=tmp_path / "run", timeout_s=LIMIT_S, progress=stages.append)
    assert [stage for stage in stages if ":" not in stage] == [
        "import", "load", "build", "export", "simulate", "simulate 1/2", "simulate 2/2", "done",
    ]  # fmt: skip
    assert "build: Quantizating 50 %" in stages
    assert (result.weight_memory_kib, result.internal_memory_kib) == (17.875, 664)
    assert result.model_size_kib == result.rknn.stat().st_size / 1024
    assert [layer.operator for layer in result.layers][:2] == ["InputOperator", "ConvRelu"]
    assert result.versions["rknn-toolkit2"] == "2.3.2"
    assert set(result.versions) == {"rknn-toolkit2", "numpy", "onnx", "torch", "python"}
    assert set(result.seconds) == {"import", "load", "build", "export", "simulate", "total"}
    assert len(result.sample_seconds) == 2
    assert result.peak_memory_kib > 1024
    for row, outputs in enumerate(result.outputs):
        np.testing.assert_array_equal(outputs[0], np.full((1, 1, 2, 2), 2 * row + 1))
        np.testing.assert_array_equal(outputs[1], np.full((1, 1), row - 0.5))
    options = json.loads((tmp_path / "run" / "options.json").read_text())
    assert options == {"target_platform": "rk3588"}


def test_calibration_inputs_reach_the_toolkit_whatever_their_names(fake, job, samples, tmp_path):
    run_job(job(quantise=Quantisation(samples, "mmse")), fake, folder=tmp_path / "a run", timeout_s=LIMIT_S)
    assert json.loads((tmp_path / "a run" / "means.json").read_text()) == [[0.5, -0.5], [1.5, 0.5]]
    options = json.loads((tmp_path / "a run" / "options.json").read_text())
    assert options["quantized_algorithm"] == "mmse"
    assert options["quantized_method"] == "channel"


def test_float_layers_are_written_into_the_toolkits_plan(fake, job, samples, tmp_path):
    run_job(
        job(quantise=Quantisation(samples, float_tensors=('/a/"b"', "c:0"))), fake, folder=tmp_path / "run",
        timeout_s=LIMIT_S,
    )  # fmt: skip
    (plan,) = (tmp_path / "run").glob("*.quantization.cfg")
    layers, rest = plan.read_text().split("\n", 1)
    assert json.loads(layers.partition(": ")[2]) == {'/a/"b"': "float16", "c:0": "float16"}
    assert rest == "quantize_parameters:\n"


FAILURES = [
    ("abort", "toolkit build: it was ended by SIGABRT: .*Meet unsupported Operator: Odd"),
    ("killed", "toolkit build: it was ended by SIGKILL.*memory ran out"),
    ("raise", "toolkit build: BadThing: no such thing"),
    ("refuse", "toolkit build: build returned -1: E build: Invalid node: head/Conv"),
    ("unloadable", "toolkit load: load_onnx returned -1"),
    ("full", "toolkit build: no space left in .*run; free some"),
    ("quietly-full", "toolkit build: no space left in .*run; free some"),
    ("vanish", "the worker's result cannot be read"),
    ("rubbish", "the worker's result cannot be read"),
    ("liar", "the worker's result contradicts itself"),
    ("untold", "toolkit log: it has 0 lines with the total internal memory"),
    ("unexported", "what it exported is not whole"),
    ("cut", "what it exported is not whole: should end"),
    ("other-chip", "it compiled for rk3566, not for rk3588"),
    ("mute", "toolkit simulate 1/2: inference returned nothing"),
    ("double", "output-00000-0.npy of the simulator is float64, not float32"),
]


@pytest.mark.parametrize(("word", "line"), FAILURES)
def test_every_failure_is_one_line_that_names_stage_and_reason(fake, job, samples, tmp_path, word, line):
    with pytest.raises(ConversionError, match=line) as caught:
        run_job(job(word, simulate=samples), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir() if path.suffix not in (".npy", ".onnx")} == {"run"}


def wait_for(path):
    """The number in a file that will appear."""
    for _ in range(300):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_a_hang_ends_at_the_time_limit_with_all_its_children(fake, job, tmp_path):
    with pytest.raises(ConversionError, match="toolkit build: it did not finish within 2 s"):
        run_job(job("hang"), fake, folder=tmp_path / "run", timeout_s=2)
    assert ends_soon(wait_for(tmp_path / "run" / "child.pid"))


def test_ctrl_c_ends_the_worker_and_its_children(fake, job, tmp_path):
    folder = tmp_path / "run"

    def interrupt():
        wait_for(folder / "child.pid")
        os.kill(os.getpid(), signal.SIGINT)

    # A shell ignores SIGINT for what it starts in the background, and a child inherits that: not what is tested here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_job(job("hang"), fake, folder=folder, timeout_s=LIMIT_S)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ends_soon(wait_for(folder / "child.pid"))


def test_two_jobs_at_once_keep_to_their_own_folders(fake, job, samples, tmp_path):
    slow = job("slow", simulate=samples)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_job, slow, fake, folder=tmp_path / name, timeout_s=LIMIT_S) for name in "ab"]
        results = [run.result() for run in runs]
    assert [result.rknn.parent.name for result in results] == ["a", "b"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}


def test_the_worker_sees_nothing_of_the_callers_environment(fake, job, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "planted"))
    monkeypatch.setenv("SECRET", "x")
    (tmp_path / "planted" / "rknn").mkdir(parents=True)
    (tmp_path / "planted" / "rknn" / "__init__.py").write_text("raise SystemExit('planted')")
    result = run_job(job(), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    assert "planted" not in result.log.read_text()


def test_unsuitable_inputs_are_refused_before_anything_is_written(fake, job, samples, tmp_path):
    odd = tmp_path / "odd.npy"
    cases = {
        "is no .npy file": lambda: odd.write_bytes(b"hello"),
        "must hold one float32 array": lambda: np.save(odd, np.zeros((1, 1, 2, 2))),
        "other samples have": lambda: np.save(odd, np.zeros((1, 1, 2, 3), np.float32)),
    }
    for reason, make in cases.items():
        make()
        with pytest.raises(InputError, match=reason):
            run_job(job(simulate=(*samples, (odd, samples[0][1]))), fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
        assert not (tmp_path / "run").exists()
    (tmp_path / "a model.onnx").unlink()
    missing = job()
    missing.model.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        run_job(missing, fake, folder=tmp_path / "run", timeout_s=LIMIT_S)
    with pytest.raises(ValueError, match="needs calibration samples"):
        Quantisation(())


def test_a_folder_that_holds_something_is_left_alone(fake, job, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="needs an empty folder"):
        run_job(job(), fake, folder=folder, timeout_s=LIMIT_S)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
