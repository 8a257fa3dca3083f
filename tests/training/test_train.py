"""From a LUNA16 folder to weights: what is left on the disk, how it is taken up again, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgelung.calibration import write_luna16
from edgelung.converters.checkpoint import load_state_dict
from edgelung.converters.datasets import read_luna16, split_scans
from edgelung.converters.models import UNetLuna
from edgelung.converters.training import TrainRecipe, fit, train
from edgelung.errors import ConversionError, InputError

SETTINGS = {"epochs": 3, "steps_per_epoch": 3, "batch": 4, "crop": 24, "inner": 16, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("luna") / "phantoms"
    write_luna16(folder, scans=2, seed=6, shape=(16, 96, 96), spacing_mm=(3.0, 3.5, 3.5))
    return folder


@pytest.fixture(scope="module")
def recipe(data, tmp_path_factory):
    return TrainRecipe(data, Path("none"), cache=tmp_path_factory.mktemp("cache"), **SETTINGS)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    notes = []
    folder = tmp_path_factory.mktemp("run") / "out"
    return train(replace(recipe, output=folder), note=notes.append), notes


def weights(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_folder_explains_itself(finished):
    result, notes = finished
    assert (result.epochs, len(result.history), result.training_scans, result.validation_scans) == (3, 3, 1, 1)
    report = json.loads((result.folder / "training.json").read_text())
    assert (report["epochs_done"], report["learning_rate"], len(report["history"])) == (3, 3e-3, 3)
    assert [note.split(":")[0] for note in notes] == ["epoch 1", "epoch 2", "epoch 3"]
    assert result.best.exact is not None
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "best.pt", "last.ckpt", "tensorboard", "training.json",
    ]  # fmt: skip


def rewrite(data, folder, change):
    """A copy of the data with other rows in annotations.csv."""
    shutil.copytree(data, folder)
    path = folder / "annotations.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *change([row.split(",") for row in rows])]) + "\n")
    return folder


def moved(row, z_mm=5000.0):
    return ",".join([*row[:3], str(float(row[3]) + z_mm), row[4]])


def test_a_nodule_that_no_voxel_answers_is_named_and_its_scan_left_out(recipe, tmp_path):
    more = tmp_path / "more"
    write_luna16(more, scans=4, seed=6, shape=(16, 96, 96), spacing_mm=(3.0, 3.5, 3.5))
    training, _ = split_scans(read_luna16(more))
    wrong = next(scan.uid for scan in training if scan.nodules)

    def change(rows):
        first = next(row for row in rows if row[0] == wrong)
        return [moved(row) if row is first else ",".join(row) for row in rows]

    notes = []
    result = train(
        replace(recipe, data=rewrite(more, tmp_path / "one", change), output=tmp_path / "out", epochs=1),
        note=notes.append,
    )
    assert result.training_scans == len(training) - 1
    (told,) = [note for note in notes if "no voxel" in note]
    assert "1 of " in told and "(line " in told and told.endswith("outside of the volume (1); its scan is left out")
    labels = json.loads((result.folder / "training.json").read_text())["labels"]
    assert (labels["outside"], labels["scans_left_out"]) == (1, 1)
    assert not any("2.25." in note for note in notes)


def test_coordinates_of_other_scans_are_refused(recipe, data, tmp_path):
    folder = rewrite(data, tmp_path / "moved", lambda rows: [moved(row) for row in rows])
    with pytest.raises(
        InputError, match=r"nodules have no voxel in their scan .*outside of the volume .*mirrored"
    ) as caught:
        train(replace(recipe, data=folder, output=tmp_path / "out"))
    assert caught.value.source.endswith("annotations.csv") and "2.25" not in str(caught.value)


def test_the_best_weights_are_a_bare_state_of_the_best_validation(finished):
    result, _ = finished
    UNetLuna().load_state_dict(load_state_dict(result.checkpoint).state)
    last = torch.load(result.folder / "last.ckpt", weights_only=True)["states"]["model"]
    is_last = result.best is result.history[-1]
    assert same(weights(result.checkpoint), last) == is_last


def test_no_name_of_a_scan_is_in_what_is_written(finished, data):
    result, _ = finished
    names = [path.stem.encode() for path in data.glob("subset?/*.mhd")]
    for path in result.folder.rglob("*"):
        if path.is_file():
            assert not any(name in path.read_bytes() for name in names)


def test_the_curves_hold_loss_rates_and_pictures(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result, _ = finished
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 10))
    recall = [event.value for event in events.Scalars("validation, grown masks/recall")]
    assert recall == pytest.approx([row.grown.recall for row in result.history])
    tags = {tag.rpartition("/")[2] for tag in events.Tags()["scalars"]}
    assert tags == {"loss", "recall", "precision", "F1", "tp", "fn", "fp"}
    assert len(events.Tags()["images"]) == fit.PICTURES


def test_equal_seeds_give_equal_networks_and_others_do_not(recipe, finished, tmp_path):
    again = train(replace(recipe, output=tmp_path / "again"))
    assert same(weights(again.checkpoint), weights(finished[0].checkpoint))
    other = train(replace(recipe, output=tmp_path / "other", seed=1))
    assert not same(weights(other.checkpoint), weights(finished[0].checkpoint))


def test_an_interrupted_training_ends_as_if_it_had_not_been(recipe, finished, tmp_path):
    class InterruptedByTestError(Exception):
        pass

    def note(text):
        if text.startswith("epoch 2"):
            raise InterruptedByTestError

    output = tmp_path / "out"
    with pytest.raises(InterruptedByTestError):
        train(replace(recipe, output=output), note=note)
    assert json.loads((output / "training.json").read_text())["epochs_done"] == 1
    resumed = train(replace(recipe, output=output, resume=True))
    whole = finished[0]
    assert resumed.history == whole.history
    ours, theirs = (torch.load(r.folder / "last.ckpt", weights_only=True)["states"] for r in (resumed, whole))
    assert same(ours["model"], theirs["model"])
    assert same(weights(resumed.checkpoint), weights(whole.checkpoint))
    assert train(replace(recipe, output=output, resume=True)).history == whole.history  # nothing is left to do


def test_a_training_that_is_there_is_neither_lost_nor_mixed_with_another(recipe, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished[0].folder, output)
    with pytest.raises(InputError, match=r"holds a training already.*--resume.*--overwrite"):
        train(replace(recipe, output=output))
    with pytest.raises(InputError, match=r"learning_rate 0\.003, not 0\.1; give the same learning_rate"):
        train(replace(recipe, output=output, resume=True, learning_rate=0.1))
    (output / "last.ckpt").write_bytes((output / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be read.*--overwrite"):
        train(replace(recipe, output=output, resume=True))
    (output / "mine.txt").write_text("stays")
    train(replace(recipe, output=output, overwrite=True, epochs=1))
    assert json.loads((output / "training.json").read_text())["epochs_done"] == 1
    assert (output / "mine.txt").exists()


def test_a_checkpoint_with_code_is_not_run(recipe, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    torch.save({"version": 1, "states": os.system}, output / "last.ckpt")
    with pytest.raises(InputError, match="cannot be read"):
        train(replace(recipe, output=output, resume=True))


def test_it_stops_when_validations_do_not_get_better(recipe, tmp_path):
    still = replace(recipe, output=tmp_path / "out", epochs=8, patience=2, learning_rate=1e-12)
    result = train(still)
    scores = [row.grown.f1 for row in result.history]
    assert result.epochs < 8
    assert len(scores) - 1 - scores.index(max(scores)) == 2


def test_validation_comes_when_it_is_asked_for_and_at_the_end(recipe, tmp_path):
    result = train(replace(recipe, output=tmp_path / "out", validate_every=2))
    assert [row.step for row in result.history] == [6, 9]


def test_a_diverging_training_is_an_error(recipe, tmp_path):
    with pytest.raises(ConversionError, match=r"gives no numbers at step .* lower the learning rate"):
        train(replace(recipe, output=tmp_path / "out", learning_rate=1e18))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "vgg"}, "no network is called 'vgg'"),
        ({"epochs": 0}, "epochs: must be at least 1"),
        ({"inner": 100}, "100 pixels do not lie within 24"),
        ({"devices": 3}, "4 crops cannot be shared by 3 devices; make it a multiple"),
        ({"learning_rate": float("nan")}, "learning_rate: must be above 0"),
        ({"positives": 0.0}, "positives"),
        ({"resume": True, "overwrite": True}, "not both"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe, changes, reason):
    with pytest.raises(InputError, match=reason):
        replace(recipe, **changes)


def test_a_device_that_is_not_there_is_named(recipe, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"accelerator: .*; choose --accelerator cpu"):
        train(replace(recipe, output=tmp_path / "out", accelerator="cuda"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_same_batches(recipe, tmp_path):
    large = replace(recipe, epochs=1, steps_per_epoch=4, batch=32)
    one, two, other = (
        train(replace(large, output=tmp_path / name, devices=devices, seed=seed)).history[0]
        for name, devices, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1))
    )
    assert two.loss == pytest.approx(one.loss, rel=0.03)  # not equal: BatchNorm sees half a batch at a time
    assert abs(other.loss - one.loss) > abs(two.loss - one.loss) > 0
    assert two.grown.label == one.grown.label  # all slices, each once
    with pytest.raises(ConversionError, match=r"^training: the network gives no numbers"):
        train(replace(recipe, output=tmp_path / "bad", devices=2, learning_rate=1e18))


@pytest.mark.slow
def test_a_killed_command_is_taken_up_again(recipe, tmp_path):
    def command(output, *more):
        options = {**SETTINGS, "epochs": 6, "data": recipe.data, "cache": recipe.cache, "output": output}
        flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        code = "from edgelung.cli.main import run_edgelung; run_edgelung()"
        return [sys.executable, "-c", code, "train", "unet-luna", *flags, "--json", *more]

    killed = subprocess.Popen(command(tmp_path / "killed"), stderr=subprocess.PIPE, text=True)
    for line in killed.stderr:
        if "epoch 2" in line:
            break
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = subprocess.run(command(tmp_path / "killed", "--resume"), capture_output=True, text=True, check=True)
    whole = subprocess.run(command(tmp_path / "whole"), capture_output=True, text=True, check=True)
    ours, theirs = (json.loads(run.stdout) for run in (again, whole))
    assert ours["validation"] == theirs["validation"]
    assert same(weights(tmp_path / "killed" / "best.pt"), weights(tmp_path / "whole" / "best.pt"))
    refused = subprocess.run(command(tmp_path / "whole"), capture_output=True, text=True)
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["error"]["hint"].startswith("go on with it by --resume")
