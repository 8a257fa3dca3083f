"""``edgelung train``: options reach the recipe, results are printed, errors are one line with the way out."""

import json
import sys
from pathlib import Path

import pytest

from edgelung.cli.main import run_edgelung
from edgelung.converters import training
from edgelung.converters.training import PixelCounts, TrainResult, Validation
from edgelung.errors import ConversionError


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["edgelung", "train", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        run_edgelung()
    done = capsys.readouterr()
    return caught.value.code, done.out, done.err


@pytest.fixture
def trained(monkeypatch):
    """Recipes that were trained with; nothing is trained."""
    recipes = []

    def train(recipe, **callbacks):
        recipes.append(recipe)
        best = Validation(5, 1.0, PixelCounts(6, 4, 2), PixelCounts(5, 1, 3))
        rows = (best, Validation(9, 0.5, PixelCounts(1, 9, 2)))
        return TrainResult(Path("out/best.pt"), Path("out"), 9, rows, 10, 1)

    monkeypatch.setattr(training, "train", train)
    return recipes


def test_options_reach_the_recipe(monkeypatch, capsys, trained):
    more = ("--recall-weight", 2, "--inner", 32, "--devices", 2, "--precision", "bf16-mixed", "--resume", "--seed", 7)
    code, out, _ = run(monkeypatch, capsys, "unet-luna", "--data", "luna", "--output", "out", *more)
    assert code == 0
    (recipe,) = trained
    assert (recipe.model, recipe.data, recipe.output) == ("unet-luna", Path("luna"), Path("out"))
    assert (recipe.recall_weight, recipe.inner, recipe.devices, recipe.seed) == (2.0, 32, 2, 7)
    assert (recipe.precision, recipe.resume, recipe.overwrite) == ("bf16-mixed", True, False)
    assert "grown   0.600" in out and "exact   0.833" in out
    assert "out/best.pt: step 5, best of 2 validations" in out


def test_the_result_as_json(monkeypatch, capsys, trained):
    _, out, _ = run(monkeypatch, capsys, "unet-luna", "--data", "luna", "--output", "out", "--json")
    report = json.loads(out)
    assert (report["best_step"], report["checkpoint"]) == (5, "out/best.pt")
    assert [row["masks"] for row in report["validation"]] == ["grown", "exact"]
    assert report["validation"][0]["fn_percent"] == 40.0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("vgg", "--data", "luna"), 3, "no network is called 'vgg'; known: unet-luna"),
        (("unet-luna", "--data", "nowhere"), 3, "nowhere: holds no subset with .mhd files"),
        (("unet-luna", "--data", "luna", "--batch", 5, "--devices", 2), 3, "make it a multiple of the devices"),
        (("unet-luna", "--data", "luna", "--epochs", 0), 2, "--epochs"),
        (("unet-luna",), 2, "--data"),
    ],
)
def test_errors_are_one_line_with_the_way_out(monkeypatch, capsys, tmp_path, args, code, message):
    status, out, err = run(monkeypatch, capsys, *args, "--output", tmp_path / "out")
    assert status == code
    assert message in err
    assert out == "" and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_failed_training_has_its_exit_code(monkeypatch, capsys):
    def fail(recipe, **callbacks):
        raise ConversionError("training", "the network gives no numbers at step 3", hint="lower the learning rate")

    monkeypatch.setattr(training, "train", fail)
    code, out, err = run(monkeypatch, capsys, "unet-luna", "--data", "luna", "--output", "out", "--json")
    assert code == 8
    assert json.loads(out)["error"]["hint"] == "lower the learning rate"
    assert err == "error: training: the network gives no numbers at step 3; lower the learning rate\n"
