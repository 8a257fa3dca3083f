"""Checkpoint files: every container that is taken, every file that is refused, with the reason and the way out."""

import argparse
import hashlib
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.errors import InputError


def small(**more):
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2), **more}


TAKEN = {
    "bare": (small(), ""),
    "model_state": ({"model_state": small(), "epoch": 3, "optimizer_state": {"lr": 0.1}}, "model_state"),
    "model_state_dict": ({"model_state_dict": small(), "loss": 0.5}, "model_state_dict"),
    "state_dict": ({"state_dict": small(), "hyper_parameters": {"width": 4}}, "state_dict"),
    "model": ({"model": small(), "args": None}, "model"),
    "name beside weights": ({"model": "unet", "state_dict": small()}, "state_dict"),
    "any name": ({"best": {"net": small()}, "epoch": 3}, "best.net"),
    "parameters": ({key: nn.Parameter(tensor) for key, tensor in small().items()}, ""),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", TAKEN)
def test_containers_that_are_taken(tmp_path, case, legacy):
    content, container = TAKEN[case]
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_state_dict(path)
    assert (loaded.format, loaded.container) == ("torch", container)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(loaded.state) == list(small())
    for key, tensor in small().items():
        assert torch.equal(loaded.state[key], tensor) and not loaded.state[key].requires_grad


def test_safetensors_under_any_name(tmp_path):
    for name in ("weights.safetensors", "weights.bin"):
        safetensors.torch.save_file(small(), tmp_path / name)
        loaded = load_state_dict(tmp_path / name)
        assert loaded.format == "safetensors" and torch.equal(loaded.state["conv.bias"], torch.ones(2))


class Proof:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


REFUSED = {
    "whole module": (nn.Conv2d(1, 1, 1), r"whole pickled network, a torch\.nn\.modules\.conv\.Conv2d.*state_dict\(\)"),
    "namespace": ({"model": small(), "args": argparse.Namespace(lr=1)}, r'pickled argparse\.Namespace.*\["model"\]'),
    "lazy": (nn.LazyConv2d(3, 3).state_dict(), "a lazy layer that was never run"),
    "list": ([1, 2], "holds a list"),
    "tensor": (torch.ones(1), "holds a Tensor"),
    "empty": ({}, "empty state_dict"),
    "empty inside": ({"state_dict": {}}, "state_dict: holds an empty"),
    "no tensors": ({"epoch": 3}, "holds no weights: epoch"),
    "mixed": ({"model": small(note="hello")}, "model: 'note' is a str.*--weights model"),
    "number as key": ({3: torch.ones(1)}, "the key 3 is a int"),
    "NaN": (small(**{"conv.scale": torch.tensor([1.0, float("nan")])}), "conv.scale: holds NaN"),
    "infinite half": (small(**{"conv.scale": torch.tensor([float("inf")]).half()}), "conv.scale: holds NaN or inf"),
    "beyond float32": (
        small(**{"conv.scale": torch.tensor([1e300], dtype=torch.float64)}),
        "holds values beyond",
    ),
    "complex": ({"w": torch.ones(1, dtype=torch.complex64)}, "w: is not a dense tensor of real numbers"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "w: is not a dense tensor.*to_dense"),
    "float8": ({"w": torch.ones(3, 3).to(torch.float8_e4m3fn)}, "w: is not a dense tensor of real"),
    "meta": ({"w": torch.ones(3, 3, device="meta")}, "w: was saved without its values"),
    "huge view": ({"w": torch.zeros(1).expand(2**20, 2**20)}, "holds more than"),
    "packed": ({"fc.scale": torch.tensor(1.0), "fc._packed_params.dtype": torch.qint8}, "converted to int8"),
    "observers": (
        {"net": small(**{"conv.weight_fake_quant.scale": torch.ones(1)})},
        r"observers of torch\.ao \(conv\.weight_fake_quant\.scale; 1 such.*--weights net\. takes.*--qat",
    ),
    "observers beside a layer called bn": (
        small(**{"block.conv.weight_fake_quant.scale": torch.ones(1), "block.bn.running_mean": torch.ones(1)}),
        r"--weights \. takes its float weights",
    ),
    "fused observers": (
        small(**{"conv.weight_fake_quant.scale": torch.ones(1), "conv.bn.running_mean": torch.ones(1)}),
        "BatchNorms fused into convolutions.*before prepare_qat",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contents_that_are_refused(tmp_path, case):
    content, reason = REFUSED[case]
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=reason) as caught:
        load_state_dict(path)
    assert caught.value.source == str(path) and caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage is deprecated")
def test_weights_that_torch_quantized_are_refused(tmp_path):
    torch.save({"net": small(q=torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8))}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"converted to int8 \(q\); its float weights are gone"):
        load_state_dict(tmp_path / "w.pt")


def truncated(path):
    torch.save({"w": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


def truncated_legacy(path):
    torch.save({"w": torch.randn(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-500])


def corrupted_data(path):
    torch.save({"w": torch.randn(1000)}, path)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"data.pkl") + 64
    raw[start : start + 40] = b"\xff" * 40
    path.write_bytes(raw)


def altered_weight(path):
    torch.save({"w": torch.full((1000,), 0.5)}, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.full((1000,), 0.5).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(raw)


def truncated_safetensors(path):
    safetensors.torch.save_file({"w": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


FILES = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "truncated": (truncated, "damaged or cut short"),
    "truncated legacy": (truncated_legacy, "cut short or no torch checkpoint"),
    "corrupted": (corrupted_data, "damaged"),
    "altered weight": (altered_weight, r"checksum of .*data/0 is wrong"),
    "zeros": (lambda path: path.write_bytes(bytes(1000)), "cut short or no torch checkpoint"),
    "truncated safetensors": (truncated_safetensors, "damaged safetensors"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Detected pickle protocol")
@pytest.mark.parametrize("case", FILES)
def test_files_that_are_refused(tmp_path, case):
    make, reason = FILES[case]
    path = tmp_path / "weights.pt"
    make(path)
    with pytest.raises(InputError, match=reason) as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value) and caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_run(tmp_path):
    for name, save in (("torch", torch.save), ("pickle", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        mark = tmp_path / f"{name}.mark"
        path = tmp_path / f"{name}.pt"
        save({"state_dict": small(), "extra": Proof(mark)}, path)
        with pytest.raises(InputError):
            load_state_dict(path)
        assert not mark.exists()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.arange(4))
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)), nn.BatchNorm1d(4))


def test_fitting_weights_are_applied_and_dtype_stays():
    model, other = Network(), Network()
    state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in other.state_dict().items()}
    del state["layers.5.num_batches_tracked"]
    apply_state(model, state, "weights.pt")
    assert model.layers[0].weight.dtype == torch.float32
    torch.testing.assert_close(model.layers[0].weight, other.layers[0].weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda s: s.update({"layers.0.weight": torch.ones(4, 5)}),
            r"wrong shape: layers\.0\.weight \(4, 5\) instead of \(4, 4\)",
        ),
        (lambda s: s.pop("layers.0.bias"), r"missing: layers\.0\.bias;"),
        (lambda s: s.update(head=torch.ones(1)), r"belonging to no layer: head;"),
        (lambda s: [s.pop(f"layers.{i}.bias") for i in range(5)], r"missing: (layers\.\d\.bias(, )?){3} and 2 more"),
        (
            lambda s: (s.pop("layers.0.bias"), s.update(head=torch.ones(1))),
            r"missing: layers\.0\.bias; belonging to no layer: head",
        ),
    ],
)
def test_weights_of_another_network_are_refused_whole(change, reason):
    model, state = Network(), Network().state_dict()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    change(state)
    with pytest.raises(InputError, match=reason) as caught:
        apply_state(model, state, "weights.pt")
    assert caught.value.source == "weights.pt"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("layers.0.bias", torch.ones(4, dtype=torch.int8), r"layers\.0\.bias: is int8 where the network has float32"),
        ("layers.0.bias", torch.ones(4, dtype=torch.bool), "is bool where the network has float32"),
        ("layers.0.bias", torch.ones(4, dtype=torch.int64), "is int64 where the network has float32"),
        ("order", torch.tensor([0.0, 1.0, 2.5, 3.0]), "order: is float32 with values that int64"),
    ],
)
def test_types_that_the_network_cannot_have_are_refused(key, value, reason):
    model = Network()
    with pytest.raises(InputError, match=reason):
        apply_state(model, {**model.state_dict(), key: value}, "weights.pt")


def test_whole_numbers_may_be_of_another_width():
    model = Network()
    apply_state(model, {**model.state_dict(), "order": torch.tensor([3, 2, 1, 0], dtype=torch.int32)}, "weights.pt")
    assert model.order.tolist() == [3, 2, 1, 0] and model.order.dtype == torch.int64


@pytest.mark.parametrize(
    ("wrap", "maker"),
    [
        (nn.utils.parametrizations.weight_norm, "weight_norm"),
        (nn.utils.parametrizations.spectral_norm, "spectral_norm"),
        (nn.utils.spectral_norm, "spectral_norm"),
        (lambda layer: nn.utils.prune.identity(layer, "weight"), "torch.nn.utils.prune"),
        (nn.utils.parametrizations.orthogonal, "a parametrization"),
    ],
)
def test_computed_weights_that_a_plain_network_lacks_are_named(wrap, maker):
    with pytest.raises(InputError, match=f"computed by {maker}; the factory has to use it"):
        apply_state(nn.Linear(4, 4), wrap(nn.Linear(4, 4)).state_dict(), "weights.pt")
