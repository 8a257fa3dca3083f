"""Structured mutations: files that are almost right, so that they get past the first checks."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pydicom
from mutation.subjects import repack

DAMAGED = (  # what an archive gives that an earlier mutation broke
    zipfile.BadZipFile, zlib.error, LookupError, OSError, EOFError, ValueError, NotImplementedError, RuntimeError
)  # fmt: skip
INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    -(2**31),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 0.1, 1e-5)
TEXTS = ("", " ", "0", "-1", "1", "nan", "inf", "-inf", "1e400", "9" * 30, "1\\2", "1 2", "a", "../x", "/", "\x00", "é",
         "%s", "{}", "true", "null", "[]", "2147483648", "0x10", "1.5.3", "\u2028", "A" * 300)  # fmt: skip
# nifti1.h: offset, struct format of the fields that readers look at
NIFTI_FIELDS = (
    (0, "i"), (70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f"), (123, "b"), (252, "h"), (254, "h"),
    (344, "4s"), (348, "4s"),
    *((40 + 2 * axis, "h") for axis in range(8)),
    *((76 + 4 * axis, "f") for axis in range(8)),
    *((256 + 4 * index, "f") for index in range(18)),
)  # fmt: skip


def mutate(kind: str, path: Path, rng: random.Random) -> None:
    """Change a good file in place, once or a few times.

    Args:
        kind: A name in ``SUBJECTS``.
        path: What its ``write`` returned.
        rng: Of all choices.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        with contextlib.suppress(FileNotFoundError):  # an earlier mutation took it away
            if rng.random() < 0.2:
                _change_any_bytes(path, rng)
            elif "bundle" in kind:
                _change_bundle(path, rng)
            elif path.suffix in (".mhd", ".mha"):
                path.write_bytes(change_lines(path.read_bytes(), rng))
            elif path.name.endswith(".nii"):
                path.write_bytes(change_nifti(path.read_bytes(), rng))
            elif path.name.endswith(".nii.gz"):
                with contextlib.suppress(OSError, EOFError, zlib.error):
                    path.write_bytes(gzip.compress(change_nifti(gzip.decompress(path.read_bytes()), rng), 1))
            elif path.suffix == ".npy":
                path.write_bytes(change_npy(path.read_bytes(), rng))
            elif path.suffix == ".npz":
                _change_members(path, rng, zipfile.ZIP_DEFLATED)
            elif "dicom" in kind:
                _change_dicom(path, rng)
            else:
                _change_any_bytes(path, rng)


def change_bytes(data: bytes, rng: random.Random, low: int = 0, high: int | None = None) -> bytes:
    """Flip, overwrite, cut, double or insert bytes between two offsets."""
    content = bytearray(data)
    high = len(content) if high is None else min(high, len(content))
    start = rng.randrange(low, high) if high > low else 0
    length = min(rng.choice((1, 1, 2, 4, 8, 100, 5000)), max(high - start, 1))
    match rng.randrange(6):
        case 0 if content:
            content[start % len(content)] ^= 1 << rng.randrange(8)
        case 1:
            content[start : start + length] = rng.randbytes(length)
        case 2:
            content[start : start + length] = rng.choice((b"\0", b"\xff")) * length
        case 3:
            del content[start : start + length]
        case 4:
            content[start:start] = content[start : start + length]
        case _:
            del content[start:]
    return bytes(content)


def change_lines(data: bytes, rng: random.Random) -> bytes:
    """Change the ``Key = Value`` lines of a MetaImage header."""
    head, mark, tail = data.partition(b"ElementDataFile")
    lines = [*head.decode("latin-1").split("\n")[:-1], mark.decode() + tail.partition(b"\n")[0].decode("latin-1")]
    voxels = tail.partition(b"\n")[2]
    index = rng.randrange(len(lines))
    key, equals, value = lines[index].partition("=")
    match rng.randrange(7):
        case 0:
            del lines[index]
        case 1:
            lines.insert(index, lines[index])
        case 2:
            lines[index] = f"{key}= {rng.choice(TEXTS)}"
        case 3 | 4:
            words = value.split() or [""]
            words[rng.randrange(len(words))] = str(rng.choice(INTEGERS + FLOATS))
            lines[index] = f"{key}{equals} {' '.join(words)}"
        case 5:
            other = rng.randrange(len(lines))
            lines[index], lines[other] = lines[other], lines[index]
        case _:
            lines[index] = f"{rng.choice(('', 'NDims', 'HeaderSize', 'ElementNumberOfChannels', 'x'))} ={value}"
    return "\n".join(lines).encode("latin-1", "replace") + b"\n" + voxels


def change_nifti(data: bytes, rng: random.Random) -> bytes:
    """Set a header field to an extreme value, or change bytes of the header."""
    if rng.random() < 0.2:
        return change_bytes(data, rng, 0, 400)
    content = bytearray(data)
    offset, form = rng.choice(NIFTI_FIELDS)
    value: Any = rng.randbytes(4) if form == "4s" else rng.choice(FLOATS if form == "f" else INTEGERS)
    if form in "hib":
        bits = 8 * struct.calcsize(form)
        value = (int(value) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    with contextlib.suppress(struct.error, OverflowError):  # an earlier mutation cut it short; 1e308 is no float32
        struct.pack_into(f"<{form}", content, offset, value)
    return bytes(content)


def change_npy(data: bytes, rng: random.Random) -> bytes:
    """Change the Python text at the start of an array, or its bytes."""
    end = data.find(b"\n") + 1
    if rng.random() < 0.3 or end < 12:
        return change_bytes(data, rng, 0, max(end, 1))
    text = data[10:end].decode("latin-1")
    parts = re.findall(r"\d+|[a-zA-Z<>|_]+|\W", text) or [""]
    parts[rng.randrange(len(parts))] = rng.choice((*TEXTS, *map(str, INTEGERS), "O", "f8", "V2", "(", ")", "lambda"))
    header = "".join(parts).encode("latin-1", "replace")
    return data[:8] + struct.pack("<H", len(header) % 65536) + header + data[end:]


def _change_any_bytes(path: Path, rng: random.Random) -> None:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    file = rng.choice(files)
    data = file.read_bytes()
    file.write_bytes(change_bytes(data, rng, 0, rng.choice((400, len(data)))))


def _change_members(path: Path, rng: random.Random, compression: int) -> None:
    def change(members: dict[str, bytes]) -> None:
        name = rng.choice(sorted(members))
        match rng.randrange(5):
            case 0:
                del members[name]
            case 1:
                members[rng.choice(("x.npy", "hu.npy", "direction.npy", "../y"))] = members[name]
            case _:
                members[name] = change_npy(members[name], rng)

    with contextlib.suppress(*DAMAGED):
        repack(path, change, compression)


def _change_dicom(path: Path, rng: random.Random) -> None:
    files = [path] if path.is_file() else sorted(path.iterdir())
    file = rng.choice(files)
    match rng.randrange(12):
        case 0 if len(files) > 1:
            file.unlink()
        case 1:
            file.with_name("copy.dcm").write_bytes(file.read_bytes())
        case 2:
            data = file.read_bytes()
            file.write_bytes(change_bytes(data, rng, 128, min(len(data), 1400)))
        case _:
            with warnings.catch_warnings(), contextlib.suppress(Exception):  # whatever an earlier mutation provokes
                warnings.simplefilter("ignore")
                ds = pydicom.dcmread(file)
                _change_element(ds, rng)
                content = pydicom.filebase.DicomBytesIO()
                pydicom.dcmwrite(content, ds, enforce_file_format=True)
                file.write_bytes(content.getvalue())


def _change_element(ds: pydicom.Dataset, rng: random.Random) -> None:
    """Delete, copy or overwrite an element anywhere, in the meta header too."""
    holders = [(ds, tag) for tag in list(ds.keys())] + [(ds.file_meta, tag) for tag in list(ds.file_meta.keys())]
    for sequence in [element for element in ds if element.VR == "SQ"]:
        for item in sequence.value:
            holders += [(item, tag) for tag in list(item.keys())]
            for inner in [element for element in item if element.VR == "SQ"]:
                holders += [(deep, tag) for deep in inner.value for tag in list(deep.keys())]
    holder, tag = rng.choice(holders)
    element = holder[tag]
    if rng.random() < 0.15:
        del holder[tag]
    elif element.VR == "SQ":
        items = list(element.value)
        element.value = rng.choice(([], items[:1], items + items, items[::-1], [pydicom.Dataset()]))
    elif element.VR in ("OB", "OW"):
        element.value = change_bytes(element.value, rng)
    elif element.VR in ("US", "SS", "UL", "SL"):
        element.value = rng.choice(INTEGERS) % 65536
    else:
        text = str(rng.choice((*TEXTS, *INTEGERS, *FLOATS)))
        values = list(element.value) if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
        values[rng.randrange(len(values))] = text
        joined = "\\".join(map(str, values)).encode("utf-8", "replace")
        holder[tag] = pydicom.dataelem.RawDataElement(element.tag, element.VR, len(joined), joined, 0, False, True)


def _change_bundle(path: Path, rng: random.Random) -> None:
    if path.is_file():
        with contextlib.suppress(*DAMAGED):
            repack(path, lambda members: _change_files(members, rng), rng.choice((0, 0, 0, 8)))
        return
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    before = set(files)
    _change_files(files, rng)
    for name in before - set(files):
        (path / name).unlink()
    for name, data in files.items():
        (path / name).write_bytes(data)


def _change_files(files: dict[str, bytes], rng: random.Random) -> None:
    """Change the manifest as JSON, or a file together with its hash in the manifest."""
    if "manifest.json" not in files:
        return
    try:
        manifest = json.loads(files["manifest.json"])
    except ValueError:
        return
    name = rng.choice(sorted(files))
    if name == "manifest.json" or rng.random() < 0.5:
        _change_json(manifest, rng)
    elif rng.random() < 0.1:
        del files[name]
    else:
        data = files[name]
        files[name] = change_npy(data, rng) if name.endswith(".npy") else change_bytes(data, rng)
        for record in _records(manifest):
            if record.get("file") == name:
                record.update(sha256=hashlib.sha256(files[name]).hexdigest(), size=len(files[name]))
    files["manifest.json"] = json.dumps(manifest).encode()


def _records(tree: Any) -> list[dict[str, Any]]:
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree] if isinstance(tree, dict) and "sha256" in tree else []
    return own + [record for value in inner for record in _records(value)]


def _change_json(tree: Any, rng: random.Random) -> None:
    """Set, delete, add or double something anywhere in a tree."""
    holders: list[Any] = []

    def walk(value: Any) -> None:
        if isinstance(value, (dict, list)) and value:
            holders.append(value)
            for inner in value.values() if isinstance(value, dict) else value:
                walk(inner)

    walk(tree)
    if not holders:
        return
    holder = rng.choice(holders)
    key = rng.choice(sorted(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    value = rng.choice((*INTEGERS, *FLOATS, *TEXTS, None, True, False, [], {}, [[]], {"a": 1}))
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = holder[key]
        case 1:
            holder.append(holder[key])
        case 2:
            holder[key] = [holder[key]] * rng.choice((1, 2, 8))
        case _:
            holder[key] = value
