"""``edgelung convert``: options become a recipe, alone or on top of a file; ``edgelung inspect`` shows it again."""

import dataclasses
import json
from pathlib import Path

import pytest
from bundle_builders import make_bundle
from click.testing import CliRunner

from edgelung import converters
from edgelung.cli.convert import convert
from edgelung.cli.inspect import inspect
from edgelung.converters import Recipe
from edgelung.converters.recipe_file import write_recipe
from edgelung.errors import BundleError, InputError


class ReachedError(Exception):
    """The conversion would have begun."""


@pytest.fixture
def asked(monkeypatch):
    """The recipe that a command line comes to."""

    def stop(recipe, **callbacks):
        raise ReachedError(recipe)

    monkeypatch.setattr(converters, "convert", stop)

    def recipe_of(*words):
        done = CliRunner().invoke(convert, ["unet.pt", *map(str, words)])
        if isinstance(done.exception, ReachedError):
            return done.exception.args[0]
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return recipe_of


def test_no_option_is_the_default_recipe(asked):
    assert asked() == Recipe(Path("unet.pt"), Path("unet.bundle"))


def test_the_defaults_that_help_shows_are_those_of_the_recipe():
    shown = convert.make_context("convert", ["unet.pt"]).params
    known = {item.name: item.default for item in dataclasses.fields(Recipe)}
    of_the_command = {"checkpoint", "recipe_file", "as_json", "no_restructure"}
    assert shown.keys() - known.keys() == of_the_command
    assert known.keys() - shown.keys() == {"source", "restructure"}
    for name in known.keys() & shown.keys() - {"output"}:
        assert shown[name] == known[name], name


def test_every_option_reaches_the_recipe(asked):
    words = (
        "--prune 0.5 --round-to 8 --importance l2 --scope global --keep head --keep up --ptq mmse"
        " --preset quick --epochs 2 --resume --target rk3588s --data ct --holdout 4:9 --seed 3"
        " --no-restructure --scan --plane 64 96 --toolkit 2.3.2"
        " --calibration-slabs 2 --verification-slabs 3 --overwrite --keep-failing --output b.zip --model m"
        " --weights ema.module"
    )
    assert asked(*words.split()) == Recipe(
        Path("unet.pt"),
        Path("b.zip"),
        prune=0.5,
        round_to=8,
        importance="l2",
        scope="global",
        keep=("head", "up"),
        scan=True,
        ptq="mmse",
        preset="quick",
        epochs=2,
        resume=True,
        targets=("rk3588s",),
        data=Path("ct"),
        holdout=(4, 9),
        seed=3,
        restructure=False,
        plane=(64, 96),
        toolkit="2.3.2",
        calibration_slabs=2,
        verification_slabs=3,
        overwrite=True,
        keep_failing=True,
        model="m",
        weights="ema.module",
    )


@pytest.fixture
def file(tmp_path):
    """A recipe that has no default in it."""
    path = tmp_path / "r.toml"
    path.write_text(
        'prune = 0.5\nptq = "kl_divergence"\nseed = 7\ntargets = ["rk3588s"]\npreset = "quick"\nrestructure = false\n'
    )
    return path


def test_a_file_is_a_recipe_and_what_is_typed_wins(asked, file):
    from_file = Recipe(
        Path("unet.pt"),
        Path("unet.bundle"),
        prune=0.5,
        ptq="kl_divergence",
        seed=7,
        targets=("rk3588s",),
        preset="quick",
        restructure=False,
    )
    assert asked("--recipe", file) == from_file
    # a typed option wins even when it says what is the default
    typed = asked("--recipe", file, "--seed", "0", "--target", "rk3588", "--preset", "published")
    assert typed == dataclasses.replace(from_file, seed=0, targets=("rk3588",), preset="published")


def test_errors_of_a_file_name_it(asked, file):
    file.write_text("pruned = 0.5\n")
    with pytest.raises(InputError, match=r"r\.toml: unknown key 'pruned'"):
        asked("--recipe", file)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--round-to 0", "0 is not in the range x>=1"),
        ("--scope all", "'all' is not one of"),
        ("--preset slow", "'slow' is not one of"),
        ("--prune half", "'half' is not a valid float"),
    ],
)
def test_wrong_usage_is_explained(asked, words, reason):
    assert reason in asked(*words.split())


def test_help_is_in_groups():
    text = CliRunner().invoke(convert, ["--help"], prog_name="edgelung-convert").output
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "The network:" and "Pruning:" in headings and headings[-1] == "Help:"
    assert text.count("--prune R") == 1


@pytest.fixture
def bundle(tmp_path):
    """A bundle, and the recipe that it says it was made from."""
    recipe = Recipe(Path("unet.pt"), Path("unet.bundle"), prune=0.5, qat=True, targets=("rk3588s",), seed=7)
    folder = make_bundle(tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["provenance"]["recipe"] = write_recipe(recipe)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, recipe


def test_the_recipe_of_a_bundle_runs_again(asked, bundle, tmp_path):
    folder, recipe = bundle
    (tmp_path / "again.toml").write_text(CliRunner().invoke(inspect, [str(folder), "--recipe"]).output)
    assert asked("--recipe", tmp_path / "again.toml") == recipe
    assert asked() != recipe


def test_inspect_shows_the_recipe(bundle):
    folder, recipe = bundle
    shown = CliRunner().invoke(inspect, [str(folder)]).output
    assert "\nrecipe\n" in shown
    assert all(f"\n    {line}\n" in f"{shown}\n" for line in write_recipe(recipe).splitlines())
    data = json.loads(CliRunner().invoke(inspect, [str(folder), "--json"]).output)
    assert data["provenance"]["recipe"] == write_recipe(recipe)


def test_a_bundle_without_a_recipe_says_so(tmp_path):
    folder = make_bundle(tmp_path / "b")
    done = CliRunner().invoke(inspect, [str(folder), "--recipe"])
    assert isinstance(done.exception, InputError) and "holds no recipe" in str(done.exception)
    assert "\nrecipe\n" not in CliRunner().invoke(inspect, [str(folder)]).output


def test_a_recipe_with_escapes_never_reaches_the_terminal(bundle):
    folder, _ = bundle
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("prune = 0.5", "prune = 0.5 # \\u001b[2J"))
    done = CliRunner().invoke(inspect, [str(folder), "--recipe"])
    assert isinstance(done.exception, BundleError)
    assert "\x1b" not in done.output
