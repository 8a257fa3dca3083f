"""Files that are no checkpoints, each named as what it is, with the way out, in one line."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgelung.converters.checkpoint import load_state_dict
from edgelung.errors import InputError

TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"


def onnx_bytes():
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    return onnx.helper.make_model(graph).SerializeToString()


def tar_bytes():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return stream.getvalue()


def npz_bytes():
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return stream.getvalue()


def zip_of(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()
FILES = {
    "net.rknn": (b"RKNN\0\0\0\0" + bytes(200), "is an .rknn file.*PyTorch checkpoint it was made from"),
    "rknn.pt": (b"RKNN\0\0\0\0" + bytes(200), "is an .rknn file"),
    "net.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "Keras.*export the network to ONNX"),
    "hdf.pt": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "net.keras": (zip_of("config.json", "model.weights.h5"), "Keras"),
    "net.pb": (b"\x0a\x24\x0a\x05input", "TensorFlow graph"),
    "lite.bin": (b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite"),
    "net.ort": (b"\x1c\0\0\0ORTM" + bytes(99), "is an .ort file.*give the ONNX model"),
    "net.engine": (bytes(range(200)), "TensorRT"),
    "rt.bin": (b"ftrt" + bytes(99), "TensorRT"),
    "net.mlmodel": (b"\x08\x04\x12\x90", "Core ML"),
    "net.pte": (b"\x1c\0\0\0ET12" + bytes(99), "ExecuTorch"),
    "net.gguf": (b"GGUF" + bytes(99), "GGUF"),
    "net.msgpack": (b"\x81\xa6params", "Flax"),
    "net.pdparams": (pickle.dumps({"a": 1}, 2), "PaddlePaddle"),
    "tf.ckpt.index": (bytes(99) + TABLE_END, "index of a TensorFlow checkpoint"),
    "tf.ckpt.data-00000-of-00001": (bytes(range(256)), "values of a TensorFlow checkpoint"),
    "tf.ckpt": (bytes(99) + TABLE_END, "is a TensorFlow checkpoint"),
    "checkpoint": (b'model_checkpoint_path: "model.ckpt-1"\n', "list of a TensorFlow checkpoint"),
    "a.npz": (npz_bytes(), "numpy archive"),
    "a.npy": (b"\x93NUMPY" + bytes(99), "numpy array"),
    "other.zip": (zip_of("a/b.txt"), "is a zip archive, but no torch checkpoint"),
    "packed.zip": (zip_of("weights.pt"), "with a checkpoint in it; unpack it"),
    "exported.pt2": (zip_of("m/archive_format", "m/data.pkl"), r"exported program.*torch\.export\.load"),
    "package.pt": (zip_of("p/.data/version"), "torch.package"),
    "net.pth.tar": (tar_bytes(), "is a tar archive; unpack it"),
    "net.pt.gz": (gzip.compress(b"x" * 99), "is compressed by gzip; unpack it"),
    "scan.nii.gz": (gzip.compress(b"x" * 99), "NIfTI image; a CT is given with --data"),
    "scan.mhd": (b"ObjectType = Image\nNDims = 3\n", "MetaImage; a CT is given with --data"),
    "scan.dcm": (bytes(128) + b"DICM" + bytes(99), "DICOM file; a CT is given with --data"),
    "lfs.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer.*git lfs pull"),
    "page.pt": (b"\n<!DOCTYPE html>\n<html></html>", "is a web page.*download the file itself"),
    "error.pt": (b'{"message": "Not Found"}', "is a text file"),
    "model.safetensors.index.json": (INDEX, "index of a checkpoint that is spread"),
    "text.pt": (b"hello " * 100, "is a text file"),
    "plain.pkl": (pickle.dumps({"a": [1]}), "is a pickle that torch.save did not write"),
    "zeros.pt": (bytes(1000), "cut short or no torch checkpoint"),
    "net.ONNX": (b"\x08\x08 anything", "is an ONNX model"),
    "onnx.pt": (onnx_bytes(), "is an ONNX model without the ending .onnx; rename it"),
    "empty.pt": (b"", "is empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_as_what_it_is(tmp_path, name):
    content, reason = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_state_dict(tmp_path / name)
    assert caught.value.source == str(tmp_path / name) and caught.value.hint and "\n" not in str(caught.value)


FOLDERS = {
    "sharded": (("model-00001-of-00002.safetensors", "model.safetensors.index.json"), "spread over several files"),
    "distributed": ((".metadata", "__0_0.distcp"), r"torch\.distributed.*dcp_to_torch"),
    "tensorflow": (("saved_model.pb",), "SavedModel"),
    "net.mlpackage": (("Manifest.json",), "Core ML"),
    "unpacked": (("data.pkl", "version"), "unpacked torch checkpoint"),
    "other": (("a.txt",), "is a folder, not a checkpoint file; name the file inside it"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_named_as_what_it_is(tmp_path, name):
    files, reason = FOLDERS[name]
    (tmp_path / name).mkdir()
    for file in files:
        (tmp_path / name / file).touch()
    with pytest.raises(InputError, match=reason):
        load_state_dict(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_ending_of_a_checkpoint_does_not_matter(tmp_path, legacy):
    for name in ("net.pth.tar", "net.pkl", "net.ckpt", "net.bin", "net"):
        torch.save({"w": torch.ones(2, 2)}, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        assert load_state_dict(tmp_path / name).state.keys() == {"w"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_named(tmp_path):
    torch.jit.trace(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(InputError, match=r"TorchScript archive.*torch\.jit\.load"):
        load_state_dict(tmp_path / "script.pt")
