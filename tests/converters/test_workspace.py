"""Finished stages outlive a conversion that did not, and are used again only by the same conversion."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from edgelung.converters import Recipe
from edgelung.converters.durable import LOCK_NAME
from edgelung.converters.workspace import open_workspace, workspace_folder
from edgelung.errors import ConversionError, EdgelungError, InputError, VerificationError

SOURCE = "a" * 64


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path / "unet.pt", tmp_path / "unet.bundle", prune=0.5, qat=True)


@pytest.fixture
def again(recipe):
    return replace(recipe, resume=True)


def weights(seed=0):
    made = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, 3, 3, generator=made)
    # what a state_dict may hold: integers, a number without axes, one tensor twice, one that is not contiguous, none
    return {
        "w": weight,
        "steps": torch.tensor(7),
        "tied": weight,
        "turned": weight.transpose(0, 1),
        "empty": torch.empty(0, 2),
    }


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def interrupted(recipe, *stages, data="data", note=None):
    """A conversion that finished some stages and was interrupted."""
    with pytest.raises(KeyboardInterrupt), open_workspace(recipe, SOURCE, data, note) as workspace:
        for position, stage in enumerate(stages):
            workspace.save(stage, weights(position))
        raise KeyboardInterrupt
    return workspace_folder(recipe.output)


def test_the_weights_come_back_as_they_were(recipe, again):
    interrupted(recipe, "prune", "qat")
    notes = []
    with open_workspace(again, SOURCE, "data", notes.append) as workspace:
        assert workspace.finished == ("prune", "qat")
        assert equal(workspace.load("prune"), weights(0))
        assert equal(workspace.load("qat"), weights(1))
        assert not equal(workspace.load("qat"), weights(0))  # the comparison can fail
        assert workspace.load("recover") is None
    assert notes == ["resumed after: prune, qat"]
    assert not workspace_folder(recipe.output).exists()


def test_an_interruption_says_how_to_go_on(recipe):
    notes = []
    interrupted(recipe, "prune", note=notes.append)
    assert notes == ["finished and kept: prune; go on with --resume"]


def test_a_conversion_that_finished_no_stage_leaves_nothing(recipe, tmp_path):
    interrupted(recipe)
    assert list(tmp_path.iterdir()) == []


def test_without_resume_an_old_folder_is_removed(recipe):
    folder = interrupted(recipe, "prune")
    notes = []
    with open_workspace(recipe, SOURCE, "data", notes.append) as workspace:
        assert workspace.load("prune") is None
        assert [path.name for path in folder.iterdir()] == [LOCK_NAME]
    assert notes == ["what an interrupted conversion left was removed"]


def test_there_may_be_nothing_to_resume(again):
    with open_workspace(again, SOURCE, "data") as workspace:
        assert workspace.finished == ()


@pytest.mark.parametrize(
    ("changes", "source", "data", "difference"),
    [
        ({"prune": 0.4}, SOURCE, "data", "had prune 0.5 instead of 0.4;"),
        ({"seed": 1, "epochs": 2}, SOURCE, "data", "had seed 0 instead of 1, epochs unset instead of 2;"),
        ({}, "b" * 64, "data", "had another checkpoint;"),
        ({}, SOURCE, "other", "had another data set;"),
    ],
)
def test_another_conversion_is_not_resumed(recipe, again, changes, source, data, difference):
    folder = interrupted(recipe, "prune")
    with pytest.raises(InputError) as caught, open_workspace(replace(again, **changes), source, data):
        pass
    assert difference in str(caught.value)
    assert "leave out --resume" in str(caught.value)
    assert (folder / "prune.safetensors").exists()  # the refusal costs nothing
    with open_workspace(again, SOURCE, "data") as workspace:
        assert workspace.finished == ("prune",)


def test_the_version_of_torch_and_the_spec_belong_to_the_conversion(recipe, again, tmp_path, monkeypatch):
    spec = tmp_path / "own.toml"
    spec.write_text("a = 1")
    own = {"arch": "own:build", "spec": spec}
    interrupted(replace(recipe, **own), "prune")
    spec.write_text("a = 2")
    monkeypatch.setattr(torch, "__version__", "0.1")
    with (
        pytest.raises(InputError, match=r"another spec, torch .* instead of 0\.1"),
        open_workspace(replace(again, **own), SOURCE, "data"),
    ):
        pass


@pytest.mark.parametrize("changes", [{"keep_failing": True}, {"overwrite": True}])
def test_options_that_do_not_shape_the_result_may_change(recipe, again, changes):
    interrupted(recipe, "prune")
    with open_workspace(replace(again, **changes), SOURCE, "data") as workspace:
        assert workspace.finished == ("prune",)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": flip_a_bit,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "missing": lambda path: path.unlink(),
    "a link": lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_stage_and_what_came_after_it_is_made_again(recipe, again, damage):
    folder = interrupted(recipe, "prune", "recover", "qat")
    damage(folder / "recover.safetensors")
    notes = []
    with open_workspace(again, SOURCE, "data", notes.append) as workspace:
        assert workspace.load("recover") is None
        assert workspace.finished == ("prune",)
        workspace.save("recover", weights(1))
        assert equal(workspace.load("recover"), weights(1))
    assert any("recover cannot be used" in note and "made again" in note for note in notes)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"key": {}, "stages": [], "format": 2}', '{"key": {"a": "\\u001b[2J"}}', "no"]
)
def test_a_damaged_index_starts_anew_and_says_so(recipe, again, content):
    folder = interrupted(recipe, "prune")
    (folder / "stages.json").write_text(content)
    notes = []
    with open_workspace(again, SOURCE, "data", notes.append) as workspace:
        assert workspace.finished == ()
    assert "cannot be used" in notes[0] and "\x1b" not in notes[0]


def test_an_index_that_leads_out_of_the_folder_is_not_followed(recipe, again):
    folder = interrupted(recipe, "prune")
    index = json.loads((folder / "stages.json").read_text())
    index["stages"][0]["name"] = "../unet"
    (folder / "stages.json").write_text(json.dumps(index))
    with open_workspace(again, SOURCE, "data") as workspace:
        assert workspace.finished == ()


def test_what_others_put_into_the_folder_stays(recipe):
    folder = interrupted(recipe, "prune")
    (folder / "thesis.tex").write_text("years of work")
    with open_workspace(recipe, SOURCE, "data"):
        pass
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_link_in_place_of_the_folder_is_refused(recipe, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    workspace_folder(recipe.output).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"), open_workspace(recipe, SOURCE, "data"):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_neither_data_nor_paths_are_written_down(recipe, tmp_path):
    folder = interrupted(recipe, "prune", data="/home/me/DOE^JOHN/ct")
    text = (folder / "stages.json").read_text()
    assert "DOE" not in text
    assert str(tmp_path) not in text


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_and_the_conversion_goes_on_with_what_is_in_memory(recipe, again, monkeypatch):
    interrupted(recipe, "prune")
    notes = []
    with pytest.raises(KeyboardInterrupt), open_workspace(again, SOURCE, "data", notes.append) as workspace:
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            workspace.save("qat", weights())
        raise KeyboardInterrupt
    assert "the result of qat cannot be kept for --resume (No space left on device); the conversion goes on" in notes
    with open_workspace(again, SOURCE, "data") as workspace:
        assert workspace.finished == ("prune",)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConversionError("toolkit", "it crashed", hint="try 2.3.2"), "toolkit: it crashed; try 2.3.2; finished"),
        (VerificationError("mask Dice", 0.1, 0.9), "mask Dice is 0.1, the limit is 0.9; finished"),
        (OSError(28, "No space left on device"), "write: a file cannot be written or read (No space left on device)"),
        (RuntimeError("odd\nand long"), "that edgelung does not know (RuntimeError: odd); finished"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_after_a_finished_stage_says_that_it_is_kept_and_how_to_go_on(recipe, again, error, message):
    with pytest.raises(EdgelungError) as caught, open_workspace(recipe, SOURCE, "data") as workspace:
        workspace.save("recover", weights())
        raise error
    line = str(caught.value)
    assert message in line and "\n" not in line
    assert "finished and kept: recover; go on with --resume, where --target" in line and "--keep-failing" in line
    with open_workspace(again, SOURCE, "data") as workspace:
        assert workspace.finished == ("recover",)


def test_an_error_before_anything_was_finished_is_as_it_was(recipe):
    with pytest.raises(RuntimeError, match="odd"), open_workspace(recipe, SOURCE, "data"):
        raise RuntimeError("odd")


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": ("onnxruntime",)},
        {"targets": ("rk3588", "onnxruntime")},
        {"targets": ("rk3588s",), "toolkit": "2.3.2"},
        {"verification_slabs": 2},
        {"keep_failing": True, "overwrite": True},
        {"round_to": 16},  # which is what int8 asks for
    ],
)
def test_what_does_not_shape_what_is_learnt_may_be_another(recipe, again, changes):
    interrupted(replace(recipe, targets=("rk3588s",)), "recover")
    with open_workspace(replace(again, **changes), SOURCE, "data") as workspace:
        assert workspace.finished == ("recover",)


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ({"precision": "fp16"}, {"ptq": "normal"}, 'restructure "fp16" instead of "int8", round-to 8 instead of 16'),
        ({"ptq": "mmse"}, {"ptq": "mmse", "round_to": 4}, "round-to 16 instead of 4"),
        ({"ptq": "mmse"}, {"ptq": "mmse", "restructure": False}, 'restructure "int8" instead of ""'),
        ({"ptq": "mmse"}, {"ptq": "normal"}, ""),
    ],
)
def test_a_route_matters_as_far_as_it_shapes_the_network(recipe, before, after, difference):
    plain = replace(recipe, qat=False, targets=("rk3588s",))
    interrupted(replace(plain, **before), "recover")
    other = replace(plain, resume=True, **after)
    if not difference:
        with open_workspace(other, SOURCE, "data") as workspace:
            assert workspace.finished == ("recover",)
        return
    with pytest.raises(InputError) as caught, open_workspace(other, SOURCE, "data"):
        pass
    assert f"had {difference};" in str(caught.value)


def test_a_folder_that_is_removed_before_it_is_locked_is_not_used(recipe, monkeypatch):
    folder = workspace_folder(recipe.output)
    # The other conversion finished, and a third began, between opening and locking.
    monkeypatch.setattr(fcntl, "flock", lambda *_: ((folder / LOCK_NAME).unlink(), (folder / LOCK_NAME).touch()))
    with pytest.raises(InputError, match="another conversion"), open_workspace(recipe, SOURCE, "data"):
        pass


CHILD = """
import sys, time
from pathlib import Path
import torch
from edgelung.converters import Recipe
from edgelung.converters.workspace import open_workspace
source, output = map(Path, sys.argv[1:])
with open_workspace(Recipe(source, output, prune=0.5, qat=True), "a" * 64, "data") as workspace:
    workspace.save("prune", {"w": torch.arange(5.0)})
    print("saved", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_a_killed_one_is_resumed(recipe, again):
    command = [sys.executable, "-c", CHILD, str(recipe.source), str(recipe.output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "saved\n"
        for second in (recipe, again):
            with pytest.raises(InputError, match="another conversion"), open_workspace(second, SOURCE, "data"):
                pass
        child.send_signal(signal.SIGKILL)
    with open_workspace(again, SOURCE, "data") as workspace:
        assert torch.equal(workspace.load("prune")["w"], torch.arange(5.0))
