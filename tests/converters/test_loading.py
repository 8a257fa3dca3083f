"""A network of one's own from its factory and a checkpoint, of the widths that the checkpoint has."""

from pathlib import Path

import pytest
import torch

from edgelung.converters import Recipe
from edgelung.converters.loading import load_network
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
