"""Good files of every kind that edgelung opens, how each is opened, and how it is taken apart to be mutated.

A :class:`Subject` writes a good file (or folder) and opens it. All volumes are 16 x 48 x 64 voxels, so that peaks of
memory can be compared.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from boards.rknn_builder import rknn_bytes
from bundle_builders import make_bundle
from npu_bundles import layer_rows, make_npu_bundle
from readers import series_builders as build

from edgelung.boards.rknn_file import read_rknn
from edgelung.bundle import describe, open_bundle
from edgelung.runtime import CTPipeline, estimate_bundle, read_series

SHAPE = (16, 48, 64)
FRAMES = 6


@dataclass(frozen=True)
class Subject:
    """One kind of file.

    Attributes:
        write: Writes a good one into an empty folder; returns what is opened.
        open: Opens it, all the way.
        weight: Share of the mutated inputs, relative to the others.
    """

    write: Callable[[Path], Path]
    open: Callable[[Path], Any]
    weight: float = 1.0


def chest(dtype: str = "i2") -> np.ndarray:
    """Air, soft tissue and noise in the range of CT numbers."""
    values = np.random.default_rng(0).normal(0, 60, SHAPE)
    values[:, 8:40, 12:52] -= 850
    return values.round().astype(dtype)


def _metaimage(name: str, **fields: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = build.write_mhd(
            folder / "scan.mhd", chest(), Offset="1 2 3", TransformMatrix="1 0 0 0 1 0 0 0 1", **fields
        )
        if name.endswith(".mha"):
            header = path.read_bytes().replace(b"scan.raw", b"LOCAL")
            (folder / name).write_bytes(header + (folder / "scan.raw").read_bytes())
            path.unlink()
            (folder / "scan.raw").unlink()
        return folder / name

    return write


def _packed_metaimage(folder: Path) -> Path:
    data = zlib.compress(chest().tobytes(), 1)
    return build.write_mhd(
        folder / "scan.mhd", chest(), data=data, CompressedData="True", CompressedDataSize=str(len(data))
    )


def _nifti(name: str, **fields: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = build.nifti_bytes(chest(), **fields)
        (folder / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
        return folder / name

    return write


def _npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", chest())
    return folder / "scan.npy"


def _npz(folder: Path) -> Path:
    np.savez_compressed(folder / "scan.npz", hu=chest(), spacing_mm=[2.5, 0.7, 0.6], origin_mm=[1.0, 2, 3])
    return folder / "scan.npz"


def _dicom(syntax: str | None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        stored = (chest("i4")[:FRAMES] + 1024).clip(0, 4095).astype("u2")

        def edit(index, ds):
            ds.BitsStored, ds.HighBit = 12, 11
            if syntax is None:
                return ds
            uid, _, encode = build.ENCODERS[syntax]
            return build.compress(ds, [encode(stored[index], 12)], uid)

        return build.dicom_series(folder / "series", stored=stored, edit=edit)

    return write


def _enhanced(folder: Path) -> Path:
    stored = (chest("i4")[:FRAMES] + 1024).clip(0, 4095).astype("u2")
    return build.write_dicom(build.enhanced(stored), folder / "multi.dcm")


def _bundle(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if name == "npu":
            return make_npu_bundle(folder / "b.bundle", content=rknn_bytes(), table=layer_rows())
        return make_bundle(folder / ("b.zip" if name == "zip" else "b.bundle"))

    return write


def _rknn(folder: Path) -> Path:
    (folder / "network.rknn").write_bytes(rknn_bytes())
    return folder / "network.rknn"


def open_series(path: Path) -> Any:
    """Read a series and look at every voxel."""
    spacing = (2.5, 0.7, 0.6) if path.suffix == ".npy" else None
    return float(read_series(path, spacing_mm=spacing).hu.astype(np.float32, copy=False).max())


def open_whole_bundle(path: Path) -> Any:
    """Everything that commands do with a bundle."""
    with open_bundle(path) as bundle:
        json.dumps(describe(bundle))
    estimate_bundle(path)
    with CTPipeline.load(path, "onnxruntime", threads=1) as pipeline:
        return pipeline.check_golden()


SUBJECTS: dict[str, Subject] = {
    "mhd": Subject(_metaimage("scan.mhd"), open_series),
    "mha": Subject(_metaimage("scan.mha"), open_series),
    "packed mhd": Subject(_packed_metaimage, open_series),
    "nii": Subject(_nifti("scan.nii"), open_series),
    "nii with both forms": Subject(_nifti("scan.nii", qform_code=1, quatern=(0, 0, 0, 10, 20, 30)), open_series),
    "scaled nii": Subject(_nifti("scan.nii", scl_slope=2.0, scl_inter=-3.0), open_series),
    "nii.gz": Subject(_nifti("scan.nii.gz"), open_series),
    "npy": Subject(_npy, open_series),
    "npz": Subject(_npz, open_series),
    "dicom": Subject(_dicom(None), open_series, 1.5),
    "dicom, JPEG lossless": Subject(_dicom("JPEG lossless, first order"), open_series, 0.7),
    "dicom, JPEG-LS": Subject(_dicom("JPEG-LS"), open_series, 0.7),
    "dicom, JPEG 2000": Subject(_dicom("JPEG 2000"), open_series, 0.7),
    "dicom, RLE": Subject(_dicom("RLE"), open_series, 0.7),
    "multi-frame dicom": Subject(_enhanced, open_series, 1.5),
    "bundle": Subject(_bundle("folder"), open_whole_bundle),
    "zipped bundle": Subject(_bundle("zip"), open_whole_bundle),
    "npu bundle": Subject(_bundle("npu"), open_whole_bundle),
    "rknn": Subject(_rknn, read_rknn),
}


def repack(path: Path, change: Callable[[dict[str, bytes]], None], compression: int) -> None:
    """Rewrite a zip file with its members changed and its checksums right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    path.write_bytes(content.getvalue())
