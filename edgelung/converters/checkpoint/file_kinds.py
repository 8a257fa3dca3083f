"""What a file is that is no checkpoint, told from its first bytes, its name, and the members of an archive."""

from __future__ import annotations

import codecs
import zipfile
from pathlib import Path
from typing import Final

import onnx

from edgelung.converters.checkpoint.wording import SAVE_HINT, one_line
from edgelung.errors import InputError

__all__ = ["HEAD_BYTES", "is_safetensors", "refuse_folder", "refuse_other_kinds"]

HEAD_BYTES: Final = 1024
MAX_ONNX_BYTES: Final = 2**29
MAX_HEADER_BYTES: Final = 2**31
_AGAIN: Final = "copy or download the checkpoint again"
_FROM_TORCH: Final = "give the PyTorch checkpoint it was made from, or an ONNX model with --spec"
_OTHER_FRAMEWORK: Final = "export the network to ONNX and give that with --spec"
_UNPACK: Final = "unpack it and give the checkpoint inside"
_A_CT: Final = "a CT is given with --data; CHECKPOINT is the network"
_TORCH_LEGACY: Final = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # torch's magic number, pickled first in its old files

# (offset, bytes, what the file is, way out)
_SIGNATURES: Final = (
    (0, b"RKNN", "is an .rknn file, compiled for an NPU already", _FROM_TORCH),
    (0, b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras, as a rule), not a torch checkpoint", _OTHER_FRAMEWORK),
    (4, b"TFL3", "is a TensorFlow Lite model", _OTHER_FRAMEWORK),
    (4, b"ORTM", "is an .ort file, onnxruntime's own form", "give the ONNX model it was made from, with --spec"),
    (4, b"ET1", "is an ExecuTorch program", _FROM_TORCH),
    (0, b"ftrt", "is a TensorRT engine", _FROM_TORCH),
    (0, b"ptrt", "is a TensorRT engine", _FROM_TORCH),
    (0, b"GGUF", "is a GGUF file", "give the PyTorch checkpoint it was made from"),
    (0, b"\x93NUMPY", "is a numpy array", SAVE_HINT),
    (0, b"version https://git-lfs.github.com/spec/", "is a git-lfs pointer, not the file itself", "run: git lfs pull"),
    (0, b"\x1f\x8b", "is compressed by gzip", _UNPACK),
    (0, b"BZh", "is compressed by bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "is compressed by xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "is a RAR archive", _UNPACK),
    (257, b"ustar", "is a tar archive", _UNPACK),
    (128, b"DICM", "is a DICOM file", _A_CT),
    (344, b"n+1\0", "is a NIfTI image", _A_CT),
)
_SUFFIXES: Final = {
    ".rknn": ("is an .rknn file, compiled for an NPU already", _FROM_TORCH),
    ".tflite": ("is a TensorFlow Lite model", _OTHER_FRAMEWORK),
    ".ort": ("is an .ort file, onnxruntime's own form", "give the ONNX model it was made from, with --spec"),
    ".h5": ("is a Keras model", _OTHER_FRAMEWORK),
    ".engine": ("is a TensorRT engine", _FROM_TORCH),
    ".plan": ("is a TensorRT engine", _FROM_TORCH),
    ".trt": ("is a TensorRT engine", _FROM_TORCH),
    ".mlmodel": ("is a Core ML model", _FROM_TORCH),
    ".pb": ("is a TensorFlow graph", _OTHER_FRAMEWORK),
    ".index": ("is the index of a TensorFlow checkpoint", _OTHER_FRAMEWORK),
    ".meta": ("is the graph of a TensorFlow checkpoint", _OTHER_FRAMEWORK),
    ".caffemodel": ("is a Caffe model", _OTHER_FRAMEWORK),
    ".pdparams": ("is a PaddlePaddle checkpoint", _OTHER_FRAMEWORK),
    ".pdmodel": ("is a PaddlePaddle model", _OTHER_FRAMEWORK),
    ".msgpack": ("is a Flax checkpoint", _OTHER_FRAMEWORK),
}
_TENSORFLOW_TABLE: Final = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # last bytes of a LevelDB table


def is_safetensors(head: bytes) -> bool:
    """Eight bytes of little-endian header length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER_BYTES


def refuse_folder(folder: Path, source: str) -> None:
    """Say what a folder given as checkpoint is.

    Raises:
        InputError: Always.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=source, hint="check path and rights") from error
    parts = [name for name in names if "-of-0" in name] or [name for name in names if name.endswith(".index.json")]
    if folder.suffix == ".mlpackage":
        problem, hint = "is a Core ML model", _FROM_TORCH
    elif "saved_model.pb" in names:
        problem, hint = "is a TensorFlow SavedModel", _OTHER_FRAMEWORK
    elif ".metadata" in names and any(name.endswith(".distcp") for name in names):
        problem = "is a checkpoint of torch.distributed, spread over several files"
        hint = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pt makes one of them"
    elif "data.pkl" in names and "version" in names:
        problem, hint = "is an unpacked torch checkpoint", "give the .pt file that it was unpacked from"
    elif parts:
        problem = f"is a checkpoint spread over several files ({one_line(parts[0])} ...)"
        hint = f"load the network where it was made, and {SAVE_HINT}"
    else:
        problem, hint = "is a folder, not a checkpoint file", "name the file inside it"
    raise InputError(problem, source=source, hint=hint)


def refuse_other_kinds(file: Path, source: str, head: bytes) -> None:
    """Name what is clearly something else, before torch words it worse.

    Raises:
        InputError: For an archive or a file that is no torch checkpoint, and for a damaged one.
    """
    if file.suffix.lower() == ".onnx":
        raise InputError("is an ONNX model, not a checkpoint", source=source, hint="give it as a ready ONNX model")
    if head.startswith(b"PK"):
        _refuse_archive(file, source)
        return
    if _TORCH_LEGACY in head[:32]:
        return
    found = _by_name(file) or _by_signature(head) or _by_ending(file) or _by_text(head)
    if found is None and head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        found = ("is a pickle that torch.save did not write; edgelung unpickles no classes", SAVE_HINT)
    if found is None and _is_onnx(file, head):
        found = ("is an ONNX model without the ending .onnx", "rename it to .onnx and give it with --spec")
    if found is None:
        found = (
            "is cut short or no torch checkpoint; torch.save begins its files otherwise",
            f"{_AGAIN}, or {SAVE_HINT}",
        )
    raise InputError(found[0], source=source, hint=found[1])


def _by_name(file: Path) -> tuple[str, str] | None:
    if file.name.lower().endswith((".nii", ".nii.gz")):
        return "is a NIfTI image", _A_CT
    if ".data-0" in file.name:
        return "holds the values of a TensorFlow checkpoint", _OTHER_FRAMEWORK
    return _SUFFIXES.get(file.suffix.lower())


def _by_signature(head: bytes) -> tuple[str, str] | None:
    for offset, signature, problem, hint in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return problem, hint
    return None


def _by_text(head: bytes) -> tuple[str, str] | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page (an error or a login, as a rule), not the checkpoint", "download the file itself"
    if text.startswith(b"{") and b"weight_map" in text:
        return "is the index of a checkpoint that is spread over several files", f"load the network, and {SAVE_HINT}"
    if b"model_checkpoint_path:" in text:
        return "is the list of a TensorFlow checkpoint", _OTHER_FRAMEWORK
    if text.startswith((b"objecttype", b"ndims =")):
        return "is the header of a MetaImage", _A_CT
    try:
        words = codecs.getincrementaldecoder("utf-8")().decode(head)  # its last letter may be cut
    except UnicodeDecodeError:
        return None
    if words and not any(ord(letter) < 9 or 13 < ord(letter) < 32 for letter in words):
        return "is a text file, not a checkpoint", _AGAIN
    return None


def _by_ending(file: Path) -> tuple[str, str] | None:
    with file.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - len(_TENSORFLOW_TABLE)))
        if stream.read() == _TENSORFLOW_TABLE:
            return "is a TensorFlow checkpoint", _OTHER_FRAMEWORK
    return None


def _is_onnx(file: Path, head: bytes) -> bool:
    """A protobuf message whose first field is the version of ONNX's format, and that has a graph."""
    if head[:1] != b"\x08" or file.stat().st_size > MAX_ONNX_BYTES:
        return False
    try:
        return bool(onnx.load_model_from_string(file.read_bytes()).graph.node)
    except Exception:  # protobuf's DecodeError, which has no import path that is the same in all versions
        return False


def _refuse_archive(file: Path, source: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.namelist()
            altered = archive.testzip()  # torch itself does not compare the checksums
    except Exception as error:  # BadZipFile, and what else a damaged header provokes
        raise InputError(f"is damaged or cut short: {one_line(error)}", source=source, hint=_AGAIN) from error
    if altered:
        problem = f"is damaged: the checksum of {one_line(altered)} is wrong"
        raise InputError(problem, source=source, hint=_AGAIN)
    names = [name.partition("/")[2] for name in listed]
    if "constants.pkl" in names:
        hint = 'torch.save(torch.jit.load("FILE").state_dict(), "weights.pt") saves its weights, if you trust the file'
        raise InputError("is a TorchScript archive (it holds code)", source=source, hint=hint)
    if "data.pkl" in names and "archive_format" not in names:
        return
    problem, hint = "is a zip archive, but no torch checkpoint", SAVE_HINT
    if listed and all(name.endswith(".npy") for name in listed):
        problem = "is a numpy archive (.npz), not a torch checkpoint"
    elif "model.weights.h5" in listed:
        problem, hint = "is a Keras model", _OTHER_FRAMEWORK
    elif "archive_format" in names or any(name.endswith("models/model.json") for name in listed):
        problem = "is an exported program of torch (.pt2)"
        hint = 'torch.save(torch.export.load("FILE").state_dict, "weights.pt") saves its weights, if you trust the file'
    elif any("/.data/" in f"/{name}" for name in listed):
        problem = "is a torch.package archive (it holds code)"
    elif any(name.endswith((".pt", ".pth", ".ckpt", ".safetensors")) for name in listed):
        problem, hint = "is a zip archive with a checkpoint in it", _UNPACK
    raise InputError(problem, source=source, hint=hint)
