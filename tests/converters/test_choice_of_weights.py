"""Which weights of a checkpoint are taken, and how their keys come to a network's names."""

import pytest
import torch
from torch import nn

from edgelung.converters.checkpoint import load_state_dict, match_keys
from edgelung.errors import InputError


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = Network()


OWN = list(Network().state_dict())


def weights(value, prefix=""):
    """Weights of a network, told from others by the value of each."""
    return {prefix + key: torch.full_like(tensor, value) for key, tensor in Network().state_dict().items()}


def optimizer():
    network = Network()
    made = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    made.step()
    return made.state_dict()


def averaged():
    made = torch.optim.swa_utils.AveragedModel(Network())
    made.module.load_state_dict(weights(2))
    made.n_averaged += 7
    return made.state_dict()


def taken(tmp_path, content, name=None, own=OWN):
    torch.save(content, tmp_path / "w.pt")
    matched = match_keys(load_state_dict(tmp_path / "w.pt", name), own)
    assert matched.fits and set(matched.state) == set(own)
    (value,) = {float(tensor.flatten()[0]) for tensor in matched.state.values()}
    return value, "; ".join(matched.changes)


SEVERAL = {
    "timm": ({"state_dict": weights(1), "state_dict_ema": weights(2), "optimizer": optimizer()}, "state_dict_ema"),
    "ema": ({"model": weights(1), "ema": weights(2), "epoch": 3}, "ema"),
    "model_ema": ({"model": weights(1), "model_ema": {"module": weights(2), "decay": 0.9}}, "model_ema.module"),
    "swa": ({"model_state": weights(1), "swa_state": averaged()}, "swa_state"),
    "teacher": ({"student": weights(1), "teacher": weights(2)}, "teacher"),
    "adversaries": ({"discriminator": {"a.weight": torch.ones(3, 3)}, "generator": weights(2)}, "generator"),
    "callback": (
        {"state_dict": weights(1, "model."), "callbacks": {"EMAWeightAveraging": {"ema": weights(2)}}},
        "callbacks.EMAWeightAveraging.ema",
    ),
    "folds": ({"folds": [weights(1), weights(2)]}, "folds.1"),
    "two prefixes": ({**weights(1, "model."), **weights(2, "model_ema.")}, "model_ema"),
    "two inside": ({"state_dict": {**weights(1, "online."), **weights(2, "target.")}}, "state_dict.target"),
    "two wrapped": ({**weights(1, "module.online."), **weights(2, "module.target.")}, "module.target"),
    "one within": ({**weights(1), **weights(2, "ema.")}, "ema"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_of_several_networks_none_is_guessed(tmp_path, case):
    content, name = SEVERAL[case]
    with pytest.raises(InputError, match=r"holds several .*tensors?\).*--weights") as caught:
        taken(tmp_path, content)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert taken(tmp_path, content, name)[0] == 2
    with pytest.raises(InputError, match=r"weights: holds no weights called 'nope', but .*tensors?\)"):
        taken(tmp_path, content, "nope")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"model": weights(1), "model_ema": {"module": weights(2)}}, "model_ema"),  # the one below it
        ({"state_dict": {**weights(1, "online."), **weights(2, "target.")}}, "target"),  # where it is alone
        ({**weights(2), **weights(1, "ema.")}, "."),  # the top of the file
        ({"state_dict": {**weights(2), **weights(1, "ema.")}}, "state_dict."),
    ],
)
def test_short_names(tmp_path, content, name):
    assert taken(tmp_path, content, name)[0] == 2


def test_what_lies_beside_weights_is_no_network(tmp_path):
    moments = {"exp_avg": weights(5), "exp_avg_sq": weights(5)}
    beside = {"optimizer": optimizer(), "optimizer_states": [optimizer()], "adam": moments, "scaler": {"scale": 1.0}}
    assert taken(tmp_path, {"ema_state_dict": weights(2), "mean": torch.ones(3), **beside})[0] == 2
    assert load_state_dict(tmp_path / "w.pt").container == "ema_state_dict"


def test_averages_without_names_are_no_choice_but_are_named(tmp_path):
    shadow = [parameter.detach() for parameter in Network().parameters()]
    content = {"state_dict": weights(1), "ema": {"shadow_params": shadow, "decay": 0.99}}
    with pytest.raises(InputError, match=r"state_dict \(7 tensors\), ema\.shadow_params \(4 tensors\)"):
        taken(tmp_path, content)
    with pytest.raises(InputError, match=r"ema\.shadow_params: is a list of 4 tensors without names"):
        taken(tmp_path, content, "ema")
    assert taken(tmp_path, content, "state_dict")[0] == 1


NAMINGS = {
    "as they are": (weights(2), OWN, ""),
    "DDP": (weights(2, "module."), OWN, "module taken off the keys"),
    "compiled": (weights(2, "_orig_mod."), OWN, "_orig_mod taken off the keys"),
    "compiled DDP": (weights(2, "module._orig_mod."), OWN, "module and _orig_mod taken off the keys"),
    "Lightning": ({"state_dict": weights(2, "model.")}, OWN, "model taken off the keys"),
    "a deep wrapper": (weights(2, "net.backbone."), OWN, "net.backbone taken off the keys"),
    "averaged": (averaged(), OWN, "averaged over 7 steps; their counter n_averaged was left out; module taken off"),
    "to a wrapped network": (weights(2), list(Wrapped().state_dict()), "module put into the keys"),
    "both wrapped": (weights(2, "module."), list(Wrapped().state_dict()), ""),
    "Lightning of a wrapped one": (weights(2, "model.module."), list(Wrapped().state_dict()), "model taken off"),
    "to a Lightning module": (weights(2), [f"model.{key}" for key in OWN], "model put into the keys"),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_wrappers_are_taken_off_or_added_where_then_all_keys_fit(tmp_path, case):
    content, own, said = NAMINGS[case]
    value, changes = taken(tmp_path, content, own=own)
    assert value == 2 and (said in changes if said else not changes)


def test_a_submodule_may_have_been_compiled_in_either_place(tmp_path):
    inner = {key.replace("0.", "0._orig_mod."): tensor for key, tensor in weights(2).items()}
    assert taken(tmp_path, inner) == (2, "_orig_mod taken off the keys")
    assert taken(tmp_path, weights(2), own=list(inner)) == (2, "_orig_mod put into the keys")


def test_a_prefix_that_does_not_make_the_keys_fit_stays(tmp_path):
    torch.save({"module.other.weight": torch.ones(2, 2)}, tmp_path / "w.pt")
    matched = match_keys(load_state_dict(tmp_path / "w.pt"), OWN)
    assert not matched.fits and list(matched.state) == ["module.other.weight"]


@pytest.mark.parametrize(("prefix", "container", "name"), [("", "", "."), ("model.", "state_dict", "state_dict.model")])
def test_tensors_beside_the_networks_are_named_and_can_be_left_out(tmp_path, prefix, container, name):
    state = {**weights(2, prefix), "criterion.weight": torch.ones(2)}
    content = {container: state} if container else state
    with pytest.raises(InputError, match=rf"belonging to no layer: criterion\.weight; --weights {name} takes the 7 of"):
        taken(tmp_path, content)
    assert taken(tmp_path, content, name)[0] == 2


def test_float_weights_of_quantization_aware_training_are_taken_when_asked_for(tmp_path):
    observers = {
        "0.weight_fake_quant.scale": torch.ones(1),
        "0.activation_post_process.min_val": torch.tensor(-torch.inf),
    }
    with pytest.raises(InputError, match=r"observers of torch\.ao.*--weights \. takes its float weights.*--qat"):
        taken(tmp_path, {**weights(2), **observers})
    value, changes = taken(tmp_path, {**weights(2), **observers}, ".")
    assert value == 2 and changes.startswith("left out: 0.weight_fake_quant.scale")


def test_keys_that_differ_by_a_wrapper_alone_are_refused(tmp_path):
    torch.save({"a.w": torch.ones(1), "a._orig_mod.w": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="differ only by a wrapper's name"):
        match_keys(load_state_dict(tmp_path / "w.pt"), OWN)


def test_a_checkpoint_that_holds_itself_comes_to_an_end(tmp_path):
    content = {"state_dict": weights(1)}
    content["again"] = content
    for _ in range(20):
        content = {"left": content, "right": content}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError):
        load_state_dict(tmp_path / "w.pt")


def test_names_of_a_file_never_reach_the_terminal_as_they_are(tmp_path):
    torch.save({"a\x1b[2J": weights(1), "b": weights(2)}, tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        load_state_dict(tmp_path / "w.pt")
    assert "\x1b" not in str(caught.value)
