"""Child processes: how their end is told, and that nothing survives."""

import os
import signal
import subprocess
import sys
import time

import pytest
from toolkit.fake_toolkit import ends_soon, is_alive

from edgelung.converters.toolkit.process import Ended, run_logged


def python(tmp_path, code, **options):
    return run_logged(
        [sys.executable, "-c", code], folder=tmp_path, env={"A": "b c"}, log=tmp_path / "log", **options
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("pass", "it exited with code 0"),
        ("import sys; sys.exit(7)", "it exited with code 7"),
        ("import os; os.abort()", "it was ended by SIGABRT"),
        ("import os; os.kill(os.getpid(), 11)", "it was ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 40)", "it was ended by signal 40"),
    ],
)
def test_the_end_is_told_in_words(tmp_path, code, words):
    assert python(tmp_path, code).in_words() == words


def test_output_at_file_descriptor_level_environment_and_folder(tmp_path):
    lines = []
    code = (
        "import os, subprocess, sys; os.write(2, b'two\\n'); subprocess.run(['/bin/echo', 'child']); "
        "print(sorted(os.environ.items())[:1], os.getcwd(), end='\\n10%\\r20%\\r')"
    )
    assert python(tmp_path, code, on_line=lines.append).code == 0
    assert lines == ["two", "child", f"[('A', 'b c')] {tmp_path}", "10%", "20%"]
    assert (tmp_path / "log").read_text().startswith("two\nchild\n")


def test_children_left_behind_are_ended(tmp_path):
    code = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('pid').write_text(str(child.pid))"
    )
    assert python(tmp_path, code).code == 0
    assert ends_soon(int((tmp_path / "pid").read_text()))


def test_an_error_while_listening_ends_the_process(tmp_path):
    def fail(line):
        raise RuntimeError(line)

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(RuntimeError) as caught:
        python(tmp_path, code, on_line=fail)
    assert ends_soon(int(str(caught.value)))


def test_the_time_limit(tmp_path):
    ended = python(tmp_path, "import time; time.sleep(600)", timeout_s=0.3)
    assert ended.code is None
    assert 0.3 < ended.seconds < 5
    assert Ended(None, 60.2).in_words() == "it did not finish within 60 s"


def test_the_command_ends_with_a_killed_caller(tmp_path):
    code = (
        "import sys; from pathlib import Path; from edgelung.converters.toolkit.process import run_logged\n"
        "command = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)']\n"
        f"run_logged(command, folder=Path({str(tmp_path)!r}), env={{}}, log=Path({str(tmp_path / 'log')!r}))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(600):
        if (tmp_path / "log").exists() and (tmp_path / "log").read_text():
            break
        time.sleep(0.05)
    pid = int((tmp_path / "log").read_text())
    assert is_alive(pid)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    assert ends_soon(pid)
