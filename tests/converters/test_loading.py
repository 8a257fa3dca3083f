"""A network of one's own from its factory and a checkpoint, of the widths that the checkpoint has."""

from pathlib import Path

import pytest
import torch

from edgelung.converters import Recipe
from edgelung.converters.loading import load_network
from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.converters.pruning import prune
from edgelung.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import residual_unet

    def load(state):
        torch.save(state, tmp_path / "own.pt")
        spec = EXAMPLES / "residual_unet.toml"
        return load_network(Recipe(tmp_path / "own.pt", tmp_path / "o.bundle", arch="residual_unet:build", spec=spec))

    return residual_unet.build, load


@torch.no_grad()
def test_a_pruned_network_is_rebuilt_from_its_shapes(example):
    build, load = example
    model = build().eval()
    values = torch.randn(1, 3, 64, 64)
    pruned = prune(model, values, ratio=0.5).model.eval()
    record = load(pruned.state_dict())
    assert record.parameters == sum(part.numel() for part in pruned.parameters())
    assert record.parameters < 0.3 * sum(part.numel() for part in model.parameters())
    assert torch.equal(record.model(values), pruned(values))


def test_wider_weights_are_refused(example):
    build, load = example
    state = build().state_dict()
    key = next(key for key, tensor in state.items() if tensor.ndim == 4)
    state[key] = torch.cat([state[key], state[key]])
    with pytest.raises(InputError, match="is no narrower"):
        load(state)


def known(state, folder, **options):
    torch.save(state, folder / "known.pt")
    said = []
    record = load_network(Recipe(folder / "known.pt", folder / "o.bundle", **options), said.append)
    return record, said


def test_a_network_of_the_registry_is_told_by_the_names_of_its_keys(tmp_path):
    deep = UNetLuna(UNetWidths.standard(in_slices=3, depth=4, wf=1))  # not the depth that a new one has
    state = deep.state_dict()
    for prefix in ("", "module.", "model.", "module.net."):
        record, said = known({"state_dict": {prefix + key: value for key, value in state.items()}}, tmp_path)
        assert torch.equal(record.model.unet.last.weight, deep.unet.last.weight)
        off = f"; {prefix[:-1].replace('.', ' and ')} taken off the keys" if prefix else ""
        assert said == [f"network: weights under state_dict{off}"]
        assert record.stages[-1].summary.endswith(f"from a torch checkpoint; weights under state_dict{off}")


def test_weights_of_the_registry_are_chosen_too(tmp_path):
    state = UNetLuna(UNetWidths.standard(in_slices=3, depth=2, wf=1)).state_dict()
    two = {"model": state, "model_ema": {key: value.half().float() for key, value in state.items()}}
    with pytest.raises(InputError, match=r"several sets of weights: model \(.*model_ema.*--weights model"):
        known(two, tmp_path)
    record, said = known(two, tmp_path, weights="model_ema")
    assert torch.equal(record.model.unet.last.weight, two["model_ema"]["unet.last.weight"])
    assert said == ["network: weights under model_ema"]
    flat = {f"{name}.{key}": value for name, part in two.items() for key, value in part.items()}
    with pytest.raises(InputError, match=r"several networks of these keys: model \("):
        known(flat, tmp_path)
    assert known(flat, tmp_path, weights="model_ema")[1] == ["network: weights under model_ema"]


def test_a_checkpoint_of_one_bare_state_dict_needs_no_word(tmp_path):
    assert known(UNetLuna().state_dict(), tmp_path)[1] == []
