"""A recipe whose parts contradict each other is refused before anything is done, with the way out."""

from pathlib import Path

import pytest

from edgelung.converters import Recipe
from edgelung.converters.pruning import IMPORTANCES
from edgelung.converters.route import Route
from edgelung.errors import InputError

CHECKPOINT, OUTPUT = Path("unet.pt"), Path("unet.bundle")
NPU = ("rk3588s",)


def recipe(**options):
    return Recipe(options.pop("source", CHECKPOINT), OUTPUT, **options)


@pytest.mark.parametrize(
    ("options", "route", "block", "retrains"),
    [
        ({}, Route("fp32"), 1, False),
        ({"targets": NPU}, Route("int8", "normal"), 16, False),
        ({"targets": NPU, "prune": 0.5}, Route("int8", "normal"), 16, True),
        ({"targets": NPU, "prune": 0.5, "precision": "fp16"}, Route("fp16"), 8, True),
        ({"targets": NPU, "prune": 0.5, "round_to": 24, "qat": True}, Route("int8"), 24, True),
        ({"prune": 0.25}, Route("fp32"), 1, True),
        ({"qat": True}, Route("int8"), 16, True),
        ({"qat": True, "targets": NPU, "toolkit": "2.3.2", "preset": "quick", "epochs": 1}, Route("int8"), 16, True),
        ({"qat": True, "source": Path("unet.safetensors")}, Route("int8"), 16, True),
    ],
)
def test_what_follows_from_a_recipe(options, route, block, retrains):
    made = recipe(**options)
    assert (made.route, made.channel_block, made.retrains) == (route, block, retrains)


READY = {"source": Path("unet.onnx"), "spec": Path("unet.toml")}
REFUSED = {
    "all channels": ({"prune": 1.0}, "prune: 1 is no share between 0 and 1"),
    "no channel": ({"prune": 0.0}, "prune: 0 is no share"),
    "no number": ({"prune": float("nan")}, "prune: nan is no share"),
    "round to nothing": ({"prune": 0.5, "round_to": 0}, "round-to: 0 is no number of channels"),
    "unknown importance": ({"prune": 0.5, "importance": "age"}, "there is no importance 'age'; known: l1, l2"),
    "layer twice": ({"prune": 0.5, "keep": ("up", "up")}, "keep: name each layer once"),
    "nameless layer": ({"prune": 0.5, "keep": ("",)}, "keep: name each layer once"),
    "block alone": ({"round_to": 8}, "round-to: nothing is pruned; add --prune R, or leave out --round-to"),
    "block 0 alone": ({"round_to": 0}, "round-to: nothing is pruned"),
    "importance alone": ({"importance": "l2"}, "importance: nothing is pruned; add --prune R"),
    "scope alone": ({"scope": "global", "qat": True}, "scope: nothing is pruned; add --prune R"),
    "keep alone": ({"keep": ("up",)}, "keep: nothing is pruned; add --prune R"),
    "preset alone": ({"preset": "quick"}, "preset: nothing is trained; add --prune R or --qat, or leave out --preset"),
    "epochs alone": ({"epochs": 3}, "epochs: nothing is trained; add --prune R or --qat"),
    "no epochs": ({"qat": True, "epochs": 0}, "epochs: 0 is no number of epochs"),
    "prune a graph": ({**READY, "prune": 0.5}, "prune: a ready .onnx model cannot be trained; give the checkpoint"),
    "train a graph": ({**READY, "qat": True}, "qat: a ready .onnx model cannot be trained; give the checkpoint"),
    "qat as it came": ({"qat": True, "restructure": False}, "int8 is trained into the restructured network"),
    "two ways to int8": ({"qat": True, "ptq": "normal"}, "--ptq and --qat are two routes"),
    "qat in float16": ({"qat": True, "precision": "fp16", "targets": NPU}, "--precision and --qat are two routes"),
    "weights of a graph": (
        {**READY, "weights": "ema"},
        "weights: a ready .onnx model has one network; leave out",
    ),
    "nameless weights": ({"weights": ""}, "weights: is empty; name weights of the checkpoint"),
    "graph in capitals": ({**READY, "source": Path("unet.ONNX"), "qat": True}, "a ready .onnx model cannot be trained"),
    "graph without spec": ({"source": Path("unet.Onnx")}, "a ready .onnx model needs a description"),
    "all routes": ({"qat": True, "precision": "fp16", "ptq": "normal"}, "--precision and --ptq are two routes"),
    "new toolkit": (
        {"qat": True, "targets": NPU, "toolkit": "2.5.0"},
        "qat: rknn-toolkit2 2.5.0 rounds the weights of a QAT network anew (docs/qat.md); use 2.3.2",
    ),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_contradiction_is_refused_in_one_line(options, reason):
    with pytest.raises(InputError) as caught:
        recipe(**options)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "ready"), [("a.onnx", 1), ("a.ONNX", 1), ("a.Onnx", 1), ("a.onnx.pt", 0), ("a", 0)])
def test_a_ready_graph_is_known_by_its_ending_in_any_case(name, ready):
    assert recipe(source=Path(name), spec=Path("s.toml") if ready else None).is_ready_graph == bool(ready)


def test_what_the_newer_toolkit_can_do_is_not_refused():
    assert recipe(prune=0.5, targets=NPU, toolkit="2.5.0").retrains


@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_importance_of_the_pruner_can_be_asked_for(name):
    assert recipe(prune=0.5, importance=name).importance == name
