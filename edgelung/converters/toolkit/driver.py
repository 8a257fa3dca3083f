"""Running a job: the worker in a private folder, and its results read with suspicion."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung._codec import from_json
from edgelung.boards.rknn_file import read_rknn
from edgelung.converters.toolkit.device_log import parse_performance
from edgelung.converters.toolkit.environments import ToolkitEnvironment
from edgelung.converters.toolkit.job import (
    DeviceJob,
    DeviceResult,
    Samples,
    ToolkitJob,
    ToolkitResult,
    check_inputs,
    check_samples,
)
from edgelung.converters.toolkit.log import NO_SPACE_SAID, PROGRESS_BAR, STAGE_MARK, complaints, parse_tables, read_log
from edgelung.converters.toolkit.process import Ended, run_logged
from edgelung.errors import BundleError, ConversionError, InputError

__all__ = ["run_device_job", "run_job"]

SCHEMA = 1  # of job.json and result.json; worker.py has the same number
TARGET = "rk3588"  # the toolkit's name for RK3588 and RK3588S
WORKER = Path(__file__).with_name("worker.py")
NO_SPACE_CODE = 3  # worker.py's exit code for a full disk
_RESULT_LIMIT = 16 << 20
_PASSED_ON = ("OMP_NUM_THREADS", "LD_LIBRARY_PATH")  # of the environment; torch reads the first and may need the second
# What adb reads: where its server listens, and the keys by which an Android board knows this machine.
_ADB_PORT, _ADB_KEYS = "ANDROID_ADB_SERVER_PORT", "ADB_VENDOR_KEYS"
_ADB_DEFAULT_PORT = 5037  # of adb
_ADB_KILL = b"0009host:kill"  # adb's protocol: length in four hexadecimal digits, request
_ADB_PATIENCE_S = 5.0
_BOARD_HINT = (
    "see that the board is connected and on, that `adb devices` lists it as `device`, and that rknn_server of the "
    "toolkit's version runs on it"
)
_MEASURED = "measure operators"  # worker.py's stage in which eval_perf prints


@dataclass(frozen=True)
class _Answer:
    """result.json."""

    schema: int
    stage: str
    refusal: str
    peak_memory_kib: int
    outputs: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sample_seconds: tuple[float, ...] = ()
    device: str = ""
    sdk: str = ""
    memory: dict[str, int] = field(default_factory=dict)


def run_job(
    job: ToolkitJob,
    environment: ToolkitEnvironment,
    *,
    folder: Path,
    timeout_s: float,
    progress: Callable[[str], None] | None = None,
) -> ToolkitResult:
    """Run a job in its own process group and wait for it.

    Nothing is written outside of ``folder``, and no process is left behind, whatever happens. Jobs in different
    folders do not disturb each other.

    Args:
        job: What to do.
        environment: The toolkit that does it.
        folder: New or empty folder for everything that arises; it stays, for the caller to keep or delete.
        timeout_s: Wall-clock limit in seconds.
        progress: Called with the name of each stage as it begins (``load``, ``build``, ``simulate 2/5``, ...) and with
            the toolkit's own progress within it (``build: Quantizating 45 %``), many times a second.

    Raises:
        InputError: If an input is no float32 .npy file, or ``folder`` is not empty.
        ConversionError: If the toolkit cannot be used, refuses, crashes, hangs or answers with rubbish, or the disk is
            full. Names the stage and quotes the toolkit's last words.
    """
    environment.check()
    check_samples(job)
    quantise = job.quantise and {
        "samples": _names(job.quantise.samples),
        "algorithm": job.quantise.algorithm,
        "float_tensors": list(job.quantise.float_tensors),
    }
    run = _Run(Path(folder).absolute())
    with run.disk():
        run.prepare("build", model=_name(job.model), quantise=quantise, simulate=_names(job.simulate))
        ended = run.work(environment, run.env(), timeout_s, progress)
        return run.result(job, run.answer(ended), ended)


def run_device_job(
    job: DeviceJob,
    environment: ToolkitEnvironment,
    *,
    folder: Path,
    timeout_s: float,
    progress: Callable[[str], None] | None = None,
) -> DeviceResult:
    """Measure a compiled network on a board that is attached by USB, or over the network by ``adb connect``.

    The toolkit talks to the board through its own adb and the board's rknn_server. It makes adbd on the board run as
    root and fixes the clocks of CPU, NPU and memory at their highest, which stay so until the board starts again. An
    adb server that was not there before is ended afterwards.

    Args, folder and processes: as for :func:`run_job`.

    Raises:
        InputError: If an input is no float32 .npy file, or ``folder`` is not empty.
        ConversionError: If the toolkit cannot be used, there is no board or not the one that was named, or the toolkit
            or the board refuses, crashes, hangs or answers with rubbish. Names the stage and quotes the last words.
    """
    environment.check()
    check_inputs(job)
    run = _Run(Path(folder).absolute(), hint=_BOARD_HINT)
    with run.disk():
        run.prepare(
            "measure", model=_name(job.model), inputs=[_name(file) for file in job.inputs], device=job.device,
            calls=job.calls, warmup=job.warmup,
        )  # fmt: skip
        with _adb_server_ended():
            ended = run.work(environment, {**run.env(), **_adb_env()}, timeout_s, progress)
        return run.device_result(job, run.answer(ended))


@contextmanager
def _adb_server_ended() -> Iterator[None]:
    """End adb's server, which leaves every process group, unless it ran before."""
    port = _adb_env().get(_ADB_PORT, str(_ADB_DEFAULT_PORT))
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InputError(f"must be a port number, got {port!r}", field=_ADB_PORT)
    address = ("127.0.0.1", int(port))
    ran_before = _listens(address)
    try:
        yield
    finally:
        if not ran_before and _listens(address):
            # It may end before it answers. One that stays does not take a measured result away.
            with suppress(ConnectionError, TimeoutError), socket.create_connection(address, _ADB_PATIENCE_S) as server:
                server.sendall(_ADB_KILL)
                server.recv(4)


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def _adb_env() -> dict[str, str]:
    env = {name: os.environ[name] for name in (_ADB_PORT, _ADB_KEYS) if name in os.environ}
    keys = Path.home() / ".android"
    return env if _ADB_KEYS in env or not keys.is_dir() else {**env, _ADB_KEYS: str(keys)}


class _Run:
    """The private folder of one job and what is known about it so far."""

    def __init__(self, folder: Path, hint: str = "") -> None:
        self.folder = folder
        self.log = folder / "toolkit.log"
        self._stage = "start"
        self._hint = hint

    @contextmanager
    def disk(self) -> Iterator[None]:
        """Turn what the operating system refuses into an error that names the folder."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full() from None
            raise self._failed(f"cannot work in {self.folder} ({error.strerror or error})") from error

    def prepare(self, kind: str, **described: Any) -> None:
        """Make the folder and write job.json into it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise InputError("a job needs an empty folder", source=self.folder)
        (self.folder / "tmp").mkdir()
        job = {"schema": SCHEMA, "kind": kind, "target": TARGET, **described}
        (self.folder / "job.json").write_text(json.dumps(job, indent=2))

    def work(
        self,
        environment: ToolkitEnvironment,
        env: dict[str, str],
        timeout_s: float,
        progress: Callable[[str], None] | None,
    ) -> Ended:
        """Run the worker until it ends or is ended."""
        return run_logged(
            [str(environment.python), "-I", str(WORKER), "job.json"],
            folder=self.folder,
            env=env,
            log=self.log,
            timeout_s=timeout_s,
            on_line=self.follow(progress),
        )

    def env(self) -> dict[str, str]:
        """The worker's whole environment: temporary files and caches stay in the folder, no GPU is touched."""
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(self.folder / "tmp"),
            "TMPDIR": str(self.folder / "tmp"),
            "CUDA_VISIBLE_DEVICES": "",
            **passed_on,
        }

    def follow(self, progress: Callable[[str], None] | None) -> Callable[[str], None]:
        """What keeps track of the worker's stages while it runs."""

        def on_line(line: str) -> None:
            bar = PROGRESS_BAR.search(line)
            if line.startswith(STAGE_MARK):
                self._stage = line.removeprefix(STAGE_MARK).strip()
            if progress is not None and line.startswith(STAGE_MARK):
                progress(self._stage)
            elif progress is not None and bar is not None:
                progress(f"{self._stage}: {bar['what']} {bar['percent']} %")

        return on_line

    def answer(self, ended: Ended) -> _Answer:
        """What a worker that has ended says it did.

        Raises:
            ConversionError: If it did not do all of it.
        """
        if ended.code == 0:
            answer = self._read_answer()
            if answer.refusal or answer.stage != "done":
                raise self._failed(f"the worker's result contradicts itself ({answer.stage}: {answer.refusal})")
            return answer
        said = complaints(read_log(self.log))
        if ended.code == NO_SPACE_CODE or NO_SPACE_SAID in said:
            raise self._full()
        if ended.code == 1 and (self.folder / "result.json").exists():
            refusal = self._read_answer().refusal.strip().rpartition("\n")[2]
            raise self._failed(refusal if refusal in said or not said else f"{refusal}: {said}")
        hint = "a SIGKILL from outside mostly means that memory ran out" if ended.code == -9 else ""
        raise self._failed(": ".join(filter(None, (ended.in_words(), said))), hint=hint)

    def result(self, job: ToolkitJob, answer: _Answer, ended: Ended) -> ToolkitResult:
        """The files and the log of a worker that has done all of its job, checked."""
        self._stage = "result"
        tables = parse_tables(read_log(self.log))
        rknn = self.folder / "model.rknn"
        try:
            described = read_rknn(rknn)
        except BundleError as error:
            raise self._failed(f"what it exported is not whole: {error.problem}") from None
        if TARGET not in described.platforms:
            raise self._failed(f"it compiled for {', '.join(described.platforms)}, not for {TARGET}")
        return ToolkitResult(
            rknn=rknn,
            log=self.log,
            layers=tables.layers,
            weight_memory_kib=tables.weight_memory_kib,
            internal_memory_kib=tables.internal_memory_kib,
            model_size_kib=described.size / 1024,
            outputs=tuple(self._read_outputs("simulator", row, answer.outputs) for row in range(len(job.simulate))),
            seconds={**answer.seconds, "total": ended.seconds},
            sample_seconds=answer.sample_seconds,
            versions=answer.versions,
            peak_memory_kib=answer.peak_memory_kib,
        )

    def device_result(self, job: DeviceJob, answer: _Answer) -> DeviceResult:
        """What a board did, from a worker that has done all of its job."""
        self._stage = "result"
        if len(answer.sample_seconds) != job.calls:
            raise self._failed(f"it timed {len(answer.sample_seconds)} calls, not {job.calls}")
        _, _, said = read_log(self.log).partition(f"{STAGE_MARK} {_MEASURED}\n")
        return DeviceResult(
            device=_one_line(answer.device),
            runtime=_one_line(answer.sdk),
            performance=parse_performance(said.partition(STAGE_MARK)[0]),
            memory_bytes=answer.memory,
            call_seconds=answer.sample_seconds,
            outputs=self._read_outputs("board", 0, answer.outputs),
            log=self.log,
            versions=answer.versions,
        )

    def _read_answer(self) -> _Answer:
        try:
            with (self.folder / "result.json").open("rb") as file:
                answer = from_json(_Answer, json.loads(file.read(_RESULT_LIMIT)))
        except (FileNotFoundError, ValueError, RecursionError) as error:
            raise self._failed(f"the worker's result cannot be read ({error})") from None
        if answer.schema != SCHEMA:
            raise self._failed(f"the worker's result has schema {answer.schema}, not {SCHEMA}")
        return answer

    def _read_outputs(self, source: str, row: int, count: int) -> tuple[npt.NDArray[np.float32], ...]:
        if count < 1:
            raise self._failed(f"the {source} gave no outputs")
        arrays = []
        for column in range(count):
            name = f"output-{row:05}-{column}.npy"
            try:
                array = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
            except (FileNotFoundError, ValueError, EOFError) as error:
                raise self._failed(f"{name} of the {source} cannot be read ({error})") from None
            if array.dtype != np.float32:
                raise self._failed(f"{name} of the {source} is {array.dtype}, not float32")
            arrays.append(array)
        return tuple(arrays)

    def _failed(self, reason: str, hint: str = "") -> ConversionError:
        return ConversionError(f"toolkit {self._stage}", reason, hint=hint or self._hint)

    def _full(self) -> ConversionError:
        return self._failed(f"no space left in {self.folder}", hint="free some, or let it work on another disk")


def _names(samples: Samples) -> list[list[str]]:
    return [[_name(file) for file in sample] for sample in samples]


def _name(file: Path) -> str:
    return str(file.absolute())


def _one_line(text: str) -> str:
    return " ".join(word for word in text.split() if word.isprintable() and set(word) != {"="})
