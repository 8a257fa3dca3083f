"""Checkpoint files: every container that is taken, every file that is refused, with the reason and the way out."""

import argparse
import hashlib
import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.errors import InputError


def small(**more):
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2), **more}


def prefixed(prefix):
    return {prefix + key: tensor for key, tensor in small().items()}


TAKEN = {
    "bare": (small(), "", ()),
    "model_state": ({"model_state": small(), "epoch": 3, "optimizer_state": {"lr": 0.1}}, "model_state", ()),
    "model_state_dict": ({"model_state_dict": small(), "loss": 0.5}, "model_state_dict", ()),
    "state_dict": ({"state_dict": small(), "hyper_parameters": {"width": 4}}, "state_dict", ()),
    "model": ({"model": small(), "args": None}, "model", ()),
    "name beside weights": ({"model": "unet", "state_dict": small()}, "state_dict", ()),
    "DDP": (prefixed("module."), "", ("module",)),
    "compiled": (prefixed("_orig_mod."), "", ("_orig_mod",)),
    "compiled DDP": ({"model": prefixed("module._orig_mod.")}, "model", ("_orig_mod", "module")),
    "DDP of compiled": (prefixed("_orig_mod.module."), "", ("_orig_mod", "module")),
    "parameters": ({key: nn.Parameter(tensor) for key, tensor in small().items()}, "", ()),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", TAKEN)
def test_containers_that_are_taken(tmp_path, case, legacy):
    content, container, stripped = TAKEN[case]
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_state_dict(path)
    assert (loaded.format, loaded.container, loaded.stripped) == ("torch", container, stripped)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(loaded.state) == list(small())
    for key, tensor in small().items():
        assert torch.equal(loaded.state[key], tensor) and not loaded.state[key].requires_grad


def test_safetensors_under_any_name(tmp_path):
    for name in ("weights.safetensors", "weights.bin"):
        safetensors.torch.save_file(small(), tmp_path / name)
        loaded = load_state_dict(tmp_path / name)
        assert loaded.format == "safetensors" and torch.equal(loaded.state["conv.bias"], torch.ones(2))


def test_a_submodule_may_have_been_compiled(tmp_path):
    torch.save({"head.weight": torch.ones(1), "body._orig_mod.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert list(load_state_dict(tmp_path / "w.pt").state) == ["head.weight", "body.weight"]


class Proof:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


REFUSED = {
    "whole module": (nn.Conv2d(1, 1, 1), r"pickled torch\.nn\.modules\.conv\.Conv2d.*torch\.save\(model\.state_dict"),
    "namespace": ({"model": small(), "args": argparse.Namespace(lr=1)}, r"pickled argparse\.Namespace.*state_dict\(\)"),
    "list": ([torch.ones(1)], "holds a list"),
    "tensor": (torch.ones(1), "holds a Tensor"),
    "empty": ({}, "empty state_dict"),
    "empty inside": ({"state_dict": {}}, "state_dict: holds an empty"),
    "no tensors": ({"epoch": 3}, "'epoch' is a int, not a tensor.*model_state"),
    "nested too deep": ({"model": {"net": small()}}, "model: 'net' is a dict"),
    "mixed": ({"model": small(note="hello")}, "model: 'note' is a str"),
    "number as key": ({3: torch.ones(1)}, "3 is a Tensor"),
    "two networks": ({"model": small(), "state_dict": small()}, "several networks, under state_dict and model"),
    "NaN": (small(**{"conv.scale": torch.tensor([1.0, float("nan")])}), "conv.scale: holds NaN"),
    "infinite half": (small(**{"conv.scale": torch.tensor([float("inf")]).half()}), "conv.scale: holds NaN or inf"),
    "complex": ({"w": torch.ones(1, dtype=torch.complex64)}, "w: is not a dense real tensor"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "w: is not a dense real tensor"),
    "huge view": ({"w": torch.zeros(1).expand(2**20, 2**20)}, "holds more than"),
    "same key twice": ({"a.w": torch.ones(1), "a._orig_mod.w": torch.ones(1)}, "differ only by _orig_mod"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contents_that_are_refused(tmp_path, case):
    content, reason = REFUSED[case]
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=reason) as caught:
        load_state_dict(path)
    assert caught.value.source == str(path) and caught.value.hint and "\n" not in str(caught.value)


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


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "hello")


FILES = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "truncated": (truncated, "damaged or cut short"),
    "truncated legacy": (truncated_legacy, "cut short or no torch checkpoint"),
    "corrupted": (corrupted_data, "damaged"),
    "altered weight": (altered_weight, r"checksum of .*data/0 is wrong"),
    "text": (lambda path: path.write_text("hello " * 100), "cut short or no torch checkpoint"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html></html>"), "cut short or no torch checkpoint"),
    "zeros": (lambda path: path.write_bytes(bytes(1000)), "cut short or no torch checkpoint"),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": [1]})), "cut short or no torch checkpoint"),
    "other zip": (other_zip, "no torch checkpoint"),
    "TorchScript": (
        lambda path: torch.jit.trace(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)).save(str(path)),
        "TorchScript archive",
    ),
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


def test_an_onnx_file_is_named_as_such(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08 anything")
    with pytest.raises(InputError, match="is an ONNX model"):
        load_state_dict(tmp_path / "model.onnx")


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
