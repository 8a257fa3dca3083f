"""What a .rknn file says of itself, read without the vendor's software.

The container is undocumented; its layout was inferred from files of rknn-toolkit2 2.3.2 and 2.5.0: ``RKNN`` and four
zero bytes, the format version and the length N of a FlatBuffer as little-endian u64, zeros up to byte 64, N bytes of
FlatBuffer, the length J as u64, and J bytes of JSON that end with the file. There is no checksum: a truncated or
padded file is found, an altered one is not.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgelung._codec import parse_json
from edgelung.errors import BundleError

__all__ = ["FORMAT_VERSION", "RknnFile", "RknnTensor", "read_rknn"]

FORMAT_VERSION = 6  # the only one seen
MAX_JSON_BYTES = 4 << 20  # those seen have 1 KiB; it grows with the number of inputs and outputs alone
_MAX_TENSORS = 256
_MAX_RANK = 8
_MAX_AXIS = 2**31
_MAX_TEXT = 1000
_HEADER = struct.Struct("<8sQQ40s")
_LENGTH = struct.Struct("<Q")
_MAGIC = b"RKNN\0\0\0\0"
_FLATBUFFER_IDENTIFIER = b"RKNN"  # after the FlatBuffer's root offset
_REMAKE = "copy it again, or convert the network again"


@dataclass(frozen=True)
class RknnTensor:
    """An input or output of a compiled network.

    Attributes:
        name: As in the ONNX file it was made from.
        shape: Static shape, in the order of the ONNX file (NCHW for images).
        dtype: ``int8`` when quantised, ``float16`` otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class RknnFile:
    """The description at the end of a .rknn file.

    Attributes:
        format_version: Of the container.
        toolkit_version: Version of rknn-toolkit2 that wrote it, e.g. ``2.3.2``.
        platforms: SoC families it was compiled for, e.g. ``("rk3588",)``.
        inputs: In the order of the network.
        outputs: In the order of the network.
        size: Of the file, in bytes.
    """

    format_version: int
    toolkit_version: str
    platforms: tuple[str, ...]
    inputs: tuple[RknnTensor, ...]
    outputs: tuple[RknnTensor, ...]
    size: int


def read_rknn(path: str | os.PathLike[str]) -> RknnFile:
    """Read a .rknn file's description; the compiled network itself is not looked at.

    Raises:
        BundleError: When it cannot be read, is no .rknn file, is cut short or too long, or describes itself in a way
            that is not known.
    """
    name = Path(path).name
    try:
        if not Path(path).is_file():
            raise BundleError("is not a file", source=name)
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            format_version, content = _read_json(file, size)
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror or error})", source=name) from None
    except _MalformedError as error:
        raise BundleError(str(error), source=name, hint=_REMAKE) from None
    try:
        return _describe(content, format_version, size)
    except (_MalformedError, ValueError) as error:
        raise BundleError(f"its description is not as known: {error}", source=name, hint=_REMAKE) from None


class _MalformedError(Exception):
    """What is wrong with the file."""


def _read_json(file: IO[bytes], size: int) -> tuple[int, bytes]:
    """Format version and JSON; every length is compared with the file's size before it is used."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _MalformedError(f"has {len(header)} bytes, fewer than the header of a .rknn file")
    magic, version, network_bytes, zeros = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise _MalformedError("is no .rknn file (it does not begin with RKNN)")
    if version != FORMAT_VERSION:
        raise _MalformedError(f"has format version {version}; version {FORMAT_VERSION} is known")
    if any(zeros):
        raise _MalformedError("has data where the header of a .rknn file is zero")
    left = size - _HEADER.size - _LENGTH.size
    if network_bytes > left or network_bytes < 8:
        raise _MalformedError(f"says it holds a network of {network_bytes} bytes, but has {size} bytes in all")
    if file.read(8)[4:] != _FLATBUFFER_IDENTIFIER:
        raise _MalformedError("holds something else than a compiled network")
    file.seek(_HEADER.size + network_bytes)
    (json_bytes,) = _LENGTH.unpack(_read_exactly(file, _LENGTH.size))
    if json_bytes != left - network_bytes:
        raise _MalformedError(f"should end {json_bytes} bytes after its network, but ends {left - network_bytes} after")
    if json_bytes > MAX_JSON_BYTES:
        raise _MalformedError(f"has a description of more than {MAX_JSON_BYTES} bytes")
    return version, _read_exactly(file, json_bytes)


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise _MalformedError("became shorter while it was read")
    return content


def _describe(content: bytes, format_version: int, size: int) -> RknnFile:
    data = parse_json(content)
    if not isinstance(data, dict):
        raise _MalformedError("it is no JSON object")
    tensors = _tensors(_field(data, "norm_tensor", list))
    sides: dict[str, list[RknnTensor]] = {"input": [], "output": []}
    for edge in _field(data, "graph", list):
        side, number = _field(edge, "left", str), _field(edge, "right_tensor_id", int)
        if side not in sides or number not in tensors or _field(edge, "left_tensor_id", int) != len(sides[side]):
            raise _MalformedError(f"graph does not list its inputs and outputs in order: {edge!r}"[:200])
        sides[side].append(tensors[number])
    for side, found in sides.items():
        if len(found) != _field(data, f"{side}_num", int) or not found:
            raise _MalformedError(f"{side}_num is not the number of {side}s")
    platforms = tuple(_text("target_platform", platform) for platform in _field(data, "target_platform", list))
    if not platforms:
        raise _MalformedError("target_platform is empty")
    version = _text("version", _field(data, "version", str))
    return RknnFile(format_version, version, platforms, tuple(sides["input"]), tuple(sides["output"]), size)


def _tensors(rows: list[Any]) -> dict[int, RknnTensor]:
    if len(rows) > _MAX_TENSORS:
        raise _MalformedError(f"norm_tensor has more than {_MAX_TENSORS} tensors")
    tensors: dict[int, RknnTensor] = {}
    for row in rows:
        number, shape = _field(row, "tensor_id", int), _field(row, "size", list)
        if number in tensors:
            raise _MalformedError(f"norm_tensor has the tensor {number} twice")
        if len(shape) > _MAX_RANK or not all(type(axis) is int and 0 < axis < _MAX_AXIS for axis in shape):
            raise _MalformedError(f"tensor {number} has no static shape")
        # The compiler leaves the type empty where it did not quantise.
        dtype = _text("vx_type", _field(_field(row, "dtype", dict), "vx_type", str) or "float16")
        tensors[number] = RknnTensor(_text("url", _field(row, "url", str)), tuple(shape), dtype)
    return tensors


def _field(data: Any, name: str, kind: type) -> Any:
    """A field of a JSON object, of that type."""
    if not isinstance(data, dict) or type(data.get(name)) is not kind:
        raise _MalformedError(f"{name} is missing or not of type {kind.__name__}")
    return data[name]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > _MAX_TEXT:
        raise _MalformedError(f"{name} is no plain text")
    return value
