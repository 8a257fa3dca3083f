"""The one program that talks to rknn-toolkit2; it runs in the toolkit's own environment.

Run by path with that environment's Python, never imported by edgelung, so it uses the standard library, numpy and rknn
only::

    VENV/bin/python -I worker.py JOB.json

A job of kind ``build`` compiles and simulates a network, one of kind ``measure`` runs a compiled one on an attached
board. The working directory is the job's private folder: the job is read from it, and result.json, model.rknn, the
outputs of the simulator or the board and whatever the toolkit drops appear in it. The toolkit's log goes to standard
output and standard error.
result.json is written last and in one step. Exit codes: 0 done, 1 refused (result.json says by which call), 3 no space
left on the device; anything else is a crash.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1  # driver.py writes and reads the same
STAGE_MARK = "edgelung-stage:"  # log.py reads the same
EXIT_DONE, EXIT_REFUSED, EXIT_NO_SPACE = 0, 1, 3
_IOLBF = 1  # stdio.h: line buffering
_ADB = Path("3rdparty", "platform-tools", "adb", "linux-x86_64", "adb")  # the one that rknn-toolkit2 carries and calls


class RefusalError(Exception):
    """A call of the toolkit failed; the message says which and how."""


def main(job_file: str) -> int:
    """Run one job; returns the exit code."""
    _tame_process()
    job = json.loads(Path(job_file).read_text())
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "stage": "start",
        "refusal": "",
        "seconds": {},
        "sample_seconds": [],
        "outputs": 0,
    }
    code = EXIT_DONE
    try:
        if job["schema"] != SCHEMA:
            raise RefusalError(f"the job has schema {job['schema']}, this worker knows {SCHEMA}")
        _run(job, result)
    except Exception as error:  # the toolkit raises whatever it likes
        if _is_full(error):
            return EXIT_NO_SPACE
        result["refusal"] = str(error) if isinstance(error, RefusalError) else f"{type(error).__name__}: {error}"
        code = EXIT_REFUSED
    result["peak_memory_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        _write_json("result.json", result)
    except OSError as error:
        if _is_full(error):
            return EXIT_NO_SPACE
        raise
    return code


def _run(job: dict[str, Any], result: dict[str, Any]) -> None:
    with _Stage("import", result):
        import rknn.api  # type: ignore[import-not-found]

        result["versions"] = {
            "rknn-toolkit2": importlib.metadata.version("rknn-toolkit2"),
            **{name: importlib.metadata.version(name) for name in ("numpy", "onnx", "torch")},
            "python": platform.python_version(),
        }
    {"build": _build, "measure": _measure}[job["kind"]](rknn.api.RKNN, job, result)
    _stage("done", result)


def _build(kind: Any, job: dict[str, Any], result: dict[str, Any]) -> None:
    quantise = job["quantise"]
    with _Stage("load", result):
        toolkit = _configured(kind, job)
        _check("load_onnx", toolkit.load_onnx(model=job["model"]))
    with _Stage("build", result):
        if quantise is None:
            _check("build", toolkit.build(do_quantization=False))
        elif quantise["float_tensors"]:
            plan = _write_hybrid_plan(toolkit, quantise)
            toolkit.release()
            toolkit = _configured(kind, job)  # 2.5.0 refuses step 2 where a network was loaded
            _check("hybrid_quantization_step2", toolkit.hybrid_quantization_step2(**plan))
        else:
            _check("build", toolkit.build(do_quantization=True, dataset=_write_dataset(quantise["samples"])))
    with _Stage("export", result):
        _check("export_rknn", toolkit.export_rknn("./model.rknn"))
    if job["simulate"]:
        with _Stage("simulate", result):
            _simulate(toolkit, job["simulate"], result)


def _configured(kind: Any, job: dict[str, Any]) -> Any:
    toolkit = kind(verbose=True)
    options = {}
    if job["quantise"] is not None:
        options = {"quantized_algorithm": job["quantise"]["algorithm"], "quantized_method": "channel"}
    _check("config", toolkit.config(target_platform=job["target"], **options))
    return toolkit


def _write_hybrid_plan(toolkit: Any, quantise: dict[str, Any]) -> dict[str, str]:
    """Step 1 writes how it would quantise every layer; some are taken out of it for step 2, which gets the files."""
    _check("hybrid_quantization_step1", toolkit.hybrid_quantization_step1(dataset=_write_dataset(quantise["samples"])))
    (plan,) = Path().glob("*.quantization.cfg")
    text = plan.read_text()
    empty = "custom_quantize_layers: {}\n"
    if text.count(empty) != 1:
        raise RefusalError(f"hybrid_quantization_step1 wrote a plan without the line {empty.strip()!r}")
    # The plan is YAML, of which JSON is a part.
    layers = json.dumps(dict.fromkeys(quantise["float_tensors"], "float16"))
    plan.write_text(text.replace(empty, f"custom_quantize_layers: {layers}\n"))
    stem = plan.name.removesuffix(".quantization.cfg")
    return {"model_input": f"{stem}.model", "data_input": f"{stem}.data", "model_quantization_cfg": plan.name}


def _write_dataset(samples: list[list[str]]) -> str:
    """The toolkit's list of calibration inputs: one line a sample, blanks between the inputs of one sample."""
    folder = Path("calibration")
    folder.mkdir()
    lines = []
    for row, files in enumerate(samples):
        names = [folder / f"{row:05}-{column}.npy" for column in range(len(files))]
        for name, file in zip(names, files, strict=True):
            name.symlink_to(file)  # the list has no way to write a name with a blank
        lines.append(" ".join(map(str, names)) + "\n")
    Path("dataset.txt").write_text("".join(lines))
    return "dataset.txt"


def _simulate(toolkit: Any, samples: list[list[str]], result: dict[str, Any]) -> None:
    _check("init_runtime", toolkit.init_runtime())  # without a target: the simulator
    for row, files in enumerate(samples):
        _stage(f"simulate {row + 1}/{len(samples)}", result)
        inputs = [np.load(file, allow_pickle=False) for file in files]
        start = time.monotonic()
        outputs = toolkit.inference(inputs=inputs, data_format=["nchw"] * len(inputs))
        result["sample_seconds"].append(time.monotonic() - start)
        if not outputs:
            raise RefusalError("inference returned nothing")
        _save(outputs, row, result)


def _save(outputs: list[Any], row: int, result: dict[str, Any]) -> None:
    result["outputs"] = len(outputs)
    for column, output in enumerate(outputs):
        np.save(f"output-{row:05}-{column}.npy", output, allow_pickle=False)


def _measure(kind: Any, job: dict[str, Any], result: dict[str, Any]) -> None:
    """Three sessions on the board, because each kind of debugging slows the others down."""
    with _Stage("find the board", result):
        result["device"] = _find_device(Path(sys.modules["rknn"].__path__[0], _ADB), job["device"])
    with _Stage("measure operators", result), _session(kind, job, result, perf_debug=True) as toolkit:
        result["sdk"] = str(toolkit.get_sdk_version())
        toolkit.eval_perf(is_print=True, fix_freq=True)  # the table goes to standard output, and with it to the log
    with _Stage("measure memory", result), _session(kind, job, result, eval_mem=True) as toolkit:
        memory = toolkit.eval_memory(is_print=False)
        if not isinstance(memory, dict):
            raise RefusalError(f"eval_memory returned {memory!r}")
        result["memory"] = {str(name): int(size) for name, size in memory.items()}
    with _Stage("measure calls", result), _session(kind, job, result) as toolkit:
        _time_calls(toolkit, job, result)


@contextmanager
def _session(kind: Any, job: dict[str, Any], result: dict[str, Any], **debug: bool) -> Iterator[Any]:
    toolkit = kind(verbose=True)
    _check("load_rknn", toolkit.load_rknn(job["model"]))
    _check("init_runtime", toolkit.init_runtime(target=job["target"], device_id=result["device"], **debug))
    yield toolkit
    toolkit.release()


def _find_device(adb: Path, wanted: str | None) -> str:
    """The serial number of the board to measure on.

    adb is asked, because ``list_devices`` of 2.3.2 fails without a program that is not in its package.
    """
    try:
        asked = subprocess.run([str(adb), "devices"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise RefusalError(f"the toolkit's adb cannot be run ({error.strerror}: {adb.name})") from None
    if asked.returncode != 0:
        raise RefusalError(f"adb devices returned {asked.returncode}: {' '.join(asked.stderr.split())}")
    _, _, listed = asked.stdout.partition("List of devices attached")
    rows = (line.split(maxsplit=1) for line in listed.splitlines() if line.strip())
    states = {row[0]: row[1].strip() if len(row) > 1 else "without a state" for row in rows}
    if not states:
        raise RefusalError("no board is attached")
    names = ", ".join(states)
    if wanted is None and len(states) > 1:
        raise RefusalError(f"{len(states)} boards are attached ({names}): name one by its serial number")
    serial = wanted or next(iter(states))
    if serial not in states:
        raise RefusalError(f"no board {serial} is attached, but {names}")
    if states[serial] != "device":
        raise RefusalError(f"adb lists the board {serial} as {states[serial]!r}")
    return serial


def _time_calls(toolkit: Any, job: dict[str, Any], result: dict[str, Any]) -> None:
    inputs = [np.load(file, allow_pickle=False) for file in job["inputs"]]
    for call in range(job["warmup"] + job["calls"]):
        start = time.monotonic()
        outputs = toolkit.inference(inputs=inputs, data_format=["nchw"] * len(inputs))
        seconds = time.monotonic() - start
        if not outputs:
            raise RefusalError("inference returned nothing")
        if call >= job["warmup"]:
            result["sample_seconds"].append(seconds)
    _save(outputs, 0, result)


class _Stage:
    """Names a stage in the log and the result, and keeps its seconds."""

    def __init__(self, name: str, result: dict[str, Any]) -> None:
        self.name = name
        self.result = result

    def __enter__(self) -> None:
        _stage(self.name, self.result)
        self.start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.result["seconds"][self.name] = time.monotonic() - self.start


def _stage(name: str, result: dict[str, Any]) -> None:
    result["stage"] = name
    sys.stdout.flush()
    os.write(1, f"\n{STAGE_MARK} {name}\n".encode())


def _check(call: str, answer: int) -> None:
    if answer != 0:
        raise RefusalError(f"{call} returned {answer}")


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _write_json(name: str, value: dict[str, Any]) -> None:
    partial = Path(f"{name}.partial")
    with partial.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(name)


def _tame_process() -> None:
    """Leave no core file, and write the compiler's log line by line.

    The compiler writes through C's stdout, which is held back in blocks when it is no terminal: its tables would be cut
    by other lines, and its last words lost when it aborts. The same goes for what Python prints.
    """
    libc = ctypes.CDLL(None)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, 0)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
