"""A recipe comes back from its TOML as it was, and what does not fit is named."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelung.converters import Recipe
from edgelung.converters.recipe_file import read_recipe, write_recipe
from edgelung.errors import InputError

RUN = {"source": Path("scans of DOE/unet.pt"), "output": Path("DOE.bundle")}
FULL = Recipe(
    **RUN,
    arch="own:build",
    weights="ema",
    spec=Path("/DOE/own.toml"),
    targets=("rk3588s", "onnxruntime"),
    ptq="normal",
    prune=0.5,
    round_to=8,
    importance="variance",
    scope="global",
    keep=("head", 'odd"\\name\x7fé😀\x1b'),
    preset="quick",
    epochs=3,
    data=Path("/scans/DOE^JOHN"),
    holdout=(40, 60),
    toolkit="2.3.2",
    plane=(256, 128),
    seed=7,
    restructure=False,
    output_key="out.seg",
)


def written(path, recipe):
    path.write_text(write_recipe(recipe), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "recipe", [Recipe(**RUN), Recipe(**RUN, targets=("rk3588",), precision="fp16"), FULL], ids=["plain", "fp16", "full"]
)
def test_a_recipe_comes_back(tmp_path, recipe):
    file = written(tmp_path / "r.toml", recipe)
    assert read_recipe(file, **RUN, data=recipe.data, spec=recipe.spec) == recipe


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_of_a_layer_comes_back(tmp_path_factory, name):
    recipe = Recipe(**RUN, prune=0.5, keep=(name,))
    file = tmp_path_factory.getbasetemp() / "names.toml"
    assert read_recipe(written(file, recipe), **RUN).keep == (name,)


def test_nothing_says_where_things_lay_or_whose_they_were():
    text = write_recipe(FULL)
    assert "DOE" not in text
    assert "unet.pt" not in text and "own.toml" not in text
    assert "\x1b" not in text and "\x7f" not in text
    assert text == write_recipe(dataclasses.replace(FULL, data=Path("/elsewhere"), overwrite=True, resume=True))


def test_every_option_is_stored_or_known_to_belong_to_one_run():
    stored = {line.partition(" = ")[0] for line in write_recipe(FULL).splitlines()}
    of_one_run = {"source", "output", "spec", "data", "overwrite", "resume", "keep_failing", "scan"}
    unset = {item.name for item in dataclasses.fields(Recipe) if getattr(FULL, item.name) is None}
    assert stored - {"needs_data"} == {item.name for item in dataclasses.fields(Recipe)} - of_one_run - unset
    assert unset == {"precision"}


def test_a_short_file_takes_the_defaults_and_options_win(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('prune = 0.5\nqat = true\ntargets = ["rk3588s"]\n')
    assert read_recipe(file, **RUN) == Recipe(**RUN, prune=0.5, qat=True, targets=("rk3588s",))
    assert read_recipe(file, **RUN, prune=0.25).prune == 0.25


def test_data_that_shaped_the_network_are_asked_for(tmp_path):
    file = written(tmp_path / "r.toml", Recipe(**RUN, data=Path("ct")))
    with pytest.raises(InputError, match=r"needs_data: was made with CTs.*add --data"):
        read_recipe(file, **RUN)
    assert read_recipe(file, **RUN, data=Path("ct")).data == Path("ct")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pruned = 0.5", "unknown key 'pruned' (known: model, arch, "),
        ('prune = "half"', "prune: expected float, got a string"),
        ("qat = 1", "qat: expected bool, got 1"),
        ("epochs = 2.5", "epochs: expected int, got 2.5"),
        ('targets = "rk3588s"', "targets: expected a list, got a string"),
        ('preset = "slow"', "preset: 'slow' is not one of 'quick', 'published', 'thorough'"),
        ('ptq = "magic"', "ptq: 'magic' is not one of 'normal'"),
        ("plane = [512]", "plane: expected 2 values, got 1"),
        ("prune = nan", "prune: must be a finite number"),
        ("[prune]\nratio = 0.5", "prune: expected float, got an object"),
        ("seed = 2026-01-01", "seed: expected int"),
        ('data = "/scans"', "unknown key 'data' (known: model"),
        ('data = "/scans"', "give --data on the command line"),
        ("keep_failing = true", "give --keep-failing on the command line"),
        ("prune = 0.5\nprune = 0.6", "is not valid TOML"),
        ("prune = ", "is not valid TOML"),
        ("a = " + "[" * 5000, "is not valid TOML"),
        ("# " + "x" * 70000, "larger than 64 KiB"),
        ('prune = 1.5\ntargets = ["rk3588s"]', "prune: 1.5 is no share"),
        ("qat = true\nptq = 'mmse'", "--ptq and --qat are two routes"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, text, reason):
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(file, **RUN)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "a folder", "no text"])
def test_what_is_no_file_is_named(tmp_path, kind):
    file = tmp_path / "r.toml"
    if kind == "a folder":
        file.mkdir()
    if kind == "no text":
        file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(InputError, match=r"r\.toml"):
        read_recipe(file, **RUN)
