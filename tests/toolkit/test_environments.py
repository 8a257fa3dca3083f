"""Environments of the toolkit: found only when whole, made once, cleaned up, and their use refused in words."""

import json
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from toolkit.fake_toolkit import make_environment

from edgelung.cli.toolkit import toolkit
from edgelung.converters.toolkit import find, install, installed, remove, run_job
from edgelung.converters.toolkit import install as install_door
from edgelung.converters.toolkit.environments import environment_folder, locked
from edgelung.converters.toolkit.install import PINS
from edgelung.converters.toolkit.process import Ended
from edgelung.errors import ConversionError, InputError

install_module = sys.modules[install_door.__module__]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("EDGELUNG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def commands(monkeypatch):
    """Every command of an installation, with something that makes a venv's files in its place."""
    seen = []

    def pretend(command, *, folder, env, log, timeout_s=None, on_line=None):
        seen.append(command)
        log.write_text("Collecting all sorts\n")
        if "venv" in command:
            for part in ("bin", "lib/python3.11/site-packages"):
                (folder / part).mkdir(parents=True)
            (folder / "bin" / "python").symlink_to(sys.executable)
        if "-c" in command:
            Path(command[-1]).write_text(json.dumps({"python": "3.11.0", "torch": "2.0"}))
        on_line("Collecting all sorts")
        return Ended(0, 1.0)

    monkeypatch.setattr(install_module, "run_logged", pretend)
    return seen


def test_what_is_not_installed_is_refused_with_the_command_that_helps():
    assert installed() == ()
    with pytest.raises(ConversionError, match=r"2\.3\.2 is not installed; edgelung toolkit install 2\.3\.2$"):
        find()
    with pytest.raises(ConversionError, match=r"edgelung toolkit install 2\.5\.0$"):
        find("2.5.0")
    for call in (find, install, remove):
        with pytest.raises(InputError, match=r"there is no toolkit '\.\./\.\.'; known versions: 2\.3\.2, 2\.5\.0"):
            call("../..")
    with pytest.raises(InputError, match="is not installed"):
        remove("2.3.2")


def test_an_installation_is_found_listed_and_removed(home, commands):
    said = []
    made = install(report=said.append)
    assert find() == made
    assert installed() == (made,)
    assert made.folder == home / "toolkits" / "2.3.2"
    assert "pip: Collecting all sorts" in said
    assert [word for word in commands[1] if "==" in word] == list(PINS)
    assert commands[2][-2:] == ["--no-deps", "rknn-toolkit2==2.3.2"]
    (link,) = (made.folder / "lib/python3.11/site-packages").iterdir()
    assert link.read_text().strip() == made.torch_from
    assert link.name == max(link.name, "distutils-precedence.pth")
    assert remove("2.3.2") == made.folder
    assert not made.folder.exists()
    assert installed() == ()


def test_torch_of_its_own_is_installed_beside_the_pins(commands):
    made = install("2.5.0", own_torch=True)
    assert made.torch_from == ""
    (torch,) = (command for command in commands if "torch==2.13.0" in command)
    assert set(PINS) < set(torch)
    assert not made.problem


def test_a_second_installation_changes_nothing_unless_something_changed(commands, monkeypatch):
    first = install()
    count = len(commands)
    assert install() == first
    assert len(commands) == count
    assert install(own_torch=True).torch_from == ""
    assert len(commands) > count


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "other version", "later format", "list", "deep"])
def test_a_half_made_or_damaged_environment_is_none(commands, damage):
    state = install().folder / "edgelung-toolkit.json"
    text = state.read_text()
    other = {
        "empty": "",
        "cut": text[:-9],
        "other version": text.replace("2.3.2", "2.5.0"),
        "later format": text.replace('"format": 1', '"format": 2'),
        "list": "[]",
        "deep": "[" * 60_000,
    }
    state.unlink() if damage == "absent" else state.write_text(other[damage])
    assert installed() == ()
    with pytest.raises(ConversionError, match="is not installed"):
        find()
    assert install().problem == ""
    assert find()


@pytest.mark.parametrize("failing", ["venv", "--no-deps", "-c"])
def test_a_failed_step_leaves_nothing_and_quotes_the_last_words(commands, monkeypatch, failing):
    pretend = install_module.run_logged

    def fail(command, **options):
        pretend(command, **options)
        options["log"].write_text("Collecting x\nERROR: No matching distribution found for x\n")
        return Ended(int(failing in command), 1.0)

    monkeypatch.setattr(install_module, "run_logged", fail)
    with pytest.raises(ConversionError, match="failed: ERROR: No matching distribution found for x; ") as caught:
        install()
    assert caught.value.hint
    assert not environment_folder("2.3.2").exists()
    assert installed() == ()


def test_an_interrupted_installation_leaves_nothing_that_looks_whole(commands, monkeypatch):
    def interrupt(command, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(install_module, "run_logged", interrupt)
    with pytest.raises(KeyboardInterrupt):
        install()
    assert not environment_folder("2.3.2").exists()


def test_without_torch_to_borrow_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(install_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConversionError, match=r"no torch here to borrow; .*--own-torch"):
        install()


def test_a_host_torch_that_moved_or_changed_is_noticed_before_each_job(tmp_path, job):
    environment = make_environment(environment_folder("2.3.2"))
    borrowed = tmp_path / "site-packages"
    info = borrowed / "torch-2.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n")
    state = environment.folder / "edgelung-toolkit.json"
    data = json.loads(state.read_text()) | {"torch": "2.0.0", "torch_from": str(borrowed)}
    state.write_text(json.dumps(data))
    found = find()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.1.0\n")
    way_out = "edgelung toolkit install 2.3.2"
    with pytest.raises(
        ConversionError, match=f"made to work with torch 2.0.0, now there is torch 2.1.0 in .*; {way_out}"
    ):
        run_job(job(), found, folder=tmp_path / "run", timeout_s=1)
    shutil.rmtree(borrowed)
    with pytest.raises(ConversionError, match=f"now there is no torch in .*; {way_out}"):
        find()
    (environment.folder / "bin" / "python").unlink()
    with pytest.raises(ConversionError, match=f"the Python it was made with is gone; {way_out}"):
        find()


def test_two_installations_at_once_happen_one_after_the_other(commands):
    said, made = [], []
    with locked("2.3.2", said.append):
        other = threading.Thread(target=lambda: made.append(install(report=said.append)))
        other.start()
        for _ in range(100):
            if said:
                break
            time.sleep(0.02)
        assert said == ["another process is changing the toolkit 2.3.2; waiting for it"]
        assert not commands
    other.join()
    assert made == [find()]


def test_a_data_folder_that_cannot_be_written_is_named(home, commands):
    home.write_text("a file")
    with pytest.raises(ConversionError, match=r"cannot write in .*; set EDGELUNG_HOME"):
        install()


def test_a_full_disk_while_installing_is_named(commands, monkeypatch):
    def full(command, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install_module, "run_logged", full)
    with pytest.raises(ConversionError, match="No space left on device"):
        install()
    assert not environment_folder("2.3.2").exists()


def command(*words):
    """Standard output of ``edgelung toolkit ...``."""
    return CliRunner().invoke(toolkit, words, catch_exceptions=False).stdout


def test_the_command_installs_lists_and_removes(commands):
    assert "no toolkit is installed; edgelung toolkit install 2.3.2" in command("list")
    assert "rknn-toolkit2 2.5.0 with torch" in command("install", "2.5.0")
    (row,) = json.loads(command("list", "--json"))["toolkits"]
    assert (row["version"], row["problem"]) == ("2.5.0", "")
    assert "ready" in command("list")
    Path(row["folder"], "bin", "python").unlink()
    assert "the Python it was made with is gone" in command("list")
    assert "removed" in command("remove", "2.5.0")
    assert installed() == ()


def test_a_base_install_is_told_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "edgelung.converters", None)
    with pytest.raises(InputError, match=r'pip install "edgelung\[convert\]"'):
        command("list")
